/* read.c - reading pages, and telling what is data and what is hole.
 *
 * Pages that lie side by side in a file are read in one request, straight into the caller's buffer
 * where that is aligned, else through a buffer of our own. Every page is checked against the
 * checksum that its table entry had when the read began; the file cannot be used again before the
 * read is over (readers). */
#include "base/checksum.h"
#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PART_MAX_PAGES   256u
#define CACHE_PART_PAGES 32u /* longer runs push nothing out of the cache: they are scans */
#define CACHE_MAX_PARTS  8u  /* in flight for one CACHE request: 8 MiB */
#define CACHE_ALL_PARTS  32u /* for all of them: what comes on top is not read ahead */

struct read_part {
    struct storage_req req;
    struct iovec iov;
    struct store *store;
    struct store_io *io;
    struct log_file *file;
    uint64_t page; /* first, of the disk */
    uint32_t n;
    uint8_t *bounce; /* n pages, or NULL: read into io->buf */
    struct entry entries[];
};

static uint8_t *page_buf(const struct read_part *part, uint32_t i)
{
    return (uint8_t *)part->iov.iov_base + (size_t)i * PAGE_BYTES;
}

/* The part of a page that a request covers. */
static void cover(const struct store_io *io, uint64_t page, uint64_t *from, uint64_t *to)
{
    uint64_t end = io->offset + io->length;
    *from = page * PAGE_BYTES > io->offset ? page * PAGE_BYTES : io->offset;
    *to = (page + 1) * PAGE_BYTES < end ? (page + 1) * PAGE_BYTES : end;
}

static void copy_out(const struct store_io *io, uint64_t page, const uint8_t *bytes)
{
    uint64_t from, to;
    if (!io->buf)
        return;
    cover(io, page, &from, &to);
    memcpy((uint8_t *)io->buf + (from - io->offset), bytes + (from - page * PAGE_BYTES), to - from);
}

static int check_page(struct read_part *part, uint32_t i)
{
    const struct entry *e = &part->entries[i];
    if (checksum_at(e->address, page_buf(part, i), PAGE_BYTES) == e->sum)
        return 0;
    struct disk *disk = part->io->disk;
    part->store->stats.checksum_errors++;
    store_event(part->store, STORE_EVENT_DAMAGE, ERR_CHECKSUM,
                "%s/%s: page %llu is damaged (log file %08x, byte %llu); reading it gives an error",
                disk->vm ? disk->vm->name : "?", disk->name, (unsigned long long)(part->page + i),
                part->file->number,
                (unsigned long long)(part->req.offset_bytes + (uint64_t)i * PAGE_BYTES));
    return ERR_CHECKSUM;
}

/* A part has come; a request that did not start all of its parts goes on. */
static void part_done(struct store *store, struct store_io *io, int error)
{
    if (io->throttled) {
        io->throttled = false;
        if (error && !io->error)
            io->error = error;
        io->pending--;
        read_step(store, io);
        io_check(io);
        return;
    }
    io_part_done(io, error);
}

/* Reading ahead has bounds, and no use when the cache keeps nothing of it. As it is advice, a
 * request that comes to one of all ends there, and well. */
static bool cache_waits(const struct store_io *io)
{
    return io->op == STORE_CACHE && io->pending >= CACHE_MAX_PARTS;
}

static bool cache_is_full(struct store *store, const struct store_io *io)
{
    if (io->op != STORE_CACHE)
        return false;
    return store->cache_parts >= CACHE_ALL_PARTS ||
           (io->length > CACHE_PART_PAGES * PAGE_BYTES && !page_cache_has_room(store->cache));
}

static void part_read(struct storage_req *req, int res)
{
    struct read_part *part = container_of(req, struct read_part, req);
    struct store_io *io = part->io;
    struct store *store = part->store;
    int error = res < 0 ? res : 0;

    part->file->readers--;
    store->cache_parts -= io->op == STORE_CACHE;
    if (res >= 0 && (uint64_t)res < req->length_bytes)
        memset((uint8_t *)part->iov.iov_base + res, 0, req->length_bytes - res);
    for (uint32_t i = 0; i < part->n && res >= 0; i++) {
        int code = check_page(part, i);
        if (code < 0) {
            error = code;
            continue;
        }
        if (part->n <= CACHE_PART_PAGES || page_cache_has_room(store->cache))
            page_cache_insert(store->cache, part->entries[i].address, page_buf(part, i));
        if (part->bounce)
            copy_out(io, part->page + i, page_buf(part, i));
    }
    free(part->bounce);
    free(part);
    part_done(store, io, error);
}

