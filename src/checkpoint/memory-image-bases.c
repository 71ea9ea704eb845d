/* memory-image-bases.c - whole pages that were bases lately, decoded.
 *
 * What a guest writes to it mostly writes to again, and the next checkpoint wants the same bases:
 * from here they cost no read of the store, which is most of what a put takes. Each whole record
 * has one place by its location; who comes later takes it. A location is never used for another
 * record while the writer lives, so nothing here grows old. Memory is taken as it is used. */
#include "checkpoint/memory-image-internal.h"

#include <stdlib.h>
#include <string.h>

#define LOCKS 64u
/* One for 32 pages of the machine, up to 64 MiB. */
#define PAGES_PER_SLOT 32u
#define MAX_SLOTS      16384u
#define MIN_SLOTS      256u

struct memory_bases {
    size_t n;
    pthread_mutex_t locks[LOCKS]; /* slot i: i % LOCKS */
    memory_loc *locs;
    uint8_t *pages;
};

struct memory_bases *memory_bases_new(uint64_t n_pages)
{
    struct memory_bases *bases = calloc(1, sizeof(*bases));
    uint64_t n = n_pages / PAGES_PER_SLOT;

    if (!bases)
        return NULL;
    for (unsigned i = 0; i < LOCKS; i++)
        pthread_mutex_init(&bases->locks[i], NULL);
    bases->n = n > MAX_SLOTS ? MAX_SLOTS : n < MIN_SLOTS ? MIN_SLOTS : (size_t)n;
    bases->locs = calloc(bases->n, sizeof(*bases->locs));
    bases->pages = malloc(bases->n * MEMORY_PAGE_BYTES);
    if (bases->locs && bases->pages)
        return bases;
    memory_bases_free(bases);
    return NULL;
}

void memory_bases_free(struct memory_bases *bases)
{
    if (!bases)
        return;
    for (unsigned i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&bases->locks[i]);
    free(bases->locs);
    free(bases->pages);
    free(bases);
}

static size_t slot_of(const struct memory_bases *bases, memory_loc loc)
{
    return (size_t)((loc >> 7) * 0x9E3779B97F4A7C15ULL >> 32) % bases->n;
}

bool memory_bases_get(struct memory_bases *bases, memory_loc loc, uint8_t *page)
{
    if (!bases)
        return false;
    size_t slot = slot_of(bases, loc);
    pthread_mutex_lock(&bases->locks[slot % LOCKS]);
    bool found = bases->locs[slot] == loc;
    if (found)
        memcpy(page, bases->pages + slot * MEMORY_PAGE_BYTES, MEMORY_PAGE_BYTES);
    pthread_mutex_unlock(&bases->locks[slot % LOCKS]);
    return found;
}

void memory_bases_put(struct memory_bases *bases, memory_loc loc, const uint8_t *page)
{
    if (!bases)
        return;
    size_t slot = slot_of(bases, loc);
    pthread_mutex_lock(&bases->locks[slot % LOCKS]);
    bases->locs[slot] = loc;
    memcpy(bases->pages + slot * MEMORY_PAGE_BYTES, page, MEMORY_PAGE_BYTES);
    pthread_mutex_unlock(&bases->locks[slot % LOCKS]);
}
