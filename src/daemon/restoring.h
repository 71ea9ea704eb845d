/* restoring.h - machines that go on from versions, and those whose pages still come. Control
 * threads; each request has threads of its own. */
#ifndef VARVE_DAEMON_RESTORING_H
#define VARVE_DAEMON_RESTORING_H

#include "base/why.h"
#include "daemon/restore-machine.h"

#include <stdbool.h>
#include <stdint.h>

#define RESTORE_COUNT_MAX 64

struct api;
struct restoring;

/* Adopt what an earlier daemon left. api: borrowed until restoring_free(). NULL: no memory. */
struct restoring *restoring_new(struct api *api);
/* Stop serving: machines that still want pages wait for the next daemon. NULL is legal. */
void restoring_free(struct restoring *restoring);

struct restore_wish {
    const char *vm, *version; /* all borrowed for the call */
    const char *as;           /* NULL: the vm itself goes back */
    unsigned count;           /* 0: one machine, named as or vm; else as-1 ... */
    bool eager, new_macs, paused;
    const char *qmp; /* NULL, or the monitor of a QEMU that waits: it alone is given the state */
};

/* Begin; the job (jobs.h, kind "restore") is done when all pages are there. Returns 0, -EAGAIN (too
 * many jobs), -ENOMEM, with a sentence; what else may go wrong is the job's. */
int restoring_start(struct restoring *restoring, const struct restore_wish *wish, uint32_t *ret_job,
                    struct why *why);

/* One machine of a job. */
struct restore_view {
    char name[NAME_MAX_CHARS + 1], dir[RESTORE_DIR_MAX];
    enum restore_state_word state;
    bool paused; /* it was not let go on */
    int pid;
    uint64_t running_us;                          /* from the request until it ran; of it: */
    uint64_t disks_us, start_us, load_us, run_us; /* run: its vm is made, and cont */
    struct pager_progress progress;               /* lazy */
    char error_memory[64];                        /* what its last_place.area is */
    unsigned n_lost;
    char *lost[RESTORE_LOST_MAX];
};
/* *ret: allocated, for restoring_view_free(). Returns how many there are, or -ENOENT, -ENOMEM. */
int restoring_read(struct restoring *restoring, uint32_t job, struct restore_view **ret);
void restoring_view_free(struct restore_view *views, int n);

/* Whether the machine of that vm, or that process, still wants pages, which excludes that it is
 * attached. */
bool restoring_serves(struct restoring *restoring, const char *vm);
/* Whether it is on its way, and does not run yet. restoring: NULL: no. */
bool restoring_brings_up(struct restoring *restoring, const char *vm);
bool restoring_serves_process(struct restoring *restoring, pid_t pid);

#endif
