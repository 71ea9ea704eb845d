/* api-version-list.c - methods that show versions. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "base/size.h"
#include "base/text.h"
#include "daemon/api-change.h"
#include "daemon/api-machine.h"
#include "daemon/api-version.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/measure.h"
#include "daemon/memory-list.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_VERSIONS   1000
#define MEASURE_SECONDS 2 /* for one page of a list */

const char *api_consistency_word(enum consistency consistency)
{
    switch (consistency) {
    case CONSISTENCY_CRASH:
        return "crash";
    case CONSISTENCY_FILESYSTEM:
        return "filesystem";
    case CONSISTENCY_APPLICATION:
        return "application";
    case CONSISTENCY_RAM:
        return "ram";
    }
    return "unknown"; /* a newer store's */
}

static void put_origin(xmlrpc_env *env, xmlrpc_value *value, const char *vm, const char *version)
{
    char text[2 * NAME_MAX_CHARS + 2] = "";

    if (*version)
        snprintf(text, sizeof(text), "%s@%s", vm, version);
    api_put_text(env, value, "origin", text);
}

static xmlrpc_value *disks_value(xmlrpc_env *env, const struct version_info *v)
{
    xmlrpc_value *disks = xmlrpc_array_new(env);

    for (uint32_t i = 0; i < v->n_disks && !env->fault_occurred; i++) {
        xmlrpc_value *disk = xmlrpc_struct_new(env);
        api_put_text(env, disk, "name", v->disks[i].name);
        api_put_u64(env, disk, "size", v->disks[i].size_bytes);
        api_put_u64(env, disk, "used", v->disks[i].used_bytes);
        api_put_int(env, disk, "users", (int)v->disks[i].users);
        api_append(env, disks, disk);
    }
    return disks;
}

/* What the memory of a version is. */
struct memory_use {
    bool known; /* it has one */
    uint64_t used_bytes, exclusive_bytes;
};

static uint64_t rest(uint64_t used, uint64_t exclusive)
{
    return used > exclusive ? used - exclusive : 0;
}

static xmlrpc_value *memory_value(xmlrpc_env *env, const struct memory_use *m)
{
    xmlrpc_value *value = xmlrpc_struct_new(env);

    api_put_u64(env, value, "used", m->used_bytes);
    if (m->exclusive_bytes != BYTES_UNKNOWN) {
        api_put_u64(env, value, "exclusive", m->exclusive_bytes);
        api_put_u64(env, value, "shared", rest(m->used_bytes, m->exclusive_bytes));
    }
    return value;
}

static xmlrpc_value *version_value(xmlrpc_env *env, const struct version_info *v,
                                   const struct memory_use *m)
{
    xmlrpc_value *value = xmlrpc_struct_new(env);
    char guid[2 * GUID_BYTES + 1];

    for (unsigned i = 0; i < GUID_BYTES; i++)
        snprintf(guid + 2 * i, 3, "%02x", v->guid[i]);
    api_put_text(env, value, "vm", v->vm);
    api_put_text(env, value, "name", v->name);
    api_put_u64(env, value, "id", v->id);
    api_put_text(env, value, "guid", guid);
    api_put_time(env, value, "created", v->created_us);
    api_put_bool(env, value, "received", v->received);
    api_put_text(env, value, "consistency", api_consistency_word(v->consistency));
    put_origin(env, value, v->origin_vm, v->origin);
    api_put_bool(env, value, "held", v->held);
    api_put_int(env, value, "users", (int)v->users);
    uint64_t used = v->used_bytes + (m->known ? m->used_bytes : 0);
    bool measured =
        v->exclusive_bytes != BYTES_UNKNOWN && (!m->known || m->exclusive_bytes != BYTES_UNKNOWN);
    api_put_u64(env, value, "used", used);
    if (measured) {
        uint64_t exclusive = v->exclusive_bytes + (m->known ? m->exclusive_bytes : 0);
        api_put_u64(env, value, "exclusive", exclusive);
        api_put_u64(env, value, "shared", rest(used, exclusive));
    }
    if (m->known)
        api_put(env, value, "memory", memory_value(env, m));
    api_put_text(env, value, "note", v->note);
    api_put(env, value, "disks", disks_value(env, v));
    return value;
}

