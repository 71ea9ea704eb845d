/* memory_format.h - what a memory image looks like on its disk; docs/format-memory.md tells it in
 * prose. All integers are little-endian. */
#ifndef VARVE_CHECKPOINT_MEMORY_FORMAT_H
#define VARVE_CHECKPOINT_MEMORY_FORMAT_H

#include <assert.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are read in place");

#define MEMORY_MAGIC          "VARVE\0MI"
#define MEMORY_FORMAT_VERSION 1

/* A piece of index, a blob or the directory: stored bytes on the disk, plain where stored == raw,
 * else one frame of zstd. */
struct memory_piece {
    uint64_t offset; /* bytes, of the disk */
    uint64_t stored, raw;
    uint32_t sum; /* sum(offset, stored bytes) */
    uint32_t zero;
    uint64_t first, pages; /* of an index: which pages it tells of */
};
static_assert(sizeof(struct memory_piece) == 48, "no holes");

/* Page 0. */
struct memory_head {
    char magic[8];
    uint32_t crc; /* of the page with this field zero */
    uint32_t version;
    uint64_t compat;   /* unknown bits: read and write */
    uint64_t incompat; /* unknown bits: do not open */
    uint64_t seq;      /* counts commits */
    uint64_t tail;     /* bytes: nothing of this state stands at or beyond it */
    struct memory_piece directory;
    uint8_t unused[4096 - 96];
};
static_assert(sizeof(struct memory_head) == 4096, "a page");

/* The directory begins with this; then blocks, epochs, base, overlay, blobs, trims. */
struct memory_directory {
    uint32_t blocks, epochs, base, overlay, blobs, trims; /* how many of each */
    uint64_t rented_bytes; /* of overlays that were written since the base was */
    uint64_t new_bytes;    /* what the commit added */
};
static_assert(sizeof(struct memory_directory) == 40, "no holes");

#define MEMORY_BLOCK_SHARED 1u

struct memory_block_entry {
    uint64_t pages;
    uint32_t flags;
    uint32_t zero;
    char name[256];
};
static_assert(sizeof(struct memory_block_entry) == 272, "no holes");

/* One writer's stretch of the disk: records from here to the next have its id in their sums. */
struct memory_epoch {
    uint64_t start; /* bytes */
    uint64_t id;
};
static_assert(sizeof(struct memory_epoch) == 16, "no holes");

#define MEMORY_BLOB_NAME_BYTES 64u

struct memory_blob_entry {
    char name[MEMORY_BLOB_NAME_BYTES];
    struct memory_piece piece;
};
static_assert(sizeof(struct memory_blob_entry) == 112, "no holes");

/* Pages of the disk that the commit let go: trimmed after it, and by the next writer again. */
struct memory_trim {
    uint64_t page, pages;
};
static_assert(sizeof(struct memory_trim) == 16, "no holes");

#define MEMORY_UNIT_BYTES   64u
#define MEMORY_SUM_BYTES    4u  /* a record begins with its sum */
#define MEMORY_RECORD_UNITS 65u /* the longest: a plain page */

/* What an index says of a record beside its length in units. */
#define MEMORY_NO_RECORD  0u
#define MEMORY_AS_IN_BASE 66u

#endif
