/* storage-dir.c - a store's files in a directory, by O_DIRECT, on a loop.
 *
 *     varve.store    the store's identity (STORAGE_SUPER)
 *     checkpoint.0   checkpoint.1
 *     lock           locked by the daemon that has the store open
 *     log/%08x       log files
 *     log/%08x.new   one that is being made: it is renamed when it has its space
 *
 * Reads, writes and syncs go to the loop. What blocks goes to one of two workers: opening a file to
 * the first, creating and removing files (slow) to the second. Their jobs touch nothing but the
 * request's or file's own fields; everything else here belongs to the loop's thread.
 *
 * States of a file, and what moves it on:
 *   (not in the table)
 *   OPENING   file_open() for a request, or STORAGE_CREATE; requests wait in `waiting`
 *   OPEN      opened(), created(); n_active requests in flight; in the LRU while there are none
 *   REMOVING  STORAGE_REMOVE: requests in flight end first, new ones get -ENOENT
 *
 * Invariants:
 *  1. n_open <= max_open. A file with a request in flight is never closed; where all are, requests
 *     for further files wait in `starved`.
 *  2. A file is closed before its name goes, so that REMOVE has given back the space when done.
 *  3. Each descriptor holds a shared lock on its file. The kernel gives it up when the last request
 *     on that descriptor has ended, even where the process was killed: storage_dir_open() waits
 *     for that, so no write of a daemon that died lands on what this one has written.
 *  4. A log file without zeros is made without a sync, for a device may stand still in one: its
 * name becomes durable with the next sync of any file, which then syncs the directory too. */
#include "base/cleanup.h"
#include "base/huge.h"
#include "base/loop.h"
#include "base/report.h"
#include "log/storage-dir-internal.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define MAX_TRANSFER_IOV   1024 /* IOV_MAX of Linux */
#define MAX_TRANSFER_BYTES (1u << 30)
#define ZERO_PIECE_BYTES   HUGE_BYTES
#define ZERO_SYNC_BYTES    (2u << 20) /* so much at once: a client's flush waits for it */
#define NAME_BYTES         32
#define UNFINISHED         ".new" /* a log file whose space is being got */

enum file_state { OPENING, OPEN, REMOVING };

struct file {
    struct storage_dir *dir;
    struct list hash_link;
    struct list lru_link; /* in dir->lru while OPEN and idle */
    struct list waiting;  /* requests, while OPENING */
    uint32_t number;
    enum file_state state;
    int fd;
    uint64_t size_bytes;
    unsigned n_active;
    struct storage_req *space_req; /* the CREATE or REMOVE under way */
    struct worker_job job;
    bool buffered; /* set by the job: the file system refused O_DIRECT */
    bool nameless; /* set by the job: it was made, its name is not durable yet */
};

/* What req->impl holds. */
struct request {
    struct loop_op op;
    struct file *file;
    int error;         /* for fail_later() */
    unsigned next_iov; /* the first that is not wholly transferred */
    size_t skip_bytes; /* of it, that are */
    uint64_t done_bytes;
    uint64_t named;       /* SYNC: the names to be durable with it */
    struct iovec partial; /* the rest of next_iov */
};
static_assert(sizeof(struct request) <= sizeof(((struct storage_req *)0)->impl), "fits impl");

static struct request *request_of(struct storage_req *req)
{
    return (struct request *)(void *)req->impl;
}

static void start_request(struct storage_dir *dir, struct storage_req *req);
static void transfer(struct storage_req *req);

/* ---- names ---------------------------------------------------------------------------------- */

static bool is_log_file(uint32_t number)
{
    return number < STORAGE_CHECKPOINT(1);
}

/* The directory that a file stands in, and its name there. A log file gets its name when it is
 * complete; until then it has another, which a listing passes over. */
static int file_name(const struct storage_dir *dir, uint32_t number, char name[NAME_BYTES])
{
    if (number == STORAGE_SUPER)
        strcpy(name, "varve.store");
    else if (!is_log_file(number))
        snprintf(name, NAME_BYTES, "checkpoint.%u", STORAGE_CHECKPOINT(0) - number);
    else
        snprintf(name, NAME_BYTES, "%08x", number);
    return is_log_file(number) ? dir->log_fd : dir->dir_fd;
}

