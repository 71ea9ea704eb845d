/* scan.c - reading the tail of the log after a crash.
 *
 * The log is a chain: batches stand one behind the other in a data file, seq by seq, and the last
 * one in a file names the next file. The scan follows it from the last checkpoint's position and
 * stops at the first batch that is not there whole: header, records and every page, of this
 * incarnation, with the seq that is due. Stale bytes of earlier uses of a file do not pass: their
 * incarnation, segment or seq is another, and the checksum covers those.
 *
 * A batch that is not whole is the torn end of the log, unless a later batch, in this file or in
 * another (survey.c), says that it was durable (synced_seq). Then the medium has lost it: where
 * only pages are damaged they are applied all the same, and reading them gives a checksum error;
 * where the header is, nobody knows which pages it changed, and the store is not opened. */
#include "base/checksum.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/huge.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READ_BLOCKS ((size_t)1024) /* 4 MiB at a time; more than a batch takes */

struct scan {
    struct log *log;
    uint64_t incarnation;
    struct log_file *file;
    uint32_t segment, slot; /* where the next batch should stand */
    uint64_t seq;           /* of the last one */
    uint8_t *buf;           /* blocks [buf_from, buf_to) of the file */
    uint32_t buf_file, buf_from, buf_to;
};

/* Have n blocks from slot in the buffer. Returns them, or NULL and a code: 0 beyond the end. */
static const uint8_t *blocks_at(struct scan *s, uint32_t file, uint32_t slot, uint32_t n, int *code)
{
    *code = 0;
    if (slot + n > FILE_BLOCKS)
        return NULL;
    if (s->buf_file != file || slot < s->buf_from || slot + n > s->buf_to) {
        uint32_t want =
            FILE_BLOCKS - slot < READ_BLOCKS ? FILE_BLOCKS - slot : (uint32_t)READ_BLOCKS;
        struct iovec iov = {s->buf, (size_t)want * BLOCK_BYTES};
        struct storage_req req = {.op = STORAGE_READ,
                                  .file = file,
                                  .offset_bytes = (uint64_t)slot * BLOCK_BYTES,
                                  .length_bytes = iov.iov_len,
                                  .iov = &iov,
                                  .n_iov = 1};
        s->buf_file = NO_FILE;
        int res = storage_run(s->log->storage, &req);
        if (res < 0 && want > n) { /* what cannot be read may be behind what is asked for */
            iov.iov_len = (size_t)n * BLOCK_BYTES;
            req.length_bytes = iov.iov_len;
            res = storage_run(s->log->storage, &req);
        }
        if (res < 0) {
            *code = res == -ENOENT ? 0 : res;
            return NULL;
        }
        s->buf_file = file;
        s->buf_from = slot;
        s->buf_to = slot + res / BLOCK_BYTES;
        if (slot + n > s->buf_to)
            return NULL;
    }
    return s->buf + (size_t)(slot - s->buf_from) * BLOCK_BYTES;
}

bool batch_is_valid(const struct log *log, const uint8_t *block, uint32_t slot)
{
    const struct batch_header *h = (const struct batch_header *)block;
    return h->magic == BATCH_MAGIC && h->slot == slot && h->records_bytes <= BATCH_RECORDS_BYTES &&
           h->n_pages <= BATCH_MAX_PAGES && slot + 1 + h->n_pages <= FILE_BLOCKS &&
           h->segment < UINT32_MAX - 64 && h->crc == batch_crc(log->uuid, h, block);
}

static bool header_valid(const struct scan *s, const uint8_t *block, uint32_t slot)
{
    const struct batch_header *h = (const struct batch_header *)block;
    return h->incarnation == s->incarnation && batch_is_valid(s->log, block, slot);
}

static bool newer_checkpoint(const struct log *log, const struct batch_header *h)
{
    return (int32_t)(h->checkpoint - (uint32_t)log->checkpoint_seq) > 0;
}

/* What the records of a valid batch say of its pages. They must describe just these: they are under
 * the header's checksum, so what they say was written so. Returns 0, ERR_DAMAGED (they do not fit),
 * ERR_FORMAT_NEWER (a kind of record that we do not know). */
