/* memory-image-clean.c - records that are written again, so that what they stood on can go.
 *
 * When less than half of the units on the pages that are held is in use, the records on those pages
 * with the fewest are written at the tail, as they are; a bounded number with each commit. So are
 * those of old epochs, when there are too many. A record that is damaged stays where it is. */
#include "checkpoint/memory-image-internal.h"

#include <errno.h>

#define CLEAN_RECORDS   4096u /* of a commit */
#define EPOCHS_TOO_MANY 1024u
#define BATCH           256u

struct histogram {
    uint64_t pages[MEMORY_UNITS_PER_PAGE + 1];
};

static int count_pages(void *arg, uint64_t page, const uint8_t *counts, unsigned n)
{
    struct histogram *h = arg;

    for (unsigned i = 0; i < n; i++)
        if (counts[i] <= MEMORY_UNITS_PER_PAGE)
            h->pages[counts[i]]++;
    return 0;
}

/* Pages with up to this many units in use are emptied, until the budget is spent. */
static unsigned choose_limit(const struct memory_image *image)
{
    struct histogram h = {{0}};
    uint64_t units = 0;
    unsigned limit = 0;

    if (image->space->live_units * 2 >= image->space->held_pages * MEMORY_UNITS_PER_PAGE)
        return 0;
    memory_space_walk(image->space, count_pages, &h);
    while (limit < MEMORY_UNITS_PER_PAGE / 2 && units < CLEAN_RECORDS) {
        limit++;
        units += h.pages[limit] * limit;
    }
    return limit;
}

struct clean {
    struct memory_image *image;
    struct memory_scratch *scratch;
    unsigned limit;
    uint64_t before; /* bytes: what stands before it goes, too */
    struct memory_fetch items[BATCH];
    uint64_t pages[BATCH]; /* of the table; bit 63: the delta */
    size_t n, done;
};

#define IS_DELTA (1ULL << 63)

static bool is_chosen(const struct clean *c, memory_loc loc)
{
    uint64_t offset = memory_loc_offset(loc);

    if (!loc || offset >= c->image->tail) /* new anyway */
        return false;
    return offset < c->before ||
           memory_space_units(c->image->space, offset / MEMORY_PAGE_BYTES) <= c->limit;
}

/* Write again what was collected. */
static int rewrite(struct clean *c)
{
    struct memory_image *image = c->image;
    size_t n = c->n;
    int code = memory_fetch(image, c->scratch, c->items, n);

    c->n = 0;
    c->done += n;
    if (code)
        return code;
    pthread_mutex_lock(&image->lock);
    for (size_t i = 0; i < n && !code; i++) {
        uint64_t page = c->pages[i] & ~IS_DELTA;
        struct memory_entry entry = image->table->entries[page];
        memory_loc *loc = c->pages[i] & IS_DELTA ? &entry.delta : &entry.whole;
        if (!c->items[i].record)
            continue; /* it stays where it is */
        code = memory_append(image, c->items[i].record,
                             (size_t)memory_loc_units(*loc) * MEMORY_UNIT_BYTES - MEMORY_SUM_BYTES,
                             loc);
        if (!code)
            code = memory_undo_reserve(image, 1);
        if (!code)
            memory_set_entry(image, page, entry);
    }
    pthread_mutex_unlock(&image->lock);
    return code;
}

static int collect(struct clean *c, uint64_t page, memory_loc loc, bool delta)
{
    if (!is_chosen(c, loc))
        return 0;
    c->items[c->n] = (struct memory_fetch){.loc = loc};
    c->pages[c->n++] = page | (delta ? IS_DELTA : 0);
    return c->n == BATCH ? rewrite(c) : 0;
}

int memory_clean(struct memory_image *image)
{
    struct clean c = {.image = image, .limit = choose_limit(image)};

    if (image->n_epochs > EPOCHS_TOO_MANY)
        c.before = image->epochs[image->n_epochs / 2].start;
    if (!c.limit && !c.before)
        return 0;
    int code = memory_append_begin(image);
    if (!code)
        code = memory_scratch_get(image, &c.scratch);
    if (code)
        return code;
    for (uint64_t p = 0; p < image->table->n_pages && c.done < CLEAN_RECORDS && !code; p++) {
        code = collect(&c, p, image->table->entries[p].whole, false);
        if (!code)
            code = collect(&c, p, image->table->entries[p].delta, true);
    }
    if (!code && c.n)
        code = rewrite(&c);
    memory_scratch_put(image, c.scratch);
    return code;
}