/* ---- the workers' side ---------------------------------------------------------------------- */

static int open_direct(struct file *file, int at, const char *name, int flags)
{
    int fd = openat(at, name, flags | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
    /* Where O_DIRECT is refused, O_CREAT may have made the file all the same. */
    if (fd < 0 && errno == EINVAL) {
        file->buffered = true;
        fd = openat(at, name, (flags & ~O_EXCL) | O_RDWR | O_CLOEXEC, 0600);
    }
    /* For whoever opens the store after us: storage_dir_open(). Nobody has another lock by now; a
     * file system without locks does without. */
    if (fd >= 0)
        (void)flock(fd, LOCK_SH | LOCK_NB);
    return fd < 0 ? -errno : fd;
}

static int work_open(struct worker_job *job)
{
    struct file *file = container_of(job, struct file, job);
    char name[NAME_BYTES];
    int at = file_name(file->dir, file->number, name);
    _cleanup_close_ int fd = open_direct(file, at, name, 0);
    struct stat st;

    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    file->size_bytes = (uint64_t)st.st_size;
    file->fd = TAKE_FD(fd);
    return 0;
}

static int write_zeros(int fd, uint64_t length)
{
    int err = 0;
    void *zeros = huge_alloc(ZERO_PIECE_BYTES);
    if (!zeros)
        return -ENOMEM;
    for (uint64_t at = 0; at < length && !err;) {
        size_t n = length - at < ZERO_PIECE_BYTES ? (size_t)(length - at) : ZERO_PIECE_BYTES;
        ssize_t res = pwrite(fd, zeros, n, (off_t)at);
        if (res > 0)
            at += (uint64_t)res;
        else if (res == 0)
            err = -EIO;
        else if (errno != EINTR)
            err = -errno;
        if (!err && at % ZERO_SYNC_BYTES == 0 && at < length && fdatasync(fd) < 0)
            err = -errno;
    }
    huge_free(zeros, ZERO_PIECE_BYTES);
    return err;
}

static bool has_space(int fd, uint64_t bytes)
{
    struct statvfs fs;
    return fstatvfs(fd, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize > bytes;
}

/* Get the space of a file. A file system that frees much at once may say that it is full while it
 * has plenty again by its own count (blocks of a transaction that is not over, or being discarded):
 * it is asked for ten seconds. Returns 0, or a code; -EOPNOTSUPP when only writing gets space. */
static int allocate(int fd, uint64_t length)
{
    for (int tries = 0;; tries++) {
        if (fallocate(fd, 0, 0, (off_t)length) == 0)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno != ENOSPC || tries >= 500 || !has_space(fd, 4 * length))
            return -errno;
        usleep(20000);
    }
}

/* *zero: asked for; in the end, whether there are any: writing is the other way to get the space.
 */
static int fill_new_file(int fd, uint64_t length, bool *zero)
{
    if (!length)
        return 0;
    int err = allocate(fd, length);
    if (err && err != -EOPNOTSUPP)
        return err;
    *zero |= err != 0;
    return *zero ? write_zeros(fd, length) : 0;
}

static int work_create(struct worker_job *job)
{
    struct file *file = container_of(job, struct file, job);
    const struct storage_req *req = file->space_req;
    char name[NAME_BYTES], first[NAME_BYTES + sizeof(UNFINISHED)];
    int at = file_name(file->dir, file->number, name);
    snprintf(first, sizeof(first), "%s%s", name, is_log_file(file->number) ? UNFINISHED : "");
    if (faccessat(at, name, F_OK, 0) == 0)
        return -EEXIST;
    if (is_log_file(file->number) && unlinkat(at, first, 0) < 0 && errno != ENOENT)
        return -errno;
    _cleanup_close_ int fd = open_direct(file, at, first, O_CREAT | O_EXCL);
    if (fd < 0)
        return fd;
    bool zero = req->zero;
    int err = fill_new_file(fd, req->length_bytes, &zero);
    bool later = is_log_file(file->number) && !zero && !req->durable;
    if (!err && !later && fsync(fd) < 0)
        err = -errno;
    if (err) {
        unlinkat(at, first, 0);
        return err;
    }
    /* The store is locked and one worker makes files: nobody takes the name meanwhile. */
    if (renameat(at, first, at, name) < 0 || (!later && fsync(at) < 0)) {
        err = -errno;
        unlinkat(at, first, 0);
        unlinkat(at, name, 0);
        return err;
    }
    file->size_bytes = req->length_bytes;
    file->nameless = later;
    file->fd = TAKE_FD(fd);
    return 0;
}

static int work_remove(struct worker_job *job)
{
    struct file *file = container_of(job, struct file, job);
    char name[NAME_BYTES];
    int at = file_name(file->dir, file->number, name);

    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
    if (unlinkat(at, name, 0) < 0)
        return -errno;
    return fsync(at) < 0 ? -errno : 0;
}

/* ---- the table of files --------------------------------------------------------------------- */

static struct list *bucket(struct storage_dir *dir, uint32_t number)
{
    return &dir->files[(number * 2654435761u) >> 22];
}

static struct file *find_file(struct storage_dir *dir, uint32_t number)
{
    struct list *head = bucket(dir, number);
    list_for_each (l, head) {
        struct file *file = container_of(l, struct file, hash_link);
        if (file->number == number)
            return file;
    }
    return NULL;
}

static void forget_file(struct file *file)
{
    list_del(&file->hash_link);
    list_del(&file->lru_link);
    if (file->fd >= 0)
        close(file->fd);
    file->dir->n_open--;
    free(file);
}

/* A place for one more descriptor, closing an idle one if need be. */
static bool make_room(struct storage_dir *dir)
{
    if (dir->n_open < dir->max_open)
        return true;
    if (list_empty(&dir->lru))
        return false;
    forget_file(container_of(dir->lru.next, struct file, lru_link));
    return true;
}

/* NULL: out of memory. */
static struct file *add_file(struct storage_dir *dir, uint32_t number, enum file_state state)
{
    struct file *file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    file->dir = dir;
    file->number = number;
    file->state = state;
    file->fd = -1;
    list_init(&file->lru_link);
    list_init(&file->waiting);
    list_push_back(bucket(dir, number), &file->hash_link);
    dir->n_open++;
    return file;
}

/* Requests that waited for a descriptor try again. */
static void feed_starved(struct storage_dir *dir)
{
    while (!list_empty(&dir->starved) && (dir->n_open < dir->max_open || !list_empty(&dir->lru)))
        start_request(dir, container_of(list_pop_front(&dir->starved), struct storage_req, link));
}

static void start_removal(struct file *file);

static void file_idle(struct file *file)
{
    struct storage_dir *dir = file->dir;
    if (file->state == REMOVING)
        start_removal(file);
    else
        list_push_back(&dir->lru, &file->lru_link);
    feed_starved(dir);
}

static void say_buffered(struct file *file)
{
    if (!file->buffered || file->dir->said_buffered)
        return;
    file->dir->said_buffered = true;
    report_warning("the file system of the store does not take O_DIRECT: going through the page "
                   "cache, which is slower and keeps pages twice");
}

/* ---- creating, opening, removing ------------------------------------------------------------ */

/* Complete a request from the loop, not from inside submit(). */
static void failed_done(struct loop_op *op, int res)
{
    struct request *r = container_of(op, struct request, op);
    struct storage_req *req = container_of((void *)r, struct storage_req, impl);
    req->done(req, r->error);
}

static void fail_later(struct storage_dir *dir, struct storage_req *req, int err)
{
    struct request *r = request_of(req);
    r->error = err;
    r->op.done = failed_done;
    loop_timeout(dir->loop, &r->op, 0);
}

/* The file is open: whoever waited for it goes on. */
static void opened(struct worker_job *job, int res)
{
    struct file *file = container_of(job, struct file, job);
    struct storage_dir *dir = file->dir;
    struct storage_req *create = file->space_req;
    struct list waiting, *l;

    list_init(&waiting);
    list_splice(&waiting, &file->waiting);
    file->space_req = NULL;
    say_buffered(file);
    if (res) {
        forget_file(file);
        feed_starved(dir);
    } else {
        file->state = OPEN;
        file->n_active = 1; /* keeps it open while it is handed out */
        dir->named += file->nameless;
    }
    if (create)
        create->done(create, res);
    while ((l = list_pop_front(&waiting))) {
        struct storage_req *req = container_of(l, struct storage_req, link);
        if (res && !create)
            req->done(req, res);
        else
            start_request(dir, req); /* after a failed creation: there may be an older file */
    }
    if (!res && --file->n_active == 0)
        file_idle(file);
}

static void start_creation(struct storage_dir *dir, struct storage_req *req)
{
    if (find_file(dir, req->file)) {
        fail_later(dir, req, -EEXIST);
        return;
    }
    if (!make_room(dir)) {
        list_push_back(&dir->starved, &req->link);
        return;
    }
    struct file *file = add_file(dir, req->file, OPENING);
    if (!file) {
        fail_later(dir, req, -ENOMEM);
        return;
    }
    file->space_req = req;
    file->job.work = work_create;
    file->job.done = opened;
    worker_submit(dir->space, &file->job);
}

static void removed(struct worker_job *job, int res)
{
    struct file *file = container_of(job, struct file, job);
    struct storage_dir *dir = file->dir;
    struct storage_req *req = file->space_req;

    forget_file(file);
    feed_starved(dir);
    req->done(req, res);
}

/* No request is in flight any more. */
static void start_removal(struct file *file)
{
    file->job.work = work_remove;
    file->job.done = removed;
    worker_submit(file->dir->space, &file->job);
}

static void mark_removed(struct storage_dir *dir, struct storage_req *req)
{
    struct file *file = find_file(dir, req->file);

    if (file && file->state == OPENING) {
        list_push_back(&file->waiting, &req->link);
        return;
    }
    if (file && file->state == REMOVING) {
        fail_later(dir, req, -ENOENT);
        return;
    }
    /* One that is not open takes no descriptor, but its place in the table is counted. */
    if (!file && !make_room(dir)) {
        list_push_back(&dir->starved, &req->link);
        return;
    }
    if (!file)
        file = add_file(dir, req->file, REMOVING);
    if (!file) {
        fail_later(dir, req, -ENOMEM);
        return;
    }
    file->state = REMOVING;
    file->space_req = req;
    list_del(&file->lru_link);
    if (!file->n_active)
        start_removal(file);
}

/* ---- reading, writing, syncing -------------------------------------------------------------- */

static void finish_request(struct storage_req *req, int res)
{
    struct file *file = request_of(req)->file;
    if (--file->n_active == 0)
        file_idle(file);
    req->done(req, res);
}

static void named(struct loop_op *op, int res);

static void start_naming(struct storage_dir *dir)
{
    dir->naming = dir->named;
    dir->naming_op.done = named;
    loop_fsync(dir->loop, &dir->naming_op, dir->log_fd, false);
}

/* log/ is synced. Who wants names that have come since waits once more. */
static void named(struct loop_op *op, int res)
{
    struct storage_dir *dir = container_of(op, struct storage_dir, naming_op);
    struct list waiting, *l;

    list_init(&waiting);
    list_splice(&waiting, &dir->name_waiters);
    if (res == 0)
        dir->named_durable = dir->naming;
    dir->naming = 0;
    while ((l = list_pop_front(&waiting))) {
        struct storage_req *req = container_of(l, struct storage_req, link);
        if (res < 0 || request_of(req)->named <= dir->named_durable)
            finish_request(req, res);
        else
            list_push_back(&dir->name_waiters, &req->link);
    }
    if (!list_empty(&dir->name_waiters) && !dir->naming)
        start_naming(dir);
}

static void synced(struct loop_op *op, int res)
{
    struct request *r = container_of(op, struct request, op);
    struct storage_dir *dir = r->file->dir;
    struct storage_req *req = container_of((void *)r, struct storage_req, impl);
    if (res < 0 || r->named <= dir->named_durable) {
        finish_request(req, res);
        return;
    }
    list_push_back(&dir->name_waiters, &req->link);
    if (!dir->naming)
        start_naming(dir);
}

/* Count what was transferred, and go on if that was not all. */
static void transferred(struct loop_op *op, int res)
{
    struct request *r = container_of(op, struct request, op);
    struct storage_req *req = container_of((void *)r, struct storage_req, impl);
    bool write = req->op == STORAGE_WRITE;

    if (res == -EINTR) {
        transfer(req);
        return;
    }
    if (res < 0 || (res == 0 && write)) {
        finish_request(req, res < 0 ? res : -EIO);
        return;
    }
    r->done_bytes += (uint64_t)res;
    uint64_t end = req->offset_bytes + r->done_bytes;
    if (write && end > r->file->size_bytes)
        r->file->size_bytes = end;
    /* A read that ends at an odd place has met the end of a file that somebody cut. */
    bool at_end = !write && (res == 0 || r->done_bytes % STORAGE_ALIGN_BYTES);
    if (at_end || r->done_bytes >= req->length_bytes) {
        finish_request(req, (int)r->done_bytes);
        return;
    }
    size_t left = (size_t)res;
    while (left && left >= req->iov[r->next_iov].iov_len - r->skip_bytes) {
        left -= req->iov[r->next_iov++].iov_len - r->skip_bytes;
        r->skip_bytes = 0;
    }
    r->skip_bytes += left;
    transfer(req);
}

/* Start what is left of a read or write: the rest of a broken piece alone, or all whole pieces. */
static void transfer(struct storage_req *req)
{
    struct request *r = request_of(req);
    const struct iovec *iov = req->iov + r->next_iov;
    unsigned n = req->n_iov - r->next_iov;
    uint64_t offset = req->offset_bytes + r->done_bytes;

    if (r->skip_bytes) {
        r->partial = (struct iovec){
            .iov_base = (char *)iov->iov_base + r->skip_bytes,
            .iov_len = iov->iov_len - r->skip_bytes,
        };
        iov = &r->partial;
        n = 1;
    }
    if (n > MAX_TRANSFER_IOV)
        n = MAX_TRANSFER_IOV;
    r->op.done = transferred;
    if (req->op == STORAGE_READ)
        loop_readv(r->file->dir->loop, &r->op, r->file->fd, iov, n, offset);
    else
        loop_writev(r->file->dir->loop, &r->op, r->file->fd, iov, n, offset);
}

static int check_transfer(const struct storage_req *req)
{
    uint64_t sum = 0, bits = req->offset_bytes;
    for (unsigned i = 0; i < req->n_iov; i++) {
        sum += req->iov[i].iov_len;
        bits |= req->iov[i].iov_len | (uintptr_t)req->iov[i].iov_base;
    }
    bool ok = sum == req->length_bytes && sum && sum <= MAX_TRANSFER_BYTES &&
              bits % STORAGE_ALIGN_BYTES == 0 && req->offset_bytes <= INT64_MAX - sum;
    return ok ? 0 : -EINVAL;
}

static void start_on_open_file(struct file *file, struct storage_req *req)
{
    struct request *r = request_of(req);

    r->file = file;
    if (req->op == STORAGE_WRITE && is_log_file(req->file) &&
        req->offset_bytes + req->length_bytes > file->size_bytes) {
        fail_later(file->dir, req, -EINVAL);
        return;
    }
    list_del(&file->lru_link);
    file->n_active++;
    if (req->op == STORAGE_SYNC) {
        r->op.done = synced;
        r->named = file->dir->named;
        loop_fsync(file->dir->loop, &r->op, file->fd, true);
    } else {
        r->next_iov = 0;
        r->skip_bytes = 0;
        r->done_bytes = 0;
        transfer(req);
    }
}

static void start_io(struct storage_dir *dir, struct storage_req *req)
{
    struct file *file = find_file(dir, req->file);

    if (req->op != STORAGE_SYNC && check_transfer(req)) {
        fail_later(dir, req, -EINVAL);
        return;
    }
    if (file && file->state == OPEN) {
        start_on_open_file(file, req);
        return;
    }
    if (file && file->state == REMOVING) {
        fail_later(dir, req, -ENOENT);
        return;
    }
    if (!file) {
        if (!make_room(dir)) {
            list_push_back(&dir->starved, &req->link);
            return;
        }
        file = add_file(dir, req->file, OPENING);
        if (!file) {
            fail_later(dir, req, -ENOMEM);
            return;
        }
        file->job.work = work_open;
        file->job.done = opened;
        worker_submit(dir->opener, &file->job);
    }
    list_push_back(&file->waiting, &req->link);
}

static void start_request(struct storage_dir *dir, struct storage_req *req)
{
    list_init(&req->link);
    switch (req->op) {
    case STORAGE_READ:
    case STORAGE_WRITE:
    case STORAGE_SYNC:
        start_io(dir, req);
        return;
    case STORAGE_CREATE:
        start_creation(dir, req);
        return;
    case STORAGE_REMOVE:
        mark_removed(dir, req);
        return;
    }
    fail_later(dir, req, -EINVAL);
}

/* ---- the interface -------------------------------------------------------------------------- */

static void dir_submit(struct storage *storage, struct storage_req *req)
{
    start_request(container_of(storage, struct storage_dir, storage), req);
}

static void dir_poll(struct storage *storage, bool wait)
{
    loop_poll(container_of(storage, struct storage_dir, storage)->loop, wait);
}

/* What a crash left of files that were being made. */
int storage_dir_remove_unfinished(struct storage_dir *dir)
{
    _cleanup_(cleanup_closedir) DIR *d = storage_dir_read(dir->log_fd);
    const struct dirent *entry;
    if (!d)
        return -errno;
    while (errno = 0, (entry = readdir(d)))
        if (strspn(entry->d_name, "0123456789abcdef") == 8 &&
            strcmp(entry->d_name + 8, UNFINISHED) == 0 &&
            unlinkat(dir->log_fd, entry->d_name, 0) < 0 && errno != ENOENT)
            return -errno;
    return -errno;
}

/* A log file's number, or UINT32_MAX for a name that is none. */
static uint32_t parse_log_name(const char *name)
{
    if (strlen(name) != 8 || strspn(name, "0123456789abcdef") != 8)
        return UINT32_MAX;
    return (uint32_t)strtoul(name, NULL, 16);
}

static int dir_list(struct storage *storage, uint32_t *numbers, uint32_t max)
{
    struct storage_dir *dir = container_of(storage, struct storage_dir, storage);
    _cleanup_(cleanup_closedir) DIR *d = storage_dir_read(dir->log_fd);
    uint32_t n = 0;

    if (!d)
        return -errno;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(d);
        if (!entry)
            break;
        uint32_t number = parse_log_name(entry->d_name);
        if (!is_log_file(number))
            continue;
        if (n < max)
            numbers[n] = number;
        n++;
    }
    return errno ? -errno : (int)n;
}

