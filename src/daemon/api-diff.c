/* api-diff.c - methods that compare versions and vms. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/size.h"
#include "base/text.h"
#include "daemon/api-change.h"
#include "daemon/api-version.h"
#include "daemon/compare.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/memory-compare.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what there is to compare --------------------------------------------------------------- */

/* A version, or (version "") a vm as it is now. */
struct state {
    char vm[NAME_MAX_CHARS + 1], version[NAME_MAX_CHARS + 1];
    struct vm_info *vms; /* what info points into */
    struct version_info *versions;
    const struct disk_info *disks;
    uint32_t n_disks;
    bool has_ram;
    int result;
};

static void state_free(struct state *s)
{
    free(s->vms);
    free(s->versions);
}

static int look_at_version(struct store *store, struct state *s)
{
    uint32_t n;
    int r = store_list_versions(store, s->vm, NULL, true, UINT32_MAX, &s->versions, &n);

    for (uint32_t i = 0; r == 0 && i < n; i++)
        if (!strcmp(s->versions[i].name, s->version)) {
            s->disks = s->versions[i].disks;
            s->n_disks = s->versions[i].n_disks;
            s->has_ram = s->versions[i].consistency == CONSISTENCY_RAM;
            return 0;
        }
    return r < 0 ? r : ERR_NO_VERSION;
}

static int look_at(struct store *store, struct state *s)
{
    uint32_t n;

    if (*s->version)
        return look_at_version(store, s);
    int r = store_list(store, &s->vms, &n);
    for (uint32_t i = 0; r == 0 && i < n; i++)
        if (!strcmp(s->vms[i].name, s->vm)) {
            s->disks = s->vms[i].disks;
            s->n_disks = s->vms[i].n_disks;
            return 0;
        }
    return r < 0 ? r : -ENOENT;
}

static void on_look(struct engine_call *call)
{
    struct state *s = call->arg;

    s->result = look_at(call->store, s);
    engine_call_done(call);
}

static void state_fault(xmlrpc_env *env, const char *vm, const char *version, int r)
{
    int fault = (int)fault_from_code(r);

    if (r == ERR_NO_VERSION)
        api_fault(env, fault, "vm \"%s\" has no version \"%s\"; see varve ls %s", vm, version, vm);
    else if (r == -ENOENT)
        api_fault(env, fault, "there is no vm \"%s\"; see varve ls", vm);
    else
        api_fault(env, fault, "cannot look at %s: %s", vm, err_text(r));
}

/* Arguments i and i + 1: a vm, and a version or nothing. */
static void take_state(xmlrpc_env *env, xmlrpc_value *args, unsigned i, char *vm, char *version)
{
    const char *text;

    api_take_name(env, "vm name", env->fault_occurred ? NULL : api_text(env, args, i), vm);
    text = env->fault_occurred ? NULL : api_text(env, args, i + 1);
    if (text && *text)
        api_take_version(env, text, version);
}

static void look(xmlrpc_env *env, struct api *api, struct state *s)
{
    if (env->fault_occurred)
        return;
    int r = engine_ask(api->engine, on_look, s, &s->result);
    if (r < 0)
        state_fault(env, s->vm, s->version, r);
}

/* ---- vm.diff -------------------------------------------------------------------------------- */

/* Whether two disks have a common origin. */
struct relation {
    struct compare_disk from, to;
    bool related;
};

static const struct disk *find_disk(struct store *store, const struct compare_disk *name)
{
    if (*name->version)
        return store_find_version_disk(store, name->vm, name->version, name->disk);
    return store_find_disk(store, name->vm, name->disk);
}

static void on_relation(struct engine_call *call)
{
    struct relation *r = call->arg;
    const struct disk *from = find_disk(call->store, &r->from);
    const struct disk *to = find_disk(call->store, &r->to);

    r->related = from && to && disk_is_related(from, to);
    engine_call_done(call);
}

