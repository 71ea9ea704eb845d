/* pipeline.c - frames through worker threads.
 *
 * States of a frame:
 *   FREE     -> FILLING   pipeline_get()
 *   FILLING  -> READY     pipeline_put()
 *   READY    -> WORKING   a worker takes the one with the lowest number
 *   WORKING  -> DONE      the worker
 *   DONE     -> TAKEN     pipeline_take(), in the order of numbers
 *   TAKEN    -> FREE      pipeline_release() */
#include "cli/pipeline.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STOP_TRIES    100
#define STOP_PAUSE_US 2000

#define WORKERS_MAX  8
#define SPARE_FRAMES 6 /* beside two for each worker: being filled, and being taken */
#define FRAMES_MAX   (2 * WORKERS_MAX + SPARE_FRAMES)

enum { FREE, FILLING, READY, WORKING, DONE, TAKEN };

struct pipeline {
    pipeline_step *step;
    unsigned n_workers, n_frames;
    int fd;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t freed, filled, done;
    uint64_t next_get, next_take; /* numbers */
    bool ended, stopped;
    struct work *frames;
    struct worker {
        struct pipeline *pipeline;
        struct stream_zstd *zstd;
        pthread_t thread;
        bool started;
    } workers[WORKERS_MAX];
};

static struct work *find_state(struct pipeline *p, int state)
{
    struct work *found = NULL;

    for (unsigned i = 0; i < p->n_frames; i++)
        if (p->frames[i].state == state && (!found || p->frames[i].number < found->number))
            found = &p->frames[i];
    return found;
}

static struct work *find_number(struct pipeline *p, int state, uint64_t number)
{
    for (unsigned i = 0; i < p->n_frames; i++)
        if (p->frames[i].state == state && p->frames[i].number == number)
            return &p->frames[i];
    return NULL;
}

void pipeline_wake(struct pipeline *p)
{
    eventfd_write(p->fd, 1);
}

void pipeline_clear(struct pipeline *p)
{
    eventfd_t unused;
    eventfd_read(p->fd, &unused);
}

int pipeline_fd(const struct pipeline *p)
{
    return p->fd;
}

/* ---- workers -------------------------------------------------------------------------------- */

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct pipeline *p = worker->pipeline;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct work *next;
        while (!(next = find_state(p, READY)) && !p->stopped && !p->ended)
            pthread_cond_wait(&p->filled, &p->lock);
        if (!next || p->stopped)
            break;
        next->state = WORKING;
        pthread_mutex_unlock(&p->lock);
        p->step(worker->zstd, next);
        pthread_mutex_lock(&p->lock);
        next->state = DONE;
        if (next->number == p->next_take) {
            pthread_cond_signal(&p->done);
            pipeline_wake(p);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static bool start_workers(struct pipeline *p, int level)
{
    sigset_t all, before;
    bool fine = true;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < p->n_workers && fine; i++) {
        struct worker *worker = &p->workers[i];
        worker->pipeline = p;
        worker->zstd = stream_zstd_new(level);
        worker->started = worker->zstd && pthread_create(&worker->thread, NULL, work, worker) == 0;
        fine = worker->started;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return fine;
}

static unsigned n_processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
}

static bool make_frames(struct pipeline *p)
{
    p->frames = calloc(p->n_frames, sizeof(*p->frames));
    for (unsigned i = 0; p->frames && i < p->n_frames; i++) {
        p->frames[i].plain = aligned_alloc(4096, STREAM_FRAME_MAX);
        p->frames[i].stored = aligned_alloc(4096, STREAM_FRAME_MAX);
        if (!p->frames[i].plain || !p->frames[i].stored)
            return false;
    }
    return p->frames != NULL;
}

