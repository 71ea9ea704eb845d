/* api-vm.c - methods on vms and disks. */
#include "base/err.h"
#include "base/size.h"
#include "base/text.h"
#include "daemon/api-change.h"
#include "daemon/api-machine.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/machine.h"
#include "daemon/restoring.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DISK_MIN_BYTES 4096u

static const char *const roles[] = {[ROLE_GENERIC] = "generic",
                                    [ROLE_APP] = "app",
                                    [ROLE_DATABASE] = "database",
                                    [ROLE_BALANCER] = "balancer"};
#define N_ROLES (sizeof(roles) / sizeof(roles[0]))

/* ---- validation ----------------------------------------------------------------------------- */

static void take_size(xmlrpc_env *env, const char *text, uint64_t *out)
{
    uint64_t size;

    if (!text || env->fault_occurred)
        return;
    if (size_parse_decimal(text, &size) < 0 || size < DISK_MIN_BYTES || size % 512 ||
        size > DISK_MAX_BYTES)
        api_fault(env, FAULT_BAD_SIZE,
                  "a disk cannot have \"%.*s\" bytes: use a multiple of 512 from %u to 128 PiB "
                  "(%" PRIu64 ")",
                  text_cut(text, 40), text, DISK_MIN_BYTES, (uint64_t)DISK_MAX_BYTES);
    else
        *out = size;
}

static void take_role(xmlrpc_env *env, const char *text, enum vm_role *out)
{
    if (!text || env->fault_occurred)
        return;
    for (size_t i = 0; i < N_ROLES; i++)
        if (!strcmp(text, roles[i])) {
            *out = (enum vm_role)i;
            return;
        }
    api_fault(env, FAULT_BAD_ARGUMENT,
              "\"%.*s\" is not a role: use generic, app, database or balancer", text_cut(text, 40),
              text);
}

/* ---- methods that change -------------------------------------------------------------------- */

/* A vm with a disk is made provisional, given its disk, and committed: a daemon that dies between
 * leaves nothing. */
static xmlrpc_value *vm_create(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    const char *role = NULL, *size = NULL, *disk = NULL;
    bool provisional = false;
    const struct api_option options[] = {{"role", 's', &role},
                                         {"size", 's', &size},
                                         {"disk", 's', &disk},
                                         {"provisional", 'b', &provisional},
                                         {}};
    struct store_change c = {.kind = CHANGE_VM_CREATE};
    uint64_t size_bytes = 0;

    api_take_name(env, "vm name", api_text(env, args, 0), c.vm);
    api_take_options(env, "vm.create", args, 1, options);
    take_role(env, role, &c.role);
    take_size(env, size, &size_bytes);
    api_take_name(env, "disk name", disk ? disk : "root", c.disk);
    if (disk && !size_bytes && !env->fault_occurred)
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "option \"disk\" of vm.create wants a \"size\" beside it");

    c.provisional = provisional || size_bytes;
    api_change(env, api, &c);
    if (env->fault_occurred || !size_bytes)
        return api_truth(env);

    c.size_bytes = size_bytes;
    c.provisional = false; /* the vm is */
    c.kind = CHANGE_DISK_ADD;
    api_change(env, api, &c);
    c.kind = CHANGE_VM_COMMIT;
    if (!provisional)
        api_change(env, api, &c);
    if (env->fault_occurred) {
        c.kind = CHANGE_VM_REMOVE;
        (void)api_try(api, &c); /* if this fails too, the next opening of the store removes it */
    }
    return api_truth(env);
}

/* Whoever brings the pages of its machine knows it by its name, and as long nobody may attach it.
 */
static void refuse_while_served(xmlrpc_env *env, struct api *api, const char *vm)
{
    if (!env->fault_occurred && restoring_serves(api->restoring, vm))
        api_fault(env, FAULT_BUSY,
                  "the memory of machine %s is still on its way, and is brought to it by this "
                  "name; rename it when all is there: then varve show %s says that it is attached",
                  vm, vm);
}

/* Its memory is to meet the disks that it was taken with. Most changes of them are refused by the
 * store, for they are in use; a disk that grows is not. */
static void refuse_while_brought_up(xmlrpc_env *env, struct api *api, const struct store_change *c)
{
    if (!env->fault_occurred && restoring_brings_up(api->restoring, c->vm))
        api_change_fault(env, api, c, -EBUSY);
}

/* The methods whose arguments are names, and perhaps a size: a vm; then its disk or its new name;
 * then the disk's size, and that which it had. */
