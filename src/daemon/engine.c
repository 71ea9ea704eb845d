/* engine.c - the data-plane thread.
 *
 * Start-up is the table of steps below, run on the new thread; a step that fails makes those before
 * it be undone in reverse, and an orderly stop undoes them all. */
#include "daemon/engine.h"

#include "base/err.h"
#include "base/report.h"
#include "log/storage.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOP_DEPTH       1024
#define NBD_COUNTERS_MAX 64

struct engine {
    struct engine_config config;
    pthread_t thread;
    sem_t started;
    int start_result;
    struct why *why; /* of engine_start(), until it has returned */

    /* The data-plane thread's. */
    struct loop *loop;
    struct storage *storage;
    struct store *store;
    struct loop_hook dispatch;
    struct loop_op tick;
    bool tick_armed, tick_ends;
    struct list tickers;
    struct nbd_store_exports exports;
    struct nbd_server *nbd;
    bool nbd_stopped;
    unsigned holds;
    int close_result;
};

/* ---- the steps ------------------------------------------------------------------------------ */

static int start_loop(struct engine *e)
{
    int r = loop_create(e->config.io_engine, LOOP_DEPTH, &e->loop);
    if (r == 0) {
        if (e->config.io_engine == LOOP_AUTO && strcmp(loop_name(e->loop), "io_uring") != 0)
            report_warning("io_uring cannot be used here (forbidden, or an old kernel): files and "
                           "sockets are driven by threads, more slowly");
        return 0;
    }
    if (e->config.io_engine == LOOP_URING)
        return why_set(
            e->why, r,
            "io_uring cannot be used here: %s; set io-engine = auto in the configuration",
            err_text(r));
    return why_set(e->why, r, "cannot make the event loop: %s", err_text(r));
}

static void stop_loop(struct engine *e)
{
    loop_free(e->loop);
}

int engine_storage_why(int r, const char *path, struct why *why)
{
    switch (r) {
    case 0:
        return 0;
    case -ENOENT:
        return why_set(why, r, "there is no store at %s; make one with: varve init %s", path, path);
    case ERR_NOT_A_STORE:
        return why_set(
            why, r,
            "%s is not a store; make one with varve init in a directory that is empty or "
            "does not exist",
            path);
    case ERR_IN_USE:
        return why_set(why, r, "another daemon has the store at %s open; stop it first", path);
    case -EBUSY:
        return why_set(why, r,
                       "writes of a varved that was killed have not ended yet: the device of the "
                       "store at %s hangs; start again when it works",
                       path);
    case ERR_FORMAT_NEWER:
        return why_set(why, r,
                       "the store at %s was written by a newer version of Varve; use that version",
                       path);
    case -ENOSPC:
        return why_set(why, r,
                       "the file system of the store at %s is full, and there is no log file to "
                       "begin with; make room on it (256M do)",
                       path);
    case -EACCES:
    case -EPERM:
        return why_set(why, r, "no permission to open the store at %s; run this as its owner",
                       path);
    case ERR_DAMAGED:
        return why_set(why, r,
                       "the store at %s is damaged beyond what recovery can mend; restore "
                       "it from a copy",
                       path);
    case -ECANCELED:
        return why_set(why, r, "the opening of the store at %s was given up", path);
    default:
        return why_set(why, r, "cannot open the store at %s: %s", path, err_text(r));
    }
}

static int start_storage(struct engine *e)
{
    int r = storage_dir_open(e->config.store_path, false, e->loop, &e->storage);

    /* A daemon that was killed holds its lock until the kernel is done with it. */
    for (int tries = 0; r == ERR_IN_USE && tries < 50; tries++) {
        usleep(20000);
        r = storage_dir_open(e->config.store_path, false, e->loop, &e->storage);
    }
    return engine_storage_why(r, e->config.store_path, e->why);
}

static void stop_storage(struct engine *e)
{
    e->storage->close(e->storage);
}

static int start_store(struct engine *e)
{
    int r = store_open(e->storage, &e->config.store, &e->store);
    return engine_storage_why(r, e->config.store_path, e->why);
}

static void stop_store(struct engine *e)
{
    e->close_result = store_close(e->store);
}

