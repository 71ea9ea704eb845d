/* restoring.c - machines that go on from versions.
 *
 * A group is the machines of one request. Its thread brings them up, all or none, each by a thread
 * of its own, then watches until all their pages are there. */
#include "daemon/restoring.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mono.h"
#include "base/report.h"
#include "base/size.h"
#include "daemon/engine.h"
#include "daemon/jobs.h"
#include "daemon/machine.h"
#include "daemon/restore-into.h"
#include "daemon/working-set.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#define WATCH_US       20000
#define STEM_MAX_CHARS (NAME_MAX_CHARS - 4) /* of a name that gets a number */
#define ENDED_MAX      16                   /* groups that are remembered */

struct group {
    struct list link; /* restoring->groups */
    struct restoring *restoring;
    pthread_t thread;
    bool has_thread;
    atomic_bool ended;               /* the thread does nothing more */
    sem_t came_up;                   /* or did not: for who shows it meanwhile */
    atomic_uint_fast64_t fill_pages; /* that all machines have, once that is known */
    uint32_t job;
    struct job_work *work;
    uint64_t begin_us;
    struct restore_request request;
    char vm[NAME_MAX_CHARS + 1], version[NAME_MAX_CHARS + 1], *qmp;
    bool adopted;
    unsigned n;
    struct restore_machine *machines;
    pthread_mutex_t lock; /* what is shown of the machines, while they change */
};

struct restoring {
    struct api *api;
    atomic_bool stop;
    pthread_mutex_t lock; /* groups */
    struct list groups;   /* newest last */
};

/* ---- groups --------------------------------------------------------------------------------- */

static void group_free(struct group *g)
{
    if (g->has_thread)
        pthread_join(g->thread, NULL);
    for (unsigned i = 0; i < g->n; i++)
        restore_machine_leave(&g->machines[i]);
    restore_source_close(g->request.source);
    free((void *)(uintptr_t)g->request.first);
    pthread_mutex_destroy(&g->lock);
    sem_destroy(&g->came_up);
    free(g->machines);
    job_work_put(g->work);
    free(g->qmp);
    free(g);
}

static struct group *group_new(struct restoring *r, unsigned n)
{
    struct group *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    *g = (struct group){.restoring = r, .n = n, .begin_us = mono_us()};
    g->request.api = r->api;
    pthread_mutex_init(&g->lock, NULL);
    sem_init(&g->came_up, 0, 0);
    g->machines = calloc(n, sizeof(*g->machines));
    if (!g->machines) {
        g->n = 0;
        group_free(g);
        return NULL;
    }
    for (unsigned i = 0; i < n; i++)
        restore_machine_init(&g->machines[i], &g->request, "");
    return g;
}

/* ---- the working set ------------------------------------------------------------------------ */

/* What was known before, then what was missed. */
static void keep_working_set(struct group *g, struct restore_machine *m)
{
    const struct restore_request *q = &g->request;
    size_t missed = m->restored.pager ? pager_touched(m->restored.pager, NULL, 0) : 0;
    size_t n = q->n_first < WORKING_SET_MAX ? q->n_first : WORKING_SET_MAX;

    if (missed == 0)
        return;
    _cleanup_free_ struct pager_place *places = calloc(n + missed, sizeof(*places));
    if (!places)
        return; /* a hint is lost */
    if (n)
        memcpy(places, q->first, n * sizeof(*places));
    size_t got = pager_touched(m->restored.pager, places + n, missed);
    working_set_save(g->restoring->api->store_path, q->source->guid, places,
                     n + (got < missed ? got : missed));
}

static void load_working_set(struct group *g)
{
    struct pager_place *places;

    g->request.n_first =
        working_set_load(g->restoring->api->store_path, g->request.source->guid, &places);
    g->request.first = places;
}

/* ---- coming up ------------------------------------------------------------------------------ */

static int check_room(const struct group *g, struct why *why)
{
    char wanted[SIZE_TEXT_CHARS], there[SIZE_TEXT_CHARS];
    uint64_t bytes = atomic_load(&g->fill_pages) * MEMORY_PAGE_BYTES;
    struct statvfs fs;

    if (statvfs("/dev/shm", &fs) < 0)
        return why_set(why, -errno, "/dev/shm cannot be used: %s", strerror(errno));
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes < bytes)
        return why_set(why, -ENOMEM,
                       "the memory of %u machine(s), %s, does not fit into /dev/shm (%s free); end "
                       "other machines, or make /dev/shm larger",
                       g->n, size_format(bytes, wanted), size_format(free_bytes, there));
    return 0;
}

