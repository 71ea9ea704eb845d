/* page-shapes.c - pages that changed little, much, in a row, all over, by counting, by moving. */
#include "checkpoint/page-shapes.h"
#include "checkpoint/delta.h"

#include <string.h>

static void fill_random(struct rng *rng, uint8_t *page)
{
    for (unsigned at = 0; at < DELTA_PAGE_BYTES; at += 8) {
        uint64_t word = rng_next(rng);
        memcpy(page + at, &word, 8);
    }
}

/* Something that compresses: words of a few kinds. */
static void fill_plausible(struct rng *rng, uint8_t *page)
{
    for (unsigned at = 0; at < DELTA_PAGE_BYTES; at += 8) {
        uint64_t word = 0;
        if (rng_percent(rng, 30))
            word = 0xffff888000000000ULL + rng_below(rng, 1 << 20) * 64;
        else if (rng_percent(rng, 40))
            word = rng_below(rng, 300);
        memcpy(page + at, &word, 8);
    }
}

static void change_runs(struct rng *rng, uint8_t *page, unsigned most)
{
    for (uint64_t n = rng_range(rng, 1, 8); n; n--) {
        unsigned at = (unsigned)rng_below(rng, DELTA_PAGE_BYTES);
        unsigned len = (unsigned)rng_range(rng, 1, most);
        for (unsigned i = at; i < at + len && i < DELTA_PAGE_BYTES; i++)
            page[i] = (uint8_t)rng_next(rng);
    }
}

static void change_scattered(struct rng *rng, uint8_t *page, unsigned per_1000)
{
    for (unsigned i = 0; i < DELTA_PAGE_BYTES; i++)
        if (rng_below(rng, 1000) < per_1000)
            page[i] ^= (uint8_t)rng_range(rng, 1, 255);
}

static void change_words(struct rng *rng, uint8_t *page, uint64_t by)
{
    for (unsigned at = 0; at < DELTA_PAGE_BYTES; at += 8) {
        uint64_t word;
        if (rng_percent(rng, 50))
            continue;
        memcpy(&word, page + at, 8);
        word += by;
        memcpy(page + at, &word, 8);
    }
}

const char *page_shape(struct rng *rng, unsigned shape, uint8_t *base, uint8_t *page)
{
    unsigned at = (unsigned)rng_below(rng, DELTA_PAGE_BYTES);

    if (rng_percent(rng, 50))
        fill_random(rng, base);
    else
        fill_plausible(rng, base);
    memcpy(page, base, DELTA_PAGE_BYTES);
    switch (shape) {
    case 0:
        return "equal";
    case 1:
        page[at] ^= (uint8_t)rng_range(rng, 1, 255);
        return "one byte";
    case 2:
        change_runs(rng, page, 40);
        return "short runs";
    case 3:
        change_runs(rng, page, 1500);
        return "long runs";
    case 4:
        change_scattered(rng, page, 50);
        return "scattered";
    case 5:
        change_scattered(rng, page, (unsigned)rng_range(rng, 1, 1000));
        return "scattered more or less";
    case 6:
        for (unsigned i = 0; i < DELTA_PAGE_BYTES; i++)
            page[i] ^= 0xff;
        return "all";
    case 7:
        memset(page, 0, DELTA_PAGE_BYTES);
        return "zero now";
    case 8:
        memset(base, 0, DELTA_PAGE_BYTES);
        return "zero before";
    case 9:
        memset(page, 0, DELTA_PAGE_BYTES);
        page[at] = 1;
        return "one byte is not zero";
    case 10:
        change_words(rng, page, 1);
        return "counted";
    case 11:
        change_words(rng, page, 0x1000);
        return "pointers shifted";
    case 12:
        memmove(page + at, base, DELTA_PAGE_BYTES - at);
        return "moved";
    default:
        fill_plausible(rng, page);
        return "another page";
    }
}
