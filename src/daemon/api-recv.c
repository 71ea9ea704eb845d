/* api-recv.c - recv.begin: a provisional vm for a version that comes in, and one for its memory.
 * The data come over NBD; here are the names, and whether it fits. api-recv-end.c has the end. */
#include "daemon/api-recv.h"
#include "base/err.h"
#include "base/size.h"
#include "checkpoint/memory-image.h"
#include "daemon/api-change.h"
#include "daemon/api-version.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/memory-list.h"
#include "daemon/memory-names.h"
#include "daemon/receive.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define GUID_CHARS     (2 * GUID_BYTES)
#define DISK_MIN       4096u
#define HEAD_TRIES     500
#define HEAD_PAUSE_US  2000
#define CREATED_MAX_US 253402300799999999ULL

/* ---- words ---------------------------------------------------------------------------------- */

static void take_guid(xmlrpc_env *env, const char *text, uint8_t out[GUID_BYTES])
{
    if (!text || env->fault_occurred)
        return;
    if (strlen(text) != GUID_CHARS || strspn(text, "0123456789abcdef") != GUID_CHARS) {
        api_fault(env, FAULT_BAD_ARGUMENT, "a guid has %u hexadecimal digits", GUID_CHARS);
        return;
    }
    for (unsigned i = 0; i < GUID_BYTES; i++)
        sscanf(text + 2 * i, "%2hhx", &out[i]);
}

static void take_consistency(xmlrpc_env *env, const char *text, enum consistency *out)
{
    if (!text || env->fault_occurred)
        return;
    for (int i = CONSISTENCY_CRASH; i <= CONSISTENCY_RAM; i++)
        if (!strcmp(text, api_consistency_word((enum consistency)i))) {
            *out = (enum consistency)i;
            return;
        }
    api_fault(env, FAULT_BAD_ARGUMENT, "\"%.40s\" is no consistency", text);
}

static void take_created(xmlrpc_env *env, const char *text, uint64_t *out)
{
    if (!text || env->fault_occurred)
        return;
    if (size_parse_decimal(text, out) < 0 || *out > CREATED_MAX_US)
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "\"%.40s\" is no time: created_us is in microseconds since 1970, before the year "
                  "10000",
                  text);
}

/* ---- recv.begin: what it is told ------------------------------------------------------------ */

struct wanted_disk {
    char name[NAME_MAX_CHARS + 1];
    uint64_t size_bytes;
    bool fresh;
};

struct begin {
    struct receive what;
    char vm[NAME_MAX_CHARS + 1]; /* the target */
    uint8_t from_guid[GUID_BYTES];
    bool incremental;
    bool memory, memory_whole; /* it comes with memory: not as the difference */
    int role;
    uint64_t bytes; /* of data to come, about */
    struct wanted_disk *disks;
    unsigned n_disks;
    char from[NAME_MAX_CHARS + 1]; /* the version that has from_guid */
    struct store_version memory_from;
};

static void take_size(xmlrpc_env *env, const char *text, uint64_t *out)
{
    if (env->fault_occurred)
        return;
    if (!text || size_parse_decimal(text, out) < 0 || *out < DISK_MIN || *out % 512 ||
        *out > DISK_MAX_BYTES)
        api_fault(env, FAULT_BAD_SIZE, "a disk cannot have \"%.40s\" bytes", text ? text : "");
}

static void take_disks(xmlrpc_env *env, xmlrpc_value *args, struct begin *b)
{
    xmlrpc_value *array;

    if (env->fault_occurred)
        return;
    xmlrpc_array_read_item(env, args, 2, &array);
    if (env->fault_occurred)
        return;
    unsigned n = api_count(array);
    b->disks = calloc(n + 1, sizeof(*b->disks));
    if (!b->disks)
        api_fault(env, FAULT_NO_MEMORY, "no memory");
    for (; b->n_disks < n && !env->fault_occurred; b->n_disks++) {
        struct wanted_disk *disk = &b->disks[b->n_disks];
        const char *name = "", *size = NULL;
        const struct api_option specs[] = {
            {"name", 's', &name}, {"size", 's', &size}, {"fresh", 'b', &disk->fresh}, {}};
        xmlrpc_value *item;
        xmlrpc_array_read_item(env, array, b->n_disks, &item);
        bool is_struct = !env->fault_occurred && xmlrpc_value_type(item) == XMLRPC_TYPE_STRUCT;
        if (!env->fault_occurred)
            xmlrpc_DECREF(item); /* array keeps it */
        if (!env->fault_occurred && !is_struct)
            api_fault(env, FAULT_BAD_ARGUMENT, "argument 3 is an array of structs");
        api_take_options(env, "recv.begin", array, b->n_disks, specs);
        api_take_name(env, "disk name", name, disk->name);
        take_size(env, size, &disk->size_bytes);
    }
    xmlrpc_DECREF(array); /* args keeps it */
}