static void *bring_up(void *arg)
{
    struct restore_machine *m = arg;

    m->error = restore_machine_prepare(m, &m->why);
    if (m->error == 0)
        m->error = restore_machine_start(m, &m->why);
    return NULL;
}

static void *let_run(void *arg)
{
    struct restore_machine *m = arg;

    m->error = restore_machine_run(m, &m->why);
    return NULL;
}

/* A step of all machines, each in a thread. Returns the first error. */
static int all(struct group *g, void *(*step)(void *arg), struct why *why)
{
    pthread_t threads[RESTORE_COUNT_MAX];
    unsigned n = 0;

    while (n < g->n - 1 && pthread_create(&threads[n], NULL, step, &g->machines[n]) == 0)
        n++;
    for (unsigned i = n; i < g->n; i++)
        step(&g->machines[i]);
    while (n > 0)
        pthread_join(threads[--n], NULL);
    for (unsigned i = 0; i < g->n; i++)
        if (g->machines[i].error < 0) {
            *why = g->machines[i].why;
            return g->machines[i].error;
        }
    return 0;
}

static uint64_t count_pages(const struct group *g)
{
    const struct restore_source *s = g->request.source;
    uint64_t pages = 0;

    for (unsigned i = 0; i < s->n_blocks; i++)
        pages += s->blocks[i].shared ? s->blocks[i].pages * g->n : 0;
    return pages;
}

static int come_up(struct group *g, struct why *why)
{
    struct restoring *r = g->restoring;

    int error =
        restore_source_open(r->api->engine, g->vm, g->version, g->n > 1, &g->request.source, why);
    if (error < 0)
        return error;
    atomic_store(&g->fill_pages, count_pages(g));
    if (g->qmp)
        return restore_into(&g->request, g->qmp, &g->machines[0], why);
    load_working_set(g);
    error = check_room(g, why);
    if (error == 0)
        error = all(g, bring_up, why);
    if ((error == 0 || error == -ECANCELED) && atomic_load(&g->request.cancel))
        error = why_set(why, -ECANCELED, "the restore was cancelled");
    if (error == 0)
        error = all(g, let_run, why);
    for (unsigned i = 0; i < g->n; i++)
        if (error < 0)
            restore_machine_undo(&g->machines[i], why);
        else if (g->request.eager)
            restore_machine_settle(&g->machines[i]);
    return error;
}

/* ---- watching ------------------------------------------------------------------------------- */

/* What they are is now to be seen. */
static void show(struct group *g)
{
    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; i < g->n; i++) {
        g->machines[i].is_up = true;
        g->machines[i].running_us = g->adopted ? 0 : mono_us() - g->begin_us;
    }
    pthread_mutex_unlock(&g->lock);
    atomic_store(&g->request.all_run, true);
}

/* Returns whether some machine still wants pages. */
static bool watch(struct group *g)
{
    uint64_t total = 0, done = 0;
    bool wanted = false;

    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; i < g->n; i++) {
        struct restore_machine *m = &g->machines[i];
        bool serving = m->state == RESTORE_RUNNING;
        if (restore_machine_watch(m)) {
            wanted = true;
        } else if (serving && m->state == RESTORE_RUNNING) {
            keep_working_set(g, m);
            restore_machine_settle(m);
            wanted |= m->state == RESTORE_RUNNING;
        }
        total += m->progress.pages;
        done += m->progress.resident;
    }
    pthread_mutex_unlock(&g->lock);
    job_work_tell(g->work, "pages", done, total);
    return wanted;
}

/* Those that have all their pages are machines like others: checkpoints can be taken of them. When
 * we are stopped the rest is left to the next daemon. */
static void attach(struct group *g)
{
    for (unsigned i = 0; i < g->n && !g->qmp && !atomic_load(&g->restoring->stop); i++) {
        struct restore_machine *m = &g->machines[i];
        struct attached_spec spec = {.nbd_path = g->restoring->api->nbd_path, .waits = m->paused};
        struct why why;
        if (m->state != RESTORE_RESIDENT || m->is_attached)
            continue;
        strcpy(spec.vm, m->name);
        snprintf(spec.qmp, sizeof(spec.qmp), "%.200s/" RESTORE_MONITOR, m->dir);
        m->is_attached = true;
        if (machines_attach(g->restoring->api->machines, &spec, &why) < 0)
            report_warning("machine %s runs, but is not attached: %s; when that is mended: varve "
                           "attach %s --qmp %s",
                           m->name, why.text, m->name, spec.qmp);
        restore_machine_forget(m);
    }
}

