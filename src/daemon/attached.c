/* attached.c - a running QEMU that was attached. */
#include "daemon/attached.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "base/report.h"
#include "base/stop-point.h"
#include "base/text.h"
#include "checkpoint/capture.h"
#include "daemon/engine.h"
#include "guest/foreign-io.h"
#include "guest/monitor.h"
#include "guest/ram.h"
#include "guest/restore-args.h"
#include "guest/tracker.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPEN_US    5000000ULL
#define PREPARE_US 20000000ULL
#define NBD_PREFIX "nbd+unix:///"

#define EXPORT_CHARS (2 * NAME_MAX_CHARS + 2)

static uint64_t in_us(uint64_t us)
{
    return mono_us() + us;
}

/* ---- disks ---------------------------------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static bool is_same_path(const char *a, const char *b)
{
    char real_a[PATH_MAX], real_b[PATH_MAX];

    if (!strcmp(a, b))
        return true;
    return realpath(a, real_a) && realpath(b, real_b) && !strcmp(real_a, real_b);
}

/* "nbd+unix:///EXPORT?socket=PATH" of this daemon: the export, into ret. */
static bool is_ours(const char *filename, const char *nbd_path, char ret[EXPORT_CHARS])
{
    const char *export = filename + strlen(NBD_PREFIX), *end;

    if (strncmp(filename, NBD_PREFIX, strlen(NBD_PREFIX)) || !(end = strstr(export, "?socket=")) ||
        end - export >= EXPORT_CHARS)
        return false;
    memcpy(ret, export, (size_t)(end - export));
    ret[end - export] = '\0';
    return is_same_path(end + strlen("?socket="), nbd_path);
}

static bool is_flash(const json_t *device)
{
    return !strncmp(text_of(device, "device"), "pflash", 6) ||
           strstr(text_of(device, "qdev"), "system.flash");
}

/* The directory of a process: paths that are not absolute begin there. */
static void cwd_of(pid_t pid, char ret[PATH_MAX])
{
    char link[64];

    snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
    ssize_t n = readlink(link, ret, PATH_MAX - 1);
    ret[n > 0 ? n : 0] = '\0';
}

/* file: what QEMU calls it, a path or "json:{...}" with the options that it was opened by. */
static int add_file(struct attached *a, const char *file, struct why *why)
{
    json_t *options = strncmp(file, "json:", 5) ? NULL : json_loads(file + 5, 0, NULL);
    const json_t *node = options;
    char cwd[PATH_MAX];
    const char *path;

    while (json_object_get(node, "file"))
        node = json_object_get(node, "file");
    path = options ? text_of(node, "filename") : file;
    if (a->n_files == ATTACHED_FILES_MAX) {
        json_decref(options);
        return why_set(why, -E2BIG, "the machine writes more than %d files beside its disks",
                       ATTACHED_FILES_MAX);
    }
    cwd_of(monitor_pid(a->monitor), cwd);
    if (*path == '/')
        a->files[a->n_files] = strdup(path);
    else if (asprintf(&a->files[a->n_files], "%s/%s", cwd, path) < 0)
        a->files[a->n_files] = NULL;
    json_decref(options);
    return a->files[a->n_files++] ? 0 : why_set(why, -ENOMEM, "no memory");
}

/* The disk that an export of the vm is: "VM/DISK", or "VM" alone. NULL: it is none of its. */
static const char *disk_of(const char *export, const char *vm)
{
    size_t len = strlen(vm);

    if (strncmp(export, vm, len) != 0 || strchr(export, '@'))
        return NULL;
    return export[len] == '/' ? export + len + 1 : export[len] ? NULL : NBD_DEFAULT_DISK;
}

/* export: is set to its name. */
static int add_disk(const struct attached_spec *spec, const json_t *device, struct attached *a,
                    char export[EXPORT_CHARS], struct why *why)
{
    const json_t *inserted = json_object_get(device, "inserted");
    const char *node = text_of(inserted, "node-name"), *file = text_of(inserted, "file");
    const char *device_name = *text_of(device, "device") ? text_of(device, "device") : node;
    struct attached_disk *disk = &a->disks[a->n_disks];
    const char *name = NULL;

    if (!is_ours(file, spec->nbd_path, export))
        return why_set(
            why, -EOPNOTSUPP,
            "disk %s of the machine (%.200s) is not on this Varve, so it would not be of "
            "the same instant; bring it there with varve import and start the machine on "
            "%s, or make it read-only",
            device_name, file, spec->nbd_path);
    for (unsigned i = 0; i < spec->n_disks; i++)
        if (!strcmp(spec->disks[i].node, node))
            name = spec->disks[i].name;
    if (!name)
        name = disk_of(export, *spec->was ? spec->was : spec->vm);
    if (!name || strlen(name) > NAME_MAX_CHARS || strlen(node) >= sizeof(disk->node))
        return why_set(why, -EOPNOTSUPP,
                       "disk %s of the machine is %.130s and none of vm %s; attach it as the vm "
                       "whose disks it has, or, where the vm was renamed, with --disk NAME=%s",
                       device_name, export, spec->vm, node);
    strcpy(disk->name, name);
    strcpy(disk->node, node);
    a->n_disks++;
    return 0;
}

