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
