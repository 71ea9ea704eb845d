/* run.c - varve run: QEMU on the disks of a vm. */
#include "base/size.h"
#include "cli/cli.h"
#include "guest/launch.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define DISKS_MAX 24
#define CPUS_MAX  255

static enum exit_code read_options(const struct invocation *inv, struct launch *l)
{
    const char *memory = option_value(inv, "memory"), *cpus = option_value(inv, "cpus");
    const char *accel = option_value(inv, "accel");
    uint64_t number;

    if (memory && size_parse(memory, &l->memory_bytes) < 0)
        return error(EXIT_USAGE, "\"%s\" is not a size; write it as 2G or 512M", memory);
    if (cpus) {
        if (size_parse_decimal(cpus, &number) < 0 || number < 1 || number > CPUS_MAX)
            return error(EXIT_USAGE, "\"%s\" is no number of processors; use 1 to %d", cpus,
                         CPUS_MAX);
        l->cpus = (unsigned)number;
    }
    if (!accel || !strcmp(accel, "auto"))
        l->accel = ACCEL_AUTO;
    else if (!strcmp(accel, "kvm"))
        l->accel = ACCEL_KVM;
    else if (!strcmp(accel, "tcg"))
        l->accel = ACCEL_TCG;
    else
        return error(EXIT_USAGE, "\"%s\" is no accelerator; use kvm, tcg or auto", accel);
    l->forward = option_value(inv, "forward");
    l->kernel = option_value(inv, "kernel");
    l->initrd = option_value(inv, "initrd");
    l->append = option_value(inv, "append");
    if (!l->kernel && (l->initrd || l->append))
        return error(EXIT_USAGE, "--initrd and --append belong to --kernel");
    if (option_value(inv, "name"))
        l->name = option_value(inv, "name");
    return check_machine_name(l->name);
}

/* root comes first: it is the one to boot from. A disk that is being imported is left out. Returns
 * how many there are, which may be more than there is room for. */
static unsigned list_disks(const json_t *vm, const char *disks[DISKS_MAX], bool *ret_in_use)
{
    unsigned n = 0;
    json_t *disk;
    size_t i;

    for (int root = 1; root >= 0; root--)
        json_array_foreach(json_object_get(vm, "disks"), i, disk)
        {
            const char *name = member_text(disk, "name");
            if (json_is_true(json_object_get(disk, "provisional"))) {
                if (root)
                    note("disk %s is half-made by an import: the guest does not get it", name);
                continue;
            }
            *ret_in_use |= member_u64(disk, "users") > 0;
            if ((strcmp(name, "root") == 0) != root)
                continue;
            if (n < DISKS_MAX)
                disks[n] = name;
            n++;
        }
    return n;
}

/* For checkpoints. The machine runs without that, too. */
static void attach(const struct invocation *inv, const struct launch *l,
                   const struct launched *done)
{
    json_t *machine = NULL;
    struct why why;

    if (call_quiet(inv, "vm.attach", json_pack("[s, s]", l->vm, done->attach), &machine, &why) !=
        EXIT_OK)
        note("the machine runs, but is not attached, so varve checkpoint does not work: %s; when "
             "that is mended: varve attach %s --qmp %s",
             why.text, l->vm, done->attach);
    json_decref(machine);
}

static enum exit_code print_launched(const struct invocation *inv, const struct launch *l,
                                     const struct launched *done)
{
    if (*done->kvm_why)
        note("KVM does not work here (%s): the guest runs under TCG, slowly", done->kvm_why);
    if (inv->json) {
        json_t *out = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s}", "name", l->name, "pid",
                                (int)done->pid, "accel", done->kvm ? "kvm" : "tcg", "qmp",
                                done->qmp, "console", done->console, "console_log", done->log);
        enum exit_code r = print_json(out);
        json_decref(out);
        return r;
    }
    printf("name     %s\npid      %d\naccel    %s\nsocket   %s\nlog      %s\nqmp      %s\n"
           "console  varve --run %s console %s\nstop     varve --run %s stop %s\n",
           l->name, (int)done->pid, done->kvm ? "kvm" : "tcg", done->console, done->log, done->qmp,
           l->run_dir, l->name, l->run_dir, l->name);
    return EXIT_OK;
}

static enum exit_code launch(const struct invocation *inv, struct launch *l)
{
    struct launched done;
    struct why why;
    int r = launch_qemu(l, &done, &why);

    switch (r) {
    case 0:
        attach(inv, l, &done);
        return print_launched(inv, l, &done);
    case -EEXIST:
    case -EBUSY:
        return error(EXIT_CONFLICT, "%s", why.text);
    case -EINVAL:
    case -ENAMETOOLONG:
        return error(EXIT_USAGE, "%s", why.text);
    default:
        return error(EXIT_FAILED, "%s", why.text);
    }
}

enum exit_code cmd_run(const struct invocation *inv)
{
    char run_dir[PATH_MAX], nbd_socket[256];
    const char *disks[DISKS_MAX];
    struct launch l = {.name = inv->args[0],
                       .vm = inv->args[0],
                       .memory_bytes = 1ULL << 30,
                       .cpus = 1,
                       .disks = disks,
                       .nbd_socket = nbd_socket,
                       .run_dir = run_dir,
                       .extra = inv->rest,
                       .n_extra = (unsigned)inv->n_rest};
    json_t *vm, *info;

    enum exit_code r = read_options(inv, &l);
    if (r == EXIT_OK)
        r = call(inv, "vm.show", json_pack("[s]", inv->args[0]), &vm);
    if (r != EXIT_OK)
        return r;
    r = check_whole(vm, "vm", inv->args[0]);
    if (r == EXIT_OK)
        r = call(inv, "daemon.info", NO_ARGUMENTS, &info);
    if (r == EXIT_OK) {
        snprintf(nbd_socket, sizeof(nbd_socket), "%s", member_text(info, "nbd_socket"));
        json_decref(info);
        /* QEMU changes to / when it goes to the background. */
        if (!realpath(inv->run_dir, run_dir))
            r = error(EXIT_FAILED, "cannot find %s: %s", inv->run_dir, strerror(errno));
    }
    if (r == EXIT_OK) {
        l.n_disks = list_disks(vm, disks, &l.in_use);
        r = l.n_disks > DISKS_MAX
                ? error(EXIT_FAILED,
                        "vm %s has %u disks, and varve run gives a machine up to %d; run QEMU with "
                        "these disks yourself, or remove some with varve disk rm",
                        l.vm, l.n_disks, DISKS_MAX)
                : launch(inv, &l);
    }
    json_decref(vm);
    return r;
}