static bool is_related(struct api *api, const struct state *from, const struct state *to,
                       const char *disk)
{
    struct relation r = {};

    strcpy(r.from.vm, from->vm);
    strcpy(r.from.version, from->version);
    strcpy(r.from.disk, disk);
    strcpy(r.to.vm, to->vm);
    strcpy(r.to.version, to->version);
    strcpy(r.to.disk, disk);
    return engine_call(api->engine, on_relation, &r) == 0 && r.related;
}

static const struct disk_info *find_info(const struct state *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_disks; i++)
        if (!strcmp(s->disks[i].name, name))
            return &s->disks[i];
    return NULL;
}

static xmlrpc_value *disk_state(xmlrpc_env *env, const char *name, const char *word,
                                const struct disk_info *from, const struct disk_info *to)
{
    xmlrpc_value *value = xmlrpc_struct_new(env);

    api_put_text(env, value, "name", name);
    api_put_text(env, value, "state", word);
    if (from)
        api_put_u64(env, value, "from_size", from->size_bytes);
    if (to)
        api_put_u64(env, value, "to_size", to->size_bytes);
    return value;
}

/* The disks of both; *ret_related: how many can be compared. */
static xmlrpc_value *disk_states(xmlrpc_env *env, struct api *api, const struct state *from,
                                 const struct state *to, unsigned *ret_related)
{
    xmlrpc_value *disks = xmlrpc_array_new(env);

    *ret_related = 0;
    for (uint32_t i = 0; i < to->n_disks && !env->fault_occurred; i++) {
        const struct disk_info *disk = &to->disks[i], *old = find_info(from, disk->name);
        bool related = old && is_related(api, from, to, disk->name);
        *ret_related += related;
        api_append(env, disks,
                   disk_state(env, disk->name,
                              related ? "both"
                              : old   ? "replaced"
                                      : "added",
                              old, disk));
    }
    for (uint32_t i = 0; i < from->n_disks && !env->fault_occurred; i++)
        if (!find_info(to, from->disks[i].name))
            api_append(env, disks,
                       disk_state(env, from->disks[i].name, "removed", &from->disks[i], NULL));
    return disks;
}

static const char *memory_state(const struct state *from, const struct state *to)
{
    if (from->has_ram)
        return to->has_ram ? "both" : *to->version ? "removed" : "unknown";
    return to->has_ram ? "added" : "none";
}

static xmlrpc_value *vm_diff(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    _cleanup_(state_free) struct state from = {}, to = {};
    unsigned n_related;

    take_state(env, args, 0, from.vm, from.version);
    take_state(env, args, 2, to.vm, to.version);
    look(env, api, &from);
    look(env, api, &to);
    if (env->fault_occurred)
        return NULL;
    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put(env, value, "disks", disk_states(env, api, &from, &to, &n_related));
    api_put_text(env, value, "memory", memory_state(&from, &to));
    if (strcmp(from.vm, to.vm) && !n_related && !env->fault_occurred)
        api_fault(env, FAULT_UNRELATED,
                  "no disk of \"%s\" and \"%s\" has a common origin: what differs between them is "
                  "all of them",
                  from.vm, to.vm);
    return api_result(env, value);
}

/* ---- disk.diff ------------------------------------------------------------------------------ */

static xmlrpc_value *extents_value(xmlrpc_env *env, const struct compare *c)
{
    static const char *const words[] = {
        [COMPARE_DATA] = "data", [COMPARE_ZERO] = "zero", [COMPARE_DISCARDED] = "discarded"};
    xmlrpc_value *extents = xmlrpc_array_new(env);
    char text[24];

    for (uint32_t i = 0; i < c->n_extents && !env->fault_occurred; i++) {
        const struct compare_extent *e = &c->extents[i];
        xmlrpc_value *extent = xmlrpc_array_new(env);
        snprintf(text, sizeof(text), "%" PRIu64, e->offset);
        api_append(env, extent, api_string(env, text));
        snprintf(text, sizeof(text), "%" PRIu64, e->length);
        api_append(env, extent, api_string(env, text));
        api_append(env, extent, api_string(env, words[e->kind]));
        api_append(env, extents, extent);
    }
    return extents;
}

