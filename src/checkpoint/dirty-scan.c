/* dirty-scan.c - a scan in its plain form, and around the vector forms what those leave: the first
 * word after a stop in its middle, the last words, and those that may not fit.
 *
 * A range is two edges: the bits that differ from the bit before them, which are found in the same
 * way as set bits (dirty_edges()). Edges go into the array of ranges as they come, first and end in
 * turn.
 *
 * 1. A call for ranges ends after an even number of edges, or at the end of the bitmap, which is
 * the end of an open range. So when it begins, the bit before counts as clear. */
#include "checkpoint/dirty-scan.h"
#include "checkpoint/dirty-scan-impl.h"
#include "checkpoint/simd.h"

#include <assert.h>

static_assert(sizeof(struct dirty_range) == 2 * sizeof(uint32_t), "edges go into ranges");

void dirty_scan_begin(struct dirty_scan *scan, const uint64_t *words, uint32_t n_pages)
{
    assert(n_pages <= DIRTY_SCAN_MAX_PAGES);
    *scan = (struct dirty_scan){.words = words, .n_pages = n_pages};
}

static dirty_words_fn *vector_form(void)
{
#ifdef __x86_64__
    static dirty_words_fn *const forms[SIMD_LEVELS] = {
        [SIMD_AVX2] = dirty_words_avx2, [SIMD_AVX512] = dirty_words_avx512};
    return forms[simd_level()];
#else
    return NULL;
#endif
}

/* A word of the bitmap without the bits before scan->next and those beyond the end. */
static uint64_t word_of(const struct dirty_scan *scan, size_t w)
{
    uint64_t word = scan->words[w];

    if (w == scan->next / 64)
        word &= UINT64_MAX << scan->next % 64;
    if (w == scan->n_pages / 64)
        word &= ((uint64_t)1 << scan->n_pages % 64) - 1;
    return word;
}

/* Set bits, or edges, from scan->next on. *ret_end: whether the bitmap ended. */
static size_t scan_some(struct dirty_scan *scan, bool edges, uint32_t *out, size_t max,
                        bool *ret_end)
{
    dirty_words_fn *vector = vector_form();
    size_t n = 0, w = scan->next / 64;
    size_t n_words = ((size_t)scan->n_pages + 63) / 64, n_whole = scan->n_pages / 64;
    uint64_t before = 0;
    bool whole = scan->next % 64 == 0 && !edges; /* nothing of the words from w on is masked */

    for (; w < n_words; w++) {
        if (whole && vector && w < n_whole) {
            n += vector(scan->words, w, n_whole, edges, out + n, max - n, &w);
            if (w == n_words)
                break;
            before = w ? scan->words[w - 1] : 0;
        }
        uint64_t word = word_of(scan, w), bits = edges ? dirty_edges(word, before) : word;
        for (; bits; bits &= bits - 1) {
            uint32_t place = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(bits);
            if (n == max) {
                scan->next = place;
                *ret_end = false;
                return n;
            }
            out[n++] = place;
        }
        before = word;
        whole = true;
    }
    scan->next = scan->n_pages;
    *ret_end = true;
    return n;
}

size_t dirty_scan_pages(struct dirty_scan *scan, uint32_t *out, size_t max)
{
    bool end;
    return scan_some(scan, false, out, max, &end);
}

size_t dirty_scan_ranges(struct dirty_scan *scan, struct dirty_range *out, size_t max)
{
    uint32_t *edges = &out->first;
    bool end;
    size_t n = scan_some(scan, true, edges, 2 * max, &end);

    if (end && n % 2)
        edges[n++] = scan->n_pages;
    return n / 2;
}

size_t dirty_scan_bitwise(struct dirty_scan *scan, uint32_t *out, size_t max)
{
    size_t n = 0;

    for (; scan->next < scan->n_pages; scan->next++) {
        if (!(scan->words[scan->next / 64] >> scan->next % 64 & 1))
            continue;
        if (n == max)
            break;
        out[n++] = scan->next;
    }
    return n;
}
