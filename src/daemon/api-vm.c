/* api-vm.c - methods on vms and disks. */
#include "base/err.h"
#include "base/size.h"
#include "daemon/api.h"
#include "daemon/engine.h"
#include "daemon/fault.h"

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

/* Copy a name into out if it is one; else a fault that says what a name is. */
static void take_name(xmlrpc_env *env, const char *what, const char *name,
                      char out[NAME_MAX_CHARS + 1])
{
    if (!name || env->fault_occurred)
        return;
    if (name_is_valid(name)) {
        strcpy(out, name);
    } else if (strlen(name) > NAME_MAX_CHARS) {
        api_fault(env, FAULT_BAD_NAME, "the %s \"%.20s...\" has %zu characters; it may have %u",
                  what, name, strlen(name), NAME_MAX_CHARS);
    } else if (!strcmp(name, ".") || !strcmp(name, "..")) {
        api_fault(env, FAULT_BAD_NAME,
                  "\"%s\" is a name of directories and not a %s: use 1 to %u letters, digits, '.', "
                  "'_' and '-', but more than dots",
                  name, what, NAME_MAX_CHARS);
    } else {
        api_fault(env, FAULT_BAD_NAME,
                  "\"%s\" is not a %s: use 1 to %u letters, digits, '.', '_' and '-'", name, what,
                  NAME_MAX_CHARS);
    }
}

static void take_size(xmlrpc_env *env, const char *text, uint64_t *out)
{
    uint64_t size;

    if (!text || env->fault_occurred)
        return;
    if (size_parse_decimal(text, &size) < 0 || size < DISK_MIN_BYTES || size % 512 ||
        size > DISK_MAX_BYTES)
        api_fault(env, FAULT_BAD_SIZE,
                  "a disk cannot have \"%.40s\" bytes: use a multiple of 512 from %u to 128 PiB "
                  "(%" PRIu64 ")",
                  text, DISK_MIN_BYTES, (uint64_t)DISK_MAX_BYTES);
    else
        *out = size;
}

static void take_role(xmlrpc_env *env, const char *text, enum vm_role *out)
{
    for (size_t i = 0; i < N_ROLES; i++)
        if (!strcmp(text, roles[i])) {
            *out = (enum vm_role)i;
            return;
        }
    api_fault(env, FAULT_BAD_ARGUMENT,
              "\"%.40s\" is not a role: use generic, app, database or balancer", text);
}

/* ---- changes -------------------------------------------------------------------------------- */

/* A change on its way through the engine's thread. */
struct trip {
    struct store_change change;
    struct engine_call *call;
    bool vm_exists; /* on -ENOENT: whether the vm is there, or what is missing is the disk */
    uint32_t users; /* on -EBUSY */
};

static void change_done(struct store_change *change)
{
    struct trip *trip = container_of(change, struct trip, change);
    struct vm_info *vms;
    uint32_t n;

    if ((err_errno(change->error) == ENOENT || err_errno(change->error) == EBUSY) &&
        store_list(trip->call->store, &vms, &n) == 0) {
        for (uint32_t i = 0; i < n; i++) {
            if (strcmp(vms[i].name, change->vm))
                continue;
            trip->vm_exists = true;
            for (uint32_t d = 0; d < vms[i].n_disks; d++)
                if (change->kind == CHANGE_VM_REMOVE || !strcmp(vms[i].disks[d].name, change->disk))
                    trip->users += vms[i].disks[d].users;
        }
        free(vms);
    }
    engine_call_done(trip->call);
}

static void on_change(struct engine_call *call)
{
    struct trip *trip = call->arg;

    trip->call = call;
    trip->change.done = change_done;
    store_change(call->store, &trip->change);
}

static void change_fault(xmlrpc_env *env, const struct trip *trip)
{
    const struct store_change *c = &trip->change;
    bool of_disk = c->kind == CHANGE_DISK_ADD || c->kind == CHANGE_DISK_REMOVE ||
                   c->kind == CHANGE_DISK_RESIZE || c->kind == CHANGE_DISK_COMMIT;
    int fault = (int)fault_from_code(c->error);

    if (fault == FAULT_NOT_FOUND && of_disk && trip->vm_exists)
        api_fault(env, fault, "vm \"%s\" has no disk \"%s\"; see varve show %s", c->vm, c->disk,
                  c->vm);
    else if (fault == FAULT_NOT_FOUND)
        api_fault(env, fault, "there is no vm \"%s\"; see varve ls", c->vm);
    else if (fault == FAULT_EXISTS &&
             (c->kind == CHANGE_VM_COMMIT || c->kind == CHANGE_DISK_COMMIT))
        api_fault(env, fault, "%s \"%s%s%s\" is not provisional", of_disk ? "disk" : "vm", c->vm,
                  of_disk ? "/" : "", of_disk ? c->disk : "");
    else if (fault == FAULT_EXISTS && of_disk)
        api_fault(env, fault, "vm \"%s\" has a disk \"%s\" already; choose another name", c->vm,
                  c->disk);
    else if (fault == FAULT_EXISTS)
        api_fault(env, fault, "there is a vm \"%s\" already; choose another name",
                  c->kind == CHANGE_VM_RENAME ? c->new_name : c->vm);
    else if (fault == FAULT_BUSY)
        api_fault(env, fault,
                  "%s \"%s%s%s\" is in use by %u client(s); stop the machine or disconnect them",
                  of_disk ? "disk" : "vm", c->vm, of_disk ? "/" : "", of_disk ? c->disk : "",
                  trip->users);
    else if (fault == FAULT_STORE_FULL)
        api_fault(env, fault, "the store is full; remove what is not needed, see varve df");
    else
        api_fault(env, fault, "%s", err_text(c->error));
}

