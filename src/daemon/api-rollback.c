/* api-rollback.c - vm.rollback.
 *
 * With force the vm's clients are disconnected, and nobody is let in until the vm is rolled back:
 * a QEMU comes back by itself within a second, and would be in its way. */
#include "base/err.h"
#include "base/mono.h"
#include "daemon/api-change.h"
#include "daemon/api-machine.h"
#include "daemon/api-version.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/restoring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEAVE_US   10000000 /* for clients: what they have in flight is finished first */
#define LEAVE_STEP 1000

struct rollback {
    struct store_change change;
    bool discard, force, named; /* named: keep under change.new_name, if at all */
    char stem[sizeof("before-rollback-") + API_STAMP_CHARS]; /* else under this */
    struct nbd_bar bar;
    unsigned n_disconnected;
};

static int try_rollback(struct api *api, struct rollback *r)
{
    if (r->named || r->discard)
        return api_try(api, &r->change);
    return api_try_named(api, &r->change, r->change.new_name, r->stem);
}

static void on_bar(struct engine_call *call)
{
    struct rollback *r = call->arg;

    r->n_disconnected = engine_bar(call->engine, &r->bar, r->change.vm);
    engine_call_done(call);
}

static void on_again(struct engine_call *call)
{
    struct rollback *r = call->arg;

    r->n_disconnected += engine_disconnect(call->engine, r->change.vm);
    engine_call_done(call);
}

static void on_unbar(struct engine_call *call)
{
    struct rollback *r = call->arg;

    nbd_unbar(&r->bar);
    engine_call_done(call);
}

static int force(struct api *api, struct rollback *r)
{
    uint64_t end_us = mono_us() + LEAVE_US;
    int error = engine_call(api->engine, on_bar, r);

    if (error < 0)
        return error;
    while ((error = try_rollback(api, r)) == -EBUSY && mono_us() < end_us) {
        usleep(LEAVE_STEP);
        /* One whose handshake was under way may have got in. */
        (void)engine_call(api->engine, on_again, r);
    }
    while (engine_call(api->engine, on_unbar, r) < 0) /* the bar is ours: it must not be left */
        usleep(LEAVE_STEP);
    return error;
}

/* Nobody is disconnected for a version that is not there. */
static void check_version(xmlrpc_env *env, struct api *api, const struct rollback *r)
{
    struct version_listing l = {.vm = r->change.vm};
    bool found = false;

    if (!api_list_versions(env, api, &l))
        return;
    for (uint32_t i = 0; i < l.n && !found; i++)
        found = !strcmp(l.versions[i].name, r->change.version);
    free(l.versions);
    if (!found)
        api_change_fault(env, api, &r->change, ERR_NO_VERSION);
}

static void roll_back(xmlrpc_env *env, struct api *api, struct rollback *r)
{
    int error = 0;

    /* The QEMU that is to have the disks would not get in. */
    if (!env->fault_occurred)
        error = restoring_brings_up(api->restoring, r->change.vm) ? -EBUSY : try_rollback(api, r);
    if (error == -EBUSY && r->force && !restoring_brings_up(api->restoring, r->change.vm)) {
        check_version(env, api, r);
        error = env->fault_occurred ? 0 : force(api, r);
    }
    if (error < 0)
        api_change_fault(env, api, &r->change, error);
}

static xmlrpc_value *vm_rollback(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct rollback r = {.change = {.kind = CHANGE_ROLLBACK, .whole = true},
                         .stem = "before-rollback-"};
    struct api_alone alone;
    const char *keep = NULL;
    const struct api_option options[] = {
        {"keep", 's', &keep}, {"discard", 'b', &r.discard}, {"force", 'b', &r.force}, {}};

    api_take_name(env, "vm name", api_text(env, args, 0), r.change.vm);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 1), r.change.version);
    api_take_options(env, "vm.rollback", args, 2, options);
    if (keep && r.discard && !env->fault_occurred)
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "options \"keep\" and \"discard\" of vm.rollback exclude each other");
    api_take_version(env, keep, r.change.new_name);
    r.named = keep != NULL;
    api_stamp(r.stem + strlen(r.stem));
    api_begin_alone(env, api, r.change.vm, &alone);
    roll_back(env, api, &r);
    api_end_alone(&alone);
    if (env->fault_occurred)
        return NULL;
    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put_text(env, value, "kept", r.change.new_name);
    api_put_int(env, value, "disconnected", (int)r.n_disconnected);
    return api_result(env, value);
}

const struct method api_rollback_methods[] = {
    {"vm.rollback", "S:ss,S:ssS", "vm, version, options",
     "Make the vm's disks what they were in a version, in constant time. What is replaced becomes "
     "a version, before-rollback- and the time, unless an option says otherwise: keep (its name), "
     "discard (true: it is gone). Refused (busy) while a client uses a disk, unless the option "
     "force "
     "is true: then NBD clients are disconnected, and may connect again afterwards. Refused "
     "(busy), with "
     "force too, while a checkpoint of it is taken or it is being restored. Other versions stay. "
     "Returns {kept: the "
     "version's name, empty if discarded, disconnected: how many "
     "clients}.",
     vm_rollback},
    {},
};