static void compare_fault(xmlrpc_env *env, const struct compare *c, int r)
{
    int fault = (int)fault_from_code(r);
    const struct compare_disk *disk = r == ERR_NO_VERSION ? &c->from : &c->to;

    if (fault == FAULT_NOT_FOUND || fault == FAULT_NO_VERSION)
        api_fault(env, FAULT_NOT_FOUND, "there is no disk \"%s/%s%s%s\"; see varve show %s",
                  disk->vm, disk->disk, *disk->version ? "@" : "", disk->version, disk->vm);
    else if (r == -EINVAL)
        api_fault(env, fault, "the disk ends before offset %" PRIu64, c->offset);
    else if (fault == FAULT_BUSY)
        api_fault(env, fault, "disk \"%s/%s\" is just being changed; try again", c->to.vm,
                  c->to.disk);
    else
        api_fault(env, fault, "cannot compare disk \"%s\": %s", c->to.disk, err_text(r));
}

static xmlrpc_value *disk_diff(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    _cleanup_free_ struct compare *c = calloc(1, sizeof(*c));
    const char *offset = NULL;
    char next[24] = "";
    bool whole = false;
    const struct api_option options[] = {{"offset", 's', &offset}, {"whole", 'b', &whole}, {}};

    if (!c) {
        api_fault(env, FAULT_NO_MEMORY, "no memory");
        return NULL;
    }
    take_state(env, args, 0, c->from.vm, c->from.version);
    take_state(env, args, 2, c->to.vm, c->to.version);
    api_take_name(env, "disk name", env->fault_occurred ? NULL : api_text(env, args, 4),
                  c->to.disk);
    api_take_options(env, "disk.diff", args, 5, options);
    if (offset && !env->fault_occurred && size_parse_decimal(offset, &c->offset) < 0)
        api_fault(env, FAULT_BAD_ARGUMENT, "\"%.*s\" is no offset in bytes", text_cut(offset, 40),
                  offset);
    if (env->fault_occurred)
        return NULL;
    strcpy(c->from.disk, c->to.disk);
    c->from_nothing = whole;
    int r = compare_disks(api->engine, c);
    if (r < 0) {
        compare_fault(env, c, r);
        return NULL;
    }
    if (!c->done)
        snprintf(next, sizeof(next), "%" PRIu64, c->offset);
    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put_u64(env, value, "size", c->size_bytes);
    api_put(env, value, "extents", extents_value(env, c));
    api_put_text(env, value, "next", next);
    return api_result(env, value);
}

/* ---- memory.diff ---------------------------------------------------------------------------- */

/* Where an answer ended: "BLOCK:OFFSET". */
static void take_memory_place(xmlrpc_env *env, const char *text, struct memory_compare *c)
{
    const char *colon = text ? strchr(text, ':') : NULL;
    char block[24] = "";
    uint64_t number = 0;

    if (!text || env->fault_occurred)
        return;
    if (colon && colon - text < (long)sizeof(block))
        memcpy(block, text, (size_t)(colon - text));
    if (!colon || size_parse_decimal(block, &number) < 0 || number > 2 * MEMORY_BLOCKS_MAX ||
        size_parse_decimal(colon + 1, &c->offset) < 0)
        api_fault(
            env, FAULT_BAD_ARGUMENT,
            "\"%.*s\" is no place in a memory; give \"after\" the \"next\" of the last answer",
            text_cut(text, 80), text);
    c->block = (unsigned)number;
}

static xmlrpc_value *memory_extents(xmlrpc_env *env, const struct memory_compare *c)
{
    xmlrpc_value *extents = xmlrpc_array_new(env);
    char text[24];

    for (unsigned i = 0; i < c->n_extents && !env->fault_occurred; i++) {
        const struct memory_extent *e = &c->extents[i];
        xmlrpc_value *extent = xmlrpc_array_new(env);
        api_append(env, extent, xmlrpc_int_new(env, (int)e->block));
        snprintf(text, sizeof(text), "%" PRIu64, e->offset);
        api_append(env, extent, api_string(env, text));
        snprintf(text, sizeof(text), "%" PRIu64, e->length);
        api_append(env, extent, api_string(env, text));
        api_append(env, extent, api_string(env, e->zero ? "zero" : "data"));
        api_append(env, extents, extent);
    }
    return extents;
}

