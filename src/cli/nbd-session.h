/* nbd-session.h - the daemon's NBD exports, with many requests in flight. One thread.
 *
 * A session is one connection for each disk of a vm or a version. Requests complete in callbacks
 * out of nbd_session_wait(); a callback that fails, and a connection that is lost, fail the session
 * for good: the sentence is in why. */
#ifndef VARVE_CLI_NBD_SESSION_H
#define VARVE_CLI_NBD_SESSION_H

#include "cli/nbd-library.h"

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct nbd_session {
    const char *socket_path;
    uint32_t n;
    struct nbd_handle **handles;
    char (*names)[256]; /* of the exports, for messages */
    struct pollfd *polls;
    unsigned in_flight; /* requests, counted by those who start and complete them */
    bool failed;
    struct why why;
};

/* Room for n disks. Returns 0 or -1 (no memory, no libnbd; why is set). Close it in any case. */
int nbd_session_init(struct nbd_session *session, const char *socket_path, uint32_t n);

/* Connect disk i to an export, with a metadata context (NULL: none). 0 or -1. */
int nbd_session_connect(struct nbd_session *session, uint32_t i, const char *export_name,
                        const char *context);

/* The session has failed; the sentence is a format. Only the first one counts. */
void nbd_session_fail(struct nbd_session *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same for a request on disk i that completed with a positive errno; doing: "read". */
void nbd_session_fail_io(struct nbd_session *session, uint32_t i, const char *doing,
                         uint64_t offset_bytes, int error);

/* Wait until something can be read or written on a connection, or fd is readable, or timeout_ms is
 * over; run the callbacks. Returns whether fd was readable. */
bool nbd_session_wait(struct nbd_session *session, int fd, int timeout_ms);

/* Make all that was written durable, and wait for it. 0 or -1. */
int nbd_session_flush(struct nbd_session *session);

/* orderly: tell the server. */
void nbd_session_close(struct nbd_session *session, bool orderly);

#endif
