/* remove.c - varve rm: vms, versions, ranges of versions, many at once.
 *
 * All names are looked up before anything is removed, but for a single one with --yes, which the
 * daemon looks up by itself. */
#include "cli/cli.h"

#include "base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 4096 /* of one call: a request may have 1 MiB */

/* A vm, or versions of one. */
struct target {
    char vm[256];
    bool whole;
    json_t *items;                       /* names and ranges, without whole */
    json_t *names;                       /* what they mean, once they were looked up */
    uint64_t n_disks, n_versions, bytes; /* bytes: that its removal frees */
    bool has_bytes;
};

struct targets {
    struct target *list;
    size_t n;
};

static void targets_free(struct targets *targets)
{
    for (size_t i = 0; i < targets->n; i++) {
        json_decref(targets->list[i].items);
        json_decref(targets->list[i].names);
    }
    free(targets->list);
}

static struct target *target_of(struct targets *targets, const char *vm)
{
    struct target *t;

    for (size_t i = 0; i < targets->n; i++)
        if (!strcmp(targets->list[i].vm, vm))
            return &targets->list[i];
    t = &targets->list[targets->n++];
    snprintf(t->vm, sizeof(t->vm), "%s", vm);
    t->items = json_array();
    return t;
}

/* A vm goes with its versions, whether they are named too or not. */
static enum exit_code read_targets(const struct invocation *inv, struct targets *targets)
{
    struct version_name name;
    enum exit_code r = EXIT_OK;

    targets->list = calloc((size_t)inv->n_args, sizeof(*targets->list));
    if (!targets->list)
        return error(EXIT_FAILED, "no memory");
    for (int i = 0; i < inv->n_args && r == EXIT_OK; i++) {
        version_name_split(inv->args[i], &name);
        if (name.has_version)
            r = version_name_read(inv->args[i], &name);
        struct target *t = target_of(targets, name.vm);
        if (!name.has_version)
            t->whole = true;
        else if (r == EXIT_OK)
            r = add_text(t->items, name.version);
    }
    return r;
}

/* ---- looking -------------------------------------------------------------------------------- */

static void take_bytes(struct target *t, const json_t *result)
{
    t->has_bytes = json_object_get(result, "bytes") != NULL;
    t->bytes = member_u64(result, "bytes");
}

/* dry: as for removing them, so refused where that is; else what the names mean. */
static enum exit_code look_at_versions(const struct invocation *inv, struct target *t, bool dry)
{
    json_t *result, *all = json_pack("[s]", "..");
    enum exit_code r = call(inv, "version.select",
                            json_pack("[s, O, {s:b, s:b}]", t->vm, t->whole ? all : t->items,
                                      "measure", dry, "removable", dry),
                            &result);

    json_decref(all);
    if (r != EXIT_OK)
        return r;
    t->names = json_incref(json_object_get(result, "names"));
    t->n_versions = json_array_size(t->names);
    take_bytes(t, result);
    t->has_bytes |= t->n_versions == 0;
    json_decref(result);
    return EXIT_OK;
}

static enum exit_code measure_vm(const struct invocation *inv, struct target *t)
{
    json_t *result;
    enum exit_code r =
        call(inv, "vm.measure", json_pack("[s, {s:b}]", t->vm, "removable", true), &result);

    if (r == EXIT_OK) {
        take_bytes(t, result);
        json_decref(result);
    }
    return r;
}

static enum exit_code look_at_vm(const struct invocation *inv, struct target *t)
{
    json_t *vm;
    enum exit_code r = call(inv, "vm.show", json_pack("[s]", t->vm), &vm);

    if (r != EXIT_OK)
        return r;
    t->n_disks = json_array_size(json_object_get(vm, "disks"));
    t->n_versions = member_u64(vm, "versions");
    json_decref(vm);
    return EXIT_OK;
}

static enum exit_code look(const struct invocation *inv, const struct targets *targets, bool dry)
{
    enum exit_code r = EXIT_OK;

    for (size_t i = 0; i < targets->n && r == EXIT_OK; i++) {
        struct target *t = &targets->list[i];
        if (t->whole)
            r = look_at_vm(inv, t);
        if (r == EXIT_OK && (dry || !t->whole))
            r = look_at_versions(inv, t, dry && !t->whole);
        if (r == EXIT_OK && dry && t->whole)
            r = measure_vm(inv, t);
    }
    return r;
}

/* ---- --dry-run ------------------------------------------------------------------------------ */

static enum exit_code print_dry_json(const struct targets *targets)
{
    json_t *out = json_array();

