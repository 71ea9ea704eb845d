/* nbd-reply.c - replies: the ones of a turn go out in one sendmsg(), data straight from its
 * buffers.
 *
 * Headers are gathered into the bytes of the nbd_out; neighbours share an iovec. A request whose
 * reply is all header is freed as soon as that is written, one with data when the data are sent. */
#include "export/nbd-internal.h"
#include "export/nbd_format.h"

#include "base/err.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FREE_OUTS 64

static void out_sent(struct loop_op *op, int res);

static struct nbd_out *out_get(struct nbd_conn *conn)
{
    struct nbd_server *server = conn->server;
    struct list *l = list_pop_front(&server->free_outs);
    struct nbd_out *out;

    if (l) {
        out = container_of(l, struct nbd_out, link);
        server->n_free_outs--;
    } else {
        out = malloc(sizeof(*out));
        if (!out)
            return NULL;
        list_init(&out->link);
        list_init(&out->sending);
        out->op.done = out_sent;
    }
    out->conn = conn;
    out->bytes = out->n_heads = 0;
    memset(&out->msg, 0, sizeof(out->msg));
    out->msg.msg_iov = out->iov;
    return out;
}

static void out_put(struct nbd_server *server, struct nbd_out *out)
{
    if (server->n_free_outs >= MAX_FREE_OUTS) {
        free(out);
        return;
    }
    list_push_front(&server->free_outs, &out->link);
    server->n_free_outs++;
}

/* ---- building ------------------------------------------------------------------------------- */

static void add_head(struct nbd_out *out, const void *head, size_t len)
{
    uint8_t *to = out->heads + out->n_heads;
    struct iovec *last = out->msg.msg_iovlen ? &out->iov[out->msg.msg_iovlen - 1] : NULL;

    memcpy(to, head, len);
    out->n_heads += len;
    out->bytes += len;
    if (last && (uint8_t *)last->iov_base + last->iov_len == to)
        last->iov_len += len;
    else
        out->iov[out->msg.msg_iovlen++] = (struct iovec){.iov_base = to, .iov_len = len};
}

static void add_data(struct nbd_out *out, void *data, size_t len)
{
    out->iov[out->msg.msg_iovlen++] = (struct iovec){.iov_base = data, .iov_len = len};
    out->bytes += len;
}

static struct nbd_chunk chunk(struct nbd_request *req, uint16_t type, size_t length)
{
    bool last = true;
    if (req->group) {
        last = --req->group->left == 0;
        if (last)
            free(req->group);
        req->group = NULL;
    }
    return (struct nbd_chunk){
        .magic = htobe32(NBD_MAGIC_STRUCTURED_REPLY),
        .flags = htobe16(last ? NBD_CHUNK_DONE : 0),
        .type = htobe16(type),
        .cookie = req->cookie,
        .length = htobe32((uint32_t)length),
    };
}

static void add_simple(struct nbd_out *out, const struct nbd_request *req)
{
    struct nbd_simple_reply reply = {
        .magic = htobe32(NBD_MAGIC_SIMPLE_REPLY),
        .error = htobe32(req->error),
        .cookie = req->cookie,
    };
    add_head(out, &reply, sizeof(reply));
}

static void add_error(struct nbd_out *out, struct nbd_request *req)
{
    const char *text = err_text(req->code);
    size_t len = strnlen(text, NBD_HEAD_MAX_BYTES - sizeof(struct nbd_chunk_error) - 8);
    bool has_offset = req->command == NBD_CMD_READ;
    uint64_t offset = htobe64(req->error_offset);
    struct nbd_chunk_error error = {
        .error = htobe32(req->error),
        .message_length = htobe16((uint16_t)len),
    };
    size_t rest = sizeof(error) - sizeof(error.chunk) + len + (has_offset ? sizeof(offset) : 0);

    error.chunk = chunk(req, has_offset ? NBD_CHUNK_ERROR_OFFSET : NBD_CHUNK_ERROR, rest);
    add_head(out, &error, sizeof(error));
    add_head(out, text, len);
    if (has_offset)
        add_head(out, &offset, sizeof(offset));
}

static void add_read(struct nbd_out *out, struct nbd_request *req)
{
    struct nbd_server *server = req->conn->server;

    if (!req->conn->structured) {
        add_simple(out, req);
    } else if (req->io.all_zero) {
        struct nbd_chunk_hole hole = {
            .offset = htobe64(req->offset),
            .length = htobe32(req->length),
        };
        hole.chunk = chunk(req, NBD_CHUNK_OFFSET_HOLE, sizeof(hole) - sizeof(hole.chunk));
        server->counts[NBD_N_HOLE_BYTES] += req->length;
        add_head(out, &hole, sizeof(hole));
        return;
    } else {
        struct nbd_chunk_data data = {.offset = htobe64(req->offset)};
        data.chunk =
            chunk(req, NBD_CHUNK_OFFSET_DATA, sizeof(data) - sizeof(data.chunk) + req->length);
        add_head(out, &data, sizeof(data));
    }
    server->counts[NBD_N_READ_BYTES] += req->length;
    add_data(out, req->buffer.data, req->length);
}

static uint32_t state(const struct nbd_request *req, const struct store_extent *extent)
{
    if (req->io.base && !extent->changed)
        return 0;
    if (req->io.base && !req->conn->contexts[req->context].diff)
        return NBD_STATE_CHANGED;
    if (req->io.base)
        return NBD_STATE_CHANGED | (extent->hole ? NBD_STATE_CHANGED_HOLE : 0) |
               (extent->zero ? NBD_STATE_CHANGED_ZERO : 0);
    return (extent->hole ? NBD_STATE_HOLE : 0) | (extent->zero ? NBD_STATE_ZERO : 0);
}

