/* loop.h - the event loop of the data plane: asynchronous file and socket operations.
 *
 * One loop belongs to one thread, the first that calls loop_run() or loop_poll(); every function
 * here but loop_post() and loop_stop() is called from that thread only, and every callback comes on
 * it. (loop_create() and loop_free() may come from another one, when the loop does not run.) Two
 * implementations: io_uring, and plain threads with poll() where io_uring is forbidden.
 *
 * Invariants:
 *  1. An operation's done() is called exactly once, never from inside the call that started it.
 *  2. An operation and its buffers stay where they are until done() is called, cancelled or not.
 *  3. Nothing here blocks but the wait in loop_run() and loop_poll(). */
#ifndef VARVE_BASE_LOOP_H
#define VARVE_BASE_LOOP_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct loop;

enum loop_kind {
    LOOP_AUTO, /* io_uring, or threads where the kernel refuses it */
    LOOP_URING,
    LOOP_THREADS,
};

/* Embedded in the caller's own request; container_of() in done(). */
struct loop_op {
    /* res: what the system call would return, or a negative errno (-ECANCELED after loop_cancel()).
     */
    void (*done)(struct loop_op *op, int res);
    /* The loop's own. */
    struct list link;
    uint8_t kind;
    uint8_t state;
    int fd;
    int res;
    uint32_t flags;
    uint64_t offset;
    const void *ptr;
    uint32_t count;
    struct loop_time {
        int64_t sec;
        long long nsec;
    } time;
};

/* depth: submissions that may be queued between two waits (more are submitted early, never
 * refused). Returns 0, -ENOMEM, -EMFILE, or for LOOP_URING what io_uring_setup() said. */
int loop_create(enum loop_kind kind, unsigned depth, struct loop **ret);
void loop_free(struct loop *loop); /* NULL is legal; no operation may be in flight */

/* "io_uring" or "threads". */
const char *loop_name(const struct loop *loop);

/* Files. The iovecs are borrowed until done(). A short transfer is reported as it came. */
void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                unsigned n_iov, uint64_t offset_bytes);
void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                 unsigned n_iov, uint64_t offset_bytes);
void loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only);
void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset_bytes,
                    uint64_t length_bytes);

/* Sockets (non-blocking ones). accept gives a non-blocking, close-on-exec descriptor in res. */
void loop_accept(struct loop *loop, struct loop_op *op, int fd);
void loop_recv(struct loop *loop, struct loop_op *op, int fd, void *buf, uint32_t len_bytes);
/* msg and what it points at are borrowed until done(). flags as for sendmsg(), MSG_NOSIGNAL is
 * always added; MSG_WAITALL asks for the whole message where the kernel can. */
void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, const struct msghdr *msg,
                  int flags);

/* done(op, 0) after at least this long. */
void loop_timeout(struct loop *loop, struct loop_op *op, uint64_t us);

/* Ask that an operation end early. done() comes all the same, with its result if it was too late.
 */
void loop_cancel(struct loop *loop, struct loop_op *op);

/* Call hook(arg) once in every turn of the loop, after its completions were delivered and before
 * it submits and waits: the place to send off what a turn gathered (batches, replies). Hooks run in
 * the order of their addition. */
struct loop_hook {
    void (*run)(struct loop_hook *hook);
    struct list link;
};
void loop_add_hook(struct loop *loop, struct loop_hook *hook);
void loop_remove_hook(struct loop *loop, struct loop_hook *hook);

/* Keep the present turn from sleeping: for a hook that made work for a hook that ran before it. */
void loop_again(struct loop *loop);

/* Run turns until loop_stop(). */
void loop_run(struct loop *loop);
/* One turn; waits for at least one completion if wait. For start-up, shutdown and tests. */
void loop_poll(struct loop *loop, bool wait);

/* From any thread: have fn(arg) called on the loop's thread, in the order of posting. */
int loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);
/* From any thread: make loop_run() return after its present turn. */
void loop_stop(struct loop *loop);

#endif
