/* store.h - a store: disks of virtual machines kept in one log.
 *
 * Everything here belongs to one thread, the one that runs the loop under the store's storage:
 * all calls are made there and all callbacks come there. Nothing blocks but store_format(),
 * store_open() and store_close().
 *
 * What holds (DESIGN section 4):
 *  1. A write completes when its batch is in the kernel or the device, in log order: the death of
 *     the process loses no completed write. A flush completes when everything completed before it
 *     was submitted is durable. After a crash the store is a prefix of its writes, at or after the
 *     last completed flush, over all disks.
 *  2. A page whose bytes do not match their checksum gives ERR_CHECKSUM and an event; the
 *     rest of the store goes on.
 *  3. A failed write or sync of the log makes the store read-only until it is opened again.
 *  4. Requests that overlap and are in flight together may complete in either order, but a page is
 *     never a mixture finer than the smaller request. */
#ifndef VARVE_IMAGE_STORE_H
#define VARVE_IMAGE_STORE_H

#include "base/list.h"
#include "base/waiter.h"
#include "log/storage.h"

#include <stdbool.h>
#include <stdint.h>

#define PAGE_BYTES         4096u
#define NAME_MAX_CHARS     64u          /* of one part of a name */
#define DISK_MAX_BYTES     (1ULL << 57) /* 128 PiB: what five levels of page table reach */
#define STORE_IO_MAX_BYTES (32u << 20)  /* of one READ or WRITE */

struct store;
struct disk;

/* ---- making, opening, closing --------------------------------------------------------------- */

struct store_format {
    uint64_t capacity_bytes; /* of all log files together; 0: grows with the file system */
};

struct store_event {
    enum {
        STORE_EVENT_DAMAGE,    /* a checksum did not match */
        STORE_EVENT_READ_ONLY, /* an error made the store read-only */
        STORE_EVENT_FULL,      /* a write was refused for lack of space (once per time it fills) */
        STORE_EVENT_RECOVERED, /* opened after a crash: text says what was replayed */
    } kind;
    int code;
    const char *text; /* a sentence with the place and the values; borrowed for the call */
};

struct store_config {
    uint64_t cache_bytes;      /* pages kept in memory; 0: none */
    uint64_t table_bytes;      /* page-table nodes kept in memory; at least 8 MiB */
    uint64_t checkpoint_bytes; /* of log between two checkpoints of the tables; 0: the default */
    void (*event)(void *arg, const struct store_event *event);
    void *event_arg;
    /* Asked again and again while a store is opened, which may take long: true gives the opening up
     * with -ECANCELED, or, once it changes things, cuts short what may wait. NULL: never. */
    bool (*stop)(void);
};

/* The defaults, from which a caller changes what it wants. */
extern const struct store_config store_config_default;

/* Make an empty store. Returns 0, ERR_BAD_SIZE (capacity under 512 MiB), -ENOSPC or an errno. */
int store_format(struct storage *storage, const struct store_format *format);

/* Open a store and recover it. storage: borrowed until store_close().
 * Errors: ERR_NOT_A_STORE, ERR_FORMAT_NEWER, ERR_DAMAGED (both checkpoints, or the log's middle),
 * -ENOMEM, -EIO, -ECANCELED (config->stop said so). Nothing is changed on error. */
int store_open(struct storage *storage, const struct store_config *config, struct store **ret);

/* Finish what is in flight, flush, write a checkpoint of the tables, free the store. No request may
 * be outstanding. Returns what the last sync said; the store is gone in any case. */
int store_close(struct store *store);

/* ---- reading and writing -------------------------------------------------------------------- */

enum store_op {
    STORE_READ,
    STORE_WRITE,
    STORE_FLUSH,   /* of the whole store; offset and length are ignored */
    STORE_TRIM,    /* whole pages inside the range become holes; the edges keep their bytes */
    STORE_ZERO,    /* the range reads as zeros; a hole unless STORE_NO_HOLE */
    STORE_CACHE,   /* read into the cache */
    STORE_EXTENTS, /* what is data and what is hole; with base, also what differs from it */
};