static uint64_t dir_free_bytes(struct storage *storage)
{
    struct storage_dir *dir = container_of(storage, struct storage_dir, storage);
    struct statvfs st;

    if (fstatvfs(dir->dir_fd, &st) < 0)
        return 0;
    return (uint64_t)st.f_bavail * st.f_frsize;
}

static void dir_close(struct storage *storage)
{
    struct storage_dir *dir = container_of(storage, struct storage_dir, storage);

    worker_free(dir->opener);
    worker_free(dir->space);
    for (int i = 0; i < FILE_BUCKETS; i++) {
        list_for_each_safe (l, &dir->files[i]) {
            struct file *file = container_of(l, struct file, hash_link);
            assert(file->n_active == 0 && file->state == OPEN);
            forget_file(file);
        }
    }
    cleanup_close(&dir->log_fd);
    cleanup_close(&dir->dir_fd);
    cleanup_close(&dir->lock_fd); /* the lock goes last */
    free(dir);
}

struct storage_dir *storage_dir_new(struct loop *loop, unsigned max_open)
{
    struct storage_dir *dir = calloc(1, sizeof(*dir));
    if (!dir)
        return NULL;
    dir->storage = (struct storage){
        .submit = dir_submit,
        .poll = dir_poll,
        .list = dir_list,
        .free_bytes = dir_free_bytes,
        .close = dir_close,
    };
    dir->loop = loop;
    dir->dir_fd = dir->log_fd = dir->lock_fd = -1;
    for (int i = 0; i < FILE_BUCKETS; i++)
        list_init(&dir->files[i]);
    list_init(&dir->lru);
    list_init(&dir->starved);
    list_init(&dir->name_waiters);
    dir->named = 1; /* another process may have made files and died */
    dir->max_open = max_open;
    return dir;
}
