/* tracker.c - which pages were written: one of the ways to track, and what all of them have in
 * common. */
#include "guest/tracker.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/tracker-internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>

static const struct tracker_ops *const kinds[] = {
    [TRACKER_UFFD] = &track_uffd, [TRACKER_SOFT] = &track_soft, [TRACKER_COMPARE] = &track_compare};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct tracker {
    const struct ram *ram;
    const struct tracker_ops *ops;
    void *own;
    bool locked;
    struct discards *discards; /* NULL: ops sees them */
    struct why stale;          /* "": the blocks are those of the machine */
    struct why why_not[N_KINDS];
    _Atomic uint64_t *notes[]; /* of shared blocks */
};

/* ---- opening -------------------------------------------------------------------------------- */

static int open_kind(struct tracker *t, enum tracker_kind kind,
                     const struct tracker_options *options, struct monitor *monitor,
                     uint64_t end_us, struct why *why)
{
    struct discards *discards = NULL;
    int r = 0;

    /* Watched before the pages are protected: what is discarded in between counts. */
    if (!kinds[kind]->sees_discards)
        r = discards_open(t->ram, &discards, why);
    if (r == 0)
        r = kinds[kind]->open(t->ram, options, monitor, end_us, &t->own, why);
    if (r < 0) {
        discards_close(discards);
        return r;
    }
    t->ops = kinds[kind];
    t->discards = discards;
    return 0;
}

static int open_best(struct tracker *t, const struct tracker_options *options,
                     struct monitor *monitor, uint64_t end_us, struct why *why)
{
    int r = -EINVAL;

    for (enum tracker_kind kind = TRACKER_UFFD; kind <= TRACKER_COMPARE && r < 0; kind++) {
        if (options->kind != TRACKER_BEST && options->kind != kind)
            continue;
        r = open_kind(t, kind, options, monitor, end_us, &t->why_not[kind]);
        if (r < 0)
            *why = t->why_not[kind];
        /* What would not be better with another kind: QEMU's end, its own use of its memory. */
        if (r == -ESRCH || r == -ENOMEM || r == -EPIPE || r == -ETIMEDOUT)
            break;
    }
    return r;
}

/* Two that collect from one machine would take each other's pages. The lock is on the file of its
 * memory, by our descriptor of it: it ends with us, however we end. */
static int lock_machine(const struct ram *ram, short type, struct why *why)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET};

    for (unsigned i = 0; i < ram->n; i++) {
        if (!ram->blocks[i].shared)
            continue;
        if (fcntl(ram->blocks[i].fd, F_OFD_SETLK, &lock) == 0)
            return 0;
        if (errno == EAGAIN || errno == EACCES)
            return why_set(why, -EBUSY,
                           "another varved is attached to process %d; detach the machine there "
                           "first",
                           (int)ram->pid);
        return why_set(why, -errno, "cannot lock the file of the memory block %s: %s",
                       ram->blocks[i].name, strerror(errno));
    }
    return 0;
}

int tracker_open(const struct ram *ram, const struct tracker_options *options,
                 struct monitor *monitor, uint64_t end_us, struct tracker **ret, struct why *why)
{
    struct tracker *t = calloc(1, sizeof(*t) + ram->n * sizeof(t->notes[0]));
    int r = 0;

    if (!t)
        return why_set(why, -ENOMEM, "no memory");
    t->ram = ram;
    for (unsigned i = 0; i < ram->n && r == 0; i++) {
        t->notes[i] = calloc(tracker_words(block_pages(&ram->blocks[i])), 8);
        if (!t->notes[i])
            r = why_set(why, -ENOMEM, "no memory");
    }
    if (r == 0)
        r = lock_machine(ram, F_WRLCK, why);
    t->locked = r == 0;
    if (r == 0)
        r = open_best(t, options, monitor, end_us, why);
    if (r < 0)
        tracker_close(t, false);
    else
        *ret = t;
    return r;
}

void tracker_close(struct tracker *t, bool remove)
{
    struct why unused;

    if (!t)
        return;
    if (t->ops)
        t->ops->close(t->own, remove);
    discards_close(t->discards);
    if (t->locked)
        lock_machine(t->ram, F_UNLCK, &unused);
    for (unsigned i = 0; i < t->ram->n; i++)
        free((void *)t->notes[i]);
    free(t);
}

/* ---- collecting ----------------------------------------------------------------------------- */

void tracker_note(struct tracker *t, unsigned block, uint64_t first, uint64_t n)
{
    assert(block < t->ram->n && first + n <= block_pages(&t->ram->blocks[block]));
    while (n) {
        uint64_t in_word = 64 - first % 64 < n ? 64 - first % 64 : n;
        uint64_t mask = (in_word == 64 ? ~0ULL : (1ULL << in_word) - 1) << first % 64;
        atomic_fetch_or_explicit(&t->notes[block][first / 64], mask, memory_order_release);
        first += in_word;
        n -= in_word;
    }
}

static void take_notes(struct tracker *t, unsigned block, uint64_t *bitmap)
{
    uint64_t n_words = tracker_words(block_pages(&t->ram->blocks[block]));

    for (uint64_t w = 0; w < n_words; w++)
        if (atomic_load_explicit(&t->notes[block][w], memory_order_relaxed))
            bitmap[w] |= atomic_exchange_explicit(&t->notes[block][w], 0, memory_order_acquire);
}

static int collect_all(struct tracker *t, unsigned block, uint64_t *bitmap,
                       struct tracker_times *times, struct why *why)
{
    int r = t->ops->collect(t->own, block, bitmap, times, why);

    if (r < 0)
        return r;
    uint64_t begin_us = mono_us();
    take_notes(t, block, bitmap);
    uint64_t noted_us = mono_us();
    /* Last: what is discarded from now on is for the next time, and was not written before. */
    r = t->discards ? discards_collect(t->discards, block, bitmap, why) : 0;
    times->notes_us = noted_us - begin_us;
    times->discards_us = mono_us() - noted_us;
    return r;
}

static int64_t count(const uint64_t *bitmap, uint64_t n_words)
{
    int64_t n = 0;

    for (uint64_t w = 0; w < n_words; w++)
        n += __builtin_popcountll(bitmap[w]);
    return n;
}

int64_t tracker_collect(struct tracker *t, unsigned block, uint64_t *bitmap,
                        struct tracker_times *ret_times, struct why *why)
{
    uint64_t n_words = tracker_words(block_pages(&t->ram->blocks[block]));
    struct tracker_times times = {};
    int64_t before = count(bitmap, n_words);

    if (*t->stale.text)
        return why_set(why, -ESTALE, "%s", t->stale.text);
    int r = collect_all(t, block, bitmap, &times, why);
    if (r < 0)
        return r;
    if (ret_times)
        *ret_times = times;
    return count(bitmap, n_words) - before;
}

int tracker_check(struct tracker *t, struct monitor *monitor, uint64_t end_us, struct why *why)
{
    int r = ram_compare(t->ram, monitor, end_us, why);

    if (r == -ESTALE)
        t->stale = *why;
    return r;
}

bool tracker_found_holes(const struct tracker *t, unsigned block)
{
    return t->discards && discards_has_holes(t->discards, block);
}

/* ---- about it ------------------------------------------------------------------------------- */

const char *tracker_name(const struct tracker *t)
{
    return t->ops->name;
}

const char *tracker_why_not(const struct tracker *t, enum tracker_kind kind)
{
    return kind < N_KINDS ? t->why_not[kind].text : "";
}

bool tracker_needs_stop(const struct tracker *t)
{
    return t->ops->needs_stop;
}
