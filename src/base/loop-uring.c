/* loop-uring.c - the event loop on io_uring: one io_uring_enter() in a turn.
 *
 * The ring is made disabled and enabled in the first turn, so that the kernel takes the thread that
 * runs the loop, and not the one that made it, for the single issuer.
 *
 * An operation is in the submission queue or the kernel (user_data points at it), or, where the
 * submission queue is full and the kernel takes nothing for now, in the backlog. */
#include "base/loop-internal.h"
#include "base/mono.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BATCH 64

/* What op->state says. */
enum { IN_KERNEL, IN_BACKLOG, BACKLOG_CANCELLED };

struct uring {
    struct io_uring ring;
    bool enabled;
    bool wake_armed;
    uint64_t wake_count; /* where the read of the eventfd goes */
    struct list backlog;
    uint32_t spin_miss, spin_skip; /* looks in vain, of late; waits to go before the next look */
};

/* user_data of what has no operation; operations are pointers and never that small. */
enum { TAG_CANCEL = 1, TAG_WAKE = 2 };

static_assert(sizeof(struct loop_time) == sizeof(struct __kernel_timespec), "layout of the kernel");

static int uring_create(struct loop *loop, unsigned depth)
{
    static const unsigned flags[] = {
        IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER |
            IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN,
        IORING_SETUP_CQSIZE,
    };
    struct uring *uring = calloc(1, sizeof(*uring));
    if (!uring)
        return -ENOMEM;
    list_init(&uring->backlog);
    int err = -EINVAL;
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && err == -EINVAL; i++) {
        struct io_uring_params params = {.flags = flags[i], .cq_entries = depth * 8};
        err = io_uring_queue_init_params(depth, &uring->ring, &params);
        uring->enabled = !(flags[i] & IORING_SETUP_R_DISABLED);
    }
    if (err) {
        free(uring);
        return err;
    }
    io_uring_ring_dontfork(&uring->ring);
    loop->state = uring;
    return 0;
}

static void uring_free(struct loop *loop)
{
    struct uring *uring = loop->state;
    io_uring_queue_exit(&uring->ring);
    free(uring);
}