/* Whether they are up, or will not be. Waits for that, not for long. */
static bool came_up(struct group *g)
{
    uint64_t end_us = mono_us() + WATCH_US;
    struct timespec end = {.tv_sec = (time_t)(end_us / 1000000),
                           .tv_nsec = (long)(end_us % 1000000) * 1000};

    return sem_clockwait(&g->came_up, CLOCK_MONOTONIC, &end) == 0;
}

/* Beside the coming up, which is in the hands of others: what was filled, and cancelling. */
static void *show_coming_up(void *arg)
{
    struct group *g = arg;

    do {
        if (g->request.eager)
            job_work_tell(g->work, "memory",
                          atomic_load(&g->request.filled_bytes) / MEMORY_PAGE_BYTES,
                          atomic_load(&g->fill_pages));
        if (job_work_is_cancelled(g->work) || atomic_load(&g->restoring->stop))
            atomic_store(&g->request.cancel, true);
    } while (!came_up(g));
    return NULL;
}

static void *run_group(void *arg)
{
    struct group *g = arg;
    struct why why = {};
    pthread_t shower;
    int error = 0;

    if (!g->adopted) {
        bool shows = pthread_create(&shower, NULL, show_coming_up, g) == 0;
        error = come_up(g, &why);
        sem_post(&g->came_up);
        if (shows)
            pthread_join(shower, NULL);
        if (error < 0)
            report_warning("restore of %s@%s: %s", g->vm, g->version, why.text);
    }
    if (error == 0)
        show(g);
    while (error == 0 && !atomic_load(&g->restoring->stop) && watch(g)) {
        attach(g);
        usleep(WATCH_US);
    }
    if (error == 0)
        attach(g);
    if (error == 0 && atomic_load(&g->restoring->stop))
        for (unsigned i = 0; i < g->n; i++)
            restore_machine_leave(&g->machines[i]);
    job_work_end(g->work, error, error < 0 ? why.text : "");
    if (error < 0) /* not before: who waits for machines to come up looks at the job first */
        show(g);
    /* Its memory may go; what is shown stays. */
    pthread_mutex_lock(&g->lock);
    struct restore_source *source = g->request.source;
    g->request.source = NULL;
    pthread_mutex_unlock(&g->lock);
    restore_source_close(source);
    atomic_store(&g->ended, true);
    return NULL;
}

/* ---- the list ------------------------------------------------------------------------------- */

/* Forget the oldest that have ended. */
static void tidy(struct restoring *r)
{
    struct group *oldest = NULL;
    unsigned n = 0;

    pthread_mutex_lock(&r->lock);
    list_for_each (at, &r->groups) {
        struct group *g = container_of(at, struct group, link);
        if (!atomic_load(&g->ended))
            continue;
        n++;
        if (!oldest)
            oldest = g;
    }
    if (n > ENDED_MAX)
        list_del(&oldest->link);
    pthread_mutex_unlock(&r->lock);
    if (n > ENDED_MAX)
        group_free(oldest);
}

/* One that could not be adopted, and whose process has ended since: nothing of it is in the way. */
static bool is_over(const struct group *g)
{
    return g->adopted && !g->has_thread && kill(g->machines[0].pid, 0) < 0 && errno == ESRCH;
}

/* The name of a machine of another group that comes up just now, and of one of this; or NULL. With
 * r->lock held. */
static const char *comes_up(struct restoring *r, const struct group *g)
{
    const char *found = NULL;

    list_for_each (at, &r->groups) {
        struct group *other = container_of(at, struct group, link);
        pthread_mutex_lock(&other->lock);
        for (unsigned i = 0; i < other->n && !is_over(other); i++)
            for (unsigned k = 0; k < g->n && !other->machines[i].is_up; k++)
                if (*g->machines[k].name && !strcmp(g->machines[k].name, other->machines[i].name))
                    found = g->machines[k].name;
        pthread_mutex_unlock(&other->lock);
    }
    return found;
}

static int start_group(struct group *g, struct why *why)
{
    struct restoring *r = g->restoring;
    int error = -ENOMEM;

    g->work = job_work_new();
    if (g->work)
        error = jobs_start_work(r->api->jobs, "restore", g->work, &g->job);
    if (error < 0 && !(error == -EAGAIN && g->adopted)) /* which nobody asks for */
        return why_set(why, error, "no job can be started: %s",
                       error == -EAGAIN ? "too many run already; wait for one to end"
                                        : err_text(error));
    pthread_mutex_lock(&r->lock);
    const char *name = comes_up(r, g);
    if (name) {
        error = why_set(why, -EBUSY, "machine %s is being restored just now; wait for that", name);
    } else {
        error = -pthread_create(&g->thread, NULL, run_group, g);
        g->has_thread = error == 0;
        if (error < 0)
            why_set(why, error, "cannot start a thread: %s", strerror(-error));
        else
            list_push_back(&r->groups, &g->link);
    }
    pthread_mutex_unlock(&r->lock);
    if (error < 0) {
        job_work_end(g->work, error, why->text);
    }
    return error;
}