#define STORE_FUA       1u /* WRITE, TRIM, ZERO: durable when done */
#define STORE_NO_HOLE   2u /* ZERO: keep the range allocated */
#define STORE_SKIP_ZERO 4u /* READ: where all of it is zero, leave buf alone and set all_zero */

struct store_extent {
    uint64_t length; /* bytes */
    bool hole, zero; /* hole: nothing allocated; zero: reads as zeros */
    bool changed; /* EXTENTS with base: other than there. Of what is not, hole and zero are not told
                     (both are false): it is not looked at */
};

/* One request. Owned by the caller, who keeps it and its buffers in place until it is done. */
struct store_io {
    struct disk *disk; /* open */
    enum store_op op;
    uint32_t flags;
    uint64_t offset;              /* bytes; range inside the disk, validated here */
    uint64_t length;              /* bytes; READ and WRITE: at most STORE_IO_MAX_BYTES */
    void *buf;                    /* READ, WRITE: length bytes; 4096-aligned is faster */
    struct disk *base;            /* EXTENTS: NULL, or the disk to compare with: of the same origin
                                     (disk_is_related()), open; the cost is that of what differs */
    struct store_extent *extents; /* EXTENTS: filled from offset on */
    uint32_t max_extents;
    void (*done)(struct store_io *io);

    int error;          /* out: 0, ERR_CHECKSUM, ERR_STORE_FULL, -EINVAL... */
    bool all_zero;      /* out, see STORE_SKIP_ZERO */
    uint32_t n_extents; /* out: at least 1 on success */

    /* The store's own. */
    struct waiter waiter;
    uint64_t next;    /* progress: the next byte to handle */
    uint64_t ahead;   /* EXTENTS: up to this page leaves have been asked for long before */
    uint32_t pending; /* parts in flight */
    bool submitting;  /* inside store_submit() */
    bool throttled;   /* CACHE: goes on when a part has come */
    bool holds_lock;  /* of its page: a part of a request that does not fill the page */
    bool busy;        /* some of it is still to be started */
    bool finished;
    uint64_t seq;        /* the batch of its last part */
    struct since *since; /* EXTENTS with a base that it descends from, or NULL */
};

/* Start a request. Returns true when it is already done: then io->error and the outputs are set and
 * done() will not be called. Otherwise done() is called later, never from inside this call.
 * Requests are taken at any rate; what a client may have in flight is the exporter's to bound. */
bool store_submit(struct store *store, struct store_io *io);

/* Send off what the requests of this turn of the loop gathered, and go on with checkpoints,
 * cleaning and reclaiming. Call once per turn, before the loop submits and waits (loop_add_hook()).
 * Returns true when there is more to do at once: then see that another turn comes without waiting.
 */
bool store_dispatch(struct store *store);

/* Call about once a second. A store that has had nothing to write since the last call uses the
 * time: it makes a checkpoint, cleans files of which half or more is dead, and after a minute gives
 * files that it will not need soon back to the file system. */
void store_tick(struct store *store);

/* ---- vms and disks -------------------------------------------------------------------------- */

/* NULL when there is none. What is provisional (see below) is found too. */
struct disk *store_find_disk(struct store *store, const char *vm, const char *disk);

/* A user of a disk: it is not removed while it has any. */
void disk_get(struct disk *disk);
void disk_put(struct disk *disk);

/* What lies beyond its new end is being dropped, or a change that is on its way takes it away or
 * rolls it back: it takes no new users until that is over. */
bool disk_is_shrinking(const struct disk *disk);
/* A disk of a version: WRITE, TRIM and ZERO give -EROFS. */
bool disk_is_read_only(const struct disk *disk);
/* Both come from one disk by versions and clones, so that they can be compared. */
bool disk_is_related(const struct disk *a, const struct disk *b);

uint64_t disk_size(const struct disk *disk); /* bytes */
struct store *disk_store(const struct disk *disk);
/* The name that its vm, or that of its version, has now; borrowed until the next change. Of a disk
 * that has a user. */
const char *disk_vm_name(const struct disk *disk);

/* 1 to 64 of letters, digits, '.', '_', '-'; not "." or "..". */
bool name_is_valid(const char *name);

