/* memory-image-space.c - how many units of each page of the disk are in use.
 *
 * The disk has 2^38 pages, of which few are in use and those are mostly neighbours: a byte for each
 * page, in chunks of 4,096, in a tree of which only what is needed is there. */
#include "checkpoint/memory-image-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_PAGES 4096u
#define MID_CHUNKS  8192u

struct chunk {
    unsigned something; /* pages that are not SPACE_NOTHING */
    uint8_t counts[CHUNK_PAGES];
};

struct memory_space_mid {
    struct chunk *chunks[MID_CHUNKS];
};

static struct chunk **slot_of(const struct memory_space *space, uint64_t page)
{
    struct memory_space_mid *mid = space->mids[page / CHUNK_PAGES / MID_CHUNKS];

    return mid ? &mid->chunks[page / CHUNK_PAGES % MID_CHUNKS] : NULL;
}

static uint8_t *count_of(const struct memory_space *space, uint64_t page)
{
    struct chunk **slot = slot_of(space, page);

    return slot && *slot ? &(*slot)->counts[page % CHUNK_PAGES] : NULL;
}

static struct chunk *make_chunk(struct memory_space *space, uint64_t page)
{
    struct memory_space_mid **mid = &space->mids[page / CHUNK_PAGES / MID_CHUNKS];

    if (!*mid)
        *mid = calloc(1, sizeof(**mid));
    if (!*mid)
        return NULL;
    struct chunk **slot = slot_of(space, page);
    if (!*slot) {
        *slot = malloc(sizeof(**slot));
        if (*slot) {
            (*slot)->something = 0;
            memset((*slot)->counts, SPACE_NOTHING, CHUNK_PAGES);
        }
    }
    return *slot;
}

int memory_space_reserve(struct memory_space *space, uint64_t page, uint64_t pages)
{
    for (uint64_t p = page; p < page + pages; p++) {
        struct chunk *chunk = make_chunk(space, p);
        if (!chunk)
            return -ENOMEM;
        if (chunk->counts[p % CHUNK_PAGES] == SPACE_NOTHING) {
            chunk->counts[p % CHUNK_PAGES] = 0;
            chunk->something++;
        }
    }
    return 0;
}

/* Change the count of a page, which is in range. */
static void change(struct memory_space *space, uint8_t *count, int by)
{
    space->held_pages -= *count > 0;
    *count = (uint8_t)(*count + by);
    space->held_pages += *count > 0;
    space->live_units += (uint64_t)(int64_t)by;
}

static bool fits(const uint8_t *count, int by)
{
    return count && *count != SPACE_NOTHING && *count + by >= 0 &&
           *count + by <= (int)MEMORY_UNITS_PER_PAGE;
}

/* A record stands on one page or on two. */
static bool change_record(struct memory_space *space, memory_loc loc, int sign)
{
    uint64_t page = memory_loc_offset(loc) / MEMORY_PAGE_BYTES;
    unsigned at = memory_loc_offset(loc) % MEMORY_PAGE_BYTES / MEMORY_UNIT_BYTES;
    unsigned units = memory_loc_units(loc), here = MEMORY_UNITS_PER_PAGE - at;
    uint8_t *one = count_of(space, page), *two = NULL;

    if (here > units)
        here = units;
    if (!fits(one, sign * (int)here))
        return false;
    if (units > here) {
        two = count_of(space, page + 1);
        if (!fits(two, sign * (int)(units - here)))
            return false;
        change(space, two, sign * (int)(units - here));
    }
    change(space, one, sign * (int)here);
    return true;
}

bool memory_space_add(struct memory_space *space, memory_loc loc)
{
    return change_record(space, loc, 1);
}

bool memory_space_drop(struct memory_space *space, memory_loc loc)
{
    return change_record(space, loc, -1);
}

static bool change_pages(struct memory_space *space, uint64_t page, uint64_t pages, int by)
{
    for (uint64_t p = page; p < page + pages; p++)
        if (!fits(count_of(space, p), by))
            return false;
    for (uint64_t p = page; p < page + pages; p++)
        change(space, count_of(space, p), by);
    return true;
}

bool memory_space_add_pages(struct memory_space *space, uint64_t page, uint64_t pages)
{
    return change_pages(space, page, pages, MEMORY_UNITS_PER_PAGE);
}

bool memory_space_drop_pages(struct memory_space *space, uint64_t page, uint64_t pages)
{
    return change_pages(space, page, pages, -(int)MEMORY_UNITS_PER_PAGE);
}

unsigned memory_space_units(const struct memory_space *space, uint64_t page)
{
    const uint8_t *count = count_of(space, page);

    return count && *count != SPACE_NOTHING ? *count : 0;
}

void memory_space_trimmed(struct memory_space *space, uint64_t page, uint64_t pages)
{
    for (uint64_t p = page; p < page + pages; p++) {
        struct chunk **slot = slot_of(space, p);
        if (!slot || !*slot || (*slot)->counts[p % CHUNK_PAGES])
            continue; /* nothing there, or in use */
        (*slot)->counts[p % CHUNK_PAGES] = SPACE_NOTHING;
        if (!--(*slot)->something) {
            free(*slot);
            *slot = NULL;
        }
    }
}

int memory_space_walk(const struct memory_space *space, memory_space_visit *visit, void *arg)
{
    int code = 0;

    for (uint64_t m = 0; m < sizeof(space->mids) / sizeof(space->mids[0]); m++)
        for (uint64_t c = 0; space->mids[m] && c < MID_CHUNKS && !code; c++) {
            const struct chunk *chunk = space->mids[m]->chunks[c];
            if (chunk)
                code = visit(arg, (m * MID_CHUNKS + c) * CHUNK_PAGES, chunk->counts, CHUNK_PAGES);
        }
    return code;
}

void memory_space_free(struct memory_space *space)
{
    if (!space)
        return;
    for (size_t m = 0; m < sizeof(space->mids) / sizeof(space->mids[0]); m++) {
        for (size_t c = 0; space->mids[m] && c < MID_CHUNKS; c++)
            free(space->mids[m]->chunks[c]);
        free(space->mids[m]);
    }
    free(space);
}