/* What removing it would free of the disks, and of its memory: each is looked for, as long as there
 * is time. list: NULL where no version of the answer has RAM. */
static void measure(struct api *api, struct version_info *v, const struct memory_list *list,
                    bool wanted, uint64_t deadline_us, struct memory_use *ret)
{
    const struct version_info *memory =
        list && v->consistency == CONSISTENCY_RAM ? memory_list_find(list, v->guid) : NULL;
    const char *names[] = {v->name}, *memory_names[] = {memory ? memory->name : NULL};
    struct store_version *going = NULL;
    uint32_t n_going = 0;

    *ret = (struct memory_use){.known = memory != NULL,
                               .used_bytes = memory ? memory->used_bytes : 0,
                               .exclusive_bytes = BYTES_UNKNOWN};
    if (!wanted || mono_us() >= deadline_us)
        return;
    /* Damage is what check tells of. */
    if (measure_versions(api->engine, v->vm, names, 1, NULL, 0, deadline_us, &v->exclusive_bytes) <
        0)
        v->exclusive_bytes = BYTES_UNKNOWN;
    if (!memory || mono_us() >= deadline_us ||
        memory_list_going(list, v->vm, names, 1, &going, &n_going) < 0)
        return;
    if (n_going == 0)
        ret->exclusive_bytes = 0; /* it is another version's, too */
    else if (measure_versions(api->engine, memory->vm, memory_names, 1, NULL, 0, deadline_us,
                              &ret->exclusive_bytes) < 0)
        ret->exclusive_bytes = BYTES_UNKNOWN;
    free(going);
}

/* *ret is empty where no version has RAM. */
static void get_memory(xmlrpc_env *env, struct api *api, const struct version_listing *l,
                       struct memory_list *ret)
{
    bool any = false;

    *ret = (struct memory_list){};
    for (uint32_t i = 0; i < l->n; i++)
        any |= l->versions[i].consistency == CONSISTENCY_RAM;
    int r = any && !env->fault_occurred ? memory_list_get(api->engine, ret) : 0;
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "cannot list the memory of the versions: %s",
                  err_text(r));
}

/* ---- version.list --------------------------------------------------------------------------- */

/* Where a page ends: "VM@ID". */
static void take_place(xmlrpc_env *env, const char *text, struct version_place *place)
{
    const char *at = text ? strchr(text, '@') : NULL;
    uint64_t id = 0;

    if (!text || env->fault_occurred)
        return;
    if (!at || at - text > (long)NAME_MAX_CHARS || size_parse_decimal(at + 1, &id) < 0 ||
        id > UINT32_MAX) {
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "\"%.*s\" is no place in a list; give \"after\" the \"next\" of the last answer",
                  text_cut(text, 80), text);
        return;
    }
    memcpy(place->vm, text, (size_t)(at - text));
    place->id = (uint32_t)id;
}

/* l: one more than a page has, if there are more. */
static xmlrpc_value *page(xmlrpc_env *env, struct api *api, const struct version_listing *l,
                          bool measured)
{
    xmlrpc_value *value = xmlrpc_struct_new(env), *versions = xmlrpc_array_new(env);
    uint64_t deadline_us = mono_us() + MEASURE_SECONDS * 1000000ULL;
    char next[NAME_MAX_CHARS + 16] = "";
    struct memory_list list;
    struct memory_use use;
    uint32_t i = 0;

    get_memory(env, api, l, &list);
    for (; i < l->n && i < PAGE_VERSIONS && !env->fault_occurred; i++) {
        measure(api, &l->versions[i], &list, measured, deadline_us, &use);
        api_append(env, versions, version_value(env, &l->versions[i], &use));
    }
    memory_list_free(&list);
    api_put(env, value, "versions", versions);
    if (i < l->n && i > 0)
        snprintf(next, sizeof(next), "%s@%" PRIu32, l->versions[i - 1].vm, l->versions[i - 1].id);
    api_put_text(env, value, "next", next);
    return api_result(env, value);
}

