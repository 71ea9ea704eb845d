/* nbd-buffer.h - payload buffers: 4096-aligned, in sizes of powers of two, from a bounded pool.
 * One thread. */
#ifndef VARVE_EXPORT_NBD_BUFFER_H
#define VARVE_EXPORT_NBD_BUFFER_H

#include <stdbool.h>
#include <stdint.h>

#define NBD_BUFFER_MIN_SHIFT 12
#define NBD_BUFFER_MAX_SHIFT 25
#define NBD_BUFFER_CLASSES   (NBD_BUFFER_MAX_SHIFT - NBD_BUFFER_MIN_SHIFT + 1)

struct nbd_buffer {
    void *data; /* NULL: none */
    unsigned class;
};

struct nbd_pool {
    uint64_t limit_bytes;
    uint64_t used_bytes;            /* handed out */
    uint64_t cached_bytes;          /* kept for reuse; used + cached <= limit */
    void *free[NBD_BUFFER_CLASSES]; /* the last that came back first: it is in the cache */
};

void nbd_pool_init(struct nbd_pool *pool, uint64_t limit_bytes);
void nbd_pool_destroy(struct nbd_pool *pool); /* all buffers are back */

/* What a buffer for bytes (1 to 32 MiB) takes of the limit. */
uint64_t nbd_buffer_cost(uint64_t bytes);

/* Returns 0, -EAGAIN (the limit: wait until one comes back), -ENOMEM. */
int nbd_pool_get(struct nbd_pool *pool, uint64_t bytes, struct nbd_buffer *ret);
/* Give it back and clear it; without data nothing happens. */
void nbd_pool_put(struct nbd_pool *pool, struct nbd_buffer *buffer);

#endif
