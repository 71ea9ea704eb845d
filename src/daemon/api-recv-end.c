/* api-recv-end.c - recv.finish makes a version of what was received and gives it its place, with
 * its memory; recv.abort removes it. */
#include "daemon/api-recv.h"

#include "base/err.h"
#include "base/report.h"
#include "daemon/api-change.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/memory-list.h"
#include "daemon/memory-names.h"
#include "daemon/memory-same.h"
#include "daemon/restore-source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IDLE_TRIES 200 /* of 10 ms: until our own client's end is seen */

void api_recv_undo(struct api *api, const struct receive *what)
{
    struct store_change c = {.kind = CHANGE_VM_REMOVE};

    strcpy(c.vm, what->vm);
    (void)api_try(api, &c);
    if (!*what->memory_vm)
        return;
    c = (struct store_change){.kind = CHANGE_VM_REMOVE};
    strcpy(c.vm, what->memory_vm);
    (void)api_try(api, &c);
}

static void take_receive(xmlrpc_env *env, xmlrpc_value *args, struct api *api, struct receive *ret)
{
    char vm[NAME_MAX_CHARS + 1] = "";

    api_take_name(env, "vm name", api_text(env, args, 0), vm);
    if (env->fault_occurred)
        return;
    int r = receives_take(api->receives, vm, ret);
    if (r == -ENOENT)
        api_fault(env, FAULT_NOT_FOUND,
                  "nothing is being received into \"%s\" any more: it was given up because nobody "
                  "was connected",
                  vm);
    else if (r < 0)
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
}

/* The from-version is not one of the target's any more. It is held where it has disks, so mostly
 * the vm has another name by now. */
static void fault_moved(xmlrpc_env *env, struct api *api, const struct receive *what)
{
    char now[NAME_MAX_CHARS + 1];

    receives_target_now(api->receives, what, now);
    if (*now && strcmp(now, what->target))
        api_fault(
            env, FAULT_NOT_FOUND,
            "vm \"%s\" has been renamed to \"%s\" while the stream came in, and was left as it "
            "is; receive it again, with: varve recv %s",
            what->target, now, now);
    else
        api_fault(
            env, FAULT_NO_VERSION,
            "version \"%s@%s\", which the stream goes on from, has been removed while it came "
            "in; send from one that is there, or in full",
            what->target, what->from);
}

static void place(xmlrpc_env *env, struct api *api, const struct receive *what)
{
    struct store_change c = {.kind = *what->target ? CHANGE_ADOPT : CHANGE_VM_COMMIT,
                             .hold = what->force};

    strcpy(c.vm, what->vm);
    strcpy(c.new_name, what->target);
    int r = env->fault_occurred ? 0 : api_try(api, &c);
    if (r == -ESTALE)
        api_fault(env, FAULT_CHANGED,
                  "vm \"%s\" has been changed while the stream came in, and was left as it is; "
                  "receive it again, with --force to replace the changes",
                  what->target);
    else if (r == -EBUSY)
        api_fault(env, FAULT_BUSY,
                  "vm \"%s\" has been taken into use while the stream came in, and was left as it "
                  "is; stop the machine, and receive again",
                  what->target);
    else if (r == -EEXIST)
        api_fault(env, FAULT_EXISTS,
                  "a version \"%s@%s\" has been made while the stream came in; rename it, and "
                  "receive again",
                  what->target, what->version);
    else if (*what->target && (r == -ENOENT || r == -EINVAL))
        fault_moved(env, api, what);
    else if (r < 0)
        api_change_fault(env, api, &c, r);
}

/* All that is connected to what a stream goes into. */
struct use {
    struct receives *receives;
    char vm[NAME_MAX_CHARS + 1], memory_vm[NAME_MAX_CHARS + 1];
    uint32_t users;
};

static bool is_for(const struct use *use, const char *vm)
{
    return !strcmp(vm, use->vm) || (*use->memory_vm && !strcmp(vm, use->memory_vm));
}

static void on_use(struct engine_call *call)
{
    struct use *use = call->arg;
    struct vm_info *vms;
    uint32_t n;

    use->users = 0;
    receives_memory_of(use->receives, use->vm, use->memory_vm);
    if (store_list(call->store, &vms, &n) == 0) {
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t d = 0; is_for(use, vms[i].name) && d < vms[i].n_disks; d++)
                use->users += vms[i].disks[d].users;
        free(vms);
    }
    engine_call_done(call);
}

/* The NBD server may see a moment later that its client has disconnected. */
static void wait_idle(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct use use = {.receives = api->receives};

    api_take_name(env, "vm name", api_text(env, args, 0), use.vm);
    for (int i = 0; i < IDLE_TRIES && !env->fault_occurred; i++) {
        if (engine_call(api->engine, on_use, &use) < 0 || !use.users)
            return;
        usleep(10000);
    }
    if (!env->fault_occurred)
        api_fault(env, FAULT_BUSY, "\"%s\" is still being written by %u client(s)", use.vm,
                  use.users);
}

