/* memory-image-internal.h - what the files of a memory image share.
 *
 *     memory-image.c          open, close, blocks, begin, abandon, what needs no reading
 *     memory-image-load.c     page 0, directory and index from the disk
 *     memory-image-index.c    the coding of an index, and of pieces
 *     memory-image-space.c    how many units of each page of the disk are in use
 *     memory-image-fetch.c    records from the disk, many at once
 *     memory-image-read.c     pages and blobs
 *     memory-image-append.c   records to the disk
 *     memory-image-bases.c    whole pages that are likely to be bases again
 *     memory-image-put.c      pages to records, by several threads
 *     memory-image-clean.c    records that are written again
 *     memory-image-commit.c   index, blobs, directory and page 0
 *
 * Invariants:
 * 1. What page 0 leads to is never written again or trimmed before another page 0 is written.
 * 2. Offsets of one writer rise and are never used twice, not after abandon() either.
 * 3. A delta's base (entry.whole) is read without a base.
 * 4. entry, space and undo change together, under lock while put() runs. */
#ifndef VARVE_CHECKPOINT_MEMORY_IMAGE_INTERNAL_H
#define VARVE_CHECKPOINT_MEMORY_IMAGE_INTERNAL_H

#include "checkpoint/memory-image.h"
#include "checkpoint/memory_format.h"
#include "checkpoint/page-code.h"

#include <pthread.h>

#define MEMORY_UNITS_PER_PAGE (MEMORY_PAGE_BYTES / MEMORY_UNIT_BYTES)
#define MEMORY_WRITE_BYTES    (1u << 20)
#define MEMORY_PAGES_MAX      (1ULL << 32) /* of all blocks */
#define MEMORY_EPOCHS_MAX     65536u

/* Where a record is: offset in units << 7 | length in units. 0: there is none. */
typedef uint64_t memory_loc;

static inline memory_loc memory_loc_make(uint64_t offset, unsigned units)
{
    return offset / MEMORY_UNIT_BYTES << 7 | units;
}
static inline unsigned memory_loc_units(memory_loc loc)
{
    return loc & 127;
}
static inline uint64_t memory_loc_offset(memory_loc loc)
{
    return (loc >> 7) * MEMORY_UNIT_BYTES;
}
static inline uint64_t memory_loc_end(memory_loc loc)
{
    return memory_loc_offset(loc) + (uint64_t)memory_loc_units(loc) * MEMORY_UNIT_BYTES;
}

/* A page: zeros (neither), a whole record, or that and a delta to it. */
struct memory_entry {
    memory_loc whole, delta;
};

/* All pages of all blocks, one block behind the other. */
struct memory_table {
    struct memory_block *blocks;
    unsigned n_blocks;
    uint64_t first[MEMORY_BLOCKS_MAX + 1]; /* page of each block; the last is n_pages */
    uint64_t n_pages;
    struct memory_entry *entries;
    /* Writers only, a bit for each page. */
    uint64_t *touched; /* has changed since the last commit: stands in undo */
    uint64_t *changed; /* ... since the base index: stands in the overlay */
    uint64_t *moved;   /* ... and its whole record is another */
    uint32_t *hashes;  /* of pages as they were put; 0: not known */
};

int memory_table_new(const struct memory_block *blocks, unsigned n, bool writer,
                     struct memory_table **ret);
void memory_table_free(struct memory_table *table);
static inline bool memory_bit(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}
static inline void memory_bit_set(uint64_t *bits, uint64_t i)
{
    bits[i / 64] |= 1ULL << i % 64;
}

/* ---- bytes that grow. A failed allocation sticks; len is then of no meaning. ---- */

struct memory_bytes {
    uint8_t *data;
    size_t len, cap;
    bool failed;
};
void *memory_bytes_room(struct memory_bytes *bytes, size_t len); /* added; NULL: failed */
void memory_bytes_add(struct memory_bytes *bytes, const void *data, size_t len);
void memory_bytes_pad(struct memory_bytes *bytes, size_t unit);
void memory_bytes_free(struct memory_bytes *bytes);