static void dispatch(struct loop_hook *hook)
{
    struct engine *e = container_of(hook, struct engine, dispatch);

    if (store_dispatch(e->store))
        loop_again(e->loop);
}

#define TICK_US 1000000

static void ticked(struct loop_op *op, int res)
{
    struct engine *e = container_of(op, struct engine, tick);

    e->tick_armed = !e->tick_ends;
    if (e->tick_ends)
        return;
    store_tick(e->store);
    list_for_each_safe (l, &e->tickers) {
        struct engine_ticker *ticker = container_of(l, struct engine_ticker, link);
        ticker->tick(ticker, e->store);
    }
    loop_timeout(e->loop, &e->tick, TICK_US);
}

static int start_dispatch(struct engine *e)
{
    e->tick.done = ticked;
    e->tick_armed = true;
    loop_timeout(e->loop, &e->tick, TICK_US);
    e->dispatch.run = dispatch;
    loop_add_hook(e->loop, &e->dispatch);
    return 0;
}

static void stop_dispatch(struct engine *e)
{
    while (e->holds > 0)
        loop_poll(e->loop, true);
    e->tick_ends = true;
    loop_cancel(e->loop, &e->tick);
    while (e->tick_armed)
        loop_poll(e->loop, true);
    loop_remove_hook(e->loop, &e->dispatch);
}

static void nbd_stopped(void *arg)
{
    struct engine *e = arg;

    e->nbd_stopped = true;
    loop_again(e->loop);
}

static void stop_nbd(struct engine *e)
{
    nbd_server_stop(e->nbd, nbd_stopped, e);
    while (!e->nbd_stopped)
        loop_poll(e->loop, true);
    nbd_server_free(e->nbd);
}

static int start_nbd(struct engine *e)
{
    nbd_store_exports_init(&e->exports, e->store);
    int r = nbd_server_create(e->loop, &e->config.nbd, &e->exports.exports, &e->nbd);
    if (r < 0)
        return why_set(e->why, r, "cannot make the NBD server: %s", err_text(r));
    r = nbd_server_listen_unix(e->nbd, e->config.nbd_path, 0600);
    if (r == 0)
        return 0;
    stop_nbd(e); /* the loop has an operation of it, and goes on */
    if (r == -EADDRINUSE)
        return why_set(e->why, ERR_IN_USE, "somebody else serves NBD at %s; stop that program",
                       e->config.nbd_path);
    if (r == -EEXIST)
        return why_set(e->why, r, "%s is there and is no socket; move it away", e->config.nbd_path);
    return why_set(e->why, r, "cannot serve NBD at %s: %s", e->config.nbd_path, err_text(r));
}

static const struct step {
    const char *name;
    int (*start)(struct engine *e);
    void (*stop)(struct engine *e);
} steps[] = {
    {"event loop", start_loop, stop_loop}, {"store directory", start_storage, stop_storage},
    {"store", start_store, stop_store},    {"dispatch hook", start_dispatch, stop_dispatch},
    {"NBD server", start_nbd, stop_nbd},
};
#define N_STEPS (sizeof(steps) / sizeof(steps[0]))

static void undo_steps(struct engine *e, size_t n)
{
    while (n-- > 0) {
        report_debug("stopping: %s", steps[n].name);
        steps[n].stop(e);
    }
}

static int run_steps(struct engine *e)
{
    for (size_t i = 0; i < N_STEPS; i++) {
        report_debug("starting: %s", steps[i].name);
        int r = steps[i].start(e);
        if (r < 0) {
            undo_steps(e, i);
            return r;
        }
    }
    return 0;
}

/* ---- the thread ----------------------------------------------------------------------------- */

static void *engine_thread(void *arg)
{
    struct engine *e = arg;

    pthread_setname_np(pthread_self(), "data");
    int r = e->start_result = run_steps(e);
    sem_post(&e->started); /* on failure the engine may be gone from here on */
    if (r < 0)
        return NULL;
    loop_run(e->loop);
    undo_steps(e, N_STEPS);
    return NULL;
}

static int wait_for(sem_t *sem)
{
    while (sem_wait(sem) < 0)
        assert(errno == EINTR);
    return 0;
}

