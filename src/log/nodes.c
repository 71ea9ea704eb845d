/* nodes.c - the table stream: nodes packed into table files, 64 bytes at a time.
 *
 * Nodes carry no frame of their own: the pointer to a node says where it is, how long, and what its
 * checksum is. (For those to which no pointer is known any more they have a crc in themselves, and
 * between them there are only zeros.) What was appended since the last checkpoint is nobody's until
 * the next one is durable, so a crash in between leaves nothing to repair. The file is then not
 * appended to any more, unless files are short: each start would take one, and a few nodes would
 * keep it. Then what is to be written stands where nobody's nodes were (log_table_resume()). */
#include "base/cleanup.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUF_BYTES         (FILE_BYTES < (8u << 20) ? 32u << 10 : 256u << 10)
#define BUF_SLOTS         (BUF_BYTES >> TABLE_SHIFT)
#define SLOT_BYTES        (1u << TABLE_SHIFT)
#define FILE_SLOTS        (FILE_BYTES >> TABLE_SHIFT)
#define BLOCK_SLOTS       (BLOCK_BYTES >> TABLE_SHIFT)
#define SEGMENTS_PER_FILE (FILE_SLOTS / TABLE_SEGMENT_SLOTS)

struct table_buf {
    struct list link; /* in table.bufs, by seq */
    struct log *log;
    struct log_file *file;
    uint64_t seq;
    bool done, failed;
    struct storage_req req;
    struct iovec iov;
};

static void buf_written(struct storage_req *req, int res)
{
    struct table_buf *buf = container_of(req, struct table_buf, req);
    struct log *log = buf->log;
    struct table_stream *t = &log->table;

    buf->done = true;
    buf->failed = res < 0;
    buf->file->writers--;
    t->inflight--;
    file_mark_unsynced(log, buf->file, req->length_bytes);
    if (res < 0)
        log_fail(log, res, "writing page tables");
    while (!list_empty(&t->bufs)) {
        struct table_buf *head = container_of(t->bufs.next, struct table_buf, link);
        if (!head->done)
            break;
        t->failed |= head->failed;
        if (!t->failed) /* else its nodes must not be looked for on the medium */
            t->done_seq = head->seq;
        list_del(&head->link);
        free(head->iov.iov_base);
        free(head);
    }
    log->client->room(log->client);
}

void log_table_flush(struct log *log)
{
    struct table_stream *t = &log->table;
    if (!t->buf || t->slot == t->buf_slot)
        return;
    struct table_buf *buf = calloc(1, sizeof(*buf));
    if (!buf) {
        log_fail(log, -ENOMEM, "writing page tables");
        return;
    }
    uint32_t end = (t->slot + BLOCK_SLOTS - 1) / BLOCK_SLOTS * BLOCK_SLOTS;
    memset(t->buf + (size_t)(t->slot - t->buf_slot) * SLOT_BYTES, 0,
           (size_t)(end - t->slot) * SLOT_BYTES);
    buf->log = log;
    buf->file = t->file;
    buf->seq = t->buf_seq++;
    buf->iov = (struct iovec){TAKE_PTR(t->buf), (size_t)(end - t->buf_slot) * SLOT_BYTES};
    buf->req = (struct storage_req){.done = buf_written,
                                    .op = STORAGE_WRITE,
                                    .file = t->file->number,
                                    .offset_bytes = (uint64_t)t->buf_slot * SLOT_BYTES,
                                    .length_bytes = buf->iov.iov_len,
                                    .iov = &buf->iov,
                                    .n_iov = 1};
    t->slot = t->buf_slot = end;
    t->file->used_slots = end;
    t->file->writers++;
    t->inflight++;
    list_push_back(&t->bufs, &buf->link);
    log->stats.table_bytes += buf->iov.iov_len;
    log->storage->submit(log->storage, &buf->req);
}

uint64_t log_table_last_seq(const struct log *log)
{
    const struct table_stream *t = &log->table;
    return t->buf && t->slot != t->buf_slot ? t->buf_seq : t->buf_seq - 1;
}

bool log_table_room(const struct log *log)
{
    const struct table_stream *t = &log->table;
    /* As long as there are no batches nothing more becomes dirty. */
    bool batches = log->data_file && !log->data_unnamed && !log->finding && !log->closing &&
                   !log_is_stalled(log);
    if (log->table_fits && !batches)
        return true;
    return t->spare || (t->file && FILE_SLOTS - t->slot > FILE_SLOTS / 2);
}

bool log_table_fits(const struct log *log, uint64_t n_bytes)
{
    const struct table_stream *t = &log->table;
    uint64_t left = t->file ? (uint64_t)(FILE_SLOTS - t->slot) * SLOT_BYTES : 0;
    return t->file && 2 * n_bytes + 4 * BLOCK_BYTES <= left;
}

static uint64_t files_to_take(const struct log *log)
{
    uint32_t creatable = log->creation_failed ? 0 : log->max_files - log->n_files;
    return (uint64_t)log->n_free + log->n_creating + creatable;
}

uint64_t log_table_ample(const struct log *log)
{
    uint64_t files = files_to_take(log);
    return (files > KEEP_FREE ? files - KEEP_FREE : 0) * (FILE_BYTES / 4);
}

