/* request.c - requests from submission to completion.
 *
 * A request is worked off in steps (read_step() and so on) that go as far as they can. What stops a
 * step parks the request with a waiter: a node that is being read, a page that somebody else is
 * changing in part, room in the log, the next turn. Waking goes on with the step.
 *
 *   submitted --step--> parked <-> step ... --all started (busy = false)--> parts in flight
 *   --last part done, no FUA--> done;  with FUA: --synced--> done */
#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>

static void io_step(struct store_io *io)
{
    struct store *store = io->disk->store;
    switch (io->op) {
    case STORE_READ:
    case STORE_CACHE:
        read_step(store, io);
        break;
    case STORE_WRITE:
        write_step(store, io);
        break;
    case STORE_TRIM:
    case STORE_ZERO:
        range_step(store, io);
        break;
    case STORE_EXTENTS:
        if (io->base)
            diff_step(store, io);
        else
            extents_step(store, io);
        break;
    case STORE_FLUSH:
        break;
    }
}

static void step_woken(struct waiter *waiter, int error)
{
    struct store_io *io = container_of(waiter, struct store_io, waiter);
    if (error) {
        /* What is known of the beginning is an answer (n_extents: of EXTENTS only). */
        if (!io->error && !io->n_extents)
            io->error = error;
        io->busy = false;
        io_check(io);
        return;
    }
    io_step(io);
    io_check(io);
}

static void io_finish(struct store_io *io)
{
    if (io->submitting)
        io->finished = true;
    else
        io->done(io);
}

static void synced(struct waiter *waiter, int error)
{
    struct store_io *io = container_of(waiter, struct store_io, waiter);
    if (error && !io->error)
        io->error = ERR_READ_ONLY;
    io_finish(io);
}

static void wait_for_sync(struct store_io *io, uint64_t seq)
{
    struct log *log = io->disk->store->log;
    if (seq <= log->synced_seq && !log->error) {
        io_finish(io);
        return;
    }
    io->waiter.seq = seq;
    io->waiter.wake = synced;
    log_sync(log, &io->waiter);
}

void io_check(struct store_io *io)
{
    if (io->busy || io->pending)
        return;
    if (io->since)
        since_end(io);
    if ((io->flags & STORE_FUA) && io->seq && !io->error)
        wait_for_sync(io, io->seq);
    else
        io_finish(io);
}

void io_part_done(struct store_io *io, int error)
{
    if (error && !io->error)
        io->error = error;
    io->pending--;
    io_check(io);
}

bool io_start(struct store *store, struct store_io *io)
{
    io->error = 0;
    io->pending = 0;
    io->next = io->offset;
    io->ahead = 0;
    io->seq = 0;
    io->busy = true;
    io->finished = false;
    io->submitting = true;
    io->throttled = false;
    io->all_zero = false;
    io->n_extents = 0;
    io->since = NULL;
    io->waiter.wake = step_woken;
    list_init(&io->waiter.link);
    if (io->op == STORE_FLUSH) {
        store->stats.flushes++;
        io->busy = false;
        if (store->log->error) {
            io->error = ERR_READ_ONLY;
            io_finish(io);
        } else {
            wait_for_sync(io, log_last_seq(store->log));
        }
    } else {
        io_step(io);
        io_check(io);
    }
    io->submitting = false;
    return io->finished;
}

static bool changes(enum store_op op)
{
    return op == STORE_WRITE || op == STORE_TRIM || op == STORE_ZERO;
}

static int validate(const struct store *store, const struct store_io *io)
{
    if (io->op == STORE_FLUSH)
        return 0;
    if (io->offset > io->disk->size_bytes || io->length > io->disk->size_bytes - io->offset)
        return changes(io->op) ? -ENOSPC : -EINVAL;
    if ((io->op == STORE_READ || io->op == STORE_WRITE) && io->length > STORE_IO_MAX_BYTES)
        return -EINVAL;
    if (io->op == STORE_EXTENTS && (!io->max_extents || !io->length))
        return -EINVAL;
    if (io->op == STORE_EXTENTS && io->base && !disk_is_related(io->disk, io->base))
        return ERR_UNRELATED;
    if (changes(io->op) && disk_is_read_only(io->disk))
        return -EROFS;
    if (changes(io->op) && store->log->error)
        return ERR_READ_ONLY;
    return 0;
}

static void count(struct store_stats *stats, const struct store_io *io)
{
    switch (io->op) {
    case STORE_READ:
        stats->reads++;
        stats->read_bytes += io->length;
        break;
    case STORE_WRITE:
        stats->writes++;
        stats->write_bytes += io->length;
        break;
    case STORE_TRIM:
        stats->trims++;
        break;
    case STORE_ZERO:
        stats->zeroes++;
        break;
    default:
        break;
    }
}

bool store_submit(struct store *store, struct store_io *io)
{
    int code = validate(store, io);
    if (code < 0 || (!io->length && io->op != STORE_FLUSH)) {
        io->error = code;
        io->all_zero = false;
        io->n_extents = 0;
        return true;
    }
    count(&store->stats, io);
    io->holds_lock = false;
    return io_start(store, io);
}

/* ---- waiting for room ----------------------------------------------------------------------- */

/* Put a request that changes something to the others that wait for room. */
bool room_park(struct store *store, struct store_io *io)
{
    if (store->log->error) {
        if (!io->error)
            io->error = ERR_READ_ONLY;
        io->busy = false;
        return false;
    }
    io->waiter.wake = step_woken;
    list_push_back(&store->room_waiters, &io->waiter.link);
    return true;
}

void room_waiters_wake(struct store *store)
{
    struct list waiters;
    list_init(&waiters);
    list_splice(&waiters, &store->room_waiters);
    struct list *l;
    while ((l = list_pop_front(&waiters))) {
        struct waiter *waiter = container_of(l, struct waiter, link);
        waiter->wake(waiter, 0);
    }
}

/* ---- looking at many leaves ----------------------------------------------------------------- */

bool scan_rests(struct store *store, struct store_io *io)
{
    if (store->scan_leaves) {
        store->scan_leaves--;
        return false;
    }
    list_push_back(&store->scan_waiters, &io->waiter.link);
    return true;
}

void scans_go_on(struct store *store)
{
    struct list *l;
    store->scan_leaves = SCAN_LEAVES;
    while (store->scan_leaves && (l = list_pop_front(&store->scan_waiters))) {
        struct waiter *waiter = container_of(l, struct waiter, link);
        waiter->wake(waiter, 0);
    }
}
