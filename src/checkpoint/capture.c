/* capture.c - the capture of one checkpoint.
 *
 * Invariants:
 *  1. A page that was written since the last commit has its bit in `since`, or the tracker has it
 *     still. Bits are set there before the page is read, and cleared by capture_done() alone: what
 *     is lost to an error is put again.
 *  2. Pages are read after the collect() that told of them has returned. What changes meanwhile is
 *     in the next one; the last one is in the pause, where nothing changes.
 *     Where the tracker wants the machine stopped all of it is in the pause: comparing tells
 *     nothing of a page that was put as B and is again the A that it was found as.
 *  3. A hole of a file of RAM is never read through our mapping: that would fill it, and where the
 *     file system is full it would be a SIGBUS.
 *  4. In the pause nothing is allocated and the image is not touched: pages go one behind the other
 *     into `aside`, whose memory is there before. The disks are taken by another thread meanwhile,
 *     and waited for at the end. */
#include "checkpoint/capture.h"

#include "base/err.h"
#include "base/mono.h"
#include "base/stop-point.h"
#include "checkpoint/aside.h"
#include "checkpoint/dirty-scan.h"
#include "guest/ram.h"
#include "guest/tracker.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS_MAX     30
#define QMP_US         5000000ULL
#define CHUNK_PAGES    32768u /* of one put: between two looks at cancel */
#define ASIDE_PAGES    4096u  /* kept, for the next pause */
#define RANGES         256
#define ZEROS_LOOK     4096u /* pages that become zeros between two looks at cancel */
#define PAUSE_BASE_US  2000  /* of a pause that finds nothing: the state of the devices */
#define PAUSE_PAGES_US 1     /* and for each page */
#define PAGES_LEFT_MIN 64

struct block {
    uint64_t n_pages, words;
    uint64_t *since; /* written since the last commit */
    uint64_t *now;   /* to be put now */
    bool has_holes;  /* there are some among since: all is read from the file */
    uint8_t *shadow; /* as long as the block, almost all of it without memory */
};

struct capture {
    struct monitor *monitor;
    const struct ram *ram;
    struct tracker *tracker;
    unsigned n;
    struct block *blocks;
    struct aside *aside;
    struct aside_bits *bits; /* now, of all blocks */
    size_t stream_bytes;     /* of the devices' last state, or 0 */
    bool by_pause;           /* nothing is copied while the machine runs */
    bool full;               /* nothing is known of the image */
    bool by_migrate;         /* QEMU refused the quick way once */
};

/* ---- making --------------------------------------------------------------------------------- */

static void *map_nothing(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void capture_free(struct capture *c)
{
    if (!c)
        return;
    for (unsigned i = 0; c->blocks && i < c->n; i++) {
        struct block *b = &c->blocks[i];
        free(b->since);
        free(b->now);
        if (b->shadow)
            munmap(b->shadow, b->n_pages * RAM_PAGE_BYTES);
    }
    aside_free(c->aside);
    free(c->bits);
    free(c->blocks);
    free(c);
}

static bool make_block(struct block *b, const struct ram_block *ram)
{
    b->n_pages = ram->used_bytes / RAM_PAGE_BYTES;
    b->words = tracker_words(b->n_pages);
    b->since = calloc(b->words + 1, sizeof(uint64_t));
    b->now = calloc(b->words + 1, sizeof(uint64_t));
    if (!b->n_pages)
        return b->since && b->now;
    b->shadow = map_nothing(b->n_pages * RAM_PAGE_BYTES);
    return b->since && b->now && b->shadow;
}

int capture_new(struct monitor *monitor, const struct ram *ram, struct tracker *tracker,
                bool by_pause, struct capture **ret)
{
    struct capture *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    *c = (struct capture){.monitor = monitor,
                          .ram = ram,
                          .tracker = tracker,
                          .by_pause = by_pause || tracker_needs_stop(tracker),
                          .full = true};
    c->n = ram->n;
    c->blocks = calloc(c->n + 1, sizeof(*c->blocks));
    c->bits = calloc(c->n + 1, sizeof(*c->bits));
    bool made = c->blocks && c->bits;
    for (unsigned i = 0; made && i < c->n; i++) {
        made = make_block(&c->blocks[i], &ram->blocks[i]);
        c->bits[i] =
            (struct aside_bits){.words = c->blocks[i].now, .n_pages = c->blocks[i].n_pages};
    }
    if (!made || aside_new(ram, &c->aside) < 0) {
        capture_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

void capture_forget(struct capture *c)
{
    c->full = true;
}

void capture_done(struct capture *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        memset(c->blocks[i].since, 0, c->blocks[i].words * sizeof(uint64_t));
        c->blocks[i].has_holes = false;
    }
    c->full = false;
}

/* ---- bits ----------------------------------------------------------------------------------- */

static void set_bits(uint64_t *words, uint64_t first, uint64_t end)
{
    for (; first < end && first % 64; first++)
        words[first / 64] |= 1ULL << first % 64;
    for (; first + 64 <= end; first += 64)
        words[first / 64] = UINT64_MAX;
    for (; first < end; first++)
        words[first / 64] |= 1ULL << first % 64;
}

static uint64_t count_bits(const struct block *b)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < b->words; i++)
        n += (uint64_t)__builtin_popcountll(b->now[i]);
    return n;
}

