/* scrub.c - reading sealed log files from end to end.
 *
 * One file after the other is pinned (log_pin(): not cleaned, not used again) and read in windows,
 * one in flight. What is in the windows:
 *
 *   DATA    the header, then batches, each of them a block with the sums of its pages, and those.
 *           Behind a damaged batch header the next whole one is looked for; the pages between have
 *           no other sums than those in the tables.
 *   TABLE   the header, then nodes, which have their own crc, and zeros up to the end of a block
 *           where a buffer ended, or of a segment.
 *   PACKED  the header, the footer, and of table pieces the nodes, close together. The sums of
 *           pages are kept with the pointers; the footer has one for those that were moved
 *           together.
 *
 * What lies behind used_slots is of earlier uses of the file and not looked at. */
#include "image/scrub.h"

#include "base/checksum.h"
#include "base/crc.h"
#include "image/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES ((FILE_BLOCKS < 8192 ? 16u : 64u) * BLOCK_BYTES)
#define BLOCK_SLOTS  (BLOCK_BYTES >> TABLE_SHIFT)
#define SLOT_BYTES   (1u << TABLE_SHIFT)

static_assert(WINDOW_BYTES >= NODE_MAX_BYTES + BLOCK_BYTES, "a node fits, wherever it begins");

/* ---- the window ----------------------------------------------------------------------------- */

static void window_read(struct storage_req *req, int res)
{
    struct scrub *s = container_of(req, struct scrub, req);
    s->file->readers--;
    s->reading = false;
    s->res = res;
}

static void submit(struct scrub *s, uint64_t offset, uint64_t bytes)
{
    s->iov = (struct iovec){s->buf + (offset - s->from), bytes};
    s->req = (struct storage_req){.done = window_read,
                                  .op = STORAGE_READ,
                                  .file = s->file->number,
                                  .offset_bytes = offset,
                                  .length_bytes = bytes,
                                  .iov = &s->iov,
                                  .n_iov = 1};
    s->file->readers++;
    s->reading = true;
    s->log->storage->submit(s->log->storage, &s->req);
}

/* What could not be read: bytes that nothing writes. */
static void spoil(uint8_t *at, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(i * 37 + i / 256 + 11);
}

/* Take what a read brought. False: another one is on its way. */
static bool take_read(struct scrub *s)
{
    uint8_t *at = s->iov.iov_base;
    if (s->res < 0 && !s->retrying && s->iov.iov_len > BLOCK_BYTES) {
        s->retrying = true;
        s->retry = s->from;
    } else {
        uint64_t got = s->res < 0 ? 0 : (uint64_t)s->res;
        if (got < s->iov.iov_len)
            spoil(at + got, s->iov.iov_len - got);
        s->retry += BLOCK_BYTES;
        s->retrying = s->retrying && s->retry < s->to;
    }
    if (s->retrying) {
        submit(s, s->retry, BLOCK_BYTES);
        return false;
    }
    s->blocks += (s->to - s->from) / BLOCK_BYTES;
    return true;
}

/* The file's bytes from offset on, len of them, at most NODE_MAX_BYTES; NULL: they are being read.
 */
static const uint8_t *bytes_at(struct scrub *s, uint64_t offset, uint32_t len)
{
    if (offset < s->from || offset + len > s->to) {
        s->from = offset / BLOCK_BYTES * BLOCK_BYTES;
        s->to = s->from + WINDOW_BYTES < s->limit ? s->from + WINDOW_BYTES : s->limit;
        submit(s, s->from, s->to - s->from);
        return NULL;
    }
    return s->buf + (offset - s->from);
}

static bool is_zero(const uint8_t *at, uint32_t bytes)
{
    return at[0] == 0 && memcmp(at, at + 1, bytes - 1) == 0;
}

static void report(struct scrub *s, struct scrub_damage damage)
{
    damage.file = s->file;
    s->damage(s, &damage);
}

/* ---- batches -------------------------------------------------------------------------------- */

static void report_batch(struct scrub *s)
{
    if (s->lost)
        report(s, (struct scrub_damage){.kind = SCRUB_BATCH,
                                        .offset = (uint64_t)s->lost * BLOCK_BYTES,
                                        .bytes = BLOCK_BYTES,
                                        .n_pages = s->slot - s->lost - 1});
    s->lost = 0;
}

static void batch_header(struct scrub *s, const uint8_t *block, uint32_t segment)
{
    uint32_t n;
    if (log_batch_is_whole(s->log, block, segment, s->slot, s->batch, &n) &&
        s->slot + 1 + n <= s->end) {
        report_batch(s);
        s->n_pages = n;
        s->page = 0;
    } else if (!s->lost) {
        s->lost = s->slot;
    }
}

