/* main.c - varved: the daemon.
 *
 * Threads: this one starts everything, then waits for a signal; the engine's (data plane); and the
 * HTTP server's (control plane). Start-up is the table of steps below, undone in reverse: the
 * control API ends before the engine that it calls, the engine before the lock on the run
 * directory. */
#include "base/err.h"
#include "base/mono.h"
#include "base/report.h"
#include "daemon/api.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/events.h"
#include "daemon/fault.h"
#include "daemon/http.h"
#include "daemon/jobs.h"
#include "daemon/machine.h"
#include "daemon/memory-sweep.h"
#include "daemon/offline.h"
#include "daemon/options.h"
#include "daemon/receive.h"
#include "daemon/restoring.h"
#include "daemon/rundir.h"
#include "guest/domain-guard.h"
#include "guest/guardian.h"
#include "guest/quiesce.h"
#include "log/storage.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define OTHER_DESCRIPTORS 128 /* of machines, jobs and the daemon itself */

struct daemon {
    struct options options;
    struct config config;
    struct why why;
    char run_path[PATH_MAX], store_path[PATH_MAX];
    char control_path[PATH_MAX + 16], nbd_path[PATH_MAX + 16];
    sigset_t stop_signals;
    int lock_fd, exit_code;

    struct events *events;
    struct engine *engine;
    struct jobs *jobs;
    struct machines *machines;
    struct receives *receives;
    struct memory_sweep *sweep;
    struct api api;
    struct api_registry *registry;
    struct http *http;
};

/* ---- the steps ------------------------------------------------------------------------------ */

static int no_memory(struct daemon *d)
{
    return why_set(&d->why, -ENOMEM, "no memory");
}

/* Blocked before any thread starts, so that all inherit it; a client that goes away is an error of
 * a write, not a signal. */
static int start_signals(struct daemon *d)
{
    sigemptyset(&d->stop_signals);
    sigaddset(&d->stop_signals, SIGTERM);
    sigaddset(&d->stop_signals, SIGINT);
    sigprocmask(SIG_BLOCK, &d->stop_signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    return 0;
}

/* Each NBD client, segment and HTTP client wants a descriptor. A segment that gets none makes the
 * store read-only: so clients may be no more than leave it enough. */
static int start_limits(struct daemon *d)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return why_set(&d->why, -errno, "cannot read the limit of open files: %m");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return why_set(&d->why, -errno, "cannot raise the limit of open files: %m");
    uint64_t others = d->config.control_max_connections + OTHER_DESCRIPTORS;
    uint64_t left = limit.rlim_cur - storage_dir_descriptors();
    uint64_t clients = left > others + left / 4 ? left - others : left / 4 + 1;
    if (clients < d->config.nbd_max_connections) {
        report_warning("only %ju files may be open, so %" PRIu64
                       " NBD clients are served at once and not %" PRIu64
                       "; raise the limit (ulimit -Hn, LimitNOFILE=)",
                       (uintmax_t)limit.rlim_cur, clients, d->config.nbd_max_connections);
        d->config.nbd_max_connections = clients;
    }
    return 0;
}

static int start_run_dir(struct daemon *d)
{
    int r = rundir_open(d->options.run, &d->lock_fd, &d->why);
    if (r < 0)
        return r;
    /* Clients ask for the paths, from wherever they are. */
    if (!realpath(d->options.run, d->run_path)) {
        r = -errno;
        close(d->lock_fd);
        return why_set(&d->why, r, "cannot find %s: %s", d->options.run, strerror(-r));
    }
    snprintf(d->control_path, sizeof(d->control_path), "%s/" CONTROL_SOCKET, d->run_path);
    snprintf(d->nbd_path, sizeof(d->nbd_path), "%s/" NBD_SOCKET, d->run_path);
    r = socket_path_check(d->control_path, &d->why);
    if (r < 0)
        close(d->lock_fd);
    return r;
}

static void stop_run_dir(struct daemon *d)
{
    close(d->lock_fd); /* the file stays: removing it would let two daemons lock two files */
}

static int start_events(struct daemon *d)
{
    d->events = events_new();
    return d->events ? 0 : no_memory(d);
}

static void stop_events(struct daemon *d)
{
    events_free(d->events);
}