/* The numbers of both stand on the medium (docs/format-store.md): they never change, and none is
 * used again. */
enum vm_role {
    ROLE_GENERIC = 0,
    ROLE_APP = 1,
    ROLE_DATABASE = 2,
    ROLE_BALANCER = 3,
};

enum change_kind {
    CHANGE_VM_CREATE = 0,   /* vm, role, provisional; no disks yet */
    CHANGE_VM_COMMIT = 1,   /* vm: a provisional vm becomes an ordinary one */
    CHANGE_VM_RENAME = 2,   /* vm, new_name */
    CHANGE_VM_REMOVE = 3,   /* vm with its disks and versions; -EBUSY, ERR_HELD */
    CHANGE_DISK_ADD = 4,    /* vm, disk, size_bytes, provisional */
    CHANGE_DISK_REMOVE = 5, /* vm, disk */
    CHANGE_DISK_RESIZE = 6, /* vm, disk, size_bytes; shrinking drops what lies beyond; -ESTALE when
                               it has not from_bytes */
    CHANGE_DISK_COMMIT = 7, /* vm, disk: a provisional disk becomes an ordinary one */
    CHANGE_SNAP = 8, /* vm, version, note, consistency, guid, created_us: the state of all its disks
                        at one instant becomes vm@version; -EEXIST, ERR_STORE_FULL, -EIO (a guid is
                        wanted, and there are no random bytes for it) */
    CHANGE_VERSION_REMOVE = 9,  /* vm, versions: all of them or none; -EBUSY while one is in use or
                                   held; space comes back later */
    CHANGE_VERSION_HOLD = 10,   /* vm, version, hold; -EALREADY when it is so */
    CHANGE_VERSION_RENAME = 11, /* vm, version, new_name */
    CHANGE_ROLLBACK = 12, /* vm, version; new_name: the version that keeps the replaced head, or ""
                             to drop it; -EBUSY while a disk is in use, -EIO as SNAP */
    CHANGE_CLONE = 13,    /* vm, version, new_name: a new vm whose disks start there; provisional */
    CHANGE_ADOPT = 14, /* vm: a provisional clone of a version of vm new_name; its versions become
                          new_name's, its disks new_name's disks; the clone is gone. -EBUSY while a
                          disk of new_name is in use, -ESTALE when new_name's head is not what the
                          clone was made from (store_head_is()), and hold (force) is not set;
                          -EINVAL when that is no version of new_name (any more) */
    CHANGE_VERSION_COMMIT = 15, /* vm, version: a provisional version becomes an ordinary one;
                                   -EEXIST when it is that. Until then it cannot be held,
                                   renamed, cloned or gone back to (-EBUSY) */
};

/* What those who took a version did for its content. On the medium, as above. */
enum consistency {
    CONSISTENCY_CRASH = 0,
    CONSISTENCY_FILESYSTEM = 1,  /* frozen by the guest's agent */
    CONSISTENCY_APPLICATION = 2, /* the guest's own hooks ran too */
    CONSISTENCY_RAM = 3,         /* with RAM and device state */
};

#define NOTE_MAX_BYTES      1024u /* of UTF-8, without control characters */
#define CHANGE_MAX_VERSIONS 512u  /* that one change removes */
#define GUID_BYTES          16u

/* A change of the catalogue: in the log and durable when done. A provisional vm, disk or version
 * (an import or a checkpoint under way) takes its name but is removed when the store is next opened
 * unless it was committed; committing what is not provisional gives -EEXIST. */
