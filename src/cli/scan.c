/* scan.c - what of a disk goes into a stream, from BLOCK_STATUS. */
#include "cli/scan.h"

#include <inttypes.h>

#define ASK_BYTES (2ULL << 30) /* at most; the protocol's lengths have 32 bits */

enum { HOLE = 1, ZERO = 2 };                              /* base:allocation */
enum { CHANGED = 1, CHANGED_HOLE = 2, CHANGED_ZERO = 4 }; /* varve:diff: */

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

static bool is_wanted(const struct scan *scan, uint32_t state)
{
    return scan->diff ? state & CHANGED : !(state & HOLE);
}

static enum stream_run_kind kind_of(const struct scan *scan, uint32_t state)
{
    if (state & (scan->diff ? CHANGED_HOLE : HOLE))
        return STREAM_RUN_HOLE;
    return state & (scan->diff ? CHANGED_ZERO : ZERO) ? STREAM_RUN_ZERO : STREAM_RUN_DATA;
}

static void take_extent(struct scan *scan, uint64_t length, uint32_t state)
{
    if (length > scan->size_bytes - scan->next)
        length = scan->size_bytes - scan->next;
    if (length && is_wanted(scan, state))
        add_run(scan, length, kind_of(scan, state));
    scan->next += length;
}

static int on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
                      size_t n_entries, int *error)
{
    struct scan *scan = arg;

    (void)context, (void)error;
    if (offset != scan->next || scan->answered)
        return 0;
    scan->answered = true;
    for (size_t i = 0; i + 1 < n_entries && i < 2 * SCAN_EXTENTS_MAX; i += 2)
        take_extent(scan, entries[i], entries[i + 1]);
    return 0;
}

static int on_done(void *arg, int *error)
{
    struct scan *scan = arg;

    scan->busy = false;
    scan->session->in_flight--;
    if (*error)
        nbd_session_fail_io(scan->session, scan->disk, "read the tables of", scan->next, *error);
    else if (scan->next == scan->asked)
        nbd_session_fail(scan->session, "%s does not say what it holds at byte %" PRIu64,
                         scan->session->names[scan->disk], scan->next);
    return 1;
}

void scan_pump(struct scan *scan)
{
    struct nbd_session *session = scan->session;
    uint64_t left = scan->size_bytes - scan->next;

    if (scan->busy || !left || session->failed || scan->n + SCAN_EXTENTS_MAX > SCAN_RUNS_MAX)
        return;
    scan->asked = scan->next;
    scan->answered = false;
    scan->busy = true;
    session->in_flight++;
    if (libnbd.aio_block_status(
            session->handles[scan->disk], left < ASK_BYTES ? left : ASK_BYTES, scan->next,
            (nbd_extent_callback){.callback = on_extents, .user_data = scan},
            (nbd_completion_callback){.callback = on_done, .user_data = scan}, 0) < 0) {
        scan->busy = false;
        session->in_flight--;
        nbd_session_fail(session, "cannot ask what %s holds: %s", session->names[scan->disk],
                         libnbd.get_error());
    }
}
