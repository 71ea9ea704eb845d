/* checkpoint.c - varve attach, detach and checkpoint: machines that run. */
#include "base/size.h"
#include "cli/cli.h"
#include "cli/job.h"
#include "cli/process.h"
#include "guest/monitor.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_US 100000

/* NULL: one is not UTF-8. */
static json_t *disks_of(const char *text)
{
    json_t *disks = json_array();

    while (text && *text) {
        size_t n = strcspn(text, ",");
        if (n && json_array_append_new(disks, json_stringn(text, n)) < 0) {
            json_decref(disks);
            return NULL;
        }
        text += n + (text[n] == ',');
    }
    return disks;
}

void print_machine(const json_t *machine)
{
    const char *state = member_text(machine, "state");
    char text[SIZE_TEXT_CHARS];

    if (!*state || !strcmp(state, "none"))
        return;
    printf("machine   %s, process %" PRIu64 ", %s of RAM\n", state, member_u64(machine, "pid"),
           size_format(member_u64(machine, "ram"), text));
    const char *qmp = member_text(machine, "qmp");
    bool is_domain = !strncmp(qmp, MONITOR_LIBVIRT, strlen(MONITOR_LIBVIRT));
    printf("%s%s\n", is_domain ? "libvirt   " : "qmp       ",
           qmp + (is_domain ? strlen(MONITOR_LIBVIRT) : 0));
    printf("tracking  %s", member_text(machine, "tracking"));
    if (*member_text(machine, "tracking_why"))
        printf(" (%s)", member_text(machine, "tracking_why"));
    printf("\ntaken     %" PRIu64 " checkpoints since %s\n", member_u64(machine, "checkpoints"),
           member_text(machine, "attached"));
    if (*member_text(machine, "last_error"))
        printf("failed    the last one: %s\n", member_text(machine, "last_error"));
}

