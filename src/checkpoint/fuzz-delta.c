/* fuzz-delta.c - bytes from anywhere against the reader of coded pages, and pages from anywhere
 * through coder and reader.
 *
 * The first byte of an input chooses: bit 0 round trip, else reading; bits 1-2 the vector width;
 * bit 3 without a base; the other bits the base. What is read is the rest. A round trip changes the
 * base by the rest: a byte of where, a byte of how far, a byte of what, again and again.
 *
 * Shown: nothing outside of the input, the base and the page is touched (in a build with
 * sanitizers), what is not refused gives the same page on every width, a round trip gives the page.
 */
#include "base/err.h"
#include "checkpoint/page-code.h"
#include "checkpoint/page-shapes.h"
#include "checkpoint/simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct page_coder *coder;
static uint8_t *base, *page; /* of their own, so that a sanitizer sees their ends */

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz-delta: %s\n", what);
    abort();
}

static void set_up(void)
{
    if (coder)
        return;
    check(!page_coder_new(&coder), "no coder");
    base = malloc(PAGE);
    page = malloc(PAGE);
    check(base && page, "no memory");
}

static void read_it(bool with_base, const uint8_t *data, size_t size)
{
    static uint8_t first[PAGE];
    int first_code = 1;

    for (int level = SIMD_PLAIN; level < SIMD_LEVELS; level++) {
        simd_limit((enum simd)level);
        int code = page_decode(coder, with_base ? base : NULL, data, size, page);
        check(code == 0 || code == ERR_DAMAGED, "another error");
        if (first_code == 1)
            memcpy(first, page, PAGE);
        else
            check(code == first_code && (code || !memcmp(first, page, PAGE)), "widths differ");
        first_code = code;
    }
}

static void round_trip(bool with_base, const uint8_t *data, size_t size)
{
    static uint8_t next[PAGE], out[PAGE_CODE_OUT_BYTES];
    size_t at = 0, len = 0;

    memcpy(next, base, PAGE);
    for (size_t i = 0; i + 3 <= size; i += 3) {
        at = (at + data[i] * 16u + 1) % PAGE;
        for (unsigned n = data[i + 1] & 63; n && at < PAGE; n--)
            next[at++] = (uint8_t)(data[i + 2] + (data[i + 1] & 64 ? n : 0));
    }
    const uint8_t *from = with_base ? base : NULL;
    switch (page_encode(coder, from, next, out, &len)) {
    case PAGE_SAME:
        check(from && !memcmp(base, next, PAGE), "not the same");
        return;
    case PAGE_ZERO:
        check(page_is_zero(next), "not zero");
        return;
    case PAGE_PLAIN:
        return;
    default:
        check(len <= PAGE - DELTA_UNIT_BYTES, "too long");
        check(!page_decode(coder, from, out, len, page), "cannot be read");
        check(!memcmp(page, next, PAGE), "another page");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rng rng;

    set_up();
    if (!size)
        return 0;
    rng_seed(&rng, data[0] >> 4);
    page_shape(&rng, data[0] >> 4 & 1 ? 8 : 13, base, page);
    simd_limit((enum simd)((data[0] >> 1 & 3) % SIMD_LEVELS));
    if (data[0] & 1)
        round_trip(!(data[0] & 8), data + 1, size - 1);
    else
        read_it(!(data[0] & 8), data + 1, size - 1);
    return 0;
}
