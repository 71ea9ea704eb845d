/* scan.c - what of a disk goes into a stream, from BLOCK_STATUS.
 *
 * With a context of changes there are two answers to each request, which may reach differently far:
 * what both cover counts. */
#include "cli/scan.h"

#include <inttypes.h>
#include <string.h>

#define ASK_BYTES (2ULL << 30) /* at most; the protocol's lengths have 32 bits */

#define STATE_HOLE    1u /* base:allocation */
#define STATE_ZERO    2u
#define STATE_CHANGED 1u

const struct stream_run *scan_first(const struct scan *scan)
{
    return scan->n ? &scan->runs[scan->first] : NULL;
}

void scan_consume(struct scan *scan, uint64_t bytes)
{
    struct stream_run *run = &scan->runs[scan->first];

    run->offset += bytes;
    run->length -= bytes;
    if (run->length)
        return;
    scan->first = (scan->first + 1) % SCAN_RUNS_MAX;
    scan->n--;
}

bool scan_is_over(const struct scan *scan)
{
    return !scan->n && !scan->busy && scan->next == scan->size_bytes;
}

/* ---- answers -------------------------------------------------------------------------------- */

static void add_run(struct scan *scan, uint64_t length, enum stream_run_kind kind)
{
    struct stream_run *last = &scan->runs[(scan->first + scan->n - 1) % SCAN_RUNS_MAX];

    if (scan->n && last->kind == kind && last->offset + last->length == scan->next) {
        last->length += length;
        return;
    }
    scan->runs[(scan->first + scan->n) % SCAN_RUNS_MAX] =
        (struct stream_run){scan->next, length, kind};
    scan->n++;
}

static void take_extent(struct scan *scan, uint64_t length, uint32_t state, bool changed)
{
    enum stream_run_kind kind = state & STATE_HOLE   ? STREAM_RUN_HOLE
                                : state & STATE_ZERO ? STREAM_RUN_ZERO
                                                     : STREAM_RUN_DATA;

    if (length > scan->size_bytes - scan->next)
        length = scan->size_bytes - scan->next;
    /* A full stream begins with a hole. */
    if (length && changed && (scan->changed || kind != STREAM_RUN_HOLE))
        add_run(scan, length, kind);
    scan->next += length;
}

static void take_answers(struct scan *scan)
{
    const struct scan_answer *a = &scan->allocation, *c = &scan->change;
    uint32_t i = 0, k = 0;
    uint64_t left_a = a->n ? a->entries[0] : 0, left_c = c->n ? c->entries[0] : 0;
    uint64_t before = scan->next;

    while (i < a->n && (!scan->changed || k < c->n)) {
        uint64_t length = scan->changed && left_c < left_a ? left_c : left_a;
        take_extent(scan, length, a->entries[2 * i + 1],
                    !scan->changed || c->entries[2 * k + 1] & STATE_CHANGED);
        left_a -= length;
        left_c -= scan->changed ? length : 0;
        if (!left_a && ++i < a->n)
            left_a = a->entries[2 * i];
        if (scan->changed && !left_c && ++k < c->n)
            left_c = c->entries[2 * k];
    }
    if (scan->next == before)
        nbd_session_fail(scan->session, "%s does not say what it holds at byte %" PRIu64,
                         scan->session->names[scan->disk], before);
}

static int on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
                      size_t n_entries, int *error)
{
    struct scan *scan = arg;
    bool is_change = scan->changed && !strcmp(context, scan->changed);
    struct scan_answer *answer = is_change ? &scan->change : &scan->allocation;
    size_t n = n_entries / 2;

    (void)error;
    if (offset != scan->next)
        return 0;
    answer->n = (uint32_t)(n < SCAN_EXTENTS_MAX ? n : SCAN_EXTENTS_MAX);
    memcpy(answer->entries, entries, answer->n * 2 * sizeof(*entries));
    return 0;
}

static int on_done(void *arg, int *error)
{
    struct scan *scan = arg;

    scan->busy = false;
    scan->session->in_flight--;
    if (*error)
        nbd_session_fail(scan->session,
                         "cannot read the tables of %s at byte %" PRIu64 ": %s; see varve check",
                         scan->session->names[scan->disk], scan->next, strerror(*error));
    else
        take_answers(scan);
    return 1;
}

void scan_pump(struct scan *scan)
{
    struct nbd_session *session = scan->session;
    uint64_t left = scan->size_bytes - scan->next;

    /* Two answers may make one run for each extent of either. */
    if (scan->busy || !left || session->failed || scan->n + 2 * SCAN_EXTENTS_MAX > SCAN_RUNS_MAX)
        return;
    scan->allocation.n = scan->change.n = 0;
    scan->busy = true;
    session->in_flight++;
    if (nbd_aio_block_status(
            session->handles[scan->disk], left < ASK_BYTES ? left : ASK_BYTES, scan->next,
            (nbd_extent_callback){.callback = on_extents, .user_data = scan},
            (nbd_completion_callback){.callback = on_done, .user_data = scan}, 0) < 0) {
        scan->busy = false;
        session->in_flight--;
        nbd_session_fail(session, "cannot ask what %s holds: %s", session->names[scan->disk],
                         nbd_get_error());
    }
}