/* ---- space ---- */

#define SPACE_NOTHING 255u /* never written, or trimmed */

/* For each page of the disk how many units are in use, in a tree of three levels. */
struct memory_space {
    struct memory_space_mid *mids[1u << 13];
    uint64_t live_units;
    uint64_t held_pages; /* that have units in use */
};

/* Pages of the disk that will be written: 0 units in use, if there was nothing. -ENOMEM. */
int memory_space_reserve(struct memory_space *space, uint64_t page, uint64_t pages);
/* Units of reserved pages come into use, or go out of it. False: more than a page has, or fewer
 * than none, or not reserved; then nothing has changed. */
bool memory_space_add(struct memory_space *space, memory_loc loc);
bool memory_space_drop(struct memory_space *space, memory_loc loc);
bool memory_space_add_pages(struct memory_space *space, uint64_t page, uint64_t pages);
bool memory_space_drop_pages(struct memory_space *space, uint64_t page, uint64_t pages);
unsigned memory_space_units(const struct memory_space *space, uint64_t page);
void memory_space_trimmed(struct memory_space *space, uint64_t page, uint64_t pages);
/* Call for each chunk of counts in rising order: n pages from page on. */
typedef int memory_space_visit(void *arg, uint64_t page, const uint8_t *counts, unsigned n);
int memory_space_walk(const struct memory_space *space, memory_space_visit *visit, void *arg);
void memory_space_free(struct memory_space *space);

/* ---- what a thread reads with ---- */

struct memory_scratch {
    struct memory_scratch *next;
    struct page_coder *coder;
    uint8_t *buf; /* what was read */
    size_t buf_bytes;
    struct memory_io_part *parts;
    uint32_t *order;
    size_t max_items;
    uint8_t base[DELTA_PAGE_BYTES];
};

/* A record to read: loc is given; record is what stands behind its sum, in the scratch until it is
 * used again, or NULL where the sum is another or a page of it cannot be read. */
struct memory_fetch {
    memory_loc loc;
    const uint8_t *record;
};

#define MEMORY_FETCH_MAX 1024u

struct memory_range {
    uint64_t page, pages;
};

struct memory_undo {
    uint64_t page;
    struct memory_entry entry;
};

struct memory_image {
    struct memory_io io;
    bool writer;
    bool plain;                 /* pieces are not compressed: for tests */
    struct memory_table *table; /* NULL before the first begin or commit */
    uint64_t seq, tail;         /* of the last commit */
    struct memory_epoch *epochs;
    size_t n_epochs;
    struct memory_piece *base; /* pieces of index */
    size_t n_base;
    struct memory_piece *overlay;
    size_t n_overlay;
    struct memory_blob_entry *blobs;
    size_t n_blobs;
    uint64_t rented_bytes, new_bytes, directory_bytes;

    pthread_mutex_t lock; /* of all below but scratches, while put() runs */
    struct memory_space *space;
    struct memory_bases *bases; /* NULL before the first put, or for want of memory */
    struct memory_range base_at,
        commit_at; /* of the disk, that the last commit has its pieces in */
    struct memory_undo *undo;
    size_t n_undo, max_undo;
    struct memory_table *saved; /* of the last commit, where begin() made another */
    bool was_opened;            /* nothing was committed since: what is beyond tail is unknown */
    bool base_stale;            /* the next commit writes a base */
    int error;                  /* a write failed since the last commit */

    uint8_t *buf;       /* records that are not on the disk, MEMORY_WRITE_BYTES */
    uint8_t *spare;     /* another one, or NULL */
    uint64_t buf_at;    /* bytes of the disk */
    size_t buf_used;    /* bytes */
    bool in_put;        /* buf is not to be looked at by readers, nor need be */
    bool has_epoch;     /* of this writer */
    uint64_t new_units; /* in use, written since the last commit */

    pthread_mutex_t scratch_lock;
    struct memory_scratch *scratches;
};