static void name_machines(struct group *g, const struct restore_wish *wish)
{
    const char *stem = wish->as ? wish->as : wish->vm;

    for (unsigned i = 0; i < g->n; i++) {
        struct restore_machine *m = &g->machines[i];
        if (wish->count) /* the length was looked at */
            snprintf(m->name, sizeof(m->name), "%.*s-%u", STEM_MAX_CHARS, stem, (i + 1) & 0x7f);
        else
            snprintf(m->name, sizeof(m->name), "%s", wish->qmp ? "" : stem);
    }
}

int restoring_start(struct restoring *r, const struct restore_wish *wish, uint32_t *ret_job,
                    struct why *why)
{
    if (wish->count && strlen(wish->as ? wish->as : wish->vm) > STEM_MAX_CHARS)
        return why_set(why, ERR_BAD_NAME,
                       "\"%s\" is too long for machines of one name and a number: use --as with at "
                       "most %d characters",
                       wish->as ? wish->as : wish->vm, STEM_MAX_CHARS);
    struct group *g = group_new(r, wish->count ? wish->count : 1);
    tidy(r);
    if (!g)
        return why_set(why, -ENOMEM, "no memory");
    snprintf(g->vm, sizeof(g->vm), "%s", wish->vm);
    snprintf(g->version, sizeof(g->version), "%s", wish->version);
    g->qmp = wish->qmp ? strdup(wish->qmp) : NULL;
    g->request.clone = wish->as || wish->count;
    g->request.eager = wish->eager || wish->qmp;
    g->request.new_macs = wish->new_macs;
    g->request.paused = wish->paused;
    name_machines(g, wish);
    int error = wish->qmp && !g->qmp ? why_set(why, -ENOMEM, "no memory") : start_group(g, why);
    if (error < 0)
        group_free(g);
    else
        *ret_job = g->job;
    return error;
}

/* ---- adopting ------------------------------------------------------------------------------- */

static void adopt(struct restoring *r, const char *name)
{
    struct group *g = group_new(r, 1);
    uint8_t guid[GUID_BYTES];
    const char *what = "waits for its memory, which cannot be brought";
    struct why why = {};
    int error;

    if (!g)
        return;
    struct restore_machine *m = &g->machines[0];
    if (!restore_machine_find(m, r->api, name, guid)) {
        group_free(g);
        return;
    }
    g->adopted = true;
    error =
        m->is_lazy ? restore_source_open_ram(r->api->engine, guid, &g->request.source, &why) : 0;
    if (error == 0) {
        if (m->is_lazy)
            load_working_set(g);
        error = restore_machine_adopt(m, &g->request, &why);
        if (m->state == RESTORE_RUNNING)
            what = "has its memory, and cannot be told to go on";
    }
    if (error == 0) {
        what = "goes on, and nobody looks after it";
        error = start_group(g, &why);
    }
    if (error == 0) {
        if (m->is_lazy)
            report_info("machine %s gets its memory from here again", name);
        return;
    }
    report_error("machine %s %s: %s; restart varved when that is mended, or end the machine "
                 "(process %d)",
                 name, what, why.text, (int)m->pid);
    /* It stays one whose memory is not all there: nobody may attach it. */
    pthread_mutex_lock(&r->lock);
    list_push_back(&r->groups, &g->link);
    pthread_mutex_unlock(&r->lock);
}

static void adopt_all(struct restoring *r)
{
    char path[PATH_MAX];
    const struct dirent *entry;

    snprintf(path, sizeof(path), "%s/vm", r->api->run_path);
    DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir)))
        if (name_is_valid(entry->d_name)) /* neither "." nor ".." is */
            adopt(r, entry->d_name);
    if (dir)
        closedir(dir);
}

struct kept {
    struct version_info *versions;
    uint32_t n;
    int result;
};

static void on_kept(struct engine_call *call)
{
    struct kept *k = call->arg;

    k->result = store_list_versions(call->store, NULL, NULL, true, UINT32_MAX, &k->versions, &k->n);
    engine_call_done(call);
}

