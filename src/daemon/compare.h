/* compare.h - what differs between two disks, a page of the answer at a time. Control threads.
 *
 * The cost is that of what differs, not that of the disks: STORE_EXTENTS with a base skips the
 * tables that both share. */
#ifndef VARVE_DAEMON_COMPARE_H
#define VARVE_DAEMON_COMPARE_H

#include "image/store.h"

#define COMPARE_EXTENTS 8192u /* most that one call gives */

struct engine;

/* A disk of a version, or (version "") of a head. */
struct compare_disk {
    char vm[NAME_MAX_CHARS + 1], version[NAME_MAX_CHARS + 1], disk[NAME_MAX_CHARS + 1];
};

enum compare_kind {
    COMPARE_DATA,      /* holds data now */
    COMPARE_ZERO,      /* reads as zeros, and is allocated */
    COMPARE_DISCARDED, /* a hole now */
};

struct compare_extent {
    uint64_t offset, length; /* bytes */
    enum compare_kind kind;
};

struct compare {
    struct compare_disk from, to; /* what is compared: what became of from in to */
    bool from_nothing;            /* in: from is not there: everything in to but holes */
    uint64_t offset;              /* in: where to begin; out: where to go on */
    uint64_t size_bytes;          /* out: of to */
    bool done;                    /* out: there is no more */
    uint32_t n_extents;           /* out */
    struct compare_extent extents[COMPARE_EXTENTS]; /* out: neighbours of one kind are one */
};

/* Returns 0, -ENOENT (to), ERR_NO_VERSION (from), ERR_UNRELATED, -EBUSY (a disk is being shrunk or
 * rolled back), -EINVAL (offset beyond the end) or an error of the store. */
int compare_disks(struct engine *engine, struct compare *compare);

#endif
