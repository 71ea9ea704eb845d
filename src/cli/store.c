/* store.c - commands on the store and the daemon. */
#include "cli/cli.h"
#include "cli/job.h"

#include "base/size.h"
#include "cli/process.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_US 200000

/* ---- varved's own commands ------------------------------------------------------------------ */

/* Become varved: the one beside this program, else the one in PATH. Returns only on failure. */
static enum exit_code exec_varved(char **argv)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof("varved"));

    fflush(stdout);
    if (n > 0) {
        path[n] = '\0';
        char *slash = strrchr(path, '/');
        strcpy(slash ? slash + 1 : path, "varved");
        if (access(path, X_OK) == 0)
            execv(path, argv);
    }
    execvp("varved", argv);
    return error(EXIT_FAILED, "cannot run varved: %s; it is part of the same installation as varve",
                 strerror(errno));
}

enum exit_code cmd_init(const struct invocation *inv)
{
    const char *capacity = option_value(inv, "capacity");
    char *argv[] = {(char *)(uintptr_t) "varved",
                    (char *)(uintptr_t) "--init",
                    (char *)(uintptr_t) "--store",
                    inv->args[0],
                    capacity ? (char *)(uintptr_t) "--capacity" : NULL,
                    (char *)(uintptr_t)capacity,
                    NULL};

    return exec_varved(argv);
}

/* ---- check ---------------------------------------------------------------------------------- */

static enum exit_code report_check(const struct invocation *inv, const json_t *job)
{
    const char *state = member_text(job, "state");
    uint64_t problems = member_u64(job, "problems");
    json_t *line;
    size_t i;

    if (inv->json) {
        print_json(job);
    } else {
        json_array_foreach(json_object_get(job, "lines"), i, line) puts(json_string_value(line));
    }
    if (!strcmp(state, "cancelled"))
        return error(EXIT_FAILED, "the check was cancelled");
    if (!strcmp(state, "failed"))
        return error(EXIT_FAILED, "the check ended early: %s", member_text(job, "error"));
    if (problems)
        return error(EXIT_FAILED,
                     "%" PRIu64 " problem(s) found, %" PRIu64 " of them where nothing lives",
                     problems, member_u64(job, "harmless"));
    if (!inv->json)
        printf("no problems in %" PRIu64 " pages and %" PRIu64 " table nodes, nor in %" PRIu64
               " blocks of log files\n",
               member_u64(job, "pages"), member_u64(job, "nodes"), member_u64(job, "blocks"));
    return EXIT_OK;
}

static enum exit_code check_online(const struct invocation *inv)
{
    bool tables = option_value(inv, "tables-only") != NULL;
    json_t *id = NULL, *job = NULL;
    enum exit_code r = call(inv, "store.check", json_pack("[b]", !tables), &id);

    if (r != EXIT_OK)
        return r;
    r = job_wait(inv, id, "checking", POLL_US, NULL, &job);
    json_decref(id);
    if (r == EXIT_OK)
        r = report_check(inv, job);
    json_decref(job);
    return r;
}

enum exit_code cmd_check(const struct invocation *inv)
{
    const char *store = option_value(inv, "store");
    char *argv[] = {(char *)(uintptr_t) "varved", (char *)(uintptr_t) "--check",
                    (char *)(uintptr_t) "--store", (char *)(uintptr_t)store, NULL};

    if (!store)
        return check_online(inv);
    if (inv->json)
        return error(EXIT_USAGE, "--json goes with an online check, without --store");
    if (option_value(inv, "tables-only"))
        return error(EXIT_USAGE, "--tables-only goes with an online check, without --store");
    return exec_varved(argv);
}

/* ---- how it is ------------------------------------------------------------------------------ */

enum exit_code cmd_df(const struct invocation *inv)
{
    static const struct {
        const char *key, *meaning;
    } rows[] = {
        {"capacity", "what the store may occupy"},
        {"data", "pages that are alive"},
        {"tables", "page tables"},
        {"dead", "to be cleaned"},
        {"pending", "of removed versions and disks, not freed yet"},
        {"reserve", "kept for cleaning and checkpoints"},
        {"available", "what may still be written"},
        {"allocated", "of the file system"},
    };
    char text[SIZE_TEXT_CHARS];
    json_t *space;
    enum exit_code r = call(inv, "store.space", NO_ARGUMENTS, &space);

    if (r != EXIT_OK)
        return r;
    if (inv->json) {
        r = print_json(space);
    } else {
        struct table *table = table_new("lrl");
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            table_row(table, rows[i].key, size_format(member_u64(space, rows[i].key), text),
                      rows[i].meaning, NULL);
        table_print(table);
        if (json_is_true(json_object_get(space, "read_only")))
            note("the store is read-only after an error of its disk; restart varved to recover it");
    }
    json_decref(space);
    return r;
}

enum exit_code cmd_stats(const struct invocation *inv)
{
    json_t *counters, *counter;
    size_t i;
    enum exit_code r = call(inv, "store.counters", NO_ARGUMENTS, &counters);

    if (r != EXIT_OK)
        return r;
    if (inv->json) {
        r = print_json(counters);
    } else {
        struct table *table = table_new("lrl");
        json_array_foreach(counters, i, counter)
            table_row(table, member_text(counter, "name"), member_text(counter, "value"),
                      member_text(counter, "description"), NULL);
        table_print(table);
    }
    json_decref(counters);
    return r;
}

/* Without a daemon the command's own version is all there is to say, and no error. */
enum exit_code cmd_version(const struct invocation *inv)
{
    struct why why;
    json_t *info = NULL, *both = json_pack("{s:s}", "varve", VARVE_VERSION);
    enum exit_code r = EXIT_OK;

    call_quiet(inv, "daemon.info", NO_ARGUMENTS, &info, &why);
    if (info)
        json_object_set(both, "daemon", info);
    if (inv->json) {
        r = print_json(both);
    } else {
        printf("varve %s\n", VARVE_VERSION);
        if (info)
            printf("varved %s (process %" PRIu64 ", %s)\n", member_text(info, "version"),
                   member_u64(info, "pid"), member_text(info, "io_engine"));
    }
    json_decref(info);
    json_decref(both);
    return r;
}
