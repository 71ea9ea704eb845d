/* api-store.c - methods on the store, the daemon, jobs and events. */
#include "base/err.h"
#include "base/mono.h"
#include "daemon/api-restore.h"
#include "daemon/api.h"
#include "daemon/engine.h"
#include "daemon/events.h"
#include "daemon/fault.h"
#include "daemon/jobs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNTERS_MAX 256

/* ---- the store ------------------------------------------------------------------------------ */

struct space_call {
    struct store_space space;
    bool read_only;
};

static void on_space(struct engine_call *call)
{
    struct space_call *s = call->arg;

    store_space(call->store, &s->space);
    s->read_only = store_is_read_only(call->store);
    engine_call_done(call);
}

static xmlrpc_value *store_space_method(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct space_call s = {};
    xmlrpc_value *value;

    (void)args;
    int r = engine_call(api->engine, on_space, &s);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
        return NULL;
    }
    value = xmlrpc_struct_new(env);
    api_put_u64(env, value, "capacity", s.space.capacity);
    api_put_u64(env, value, "reserve", s.space.reserve);
    api_put_u64(env, value, "data", s.space.data);
    api_put_u64(env, value, "tables", s.space.tables);
    api_put_u64(env, value, "dead", s.space.dead);
    api_put_u64(env, value, "pending", s.space.pending);
    api_put_u64(env, value, "available", s.space.available);
    api_put_u64(env, value, "allocated", s.space.allocated);
    api_put_bool(env, value, "read_only", s.read_only);
    return api_result(env, value);
}

struct counters_call {
    struct store_counter counters[COUNTERS_MAX];
    uint32_t n;
};

static void on_counters(struct engine_call *call)
{
    struct counters_call *c = call->arg;

    c->n = engine_counters(call->engine, c->counters, COUNTERS_MAX);
    if (c->n > COUNTERS_MAX)
        c->n = COUNTERS_MAX;
    engine_call_done(call);
}

static xmlrpc_value *store_counters_method(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct counters_call c = {};
    xmlrpc_value *result;

    (void)args;
    int r = engine_call(api->engine, on_counters, &c);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
        return NULL;
    }
    result = xmlrpc_array_new(env);
    for (uint32_t i = 0; i < c.n && !env->fault_occurred; i++) {
        xmlrpc_value *value = xmlrpc_struct_new(env);
        api_put_text(env, value, "name", c.counters[i].name);
        api_put_u64(env, value, "value", c.counters[i].value);
        api_put_text(env, value, "description", c.counters[i].description);
        api_append(env, result, value);
    }
    return api_result(env, result);
}

/* ---- jobs ----------------------------------------------------------------------------------- */

static xmlrpc_value *store_check_method(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    xmlrpc_bool pages = 1;
    uint32_t id;

    if (api_count(args) > 0) {
        xmlrpc_value *value;
        xmlrpc_array_read_item(env, args, 0, &value);
        if (env->fault_occurred)
            return NULL;
        xmlrpc_read_bool(env, value, &pages);
        xmlrpc_DECREF(value);
    }
    int r = jobs_start_check(api->jobs, pages, &id);
    if (err_errno(r) == EBUSY)
        api_fault(env, FAULT_BUSY, "a check of the store is under way; wait for it or cancel it");
    else if (r < 0)
        api_fault(env, (int)fault_from_code(r), "cannot start a check: %s", err_text(r));
    return env->fault_occurred ? NULL : xmlrpc_int_new(env, (int)id);
}

static xmlrpc_value *job_value(xmlrpc_env *env, struct api *api, const struct job_view *view)
{
    xmlrpc_value *value = xmlrpc_struct_new(env), *lines = xmlrpc_array_new(env);

    for (uint32_t i = 0; i < view->n_lines && !env->fault_occurred; i++)
        api_append(env, lines, api_string(env, view->lines[i]));
    api_put_int(env, value, "id", (int)view->id);
    api_put_text(env, value, "kind", view->kind);
    api_put_text(env, value, "state", job_state_word(view->state));
    api_put_time(env, value, "started", view->started_us);
    if (view->ended_us)
        api_put_time(env, value, "ended", view->ended_us);
    api_put_u64(env, value, "total", view->total);
    api_put_u64(env, value, "done", view->done);
    api_put_u64(env, value, "pages", view->pages);
    api_put_u64(env, value, "nodes", view->nodes);
    api_put_u64(env, value, "blocks", view->blocks);
    api_put_u64(env, value, "problems", view->problems);
    api_put_u64(env, value, "harmless", view->harmless);
    api_put(env, value, "lines", lines);
    api_put_text(env, value, "phase", view->phase);
    api_put_text(env, value, "text", view->text);
    if (view->state == JOB_FAILED)
        api_put_int(env, value, "fault", (int)fault_from_code(view->error));
    if (view->state == JOB_FAILED)
        api_put_text(env, value, "error", *view->text ? view->text : err_text(view->error));
    if (!strcmp(view->kind, "restore"))
        api_put_restore(env, api, value, view->id);
    return api_result(env, value);
}

