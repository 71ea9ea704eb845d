/* machine.c - the machines that are attached.
 *
 * A machine is in the list from the moment that somebody asks for it; its thread takes it out and
 * frees it when it ends: because it was detached, QEMU has gone, or it could not be attached.
 *
 *   ATTACHING  machines_attach(), machines_recall()
 *   ATTACHED   run(), when attached_open() has returned
 *   WORKING    take_request(), until the checkpoint has ended
 *   ENDING     machines_detach(), machines_free(), or run() for its own reasons
 *
 * The lock is held for looking and noting only. */
#include "daemon/machine.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mono.h"
#include "base/report.h"
#include "daemon/engine.h"
#include "daemon/jobs.h"
#include "daemon/kept.h"
#include "daemon/machine-checkpoint.h"
#include "guest/device-state.h"
#include "guest/monitor.h"
#include "guest/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOK_MS      20000 /* between two questions to an idle QEMU, whose events pile up */
#define RECALL_TRIES 5

enum machine_state { ATTACHING, ATTACHED, WORKING, ENDING };

struct machine {
    struct list link;
    struct machines *machines;
    struct attached_spec spec; /* its vm: under the lock */
    int wake_fd;
    bool recalled;

    /* Under the lock. */
    enum machine_state state;
    bool asked; /* request is to be done */
    struct machine_checkpoint request;
    struct job_work *work; /* of what is asked or being done */
    struct machine_view view;
    unsigned n_disks; /* that it has */
    struct attached_disk disks[ATTACHED_DISKS_MAX];
    int result; /* of attaching */
    struct why why;
    bool known;       /* result and why are */
    bool is_paused;   /* to be attached when it goes on */
    bool kept;        /* ends with us, and is attached again by the next daemon: in the list to the
                         end, for another one that ends by itself just then writes the file */
    unsigned waiters; /* who look at result, or wait for the end */
    bool gone;        /* the thread has left; the last waiter frees it */

    /* The thread's. */
    struct attached attached;
    struct machine_memory memory;
};

struct machines {
    struct engine *engine;
    struct jobs *jobs;
    const char *nbd_path;
    char path[PATH_MAX], path_new[PATH_MAX]; /* of what is remembered */
    pthread_mutex_t lock;                    /* of the list and what the machines say is under it */
    pthread_mutex_t file_lock;               /* of the file; taken alone */
    pthread_cond_t changed;
    struct list list;
    bool ends;
    bool is_recalled; /* what the file said is in the list: it may be written anew */
    unsigned threads;
};

static struct machine *find(struct machines *ms, const char *vm)
{
    list_for_each (l, &ms->list) {
        struct machine *m = container_of(l, struct machine, link);
        if (!strcmp(m->spec.vm, vm))
            return m;
    }
    return NULL;
}

static void machine_free(struct machine *m)
{
    close(m->wake_fd);
    free(m);
}

static void wake(const struct machine *m)
{
    uint64_t one = 1;
    ssize_t n = write(m->wake_fd, &one, sizeof(one));
    (void)n; /* it is full: then it is awake */
}

/* ---- the file ------------------------------------------------------------------------------- */

static bool is_remembered(const struct machine *m)
{
    return m->kept || (m->state != ENDING && (m->state != ATTACHING || m->spec.waits));
}

static json_t *remembered(struct machines *ms)
{
    json_t *list = json_array();

    pthread_mutex_lock(&ms->lock);
    list_for_each (l, &ms->list) {
        const struct machine *m = container_of(l, struct machine, link);
        json_t *disks = json_object();
        for (unsigned i = 0; i < m->spec.n_disks; i++)
            json_object_set_new(disks, m->spec.disks[i].name, json_string(m->spec.disks[i].node));
        if (is_remembered(m))
            json_array_append_new(
                list, json_pack("{s:s, s:s, s:s*, s:O}", "vm", m->spec.vm, "qmp", m->spec.qmp,
                                "was", *m->spec.was ? m->spec.was : NULL, "disks", disks));
        json_decref(disks);
    }
    pthread_mutex_unlock(&ms->lock);
    return list;
}

