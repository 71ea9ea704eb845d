/* version.c - commands that make versions and go back to them. */
#include "cli/cli.h"

#include "base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- snap ----------------------------------------------------------------------------------- */

static enum exit_code snap_options(const struct invocation *inv, const struct version_name *name,
                                   json_t *options)
{
    const char *text = option_value(inv, "note"), *quiesce = option_value(inv, "quiesce");
    const char *timeout = option_value(inv, "timeout"), *agent = option_value(inv, "agent");
    enum exit_code r = EXIT_OK;
    uint64_t seconds;

    if (name->has_version)
        r = set_text(options, "version", name->version);
    if (r == EXIT_OK && text)
        r = set_text(options, "note", text);
    if (r == EXIT_OK && quiesce)
        r = set_text(options, "quiesce", quiesce);
    if (r != EXIT_OK)
        return r;
    if (timeout && (size_parse_decimal(timeout, &seconds) < 0 || seconds > INT_MAX))
        return error(EXIT_USAGE, "\"%s\" is no number of seconds", timeout);
    if (timeout)
        json_object_set_new(options, "timeout", json_integer((json_int_t)seconds));
    if (agent) {
        char path[PATH_MAX];
        if (!realpath(agent, path))
            return error(EXIT_NOT_FOUND, "cannot find %s: %s", agent, strerror(errno));
        r = set_text(options, "agent", path);
    }
    return r;
}

enum exit_code cmd_snap(const struct invocation *inv)
{
    json_t *options = json_object(), *done = NULL;
    struct version_name name;

    version_name_split(inv->args[0], &name);
    enum exit_code r = snap_options(inv, &name, options);
    if (r == EXIT_OK)
        r = call(inv, "vm.snap", json_pack("[s, O]", name.vm, options), &done);
    json_decref(options);
    if (r != EXIT_OK)
        return r;
    if (*member_text(done, "warning"))
        note("%s", member_text(done, "warning"));
    if (inv->json)
        r = print_json(done);
    else
        printf("%s@%s\n", member_text(done, "vm"), member_text(done, "name"));
    json_decref(done);
    return r;
}

/* ---- hold and release ----------------------------------------------------------------------- */

static enum exit_code hold(const struct invocation *inv, bool on)
{
    struct version_name name;
    enum exit_code r = EXIT_OK;

    for (int i = 0; i < inv->n_args && r == EXIT_OK; i++)
        r = version_name_read(inv->args[i], &name);
    for (int i = 0; i < inv->n_args && r == EXIT_OK; i++) {
        version_name_split(inv->args[i], &name);
        r = call(inv, "version.hold", json_pack("[s, s, b]", name.vm, name.version, on), NULL);
    }
    return r;
}

enum exit_code cmd_hold(const struct invocation *inv)
{
    return hold(inv, true);
}

enum exit_code cmd_release(const struct invocation *inv)
{
    return hold(inv, false);
}

/* ---- rollback ------------------------------------------------------------------------------- */

enum exit_code cmd_rollback(const struct invocation *inv)
{
    bool force = option_value(inv, "force"), discard = option_value(inv, "discard");
    const char *keep = option_value(inv, "keep");
    json_t *options, *done;
    struct version_name name;
    enum exit_code r = version_name_read(inv->args[0], &name);

    if (r != EXIT_OK)
        return r;
    if (keep && discard)
        return error(EXIT_USAGE, "--keep and --discard exclude each other");
    if (discard)
        r = confirm(inv, "Roll %s back to %s and lose what it holds now", name.vm, inv->args[0]);
    if (r != EXIT_OK)
        return r;
    options = json_pack("{s:b, s:b}", "force", force, "discard", discard);
    if (keep)
        r = set_text(options, "keep", keep);
    if (r != EXIT_OK) {
        json_decref(options);
        return r;
    }
    r = call(inv, "vm.rollback", json_pack("[s, s, o]", name.vm, name.version, options), &done);
    if (r != EXIT_OK)
        return r;
    if (member_u64(done, "disconnected"))
        note("%" PRIu64
             " client(s) of %s were disconnected and may come back by themselves; reset a machine "
             "that still runs, for its memory is not of these disks",
             member_u64(done, "disconnected"), name.vm);
    if (inv->json)
        r = print_json(done);
    else if (*member_text(done, "kept"))
        printf("%s@%s\n", name.vm, member_text(done, "kept"));
    json_decref(done);
    return r;
}

/* ---- clone ---------------------------------------------------------------------------------- */

enum exit_code cmd_clone(const struct invocation *inv)
{
    struct version_name name;
    json_t *done;
    enum exit_code r = EXIT_OK;

    version_name_split(inv->args[0], &name);
    if (name.has_version)
        r = version_name_read(inv->args[0], &name);
    if (r == EXIT_OK)
        r = call(inv, "vm.clone", json_pack("[s, s, s]", name.vm, name.version, inv->args[1]),
                 &done);
    if (r != EXIT_OK)
        return r;
    if (!name.has_version)
        note("%s was cloned from the version %s@%s, which was taken for it", inv->args[1], name.vm,
             member_text(done, "version"));
    if (inv->json)
        r = print_json(done);
    json_decref(done);
    return r;
}
