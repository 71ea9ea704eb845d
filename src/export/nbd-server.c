/* nbd-server.c - listening, limits, deadlines, stopping. */
#include "export/nbd-internal.h"

#include "base/cleanup.h"
#include "base/mono.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define TICK_US           1000000
#define UNIX_BUFFER_BYTES (256 << 10) /* more was not faster, and a client may leave it full */
#define RATE_BYTES        (1u << 20)  /* a second: what a client is to take or send */
#define DEATH_TRIES       50
#define DEATH_PAUSE_US    20000
#define LISTEN_BACKLOG    1024

const struct nbd_config nbd_config_default = {
    .max_connections = 4096,
    .connection_requests = 256,
    .connection_bytes = 64u << 20,
    .buffer_bytes = 128u << 20,
    .receive_bytes = 32u << 20,
    .handshake_ms = 10000,
    .linger_ms = 10000,
    .stall_ms = 30000,
};

static const struct {
    const char *name, *description;
} count_texts[NBD_N_COUNTS] = {
    [NBD_N_ACCEPTED] = {"nbd.accepted", "connections accepted"},
    [NBD_N_REFUSED] = {"nbd.refused", "connections closed at once, at the bound or out of memory"},
    [NBD_N_BROKEN] = {"nbd.broken", "connections closed because the client broke the protocol"},
    [NBD_N_STALLED] = {"nbd.stalled", "connections closed because they came to a deadline"},
    [NBD_N_READS] = {"nbd.reads", "READ requests"},
    [NBD_N_WRITES] = {"nbd.writes", "WRITE requests"},
    [NBD_N_FLUSHES] = {"nbd.flushes", "FLUSH requests"},
    [NBD_N_ZEROES] = {"nbd.zeroes", "TRIM and WRITE_ZEROES requests"},
    [NBD_N_OTHERS] = {"nbd.others", "other requests"},
    [NBD_N_ERRORS] = {"nbd.errors", "requests answered with an error"},
    [NBD_N_READ_BYTES] = {"nbd.read_bytes", "bytes of data sent"},
    [NBD_N_WRITTEN_BYTES] = {"nbd.written_bytes", "bytes of data received"},
    [NBD_N_HOLE_BYTES] = {"nbd.hole_bytes", "bytes read that were sent as holes"},
    [NBD_N_SENDS] = {"nbd.sends", "sends; each takes the replies of a turn"},
    [NBD_N_RECEIVES] = {"nbd.receives", "receives; each takes all requests that are there"},
    [NBD_N_STARVED] = {"nbd.starved", "times that a connection waited for memory"},
};

struct listener {
    struct list link;
    struct nbd_server *server;
    struct loop_op op;
    int fd;
    bool busy, retry; /* retry: with the next tick: no descriptors, no memory */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "" for TCP */
};

static void maybe_stopped(struct nbd_server *server);

/* ---- accepting ------------------------------------------------------------------------------ */

static void tune_socket(int fd)
{
    int one = 1, size = UNIX_BUFFER_BYTES, domain = 0;
    socklen_t len = sizeof(domain);

    /* All of this only makes it faster: what fails is left alone. */
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
        return;
    if (domain != AF_UNIX) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
        return;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int nbd_server_adopt(struct nbd_server *server, int fd)
{
    tune_socket(fd);
    int err = server->stopping ? -ESHUTDOWN : nbd_conn_new(server, fd);
    server->counts[err ? NBD_N_REFUSED : NBD_N_ACCEPTED]++;
    if (err)
        close(fd);
    return err;
}

static void accept_next(struct listener *listener)
{
    listener->busy = true;
    loop_accept(listener->server->loop, &listener->op, listener->fd);
}

static void accepted(struct loop_op *op, int res)
{
    struct listener *listener = container_of(op, struct listener, op);
    struct nbd_server *server = listener->server;

    listener->busy = false;
    if (server->stopping) {
        if (res >= 0)
            close(res);
        maybe_stopped(server);
        return;
    }
    if (res >= 0)
        nbd_server_adopt(server, res);
    listener->retry = res < 0 && res != -ECONNABORTED && res != -EINTR;
    if (!listener->retry)
        accept_next(listener);
}

static int add_listener(struct nbd_server *server, int fd, const char *path)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return -ENOMEM;
    listener->server = server;
    listener->fd = fd;
    listener->op.done = accepted;
    strcpy(listener->path, path);
    list_push_back(&server->listeners, &listener->link);
    accept_next(listener);
    return 0;
}