static void remember(struct machines *ms)
{
    pthread_mutex_lock(&ms->lock);
    bool is_recalled = ms->is_recalled;
    pthread_mutex_unlock(&ms->lock);
    if (!is_recalled)
        return;
    pthread_mutex_lock(&ms->file_lock);
    json_t *list = remembered(ms);
    bool written = json_dump_file(list, ms->path_new, JSON_INDENT(2)) == 0 &&
                   rename(ms->path_new, ms->path) == 0;
    json_decref(list);
    pthread_mutex_unlock(&ms->file_lock);
    if (!written)
        report_warning("cannot write %s: after a restart machines are to be attached by hand",
                       ms->path);
}

/* ---- a machine's thread --------------------------------------------------------------------- */

static void note_attached(struct machine *m)
{
    struct machine_view *view = &m->view;
    const struct attached *a = &m->attached;

    m->n_disks = a->n_disks;
    memcpy(m->disks, a->disks, sizeof(m->disks));
    view->pid = (int)monitor_pid(a->monitor);
    view->ram_bytes = a->ram_bytes;
    view->attached_us = wall_us();
    snprintf(view->tracking, sizeof(view->tracking), "%s", tracker_name(a->tracker));
    *view->tracking_why = '\0';
    for (int kind = TRACKER_UFFD; kind < TRACKER_COMPARE && !*view->tracking_why; kind++)
        snprintf(view->tracking_why, sizeof(view->tracking_why), "%s",
                 tracker_why_not(a->tracker, (enum tracker_kind)kind));
}

/* For a second, or until QEMU, if its pid is not 0, has ended. Returns whether it is still to be
 * attached. */