static int check_named(const struct attached_spec *spec, const struct attached *a, struct why *why)
{
    for (unsigned i = 0; i < spec->n_disks; i++) {
        bool found = false;
        for (unsigned k = 0; k < a->n_disks; k++)
            found |= !strcmp(a->disks[k].node, spec->disks[i].node);
        if (!found)
            return why_set(why, -ENOENT,
                           "no disk of the machine has the node %.64s; query-block of its QMP "
                           "lists them (inserted, node-name)",
                           spec->disks[i].node);
    }
    return 0;
}

/* ---- what the store has of them ------------------------------------------------------------- */

struct look {
    const struct attached_spec *spec;
    const struct attached *attached;
    const char (*exports)[EXPORT_CHARS]; /* of the attached one's disks */
    struct why *why;
    int result;
};

static const struct vm_info *find_vm(const struct vm_info *vms, uint32_t n, const char *name,
                                     size_t len)
{
    for (uint32_t i = 0; i < n; i++)
        if (strlen(vms[i].name) == len && !memcmp(vms[i].name, name, len))
            return &vms[i];
    return NULL;
}

/* The vm has a disk of that name. */
static int check_name(const struct look *l, const struct vm_info *vm, unsigned disk)
{
    const struct attached_disk *d = &l->attached->disks[disk];
    char names[300] = "none";
    bool found = false;
    int at = 0;

    for (uint32_t i = 0; i < vm->n_disks; i++) {
        found |= !strcmp(vm->disks[i].name, d->name);
        if (at < (int)sizeof(names))
            at += snprintf(names + at, sizeof(names) - (size_t)at, "%s%s", i ? ", " : "",
                           vm->disks[i].name);
    }
    return found ? 0
                 : why_set(l->why, -ENOENT,
                           "vm %s has no disk %s, which the node %s of the machine is to be; it "
                           "has: %s",
                           vm->name, d->name, d->node, names);
}

/* The connection by which a machine has its disk. */
struct connection {
    int pid;
    const char *export;
    const struct disk *disk; /* NULL: it has none just now */
};

static bool is_connection(void *arg, const struct nbd_client *client)
{
    struct connection *c = arg;

    if (client->pid != c->pid || strcmp(client->name, c->export) != 0)
        return false;
    c->disk = client->disk;
    return true;
}

/* The disk behind the node is that of the vm. Where QEMU is not connected just now the name of its
 * export says whose it is; one that no vm has is of a vm that was renamed. */
static int check_disk(const struct look *l, struct store *store, const struct vm_info *vms,
                      uint32_t n, unsigned disk)
{
    const struct attached_disk *d = &l->attached->disks[disk];
    struct connection c = {(int)l->attached->pid, l->exports[disk], NULL};
    const struct vm_info *named = find_vm(vms, n, c.export, strcspn(c.export, "/"));
    const char *vm = named ? named->name : l->spec->vm;
    bool is_it = !strcmp(vm, l->spec->vm);

    if (engine_clients(l->spec->engine, is_connection, &c)) {
        vm = disk_vm_name(c.disk);
        is_it = c.disk == store_find_disk(store, l->spec->vm, d->name);
    }
    return is_it ? 0
                 : why_set(l->why, -EOPNOTSUPP,
                           "the node %s of the machine has a disk of vm %s, by the name %s, and "
                           "not %s/%s; attach it as the vm whose disks it has, each by its name",
                           d->node, vm, c.export, l->spec->vm, d->name);
}

static void on_look(struct engine_call *call)
{
    struct look *l = call->arg;
    struct vm_info *vms = NULL;
    uint32_t n = 0;

    l->result = store_list(call->store, &vms, &n);
    if (l->result < 0)
        why_set(l->why, l->result, "cannot look into the store: %s", err_text(l->result));
    const struct vm_info *vm = find_vm(vms, n, l->spec->vm, strlen(l->spec->vm));
    for (unsigned i = 0; vm && i < l->attached->n_disks && l->result == 0; i++) {
        l->result = check_name(l, vm, i);
        if (l->result == 0)
            l->result = check_disk(l, call->store, vms, n, i);
    }
    free(vms);
    engine_call_done(call);
}

