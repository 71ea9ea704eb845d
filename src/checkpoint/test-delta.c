/* test-delta.c - what is coded comes back exactly, on every vector width the same bytes, whatever
 * the pages; and what was not written by the coder is refused.
 *
 *     test-delta [PAIRS [SEED]]    that many random pairs of pages; pair i is made from SEED + i
 * alone */
#include "base/err.h"
#include "checkpoint/page-code.h"
#include "checkpoint/page-shapes.h"
#include "checkpoint/simd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define PAGE 4096u

static uint64_t n_pairs = 200000, first_seed = 1;

/* Not aligned, as nothing demands it. */
static uint8_t bases[PAGE + 1], pages[PAGE + 1];
static uint8_t *const base = bases + 1, *const page = pages + 1;

static void fail_pair(uint64_t seed, const char *shape, const char *what)
{
    fail_msg("seed %llu, %s, %s: %s", (unsigned long long)seed, shape, simd_name(simd_level()),
             what);
}

/* One pair on one width. first: what the widths before made, or its length is -1. */
static void check_delta(uint64_t seed, const char *shape, uint8_t *first, int *first_len)
{
    static uint8_t out[DELTA_MAX_BYTES + DELTA_SLACK_BYTES + 64], back[PAGE];
    int len;

    memset(out, 0xa5, sizeof(out));
    len = delta_encode(base, page, out, DELTA_MAX_BYTES);
    if ((len == 0) != !memcmp(base, page, PAGE) || len < 0)
        fail_pair(seed, shape, "equal is told wrongly");
    if (*first_len < 0) {
        *first_len = len;
        memcpy(first, out, (size_t)len);
    } else if (*first_len != len || memcmp(first, out, (size_t)len)) {
        fail_pair(seed, shape, "another delta than the plain one");
    }
    if (!len)
        return;
    if (delta_decode(base, out, (size_t)len, back) || memcmp(back, page, PAGE))
        fail_pair(seed, shape, "not the page that was encoded");
    /* Exactly the bound is enough, one byte less is not, and beyond the slack nothing is written.
     */
    memset(out, 0xa5, sizeof(out));
    if (delta_encode(base, page, out, (size_t)len - 1) != -E2BIG ||
        delta_encode(base, page, out, (size_t)len) != len)
        fail_pair(seed, shape, "the bound");
    for (size_t i = (size_t)len + DELTA_SLACK_BYTES; i < sizeof(out); i++)
        if (out[i] != 0xa5)
            fail_pair(seed, shape, "written beyond the slack");
}

static void check_coder(struct page_coder *coder, uint64_t seed, const char *shape)
{
    static uint8_t out[PAGE_CODE_OUT_BYTES], back[PAGE], zeros[PAGE];

    for (int with_base = 0; with_base < 2; with_base++) {
        const uint8_t *from = with_base ? base : NULL;
        size_t len = 77, padded;
        enum page_code code = page_encode(coder, from, page, out, &len);
        bool same = from && !memcmp(base, page, PAGE), zero = !memcmp(page, zeros, PAGE);

        if ((code == PAGE_SAME) != same || (code == PAGE_ZERO) != (zero && !same) ||
            page_is_zero(page) != zero)
            fail_pair(seed, shape, "same or zero is told wrongly");
        if (code == PAGE_SAME || code == PAGE_ZERO || code == PAGE_PLAIN) {
            if (len != (code == PAGE_PLAIN ? PAGE : 0))
                fail_pair(seed, shape, "a length of nothing");
            continue;
        }
        padded = (len + 63) / 64 * 64;
        if (padded > PAGE - 64 || page_needs_base(out[0]) != (code == PAGE_DELTA))
            fail_pair(seed, shape, "longer than it may be, or of the wrong kind");
        if (page_decode(coder, from, out, len, back) || memcmp(back, page, PAGE))
            fail_pair(seed, shape, "not the page that was coded");
        memset(out + len, 0, padded - len);
        memset(back, 0, PAGE);
        if (page_decode(coder, from, out, padded, back) || memcmp(back, page, PAGE))
            fail_pair(seed, shape, "not the page that was coded, with padding");
        if (page_needs_base(out[0]) && page_decode(coder, NULL, out, len, back) != ERR_DAMAGED)
            fail_pair(seed, shape, "read without a base");
    }
}

static void every_page_comes_back(void **state)
{
    static uint8_t first[DELTA_MAX_BYTES];
    enum simd widest = simd_limit(SIMD_AVX512);
    struct page_coder *coder;

    assert_int_equal(page_coder_new(&coder), 0);
    for (uint64_t i = 0; i < n_pairs; i++) {
        struct rng rng;
        int first_len = -1;
        rng_seed(&rng, first_seed + i);
        const char *shape = page_shape(&rng, (unsigned)rng_below(&rng, PAGE_SHAPES), base, page);
        for (int level = SIMD_PLAIN; level <= (int)widest; level++) {
            simd_limit((enum simd)level);
            check_delta(first_seed + i, shape, first, &first_len);
        }
        if (i % 8 == 0) { /* takes longer: on one width, each in its turn */
            simd_limit((enum simd)(i / 8 % ((unsigned)widest + 1)));
            check_coder(coder, first_seed + i, shape);
        }
    }
    simd_limit(SIMD_AVX512);
    page_coder_free(coder);
}

