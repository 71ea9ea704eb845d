/* fuzz-nbd.c - a client's bytes against the NBD server.
 *
 * The first byte of an input chooses the circumstances: bit 0 puts a good handshake first, bit 1
 * without structured replies, bit 2 makes the store answer later, bit 3 read-only, bit 4 gives a
 * bad page, bit 5 failing writes, bit 6 the smallest bounds, bit 7 has the client hang up at the
 * end instead of waiting for the answers. The rest is sent.
 *
 * Shown: no crash, no leak, the connection ends, every answer in transmission is well-formed and in
 * step, with no more final answers than there can be requests. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "export/fake-store.h"
#include "export/nbd.h"
#include "export/nbd_format.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define DISK_BYTES (600u << 10 | 5)
#define MAX_TURNS  1000000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct store *store;
static struct nbd_store_exports exports;
static struct disk *(*find_writable)(struct nbd_exports *exports, const char *name, bool *ret);
static bool read_only;

static struct disk *find(struct nbd_exports *e, const char *name, bool *ret)
{
    struct disk *disk = find_writable(e, name, ret);
    if (disk && !*ret)
        *ret = read_only;
    return disk;
}

static void dispatch(struct loop_hook *hook)
{
    store_dispatch(store);
}

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz-nbd: %s\n", what);
    abort();
}

static void set_up(void)
{
    static struct loop_hook hook = {.run = dispatch};
    if (loop)
        return;
    check(!loop_create(LOOP_AUTO, 64, &loop), "no loop");
    check(!fake_store_create(&store), "no store");
    check(!fake_store_add(store, "vm", "root", DISK_BYTES), "no disk");
    check(!fake_store_snap(store, "vm", "a"), "no version");
    check(!fake_store_snap(store, "vm", "b"), "no version");
    check(!fake_store_clone(store, "vm", "a", "clone"), "no clone");
    nbd_store_exports_init(&exports, store);
    find_writable = exports.exports.find;
    exports.exports.find = find;
    loop_add_hook(loop, &hook);
}

/* ---- a good handshake ----------------------------------------------------------------------- */

static size_t put_option(uint8_t *to, uint32_t option, const void *data, uint32_t len)
{
    struct nbd_option_header header = {
        .magic = htobe64(NBD_MAGIC_OPTION), .option = htobe32(option), .length = htobe32(len)};
    memcpy(to, &header, sizeof(header));
    if (len)
        memcpy(to + sizeof(header), data, len);
    return sizeof(header) + len;
}

