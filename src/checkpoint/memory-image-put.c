/* memory-image-put.c - pages to records, by several threads.
 *
 * The pages of a put are taken in slices of up to 256. Who has a slice copies its pages (what is
 * coded must not change under the coder), reads the whole records that they have with one call,
 * codes, and appends what came out in the order of the pages. So while one waits for its bases
 * another codes, and what stands together in memory stands together on the disk.
 *
 * A page that has a delta and is as it was is found by its hash, which is kept from the put before,
 * and then by reading the delta, too.
 *
 * A base that cannot be read, or is damaged, is no reason to fail: the page is stored whole, and
 * the image is better than before. */
#include "checkpoint/memory-image-internal.h"

#include "base/bus-error.h"
#include "base/checksum.h"
#include "base/mono.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define SLICE_PAGES 256u
#define MAX_THREADS 4u

struct result {
    enum page_code code;
    size_t len;            /* of what is to be appended */
    const uint8_t *record; /* in outs or pages */
    bool keep;             /* PAGE_SAME as whole and delta together, not as the whole alone */
};

struct put {
    struct memory_image *image;
    uint64_t first; /* page of the block */
    uint64_t n_pages;
    const uint64_t *bitmap;
    const uint8_t *memory;
    bool packed; /* memory has the pages of the bitmap alone */
    bool (*cancel)(void *arg);
    void *arg;

    pthread_mutex_t lock;   /* of what follows; taken before the image's, never after it */
    uint64_t cursor, taken; /* taken: pages before the cursor */
    int code;
    struct memory_put_stats stats;
};

/* What one thread has. */
struct slice {
    struct memory_scratch *scratch;
    uint8_t *pages, *outs, *base_pages;
    const uint8_t *bases[SLICE_PAGES]; /* in base_pages, or not known as yet */
    uint64_t numbers[SLICE_PAGES];     /* of the table */
    uint32_t hashes[SLICE_PAGES];
    struct memory_fetch fetches[SLICE_PAGES], deltas[SLICE_PAGES];
    struct result results[SLICE_PAGES];
    unsigned n;
    struct memory_put_stats stats;
};

static void slice_free(const struct memory_image *image, struct slice *slice)
{
    if (!slice)
        return;
    if (slice->scratch)
        memory_scratch_put(image, slice->scratch);
    free(slice->pages);
    free(slice->outs);
    free(slice->base_pages);
    free(slice);
}

static int slice_new(const struct memory_image *image, unsigned pages, struct slice **ret)
{
    struct slice *slice = calloc(1, sizeof(*slice));

    if (!slice)
        return -ENOMEM;
    slice->pages = malloc((size_t)pages * MEMORY_PAGE_BYTES);
    slice->outs = malloc((size_t)pages * PAGE_CODE_OUT_BYTES);
    slice->base_pages = malloc((size_t)pages * MEMORY_PAGE_BYTES);
    if (!slice->pages || !slice->outs || !slice->base_pages ||
        memory_scratch_get(image, &slice->scratch)) {
        slice_free(image, slice);
        return -ENOMEM;
    }
    *ret = slice;
    return 0;
}

/* ---- the slice ---- */

static uint8_t *base_of(const struct slice *slice, unsigned i)
{
    return slice->base_pages + (size_t)i * MEMORY_PAGE_BYTES;
}

static uint32_t hash_page(const uint8_t *page)
{
    uint32_t hash = checksum_at(0, page, MEMORY_PAGE_BYTES);

    return hash ? hash : 1;
}

/* Whole records of the slice's pages, and the deltas of those that seem to be as they were; those
 * that are not to be had stay NULL. */
