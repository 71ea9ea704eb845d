/* http.h - HTTP in front of the control API, by libmicrohttpd, on one thread of its own.
 *
 * POST to /RPC2, a body of at most API_REQUEST_MAX_BYTES; anything else gets its HTTP status and a
 * sentence. Slow clients do not stop others, a connection is dropped after 60 idle seconds. */
#ifndef VARVE_DAEMON_HTTP_H
#define VARVE_DAEMON_HTTP_H

#include "base/why.h"

struct http;
struct api_registry;

/* listen_fd: taken on success. registry: borrowed until http_stop(). -EINVAL, -ENOMEM. */
int http_start(int listen_fd, struct api_registry *registry, unsigned max_connections,
               struct http **ret, struct why *why);

/* Answer what is under way, then end. NULL is legal. */
void http_stop(struct http *http);

#endif
