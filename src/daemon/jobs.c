/* jobs.c - long operations of the control API. */
#include "daemon/jobs.h"

#include "base/mono.h"
#include "daemon/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
    struct jobs *jobs;
    struct job_work *work; /* NULL: a check */
    struct store_check check;
    struct job_view view; /* total, done, problems, nodes: taken from check when it is read */
};

/* All but engine belongs to the engine's thread. */
struct jobs {
    struct engine *engine;
    uint32_t last_id;
    unsigned running;
    bool abandoned; /* jobs_free() was called */
    struct job *slots[JOBS_MAX];
};

const char *job_state_word(enum job_state state)
{
    static const char *const words[] = {"running", "done", "failed", "cancelled"};
    return words[state];
}

struct jobs *jobs_new(struct engine *engine)
{
    struct jobs *jobs = calloc(1, sizeof(*jobs));
    if (jobs)
        jobs->engine = engine;
    return jobs;
}

static void job_free(struct job *job)
{
    if (job)
        job_work_put(job->work);
    free(job);
}

static void destroy(struct jobs *jobs)
{
    for (int i = 0; i < JOBS_MAX; i++)
        job_free(jobs->slots[i]);
    free(jobs);
}

/* What the thread that works on it has told since. */
static void look_at_work(struct job *job)
{
    struct job_work_view work;

    if (!job->work || job->view.state != JOB_RUNNING)
        return;
    job_work_read(job->work, &work);
    job->view.phase = work.phase;
    job->view.done = work.done;
    job->view.total = work.total;
    if (!work.ended)
        return;
    job->view.state = work.error == 0            ? JOB_DONE
                      : work.error == -ECANCELED ? JOB_CANCELLED
                                                 : JOB_FAILED;
    job->view.error = work.error;
    job->view.ended_us = work.ended_us;
    memcpy(job->view.text, work.text, sizeof(job->view.text));
}

static struct job *find(struct jobs *jobs, uint32_t id)
{
    for (int i = 0; i < JOBS_MAX; i++)
        if (jobs->slots[i] && jobs->slots[i]->view.id == id)
            return jobs->slots[i];
    return NULL;
}

/* A slot that is empty or holds the oldest job that has ended; NULL when all run. */
static struct job **free_slot(struct jobs *jobs)
{
    struct job **best = NULL;

    for (int i = 0; i < JOBS_MAX; i++) {
        struct job **slot = &jobs->slots[i];
        if (!*slot)
            return slot;
        look_at_work(*slot);
        if ((*slot)->view.state != JOB_RUNNING && (!best || (*slot)->view.id < (*best)->view.id))
            best = slot;
    }
    return best;
}

/* ---- the check ------------------------------------------------------------------------------ */

static void check_problem(struct store_check *check, const char *text)
{
    struct job_view *view = &container_of(check, struct job, check)->view;

    if (view->n_lines < JOB_PROBLEMS_MAX)
        snprintf(view->lines[view->n_lines++], JOB_PROBLEM_CHARS, "%s", text);
}

static void check_done(struct store_check *check)
{
    struct job *job = container_of(check, struct job, check);
    struct jobs *jobs = job->jobs;
    struct engine *engine = jobs->engine;

    job->view.state = check->error == 0            ? JOB_DONE
                      : check->error == -ECANCELED ? JOB_CANCELLED
                                                   : JOB_FAILED;
    job->view.error = check->error;
    job->view.ended_us = wall_us();
    if (--jobs->running == 0 && jobs->abandoned)
        destroy(jobs);
    engine_release(engine);
}

struct start {
    struct jobs *jobs;
    bool pages;
    uint32_t id;
    int result;
};

static int start_check(struct engine_call *call, struct jobs *jobs, bool pages, uint32_t *ret_id)
{
    struct job **slot = free_slot(jobs), *job;

    if (!slot)
        return -EAGAIN;
    job = calloc(1, sizeof(*job));
    if (!job)
        return -ENOMEM;
    job->jobs = jobs;
    job->check = (struct store_check){.pages = pages, .problem = check_problem, .done = check_done};
    job->view = (struct job_view){
        .id = jobs->last_id + 1, .kind = "check", .phase = "", .started_us = wall_us()};
    jobs->running++;
    engine_hold(call->engine);
    int r = store_check(call->store, &job->check);
    if (r < 0) {
        jobs->running--;
        engine_release(call->engine);
        free(job);
        return r;
    }
    job_free(*slot);
    *slot = job;
    *ret_id = ++jobs->last_id;
    return 0;
}

