/* test-dirty-scan.c - every vector width finds the pages and ranges that a look at each bit finds,
 * for any density, size, place of a stop and mixture of calls; and writes nothing beyond its array.
 *
 *     test-dirty-scan [BITMAPS [SEED]]    that many random bitmaps; bitmap i is made from SEED + i
 * alone */
#include "checkpoint/dirty-scan.h"
#include "checkpoint/simd.h"
#include "model/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define MAX_PAGES 40000u
#define GUARD     0x5a5a5a5au

static uint64_t n_bitmaps = 6000, first_seed = 1;
static uint64_t *words; /* exactly as many as the pages need */
static uint32_t n_pages;

static bool is_dirty(uint32_t p)
{
    return words[p / 64] >> p % 64 & 1;
}

static void set(uint32_t p)
{
    words[p / 64] |= (uint64_t)1 << p % 64;
}

static void make_bitmap(struct rng *rng)
{
    static const unsigned per_10000[] = {0, 1, 10, 50, 100, 500, 1000, 2500, 5000, 9000, 10000};
    uint64_t density = per_10000[rng_below(rng, 11)], clustered = rng_below(rng, 2);

    n_pages = (uint32_t)(rng_percent(rng, 20) ? rng_below(rng, 200) : rng_below(rng, MAX_PAGES));
    size_t n_words = ((size_t)n_pages + 63) / 64;
    words = calloc(n_words ? n_words : 1, 8);
    assert_non_null(words);
    for (uint32_t p = 0; p < n_pages;) {
        uint32_t len = clustered ? (uint32_t)rng_range(rng, 1, 300) : 1;
        bool dirty = rng_below(rng, 10000) < density;
        for (; len && p < n_pages; len--, p++)
            if (dirty)
                set(p);
    }
    /* What is beyond the end must not matter. */
    if (n_pages % 64 && rng_percent(rng, 50))
        words[n_words - 1] |= UINT64_MAX << n_pages % 64;
}

static size_t some_max(struct rng *rng)
{
    return 1 + rng_below(rng, rng_percent(rng, 50) ? 20 : rng_percent(rng, 50) ? 2000 : MAX_PAGES);
}

/* Pages and, where ranges is set, ranges in between, against a pointer that walks through the bits.
 */
static void scan_and_compare(struct rng *rng, uint64_t seed, bool ranges)
{
    uint32_t *out = malloc((MAX_PAGES + 2) * 2 * sizeof(*out)), at = 0;
    struct dirty_scan scan;

    assert_non_null(out);
    dirty_scan_begin(&scan, words, n_pages);
    for (;;) {
        size_t max = some_max(rng), n;
        bool as_ranges = ranges && rng_percent(rng, 80);
        size_t used = as_ranges ? 2 * max : max;
        out[used] = GUARD;
        n = as_ranges ? dirty_scan_ranges(&scan, (struct dirty_range *)out, max)
                      : dirty_scan_pages(&scan, out, max);
        if (n > max || out[used] != GUARD)
            fail_msg("seed %llu: beyond the array", (unsigned long long)seed);
        for (size_t i = 0; i < n; i++) {
            uint32_t first = out[as_ranges ? 2 * i : i],
                     end = as_ranges ? out[2 * i + 1] : first + 1;
            while (at < n_pages && !is_dirty(at))
                at++;
            if (at != first || end > n_pages || end <= first)
                fail_msg("seed %llu, %s: page %u was expected, %u came", (unsigned long long)seed,
                         simd_name(simd_level()), at, first);
            while (at < end && is_dirty(at))
                at++;
            if (at != end || (as_ranges && at < n_pages && is_dirty(at)))
                fail_msg("seed %llu, %s: a range ends at %u, not %u", (unsigned long long)seed,
                         simd_name(simd_level()), at, end);
        }
        if (!n)
            break;
    }
    while (at < n_pages && !is_dirty(at))
        at++;
    if (at != n_pages)
        fail_msg("seed %llu, %s: page %u is missing", (unsigned long long)seed,
                 simd_name(simd_level()), at);
    free(out);
}

static void finds_what_is_there(void **state)
{
    enum simd widest = simd_limit(SIMD_AVX512);

    for (uint64_t i = 0; i < n_bitmaps; i++) {
        struct rng rng;
        rng_seed(&rng, first_seed + i);
        make_bitmap(&rng);
        for (int level = SIMD_PLAIN; level <= (int)widest; level++) {
            simd_limit((enum simd)level);
            scan_and_compare(&rng, first_seed + i, false);
            scan_and_compare(&rng, first_seed + i, true);
        }
        free(words);
    }
    simd_limit(SIMD_AVX512);
}

static void bitwise_is_the_same(void **state)
{
    static uint32_t a[MAX_PAGES], b[MAX_PAGES];
    struct rng rng;

    for (uint64_t seed = 1; seed < 100; seed++) {
        struct dirty_scan one, two;
        rng_seed(&rng, seed);
        make_bitmap(&rng);
        dirty_scan_begin(&one, words, n_pages);
        dirty_scan_begin(&two, words, n_pages);
        for (size_t n = 1, max; n;) {
            max = some_max(&rng) % MAX_PAGES + 1;
            n = dirty_scan_pages(&one, a, max);
            assert_int_equal(dirty_scan_bitwise(&two, b, max), n);
            assert_memory_equal(a, b, n * sizeof(*a));
        }
        free(words);
    }
}

static void the_largest_bitmap_ends(void **state)
{
    uint32_t n = DIRTY_SCAN_MAX_PAGES;
    uint64_t *all = calloc((size_t)n / 64 + 1, 8); /* 512 MiB of nothing */
    struct dirty_range range[2];
    struct dirty_scan scan;

    if (!all)
        skip();
    all[(n - 1) / 64] |= (uint64_t)3 << (n - 2) % 64;
    dirty_scan_begin(&scan, all, n);
    assert_int_equal(dirty_scan_ranges(&scan, range, 2), 1);
    assert_int_equal(range[0].first, n - 2);
    assert_int_equal(range[0].end, n);
    assert_int_equal(dirty_scan_ranges(&scan, range, 2), 0);
    free(all);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_is_there),
        cmocka_unit_test(bitwise_is_the_same),
        cmocka_unit_test(the_largest_bitmap_ends),
    };
    if (argc > 1)
        n_bitmaps = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
