/* loop-threads.c - the event loop where io_uring is forbidden: poll() for sockets and timers, a few
 * threads for files.
 *
 * States of an operation (op->state), and what moves it on:
 *   STARTING  threads_start()        tried once without waiting in the next turn
 *   POLLED    try_sockets()          its descriptor is in the poll set
 *   TIMER     threads_start()        in the list of timers, soonest first
 *   QUEUED    threads_start()        waits for a pool thread
 *   RUNNING   pool_main()            in a system call of a pool thread
 *   READY     all of them            has its result; done() comes at the end of the turn
 * Only QUEUED, RUNNING and the way to `finished` are shared with the pool, under its lock. */
#include "base/loop-internal.h"
#include "base/mono.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define POOL_THREADS 4
#define SEND_IOV     64 /* iovecs of one sendmsg() when it goes on after a partial one */

enum { STARTING, POLLED, TIMER, QUEUED, RUNNING, READY };

struct threads {
    struct list starting, polled, timers, ready;
    size_t n_polled;
    struct pollfd *fds;
    size_t fds_size;

    pthread_t pool[POOL_THREADS];
    unsigned n_pool;
    int wake_fd;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t work;
    struct list queued, finished;
    bool stopping;
};

/* ---- files: the pool ------------------------------------------------------------------------ */

static int run_file_op(const struct loop_op *op)
{
    ssize_t res;
    do {
        switch ((enum loop_op_kind)op->kind) {
        case LOOP_OP_READV:
            res = preadv(op->fd, op->ptr, (int)op->count, (off_t)op->offset);
            break;
        case LOOP_OP_WRITEV:
            res = pwritev(op->fd, op->ptr, (int)op->count, (off_t)op->offset);
            break;
        case LOOP_OP_FSYNC:
            res = op->flags ? fdatasync(op->fd) : fsync(op->fd);
            break;
        case LOOP_OP_FALLOCATE:
            res = fallocate(op->fd, (int)op->flags, (off_t)op->offset, op->time.sec);
            break;
        default:
            return -EINVAL;
        }
    } while (res < 0 && errno == EINTR);
    return res < 0 ? -errno : (int)res;
}