static void batch_page(struct scrub *s, const uint8_t *block, uint32_t segment)
{
    const struct batch_page *p = &s->batch[s->page++];
    uint64_t address = address_make(s->log->number, segment, s->slot);
    if (checksum_at(address, block, BLOCK_BYTES) != p->sum)
        report(s, (struct scrub_damage){.kind = SCRUB_PAGE,
                                        .offset = (uint64_t)s->slot * BLOCK_BYTES,
                                        .bytes = BLOCK_BYTES,
                                        .disk = p->disk,
                                        .page = p->page});
}

/* Each of the steps returns false to wait for the window. */
static bool batches_step(struct scrub *s)
{
    const struct log_piece *piece = container_of(s->file->pieces.next, struct log_piece, link);
    for (; s->slot < s->end; s->slot++) {
        const uint8_t *block = bytes_at(s, (uint64_t)s->slot * BLOCK_BYTES, BLOCK_BYTES);
        if (!block)
            return false;
        if (s->page < s->n_pages)
            batch_page(s, block, piece->segment->number);
        else
            batch_header(s, block, piece->segment->number);
    }
    report_batch(s);
    return true;
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static void report_nodes(struct scrub *s)
{
    /* What lives and what does not are told apart. */
    for (uint32_t from = s->lost, to; s->lost && from < s->lost_end; from = to) {
        const uint64_t *live = s->file->live;
        bool lives = live[from / 64] >> (from % 64) & 1;
        for (to = from + 1; to < s->lost_end && (live[to / 64] >> (to % 64) & 1) == lives;)
            to++;
        report(s, (struct scrub_damage){.kind = SCRUB_NODE,
                                        .offset = (uint64_t)from << TABLE_SHIFT,
                                        .bytes = (uint64_t)(to - from) << TABLE_SHIFT});
    }
    s->lost = 0;
}

/* Zeros up to the end of the block. */
static void zeros(struct scrub *s, const uint8_t *at, uint32_t n_slots)
{
    if (n_slots && !is_zero(at, n_slots * SLOT_BYTES))
        report(s, (struct scrub_damage){.kind = SCRUB_ZEROS,
                                        .offset = (uint64_t)s->slot << TABLE_SHIFT,
                                        .bytes = n_slots * SLOT_BYTES});
    s->slot += n_slots;
}

/* Slots of a node that begins here; 0: none does, or it is damaged. */
static uint32_t node_slots(const struct scrub *s, const uint8_t *at, uint32_t n_slots)
{
    uint32_t bytes = node_form_bytes(at);
    if (!bytes || bytes > n_slots * SLOT_BYTES)
        return 0;
    /* One that was written before nodes had a crc, and moved since, is taken as it is. */
    bool old = s->packed && !s->lost && ((const struct node_header *)at)->crc == 0;
    return old || node_form_is_whole(at, bytes) ? bytes >> TABLE_SHIFT : 0;
}

static bool nodes_step(struct scrub *s)
{
    while (s->slot < s->end) {
        uint32_t n = s->end - s->slot;
        uint32_t in_segment = TABLE_SEGMENT_SLOTS - s->slot % TABLE_SEGMENT_SLOTS;
        if (!s->packed && in_segment < n)
            n = in_segment;
        if (n > NODE_MAX_SLOTS)
            n = NODE_MAX_SLOTS;
        const uint8_t *at = bytes_at(s, (uint64_t)s->slot << TABLE_SHIFT, n * SLOT_BYTES);
        if (!at)
            return false;
        uint32_t slots = node_slots(s, at, n);
        bool zero = is_zero(at, SLOT_BYTES);
        if (slots) {
            report_nodes(s);
            s->slot += slots;
        } else if (zero && !s->packed && !s->lost) {
            zeros(s, at, BLOCK_SLOTS - s->slot % BLOCK_SLOTS);
        } else {
            s->lost = s->lost ? s->lost : s->slot;
            s->slot++;
            s->lost_end = zero && !s->packed ? s->lost_end : s->slot;
        }
    }
    report_nodes(s);
    return true;
}

/* ---- packed files --------------------------------------------------------------------------- */

/* What a piece of nodes does not fill of its last block is zeros. */
static bool piece_end_step(struct scrub *s)
{
    uint32_t n = -s->slot % BLOCK_SLOTS;
    const uint8_t *at = n ? bytes_at(s, (uint64_t)s->slot << TABLE_SHIFT, n * SLOT_BYTES) : NULL;
    if (n && !at)
        return false;
    if (n)
        zeros(s, at, n);
    return true;
}

static bool pieces_step(struct scrub *s)
{
    while (s->piece) {
        const struct log_piece *piece = s->piece;
        s->end = piece->base + piece->count;
        if (s->slot < piece->base)
            s->slot = piece->base;
        if (!nodes_step(s) || !piece_end_step(s))
            return false;
        struct list *next = piece->link.next;
        s->piece = next == &s->file->pieces ? NULL : container_of(next, struct log_piece, link);
    }
    return true;
}

/* Take what there is of the sums in n bytes of the footer. */
static void take_sums(struct scrub *s, const uint8_t *at, uint64_t offset, uint32_t n)
{
    uint64_t end = s->sums_at + s->n_sums * sizeof(*s->sums);
    uint64_t from = offset > s->sums_at ? offset : s->sums_at;
    uint64_t to = offset + n < end ? offset + n : end;
    if (from < to)
        memcpy((uint8_t *)s->sums + (from - s->sums_at), at + (from - offset), to - from);
}

/* Make room for the sums. */
static void begin_sums(struct scrub *s)
{
    const struct log_file *file = s->file;
    size_t pieces_bytes = log_footer_pieces_bytes(file);
    s->n_sums = s->sum = 0;
    s->copy = s->whole = 0;
    if (pieces_bytes > file->footer_bytes)
        return;
    s->sums_at = (uint64_t)file->footer_block * BLOCK_BYTES + pieces_bytes;
    s->n_sums = (file->footer_bytes - pieces_bytes) / sizeof(*s->sums);
    free(s->sums);
    s->sums = malloc((s->n_sums + 1) * sizeof(*s->sums));
    if (!s->sums)
        s->error = -ENOMEM;
}

/* How often the footer is there, as far as is known: it says so itself. */
static uint32_t footer_copies(const struct scrub *s)
{
    if (!(s->whole & 1)) /* it may have said that there is another one */
        return 2;
    return s->n_sums && s->sums[0].slot == 0 && s->sums[0].count == 2 ? 2 : 1;
}

static void report_footers(struct scrub *s, uint32_t copies, uint64_t begin, uint64_t bytes)
{
    for (uint32_t i = 0; i < copies && s->whole != (1u << copies) - 1; i++)
        if (!(s->whole >> i & 1) && (i == 0 || s->whole))
            report(s, (struct scrub_damage){.kind = SCRUB_FOOTER,
                                            .offset = begin + i * bytes,
                                            .bytes = s->file->footer_bytes,
                                            .n_pages = s->whole != 0});
}

/* slot counts blocks here. */
static bool footer_step(struct scrub *s)
{
    const struct log_file *file = s->file;
    uint64_t begin = (uint64_t)file->footer_block * BLOCK_BYTES, len = file->footer_bytes;
    uint64_t padded = (len + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    do {
        uint64_t at = begin + s->copy * padded, end = at + len;
        if (end > FILE_BYTES)
            break;
        for (; (uint64_t)s->slot * BLOCK_BYTES < end; s->slot++) {
            uint64_t offset = (uint64_t)s->slot * BLOCK_BYTES;
            const uint8_t *block = bytes_at(s, offset, BLOCK_BYTES);
            if (!block)
                return false;
            uint32_t n = end - offset < BLOCK_BYTES ? (uint32_t)(end - offset) : BLOCK_BYTES;
            s->crc = crc32c(s->crc, block, n);
            if (!s->whole) /* where none was whole yet */
                take_sums(s, block, offset - s->copy * padded, n);
            if (n < BLOCK_BYTES && s->copy < footer_copies(s) && s->crc == file->footer_crc &&
                !is_zero(block + n, BLOCK_BYTES - n))
                report(s, (struct scrub_damage){
                              .kind = SCRUB_ZEROS, .offset = end, .bytes = BLOCK_BYTES - n});
        }
        s->whole |= (s->crc == file->footer_crc) << s->copy;
        s->crc = 0;
    } while (++s->copy < footer_copies(s));
    report_footers(s, footer_copies(s), begin, padded);
    if (!s->whole)
        s->n_sums = 0; /* nobody knows */
    return true;
}

/* Pages that were moved together. */
static bool moved_step(struct scrub *s)
{
    for (; s->sum < s->n_sums; s->sum++) {
        const struct moved_sum *m = &s->sums[s->sum];
        if (!m->slot || m->slot >= FILE_BLOCKS || m->count > FILE_BLOCKS - m->slot)
            continue;
        if (s->slot < m->slot || s->slot > m->slot + m->count) {
            s->slot = m->slot;
            s->crc = 0;
        }
        for (; s->slot < m->slot + m->count; s->slot++) {
            const uint8_t *block = bytes_at(s, (uint64_t)s->slot * BLOCK_BYTES, BLOCK_BYTES);
            if (!block)
                return false;
            s->crc = crc32c(s->crc, block, BLOCK_BYTES);
        }
        if (s->crc != m->crc)
            report(s, (struct scrub_damage){.kind = SCRUB_MOVED,
                                            .offset = (uint64_t)m->slot * BLOCK_BYTES,
                                            .bytes = (uint64_t)m->count * BLOCK_BYTES,
                                            .n_pages = m->count});
        s->crc = 0;
    }
    return true;
}

/* ---- files ---------------------------------------------------------------------------------- */

static void enter(struct scrub *s, struct log_file *file)
{
    s->file = file;
    s->step = STEP_HEADER;
    s->from = s->to = 0;
    s->limit =
        (((uint64_t)file->used_slots << file->shift) + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    if (!s->limit)
        s->limit = BLOCK_BYTES;
}

static void leave(struct scrub *s)
{
    struct log_file *file = s->file;
    s->file = NULL;
    log_unpin(s->log, file);
}

/* Pin the next file that there is to be looked at. */
static bool next_file(struct scrub *s)
{
    struct log *log = s->log;
    while (s->next_file < log->max_files) {
        struct log_file *file = log->files[s->next_file++];
        if (!file || (file->shift == DATA_SHIFT && !s->pages) || !log_pin(log, file))
            continue;
        enter(s, file);
        return true;
    }
    return false;
}

/* Set out on a step of a file. */
static void begin(struct scrub *s, int step)
{
    const struct log_file *file = s->file;
    s->step = step;
    s->lost = s->lost_end = s->n_pages = s->page = s->crc = 0;
    s->slot = BLOCK_BYTES >> file->shift;
    s->packed = step == STEP_PIECES;
    s->end = (uint32_t)(s->limit >> file->shift);
    if (step == STEP_PIECES)
        s->piece = container_of(file->pieces.next, struct log_piece, link);
    if (step == STEP_FOOTER) {
        s->slot = file->footer_block;
        begin_sums(s);
    }
    if (file->kind == FILE_KIND_PACKED)
        s->limit = FILE_BYTES;
}

/* The first block. Returns what comes next, -1: nothing, -2: wait. */
static int header_step(struct scrub *s)
{
    const struct log_file *file = s->file;
    const struct file_header *h = (const struct file_header *)bytes_at(s, 0, BLOCK_BYTES);
    if (!h)
        return -2;
    bool whole = log_header_is_whole(s->log, file->number, h);
    /* A crash may have left the header unwritten: that of an earlier use is there, or zeros. */
    if (!whole && !is_zero((const uint8_t *)h, BLOCK_BYTES))
        report(s, (struct scrub_damage){.kind = SCRUB_HEADER, .bytes = BLOCK_BYTES});
    if (list_empty(&file->pieces))
        return -1;
    if (file->kind == FILE_KIND_PACKED)
        return file->shift == TABLE_SHIFT ? STEP_PIECES : STEP_FOOTER;
    if (file->kind == FILE_KIND_DATA)
        return file->shift == DATA_SHIFT ? STEP_BATCHES : -1;
    /* Before there was the flag, nodes had no crc. */
    return file->shift == TABLE_SHIFT && !(whole && !(h->flags & FILE_FLAG_NODE_CRCS)) ? STEP_NODES
                                                                                       : -1;
}

/* Returns false to wait; s->file is NULL when it is done with. */
static bool file_step(struct scrub *s)
{
    int next = -1;
    bool done = true;
    switch (s->step) {
    case STEP_HEADER:
        next = header_step(s);
        done = next != -2;
        break;
    case STEP_BATCHES:
        done = batches_step(s);
        break;
    case STEP_NODES:
        done = nodes_step(s);
        break;
    case STEP_PIECES:
        done = pieces_step(s);
        next = STEP_FOOTER;
        break;
    case STEP_FOOTER:
        done = footer_step(s);
        next = s->n_sums ? STEP_MOVED : -1;
        break;
    case STEP_MOVED:
        done = moved_step(s);
        break;
    }
    if (done && next >= 0)
        begin(s, next);
    else if (done)
        leave(s);
    return done;
}

int scrub_init(struct scrub *s, struct log *log, bool pages)
{
    memset(s, 0, sizeof(*s));
    s->buf = aligned_alloc(STORAGE_ALIGN_BYTES, WINDOW_BYTES);
    if (!s->buf)
        return -ENOMEM;
    s->log = log;
    s->pages = pages;
    return 0;
}

enum scrub_result scrub_step(struct scrub *s)
{
    if (s->reading)
        return SCRUB_WAIT;
    if (s->file && !take_read(s))
        return SCRUB_WAIT;
    if (!s->file && !next_file(s))
        return SCRUB_DONE;
    while (s->file && !s->error)
        if (!file_step(s))
            return SCRUB_WAIT;
    return SCRUB_AGAIN;
}

void scrub_free(struct scrub *s)
{
    if (s->file)
        leave(s);
    free(s->sums);
    free(s->buf);
    s->sums = NULL;
    s->buf = NULL;
}
