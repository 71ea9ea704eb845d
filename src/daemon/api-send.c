/* api-send.c - what varve send has to know of a version before it reads its data over NBD. */
#include "base/err.h"
#include "daemon/api-change.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/memory-list.h"
#include "daemon/memory-names.h"
#include "daemon/restore-source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUID_CHARS (2 * GUID_BYTES)

static void put_guid(xmlrpc_env *env, xmlrpc_value *strct, const char *key,
                     const uint8_t guid[GUID_BYTES])
{
    char text[GUID_CHARS + 1];

    for (unsigned i = 0; i < GUID_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", guid[i]);
    api_put_text(env, strct, key, text);
}

/* What is read on the engine's thread in one go. */
struct look {
    const char *vm, *version, *from; /* from: NULL or a version */
    struct version_info *versions;
    uint32_t n;
    const struct version_info *of, *base; /* among versions */
    bool *related;                        /* for each disk of `of` */
    enum vm_role role;
    int result;
};

static void look_at_role(struct store *store, struct look *l)
{
    struct vm_info *vms;
    uint32_t n;

    l->result = store_list(store, &vms, &n);
    if (l->result < 0)
        return;
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(vms[i].name, l->vm))
            l->role = vms[i].role;
    free(vms);
}

static void look_at_disks(struct store *store, struct look *l)
{
    l->related = calloc(l->of->n_disks + 1, sizeof(*l->related));
    if (!l->related) {
        l->result = -ENOMEM;
        return;
    }
    for (uint32_t i = 0; l->base && i < l->of->n_disks; i++) {
        const char *name = l->of->disks[i].name;
        struct disk *disk = store_find_version_disk(store, l->vm, l->version, name);
        struct disk *base = store_find_version_disk(store, l->vm, l->from, name);
        l->related[i] = disk && base && disk_is_related(disk, base);
    }
}

static void on_look(struct engine_call *call)
{
    struct look *l = call->arg;

    l->result =
        store_list_versions(call->store, l->vm, NULL, true, UINT32_MAX, &l->versions, &l->n);
    for (uint32_t i = 0; l->result == 0 && i < l->n; i++) {
        if (!strcmp(l->versions[i].name, l->version))
            l->of = &l->versions[i];
        if (l->from && !strcmp(l->versions[i].name, l->from))
            l->base = &l->versions[i];
    }
    if (l->result == 0)
        look_at_role(call->store, l);
    if (l->result == 0 && l->of)
        look_at_disks(call->store, l);
    engine_call_done(call);
}

static void look_fault(xmlrpc_env *env, const struct look *l)
{
    if (env->fault_occurred)
        return;
    if (l->result == -ENOENT)
        api_fault(env, FAULT_NOT_FOUND, "there is no vm \"%s\"; see varve ls", l->vm);
    else if (l->result < 0)
        api_fault(env, (int)fault_from_code(l->result), "%s", err_text(l->result));
    else if (!l->of || (l->from && !l->base))
        api_fault(env, FAULT_NO_VERSION, "vm \"%s\" has no version \"%s\"; see varve ls %s", l->vm,
                  l->of ? l->from : l->version, l->vm);
    else if (l->base && l->base->id >= l->of->id)
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "version \"%s@%s\" is not older than \"%s@%s\"; send from one that is", l->vm,
                  l->from, l->vm, l->version);
}

static xmlrpc_value *look_value(xmlrpc_env *env, const struct look *l)
{
    xmlrpc_value *value = xmlrpc_struct_new(env), *disks = xmlrpc_array_new(env);
    static const uint8_t no_guid[GUID_BYTES];

    for (uint32_t i = 0; i < l->of->n_disks && !env->fault_occurred; i++) {
        xmlrpc_value *disk = xmlrpc_struct_new(env);
        api_put_text(env, disk, "name", l->of->disks[i].name);
        api_put_u64(env, disk, "size", l->of->disks[i].size_bytes);
        api_put_u64(env, disk, "used", l->of->disks[i].used_bytes);
        api_put_bool(env, disk, "related", l->related[i]);
        api_append(env, disks, disk);
    }
    put_guid(env, value, "guid", l->of->guid);
    put_guid(env, value, "from_guid", l->base ? l->base->guid : no_guid);
    api_put_text(env, value, "note", l->of->note);
    api_put_int(env, value, "consistency", (int)l->of->consistency);
    api_put_int(env, value, "role", (int)l->role);
    api_put_u64(env, value, "created_us", l->of->created_us);
    api_put(env, value, "disks", disks);
    return value;
}

