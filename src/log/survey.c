/* survey.c - looking at the log files before the log goes on after an opening.
 *
 * The scan has followed the chain of batches to its end. Files that it did not come to hold nothing
 * of the store, if all is well: they are to be used again. Here they are looked at first, by a few
 * blocks each:
 *   - a file that is shorter than a log file cannot be used and is removed: something was making
 *     it, or cut it. */
#include "base/cleanup.h"
#include "base/err.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>

#define LOOKS 64 /* files at once */

struct look {
    struct storage_req req;
    struct iovec iov;
    struct survey *survey;
    struct log_file *file;
    int res;
};

struct survey {
    struct log *log;
    uint32_t in_flight;
    uint8_t *bufs;
    struct look looks[LOOKS];
};

static void looked(struct storage_req *req, int res)
{
    struct look *look = container_of(req, struct look, req);
    look->res = res;
    look->survey->in_flight--;
}

static void read_at(struct survey *s, uint32_t i, struct log_file *file, uint64_t offset,
                    uint32_t bytes)
{
    struct look *look = &s->looks[i];
    look->survey = s;
    look->file = file;
    look->iov = (struct iovec){s->bufs + (size_t)i * BLOCK_BYTES, bytes};
    look->req = (struct storage_req){.done = looked,
                                     .op = STORAGE_READ,
                                     .file = file->number,
                                     .offset_bytes = offset,
                                     .length_bytes = bytes,
                                     .iov = &look->iov,
                                     .n_iov = 1};
    s->in_flight++;
    s->log->storage->submit(s->log->storage, &look->req);
}

static void wait_for_looks(struct survey *s)
{
    while (s->in_flight)
        s->log->storage->poll(s->log->storage, true);
}

/* A file that is not in use: free, or not to be used. */
static void take_free(struct log *log, struct log_file *file, int res)
{
    if (res >= 0 && res < (int)BLOCK_BYTES) {
        struct storage_req req = {.op = STORAGE_REMOVE, .file = file->number};
        res = storage_run(log->storage, &req);
        file->state = res == 0 || res == -ENOENT ? FILE_ABSENT : FILE_REMOVING;
        return;
    }
    if (res < 0) {
        file->state = FILE_REMOVING; /* it is there, and left alone */
        return;
    }
    file->state = FILE_FREE;
    list_push_back(&log->free, &file->link);
    log->n_free++;
    log->n_files++;
}

int log_load_free(struct log *log)
{
    int n = log->storage->list(log->storage, NULL, 0);
    if (n < 0)
        return n;
    _cleanup_free_ uint32_t *numbers = calloc(n + 1, sizeof(*numbers));
    _cleanup_free_ struct survey *s = calloc(1, sizeof(*s));
    _cleanup_free_ uint8_t *bufs = aligned_alloc(STORAGE_ALIGN_BYTES, LOOKS * BLOCK_BYTES);
    if (!numbers || !s || !bufs)
        return -ENOMEM;
    s->log = log;
    s->bufs = bufs;
    n = log->storage->list(log->storage, numbers, n);
    int code = n < 0 ? n : 0;
    for (int i = 0; i < n && code == 0;) {
        uint32_t k = 0;
        for (; i < n && k < LOOKS && code == 0; i++) {
            struct log_file *file = file_get(log, numbers[i]);
            if (!file)
                code = -ENOMEM;
            else if (file->state == FILE_ABSENT)
                read_at(s, k++, file, FILE_BYTES - BLOCK_BYTES, BLOCK_BYTES);
        }
        wait_for_looks(s);
        for (uint32_t j = 0; j < k && code == 0; j++)
            take_free(log, s->looks[j].file, s->looks[j].res);
    }
    for (uint32_t i = 0; i < log->max_files && code == 0; i++)
        if (log->files[i])
            file_check_dead(log, log->files[i]);
    return code;
}
