/* http.h - one HTTP request over a Unix socket: what the control API takes, and no more of HTTP.
 *
 * A library for all of HTTP brings thirty others with it, and each start of the command would wait
 * six milliseconds for them. One thread; blocks until the answer is there or the time is over. */
#ifndef VARVE_CLI_HTTP_H
#define VARVE_CLI_HTTP_H

#include <stddef.h>
#include <stdint.h>

struct http_answer {
    int status; /* such as 200 */
    char *body; /* the caller frees it */
    size_t len;
};

/* POST body, which is XML, to /RPC2 of who listens at socket_path. end_us: by mono_us().
 * Returns 0, -ETIMEDOUT, -EPROTO (no HTTP, or cut off), -ENOMEM, -EFBIG (more than max_bytes), or
 * what the socket said; *ret_connected tells whether somebody was there. */
int http_post(const char *socket_path, const char *body, size_t len, size_t max_bytes,
              uint64_t end_us, struct http_answer *ret, int *ret_connected);

#endif