static void *pool_main(void *arg)
{
    struct threads *t = arg;

    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct list *l;
        while (!(l = list_pop_front(&t->queued)) && !t->stopping)
            pthread_cond_wait(&t->work, &t->lock);
        if (!l)
            break;
        struct loop_op *op = container_of(l, struct loop_op, link);
        op->state = RUNNING;
        pthread_mutex_unlock(&t->lock);
        int res = run_file_op(op);
        pthread_mutex_lock(&t->lock);
        op->res = res;
        uint64_t one = 1;
        if (list_empty(&t->finished))
            while (write(t->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
        list_push_back(&t->finished, &op->link);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void stop_pool(struct threads *t)
{
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->n_pool; i++)
        pthread_join(t->pool[i], NULL);
}

static int start_pool(struct threads *t)
{
    sigset_t all, old;
    int err = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (t->n_pool < POOL_THREADS && !err) {
        err = -pthread_create(&t->pool[t->n_pool], NULL, pool_main, t);
        if (!err)
            t->n_pool++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return t->n_pool ? 0 : err;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void threads_free(struct loop *loop)
{
    struct threads *t = loop->state;
    stop_pool(t);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t->fds);
    free(t);
}

static int threads_create(struct loop *loop, unsigned depth)
{
    struct threads *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->fds_size = 64;
    t->fds = calloc(t->fds_size, sizeof(*t->fds));
    if (!t->fds) {
        free(t);
        return -ENOMEM;
    }
    struct list *lists[] = {&t->starting, &t->polled,   &t->timers,
                            &t->ready,    &t->finished, &t->queued};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_init(lists[i]);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    t->wake_fd = loop->wake_fd;
    loop->state = t;
    int err = start_pool(t);
    if (err)
        threads_free(loop);
    return err;
}

/* ---- operations ----------------------------------------------------------------------------- */

static void finish(struct threads *t, struct loop_op *op, int res)
{
    op->res = res;
    op->state = READY;
    list_push_back(&t->ready, &op->link);
}

/* op->offset is the moment at which it is due. Most timers have the same length: search from the
 * end. */
static void add_timer(struct threads *t, struct loop_op *op)
{
    op->state = TIMER;
    op->offset = mono_us() + (uint64_t)op->time.sec * 1000000 + (uint64_t)op->time.nsec / 1000;
    struct list *at = t->timers.prev;
    while (at != &t->timers && container_of(at, struct loop_op, link)->offset > op->offset)
        at = at->prev;
    list_insert_before(at->next, &op->link);
}

static void threads_start(struct loop *loop, struct loop_op *op)
{
    struct threads *t = loop->state;

    switch ((enum loop_op_kind)op->kind) {
    case LOOP_OP_READV:
    case LOOP_OP_WRITEV:
    case LOOP_OP_FSYNC:
    case LOOP_OP_FALLOCATE:
        pthread_mutex_lock(&t->lock);
        op->state = QUEUED;
        list_push_back(&t->queued, &op->link);
        pthread_cond_signal(&t->work);
        pthread_mutex_unlock(&t->lock);
        break;
    case LOOP_OP_ACCEPT:
    case LOOP_OP_RECV:
    case LOOP_OP_SENDMSG:
        op->state = STARTING;
        list_push_back(&t->starting, &op->link);
        break;
    case LOOP_OP_TIMEOUT:
        add_timer(t, op);
        break;
    }
}

static void threads_cancel(struct loop *loop, struct loop_op *op)
{
    struct threads *t = loop->state;

    pthread_mutex_lock(&t->lock);
    bool waits = op->state != RUNNING && op->state != READY;
    if (waits)
        list_del(&op->link);
    pthread_mutex_unlock(&t->lock);
    if (!waits)
        return;
    if (op->state == POLLED)
        t->n_polled--;
    finish(t, op, -ECANCELED);
}

/* What is left of a message of which `sent` bytes are gone, up to SEND_IOV pieces of it. */
static struct msghdr message_rest(const struct msghdr *msg, size_t sent, struct iovec *iov)
{
    struct msghdr rest = *msg;
    rest.msg_iov = iov;
    rest.msg_iovlen = 0;
    for (size_t i = 0; i < msg->msg_iovlen && rest.msg_iovlen < SEND_IOV; i++) {
        size_t len = msg->msg_iov[i].iov_len;
        if (sent >= len) {
            sent -= len;
            continue;
        }
        iov[rest.msg_iovlen++] = (struct iovec){
            .iov_base = (char *)msg->msg_iov[i].iov_base + sent,
            .iov_len = len - sent,
        };
        sent = 0;
    }
    return rest;
}

/* Returns whether the operation is over. op->res counts what went out of a MSG_WAITALL message. */
static bool try_send(struct threads *t, struct loop_op *op)
{
    for (;;) {
        struct iovec iov[SEND_IOV];
        struct msghdr rest;
        const struct msghdr *msg = op->ptr;
        if (op->res) {
            rest = message_rest(msg, (size_t)op->res, iov);
            if (!rest.msg_iovlen)
                break;
            msg = &rest;
        }
        ssize_t n = sendmsg(op->fd, msg, (int)(op->flags & ~MSG_WAITALL) | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n < 0) {
            finish(t, op, op->res ? op->res : -errno);
            return true;
        }
        op->res += (int)n;
        if (n == 0 || !(op->flags & MSG_WAITALL))
            break;
    }
    finish(t, op, op->res);
    return true;
}

static bool try_socket(struct threads *t, struct loop_op *op)
{
    ssize_t n;

    if (op->kind == LOOP_OP_SENDMSG)
        return try_send(t, op);
    do {
        if (op->kind == LOOP_OP_ACCEPT)
            n = accept4(op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        else
            n = recv(op->fd, (void *)(uintptr_t)op->ptr, op->count, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return false;
    finish(t, op, n < 0 ? -errno : (int)n);
    return true;
}

static void try_starting(struct threads *t)
{
    struct list *l;
    while ((l = list_pop_front(&t->starting))) {
        struct loop_op *op = container_of(l, struct loop_op, link);
        if (try_socket(t, op))
            continue;
        op->state = POLLED;
        list_push_back(&t->polled, l);
        t->n_polled++;
    }
}

/* ---- turns ---------------------------------------------------------------------------------- */

static bool fill_poll_set(struct threads *t)
{
    if (t->n_polled + 1 > t->fds_size) {
        size_t size = t->fds_size * 2 + t->n_polled;
        struct pollfd *fds = reallocarray(t->fds, size, sizeof(*fds));
        if (!fds)
            return false;
        t->fds = fds;
        t->fds_size = size;
    }
    t->fds[0] = (struct pollfd){.fd = t->wake_fd, .events = POLLIN};
    size_t n = 1;
    list_for_each (l, &t->polled) {
        struct loop_op *op = container_of(l, struct loop_op, link);
        short events = op->kind == LOOP_OP_SENDMSG ? POLLOUT : POLLIN;
        t->fds[n++] = (struct pollfd){.fd = op->fd, .events = events};
    }
    return true;
}

static int wait_ms(struct threads *t)
{
    if (list_empty(&t->timers))
        return -1;
    uint64_t due = container_of(t->timers.next, struct loop_op, link)->offset;
    uint64_t now = mono_us();
    uint64_t ms = due > now ? (due - now + 999) / 1000 : 0;
    return ms > 60000 ? 60000 : (int)ms;
}

static void poll_sockets(struct threads *t, bool wait)
{
    if (!fill_poll_set(t)) {
        usleep(1000); /* no memory for the set: try again next turn */
        return;
    }
    int n = poll(t->fds, t->n_polled + 1, wait ? wait_ms(t) : 0);
    if (n <= 0)
        return;
    uint64_t count;
    if (t->fds[0].revents)
        while (read(t->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
            ;
    size_t i = 1;
    list_for_each_safe (l, &t->polled) {
        if (!t->fds[i++].revents)
            continue;
        struct loop_op *op = container_of(l, struct loop_op, link);
        list_del(l);
        if (try_socket(t, op))
            t->n_polled--;
        else
            list_insert_before(l_next, l);
    }
}

static void expire_timers(struct threads *t)
{
    if (list_empty(&t->timers))
        return;
    uint64_t now = mono_us();
    while (!list_empty(&t->timers)) {
        struct loop_op *op = container_of(t->timers.next, struct loop_op, link);
        if (op->offset > now)
            break;
        list_del(&op->link);
        finish(t, op, 0);
    }
}

static void collect_finished(struct threads *t)
{
    struct list finished, *l;
    list_init(&finished);
    pthread_mutex_lock(&t->lock);
    list_splice(&finished, &t->finished);
    pthread_mutex_unlock(&t->lock);
    while ((l = list_pop_front(&finished))) {
        struct loop_op *op = container_of(l, struct loop_op, link);
        finish(t, op, op->res);
    }
}

static void threads_turn(struct loop *loop, bool wait)
{
    struct threads *t = loop->state;

    try_starting(t);
    poll_sockets(t, wait && list_empty(&t->ready));
    expire_timers(t);
    collect_finished(t);
    loop_deliver(&t->ready);
}

const struct loop_impl loop_impl_threads = {
    .name = "threads",
    .create = threads_create,
    .free = threads_free,
    .start = threads_start,
    .cancel = threads_cancel,
    .turn = threads_turn,
};