static int read_records(const uint8_t *block, struct batch_page pages[BATCH_MAX_PAGES])
{
    const struct batch_header *h = (const struct batch_header *)block;
    const uint8_t *at = block + sizeof(*h), *end = at + h->records_bytes;
    uint32_t page = 0;
    while (at < end) {
        const struct record *r = (const struct record *)at;
        if ((size_t)(end - at) < sizeof(*r))
            return ERR_DAMAGED;
        if (r->kind < RECORD_WRITE || r->kind > RECORD_CHANGE)
            return ERR_FORMAT_NEWER;
        size_t more = r->kind == RECORD_WRITE ? r->count * 4u : 0;
        if (r->kind == RECORD_CHANGE)
            more = r->count;
        more = (more + 7) & ~(size_t)7;
        at += sizeof(*r);
        if ((size_t)(end - at) < more)
            return ERR_DAMAGED;
        if (r->kind == RECORD_WRITE) {
            const uint32_t *sums = (const uint32_t *)at;
            if (page + r->count > h->n_pages)
                return ERR_DAMAGED;
            for (uint32_t i = 0; i < r->count; i++)
                pages[page++] = (struct batch_page){sums[i], r->disk, r->page + i};
        }
        at += more;
    }
    return page == h->n_pages ? 0 : ERR_DAMAGED;
}

/* Do all pages match their checksums? */
static int check_records(const struct scan *s, const uint8_t *block, bool *ret_match)
{
    const struct batch_header *h = (const struct batch_header *)block;
    struct batch_page pages[BATCH_MAX_PAGES];
    int code = read_records(block, pages);
    if (code < 0)
        return code;
    *ret_match = true;
    for (uint32_t i = 0; i < h->n_pages && *ret_match; i++) {
        uint64_t address = address_make(s->log->number, h->segment, h->slot + 1 + i);
        const uint8_t *p = block + (size_t)(1 + i) * BLOCK_BYTES;
        *ret_match = checksum_at(address, p, BLOCK_BYTES) == pages[i].sum;
    }
    return 0;
}

bool log_batch_is_whole(const struct log *log, const uint8_t *block, uint32_t segment,
                        uint32_t slot, struct batch_page ret[BATCH_MAX_PAGES], uint32_t *ret_n)
{
    const struct batch_header *h = (const struct batch_header *)block;
    if (!batch_is_valid(log, block, slot) || h->segment != segment || read_records(block, ret) < 0)
        return false;
    *ret_n = h->n_pages;
    return true;
}

/* Does anything in the file from slot on say that batch seq was durable? next_file: where it goes
 * on by the last batch that is there; left as it is when there is none. */
static int was_durable(struct scan *s, uint32_t file, uint32_t slot, uint64_t seq,
                       uint32_t *next_file, bool *ret)
{
    *ret = false;
    for (uint32_t at = slot; at < FILE_BLOCKS && !*ret; at++) {
        int code;
        const uint8_t *block = blocks_at(s, file, at, 1, &code);
        if (code < 0 && is_medium_error(code))
            continue; /* as one that is damaged: it vouches for nothing */
        if (code < 0)
            return code;
        if (!block)
            break;
        const struct batch_header *h = (const struct batch_header *)block;
        if (!header_valid(s, block, at) || h->seq <= seq)
            continue;
        *next_file = h->next_file;
        *ret = h->synced_seq >= seq || newer_checkpoint(s->log, h);
    }
    return 0;
}

/* The same of this file from slot on, and of those that follow it. */
static int was_durable_anywhere(struct scan *s, uint32_t slot, uint64_t seq, uint32_t next_file,
                                bool *ret)
{
    int code = was_durable(s, s->file->number, slot, seq, &next_file, ret);
    for (uint32_t n = 0; code == 0 && !*ret && next_file < s->log->max_files; n++) {
        uint32_t file = next_file;
        next_file = NO_FILE;
        if (n == s->log->max_files)
            break;
        code = was_durable(s, file, 1, seq, &next_file, ret);
    }
    return code;
}

int scan_for_lost(struct log *log, uint32_t file, uint64_t seq, bool *ret)
{
    uint8_t *buf = huge_alloc(READ_BLOCKS * BLOCK_BYTES);
    struct scan s = {.log = log, .incarnation = log->incarnation, .buf = buf, .buf_file = NO_FILE};
    uint32_t ignored;
    int code = buf ? was_durable(&s, file, 1, seq, &ignored, ret) : -ENOMEM;
    huge_free(buf, READ_BLOCKS * BLOCK_BYTES);
    return code;
}

