/* api-version.c - methods that make, change and remove versions. */
#include "daemon/api-version.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "daemon/api-change.h"
#include "daemon/api-machine.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/measure.h"
#include "daemon/select.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEASURE_SECONDS 20 /* for who asks for it alone */

/* ---- listing -------------------------------------------------------------------------------- */

static void on_versions(struct engine_call *call)
{
    struct version_listing *l = call->arg;

    l->result = store_list_versions(call->store, l->vm, l->after, false,
                                    l->max ? l->max : UINT32_MAX, &l->versions, &l->n);
    engine_call_done(call);
}

bool api_list_versions(xmlrpc_env *env, struct api *api, struct version_listing *l)
{
    int r = env->fault_occurred ? 0 : engine_ask(api->engine, on_versions, l, &l->result);

    if (r == -ENOENT)
        api_fault(env, FAULT_NOT_FOUND, "there is no vm \"%s\"; see varve ls", l->vm);
    else if (r < 0)
        api_fault(env, (int)fault_from_code(r), "cannot list the versions: %s", err_text(r));
    return !env->fault_occurred;
}

void api_free_version(xmlrpc_env *env, struct api *api, const char *vm,
                      char version[NAME_MAX_CHARS + 1])
{
    struct version_listing l = {.vm = vm};
    char stem[NAME_MAX_CHARS + 1];
    bool taken = true;

    strcpy(stem, version);
    if (!api_list_versions(env, api, &l))
        return;
    for (unsigned number = 1; taken; number++) {
        if (number > 1)
            snprintf(version, NAME_MAX_CHARS + 1, "%.50s-%u", stem, number);
        taken = false;
        for (uint32_t i = 0; i < l.n; i++)
            taken |= !strcmp(l.versions[i].name, version);
    }
    free(l.versions);
}

/* ---- hold, rename, remove ------------------------------------------------------------------- */

static xmlrpc_value *version_hold(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct store_change c = {.kind = CHANGE_VERSION_HOLD};
    xmlrpc_bool hold = 0;
    xmlrpc_value *value;

    api_take_name(env, "vm name", api_text(env, args, 0), c.vm);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 1), c.version);
    if (!env->fault_occurred)
        xmlrpc_array_read_item(env, args, 2, &value);
    if (!env->fault_occurred) {
        xmlrpc_read_bool(env, value, &hold);
        xmlrpc_DECREF(value);
    }
    c.hold = hold;
    api_change(env, api, &c);
    return api_truth(env);
}

static xmlrpc_value *version_rename(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct store_change c = {.kind = CHANGE_VERSION_RENAME};

    api_take_name(env, "vm name", api_text(env, args, 0), c.vm);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 1), c.version);
    if (!env->fault_occurred)
        api_take_version(env, api_text(env, args, 2), c.new_name);
    api_change(env, api, &c);
    return api_truth(env);
}

/* Versions that a client named: names and ranges. */
struct selection {
    char vm[NAME_MAX_CHARS + 1];
    const char **items; /* as they came */
    const char **names; /* what they mean; borrowed from items or listing */
    uint32_t n_items, n;
    struct version_listing listing;
};

static void selection_free(struct selection *s)
{
    if (s->names != s->items)
        free(s->names);
    free(s->items);
    free(s->listing.versions);
}

/* look_up: see that they are there; a single name is left to the store otherwise. */
static void take_selection(xmlrpc_env *env, xmlrpc_value *args, struct api *api, bool look_up,
                           struct selection *s)
{
    char name[NAME_MAX_CHARS + 1];
    struct why why;

    api_take_name(env, "vm name", api_text(env, args, 0), s->vm);
    s->n_items = api_texts(env, args, 1, &s->items);
    for (uint32_t i = 0; i < s->n_items && !env->fault_occurred; i++) {
        bool range = select_is_range(s->items[i]);
        look_up |= range;
        if (!range)
            api_take_name(env, "version name", s->items[i], name);
    }
    if (env->fault_occurred)
        return;
    if (!look_up && s->n_items < 2) {
        s->n = select_unique(s->items, s->n_items);
        s->names = s->items;
        return;
    }
    s->listing.vm = s->vm;
    if (!api_list_versions(env, api, &s->listing))
        return;
    int r = select_versions(s->vm, s->listing.versions, s->listing.n, s->items, s->n_items,
                            &s->names, &s->n, &why);
    if (r < 0)
        api_fault(env, (int)fault_from_code(r), "%s", why.text);
}

