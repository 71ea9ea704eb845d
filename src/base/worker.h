/* worker.h - a thread that does blocking work for a loop, one job after the other. */
#ifndef VARVE_BASE_WORKER_H
#define VARVE_BASE_WORKER_H

#include "base/list.h"

struct loop;
struct worker;

/* Embedded in the caller's own request; stays in place until done() is called. */
struct worker_job {
    int (*work)(struct worker_job *job);           /* on the worker's thread; may block */
    void (*done)(struct worker_job *job, int res); /* on the loop's thread; res: what work() gave */
    struct list link;
    int res;
};

/* Returns 0, -ENOMEM or -EAGAIN (no thread to be had). */
int worker_create(struct loop *loop, struct worker **ret);

/* Stop the thread when its queue is empty. NULL is legal. No job may be waiting for its done(). */
void worker_free(struct worker *worker);

/* Loop thread only. Jobs are done in the order of submission; done() is never called from inside.
 */
void worker_submit(struct worker *worker, struct worker_job *job);

#endif
