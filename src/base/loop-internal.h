/* loop-internal.h - what loop.c and its two implementations share. Nobody else includes this. */
#ifndef VARVE_BASE_LOOP_INTERNAL_H
#define VARVE_BASE_LOOP_INTERNAL_H

#include "base/loop.h"

#include <pthread.h>
#include <stdatomic.h>

enum loop_op_kind {
    LOOP_OP_READV,
    LOOP_OP_WRITEV,
    LOOP_OP_FSYNC,     /* flags: 1 for data only */
    LOOP_OP_FALLOCATE, /* flags: mode; time.sec: length in bytes */
    LOOP_OP_ACCEPT,
    LOOP_OP_RECV,
    LOOP_OP_SENDMSG,
    LOOP_OP_TIMEOUT,
};

struct loop_impl {
    const char *name;
    int (*create)(struct loop *loop, unsigned depth); /* sets loop->state */
    void (*free)(struct loop *loop);
    void (*start)(struct loop *loop, struct loop_op *op);
    void (*cancel)(struct loop *loop, struct loop_op *op);
    /* Send off what was started, wait for one completion or a wake-up if wait, deliver. */
    void (*turn)(struct loop *loop, bool wait);
};

extern const struct loop_impl loop_impl_uring, loop_impl_threads;

/* Tell the operations that are in the list now, one after the other, each with its res: a callback
 * may start more, or run a turn of its own that takes from the same list. */
void loop_deliver(struct list *ready);

struct loop_posted;

struct loop {
    const struct loop_impl *impl;
    void *state;
    struct list hooks;
    struct loop_hook *next_hook; /* the one to run next; so that a hook may remove any other */
    bool again;                  /* do not sleep in this turn */
    int wake_fd;                 /* eventfd: written when posts become non-empty, and on stop */
    atomic_bool stop;
    pthread_mutex_t lock; /* the two below */
    struct loop_posted *posts, **posts_end;
};

#endif