static int check_disks(const struct attached_spec *spec, const struct attached *a,
                       const char (*exports)[EXPORT_CHARS], struct why *why)
{
    struct look look = {spec, a, exports, why, 0};
    int r = engine_call(spec->engine, on_look, &look);

    return r < 0 ? why_set(why, r, "cannot look into the store: %s", err_text(r)) : look.result;
}

/* ---- finding them --------------------------------------------------------------------------- */

static int find_disks(const struct attached_spec *spec, struct attached *a, struct why *why)
{
    char exports[ATTACHED_DISKS_MAX][EXPORT_CHARS];
    json_t *devices = NULL, *device;
    size_t i;

    int r = monitor_run(a->monitor, "query-block", NULL, in_us(OPEN_US), &devices, why);
    if (r < 0)
        return r;
    json_array_foreach(devices, i, device)
    {
        const json_t *inserted = json_object_get(device, "inserted");
        if (r < 0 || !inserted || json_is_true(json_object_get(inserted, "ro")))
            continue;
        if (is_flash(device))
            r = add_file(a, text_of(inserted, "file"), why);
        else
            r = a->n_disks == ATTACHED_DISKS_MAX
                    ? why_set(why, -E2BIG, "the machine has more than %d disks", ATTACHED_DISKS_MAX)
                    : add_disk(spec, device, a, exports[a->n_disks], why);
    }
    json_decref(devices);
    if (r == 0)
        r = check_named(spec, a, why);
    return r < 0 ? r : check_disks(spec, a, exports, why);
}

/* ---- what it was started by ----------------------------------------------------------------- */

/* What a version keeps of QEMU's start is JSON, and so UTF-8. */
static int check_text(const char *what, const char *text, struct why *why)
{
    json_t *value = json_string(text);
    _cleanup_free_ char *carried = NULL;

    if (value) {
        json_decref(value);
        return 0;
    }
    carried = text_carried(text);
    return why_set(why, -EOPNOTSUPP,
                   "%s of QEMU, \"%.300s\", is not UTF-8, so that no version could say how the "
                   "machine is started; start it with other names",
                   what, carried ? carried : "");
}

static int check_start(const struct attached *a, struct why *why)
{
    char cwd[PATH_MAX], **args;
    int r = restore_args_of((int)a->pid, &args, why);

    if (r < 0)
        return r;
    for (char **arg = args; *arg && r == 0; arg++)
        r = check_text("an argument", *arg, why);
    free(args);
    cwd_of(a->pid, cwd);
    return r < 0 ? r : check_text("the working directory", cwd, why);
}

/* ---- opening -------------------------------------------------------------------------------- */

int attached_open(const struct attached_spec *spec, struct attached *ret, struct why *why)
{
    struct tracker_options options = {.kind = TRACKER_BEST};
    char direct[FOREIGN_NODE_CHARS];
    struct attached a = {};

    int r = monitor_open(spec->qmp, in_us(OPEN_US), &a.monitor, why);
    a.pid = r == 0 ? monitor_pid(a.monitor) : 0;
    if (r == 0 && spec->pid && spec->pid != a.pid)
        r = why_set(why, -ESRCH, "its machine has ended");
    if (r == 0 && spec->check)
        r = spec->check(spec->check_arg, a.pid, why);
    if (r == 0)
        r = device_state_check(a.monitor, true, in_us(OPEN_US), NULL, why);
    if (r == 0)
        r = check_start(&a, why);
    if (r == 0)
        r = find_disks(spec, &a, why);
    if (r == 0)
        r = foreign_io_look(a.monitor, in_us(OPEN_US), direct, why);
    if (r == 0)
        r = ram_open(a.monitor, in_us(OPEN_US), &a.ram, why);
    if (r == 0)
        r = tracker_open(a.ram, &options, a.monitor, in_us(OPEN_US), &a.tracker, why);
    stop_point("attach-tracked");
    if (r == 0)
        r = device_state_prepare(a.monitor, a.ram, in_us(PREPARE_US), &a.head, why);
    if (r == 0) {
        r = capture_new(a.monitor, a.ram, a.tracker, *direct != '\0', &a.capture);
        if (r < 0)
            why_set(why, r, "no memory to attach the machine");
    }
    if (r < 0) {
        pid_t pid = a.pid;
        attached_close(&a, true);
        *ret = (struct attached){.pid = pid};
        return r;
    }
    if (*direct)
        report_warning(
            "the disk or CD %s of the machine of vm %s has direct I/O, which writes memory "
            "unseen: its checkpoints copy all that changed in the pause; with "
            "cache=writeback, or without it, they do while the machine runs",
            direct, spec->vm);
    for (unsigned i = 0; i < a.ram->n; i++)
        a.ram_bytes += a.ram->blocks[i].shared ? a.ram->blocks[i].used_bytes : 0;
    *ret = a;
    return 0;
}

