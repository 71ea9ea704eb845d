/* crc.c - CRC-32C through ISA-L, which picks SSE4.2, PCLMUL or AVX-512 code at run time. */
#include "base/crc.h"

#include <isa-l.h>

#define PIECE_BYTES (1u << 30) /* ISA-L takes the length as an int */

uint32_t crc32c(uint32_t seed, const void *buf, size_t len)
{
    /* ISA-L reads only, though its prototype lacks the const. */
    unsigned char *at = (unsigned char *)(uintptr_t)buf;

    for (; len > PIECE_BYTES; at += PIECE_BYTES, len -= PIECE_BYTES)
        seed = ~crc32_iscsi(at, (int)PIECE_BYTES, ~seed);
    return ~crc32_iscsi(at, (int)len, ~seed);
}

#define POLYNOMIAL 0x82f63b78u /* of Castagnoli, the lowest bit is the highest power */

int64_t crc32c_flipped_bit(uint32_t difference, size_t len)
{
    uint32_t d = 1; /* what a bit makes that so many steps follow: first the last one */
    for (int64_t bit = (int64_t)len * 8 - 1; bit >= 0; bit--) {
        d = d >> 1 ^ (d & 1 ? POLYNOMIAL : 0);
        if (d == difference)
            return bit;
    }
    return -1;
}
