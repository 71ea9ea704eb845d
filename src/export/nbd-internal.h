/* nbd-internal.h - what the files of the NBD server share. Nobody else includes this.
 *
 * Memory of a connection: a small receive buffer of its own, a large one (a block, from the server)
 * while it is busy, and for each request at most one payload buffer from the pool. A request is
 * given its buffer when it is parsed and needs no further memory to complete: so waiting for memory
 * cannot become a deadlock. */
#ifndef VARVE_EXPORT_NBD_INTERNAL_H
#define VARVE_EXPORT_NBD_INTERNAL_H

#include "base/list.h"
#include "base/loop.h"
#include "export/nbd-buffer.h"
#include "export/nbd.h"
#include "image/store.h"

#define NBD_SMALL_BYTES    8192u        /* a connection's own receive buffer */
#define NBD_BLOCK_BYTES    (256u << 10) /* a receive block */
#define NBD_OPTION_MAX     4096u        /* bytes of an option's data */
#define NBD_MAX_OPTIONS    1024u        /* in one handshake */
#define NBD_SPLIT_BYTES    (256u << 10) /* larger reads become several chunks, if they may */
#define NBD_OUT_IOV        256u
#define NBD_OUT_HEADS      12288u     /* bytes of headers in one sendmsg() */
#define NBD_OUT_BYTES      (1u << 20) /* no further reply is added to a sendmsg() of this size */
#define NBD_MAX_CONTEXTS   8u         /* metadata contexts of one connection */
#define NBD_HEAD_MAX_BYTES 128u       /* of one reply, without its data */

/* Bytes that a client has to take, or to send, so that memory becomes free; by server->now_us. */
struct nbd_clock {
    uint64_t bytes;    /* that were to go since then; 0: none are */
    uint64_t since_us; /* begins anew while nobody waits for memory */
    uint64_t moved_us; /* when some last did */
};

/* Received bytes; writes use their payloads in place. One reference is the connection's. */
struct nbd_block {
    struct list link;
    unsigned refs;
    uint32_t size;
    uint8_t *data;
};

/* The parts of a read that was split, or of a status for several contexts. */
struct nbd_group {
    unsigned left; /* chunks that were not put into a reply yet */
};

struct nbd_request {
    struct store_io io;
    struct list link; /* in conn->replies, or out->sending, or the server's free list */
    struct nbd_conn *conn;
    struct nbd_group *group;  /* NULL: one chunk answers it */
    struct nbd_block *block;  /* pinned: the payload of a write is in it */
    struct nbd_buffer buffer; /* the payload of a read or large write; extents */
    uint64_t cookie, offset;
    uint32_t length;
    uint32_t counted_bytes; /* in conn->n_bytes */
    uint16_t command;
    uint16_t context; /* BLOCK_STATUS: which one of conn->contexts */
    uint16_t error;   /* NBD's; 0 if fine */
    int code;         /* our own, for the text */
    uint64_t error_offset;
    bool probing; /* a failed read looks for the page */
};

/* A metadata context that the client has set; its id is its place, from 1. */
struct nbd_context {
    struct disk *base; /* with a user; NULL: base:allocation */
    bool diff;         /* varve:diff:, not varve:changed: */
};

/* One sendmsg(). */
struct nbd_out {
    struct list link; /* in the server's free list */
    struct loop_op op;
    struct nbd_conn *conn;
    struct msghdr msg;
    size_t bytes; /* still to go */
    size_t n_heads;
    struct list sending; /* requests whose buffers are in it */
    struct iovec iov[NBD_OUT_IOV];
    uint8_t heads[NBD_OUT_HEADS];
};

enum nbd_phase {
    NBD_FLAGS,   /* waits for the client's flags */
    NBD_OPTIONS, /* waits for an option */
    NBD_TRANSMISSION,
    NBD_LINGER, /* reads no more; closes when the last reply is out */
    NBD_DEAD,   /* shut down; is freed when nothing is in flight */
};

struct nbd_conn {
    struct nbd_server *server;
    int fd;
    enum nbd_phase phase;
    struct list link;       /* in server->handshaking, ->serving or ->lingering */
    struct list dirty_link; /* in server->dirty: something to parse or to send */
    struct list starved_link;
    uint64_t deadline_us;
    struct nbd_clock payload_clock, out_clock;

    /* Receiving. */
    struct loop_op recv_op;
    bool recv_busy;
    bool recv_seen;         /* since the last tick */
    bool small_full;        /* the small buffer did not take all there was */
    bool blocked;           /* parsing stopped at a bound, or has not begun */
    bool large;             /* the last request was a large write: receive headers alone */
    struct nbd_block small; /* own; refs as for other blocks */
    struct nbd_block *block;
    uint32_t at, fill;                /* of block: parsed up to, received up to */
    uint32_t need;                    /* bytes from `at` that make the next thing complete */
    uint64_t skip_bytes;              /* to be dropped from the stream */
    struct nbd_request *skip_request; /* to be answered when they are */
    struct nbd_request *payload;      /* a large write that is being received */
    uint32_t payload_got;
    uint64_t starved_bytes; /* what it waits for, while in server->starved[]; else 0 */