static size_t put_handshake(uint8_t *to, bool structured)
{
    static const uint8_t context[] = "\0\0\0\2vm\0\0\0\3\0\0\0\017base:allocation"
                                     "\0\0\0\017varve:changed:a"
                                     "\0\0\0\021varve:changed:vm@b";
    static const uint8_t go[] = "\0\0\0\2vm\0\1\0\3";
    uint32_t flags = htobe32(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    size_t n = sizeof(flags);

    memcpy(to, &flags, sizeof(flags));
    if (structured) {
        n += put_option(to + n, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        n += put_option(to + n, NBD_OPT_SET_META_CONTEXT, context, sizeof(context) - 1);
    }
    return n + put_option(to + n, NBD_OPT_GO, go, sizeof(go) - 1);
}

/* ---- what came back ------------------------------------------------------------------------- */

struct answer {
    uint8_t *data;
    size_t size, room;
};

static void collect(struct answer *answer, const uint8_t *data, size_t len)
{
    if (answer->size + len > answer->room) {
        answer->room = (answer->size + len) * 2;
        answer->data = realloc(answer->data, answer->room);
        check(answer->data, "no memory");
    }
    memcpy(answer->data + answer->size, data, len);
    answer->size += len;
}

/* The replies to options; returns where the answers of the transmission begin, if it began. */
static size_t check_options(const struct answer *a)
{
    size_t at = sizeof(struct nbd_greeting);

    if (a->size < at)
        return a->size;
    for (;;) {
        struct nbd_option_reply reply;
        if (a->size - at < sizeof(reply))
            return a->size;
        memcpy(&reply, a->data + at, sizeof(reply));
        if (be64toh(reply.magic) != NBD_MAGIC_REPLY)
            return a->size; /* EXPORT_NAME has answers of another kind */
        uint32_t option = be32toh(reply.option), type = be32toh(reply.type);
        at += sizeof(reply) + be32toh(reply.length);
        check(type & 0x80000000 || type <= NBD_REP_META_CONTEXT, "an unknown type of reply");
        if (at > a->size)
            return a->size;
        if (option == NBD_OPT_GO && type == NBD_REP_ACK)
            return at;
    }
}

static void check_replies(const struct answer *a, size_t at, size_t max_replies, bool complete)
{
    size_t n = 0;

    while (a->size - at >= sizeof(uint32_t)) {
        uint32_t magic;
        memcpy(&magic, a->data + at, sizeof(magic));
        if (be32toh(magic) == NBD_MAGIC_SIMPLE_REPLY) {
            at += sizeof(struct nbd_simple_reply);
            n++;
        } else {
            struct nbd_chunk chunk;
            check(be32toh(magic) == NBD_MAGIC_STRUCTURED_REPLY, "an answer out of step");
            if (a->size - at < sizeof(chunk))
                break;
            memcpy(&chunk, a->data + at, sizeof(chunk));
            at += sizeof(chunk) + be32toh(chunk.length);
            n += (be16toh(chunk.flags) & NBD_CHUNK_DONE) != 0;
        }
        check(at <= a->size || !complete, "a reply that ends early");
        if (at > a->size)
            break;
    }
    check(n <= max_replies, "more replies than requests");
}

/* ---- the run -------------------------------------------------------------------------------- */

static bool stopped;

static void note_stopped(void *arg)
{
    stopped = true;
}

static size_t counter(const struct nbd_server *server, const char *name)
{
    struct nbd_counter counters[32];
    size_t n = nbd_server_counters(server, counters, 32);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(counters[i].name, name))
            return counters[i].value;
    return 0;
}

static void stop_server(struct nbd_server *server)
{
    stopped = false;
    nbd_server_stop(server, note_stopped, NULL);
    for (unsigned turn = 0; !stopped; turn++) {
        check(turn < MAX_TURNS, "the server does not stop");
        loop_poll(loop, false);
    }
    nbd_server_free(server);
}

/* Send input, take the answers, until the server has closed. */
static void converse(struct nbd_server *server, int fd, const uint8_t *input, size_t size,
                     bool hang_up, struct answer *answer)
{
    static uint8_t buf[256 << 10];
    size_t sent = 0;

    for (unsigned turn = 0; counter(server, "nbd.connections"); turn++) {
        check(turn < MAX_TURNS, "the connection does not end");
        while (sent < size) {
            ssize_t n = send(fd, input + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n <= 0) {
                sent = errno == EAGAIN ? sent : size;
                break;
            }
            sent += (size_t)n;
        }
        if (sent == size)
            shutdown(fd, hang_up ? SHUT_RDWR : SHUT_WR);
        loop_poll(loop, false);
        ssize_t n;
        while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
            collect(answer, buf, (size_t)n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbd_config config = nbd_config_default;
    struct nbd_server *server;
    struct answer answer = {0};
    int fds[2];

    if (!size)
        return 0;
    set_up();
    uint8_t how = *data++;
    size--;
    struct fake_faults *faults = fake_store_faults(store);
    *faults = (struct fake_faults){
        .later = how & 4,
        .bad_page = how & 16 ? 20 * PAGE_BYTES : UINT64_MAX,
        .write_error = how & 32 ? ERR_STORE_FULL : 0,
    };
    read_only = how & 8;
    if (how & 64) {
        config.connection_requests = 2;
        config.connection_bytes = NBD_MAX_BLOCK_BYTES;
        config.buffer_bytes = 2 * NBD_MAX_BLOCK_BYTES;
        config.receive_bytes = 0;
    }
    _cleanup_free_ uint8_t *input = malloc(size + 256);
    check(input, "no memory");
    size_t n = how & 1 ? put_handshake(input, !(how & 2)) : 0;
    memcpy(input + n, data, size);
    n += size;

    check(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), "no sockets");
    check(!nbd_server_create(loop, &config, &exports.exports, &server), "no server");
    check(!nbd_server_adopt(server, fds[0]), "not adopted");
    converse(server, fds[1], input, n, how & 128, &answer);
    close(fds[1]);
    /* Who breaks the protocol is cut off in the middle of what is on its way. */
    bool cut_off = how & 128 || counter(server, "nbd.broken") > 0;
    stop_server(server);
    check(fake_store_stats(store)->users == 0, "a disk is still in use");
    check(fake_store_stats(store)->in_flight == 0, "a request is still in flight");
    size_t at = check_options(&answer);
    if ((how & 3) == 1) /* structured: without, the length of a reply depends on its request */
        check_replies(&answer, at, size / sizeof(struct nbd_request_header), !cut_off);
    free(answer.data);
    return 0;
}