static void take_memory(xmlrpc_env *env, const char *text, struct begin *b)
{
    if (env->fault_occurred)
        return;
    b->memory = text != NULL;
    b->memory_whole = text && !strcmp(text, "whole");
    if (text && !b->memory_whole && (strcmp(text, "difference") != 0 || !b->incremental))
        api_fault(
            env, FAULT_BAD_ARGUMENT,
            "memory comes as \"whole\" or, with from_guid, as \"difference\", not as \"%.40s\"",
            text);
    else if (text && b->what.consistency != CONSISTENCY_RAM)
        api_fault(env, FAULT_BAD_ARGUMENT, "a version with memory has the consistency ram");
    else if (!text && b->what.consistency == CONSISTENCY_RAM)
        b->what.consistency = CONSISTENCY_CRASH; /* so it is, without its memory */
}

static void take_begin(xmlrpc_env *env, xmlrpc_value *args, struct begin *b)
{
    const char *version = "", *guid = "", *from_guid = NULL, *note = "", *consistency = NULL;
    const char *bytes = NULL, *created = NULL, *memory = NULL;
    const struct api_option specs[] = {{"version", 's', &version},
                                       {"guid", 's', &guid},
                                       {"from_guid", 's', &from_guid},
                                       {"note", 's', &note},
                                       {"consistency", 's', &consistency},
                                       {"role", 'i', &b->role},
                                       {"bytes", 's', &bytes},
                                       {"created_us", 's', &created},
                                       {"memory", 's', &memory},
                                       {"force", 'b', &b->what.force},
                                       {}};

    api_take_name(env, "vm name", api_text(env, args, 0), b->vm);
    api_take_options(env, "recv.begin", args, 1, specs);
    api_take_version(env, version, b->what.version);
    take_guid(env, guid, b->what.guid);
    take_guid(env, from_guid, b->from_guid);
    take_consistency(env, consistency, &b->what.consistency);
    take_created(env, created, &b->what.created_us);
    b->incremental = from_guid != NULL;
    take_memory(env, memory, b);
    if (!env->fault_occurred && strlen(note) > NOTE_MAX_BYTES)
        api_fault(env, FAULT_BAD_ARGUMENT, "the note is longer than %u bytes", NOTE_MAX_BYTES);
    if (!env->fault_occurred && bytes && size_parse_decimal(bytes, &b->bytes) < 0)
        api_fault(env, FAULT_BAD_ARGUMENT, "\"%.40s\" is no number of bytes", bytes);
    if (!env->fault_occurred && (b->role < ROLE_GENERIC || b->role > ROLE_BALANCER))
        b->role = ROLE_GENERIC; /* a newer Varve's */
    if (!env->fault_occurred)
        strcpy(b->what.note, note);
    take_disks(env, args, b);
}

/* ---- recv.begin: whether it fits ------------------------------------------------------------ */

struct fit {
    const struct begin *begin;
    struct engine_call *call;
    struct version_info *versions; /* of all vms */
    uint32_t n;
    struct vm_info *vms;
    uint32_t n_vms;
    uint64_t available;
    int result;
};

static void on_fit(struct engine_call *call)
{
    struct fit *fit = call->arg;
    struct store_space space;

    store_space(call->store, &space);
    fit->available = space.available;
    fit->result = store_list(call->store, &fit->vms, &fit->n_vms);
    if (fit->result == 0)
        fit->result =
            store_list_versions(call->store, NULL, NULL, true, UINT32_MAX, &fit->versions, &fit->n);
    engine_call_done(call);
}