/* ---- its memory ----------------------------------------------------------------------------- */

/* Where it is, and what it is sent as the difference to. */
struct memory_look {
    struct memory_list list;
    const struct version_info *of, *base; /* base: NULL: it goes whole */
    bool related;
    int result;
};

static void on_memory(struct engine_call *call)
{
    struct memory_look *m = call->arg;
    const struct disk *disk, *base = NULL;

    disk = m->of ? store_find_version_disk(call->store, m->of->vm, m->of->name, MEMORY_DISK_NAME)
                 : NULL;
    if (m->base)
        base = store_find_version_disk(call->store, m->base->vm, m->base->name, MEMORY_DISK_NAME);
    m->related = disk && base && disk_is_related(disk, base);
    engine_call_done(call);
}

static int find_memory(struct api *api, const struct look *l, struct memory_look *m)
{
    int r = memory_list_get(api->engine, &m->list);

    if (r < 0)
        return r;
    m->of = memory_list_find(&m->list, l->of->guid);
    if (l->base && l->base->consistency == CONSISTENCY_RAM)
        m->base = memory_list_find(&m->list, l->base->guid);
    r = engine_call(api->engine, on_memory, m);
    if (!m->related)
        m->base = NULL;
    return r < 0 ? r : m->of ? 0 : -ENOENT;
}

static void put_memory(xmlrpc_env *env, xmlrpc_value *value, const struct memory_look *m,
                       uint64_t bytes)
{
    xmlrpc_value *memory = xmlrpc_struct_new(env);

    api_put_text(env, memory, "vm", m->of->vm);
    api_put_text(env, memory, "version", m->of->name);
    api_put_u64(env, memory, "size", bytes);
    api_put_u64(env, memory, "used", m->of->used_bytes);
    if (m->base) {
        api_put_text(env, memory, "from_vm", m->base->vm);
        api_put_text(env, memory, "from_version", m->base->name);
    }
    api_put(env, value, "memory", memory);
}

/* What cannot go on here is not sent either. */
static void add_memory(xmlrpc_env *env, struct api *api, const struct look *l, xmlrpc_value *value)
{
    struct memory_look m = {};
    struct restore_source *source = NULL;
    struct why why = {};

    if (env->fault_occurred || l->of->consistency != CONSISTENCY_RAM)
        return;
    int r = find_memory(api, l, &m);
    if (r < 0 && r != -ENOENT)
        why_set(&why, r, "the RAM of %s@%s cannot be opened: %s", l->vm, l->version, err_text(r));
    else
        r = restore_source_open(api->engine, l->vm, l->version, false, &source, &why);
    if (r < 0 || !m.of)
        api_put_text(env, value, "memory_error", why.text);
    else
        put_memory(env, value, &m, memory_image_end(source->image));
    restore_source_close(source);
    memory_list_free(&m.list);
}

static xmlrpc_value *send_info(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    char vm[NAME_MAX_CHARS + 1] = "", version[NAME_MAX_CHARS + 1] = "";
    char from[NAME_MAX_CHARS + 1] = "";
    struct look l = {.vm = vm, .version = version};
    xmlrpc_value *value = NULL;

    api_take_name(env, "vm name", api_text(env, args, 0), vm);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 1), version);
    if (!env->fault_occurred && api_count(args) > 2) {
        api_take_version(env, api_text(env, args, 2), from);
        l.from = from;
    }
    int r = env->fault_occurred ? 0 : engine_call(api->engine, on_look, &l);
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "%s", err_text(r));
    look_fault(env, &l);
    if (!env->fault_occurred)
        value = look_value(env, &l);
    if (!env->fault_occurred)
        add_memory(env, api, &l, value);
    free(l.versions);
    free(l.related);
    return api_result(env, value);
}

const struct method api_send_methods[] = {
    {"send.info", "S:ss,S:sss", "vm, version, from",
     "What a stream of a version, or of its difference to the older version from, begins with: "
     "{guid, from_guid (zeros without from), note, consistency and role (as numbers, see "
     "docs/format-send.md), created_us, disks: [{name, size, used, related (to the disk of this "
     "name in from)}]}, and of a version with RAM memory: {vm, version (whose disk \"memory\" has "
     "it), size, used, from_vm, from_version (what it is sent as the difference to; both absent: "
     "whole)}, or memory_error, a sentence.",
     send_info},
    {},
};