void attached_close(struct attached *a, bool remove)
{
    capture_free(a->capture);
    tracker_close(a->tracker, remove);
    ram_close(a->ram);
    device_head_free(&a->head);
    monitor_close(a->monitor);
    for (unsigned i = 0; i < a->n_files; i++)
        free(a->files[i]);
    *a = (struct attached){};
}

/* ---- telling -------------------------------------------------------------------------------- */

/* What is not in the machine's state, by its command line. */
static json_t *lost_of(char *const *argv)
{
    json_t *lost = json_array();

    for (char *const *arg = argv; *arg; arg++)
        if (arg[1] && !strcmp(*arg, "-netdev") && !strncmp(arg[1], "user", 4))
            json_array_append_new(
                lost, json_string("connections of the guest through QEMU's user network"));
    return lost;
}

/* Whether the memory of a backend, "/objects/ID", is a block that we have. */
static bool has_block(const struct attached *a, const char *memdev)
{
    const char *slash = strrchr(memdev, '/');

    for (unsigned i = 0; i < a->ram->n; i++)
        if (!strcmp(a->ram->blocks[i].name, memdev) ||
            !strcmp(a->ram->blocks[i].name, slash ? slash + 1 : memdev))
            return true;
    return false;
}

static void append(json_t *argv, const char *name, json_t *value)
{
    json_array_append_new(argv, json_string(name));
    json_array_append_new(argv, value);
}

/* A DIMM that was plugged in while the machine ran, as the options that a QEMU has it from the
 * start by. */
static void append_dimm(const struct attached *a, const json_t *dimm, json_t *argv)
{
    const char *memdev = text_of(dimm, "memdev"), *slash = strrchr(memdev, '/');
    const char *backend = slash ? slash + 1 : memdev, *id = text_of(dimm, "id");

    if (!json_is_true(json_object_get(dimm, "hotplugged")) || !has_block(a, memdev))
        return;
    append(argv, "-object",
           json_sprintf("memory-backend-file,id=%s,size=%lld,mem-path=/dev/shm,share=on", backend,
                        (long long)json_integer_value(json_object_get(dimm, "size"))));
    append(argv, "-device",
           json_sprintf("pc-dimm,memdev=%s,addr=%lld,slot=%lld,node=%lld%s%s", backend,
                        (long long)json_integer_value(json_object_get(dimm, "addr")),
                        (long long)json_integer_value(json_object_get(dimm, "slot")),
                        (long long)json_integer_value(json_object_get(dimm, "node")),
                        *id ? ",id=" : "", id));
}

static int append_plugged(const struct attached *a, json_t *argv, struct why *why)
{
    json_t *devices = NULL, *device;
    size_t i;
    int r = monitor_run(a->monitor, "query-memory-devices", NULL, in_us(OPEN_US), &devices, why);

    if (r < 0)
        return r;
    json_array_foreach(devices, i, device)
    {
        if (!strcmp(text_of(device, "type"), "dimm"))
            append_dimm(a, json_object_get(device, "data"), argv);
    }
    json_decref(devices);
    return 0;
}

json_t *attached_describe(const struct attached *a)
{
    unsigned version = monitor_version(a->monitor);
    json_t *argv = json_array(), *disks = json_object(), *files = json_array();
    char cwd[PATH_MAX];
    char **args;
    struct why why;

    if (restore_args_of((int)monitor_pid(a->monitor), &args, &why) < 0) {
        json_decref(argv);
        json_decref(disks);
        json_decref(files);
        return NULL;
    }
    for (char **arg = args; *arg; arg++)
        json_array_append_new(argv, json_stringn_nocheck(*arg, strlen(*arg)));
    json_t *lost = lost_of(args);
    free(args);
    if (append_plugged(a, argv, &why) < 0) {
        json_decref(argv);
        json_decref(disks);
        json_decref(files);
        json_decref(lost);
        return NULL;
    }
    cwd_of(monitor_pid(a->monitor), cwd);
    for (unsigned i = 0; i < a->n_disks; i++)
        json_object_set_new(disks, a->disks[i].name, json_string(a->disks[i].node));
    for (unsigned i = 0; i < a->n_files; i++)
        json_array_append_new(files, json_string(a->files[i]));
    return json_pack("{s:o, s:o, s:s, s:o, s:o, s:I, s:o}", "qemu",
                     json_sprintf("%u.%u.%u", version / 10000, version / 100 % 100, version % 100),
                     "argv", argv, "cwd", cwd, "disks", disks, "files", files, "ram_bytes",
                     (json_int_t)a->ram_bytes, "lost", lost);
}
