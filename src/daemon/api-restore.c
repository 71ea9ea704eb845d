/* api-restore.c - vm.restore, and what job.status shows of it. */
#include "daemon/api-restore.h"
#include "base/err.h"
#include "daemon/api-change.h"
#include "daemon/fault.h"
#include "daemon/restoring.h"

#include <string.h>

static void check_wish(xmlrpc_env *env, const struct restore_wish *wish, int count)
{
    if (env->fault_occurred)
        return;
    if (count < 0 || count > RESTORE_COUNT_MAX)
        api_fault(env, FAULT_BAD_ARGUMENT, "option \"count\" of vm.restore is 1 to %d",
                  RESTORE_COUNT_MAX);
    else if (wish->qmp && (wish->as || count || wish->new_macs))
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "option \"qmp\" of vm.restore goes with \"paused\" alone: that machine has its "
                  "disks and devices already");
}

static xmlrpc_value *vm_restore(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    char vm[NAME_MAX_CHARS + 1], version[NAME_MAX_CHARS + 1], as[NAME_MAX_CHARS + 1];
    struct restore_wish wish = {.vm = vm, .version = version};
    int count = 0;
    uint32_t job = 0;
    struct why why;
    const struct api_option options[] = {{"as", 's', &wish.as},
                                         {"count", 'i', &count},
                                         {"eager", 'b', &wish.eager},
                                         {"new_macs", 'b', &wish.new_macs},
                                         {"paused", 'b', &wish.paused},
                                         {"qmp", 's', &wish.qmp},
                                         {}};

    api_take_name(env, "vm name", api_text(env, args, 0), vm);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 1), version);
    api_take_options(env, "vm.restore", args, 2, options);
    if (wish.as)
        api_take_name(env, "vm name", wish.as, as);
    check_wish(env, &wish, count);
    if (env->fault_occurred)
        return NULL;
    wish.count = (unsigned)count;
    int r = restoring_start(api->restoring, &wish, &job, &why);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "%s", why.text);
        return NULL;
    }
    return xmlrpc_int_new(env, (int)job);
}

/* ---- job.status ----------------------------------------------------------------------------- */

static const char *state_text(const struct restore_view *v)
{
    static const char *const words[] = {[RESTORE_STARTING] = "starting",
                                        [RESTORE_RUNNING] = "running",
                                        [RESTORE_RESIDENT] = "resident",
                                        [RESTORE_ENDED] = "ended",
                                        [RESTORE_FAILED] = "failed"};
    return words[v->state];
}

static xmlrpc_value *machine_value(xmlrpc_env *env, const struct restore_view *v)
{
    xmlrpc_value *value = xmlrpc_struct_new(env), *lost = xmlrpc_array_new(env);

    for (unsigned i = 0; i < v->n_lost && !env->fault_occurred; i++)
        api_append(env, lost, api_string(env, v->lost[i]));
    api_put_text(env, value, "name", v->name);
    api_put_text(env, value, "state", state_text(v));
    api_put_bool(env, value, "paused", v->paused);
    api_put_int(env, value, "pid", v->pid);
    api_put_text(env, value, "directory", v->dir);
    api_put_u64(env, value, "running_us", v->running_us);
    api_put_u64(env, value, "disks_us", v->disks_us);
    api_put_u64(env, value, "start_us", v->start_us);
    api_put_u64(env, value, "load_us", v->load_us);
    api_put_u64(env, value, "run_us", v->run_us);
    api_put_u64(env, value, "pages", v->progress.pages);
    api_put_u64(env, value, "resident", v->progress.resident);
    api_put_u64(env, value, "faults", v->progress.faults);
    api_put_u64(env, value, "fault_us", v->progress.fault_us);
    api_put_u64(env, value, "errors", v->progress.errors);
    api_put_text(env, value, "last_error",
                 v->progress.last_error ? err_text(v->progress.last_error) : "");
    api_put_text(env, value, "error_memory", v->error_memory);
    api_put_u64(env, value, "error_page", v->progress.last_place.page);
    api_put_u64(env, value, "resident_us", v->progress.complete_us);
    api_put(env, value, "lost", lost);
    return api_result(env, value);
}

void api_put_restore(xmlrpc_env *env, struct api *api, xmlrpc_value *job, uint32_t id)
{
    struct restore_view *views = NULL;
    xmlrpc_value *machines;

    if (env->fault_occurred)
        return;
    int n = restoring_read(api->restoring, id, &views);
    machines = xmlrpc_array_new(env);
    for (int i = 0; i < n && !env->fault_occurred; i++)
        api_append(env, machines, machine_value(env, &views[i]));
    restoring_view_free(views, n);
    api_put(env, job, "machines", machines);
}

const struct method api_restore_methods[] = {
    {"vm.restore", "i:ss,i:ssS", "vm, version, options",
     "Start a machine that goes on from a version with RAM, and return the number of the job "
     "(job.status). Options: as (the name of a new vm, whose disks are clones; without it the vm "
     "itself goes back, which is refused while its disks are in use; what it held is kept as "
     "before-restore- and the time), count (1 to 64: so many machines, AS-1 and so on), eager "
     "(true: "
     "all RAM is there before it runs; else pages come when they are touched, and the rest "
     "meanwhile), new_macs (true: its network devices get other addresses, at its next reset), "
     "paused (true: it is not let go on), qmp (the monitor socket of a QEMU that waits with "
     "-incoming defer: that one gets the state). The job is done when all pages are there; "
     "job.status shows under machines, for each: {name, state (starting, running, resident, ended, "
     "failed), paused, pid, directory (of its sockets), running_us (from the call until it ran; of "
     "it) "
     "disks_us, start_us, load_us, run_us, pages, resident, faults, fault_us, errors, last_error "
     "(why a page could not be brought; empty: none), error_memory (whose: the id of the memory "
     "backend), error_page (the number there), resident_us, "
     "lost (what could "
     "not be had again)}. Cancelling ends it before a machine runs, not after.",
     vm_restore},
    {},
};
