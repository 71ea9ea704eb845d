/* log.h - the log of a store: files, segments, batches, nodes, cleaning. The store's thread only.
 *
 * The log keeps pages and table nodes and finds them again by address; what they mean is the image
 * layer's. It counts what lives (a bit for each slot of each file), gives files back when nothing
 * in them lives, and moves what lives out of files where little does.
 *
 * Invariants:
 *  1. Batches are applied (log_client.applied) in the order of their seq, each after it and all
 *     before it are complete on the medium. Nobody is told of a batch before that.
 *  2. A file is used again only after a checkpoint that began when nothing in it lived (or all that
 *     lived had moved) is durable, and no read of it is in flight.
 *  3. A file that a crash left unfinished is never appended to; but where files are short the table
 *     stream goes on in one, behind what the last durable checkpoint knows of it.
 *  4. After a failed write or sync, log->error is set and stays: no batch, node or checkpoint is
 *     written any more; reads go on.
 *  5. Data may not take the last KEEP_FREE free files (the one that is set aside for tables is one
 *     of them); table nodes and cleaning may. In a full store, which refuses writes, trims
 *     and changes may have half of these, and where nothing is to be won all but the one for
 *     tables. What lives leaves reserve_files free: what else stands there cleaning wins back. */
#ifndef VARVE_LOG_LOG_H
#define VARVE_LOG_LOG_H

#include "base/list.h"
#include "base/waiter.h"
#include "log/address.h"
#include "log/log_format.h"
#include "log/storage.h"

#include <stdbool.h>
#include <stdint.h>

struct log;

/* ---- files and segments --------------------------------------------------------------------- */

enum file_state {
    FILE_ABSENT, /* may be created */
    FILE_CREATING,
    FILE_FREE, /* exists, holds nothing */
    FILE_OPEN, /* being appended to */
    FILE_SEALED,
    FILE_DEAD,     /* nothing lives; free after checkpoint release_seq */
    FILE_REMOVING, /* is given back to the file system */
};

struct log_file {
    uint32_t number;
    uint8_t state; /* enum file_state */
    uint8_t kind;  /* enum file_kind */
    uint8_t shift;
    bool unsynced;        /* holds completed writes that no sync covers yet, or was just opened */
    bool map_pending;     /* its record of the running checkpoint is still to be taken */
    bool cleaning;        /* the cleaner is reading it */
    bool pinned;          /* it stays as it is: log_pin() */
    bool headless;        /* its header is still being written: no batch of it is complete yet */
    bool damaged;         /* PACKED: its footer is lost; it stays as it is */
    bool mapped;          /* the last checkpoint, with its increments, has it as a file of pages */
    bool map_changed;     /* PACKED: not as it is now */
    uint64_t unread_tick; /* log->ticks when cleaning could not read all of it; 0: it could */
    uint64_t *unread;     /* a bit for each block that could not be read then; NULL: none */
    uint32_t used_slots;
    uint32_t n_live;  /* slots */
    uint32_t readers; /* reads in flight */
    uint32_t writers; /* writes in flight */
    uint64_t release_seq;
    uint64_t
        sealed_batch; /* last batch in a data file; it is applied when the file may be cleaned */
    uint32_t footer_block, footer_bytes, footer_crc;
    struct moved_sums *sums; /* PACKED, of pages, until it is sealed: for its footer */
    uint64_t *live;          /* a bit a slot */
    struct list pieces;      /* struct log_piece, by base */
    struct list link;        /* in log->free or log->dead */
    struct list sync_link;   /* in log->unsynced while unsynced */
    uint32_t syncing;        /* syncs in flight */
    size_t map_offset;       /* in the running checkpoint's body */
};

struct log_segment;

struct log_piece {
    struct list link; /* in its file */
    struct log_file *file;
    struct log_segment *segment;
    uint32_t generation;
    uint32_t first, end; /* slots of the segment */
    uint32_t base, count;
    bool lost;        /* nobody knows which slots are present: none can be found */
    uint64_t *bitmap; /* present slots, or */
    uint16_t *rank;   /* with bitmap: present before each eighth word */
    uint16_t *list;   /* present slots less first, or both NULL: all */
};

struct log_segment {
    uint32_t number;
    uint32_t n_pieces;
    struct log_piece **pieces; /* by first */
};

/* ---- batches -----------------------------------------------------------------------------------
 */

