/* huge.c - see huge.h. */
#include "base/huge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* Under AddressSanitizer it is from the heap, so that accesses beyond its end are found. */
static int is_mapped(size_t bytes)
{
#ifdef __SANITIZE_ADDRESS__
    (void)bytes;
    return 0;
#else
    return bytes >= HUGE_BYTES;
#endif
}

/* Mappings need not begin where a huge page does: one that is larger is cut on both sides. */
static void *map(size_t bytes)
{
    size_t more = bytes + HUGE_BYTES;
    uint8_t *all = mmap(NULL, more, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    uint8_t *memory = (uint8_t *)round_up((uintptr_t)all, HUGE_BYTES);
    if (memory > all)
        munmap(all, memory - all);
    if (memory + bytes < all + more)
        munmap(memory + bytes, all + more - (memory + bytes));
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a wish */
    return memory;
}

void *huge_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    if (is_mapped(bytes))
        return map(round_up(bytes, HUGE_BYTES));
    size_t rounded = round_up(bytes ? bytes : 1, 4096);
    void *memory = aligned_alloc(4096, rounded);
    return memory ? memset(memory, 0, rounded) : NULL;
}

void huge_free(void *memory, size_t bytes)
{
    if (memory && is_mapped(bytes))
        munmap(memory, round_up(bytes, HUGE_BYTES));
    else
        free(memory);
}