static xmlrpc_value *memory_blocks(xmlrpc_env *env, const struct memory_compare *c)
{
    xmlrpc_value *blocks = xmlrpc_array_new(env);

    for (unsigned i = 0; i < c->n_blocks && !env->fault_occurred; i++) {
        const struct memory_block_change *b = &c->blocks[i];
        xmlrpc_value *block = xmlrpc_struct_new(env);
        api_put_text(env, block, "name", b->name);
        api_put_text(env, block, "state",
                     !b->from_bytes && b->to_bytes   ? "added"
                     : b->from_bytes && !b->to_bytes ? "removed"
                                                     : "both");
        api_put_bool(env, block, "ram", b->shared);
        api_put_u64(env, block, "from_size", b->from_bytes);
        api_put_u64(env, block, "to_size", b->to_bytes);
        api_append(env, blocks, block);
    }
    return blocks;
}

static xmlrpc_value *memory_diff(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    _cleanup_free_ struct memory_compare *c = calloc(1, sizeof(*c));
    const char *after = NULL;
    const struct api_option options[] = {{"after", 's', &after}, {}};
    char next[48] = "";
    struct why why;

    if (!c) {
        api_fault(env, FAULT_NO_MEMORY, "no memory");
        return NULL;
    }
    take_state(env, args, 0, c->from.vm, c->from.version);
    take_state(env, args, 2, c->to.vm, c->to.version);
    api_take_options(env, "memory.diff", args, 4, options);
    take_memory_place(env, after, c);
    if (env->fault_occurred)
        return NULL;
    int r = memory_compare(api->engine, c, &why);
    if (r < 0) {
        api_fault(env, (int)fault_from_code(r), "%s", why.text);
        return NULL;
    }
    if (!c->done)
        snprintf(next, sizeof(next), "%u:%" PRIu64, c->block, c->offset);
    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put(env, value, "blocks", memory_blocks(env, c));
    api_put(env, value, "extents", memory_extents(env, c));
    api_put_text(env, value, "next", next);
    return api_result(env, value);
}

const struct method api_diff_methods[] = {
    {"vm.diff", "S:ssss", "vm, version, to_vm, to_version",
     "Which disks there are to compare between two versions, or vms as they are now (empty "
     "version). Returns {disks: [{name, state, from_size, to_size}], memory}; state is both, "
     "added, "
     "removed, "
     "or replaced (by another disk of that name); memory is both (memory.diff compares it), added, "
     "removed, none (neither has RAM), or unknown (a vm as it is now). A fault (unrelated) when "
     "they are of different "
     "vms "
     "and no disk can be compared.",
     vm_diff},
    {"disk.diff", "S:sssss,S:sssssS", "vm, version, to_vm, to_version, disk, options",
     "What became of a disk from one version to another, or to what it is now (empty version), a "
     "page at a time; the cost is that of what differs. Options: offset (next of the answer "
     "before), whole (true: compare with nothing, for a disk that was added or replaced). Returns "
     "{size, extents: [[offset, length, kind]], next (an offset; empty: that is all)}; kind is "
     "data, "
     "zero (it reads as zeros) or discarded (nothing is there now).",
     disk_diff},
    {"memory.diff", "S:ssss,S:ssssS", "vm, version, to_vm, to_version, options",
     "What became of a machine's memory from one version with RAM to another, a page at a time: of "
     "the pages only those are read that the indexes of both do not tell to be the same. Option: "
     "after (next of the answer before). Returns {blocks: [{name (QEMU's), state (both, added, "
     "removed), ram (else a ROM, or of a device), from_size, to_size}], extents: [[block (its "
     "place "
     "in blocks), offset, length, kind]], next (empty: that is all)}; kind is data or zero.",
     memory_diff},
    {},
};