/* The signal that asks for the end and has not been taken yet; 0: none. Any thread. */
static int pending_stop(void)
{
    sigset_t pending;

    sigpending(&pending);
    return sigismember(&pending, SIGTERM) ? SIGTERM : sigismember(&pending, SIGINT) ? SIGINT : 0;
}

static bool is_stop_pending(void)
{
    return pending_stop() != 0;
}

static int start_engine(struct daemon *d)
{
    struct engine_config config = {
        .store_path = d->options.store,
        .nbd_path = d->nbd_path,
        .io_engine = (enum loop_kind)d->config.io_engine,
        .nbd = nbd_config_default,
        .store = store_config_default,
    };
    config.nbd.max_connections = (unsigned)d->config.nbd_max_connections;
    config.nbd.buffer_bytes = d->config.nbd_buffer_bytes;
    config.store.cache_bytes = d->config.cache_bytes;
    config.store.table_bytes = d->config.table_bytes;
    config.store.checkpoint_bytes = d->config.checkpoint_bytes;
    config.store.event = events_add;
    config.store.event_arg = d->events;
    config.store.stop = is_stop_pending;
    return engine_start(&config, &d->engine, &d->why);
}

static int start_group(struct daemon *d)
{
    if (d->config.nbd_group == CONFIG_NO_GROUP)
        return 0;
    return rundir_let_in(d->run_path, d->nbd_path, (gid_t)d->config.nbd_group, &d->why);
}

static void stop_engine(struct daemon *d)
{
    int r = engine_stop(d->engine);
    if (r < 0) {
        report_error(
            "the store at %s could not be closed in order: %s; it recovers when it is next "
            "opened",
            d->options.store, err_text(r));
        d->exit_code = EXIT_FAILED;
    }
}

static int start_api(struct daemon *d)
{
    if (!realpath(d->options.store, d->store_path))
        return why_set(&d->why, -errno, "cannot find %s: %s", d->options.store, strerror(errno));
    d->jobs = jobs_new(d->engine);
    d->machines = machines_new(d->engine, d->jobs, d->run_path, d->nbd_path);
    d->receives = receives_new(d->engine);
    d->api = (struct api){
        .engine = d->engine,
        .events = d->events,
        .jobs = d->jobs,
        .machines = d->machines,
        .receives = d->receives,
        .run_path = d->run_path,
        .store_path = d->store_path,
        .control_path = d->control_path,
        .nbd_path = d->nbd_path,
        .started_us = mono_us(),
    };
    if (d->jobs && d->machines && d->receives)
        d->registry = api_registry_new(&d->api);
    if (d->registry)
        return 0;
    receives_free(d->receives);
    machines_free(d->machines);
    jobs_free(d->jobs);
    return no_memory(d);
}

static void stop_api(struct daemon *d)
{
    api_registry_free(d->registry);
    machines_free(d->machines);
    receives_free(d->receives);
    jobs_free(d->jobs);
}

static int start_machines(struct daemon *d)
{
    machines_recall(d->machines);
    return 0;
}

/* Machines whose memory was on its way go on waiting until here. */
static int start_restored(struct daemon *d)
{
    d->api.restoring = restoring_new(&d->api);
    return d->api.restoring ? 0 : no_memory(d);
}

static void stop_restored(struct daemon *d)
{
    restoring_free(d->api.restoring);
}

/* Not before those machines have what they wait for: it may be of versions that were removed. */
static int start_sweep(struct daemon *d)
{
    d->sweep = memory_sweep_new(d->engine);
    return d->sweep ? 0 : no_memory(d);
}

static void stop_sweep(struct daemon *d)
{
    memory_sweep_free(d->sweep);
}

static int start_thaws(struct daemon *d)
{
    unsigned n = quiesce_recover(d->run_path);

    if (n > 0)
        report_warning("%u guest(s) may have been left frozen; they are being thawed", n);
    return 0;
}

static int start_http(struct daemon *d)
{
    int fd, r = rundir_listen(d->control_path, &fd, &d->why);
    if (r < 0)
        return r;
    r = http_start(fd, d->registry, (unsigned)d->config.control_max_connections, &d->http, &d->why);
    if (r < 0)
        close(fd);
    return r;
}

