/* memory-compare.h - which pages of a machine's memory differ between two versions with RAM, a page
 * of the answer at a time. Control threads.
 *
 * The indexes of both images are read; of the pages only those that these do not tell to be the
 * same. */
#ifndef VARVE_DAEMON_MEMORY_COMPARE_H
#define VARVE_DAEMON_MEMORY_COMPARE_H

#include "base/why.h"
#include "checkpoint/memory-image.h"
#include "image/store.h"

#define MEMORY_COMPARE_EXTENTS 8192u /* most that one call gives */

struct engine;

struct memory_extent {
    unsigned block;          /* of to's */
    uint64_t offset, length; /* bytes */
    bool zero;               /* it reads as zeros now; else data */
};

/* What became of a block. */
struct memory_block_change {
    char name[MEMORY_NAME_BYTES];
    bool shared;                   /* RAM that is filled from the image; else ROMs and such */
    uint64_t from_bytes, to_bytes; /* 0: it is not there */
};

struct memory_compare {
    struct store_version from, to; /* in: names of versions with RAM */
    unsigned block;                /* in, out: where to begin, and to go on */
    uint64_t offset;
    bool done;                                                /* out: there is no more */
    struct memory_block_change blocks[2 * MEMORY_BLOCKS_MAX]; /* out: to's, then those gone */
    unsigned n_blocks;
    struct memory_extent extents[MEMORY_COMPARE_EXTENTS]; /* out: neighbours of a kind are one */
    unsigned n_extents;
};

/* Errors with a sentence: ERR_NO_VERSION, -EOPNOTSUPP (one has no RAM), -EINVAL (no such place),
 * ERR_DAMAGED, -ENOMEM, those of the store. */
int memory_compare(struct engine *engine, struct memory_compare *compare, struct why *why);

#endif