static bool direct(const struct store_io *io, uint64_t page)
{
    uint64_t from, to;
    cover(io, page, &from, &to);
    return io->buf && to - from == PAGE_BYTES &&
           ((uintptr_t)io->buf + (from - io->offset)) % STORAGE_ALIGN_BYTES == 0;
}

/* How many pages from the first lie side by side in its file and are to be read alike. */
static uint32_t run_length(struct store *store, const struct store_io *io, struct node *leaf,
                           uint64_t page, uint32_t max, const struct log_file *file,
                           uint64_t offset, struct entry *entries)
{
    uint32_t n = 1;
    while (n < max) {
        struct entry e = node_get(leaf, (page + n) % NODE_ENTRIES);
        struct log_file *other;
        uint64_t at;
        if (entry_encoding(&e) != ENCODING_RAW || direct(io, page + n) != direct(io, page) ||
            page_cache_has(store->cache, e.address) ||
            log_locate(store->log, e.address, &other, &at) < 0 || other != file ||
            at != offset + (uint64_t)n * PAGE_BYTES)
            break;
        entries[n++] = e;
    }
    return n;
}

/* Start reading pages from page on. Returns how many, or a code. */
static int64_t start_part(struct store *store, struct store_io *io, struct node *leaf,
                          uint64_t page, uint32_t max, struct entry first)
{
    struct log_file *file;
    uint64_t offset;
    int code = log_locate(store->log, first.address, &file, &offset);
    if (code < 0 || file->shift != DATA_SHIFT) {
        store->stats.checksum_errors++;
        store_event(store, STORE_EVENT_DAMAGE, ERR_DAMAGED,
                    "disk %u: the table entry of page %llu leads nowhere", io->disk->id,
                    (unsigned long long)page);
        return ERR_DAMAGED;
    }
    struct entry entries[PART_MAX_PAGES];
    entries[0] = first;
    if (max > PART_MAX_PAGES)
        max = PART_MAX_PAGES;
    uint32_t n = run_length(store, io, leaf, page, max, file, offset, entries);
    struct read_part *part = malloc(sizeof(*part) + n * sizeof(struct entry));
    if (!part)
        return -ENOMEM;
    *part = (struct read_part){.store = store, .io = io, .file = file, .page = page, .n = n};
    memcpy(part->entries, entries, n * sizeof(struct entry));
    uint64_t from, to;
    cover(io, page, &from, &to);
    part->iov.iov_len = (size_t)n * PAGE_BYTES;
    if (direct(io, page)) {
        part->iov.iov_base = (uint8_t *)io->buf + (from - io->offset);
    } else {
        part->bounce = aligned_alloc(STORAGE_ALIGN_BYTES, part->iov.iov_len);
        part->iov.iov_base = part->bounce;
        if (!part->bounce) {
            free(part);
            return -ENOMEM;
        }
    }
    part->req = (struct storage_req){.done = part_read,
                                     .op = STORAGE_READ,
                                     .file = file->number,
                                     .offset_bytes = offset,
                                     .length_bytes = part->iov.iov_len,
                                     .iov = &part->iov,
                                     .n_iov = 1};
    file->readers++;
    io->pending++;
    store->cache_parts += io->op == STORE_CACHE;
    store->stats.disk_reads++;
    store->stats.disk_read_bytes += part->iov.iov_len;
    store->storage->submit(store->storage, &part->req);
    return n;
}

/* Bytes [io->next, to) read as zeros. While nothing else was found and the caller allows it, they
 * are left alone (all_zero). */
static void zeros(struct store_io *io, uint64_t to)
{
    if (!io->all_zero && io->buf)
        memset((uint8_t *)io->buf + (io->next - io->offset), 0, to - io->next);
    io->next = to;
}