static void enable(struct uring *uring)
{
    if (uring->enabled)
        return;
    /* liburing 2.3 declares io_uring_enable_rings() but does not export it. */
    long err =
        syscall(__NR_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    assert(err == 0);
    uring->enabled = true;
}

/* A free submission entry, submitting early if there is none; NULL if the kernel takes nothing. */
static struct io_uring_sqe *get_sqe(struct uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    if (sqe)
        return sqe;
    enable(uring);
    io_uring_submit(&uring->ring);
    return io_uring_get_sqe(&uring->ring);
}

static void prep(struct io_uring_sqe *sqe, struct loop_op *op)
{
    const struct iovec *iov = op->ptr;

    switch ((enum loop_op_kind)op->kind) {
    case LOOP_OP_READV:
        if (op->count == 1 && iov->iov_len <= INT32_MAX)
            io_uring_prep_read(sqe, op->fd, iov->iov_base, (unsigned)iov->iov_len, op->offset);
        else
            io_uring_prep_readv(sqe, op->fd, iov, op->count, op->offset);
        break;
    case LOOP_OP_WRITEV:
        if (op->count == 1 && iov->iov_len <= INT32_MAX)
            io_uring_prep_write(sqe, op->fd, iov->iov_base, (unsigned)iov->iov_len, op->offset);
        else
            io_uring_prep_writev(sqe, op->fd, iov, op->count, op->offset);
        break;
    case LOOP_OP_FSYNC:
        io_uring_prep_fsync(sqe, op->fd, op->flags ? IORING_FSYNC_DATASYNC : 0);
        break;
    case LOOP_OP_FALLOCATE:
        io_uring_prep_fallocate(sqe, op->fd, (int)op->flags, (off_t)op->offset, op->time.sec);
        break;
    case LOOP_OP_ACCEPT:
        io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case LOOP_OP_RECV:
        io_uring_prep_recv(sqe, op->fd, (void *)(uintptr_t)op->ptr, op->count, 0);
        break;
    case LOOP_OP_SENDMSG:
        io_uring_prep_sendmsg(sqe, op->fd, op->ptr, op->flags);
        break;
    case LOOP_OP_TIMEOUT:
        io_uring_prep_timeout(sqe, (struct __kernel_timespec *)(void *)&op->time, 0, 0);
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    op->state = IN_KERNEL;
}

static void uring_start(struct loop *loop, struct loop_op *op)
{
    struct uring *uring = loop->state;
    struct io_uring_sqe *sqe = list_empty(&uring->backlog) ? get_sqe(uring) : NULL;
    if (sqe) {
        prep(sqe, op);
    } else {
        op->state = IN_BACKLOG;
        list_push_back(&uring->backlog, &op->link);
    }
}

static void uring_cancel(struct loop *loop, struct loop_op *op)
{
    struct uring *uring = loop->state;
    if (op->state != IN_KERNEL) {
        op->state = BACKLOG_CANCELLED;
        return;
    }
    struct io_uring_sqe *sqe;
    while (!(sqe = get_sqe(uring))) /* the kernel is out of memory or its completions overflow */
        io_uring_get_events(&uring->ring);
    io_uring_prep_cancel64(sqe, (uintptr_t)op, 0);
    io_uring_sqe_set_data64(sqe, TAG_CANCEL);
}

/* Give the kernel what it did not take before. */
static void drain_backlog(struct uring *uring, struct list *cancelled)
{
    list_for_each_safe (l, &uring->backlog) {
        struct loop_op *op = container_of(l, struct loop_op, link);
        if (op->state == BACKLOG_CANCELLED) {
            list_del(l);
            op->res = -ECANCELED;
            list_push_back(cancelled, l);
            continue;
        }
        struct io_uring_sqe *sqe = get_sqe(uring);
        if (!sqe)
            return;
        list_del(l);
        prep(sqe, op);
    }
}

static void arm_wake(struct loop *loop, struct uring *uring)
{
    if (uring->wake_armed)
        return;
    struct io_uring_sqe *sqe = get_sqe(uring);
    if (!sqe)
        return;
    io_uring_prep_read(sqe, loop->wake_fd, &uring->wake_count, sizeof(uring->wake_count), 0);
    io_uring_sqe_set_data64(sqe, TAG_WAKE);
    uring->wake_armed = true;
}

static void deliver(struct uring *uring, uint64_t user_data, int res)
{
    if (user_data == TAG_CANCEL)
        return;
    if (user_data == TAG_WAKE) {
        uring->wake_armed = false;
        return;
    }
    struct loop_op *op = (struct loop_op *)(uintptr_t)user_data;
    if (op->kind == LOOP_OP_TIMEOUT && res == -ETIME)
        res = 0;
    op->done(op, res);
}

/* Everything that had completed when this began. Entries are copied and given back before the
 * callbacks come, so that a callback may run a turn of its own. */
static void deliver_all(struct uring *uring)
{
    unsigned left = io_uring_cq_ready(&uring->ring);
    while (left) {
        struct io_uring_cqe *cqes[BATCH];
        struct {
            uint64_t user_data;
            int res;
        } copy[BATCH];
        unsigned n = io_uring_peek_batch_cqe(&uring->ring, cqes, left < BATCH ? left : BATCH);
        if (!n)
            return;
        for (unsigned i = 0; i < n; i++) {
            copy[i].user_data = cqes[i]->user_data;
            copy[i].res = cqes[i]->res;
        }
        io_uring_cq_advance(&uring->ring, n);
        for (unsigned i = 0; i < n; i++)
            deliver(uring, copy[i].user_data, copy[i].res);
        left -= n;
    }
}

#define SPIN_US 40

/* Look for completions a little longer before going to sleep: to be woken takes about as long, on a
 * virtual machine longer, and a client that waits for us would wait for that too. Only while it
 * pays: each look in vain makes the next one rarer. */
static bool spin(struct uring *uring)
{
    if (uring->spin_skip) {
        uring->spin_skip--;
        return false;
    }
    uint64_t end = mono_us() + SPIN_US;
    do {
        io_uring_get_events(&uring->ring);
        if (io_uring_cq_ready(&uring->ring)) {
            uring->spin_miss = 0;
            return true;
        }
    } while (mono_us() < end);
    uring->spin_miss += uring->spin_miss < 8;
    uring->spin_skip = (1u << uring->spin_miss) - 1;
    return false;
}

static void uring_turn(struct loop *loop, bool wait)
{
    struct uring *uring = loop->state;
    struct list cancelled;

    list_init(&cancelled);
    enable(uring);
    drain_backlog(uring, &cancelled);
    arm_wake(loop, uring);
    if (!list_empty(&uring->backlog) || !list_empty(&cancelled) || !uring->wake_armed)
        wait = false;
    int res = io_uring_submit_and_get_events(&uring->ring);
    if (wait && res >= 0 && !io_uring_cq_ready(&uring->ring) && !spin(uring))
        res = io_uring_submit_and_wait(&uring->ring, 1);
    /* -EINTR: a signal; -EBUSY, -EAGAIN: completions must be taken first, or memory is short. What
     * was not submitted stays in the queue for the next turn. */
    assert(res >= 0 || res == -EINTR || res == -EBUSY || res == -EAGAIN);

    loop_deliver(&cancelled);
    deliver_all(uring);
}

const struct loop_impl loop_impl_uring = {
    .name = "io_uring",
    .create = uring_create,
    .free = uring_free,
    .start = uring_start,
    .cancel = uring_cancel,
    .turn = uring_turn,
};