static xmlrpc_value *named_change(xmlrpc_env *env, xmlrpc_value *args, struct api *api,
                                  enum change_kind kind)
{
    bool of_vm = kind == CHANGE_VM_COMMIT || kind == CHANGE_VM_REMOVE,
         rename = kind == CHANGE_VM_RENAME;
    struct store_change c = {
        .kind = kind, .whole = rename || kind == CHANGE_DISK_ADD || kind == CHANGE_DISK_RESIZE};
    struct api_alone alone;
    const struct api_option options[] = {{"provisional", 'b', &c.provisional}, {}};

    api_take_name(env, "vm name", api_text(env, args, 0), c.vm);
    if (!env->fault_occurred && !of_vm)
        api_take_name(env, rename ? "vm name" : "disk name", api_text(env, args, 1),
                      rename ? c.new_name : c.disk);
    if (!env->fault_occurred && (kind == CHANGE_DISK_ADD || kind == CHANGE_DISK_RESIZE))
        take_size(env, api_text(env, args, 2), &c.size_bytes);
    if (!env->fault_occurred && kind == CHANGE_DISK_RESIZE && api_count(args) > 3)
        take_size(env, api_text(env, args, 3), &c.from_bytes);
    if (kind == CHANGE_DISK_ADD)
        api_take_options(env, "disk.add", args, 3, options);
    if (rename || kind == CHANGE_VM_REMOVE)
        api_begin_alone(env, api, c.vm, &alone);
    if (rename)
        refuse_while_served(env, api, c.vm);
    if (kind == CHANGE_DISK_RESIZE)
        refuse_while_brought_up(env, api, &c);
    api_change(env, api, &c);
    if (rename && !env->fault_occurred)
        machines_rename(api->machines, c.vm, c.new_name);
    if (rename || kind == CHANGE_VM_REMOVE)
        api_end_alone(&alone);
    return api_truth(env);
}

#define NAMED_CHANGE(function, kind)                                                               \
    static xmlrpc_value *function(xmlrpc_env *env, xmlrpc_value *args, struct api *api)            \
    {                                                                                              \
        return named_change(env, args, api, kind);                                                 \
    }

NAMED_CHANGE(vm_commit, CHANGE_VM_COMMIT)
NAMED_CHANGE(vm_remove, CHANGE_VM_REMOVE)
NAMED_CHANGE(vm_rename, CHANGE_VM_RENAME)
NAMED_CHANGE(disk_add, CHANGE_DISK_ADD)
NAMED_CHANGE(disk_commit, CHANGE_DISK_COMMIT)
NAMED_CHANGE(disk_remove, CHANGE_DISK_REMOVE)
NAMED_CHANGE(disk_resize, CHANGE_DISK_RESIZE)

/* ---- methods that show ---------------------------------------------------------------------- */

struct listing {
    struct vm_info *vms;
    uint32_t n;
    int result;
};

static void on_list(struct engine_call *call)
{
    struct listing *l = call->arg;

    uint32_t n = 0;

    l->result = store_list(call->store, &l->vms, &l->n);
    for (uint32_t i = 0; l->result == 0 && i < l->n; i++)
        if (!l->vms[i].memory) /* those are parts of others */
            l->vms[n++] = l->vms[i];
    l->n = n;
    engine_call_done(call);
}

static bool list(xmlrpc_env *env, struct api *api, struct listing *l)
{
    int r = env->fault_occurred ? 0 : engine_ask(api->engine, on_list, l, &l->result);

    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "cannot list the vms: %s", err_text(r));
    return !env->fault_occurred;
}

static xmlrpc_value *disk_value(xmlrpc_env *env, const struct disk_info *disk)
{
    xmlrpc_value *value = xmlrpc_struct_new(env);

    api_put_text(env, value, "name", disk->name);
    api_put_u64(env, value, "size", disk->size_bytes);
    api_put_u64(env, value, "used", disk->used_bytes);
    api_put_int(env, value, "users", (int)disk->users);
    api_put_bool(env, value, "provisional", disk->provisional);
    return value;
}

static xmlrpc_value *vm_value(xmlrpc_env *env, const struct vm_info *vm)
{
    xmlrpc_value *value = xmlrpc_struct_new(env), *disks = xmlrpc_array_new(env);
    char origin[2 * NAME_MAX_CHARS + 2] = "";

    if (*vm->origin)
        snprintf(origin, sizeof(origin), "%s@%s", vm->origin_vm, vm->origin);
    for (uint32_t i = 0; i < vm->n_disks && !env->fault_occurred; i++)
        api_append(env, disks, disk_value(env, &vm->disks[i]));
    api_put_text(env, value, "name", vm->name);
    api_put_text(env, value, "role", roles[vm->role]);
    api_put_bool(env, value, "provisional", vm->provisional);
    api_put_time(env, value, "created", vm->created_us);
    api_put_text(env, value, "origin", origin);
    api_put_int(env, value, "versions", (int)vm->n_versions);
    api_put(env, value, "disks", disks);
    return value;
}

