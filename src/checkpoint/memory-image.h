/* memory-image.h - the memory and the state of a machine, as a disk of its vm keeps them.
 *
 * A vm that was checkpointed has a disk for it, in a vm of its own that nobody sees
 * (daemon/memory-names.h). It is written by appending, never in place but for its first page, and
 * is frozen as every disk is: so the memory of a version is a version of that disk, and what two of
 * them share is there once. docs/format-memory.md has the format.
 *
 *   page 0         where the index and the blobs of this state are; replaced by each commit
 *   records        pages as page-code.h stores them, padded to 64 bytes, many to a page
 *   index          where each page's record is: whole, or the changes to a whole one
 *   blobs          device state, head, command line, what the checkpoint took: compressed
 *
 * A delta's base is the record before it that is no delta, and stays where it is: so reading a page
 * takes two records at most. What no state refers to any more is trimmed at the next commit, in
 * whole pages; when less than half of what is kept is of use, it is written again.
 *
 * Writing: one thread (it may use more inside). Reading: any threads at once, on an image that
 * nobody writes. Blocks. */
#ifndef VARVE_CHECKPOINT_MEMORY_IMAGE_H
#define VARVE_CHECKPOINT_MEMORY_IMAGE_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_PAGE_BYTES 4096u
#define MEMORY_BLOCKS_MAX 256u
#define MEMORY_NAME_BYTES 256u
#define MEMORY_DISK_BYTES (1ULL << 50) /* of the disk; what is not written takes no space */

/* The disk. Offsets and lengths in bytes, multiples of 4096 in write() and trim(); each returns 0
 * or an error, and blocks. read() may be called by many threads at once. */
struct memory_io_part {
    uint64_t offset;
    void *buf;
    size_t len;
};
struct memory_io {
    /* Read n parts, as many at once as is good. */
    int (*read)(void *arg, const struct memory_io_part *parts, size_t n);
    int (*write)(void *arg, uint64_t offset, const void *buf, size_t len);
    int (*trim)(void *arg, uint64_t offset, uint64_t len);
    void *arg;
};

struct memory_block {
    char name[MEMORY_NAME_BYTES]; /* QEMU's */
    uint64_t pages;
    bool shared; /* filled from the image by who restores; else by the stream of the device state */
};

struct memory_image;

/* Open what the disk holds: nothing (page 0 is zeros), or an image. io: copied; what its arg leads
 * to is borrowed until close. writer: what is needed to write is loaded too: 20 bytes for a page of
 * the machine, a reader has 16. ERR_DAMAGED, ERR_FORMAT_NEWER, -ENOMEM, or what read() said.
 *
 * A writer is best kept open from one commit to the next: each open begins another epoch of
 * records (docs/format-memory.md), and forgets what it knows of pages to find unchanged ones. */
int memory_image_open(const struct memory_io *io, bool writer, struct memory_image **ret,
                      struct why *why);
void memory_image_close(struct memory_image *image);

/* Bytes of the disk that hold the state; what stands behind them belongs to none. 0 before the
 * first commit. */
uint64_t memory_image_end(const struct memory_image *image);
/* The blocks of the image; 0 before the first commit. Borrowed. */
unsigned memory_image_blocks(const struct memory_image *image, const struct memory_block **ret);

/* ---- reading ---- */

/* n pages of a block into out; pages never written are zeros. One call of io's read() for each 512
 * pages, and where that is EIO one for each page of the disk. ERR_DAMAGED: at least one of them is,
 * or cannot be read (EIO), and out is undefined; -EINVAL: not in the block; -ENOMEM, or what read()
 * said otherwise. No lock is held while it reads and decodes. */
int memory_image_read(const struct memory_image *image, unsigned block, uint64_t page, unsigned n,
                      void *out);
/* The same for n pages that lie anywhere in the block. */
int memory_image_read_some(const struct memory_image *image, unsigned block, const uint64_t *pages,
                           unsigned n, void *out);
/* Where a page is not zeros: the first one at or after page; pages of the block when there is none.
 * So that who fills a file leaves holes. */
uint64_t memory_image_next(const struct memory_image *image, unsigned block, uint64_t page);
/* A blob by name, in one allocation that the caller frees. -ENOENT; ERR_DAMAGED, also where it has
 * more than max_bytes, for which nothing is read or allocated; -ENOMEM, or what read() said. */