    /* Requests. */
    unsigned n_requests;
    uint64_t n_bytes;
    struct list replies; /* done, not in an nbd_out yet */
    struct nbd_out *out; /* in flight */

    /* The export. */
    char name[NBD_EXPORT_NAME_MAX + 1]; /* by which it was asked for */
    int pid;                            /* of the client; 0: not known */
    struct disk *disk;
    struct store *store;
    uint64_t size_bytes;
    bool read_only, structured, no_zeroes;
    struct nbd_context contexts[NBD_MAX_CONTEXTS];
    unsigned n_contexts;
    char meta_name[NBD_EXPORT_NAME_MAX + 1]; /* the export that they were set for */

    /* The handshake's answers. */
    uint8_t *text;
    size_t text_len, text_size, text_sent;
    struct iovec text_iov;
    struct msghdr text_msg;
    struct loop_op text_op;
    bool text_busy;
    unsigned n_options;

    uint8_t small_data[NBD_SMALL_BYTES];
};

enum nbd_count {
    NBD_N_ACCEPTED,
    NBD_N_REFUSED,
    NBD_N_BROKEN,
    NBD_N_STALLED,
    NBD_N_READS,
    NBD_N_WRITES,
    NBD_N_FLUSHES,
    NBD_N_ZEROES,
    NBD_N_OTHERS,
    NBD_N_ERRORS,
    NBD_N_READ_BYTES,
    NBD_N_WRITTEN_BYTES,
    NBD_N_HOLE_BYTES,
    NBD_N_SENDS,
    NBD_N_RECEIVES,
    NBD_N_STARVED,
    NBD_N_COUNTS,
};

struct nbd_server {
    struct loop *loop;
    struct nbd_config config;
    struct nbd_exports *exports;
    struct list listeners;
    struct list handshaking, serving, lingering; /* connections; the first in order of deadline */
    struct list dirty;
    struct list starved[2]; /* wait for memory: small requests, large ones */
    unsigned n_connections;
    uint64_t now_us; /* of the last tick */
    struct loop_hook hook;
    struct loop_op tick_op;
    bool tick_busy, stopping, stopped;
    void (*stop_done)(void *arg);
    void *stop_arg;

    struct nbd_pool pool;
    struct list free_blocks, free_requests, free_outs;
    unsigned n_blocks, n_free_requests, n_free_outs;
    uint64_t counts[NBD_N_COUNTS];
};

/* nbd-conn.c: the life of a connection, receiving. */
int nbd_conn_new(struct nbd_server *server, int fd);
/* Something to parse or send: nbd_conn_serve() is called in this turn or the next. */
void nbd_conn_dirty(struct nbd_conn *conn);
void nbd_conn_serve(struct nbd_conn *conn);
/* Read no more, send what there is, close. */
void nbd_conn_linger(struct nbd_conn *conn);
/* Close now. The connection is freed when nothing of it is in flight, never from inside. */
void nbd_conn_kill(struct nbd_conn *conn);
/* Free it if it is dead and nothing is in flight. */
void nbd_conn_release(struct nbd_conn *conn);
void nbd_block_put(struct nbd_server *server, struct nbd_block *block);

/* nbd-handshake.c */
void nbd_handshake_start(struct nbd_conn *conn);
/* Consume what is complete in the input. */
void nbd_handshake_parse(struct nbd_conn *conn);

/* nbd-context.c: metadata contexts. One LIST_META_CONTEXT or SET_META_CONTEXT: found() is called
 * for each context that a query asks for, with its id (0: listed) and its name. */
struct nbd_context_option {
    struct nbd_conn *conn;
    const char *export_name;
    uint32_t option;
    bool listed_changed, listed_diff; /* all bases */
    void (*found)(struct nbd_conn *conn, uint32_t option, uint32_t id, const char *name);
};
/* query: NULL: short input, nothing is done. */
void nbd_context_query(struct nbd_context_option *option, const uint8_t *query, uint32_t len_bytes);
/* What LIST_META_CONTEXT without queries answers. */
void nbd_context_list_all(const struct nbd_context_option *option);
/* Forget those that were set. */
void nbd_context_clear(struct nbd_conn *conn);

/* nbd-transmission.c: requests. */
void nbd_transmission_parse(struct nbd_conn *conn);
/* The payload of conn->payload is there. */
void nbd_payload_received(struct nbd_conn *conn);
void nbd_request_free(struct nbd_request *req);
/* Whether cost bytes of buffers may be taken now; if not, the connection waits in turn. */
bool nbd_may_allocate(struct nbd_conn *conn, uint64_t cost);
/* Leave the queue for memory. */
void nbd_not_starved(struct nbd_conn *conn);
void nbd_feed_starved(struct nbd_server *server);

/* nbd-reply.c */
void nbd_reply_send(struct nbd_conn *conn);
void nbd_reply_drop(struct nbd_conn *conn);

/* nbd-server.c */
void nbd_server_conn_gone(struct nbd_server *server);
/* So many bytes more are to go. */
void nbd_clock_add(const struct nbd_server *server, struct nbd_clock *clock, uint64_t bytes);

#endif