    for (size_t i = 0; i < targets->n; i++) {
        const struct target *t = &targets->list[i];
        json_t *bytes = t->has_bytes ? json_sprintf("%" PRIu64, t->bytes) : json_null();
        json_array_append_new(out, json_pack("{s:s, s:b, s:O, s:o}", "vm", t->vm, "whole", t->whole,
                                             "versions", t->names, "bytes", bytes));
    }
    enum exit_code r = print_json(out);
    json_decref(out);
    return r;
}

static enum exit_code print_dry(const struct targets *targets)
{
    char bytes[SIZE_TEXT_CHARS], name[600];
    struct table *table = table_new("lr");
    json_t *version;
    size_t v;

    table_row(table, "WOULD BE REMOVED", "FREES", NULL);
    for (size_t i = 0; i < targets->n; i++) {
        const struct target *t = &targets->list[i];
        const char *frees = t->has_bytes ? size_format(t->bytes, bytes) : "-";
        if (t->whole)
            table_row(table, t->vm, frees, NULL);
        json_array_foreach(t->names, v, version)
        {
            /* What several versions share goes only when all of them go: one sum for all. */
            bool last = !t->whole && v + 1 == t->n_versions;
            snprintf(name, sizeof(name), "%s@%s", t->vm, json_string_value(version));
            table_row(table, name, last ? frees : "", NULL);
        }
    }
    table_print(table);
    if (targets->n > 1)
        puts("What these vms share with each other is not counted; it comes back, too, when all of "
             "them go.");
    return EXIT_OK;
}

/* ---- removing ------------------------------------------------------------------------------- */

static enum exit_code ask(const struct invocation *inv, const struct targets *targets)
{
    const struct target *t = &targets->list[0];
    uint64_t vms = 0, versions = 0;

    for (size_t i = 0; i < targets->n; i++) {
        vms += targets->list[i].whole;
        versions += targets->list[i].n_versions;
    }
    if (targets->n == 1 && t->whole)
        return confirm(inv,
                       "Remove vm %s with its %" PRIu64 " disk(s), %" PRIu64
                       " version(s) and all data on them",
                       t->vm, t->n_disks, t->n_versions);
    if (targets->n == 1)
        return confirm(inv, "Remove %" PRIu64 " version(s) of vm %s", t->n_versions, t->vm);
    return confirm(inv, "Remove %" PRIu64 " vm(s) and %" PRIu64 " version(s)", vms, versions);
}

/* Versions first..end of names, a call of their own; adds how many went to *gone. */
static enum exit_code remove_some(const struct invocation *inv, const char *vm, const json_t *names,
                                  size_t first, size_t end, uint64_t *gone)
{
    json_t *some = json_array(), *result = NULL;

    for (size_t i = first; i < end && i < json_array_size(names); i++)
        json_array_append(some, json_array_get(names, i));
    enum exit_code r = call(inv, "version.remove", json_pack("[s, o]", vm, some), &result);
    if (r == EXIT_OK)
        *gone += (uint64_t)json_integer_value(result);
    json_decref(result);
    return r;
}

/* Those that were looked up, where that was done: who was asked has said yes to them, and not to
 * what a range means by now. */
static enum exit_code remove_versions(const struct invocation *inv, const struct target *t)
{
    const json_t *names = t->names ? t->names : t->items;
    enum exit_code r = EXIT_OK;
    uint64_t gone = 0;

    for (size_t i = 0; r == EXIT_OK && i < json_array_size(names); i += NAMES_MAX)
        r = remove_some(inv, t->vm, names, i, i + NAMES_MAX, &gone);
    if (r != EXIT_OK && gone)
        note("%" PRIu64 " version(s) of vm %s have been removed before that", gone, t->vm);
    else if (r == EXIT_OK && !inv->json)
        printf("%" PRIu64 " version(s) of vm %s removed\n", gone, t->vm);
    return r;
}

static enum exit_code remove_target(const struct invocation *inv, const struct target *t)
{
    if (t->whole)
        return call(inv, "vm.remove", json_pack("[s]", t->vm), NULL);
    return remove_versions(inv, t);
}

enum exit_code cmd_rm(const struct invocation *inv)
{
    bool dry = option_value(inv, "dry-run") != NULL;
    struct targets targets = {};
    enum exit_code r = read_targets(inv, &targets);

    if (r == EXIT_OK && (dry || !inv->yes || targets.n > 1))
        r = look(inv, &targets, dry);
    if (r == EXIT_OK && dry)
        r = inv->json ? print_dry_json(&targets) : print_dry(&targets);
    else if (r == EXIT_OK)
        r = ask(inv, &targets);
    for (size_t i = 0; i < targets.n && r == EXIT_OK && !dry; i++) {
        r = remove_target(inv, &targets.list[i]);
        if (r != EXIT_OK && i > 0)
            note("what was named before it has been removed");
    }
    targets_free(&targets);
    return r;
}