static uint64_t count_since(const struct capture *c)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < c->n; i++)
        for (uint64_t w = 0; w < c->blocks[i].words; w++)
            n += (uint64_t)__builtin_popcountll(c->blocks[i].since[w]);
    return n;
}

/* What is to be put now is what was written since the last commit, from now on also if this
 * capture fails. */
static void note_since(struct capture *c)
{
    for (unsigned i = 0; i < c->n; i++)
        for (uint64_t w = 0; w < c->blocks[i].words; w++)
            c->blocks[i].since[w] |= c->blocks[i].now[w];
}

/* Into now, which is emptied before. Returns how many pages, or an error. */
static int64_t collect(struct capture *c, struct why *why)
{
    int64_t n = 0;

    for (unsigned i = 0; i < c->n; i++) {
        struct block *b = &c->blocks[i];
        memset(b->now, 0, b->words * sizeof(uint64_t));
        int64_t r = b->n_pages ? tracker_collect(c->tracker, i, b->now, NULL, why) : 0;
        if (r < 0) {
            /* Nothing is known of this machine any more. */
            c->full = true;
            return r;
        }
        b->has_holes |= tracker_found_holes(c->tracker, i);
        n += r;
    }
    return n;
}

/* ---- putting, while the guest runs ---------------------------------------------------------- */

struct taking {
    struct capture *capture;
    struct memory_image *image;
    const struct capture_hooks *hooks;
    struct capture_result result;
    const char *phase;
    uint64_t done, total;
    struct why *why;
};

static bool is_cancelled(const struct taking *t)
{
    return t->hooks->cancel && t->hooks->cancel(t->hooks->arg);
}

static void tell(struct taking *t)
{
    if (t->hooks->progress)
        t->hooks->progress(t->hooks->arg, t->phase, t->done, t->total);
}

static int put_failed(struct taking *t, int r)
{
    if (r == -ECANCELED)
        return why_set(t->why, r, "the checkpoint was cancelled");
    return why_set(t->why, r, "cannot write the machine's memory: %s", err_text(r));
}

/* Calls fn for each range of pages whose bits are set. */
static int each_range(const uint64_t *bits, uint64_t n_pages, unsigned block,
                      int (*fn)(void *arg, unsigned block, uint64_t first, uint64_t n), void *arg)
{
    struct dirty_range ranges[RANGES];
    struct dirty_scan scan;
    size_t n;
    int r = 0;

    dirty_scan_begin(&scan, bits, (uint32_t)n_pages);
    while (r == 0 && (n = dirty_scan_ranges(&scan, ranges, RANGES)) > 0)
        for (size_t i = 0; i < n && r == 0; i++)
            r = fn(arg, block, ranges[i].first, ranges[i].end - ranges[i].first);
    return r;
}

static int read_into_shadow(void *arg, unsigned block, uint64_t first, uint64_t n)
{
    struct taking *t = arg;

    return ram_read(t->capture->ram, block, first * RAM_PAGE_BYTES,
                    t->capture->blocks[block].shadow + first * RAM_PAGE_BYTES, n * RAM_PAGE_BYTES);
}

static void empty_shadow(struct block *b)
{
    madvise(b->shadow, b->n_pages * RAM_PAGE_BYTES, MADV_DONTNEED);
}

typedef int put_fn(struct memory_image *image, unsigned block, const uint64_t *bitmap,
                   const uint8_t *memory, bool (*cancel)(void *arg), void *arg,
                   struct memory_put_stats *stats);

/* Put these pages. memory: the block, or, packed, those pages alone; NULL: they are read into the
 * shadow first. */