void print_checkpoint(const json_t *v)
{
    static const char *const phases[] = {"stop", "scan", "copy", "disks", "device"};
    const json_t *machine = json_object_get(v, "machine"), *times, *sizes;
    char ram[SIZE_TEXT_CHARS], bytes[SIZE_TEXT_CHARS];
    json_t *lost;
    size_t i;

    if (*member_text(v, "machine_error"))
        printf("machine      unknown: %s\n", member_text(v, "machine_error"));
    if (!machine)
        return;
    times = json_object_get(machine, "times");
    sizes = json_object_get(machine, "sizes");
    printf("machine      QEMU %s, %s of RAM, %s\n", member_text(machine, "qemu"),
           size_format(member_u64(machine, "ram_bytes"), ram),
           json_is_true(json_object_get(machine, "was_running")) ? "running" : "paused");
    printf("memory       %" PRIu64 " pages looked at%s, %" PRIu64 " as before, %" PRIu64
           " zeros; %s written\n",
           member_u64(sizes, "pages"), json_is_true(json_object_get(sizes, "full")) ? " (all)" : "",
           member_u64(sizes, "same"), member_u64(sizes, "zero"),
           size_format(member_u64(sizes, "bytes"), bytes));
    printf("while it ran %" PRIu64 " us before the pause, %" PRIu64 " us after it\n",
           member_u64(times, "rounds"), member_u64(times, "rest"));
    printf("pause        %" PRIu64 " us for %" PRIu64 " pages:", member_u64(times, "pause"),
           member_u64(sizes, "left"));
    for (i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
        printf("%s %s %" PRIu64, i ? "," : "",
               strcmp(phases[i], "device") ? phases[i] : "device state and resume",
               member_u64(times, phases[i]));
    printf("%s\n", json_is_false(json_object_get(machine, "max_pause_met"))
                       ? ": longer than was asked for"
                       : "");
    json_array_foreach(json_object_get(machine, "lost"), i, lost)
        printf("lost         %s\n", json_string_value(lost));
}

/* Where the monitor of the machine is. */
static enum exit_code find_monitor(const struct invocation *inv, char where[PATH_MAX])
{
    const char *socket = option_value(inv, "qmp"), *domain = option_value(inv, "libvirt");

    if (!socket == !domain)
        return error(EXIT_USAGE, "say which machine: with --qmp its QMP socket, or with --libvirt "
                                 "its domain, one of them");
    if (domain && !*domain)
        return error(EXIT_USAGE,
                     "--libvirt wants the name of a domain; virsh list tells which run");
    if (domain)
        snprintf(where, PATH_MAX, MONITOR_LIBVIRT "%s", domain);
    else if (!realpath(socket, where))
        return error(EXIT_NOT_FOUND, "cannot find the QMP socket %s: %s", socket, strerror(errno));
    return EXIT_OK;
}

enum exit_code cmd_attach(const struct invocation *inv)
{
    char where[PATH_MAX];
    json_t *machine;

    enum exit_code r = find_monitor(inv, where);
    if (r == EXIT_OK)
        r = call(inv, "vm.attach",
                 json_pack("[s, s, o]", inv->args[0], where, disks_of(option_value(inv, "disk"))),
                 &machine);
    if (r != EXIT_OK)
        return r;
    if (inv->json)
        r = print_json(machine);
    else
        print_machine(machine);
    json_decref(machine);
    return r;
}

enum exit_code cmd_detach(const struct invocation *inv)
{
    return call(inv, "vm.detach", json_pack("[s]", inv->args[0]), NULL);
}

/* The version was taken all the same: that is what was asked for in the first place. */
static void note_pause(const json_t *version, const char *name)
{
    const json_t *machine = json_object_get(version, "machine");
    const json_t *times = json_object_get(machine, "times");

    if (!json_is_false(json_object_get(machine, "max_pause_met")))
        return;
    note("the guest was paused for %" PRIu64 ".%" PRIu64 " ms, longer than --max-pause %" PRIu64
         ": %" PRIu64
         " pages were left to copy; if that is often so, it writes faster than its pages "
         "are stored, or this host is busy (varve show %s has the phases)",
         member_u64(times, "pause") / 1000, member_u64(times, "pause") / 100 % 10,
         member_u64(machine, "max_pause") / 1000,
         member_u64(json_object_get(machine, "sizes"), "left"), name);
}

static enum exit_code report_job(const struct invocation *inv, const json_t *job, const char *name)
{
    json_t *version = NULL;
    enum exit_code r;

    if (!strcmp(member_text(job, "state"), "cancelled"))
        return error(EXIT_FAILED, "the checkpoint was cancelled; no version was made");
    if (strcmp(member_text(job, "state"), "done"))
        return error(fault_find((int)member_u64(job, "fault"))->exit_code,
                     "no version was made: %s", member_text(job, "error"));
    r = call(inv, "version.show", json_pack("[s, s]", inv->args[0], name), &version);
    if (r != EXIT_OK)
        return r;
    if (option_value(inv, "max-pause")) {
        char full[600];
        snprintf(full, sizeof(full), "%s@%s", inv->args[0], name);
        note_pause(version, full);
    }
    if (inv->json) {
        r = print_json(version);
    } else {
        printf("%s@%s\n", inv->args[0], name);
        if (option_value(inv, "verbose"))
            print_checkpoint(version);
    }
    json_decref(version);
    return r;
}

static enum exit_code read_pause(const struct invocation *inv, json_t *options)
{
    const char *text = option_value(inv, "max-pause");
    uint64_t ms;

    if (!text)
        return EXIT_OK;
    if (size_parse_decimal(text, &ms) < 0 || ms < 1 || ms > 10000)
        return error(EXIT_USAGE, "\"%s\" is no pause in milliseconds; use 1 to 10000", text);
    json_object_set_new(options, "max_pause_us", json_integer((json_int_t)ms * 1000));
    return EXIT_OK;
}

enum exit_code cmd_checkpoint(const struct invocation *inv)
{
    struct version_name name;
    json_t *options = json_object(), *started = NULL, *job = NULL;
    const char *text = option_value(inv, "note");
    enum exit_code r = EXIT_OK;

    version_name_split(inv->args[0], &name);
    inv->args[0][strcspn(inv->args[0], "@")] = '\0';
    if (name.has_version)
        r = set_text(options, "version", name.version);
    if (r == EXIT_OK && text)
        r = set_text(options, "note", text);
    if (r == EXIT_OK)
        r = read_pause(inv, options);
    if (r != EXIT_OK) {
        json_decref(options);
        return r;
    }
    r = call(inv, "vm.checkpoint", json_pack("[s, o]", name.vm, options), &started);
    if (r != EXIT_OK)
        return r;
    r = job_wait(inv, json_object_get(started, "job"), "checkpoint", POLL_US, NULL, &job);
    if (r == EXIT_OK)
        r = report_job(inv, job, member_text(job, "text"));
    json_decref(job);
    json_decref(started);
    return r;
}
