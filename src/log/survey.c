/* survey.c - looking at the log files before the log goes on after an opening.
 *
 * The scan has followed the chain of batches to its end. Files that it did not come to hold nothing
 * of the store, if all is well: they are to be used again. Here they are looked at first, by a few
 * blocks each, for what would be lost:
 *
 *   - Batches behind a gap. The scan stopped at a batch that is not there; a batch in another file
 *     that was written when that one was durable says that the medium has lost it.
 *   - A checkpoint that was durable and is damaged. Then the store is opened from the older one,
 *     as it must be when the newer one was torn before it was durable. What was written after a
 *     checkpoint was durable says so (file_header.checkpoint, batch_header.checkpoint, or a higher
 *     incarnation): then files that the older one refers to may have been used again, and what was
 *     written since is not in its chain. Where nothing was written the older one and its chain are
 *     all there is, and right. All files are looked at then, and none may be missing.
 *   - A file that is shorter than a log file cannot be used and is removed: somebody cut it. */
#include "base/cleanup.h"
#include "base/err.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOKS 64 /* files at once */

/* A read of a file: of its header with the first batch, or of its last block. */
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
    uint32_t n_used; /* files that were found and are in use */
    int error;       /* of a free file that cannot be read */
    uint8_t *bufs;
    struct look looks[LOOKS];
};

#define HEAD_BYTES (2 * BLOCK_BYTES)

static void looked(struct storage_req *req, int res)
{
    struct look *look = container_of(req, struct look, req);
    look->res = res;
    look->survey->in_flight--;
}

static void start_look(struct survey *s, uint32_t i, struct log_file *file, uint64_t offset,
                       size_t bytes)
{
    struct look *look = &s->looks[i];
    look->survey = s;
    look->file = file;
    look->iov = (struct iovec){s->bufs + (size_t)i * HEAD_BYTES, bytes};
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

static bool in_use(const struct log_file *file)
{
    return file->state != FILE_ABSENT;
}

/* Files in use were read by the scan, or are whole by the checkpoint; but a data file that was
 * opened just before the checkpoint may be in it with nothing alive, and have batches since. */
static bool is_looked_at(const struct log *log, const struct log_file *file)
{
    return !in_use(file) || log->older || (file->kind == FILE_KIND_DATA && !file->n_live);
}

/* Is there something that was written behind the end of the log as the scan found it? */
static int judge(struct log *log, const struct look *look)
{
    const struct file_header *fh = look->iov.iov_base;
    const uint8_t *block = (const uint8_t *)look->iov.iov_base + BLOCK_BYTES;
    const struct batch_header *h = (const struct batch_header *)block;
    if (look->res < (int)HEAD_BYTES)
        return 0;
    bool ours = log_header_is_whole(log, look->file->number, fh);
    if (ours && fh->checkpoint > log->checkpoint_seq)
        return ERR_DAMAGED;
    bool suspect = ours && fh->kind == FILE_KIND_DATA && fh->incarnation == log->incarnation;
    if (batch_is_valid(log, block, 1)) {
        if (h->incarnation > log->incarnation) /* a checkpoint with it comes before any batch */
            return ERR_DAMAGED;
        suspect = h->incarnation == log->incarnation && h->seq > log->applied_seq;
    }
    bool lost = false;
    int code = suspect ? scan_for_lost(log, look->file->number, log->applied_seq + 1, &lost) : 0;
    return code < 0 ? code : lost ? ERR_DAMAGED : 0;
}

/* A file that is not in use: free, or not to be used. */
static void take_free(struct survey *s, struct log_file *file, int res)
{
    struct log *log = s->log;
    if (res >= 0 && res < (int)BLOCK_BYTES) {
        struct storage_req req = {.op = STORAGE_REMOVE, .file = file->number};
        res = storage_run(log->storage, &req);
        file->state = res == 0 || res == -ENOENT ? FILE_ABSENT : FILE_REMOVING;
        return;
    }
    if (res < 0) {
        file->state = FILE_REMOVING; /* it is there, and left alone */
        s->error = res;
        return;
    }
    file->state = FILE_FREE;
    list_push_back(&log->free, &file->link);
    log->n_free++;
    log->n_files++;
}

/* Look at some files from *at on. */
static int look_at_some(struct survey *s, const uint32_t *numbers, uint32_t n, uint32_t *at,
                        bool take)
{
    struct log *log = s->log;
    uint32_t k = 0;
    int code = 0;
    for (; *at < n && k < LOOKS && code == 0; ++*at) {
        struct log_file *file = file_get(log, numbers[*at]);
        if (!file) {
            code = -ENOMEM;
            break;
        }
        s->n_used += in_use(file);
        if (take ? in_use(file) : !is_looked_at(log, file))
            continue;
        if (take)
            start_look(s, k++, file, FILE_BYTES - BLOCK_BYTES, BLOCK_BYTES);
        else
            start_look(s, k++, file, 0, HEAD_BYTES);
    }
    while (s->in_flight)
        log->storage->poll(log->storage, true);
    for (uint32_t i = 0; i < k && code == 0; i++) {
        if (take)
            take_free(s, s->looks[i].file, s->looks[i].res);
        else
            code = judge(log, &s->looks[i]);
    }
    return code;
}

int log_load_free(struct log *log)
{
    int n = log->storage->list(log->storage, NULL, 0);
    if (n < 0)
        return n;
    _cleanup_free_ uint32_t *numbers = calloc(n + 1, sizeof(*numbers));
    _cleanup_free_ struct survey *s = calloc(1, sizeof(*s));
    _cleanup_free_ uint8_t *bufs = aligned_alloc(STORAGE_ALIGN_BYTES, LOOKS * HEAD_BYTES);
    if (!numbers || !s || !bufs)
        return -ENOMEM;
    s->log = log;
    s->bufs = bufs;
    n = log->storage->list(log->storage, numbers, n);
    int code = n < 0 ? n : 0;
    /* All are judged before one is changed. */
    for (uint32_t at = 0; code == 0 && at < (uint32_t)n;)
        code = look_at_some(s, numbers, n, &at, false);
    if (code == 0 && log->older && s->n_used < log->n_files)
        code = ERR_DAMAGED;
    for (uint32_t at = 0; code == 0 && at < (uint32_t)n;)
        code = look_at_some(s, numbers, n, &at, true);
    if (code == 0 && !log->n_free)
        code = s->error;
    return code;
}