/* Put what a measure found as bytes, unless it took too long. r: what it returned. */
static void put_measured(xmlrpc_env *env, xmlrpc_value *value, int r, uint64_t bytes)
{
    if (r == 0)
        api_put_u64(env, value, "bytes", bytes);
    else if (r == -ENOENT)
        api_fault(env, FAULT_NOT_FOUND, "there is no such vm; see varve ls");
    else if (r != -ETIMEDOUT)
        api_fault(env, (int)fault_from_code(r), "cannot find out what would be freed: %s",
                  err_text(r));
}

static uint64_t measure_deadline(void)
{
    return mono_us() + MEASURE_SECONDS * 1000000ULL;
}

static xmlrpc_value *vm_measure(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct store_change c = {.kind = CHANGE_VM_REMOVE};
    bool removable = false;
    const struct api_option options[] = {{"removable", 'b', &removable}, {}};
    uint64_t bytes = 0;

    api_take_name(env, "vm name", api_text(env, args, 0), c.vm);
    api_take_options(env, "vm.measure", args, 1, options);
    if (removable)
        api_refuse(env, api, &c);
    if (env->fault_occurred)
        return NULL;
    int r = measure_removal(api->engine, c.vm, NULL, 0, measure_deadline(), &bytes);
    xmlrpc_value *value = xmlrpc_struct_new(env);
    put_measured(env, value, r, bytes);
    return api_result(env, value);
}

/* What version_remove() would be refused with. */
static void refuse_removal(xmlrpc_env *env, struct api *api, const struct selection *s)
{
    struct store_change c = {.kind = CHANGE_VERSION_REMOVE};

    strcpy(c.vm, s->vm);
    for (uint32_t i = 0; i < s->n && !env->fault_occurred; i += c.n_versions) {
        c.versions = s->names + i;
        c.n_versions = s->n - i < CHANGE_MAX_VERSIONS ? s->n - i : CHANGE_MAX_VERSIONS;
        api_refuse(env, api, &c);
    }
}

static xmlrpc_value *version_select(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    bool measure = false, removable = false;
    const struct api_option options[] = {
        {"measure", 'b', &measure}, {"removable", 'b', &removable}, {}};
    _cleanup_(selection_free) struct selection s = {};
    uint64_t bytes = 0;
    int r = -ETIMEDOUT;

    api_take_options(env, "version.select", args, 2, options);
    take_selection(env, args, api, true, &s);
    if (removable)
        refuse_removal(env, api, &s);
    if (env->fault_occurred)
        return NULL;
    if (measure && s.n > 0)
        r = measure_removal(api->engine, s.vm, s.names, s.n, measure_deadline(), &bytes);
    xmlrpc_value *value = xmlrpc_struct_new(env), *names = xmlrpc_array_new(env);
    for (uint32_t i = 0; i < s.n && !env->fault_occurred; i++)
        api_append(env, names, api_string(env, s.names[i]));
    api_put(env, value, "names", names);
    put_measured(env, value, r, bytes);
    return api_result(env, value);
}

/* More than one change removes: refuse all of them if one is to stay. What happens between this and
 * the changes remove_selected() tells. */
static void check_removal(xmlrpc_env *env, struct api *api, const struct selection *s)
{
    struct store_change c = {.kind = CHANGE_VERSION_REMOVE, .n_versions = 1};
    const struct version_listing *l = &s->listing;
    uint32_t k = 0;

    if (env->fault_occurred || s->n <= CHANGE_MAX_VERSIONS)
        return;
    strcpy(c.vm, s->vm);
    for (uint32_t i = 0; i < l->n && k < s->n && !env->fault_occurred; i++) {
        const struct version_info *v = &l->versions[i];
        if (s->names[k] != v->name) /* both in the order of age */
            continue;
        c.versions = &s->names[k++];
        if (v->held || v->users)
            api_change_fault(env, api, &c, v->held ? ERR_HELD : -EBUSY);
    }
}