/* A version of another vm has this guid, too. Is its memory this one? It is used then, and the
 * received one goes. Sets a fault where it is another one, or cannot be read: neither is taken for
 * the other, and what is here is not touched. */
static bool is_there(xmlrpc_env *env, struct api *api, const struct store_version *came,
                     const struct store_version *there)
{
    int r = memory_is_same(api->engine, there, came);

    if (r == 0)
        api_fault(
            env, FAULT_EXISTS,
            "a version with the guid of this one is here, and has other memory, so one of both "
            "is not what it says; receive it without its memory (varve send --no-memory)");
    else if (r < 0)
        api_fault(
            env, (int)fault_from_code(r),
            "a version with the guid of this one is here, and its memory cannot be read (%s); "
            "remove that version, wait ten seconds, and receive this one again",
            err_text(r));
    return r == 1;
}

static void find_there(xmlrpc_env *env, struct api *api, const struct receive *what,
                       struct store_version *ret)
{
    struct memory_list list;

    int r = memory_list_get(api->engine, &list);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
        return;
    }
    const struct version_info *found = memory_list_find(&list, what->guid);
    if (found) {
        strcpy(ret->vm, found->vm);
        strcpy(ret->version, found->name);
    }
    memory_list_free(&list);
}

/* The order is that of memory-names.h: while the version stands in its provisional vm, the memory
 * becomes a version with the same guid, and keeps its place; then the version gets its own. A crash
 * between leaves memory that belongs to no version, which is swept up. */
static void place_memory(xmlrpc_env *env, struct api *api, struct receive *what)
{
    struct store_change c = {.kind = CHANGE_SNAP, .consistency = CONSISTENCY_RAM};
    struct store_version at, there = {};
    struct why why;

    if (env->fault_occurred || !*what->memory_vm)
        return;
    strcpy(at.vm, what->memory_vm);
    memory_version_name(what->guid, at.version);
    strcpy(c.vm, at.vm);
    strcpy(c.version, at.version);
    memcpy(c.guid, what->guid, GUID_BYTES);
    api_change(env, api, &c);
    if (env->fault_occurred)
        return;
    int r = restore_source_check(api->engine, what->vm, what->version, &at, &why);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "no machine could go on from what was received: %s",
                  why.text);
        return;
    }
    find_there(env, api, what, &there);
    bool drop = !env->fault_occurred && *there.vm && is_there(env, api, &at, &there);
    c = (struct store_change){.kind = drop ? CHANGE_VM_REMOVE : CHANGE_VM_COMMIT};
    strcpy(c.vm, what->memory_vm);
    api_change(env, api, &c);
    /* Once it is one like others, another vm may rely on it: api_recv_undo() leaves it to the
     * sweep. */
    if (!env->fault_occurred)
        *what->memory_vm = '\0';
}

static xmlrpc_value *recv_finish(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct receive what = {};
    struct store_change snap = {.kind = CHANGE_SNAP};

    wait_idle(env, args, api);
    if (!env->fault_occurred)
        take_receive(env, args, api, &what);
    if (env->fault_occurred)
        return NULL;
    strcpy(snap.vm, what.vm);
    strcpy(snap.version, what.version);
    snap.note = *what.note ? what.note : NULL;
    snap.consistency = what.consistency;
    snap.created_us = what.created_us;
    memcpy(snap.guid, what.guid, GUID_BYTES);
    api_change(env, api, &snap);
    place_memory(env, api, &what);
    place(env, api, &what);
    if (env->fault_occurred)
        api_recv_undo(api, &what);
    receives_release(api->receives, &what);
    return api_truth(env);
}

static xmlrpc_value *recv_abort(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct receive what = {};

    take_receive(env, args, api, &what);
    if (env->fault_occurred)
        return NULL;
    struct store_change c = {.kind = CHANGE_VM_REMOVE};
    strcpy(c.vm, what.vm);
    int r = api_try(api, &c);
    if (r == 0 && *what.memory_vm) {
        struct store_change m = {.kind = CHANGE_VM_REMOVE};
        *what.vm = '\0';
        strcpy(m.vm, what.memory_vm);
        r = api_try(api, &m);
    }
    /* What stays is to be removed when nobody is connected. */
    if (r == 0 || receives_add(api->receives, &what) < 0)
        receives_release(api->receives, &what);
    if (r < 0)
        api_change_fault(env, api, &c, r);
    return api_truth(env);
}

const struct method api_recv_end_methods[] = {
    {"recv.finish", "b:s", "vm",
     "All is written, flushed, checked and disconnected: what recv.begin made becomes the version, "
     "with its vm "
     "or as the next of the vm that it goes on from, whose disks are replaced. On any fault it is "
     "removed.",
     recv_finish},
    {"recv.abort", "b:s", "vm", "Remove what recv.begin made.", recv_abort},
    {},
};
