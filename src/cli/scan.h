/* scan.h - what of a disk goes into a stream: asked for ahead of the reading of its data. One
 * thread; answers come in nbd_session_wait(). */
#ifndef VARVE_CLI_SCAN_H
#define VARVE_CLI_SCAN_H

#include "cli/nbd-session.h"
#include "cli/stream.h"

#define SCAN_EXTENTS_MAX 2048u /* of one answer; what is more is asked for again */
#define SCAN_RUNS_MAX    8192u

/* Set session, disk, size_bytes and diff, the rest zero. */
struct scan {
    struct nbd_session *session;
    uint32_t disk;
    uint64_t size_bytes;
    bool diff;      /* the context is varve:diff:, and what changed is wanted; else base:allocation,
                       and all but holes is */
    uint64_t asked; /* bytes: where the last request begins */
    uint64_t next;  /* bytes: what lies before is in runs, or was */
    bool busy;      /* a request is on its way */
    bool answered;
    unsigned first, n; /* of runs, a ring */
    struct stream_run runs[SCAN_RUNS_MAX];
};

/* Ask for more if there is room for it. */
void scan_pump(struct scan *scan);

/* The first run that is known and not consumed; neighbours of one kind are one, as far as they are
 * known. NULL: none. */
const struct stream_run *scan_first(const struct scan *scan);
/* Its first bytes are done with. */
void scan_consume(struct scan *scan, uint64_t bytes);

/* All is known and consumed. */
bool scan_is_over(const struct scan *scan);

#endif