/* Change after change. A later one that fails says how many went before it. */
static void remove_selected(xmlrpc_env *env, struct api *api, const struct selection *s)
{
    struct store_change c = {.kind = CHANGE_VERSION_REMOVE};
    int r = 0;

    strcpy(c.vm, s->vm);
    for (uint32_t gone = 0; gone < s->n && !env->fault_occurred; gone += c.n_versions) {
        uint32_t left = s->n - gone;
        c.versions = s->names + gone;
        c.n_versions = left < CHANGE_MAX_VERSIONS ? left : CHANGE_MAX_VERSIONS;
        r = api_try(api, &c);
        if (r < 0 && gone)
            api_fault(env, (int)fault_from_code(r),
                      "%u of these %u versions of vm \"%s\" were removed; one of the others "
                      "was refused (%s), and they are left: see varve ls %s",
                      gone, s->n, s->vm, err_text(r), s->vm);
        else if (r < 0)
            api_change_fault(env, api, &c, r);
    }
}

static xmlrpc_value *version_remove(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    _cleanup_(selection_free) struct selection s = {};

    take_selection(env, args, api, false, &s);
    check_removal(env, api, &s);
    if (!env->fault_occurred)
        remove_selected(env, api, &s);
    return env->fault_occurred ? NULL : xmlrpc_int_new(env, (int)s.n);
}

/* ---- clone ---------------------------------------------------------------------------------- */

/* Without a version the vm's present state becomes one first, which goes again if there is no
 * clone. */
static xmlrpc_value *vm_clone(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct store_change c = {.kind = CHANGE_CLONE, .whole = true},
                        made = {.kind = CHANGE_SNAP, .whole = true};
    const char *names[1] = {made.version}, *version;
    bool provisional = false;
    const struct api_option options[] = {{"provisional", 'b', &provisional}, {}};

    api_take_name(env, "vm name", api_text(env, args, 0), c.vm);
    version = env->fault_occurred ? NULL : api_text(env, args, 1);
    if (version && *version)
        api_take_version(env, version, c.version);
    if (!env->fault_occurred)
        api_take_name(env, "vm name", api_text(env, args, 2), c.new_name);
    api_take_options(env, "vm.clone", args, 3, options);
    c.provisional = provisional;
    if (!env->fault_occurred && !*c.version) {
        strcpy(made.vm, c.vm);
        api_snap(env, api, &made, true);
        strcpy(c.version, made.version);
    }
    if (env->fault_occurred)
        return NULL;
    api_change(env, api, &c);
    if (env->fault_occurred && *made.version) {
        made.kind = CHANGE_VERSION_REMOVE;
        made.versions = names;
        made.n_versions = 1;
        (void)api_try(api, &made); /* if it stays it has a name, and is listed */
    }
    if (env->fault_occurred)
        return NULL;
    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put_text(env, value, "vm", c.vm);
    api_put_text(env, value, "version", c.version);
    return api_result(env, value);
}

const struct method api_version_methods[] = {
    {"vm.clone", "S:sss,S:sssS", "vm, version, new_name, options",
     "Make a vm whose disks begin as those of a version, in constant time. With an empty version "
     "the present state becomes one first. Options: provisional (as in vm.create). Returns {vm, "
     "version: what it was made from}.",
     vm_clone},
    {"vm.measure", "S:s,S:sS", "vm, options",
     "Find out what removing a vm with all its versions and their memory would free. Option: "
     "removable (true: refuse it as vm.remove would). Returns {bytes (absent when that takes "
     "longer "
     "than 20 seconds)}.",
     vm_measure},
    {"version.hold", "b:ssb", "vm, version, hold",
     "Hold a version, which then cannot be removed, or (false) release it. A fault (already) when "
     "it is so.",
     version_hold},
    {"version.rename", "b:sss", "vm, version, new_name", "Give a version another name.",
     version_rename},
    {"version.select", "S:sA,S:sAS", "vm, versions, options",
     "Which versions names and ranges mean. A range is two names with two dots between them, in "
     "the order of age, both included; an end may be left out. Options: measure (true: find out "
     "what removing all of them together would free, with their memory), removable (true: refuse "
     "it as version.remove would). Returns {names, bytes (if measured; absent when it takes longer "
     "than 20 seconds)}.",
     version_select},
    {"version.remove", "i:sA", "vm, versions",
     "Remove versions, given as in version.select. It returns at once; space comes back in the "
     "background (store.space: pending). All are removed or none: refused while one is held or a "
     "client uses it (held, busy). Of more than 512 some may be gone when that comes about just "
     "then; the fault says how many. Returns how many there were.",
     version_remove},
    {},
};
