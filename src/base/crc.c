/* crc.c - CRC-32C through ISA-L, which picks SSE4.2, PCLMUL or AVX-512 code at run time. */
#include "base/crc.h"

#include <isa-l.h>

uint32_t crc32c(uint32_t seed, const void *buf, size_t len)
{
    /* ISA-L reads only, though its prototype lacks the const. */
    return ~crc32_iscsi((unsigned char *)(uintptr_t)buf, (int)len, ~seed);
}