/* Whether somebody accepts connections at addr. */
static bool accepts(const struct sockaddr_un *addr)
{
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ||
           errno != ECONNREFUSED;
}

/* The same, with patience: the kernel closes the sockets of a killed process that had them in an
 * io_uring a little after its death. */
static bool is_alive(const struct sockaddr_un *addr)
{
    for (int i = 0; i < DEATH_TRIES; i++) {
        if (!accepts(addr))
            return false;
        usleep(DEATH_PAUSE_US);
    }
    return true;
}

int nbd_server_listen_unix(struct nbd_server *server, const char *path, unsigned mode)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;

    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    strcpy(addr.sun_path, path);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int res = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
    if (res < 0 && errno == EADDRINUSE) {
        if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
            return -EEXIST;
        if (is_alive(&addr))
            return -EADDRINUSE;
        if (unlink(path) < 0 && errno != ENOENT)
            return -errno;
        res = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
    }
    /* Nobody can connect before listen(). */
    if (res < 0 || chmod(path, mode) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -errno;
    int err = add_listener(server, fd, path);
    if (!err)
        fd = -1;
    return err;
}

int nbd_server_listen_tcp(struct nbd_server *server, const char *address, uint16_t port,
                          uint16_t *ret_port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } addr = {0};
    socklen_t len = sizeof(addr.in);
    int one = 1;

    if (inet_pton(AF_INET, address, &addr.in.sin_addr) == 1) {
        addr.in.sin_family = AF_INET;
        addr.in.sin_port = htons(port);
    } else if (inet_pton(AF_INET6, address, &addr.in6.sin6_addr) == 1) {
        addr.in6.sin6_family = AF_INET6;
        addr.in6.sin6_port = htons(port);
        len = sizeof(addr.in6);
    } else {
        return -EINVAL;
    }
    _cleanup_close_ int fd =
        socket(addr.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, &addr.any, len) < 0 || listen(fd, LISTEN_BACKLOG) < 0 ||
        getsockname(fd, &addr.any, &len) < 0)
        return -errno;
    int err = add_listener(server, fd, "");
    if (err)
        return err;
    fd = -1;
    if (ret_port)
        *ret_port = ntohs(addr.any.sa_family == AF_INET ? addr.in.sin_port : addr.in6.sin6_port);
    return 0;
}

/* ---- deadlines ------------------------------------------------------------------------------ */

static void kill_expired(struct nbd_server *server, struct list *conns)
{
    list_for_each_safe (l, conns) {
        struct nbd_conn *conn = container_of(l, struct nbd_conn, link);
        if (conn->deadline_us > server->now_us)
            break;
        if (conn->phase != NBD_DEAD)
            server->counts[NBD_N_STALLED]++;
        nbd_conn_kill(conn);
    }
}

void nbd_clock_add(const struct nbd_server *server, struct nbd_clock *clock, uint64_t bytes)
{
    if (!clock->bytes)
        clock->since_us = clock->moved_us = server->now_us;
    clock->bytes += bytes;
}

static void clock_restart(const struct nbd_server *server, struct nbd_clock *clock, uint64_t bytes)
{
    clock->bytes = bytes;
    clock->since_us = server->now_us;
}

static bool is_late(const struct nbd_server *server, const struct nbd_clock *clock)
{
    uint64_t stall_us = server->config.stall_ms * 1000;
    uint64_t wanted_us = clock->bytes * 1000000 / RATE_BYTES;
    return clock->bytes && (clock->moved_us + stall_us < server->now_us ||
                            clock->since_us + wanted_us + stall_us < server->now_us);
}

