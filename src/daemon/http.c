/* http.c - HTTP in front of the control API. */
#include "daemon/http.h"

#include "base/report.h"
#include "base/time-slice.h"
#include "daemon/api.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_SECONDS 60
/* The shortest that the kernel gives: see http_start(). */
#define SLICE_NS 100000

struct http {
    struct MHD_Daemon *daemon;
    struct api_registry *registry;
};

/* One request while its body comes in. */
struct request {
    char *body;
    size_t len, room;
    unsigned refused; /* HTTP status, 0: not refused; the body is taken and dropped */
    const char *reason;
};

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              const char *text, size_t len)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(len, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "POST");
    enum MHD_Result r = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return r;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
    return answer(connection, status, "text/plain; charset=utf-8", text, strlen(text));
}

/* The head of a request has come. One that is wrong is answered when its body has come too: an
 * answer before that would close the connection under a client that still sends. */
static enum MHD_Result begin(struct MHD_Connection *connection, const char *url, const char *method,
                             void **request_ptr)
{
    const char *length =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    struct request *request;

    if (length && strtoull(length, NULL, 10) > API_REQUEST_MAX_BYTES)
        return refuse(connection, MHD_HTTP_CONTENT_TOO_LARGE,
                      "a request may have 1 MiB; split it into several\n");
    *request_ptr = request = calloc(1, sizeof(*request));
    if (!request)
        return MHD_NO;
    if (strcmp(url, "/RPC2")) {
        request->refused = MHD_HTTP_NOT_FOUND;
        request->reason = "the control API is at /RPC2\n";
    } else if (strcmp(method, MHD_HTTP_METHOD_POST)) {
        request->refused = MHD_HTTP_METHOD_NOT_ALLOWED;
        request->reason = "the control API wants POST\n";
    }
    return MHD_YES;
}

/* MHD_NO drops the connection: the only answer to a body of undeclared length that has no end. */
static enum MHD_Result take_body(struct request *request, const char *data, size_t len)
{
    if (request->len + len > API_REQUEST_MAX_BYTES)
        return MHD_NO;
    if (request->refused) {
        request->len += len;
        return MHD_YES;
    }
    if (request->len + len > request->room) {
        size_t room = request->room ? request->room : 4096;
        while (room < request->len + len)
            room *= 2;
        char *body = realloc(request->body, room);
        if (!body)
            return MHD_NO;
        request->body = body;
        request->room = room;
    }
    memcpy(request->body + request->len, data, len);
    request->len += len;
    return MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_len, void **request_ptr)
{
    struct http *http = arg;
    struct request *request = *request_ptr;

    (void)version;
    if (!request)
        return begin(connection, url, method, request_ptr);
    if (*data_len > 0) {
        enum MHD_Result r = take_body(request, data, *data_len);
        *data_len = 0;
        return r;
    }
    if (request->refused)
        return refuse(connection, request->refused, request->reason);
    xmlrpc_mem_block *xml =
        api_process(http->registry, request->body ? request->body : "", request->len);
    if (!xml)
        return refuse(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "no memory for an answer\n");
    enum MHD_Result r =
        answer(connection, MHD_HTTP_OK, "text/xml; charset=utf-8",
               XMLRPC_MEMBLOCK_CONTENTS(char, xml), XMLRPC_MEMBLOCK_SIZE(char, xml));
    XMLRPC_MEMBLOCK_FREE(char, xml);
    return r;
}

static void on_end(void *arg, struct MHD_Connection *connection, void **request_ptr,
                   enum MHD_RequestTerminationCode code)
{
    struct request *request = *request_ptr;

    (void)arg, (void)connection, (void)code;
    if (request)
        free(request->body);
    free(request);
}

static void on_log(void *arg, const char *format, va_list args)
{
    char line[512];

    (void)arg;
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    report_debug("http: %s", line);
}

int http_start(int listen_fd, struct api_registry *registry, unsigned max_connections,
               struct http **ret, struct why *why)
{
    struct http *http = calloc(1, sizeof(*http));

    if (!http)
        return why_set(why, -ENOMEM, "no memory for the control API");
    http->registry = registry;
    /* The threads that are started here do little and wait much. A data thread under full load does
     * not wait; where processors are few theirs is also its, and each time that they wake they
     * would wait for the end of its slice, some milliseconds. */
    int r = time_slice_set(SLICE_NS);
    if (r < 0)
        report_debug("http: the control API's threads have slices like all others: %s",
                     strerror(-r));
    http->daemon =
        /* A thread for each connection: requests wait, for the store and for guests. */
        MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_THREAD_PER_CONNECTION |
                             MHD_USE_ERROR_LOG | MHD_USE_ITC,
                         0, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                         MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT,
                         max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
                         MHD_OPTION_NOTIFY_COMPLETED, on_end, NULL, MHD_OPTION_END);
    if (r == 0)
        (void)time_slice_set(0); /* back: this thread's is of no consequence */
    if (!http->daemon) {
        free(http);
        return why_set(why, -EINVAL, "cannot start the HTTP server of the control API");
    }
    *ret = http;
    return 0;
}

void http_stop(struct http *http)
{
    if (!http)
        return;
    MHD_stop_daemon(http->daemon);
    free(http);
}
