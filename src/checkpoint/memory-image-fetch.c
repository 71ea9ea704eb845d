/* memory-image-fetch.c - records from the disk, many at once.
 *
 * The pages of the disk that records stand on are sorted, neighbours are joined, and all are read
 * with one call. Where that fails with EIO they are read one by one: so one that cannot be read
 * takes no record with it that stands elsewhere. No lock is held but for a moment, to take what a
 * thread reads with. */
#include "checkpoint/memory-image-internal.h"

#include "base/checksum.h"
#include "base/err.h"
#include "base/huge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What is read though nobody wants it costs less than one more part. */
#define JOIN_GAP_PAGES 4u
#define PART_MAX_BYTES (4u << 20)

#define LARGE_READ_BYTES (256u << 10) /* worth huge pages */

static int scratch_new(struct memory_scratch **ret)
{
    struct memory_scratch *scratch = calloc(1, sizeof(*scratch));

    if (!scratch)
        return -ENOMEM;
    scratch->parts = malloc(MEMORY_FETCH_MAX * sizeof(*scratch->parts));
    scratch->order = malloc(MEMORY_FETCH_MAX * sizeof(*scratch->order));
    if (!scratch->parts || !scratch->order || page_coder_new(&scratch->coder)) {
        memory_scratch_free(scratch);
        return -ENOMEM;
    }
    *ret = scratch;
    return 0;
}

void memory_scratch_free(struct memory_scratch *scratch)
{
    if (!scratch)
        return;
    page_coder_free(scratch->coder);
    huge_free(scratch->buf, scratch->buf_bytes);
    free(scratch->parts);
    free(scratch->order);
    free(scratch);
}

/* The list of scratches is no part of what the image says: const for who reads. */
static struct memory_image *unconst(const struct memory_image *image)
{
    return (struct memory_image *)(uintptr_t)image;
}

int memory_scratch_get(const struct memory_image *image, struct memory_scratch **ret)
{
    struct memory_image *owner = unconst(image);

    pthread_mutex_lock(&owner->scratch_lock);
    struct memory_scratch *scratch = owner->scratches;
    if (scratch)
        owner->scratches = scratch->next;
    pthread_mutex_unlock(&owner->scratch_lock);
    if (!scratch)
        return scratch_new(ret);
    *ret = scratch;
    return 0;
}

void memory_scratch_put(const struct memory_image *image, struct memory_scratch *scratch)
{
    struct memory_image *owner = unconst(image);

    pthread_mutex_lock(&owner->scratch_lock);
    scratch->next = owner->scratches;
    owner->scratches = scratch;
    pthread_mutex_unlock(&owner->scratch_lock);
}

