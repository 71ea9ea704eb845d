/* job-work.h - a job that another thread than the engine's works on: what it tells of itself, and
 * the wish to end it. Shared by that thread and the list of jobs (jobs.h). Any thread. */
#ifndef VARVE_DAEMON_JOB_WORK_H
#define VARVE_DAEMON_JOB_WORK_H

#include <stdbool.h>
#include <stdint.h>

#define JOB_TEXT_CHARS 1024

struct job_work;

struct job_work_view {
    const char *phase;    /* static; "": none yet */
    uint64_t done, total; /* of the phase */
    bool ended;
    int error;
    uint64_t ended_us;         /* UTC */
    char text[JOB_TEXT_CHARS]; /* ended: why it failed, or what it made */
};

struct job_work *job_work_new(void); /* with one reference; NULL: no memory */
void job_work_get(struct job_work *work);
void job_work_put(struct job_work *work); /* NULL is legal */

/* By who works on it. phase: static. text: a sentence, or what was made. */
void job_work_tell(struct job_work *work, const char *phase, uint64_t done, uint64_t total);
bool job_work_is_cancelled(struct job_work *work);
void job_work_end(struct job_work *work, int error, const char *text);

void job_work_cancel(struct job_work *work);
void job_work_read(struct job_work *work, struct job_work_view *ret);

#endif