static int read_bases(struct memory_image *image, struct slice *slice)
{
    struct memory_fetch items[2 * SLICE_PAGES];
    size_t count = 0, at = 0;

    for (unsigned i = 0; i < slice->n; i++) {
        uint64_t page = slice->numbers[i];
        struct memory_entry entry = image->table->entries[page];
        slice->hashes[i] = hash_page(slice->pages + (size_t)i * MEMORY_PAGE_BYTES);
        if (slice->hashes[i] != image->table->hashes[page])
            entry.delta = 0; /* it is another: nobody needs to look */
        slice->bases[i] = NULL;
        if (entry.whole && memory_bases_get(image->bases, entry.whole, base_of(slice, i))) {
            slice->bases[i] = base_of(slice, i);
            entry.whole = 0; /* nor its record */
        }
        slice->fetches[i] = (struct memory_fetch){.loc = entry.whole};
        slice->deltas[i] = (struct memory_fetch){.loc = entry.delta};
        if (entry.whole)
            items[count++].loc = entry.whole;
        if (entry.delta)
            items[count++].loc = entry.delta;
    }
    if (!count)
        return 0;
    int code = memory_fetch(image, slice->scratch, items, count);
    if (code)
        return code;
    for (unsigned i = 0; i < slice->n; i++) {
        if (slice->fetches[i].loc)
            slice->fetches[i].record = items[at++].record;
        if (slice->deltas[i].loc)
            slice->deltas[i].record = items[at++].record;
    }
    return 0;
}

/* Is a page what its base and its delta say? Only asked of those whose hash is the same. */
static bool is_as_stored(struct slice *slice, unsigned i, const uint8_t *base)
{
    const struct memory_fetch *delta = &slice->deltas[i];
    size_t len = (size_t)memory_loc_units(delta->loc) * MEMORY_UNIT_BYTES - MEMORY_SUM_BYTES;
    uint8_t *out = slice->outs + (size_t)i * PAGE_CODE_OUT_BYTES;

    return base && delta->record && page_needs_base(delta->record[0]) &&
           !page_decode(slice->scratch->coder, base, delta->record, len, out) &&
           !memcmp(out, slice->pages + (size_t)i * MEMORY_PAGE_BYTES, MEMORY_PAGE_BYTES);
}

static void code_page(struct memory_image *image, struct slice *slice, unsigned i)
{
    const uint8_t *page = slice->pages + (size_t)i * MEMORY_PAGE_BYTES;
    const uint8_t *base = slice->bases[i];
    uint8_t *out = slice->outs + (size_t)i * PAGE_CODE_OUT_BYTES;
    struct result *result = &slice->results[i];
    memory_loc loc = slice->fetches[i].loc;

    if (loc && memory_decode_whole(slice->scratch, loc, slice->fetches[i].record, &base))
        base = NULL;
    else if (loc)
        memory_bases_put(image->bases, loc, base);
    *result = (struct result){.code = PAGE_SAME, .keep = is_as_stored(slice, i, base)};
    if (result->keep)
        return;
    result->code = page_encode(slice->scratch->coder, base, page, out, &result->len);
    result->record = result->code == PAGE_PLAIN ? page : out;
}

/* Append what was coded and make it the pages' state. */
static int append_slice(struct memory_image *image, struct slice *slice)
{
    pthread_mutex_lock(&image->lock);
    int code = 0;
    for (unsigned i = 0; i < slice->n && !code; i++) {
        const struct result *result = &slice->results[i];
        struct memory_entry old = image->table->entries[slice->numbers[i]], entry = old;
        memory_loc loc = 0;
        if (result->len)
            code = memory_append(image, result->record, result->len, &loc);
        if (!code)
            code = memory_undo_reserve(image, 1);
        if (code)
            break;
        if (result->code == PAGE_ZERO)
            entry.whole = 0;
        else if (result->code == PAGE_PACKED || result->code == PAGE_PLAIN)
            entry.whole = loc;
        if (!result->keep)
            entry.delta = result->code == PAGE_DELTA ? loc : 0;
        image->table->hashes[slice->numbers[i]] = slice->hashes[i];
        if (entry.whole != old.whole || entry.delta != old.delta)
            memory_set_entry(image, slice->numbers[i], entry);
        slice->stats.bytes += (uint64_t)memory_loc_units(loc) * MEMORY_UNIT_BYTES;
        slice->stats.pages++;
        slice->stats.same += result->code == PAGE_SAME;
        slice->stats.zero += result->code == PAGE_ZERO;
        slice->stats.delta += result->code == PAGE_DELTA;
        slice->stats.packed += result->code == PAGE_PACKED;
        slice->stats.plain += result->code == PAGE_PLAIN;
    }
    pthread_mutex_unlock(&image->lock);
    return code;
}

static int put_slice(struct memory_image *image, struct slice *slice)
{
    uint64_t begun = mono_us();
    int code = read_bases(image, slice);
    uint64_t read = mono_us();

    if (code)
        return code;
    for (unsigned i = 0; i < slice->n; i++)
        code_page(image, slice, i);
    uint64_t coded = mono_us();
    code = append_slice(image, slice);
    slice->stats.read_us += read - begun;
    slice->stats.code_us += coded - read;
    slice->stats.write_us += mono_us() - coded;
    return code;
}

