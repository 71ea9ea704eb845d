/* tracker-internal.h - between the files of tracker.h. */
#ifndef VARVE_GUEST_TRACKER_INTERNAL_H
#define VARVE_GUEST_TRACKER_INTERNAL_H

#include "guest/ram.h"
#include "guest/tracker.h"

/* One way to track. open: arm all blocks; *ret: of its own. collect: sets bits and arms again. */
struct tracker_ops {
    const char *name;
    bool needs_stop;
    bool sees_discards; /* by itself */
    int (*open)(const struct ram *ram, const struct tracker_options *options,
                struct monitor *monitor, uint64_t end_us, void **ret, struct why *why);
    int (*collect)(void *own, unsigned block, uint64_t *bitmap, struct tracker_times *times,
                   struct why *why);
    void (*close)(void *own, bool remove);
};

extern const struct tracker_ops track_uffd, track_soft, track_compare;

static inline void bitmap_set(uint64_t *bitmap, uint64_t page)
{
    bitmap[page / 64] |= 1ULL << page % 64;
}

static inline bool bitmap_has(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / 64] >> page % 64 & 1;
}

void bitmap_set_range(uint64_t *bitmap, uint64_t first, uint64_t n);

static inline uint64_t block_pages(const struct ram_block *b)
{
    return b->used_bytes / RAM_PAGE_BYTES;
}

/* ---- discards.c: pages that were given back (balloon, MADV_REMOVE) -------------------------- */

struct discards;

int discards_open(const struct ram *ram, struct discards **ret, struct why *why);
void discards_close(struct discards *discards);
/* bitmap: the pages of a block that were written since the last call. Set the bits of those that
 * may have become zero, too. */
int discards_collect(struct discards *discards, unsigned block, uint64_t *bitmap, struct why *why);
/* Whether pages of the last bitmap are holes. */
bool discards_has_holes(const struct discards *discards, unsigned block);

#endif
