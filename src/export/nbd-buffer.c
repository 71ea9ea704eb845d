/* nbd-buffer.c - payload buffers. A free buffer's first bytes point at the next one. */
#include "export/nbd-buffer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SHARE 4 /* at most 1/4 of the limit is kept for reuse */

static unsigned class_of(uint64_t bytes)
{
    if (bytes <= 1u << NBD_BUFFER_MIN_SHIFT)
        return 0;
    return 64 - (unsigned)__builtin_clzll(bytes - 1) - NBD_BUFFER_MIN_SHIFT;
}

static uint64_t class_bytes(unsigned class)
{
    return 1ull << (class + NBD_BUFFER_MIN_SHIFT);
}

uint64_t nbd_buffer_cost(uint64_t bytes)
{
    return class_bytes(class_of(bytes));
}

void nbd_pool_init(struct nbd_pool *pool, uint64_t limit_bytes)
{
    *pool = (struct nbd_pool){.limit_bytes = limit_bytes};
}

static void *pop(struct nbd_pool *pool, unsigned class)
{
    void *data = pool->free[class];
    if (data) {
        memcpy(&pool->free[class], data, sizeof(void *));
        pool->cached_bytes -= class_bytes(class);
    }
    return data;
}

/* Give back to the system, the largest first, until bytes more fit under the limit. */
static void trim(struct nbd_pool *pool, uint64_t bytes)
{
    unsigned class = NBD_BUFFER_CLASSES;
    while (class && pool->used_bytes + pool->cached_bytes + bytes > pool->limit_bytes) {
        void *data = pop(pool, class - 1);
        if (data)
            free(data);
        else
            class --;
    }
}

void nbd_pool_destroy(struct nbd_pool *pool)
{
    assert(pool->used_bytes == 0);
    for (unsigned class = 0; class < NBD_BUFFER_CLASSES; class ++) {
        void *data;
        while ((data = pop(pool, class)))
            free(data);
    }
}

int nbd_pool_get(struct nbd_pool *pool, uint64_t bytes, struct nbd_buffer *ret)
{
    unsigned class = class_of(bytes);
    uint64_t cost = class_bytes(class);

    assert(class < NBD_BUFFER_CLASSES);
    if (pool->used_bytes + cost > pool->limit_bytes)
        return -EAGAIN;
    void *data = pop(pool, class);
    if (!data) {
        trim(pool, cost);
        data = aligned_alloc(1u << NBD_BUFFER_MIN_SHIFT, cost);
    }
    if (!data)
        return -ENOMEM;
    pool->used_bytes += cost;
    *ret = (struct nbd_buffer){.data = data, .class = class};
    return 0;
}

void nbd_pool_put(struct nbd_pool *pool, struct nbd_buffer *buffer)
{
    void *data = buffer->data;
    if (!data)
        return;
    uint64_t cost = class_bytes(buffer->class);
    buffer->data = NULL;
    pool->used_bytes -= cost;
    if (pool->cached_bytes + cost > pool->limit_bytes / CACHE_SHARE) {
        free(data);
        return;
    }
    memcpy(data, &pool->free[buffer->class], sizeof(void *));
    pool->free[buffer->class] = data;
    pool->cached_bytes += cost;
}