uint64_t memory_seed(const struct memory_image *image, uint64_t offset)
{
    size_t low = 0, high = image->n_epochs;

    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (image->epochs[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    return (image->n_epochs ? image->epochs[low].id : 0) + offset;
}

/* What stands behind the sum, if it is that. */
static const uint8_t *checked(const struct memory_image *image, memory_loc loc,
                              const uint8_t *bytes)
{
    size_t len = (size_t)memory_loc_units(loc) * MEMORY_UNIT_BYTES - MEMORY_SUM_BYTES;
    uint32_t sum;

    memcpy(&sum, bytes, sizeof(sum));
    if (sum !=
        checksum_at(memory_seed(image, memory_loc_offset(loc)), bytes + MEMORY_SUM_BYTES, len))
        return NULL;
    return bytes + MEMORY_SUM_BYTES;
}

static int compare_items(const void *a, const void *b, void *arg)
{
    const struct memory_fetch *items = arg;
    memory_loc x = items[*(const uint32_t *)a].loc, y = items[*(const uint32_t *)b].loc;

    return x < y ? -1 : x > y;
}

/* Those that are on the disk, in the order in which they stand there. */
static size_t put_in_order(const struct memory_image *image, struct memory_scratch *scratch,
                           struct memory_fetch *items, size_t n)
{
    size_t count = 0;
    bool rising = true;

    for (size_t i = 0; i < n; i++) {
        uint64_t offset = memory_loc_offset(items[i].loc);
        if (!image->in_put && image->buf_used && offset >= image->buf_at) {
            items[i].record = checked(image, items[i].loc, image->buf + (offset - image->buf_at));
            continue;
        }
        rising = rising && (!count || items[scratch->order[count - 1]].loc <= items[i].loc);
        scratch->order[count++] = (uint32_t)i;
    }
    if (!rising)
        qsort_r(scratch->order, count, sizeof(*scratch->order), compare_items, items);
    return count;
}

static size_t make_parts(struct memory_scratch *scratch, const struct memory_fetch *items, size_t n,
                         size_t *ret_bytes)
{
    size_t count = 0, sum = 0;

    for (size_t i = 0; i < n; i++) {
        memory_loc loc = items[scratch->order[i]].loc;
        uint64_t from = memory_loc_offset(loc) / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
        uint64_t to =
            (memory_loc_end(loc) + MEMORY_PAGE_BYTES - 1) / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
        struct memory_io_part *last = count ? &scratch->parts[count - 1] : NULL;
        if (last && from <= last->offset + last->len + JOIN_GAP_PAGES * MEMORY_PAGE_BYTES &&
            to - last->offset <= PART_MAX_BYTES) {
            if (to > last->offset + last->len)
                last->len = to - last->offset;
        } else {
            scratch->parts[count++] =
                (struct memory_io_part){.offset = from, .len = (size_t)(to - from)};
        }
    }
    for (size_t i = 0; i < count; i++)
        sum += scratch->parts[i].len;
    *ret_bytes = sum;
    return count;
}

static int make_room(struct memory_scratch *scratch, size_t bytes)
{
    if (bytes <= scratch->buf_bytes)
        return 0;
    size_t unit = bytes < LARGE_READ_BYTES ? MEMORY_PAGE_BYTES : HUGE_BYTES;
    bytes = (bytes + bytes / 4 + unit - 1) / unit * unit;
    huge_free(scratch->buf, scratch->buf_bytes);
    scratch->buf_bytes = 0;
    scratch->buf = huge_alloc(bytes);
    if (!scratch->buf)
        return -ENOMEM;
    scratch->buf_bytes = bytes;
    return 0;
}

/* The part that has a record: this one, or one behind it. */
static const struct memory_io_part *part_of(const struct memory_io_part *part, memory_loc loc)
{
    while (memory_loc_end(loc) > part->offset + part->len)
        part++;
    return part;
}

static uint8_t *place_in(const struct memory_io_part *part, uint64_t offset)
{
    return (uint8_t *)part->buf + (offset - part->offset);
}

/* The pages that records stand on, one by one. One that cannot be read becomes zeros, which fit no
 * record's sum. */
static int read_alone(const struct memory_image *image, const struct memory_scratch *scratch,
                      const struct memory_fetch *items, size_t n)
{
    const struct memory_io_part *part = scratch->parts;
    uint64_t next = 0; /* those before it were read */

    for (size_t i = 0; i < n; i++) {
        memory_loc loc = items[scratch->order[i]].loc;
        uint64_t at = memory_loc_offset(loc) / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
        part = part_of(part, loc);
        for (at = at < next ? next : at; at < memory_loc_end(loc); at += MEMORY_PAGE_BYTES) {
            struct memory_io_part page = {
                .offset = at, .buf = place_in(part, at), .len = MEMORY_PAGE_BYTES};
            int code = image->io.read(image->io.arg, &page, 1);
            if (code && err_errno(code) != EIO)
                return code;
            if (code)
                memset(page.buf, 0, MEMORY_PAGE_BYTES);
            next = at + MEMORY_PAGE_BYTES;
        }
    }
    return 0;
}

int memory_fetch(const struct memory_image *image, struct memory_scratch *scratch,
                 struct memory_fetch *items, size_t n)
{
    size_t count = put_in_order(image, scratch, items, n), bytes, at = 0;
    const struct memory_io_part *part = scratch->parts;

    if (!count)
        return 0;
    size_t n_parts = make_parts(scratch, items, count, &bytes);
    int code = make_room(scratch, bytes);
    if (code)
        return code;
    for (size_t i = 0; i < n_parts; i++) {
        scratch->parts[i].buf = scratch->buf + at;
        at += scratch->parts[i].len;
    }
    code = image->io.read(image->io.arg, scratch->parts, n_parts);
    if (code && err_errno(code) == EIO)
        code = read_alone(image, scratch, items, count);
    if (code)
        return code;
    for (size_t i = 0; i < count; i++) {
        struct memory_fetch *item = &items[scratch->order[i]];
        part = part_of(part, item->loc);
        item->record = checked(image, item->loc, place_in(part, memory_loc_offset(item->loc)));
    }
    return 0;
}

int memory_decode_whole(struct memory_scratch *scratch, memory_loc loc, const uint8_t *whole,
                        const uint8_t **ret)
{
    size_t len = (size_t)memory_loc_units(loc) * MEMORY_UNIT_BYTES - MEMORY_SUM_BYTES;

    if (!whole)
        return ERR_DAMAGED;
    if (memory_loc_units(loc) == MEMORY_RECORD_UNITS) {
        *ret = whole;
        return 0;
    }
    *ret = scratch->base;
    return page_decode(scratch->coder, NULL, whole, len, scratch->base);
}

int memory_decode(struct memory_scratch *scratch, const struct memory_entry *entry,
                  const uint8_t *whole, const uint8_t *delta, uint8_t *page)
{
    size_t len = (size_t)memory_loc_units(entry->whole) * MEMORY_UNIT_BYTES - MEMORY_SUM_BYTES;
    const uint8_t *base;

    if (!whole)
        return ERR_DAMAGED;
    if (!entry->delta && memory_loc_units(entry->whole) == MEMORY_RECORD_UNITS) {
        memcpy(page, whole, DELTA_PAGE_BYTES);
        return 0;
    }
    if (!entry->delta)
        return page_decode(scratch->coder, NULL, whole, len, page);
    if (!delta || !page_needs_base(delta[0]))
        return ERR_DAMAGED;
    int code = memory_decode_whole(scratch, entry->whole, whole, &base);
    if (code)
        return code;
    len = (size_t)memory_loc_units(entry->delta) * MEMORY_UNIT_BYTES - MEMORY_SUM_BYTES;
    return page_decode(scratch->coder, base, delta, len, page);
}
