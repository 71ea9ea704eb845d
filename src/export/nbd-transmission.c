/* nbd-transmission.c - requests: from received bytes to the store, and back as far as the replies.
 *
 * States of a request, and what moves it on:
 *   (parsed)    nbd_transmission_parse(): checked, counted, given its memory
 *   RECEIVING   conn->payload: a large write whose bytes are still coming in
 *   SKIPPING    conn->skip_request: a refused write whose bytes are dropped, so the stream stays in
 * step STORE       submit(): the store has it REPLY       completed(): in conn->replies until
 * nbd-reply.c sends it It is counted in conn->n_requests from the first to nbd_request_free(). */
#include "export/nbd-internal.h"
#include "export/nbd_format.h"

#include "base/err.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_REST_BYTES   (16u << 10) /* so little more of a payload is waited for in the block */
#define LARGE_WRITE_BYTES (64u << 10) /* received into a buffer of its own from the start */
#define SMALL_COST_BYTES  (256u << 10)
#define MAX_FREE_REQUESTS 4096
#define STATUS_BYTES      (16u << 10) /* extents of one context in one BLOCK_STATUS */

static_assert(sizeof(struct store_extent) >= sizeof(struct nbd_extent), "converted in place");

/* A request as it came, in host order. */
struct header {
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
};

/* ---- memory --------------------------------------------------------------------------------- */

/* Large requests leave a quarter of the memory alone, so that clients which take much and read
 * nothing cannot hold up the small requests of others; the two kinds wait in separate queues. */
static bool fits(const struct nbd_server *server, uint64_t cost)
{
    uint64_t limit = server->pool.limit_bytes;
    if (cost > SMALL_COST_BYTES)
        limit -= limit / 4;
    return server->pool.used_bytes + cost <= limit;
}

bool nbd_may_allocate(struct nbd_conn *conn, uint64_t cost)
{
    struct nbd_server *server = conn->server;
    struct list *queue = &server->starved[cost > SMALL_COST_BYTES];
    bool my_turn = list_empty(queue) || queue->next == &conn->starved_link;

    if (fits(server, cost) && my_turn) {
        nbd_not_starved(conn);
        return true;
    }
    conn->blocked = true;
    if (!conn->starved_bytes) {
        server->counts[NBD_N_STARVED]++;
        list_push_back(queue, &conn->starved_link);
    }
    conn->starved_bytes = cost;
    return false;
}

void nbd_not_starved(struct nbd_conn *conn)
{
    if (!conn->starved_bytes)
        return;
    conn->starved_bytes = 0;
    list_del(&conn->starved_link);
    nbd_feed_starved(conn->server);
}

void nbd_feed_starved(struct nbd_server *server)
{
    for (int i = 0; i < 2; i++) {
        if (list_empty(&server->starved[i]))
            continue;
        struct list *first = server->starved[i].next;
        struct nbd_conn *conn = container_of(first, struct nbd_conn, starved_link);
        if (fits(server, conn->starved_bytes))
            nbd_conn_dirty(conn);
    }
}

static struct nbd_request *request_new(struct nbd_conn *conn, const struct header *h)
{
    struct nbd_server *server = conn->server;
    struct list *l = list_pop_front(&server->free_requests);
    struct nbd_request *req;

    if (l) {
        req = container_of(l, struct nbd_request, link);
        server->n_free_requests--;
    } else {
        req = malloc(sizeof(*req));
        if (!req) { /* no memory even for an error reply */
            nbd_conn_kill(conn);
            return NULL;
        }
    }
    *req = (struct nbd_request){
        .conn = conn,
        .cookie = h->cookie,
        .offset = h->offset,
        .length = h->length,
        .command = h->command,
    };
    list_init(&req->link);
    conn->n_requests++;
    return req;
}

static void count_bytes(struct nbd_request *req, uint32_t bytes)
{
    req->counted_bytes = bytes;
    req->conn->n_bytes += bytes;
}

/* Give back what a payload took. */
static void free_payload(struct nbd_request *req)
{
    struct nbd_conn *conn = req->conn;

    if (req->block)
        nbd_block_put(conn->server, req->block);
    req->block = NULL;
    if (req->buffer.data) {
        nbd_pool_put(&conn->server->pool, &req->buffer);
        nbd_feed_starved(conn->server);
    }
    conn->n_bytes -= req->counted_bytes;
    req->counted_bytes = 0;
}

