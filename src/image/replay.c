/* replay.c - what was written after the last checkpoint is done again.
 *
 * First the tail of the log is read and its batches' headers are kept; then all files are known,
 * and nodes may be written: for a version in the tail freezes its trees, and what is frozen is
 * written before it changes, as it was when the version was made. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Headers and records of the batches, one behind the other, each padded to 8 bytes. */
struct tail {
    uint8_t *bytes;
    size_t len, max;
};

static int collect(void *arg, const struct batch_header *h, const uint8_t *block)
{
    struct tail *tail = arg;
    size_t n = (sizeof(*h) + h->records_bytes + 7) & ~(size_t)7;
    if (tail->len + n > tail->max) {
        size_t max = tail->max ? tail->max * 2 : 1u << 20;
        uint8_t *bytes = realloc(tail->bytes, max);
        if (!bytes)
            return -ENOMEM;
        tail->bytes = bytes;
        tail->max = max;
    }
    memcpy(tail->bytes + tail->len, block, n);
    tail->len += n;
    return 0;
}

bool store_is_stopped(const struct store *store)
{
    return store->config.stop && store->config.stop();
}

/* Wait for something, and write what is frozen: somebody may wait for that. */
static void replay_poll(struct store *store)
{
    struct table *table = store->table;
    struct log *log = store->log;
    bool writes = table->n_frozen || !list_empty(&table->root_waiters);
    store_set_table_fits(store);
    if (table->n_frozen && !log->error && log_table_room(log)) {
        int code = table_write_some(table, 256);
        if (code < 0)
            log_fail(log, code, "writing page tables");
    }
    table_wake(table);
    log_prepare(log);
    store->storage->poll(store->storage, !writes || log->table.inflight > 0);
}

#define STUCK_US 10000000

/* A turn of waiting for what is frozen to be written. 0, or why there is no use in more of them: no
 * table file has room, and none is to come. */
static int replay_turn(struct store *store, uint64_t *stuck_since_us)
{
    struct log *log = store->log;
    replay_poll(store);
    if (log->error)
        return log->error;
    if (store_is_stopped(store))
        return -ECANCELED;
    const struct table *table = store->table;
    bool stuck = table->n_frozen && !table->n_loading && !log_table_room(log) && !log->n_creating &&
                 !log->table.inflight;
    uint64_t now = mono_us();
    if (!stuck || !*stuck_since_us)
        *stuck_since_us = stuck ? now : 0;
    return stuck && now - *stuck_since_us > STUCK_US ? -ENOSPC : 0;
}

/* The leaf of a page, waited for. */
struct replay_wait {
    struct waiter waiter;
    bool woken;
    int error;
};

static void replay_woken(struct waiter *waiter, int error)
{
    struct replay_wait *w = container_of(waiter, struct replay_wait, waiter);
    w->woken = true;
    w->error = error;
}

static int try_leaf(struct store *store, struct disk *disk, uint64_t page, struct node **ret)
{
    uint64_t ignored, stuck_since_us = 0;
    for (;;) {
        struct replay_wait w = {.waiter.wake = replay_woken};
        int code = tree_get(&disk->tree, page, true, &w.waiter, ret, &ignored);
        if (code != TREE_WAIT)
            return code;
        while (!w.woken && code >= 0)
            code = replay_turn(store, &stuck_since_us);
        if (!w.woken) {
            list_del(&w.waiter.link);
            return code;
        }
        if (w.error)
            return w.error;
    }
}

/* What a batch says must get into its leaf, or be lost. So where the leaf, or a node above it, is
 * damaged, it is given up: its other pages give errors from now on, and the store opens. Not so
 * when it cannot be read at all (-EIO): that may pass. */
static int get_leaf(struct store *store, struct disk *disk, uint64_t page, struct node **ret)
{
    for (;;) {
        int code = try_leaf(store, disk, page, ret);
        if (code == ERR_CHECKSUM || code == ERR_DAMAGED)
            code = try_leaf(store, disk, page, ret); /* the damage may have been on the way */
        if (code != ERR_CHECKSUM && code != ERR_DAMAGED)
            return code;
        code = tree_mend(&disk->tree, page, (disk->size_bytes + PAGE_BYTES - 1) / PAGE_BYTES);
        if (code < 0)
            return code;
    }
}

static int replay_pages(struct store *store, const struct batch_header *h, const struct record *r,
                        const uint32_t *sums, uint32_t first_slot)
{
    struct disk *disk = disk_by_id(store, r->disk);
    if (!disk || r->page > (DISK_MAX_BYTES / PAGE_BYTES) - r->count)
        return ERR_DAMAGED;
    for (uint32_t i = 0; i < r->count;) {
        struct node *leaf;
        int code = get_leaf(store, disk, r->page + i, &leaf);
        if (code == 0)
            code = node_touch(leaf);
        if (code < 0)
            return code;
        do {
            struct entry e = {0};
            if (r->kind == RECORD_WRITE)
                e = (struct entry){address_make(store->log->number, h->segment, first_slot + i),
                                   sums[i], ENCODING_RAW};
            else if (r->kind == RECORD_ZERO)
                e.flags = ENCODING_ZERO;
            code = leaf_set(leaf, (r->page + i) % NODE_ENTRIES, e);
            if (code < 0)
                return code;
        } while (++i < r->count && (r->page + i) % NODE_ENTRIES);
    }
    return 0;
}

/* Begin to read the leaves that a batch will want, all at once. */
struct prefetch_wait {
    struct waiter waiter;
    uint32_t *left;
};

