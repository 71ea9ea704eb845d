/* jobs.h - long operations of the control API: started, asked for, cancelled, by number.
 *
 * The jobs live on the engine's thread; these functions come from the control thread and go there
 * by engine_call(). At most JOBS_MAX are known; the oldest that has ended makes room. */
#ifndef VARVE_DAEMON_JOBS_H
#define VARVE_DAEMON_JOBS_H

#include "daemon/job-work.h"

#include <stdbool.h>
#include <stdint.h>

#define JOBS_MAX          16
#define JOB_PROBLEMS_MAX  100 /* lines kept; the rest is only counted */
#define JOB_PROBLEM_CHARS 320

struct jobs;
struct engine;

enum job_state { JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELLED };

struct job_view {
    uint32_t id;
    const char *kind; /* static: "check", "checkpoint" */
    enum job_state state;
    int error;                     /* JOB_FAILED: why */
    uint64_t started_us, ended_us; /* UTC; ended: 0 while it runs */
    uint64_t total, done;          /* pages and blocks */
    const char *phase;             /* static; "": it has none */
    char text[JOB_TEXT_CHARS];     /* "", or why it failed, or what it made */
    uint64_t pages, nodes, blocks, problems, harmless;
    uint32_t n_lines; /* first problems */
    char lines[JOB_PROBLEMS_MAX][JOB_PROBLEM_CHARS];
};

const char *job_state_word(enum job_state state); /* "running", "done", "failed", "cancelled" */

struct jobs *jobs_new(struct engine *engine); /* NULL: no memory. engine: borrowed */

/* Cancel what runs, and free. The jobs end by themselves while the engine stops, which must be
 * after this call; their memory goes with the last of them. Who works on jobs in other threads has
 * ended before. NULL is legal. */
void jobs_free(struct jobs *jobs);

/* Start a check of the store. Returns 0, -EBUSY (one runs), -EAGAIN (JOBS_MAX run) or an error. */
int jobs_start_check(struct jobs *jobs, bool pages, uint32_t *ret_id);

/* Enter one that another thread works on; it takes a reference of work. kind: static. Returns 0,
 * -EAGAIN, -ENOMEM or an error. */
int jobs_start_work(struct jobs *jobs, const char *kind, struct job_work *work, uint32_t *ret_id);

/* Returns 0 or -ENOENT. The view is large: keep it off small stacks. */
int jobs_read(struct jobs *jobs, uint32_t id, struct job_view *ret);

/* Ask a job to end early; it does so soon after. Returns 0, or -ENOENT. One that has ended stays as
 * it is. */
int jobs_cancel(struct jobs *jobs, uint32_t id);

#endif