void nbd_request_free(struct nbd_request *req)
{
    struct nbd_conn *conn = req->conn;
    struct nbd_server *server = conn->server;

    free_payload(req);
    if (req->group && --req->group->left == 0)
        free(req->group);
    conn->n_requests--;
    if (conn->blocked || conn->phase >= NBD_LINGER)
        nbd_conn_dirty(conn);
    if (server->n_free_requests < MAX_FREE_REQUESTS) {
        list_push_front(&server->free_requests, &req->link);
        server->n_free_requests++;
    } else {
        free(req);
    }
}

/* ---- completion ----------------------------------------------------------------------------- */

static uint16_t wire_error(int code)
{
    switch (err_errno(code)) {
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOMEM:
        return NBD_ENOMEM;
    case ENOSPC:
    case EDQUOT:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case EOPNOTSUPP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

static void reply(struct nbd_request *req)
{
    list_push_back(&req->conn->replies, &req->link);
    nbd_conn_dirty(req->conn);
}

static void reply_error(struct nbd_request *req, int code)
{
    req->code = code;
    req->error = wire_error(code);
    req->error_offset = req->offset;
    req->conn->server->counts[NBD_N_ERRORS]++;
    reply(req);
}

static void submit(struct nbd_request *req);

/* A read of several pages failed: read them one by one to tell where. */
static bool probe(struct nbd_request *req)
{
    struct store_io *io = &req->io;
    uint64_t end = req->offset + req->length;

    if (!req->probing) {
        if (req->offset / PAGE_BYTES == (end - 1) / PAGE_BYTES)
            return false;
        req->probing = true;
        io->offset = req->offset;
    } else if (io->error) {
        req->offset = io->offset;
        return false;
    } else {
        io->offset += io->length;
    }
    if (io->offset >= end) { /* now it is fine: take it as it was, an error without a place */
        io->error = -EIO;
        return false;
    }
    uint64_t next = (io->offset / PAGE_BYTES + 1) * PAGE_BYTES;
    io->length = (next < end ? next : end) - io->offset;
    io->flags = 0;
    io->error = 0;
    submit(req);
    return true;
}

static void completed(struct nbd_request *req)
{
    struct nbd_conn *conn = req->conn;

    if (conn->phase == NBD_DEAD) {
        nbd_request_free(req);
        nbd_conn_dirty(conn);
        return;
    }
    if (req->command == NBD_CMD_READ && (req->io.error || req->probing) && probe(req))
        return;
    if (req->command == NBD_CMD_WRITE)
        free_payload(req);
    if (req->io.error)
        reply_error(req, req->io.error);
    else
        reply(req);
}

static void io_done(struct store_io *io)
{
    completed(container_of(io, struct nbd_request, io));
}

static void submit(struct nbd_request *req)
{
    req->io.disk = req->conn->disk;
    req->io.done = io_done;
    /* From a hook, or from within the store's own dispatch: the store must be given a turn for it.
     */
    loop_again(req->conn->server->loop);
    if (store_submit(req->conn->store, &req->io))
        completed(req);
}

/* ---- the commands --------------------------------------------------------------------------- */

/* Each returns false if the request cannot be taken now: nothing was consumed, parsing stops. */

static bool start_simple(struct nbd_conn *conn, const struct header *h, enum store_op op)
{
    struct nbd_request *req = request_new(conn, h);
    if (!req)
        return false;
    req->io.op = op;
    req->io.offset = h->offset;
    req->io.length = h->length;
    if (h->flags & NBD_CMD_FLAG_FUA && op != STORE_FLUSH && op != STORE_CACHE)
        req->io.flags |= STORE_FUA;
    if (h->flags & NBD_CMD_FLAG_NO_HOLE)
        req->io.flags |= STORE_NO_HOLE;
    submit(req);
    return true;
}

/* For several contexts each has its own part, and its own chunk in the reply. */
static bool start_status_part(struct nbd_conn *conn, const struct header *h, unsigned context,
                              struct nbd_group *group)
{
    struct nbd_request *req = request_new(conn, h);
    if (!req)
        return false;
    req->group = group;
    req->context = (uint16_t)context;
    if (nbd_pool_get(&conn->server->pool, STATUS_BYTES, &req->buffer)) {
        reply_error(req, -ENOMEM);
        return true;
    }
    req->io.op = STORE_EXTENTS;
    req->io.base = conn->contexts[context].base;
    req->io.offset = h->offset;
    req->io.length = h->length;
    req->io.extents = req->buffer.data;
    req->io.max_extents =
        h->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : STATUS_BYTES / sizeof(struct store_extent);
    submit(req);
    return true;
}

/* A group outlives the starting of its n parts whatever completes inside, for it begins with one
 * more. */
static struct nbd_group *group_new(struct nbd_conn *conn, unsigned n)
{
    struct nbd_group *group = malloc(sizeof(*group));
    if (group)
        group->left = n + 1;
    else
        nbd_conn_kill(conn);
    return group;
}

/* n parts could not be started; the connection is dead then. */
static void group_started(struct nbd_group *group, unsigned n)
{
    group->left -= 1 + n;
    if (!group->left)
        free(group);
}

static bool start_status(struct nbd_conn *conn, const struct header *h)
{
    unsigned n = conn->n_contexts, i = 0;

    if (!nbd_may_allocate(conn, (uint64_t)n * STATUS_BYTES))
        return false;
    if (n == 1)
        return start_status_part(conn, h, 0, NULL);
    struct nbd_group *group = group_new(conn, n);
    if (!group)
        return false;
    while (i < n && start_status_part(conn, h, i, group))
        i++;
    group_started(group, n - i);
    return i == n;
}

/* One read, or one part of a split one. */
static bool start_read_part(struct nbd_conn *conn, const struct header *h, struct nbd_group *group)
{
    struct nbd_request *req = request_new(conn, h);
    if (!req)
        return false;
    req->group = group;
    count_bytes(req, h->length);
    if (nbd_pool_get(&conn->server->pool, h->length, &req->buffer)) {
        reply_error(req, -ENOMEM);
        return true;
    }
    req->io.op = STORE_READ;
    req->io.offset = h->offset;
    req->io.length = h->length;
    req->io.buf = req->buffer.data;
    if (conn->structured)
        req->io.flags = STORE_SKIP_ZERO;
    submit(req);
    return true;
}

static bool is_split(const struct nbd_conn *conn, const struct header *h)
{
    return conn->structured && !(h->flags & NBD_CMD_FLAG_DF) && h->length > NBD_SPLIT_BYTES;
}

static unsigned n_parts(const struct nbd_conn *conn, const struct header *h)
{
    if (h->command == NBD_CMD_BLOCK_STATUS)
        return conn->n_contexts;
    if (h->command != NBD_CMD_READ || !is_split(conn, h))
        return 1;
    uint64_t first = h->offset / NBD_SPLIT_BYTES, end = h->offset + h->length;
    return (unsigned)((end + NBD_SPLIT_BYTES - 1) / NBD_SPLIT_BYTES - first);
}

static bool start_split_read(struct nbd_conn *conn, const struct header *h)
{
    unsigned n = n_parts(conn, h);
    if (!nbd_may_allocate(conn, (uint64_t)n * NBD_SPLIT_BYTES))
        return false;
    struct nbd_group *group = group_new(conn, n);
    if (!group)
        return false;
    struct header part = *h;
    uint64_t end = h->offset + h->length;
    bool going = true;
    while (part.offset < end && going) {
        uint64_t next = (part.offset / NBD_SPLIT_BYTES + 1) * NBD_SPLIT_BYTES;
        part.length = (uint32_t)((next < end ? next : end) - part.offset);
        going = start_read_part(conn, &part, group);
        part.offset += part.length;
        n -= going;
    }
    group_started(group, n);
    return going;
}

static bool start_read(struct nbd_conn *conn, const struct header *h)
{
    if (is_split(conn, h))
        return start_split_read(conn, h);
    if (!nbd_may_allocate(conn, nbd_buffer_cost(h->length)))
        return false;
    return start_read_part(conn, h, NULL);
}

static void submit_write(struct nbd_request *req)
{
    req->conn->server->counts[NBD_N_WRITTEN_BYTES] += req->length;
    submit(req);
}

static struct nbd_request *write_new(struct nbd_conn *conn, const struct header *h)
{
    struct nbd_request *req = request_new(conn, h);
    if (!req)
        return NULL;
    count_bytes(req, h->length);
    req->io.op = STORE_WRITE;
    req->io.flags = h->flags & NBD_CMD_FLAG_FUA ? STORE_FUA : 0;
    req->io.offset = h->offset;
    req->io.length = h->length;
    return req;
}

/* have: bytes of the payload that were received. */
static bool start_write_in_place(struct nbd_conn *conn, const struct header *h)
{
    struct nbd_request *req = write_new(conn, h);
    if (!req)
        return false;
    conn->at += (uint32_t)sizeof(struct nbd_request_header);
    req->block = conn->block;
    req->block->refs++;
    req->io.buf = conn->block->data + conn->at;
    conn->at += h->length;
    submit_write(req);
    return true;
}

static bool start_write_apart(struct nbd_conn *conn, const struct header *h, uint32_t have)
{
    if (!nbd_may_allocate(conn, nbd_buffer_cost(h->length)))
        return false;
    struct nbd_request *req = write_new(conn, h);
    if (!req)
        return false;
    conn->at += (uint32_t)sizeof(struct nbd_request_header);
    if (nbd_pool_get(&conn->server->pool, h->length, &req->buffer)) {
        req->error = NBD_ENOMEM;
        req->code = -ENOMEM;
        conn->skip_bytes = h->length;
        conn->skip_request = req;
        return true;
    }
    req->io.buf = req->buffer.data;
    memcpy(req->buffer.data, conn->block->data + conn->at, have);
    conn->at += have;
    conn->payload = req;
    conn->payload_got = have;
    nbd_clock_add(conn->server, &conn->payload_clock, h->length - have);
    if (have == h->length)
        nbd_payload_received(conn);
    return true;
}

static bool start_write(struct nbd_conn *conn, const struct header *h)
{
    uint32_t header_bytes = sizeof(struct nbd_request_header);
    uint32_t have = conn->fill - conn->at - header_bytes;

    conn->large = h->length >= LARGE_WRITE_BYTES;
    if (have >= h->length)
        return start_write_in_place(conn, h);
    if (h->length - have <= WAIT_REST_BYTES && header_bytes + h->length <= conn->block->size) {
        conn->need = header_bytes + h->length;
        return false;
    }
    return start_write_apart(conn, h, have);
}

void nbd_payload_received(struct nbd_conn *conn)
{
    struct nbd_request *req = conn->payload;
    conn->payload = NULL;
    conn->payload_clock.bytes = 0;
    submit_write(req);
}

/* ---- checks --------------------------------------------------------------------------------- */

static int check_range(const struct nbd_conn *conn, const struct header *h, int beyond)
{
    if (h->length == 0)
        return -EINVAL;
    if (h->offset > conn->size_bytes || h->length > conn->size_bytes - h->offset)
        return beyond;
    return 0;
}

static const struct rule {
    uint16_t flags; /* that the command takes, beside FUA, which every command may carry */
    bool writes;
    bool has_buffer; /* length is bounded by NBD_MAX_BLOCK_BYTES */
    int beyond;      /* the error past the end of the disk */
} rules[] = {
    [NBD_CMD_READ] = {NBD_CMD_FLAG_DF, false, true, -EINVAL},
    [NBD_CMD_WRITE] = {0, true, true, -ENOSPC},
    [NBD_CMD_FLUSH] = {0, false, false, 0},
    [NBD_CMD_TRIM] = {0, true, false, -EINVAL},
    [NBD_CMD_CACHE] = {0, false, false, -EINVAL},
    [NBD_CMD_WRITE_ZEROES] = {NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, false, -ENOSPC},
    [NBD_CMD_BLOCK_STATUS] = {NBD_CMD_FLAG_REQ_ONE, false, false, -EINVAL},
};

/* Returns 0 or the code of the answer. */
static int check(const struct nbd_conn *conn, const struct header *h)
{
    if (h->command >= sizeof(rules) / sizeof(rules[0]) || h->command == NBD_CMD_DISC)
        return -EINVAL;
    const struct rule *rule = &rules[h->command];
    if (conn->server->stopping)
        return -ESHUTDOWN;
    if (h->flags & ~(rule->flags | NBD_CMD_FLAG_FUA))
        return -EINVAL;
    if ((h->flags & NBD_CMD_FLAG_DF && !conn->structured) ||
        (h->command == NBD_CMD_BLOCK_STATUS && !conn->n_contexts))
        return -EINVAL;
    if (rule->writes && conn->read_only)
        return -EPERM;
    if (h->command == NBD_CMD_FLUSH)
        return h->offset || h->length ? -EINVAL : 0;
    if (rule->has_buffer && h->length > NBD_MAX_BLOCK_BYTES)
        return h->flags & NBD_CMD_FLAG_DF ? -EOVERFLOW : -EINVAL;
    return check_range(conn, h, rule->beyond);
}

static void count(struct nbd_server *server, const struct header *h)
{
    static const enum nbd_count counts[] = {
        [NBD_CMD_READ] = NBD_N_READS,          [NBD_CMD_WRITE] = NBD_N_WRITES,
        [NBD_CMD_DISC] = NBD_N_OTHERS,         [NBD_CMD_FLUSH] = NBD_N_FLUSHES,
        [NBD_CMD_TRIM] = NBD_N_ZEROES,         [NBD_CMD_CACHE] = NBD_N_OTHERS,
        [NBD_CMD_WRITE_ZEROES] = NBD_N_ZEROES, [NBD_CMD_BLOCK_STATUS] = NBD_N_OTHERS,
    };
    server->counts[h->command < sizeof(counts) / sizeof(counts[0]) ? counts[h->command]
                                                                   : NBD_N_OTHERS]++;
}

/* Within the connection's bounds? One request is always allowed. A connection holds no more than is
 * still free: however many of them take what they can, something is left for the next. */
static bool admit(const struct nbd_conn *conn, const struct header *h)
{
    const struct nbd_config *config = &conn->server->config;
    const struct nbd_pool *pool = &conn->server->pool;
    uint64_t bytes = conn->n_bytes + h->length;
    bool has_buffer = h->command == NBD_CMD_READ || h->command == NBD_CMD_WRITE;

    if (conn->n_requests == 0)
        return true;
    if (conn->n_requests + n_parts(conn, h) > config->connection_requests)
        return false;
    return !has_buffer ||
           (bytes <= config->connection_bytes && bytes <= pool->limit_bytes - pool->used_bytes);
}

/* ---- parsing -------------------------------------------------------------------------------- */

static bool refuse(struct nbd_conn *conn, const struct header *h, int code)
{
    struct nbd_request *req = request_new(conn, h);
    if (!req)
        return false;
    conn->at += (uint32_t)sizeof(struct nbd_request_header);
    if (h->command != NBD_CMD_WRITE) {
        reply_error(req, code);
        return true;
    }
    req->code = code;
    conn->skip_bytes = h->length;
    conn->skip_request = req;
    return true;
}

static bool start(struct nbd_conn *conn, const struct header *h)
{
    bool started = false;

    if (h->command == NBD_CMD_WRITE)
        return start_write(conn, h);
    conn->large = false;
    switch ((enum nbd_command)h->command) {
    case NBD_CMD_READ:
        started = start_read(conn, h);
        break;
    case NBD_CMD_FLUSH:
        started = start_simple(conn, h, STORE_FLUSH);
        break;
    case NBD_CMD_TRIM:
        started = start_simple(conn, h, STORE_TRIM);
        break;
    case NBD_CMD_CACHE:
        started = start_simple(conn, h, STORE_CACHE);
        break;
    case NBD_CMD_WRITE_ZEROES:
        started = start_simple(conn, h, STORE_ZERO);
        break;
    case NBD_CMD_BLOCK_STATUS:
        started = start_status(conn, h);
        break;
    case NBD_CMD_WRITE:
    case NBD_CMD_DISC:
        break;
    }
    if (started)
        conn->at += (uint32_t)sizeof(struct nbd_request_header);
    return started;
}

/* Drop bytes of refused payloads; true when there is nothing (more) to drop. */
static bool skipped(struct nbd_conn *conn)
{
    uint32_t have = conn->fill - conn->at;
    uint32_t n = conn->skip_bytes < have ? (uint32_t)conn->skip_bytes : have;

    conn->at += n;
    conn->skip_bytes -= n;
    if (conn->skip_bytes)
        return false;
    struct nbd_request *req = conn->skip_request;
    conn->skip_request = NULL;
    if (req)
        reply_error(req, req->code);
    return true;
}

/* One request from the input. False: there is no whole one, or it has to wait. */
static bool parse_one(struct nbd_conn *conn)
{
    struct nbd_request_header wire;

    if (conn->payload || !skipped(conn) || conn->fill - conn->at < sizeof(wire))
        return false;
    memcpy(&wire, conn->block->data + conn->at, sizeof(wire));
    struct header h = {
        .flags = be16toh(wire.flags),
        .command = be16toh(wire.command),
        .cookie = wire.cookie, /* opaque */
        .offset = be64toh(wire.offset),
        .length = be32toh(wire.length),
    };
    if (be32toh(wire.magic) != NBD_MAGIC_REQUEST) {
        conn->server->counts[NBD_N_BROKEN]++;
        nbd_conn_kill(conn);
        return false;
    }
    if (h.command == NBD_CMD_DISC) {
        nbd_conn_linger(conn);
        return false;
    }
    int code = check(conn, &h);
    if (!code && !admit(conn, &h)) {
        conn->blocked = true;
        return false;
    }
    if (code && conn->n_requests >= conn->server->config.connection_requests) {
        conn->blocked = true;
        return false;
    }
    bool taken = code ? refuse(conn, &h, code) : start(conn, &h);
    if (taken)
        count(conn->server, &h);
    return taken;
}

void nbd_transmission_parse(struct nbd_conn *conn)
{
    do
        conn->need = sizeof(struct nbd_request_header);
    while (conn->phase == NBD_TRANSMISSION && parse_one(conn));
}