/* Some of the map's files are met as if they were not there: what lives in them, the batches tell.
 * One that was opened before the checkpoint began, while none of its batches was applied yet, has
 * nothing alive. A map that is ahead of the tables has the tail's own files. */
static void forget_known(struct log *log, struct log_file *file, uint32_t segment)
{
    if (file->state != FILE_SEALED || file->kind != FILE_KIND_DATA)
        return;
    const struct log_piece *piece =
        list_empty(&file->pieces) ? NULL : container_of(file->pieces.next, struct log_piece, link);
    if (file->n_live && !(log->map_seq && piece && piece->segment->number == segment))
        return;
    file_forget(log, file);
}

static int take_into_books(struct log *log, struct log_file *file, uint32_t segment)
{
    file->kind = FILE_KIND_DATA;
    file->shift = DATA_SHIFT;
    file->state = FILE_SEALED;
    file->used_slots = 1;
    file->sealed_batch = UINT64_MAX; /* until the scan has left it */
    log->n_files++;
    file->live = calloc(file_slots(file) / 64, sizeof(uint64_t));
    if (!file->live ||
        !piece_add(log, file, segment, 0, 0, DATA_SEGMENT_SLOTS, 0, DATA_SEGMENT_SLOTS))
        return -ENOMEM;
    if (segment >= log->next_segment)
        log->next_segment = segment + 1;
    return 0;
}

/* Make the file's first batch tell its segment, and take the file into the books. */
static int enter_file(struct scan *s, uint32_t number, bool *ret_entered)
{
    struct log *log = s->log;
    int code;
    *ret_entered = false;
    if (number >= log->max_files)
        return 0;
    struct log_file *file = file_get(log, number);
    if (!file)
        return -ENOMEM;
    const uint8_t *block = blocks_at(s, number, 1, 1, &code);
    if (!block)
        return code;
    const struct batch_header *h = (const struct batch_header *)block;
    if (!header_valid(s, block, 1) || h->seq != s->seq + 1)
        return 0;
    forget_known(log, file, h->segment);
    if (file->state != FILE_ABSENT || segment_find(log, h->segment))
        return 0;
    code = take_into_books(log, file, h->segment);
    if (code < 0)
        return code;
    s->file = file;
    s->segment = h->segment;
    s->slot = 1;
    *ret_entered = true;
    return 0;
}

/* The batch at the scan's place: NULL with code 0 at the end of the log. */
static const uint8_t *next_batch(struct scan *s, int *code)
{
    const uint8_t *block = blocks_at(s, s->file->number, s->slot, 1, code);
    if (*code < 0)
        return NULL;
    const struct batch_header *h = (const struct batch_header *)block;
    bool durable;
    if (!block || !header_valid(s, block, s->slot) || h->seq != s->seq + 1 ||
        h->segment != s->segment) {
        uint32_t ignored;
        *code = was_durable(s, s->file->number, s->slot, s->seq + 1, &ignored, &durable);
        if (*code == 0 && durable)
            *code = ERR_DAMAGED;
        return NULL;
    }
    if (newer_checkpoint(s->log, h)) {
        *code = ERR_DAMAGED; /* we go on from the older one, and must not: survey.c */
        return NULL;
    }
    uint32_t n = 1 + h->n_pages, next_file = h->next_file;
    block = blocks_at(s, s->file->number, s->slot, n, code);
    if (!block)
        return NULL;
    bool match;
    *code = check_records(s, block, &match);
    if (*code < 0)
        return NULL;
    if (match)
        return block;
    if (s->seq < s->log->map_seq) /* it was durable before the map was written */
        return block;
    *code = was_durable_anywhere(s, s->slot + 1, s->seq + 1, next_file, &durable);
    if (*code < 0 || !durable)
        return NULL;
    return blocks_at(s, s->file->number, s->slot, n, code);
}