/* A page run or change in a batch, for the image layer to apply. */
struct batch_item {
    uint8_t kind;   /* enum record_kind */
    uint16_t count; /* pages */
    uint16_t index; /* first entry in the node */
    uint32_t slot;  /* first slot, WRITE */
    uint32_t disk;
    uint32_t sums_at; /* WRITE: offset of the checksums in the batch's block */
    uint64_t page;
    void *node;  /* the pinned leaf */
    void *owner; /* the request that waits for it; told once for each item */
};

struct batch {
    struct list link; /* in log->inflight */
    struct log *log;
    uint64_t seq;
    struct log_file *file;
    uint32_t segment, slot;
    uint32_t max_pages, n_pages, records_bytes;
    uint32_t n_items, max_items;
    bool urgent; /* somebody will wait for it to be durable */
    bool complete;
    uint64_t sent_us;
    uint8_t *buf; /* header block, then pages */
    struct batch_item *items;
    struct storage_req req;
    struct iovec iov;
};

/* ---- what the image layer does for the log -----------------------------------------------------
 */

struct log_client {
    /* A batch is complete: apply its items and tell their owners; error: it failed. */
    void (*applied)(struct log_client *client, struct batch *batch, int error);
    /* There may be room for batches again. */
    void (*room)(struct log_client *client);
    /* The medium gave no space for another file (told once each time it stops giving). */
    void (*no_space)(struct log_client *client, int error);
    /* The log became read-only. */
    void (*failed)(struct log_client *client, int error, const char *what);
};

struct log_stats {
    uint64_t batches, batch_pages, batch_bytes, batch_us, table_bytes, clean_bytes_read,
        clean_bytes_written, clean_read_errors, clean_put_off;
    uint64_t syncs, syncs_ahead, files_created, files_removed, files_reused, files_cleaned,
        checkpoint_bytes, room_waits;
};

/* A table node on its way to a table file. */
struct table_stream {
    struct log_file *file;
    struct log_file *spare; /* FREE taken off the list, for the time when file is full */
    uint32_t slot;          /* next in the file */
    uint32_t first_segment;
    uint8_t *buf; /* being filled: slots from buf_slot on */
    uint32_t buf_slot;
    uint64_t buf_seq;  /* of the buffer being filled */
    uint64_t done_seq; /* all buffers up to here are on the medium (not: synced) */
    bool failed;       /* one was not written */
    uint32_t inflight;
    struct list bufs; /* in flight, in order */
};

struct cleaner;

/* Slots of a table file that began to live, or died, and that the map is not to know of. */
struct log_later {
    struct log_file *file;
    uint32_t slot;
    bool lives;
};

/* A place between two batches. */
struct log_position {
    uint32_t file, segment, slot;
    uint64_t seq; /* of the last batch before it */
};

struct log {
    struct storage *storage;
    struct log_client *client;
    uint8_t uuid[16];
    uint16_t number;
    int error; /* sticky */

    uint64_t incarnation;
    uint64_t next_fill;
    uint32_t next_segment;

    /* Files. */
    struct log_file **files;
    uint32_t max_files; /* of capacity */
    uint32_t n_files;   /* that exist or are being made */
    uint32_t n_free;
    uint32_t n_creating;
    uint32_t reserve_files;
    struct list free, dead;
    uint32_t n_dead;
    bool creation_failed;  /* the medium is full; tried again after a checkpoint */
    int creation_error;    /* of the last try */
    uint32_t medium_files; /* all that it had room for when that last failed; 0: not known */
    uint64_t data_slots;   /* live pages, by 4 KiB */
    uint64_t table_slots;  /* live, by 64 bytes */
    uint64_t died_bytes;   /* of both, since the log was opened */

    struct log_segment ***segments; /* [number >> 10][number & 1023] */
    uint32_t n_segment_dirs;

    /* The data stream. */
    struct log_file *data_file, *next_data_file;
    bool data_unnamed; /* the checkpoint that names data_file is not durable yet: no batches */
    bool finding;      /* opening: files are won back before one is taken for data */
    bool closing;      /* there are no batches any more */
    uint32_t data_segment, data_slot;
    struct batch *open;   /* being filled */
    struct list inflight; /* batches written, not applied, by seq */
    uint32_t n_inflight;
    uint32_t peak_pages; /* that were open and in flight at once, of late */
    bool turn_again;     /* the open batch waits for another turn, and nothing else brings one */
    uint32_t held_turns; /* in which the open batch was held back to gather more */
    uint64_t pages_inflight;
    struct batch *spare_batches[16];
    uint32_t n_spare_batches, n_batches;
    uint8_t *batch_bufs; /* of all batches */
    uint64_t next_seq;   /* of the next batch to be opened */
    uint64_t applied_seq, synced_seq;
    uint64_t flushes_here; /* since the data file was opened: many make the next one zeroed */
    bool applying;