/* While others wait for memory: whoever sits on some, and does not move or crawls, goes. */
static bool is_stalled(const struct nbd_conn *conn)
{
    return conn->phase != NBD_DEAD &&
           (is_late(conn->server, &conn->out_clock) || is_late(conn->server, &conn->payload_clock));
}

static void tend_serving(struct nbd_server *server)
{
    bool starving = !list_empty(&server->starved[0]) || !list_empty(&server->starved[1]);

    list_for_each_safe (l, &server->serving) {
        struct nbd_conn *conn = container_of(l, struct nbd_conn, link);
        if (starving && is_stalled(conn)) {
            server->counts[NBD_N_STALLED]++;
            nbd_conn_kill(conn);
            continue;
        }
        if (!starving) {
            clock_restart(server, &conn->out_clock, conn->out ? conn->out->bytes : 0);
            clock_restart(server, &conn->payload_clock,
                          conn->payload ? conn->payload->length - conn->payload_got : 0);
        }
        /* A second of silence: it goes on in its small buffer, and the block is free for others. */
        if (conn->block != &conn->small && !conn->recv_seen && !conn->n_requests &&
            conn->recv_busy && conn->fill == conn->at && conn->phase != NBD_DEAD)
            loop_cancel(server->loop, &conn->recv_op);
        conn->recv_seen = false;
    }
}

static void ticked(struct loop_op *op, int res)
{
    struct nbd_server *server = container_of(op, struct nbd_server, tick_op);

    server->tick_busy = false;
    server->now_us = mono_us();
    kill_expired(server, &server->handshaking);
    kill_expired(server, &server->lingering);
    tend_serving(server);
    if (server->stopping && !server->n_connections) {
        maybe_stopped(server);
        return;
    }
    list_for_each (l, &server->listeners) {
        struct listener *listener = container_of(l, struct listener, link);
        if (listener->retry && !server->stopping)
            accept_next(listener);
        listener->retry = false;
    }
    server->tick_busy = true;
    loop_timeout(server->loop, &server->tick_op, TICK_US);
}

/* ---- the turn ------------------------------------------------------------------------------- */

static void serve_dirty(struct loop_hook *hook)
{
    struct nbd_server *server = container_of(hook, struct nbd_server, hook);
    struct list dirty, *l;

    list_init(&dirty);
    list_splice(&dirty, &server->dirty);
    while ((l = list_pop_front(&dirty)))
        nbd_conn_serve(container_of(l, struct nbd_conn, dirty_link));
}

/* ---- life ----------------------------------------------------------------------------------- */

int nbd_server_create(struct loop *loop, const struct nbd_config *config,
                      struct nbd_exports *exports, struct nbd_server **ret)
{
    if (config->connection_bytes < NBD_MAX_BLOCK_BYTES || !config->connection_requests ||
        config->buffer_bytes < NBD_MIN_BUFFER_BYTES || !config->max_connections)
        return -EINVAL;
    struct nbd_server *server = calloc(1, sizeof(*server));
    if (!server)
        return -ENOMEM;
    server->loop = loop;
    server->config = *config;
    server->exports = exports;
    struct list *lists[] = {&server->listeners,    &server->handshaking, &server->serving,
                            &server->lingering,    &server->dirty,       &server->starved[0],
                            &server->starved[1],   &server->free_outs,   &server->free_blocks,
                            &server->free_requests};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_init(lists[i]);
    nbd_pool_init(&server->pool, config->buffer_bytes);
    server->hook.run = serve_dirty;
    loop_add_hook(loop, &server->hook);
    server->now_us = mono_us();
    server->tick_op.done = ticked;
    server->tick_busy = true;
    loop_timeout(loop, &server->tick_op, TICK_US);
    *ret = server;
    return 0;
}

static void stopped(void *arg)
{
    struct nbd_server *server = arg;
    server->stop_done(server->stop_arg);
}

