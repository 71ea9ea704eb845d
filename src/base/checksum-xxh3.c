/* checksum-xxh3.c - XXH3, built once for each vector width: CHECKSUM_FUNCTION is its name then.
 * Compiled in rather than linked, because the library as Debian has it picks its width when it is
 * built. */
#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint32_t CHECKSUM_FUNCTION(uint64_t address, const void *buf, size_t len);

uint32_t CHECKSUM_FUNCTION(uint64_t address, const void *buf, size_t len)
{
    return (uint32_t)XXH3_64bits_withSeed(buf, len, address);
}