    /* Syncs. */
    struct list sync_waiters; /* by seq */
    struct list unsynced;     /* files */
    bool syncing;
    uint64_t sync_target;
    uint64_t unsynced_bytes;    /* completely written since the last sync began */
    uint64_t bytes_since_flush; /* of batches, since anybody last waited for a sync */

    struct table_stream table;
    struct cleaner *cleaner;

    /* Checkpoints: seq of the last durable one and of the one being made (0: none). */
    uint64_t checkpoint_seq, checkpoint_running;
    uint64_t tables_seq;    /* the batch up to which the last whole one has the tables */
    uint64_t map_seq;       /* opening: the batch up to which the map has data files already */
    uint64_t replaying_seq; /* opening: the batch that is being done again; 0: none */
    bool tail_cleaned; /* a file with batches behind tables_seq was: its batches are not in it */
    bool older; /* opening: the other checkpoint is not whole; it may have been the newer one */
    bool checkpoint_wanted; /* one waits to begin: no new victim */
    bool map_will_do;       /* the next one may be of the map alone */
    uint64_t bytes_since_checkpoint;
    bool table_tight;    /* what is dirty in page tables might not fit: set once a turn */
    bool table_fits;     /* it fits into what is left of the table file, or did when its writing
                            began: store_set_table_fits(), once a turn */
    bool hold;           /* a check walks a checkpoint: files and pieces stay as they are */
    bool tidy;           /* idle: clean what is half dead */
    uint64_t ticks;      /* seconds since the log was opened, and 1 */
    uint32_t idle_ticks; /* of them since anything was written */
    uint8_t *map_body;   /* of the running checkpoint */
    size_t map_size;
    size_t map_end;     /* bytes of it that are assigned */
    uint32_t map_files; /* records in it */
    uint32_t map_next;  /* the next file to take */
    bool map_open; /* table files are still to be taken, as the checkpoint's own nodes leave them */
    bool later;    /* what happens to nodes now is not of the checkpoint that is being made */
    struct log_later *laters; /* such things, by time: not to be in the map */
    uint32_t n_laters, max_laters;

    struct log_stats stats;
};

/* ---- life ----------------------------------------------------------------------------------- */

/* An empty log for capacity_bytes (0: of what the medium has), no files known yet. client:
 * borrowed. */
int log_create(struct storage *storage, struct log_client *client, const struct super_block *super,
               struct log **ret);
/* How many of max_files data may not take: 2 %, at least four (128 MiB) and at most 4,096 (128
 * GiB). */
uint32_t log_reserve_files(uint64_t max_files);
/* Nothing may be in flight. */
void log_free(struct log *log);

/* Tell the log of a file of the checkpoint's map; *at is moved past the record, len is what is
 * left. Returns 0, ERR_DAMAGED, -ENOMEM. Footers are read later by log_load_footers(). */
int log_load_map_file(struct log *log, const uint8_t **at, size_t *len);
/* Read the footers of PACKED files: their pieces' present slots. Where one is damaged (log_file.
 * damaged), what it tells of cannot be found. Blocks; start-up only. 0, -ENOMEM. */
int log_load_footers(struct log *log);
/* All files of the map and of the tail are known: what else the medium has is free. Blocks;
 * start-up only. ERR_DAMAGED: there is a file that the store went on into behind what is known
 * (survey.c). */
int log_load_free(struct log *log);
/* After the tail was applied: look for sealed files in which nothing lives. */
void log_check_dead(struct log *log);
/* Is any request to a log file in flight? */
bool log_files_are_busy(const struct log *log);
/* The files are known. Until log_found() none is taken for data while a start after another crash
 * might find too few then; and where there are too few already, the table stream goes on in the
 * file that has most room for it. So each start leaves at least as many as it has found. */
void log_find(struct log *log);
void log_found(struct log *log);
/* Take up writing with fresh segments, if there is a file for them. */
void log_start(struct log *log);
/* There is one, and nobody has taken up writing. */
bool log_may_start(const struct log *log);

/* ---- looking up ----------------------------------------------------------------------------- */

/* Where the slots at address are: file, and offset in it. ERR_DAMAGED when there is no such slot.
 */
int log_locate(struct log *log, uint64_t address, struct log_file **ret_file,
               uint64_t *ret_offset_bytes);

/* Mark slots as living, or as dead. Dead ones were living, or are left as they are. Those of nodes
 * that are not of the running checkpoint, while log->later is set. */
void log_set_live(struct log *log, uint64_t address, uint32_t n_slots);
void log_set_dead(struct log *log, uint64_t address, uint32_t n_slots);

