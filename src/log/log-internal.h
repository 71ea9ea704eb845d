/* log-internal.h - between the files of src/log. The store's thread only. */
#ifndef VARVE_LOG_LOG_INTERNAL_H
#define VARVE_LOG_LOG_INTERNAL_H

#include "log/log.h"

#include <errno.h>

/* Free files that a start after a crash needs until it can clean: for the table stream one and the
 * next, for data one, for cleaning one. */
#define KEEP_FREE 4

/* Those that such a start would find. */
static inline uint32_t files_left(const struct log *log)
{
    return log->n_free + (log->table.spare != NULL);
}

/* Dead files that a checkpoint should find, so that it pays: one, where the map alone will do, and
 * of that what changed. */
static inline uint32_t dead_files_worth_it(const struct log *log, bool map_only)
{
    return map_only ? 1 : 2 + log->max_files / 256;
}

/* files.c */
struct log_file *file_get(struct log *log, uint32_t number); /* makes the struct; NULL: no memory */
struct log_file *file_take(struct log *log, bool for_data);  /* off the free list; NULL: none */
int file_open(struct log *log, struct log_file *file, enum file_kind kind, uint32_t first_segment);
void file_seal(struct log *log, struct log_file *file);
void file_touch(struct log *log, struct log_file *file); /* before its record changes */
void file_check_dead(struct log *log, struct log_file *file);
/* Opening: what the map said of a sealed file is not so, it is as if it were not there. */
void file_forget(struct log *log, struct log_file *file);
uint32_t file_slots(const struct log_file *file);
struct log_segment *segment_find(const struct log *log, uint32_t number);
struct log_piece *piece_add(struct log *log, struct log_file *file, uint32_t segment,
                            uint32_t generation, uint32_t first, uint32_t end, uint32_t base,
                            uint32_t count);
void piece_free(struct log *log, struct log_piece *piece);
int piece_set_present(struct log_piece *piece,
                      const uint16_t *slots); /* count of them, less first */
/* Position of a slot among the present ones, or -1. */
int32_t piece_rank(const struct log_piece *piece, uint32_t slot);
/* The n-th present slot, less first: walks when given in rising order with a cursor. */
struct piece_cursor {
    const struct log_piece *piece;
    uint32_t n;    /* next rank */
    uint32_t slot; /* of rank n, less first */
};
void piece_cursor_init(struct piece_cursor *c, const struct log_piece *piece);
bool piece_cursor_next(struct piece_cursor *c, uint32_t *ret_slot, uint32_t *ret_rank);

/* The medium cannot give back what is there. Other errors may pass. */
static inline bool is_medium_error(int code)
{
    return code == -EIO || code == -ENODATA || code == -EILSEQ || code == -EBADMSG;
}

static inline bool bit_get(const uint64_t *bits, uint32_t at)
{
    return bits[at / 64] >> (at % 64) & 1;
}

/* nodes.c */
void log_table_resume(struct log *log); /* go on in a file that is sealed, if there is one */

/* append.c */
/* No batch is under way, and none can be opened before a file is free: until then nothing becomes
 * dirty. */
bool log_is_stalled(const struct log *log);
void batches_retire(struct log *log); /* those that are complete, in their order */
int batches_create(struct log *log);  /* with the log: 0 or -ENOMEM */
void batches_free(struct log *log);   /* with the log; none is in flight */
/* A write of bytes into it is complete; or, with 0, it may be new, or an earlier process wrote. */
void file_mark_unsynced(struct log *log, struct log_file *file, uint64_t bytes);
/* The uuid, random and in no page's reach, keeps a page from passing for a batch. */
uint32_t batch_crc(const uint8_t uuid[16], const struct batch_header *header, const uint8_t *block);

/* scan.c */
bool batch_is_valid(const struct log *log, const uint8_t *block, uint32_t slot);
/* Is there a batch of this incarnation in the file, from slot on, that says that batch seq was
 * durable, or that a newer checkpoint was? Blocks. 0 or a code. */
int scan_for_lost(struct log *log, uint32_t file, uint64_t seq, bool *ret);

/* clean.c */
/* Cleaning waits for a file, and but for that of the table stream none will come. */
bool cleaner_wants_spare(const struct log *log);
void cleaner_pay(struct log *log, uint32_t blocks); /* that went into the log */
bool cleaner_may_have_work(const struct log *log);  /* now, or when a file can be read again */

#endif
