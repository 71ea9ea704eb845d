/* api-machine.c - methods on machines that run: attaching them, checkpoints. */
#include "daemon/api-machine.h"
#include "base/err.h"
#include "base/text.h"
#include "daemon/api-change.h"
#include "daemon/fault.h"
#include "daemon/machine.h"
#include "daemon/restoring.h"
#include "guest/monitor.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAUSE_US_DEFAULT 4000
#define MAX_PAUSE_US_MAX     10000000

static void machine_fault(xmlrpc_env *env, int r, const struct why *why)
{
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "%s", why->text);
}

/* "NAME=NODE" */
static void take_disk(xmlrpc_env *env, const char *text, struct attached_spec *spec)
{
    struct attached_disk *disk = &spec->disks[spec->n_disks];
    const char *equals = strchr(text, '=');
    char name[NAME_MAX_CHARS + 2];

    if (!equals || spec->n_disks == ATTACHED_DISKS_MAX ||
        strlen(equals + 1) >= sizeof(disk->node) || !equals[1]) {
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "\"%.*s\" names no disk and its node in QEMU; write it as root=disk0, for up to "
                  "%d disks",
                  text_cut(text, 80), text, ATTACHED_DISKS_MAX);
        return;
    }
    snprintf(name, sizeof(name), "%.*s", (int)(equals - text), text);
    api_take_name(env, "disk name", name, disk->name);
    strcpy(disk->node, equals + 1);
    spec->n_disks++;
}

static void take_disks(xmlrpc_env *env, xmlrpc_value *args, struct attached_spec *spec)
{
    const char **texts = NULL;
    unsigned n = 0;

    if (api_count(args) > 2 && !env->fault_occurred)
        n = api_texts(env, args, 2, &texts);
    for (unsigned i = 0; i < n && !env->fault_occurred; i++)
        take_disk(env, texts[i], spec);
    free(texts);
}

/* Where its monitor is: the path of a socket, or a domain. */
static void take_monitor(xmlrpc_env *env, const char *text, struct attached_spec *spec)
{
    size_t len = strlen(MONITOR_LIBVIRT);
    bool is_domain = !strncmp(text, MONITOR_LIBVIRT, len) && text[len];

    if ((*text != '/' && !is_domain) || strlen(text) >= sizeof(spec->qmp))
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "\"%.*s\" is neither the absolute path of a QMP socket nor " MONITOR_LIBVIRT
                  "DOMAIN, of at most %zu characters",
                  text_cut(text, 120), text, sizeof(spec->qmp) - 1);
    else
        strcpy(spec->qmp, text);
}

/* By whichever name its vm goes now. */
static int check_process(void *arg, pid_t pid, struct why *why)
{
    struct api *api = arg;

    return restoring_serves_process(api->restoring, pid)
               ? why_set(why, -EBUSY,
                         "the memory of that machine, process %d, is still on its way; it is "
                         "attached by itself when all is there",
                         (int)pid)
               : 0;
}

static xmlrpc_value *vm_attach(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct attached_spec spec = {.check = check_process, .check_arg = api};
    struct why why = {};
    const char *qmp;

    api_take_name(env, "vm name", api_text(env, args, 0), spec.vm);
    qmp = env->fault_occurred ? NULL : api_text(env, args, 1);
    if (qmp)
        take_monitor(env, qmp, &spec);
    take_disks(env, args, &spec);
    api_need_vm(env, api, spec.vm);
    if (!env->fault_occurred && restoring_serves(api->restoring, spec.vm))
        api_fault(env, FAULT_BUSY,
                  "the memory of machine %s is still on its way; it is attached by itself when all "
                  "is there",
                  spec.vm);
    if (!env->fault_occurred)
        machine_fault(env, machines_attach(api->machines, &spec, &why), &why);
    return env->fault_occurred ? NULL : api_machine_value(env, api, spec.vm);
}

static xmlrpc_value *vm_detach(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    char vm[NAME_MAX_CHARS + 1] = "";
    struct why why = {};

    api_take_name(env, "vm name", api_text(env, args, 0), vm);
    if (!env->fault_occurred)
        machine_fault(env, machines_detach(api->machines, vm, &why), &why);
    return api_truth(env);
}

