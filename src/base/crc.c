/* crc.c - CRC-32C through ISA-L, which picks SSE4.2, PCLMUL or AVX-512 code at run time. */
#include "base/crc.h"

#include <isa-l.h>

uint32_t crc32c(uint32_t seed, const void *buf, size_t len)
{
    /* ISA-L reads only, though its prototype lacks the const. */
    return ~crc32_iscsi((unsigned char *)(uintptr_t)buf, (int)len, ~seed);
}

uint32_t crc32c_seed(uint64_t address)
{
    /* Multiplication by an odd constant is a bijection on 64 bits; the high half mixes all of them. */
    return (uint32_t)((address * 0x9E3779B97F4A7C15ULL) >> 32) ^ (uint32_t)address;
}