/* Extents become the protocol's in place; neighbours of one kind become one. Returns how many. */
static size_t convert_extents(struct nbd_request *req)
{
    const struct store_extent *from = req->io.extents;
    struct nbd_extent *to = req->buffer.data;
    uint64_t left = req->length;
    size_t n = 0;
    uint32_t last_length = 0, last_flags = 0;

    for (uint32_t i = 0; i < req->io.n_extents && left; i++) {
        uint32_t length = (uint32_t)(from[i].length < left ? from[i].length : left);
        uint32_t flags = state(req, &from[i]);
        left -= length;
        if (n && flags == last_flags) {
            last_length += length;
            to[n - 1].length = htobe32(last_length);
            continue;
        }
        last_length = length;
        last_flags = flags;
        to[n++] = (struct nbd_extent){.length = htobe32(length), .flags = htobe32(flags)};
    }
    return n;
}

static void add_status(struct nbd_out *out, struct nbd_request *req)
{
    size_t bytes = convert_extents(req) * sizeof(struct nbd_extent);
    struct nbd_chunk_status status = {.context = htobe32(req->context + 1u)};

    status.chunk =
        chunk(req, NBD_CHUNK_BLOCK_STATUS, sizeof(status) - sizeof(status.chunk) + bytes);
    add_head(out, &status, sizeof(status));
    add_data(out, req->buffer.data, bytes);
}

static void add_reply(struct nbd_out *out, struct nbd_request *req)
{
    size_t n_iov = out->msg.msg_iovlen;
    bool is_read = req->command == NBD_CMD_READ, is_status = req->command == NBD_CMD_BLOCK_STATUS;

    if (req->error && req->conn->structured)
        add_error(out, req);
    else if (req->error || !(is_read || is_status))
        add_simple(out, req);
    else if (is_read)
        add_read(out, req);
    else
        add_status(out, req);
    /* Its data are referred to if the last piece is not of heads. */
    const struct iovec *last = &out->iov[out->msg.msg_iovlen - 1];
    if (out->msg.msg_iovlen > n_iov && last->iov_base == req->buffer.data)
        list_push_back(&out->sending, &req->link);
    else
        nbd_request_free(req);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void start_sending(struct nbd_out *out)
{
    struct nbd_conn *conn = out->conn;
    /* Of what is large some may go at a time, so that it is seen to move. */
    int flags = out->bytes > 2 * NBD_OUT_BYTES ? 0 : MSG_WAITALL;
    conn->server->counts[NBD_N_SENDS]++;
    loop_sendmsg(conn->server->loop, &out->op, conn->fd, &out->msg, flags);
}

static void finish_out(struct nbd_out *out)
{
    struct nbd_conn *conn = out->conn;
    struct list *l;

    while ((l = list_pop_front(&out->sending)))
        nbd_request_free(container_of(l, struct nbd_request, link));
    conn->out = NULL;
    if (list_empty(&conn->replies))
        conn->out_clock.bytes = 0;
    out_put(conn->server, out);
    if (!list_empty(&conn->replies) || conn->phase >= NBD_LINGER)
        nbd_conn_dirty(conn);
}

static void skip_sent(struct nbd_out *out, size_t sent)
{
    out->bytes -= sent;
    while (sent && sent >= out->msg.msg_iov->iov_len) {
        sent -= out->msg.msg_iov->iov_len;
        out->msg.msg_iov++;
        out->msg.msg_iovlen--;
    }
    if (sent) {
        out->msg.msg_iov->iov_base = (uint8_t *)out->msg.msg_iov->iov_base + sent;
        out->msg.msg_iov->iov_len -= sent;
    }
}

static void out_sent(struct loop_op *op, int res)
{
    struct nbd_out *out = container_of(op, struct nbd_out, op);
    struct nbd_conn *conn = out->conn;

    if (res < 0 && res != -EINTR && res != -EAGAIN)
        nbd_conn_kill(conn);
    if (conn->phase == NBD_DEAD) {
        finish_out(out);
        return;
    }
    if (res > 0) {
        conn->out_clock.moved_us = conn->server->now_us;
        skip_sent(out, (size_t)res);
    }
    if (out->bytes)
        start_sending(out);
    else
        finish_out(out);
}

void nbd_reply_send(struct nbd_conn *conn)
{
    if (conn->out || conn->text_busy || list_empty(&conn->replies))
        return;
    struct nbd_out *out = out_get(conn);
    if (!out) {
        nbd_conn_kill(conn);
        return;
    }
    conn->out = out;
    struct list *l;
    while (out->msg.msg_iovlen + 2 <= NBD_OUT_IOV && out->bytes < NBD_OUT_BYTES &&
           out->n_heads + NBD_HEAD_MAX_BYTES <= NBD_OUT_HEADS &&
           (l = list_pop_front(&conn->replies)))
        add_reply(out, container_of(l, struct nbd_request, link));
    nbd_clock_add(conn->server, &conn->out_clock, out->bytes);
    start_sending(out);
}

void nbd_reply_drop(struct nbd_conn *conn)
{
    struct list *l;
    while ((l = list_pop_front(&conn->replies)))
        nbd_request_free(container_of(l, struct nbd_request, link));
}
