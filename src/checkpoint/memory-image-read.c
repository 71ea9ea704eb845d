/* memory-image-read.c - pages and blobs of an image. */
#include "checkpoint/memory-image-internal.h"

#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Pages that are read with one call of io.read(): two records each at most. */
#define BATCH_PAGES (MEMORY_FETCH_MAX / 2)

static int read_batch(const struct memory_image *image, struct memory_scratch *scratch,
                      const struct memory_entry *entries, unsigned n, uint8_t *out)
{
    struct memory_fetch items[2 * BATCH_PAGES];
    size_t count = 0, at = 0;

    for (unsigned i = 0; i < n; i++) {
        if (entries[i].whole)
            items[count++] = (struct memory_fetch){.loc = entries[i].whole};
        if (entries[i].delta)
            items[count++] = (struct memory_fetch){.loc = entries[i].delta};
    }
    int code = memory_fetch(image, scratch, items, count);
    for (unsigned i = 0; i < n && !code; i++) {
        uint8_t *page = out + (size_t)i * MEMORY_PAGE_BYTES;
        if (!entries[i].whole) {
            memset(page, 0, MEMORY_PAGE_BYTES);
            continue;
        }
        const uint8_t *whole = items[at++].record;
        const uint8_t *delta = entries[i].delta ? items[at++].record : NULL;
        code = memory_decode(scratch, &entries[i], whole, delta, page);
    }
    return code;
}

int memory_read_pages(const struct memory_image *image, uint64_t page, unsigned n, uint8_t *out)
{
    struct memory_scratch *scratch;
    int code = memory_scratch_get(image, &scratch);

    if (code)
        return code;
    for (unsigned done = 0; done < n && !code;) {
        unsigned some = n - done < BATCH_PAGES ? n - done : BATCH_PAGES;
        code = read_batch(image, scratch, image->table->entries + page + done, some,
                          out + (size_t)done * MEMORY_PAGE_BYTES);
        done += some;
    }
    memory_scratch_put(image, scratch);
    return code;
}

static bool in_block(const struct memory_image *image, unsigned block, uint64_t page, uint64_t n)
{
    const struct memory_table *table = image->table;

    return table && block < table->n_blocks && page <= table->blocks[block].pages &&
           n <= table->blocks[block].pages - page;
}

int memory_image_read(const struct memory_image *image, unsigned block, uint64_t page, unsigned n,
                      void *out)
{
    if (!in_block(image, block, page, n))
        return -EINVAL;
    return memory_read_pages(image, image->table->first[block] + page, n, out);
}

int memory_image_read_some(const struct memory_image *image, unsigned block, const uint64_t *pages,
                           unsigned n, void *out)
{
    struct memory_entry entries[BATCH_PAGES];
    struct memory_scratch *scratch;
    int code = memory_scratch_get(image, &scratch);

    if (code)
        return code;
    for (unsigned done = 0; done < n && !code;) {
        unsigned some = n - done < BATCH_PAGES ? n - done : BATCH_PAGES;
        for (unsigned i = 0; i < some && !code; i++) {
            code = in_block(image, block, pages[done + i], 1) ? 0 : -EINVAL;
            if (!code)
                entries[i] = image->table->entries[image->table->first[block] + pages[done + i]];
        }
        if (!code)
            code = read_batch(image, scratch, entries, some,
                              (uint8_t *)out + (size_t)done * MEMORY_PAGE_BYTES);
        done += some;
    }
    memory_scratch_put(image, scratch);
    return code;
}

uint64_t memory_image_next(const struct memory_image *image, unsigned block, uint64_t page)
{
    if (!in_block(image, block, page, 0))
        return image->table && block < image->table->n_blocks ? image->table->blocks[block].pages
                                                              : 0;
    const struct memory_entry *entries = image->table->entries + image->table->first[block];
    while (page < image->table->blocks[block].pages && !entries[page].whole)
        page++;
    return page;
}

/* The same place, and by the same writer. */
static bool same_record(const struct memory_image *a, memory_loc x, const struct memory_image *b,
                        memory_loc y)
{
    return x == y &&
           (!x || memory_seed(a, memory_loc_offset(x)) == memory_seed(b, memory_loc_offset(x)));
}

static bool same_entry(const struct memory_image *a, const struct memory_entry *x,
                       const struct memory_image *b, const struct memory_entry *y)
{
    return same_record(a, x->whole, b, y->whole) && same_record(a, x->delta, b, y->delta);
}

bool memory_image_same(const struct memory_image *a, const struct memory_image *b, unsigned block,
                       uint64_t page)
{
    return in_block(a, block, page, 1) && in_block(b, block, page, 1) &&
           same_entry(a, &a->table->entries[a->table->first[block] + page], b,
                      &b->table->entries[b->table->first[block] + page]);
}

uint64_t memory_image_next_unlike(const struct memory_image *a, unsigned block_a,
                                  const struct memory_image *b, unsigned block_b, uint64_t page)
{
    if (!in_block(a, block_a, 0, 0) || !in_block(b, block_b, 0, 0))
        return 0;
    const struct memory_entry *x = a->table->entries + a->table->first[block_a];
    const struct memory_entry *y = b->table->entries + b->table->first[block_b];
    uint64_t end = a->table->blocks[block_a].pages < b->table->blocks[block_b].pages
                       ? a->table->blocks[block_a].pages
                       : b->table->blocks[block_b].pages;
    while (page < end && same_entry(a, &x[page], b, &y[page]))
        page++;
    return page < end ? page : end;
}

int memory_image_blob(const struct memory_image *image, const char *name, size_t max_bytes,
                      uint8_t **ret, size_t *ret_bytes)
{
    for (size_t i = 0; i < image->n_blobs; i++) {
        const struct memory_blob_entry *blob = &image->blobs[i];
        if (strncmp(blob->name, name, sizeof(blob->name)))
            continue;
        if (blob->piece.raw > max_bytes)
            return ERR_DAMAGED;
        int code = memory_piece_read(image, &blob->piece, ret);
        if (!code)
            *ret_bytes = blob->piece.raw;
        return code;
    }
    return -ENOENT;
}