/* ---- appending pages ---------------------------------------------------------------------------
 */

/* The batch that takes the next items, with room for at least one page and a record of
 * record_bytes. NULL: no room now (client->room() is called when there is) or log->error. */
struct batch *log_batch(struct log *log, uint32_t record_bytes);

/* Add count pages (copied and checksummed) as a WRITE record; count at most batch_room_pages(). */
struct batch_item *batch_add_write(struct log *log, struct batch *batch, uint32_t disk,
                                   uint64_t page, uint32_t count, const void *src);
/* Add a TRIM or ZERO record; or a CHANGE of bytes. */
struct batch_item *batch_add_range(struct batch *batch, enum record_kind kind, uint32_t disk,
                                   uint64_t page, uint32_t count);
struct batch_item *batch_add_change(struct batch *batch, const void *bytes, uint32_t len);
uint32_t batch_room_pages(const struct batch *batch);

/* Send the open batch if it is time. Called once a turn. */
void log_dispatch(struct log *log);
/* Start a sync if somebody waits for one. Called once a turn. */
void log_kick_sync(struct log *log);

/* Wake waiter when all batches up to waiter->seq are durable. */
void log_sync(struct log *log, struct waiter *waiter);
/* The last batch that anything was added to. */
uint64_t log_last_seq(const struct log *log);

/* Fill the pools: free files made ahead. Called once a turn. */
void log_prepare(struct log *log);

/* ---- appending nodes ------------------------------------------------------------------------ */

/* Whether nodes can be appended now, half a file of them, however many buffers that takes; while
 * there are no batches, all that are dirty. */
bool log_table_room(const struct log *log);
/* Whether n_bytes of them can, and as many again, without another file. */
bool log_table_fits(const struct log *log, uint64_t n_bytes);
/* Bytes of nodes, up to which no checkpoint need fear for room, whatever else goes on: a quarter of
 * the files that data and cleaning may take. */
uint64_t log_table_ample(const struct log *log);
/* Bytes of nodes that can be appended to the files that are free or may be made. */
uint64_t log_table_bytes(const struct log *log);
/* Append len bytes (a multiple of 64). Out: its address and the buffer it went into: it may be read
 * from the medium when log->table.done_seq has reached that. 0 or -ENOSPC, -ENOMEM. */
int log_table_append(struct log *log, const void *node, uint32_t len, uint64_t *ret_address,
                     uint64_t *ret_buf_seq);
/* The buffer with what was appended last. */
uint64_t log_table_last_seq(const struct log *log);
/* Send the last, partly filled buffer. */
void log_table_flush(struct log *log);

/* ---- checkpoints of the map ----------------------------------------------------------------- */

/* The size that the map takes in a checkpoint that begins now and writes at most so many bytes of
 * nodes. */
size_t log_map_size(const struct log *log, uint64_t node_bytes, uint32_t *ret_files);
/* Begin: body has log_map_size() bytes. From now on a file's record is taken before it changes. */
void log_map_begin(struct log *log, uint8_t *body, size_t size);
/* Take up to n_files more records; true when all but those of table files are taken. */
bool log_map_step(struct log *log, uint32_t n_files);
/* Take what is left, at the end of the checkpoint's nodes. Out: the bytes used, those before the
 * records of table files, and how many these are. 0, or -EOVERFLOW: more nodes were written than
 * was said. */
struct log_map_end {
    size_t bytes, tables_at;
    uint32_t n_files, n_table_files;
};
int log_map_finish(struct log *log, struct log_map_end *ret);
/* The size of a map of which only data files are new; its beginning, and its end with the records
 * of table files that an earlier one had. */
size_t log_map_size_of_data(const struct log *log);
void log_map_begin_data(struct log *log, uint8_t *body, size_t size);
void log_map_finish_data(struct log *log, const uint8_t *tables, size_t table_bytes,
                         struct log_map_end *ret);
/* What changed in the map's files of pages since the last checkpoint or increment that had it:
 * files that are gone, and packed ones that are new or hold more. (What else lives and dies in them
 * the tail tells.) At most so many bytes. */
size_t log_increment_size(const struct log *log);
struct log_increment {
    size_t bytes;
    uint32_t n_gone, n_files;
};
void log_increment_take(struct log *log, uint8_t *body, struct log_increment *ret);
/* Opening: body, of n_gone numbers and n_files records, changes what is known of the map. 0,
 * ERR_DAMAGED, -ENOMEM. */
