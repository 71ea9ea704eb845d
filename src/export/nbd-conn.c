/* nbd-conn.c - the life of a connection, and receiving.
 *
 * Phases, and what moves a connection on:
 *   FLAGS, OPTIONS   nbd-handshake.c
 *   TRANSMISSION     nbd-handshake.c, when an export was chosen
 *   LINGER           nbd_conn_linger(): the client said or showed that it is going, or we are
 *   DEAD             nbd_conn_kill(): an error, a deadline, or LINGER with nothing left to send
 *   (freed)          release(), from the server's hook, when nothing is in flight
 *
 * Bytes are received into a block and parsed there. Requests whose payload is used in place pin the
 * block; one that is pinned is filled up to its end and then replaced, one that is not is rewound.
 */
#include "export/nbd-internal.h"

#include "base/mono.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOW_ROOM_BYTES (64u << 10) /* with less left in a pinned block, a fresh one is better */

/* ---- blocks --------------------------------------------------------------------------------- */

static struct nbd_block *block_get(struct nbd_server *server)
{
    struct list *l = list_pop_front(&server->free_blocks);
    if (l) {
        struct nbd_block *block = container_of(l, struct nbd_block, link);
        block->refs = 1;
        return block;
    }
    if ((uint64_t)(server->n_blocks + 1) * NBD_BLOCK_BYTES > server->config.receive_bytes)
        return NULL;
    struct nbd_block *block = malloc(sizeof(*block));
    uint8_t *data = aligned_alloc(4096, NBD_BLOCK_BYTES);
    if (!block || !data) {
        free(block);
        free(data);
        return NULL;
    }
    server->n_blocks++;
    *block = (struct nbd_block){.refs = 1, .size = NBD_BLOCK_BYTES, .data = data};
    list_init(&block->link);
    return block;
}

void nbd_block_put(struct nbd_server *server, struct nbd_block *block)
{
    /* A connection's own small block keeps its first reference for good. */
    if (--block->refs == 0)
        list_push_front(&server->free_blocks, &block->link);
}

/* Go on in another block, with the bytes that were not parsed. */
static void change_block(struct nbd_conn *conn, struct nbd_block *block)
{
    uint32_t tail = conn->fill - conn->at;

    memcpy(block->data, conn->block->data + conn->at, tail);
    if (conn->block != &conn->small)
        nbd_block_put(conn->server, conn->block);
    conn->block = block;
    conn->at = 0;
    conn->fill = tail;
}

