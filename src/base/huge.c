/* huge.c - see huge.h. */
#include "base/huge.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* Under AddressSanitizer nobody may touch what is beyond the end: a page more is kept for that. (On
 * its heap all of it would be marked at each call, and the model opens a log, with 16 MiB,
 * thousands of times.) */
#ifdef __SANITIZE_ADDRESS__
#define GUARD_BYTES ((size_t)4096)
#else
#define GUARD_BYTES                            ((size_t)0)
#define ASAN_POISON_MEMORY_REGION(at, bytes)   ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

static size_t mapped_bytes(size_t bytes)
{
    return round_up(bytes, HUGE_BYTES) + GUARD_BYTES;
}

/* Mappings need not begin where a huge page does: one that is larger is cut on both sides. */
static void *map(size_t bytes)
{
    size_t mapped = mapped_bytes(bytes), more = mapped + HUGE_BYTES;
    uint8_t *all = mmap(NULL, more, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    uint8_t *memory = (uint8_t *)round_up((uintptr_t)all, HUGE_BYTES);
    if (memory > all)
        munmap(all, memory - all);
    if (memory + mapped < all + more)
        munmap(memory + mapped, all + more - (memory + mapped));
    (void)madvise(memory, round_up(bytes, HUGE_BYTES), MADV_HUGEPAGE); /* a wish */
    ASAN_POISON_MEMORY_REGION(memory + bytes, mapped - bytes);
    return memory;
}

static void unmap(uint8_t *memory, size_t bytes)
{
    ASAN_UNPOISON_MEMORY_REGION(memory + bytes, mapped_bytes(bytes) - bytes);
    munmap(memory, mapped_bytes(bytes));
}

void *huge_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    if (bytes >= HUGE_BYTES)
        return map(bytes);
    size_t rounded = round_up(bytes ? bytes : 1, 4096);
    void *memory = aligned_alloc(4096, rounded);
    return memory ? memset(memory, 0, rounded) : NULL;
}

void huge_free(void *memory, size_t bytes)
{
    if (memory && bytes >= HUGE_BYTES)
        unmap(memory, bytes);
    else
        free(memory);
}