/* ---- fetch ---- */
int memory_scratch_get(const struct memory_image *image, struct memory_scratch **ret);
void memory_scratch_put(const struct memory_image *image, struct memory_scratch *scratch);
void memory_scratch_free(struct memory_scratch *scratch);
/* At most MEMORY_FETCH_MAX. 0, -ENOMEM, or what read() said that is not EIO. */
int memory_fetch(const struct memory_image *image, struct memory_scratch *scratch,
                 struct memory_fetch *items, size_t n);
uint64_t memory_seed(const struct memory_image *image, uint64_t offset);
/* A page out of its records; delta: NULL where there is none. ERR_DAMAGED. */
int memory_decode(struct memory_scratch *scratch, const struct memory_entry *entry,
                  const uint8_t *whole, const uint8_t *delta, uint8_t *page);
/* The same without a copy where it is stored plain: *ret lies in the scratch. */
int memory_decode_whole(struct memory_scratch *scratch, memory_loc loc, const uint8_t *whole,
                        const uint8_t **ret);

/* ---- bases: any threads at once ---- */
struct memory_bases;
struct memory_bases *memory_bases_new(uint64_t n_pages); /* NULL: no memory; all works without */
void memory_bases_free(struct memory_bases *bases);
bool memory_bases_get(struct memory_bases *bases, memory_loc loc, uint8_t *page);
void memory_bases_put(struct memory_bases *bases, memory_loc loc, const uint8_t *page);

/* ---- append ---- */
/* Under lock. Room for n calls of memory_set_entry(), unless the lock is let go. */
int memory_undo_reserve(struct memory_image *image, size_t n);
/* Under lock. A record of these bytes; it is in no entry as yet. The lock may be let go and taken
 * again. -ENOSPC: it would not end on the disk; -ENOMEM, or what write() said. */
int memory_append(struct memory_image *image, const void *record, size_t len, memory_loc *ret);
/* Under lock, after memory_undo_reserve(). */
void memory_set_entry(struct memory_image *image, uint64_t page, struct memory_entry entry);
/* Bytes that are a multiple of pages to the tail, after what is gathered; *ret_at: where. */
int memory_append_pages(struct memory_image *image, const void *bytes, size_t len,
                        uint64_t *ret_at);
int memory_append_begin(struct memory_image *image); /* before the first of a state */
uint64_t memory_append_tail(const struct memory_image *image);

/* ---- index and pieces ---- */
/* Add to out what pages [first, first + pages) say: all that are not zeros; overlay: those that
 * have changed. */
void memory_index_encode(const struct memory_table *table, uint64_t first, uint64_t pages,
                         bool overlay, struct memory_bytes *out);
/* ERR_DAMAGED. */
int memory_index_decode(struct memory_table *table, uint64_t first, uint64_t pages, bool overlay,
                        uint64_t tail, const uint8_t *bytes, size_t len);
/* Compress raw and add it to section, which will stand at at; piece: all but first and pages. */
void memory_piece_pack(bool plain, const void *raw, size_t len, uint64_t at,
                       struct memory_bytes *section, struct memory_piece *piece);
/* stored: piece->stored bytes. *ret: the caller's to free. ERR_DAMAGED, -ENOMEM. */
int memory_piece_unpack(const struct memory_piece *piece, const uint8_t *stored, uint8_t **ret);
bool memory_piece_valid(const struct memory_piece *piece, uint64_t tail, uint64_t max_raw);
int memory_piece_read(const struct memory_image *image, const struct memory_piece *piece,
                      uint8_t **ret);
#define MEMORY_INDEX_RAW_MAX(pages) ((pages)*32 + 64)
#define MEMORY_INDEX_PIECE_PAGES    (1ULL << 22) /* that a piece of index tells of, at most */

int memory_load(struct memory_image *image, struct why *why);
/* Parse a directory of len bytes into an empty image; *ret_trims: those in it, the caller's. */
int memory_directory_parse(struct memory_image *image, const uint8_t *raw, size_t len,
                           struct memory_trim **ret_trims, size_t *ret_n);
int memory_clean(struct memory_image *image);
int memory_read_pages(const struct memory_image *image, uint64_t page, unsigned n, uint8_t *out);

#endif