int memory_image_blob(const struct memory_image *image, const char *name, size_t max_bytes,
                      uint8_t **ret, size_t *ret_bytes);
/* Do both have the same bytes there, as far as the indexes tell? Both of one family. False where
 * equal bytes were stored twice, or a record was written again to make room. */
bool memory_image_same(const struct memory_image *a, const struct memory_image *b, unsigned block,
                       uint64_t page);
/* The first page at or after page that may differ between a block of a and one of b, as far as the
 * indexes tell (memory_image_same()): reads nothing. Where there is none, or one of the blocks ends
 * before, the number of pages of the smaller one. */
uint64_t memory_image_next_unlike(const struct memory_image *a, unsigned block_a,
                                  const struct memory_image *b, unsigned block_b, uint64_t page);

/* ---- writing: begin, put, put ..., commit ----
 *
 * When a write of records fails, that error is returned until memory_image_abandon(). A commit that
 * failed for another reason may be tried again. What was put can be read at once, by the writer's
 * thread. -EINVAL throughout: not a writer, no such block or page. */

/* The blocks from now on. Where they are other than before, all is written anew: pages are zeros
 * until they are put. -EINVAL, -ENOMEM. */
int memory_image_begin(struct memory_image *image, const struct memory_block *blocks, unsigned n);

struct memory_put_stats {                             /* added up by each put */
    uint64_t pages, same, zero, delta, packed, plain; /* pages: given */
    uint64_t bytes;                                   /* of records */
    uint64_t read_us, code_us, write_us;              /* of all threads together */
};
/* Store the pages of a block whose bits are set in bitmap (64 to a word), from memory, which has
 * the block's pages one behind the other and may change meanwhile: what is stored of a page is some
 * bytes that it had; who calls puts pages again that were written meanwhile. Several threads code.
 * A whole record that is damaged or cannot be read (-EIO) is no error: the page is stored whole.
 * cancel: NULL, or looked at now and then, by one thread at a time: true ends it with -ECANCELED;
 * what was put until then is put. -ENOSPC: the end of the disk is reached; -ENOMEM, or what read()
 * or write() said. */
int memory_image_put(struct memory_image *image, unsigned block, const uint64_t *bitmap,
                     const uint8_t *memory, bool (*cancel)(void *arg), void *arg,
                     struct memory_put_stats *stats);
/* The same of memory that has those pages only, one behind the other. */
int memory_image_put_packed(struct memory_image *image, unsigned block, const uint64_t *bitmap,
                            const uint8_t *pages, bool (*cancel)(void *arg), void *arg,
                            struct memory_put_stats *stats);
/* One page that is in no mapped memory. */
int memory_image_put_page(struct memory_image *image, unsigned block, uint64_t page,
                          const uint8_t *bytes, struct memory_put_stats *stats);
/* Zeros for pages [first, end) of a block, of which only those count that the image has something
 * for: the same as putting them one by one, but nothing is read. -ENOMEM, or what write() said. */
int memory_image_put_zeros(struct memory_image *image, unsigned block, uint64_t first, uint64_t end,
                           struct memory_put_stats *stats);
/* What was put so far is written to the disk; a commit after it has less to do. */
int memory_image_flush(struct memory_image *image);

struct memory_blob {
    const char *name; /* 1 to 63 bytes */
    const void *data;
    size_t bytes;
};
/* Write records, index, blobs and then page 0. When it returns all of it has been written (not
 * synced: a snapshot taken after it has it). What follows is the next state, on top of this. The
 * blobs are all that the state has; data: borrowed for the call. -EINVAL: a name; -ENOSPC: the end
 * of the disk is reached; -ENOMEM, or what write() said. A trim that fails is tried again at the
 * next commit. */
int memory_image_commit(struct memory_image *image, const struct memory_blob *blobs, unsigned n);
/* Forget what was put since the last commit, and blocks that began since; the pages count as not
 * put. Before the first commit there are then no blocks. The space of what was written is given
 * back. */
void memory_image_abandon(struct memory_image *image);

/* Bytes that this state keeps, of them those that it shares with no earlier commit. */
struct memory_image_size {
    uint64_t record_bytes, index_bytes, blob_bytes, new_bytes;
};
void memory_image_size(const struct memory_image *image, struct memory_image_size *ret);

#endif
