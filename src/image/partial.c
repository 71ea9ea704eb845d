/* partial.c - changes that do not fill a page: read it, change it, write it.
 *
 * While that goes on the page is locked: other changes of it wait, in their order. Before the old
 * page is read, what is in flight to the disk has been applied, so the old bytes are the last ones.
 *
 *   lock (or wait for it) -> wait until what is in flight is applied -> read -> change -> write ->
 * unlock
 *
 * Zeros that go into a hole, or into a page of zeros, need no write: it stays what it is. */
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct partial {
    struct store_io sub; /* the read, then the write, of the whole page */
    struct store_io *parent;
    struct store *store;
    struct waiter waiter; /* for the lock, then for what is in flight */
    struct page_lock lock;
    uint64_t page;
    uint32_t from, len; /* bytes of the page */
    uint64_t source_at; /* of them, in the parent's buffer */
    uint8_t *buf;
};

static struct list *bucket(struct store *store, const struct disk *disk, uint64_t page)
{
    return &store->locks[(page * 0x9E3779B97F4A7C15ULL >> 40 ^ disk->id) % LOCK_BUCKETS];
}

struct page_lock *lock_find(struct store *store, struct disk *disk, uint64_t page, uint64_t n)
{
    for (uint64_t p = page; p < page + n; p++)
        list_for_each (l, bucket(store, disk, p)) {
            struct page_lock *lock = container_of(l, struct page_lock, link);
            if (lock->disk == disk && lock->page == p)
                return lock;
        }
    return NULL;
}

static void lock_release(struct store *store, struct page_lock *lock)
{
    struct list waiters;
    list_init(&waiters);
    list_splice(&waiters, &lock->waiters);
    list_del(&lock->link);
    store->n_locks--;
    /* The first that changes the page in part locks it again, and the others wait for that. */
    struct list *l;
    while ((l = list_pop_front(&waiters))) {
        struct waiter *waiter = container_of(l, struct waiter, link);
        waiter->wake(waiter, 0);
    }
}

static void finish(struct partial *p, int error)
{
    struct store_io *parent = p->parent;
    parent->seq = p->sub.seq > parent->seq ? p->sub.seq : parent->seq;
    lock_release(p->store, &p->lock);
    free(p->buf);
    free(p);
    io_part_done(parent, error);
}

static void written(struct store_io *sub)
{
    finish(container_of(sub, struct partial, sub), sub->error);
}

static void page_read(struct store_io *sub)
{
    struct partial *p = container_of(sub, struct partial, sub);
    if (sub->error) {
        finish(p, sub->error);
        return;
    }
    if (sub->all_zero && !p->store->log->error) {
        sub->seq = p->store->log->applied_seq; /* what made it so need not be durable yet: FUA */
        finish(p, 0);
        return;
    }
    if (p->parent->op == STORE_WRITE)
        memcpy(p->buf + p->from, (const uint8_t *)p->parent->buf + p->source_at, p->len);
    else
        memset(p->buf + p->from, 0, p->len);
    p->sub.op = STORE_WRITE;
    p->sub.flags = 0;
    p->sub.done = written;
    p->sub.holds_lock = true;
    if (io_start(p->store, sub))
        written(sub);
}

static void old_is_applied(struct waiter *waiter, int error)
{
    struct partial *p = container_of(waiter, struct partial, waiter);
    if (error) {
        finish(p, error);
        return;
    }
    p->sub.op = STORE_READ;
    if (p->parent->op == STORE_ZERO && !(p->parent->flags & STORE_NO_HOLE))
        p->sub.flags = STORE_SKIP_ZERO;
    p->sub.done = page_read;
    if (io_start(p->store, &p->sub))
        page_read(&p->sub);
}

static void take_lock(struct waiter *waiter, int error)
{
    struct partial *p = container_of(waiter, struct partial, waiter);
    struct store *store = p->store;
    struct disk *disk = p->sub.disk;
    struct page_lock *held = lock_find(store, disk, p->page, 1);
    if (held) {
        store->stats.locks_waited++;
        list_push_back(&held->waiters, &waiter->link);
        return;
    }
    p->lock.disk = disk;
    p->lock.page = p->page;
    list_init(&p->lock.waiters);
    list_push_back(bucket(store, disk, p->page), &p->lock.link);
    store->n_locks++;

    waiter->wake = old_is_applied;
    waiter->seq = log_last_seq(store->log);
    if (waiter->seq > store->log->applied_seq && !store->log->error)
        list_push_back(&store->applied_waiters, &waiter->link);
    else
        old_is_applied(waiter, error);
}

int partial_start(struct store *store, struct store_io *parent, uint64_t page, uint32_t from,
                  uint32_t len)
{
    struct partial *p = calloc(1, sizeof(*p));
    uint8_t *buf = aligned_alloc(STORAGE_ALIGN_BYTES, PAGE_BYTES);
    if (!p || !buf) {
        free(p);
        free(buf);
        return -ENOMEM;
    }
    p->parent = parent;
    p->store = store;
    p->page = page;
    p->from = from;
    p->len = len;
    p->source_at = page * PAGE_BYTES + from - parent->offset;
    p->buf = buf;
    p->sub.disk = parent->disk;
    p->sub.offset = page * PAGE_BYTES;
    p->sub.length = PAGE_BYTES;
    p->sub.buf = buf;
    p->waiter.wake = take_lock;
    list_init(&p->waiter.link);
    parent->pending++;
    store->stats.partial_writes++;
    take_lock(&p->waiter, 0);
    return 0;
}