static int put_part(struct taking *t, unsigned block, const uint64_t *bits, const uint8_t *memory,
                    bool packed)
{
    struct block *b = &t->capture->blocks[block];
    put_fn *put = packed ? memory_image_put_packed : memory_image_put;
    int r = memory ? put(t->image, block, bits, memory, t->hooks->cancel, t->hooks->arg,
                         &t->result.stats)
                   : -EFAULT;

    if (r != -EFAULT)
        return r < 0 ? put_failed(t, r) : 0;
    /* Not to be read through the mapping: some of it may not be there. */
    r = each_range(bits, b->n_pages, block, read_into_shadow, t);
    if (r < 0)
        return why_set(t->why, r, "cannot read block %s of the machine's memory: %s",
                       t->capture->ram->blocks[block].name, err_text(r));
    r = memory_image_put(t->image, block, bits, b->shadow, t->hooks->cancel, t->hooks->arg,
                         &t->result.stats);
    empty_shadow(b);
    return r < 0 ? put_failed(t, r) : 0;
}

/* Put what now says, a chunk after the other: of what is not mapped no more is in memory. */
static int put_bits(struct taking *t, unsigned block, const uint8_t *memory, bool packed)
{
    struct block *b = &t->capture->blocks[block];
    uint64_t chunk_words = CHUNK_PAGES / 64;

    if (b->words <= chunk_words) {
        int r = put_part(t, block, b->now, memory, packed);
        t->done += count_bits(b);
        tell(t);
        return r;
    }
    uint64_t *part = calloc(b->words + 1, sizeof(uint64_t));
    int r = part ? 0 : put_failed(t, -ENOMEM);
    for (uint64_t w = 0; w < b->words && r == 0; w += chunk_words) {
        uint64_t n = b->words - w < chunk_words ? b->words - w : chunk_words, pages = 0;
        for (uint64_t i = w; i < w + n; i++)
            pages += (uint64_t)__builtin_popcountll(b->now[i]);
        if (!pages)
            continue;
        memcpy(part + w, b->now + w, n * sizeof(uint64_t));
        r = put_part(t, block, part, memory, packed);
        memset(part + w, 0, n * sizeof(uint64_t));
        if (packed)
            memory += pages * RAM_PAGE_BYTES;
        t->done += pages;
        tell(t);
    }
    free(part);
    return r;
}

/* Put what now says, from where it is. */
static int put_round(struct taking *t)
{
    const struct capture *c = t->capture;
    int r = 0;

    for (unsigned i = 0; i < c->n && r == 0; i++) {
        const struct block *b = &c->blocks[i];
        if (b->n_pages)
            r = put_bits(t, i, b->has_holes ? NULL : c->ram->blocks[i].memory, false);
    }
    return r;
}

static int put_zeros(struct taking *t, unsigned block, uint64_t first, uint64_t end)
{
    int r = 0;

    while (r == 0 && first < end) {
        uint64_t part = end - first > ZEROS_LOOK ? first + ZEROS_LOOK : end;
        r = is_cancelled(t)
                ? -ECANCELED
                : memory_image_put_zeros(t->image, block, first, part, &t->result.stats);
        first = part;
    }
    return r;
}

/* All pages; of a file only those that are there. Where the image has something in a hole, that is
 * replaced by zeros: now (put), or as a page like others, for who reads the file. */
static int set_all(struct taking *t, unsigned block, bool put)
{
    struct block *b = &t->capture->blocks[block];
    const struct ram_block *ram = &t->capture->ram->blocks[block];
    uint64_t page = 0;

    if (!ram->shared) {
        set_bits(b->now, 0, b->n_pages);
        return 0;
    }
    while (page < b->n_pages) {
        off_t at = (off_t)(ram->file_offset + page * RAM_PAGE_BYTES);
        off_t data = lseek(ram->fd, at, SEEK_DATA);
        off_t hole = data < 0 ? -1 : lseek(ram->fd, data, SEEK_HOLE);
        uint64_t first = b->n_pages, end = b->n_pages;
        if (data < 0 && errno != ENXIO)
            return -errno;
        if (data >= 0)
            first = ((uint64_t)data - ram->file_offset) / RAM_PAGE_BYTES;
        if (hole >= 0)
            end = ((uint64_t)hole - ram->file_offset + RAM_PAGE_BYTES - 1) / RAM_PAGE_BYTES;
        first = first > b->n_pages ? b->n_pages : first;
        end = end > b->n_pages ? b->n_pages : end;
        int r = put ? put_zeros(t, block, page, first) : 0;
        if (r < 0)
            return r;
        if (!put) {
            for (page = memory_image_next(t->image, block, page); page < first;
                 page = memory_image_next(t->image, block, page + 1))
                set_bits(b->now, page, page + 1);
        }
        set_bits(b->now, first, end);
        page = end;
    }
    return 0;
}