struct pipeline *pipeline_new(unsigned n_workers, int level, pipeline_step *step)
{
    struct pipeline *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->n_workers = n_workers ? n_workers : n_processors();
    p->n_frames = 2 * p->n_workers + SPARE_FRAMES;
    p->step = step;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->freed, NULL);
    pthread_cond_init(&p->filled, NULL);
    pthread_cond_init(&p->done, NULL);
    p->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->fd < 0 || !make_frames(p) || !start_workers(p, level)) {
        pipeline_free(p);
        return NULL;
    }
    return p;
}

void pipeline_free(struct pipeline *p)
{
    if (!p)
        return;
    pipeline_stop(p);
    for (unsigned i = 0; i < p->n_workers; i++) {
        if (p->workers[i].started)
            pthread_join(p->workers[i].thread, NULL);
        stream_zstd_free(p->workers[i].zstd);
    }
    for (unsigned i = 0; p->frames && i < p->n_frames; i++) {
        free(p->frames[i].plain);
        free(p->frames[i].stored);
    }
    free(p->frames);
    if (p->fd >= 0)
        close(p->fd);
    pthread_cond_destroy(&p->freed);
    pthread_cond_destroy(&p->filled);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pipeline_stop(struct pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopped = true;
    pthread_cond_broadcast(&p->freed);
    pthread_cond_broadcast(&p->filled);
    pthread_cond_broadcast(&p->done);
    pthread_mutex_unlock(&p->lock);
    if (p->fd >= 0)
        pipeline_wake(p);
}

bool pipeline_stop_thread(struct pipeline *p, pthread_t thread)
{
    bool ended = false;

    pipeline_stop(p);
    for (int i = 0; i < STOP_TRIES && !ended; i++) {
        if (i)
            usleep(STOP_PAUSE_US);
        ended = pthread_tryjoin_np(thread, NULL) == 0;
    }
    return ended;
}

/* ---- the filler ----------------------------------------------------------------------------- */

struct work *pipeline_get(struct pipeline *p, bool wait)
{
    struct work *found;

    pthread_mutex_lock(&p->lock);
    while (!(found = find_state(p, FREE)) && wait && !p->stopped)
        pthread_cond_wait(&p->freed, &p->lock);
    if (p->stopped)
        found = NULL;
    if (found) {
        found->state = FILLING;
        found->number = p->next_get++;
        found->pending = 0;
        found->closed = false;
        found->data = NULL;
        found->frame.n_runs = found->frame.plain_bytes = found->frame.stored_bytes = 0;
    }
    pthread_mutex_unlock(&p->lock);
    return found;
}

void pipeline_put(struct pipeline *p, struct work *filled)
{
    pthread_mutex_lock(&p->lock);
    filled->state = READY;
    pthread_cond_signal(&p->filled);
    pthread_mutex_unlock(&p->lock);
}

void pipeline_unget(struct pipeline *p, struct work *unfilled)
{
    pthread_mutex_lock(&p->lock);
    unfilled->state = FREE;
    p->next_get--;
    pthread_mutex_unlock(&p->lock);
}

void pipeline_end(struct pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_cond_broadcast(&p->filled);
    pthread_cond_broadcast(&p->done);
    pthread_mutex_unlock(&p->lock);
    pipeline_wake(p);
}

/* ---- the taker ------------------------------------------------------------------------------ */

struct work *pipeline_take(struct pipeline *p, bool wait, bool *ret_end)
{
    struct work *found;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        found = find_number(p, DONE, p->next_take);
        *ret_end = !found && p->ended && p->next_take == p->next_get;
        if (found || *ret_end || !wait || p->stopped)
            break;
        pthread_cond_wait(&p->done, &p->lock);
    }
    if (p->stopped) {
        found = NULL;
        *ret_end = false;
    }
    if (found) {
        found->state = TAKEN;
        p->next_take++;
    }
    pthread_mutex_unlock(&p->lock);
    return found;
}

void pipeline_release(struct pipeline *p, struct work *taken)
{
    pthread_mutex_lock(&p->lock);
    taken->state = FREE;
    pthread_cond_signal(&p->freed);
    pthread_mutex_unlock(&p->lock);
    pipeline_wake(p);
}