static void stop_http(struct daemon *d)
{
    unlink(d->control_path);
    http_stop(d->http);
}

static const struct step {
    const char *name;
    int (*start)(struct daemon *d);
    void (*stop)(struct daemon *d); /* NULL: nothing to undo */
} steps[] = {
    {"signals", start_signals, NULL},
    {"limits", start_limits, NULL},
    {"run directory", start_run_dir, stop_run_dir},
    {"events", start_events, stop_events},
    {"data plane", start_engine, stop_engine},
    {"the NBD socket's group", start_group, NULL},
    {"control API", start_api, stop_api},
    {"restored machines", start_restored, stop_restored},
    {"memory of removed versions", start_sweep, stop_sweep},
    {"guests left frozen", start_thaws, NULL},
    {"attached machines", start_machines, NULL},
    {"control socket", start_http, stop_http},
};
#define N_STEPS (sizeof(steps) / sizeof(steps[0]))

static void undo_steps(struct daemon *d, size_t n)
{
    while (n-- > 0) {
        if (!steps[n].stop)
            continue;
        report_debug("stopping: %s", steps[n].name);
        steps[n].stop(d);
    }
}

static int serve(struct daemon *d)
{
    int signal_number;

    for (size_t i = 0; i < N_STEPS; i++) {
        report_debug("starting: %s", steps[i].name);
        int r = steps[i].start(d);
        if (r == -ECANCELED && is_stop_pending()) {
            report_info("stopping after SIG%s: %s", sigabbrev_np(pending_stop()), d->why.text);
            undo_steps(d, i);
            return EXIT_OK;
        }
        if (r < 0) {
            report_error("%s", d->why.text);
            undo_steps(d, i);
            return (int)exit_from_code(r);
        }
    }
    sd_notify(0, "READY=1");
    report_info("ready: store %s, sockets in %s, %s", d->options.store, d->options.run,
                engine_io_name(d->engine));
    while (sigwait(&d->stop_signals, &signal_number) != 0)
        ;
    sd_notify(0, "STOPPING=1");
    report_info("stopping after SIG%s", sigabbrev_np(signal_number));
    undo_steps(d, N_STEPS);
    return d->exit_code;
}

/* ---- the other things that varved does ------------------------------------------------------ */

static int init(struct daemon *d)
{
    int r = offline_init(d->options.store, d->options.capacity_bytes, &d->config, &d->why);
    if (r < 0)
        report_error("%s", d->why.text);
    return (int)exit_from_code(r);
}

static int check(struct daemon *d)
{
    uint64_t problems = 0;
    int r = offline_check(d->options.store, &d->config, &problems, &d->why);

    if (r < 0) {
        report_error("%s", d->why.text);
        return (int)exit_from_code(r);
    }
    if (problems)
        report_error("%" PRIu64 " problem(s) in the store at %s", problems, d->options.store);
    return problems ? EXIT_FAILED : EXIT_OK;
}

/* A default file that is missing is no error; one that was named is. */
static int load_config(struct daemon *d)
{
    const char *path = d->options.config ? d->options.config : CONFIG_DEFAULT_FILE;

    config_defaults(&d->config);
    int r = config_load(path, &d->config, &d->why);
    if (r == -ENOENT && !d->options.config)
        r = 0;
    report_set_level((enum report_level)d->config.log_level);
    return r;
}

int main(int argc, char **argv)
{
    static struct daemon d;

    if (argc > 1 && !strcmp(argv[1], GUARDIAN_ARGUMENT)) /* see quiesce.c, which starts it */
        return guardian_main(argc, argv);
    if (argc > 1 && !strcmp(argv[1], DOMAIN_GUARD_ARGUMENT)) /* see migration-guard.c */
        return domain_guard_main(argc, argv);
    if (options_parse(argc, argv, &d.options, &d.why) < 0 ||
        (!d.options.help && !d.options.version && load_config(&d) < 0)) {
        report_error("%s", d.why.text);
        return EXIT_USAGE;
    }
    if (d.options.help) {
        options_print_help();
        return EXIT_OK;
    }
    if (d.options.version) {
        puts("varved " VARVE_VERSION);
        return EXIT_OK;
    }
    return d.options.init ? init(&d) : d.options.check ? check(&d) : serve(&d);
}