static xmlrpc_value *version_list(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    char vm[NAME_MAX_CHARS + 1] = "";
    const char *name = api_text(env, args, 0), *after = NULL;
    bool measured = false;
    const struct api_option options[] = {{"after", 's', &after}, {"measure", 'b', &measured}, {}};
    struct version_place place = {};
    struct version_listing l = {.max = PAGE_VERSIONS + 1};

    if (name && *name)
        api_take_name(env, "vm name", name, vm);
    api_take_options(env, "version.list", args, 1, options);
    take_place(env, after, &place);
    l.vm = *vm ? vm : NULL;
    l.after = after ? &place : NULL;
    if (env->fault_occurred || !api_list_versions(env, api, &l))
        return NULL;
    xmlrpc_value *value = page(env, api, &l, measured);
    free(l.versions);
    return value;
}

static xmlrpc_value *version_show(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    char vm[NAME_MAX_CHARS + 1] = "", name[NAME_MAX_CHARS + 1] = "";
    struct version_listing l = {.vm = vm};
    xmlrpc_value *value = NULL;
    struct memory_list list;
    struct memory_use use;

    api_take_name(env, "vm name", api_text(env, args, 0), vm);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 1), name);
    if (!api_list_versions(env, api, &l))
        return NULL;
    get_memory(env, api, &l, &list);
    for (uint32_t i = 0; i < l.n && !value && !env->fault_occurred; i++) {
        if (strcmp(l.versions[i].name, name))
            continue;
        measure(api, &l.versions[i], &list, true, mono_us() + MEASURE_SECONDS * 1000000ULL, &use);
        value = version_value(env, &l.versions[i], &use);
        if (l.versions[i].consistency == CONSISTENCY_RAM)
            api_put_checkpoint(env, api, value, vm, name);
    }
    memory_list_free(&list);
    free(l.versions);
    if (!value && !env->fault_occurred)
        api_fault(env, FAULT_NO_VERSION, "vm \"%s\" has no version \"%s\"; see varve ls %s", vm,
                  name, vm);
    return api_result(env, value);
}

#define VERSION_STRUCT                                                                             \
    "{vm, name, id (decimal; rises with age), guid (hexadecimal; the same in all stores), "        \
    "created, received (it came in a stream: created is when it was made where it came from), "    \
    "consistency (crash, filesystem, application, ram), origin (the version before it, "           \
    "maybe of another vm, as VM@NAME; empty: none, or removed), held, users, used (bytes that it " \
    "shows, its memory too), exclusive (bytes that its removal frees) and shared (the rest of "    \
    "used; both absent when that is not known), memory (of one with RAM, of these sums: {used, "   \
    "exclusive, shared}), note, "                                                                  \
    "disks: [{name, size, used, users}]}"

const struct method api_version_list_methods[] = {
    {"version.list", "S:s,S:sS", "vm, options",
     "The versions of a vm, or with an empty name of all, by vm and then by age, up to 1000 at a "
     "time. Options: after (next of the answer before), measure (true: find out what exclusive is, "
     "for up to two seconds). Returns {versions, next (empty: that is all)}, each version "
     "as " VERSION_STRUCT ".",
     version_list},
    {"version.show", "S:ss", "vm, version",
     "One version, as in version.list, measured; one with RAM also with "
     "machine: " API_CHECKPOINT_STRUCT " in microseconds and bytes, or machine_error, a sentence.",
     version_show},
    {},
};