/* Make room for what is needed next. False: all memory is pinned; requests must end first. */
static bool make_room(struct nbd_conn *conn)
{
    struct nbd_block *block = conn->block;
    bool is_small = block == &conn->small;
    uint32_t tail = conn->fill - conn->at;

    if (is_small && conn->small_full) {
        struct nbd_block *larger = block_get(conn->server);
        conn->small_full = false;
        if (larger) {
            change_block(conn, larger);
            return true;
        }
    }
    if (!is_small && !tail && !conn->n_requests && conn->small.refs == 1 && !conn->recv_seen) {
        change_block(conn, &conn->small);
        return true;
    }
    if (block->refs == 1) {
        if (!tail || conn->at + conn->need > block->size || conn->fill == block->size) {
            memmove(block->data, block->data + conn->at, tail);
            conn->at = 0;
            conn->fill = tail;
        }
        return true;
    }
    uint32_t low = is_small ? 0 : LOW_ROOM_BYTES;
    if (conn->at + conn->need <= block->size && block->size - conn->fill > low)
        return true;
    struct nbd_block *fresh = block_get(conn->server);
    if (fresh)
        change_block(conn, fresh);
    return fresh || (conn->at + conn->need <= block->size && block->size > conn->fill);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static void receive(struct nbd_conn *conn)
{
    struct nbd_request *req = conn->payload;
    uint8_t *to;
    uint32_t len;

    if (conn->recv_busy || conn->blocked || conn->text_busy || conn->phase > NBD_TRANSMISSION)
        return;
    if (req) {
        to = (uint8_t *)req->buffer.data + conn->payload_got;
        len = req->length - conn->payload_got;
    } else {
        if (!make_room(conn)) {
            conn->blocked = true;
            return;
        }
        to = conn->block->data + conn->fill;
        len = conn->block->size - conn->fill;
        uint32_t have = conn->fill - conn->at;
        if (conn->large && !conn->skip_bytes && have < conn->need)
            len = conn->need - have;
    }
    conn->recv_busy = true;
    conn->server->counts[NBD_N_RECEIVES]++;
    loop_recv(conn->server->loop, &conn->recv_op, conn->fd, to, len);
}

static void parse(struct nbd_conn *conn)
{
    conn->blocked = false;
    if (conn->phase <= NBD_OPTIONS)
        nbd_handshake_parse(conn);
    else if (conn->phase == NBD_TRANSMISSION)
        nbd_transmission_parse(conn);
}

static void received(struct loop_op *op, int res)
{
    struct nbd_conn *conn = container_of(op, struct nbd_conn, recv_op);

    conn->recv_busy = false;
    nbd_conn_dirty(conn);
    if (conn->phase >= NBD_LINGER || res == -ECANCELED || res == -EINTR || res == -EAGAIN)
        return;
    if (res <= 0) {
        if (res == 0 && conn->phase == NBD_TRANSMISSION)
            nbd_conn_linger(conn);
        else
            nbd_conn_kill(conn);
        return;
    }
    conn->recv_seen = true;
    if (conn->payload) {
        conn->payload_clock.moved_us = conn->server->now_us;
        conn->payload_got += (uint32_t)res;
        if (conn->payload_got < conn->payload->length)
            return;
        nbd_payload_received(conn);
    } else {
        conn->fill += (uint32_t)res;
        conn->small_full = conn->block == &conn->small && conn->fill == conn->small.size;
        parse(conn);
    }
}

/* ---- life ----------------------------------------------------------------------------------- */

int nbd_conn_new(struct nbd_server *server, int fd)
{
    if (server->n_connections >= server->config.max_connections)
        return -EMFILE;
    struct nbd_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return -ENOMEM;
    conn->server = server;
    conn->fd = fd;
    conn->recv_op.done = received;
    conn->small = (struct nbd_block){.refs = 1, .size = NBD_SMALL_BYTES, .data = conn->small_data};
    conn->block = &conn->small;
    conn->deadline_us = mono_us() + server->config.handshake_ms * 1000;
    list_init(&conn->dirty_link);
    list_init(&conn->starved_link);
    list_init(&conn->replies);
    list_push_back(&server->handshaking, &conn->link);
    server->n_connections++;
    nbd_handshake_start(conn);
    nbd_conn_dirty(conn);
    return 0;
}

void nbd_conn_dirty(struct nbd_conn *conn)
{
    if (!list_empty(&conn->dirty_link))
        return;
    list_push_back(&conn->server->dirty, &conn->dirty_link);
    loop_again(conn->server->loop); /* the hook may have run in this turn */
}

void nbd_conn_linger(struct nbd_conn *conn)
{
    struct nbd_server *server = conn->server;
    if (conn->phase >= NBD_LINGER)
        return;
    conn->phase = NBD_LINGER;
    conn->deadline_us = mono_us() + server->config.linger_ms * 1000;
    nbd_not_starved(conn);
    list_del(&conn->link);
    list_push_back(&server->lingering, &conn->link);
    if (conn->recv_busy)
        loop_cancel(server->loop, &conn->recv_op);
    nbd_conn_dirty(conn);
}

void nbd_conn_kill(struct nbd_conn *conn)
{
    struct nbd_server *server = conn->server;
    if (conn->phase == NBD_DEAD)
        return;
    conn->phase = NBD_DEAD;
    nbd_not_starved(conn);
    shutdown(conn->fd, SHUT_RDWR);
    if (conn->recv_busy)
        loop_cancel(server->loop, &conn->recv_op);
    if (conn->text_busy)
        loop_cancel(server->loop, &conn->text_op);
    if (conn->out)
        loop_cancel(server->loop, &conn->out->op);
    nbd_reply_drop(conn);
    nbd_conn_dirty(conn);
}

/* Requests that wait for bytes which will not come. */
static unsigned abandoned(const struct nbd_conn *conn)
{
    return (conn->payload != NULL) + (conn->skip_request != NULL);
}

static void release(struct nbd_conn *conn)
{
    struct nbd_server *server = conn->server;

    if (conn->recv_busy || conn->text_busy || conn->out || conn->n_requests > abandoned(conn))
        return;
    if (conn->payload)
        nbd_request_free(conn->payload);
    if (conn->skip_request)
        nbd_request_free(conn->skip_request);
    assert(conn->n_requests == 0 && conn->n_bytes == 0);
    if (conn->block != &conn->small)
        nbd_block_put(server, conn->block);
    assert(conn->small.refs == 1);
    if (conn->disk)
        disk_put(conn->disk);
    nbd_context_clear(conn);
    close(conn->fd);
    list_del(&conn->link);
    list_del(&conn->dirty_link);
    list_del(&conn->starved_link);
    free(conn->text);
    free(conn);
    server->n_connections--;
    nbd_server_conn_gone(server);
}

void nbd_conn_serve(struct nbd_conn *conn)
{
    if (conn->phase <= NBD_TRANSMISSION && !conn->text_busy &&
        (conn->blocked || conn->phase <= NBD_OPTIONS)) {
        parse(conn);
        list_del(&conn->dirty_link); /* for replies made just now: they are sent below */
    }
    if (conn->phase == NBD_TRANSMISSION || conn->phase == NBD_LINGER)
        nbd_reply_send(conn);
    receive(conn);
    if (conn->phase == NBD_LINGER && !conn->recv_busy && !conn->text_busy && !conn->out &&
        conn->n_requests == abandoned(conn))
        nbd_conn_kill(conn);
    if (conn->phase == NBD_DEAD)
        release(conn);
}
