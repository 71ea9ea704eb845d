/* store-internal.h - between the files of src/image. The store's thread only. */
#ifndef VARVE_IMAGE_STORE_INTERNAL_H
#define VARVE_IMAGE_STORE_INTERNAL_H

#include "cache/pages.h"
#include "image/store.h"
#include "image/table.h"
#include "log/log.h"

struct version;

/* Its place among what descends from a version. */
struct descent {
    struct list link;       /* in parent->children */
    struct version *parent; /* NULL: none */
    bool is_head;           /* in a struct vm, else in a struct version */
};

struct vm {
    struct store *store;
    struct list link; /* in store->vms */
    struct descent descent;
    struct list versions; /* by age */
    uint32_t cloned_from; /* id of a version; of a provisional vm, which no opening survives */
    uint32_t n_versions;
    struct list hash_link; /* in store->vm_names */
    struct list disks;
    char name[NAME_MAX_CHARS + 1];
    uint32_t id;
    uint32_t n_disks;
    enum vm_role role;
    bool provisional, memory;
    bool marked; /* by a measure: its head goes */
    uint64_t created_us;
};

struct disk {
    struct list link;    /* in vm->disks or version->disks */
    struct list id_link; /* in store->disk_ids; none in a version */
    struct store *store;
    struct vm *vm;           /* of a head */
    struct version *version; /* of a version */
    char name[NAME_MAX_CHARS + 1];
    uint32_t id;
    uint32_t users;
    bool shrinking;
    bool provisional;
    struct list leaving_link; /* in store->leaving: a change that is logged takes it away */
    uint64_t size_bytes;
    struct tree tree;
    size_t root_offset;     /* of its root in the running checkpoint's body; 0: not there */
    struct release release; /* of a version that is being freed: how far that is */
};

/* A version, or what is left of one (or of a head) until it is freed: then it has no name. */
struct version {
    struct list link;      /* in vm->versions by age, or store->dying */
    struct list hash_link; /* in store->version_names */
    struct descent descent;
    struct list children; /* struct descent */
    uint32_t n_children;
    struct store *store;
    struct vm *vm; /* NULL: removed */
    uint32_t id;
    uint32_t n_disks;
    struct list disks;
    char name[NAME_MAX_CHARS + 1];
    char *note; /* NULL: none */
    bool held, provisional;
    bool received; /* created_us is of its making in another store */
    bool marked;   /* by a measure */
    uint8_t consistency;
    uint8_t guid[GUID_BYTES];
    uint64_t created_us;
    uint64_t cut, epoch; /* pages, forms that it holds are older */
    uint64_t stale;      /* pages that children gave up since it was last swept */
};

/* A page whose new bytes depend on its old ones: other changes of it wait. */
struct page_lock {
    struct list link; /* in store->locks[] */
    struct disk *disk;
    uint64_t page;
    struct list waiters;
};

#define LOCK_BUCKETS 256
#define SCAN_LEAVES  64u  /* that EXTENTS looks at in a turn, so that others come to theirs */
#define NAME_BUCKETS 4096 /* of vms by name, of disks by id */

enum checkpoint_state {
    CHECKPOINT_IDLE,
    CHECKPOINT_NODES,  /* writing frozen nodes and taking the map */
    CHECKPOINT_DRAIN,  /* waiting for what was written */
    CHECKPOINT_SYNC,   /* log files */
    CHECKPOINT_WRITE,  /* the checkpoint file */
    CHECKPOINT_COMMIT, /* its sync */
};

/* What a checkpoint of the map alone repeats of the last whole one. */
struct last_whole {
    uint8_t *bytes; /* the catalogue, then the map's records of table files; NULL: not kept */
    size_t catalogue_bytes, table_bytes;
    uint32_t n_table_files;
    uint32_t next_id;
    uint64_t n_changes; /* of the catalogue that it has */
};

/* The checkpoint that is durable, and what may be added to its file. */
struct checkpoint_base {
    uint64_t seq;
    size_t at, limit; /* where the next increment goes, and how far; limit 0: none may follow */
};

struct checkpoint {
    enum checkpoint_state state;
    bool wanted, clean;
    bool map_only, increment; /* the latter: also the former */
    bool extensible;          /* increments may follow it */
    struct checkpoint_base base;
    uint64_t seq;
    struct log_position position;
    uint8_t *buf;
    size_t buf_bytes, catalogue_bytes;
    struct log_map_end map;
    uint32_t next_id;
    uint64_t n_changes, map_seq;
    bool any_dying; /* removed versions stood in it */
    struct last_whole last;
    uint64_t started_us, batch_bytes;
    struct waiter waiter;
    struct storage_req req;
    struct iovec iov, piece; /* all of it, and what is being written; written_bytes are */
    size_t written_bytes;
};

struct store_stats {
    uint64_t reads, read_bytes, writes, write_bytes, flushes, trims, zeroes, partial_writes;
    uint64_t disk_reads, disk_read_bytes, checksum_errors, checkpoints, map_checkpoints,
        map_increments, full;
    uint64_t checkpoint_us, replayed_batches, locks_waited;
    uint64_t reclaimed_nodes, reclaimed_pages, reclaimed_versions, unreclaimed_pages;
};