static const struct vm_info *find_vm(const struct fit *fit, const char *name)
{
    for (uint32_t i = 0; i < fit->n_vms; i++)
        if (!strcmp(fit->vms[i].name, name))
            return &fit->vms[i];
    return NULL;
}

static const struct version_info *find_guid(const struct fit *fit, const char *vm,
                                            const uint8_t guid[GUID_BYTES])
{
    for (uint32_t i = 0; i < fit->n; i++)
        if ((!vm || !strcmp(fit->versions[i].vm, vm)) &&
            !memcmp(fit->versions[i].guid, guid, GUID_BYTES))
            return &fit->versions[i];
    return NULL;
}

static void fault_no_from(xmlrpc_env *env, const struct fit *fit)
{
    const char *vm = fit->begin->vm;
    const struct version_info *other = find_guid(fit, NULL, fit->begin->from_guid);

    if (other)
        api_fault(env, FAULT_NO_VERSION,
                  "the stream goes on from \"%s@%s\", so it is one of another vm than \"%s\"; "
                  "receive it with: varve recv %s",
                  other->vm, other->name, vm, other->vm);
    else
        api_fault(env, FAULT_NO_VERSION,
                  "the version that the stream goes on from is not here; send from one that vm "
                  "\"%s\" has (see varve ls %s), or in full",
                  vm, vm);
}

static void check_incremental(xmlrpc_env *env, const struct fit *fit, struct begin *b)
{
    const struct vm_info *vm = find_vm(fit, b->vm);
    const struct version_info *from = find_guid(fit, b->vm, b->from_guid);
    uint32_t users = 0;

    if (!vm || vm->provisional) {
        api_fault(env, FAULT_NOT_FOUND,
                  "there is no vm \"%s\" for this stream, which has only what changed in it; name "
                  "another, or receive a full stream first",
                  b->vm);
        return;
    }
    if (!from) {
        fault_no_from(env, fit);
        return;
    }
    strcpy(b->from, from->name);
    for (uint32_t i = 0; i < vm->n_disks; i++)
        users += vm->disks[i].users;
    if (users)
        api_fault(env, FAULT_BUSY,
                  "vm \"%s\" is in use by %u client(s), and its disks are to be replaced; stop the "
                  "machine or disconnect them",
                  b->vm, users);
}

static void check_fit(xmlrpc_env *env, const struct fit *fit, struct begin *b)
{
    char need[SIZE_TEXT_CHARS], have[SIZE_TEXT_CHARS];
    const struct version_info *same = find_guid(fit, b->vm, b->what.guid);

    if (same) {
        api_fault(env, FAULT_EXISTS, "vm \"%s\" has this version already, as \"%s@%s\"", b->vm,
                  same->vm, same->name);
        return;
    }
    for (uint32_t i = 0; i < fit->n; i++)
        if (b->incremental && !strcmp(fit->versions[i].vm, b->vm) &&
            !strcmp(fit->versions[i].name, b->what.version)) {
            api_fault(env, FAULT_EXISTS,
                      "there is another version \"%s@%s\" already; rename it with: varve rename "
                      "%s@%s NEW",
                      b->vm, b->what.version, b->vm, b->what.version);
            return;
        }
    if (b->incremental)
        check_incremental(env, fit, b);
    else if (find_vm(fit, b->vm))
        api_fault(env, FAULT_EXISTS,
                  "there is a vm \"%s\" already, and the stream is a full one; choose another name "
                  "with: varve recv NEWNAME",
                  b->vm);
    if (!env->fault_occurred && b->bytes > fit->available)
        api_fault(env, FAULT_STORE_FULL,
                  "there is not enough space: the stream has %s of data, and the store has room "
                  "for %s; see varve df",
                  size_format(b->bytes, need), size_format(fit->available, have));
}

/* Where the memory is that the stream's goes on from. */
static void find_memory_from(xmlrpc_env *env, struct api *api, struct begin *b)
{
    struct memory_list list;

    if (env->fault_occurred || !b->memory || b->memory_whole)
        return;
    int r = memory_list_get(api->engine, &list);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
        return;
    }
    const struct version_info *from = memory_list_version(&list, b->vm, b->from);
    const struct version_info *memory =
        from && from->consistency == CONSISTENCY_RAM ? memory_list_find(&list, b->from_guid) : NULL;
    if (memory) {
        strcpy(b->memory_from.vm, memory->vm);
        strcpy(b->memory_from.version, memory->name);
    } else {
        api_fault(env, FAULT_NO_VERSION,
                  "the stream has what changed in the memory since \"%s@%s\", which came here "
                  "without its memory; send the disks alone with --no-memory, or in full",
                  b->vm, b->from);
    }
    memory_list_free(&list);
}

