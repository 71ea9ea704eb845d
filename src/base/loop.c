/* loop.c - what both kinds of event loop have in common: operations, hooks, posts, turns.
 *
 * A turn is: hooks, submission and wait, delivery of completions, posts. Seen from one wait to the
 * next it is the order that the header promises: completions, posts, hooks, submission.
 *
 * No wake-up is lost:
 *  1. Whoever makes the queue of posts non-empty writes the eventfd after it did, and the loop
 * waits for the eventfd in every turn. A wake-up for posts that were already taken costs one turn.
 *  2. Operations started by hooks are submitted in the same turn; loop_again() keeps a turn from
 *     sleeping where a hook made work for a hook that ran before it. */
#include "base/loop-internal.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

struct loop_posted {
    struct loop_posted *next;
    void (*fn)(void *arg);
    void *arg;
};

static int create_with(const struct loop_impl *impl, unsigned depth, struct loop **ret)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return -ENOMEM;
    /* Blocking on purpose: io_uring gives up on a non-blocking eventfd instead of waiting. */
    loop->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (loop->wake_fd < 0) {
        int err = -errno;
        free(loop);
        return err;
    }
    list_init(&loop->hooks);
    loop->posts_end = &loop->posts;
    pthread_mutex_init(&loop->lock, NULL);
    loop->impl = impl;
    int err = impl->create(loop, depth ? depth : 1);
    if (err) {
        pthread_mutex_destroy(&loop->lock);
        close(loop->wake_fd);
        free(loop);
        return err;
    }
    *ret = loop;
    return 0;
}

int loop_create(enum loop_kind kind, unsigned depth, struct loop **ret)
{
    if (kind == LOOP_THREADS)
        return create_with(&loop_impl_threads, depth, ret);
    int err = create_with(&loop_impl_uring, depth, ret);
    if (err && err != -EMFILE && kind == LOOP_AUTO)
        err = create_with(&loop_impl_threads, depth, ret);
    return err;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    loop->impl->free(loop);
    while (loop->posts) {
        struct loop_posted *posted = loop->posts;
        loop->posts = posted->next;
        free(posted);
    }
    pthread_mutex_destroy(&loop->lock);
    close(loop->wake_fd);
    free(loop);
}

const char *loop_name(const struct loop *loop)
{
    return loop->impl->name;
}

void loop_deliver(struct list *ready)
{
    size_t n = 0;
    struct list *l;

    list_for_each (r, ready)
        n++;
    while (n-- && (l = list_pop_front(ready))) {
        struct loop_op *op = container_of(l, struct loop_op, link);
        op->done(op, op->res);
    }
}

/* ---- operations ----------------------------------------------------------------------------- */

static void start(struct loop *loop, struct loop_op *op, enum loop_op_kind kind, int fd,
                  const void *ptr, uint32_t count, uint64_t offset, uint32_t flags)
{
    list_init(&op->link);
    op->kind = kind;
    op->fd = fd;
    op->ptr = ptr;
    op->count = count;
    op->offset = offset;
    op->flags = flags;
    op->res = 0;
    loop->impl->start(loop, op);
}

void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                unsigned n_iov, uint64_t offset_bytes)
{
    start(loop, op, LOOP_OP_READV, fd, iov, n_iov, offset_bytes, 0);
}

void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                 unsigned n_iov, uint64_t offset_bytes)
{
    start(loop, op, LOOP_OP_WRITEV, fd, iov, n_iov, offset_bytes, 0);
}

void loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only)
{
    start(loop, op, LOOP_OP_FSYNC, fd, NULL, 0, 0, data_only);
}

void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset_bytes,
                    uint64_t length_bytes)
{
    op->time.sec = (int64_t)length_bytes;
    start(loop, op, LOOP_OP_FALLOCATE, fd, NULL, 0, offset_bytes, (uint32_t)mode);
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
    start(loop, op, LOOP_OP_ACCEPT, fd, NULL, 0, 0, 0);
}

void loop_recv(struct loop *loop, struct loop_op *op, int fd, void *buf, uint32_t len_bytes)
{
    start(loop, op, LOOP_OP_RECV, fd, buf, len_bytes, 0, 0);
}

void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, const struct msghdr *msg,
                  int flags)
{
    start(loop, op, LOOP_OP_SENDMSG, fd, msg, 1, 0, (uint32_t)flags | MSG_NOSIGNAL);
}

void loop_timeout(struct loop *loop, struct loop_op *op, uint64_t us)
{
    op->time.sec = (int64_t)(us / 1000000);
    op->time.nsec = (long long)(us % 1000000) * 1000;
    start(loop, op, LOOP_OP_TIMEOUT, -1, NULL, 0, 0, 0);
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
    loop->impl->cancel(loop, op);
}

/* ---- hooks and posts ------------------------------------------------------------------------ */

void loop_add_hook(struct loop *loop, struct loop_hook *hook)
{
    list_push_back(&loop->hooks, &hook->link);
}

void loop_remove_hook(struct loop *loop, struct loop_hook *hook)
{
    if (loop->next_hook == hook)
        loop->next_hook = container_of(hook->link.next, struct loop_hook, link);
    list_del(&hook->link);
}

void loop_again(struct loop *loop)
{
    loop->again = true;
}

static void run_hooks(struct loop *loop)
{
    struct list *l = loop->hooks.next;
    while (l != &loop->hooks) {
        struct loop_hook *hook = container_of(l, struct loop_hook, link);
        loop->next_hook = container_of(l->next, struct loop_hook, link);
        hook->run(hook);
        l = &loop->next_hook->link;
    }
    loop->next_hook = NULL;
}

static void wake(struct loop *loop)
{
    uint64_t one = 1;
    while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

int loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct loop_posted *posted = malloc(sizeof(*posted));
    if (!posted)
        return -ENOMEM;
    *posted = (struct loop_posted){.fn = fn, .arg = arg};

    pthread_mutex_lock(&loop->lock);
    bool was_empty = !loop->posts;
    *loop->posts_end = posted;
    loop->posts_end = &posted->next;
    /* Inside the lock: once the loop has run the post, its owner may free the loop. */
    if (was_empty)
        wake(loop);
    pthread_mutex_unlock(&loop->lock);
    return 0;
}

static void run_posts(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct loop_posted *posted = loop->posts;
    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    pthread_mutex_unlock(&loop->lock);

    while (posted) {
        struct loop_posted *next = posted->next;
        posted->fn(posted->arg);
        free(posted);
        posted = next;
    }
}

/* ---- turns ---------------------------------------------------------------------------------- */

void loop_poll(struct loop *loop, bool wait)
{
    loop->again = false;
    run_hooks(loop);
    loop->impl->turn(loop, wait && !loop->again);
    run_posts(loop);
}

void loop_run(struct loop *loop)
{
    while (!atomic_exchange(&loop->stop, false))
        loop_poll(loop, true);
}

void loop_stop(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    atomic_store(&loop->stop, true);
    wake(loop);
    pthread_mutex_unlock(&loop->lock);
}
