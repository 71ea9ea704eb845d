/* track-compare.c - comparing each page with the hash that it had the last time (XXH3, 128 bits).
 * Holes are not read: they have the hash of zeros.
 *
 * What was told must be copied before anything writes again: a page that is hashed as A, copied as
 * B (a lock just held) and is A again at the next look would not be told, and the copy stay B. */
#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/tracker-internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define CHUNK_PAGES 64u

struct own {
    const struct ram *ram;
    XXH128_hash_t zero;
    unsigned char chunk[CHUNK_PAGES * RAM_PAGE_BYTES];
    XXH128_hash_t *hashes[];
};

/* bitmap: NULL, to note the hashes only. */
static void look_at(struct own *o, unsigned block, uint64_t page, XXH128_hash_t hash,
                    uint64_t *bitmap)
{
    XXH128_hash_t *known = &o->hashes[block][page];

    if (bitmap && !XXH128_isEqual(*known, hash))
        bitmap_set(bitmap, page);
    *known = hash;
}

static int look_at_data(struct own *o, unsigned block, uint64_t page, uint64_t end,
                        uint64_t *bitmap)
{
    while (page < end) {
        uint64_t n = end - page < CHUNK_PAGES ? end - page : CHUNK_PAGES;
        int r = ram_read(o->ram, block, page * RAM_PAGE_BYTES, o->chunk, n * RAM_PAGE_BYTES);
        if (r < 0)
            return r;
        for (uint64_t i = 0; i < n; i++)
            look_at(o, block, page + i, XXH3_128bits(o->chunk + i * RAM_PAGE_BYTES, RAM_PAGE_BYTES),
                    bitmap);
        page += n;
    }
    return 0;
}

/* The end of the data or hole at page, in pages. */
static uint64_t boundary(const struct ram_block *b, uint64_t page, int whence)
{
    off_t at = lseek(b->fd, (off_t)(b->file_offset + page * RAM_PAGE_BYTES), whence);
    uint64_t n_pages = block_pages(b);

    if (at < 0)
        return n_pages;
    page = ((uint64_t)at - b->file_offset) / RAM_PAGE_BYTES;
    return page < n_pages ? page : n_pages;
}

static int look_at_all(struct own *o, unsigned block, uint64_t *bitmap)
{
    const struct ram_block *b = &o->ram->blocks[block];
    uint64_t n_pages = block_pages(b), page = 0;
    int r = 0;

    while (page < n_pages && r == 0) {
        uint64_t data = b->shared ? boundary(b, page, SEEK_DATA) : page;
        for (; page < data; page++)
            look_at(o, block, page, o->zero, bitmap);
        uint64_t end = page == n_pages ? page : b->shared ? boundary(b, page, SEEK_HOLE) : n_pages;
        r = look_at_data(o, block, page, end, bitmap);
        page = end;
    }
    return r;
}

static int explain(int r, struct why *why)
{
    return r == -ESRCH ? why_set(why, r, "QEMU has ended")
                       : why_set(why, r, "QEMU's memory cannot be read: %s", strerror(-r));
}

static int collect_compare(void *own, unsigned block, uint64_t *bitmap, struct tracker_times *times,
                           struct why *why)
{
    uint64_t begin_us = mono_us();
    int r = look_at_all(own, block, bitmap);

    times->get_us += mono_us() - begin_us;
    return r < 0 ? explain(r, why) : 0;
}

static void close_compare(void *own, bool remove)
{
    struct own *o = own;

    for (unsigned i = 0; o && i < o->ram->n; i++)
        free(o->hashes[i]);
    free(o);
}

static int open_compare(const struct ram *ram, const struct tracker_options *options,
                        struct monitor *monitor, uint64_t end_us, void **ret, struct why *why)
{
    struct own *o = calloc(1, sizeof(*o) + ram->n * sizeof(o->hashes[0]));
    int r = 0;

    if (!o)
        return why_set(why, -ENOMEM, "no memory");
    o->ram = ram;
    o->zero = XXH3_128bits(o->chunk, RAM_PAGE_BYTES);
    for (unsigned i = 0; i < ram->n && r == 0; i++) {
        o->hashes[i] = calloc(block_pages(&ram->blocks[i]), sizeof(o->hashes[i][0]));
        r = o->hashes[i] ? look_at_all(o, i, NULL) : -ENOMEM;
    }
    if (r < 0) {
        close_compare(o, true);
        return explain(r, why);
    }
    *ret = o;
    return 0;
}

const struct tracker_ops track_compare = {.name = "comparison",
                                          .needs_stop = true,
                                          .sees_discards = true,
                                          .open = open_compare,
                                          .collect = collect_compare,
                                          .close = close_compare};