static xmlrpc_value *vm_list(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct listing l = {};
    xmlrpc_value *result;

    (void)args;
    if (!list(env, api, &l))
        return NULL;
    result = xmlrpc_array_new(env);
    for (uint32_t i = 0; i < l.n && !env->fault_occurred; i++)
        api_append(env, result, vm_value(env, &l.vms[i]));
    free(l.vms);
    return api_result(env, result);
}

static xmlrpc_value *vm_show(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    char name[NAME_MAX_CHARS + 1] = "";
    struct listing l = {};
    xmlrpc_value *result = NULL;

    api_take_name(env, "vm name", api_text(env, args, 0), name);
    if (!list(env, api, &l))
        return NULL;
    for (uint32_t i = 0; i < l.n && !result; i++)
        if (!strcmp(l.vms[i].name, name)) {
            result = vm_value(env, &l.vms[i]);
            api_put(env, result, "machine", api_machine_value(env, api, name));
        }
    free(l.vms);
    if (!result && !env->fault_occurred)
        api_fault(env, FAULT_NOT_FOUND, "there is no vm \"%s\"; see varve ls", name);
    return api_result(env, result);
}

void api_need_vm(xmlrpc_env *env, struct api *api, const char *vm)
{
    struct listing l = {};
    bool found = false;

    if (env->fault_occurred || !list(env, api, &l))
        return;
    for (uint32_t i = 0; i < l.n; i++)
        found |= !strcmp(l.vms[i].name, vm);
    free(l.vms);
    if (!found)
        api_fault(env, FAULT_NOT_FOUND, "there is no vm \"%s\"; see varve ls", vm);
}

#define VM_STRUCT                                                                                  \
    "{name, role, provisional, created (UTC, ISO 8601), origin (the version that its disks began " \
    "as or last became, as VM@NAME; empty: none, or removed), versions (how many), disks: "        \
    "[{name, size, used, users, "                                                                  \
    "provisional}]}"

const struct method api_vm_methods[] = {
    {"vm.create", "b:s,b:sS", "vm, options",
     "Make a vm. Options, all of them optional: role (generic, app, database, balancer), size "
     "(bytes "
     "in decimal: make a disk too), disk (its name, root by default), provisional (true: the vm "
     "vanishes with the daemon unless vm.commit comes first; until then it is not snapped, cloned, "
     "renamed, rolled back, nor given disks: busy).",
     vm_create},
    {"vm.commit", "b:s", "vm", "Make a provisional vm an ordinary one.", vm_commit},
    {"vm.list", "A:", "", "All vms by name, each as " VM_STRUCT ".", vm_list},
    {"vm.show", "S:s", "vm", "One vm as " VM_STRUCT ", with machine: " API_MACHINE_STRUCT ".",
     vm_show},
    {"vm.rename", "b:ss", "vm, new_name",
     "Give a vm another name. Refused (busy) while a checkpoint of it is taken, or memory of its "
     "restored machine is still to come; and, as vm.create, vm.clone, recv.begin and vm.restore, "
     "while a client is connected that asked for a disk of new_name, and has one of another vm.",
     vm_rename},
    {"vm.remove", "b:s", "vm",
     "Remove a vm with its disks and versions. Refused while a client uses one (busy) or a version "
     "is held (held). Its clones live on.",
     vm_remove},
    {"disk.add", "b:sss,b:sssS", "vm, disk, size, options",
     "Add an empty disk. size: bytes in decimal, a multiple of 512 from 4096 to 2^57. Option: "
     "provisional (true: the disk vanishes with the daemon unless disk.commit comes first).",
     disk_add},
    {"disk.commit", "b:ss", "vm, disk", "Make a provisional disk an ordinary one.", disk_commit},
    {"disk.remove", "b:ss", "vm, disk", "Remove a disk. Refused (busy) while a client uses it.",
     disk_remove},
    {"disk.resize", "b:sss,b:ssss", "vm, disk, size, from",
     "Change the size of a disk. What lies beyond a smaller size is gone. from: the size that the "
     "disk is known to have; with another one nothing is done (changed). Refused (busy) while the "
     "vm is being "
     "restored.",
     disk_resize},
    {},
};