/* ---- checkpoints ---------------------------------------------------------------------------- */

/* Taken before the lock of the machines. */
static pthread_mutex_t alone_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list alone_vms = {&alone_vms, &alone_vms};

void api_begin_alone(xmlrpc_env *env, struct api *api, const char *vm, struct api_alone *alone)
{
    struct machine_view *view = malloc(sizeof(*view));

    alone->vm = vm;
    pthread_mutex_lock(&alone_lock);
    list_push_back(&alone_vms, &alone->link);
    bool in_checkpoint =
        view && machines_show(api->machines, vm, view) == 0 && !strcmp(view->state, "checkpoint");
    pthread_mutex_unlock(&alone_lock);
    if (!env->fault_occurred && !view)
        api_fault(env, FAULT_NO_MEMORY, "no memory");
    else if (!env->fault_occurred && in_checkpoint)
        api_fault(env, FAULT_BUSY, "a checkpoint of vm \"%s\" is being taken; wait for it", vm);
    free(view);
}

void api_end_alone(struct api_alone *alone)
{
    pthread_mutex_lock(&alone_lock);
    list_del(&alone->link);
    pthread_mutex_unlock(&alone_lock);
}

static int start_checkpoint(struct api *api, const char *vm, const struct machine_checkpoint *what,
                            uint32_t *ret_job, struct why *why)
{
    int r = 0;

    pthread_mutex_lock(&alone_lock);
    list_for_each (l, &alone_vms)
        if (!strcmp(container_of(l, struct api_alone, link)->vm, vm))
            r = why_set(why, -EBUSY,
                        "vm %s is being renamed, rolled back or removed just now; wait for that",
                        vm);
    if (r == 0)
        r = machines_checkpoint(api->machines, vm, what, ret_job, why);
    pthread_mutex_unlock(&alone_lock);
    return r;
}

static xmlrpc_value *vm_checkpoint(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    int max_pause_us = MAX_PAUSE_US_DEFAULT;
    const char *version = NULL, *text = NULL;
    const struct api_option options[] = {
        {"version", 's', &version}, {"note", 's', &text}, {"max_pause_us", 'i', &max_pause_us}, {}};
    struct machine_checkpoint what = {};
    struct store_change noted = {};
    char vm[NAME_MAX_CHARS + 1] = "", stamp[API_STAMP_CHARS];
    struct why why = {};
    uint32_t job = 0;

    api_take_name(env, "vm name", api_text(env, args, 0), vm);
    api_take_options(env, "vm.checkpoint", args, 1, options);
    if (version)
        api_take_version(env, version, what.version);
    api_take_note(env, text, &noted);
    if (!env->fault_occurred && (max_pause_us < 1000 || max_pause_us > MAX_PAUSE_US_MAX))
        api_fault(env, FAULT_BAD_ARGUMENT, "a guest may be paused for 1000 to %d us, not %d",
                  MAX_PAUSE_US_MAX, max_pause_us);
    api_need_vm(env, api, vm);
    if (env->fault_occurred)
        return NULL;
    if (!version) {
        api_stamp(stamp);
        strcpy(what.stem, stamp);
        strcpy(what.version, stamp);
        api_free_version(env, api, vm, what.version);
    }
    snprintf(what.note, sizeof(what.note), "%s", noted.note ? noted.note : "");
    what.max_pause_us = (uint64_t)max_pause_us;
    machine_fault(env, start_checkpoint(api, vm, &what, &job, &why), &why);
    if (env->fault_occurred)
        return NULL;
    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put_int(env, value, "job", (int)job);
    api_put_text(env, value, "vm", vm);
    api_put_text(env, value, "name", what.version);
    return api_result(env, value);
}

/* ---- showing -------------------------------------------------------------------------------- */