struct store {
    struct storage *storage;
    struct store_config config;
    struct super_block super;
    struct log_client client;
    struct log *log;
    struct table *table;
    struct page_cache *cache;

    struct list leaving; /* struct disk */
    struct list vms;     /* by name */
    struct list vm_names[NAME_BUCKETS], disk_ids[NAME_BUCKETS];
    struct list version_names[NAME_BUCKETS];
    struct list dying; /* struct version: removed ones */
    uint32_t next_id;

    struct list room_waiters; /* struct store_io: for room in the log, or fewer dirty nodes */
    bool room_again, applied_again;
    struct list applied_waiters; /* struct waiter: for seq to be applied */
    struct list scan_waiters;    /* struct store_io: EXTENTS that go on in the next turn */
    uint32_t scan_leaves;        /* that may still be looked at in this one */
    uint32_t cache_parts;        /* reads in flight for CACHE */
    uint32_t n_locks;
    struct list locks[LOCK_BUCKETS];

    struct list changes;                 /* struct store_change, in the order in which they came */
    bool change_logged;                  /* one is in the log, not yet done: no checkpoint begins */
    bool hurry;                          /* with what is frozen: a change waits for it */
    uint64_t fits_seq;                   /* the last batch applied when log->table_fits was set */
    struct store_change *change_making;  /* the one that is logged */
    struct store_change *change_zeroing; /* another one, or NULL, before that, which may need a
                                            checkpoint to go on (zero_end()) */
    struct waiter change_waiter;
    uint64_t n_changes; /* made since the store was opened */

    bool splice_pauses;    /* something could not be read: until the next tick */
    bool change_waits;     /* for a batch, or for room for its nodes */
    struct splice *splice; /* of dying versions */
    uint32_t births;       /* counts changes of who descends from whom */
    bool idle;             /* nothing was written of late */
    struct since *since;   /* kept for the next difference, or NULL */
    uint32_t n_since;      /* in use */
    struct list measures;  /* struct store_measure; the first is being taken */
    struct measuring *measuring;

    struct checkpoint checkpoint;
    struct check_run *check;
    bool full_told;
    uint64_t tick_batches; /* written at the last tick */
    struct store_stats stats;
};

/* What was written to the log before a place in its data stream has a lesser address. */
static inline uint64_t cut_at(const struct store *store, uint32_t segment, uint32_t slot)
{
    return address_make(store->log->number, segment, 0) + slot;
}

/* request.c */
bool io_start(struct store *store, struct store_io *io); /* store_submit() without validation */
void io_part_done(struct store_io *io, int error);       /* one of io->pending parts */
void io_check(struct store_io *io);
void room_waiters_wake(struct store *store);
/* Before EXTENTS looks at a leaf: has this turn looked at enough of them? Then io goes on in the
 * next one, in which scans_go_on() wakes it. */
bool scan_rests(struct store *store, struct store_io *io);
void scans_go_on(struct store *store);

/* read.c, write.c */
void read_step(struct store *store, struct store_io *io);
void extents_step(struct store *store, struct store_io *io);
void write_step(struct store *store, struct store_io *io);
void range_step(struct store *store, struct store_io *io);
void batch_apply(struct store *store, struct batch *batch, int error);
bool room_park(struct store *store, struct store_io *io);

/* diff.c: extents with a base. */
void diff_step(struct store *store, struct store_io *io);
/* An extent from io->next to a byte. False: there is no room for it. */
bool diff_add(struct store_io *io, uint64_t to, const struct store_extent *e);
/* How many pages from `page` on are the same in both, by forms that they share or holes in both;
 * looked for down to nodes of level `lowest`. TREE_FOUND, TREE_WAIT or an error; *ret is 0 where
 * nodes of that level differ. */
int diff_same(struct tree *a, struct tree *b, uint64_t page, uint8_t lowest, struct waiter *waiter,
              uint64_t *ret);

/* since.c: the same by what the newer one wrote, where the base is a version that it descends from.
 * since_begin() sets io->since, or leaves it NULL; since_end() gives it back. */
void since_begin(struct store_io *io);
void since_end(struct store_io *io);
/* Must leaves be compared at a page? */
bool since_is_plain(const struct store_io *io, uint64_t page);
/* Go on at io->next, where nodes of level 1 differ, up to a byte at most. TREE_FOUND: some
 * progress, or leaves must be compared there; *more: there is room for more extents. TREE_WAIT: io
 * goes on. */
int since_step(struct store_io *io, uint64_t end, bool *more);
void since_tick(struct store *store); /* what is kept goes when nobody has used it for a second */
void since_free(struct since *since);

/* partial.c */
int partial_start(struct store *store, struct store_io *parent, uint64_t page, uint32_t from,
                  uint32_t len);
struct page_lock *lock_find(struct store *store, struct disk *disk, uint64_t page, uint64_t n);

