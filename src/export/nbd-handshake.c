/* nbd-handshake.c - fixed newstyle negotiation: which export, which features.
 *
 * One thing is parsed at a time; while its answer is on the way nothing more is parsed or received,
 * so a client that asks without end and never reads costs one answer. */
#include "export/nbd-internal.h"
#include "export/nbd_format.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- answers -------------------------------------------------------------------------------- */

static void text_sent(struct loop_op *op, int res)
{
    struct nbd_conn *conn = container_of(op, struct nbd_conn, text_op);

    conn->text_busy = false;
    nbd_conn_dirty(conn);
    if (conn->phase == NBD_DEAD)
        return;
    if (res <= 0 && res != -EINTR && res != -EAGAIN) {
        nbd_conn_kill(conn);
        return;
    }
    if (res > 0)
        conn->text_sent += (size_t)res;
    if (conn->text_sent < conn->text_len) {
        conn->text_iov = (struct iovec){.iov_base = conn->text + conn->text_sent,
                                        .iov_len = conn->text_len - conn->text_sent};
        conn->text_busy = true;
        loop_sendmsg(conn->server->loop, op, conn->fd, &conn->text_msg, MSG_WAITALL);
        return;
    }
    conn->text_len = 0;
    if (conn->phase == NBD_TRANSMISSION) {
        free(conn->text);
        conn->text = NULL;
        conn->text_size = 0;
    }
}

static void send_text(struct nbd_conn *conn)
{
    if (conn->phase == NBD_DEAD || !conn->text_len)
        return;
    conn->text_sent = 0;
    conn->text_iov = (struct iovec){.iov_base = conn->text, .iov_len = conn->text_len};
    conn->text_msg = (struct msghdr){.msg_iov = &conn->text_iov, .msg_iovlen = 1};
    conn->text_op.done = text_sent;
    conn->text_busy = true;
    loop_sendmsg(conn->server->loop, &conn->text_op, conn->fd, &conn->text_msg, MSG_WAITALL);
}

static void put(struct nbd_conn *conn, const void *data, size_t len)
{
    if (conn->phase == NBD_DEAD)
        return;
    if (conn->text_len + len > conn->text_size) {
        size_t size = (conn->text_len + len) * 2;
        uint8_t *text = realloc(conn->text, size);
        if (!text) {
            nbd_conn_kill(conn);
            return;
        }
        conn->text = text;
        conn->text_size = size;
    }
    memcpy(conn->text + conn->text_len, data, len);
    conn->text_len += len;
}

static void put_reply(struct nbd_conn *conn, uint32_t option, uint32_t type, size_t len)
{
    struct nbd_option_reply reply = {
        .magic = htobe64(NBD_MAGIC_REPLY),
        .option = htobe32(option),
        .type = htobe32(type),
        .length = htobe32((uint32_t)len),
    };
    put(conn, &reply, sizeof(reply));
}

static void put_error(struct nbd_conn *conn, uint32_t option, uint32_t type, const char *text)
{
    put_reply(conn, option, type, strlen(text));
    put(conn, text, strlen(text));
}

/* ---- reading an option's data --------------------------------------------------------------- */

struct reader {
    const uint8_t *at;
    size_t left;
    bool short_of; /* something was asked for that is not there */
};