static int follow(struct scan *s,
                  int (*apply)(void *arg, const struct batch_header *header, const uint8_t *block),
                  void *arg, uint64_t *batches, uint64_t *bytes)
{
    uint32_t next_file = NO_FILE;
    for (;;) {
        int code;
        const uint8_t *block = next_batch(s, &code);
        if (code < 0)
            return code;
        if (!block) {
            struct log_file *left = s->file;
            bool entered = false;
            if (next_file != NO_FILE)
                code = enter_file(s, next_file, &entered);
            if (code < 0 || !entered)
                return code;
            left->sealed_batch = s->seq;
            next_file = NO_FILE;
            continue;
        }
        const struct batch_header *h = (const struct batch_header *)block;
        s->seq = h->seq;
        s->slot += 1 + h->n_pages;
        s->file->used_slots = s->slot;
        next_file = h->next_file;
        s->log->applied_seq = h->seq;
        code = apply(arg, h, block);
        if (code < 0)
            return code;
        ++*batches;
        *bytes += (1 + (uint64_t)h->n_pages) * BLOCK_BYTES;
    }
}

/* Where the scan begins: in a file of the map, or, when the map is ahead of the tables, in one of
 * which nothing lived any more. */
static int first_file(struct log *log, const struct log_position *position, struct log_file **ret)
{
    if (position->file >= log->max_files || position->slot > FILE_BLOCKS)
        return ERR_DAMAGED;
    struct log_file *file = file_get(log, position->file);
    if (!file)
        return -ENOMEM;
    if (file->state == FILE_ABSENT && log->map_seq && !segment_find(log, position->segment)) {
        int code = take_into_books(log, file, position->segment);
        if (code < 0)
            return code;
        file->used_slots = position->slot;
    }
    *ret = file;
    return file->state == FILE_SEALED && file->kind == FILE_KIND_DATA ? 0 : ERR_DAMAGED;
}

int log_replay(struct log *log, const struct log_position *position,
               int (*apply)(void *arg, const struct batch_header *header, const uint8_t *block),
               void *arg, uint64_t *ret_batches, uint64_t *ret_bytes)
{
    *ret_batches = *ret_bytes = 0;
    log->applied_seq = position->seq;
    struct scan s = {.log = log,
                     .incarnation = log->incarnation,
                     .segment = position->segment,
                     .slot = position->slot,
                     .seq = position->seq,
                     .buf_file = NO_FILE};
    if (position->file != NO_FILE) {
        int code = first_file(log, position, &s.file);
        if (code < 0)
            return code;
        s.file->sealed_batch = UINT64_MAX; /* not dead until the scan has left it */
        /* Batches that were on their way when the checkpoint began count when they are found. */
        if (s.file->used_slots > position->slot)
            s.file->used_slots = position->slot;
        s.buf = huge_alloc(READ_BLOCKS * BLOCK_BYTES);
        if (!s.buf)
            return -ENOMEM;
        code = follow(&s, apply, arg, ret_batches, ret_bytes);
        huge_free(s.buf, READ_BLOCKS * BLOCK_BYTES);
        if (code < 0)
            return code;
        s.file->sealed_batch = s.seq;
    }
    if (s.seq < log->map_seq) /* what the map has by then was durable */
        return ERR_DAMAGED;
    log->applied_seq = s.seq;
    log->next_seq = s.seq + 1;
    /* What was read need not be durable yet: the death of the process leaves it in the kernel. */
    for (uint32_t i = 0; i < log->max_files; i++)
        if (log->files[i] && log->files[i]->state == FILE_SEALED)
            if (log->files[i]->kind == FILE_KIND_DATA && log->files[i]->sealed_batch)
                file_mark_unsynced(log, log->files[i], 0);
    return 0;
}

void log_find(struct log *log)
{
    log->finding = true;
    if (log->n_free < KEEP_FREE)
        log_table_resume(log);
}

void log_found(struct log *log)
{
    log->finding = false;
}

bool log_may_start(const struct log *log)
{
    if (log->data_file || (log->finding && files_left(log) < KEEP_FREE))
        return false;
    return log->n_free > (!log->table.spare && !log->table_fits);
}

void log_start(struct log *log)
{
    if (log->error || !log_may_start(log))
        return;
    if (!log->table.spare && !log->table_fits) /* first: the checkpoint needs it more */
        log->table.spare = file_take(log, false);
    struct log_file *file = file_take(log, false);
    uint32_t segment;
    if (log_number_segments(log, 1, &segment) < 0)
        return;
    if (file_open(log, file, FILE_KIND_DATA, segment) < 0) {
        log_fail(log, -ENOMEM, "opening a log file");
        return;
    }
    log->data_file = file;
    log->data_unnamed = true;
    log->data_segment = segment;
    log->data_slot = 1;
}
