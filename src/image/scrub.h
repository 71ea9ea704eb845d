/* scrub.h - reading sealed log files from end to end, what lives and what does not. The store's
 * thread only.
 *
 * The tables lead to what lives, and what they lead to is checked by their checksums. Here the
 * files are read as they lie: everything whose checksum is in the file itself is compared with
 * it. docs/format-store.md (Damage) says what that leaves out. */
#ifndef VARVE_IMAGE_SCRUB_H
#define VARVE_IMAGE_SCRUB_H

#include "log/log.h"

enum scrub_kind {
    SCRUB_HEADER, /* of the file */
    SCRUB_BATCH,  /* a batch's header or records; n_pages pages behind it were passed over */
    SCRUB_PAGE,
    SCRUB_NODE,  /* of a page table, one or several side by side */
    SCRUB_MOVED, /* pages that were moved together: one that the tables do not lead to, if theirs
                    are whole */
    SCRUB_ZEROS,
    SCRUB_FOOTER, /* n_pages: copies of it that are whole */
};

struct scrub_damage {
    enum scrub_kind kind;
    const struct log_file *file;
    uint64_t offset, bytes;
    uint32_t n_pages; /* BATCH, MOVED, FOOTER */
    uint32_t disk;    /* PAGE: whose it was when it was written */
    uint64_t page;
};

struct scrub {
    /* Called with each place, in rising order in each file; what lives there: see
     * log_file.live. */
    void (*damage)(struct scrub *scrub, const struct scrub_damage *damage);
    uint64_t blocks; /* out: read so far */
    bool reading;    /* out: a request is in flight */
    int error;       /* out: -ENOMEM: go on no more */

    /* Its own. */
    struct log *log;
    bool pages;
    uint32_t next_file;
    struct log_file *file; /* pinned; NULL: between files */
    enum { STEP_HEADER, STEP_BATCHES, STEP_NODES, STEP_PIECES, STEP_FOOTER, STEP_MOVED } step;
    uint32_t slot, end;      /* of the file, of what is looked at now */
    uint32_t lost, lost_end; /* damaged slots begin and end here; lost 0: none */
    bool packed;             /* nodes stand close, without zeros between them */
    struct log_piece *piece; /* STEP_PIECES: the next one */
    uint32_t n_pages, page;  /* of the batch, and the next of them */
    struct batch_page batch[BATCH_MAX_PAGES];
    uint32_t crc;           /* of the footer, or of moved pages, so far */
    struct moved_sum *sums; /* from the footer */
    uint32_t n_sums, sum;   /* the present one */
    uint64_t sums_at;       /* offset in the file */
    uint32_t copy, whole;   /* of the footer: which one, and bits of those that are whole */
    /* The window. */
    uint64_t from, to; /* bytes of the file; to 0: nothing is there */
    uint64_t limit;    /* what is read does not go beyond this */
    bool retrying;     /* the window cannot be read at once: block by block, this is next */
    uint64_t retry;
    uint8_t *buf;
    struct storage_req req;
    struct iovec iov;
    int res;
};

enum scrub_result { SCRUB_DONE, SCRUB_AGAIN, SCRUB_WAIT };

/* pages: files of pages too, not of tables alone. 0, -ENOMEM. */
int scrub_init(struct scrub *scrub, struct log *log, bool pages);
/* Go on a little: one window of a file. */
enum scrub_result scrub_step(struct scrub *scrub);
/* Nothing is in flight. */
void scrub_free(struct scrub *scrub);

#endif
