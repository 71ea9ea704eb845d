/* measure.c - how much the removal of versions would free. */
#include "daemon/measure.h"

#include "base/mono.h"
#include "daemon/engine.h"
#include "daemon/memory-list.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct run {
    struct store_measure measure;
    struct engine *engine;
    sem_t ended;
};

static void ended(struct store_measure *measure)
{
    struct run *run = container_of(measure, struct run, measure);

    engine_release(run->engine);
    sem_post(&run->ended); /* the run may be gone from here on */
}

static void on_start(struct engine_call *call)
{
    struct run *run = call->arg;

    engine_hold(call->engine);
    store_measure(call->store, &run->measure);
    engine_call_done(call);
}

static void on_cancel(struct engine_call *call)
{
    struct run *run = call->arg;

    run->measure.cancel = true; /* also if it has just ended: nobody reads it then */
    engine_call_done(call);
}

static bool wait_until(sem_t *sem, uint64_t deadline_us)
{
    const struct timespec at = {.tv_sec = (time_t)(deadline_us / 1000000),
                                .tv_nsec = (long)(deadline_us % 1000000) * 1000};
    int r;

    while ((r = sem_clockwait(sem, CLOCK_MONOTONIC, &at)) < 0 && errno == EINTR)
        ;
    return r == 0;
}

static int measure(struct engine *engine, struct run *run, uint64_t deadline_us,
                   uint64_t *ret_bytes)
{
    run->engine = engine;
    run->measure.done = ended;
    sem_init(&run->ended, 0, 0);
    int r = engine_call(engine, on_start, run);
    if (r == 0 && !wait_until(&run->ended, deadline_us)) {
        r = engine_call(engine, on_cancel, run);
        while (sem_wait(&run->ended) < 0 && errno == EINTR)
            ;
    }
    if (r == 0)
        r = run->measure.error == -ECANCELED ? -ETIMEDOUT : run->measure.error;
    if (r == 0)
        *ret_bytes = run->measure.bytes;
    sem_destroy(&run->ended);
    return r;
}

int measure_versions(struct engine *engine, const char *vm, const char *const *versions, uint32_t n,
                     const struct store_version *with, uint32_t n_with, uint64_t deadline_us,
                     uint64_t *ret_bytes)
{
    struct run run = {.measure = {.versions = versions,
                                  .n_versions = n,
                                  .with = with,
                                  .n_with = n_with,
                                  .whole = versions == NULL}};

    strncpy(run.measure.vm, vm, NAME_MAX_CHARS);
    return measure(engine, &run, deadline_us, ret_bytes);
}

int measure_removal(struct engine *engine, const char *vm, const char *const *versions, uint32_t n,
                    uint64_t deadline_us, uint64_t *ret_bytes)
{
    struct memory_list list;
    struct store_version *with = NULL;
    uint32_t n_with = 0;

    int r = memory_list_get(engine, &list);
    if (r < 0)
        return r;
    r = memory_list_going(&list, vm, versions, n, &with, &n_with);
    memory_list_free(&list);
    if (r == 0)
        r = measure_versions(engine, vm, versions, n, with, n_with, deadline_us, ret_bytes);
    free(with);
    return r;
}
