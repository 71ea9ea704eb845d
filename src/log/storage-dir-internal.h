/* storage-dir-internal.h - what the files of storage_dir share. Nobody else includes this. */
#ifndef VARVE_LOG_STORAGE_DIR_INTERNAL_H
#define VARVE_LOG_STORAGE_DIR_INTERNAL_H

#include "base/loop.h"
#include "base/worker.h"
#include "log/storage.h"

#include <dirent.h>

#define FILE_BUCKETS 1024

struct storage_dir {
    struct storage storage;
    struct loop *loop;
    int dir_fd, log_fd, lock_fd;
    struct list files[FILE_BUCKETS];
    struct list lru;     /* open and idle, least recently used first */
    struct list starved; /* requests that wait for a descriptor */
    unsigned n_open;     /* and opening */
    unsigned max_open;
    struct worker *opener, *space;
    uint64_t named, named_durable; /* log files made, and how many of the names a crash leaves */
    uint64_t naming;               /* what the sync of log/ that runs makes of that; 0: none runs */
    struct loop_op naming_op;
    struct list name_waiters; /* syncs of files that are done but for the names */
    bool said_buffered;
};

/* Without its descriptors and workers. NULL: out of memory. Freed by storage.close(). */
struct storage_dir *storage_dir_new(struct loop *loop, unsigned max_open);

/* Remove what a crash left of log files that were being made. 0 or an errno. */
int storage_dir_remove_unfinished(struct storage_dir *dir);

/* A stream over a directory that starts at its beginning and leaves fd open. NULL: errno. */
DIR *storage_dir_read(int fd);
void cleanup_closedir(DIR **d);

#endif
