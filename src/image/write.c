/* write.c - writing, trimming and zeroing pages.
 *
 * A write copies its pages into the open batch and pins the leaves that they belong to. When the
 * batch is complete and all before it are, batch_apply() puts the new places into the leaves and
 * tells the requests. Leaves are in memory before a page goes into a batch, so applying never
 * waits.
 *
 * What keeps requests to the same page in order is the log: batches are applied in theirs. Only a
 * request that does not fill its page must keep others away while it reads the old bytes
 * (partial.c). */
#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>
#include <string.h>

static uint32_t min_u32(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* Is the store full for n more pages? Tells once each time it becomes so. */
static bool is_full(struct store *store, uint64_t n)
{
    const struct log *log = store->log;
    if (log_room_pages(log) > n) {
        store->full_told = false;
        return false;
    }
    store->stats.full++;
    if (!store->full_told)
        store_event(store, STORE_EVENT_FULL, ERR_STORE_FULL,
                    "the store is full: writes are refused until something is removed or trimmed");
    store->full_told = true;
    return true;
}

/* Where a changing request stands: parked (false), or with a batch and n pages of one leaf. */
struct place {
    struct node *leaf;
    struct batch *batch;
    uint64_t page;
    uint32_t n;
};

/* Park behind somebody who changes a page of [page, page + n) in part. */
static bool park_at_lock(struct store *store, struct store_io *io, uint64_t page, uint32_t n)
{
    struct page_lock *lock =
        store->n_locks && !io->holds_lock ? lock_find(store, io->disk, page, n) : NULL;
    if (!lock)
        return false;
    store->stats.locks_waited++;
    list_push_back(&lock->waiters, &io->waiter.link);
    return true;
}

/* Find room for a record in the log; parks when there is none. */
static bool get_batch(struct store *store, struct store_io *io, struct place *p)
{
    if (table_is_crowded(store->table)) {
        checkpoint_want(store);
        room_park(store, io);
        return false;
    }
    p->batch = log_batch(store->log, sizeof(struct record) + 8);
    if (!p->batch)
        room_park(store, io);
    return p->batch != NULL;
}

static void add_item(struct batch_item *item, struct store_io *io, const struct place *p)
{
    item->index = p->page % NODE_ENTRIES;
    item->node = p->leaf;
    item->owner = io;
    node_pin(p->leaf);
    io->pending++;
}

/* One leaf's worth of whole pages. Returns false when parked or failed. */
static bool write_pages(struct store *store, struct store_io *io, uint64_t end)
{
    struct place p = {.page = io->next / PAGE_BYTES};
    uint64_t ignored;
    p.n = min_u32((end - io->next) / PAGE_BYTES, NODE_ENTRIES - p.page % NODE_ENTRIES);
    if (is_full(store, p.n)) {
        io->error = ERR_STORE_FULL;
        return false;
    }
    if (park_at_lock(store, io, p.page, p.n))
        return false;
    int code = tree_get(&io->disk->tree, p.page, true, &io->waiter, &p.leaf, &ignored);
    if (code < 0)
        io->error = code;
    if (code != TREE_FOUND || !get_batch(store, io, &p))
        return false;
    p.n = min_u32(p.n, batch_room_pages(p.batch));
    const uint8_t *src = (const uint8_t *)io->buf + (io->next - io->offset);
    struct batch_item *item = batch_add_write(store->log, p.batch, io->disk->id, p.page, p.n, src);
    add_item(item, io, &p);
    io->next += (uint64_t)p.n * PAGE_BYTES;
    return true;
}

/* After a step stopped: is the request parked, so that it must not be counted as started? */
static bool is_parked(const struct store_io *io)
{
    return !list_empty(&io->waiter.link);
}

/* The part of a page before, behind or around whole pages. */
static bool start_partial(struct store *store, struct store_io *io, uint64_t end)
{
    uint64_t page = io->next / PAGE_BYTES;
    uint32_t from = io->next % PAGE_BYTES;
    uint32_t len = min_u32(end - io->next, PAGE_BYTES - from);
    int code = partial_start(store, io, page, from, len);
    if (code < 0) {
        io->error = code;
        return false;
    }
    io->next += len;
    return true;
}

void write_step(struct store *store, struct store_io *io)
{
    uint64_t end = io->offset + io->length;
    while (io->next < end && !io->error) {
        bool whole = io->next % PAGE_BYTES == 0 && end - io->next >= PAGE_BYTES;
        bool on = whole ? write_pages(store, io, end) : start_partial(store, io, end);
        if (!on && is_parked(io))
            return;
        if (!on)
            break;
    }
    io->busy = false;
}

/* ---- trim and zero -------------------------------------------------------------------------- */

static bool has_entries(const struct node *leaf, uint32_t index, uint32_t n)
{
    return node_next(leaf, index) < index + n;
}

/* Nothing to do for pages that are holes; but what made them so need not be durable yet, and FUA
 * promises that it is. */
static void seen_clear(struct store *store, struct store_io *io)
{
    if (io->seq < store->log->applied_seq)
        io->seq = store->log->applied_seq;
}

/* Zeros that are to keep their place have no page in the log, but a leaf that was not there before:
 * no more of them than there is room for, with those that are not written yet. */
static bool is_full_for_leaf(struct store *store)
{
    return is_full(store, (store->table->dirty_bytes + 2 * NODE_MAX_BYTES) / PAGE_BYTES);
}

/* One leaf's worth of whole pages. Returns false when parked or failed. */
static bool clear_pages(struct store *store, struct store_io *io, uint64_t end)
{
    bool allocate = io->op == STORE_ZERO && (io->flags & STORE_NO_HOLE);
    struct place p = {.page = io->next / PAGE_BYTES};
    uint64_t absent;
    p.n = min_u32((end - io->next) / PAGE_BYTES, NODE_ENTRIES - p.page % NODE_ENTRIES);
    if (allocate && is_full_for_leaf(store)) {
        io->error = ERR_STORE_FULL;
        return false;
    }
    if (park_at_lock(store, io, p.page, p.n))
        return false;
    int code = tree_get(&io->disk->tree, p.page, allocate, &io->waiter, &p.leaf, &absent);
    if (code == TREE_ABSENT) {
        uint64_t pages = (end - io->next) / PAGE_BYTES;
        seen_clear(store, io);
        io->next += (absent < pages ? absent : pages) * PAGE_BYTES;
        return true;
    }
    if (code < 0)
        io->error = code;
    if (code != TREE_FOUND)
        return false;
    /* A write that is in flight may be about to fill a hole: then the leaf is pinned. */
    if (allocate || p.leaf->pins || has_entries(p.leaf, p.page % NODE_ENTRIES, p.n)) {
        if (!get_batch(store, io, &p))
            return false;
        struct batch_item *item = batch_add_range(p.batch, allocate ? RECORD_ZERO : RECORD_TRIM,
                                                  io->disk->id, p.page, p.n);
        add_item(item, io, &p);
    } else {
        seen_clear(store, io);
    }
    io->next += (uint64_t)p.n * PAGE_BYTES;
    return true;
}

void range_step(struct store *store, struct store_io *io)
{
    uint64_t end = io->offset + io->length;
    while (io->next < end && !io->error) {
        bool whole = io->next % PAGE_BYTES == 0 && end - io->next >= PAGE_BYTES;
        bool on = true;
        if (whole) {
            on = clear_pages(store, io, end);
        } else if (io->op == STORE_ZERO) {
            on = start_partial(store, io, end);
        } else {
            uint64_t next = (io->next / PAGE_BYTES + 1) * PAGE_BYTES;
            io->next = next < end ? next : end;
        }
        if (!on && is_parked(io))
            return;
        if (!on)
            break;
    }
    io->busy = false;
}

/* ---- applying ------------------------------------------------------------------------------- */

/* A page that the cache has is likely to be read again: its new bytes take the place of the old. */
static void keep_cached(struct store *store, uint64_t old, uint64_t address, const uint8_t *page)
{
    if (!page_cache_has(store->cache, old))
        return;
    page_cache_drop(store->cache, old);
    page_cache_insert(store->cache, address, page);
}

static int apply_write(struct store *store, const struct batch *batch,
                       const struct batch_item *item)
{
    struct node *leaf = item->node;
    const uint32_t *sums = (const uint32_t *)(batch->buf + item->sums_at);
    for (uint32_t i = 0; i < item->count; i++) {
        uint32_t slot = item->slot + i;
        struct entry old = node_get(leaf, item->index + i);
        struct entry e = {.address = address_make(store->log->number, batch->segment, slot),
                          .sum = sums[i],
                          .flags = ENCODING_RAW};
        int code = leaf_set(leaf, item->index + i, e);
        if (code < 0)
            return code;
        if (store->config.cache_bytes && entry_encoding(&old) == ENCODING_RAW)
            keep_cached(store, old.address, e.address,
                        batch->buf + (size_t)(slot - batch->slot) * BLOCK_BYTES);
    }
    return 0;
}

static int apply_range(struct node *leaf, const struct batch_item *item)
{
    struct entry e = {.flags = item->kind == RECORD_ZERO ? ENCODING_ZERO : ENCODING_HOLE};
    for (uint32_t i = 0; i < item->count; i++) {
        int code = leaf_set(leaf, item->index + i, e);
        if (code < 0)
            return code;
    }
    return 0;
}

static int apply_item(struct store *store, const struct batch *batch, const struct batch_item *item)
{
    struct node *leaf = item->node;
    int code = node_touch(leaf);
    if (code < 0)
        return code;
    return item->kind == RECORD_WRITE ? apply_write(store, batch, item) : apply_range(leaf, item);
}

void batch_apply(struct store *store, struct batch *batch, int error)
{
    uint32_t slot = batch->slot + 1; /* of the next page */
    for (uint32_t i = 0; i < batch->n_items; i++) {
        struct batch_item *item = &batch->items[i];
        if (item->kind == RECORD_CHANGE) {
            change_applied(store, error, cut_at(store, batch->segment, slot));
            continue;
        }
        if (item->kind == RECORD_WRITE)
            slot = item->slot + item->count;
        if (!error) {
            error = apply_item(store, batch, item);
            if (error)
                log_fail(store->log, error, "changing a page table");
        }
        node_unpin(item->node);
    }
    /* Only now tell the requests: whoever is told may start others, and those see all of the batch.
     */
    for (uint32_t i = 0; i < batch->n_items; i++) {
        struct store_io *io = batch->items[i].owner;
        if (batch->items[i].kind == RECORD_CHANGE)
            continue;
        if (io->seq < batch->seq)
            io->seq = batch->seq;
        io_part_done(io, error ? ERR_READ_ONLY : 0);
    }
}