static void not_all_zero(struct store_io *io)
{
    if (!io->all_zero)
        return;
    io->all_zero = false;
    if (io->buf)
        memset(io->buf, 0, io->next - io->offset);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Read from one leaf as far as it goes. */
static int read_leaf(struct store *store, struct store_io *io, struct node *leaf, uint64_t end)
{
    uint64_t leaf_end = ((leaf->index + 1) << NODE_BITS) * PAGE_BYTES;
    if (leaf_end < end)
        end = leaf_end;
    while (io->next < end && !cache_waits(io) && !cache_is_full(store, io)) {
        uint64_t page = io->next / PAGE_BYTES;
        struct entry e = node_get(leaf, page % NODE_ENTRIES);
        if (entry_encoding(&e) == ENCODING_HOLE || entry_encoding(&e) == ENCODING_ZERO) {
            zeros(io, least((page + 1) * PAGE_BYTES, end));
            continue;
        }
        not_all_zero(io);
        if (entry_encoding(&e) != ENCODING_RAW)
            return ERR_DAMAGED;
        const uint8_t *cached = page_cache_get(store->cache, e.address);
        int64_t n = 1;
        if (cached)
            copy_out(io, page, cached);
        else
            n = start_part(store, io, leaf, page,
                           (uint32_t)((end + PAGE_BYTES - 1) / PAGE_BYTES - page), e);
        if (n < 0) {
            io->next = least((page + 1) * PAGE_BYTES, end);
            return (int)n;
        }
        io->next = least((page + n) * PAGE_BYTES, end);
    }
    return 0;
}

void read_step(struct store *store, struct store_io *io)
{
    uint64_t end = io->offset + io->length;
    if (io->next == io->offset)
        io->all_zero = io->flags & STORE_SKIP_ZERO;
    while (io->next < end && !io->error && !cache_is_full(store, io)) {
        struct node *leaf;
        uint64_t pages;
        if (cache_waits(io)) {
            io->throttled = true;
            return;
        }
        int code =
            tree_get(&io->disk->tree, io->next / PAGE_BYTES, false, &io->waiter, &leaf, &pages);
        if (code == TREE_WAIT)
            return;
        if (code == TREE_ABSENT)
            zeros(io, least((io->next / PAGE_BYTES + pages) * PAGE_BYTES, end));
        else if (code == TREE_FOUND)
            code = read_leaf(store, io, leaf, end);
        if (code < 0) {
            io->error = code;
            break;
        }
    }
    io->busy = false;
}

/* ---- extents -------------------------------------------------------------------------------- */

static bool add_extent(struct store_io *io, uint64_t to, bool hole, bool zero)
{
    struct store_extent *last = io->n_extents ? &io->extents[io->n_extents - 1] : NULL;
    if (last && last->hole == hole && last->zero == zero) {
        last->length += to - io->next;
    } else if (io->n_extents == io->max_extents) {
        return false;
    } else {
        io->extents[io->n_extents++] =
            (struct store_extent){.length = to - io->next, .hole = hole, .zero = zero};
    }
    io->next = to;
    return true;
}

void extents_step(struct store *store, struct store_io *io)
{
    uint64_t end = io->offset + io->length;
    bool more = true;
    while (io->next < end && more) {
        struct node *leaf;
        uint64_t page = io->next / PAGE_BYTES, pages;
        int code = tree_get(&io->disk->tree, page, false, &io->waiter, &leaf, &pages);
        if (code == TREE_WAIT)
            return;
        if (code < 0) {
            io->error = io->n_extents ? 0 : code;
            break;
        }
        if (code == TREE_ABSENT) {
            more = add_extent(io, least((page + pages) * PAGE_BYTES, end), true, true);
            continue;
        }
        if (scan_rests(store, io))
            return;
        uint64_t leaf_end = least(((leaf->index + 1) << NODE_BITS) * PAGE_BYTES, end);
        while (io->next < leaf_end && more) {
            page = io->next / PAGE_BYTES;
            struct entry e = node_get(leaf, page % NODE_ENTRIES);
            bool hole = entry_encoding(&e) == ENCODING_HOLE;
            bool zero = hole || entry_encoding(&e) == ENCODING_ZERO;
            more = add_extent(io, least((page + 1) * PAGE_BYTES, leaf_end), hole, zero);
        }
    }
    io->busy = false;
}
