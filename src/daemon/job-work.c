/* job-work.c - a job that another thread than the engine's works on. */
#include "daemon/job-work.h"

#include "base/mono.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct job_work {
    pthread_mutex_t lock; /* of all */
    unsigned refs;
    bool cancelled;
    struct job_work_view view;
};

struct job_work *job_work_new(void)
{
    struct job_work *work = calloc(1, sizeof(*work));

    if (!work)
        return NULL;
    pthread_mutex_init(&work->lock, NULL);
    work->refs = 1;
    work->view.phase = "";
    return work;
}

void job_work_get(struct job_work *work)
{
    pthread_mutex_lock(&work->lock);
    work->refs++;
    pthread_mutex_unlock(&work->lock);
}

void job_work_put(struct job_work *work)
{
    if (!work)
        return;
    pthread_mutex_lock(&work->lock);
    unsigned refs = --work->refs;
    pthread_mutex_unlock(&work->lock);
    if (refs)
        return;
    pthread_mutex_destroy(&work->lock);
    free(work);
}

void job_work_tell(struct job_work *work, const char *phase, uint64_t done, uint64_t total)
{
    pthread_mutex_lock(&work->lock);
    work->view.phase = phase;
    work->view.done = done;
    work->view.total = total;
    pthread_mutex_unlock(&work->lock);
}

bool job_work_is_cancelled(struct job_work *work)
{
    pthread_mutex_lock(&work->lock);
    bool cancelled = work->cancelled;
    pthread_mutex_unlock(&work->lock);
    return cancelled;
}

void job_work_end(struct job_work *work, int error, const char *text)
{
    pthread_mutex_lock(&work->lock);
    work->view.ended = true;
    work->view.error = error;
    work->view.ended_us = wall_us();
    snprintf(work->view.text, sizeof(work->view.text), "%s", text);
    pthread_mutex_unlock(&work->lock);
}

void job_work_cancel(struct job_work *work)
{
    pthread_mutex_lock(&work->lock);
    work->cancelled = true;
    pthread_mutex_unlock(&work->lock);
}

void job_work_read(struct job_work *work, struct job_work_view *ret)
{
    pthread_mutex_lock(&work->lock);
    *ret = work->view;
    pthread_mutex_unlock(&work->lock);
}