struct store_change {
    enum change_kind kind;
    char vm[NAME_MAX_CHARS + 1], disk[NAME_MAX_CHARS + 1], new_name[NAME_MAX_CHARS + 1];
    char version[NAME_MAX_CHARS + 1];
    const char *const *versions; /* VERSION_REMOVE: borrowed until done */
    uint32_t n_versions;
    const char *note; /* SNAP: borrowed until done; NULL: none */
    enum consistency consistency;
    uint8_t guid[GUID_BYTES]; /* SNAP, ROLLBACK: what names the version that is made in all stores;
                               zeros: a new one. CLONE: what the version must have; zeros: any */
    uint64_t created_us;      /* SNAP: UTC, when it was made in the store it came from; 0: now */
    bool hold;
    uint64_t size_bytes;
    uint64_t from_bytes; /* DISK_RESIZE: the size that it must have; 0: any */
    enum vm_role role;
    bool provisional; /* VM_CREATE, DISK_ADD, CLONE, SNAP */
    bool whole;       /* refuse with ERR_HALF_MADE if the vm, or the disk, is provisional */
    bool memory;      /* VM_CREATE, CLONE: it keeps the memory of another vm: vm_info.memory */
    /* NULL, or called when the change has its place in the order of the log: what is written from
     * then on is after it. It is neither made nor durable yet, and may still fail with the log. */
    void (*placed)(struct store_change *change);
    void (*done)(struct store_change *change);
    int error; /* out: 0, -ENOENT, -EEXIST, -EBUSY, ERR_BAD_NAME, ERR_BAD_SIZE, ERR_STORE_FULL,
                  -EIO, ERR_READ_ONLY... */
    /* The store's own. */
    struct list link;
    struct store *store;
    void *record; /* as it stands in the log */
    uint32_t record_len;
    uint64_t zeroed_to; /* DISK_RESIZE: what lies beyond the new end, up to here; 0: nothing yet */
    struct disk *shrinks;
};

/* done() is always called, never from inside this call. */
void store_change(struct store *store, struct store_change *change);

/* What store_change() would refuse it with as things are, or 0. Nothing is done. */
int store_change_refused(struct store *store, const struct store_change *change);

struct disk_info {
    char name[NAME_MAX_CHARS + 1];
    uint32_t id;
    uint64_t size_bytes, used_bytes; /* used: data, and zeros that are kept allocated */
    uint32_t users;
    bool provisional;
};

struct vm_info {
    char name[NAME_MAX_CHARS + 1];
    uint32_t id;
    enum vm_role role;
    bool provisional;
    bool memory; /* keeps the memory of another one's versions; not a machine: not to be shown */
    uint64_t created_us;                                            /* UTC */
    char origin_vm[NAME_MAX_CHARS + 1], origin[NAME_MAX_CHARS + 1]; /* the version that the head
                             started at or last became; "": none, or it has been removed */
    uint32_t n_versions;
    uint32_t n_disks;
    struct disk_info *disks;
};

/* All vms, by name, in one allocation that the caller frees with free(). -ENOMEM. */
int store_list(struct store *store, struct vm_info **ret_vms, uint32_t *ret_n);

/* ---- versions --------------------------------------------------------------------------------
 *
 * A version is vm@name: all disks of a vm at one instant. It is made, removed and so on by
 * store_change(). Reading and writing cost the same however many there are. In a store that became
 * read-only one whose tables had not reached the medium cannot be read (-EIO) until it is opened
 * again. */

#define BYTES_UNKNOWN UINT64_MAX

struct version_info {
    char vm[NAME_MAX_CHARS + 1], name[NAME_MAX_CHARS + 1];
    char origin_vm[NAME_MAX_CHARS + 1], origin[NAME_MAX_CHARS + 1]; /* the version before it on its
                             line, maybe of another vm; "": none, or removed but for what others
                             took from it */
    const char *note; /* in the same allocation; "": none */
    uint32_t id;      /* rises with time, whatever the clock does */
    uint8_t guid[GUID_BYTES];
    uint64_t created_us; /* UTC */
    bool received;       /* made in another store: created_us is the time of that */
    enum consistency consistency;
    bool held;
    bool provisional;         /* a checkpoint under way: removed when the store is opened again */
    bool memory;              /* of a vm of that kind */
    uint32_t users;           /* of its disks */
    uint64_t used_bytes;      /* of all its disks: what it shows */
    uint64_t exclusive_bytes; /* pages that removing it would free; BYTES_UNKNOWN: store_measure()
                                 finds out */
    uint32_t n_disks;
    struct disk_info *disks; /* with their sizes then */
};

/* A place in the list of versions: behind this one, which need not be there any more. */
struct version_place {
    char vm[NAME_MAX_CHARS + 1];
    uint32_t id;
};