/* Make a change durable. Sets a fault on failure. */
static void change(xmlrpc_env *env, struct api *api, const struct store_change *what)
{
    struct trip trip = {.change = *what};

    if (env->fault_occurred)
        return;
    int r = engine_call(api->engine, on_change, &trip);
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
    else if (trip.change.error < 0)
        change_fault(env, &trip);
}

static xmlrpc_value *truth(xmlrpc_env *env)
{
    return env->fault_occurred ? NULL : xmlrpc_bool_new(env, 1);
}

/* ---- methods that change -------------------------------------------------------------------- */

struct create {
    struct store_change vm;
    uint64_t size_bytes; /* 0: no disk */
    bool provisional;
};

/* known: the method's options, as words in one text. */
static bool is_option(const char *known, const char *key)
{
    const char *at = *key ? strstr(known, key) : NULL;
    size_t len = strlen(key);

    return at && (at == known || at[-1] == ' ') && (at[len] == '\0' || at[len] == ' ');
}

static void take_option(xmlrpc_env *env, const char *method, const char *known, const char *key,
                        xmlrpc_value *value, struct create *c)
{
    xmlrpc_bool flag = 0;
    const char *text = NULL;
    size_t len;

    if (!is_option(known, key)) {
        api_fault(env, FAULT_BAD_ARGUMENT, "%s has no option \"%.40s\"; it has: %s", method, key,
                  known);
    } else if (!strcmp(key, "provisional")) {
        xmlrpc_read_bool(env, value, &flag);
        c->provisional = flag;
    } else {
        xmlrpc_parse_value(env, value, "s#", &text, &len);
    }
    if (env->fault_occurred && env->fault_code < 0) {
        xmlrpc_env_clean(env);
        xmlrpc_env_init(env);
        api_fault(env, FAULT_BAD_ARGUMENT, "option \"%s\" of %s has the wrong type", key, method);
    }
    if (env->fault_occurred || !text)
        return;
    if (*key == 'r')
        take_role(env, text, &c->vm.role);
    else if (*key == 's')
        take_size(env, text, &c->size_bytes);
    else
        take_name(env, "disk name", text, c->vm.disk);
}

static void take_options(xmlrpc_env *env, const char *method, const char *known,
                         xmlrpc_value *options, struct create *c)
{
    int n = xmlrpc_struct_size(env, options);

    for (int i = 0; i < n && !env->fault_occurred; i++) {
        xmlrpc_value *key, *value;
        const char *text;
        size_t len;

        xmlrpc_struct_get_key_and_value(env, options, i, &key, &value);
        if (!env->fault_occurred)
            xmlrpc_parse_value(env, key, "s#", &text, &len);
        if (!env->fault_occurred)
            take_option(env, method, known, text, value, c);
    }
}

/* A vm with a disk is made provisional, given its disk, and committed: a daemon that dies between
 * leaves nothing. */
static xmlrpc_value *vm_create(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct create c = {.vm = {.kind = CHANGE_VM_CREATE}};

    take_name(env, "vm name", api_text(env, args, 0), c.vm.vm);
    if (api_count(args) > 1 && !env->fault_occurred) {
        xmlrpc_value *options;
        xmlrpc_array_read_item(env, args, 1, &options);
        if (!env->fault_occurred) {
            take_options(env, "vm.create", "role size disk provisional", options, &c);
            xmlrpc_DECREF(options);
        }
    }
    if (*c.vm.disk && !c.size_bytes && !env->fault_occurred)
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "option \"disk\" of vm.create wants a \"size\" beside it");

    c.vm.provisional = c.provisional || c.size_bytes;
    change(env, api, &c.vm);
    if (env->fault_occurred || !c.size_bytes)
        return truth(env);

    if (!*c.vm.disk)
        strcpy(c.vm.disk, "root");
    c.vm.size_bytes = c.size_bytes;
    c.vm.provisional = false; /* the vm is */
    c.vm.kind = CHANGE_DISK_ADD;
    change(env, api, &c.vm);
    c.vm.kind = CHANGE_VM_COMMIT;
    if (!c.provisional)
        change(env, api, &c.vm);
    if (env->fault_occurred) {
        xmlrpc_env undo;
        xmlrpc_env_init(&undo); /* if this fails too, the next opening of the store removes it */
        c.vm.kind = CHANGE_VM_REMOVE;
        change(&undo, api, &c.vm);
        xmlrpc_env_clean(&undo);
    }
    return truth(env);
}

