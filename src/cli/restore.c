/* restore.c - varve restore: machines that go on from a version. */
#include "base/size.h"
#include "cli/cli.h"
#include "cli/job.h"
#include "cli/process.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_US 4000

static enum exit_code read_options(const struct invocation *inv, json_t *options)
{
    const char *as = option_value(inv, "as"), *count = option_value(inv, "count");
    const char *mac = option_value(inv, "mac"), *qmp = option_value(inv, "qmp");
    char path[PATH_MAX];
    uint64_t number;

    enum exit_code r = as ? set_text(options, "as", as) : EXIT_OK;
    if (r != EXIT_OK)
        return r;
    if (count && (size_parse_decimal(count, &number) < 0 || number < 1 || number > INT_MAX))
        return error(EXIT_USAGE, "\"%s\" is no number of machines", count);
    if (count)
        json_object_set_new(options, "count", json_integer((json_int_t)number));
    if (mac && strcmp(mac, "new") != 0)
        return error(EXIT_USAGE, "--mac has the value new");
    if (mac)
        json_object_set_new(options, "new_macs", json_true());
    if (option_value(inv, "eager"))
        json_object_set_new(options, "eager", json_true());
    if (option_value(inv, "paused"))
        json_object_set_new(options, "paused", json_true());
    if (qmp && !realpath(qmp, path))
        return error(EXIT_NOT_FOUND, "cannot find %s: %s", qmp, strerror(errno));
    return qmp ? set_text(options, "qmp", path) : EXIT_OK;
}

/* Whether all machines have come up; the job goes on until all memory is there. */
static bool are_up(const json_t *job)
{
    const json_t *machines = json_object_get(job, "machines");
    json_t *machine;
    size_t i;

    json_array_foreach(machines, i, machine)
    {
        const char *state = member_text(machine, "state");
        if (!strcmp(state, "starting") || !strcmp(state, "failed")) /* failed: so will be the job */
            return false;
    }
    return json_array_size(machines) > 0;
}

/* The paths that varve run shows too. */
static void add_paths(json_t *machine)
{
    static const char *const files[][2] = {
        {"qmp", "qmp.sock"}, {"console", "console.sock"}, {"console_log", "console.log"}};
    const char *dir = member_text(machine, "directory");

    for (size_t i = 0; *dir && i < sizeof(files) / sizeof(files[0]); i++)
        json_object_set_new(machine, files[i][0], json_sprintf("%s/%s", dir, files[i][1]));
}

static void print_restored(const struct invocation *inv, const json_t *machine)
{
    const char *name = member_text(machine, "name");
    json_t *lost;
    size_t i;

    json_array_foreach(json_object_get(machine, "lost"), i, lost)
        note("%s: %s", name, json_string_value(lost));
    if (inv->json)
        return;
    if (*name)
        printf("name     %s\n", name);
    printf("pid      %" PRIu64 "\n%s   after %" PRIu64 " ms\n", member_u64(machine, "pid"),
           json_is_true(json_object_get(machine, "paused")) ? "paused" : "runs  ",
           (member_u64(machine, "running_us") + 500) / 1000);
    if (*name)
        printf("console  varve --run %s console %s\nstop     varve --run %s stop %s\n",
               inv->run_dir, name, inv->run_dir, name);
}

static enum exit_code report(const struct invocation *inv, json_t *job)
{
    const char *state = member_text(job, "state");
    json_t *machine;
    size_t i;

    if (!strcmp(state, "cancelled"))
        return error(EXIT_FAILED, "the restore was cancelled");
    if (!strcmp(state, "failed"))
        return error(fault_find((int)member_u64(job, "fault"))->exit_code, "%s",
                     member_text(job, "error"));
    json_array_foreach(json_object_get(job, "machines"), i, machine)
    {
        add_paths(machine);
        print_restored(inv, machine);
    }
    return inv->json ? print_json(job) : EXIT_OK;
}

enum exit_code cmd_restore(const struct invocation *inv)
{
    json_t *options = json_object(), *id = NULL, *job = NULL;
    struct version_name name;

    enum exit_code r = version_name_read(inv->args[0], &name);
    if (r == EXIT_OK)
        r = read_options(inv, options);
    if (r == EXIT_OK)
        r = call(inv, "vm.restore", json_pack("[s, s, O]", name.vm, name.version, options), &id);
    json_decref(options);
    if (r == EXIT_OK)
        r = job_wait(inv, id, "restoring", POLL_US, are_up, &job);
    if (r == EXIT_OK)
        r = report(inv, job);
    json_decref(id);
    json_decref(job);
    return r;
}