/* All that was written since the last commit, into now. put: as of set_all(). Returns how many
 * pages, or an error. */
static int64_t collect_since(struct taking *t, bool put)
{
    struct capture *c = t->capture;
    int64_t n = collect(c, t->why);

    if (n < 0)
        return n;
    n = 0;
    t->result.full = c->full;
    for (unsigned i = 0; i < c->n; i++) {
        struct block *b = &c->blocks[i];
        int r = c->full && b->n_pages ? set_all(t, i, put) : 0;
        if (r < 0)
            return put_failed(t, r);
        for (uint64_t w = 0; w < b->words; w++)
            b->now[w] |= b->since[w];
        n += (int64_t)count_bits(b);
    }
    note_since(c);
    return n;
}

static int first_round(struct taking *t)
{
    int64_t n = collect_since(t, true);

    if (n < 0)
        return (int)n;
    t->total += (uint64_t)n;
    return put_round(t);
}

/* How many pages may be left for a pause that is short enough. */
static uint64_t pages_for(uint64_t pause_us)
{
    uint64_t spare_us = pause_us > PAUSE_BASE_US ? pause_us - PAUSE_BASE_US : 0;
    uint64_t pages = spare_us / PAUSE_PAGES_US;
    return pages < PAGES_LEFT_MIN ? PAGES_LEFT_MIN : pages;
}

/* Each leaves what was written while it was put. When few were, the pause has fewer; when they do
 * not become fewer, more rounds would only write more. */
static int do_rounds(struct taking *t, uint64_t max_pause_us)
{
    uint64_t begin_us = mono_us(), last = UINT64_MAX, left = 0;
    uint64_t few = pages_for(max_pause_us) / 2;

    t->phase = "memory";
    bool runs = !t->capture->by_pause; /* else all is for the pause */
    int r = runs ? first_round(t) : 0;
    stop_point("memory");
    for (t->result.rounds = runs; runs && r == 0 && t->result.rounds < ROUNDS_MAX;
         t->result.rounds++) {
        if (is_cancelled(t))
            return put_failed(t, -ECANCELED);
        int64_t n = collect(t->capture, t->why);
        if (n < 0)
            return (int)n;
        note_since(t->capture);
        t->total += (uint64_t)n;
        r = put_round(t);
        left = (uint64_t)n;
        if (left <= few || left >= last - last / 8)
            break;
        last = left;
    }
    /* In the pause there may be as many again, and more. */
    if (r == 0 && 2 * left > ASIDE_PAGES)
        aside_provide(t->capture->aside, 2 * left);
    if (r == 0 && (r = memory_image_flush(t->image)) < 0)
        r = put_failed(t, r);
    t->result.times.rounds_us = mono_us() - begin_us;
    return r;
}

/* ---- the pause ------------------------------------------------------------------------------ */

/* While the machine stands still. */
static int take_rest(struct taking *t)
{
    struct capture *c = t->capture;
    struct capture_times *times = &t->result.times;
    uint64_t begin_us = mono_us();
    bool in_pause = c->by_pause; /* then all of it, holes too */
    int r = t->hooks->freeze(t->hooks->arg, t->why);
    int64_t n = r < 0 ? 0 : in_pause ? collect_since(t, false) : collect(c, t->why);

    uint64_t found_us = mono_us();
    if (n < 0)
        r = (int)n;
    t->result.left_pages = n < 0 ? 0 : (uint64_t)n;
    for (unsigned i = 0; i < c->n; i++)
        c->bits[i].by_file = c->blocks[i].has_holes || (in_pause && c->full);
    if (r == 0 && (r = aside_copy(c->aside, c->bits, c->n)) < 0)
        why_set(t->why, r, "cannot read the machine's memory: %s", err_text(r));
    uint64_t copied_us = mono_us();
    stop_point("copied");
    if (r == 0)
        r = t->hooks->frozen(t->hooks->arg, t->why);
    times->scan_us = found_us - begin_us;
    times->copy_us = copied_us - found_us;
    times->disks_us = mono_us() - copied_us;
    note_since(c);
    return r;
}