/* catalogue.c, catalogue-save.c, change.c */
int catalogue_save(struct store *store, uint8_t *buf, size_t *len); /* buf NULL: only *len */
/* old: without CHECKPOINT_VERSIONS; epoch: the one to begin with then. */
int catalogue_load(struct store *store, const uint8_t *buf, size_t len, bool old, uint64_t epoch);
/* cut: what is older is before the change. */
int catalogue_replay(struct store *store, const uint8_t *bytes, uint32_t len, uint64_t cut);
/* Must some frozen nodes be written before this change can be made (again)? */
bool catalogue_replay_waits(struct store *store, const uint8_t *bytes, uint32_t len);
void changes_step(struct store *store);
void change_applied(struct store *store, int error, uint64_t cut);
int changes_drop_provisional(struct store *store);
void catalogue_free(struct store *store);
struct vm *vm_find(struct store *store, const char *name);
struct disk *disk_by_id(struct store *store, uint32_t id);
struct disk *disk_find(const struct list *disks, const char *name);
bool size_is_valid(uint64_t bytes); /* of a disk */
void vm_rename(struct vm *vm, const char *name);

static inline uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}
struct vm *vm_new(struct store *store, const char *name, uint32_t id);
void vm_free(struct vm *vm);
/* A disk of a vm or of a version, its tree still to be made. NULL: no memory. */
struct disk *disk_create(struct store *store, struct vm *vm, struct version *version,
                         const char *name, uint32_t id, uint64_t size_bytes);
void disk_destroy(struct disk *disk);
bool vm_in_use(const struct vm *vm);

/* version.c */
struct version *version_by_name(const struct vm *vm, const char *name);
struct version *version_new(struct store *store, struct vm *vm, const char *name, uint32_t id);
void version_free(struct version *version);
void version_set_name(struct version *version, const char *name);
void descend(struct descent *descent, struct version *parent);
/* Its trees free what the version before them does not hold. */
void descent_set_held(struct descent *descent);
/* The disks of a vm's head or of a version, and the one of them that comes from the same one as a
 * tree; NULL: none does. */
struct list *descent_disks(struct descent *descent);
struct disk *descent_relative(struct descent *descent, const struct tree *tree);

/* A growing array of trees. */
struct trees {
    struct tree **all;
    uint32_t n, max;
};
int trees_add(struct trees *trees, struct tree *tree); /* 0, -ENOMEM */
/* Add the relatives of a tree in what stays below a version: in the topmost heads and versions that
 * do not go. 0, -ENOMEM. */
int version_add_staying(struct version *from, const struct tree *tree,
                        bool (*goes)(const struct descent *descent), struct trees *trees);
/* The version's disk that comes from the same one as a tree; NULL: it has none. */
struct disk *version_relative(const struct version *version, const struct tree *tree);
int version_snap(struct store *store, struct vm *vm, const char *name, uint32_t id, uint64_t cut,
                 struct version **ret);
/* The head has no name any more: what it has is freed in time. id: for what is left of it. */
int head_remove(struct store *store, struct vm *vm, uint32_t id);
/* The same for one of its disks. */
int disk_remove(struct store *store, struct disk *disk, uint32_t id);
void version_remove(struct version *version);
/* New disks for a vm without any, with ids from id on, as a version has them. */
int head_from(struct store *store, struct vm *vm, const struct version *version, uint32_t id);
bool vm_may_freeze(const struct vm *vm);
int head_is_like(const struct vm *vm, const struct version *version); /* as store_head_is() */
void version_put_origin(const struct vm *vm, struct vm_info *to);

/* splice.c */
int splice_create(struct store *store);
/* Free some of what removed versions alone hold. Returns true when there is more to do at once. */
bool splice_step(struct store *store);
void splice_free(struct store *store);
uint64_t splice_pending_pages(const struct store *store);

/* measure.c */
bool measure_step(struct store *store);
void measures_free(struct store *store);

/* checkpoint.c */
void checkpoint_want(struct store *store);
bool checkpoint_step(struct store *store);
int checkpoint_load(struct store *store, struct log_position *ret_position);
int checkpoint_format(struct storage *storage, const struct super_block *super);

/* check.c */
bool check_step(struct store *store);
bool check_is_busy(const struct store *store);
/* A checkpoint that the check asked for is durable: the check takes its body (owned) if it wants.
 */
bool check_take_body(struct store *store, uint8_t *body);
void check_free(struct store *store);

/* replay.c */
int store_replay(struct store *store, const struct log_position *position);

/* store.c */
/* Is something in flight that a turn of the loop may wait for? */
bool store_is_busy(const struct store *store);
/* Has somebody asked for the opening to end? */
bool store_is_stopped(const struct store *store);
/* Turn until a checkpoint that begins now is durable. */
int store_finish_checkpoint(struct store *store);
#define MAX_STUCK_TURNS 1000 /* in which nothing is in flight and nothing to be done */
void store_set_table_fits(struct store *store); /* log->table_fits, once a turn */
void store_event(struct store *store, int kind, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