/* Call stop_done() once when the last thing is over. */
static void maybe_stopped(struct nbd_server *server)
{
    if (!server->stopping || server->stopped || server->n_connections)
        return;
    list_for_each (l, &server->listeners)
        if (container_of(l, struct listener, link)->busy)
            return;
    if (server->tick_busy) {
        loop_cancel(server->loop, &server->tick_op);
        return;
    }
    server->stopped = true;
    /* From a post, so that the server may be freed in it. Without memory for one, with a tick. */
    if (loop_post(server->loop, stopped, server) < 0) {
        server->stopped = false;
        server->tick_busy = true;
        loop_timeout(server->loop, &server->tick_op, TICK_US);
    }
}

void nbd_server_conn_gone(struct nbd_server *server)
{
    maybe_stopped(server);
}

void nbd_server_stop(struct nbd_server *server, void (*done)(void *arg), void *arg)
{
    server->stopping = true;
    server->stop_done = done;
    server->stop_arg = arg;
    list_for_each (l, &server->listeners) {
        struct listener *listener = container_of(l, struct listener, link);
        if (*listener->path)
            unlink(listener->path);
        if (listener->busy)
            loop_cancel(server->loop, &listener->op);
    }
    list_for_each_safe (h, &server->handshaking)
        nbd_conn_kill(container_of(h, struct nbd_conn, link));
    list_for_each_safe (s, &server->serving) {
        struct nbd_conn *conn = container_of(s, struct nbd_conn, link);
        /* What was received and not begun stays without an answer, so that the client sends it
         * again to the next daemon: an error it would hand to its guest. */
        if (conn->phase == NBD_TRANSMISSION)
            nbd_conn_linger(conn);
    }
    maybe_stopped(server);
}

unsigned nbd_server_disconnect(struct nbd_server *server, const struct disk *disk)
{
    struct list *lists[] = {&server->serving, &server->lingering};
    unsigned n = 0;

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_for_each_safe (l, lists[i]) {
            struct nbd_conn *conn = container_of(l, struct nbd_conn, link);
            if (conn->disk != disk || conn->phase == NBD_DEAD)
                continue;
            nbd_conn_kill(conn);
            n++;
        }
    return n;
}

bool nbd_server_clients(const struct nbd_server *server,
                        bool (*each)(void *arg, const struct nbd_client *client), void *arg)
{
    list_for_each (l, &server->serving) {
        const struct nbd_conn *conn = container_of(l, struct nbd_conn, link);
        if (conn->phase != NBD_TRANSMISSION)
            continue;
        const struct nbd_client client = {conn->name, conn->disk, conn->pid};
        if (each(arg, &client))
            return true;
    }
    return false;
}

static void free_list(struct list *head, size_t offset)
{
    struct list *l;
    while ((l = list_pop_front(head)))
        free((char *)l - offset);
}

void nbd_server_free(struct nbd_server *server)
{
    if (!server)
        return;
    loop_remove_hook(server->loop, &server->hook);
    list_for_each (b, &server->free_blocks)
        free(container_of(b, struct nbd_block, link)->data);
    free_list(&server->free_blocks, offsetof(struct nbd_block, link));
    free_list(&server->free_requests, offsetof(struct nbd_request, link));
    free_list(&server->free_outs, offsetof(struct nbd_out, link));
    list_for_each (l, &server->listeners)
        close(container_of(l, struct listener, link)->fd);
    free_list(&server->listeners, offsetof(struct listener, link));
    nbd_pool_destroy(&server->pool);
    free(server);
}

size_t nbd_server_counters(const struct nbd_server *server, struct nbd_counter *ret, size_t max)
{
    for (size_t i = 0; i < max && i < NBD_N_COUNTS; i++)
        ret[i] = (struct nbd_counter){count_texts[i].name, count_texts[i].description,
                                      server->counts[i]};
    if (max > NBD_N_COUNTS)
        ret[NBD_N_COUNTS] = (struct nbd_counter){"nbd.connections", "connections that are open",
                                                 server->n_connections};
    if (max > NBD_N_COUNTS + 1)
        ret[NBD_N_COUNTS + 1] = (struct nbd_counter){
            "nbd.buffer_bytes", "bytes of payload buffers in use", server->pool.used_bytes};
    return NBD_N_COUNTS + 2;
}