static const uint8_t *take(struct reader *r, size_t len)
{
    if (r->left < len) {
        r->short_of = true;
        r->left = 0;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += len;
    r->left -= len;
    return p;
}

static uint32_t take_u32(struct reader *r)
{
    uint32_t v = 0;
    const uint8_t *p = take(r, sizeof(v));
    if (p)
        memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static uint16_t take_u16(struct reader *r)
{
    uint16_t v = 0;
    const uint8_t *p = take(r, sizeof(v));
    if (p)
        memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

/* An export name of len bytes. One that is too long or has a NUL in it becomes one that nothing
 * has. */
static void take_name(struct reader *r, uint32_t len, char name[NBD_EXPORT_NAME_MAX + 1])
{
    const uint8_t *p = take(r, len);
    strcpy(name, "?");
    if (!p || len > NBD_EXPORT_NAME_MAX || memchr(p, 0, len))
        return;
    memcpy(name, p, len);
    name[len] = 0;
}

/* ---- exports -------------------------------------------------------------------------------- */

static struct disk *find(struct nbd_conn *conn, const char *name, bool *ret_read_only)
{
    struct nbd_exports *exports = conn->server->exports;
    return exports->find(exports, name, ret_read_only);
}

static uint16_t export_flags(const struct nbd_conn *conn, bool read_only)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                     NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE;
    flags |= read_only ? NBD_FLAG_READ_ONLY
                       : NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    if (conn->structured)
        flags |= NBD_FLAG_SEND_DF;
    return (uint16_t)flags;
}

static int peer_pid(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ? 0 : (int)peer.pid;
}

static void begin_transmission(struct nbd_conn *conn, struct disk *disk, const char *name,
                               bool read_only)
{
    disk_get(disk);
    conn->disk = disk;
    strcpy(conn->name, name);
    conn->pid = peer_pid(conn->fd);
    conn->store = disk_store(disk);
    conn->size_bytes = disk_size(disk);
    conn->read_only = read_only;
    /* Contexts that were set for another export are none. */
    if (strcmp(conn->meta_name, name))
        nbd_context_clear(conn);
    conn->phase = NBD_TRANSMISSION;
    conn->need = sizeof(struct nbd_request_header);
    conn->blocked = true; /* parsing begins when the answer is out */
    list_del(&conn->link);
    list_push_back(&conn->server->serving, &conn->link);
}

static void option_export_name(struct nbd_conn *conn, struct reader *r)
{
    char name[NBD_EXPORT_NAME_MAX + 1];
    bool read_only;

    take_name(r, (uint32_t)r->left, name);
    struct disk *disk = find(conn, name, &read_only);
    if (!disk) { /* this old option has no way to say so */
        nbd_conn_kill(conn);
        return;
    }
    begin_transmission(conn, disk, name, read_only);
    struct nbd_export_name_reply reply = {
        .size = htobe64(conn->size_bytes),
        .flags = htobe16(export_flags(conn, read_only)),
    };
    put(conn, &reply, conn->no_zeroes ? sizeof(reply) - sizeof(reply.zeroes) : sizeof(reply));
}

static void put_info_block_size(struct nbd_conn *conn, uint32_t option)
{
    struct nbd_info_block_size info = {
        .type = htobe16(NBD_INFO_BLOCK_SIZE),
        .minimum = htobe32(1),
        .preferred = htobe32(PAGE_BYTES),
        .maximum = htobe32(NBD_MAX_BLOCK_BYTES),
    };
    put_reply(conn, option, NBD_REP_INFO, sizeof(info));
    put(conn, &info, sizeof(info));
}

static void put_info_text(struct nbd_conn *conn, uint32_t option, uint16_t type, const char *text)
{
    uint16_t be = htobe16(type);
    put_reply(conn, option, NBD_REP_INFO, sizeof(be) + strlen(text));
    put(conn, &be, sizeof(be));
    put(conn, text, strlen(text));
}

/* INFO and GO. */
static void option_info(struct nbd_conn *conn, uint32_t option, struct reader *r)
{
    char name[NBD_EXPORT_NAME_MAX + 1];
    bool read_only, block_size = false, full_name = false;

    take_name(r, take_u32(r), name);
    for (unsigned n = take_u16(r); n && !r->short_of; n--) {
        uint16_t type = take_u16(r);
        block_size |= type == NBD_INFO_BLOCK_SIZE;
        full_name |= type == NBD_INFO_NAME;
    }
    if (r->short_of || r->left) {
        put_error(conn, option, NBD_REP_ERR_INVALID, "the option's lengths do not fit");
        return;
    }
    struct disk *disk = find(conn, name, &read_only);
    if (!disk) {
        put_error(conn, option, NBD_REP_ERR_UNKNOWN, "there is no such disk");
        return;
    }
    struct nbd_info_export info = {
        .type = htobe16(NBD_INFO_EXPORT),
        .size = htobe64(disk_size(disk)),
        .flags = htobe16(export_flags(conn, read_only)),
    };
    put_reply(conn, option, NBD_REP_INFO, sizeof(info));
    put(conn, &info, sizeof(info));
    if (full_name)
        put_info_text(conn, option, NBD_INFO_NAME, name);
    if (block_size)
        put_info_block_size(conn, option);
    put_reply(conn, option, NBD_REP_ACK, 0);
    if (option == NBD_OPT_GO && conn->phase != NBD_DEAD)
        begin_transmission(conn, disk, name, read_only);
}

static void list_each(void *arg, const char *name)
{
    struct nbd_conn *conn = arg;
    uint32_t len = (uint32_t)strlen(name), be = htobe32(len);

    put_reply(conn, NBD_OPT_LIST, NBD_REP_SERVER, sizeof(be) + len);
    put(conn, &be, sizeof(be));
    put(conn, name, len);
}

static void option_list(struct nbd_conn *conn, const struct reader *r)
{
    struct nbd_exports *exports = conn->server->exports;

    if (r->left) {
        put_error(conn, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "LIST takes no data");
        return;
    }
    if (exports->list(exports, list_each, conn)) {
        nbd_conn_kill(conn);
        return;
    }
    put_reply(conn, NBD_OPT_LIST, NBD_REP_ACK, 0);
}

static void put_context(struct nbd_conn *conn, uint32_t option, uint32_t id, const char *name)
{
    uint32_t be = htobe32(id);
    put_reply(conn, option, NBD_REP_META_CONTEXT, sizeof(be) + strlen(name));
    put(conn, &be, sizeof(be));
    put(conn, name, strlen(name));
}

/* LIST_META_CONTEXT and SET_META_CONTEXT. */
static void option_context(struct nbd_conn *conn, uint32_t option, struct reader *r)
{
    bool is_list = option == NBD_OPT_LIST_META_CONTEXT, read_only;
    char name[NBD_EXPORT_NAME_MAX + 1];

    if (!is_list)
        nbd_context_clear(conn);
    take_name(r, take_u32(r), name);
    uint32_t n = take_u32(r);
    struct reader queries = *r;
    for (uint32_t i = 0; i < n && !r->short_of; i++)
        take(r, take_u32(r));
    if (r->short_of || r->left) {
        put_error(conn, option, NBD_REP_ERR_INVALID, "the option's lengths do not fit");
        return;
    }
    if (!is_list && !conn->structured) {
        put_error(conn, option, NBD_REP_ERR_INVALID, "structured replies come first");
        return;
    }
    if (!find(conn, name, &read_only)) {
        put_error(conn, option, NBD_REP_ERR_UNKNOWN, "there is no such disk");
        return;
    }
    if (!is_list)
        strcpy(conn->meta_name, name);
    struct nbd_context_option asked = {conn, name, option, .found = put_context};
    if (is_list && n == 0)
        nbd_context_list_all(&asked);
    for (uint32_t i = 0; i < n && conn->phase != NBD_DEAD; i++) {
        uint32_t len = take_u32(&queries);
        nbd_context_query(&asked, take(&queries, len), len);
    }
    put_reply(conn, option, NBD_REP_ACK, 0);
}

static void option_structured(struct nbd_conn *conn, const struct reader *r)
{
    if (r->left) {
        put_error(conn, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID, "takes no data");
        return;
    }
    conn->structured = true;
    put_reply(conn, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, 0);
}

static void handle_option(struct nbd_conn *conn, uint32_t option, struct reader *r)
{
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        option_export_name(conn, r);
        break;
    case NBD_OPT_ABORT:
        put_reply(conn, option, NBD_REP_ACK, 0);
        nbd_conn_linger(conn);
        break;
    case NBD_OPT_LIST:
        option_list(conn, r);
        break;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        option_info(conn, option, r);
        break;
    case NBD_OPT_STRUCTURED_REPLY:
        option_structured(conn, r);
        break;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        option_context(conn, option, r);
        break;
    default: /* STARTTLS too, as long as there is no TLS */
        put_error(conn, option, NBD_REP_ERR_UNSUP, "this server does not know the option");
        break;
    }
}

/* ---- parsing -------------------------------------------------------------------------------- */

/* Both return whether something was consumed. */
static bool parse_flags(struct nbd_conn *conn)
{
    uint32_t flags;

    conn->need = sizeof(flags);
    if (conn->fill - conn->at < sizeof(flags))
        return false;
    memcpy(&flags, conn->block->data + conn->at, sizeof(flags));
    flags = be32toh(flags);
    if (flags & ~(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)) {
        conn->server->counts[NBD_N_BROKEN]++;
        nbd_conn_kill(conn);
        return false;
    }
    conn->no_zeroes = flags & NBD_NO_ZEROES;
    conn->at += sizeof(flags);
    conn->phase = NBD_OPTIONS;
    return true;
}

static bool parse_option(struct nbd_conn *conn)
{
    struct nbd_option_header header;
    uint32_t have = conn->fill - conn->at;

    conn->need = sizeof(header);
    if (have < sizeof(header))
        return false;
    memcpy(&header, conn->block->data + conn->at, sizeof(header));
    uint32_t option = be32toh(header.option), len = be32toh(header.length);
    bool too_big = len > NBD_OPTION_MAX;
    if (be64toh(header.magic) != NBD_MAGIC_OPTION || conn->n_options >= NBD_MAX_OPTIONS ||
        (too_big && option == NBD_OPT_EXPORT_NAME)) {
        conn->server->counts[NBD_N_BROKEN]++;
        nbd_conn_kill(conn);
        return false;
    }
    if (!too_big && have - sizeof(header) < len) {
        conn->need = (uint32_t)sizeof(header) + len;
        return false;
    }
    conn->n_options++;
    conn->at += sizeof(header);
    if (too_big) {
        conn->skip_bytes = len;
        put_error(conn, option, NBD_REP_ERR_TOO_BIG, "the option is too long");
    } else {
        struct reader r = {.at = conn->block->data + conn->at, .left = len};
        conn->at += len;
        handle_option(conn, option, &r);
    }
    send_text(conn);
    return true;
}

static void skip(struct nbd_conn *conn)
{
    uint32_t have = conn->fill - conn->at;
    uint32_t n = conn->skip_bytes < have ? (uint32_t)conn->skip_bytes : have;
    conn->at += n;
    conn->skip_bytes -= n;
}

void nbd_handshake_parse(struct nbd_conn *conn)
{
    bool more = true;

    while (more && conn->phase <= NBD_OPTIONS && !conn->text_busy) {
        skip(conn);
        more = conn->phase == NBD_FLAGS ? parse_flags(conn) : parse_option(conn);
    }
}

void nbd_handshake_start(struct nbd_conn *conn)
{
    struct nbd_greeting greeting = {
        .init_magic = htobe64(NBD_MAGIC_INIT),
        .option_magic = htobe64(NBD_MAGIC_OPTION),
        .flags = htobe16(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES),
    };

    conn->phase = NBD_FLAGS;
    conn->need = sizeof(uint32_t);
    put(conn, &greeting, sizeof(greeting));
    send_text(conn);
}