int log_load_increment(struct log *log, const uint8_t *body, const struct log_increment *sizes);
/* Sync all that the checkpoint needs: done through waiter. */
void log_sync_all(struct log *log, struct waiter *waiter);
/* The checkpoint is durable: what died before it began is free. One of the map alone frees no table
 * files, and no data files of the tail: those with batches behind log->tables_seq. */
void log_checkpoint_done(struct log *log, uint64_t seq, bool map_only);

/* Files are needed, and a checkpoint (of the map alone) would free some. */
bool log_wants_checkpoint(const struct log *log, bool map_only);
/* Keep all files and pieces where they are: no cleaning, nothing is released. */
void log_hold(struct log *log, bool hold);
/* What is held back is needed: whoever holds should let go. */
bool log_is_short(const struct log *log);
/* It is so now, or will be soon: room comes from cleaning. */
bool log_is_pressed(const struct log *log);

/* ---- cleaning ------------------------------------------------------------------------------- */

/* Told about once a second whether anything was written since: in idle times half-dead files are
 * cleaned, and after a minute of it files that will not be needed soon are removed. */
void log_tidy(struct log *log, bool idle);

/* Do some cleaning if there is need and nothing forbids it. Called once a turn. */
void cleaner_step(struct log *log);
/* No victim is being moved, so that a checkpoint may begin; its footers must follow then. */
bool cleaner_is_between(const struct log *log);
/* May a checkpoint begin, as far as cleaning goes? */
bool cleaner_may_checkpoint(const struct log *log);
void cleaner_write_footers(struct log *log);
bool cleaner_footers_done(const struct log *log);
/* Reads or writes of pages being moved are in flight. */
bool cleaner_is_moving(const struct log *log);
bool cleaner_is_idle(const struct log *log);
/* Of what was cleaned of late a third or more was alive. */
bool cleaning_is_dear(const struct log *log);
bool cleaner_has_work(const struct log *log);
/* It left a file to page tables that want it: once they are written it may have it. */
bool cleaner_wants_checkpoint(const struct log *log);
/* Fewer files are free than the next start after a crash may need, and that can be mended. */
bool log_is_low(const struct log *log);
/* The same of a start: or some are being made, or could be. */
bool log_may_find(const struct log *log);
int cleaner_create(struct log *log);
void cleaner_free(struct log *log);

/* Pages that may still be written before the store counts as full, those in flight counted as new.
 */
uint64_t log_room_pages(const struct log *log);
/* Bytes of log files that were written and are not free again: what lives, and what is to be
 * cleaned. */
uint64_t log_used_bytes(const struct log *log);
uint64_t log_limit_pages(const struct log *log);

/* The first of n numbers for new segments. They are never used again, and come to an end when
 * 128 PiB have been written: then the log fails, and this gives -EOVERFLOW. */
int log_number_segments(struct log *log, uint32_t n, uint32_t *ret_first);

/* Stop writing: report to the client once. */
void log_fail(struct log *log, int error, const char *what);

/* ---- looking at sealed files ------------------------------------------------------------------
 */

/* Keep a sealed file as it is until log_unpin(): it is not cleaned and not freed; what lives in it
 * may die. False: it is not sealed, or is still being written, or cleaned. */
bool log_pin(const struct log *log, struct log_file *file);
void log_unpin(struct log *log, struct log_file *file);

/* Is this the header of some use of the file? (After a crash it may be an earlier one's.) */
bool log_header_is_whole(const struct log *log, uint32_t number, const struct file_header *h);

/* The part of a PACKED file's footer that lists the pieces; struct moved_sum's follow. */
size_t log_footer_pieces_bytes(const struct log_file *file);

/* What a batch says of one of its pages. */
struct batch_page {
    uint32_t sum, disk;
    uint64_t page;
};
/* Is block the header, with its records, of a batch of the segment that stands at slot? Then ret
 * has what it says of its *ret_n pages. */
bool log_batch_is_whole(const struct log *log, const uint8_t *block, uint32_t segment,
                        uint32_t slot, struct batch_page ret[BATCH_MAX_PAGES], uint32_t *ret_n);

/* ---- recovery ------------------------------------------------------------------------------- */

/* Where the batch after the last applied one stands or will stand. */
int log_position_now(struct log *log, struct log_position *ret);

/* Read the batches after position and give them to apply() in order, up to the first that is
 * missing; then count the files they stand in as sealed. Blocks; start-up only.
 * Returns 0, ERR_DAMAGED (a batch that was durable is missing), or what apply() or a read said. */
int log_replay(struct log *log, const struct log_position *position,
               int (*apply)(void *arg, const struct batch_header *header, const uint8_t *block),
               void *arg, uint64_t *ret_batches, uint64_t *ret_bytes);

#endif