static void take_disk_options(xmlrpc_env *env, xmlrpc_value *args, struct store_change *c)
{
    struct create options = {};
    xmlrpc_value *value;

    xmlrpc_array_read_item(env, args, 3, &value);
    if (env->fault_occurred)
        return;
    take_options(env, "disk.add", "provisional", value, &options);
    xmlrpc_DECREF(value);
    c->provisional = options.provisional;
}

/* The methods whose arguments are names, and perhaps a size: a vm; then its disk or its new name;
 * then the disk's size. */
static xmlrpc_value *named_change(xmlrpc_env *env, xmlrpc_value *args, struct api *api,
                                  enum change_kind kind)
{
    bool of_vm = kind == CHANGE_VM_COMMIT || kind == CHANGE_VM_REMOVE,
         rename = kind == CHANGE_VM_RENAME;
    struct store_change c = {.kind = kind};

    take_name(env, "vm name", api_text(env, args, 0), c.vm);
    if (!env->fault_occurred && !of_vm)
        take_name(env, rename ? "vm name" : "disk name", api_text(env, args, 1),
                  rename ? c.new_name : c.disk);
    if (!env->fault_occurred && (kind == CHANGE_DISK_ADD || kind == CHANGE_DISK_RESIZE))
        take_size(env, api_text(env, args, 2), &c.size_bytes);
    if (!env->fault_occurred && kind == CHANGE_DISK_ADD && api_count(args) > 3)
        take_disk_options(env, args, &c);
    change(env, api, &c);
    return truth(env);
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

    l->result = store_list(call->store, &l->vms, &l->n);
    engine_call_done(call);
}

static bool list(xmlrpc_env *env, struct api *api, struct listing *l)
{
    int r = env->fault_occurred ? 0 : engine_call(api->engine, on_list, l);

    if (r == 0)
        r = l->result;
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

    for (uint32_t i = 0; i < vm->n_disks && !env->fault_occurred; i++)
        api_append(env, disks, disk_value(env, &vm->disks[i]));
    api_put_text(env, value, "name", vm->name);
    api_put_text(env, value, "role", roles[vm->role]);
    api_put_bool(env, value, "provisional", vm->provisional);
    api_put_time(env, value, "created", vm->created_us);
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

    take_name(env, "vm name", api_text(env, args, 0), name);
    if (!list(env, api, &l))
        return NULL;
    for (uint32_t i = 0; i < l.n && !result; i++)
        if (!strcmp(l.vms[i].name, name))
            result = vm_value(env, &l.vms[i]);
    free(l.vms);
    if (!result && !env->fault_occurred)
        api_fault(env, FAULT_NOT_FOUND, "there is no vm \"%s\"; see varve ls", name);
    return api_result(env, result);
}

#define VM_STRUCT                                                                                  \
    "{name, role, provisional, created (UTC, ISO 8601), disks: [{name, size, used, users, "        \
    "provisional}]}"

const struct method api_vm_methods[] = {
    {"vm.create", "b:s,b:sS", "vm, options",
     "Make a vm. Options, all of them optional: role (generic, app, database, balancer), size "
     "(bytes "
     "in decimal: make a disk too), disk (its name, root by default), provisional (true: the vm "
     "vanishes with the daemon unless vm.commit comes first).",
     vm_create},
    {"vm.commit", "b:s", "vm", "Make a provisional vm an ordinary one.", vm_commit},
    {"vm.list", "A:", "", "All vms by name, each as " VM_STRUCT ".", vm_list},
    {"vm.show", "S:s", "vm", "One vm as " VM_STRUCT ".", vm_show},
    {"vm.rename", "b:ss", "vm, new_name", "Give a vm another name.", vm_rename},
    {"vm.remove", "b:s", "vm", "Remove a vm and its disks. Refused (busy) while a client uses one.",
     vm_remove},
    {"disk.add", "b:sss,b:sssS", "vm, disk, size, options",
     "Add an empty disk. size: bytes in decimal, a multiple of 512 from 4096 to 2^57. Option: "
     "provisional (true: the disk vanishes with the daemon unless disk.commit comes first).",
     disk_add},
    {"disk.commit", "b:ss", "vm, disk", "Make a provisional disk an ordinary one.", disk_commit},
    {"disk.remove", "b:ss", "vm, disk", "Remove a disk. Refused (busy) while a client uses it.",
     disk_remove},
    {"disk.resize", "b:sss", "vm, disk, size",
     "Change the size of a disk. What lies beyond a smaller size is gone.", disk_resize},
    {},
};
