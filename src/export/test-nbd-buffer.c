/* test-nbd-buffer.c - the pool of payload buffers. */
#include "export/nbd-buffer.h"

#include "base/huge.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KIB   1024ull
#define MIB   (1024 * KIB)
#define LIMIT (64 * MIB)

static void require_bounds(const struct nbd_pool *pool)
{
    assert_true(pool->used_bytes <= pool->limit_bytes);
    assert_true(pool->cached_bytes <= pool->limit_bytes / 4);
    assert_true(pool->n_slabs * (uint64_t)HUGE_BYTES <= pool->limit_bytes / 4);
}

static void sizes(void **state)
{
    static const struct {
        uint64_t bytes, cost;
        bool slab;
    } cases[] = {
        {1, 4 * KIB, false},
        {4096, 4 * KIB, false},
        {4097, 8 * KIB, false},
        {32 * KIB, 32 * KIB, false},
        {32 * KIB + 1, 64 * KIB, true},
        {64 * KIB, 64 * KIB, true},
        {MIB, MIB, true},
        {MIB + 1, 2 * MIB, false},
        {32 * MIB, 32 * MIB, false},
    };
    struct nbd_pool pool;
    (void)state;
    nbd_pool_init(&pool, LIMIT);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nbd_buffer buffer;
        assert_int_equal(nbd_buffer_cost(cases[i].bytes), cases[i].cost);
        assert_int_equal(nbd_pool_get(&pool, cases[i].bytes, &buffer), 0);
        assert_int_equal(pool.used_bytes, cases[i].cost);
        assert_int_equal(buffer.slab != NULL, cases[i].slab);
        assert_int_equal((uintptr_t)buffer.data % 4096, 0);
        memset(buffer.data, 0xff, cases[i].bytes);
        nbd_pool_put(&pool, &buffer);
        assert_null(buffer.data);
        nbd_pool_put(&pool, &buffer); /* of nothing */
        assert_int_equal(pool.used_bytes, 0);
        require_bounds(&pool);
    }
    nbd_pool_destroy(&pool);
}

/* Sixteen of 64 KiB and one of 1 MiB are one huge page; the next needs another. */
static void slabs_are_filled(void **state)
{
    struct nbd_pool pool;
    struct nbd_buffer small[16], large, more;
    (void)state;
    nbd_pool_init(&pool, LIMIT);
    for (int i = 0; i < 16; i++)
        assert_int_equal(nbd_pool_get(&pool, 64 * KIB, &small[i]), 0);
    assert_int_equal(nbd_pool_get(&pool, MIB, &large), 0);
    assert_int_equal(pool.n_slabs, 1);
    assert_int_equal(((uint8_t *)large.data - (uint8_t *)small[0].data) % MIB, 0);
    assert_int_equal(nbd_pool_get(&pool, 64 * KIB, &more), 0);
    assert_int_equal(pool.n_slabs, 2);
    nbd_pool_put(&pool, &more);
    nbd_pool_put(&pool, &small[7]);
    assert_int_equal(nbd_pool_get(&pool, 64 * KIB, &more), 0);
    assert_ptr_equal(more.slab, large.slab); /* where others are, so that one comes free */
    nbd_pool_put(&pool, &more);
    for (int i = 0; i < 16; i++)
        nbd_pool_put(&pool, &small[i]);
    nbd_pool_put(&pool, &large);
    require_bounds(&pool);
    nbd_pool_destroy(&pool);
}

static void limit(void **state)
{
    struct nbd_pool pool;
    struct nbd_buffer buffers[64], more;
    (void)state;
    nbd_pool_init(&pool, LIMIT);
    for (int i = 0; i < 64; i++)
        assert_int_equal(nbd_pool_get(&pool, MIB, &buffers[i]), 0); /* most are in no slab */
    require_bounds(&pool);
    assert_int_equal(pool.n_slabs * HUGE_BYTES, LIMIT / 4);
    assert_int_equal(nbd_pool_get(&pool, 1, &more), -EAGAIN);
    nbd_pool_put(&pool, &buffers[63]);
    assert_int_equal(nbd_pool_get(&pool, MIB, &buffers[63]), 0);
    for (int i = 0; i < 64; i++)
        nbd_pool_put(&pool, &buffers[i]);
    require_bounds(&pool);
    assert_int_equal(nbd_pool_get(&pool, 32 * MIB, &more), 0); /* what is kept makes room */
    require_bounds(&pool);
    nbd_pool_put(&pool, &more);
    nbd_pool_destroy(&pool);
}

/* No two buffers share a byte, whatever comes and goes. */
static void churn(void **state)
{
    enum { N = 200 };
    struct nbd_pool pool;
    struct {
        struct nbd_buffer buffer;
        uint64_t bytes;
        uint8_t fill;
    } held[N] = {0};
    (void)state;
    srand(5);
    nbd_pool_init(&pool, LIMIT);
    for (int turn = 0; turn < 20000; turn++) {
        int i = rand() % N;
        if (held[i].buffer.data) {
            const uint8_t *data = held[i].buffer.data;
            for (uint64_t at = 0; at < held[i].bytes; at += 4096)
                assert_int_equal(data[at], held[i].fill);
            assert_int_equal(data[held[i].bytes - 1], held[i].fill);
            nbd_pool_put(&pool, &held[i].buffer);
        } else {
            held[i].bytes = 1 + (uint64_t)rand() % (1u << (10 + rand() % 12));
            held[i].fill = (uint8_t)rand();
            int code = nbd_pool_get(&pool, held[i].bytes, &held[i].buffer);
            if (code == -EAGAIN)
                held[i].buffer.data = NULL;
            else
                memset(held[i].buffer.data, held[i].fill, held[i].bytes);
        }
        require_bounds(&pool);
    }
    for (int i = 0; i < N; i++)
        nbd_pool_put(&pool, &held[i].buffer);
    assert_int_equal(pool.used_bytes, 0);
    require_bounds(&pool);
    nbd_pool_destroy(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(slabs_are_filled),
        cmocka_unit_test(limit),
        cmocka_unit_test(churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