static void no_job(xmlrpc_env *env, int r, int id)
{
    if (r == -ENOENT)
        api_fault(env, FAULT_NOT_FOUND, "there is no job %d; the oldest ones are forgotten", id);
    else
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
}

static xmlrpc_value *job_status(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    int id = api_int(env, args, 0);
    struct job_view *view = malloc(sizeof(*view));
    xmlrpc_value *value = NULL;

    if (!view) {
        api_fault(env, FAULT_NO_MEMORY, "no memory");
    } else if (!env->fault_occurred) {
        int r = jobs_read(api->jobs, (uint32_t)id, view);
        if (r < 0)
            no_job(env, r, id);
        else
            value = job_value(env, api, view);
    }
    free(view);
    return value;
}

static xmlrpc_value *job_cancel(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    int id = api_int(env, args, 0);
    int r = env->fault_occurred ? 0 : jobs_cancel(api->jobs, (uint32_t)id);

    if (r < 0)
        no_job(env, r, id);
    return env->fault_occurred ? NULL : xmlrpc_bool_new(env, 1);
}

/* ---- the daemon ----------------------------------------------------------------------------- */

static xmlrpc_value *daemon_info(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    xmlrpc_value *value = xmlrpc_struct_new(env);

    (void)args;
    api_put_text(env, value, "version", VARVE_VERSION);
    api_put_int(env, value, "pid", (int)getpid());
    api_put_text(env, value, "store", api->store_path);
    api_put_text(env, value, "control_socket", api->control_path);
    api_put_text(env, value, "nbd_socket", api->nbd_path);
    api_put_text(env, value, "io_engine", engine_io_name(api->engine));
    api_put_u64(env, value, "uptime_seconds", (mono_us() - api->started_us) / 1000000);
    return api_result(env, value);
}

static xmlrpc_value *events_list(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    int after = api_count(args) ? api_int(env, args, 0) : 0;
    struct event *events = calloc(EVENTS_MAX, sizeof(*events));
    xmlrpc_value *result = NULL;

    if (!events) {
        api_fault(env, FAULT_NO_MEMORY, "no memory");
        return NULL;
    }
    unsigned n = events_read(api->events, after > 0 ? (uint64_t)after : 0, events);
    if (!env->fault_occurred)
        result = xmlrpc_array_new(env);
    for (unsigned i = 0; i < n && !env->fault_occurred; i++) {
        xmlrpc_value *value = xmlrpc_struct_new(env);
        api_put_int(env, value, "number", (int)events[i].number);
        api_put_time(env, value, "time", events[i].time_us);
        api_put_text(env, value, "kind", events[i].kind);
        api_put_text(env, value, "text", events[i].text);
        api_append(env, result, value);
    }
    free(events);
    return api_result(env, result);
}

const struct method api_store_methods[] = {
    {"store.space", "S:", "",
     "Bytes of the store: {capacity, reserve (kept back for cleaning and checkpoints), data and "
     "tables (alive), dead (to be cleaned), pending (of data and tables: of removed versions and "
     "disks, not freed yet; at most that much comes back), available (what may still be written), "
     "allocated (of "
     "the file system), read_only (boolean)}.",
     store_space_method},
    {"store.counters", "A:", "",
     "What the store and the NBD server count, each as {name, value, description}.",
     store_counters_method},
    {"store.check", "i:,i:b", "pages",
     "Start a check of the store and return the number of its job: all tables, then the sealed log "
     "files from end to end. pages: read every page too (true by default), not the tables alone. "
     "One check at a time (busy).",
     store_check_method},
    {"job.status", "S:i", "job",
     "How a job is: {id, kind, state (running, done, failed, cancelled), started, ended (once it "
     "has), total and done (4 KiB each; total grows when the pages are done and log files follow), "
     "pages, nodes, blocks (of log files, read from end to end), problems (how many), harmless (of "
     "them, damage where nothing lives), lines (the first 100 problems), phase (of a checkpoint: "
     "memory, pause, rest, commit; with total and done of its pages), text (its version's name "
     "when it is done), error and fault (when failed: a sentence, and its number), machines (of a "
     "restore, see "
     "vm.restore)}.",
     job_status},
    {"job.cancel", "b:i", "job", "Ask a job to end early; job.status says when it has.",
     job_cancel},
    {"events.list", "A:,A:i", "after",
     "The last 256 events with a number above after, each as {number, time, kind (damage, "
     "read-only, "
     "full, recovered), text}.",
     events_list},
    {"daemon.info", "S:", "",
     "The daemon: {version, pid, store, control_socket, nbd_socket, io_engine (io_uring or "
     "threads), "
     "uptime_seconds}.",
     daemon_info},
    {},
};
