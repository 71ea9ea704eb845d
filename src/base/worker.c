/* worker.c - a thread that does blocking work for a loop.
 *
 * Jobs go from `queued` to the thread to `finished`; the post that delivers is made by the job that
 * finds `finished` empty, so there is at most one under way. */
#include "base/worker.h"

#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

struct worker {
    struct loop *loop;
    pthread_t thread;
    pthread_cond_t work;
    pthread_mutex_t lock; /* all below */
    struct list queued, finished;
    bool stopping;
};

static void deliver(void *arg)
{
    struct worker *worker = arg;
    struct list finished, *l;

    list_init(&finished);
    pthread_mutex_lock(&worker->lock);
    list_splice(&finished, &worker->finished);
    pthread_mutex_unlock(&worker->lock);
    while ((l = list_pop_front(&finished))) {
        struct worker_job *job = container_of(l, struct worker_job, link);
        job->done(job, job->res);
    }
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;

    pthread_mutex_lock(&worker->lock);
    for (;;) {
        struct list *l;
        while (!(l = list_pop_front(&worker->queued)) && !worker->stopping)
            pthread_cond_wait(&worker->work, &worker->lock);
        if (!l)
            break;
        pthread_mutex_unlock(&worker->lock);
        struct worker_job *job = container_of(l, struct worker_job, link);
        job->res = job->work(job);
        pthread_mutex_lock(&worker->lock);
        bool first = list_empty(&worker->finished);
        list_push_back(&worker->finished, l);
        /* Short of memory is the only error, and it passes; dropping a completion would not. */
        while (first && loop_post(worker->loop, deliver, worker) < 0)
            usleep(1000);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

int worker_create(struct loop *loop, struct worker **ret)
{
    struct worker *worker = calloc(1, sizeof(*worker));
    sigset_t all, old;

    if (!worker)
        return -ENOMEM;
    worker->loop = loop;
    list_init(&worker->queued);
    list_init(&worker->finished);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->work, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = -pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        pthread_cond_destroy(&worker->work);
        pthread_mutex_destroy(&worker->lock);
        free(worker);
        return err;
    }
    *ret = worker;
    return 0;
}

void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->work);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

void worker_submit(struct worker *worker, struct worker_job *job)
{
    pthread_mutex_lock(&worker->lock);
    list_push_back(&worker->queued, &job->link);
    pthread_cond_signal(&worker->work);
    pthread_mutex_unlock(&worker->lock);
}