static void prefetched(struct waiter *waiter, int error)
{
    struct prefetch_wait *w = container_of(waiter, struct prefetch_wait, waiter);
    --*w->left; /* an error shows again when the leaf is used */
    free(w);
}

static void prefetch(struct store *store, const struct record *r, uint32_t *left)
{
    struct disk *disk = disk_by_id(store, r->disk);
    /* A root that is yet to be written is waited for by whoever wants the leaf. */
    bool reads = disk && !disk->tree.origin && disk->tree.root_seq <= store->log->table.done_seq;
    struct prefetch_wait *w = reads ? calloc(1, sizeof(*w)) : NULL;
    struct node *leaf;
    uint64_t ignored;
    if (!w)
        return;
    w->waiter.wake = prefetched;
    w->left = left;
    if (tree_get(&disk->tree, r->page, false, &w->waiter, &leaf, &ignored) == TREE_WAIT)
        ++*left;
    else
        free(w);
}

typedef int record_fn(struct store *store, const struct batch_header *h, const struct record *r,
                      uint32_t first_slot, void *arg);

static int for_each_record(struct store *store, const struct batch_header *h, const uint8_t *block,
                           record_fn *fn, void *arg)
{
    const uint8_t *at = block + sizeof(*h), *end = at + h->records_bytes;
    uint32_t slot = h->slot + 1;
    while (at < end) {
        const struct record *r = (const struct record *)at;
        int code = fn(store, h, r, slot, arg);
        if (code < 0)
            return code;
        size_t more = r->kind == RECORD_WRITE    ? r->count * sizeof(uint32_t)
                      : r->kind == RECORD_CHANGE ? r->count
                                                 : 0;
        at += sizeof(*r) + ((more + 7) & ~(size_t)7);
        if (r->kind == RECORD_WRITE)
            slot += r->count;
    }
    return 0;
}

static int prefetch_record(struct store *store, const struct batch_header *h,
                           const struct record *r, uint32_t slot, void *arg)
{
    if (r->kind != RECORD_CHANGE && r->page < 1ULL << 45)
        prefetch(store, r, arg);
    return 0;
}

/* Versions freeze trees, each twice at most: then what is frozen is written first. */
static int replay_change(struct store *store, const struct batch_header *h, const struct record *r,
                         uint32_t slot)
{
    const uint8_t *bytes = (const uint8_t *)(r + 1);
    uint64_t stuck_since_us = 0;
    int code = store->log->error;
    while (code == 0 && catalogue_replay_waits(store, bytes, r->count))
        code = replay_turn(store, &stuck_since_us);
    if (code < 0)
        return code;
    return catalogue_replay(store, bytes, r->count, cut_at(store, h->segment, slot));
}

static int replay_record(struct store *store, const struct batch_header *h, const struct record *r,
                         uint32_t slot, void *arg)
{
    if (r->kind == RECORD_CHANGE)
        return replay_change(store, h, r, slot);
    return replay_pages(store, h, r, (const uint32_t *)(r + 1), slot);
}

static int replay_batch(struct store *store, const uint8_t *block)
{
    const struct batch_header *h = (const struct batch_header *)block;
    uint32_t left = 0;
    if (store_is_stopped(store))
        return -ECANCELED;
    /* Twice: the first round may end at a node above the leaves. */
    for (int round = 0; round < 2; round++) {
        for_each_record(store, h, block, prefetch_record, &left);
        while (left)
            replay_poll(store);
    }
    table_shrink(store->table);
    log_prepare(store->log);
    int code = for_each_record(store, h, block, replay_record, NULL);
    store->log->applied_seq = h->seq;
    return code;
}

/* applied_seq goes along, so that no file is taken for dead before its batches have been applied.
 */
static int apply_tail(struct store *store, const struct tail *tail, uint64_t seq)
{
    struct log *log = store->log;
    uint64_t last = log->applied_seq;
    int code = 0;
    log->incarnation++; /* of what is written from now on */
    log->applied_seq = seq;
    for (size_t at = 0; code == 0 && at < tail->len;) {
        const struct batch_header *h = (const struct batch_header *)(tail->bytes + at);
        log->replaying_seq = h->seq;
        code = replay_batch(store, tail->bytes + at);
        at += (sizeof(*h) + h->records_bytes + 7) & ~(size_t)7;
    }
    log->replaying_seq = 0;
    log->applied_seq = last;
    log_check_dead(log);
    return code < 0 ? code : log->error;
}

int store_replay(struct store *store, const struct log_position *position)
{
    uint64_t batches, bytes;
    uint64_t started = mono_us();
    struct log *log = store->log;
    struct tail tail = {0};
    int code = log_replay(log, position, collect, &tail, &batches, &bytes);
    if (code == 0)
        code = log_load_free(log);
    if (code == ERR_DAMAGED)
        store_event(
            store, STORE_EVENT_DAMAGE, code, "%s: opening the store would lose what was durable",
            log->older ? "a newer checkpoint or a batch is damaged, and the store went on after it"
                       : "a batch of the log that was durable is damaged");
    if (code == 0) {
        log_find(log);
        code = apply_tail(store, &tail, position->seq);
    }
    free(tail.bytes);
    if (code < 0)
        return code;
    log->synced_seq = log->applied_seq; /* by the checkpoint that follows, before anything else */
    store->stats.replayed_batches = batches;
    code = store_finish_checkpoint(store);
    if (batches && code == 0)
        store_event(store, STORE_EVENT_RECOVERED, 0,
                    "recovered: %llu batches (%llu MiB) of the log read again in %llu ms",
                    (unsigned long long)batches, (unsigned long long)bytes >> 20,
                    (unsigned long long)(mono_us() - started) / 1000);
    return code;
}