static void add_stats(struct memory_put_stats *to, const struct memory_put_stats *from)
{
    to->pages += from->pages;
    to->same += from->same;
    to->zero += from->zero;
    to->delta += from->delta;
    to->packed += from->packed;
    to->plain += from->plain;
    to->bytes += from->bytes;
    to->read_us += from->read_us;
    to->code_us += from->code_us;
    to->write_us += from->write_us;
}

/* ---- the threads ---- */

struct copying {
    const struct put *put;
    struct slice *slice;
    const uint64_t *pages;
    uint64_t taken;
};

/* A page that was taken out of the file meanwhile (a balloon's) is read as zeros, which puts one
 * there, or, where the file system is full, ends in a bus error. */
static void copy_pages(void *arg)
{
    const struct copying *c = arg;
    const struct put *put = c->put;

    for (unsigned i = 0; i < c->slice->n; i++) {
        uint64_t at = put->packed ? c->taken + i : c->pages[i];
        memcpy(c->slice->pages + (size_t)i * MEMORY_PAGE_BYTES,
               put->memory + at * MEMORY_PAGE_BYTES, MEMORY_PAGE_BYTES);
    }
}

/* The next pages, copied. False: there are none, or it is over. */
static bool take_slice(struct put *put, struct slice *slice)
{
    uint64_t n_words = (put->n_pages + 63) / 64, pages[SLICE_PAGES];

    slice->n = 0;
    pthread_mutex_lock(&put->lock);
    uint64_t taken = put->taken;
    if (!put->code && put->cancel && put->cancel(put->arg))
        put->code = -ECANCELED;
    while (!put->code && put->cursor < n_words * 64 && slice->n < SLICE_PAGES) {
        uint64_t word = put->bitmap[put->cursor / 64] >> put->cursor % 64;
        if (!word) {
            put->cursor = (put->cursor / 64 + 1) * 64;
            continue;
        }
        put->cursor += (unsigned)__builtin_ctzll(word);
        if (put->cursor >= put->n_pages)
            put->cursor = n_words * 64;
        else
            pages[slice->n++] = put->cursor++;
    }
    put->taken += slice->n;
    pthread_mutex_unlock(&put->lock);
    for (unsigned i = 0; i < slice->n; i++)
        slice->numbers[i] = put->first + pages[i];
    struct copying c = {.put = put, .slice = slice, .pages = pages, .taken = taken};
    if (bus_error_guard(copy_pages, &c))
        return slice->n > 0;
    pthread_mutex_lock(&put->lock);
    if (!put->code)
        put->code = -EFAULT;
    pthread_mutex_unlock(&put->lock);
    return false;
}

static void *put_thread(void *arg)
{
    struct put *put = arg;
    struct slice *slice = NULL;
    int code = slice_new(put->image, SLICE_PAGES, &slice);

    while (!code && take_slice(put, slice))
        code = put_slice(put->image, slice);
    pthread_mutex_lock(&put->lock);
    if (code && !put->code)
        put->code = code;
    if (slice)
        add_stats(&put->stats, &slice->stats);
    pthread_mutex_unlock(&put->lock);
    slice_free(put->image, slice);
    return NULL;
}

static unsigned count_threads(uint64_t pages)
{
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned)CPU_COUNT(&set);

    n = n < 2 ? 2 : n > MAX_THREADS ? MAX_THREADS : n; /* one may wait while another codes */
    return pages < (uint64_t)n * SLICE_PAGES ? (unsigned)(pages / SLICE_PAGES) + 1 : n;
}

/* Bases that are gathered and not on the disk can be read by nobody while others append. */
static int flush_bases(struct memory_image *image, const struct put *put, uint64_t *ret_pages)
{
    bool found = false;

    *ret_pages = 0;
    for (uint64_t w = 0; w < (put->n_pages + 63) / 64; w++)
        for (uint64_t word = put->bitmap[w]; word; word &= word - 1) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(word);
            if (page >= put->n_pages)
                break;
            memory_loc loc = image->table->entries[put->first + page].whole;
            found = found || (loc && memory_loc_offset(loc) >= image->buf_at);
            ++*ret_pages;
        }
    return found ? memory_image_flush(image) : 0;
}