static void on_start(struct engine_call *call)
{
    struct start *s = call->arg;
    s->result = start_check(call, s->jobs, s->pages, &s->id);
    engine_call_done(call);
}

int jobs_start_check(struct jobs *jobs, bool pages, uint32_t *ret_id)
{
    struct start s = {.jobs = jobs, .pages = pages};
    int r = engine_ask(jobs->engine, on_start, &s, &s.result);
    if (r == 0)
        *ret_id = s.id;
    return r;
}

/* ---- work of other threads ------------------------------------------------------------------ */

struct work_start {
    struct jobs *jobs;
    const char *kind;
    struct job_work *work;
    uint32_t id;
    int result;
};

static void on_start_work(struct engine_call *call)
{
    struct work_start *s = call->arg;
    struct job **slot = free_slot(s->jobs), *job = slot ? calloc(1, sizeof(*job)) : NULL;

    s->result = job ? 0 : slot ? -ENOMEM : -EAGAIN;
    if (job) {
        job->jobs = s->jobs;
        job->work = s->work;
        job_work_get(s->work);
        s->id = ++s->jobs->last_id;
        job->view =
            (struct job_view){.id = s->id, .kind = s->kind, .phase = "", .started_us = wall_us()};
        job_free(*slot);
        *slot = job;
    }
    engine_call_done(call);
}

int jobs_start_work(struct jobs *jobs, const char *kind, struct job_work *work, uint32_t *ret_id)
{
    struct work_start s = {.jobs = jobs, .kind = kind, .work = work};
    int r = engine_call(jobs->engine, on_start_work, &s);

    if (r < 0 || s.result < 0)
        return r < 0 ? r : s.result;
    *ret_id = s.id;
    return 0;
}

/* ---- reading and cancelling ----------------------------------------------------------------- */

struct lookup {
    struct jobs *jobs;
    uint32_t id;
    struct job_view *ret;
    int result;
};

static void on_read(struct engine_call *call)
{
    struct lookup *l = call->arg;
    struct job *job = find(l->jobs, l->id);

    l->result = job ? 0 : -ENOENT;
    if (job)
        look_at_work(job);
    if (job && job->work) {
        *l->ret = job->view;
    } else if (job) {
        *l->ret = job->view;
        const struct store_check *check = &job->check;
        l->ret->total = check->total_pages + check->total_blocks;
        l->ret->done = check->checked_pages + check->checked_blocks;
        l->ret->pages = check->total_pages;
        l->ret->nodes = check->nodes;
        l->ret->blocks = check->checked_blocks;
        l->ret->problems = check->problems;
        l->ret->harmless = check->harmless;
    }
    engine_call_done(call);
}

int jobs_read(struct jobs *jobs, uint32_t id, struct job_view *ret)
{
    struct lookup l = {.jobs = jobs, .id = id, .ret = ret};
    return engine_ask(jobs->engine, on_read, &l, &l.result);
}

static void on_cancel(struct engine_call *call)
{
    struct lookup *l = call->arg;
    struct job *job = find(l->jobs, l->id);

    l->result = job ? 0 : -ENOENT;
    if (job && job->work)
        job_work_cancel(job->work);
    else if (job && job->view.state == JOB_RUNNING)
        job->check.cancel = true;
    engine_call_done(call);
}

int jobs_cancel(struct jobs *jobs, uint32_t id)
{
    struct lookup l = {.jobs = jobs, .id = id};
    return engine_ask(jobs->engine, on_cancel, &l, &l.result);
}

static void on_free(struct engine_call *call)
{
    struct jobs *jobs = call->arg;

    for (int i = 0; i < JOBS_MAX; i++)
        if (jobs->slots[i] && !jobs->slots[i]->work && jobs->slots[i]->view.state == JOB_RUNNING)
            jobs->slots[i]->check.cancel = true;
    jobs->abandoned = true;
    if (jobs->running == 0)
        destroy(jobs);
    engine_call_done(call);
}

void jobs_free(struct jobs *jobs)
{
    if (jobs && engine_call(jobs->engine, on_free, jobs) < 0)
        destroy(jobs); /* the loop takes no work: nothing runs on it either */
}
