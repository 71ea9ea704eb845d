/* crew.c - threads that wait to help.
 *
 * Each member has a semaphore that says go; one for all says that a member is done. What is to be
 * done stands in the crew, and changes only while all of them wait.
 *
 * Left alone the kernel likes to wake a member on its owner's processor, where it waits for the
 * owner; more so in a virtual machine, where it takes halted processors for busy ones. */
#include "base/crew.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>

struct member {
    struct crew *crew;
    unsigned number; /* from 1 */
    int avoids;      /* this processor; -1: none */
    pthread_t thread;
    sem_t go;
};

struct crew {
    void (*fn)(void *arg, unsigned i); /* NULL: the end */
    void *arg;
    sem_t done;
    cpu_set_t processors;
    unsigned n; /* members, the owner not counted */
    struct member members[];
};

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem) < 0)
        assert(errno == EINTR);
}

static void *run_member(void *arg)
{
    struct member *m = arg;

    for (;;) {
        wait_for(&m->go);
        if (!m->crew->fn)
            return NULL;
        m->crew->fn(m->crew->arg, m->number);
        sem_post(&m->crew->done);
    }
}

int crew_new(unsigned max, struct crew **ret)
{
    struct crew *crew = calloc(1, sizeof(*crew) + max * sizeof(struct member));
    sigset_t all, before;
    unsigned wanted = max;

    if (!crew)
        return -ENOMEM;
    if (sched_getaffinity(0, sizeof(crew->processors), &crew->processors) < 0)
        wanted = 1;
    else if ((unsigned)CPU_COUNT(&crew->processors) < max)
        wanted = (unsigned)CPU_COUNT(&crew->processors);
    sem_init(&crew->done, 0, 0);
    /* Signals are for others. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (crew->n + 1 < wanted) {
        struct member *m = &crew->members[crew->n];
        m->crew = crew;
        m->number = crew->n + 1;
        m->avoids = -1;
        sem_init(&m->go, 0, 0);
        if (pthread_create(&m->thread, NULL, run_member, m) != 0) {
            sem_destroy(&m->go);
            break;
        }
        crew->n++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    *ret = crew;
    return 0;
}

void crew_free(struct crew *crew)
{
    if (!crew)
        return;
    crew->fn = NULL;
    for (unsigned i = 0; i < crew->n; i++)
        sem_post(&crew->members[i].go);
    for (unsigned i = 0; i < crew->n; i++) {
        pthread_join(crew->members[i].thread, NULL);
        sem_destroy(&crew->members[i].go);
    }
    sem_destroy(&crew->done);
    free(crew);
}

unsigned crew_size(const struct crew *crew)
{
    return crew->n + 1;
}

/* Where it is refused it runs wherever it does. */
static void keep_off(struct crew *crew, struct member *m, int processor)
{
    cpu_set_t set = crew->processors;

    if (processor < 0 || m->avoids == processor)
        return;
    CPU_CLR(processor, &set);
    if (CPU_COUNT(&set) && pthread_setaffinity_np(m->thread, sizeof(set), &set) == 0)
        m->avoids = processor;
}

void crew_run(struct crew *crew, unsigned n, void (*fn)(void *arg, unsigned i), void *arg)
{
    assert(n >= 1 && n <= crew->n + 1);
    crew->fn = fn;
    crew->arg = arg;
    int processor = n > 1 ? sched_getcpu() : -1;
    for (unsigned i = 1; i < n; i++) {
        keep_off(crew, &crew->members[i - 1], processor);
        sem_post(&crew->members[i - 1].go);
    }
    fn(arg, 0);
    for (unsigned i = 1; i < n; i++)
        wait_for(&crew->done);
}