/* ---- recv.begin: whether the target has changed --------------------------------------------- */

struct head_look {
    const struct begin *begin;
    int result;
};

static void on_head(struct engine_call *call)
{
    struct head_look *l = call->arg;

    l->result = store_head_is(call->store, l->begin->vm, l->begin->from);
    engine_call_done(call);
}

/* What recv.finish will ask once more. That it cannot be told yet lasts for a moment; if it is
 * more, recv.finish waits for it. */
static void check_unchanged(xmlrpc_env *env, struct api *api, const struct begin *b)
{
    struct head_look l = {.begin = b};
    int r;

    for (unsigned i = 0; (r = engine_ask(api->engine, on_head, &l, &l.result)) == -EAGAIN; i++) {
        if (i == HEAD_TRIES)
            return;
        usleep(HEAD_PAUSE_US);
    }
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "cannot compare \"%s\" with \"%s@%s\": %s", b->vm,
                  b->vm, b->from, err_text(r));
    else if (r == 0)
        api_fault(env, FAULT_CHANGED,
                  "vm \"%s\" has changed since \"%s@%s\", which the stream goes on from; keep the "
                  "changes with varve snap %s and drop them from the vm with varve rollback %s@%s, "
                  "or replace them with --force",
                  b->vm, b->vm, b->from, b->vm, b->vm, b->from);
}

/* ---- recv.begin: the provisional vm --------------------------------------------------------- */

static const struct wanted_disk *find_wanted(const struct begin *b, const char *name)
{
    for (unsigned i = 0; i < b->n_disks; i++)
        if (!strcmp(b->disks[i].name, name))
            return &b->disks[i];
    return NULL;
}

static void disk_change(xmlrpc_env *env, struct api *api, const struct begin *b,
                        enum change_kind kind, const char *disk, uint64_t size_bytes)
{
    struct store_change c = {.kind = kind, .size_bytes = size_bytes};

    strcpy(c.vm, b->what.vm);
    strcpy(c.disk, disk);
    api_change(env, api, &c);
}

/* The clone's disks become those of the stream. from: the version that it is a clone of. */
static void fit_disks(xmlrpc_env *env, struct api *api, const struct begin *b,
                      const struct version_info *from)
{
    for (uint32_t i = 0; from && i < from->n_disks; i++) {
        const struct disk_info *have = &from->disks[i];
        const struct wanted_disk *disk = find_wanted(b, have->name);
        if (!disk || disk->fresh)
            disk_change(env, api, b, CHANGE_DISK_REMOVE, have->name, 0);
        else if (disk->size_bytes != have->size_bytes)
            disk_change(env, api, b, CHANGE_DISK_RESIZE, have->name, disk->size_bytes);
    }
    for (unsigned i = 0; i < b->n_disks; i++) {
        const struct wanted_disk *disk = &b->disks[i];
        bool there = false;
        for (uint32_t k = 0; from && !disk->fresh && k < from->n_disks; k++)
            there |= !strcmp(from->disks[k].name, disk->name);
        if (!there)
            disk_change(env, api, b, CHANGE_DISK_ADD, disk->name, disk->size_bytes);
    }
}

static void random_name(xmlrpc_env *env, char out[NAME_MAX_CHARS + 1])
{
    uint64_t number;

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        api_fault(env, FAULT_FAILED, "the system has no random number");
    else
        snprintf(out, NAME_MAX_CHARS + 1, "recv-%016" PRIx64, number);
}