xmlrpc_value *api_machine_value(xmlrpc_env *env, struct api *api, const char *vm)
{
    struct machine_view *view = malloc(sizeof(*view));
    xmlrpc_value *value = xmlrpc_struct_new(env);

    if (!view) {
        api_fault(env, FAULT_NO_MEMORY, "no memory");
    } else if (machines_show(api->machines, vm, view) < 0) {
        api_put_text(env, value, "state", "none");
    } else {
        api_put_text(env, value, "state", view->state);
        api_put_text(env, value, "qmp", view->qmp);
        if (view->pid) {
            api_put_int(env, value, "pid", view->pid);
            api_put_text(env, value, "tracking", view->tracking);
            api_put_text(env, value, "tracking_why", view->tracking_why);
            api_put_u64(env, value, "ram", view->ram_bytes);
            api_put_time(env, value, "attached", view->attached_us);
        }
        api_put_u64(env, value, "checkpoints", view->checkpoints);
        api_put_text(env, value, "last_error", view->last_error);
    }
    free(view);
    return api_result(env, value);
}

static void put_json(xmlrpc_env *env, xmlrpc_value *to, const char *name, const json_t *json)
{
    char decimal[24];

    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_INTEGER:
        snprintf(decimal, sizeof(decimal), "%" JSON_INTEGER_FORMAT, json_integer_value(json));
        api_put_text(env, to, name, decimal);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        api_put_bool(env, to, name, json_is_true(json));
        break;
    case JSON_STRING:
        api_put_text(env, to, name, json_string_value(json));
        break;
    default:
        break;
    }
}

static xmlrpc_value *object_value(xmlrpc_env *env, json_t *object)
{
    xmlrpc_value *value = xmlrpc_struct_new(env);
    const char *name;
    json_t *member;

    json_object_foreach(object, name, member) put_json(env, value, name, member);
    return value;
}

void api_put_checkpoint(xmlrpc_env *env, struct api *api, xmlrpc_value *value, const char *vm,
                        const char *version)
{
    xmlrpc_value *machine, *lost;
    struct why why = {};
    json_t *json, *text;
    size_t i;

    if (env->fault_occurred)
        return;
    if (machine_of_version(api->engine, vm, version, &json, &why) < 0) {
        api_put_text(env, value, "machine_error", why.text);
        return;
    }
    machine = object_value(env, json); /* the plain ones: qemu, cwd, ram_bytes ... */
    lost = xmlrpc_array_new(env);
    api_put(env, machine, "times", object_value(env, json_object_get(json, "times")));
    api_put(env, machine, "sizes", object_value(env, json_object_get(json, "sizes")));
    api_put(env, machine, "disks", object_value(env, json_object_get(json, "disks")));
    json_array_foreach(json_object_get(json, "lost"), i, text)
        api_append(env, lost, api_string(env, json_string_value(text)));
    api_put(env, machine, "lost", lost);
    api_put(env, value, "machine", machine);
    json_decref(json);
}

const struct method api_machine_methods[] = {
    {"vm.attach", "S:ss,S:ssA", "vm, qmp, disks",
     "Attach a QEMU that runs, by the absolute path of a QMP socket that nobody else uses, or by "
     "libvirt:DOMAIN, the name or UUID of a domain, through libvirt: from then on its checkpoints "
     "can be taken. All its writable disks must be this daemon's exports "
     "of the vm. disks: for those whose export has another name, since the vm was renamed, "
     "\"NAME=NODE\" each, with QEMU's node name. Its main memory must be a shared file on tmpfs. "
     "Returns what vm.show has as "
     "machine.",
     vm_attach},
    {"vm.detach", "b:s", "vm",
     "Let go of an attached machine, which runs on. A checkpoint under way is cancelled.",
     vm_detach},
    {"vm.checkpoint", "S:s,S:sS", "vm, options",
     "Start taking a version with the memory and the devices' state of the attached machine, as a "
     "job (job.status): most of it while the guest runs, the rest in one short pause. Options: "
     "version and note (as in vm.snap), max_pause_us (what is written while the guest runs is "
     "written again until the pause is likely to be shorter, or that does not help; 4000 by "
     "default). Returns {job, vm, name}; the version is there, complete, when the job is done. "
     "Where none "
     "was given another version may take the name before: then the job's text has the one that "
     "it got, with -2, -3 and so on.",
     vm_checkpoint},
    {},
};
