/* nbd-session.c - the daemon's NBD exports, by libnbd. */
#include "cli/nbd-session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int nbd_session_init(struct nbd_session *s, const char *socket_path, uint32_t n)
{
    *s = (struct nbd_session){.socket_path = socket_path, .n = n};
    s->handles = calloc(n + 1, sizeof(struct nbd_handle *));
    s->names = calloc(n + 1, sizeof(*s->names));
    s->polls = calloc(n + 1, sizeof(*s->polls));
    if (!s->handles || !s->names || !s->polls)
        nbd_session_fail(s, "no memory for %u disks", n);
    else if (nbd_library_load(&s->why) < 0)
        s->failed = true;
    return s->failed ? -1 : 0;
}

void nbd_session_fail(struct nbd_session *s, const char *format, ...)
{
    va_list args;

    if (s->failed)
        return;
    s->failed = true;
    va_start(args, format);
    vsnprintf(s->why.text, sizeof(s->why.text), format, args);
    va_end(args);
}

void nbd_session_fail_io(struct nbd_session *s, uint32_t i, const char *doing, uint64_t offset,
                         int error)
{
    if (error == ENOTCONN)
        nbd_session_fail(s, "the connection to %s was lost", s->names[i]);
    else if (error == ENOSPC)
        nbd_session_fail(s, "the store is full; remove what is not needed, see varve df");
    else
        nbd_session_fail(s, "cannot %s %s at byte %" PRIu64 ": %s%s", doing, s->names[i], offset,
                         strerror(error), error == EIO ? "; see varve check" : "");
}

int nbd_session_connect(struct nbd_session *s, uint32_t i, const char *export_name,
                        const char *context)
{
    struct nbd_handle *h = s->handles[i] = libnbd.create();

    snprintf(s->names[i], sizeof(s->names[i]), "%s", export_name);
    if (!h || libnbd.set_export_name(h, export_name) < 0 ||
        (context && libnbd.add_meta_context(h, context) < 0) ||
        libnbd.set_pread_initialize(h, false) < 0 || libnbd.connect_unix(h, s->socket_path) < 0) {
        nbd_session_fail(s, "cannot open %s over NBD: %s", export_name, libnbd.get_error());
        return -1;
    }
    return 0;
}

static short events_of(unsigned direction)
{
    return (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                   (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
}

/* Let the connection make what progress it can. */
static void serve(struct nbd_session *s, uint32_t i, short events)
{
    struct nbd_handle *h = s->handles[i];
    unsigned direction = libnbd.aio_get_direction(h);
    int r = 0;

    if (events & (POLLIN | POLLHUP) && direction & LIBNBD_AIO_DIRECTION_READ)
        r = libnbd.aio_notify_read(h);
    else if (events & POLLOUT && direction & LIBNBD_AIO_DIRECTION_WRITE)
        r = libnbd.aio_notify_write(h);
    if (r < 0)
        nbd_session_fail(s, "the connection to %s was lost: %s", s->names[i], libnbd.get_error());
    else if (events & (POLLERR | POLLNVAL) || libnbd.aio_is_dead(h) || libnbd.aio_is_closed(h))
        nbd_session_fail(s, "the connection to %s was lost", s->names[i]);
}

bool nbd_session_wait(struct nbd_session *s, int fd, int timeout_ms)
{
    uint32_t n = 0;

    s->polls[0] = (struct pollfd){.fd = fd, .events = POLLIN};
    for (uint32_t i = 0; i < s->n; i++, n++)
        s->polls[1 + i] = (struct pollfd){
            .fd = s->handles[i] ? libnbd.aio_get_fd(s->handles[i]) : -1,
            .events = s->handles[i] ? events_of(libnbd.aio_get_direction(s->handles[i])) : 0,
        };
    if (poll(s->polls, n + 1, timeout_ms) <= 0)
        return false;
    for (uint32_t i = 0; i < n && !s->failed; i++)
        if (s->polls[1 + i].revents)
            serve(s, i, s->polls[1 + i].revents);
    return s->polls[0].revents != 0;
}

int nbd_session_flush(struct nbd_session *s)
{
    /* A flush of one is a flush of the whole store. */
    if (!s->failed && s->n && libnbd.flush(s->handles[0], 0) < 0)
        nbd_session_fail(s, "cannot make the data durable: %s", libnbd.get_error());
    return s->failed ? -1 : 0;
}

void nbd_session_close(struct nbd_session *s, bool orderly)
{
    for (uint32_t i = 0; s->handles && i < s->n; i++) {
        if (!s->handles[i])
            continue;
        if (orderly)
            libnbd.shutdown(s->handles[i], 0);
        libnbd.close(s->handles[i]);
    }
    free(s->handles);
    free(s->names);
    free(s->polls);
    s->polls = NULL;
    s->handles = NULL;
    s->names = NULL;
    s->n = 0;
}
