/* nbd-buffer.c - payload buffers. A free buffer that stands alone points at the next one by its
 * first bytes; the parts of a slab are bits, and a buffer is a run of them that begins at a
 * multiple of its size. */
#include "export/nbd-buffer.h"

#include "base/huge.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SHARE     4  /* at most 1/4 of the limit is kept for reuse */
#define SLAB_SHARE      4  /* and what slabs take, with their rests, is no more */
#define SLAB_PART_SHIFT 16 /* 64 KiB: of less a device makes few pieces as it is */
#define SLAB_PARTS      (HUGE_BYTES >> SLAB_PART_SHIFT)

static_assert(SLAB_PARTS == 32, "used has a bit for each");

struct nbd_slab {
    struct list link;
    uint8_t *memory;
    uint32_t used;
};

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
    list_init(&pool->slabs);
}

/* ---- slabs ---------------------------------------------------------------------------------- */

static bool is_slab_class(unsigned class)
{
    return class_bytes(class) >= 1u << SLAB_PART_SHIFT && class_bytes(class) < HUGE_BYTES;
}

/* The bits of a buffer in its slab's first place. */
static uint32_t parts_of(unsigned class)
{
    return (1u << (class_bytes(class) >> SLAB_PART_SHIFT)) - 1;
}

static struct nbd_slab *slab_new(struct nbd_pool *pool)
{
    if ((pool->n_slabs + 1) * (uint64_t)HUGE_BYTES > pool->limit_bytes / SLAB_SHARE)
        return NULL;
    struct nbd_slab *slab = calloc(1, sizeof(*slab));
    uint8_t *memory = slab ? huge_alloc(HUGE_BYTES) : NULL;
    if (!memory) {
        free(slab);
        return NULL;
    }
    slab->memory = memory;
    list_push_back(&pool->slabs, &slab->link);
    pool->n_slabs++;
    pool->cached_bytes += HUGE_BYTES;
    return slab;
}

static void slab_free(struct nbd_pool *pool, struct nbd_slab *slab)
{
    list_del(&slab->link);
    huge_free(slab->memory, HUGE_BYTES);
    free(slab);
    pool->n_slabs--;
    pool->cached_bytes -= HUGE_BYTES;
}

static bool take_parts(struct nbd_pool *pool, struct nbd_slab *slab, unsigned class,
                       struct nbd_buffer *ret)
{
    unsigned n = class_bytes(class) >> SLAB_PART_SHIFT;
    for (unsigned at = 0; at < SLAB_PARTS; at += n) {
        uint32_t parts = parts_of(class) << at;
        if (slab->used & parts)
            continue;
        if (!slab->used)
            pool->cached_bytes -= HUGE_BYTES;
        slab->used |= parts;
        *ret = (struct nbd_buffer){slab->memory + ((size_t)at << SLAB_PART_SHIFT), class, slab};
        return true;
    }
    return false;
}

/* Those that are in use already come first: so the others become free. */
static bool slab_get(struct nbd_pool *pool, unsigned class, struct nbd_buffer *ret)
{
    list_for_each (l, &pool->slabs)
        if (take_parts(pool, container_of(l, struct nbd_slab, link), class, ret))
            return true;
    struct nbd_slab *slab = slab_new(pool);
    return slab && take_parts(pool, slab, class, ret);
}

static void slab_put(struct nbd_pool *pool, const struct nbd_buffer *buffer)
{
    struct nbd_slab *slab = buffer->slab;
    size_t at = ((uint8_t *)buffer->data - slab->memory) >> SLAB_PART_SHIFT;
    slab->used &= ~(parts_of(buffer->class) << at);
    if (slab->used)
        return;
    pool->cached_bytes += HUGE_BYTES;
    if (pool->cached_bytes > pool->limit_bytes / CACHE_SHARE)
        slab_free(pool, slab);
}

/* ---- those that stand alone ----------------------------------------------------------------- */

static void *pop(struct nbd_pool *pool, unsigned class)
{
    void *data = pool->free[class];
    if (data) {
        memcpy(&pool->free[class], data, sizeof(void *));
        pool->cached_bytes -= class_bytes(class);
    }
    return data;
}

static void put_alone(struct nbd_pool *pool, void *data, unsigned class)
{
    if (pool->cached_bytes + class_bytes(class) > pool->limit_bytes / CACHE_SHARE) {
        huge_free(data, class_bytes(class));
        return;
    }
    memcpy(data, &pool->free[class], sizeof(void *));
    pool->free[class] = data;
    pool->cached_bytes += class_bytes(class);
}

/* Give back to the system, the largest first, until bytes more fit under the limit. */
static void trim(struct nbd_pool *pool, uint64_t bytes)
{
    unsigned class = NBD_BUFFER_CLASSES;
    while (class && pool->used_bytes + pool->cached_bytes + bytes > pool->limit_bytes) {
        void *data = pop(pool, class - 1);
        if (data)
            huge_free(data, class_bytes(class - 1));
        else
            class --;
    }
    list_for_each_safe (l, &pool->slabs) {
        struct nbd_slab *slab = container_of(l, struct nbd_slab, link);
        if (pool->used_bytes + pool->cached_bytes + bytes <= pool->limit_bytes)
            break;
        if (!slab->used)
            slab_free(pool, slab);
    }
}

/* ---- the interface -------------------------------------------------------------------------- */

void nbd_pool_destroy(struct nbd_pool *pool)
{
    assert(pool->used_bytes == 0);
    for (unsigned class = 0; class < NBD_BUFFER_CLASSES; class ++) {
        void *data;
        while ((data = pop(pool, class)))
            huge_free(data, class_bytes(class));
    }
    list_for_each_safe (l, &pool->slabs)
        slab_free(pool, container_of(l, struct nbd_slab, link));
}

int nbd_pool_get(struct nbd_pool *pool, uint64_t bytes, struct nbd_buffer *ret)
{
    unsigned class = class_of(bytes);
    uint64_t cost = class_bytes(class);

    assert(class < NBD_BUFFER_CLASSES);
    if (pool->used_bytes + cost > pool->limit_bytes)
        return -EAGAIN;
    if (!is_slab_class(class) || !slab_get(pool, class, ret)) {
        void *data = pop(pool, class);
        if (!data) {
            trim(pool, cost);
            data = huge_alloc(cost);
        }
        if (!data)
            return -ENOMEM;
        *ret = (struct nbd_buffer){.data = data, .class = class};
    }
    pool->used_bytes += cost;
    return 0;
}

void nbd_pool_put(struct nbd_pool *pool, struct nbd_buffer *buffer)
{
    if (!buffer->data)
        return;
    pool->used_bytes -= class_bytes(buffer->class);
    if (buffer->slab)
        slab_put(pool, buffer);
    else
        put_alone(pool, buffer->data, buffer->class);
    buffer->data = NULL;
    buffer->slab = NULL;
}