uint64_t log_table_bytes(const struct log *log)
{
    const struct table_stream *t = &log->table;
    uint64_t files = files_to_take(log) + (t->spare != NULL);
    uint32_t left = t->file ? FILE_SLOTS - t->slot : 0;
    return files * (FILE_BYTES - BLOCK_BYTES) + (uint64_t)left * SLOT_BYTES;
}

static int next_file(struct log *log)
{
    struct table_stream *t = &log->table;
    if (!t->spare)
        t->spare = file_take(log, false);
    if (!t->spare)
        return -ENOSPC;
    uint32_t segment;
    int code = log_number_segments(log, SEGMENTS_PER_FILE, &segment);
    if (code < 0)
        return code;
    if (t->file) {
        log_table_flush(log);
        file_seal(log, t->file);
    }
    t->file = TAKE_PTR(t->spare);
    t->first_segment = segment;
    t->slot = t->buf_slot = BLOCK_SLOTS;
    return file_open(log, t->file, FILE_KIND_TABLE, t->first_segment);
}

/* Of the medium's files that are in use nobody has looked whether they are there. */
static bool is_there(struct log *log, const struct log_file *file)
{
    _cleanup_free_ uint8_t *block = aligned_alloc(STORAGE_ALIGN_BYTES, BLOCK_BYTES);
    struct iovec iov = {block, BLOCK_BYTES};
    struct storage_req req = {.op = STORAGE_READ,
                              .file = file->number,
                              .offset_bytes = FILE_BYTES - BLOCK_BYTES,
                              .length_bytes = BLOCK_BYTES,
                              .iov = &iov,
                              .n_iov = 1};
    int res = block ? storage_run(log->storage, &req) : -ENOMEM;
    return res == (int)BLOCK_BYTES || is_medium_error(res);
}

/* Blocks behind used_slots may hold nodes of a checkpoint that a crash ended, as those of a free
 * file may. */
void log_table_resume(struct log *log)
{
    struct table_stream *t = &log->table;
    struct log_file *best = NULL;
    uint32_t least = FILE_SLOTS / 16 * 15;
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!file || file->state != FILE_SEALED || file->kind != FILE_KIND_TABLE ||
            list_empty(&file->pieces) || file->used_slots > least || !is_there(log, file))
            continue;
        best = file;
        least = file->used_slots;
    }
    if (!best)
        return;
    const struct log_piece *piece = container_of(best->pieces.next, struct log_piece, link);
    best->state = FILE_OPEN;
    t->file = best;
    t->first_segment = piece->segment->number;
    t->slot = t->buf_slot = (best->used_slots + BLOCK_SLOTS - 1) / BLOCK_SLOTS * BLOCK_SLOTS;
}

static int have_buf(struct table_stream *t)
{
    if (!t->buf)
        t->buf = aligned_alloc(STORAGE_ALIGN_BYTES, BUF_BYTES);
    return t->buf ? 0 : -ENOMEM;
}

/* What is left of the segment, less than a node takes, is filled with zeros: so all that a file has
 * between nodes is known, and who checks it need not guess. */
static int skip_to_segment(struct table_stream *t)
{
    uint32_t left = -t->slot % TABLE_SEGMENT_SLOTS;
    int code = have_buf(t);
    if (code < 0)
        return code;
    assert(t->slot == t->buf_slot && left <= BUF_SLOTS);
    memset(t->buf, 0, (size_t)left * SLOT_BYTES);
    t->slot += left;
    return 0;
}

/* Make the next n slots stand in one segment and in a buffer that has been started. */
static int make_room(struct log *log, uint32_t n)
{
    struct table_stream *t = &log->table;
    /* First, as it moves the slot up to the next block: the ends are looked at after that. */
    if (t->buf && t->slot - t->buf_slot + n > BUF_SLOTS)
        log_table_flush(log);
    if (log->error)
        return log->error;
    uint32_t in_segment = t->slot % TABLE_SEGMENT_SLOTS;
    if (!t->file || t->slot + n > FILE_SLOTS) {
        int code = next_file(log);
        if (code < 0)
            return code;
    } else if (in_segment + n > TABLE_SEGMENT_SLOTS) {
        log_table_flush(log);
        int code = skip_to_segment(t);
        if (code < 0)
            return code;
        log_table_flush(log);
        if (t->slot + n > FILE_SLOTS)
            return make_room(log, n);
    }
    return have_buf(t);
}

int log_table_append(struct log *log, const void *node, uint32_t len, uint64_t *ret_address,
                     uint64_t *ret_buf_seq)
{
    struct table_stream *t = &log->table;
    uint32_t n = len >> TABLE_SHIFT;
    assert(len % SLOT_BYTES == 0 && n && n <= BUF_SLOTS);
    int code = make_room(log, n);
    if (code < 0)
        return code;
    memcpy(t->buf + (size_t)(t->slot - t->buf_slot) * SLOT_BYTES, node, len);
    *ret_address = address_make(log->number, t->first_segment + t->slot / TABLE_SEGMENT_SLOTS,
                                t->slot % TABLE_SEGMENT_SLOTS);
    *ret_buf_seq = t->buf_seq;
    t->slot += n;
    t->file->used_slots = t->slot;
    log_set_live(log, *ret_address, n);
    return 0;
}
