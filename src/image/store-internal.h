/* store-internal.h - between the files of src/image. The store's thread only. */
#ifndef VARVE_IMAGE_STORE_INTERNAL_H
#define VARVE_IMAGE_STORE_INTERNAL_H

#include "cache/pages.h"
#include "image/store.h"
#include "image/table.h"
#include "log/log.h"

struct vm {
    struct list link;      /* in store->vms */
    struct list hash_link; /* in store->vm_names */
    struct list disks;
    char name[NAME_MAX_CHARS + 1];
    uint32_t id;
    uint32_t n_disks;
    enum vm_role role;
    bool provisional;
    uint64_t created_us;
};

struct disk {
    struct list link;    /* in vm->disks, or store->doomed when removed */
    struct list id_link; /* in store->disk_ids; none when removed */
    struct store *store;
    struct vm *vm; /* NULL: removed */
    char name[NAME_MAX_CHARS + 1];
    uint32_t id;
    uint32_t users;
    bool shrinking;
    bool provisional;
    uint64_t size_bytes;
    struct tree tree;
    size_t root_offset; /* of its root in the running checkpoint's body */
};

/* A page whose new bytes depend on its old ones: other changes of it wait. */
struct page_lock {
    struct list link; /* in store->locks[] */
    struct disk *disk;
    uint64_t page;
    struct list waiters;
};

#define LOCK_BUCKETS 256
#define NAME_BUCKETS 4096 /* of vms by name, of disks by id */

enum checkpoint_state {
    CHECKPOINT_IDLE,
    CHECKPOINT_NODES,  /* writing frozen nodes and taking the map */
    CHECKPOINT_DRAIN,  /* waiting for what was written */
    CHECKPOINT_SYNC,   /* log files */
    CHECKPOINT_WRITE,  /* the checkpoint file */
    CHECKPOINT_COMMIT, /* its sync */
};

struct checkpoint {
    enum checkpoint_state state;
    bool wanted, clean;
    uint64_t seq;
    struct log_position position;
    uint8_t *buf;
    size_t buf_bytes, catalogue_bytes;
    uint32_t next_id;
    uint64_t started_us, batch_bytes;
    struct waiter waiter;
    struct storage_req req;
    struct iovec iov;
};

struct store_stats {
    uint64_t reads, read_bytes, writes, write_bytes, flushes, trims, zeroes, partial_writes;
    uint64_t disk_reads, disk_read_bytes, checksum_errors, checkpoints, full;
    uint64_t checkpoint_us, replayed_batches, reclaimed_nodes, locks_waited;
};

struct store {
    struct storage *storage;
    struct store_config config;
    struct super_block super;
    struct log_client client;
    struct log *log;
    struct table *table;
    struct page_cache *cache;

    struct list vms; /* by name */
    struct list vm_names[NAME_BUCKETS], disk_ids[NAME_BUCKETS];
    struct list doomed; /* removed disks whose pages are still to be freed */
    uint32_t next_id;

    struct list room_waiters; /* struct store_io: for room in the log, or fewer dirty nodes */
    bool room_again, applied_again;
    struct list applied_waiters; /* struct waiter: for seq to be applied */
    uint32_t n_locks;
    struct list locks[LOCK_BUCKETS];

    struct list changes; /* struct store_change, the first one is being made */
    bool change_logged;  /* it is in the log, not yet done: no checkpoint begins */
    bool change_zeroing; /* before that, and it may need a checkpoint to go on (zero_end()) */
    struct waiter change_waiter;

    struct waiter reclaim_waiter;
    bool reclaim_waits, reclaim_cut;

    struct checkpoint checkpoint;
    struct check_run *check;
    bool full_told;
    uint64_t tick_batches; /* written at the last tick */
    struct store_stats stats;
};

/* request.c */
bool io_start(struct store *store, struct store_io *io); /* store_submit() without validation */
void io_part_done(struct store_io *io, int error);       /* one of io->pending parts */
void io_check(struct store_io *io);
void room_waiters_wake(struct store *store);

/* read.c, write.c */
void read_step(struct store *store, struct store_io *io);
void extents_step(struct store *store, struct store_io *io);
void write_step(struct store *store, struct store_io *io);
void range_step(struct store *store, struct store_io *io);
void batch_apply(struct store *store, struct batch *batch, int error);
bool room_park(struct store *store, struct store_io *io);

/* partial.c */
int partial_start(struct store *store, struct store_io *parent, uint64_t page, uint32_t from,
                  uint32_t len);
struct page_lock *lock_find(struct store *store, struct disk *disk, uint64_t page, uint64_t n);

/* catalogue.c */
int catalogue_save(struct store *store, uint8_t *buf, size_t *len); /* buf NULL: only *len */
int catalogue_load(struct store *store, const uint8_t *buf, size_t len);
int catalogue_replay(struct store *store, const uint8_t *bytes, uint32_t len);
void changes_step(struct store *store);
void change_applied(struct store *store, int error);
int changes_drop_provisional(struct store *store);
void catalogue_free(struct store *store);
struct vm *vm_find(struct store *store, const char *name);
struct disk *disk_by_id(struct store *store, uint32_t id);

/* checkpoint.c */
void checkpoint_want(struct store *store);
bool checkpoint_step(struct store *store);
int checkpoint_load(struct store *store, struct log_position *ret_position);
int checkpoint_format(struct storage *storage, const struct super_block *super);
bool reclaim_step(struct store *store);

/* check.c */
bool check_step(struct store *store);
bool check_is_busy(const struct store *store);
/* A checkpoint that the check asked for is durable: the check takes its body (owned) if it wants.
 */
bool check_take_body(struct store *store, uint8_t *body);
void check_free(struct store *store);

/* store.c */
void store_event(struct store *store, int kind, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
