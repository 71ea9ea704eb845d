/* nbd.h - a server of the Network Block Device protocol: disks of a store for QEMU and others.
 *
 * Everything here is called on the thread of the loop, and calls the store there. No call blocks.
 *
 * Bounds (struct nbd_config) and what happens at them:
 *  - connections: a further one is closed at once.
 *  - requests and bytes of one connection: no more is read from it until replies have gone out.
 *  - buffers, of all: connections wait for one in turn. While any waits, one whose replies, or
 *    whose payload, have not moved for stall_ms is closed, and so is one that takes or sends less
 *    than a MiB a second for stall_ms longer than that wants.
 *  - time and options of a handshake: at the bound the connection is closed. */
#ifndef VARVE_EXPORT_NBD_H
#define VARVE_EXPORT_NBD_H

#include "base/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk;
struct loop;
struct store;
struct nbd_server;

#define NBD_DEFAULT_DISK    "root" /* of an export that names a vm alone */
#define NBD_EXPORT_NAME_MAX 256u   /* bytes; longer names name nothing */
#define NBD_MAX_BLOCK_BYTES (32u << 20)
/* One request of the largest size, and as much again for small ones. */
#define NBD_MIN_BUFFER_BYTES (2 * NBD_MAX_BLOCK_BYTES)

/* What is exported. Owned by the caller, outlives the server. */
struct nbd_exports {
    /* The disk under an export name, borrowed: the server takes disk_get() itself. ret_read_only is
     * set on success. NULL: there is none. */
    struct disk *(*find)(struct nbd_exports *exports, const char *name, bool *ret_read_only);
    /* What the contexts varve:changed:BASE and varve:diff:BASE compare that export with, borrowed
     * as above. NULL: there is none, or it is not related to the export. */
    struct disk *(*find_base)(struct nbd_exports *exports, const char *name, const char *base);
    /* Call each(arg, base) for what find_base() finds, or the best known part of it. Returns 0,
     * -ENOENT (no such export) or -ENOMEM. */
    int (*list_bases)(struct nbd_exports *exports, const char *name,
                      void (*each)(void *arg, const char *base), void *arg);
    /* Call each(arg, name) for every export that is to be seen. Returns 0 or -ENOMEM. */
    int (*list)(struct nbd_exports *exports, void (*each)(void *arg, const char *name), void *arg);
};

/* The disks of a store: "VM" for VM/root, "VM/DISK", and those of versions, read-only:
 * "VM@VERSION", "VM/DISK@VERSION". Provisional vms and versions are found, but not listed. A base
 * is a version of the same vm, "VERSION", or of another that has its disk of this name from there,
 * "VM@VERSION"; the former are listed. */
struct nbd_store_exports {
    struct nbd_exports exports;
    struct store *store;
    struct list barred; /* struct nbd_bar */
};
void nbd_store_exports_init(struct nbd_store_exports *exports, struct store *store);

/* While a bar stands nothing of a vm but its versions is found: whoever connects is refused. The
 * bar and the name are the caller's, until nbd_unbar(). */
struct nbd_bar {
    struct list link;
    const char *vm;
};
void nbd_bar(struct nbd_store_exports *exports, struct nbd_bar *bar, const char *vm);
void nbd_unbar(struct nbd_bar *bar);

/* Whether an export name is of a disk of that vm, or of its versions. */
bool nbd_name_is_of(const char *export_name, const char *vm);

struct nbd_config {
    unsigned max_connections;
    unsigned connection_requests; /* in flight on one connection, until the reply is sent */
    uint64_t connection_bytes;    /* of their payloads; at least NBD_MAX_BLOCK_BYTES */
    /* Of payloads on all connections; at least NBD_MIN_BUFFER_BYTES. Their buffers may take 1/4
     * more, rests of huge pages. */
    uint64_t buffer_bytes;
    uint64_t receive_bytes; /* of receive blocks; without one a connection is slower, not stuck */
    uint64_t handshake_ms;
    uint64_t linger_ms; /* for the last replies to a client that is going */
    uint64_t stall_ms;
};
extern const struct nbd_config nbd_config_default;

/* config and exports: borrowed; exports until nbd_server_free(). Returns 0 or -ENOMEM, -EINVAL. */
int nbd_server_create(struct loop *loop, const struct nbd_config *config,
                      struct nbd_exports *exports, struct nbd_server **ret);

/* Listen on a Unix socket at path, made with the permissions mode; a socket there that nobody
 * listens on is replaced, and it is removed by nbd_server_stop(). Any number of times.
 * Returns 0, -ENAMETOOLONG, -EEXIST (something else than a socket is there), -EADDRINUSE (somebody
 * listens there; said after a second of patience, for which this blocks) or an errno. */
int nbd_server_listen_unix(struct nbd_server *server, const char *path, unsigned mode);

/* Listen on a TCP address ("0.0.0.0", "::") and port (0: any; see ret_port, may be NULL).
 * Returns 0, -EINVAL (not an address) or an errno. */
int nbd_server_listen_tcp(struct nbd_server *server, const char *address, uint16_t port,
                          uint16_t *ret_port);

/* Serve a connected socket, which is taken, as if it had been accepted. -ENOMEM, -EMFILE (bound).
 */
int nbd_server_adopt(struct nbd_server *server, int fd);

/* Stop listening, finish what is in flight, leave what was received and not begun without an answer
 * (a client that connects again sends it again; an error would reach its guest), close all
 * connections (those that do not take their replies after linger_ms). Then done(arg), from the
 * loop, never from inside this call. Once. */
void nbd_server_stop(struct nbd_server *server, void (*done)(void *arg), void *arg);

/* After nbd_server_stop() is done, or without it if the loop never ran and never will (a start-up
 * that failed). NULL is legal. */
void nbd_server_free(struct nbd_server *server);

/* Close the connections to a disk, at once: what they have in flight is finished and not answered.
 * They are gone, and the disk has its users back, some turns of the loop later. Returns how many.
 */
unsigned nbd_server_disconnect(struct nbd_server *server, const struct disk *disk);

/* A client that has opened an export. */
struct nbd_client {
    const char *name; /* of the export, as it asked for it; borrowed, as the disk */
    const struct disk *disk;
    int pid; /* of the one who connected the socket; 0: not known, as of TCP */
};
/* Call each(arg, client) for one after the other until it returns true. Returns whether it did. */
bool nbd_server_clients(const struct nbd_server *server,
                        bool (*each)(void *arg, const struct nbd_client *client), void *arg);

struct nbd_counter {
    const char *name, *description; /* static */
    uint64_t value;
};
/* Fills up to max; returns how many there are. */
size_t nbd_server_counters(const struct nbd_server *server, struct nbd_counter *ret, size_t max);

#endif