int engine_start(const struct engine_config *config, struct engine **ret, struct why *why)
{
    struct engine *e = calloc(1, sizeof(*e));
    sigset_t all, before;

    if (!e)
        return why_set(why, -ENOMEM, "no memory for the data plane");
    e->config = *config;
    e->why = why;
    list_init(&e->tickers);
    sem_init(&e->started, 0, 0);

    /* Signals are the main thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = -pthread_create(&e->thread, NULL, engine_thread, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r < 0) {
        why_set(why, r, "cannot start the data-plane thread: %s", strerror(-r));
    } else {
        wait_for(&e->started);
        r = e->start_result;
        if (r < 0)
            pthread_join(e->thread, NULL);
    }
    if (r < 0) {
        sem_destroy(&e->started);
        free(e);
        return r;
    }
    *ret = e;
    return 0;
}

int engine_stop(struct engine *e)
{
    if (!e)
        return 0;
    loop_stop(e->loop);
    pthread_join(e->thread, NULL);
    int r = e->close_result;
    sem_destroy(&e->started);
    free(e);
    return r;
}

const char *engine_io_name(const struct engine *e)
{
    return loop_name(e->loop);
}

/* ---- calls ---------------------------------------------------------------------------------- */

static void run_call(void *arg)
{
    struct engine_call *call = arg;
    call->fn(call);
}

int engine_call(struct engine *e, void (*fn)(struct engine_call *call), void *arg)
{
    struct engine_call call = {.engine = e, .store = e->store, .arg = arg, .fn = fn};

    sem_init(&call.done, 0, 0);
    int r = loop_post(e->loop, run_call, &call);
    if (r == 0)
        wait_for(&call.done);
    sem_destroy(&call.done);
    return r;
}

int engine_post(struct engine *e, struct engine_call *call, void (*fn)(struct engine_call *call),
                void *arg)
{
    *call = (struct engine_call){.engine = e, .store = e->store, .arg = arg, .fn = fn};
    return loop_post(e->loop, run_call, call);
}

void engine_call_done(struct engine_call *call)
{
    sem_post(&call->done);
}

uint32_t engine_counters(struct engine *e, struct store_counter *ret, uint32_t max)
{
    struct nbd_counter nbd[NBD_COUNTERS_MAX];
    uint32_t n = store_counters(e->store, ret, max);
    size_t n_nbd = nbd_server_counters(e->nbd, nbd, NBD_COUNTERS_MAX);

    for (size_t i = 0; i < n_nbd && i < NBD_COUNTERS_MAX; i++, n++)
        if (n < max)
            ret[n] = (struct store_counter){nbd[i].name, nbd[i].description, nbd[i].value};
    return n;
}

void engine_hold(struct engine *e)
{
    e->holds++;
}

void engine_add_ticker(struct engine *e, struct engine_ticker *ticker)
{
    list_push_back(&e->tickers, &ticker->link);
}

void engine_remove_ticker(struct engine *e, struct engine_ticker *ticker)
{
    (void)e;
    list_del(&ticker->link);
}

void engine_release(struct engine *e)
{
    assert(e->holds > 0);
    e->holds--;
    loop_again(e->loop); /* stop_dispatch() may be in a turn that would sleep, waiting for this */
}

void engine_again(struct engine *e)
{
    loop_again(e->loop);
}

unsigned engine_disconnect(struct engine *e, const char *vm)
{
    struct vm_info *vms;
    unsigned closed = 0;
    uint32_t n;

    if (store_list(e->store, &vms, &n) < 0)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t d = 0; !strcmp(vms[i].name, vm) && d < vms[i].n_disks; d++) {
            const struct disk *disk = store_find_disk(e->store, vm, vms[i].disks[d].name);
            closed += disk ? nbd_server_disconnect(e->nbd, disk) : 0;
        }
    free(vms);
    return closed;
}

bool engine_clients(struct engine *e, bool (*each)(void *arg, const struct nbd_client *client),
                    void *arg)
{
    return nbd_server_clients(e->nbd, each, arg);
}

unsigned engine_bar(struct engine *e, struct nbd_bar *bar, const char *vm)
{
    nbd_bar(&e->exports, bar, vm);
    return engine_disconnect(e, vm);
}