/* what: bitmap, memory, packed, cancel and arg are set. */
static int put_all(struct memory_image *image, unsigned block, const struct put *what,
                   struct memory_put_stats *stats)
{
    pthread_t threads[MAX_THREADS];
    unsigned wanted, n = 1;
    uint64_t pages;

    if (!image->writer || !image->table || block >= image->table->n_blocks)
        return -EINVAL;
    struct put put = {.image = image,
                      .first = image->table->first[block],
                      .n_pages = image->table->blocks[block].pages,
                      .bitmap = what->bitmap,
                      .memory = what->memory,
                      .packed = what->packed,
                      .cancel = what->cancel,
                      .arg = what->arg,
                      .lock = PTHREAD_MUTEX_INITIALIZER};
    int code = memory_append_begin(image);
    if (!code)
        code = flush_bases(image, &put, &pages);
    if (code)
        return code;
    image->in_put = true;
    wanted = count_threads(pages);
    while (n < wanted && pthread_create(&threads[n], NULL, put_thread, &put) == 0)
        n++; /* fewer do as well */
    put_thread(&put);
    for (unsigned i = 1; i < n; i++)
        pthread_join(threads[i], NULL);
    image->in_put = false;
    pthread_mutex_destroy(&put.lock);
    add_stats(stats, &put.stats);
    return put.code;
}

int memory_image_put(struct memory_image *image, unsigned block, const uint64_t *bitmap,
                     const uint8_t *memory, bool (*cancel)(void *arg), void *arg,
                     struct memory_put_stats *stats)
{
    const struct put what = {.bitmap = bitmap, .memory = memory, .cancel = cancel, .arg = arg};

    return put_all(image, block, &what, stats);
}

int memory_image_put_packed(struct memory_image *image, unsigned block, const uint64_t *bitmap,
                            const uint8_t *pages, bool (*cancel)(void *arg), void *arg,
                            struct memory_put_stats *stats)
{
    const struct put what = {
        .bitmap = bitmap, .memory = pages, .packed = true, .cancel = cancel, .arg = arg};

    return put_all(image, block, &what, stats);
}

int memory_image_put_page(struct memory_image *image, unsigned block, uint64_t page,
                          const uint8_t *bytes, struct memory_put_stats *stats)
{
    struct slice *slice;

    if (!image->writer || !image->table || block >= image->table->n_blocks ||
        page >= image->table->blocks[block].pages)
        return -EINVAL;
    int code = memory_append_begin(image);
    if (!code)
        code = slice_new(image, 1, &slice);
    if (code)
        return code;
    slice->n = 1;
    slice->numbers[0] = image->table->first[block] + page;
    memcpy(slice->pages, bytes, MEMORY_PAGE_BYTES);
    code = put_slice(image, slice);
    add_stats(stats, &slice->stats);
    slice_free(image, slice);
    return code;
}

/* As append_slice() makes a page's state of PAGE_ZERO. Under lock. */
static int set_zero(struct memory_image *image, uint64_t page, uint32_t hash)
{
    int code = memory_append_begin(image);

    if (!code)
        code = memory_undo_reserve(image, 1);
    if (code)
        return code;
    image->table->hashes[page] = hash;
    memory_set_entry(image, page, (struct memory_entry){0});
    return 0;
}

int memory_image_put_zeros(struct memory_image *image, unsigned block, uint64_t first, uint64_t end,
                           struct memory_put_stats *stats)
{
    static const uint8_t zeros[MEMORY_PAGE_BYTES];
    uint64_t begun = mono_us(), n = 0;
    uint32_t hash = hash_page(zeros);

    if (!image->writer || !image->table || block >= image->table->n_blocks || first > end ||
        end > image->table->blocks[block].pages)
        return -EINVAL;
    uint64_t begin = image->table->first[block];
    int code = 0;
    pthread_mutex_lock(&image->lock);
    for (uint64_t p = begin + first; p < begin + end && !code; p++)
        if (image->table->entries[p].whole) {
            code = set_zero(image, p, hash);
            n += !code;
        }
    pthread_mutex_unlock(&image->lock);
    stats->pages += n;
    stats->zero += n;
    stats->write_us += mono_us() - begun;
    return code;
}
