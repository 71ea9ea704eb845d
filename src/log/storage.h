/* storage.h - the medium under a store: numbered files with asynchronous reads, writes and syncs.
 *
 * The store knows nothing else of disks. Two implementations: storage_dir (a directory, O_DIRECT,
 * on a loop) and the simulated device of the tests, which loses, reorders, tears, damages and fails
 * by seed. All calls and callbacks come on the store's one thread.
 *
 * Invariants:
 *  1. done() is called exactly once for each request, never from inside submit().
 *  2. A write is durable only when a sync of the same file that was submitted after the write's
 *     done() has completed with 0. Until then a crash may keep any part of it (512 bytes or none).
 *  3. Creation is durable when its done() comes with 0; but that of a log file without `zero` and
 *     `durable` only when a sync of any file that was submitted after that done() has completed
 *     with 0: until then a crash may remove the file.
 *  4. Offsets, lengths and memory addresses of reads and writes are multiples of 4096 bytes. */
#ifndef VARVE_LOG_STORAGE_H
#define VARVE_LOG_STORAGE_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define STORAGE_ALIGN_BYTES 4096

/* Files are named by number: a log file by its own, and a few that have fixed names. */
#define STORAGE_SUPER         UINT32_MAX                       /* varve.store */
#define STORAGE_CHECKPOINT(i) (UINT32_MAX - 1 - (uint32_t)(i)) /* checkpoint.0, checkpoint.1 */

enum storage_op {
    STORAGE_READ,   /* past the end of the file: a short count */
    STORAGE_WRITE,  /* extends checkpoint files; never extends a log file */
    STORAGE_SYNC,   /* data, what is needed to find it, and names of log files that there are by now
                     */
    STORAGE_CREATE, /* a file of length bytes, space allocated; fails with -EEXIST */
    STORAGE_REMOVE, /* the file and its space; -ENOENT */
};

struct storage_req {
    /* res: bytes for READ and WRITE, 0 for the others, or a negative code. */
    void (*done)(struct storage_req *req, int res);
    enum storage_op op;
    uint32_t file;
    uint64_t offset_bytes;
    uint64_t length_bytes; /* CREATE; the sum of iov for READ and WRITE */
    struct iovec *iov;     /* borrowed until done() */
    unsigned n_iov;
    bool zero;    /* CREATE: write zeros too, so that later syncs need no metadata */
    bool durable; /* CREATE, of a log file: see 3 */
    /* The implementation's own. */
    struct list link;
    void *impl[24];
};

struct storage {
    void (*submit)(struct storage *storage, struct storage_req *req);
    /* Deliver completions; waits for at least one if wait. For start-up and shutdown. */
    void (*poll)(struct storage *storage, bool wait);
    /* Fill numbers[0..max) with the log files that exist; returns how many there are or a code. */
    int (*list)(struct storage *storage, uint32_t *numbers, uint32_t max);
    /* Bytes that the medium could still give to new files. */
    uint64_t (*free_bytes)(struct storage *storage);
    void (*close)(struct storage *storage);
};

/* Submit and wait: for start-up only. Returns what done() would have got. */
int storage_run(struct storage *storage, struct storage_req *req);

struct loop;

/* Open (or with create, make) the store directory at path and lock it against a second daemon.
 * Errors: -ENOENT, -EACCES, -ENOTDIR, ERR_IN_USE, ERR_NOT_A_STORE (not empty, no store there),
 * -EEXIST (create, and a store is there), -EBUSY (after a minute of waiting: writes of a daemon
 * that was killed are still in flight), or an errno. The storage is freed by its close(). */
int storage_dir_open(const char *path, bool create, struct loop *loop, struct storage **ret);

/* How many files it has open at most, with the limit of open files (RLIMIT_NOFILE) as it is now. */
unsigned storage_dir_descriptors(void);

#endif