static void each_byte_counts(void **state)
{
    enum simd widest = simd_limit(SIMD_AVX512);

    memset(base, 0, PAGE);
    memset(page, 0, PAGE);
    for (int level = SIMD_PLAIN; level <= (int)widest; level++) {
        simd_limit((enum simd)level);
        for (unsigned i = 0; i < PAGE; i++) {
            uint8_t out[12 + DELTA_SLACK_BYTES];
            page[i] = 0x80;
            assert_int_equal(delta_encode(base, page, out, 12), 12);
            assert_false(page_is_zero(page));
            page[i] = 0;
            assert_int_equal(delta_encode(base, page, out, 12), 0);
            assert_true(page_is_zero(page));
        }
    }
    simd_limit(SIMD_AVX512);
}

/* The example of docs/format-delta.md. */
static void the_form_is_the_documented_one(void **state)
{
    static const uint8_t expected[] = {0x11, 0x02, 0,    0,    0,    0,   0,   0,  0x80,
                                       0x03, 0x80, 0x80, 0x01, 0x80, 'A', 'B', 'C'};
    uint8_t out[DELTA_MAX_BYTES + DELTA_SLACK_BYTES];

    memset(base, 0, PAGE);
    memset(page, 0, PAGE);
    page[64 + 7] = 'A';
    page[64 + 8] = 'B';
    page[PAGE - 1] = 'C';
    assert_int_equal(delta_encode(base, page, out, DELTA_MAX_BYTES), sizeof(expected));
    assert_memory_equal(out, expected, sizeof(expected));
}

static void damage_is_refused(void **state)
{
    static const struct {
        const char *what;
        size_t len;
        uint8_t bytes[96];
    } bad[] = {
        {"nothing", 0, {0}},
        {"only a form", 1, {0x11}},
        {"no form", 13, {0x10, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 'A'}},
        {"a form of tomorrow", 13, {0x21, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 'A'}},
        {"no chunks", 9, {0x11}},
        {"a chunk without groups", 10, {0x11, 1}},
        {"a group without a mask", 10, {0x11, 1, 0, 0, 0, 0, 0, 0, 0, 1}},
        {"an empty mask", 12, {0x11, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 'A'}},
        {"too few bytes", 12, {0x11, 1, 0, 0, 0, 0, 0, 0, 0, 1, 3, 'A'}},
        {"more than it says", 13, {0x11, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 'A', 'B'}},
        {"a unit of padding", 12 + 64, {0x11, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 'A'}},
        {"no frame", 10, {0x12, 1, 0, 0, 0, 0, 0, 0, 0, 1}},
        {"no frame of a page", 10, {0x13, 1, 0, 0, 0, 0, 0, 0, 0, 1}},
        {"a form alone", 1, {0x13}},
        {"a frame of 4,095 bytes",
         15,
         {0x13, 0x00, 0x48, 0x4d, 0x00, 0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0xfa, 0xf7, 0x01,
          0x16}},
        {"a frame of 4,097 bytes",
         15,
         {0x13, 0x00, 0x48, 0x4d, 0x00, 0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0xfc, 0xf7, 0x01,
          0x16}},
    };
    uint8_t back[PAGE], before[PAGE];
    struct page_coder *coder;

    assert_int_equal(page_coder_new(&coder), 0);
    memset(base, 7, PAGE);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memset(back, 9, PAGE);
        memcpy(before, back, PAGE);
        if (page_decode(coder, base, bad[i].bytes, bad[i].len, back) != ERR_DAMAGED)
            fail_msg("taken: %s", bad[i].what);
        if (bad[i].bytes[0] == 0x11)
            assert_memory_equal(back, before, PAGE);
    }
    page_coder_free(coder);
}

/* What the forms are for, in units of 64 bytes. */
static void sizes_are_small(void **state)
{
    uint8_t out[PAGE_CODE_OUT_BYTES];
    struct page_coder *coder;
    struct rng rng;
    size_t len, sum = 0;

    assert_int_equal(page_coder_new(&coder), 0);
    rng_seed(&rng, 1);
    for (int i = 0; i < 100; i++) {
        page_shape(&rng, 4, base, page); /* 5 % scattered */
        assert_int_equal(page_encode(coder, base, page, out, &len), PAGE_DELTA);
        sum += len;
    }
    assert_in_range(sum / 100, 380, 470); /* 352 are the entropy of the places and random bytes */
    page_shape(&rng, 6, base, page);
    for (unsigned i = 0; i < PAGE; i++)
        page[i] = "repeated "[i % 9];
    assert_int_equal(page_encode(coder, base, page, out, &len), PAGE_PACKED);
    assert_in_range(len, 1, 64);
    for (unsigned i = 0; i < PAGE; i++)
        base[i] = page[i] = (uint8_t)rng_next(&rng);
    assert_int_equal(page_encode(coder, NULL, page, out, &len), PAGE_PLAIN);
    for (unsigned i = 0; i < PAGE / 3; i++) /* does not compress, but is a delta */
        page[i] ^= 0xff;
    assert_int_equal(page_encode(coder, base, page, out, &len), PAGE_DELTA);
    assert_in_range(len, PAGE / 3, PAGE / 3 + 300);
    page_coder_free(coder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_form_is_the_documented_one),
        cmocka_unit_test(each_byte_counts),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(sizes_are_small),
        cmocka_unit_test(every_page_comes_back),
    };
    if (argc > 1)
        n_pairs = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
