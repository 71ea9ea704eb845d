/* storage-dir-open.c - finding, making and locking the directory of a store. */
#include "log/storage-dir-internal.h"

#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define DEFAULT_MAX_OPEN 4096
#define LOCK_WAIT_MS     60000 /* for all files together */
#define LOCK_LOOK_MS     10

void cleanup_closedir(DIR **d)
{
    if (*d)
        closedir(*d);
}

DIR *storage_dir_read(int fd)
{
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (own < 0)
        return NULL;
    DIR *d = fdopendir(own);
    if (!d)
        close(own);
    return d;
}

static int take_lock(struct storage_dir *dir)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    dir->lock_fd = openat(dir->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (dir->lock_fd < 0)
        return -errno;
    if (fcntl(dir->lock_fd, F_OFD_SETLK, &lock) < 0)
        return errno == EAGAIN || errno == EACCES ? ERR_IN_USE : -errno;
    return 0;
}

/* Wait until no request on a file is in flight that a daemon left which was killed: until then its
 * lock is there (storage-dir.c). *ms: what was waited. */
static int wait_for_file(int at, const char *name, int *ms)
{
    _cleanup_close_ int fd = openat(at, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0; /* who wants to read it is told */
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return 0; /* a file system without such locks */
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (*ms >= LOCK_WAIT_MS)
            return -EBUSY;
        poll(NULL, 0, LOCK_LOOK_MS);
        *ms += LOCK_LOOK_MS;
    }
    return 0;
}

static int wait_for_files(const struct storage_dir *dir)
{
    _cleanup_(cleanup_closedir) DIR *d = storage_dir_read(dir->log_fd);
    const struct dirent *entry;
    int ms = 0, err = d ? 0 : -errno;

    for (unsigned i = 0; i < 2 && !err; i++) {
        char name[32];
        snprintf(name, sizeof(name), "checkpoint.%u", i);
        err = wait_for_file(dir->dir_fd, name, &ms);
    }
    while (!err && (entry = readdir(d)))
        if (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN)
            err = wait_for_file(dir->log_fd, entry->d_name, &ms);
    return err;
}

static bool has_super(const struct storage_dir *dir)
{
    return faccessat(dir->dir_fd, "varve.store", F_OK, 0) == 0;
}

static bool is_leftover(const char *name)
{
    static const char *const names[] = {".",          "..",           "lock",        "log",
                                        "lost+found", "checkpoint.0", "checkpoint.1"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!strcmp(name, names[i]))
            return true;
    return false;
}

/* A directory in which a store may be made: empty, or left by a creation that did not get to an
 * end. */
static int check_empty(const struct storage_dir *dir)
{
    _cleanup_(cleanup_closedir) DIR *d = storage_dir_read(dir->dir_fd);
    const struct dirent *entry;

    if (!d)
        return -errno;
    while ((entry = readdir(d)))
        if (!is_leftover(entry->d_name))
            return ERR_NOT_A_STORE;
    return 0;
}

/* What a creation left that did not get to an end. Under the lock. */
static int remove_leftovers(const struct storage_dir *dir)
{
    /* Log files without a superblock may be somebody's data. */
    if (unlinkat(dir->dir_fd, "log", AT_REMOVEDIR) < 0 && errno != ENOENT)
        return errno == ENOTEMPTY || errno == EEXIST ? ERR_NOT_A_STORE : -errno;
    if ((unlinkat(dir->dir_fd, "checkpoint.0", 0) < 0 && errno != ENOENT) ||
        (unlinkat(dir->dir_fd, "checkpoint.1", 0) < 0 && errno != ENOENT))
        return -errno;
    return 0;
}

static int open_existing(struct storage_dir *dir, const char *path)
{
    dir->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->dir_fd < 0)
        return -errno;
    if (!has_super(dir))
        return errno == ENOENT ? ERR_NOT_A_STORE : -errno;
    int err = take_lock(dir);
    if (err)
        return err;
    dir->log_fd = openat(dir->dir_fd, "log", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->log_fd < 0)
        return errno == ENOENT ? ERR_DAMAGED : -errno;
    err = wait_for_files(dir);
    return err ? err : storage_dir_remove_unfinished(dir);
}

static int create_new(struct storage_dir *dir, const char *path)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return -errno;
    dir->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->dir_fd < 0)
        return -errno;
    if (has_super(dir))
        return -EEXIST;
    int err = check_empty(dir);
    if (!err)
        err = take_lock(dir);
    if (err)
        return err;
    if (has_super(dir)) /* somebody was faster */
        return -EEXIST;
    err = remove_leftovers(dir);
    if (err)
        return err;
    if (mkdirat(dir->dir_fd, "log", 0700) < 0)
        return -errno;
    dir->log_fd = openat(dir->dir_fd, "log", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_close_ int parent = openat(dir->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir->log_fd < 0 || fsync(dir->dir_fd) < 0)
        return -errno;
    if (parent >= 0 && fsync(parent) < 0) /* a parent that we may not read is not ours to sync */
        return -errno;
    return 0;
}

unsigned storage_dir_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur / 2 >= DEFAULT_MAX_OPEN)
        return DEFAULT_MAX_OPEN;
    return limit.rlim_cur < 8 ? 4 : (unsigned)limit.rlim_cur / 2;
}

int storage_dir_open(const char *path, bool create, struct loop *loop, struct storage **ret)
{
    struct storage_dir *dir = storage_dir_new(loop, storage_dir_descriptors());
    if (!dir)
        return -ENOMEM;
    int err = create ? create_new(dir, path) : open_existing(dir, path);
    if (!err)
        err = worker_create(loop, &dir->opener);
    if (!err)
        err = worker_create(loop, &dir->space);
    if (err) {
        dir->storage.close(&dir->storage);
        return err;
    }
    *ret = &dir->storage;
    return 0;
}