/* The provisional vm for the memory. */
static void make_memory(xmlrpc_env *env, struct api *api, struct begin *b)
{
    struct store_change c = {.kind = b->memory_whole ? CHANGE_VM_CREATE : CHANGE_CLONE,
                             .provisional = true,
                             .memory = true};
    char name[NAME_MAX_CHARS + 1];

    if (env->fault_occurred || !b->memory)
        return;
    if (!memory_vm_name(name)) {
        api_fault(env, FAULT_FAILED, "the system has no random number");
        return;
    }
    strcpy(b->memory_whole ? c.vm : c.new_name, name);
    if (!b->memory_whole) {
        strcpy(c.vm, b->memory_from.vm);
        strcpy(c.version, b->memory_from.version);
    }
    api_change(env, api, &c);
    if (env->fault_occurred)
        return;
    strcpy(b->what.memory_vm, name);
    if (!b->memory_whole)
        return;
    c = (struct store_change){.kind = CHANGE_DISK_ADD, .size_bytes = MEMORY_DISK_BYTES};
    strcpy(c.vm, name);
    strcpy(c.disk, MEMORY_DISK_NAME);
    api_change(env, api, &c);
}

static void make_provisional(xmlrpc_env *env, struct api *api, struct begin *b,
                             const struct fit *fit)
{
    struct store_change c = {.kind = CHANGE_VM_CREATE, .role = (enum vm_role)b->role};

    if (b->incremental) {
        c.kind = CHANGE_CLONE;
        strcpy(b->what.target, b->vm);
        strcpy(b->what.from, b->from);
        random_name(env, b->what.vm);
        strcpy(c.vm, b->vm);
        strcpy(c.version, b->from);
        strcpy(c.new_name, b->what.vm);
        memcpy(c.guid, b->from_guid, sizeof(c.guid));
    } else {
        strcpy(b->what.vm, b->vm);
        strcpy(c.vm, b->vm);
    }
    c.provisional = true;
    api_change(env, api, &c);
    if (env->fault_occurred)
        return;
    fit_disks(env, api, b, b->incremental ? find_guid(fit, b->vm, b->from_guid) : NULL);
    make_memory(env, api, b);
    if (!env->fault_occurred) {
        int r = receives_add(api->receives, &b->what);
        if (r == -EAGAIN)
            api_fault(env, FAULT_BUSY, "%u streams are being received already; try again later",
                      RECEIVES_MAX);
        else if (r == ERR_NO_VERSION)
            api_fault(
                env, FAULT_NO_VERSION,
                "version \"%s@%s\", which the stream goes on from, has been removed or renamed "
                "just now; receive it again",
                b->vm, b->from);
        else if (r < 0)
            api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
    }
    if (env->fault_occurred)
        api_recv_undo(api, &b->what);
}

static xmlrpc_value *recv_begin(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct begin b = {};
    struct fit fit = {.begin = &b};
    xmlrpc_value *value = NULL;

    take_begin(env, args, &b);
    int r = env->fault_occurred ? 0 : engine_ask(api->engine, on_fit, &fit, &fit.result);
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
    if (!env->fault_occurred)
        check_fit(env, &fit, &b);
    find_memory_from(env, api, &b);
    if (!env->fault_occurred && b.incremental && !b.what.force)
        check_unchanged(env, api, &b);
    if (!env->fault_occurred)
        make_provisional(env, api, &b, &fit);
    if (!env->fault_occurred) {
        value = xmlrpc_struct_new(env);
        api_put_text(env, value, "vm", b.what.vm);
        api_put_text(env, value, "memory_vm", b.what.memory_vm);
        api_put_text(env, value, "from", b.from);
    }
    free(fit.vms);
    free(fit.versions);
    free(b.disks);
    return api_result(env, value);
}

const struct method api_recv_methods[] = {
    {"recv.begin", "S:sSA", "vm, options, disks",
     "Make a provisional vm for a version that comes in, to be written over NBD. Options: version "
     "(its name), guid, from_guid (of the version of vm that it goes on from; absent: vm is made "
     "new), note, consistency (crash, filesystem, application, ram), role (a number), bytes (of "
     "data, about), created_us (when the version was taken: microseconds of UTC since 1970; absent "
     "or "
     "0: now), force (also if vm has changed since that version), memory (whole, or difference to "
     "that of the older version: it comes with a machine's memory; absent: the consistency ram "
     "becomes crash). Each disk: {name, size, "
     "fresh (true: nothing of the version's disk)}. Returns {vm (to be written), memory_vm (whose "
     "disk \"memory\" is to be written; empty: none), from (the name of "
     "the version)}. The vm vanishes when no client has been connected to it for 10 seconds.",
     recv_begin},
    {},
};