static int hold(struct taking *t, enum device_way way, struct device_capture **ret)
{
    struct capture *c = t->capture;

    int r = device_capture_ready(c->monitor, c->ram, way, c->stream_bytes, mono_us() + QMP_US, ret,
                                 t->why);
    if (r < 0)
        return r;
    /* As late as can be: QEMU waits for all that is written after it. */
    r = t->hooks->settle(t->hooks->arg, t->why);
    if (r < 0) {
        device_capture_drop(*ret, mono_us() + QMP_US);
        return r;
    }
    stop_point("settled");
    return device_capture_hold(*ret, mono_us() + QMP_US, t->why);
}

static int stop_machine(struct taking *t, struct device_capture **ret)
{
    struct capture *c = t->capture;
    int r = c->by_migrate ? -EPROTO : hold(t, DEVICE_BY_SAVE, ret);

    if (r == -EPROTO) {
        r = hold(t, DEVICE_BY_MIGRATE, ret);
        c->by_migrate |= r == 0;
    }
    t->result.by_migrate = c->by_migrate;
    return r;
}

static int pause_machine(struct taking *t)
{
    struct capture_times *times = &t->result.times;
    struct device_capture *held;
    struct why ignored;

    t->phase = "pause";
    tell(t);
    int r = stop_machine(t, &held);
    if (r < 0)
        return r;
    stop_point("stopped");
    uint64_t begin_us = mono_us();
    r = take_rest(t);
    if (r < 0) {
        device_capture_abort(held, mono_us() + QMP_US, &ignored);
        return r;
    }
    uint64_t held_us = mono_us() - begin_us;
    stop_point("placed");
    r = device_capture_finish(held, mono_us() + QMP_US, &t->result.state, t->why);
    t->capture->stream_bytes = r < 0 ? 0 : t->result.state.stream_bytes;
    if (r < 0)
        return r;
    stop_point("resumed");
    times->stop_us = t->result.state.stop_us;
    times->device_us = t->result.state.state_us + t->result.state.resume_us;
    times->pause_us = times->stop_us + held_us + times->device_us;
    return 0;
}

/* ---- after it ------------------------------------------------------------------------------- */

static int put_aside(struct taking *t)
{
    struct capture *c = t->capture;
    uint64_t begin_us = mono_us();
    int r = 0;

    t->phase = "rest";
    t->total += t->result.left_pages;
    for (unsigned i = 0; i < c->n && r == 0; i++)
        if (c->blocks[i].n_pages)
            r = put_bits(t, i, aside_pages(c->aside, c->bits, i), true);
    t->result.times.rest_us = mono_us() - begin_us;
    return r;
}

static int begin_image(struct taking *t)
{
    const struct ram *ram = t->capture->ram;
    struct memory_block *blocks = calloc(ram->n + 1, sizeof(*blocks));

    if (!blocks)
        return put_failed(t, -ENOMEM);
    for (unsigned i = 0; i < ram->n; i++) {
        static_assert(sizeof(blocks[i].name) >= sizeof(ram->blocks[i].name), "names fit");
        memcpy(blocks[i].name, ram->blocks[i].name, sizeof(ram->blocks[i].name));
        blocks[i].pages = ram->blocks[i].used_bytes / RAM_PAGE_BYTES;
        blocks[i].shared = ram->blocks[i].shared;
    }
    int r = memory_image_begin(t->image, blocks, ram->n);
    free(blocks);
    return r < 0 ? put_failed(t, r) : 0;
}

int capture_take(struct capture *c, struct memory_image *image, uint64_t max_pause_us,
                 const struct capture_hooks *hooks, struct capture_result *ret, struct why *why)
{
    struct taking t = {.capture = c, .image = image, .hooks = hooks, .why = why};

    int r = tracker_check(c->tracker, c->monitor, mono_us() + QMP_US, why);
    if (r == 0)
        r = begin_image(&t);
    if (r < 0)
        return r;
    aside_provide(c->aside, ASIDE_PAGES);
    r = do_rounds(&t, max_pause_us);
    if (r == 0)
        r = pause_machine(&t);
    if (r == 0)
        r = put_aside(&t);
    aside_shrink(c->aside, ASIDE_PAGES);
    /* Memory that was plugged between the first look and the pause is in no block that was read. */
    if (r == 0)
        r = tracker_check(c->tracker, c->monitor, mono_us() + QMP_US, why);
    if (r < 0) {
        device_state_free(&t.result.state);
        return r;
    }
    t.result.dirty_pages = count_since(c);
    *ret = t.result;
    return 0;
}