static bool is_kept(void *arg, const uint8_t guid[GUID_BYTES])
{
    const struct kept *k = arg;

    for (uint32_t i = 0; i < k->n; i++)
        if (!k->versions[i].memory && !memcmp(k->versions[i].guid, guid, GUID_BYTES))
            return true;
    return false;
}

/* The working sets of versions that were removed since. */
static void sweep_working_sets(const struct api *api)
{
    struct kept kept = {};

    if (engine_ask(api->engine, on_kept, &kept, &kept.result) < 0)
        return; /* no memory: then the next daemon */
    working_set_sweep(api->store_path, is_kept, &kept);
    free(kept.versions);
}

struct restoring *restoring_new(struct api *api)
{
    struct restoring *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->api = api;
    pthread_mutex_init(&r->lock, NULL);
    list_init(&r->groups);
    sweep_working_sets(api);
    adopt_all(r);
    return r;
}

void restoring_free(struct restoring *r)
{
    struct list *at;

    if (!r)
        return;
    atomic_store(&r->stop, true);
    while ((at = list_pop_front(&r->groups)))
        group_free(container_of(at, struct group, link));
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* ---- what can be seen ----------------------------------------------------------------------- */

static void view(const struct restore_machine *m, struct restore_view *ret)
{
    const struct restored *d = &m->restored;

    strcpy(ret->name, m->name);
    if (!m->is_up) /* others work on it */
        return;
    *ret = (struct restore_view){.state = m->state,
                                 .paused = m->paused,
                                 .pid = (int)m->pid,
                                 .running_us = m->running_us,
                                 .disks_us = m->disks_us,
                                 .start_us = m->start_us,
                                 .run_us = m->run_us,
                                 .load_us = m->load_us,
                                 .progress = m->progress};
    strcpy(ret->name, m->name);
    strcpy(ret->dir, m->dir);
    if (m->progress.last_error)
        strcpy(ret->error_memory, d->args.memory[m->progress.last_place.area].id);
    for (unsigned i = 0; i < d->args.n_lost; i++) {
        ret->lost[ret->n_lost] = strdup(d->args.lost[i]);
        ret->n_lost += ret->lost[ret->n_lost] != NULL;
    }
}

int restoring_read(struct restoring *r, uint32_t job, struct restore_view **ret)
{
    struct restore_view *views = NULL;
    int n = -ENOENT;

    pthread_mutex_lock(&r->lock);
    list_for_each (at, &r->groups) {
        struct group *g = container_of(at, struct group, link);
        if (g->job != job)
            continue;
        n = (int)g->n;
        views = calloc(g->n, sizeof(*views));
        pthread_mutex_lock(&g->lock);
        for (unsigned i = 0; views && i < g->n; i++)
            view(&g->machines[i], &views[i]);
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_unlock(&r->lock);
    if (n >= 0 && !views)
        return -ENOMEM;
    *ret = views;
    return n;
}

void restoring_view_free(struct restore_view *views, int n)
{
    for (int i = 0; i < n; i++)
        for (unsigned k = 0; k < views[i].n_lost; k++)
            free(views[i].lost[k]);
    free(views);
}

/* vm: NULL: only the process is looked at. pid: 0: only the name. */
static bool serves(struct restoring *r, const char *vm, pid_t pid)
{
    bool found = false;

    pthread_mutex_lock(&r->lock);
    list_for_each (at, &r->groups) {
        struct group *g = container_of(at, struct group, link);
        pthread_mutex_lock(&g->lock);
        for (unsigned i = 0; i < g->n && !atomic_load(&g->ended) && !is_over(g); i++)
            found |=
                ((vm && !strcmp(g->machines[i].name, vm)) || (pid && g->machines[i].pid == pid)) &&
                (!g->machines[i].is_up || g->machines[i].state == RESTORE_RUNNING);
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}

bool restoring_brings_up(struct restoring *r, const char *vm)
{
    bool found = false;

    if (!r)
        return false;
    pthread_mutex_lock(&r->lock);
    list_for_each (at, &r->groups) {
        struct group *g = container_of(at, struct group, link);
        pthread_mutex_lock(&g->lock);
        for (unsigned i = 0; i < g->n && !g->adopted && !atomic_load(&g->ended); i++)
            found |= !g->machines[i].is_up && !strcmp(g->machines[i].name, vm);
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}

bool restoring_serves(struct restoring *r, const char *vm)
{
    return serves(r, vm, 0);
}

bool restoring_serves_process(struct restoring *r, pid_t pid)
{
    return serves(r, NULL, pid);
}
