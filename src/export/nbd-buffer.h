/* nbd-buffer.h - payload buffers: 4096-aligned, in sizes of powers of two, from a bounded pool.
 * Those of 64 KiB to 1 MiB are cut from huge pages, larger ones are some (base/huge.h says why).
 * One thread. */
#ifndef VARVE_EXPORT_NBD_BUFFER_H
#define VARVE_EXPORT_NBD_BUFFER_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

#define NBD_BUFFER_MIN_SHIFT 12
#define NBD_BUFFER_MAX_SHIFT 25
#define NBD_BUFFER_CLASSES   (NBD_BUFFER_MAX_SHIFT - NBD_BUFFER_MIN_SHIFT + 1)

struct nbd_slab; /* a huge page that is handed out in parts */

struct nbd_buffer {
    void *data; /* NULL: none */
    unsigned class;
    struct nbd_slab *slab; /* NULL: it stands alone */
};

struct nbd_pool {
    uint64_t limit_bytes;
    uint64_t used_bytes;            /* handed out; at most the limit */
    uint64_t cached_bytes;          /* kept for reuse, but for rests of slabs: at most 1/4 of it */
    void *free[NBD_BUFFER_CLASSES]; /* that stand alone; the last that came back is first */
    struct list slabs;
    uint32_t
        n_slabs; /* at most 1/4 of the limit, which their rests exceed: the rest stands alone */
};

void nbd_pool_init(struct nbd_pool *pool, uint64_t limit_bytes);
void nbd_pool_destroy(struct nbd_pool *pool); /* all buffers are back */

/* What a buffer for bytes (1 to 32 MiB) takes of the limit. */
uint64_t nbd_buffer_cost(uint64_t bytes);

/* Returns 0, -EAGAIN (the limit: wait until one comes back), -ENOMEM. What is in it is undefined.
 */
int nbd_pool_get(struct nbd_pool *pool, uint64_t bytes, struct nbd_buffer *ret);
/* Give it back and clear it; without data nothing happens. */
void nbd_pool_put(struct nbd_pool *pool, struct nbd_buffer *buffer);

#endif