static bool wait_a_second(struct machine *m, pid_t pid)
{
    _cleanup_close_ int pidfd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    struct pollfd fds[] = {{.fd = m->wake_fd, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};

    int n = poll(fds, 2, 1000);
    if (pid && (pidfd < 0 || (n > 0 && fds[1].revents)))
        return false;
    pthread_mutex_lock(&m->machines->lock);
    bool is_wanted = m->state == ATTACHING;
    pthread_mutex_unlock(&m->machines->lock);
    return is_wanted;
}

/* A QEMU that has just lost its daemon may have its old client still, or not have seen that its
 * disks are back, and refuse; libvirtd may be starting too. */
static bool may_pass(int r)
{
    return r == -EBUSY || r == -ETIMEDOUT || r == -EHOSTDOWN || r == -EPROTO;
}

/* The paused one that is waited for is the one that is attached, and no other at its socket: that
 * may be one whose memory is still being brought. */
static int try_to_open(struct machine *m, struct why *why)
{
    int tries = m->recalled ? RECALL_TRIES : 1;

    for (;;) {
        pthread_mutex_lock(&m->machines->lock);
        struct attached_spec spec = m->spec;
        pthread_mutex_unlock(&m->machines->lock);
        int r = attached_open(&spec, &m->attached, why);
        bool waits = r == ERR_PAUSED && spec.waits;
        pthread_mutex_lock(&m->machines->lock);
        if (waits || (r == -EBUSY && spec.waits && m->attached.pid)) /* or it stopped at an error */
            m->spec.pid = m->attached.pid;
        m->is_paused = waits;
        pid_t pid = m->spec.pid;
        pthread_mutex_unlock(&m->machines->lock);
        if (r < 0)
            m->attached = (struct attached){};
        if (!waits && !(may_pass(r) && (pid || --tries > 0)))
            return r;
        if (!wait_a_second(m, pid))
            return r;
    }
}

static int open_machine(struct machine *m)
{
    char vm[NAME_MAX_CHARS + 1];
    struct why why = {};
    int r = try_to_open(m, &why);

    pthread_mutex_lock(&m->machines->lock);
    bool is_wanted = m->state == ATTACHING;
    strcpy(vm, m->spec.vm);
    if (r == 0)
        note_attached(m);
    m->state = r == 0 && is_wanted ? ATTACHED : ENDING;
    m->result = r;
    m->why = why;
    m->known = true;
    m->spec.check = NULL; /* what it looks at is its caller's */
    pthread_cond_broadcast(&m->machines->changed);
    pthread_mutex_unlock(&m->machines->lock);
    if (r == ERR_PAUSED && is_wanted)
        report_info("the machine of vm %s has ended", vm);
    else if (r < 0 && m->spec.waits && is_wanted)
        report_warning("vm %s cannot be attached %s: %s", vm, m->recalled ? "again" : "now",
                       why.text);
    return r;
}

/* Its memory is not what it was (some was plugged): from the beginning. */
static int attach_again(struct machine *m, struct why *why)
{
    pthread_mutex_lock(&m->machines->lock);
    struct attached_spec spec = m->spec;
    pthread_mutex_unlock(&m->machines->lock);
    int r = device_state_check(m->attached.monitor, true, mono_us() + 5000000, NULL, why);
    if (r < 0)
        return r; /* it stays as it is */
    attached_close(&m->attached, true);
    struct pollfd wake = {.fd = m->wake_fd, .events = POLLIN};
    int tries = RECALL_TRIES;
    while ((r = attached_open(&spec, &m->attached, why)) < 0 && may_pass(r) && --tries > 0) {
        m->attached = (struct attached){};
        (void)poll(&wake, 1, 1000);
    }
    pthread_mutex_lock(&m->machines->lock);
    if (r == 0)
        note_attached(m);
    else
        m->state = ENDING;
    pthread_mutex_unlock(&m->machines->lock);
    if (r < 0)
        report_warning("vm %s is not attached any more, as its memory is not what it was: %s",
                       spec.vm, why->text);
    return r;
}

static void do_checkpoint(struct machine *m, const char *vm, struct job_work *work)
{
    struct machine_checkpoint what = m->request; /* nobody changes it while it works */
    const struct checkpoint_run run = {.engine = m->machines->engine,
                                       .vm = vm,
                                       .attached = &m->attached,
                                       .memory = &m->memory,
                                       .what = &what,
                                       .work = work};
    struct why why = {};
    int r = checkpoint_run(&run, &why);

    if (r == -ESTALE && attach_again(m, &why) == 0)
        r = checkpoint_run(&run, &why);
    if (r < 0 && r != -ECANCELED)
        report_warning("no checkpoint %s@%s: %s", vm, what.version, why.text);
    pthread_mutex_lock(&m->machines->lock);
    m->view.checkpoints += r == 0;
    snprintf(m->view.last_error, sizeof(m->view.last_error), "%s", r < 0 ? why.text : "");
    m->work = NULL;
    if (m->state == WORKING)
        m->state = ATTACHED;
    pthread_mutex_unlock(&m->machines->lock);
    job_work_end(work, r, r < 0 ? why.text : what.version);
    job_work_put(work);
}

/* Returns false when the machine is to end. */
static bool take_request(struct machine *m)
{
    char vm[NAME_MAX_CHARS + 1];
    struct job_work *work = NULL;

    pthread_mutex_lock(&m->machines->lock);
    bool goes_on = m->state != ENDING;
    if (m->asked && goes_on) {
        m->asked = false;
        work = m->work;
        strcpy(vm, m->spec.vm);
    }
    pthread_mutex_unlock(&m->machines->lock);
    if (work)
        do_checkpoint(m, vm, work);
    return goes_on;
}

static bool has_ended(const struct machine *m)
{
    struct pollfd ended = {.fd = monitor_pidfd(m->attached.monitor), .events = POLLIN};

    return poll(&ended, 1, 0) > 0;
}

/* False: QEMU has ended, or does not answer any more. Where libvirtd does not answer it stays: its
 * pages are watched all the same, and libvirtd comes back. */
static bool is_well(struct machine *m)
{
    char status[32];
    struct why why;
    int r = monitor_status(m->attached.monitor, status, mono_us() + 5000000, &why);

    if (r == 0 || !monitor_is_over(m->attached.monitor))
        return true;
    report_warning("vm %s is not attached any more: %s%s", m->spec.vm, why.text,
                   has_ended(m) ? "" : "; it is again when QEMU answers");
    return false;
}

static void serve(struct machine *m)
{
    struct pollfd fds[] = {{.fd = m->wake_fd, .events = POLLIN},
                           {.fd = monitor_pidfd(m->attached.monitor), .events = POLLIN}};
    uint64_t count;

    for (;;) {
        int n = poll(fds, 2, LOOK_MS);
        if (n < 0 && errno != EINTR)
            return;
        if (n > 0 && fds[1].revents) {
            report_info("the machine of vm %s has ended", m->spec.vm);
            return;
        }
        if (n > 0 && fds[0].revents && read(m->wake_fd, &count, sizeof(count)) > 0 &&
            !take_request(m))
            return;
        if (!m->attached.monitor) /* it could not be attached again */
            return;
        fds[1].fd = monitor_pidfd(m->attached.monitor);
        /* After a checkpoint that failed as well as now and then. */
        if (*m->view.last_error || n == 0) {
            if (!is_well(m))
                return;
        }
    }
}

/* The session is over, and QEMU is not: it stood still for too long, or closed it. Then the machine
 * is to be attached again, as soon as that process can be. */
static bool is_to_be_found_again(struct machine *m)
{
    struct job_work *work = NULL;

    if (!m->attached.monitor || !monitor_is_over(m->attached.monitor) || has_ended(m))
        return false;
    pid_t pid = monitor_pid(m->attached.monitor);
    attached_close(&m->attached, true);
    m->attached = (struct attached){};
    pthread_mutex_lock(&m->machines->lock);
    bool is_wanted = m->state != ENDING;
    if (is_wanted) {
        m->state = ATTACHING;
        m->recalled = m->spec.waits = true;
        m->spec.pid = pid;
        work = m->asked ? TAKE_PTR(m->work) : NULL;
        m->asked = false;
    }
    pthread_mutex_unlock(&m->machines->lock);
    if (work) {
        job_work_end(work, -EPIPE,
                     "QEMU does not answer; the machine is attached again when it does");
        job_work_put(work);
    }
    return is_wanted;
}

static void end_machine(struct machine *m)
{
    struct machines *ms = m->machines;
    struct job_work *work = NULL;

    pthread_mutex_lock(&ms->lock);
    bool stays = ms->ends;
    m->state = ENDING;
    if (m->asked)
        work = TAKE_PTR(m->work);
    m->asked = false;
    pthread_mutex_unlock(&ms->lock);
    if (work) {
        job_work_end(work, -ECANCELED, "the machine was detached");
        job_work_put(work);
    }
    machine_memory_close(ms->engine, &m->memory);
    if (m->attached.monitor)
        attached_close(&m->attached, !stays);
    pthread_mutex_lock(&ms->lock);
    if (!m->kept)
        list_del(&m->link);
    m->gone = true;
    bool freed = m->waiters == 0 && !m->kept;
    pthread_cond_broadcast(&ms->changed);
    pthread_mutex_unlock(&ms->lock);
    if (freed)
        machine_free(m);
    if (!stays)
        remember(ms);
    /* From here on machines_free() may free ms. */
    pthread_mutex_lock(&ms->lock);
    ms->threads--;
    pthread_cond_broadcast(&ms->changed);
    pthread_mutex_unlock(&ms->lock);
}

static void *run(void *arg)
{
    struct machine *m = arg;

    if (m->spec.waits)
        remember(m->machines);
    do {
        if (open_machine(m) < 0)
            break;
        pthread_mutex_lock(&m->machines->lock);
        bool ends = m->state == ENDING;
        pthread_mutex_unlock(&m->machines->lock);
        if (ends)
            break;
        remember(m->machines);
        serve(m);
    } while (is_to_be_found_again(m));
    end_machine(m);
    return NULL;
}

/* ---- from control threads ------------------------------------------------------------------- */

/* A machine whose thread runs, in the list, with one waiter. */
static int start_machine(struct machines *ms, const struct attached_spec *spec, bool recalled,
                         struct machine **ret)
{
    struct machine *m = calloc(1, sizeof(*m));
    pthread_t thread;

    if (!m)
        return -ENOMEM;
    *m = (struct machine){.machines = ms, .spec = *spec, .recalled = recalled, .waiters = 1};
    m->spec.nbd_path = ms->nbd_path;
    m->spec.engine = ms->engine;
    strcpy(m->view.qmp, spec->qmp);
    m->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (m->wake_fd < 0) {
        free(m);
        return -EMFILE;
    }
    pthread_mutex_lock(&ms->lock);
    int r = ms->ends ? -ECANCELED : find(ms, spec->vm) ? -EEXIST : 0;
    if (r == 0) {
        r = -pthread_create(&thread, NULL, run, m);
        if (r == 0) {
            pthread_detach(thread);
            list_push_back(&ms->list, &m->link);
            ms->threads++;
        }
    }
    pthread_mutex_unlock(&ms->lock);
    if (r < 0)
        machine_free(m);
    else
        *ret = m;
    return r;
}

/* With the lock held. */
static void leave(struct machine *m)
{
    if (--m->waiters == 0 && m->gone && !m->kept)
        machine_free(m);
}

int machines_attach(struct machines *ms, const struct attached_spec *spec, struct why *why)
{
    struct machine *m;
    int r = start_machine(ms, spec, false, &m);

    if (r == -EEXIST)
        return why_set(why, r,
                       "a machine is attached as vm %s already; detach it first: varve "
                       "detach %s",
                       spec->vm, spec->vm);
    if (r < 0)
        return why_set(why, r, "cannot attach a machine now: %s", err_text(r));
    pthread_mutex_lock(&ms->lock);
    while (!m->known && !spec->waits)
        pthread_cond_wait(&ms->changed, &ms->lock);
    if (!spec->waits) {
        r = m->result;
        *why = m->why;
    }
    leave(m);
    pthread_mutex_unlock(&ms->lock);
    return r;
}

static int not_attached(const char *vm, struct why *why)
{
    return why_set(why, -ENOENT,
                   "no machine is attached as vm %s; start one with varve run, or attach one that "
                   "runs with varve attach",
                   vm);
}

int machines_detach(struct machines *ms, const char *vm, struct why *why)
{
    pthread_mutex_lock(&ms->lock);
    struct machine *m = find(ms, vm);
    if (m) {
        m->state = ENDING;
        m->waiters++;
        if (m->work)
            job_work_cancel(m->work);
        wake(m);
        while (!m->gone)
            pthread_cond_wait(&ms->changed, &ms->lock);
        leave(m);
    }
    pthread_mutex_unlock(&ms->lock);
    return m ? 0 : not_attached(vm, why);
}

int machines_checkpoint(struct machines *ms, const char *vm, const struct machine_checkpoint *what,
                        uint32_t *ret_job, struct why *why)
{
    struct job_work *work = job_work_new();
    int r = work ? jobs_start_work(ms->jobs, "checkpoint", work, ret_job) : -ENOMEM;

    if (r < 0) {
        job_work_put(work);
        return why_set(why, r, "cannot start a checkpoint: %s", err_text(r));
    }
    pthread_mutex_lock(&ms->lock);
    struct machine *m = find(ms, vm);
    if (!m)
        r = not_attached(vm, why);
    else if (m->state == ATTACHING && m->is_paused)
        r = why_set(why, -EBUSY,
                    "the machine of vm %s was paused, and is attached within a second when it goes "
                    "on; let it run first (cont)",
                    vm);
    else if (m->state != ATTACHED)
        r = why_set(why, -EBUSY, "the machine of vm %s is %s; wait for that", vm,
                    m->state == WORKING     ? "being checkpointed"
                    : m->state == ATTACHING ? "being attached"
                                            : "being detached");
    if (r == 0) {
        m->state = WORKING;
        m->asked = true;
        m->request = *what;
        m->work = work;
        wake(m);
    }
    pthread_mutex_unlock(&ms->lock);
    if (r < 0) {
        job_work_end(work, r, why->text);
        job_work_put(work);
    }
    return r;
}

int machines_show(struct machines *ms, const char *vm, struct machine_view *ret)
{
    static const char *const words[] = {"attaching", "attached", "checkpoint", "detaching"};

    pthread_mutex_lock(&ms->lock);
    const struct machine *m = find(ms, vm);
    if (m) {
        *ret = m->view;
        ret->state = words[m->state];
    }
    pthread_mutex_unlock(&ms->lock);
    return m ? 0 : -ENOENT;
}

void machines_rename(struct machines *ms, const char *vm, const char *new_name)
{
    pthread_mutex_lock(&ms->lock);
    struct machine *m = find(ms, vm);
    if (m) {
        if (!*m->spec.was) /* its exports have the old name for as long as it runs */
            strcpy(m->spec.was, m->spec.vm);
        strcpy(m->spec.vm, new_name);
        if (m->known) {
            m->spec.n_disks = m->n_disks;
            memcpy(m->spec.disks, m->disks, sizeof(m->spec.disks));
        }
    }
    pthread_mutex_unlock(&ms->lock);
    if (m)
        remember(ms);
}

/* ---- start and end -------------------------------------------------------------------------- */

struct machines *machines_new(struct engine *engine, struct jobs *jobs, const char *run_path,
                              const char *nbd_path)
{
    struct machines *ms = calloc(1, sizeof(*ms));

    if (!ms)
        return NULL;
    ms->engine = engine;
    ms->jobs = jobs;
    ms->nbd_path = nbd_path;
    snprintf(ms->path, sizeof(ms->path), "%.4000s/machines.json", run_path);
    snprintf(ms->path_new, sizeof(ms->path_new), "%.4000s/machines.json.new", run_path);
    pthread_mutex_init(&ms->lock, NULL);
    pthread_mutex_init(&ms->file_lock, NULL);
    pthread_cond_init(&ms->changed, NULL);
    list_init(&ms->list);
    return ms;
}

void machines_recall(struct machines *ms)
{
    json_t *list = json_load_file(ms->path, 0, NULL), *entry;
    struct attached_spec spec;
    struct machine *m;
    size_t i;

    if (!list && access(ms->path, F_OK) == 0)
        report_warning("cannot read %s: machines are to be attached by hand", ms->path);
    json_array_foreach(list, i, entry)
    {
        if (!kept_spec_read(entry, &spec) || start_machine(ms, &spec, true, &m) < 0) {
            report_warning("cannot attach the %zu. machine of %s", i + 1, ms->path);
            continue;
        }
        pthread_mutex_lock(&ms->lock);
        leave(m);
        pthread_mutex_unlock(&ms->lock);
    }
    json_decref(list);
    pthread_mutex_lock(&ms->lock);
    ms->is_recalled = true;
    pthread_mutex_unlock(&ms->lock);
    remember(ms);
}

void machines_free(struct machines *ms)
{
    struct list *l;

    if (!ms)
        return;
    pthread_mutex_lock(&ms->lock);
    ms->ends = true;
    list_for_each (at, &ms->list) {
        struct machine *m = container_of(at, struct machine, link);
        m->kept = is_remembered(m);
        m->state = ENDING;
        if (m->work)
            job_work_cancel(m->work);
        wake(m);
    }
    while (ms->threads)
        pthread_cond_wait(&ms->changed, &ms->lock);
    while ((l = list_pop_front(&ms->list)))
        machine_free(container_of(l, struct machine, link));
    pthread_mutex_unlock(&ms->lock);
    pthread_cond_destroy(&ms->changed);
    pthread_mutex_destroy(&ms->file_lock);
    pthread_mutex_destroy(&ms->lock);
    free(ms);
}