/* The versions of a vm, or of all (NULL), by vm and then by age (id), in one allocation that the
 * caller frees with free(). after: begin behind this place, whose vm has the same name if one is
 * given; NULL: with the first. hidden: with provisional ones and the memory of others.
 * max: at most so many. The cost is that of those told, and of passing
 * over those before them. -ENOENT, -ENOMEM. */
int store_list_versions(struct store *store, const char *vm, const struct version_place *after,
                        bool hidden, uint32_t max, struct version_info **ret, uint32_t *ret_n);

/* A disk of a version, read-only; the pointer is good until the version is removed, which
 * disk_get() prevents. NULL: no such. */
struct disk *store_find_version_disk(struct store *store, const char *vm, const char *version,
                                     const char *disk);

/* Is the head of a vm what a version of it is? The same disks of the same sizes, with the same page
 * tables: it descends from that version without a write since, or from one that does so itself.
 * Nothing is read, so a page that was written with the bytes that it had counts as changed. 1 or 0;
 * -EAGAIN: tables are being written, and it can be told in a moment; -ENOENT, ERR_NO_VERSION. */
int store_head_is(struct store *store, const char *vm, const char *version);

/* A version, by its names. */
struct store_version {
    char vm[NAME_MAX_CHARS + 1], version[NAME_MAX_CHARS + 1];
};

/* What removing some versions of a vm together would free (VERSION_REMOVE's arguments), or a whole
 * vm (VM_REMOVE's). Runs beside everything else: what is written meanwhile may count or not. */
struct store_measure {
    char vm[NAME_MAX_CHARS + 1];
    const char *const *versions; /* borrowed until done */
    uint32_t n_versions;
    const struct store_version *with; /* of other vms, that go with them; borrowed until done */
    uint32_t n_with;
    bool whole;  /* the vm's disks and all its versions; versions is not looked at */
    bool cancel; /* set by the caller at any time: end soon, with error -ECANCELED */
    void (*done)(struct store_measure *measure); /* never from inside store_measure() */
    uint64_t bytes;   /* out: pages; tables come back too and are not counted */
    int error;        /* out: 0, -ENOENT, ERR_CHECKSUM (some table cannot be read), -ECANCELED */
    struct list link; /* the store's own */
    void *impl;
};
void store_measure(struct store *store, struct store_measure *measure);

/* ---- what it does and how it is ------------------------------------------------------------- */

struct store_space {    /* bytes */
    uint64_t capacity;  /* of all log files that there may be */
    uint64_t reserve;   /* kept back for cleaning and checkpoints */
    uint64_t data;      /* live pages */
    uint64_t tables;    /* live page-table nodes */
    uint64_t dead;      /* in log files, to be cleaned */
    uint64_t pending;   /* of data and tables: of removed versions and disks, not freed yet; at most
                           that much comes back */
    uint64_t available; /* what may still be written */
    uint64_t allocated; /* of the file system */
};
void store_space(const struct store *store, struct store_space *ret);

struct store_counter {
    const char *name, *description; /* static */
    uint64_t value;
};
/* Fills up to max; returns how many there are. */
uint32_t store_counters(const struct store *store, struct store_counter *ret, uint32_t max);

bool store_is_read_only(const struct store *store);

/* A walk of every table and every page: checksums, and what is live recomputed from the roots and
 * compared with the books, to the page. Then the sealed log files are read from end to end, what
 * lives in them and what does not. Runs beside everything else; one at a time (-EBUSY). */
struct store_check {
    bool pages;  /* read every page too, not tables only; and files of pages, not of tables only */
    bool cancel; /* set by the caller at any time: end soon, with error -ECANCELED */
    void (*problem)(struct store_check *check, const char *text); /* one line each */
    void (*done)(struct store_check *check);
    uint64_t total_pages, checked_pages;   /* progress */
    uint64_t total_blocks, checked_blocks; /* then: of log files, total is about right */
    uint64_t nodes, problems;              /* out */
    uint64_t harmless; /* out: of the problems, damage where nothing lives: it costs no data */
    int error;         /* out: 0 or why the walk ended early */
    void *impl;
};
int store_check(struct store *store, struct store_check *check);

#endif
