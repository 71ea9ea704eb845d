/* restore-args.c - the command line of a QEMU, rewritten.
 *
 * A table says what to do with each option. Options that are not in it stay, with what follows
 * them. */
#include "guest/restore-args.h"

#include "base/cleanup.h"
#include "base/size.h"
#include "guest/restore-args-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/un.h>
#include <unistd.h>

#define ARGV_MAX_BYTES (1u << 20)
#define QMP_ID         "varve-qmp"
#define MASTER_KEY     "masterKey0" /* of libvirt's secrets */

void rewrite_lose(struct rewrite *w, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    if (w->args->n_lost == RESTORE_LOST_MAX ||
        vasprintf(&w->args->lost[w->args->n_lost], format, list) < 0)
        w->args->failed = true;
    else
        w->args->n_lost++;
    va_end(list);
}

void rewrite_put(struct rewrite *w, const char *text)
{
    struct restore_args *a = w->args;

    if (a->n + 1 >= w->room) {
        w->room = w->room ? 2 * w->room : 128;
        char **grown = reallocarray(a->argv, w->room, sizeof(*grown));
        if (!grown) {
            a->failed = true;
            return;
        }
        a->argv = grown;
    }
    a->argv[a->n] = strdup(text);
    a->failed = a->failed || !a->argv[a->n];
    a->argv[++a->n] = NULL;
}

void rewrite_put_two(struct rewrite *w, const char *name, const char *value)
{
    rewrite_put(w, name);
    rewrite_put(w, value);
}

void rewrite_put_option(struct rewrite *w, const char *name, const struct option *o)
{
    _cleanup_free_ char *text = option_print(o);

    if (text)
        rewrite_put_two(w, name, text);
    else
        w->args->failed = true;
}

static void put_json(struct rewrite *w, const char *name, const json_t *json)
{
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);

    w->args->failed = w->args->failed || !text;
    rewrite_put_two(w, name, text ? text : "");
}

/* An object as an option, without what is an object or a list in it. first: the key of what an
 * option begins with. */
static void flatten(const json_t *json, const char *first, struct option *o)
{
    const char *word = json_string_value(json_object_get(json, first)), *key;
    char number[32];
    json_t *entry;

    *o = (struct option){};
    option_set(o, "", word ? word : "");
    json_object_foreach((json_t *)(uintptr_t)json, key, entry)
    {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(entry));
        if (strcmp(key, first) != 0 && !json_is_object(entry) && !json_is_array(entry))
            option_set(o, key,
                       json_is_string(entry)    ? json_string_value(entry)
                       : json_is_integer(entry) ? number
                       : json_is_true(entry)    ? "on"
                                                : "off");
    }
}

/* A value in either form: also libvirt's, JSON. *ret_json: what it is as JSON, for json_decref();
 * NULL: it is none. */
static int read_option(struct rewrite *w, const char *name, const char *value, const char *first,
                       struct option *ret, json_t **ret_json)
{
    *ret_json = NULL;
    if (*value != '{') {
        w->args->failed = w->args->failed || !option_parse(ret, value);
        return 0;
    }
    *ret_json = json_loads(value, 0, NULL);
    if (!*ret_json)
        return why_set(w->why, -EOPNOTSUPP, "%s %.200s is not understood", name, value);
    flatten(*ret_json, first, ret);
    return 0;
}

/* ---- paths ---------------------------------------------------------------------------------- */

/* The same file name, in the new machine's directory. */
static int move_path(struct rewrite *w, const char *path, bool is_socket,
                     char ret[RESTORE_PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    size_t limit = is_socket ? sizeof(((struct sockaddr_un *)0)->sun_path) : RESTORE_PATH_MAX;
    int n = snprintf(ret, RESTORE_PATH_MAX, "%s/%s", w->changes->dir, slash ? slash + 1 : path);

    if (n < 0 || (size_t)n >= limit)
        return why_set(w->why, -ENAMETOOLONG, "the path %s/%s is too long; use a shorter name",
                       w->changes->dir, slash ? slash + 1 : path);
    return 0;
}

const char *rewrite_other_path(struct rewrite *w, const char *path)
{
    for (unsigned i = 0; i < w->changes->n_paths; i++)
        if (!strcmp(path, w->changes->paths[i][0])) {
            rewrite_lose(w, "%s: the machine has a copy of its own, as it was then: %s", path,
                         w->changes->paths[i][1]);
            return w->changes->paths[i][1];
        }
    return NULL;
}

static int move_key(struct rewrite *w, struct option *o, const char *key, bool is_socket)
{
    const char *path = option_get(o, key);
    char moved[RESTORE_PATH_MAX];

    if (!path)
        return 0;
    const char *other = rewrite_other_path(w, path);
    int r = other ? 0 : move_path(w, path, is_socket, moved);
    if (r == 0)
        option_set(o, key, other ? other : moved);
    return r;
}

/* ---- character devices ---------------------------------------------------------------------- */

/* Several may still have it, where they had. */
static void become_null(struct option *o)
{
    _cleanup_free_ char *id = strdup(option_get(o, "id") ? option_get(o, "id") : "");
    bool is_mux = option_is_on(o, "mux");

    option_free(o);
    option_set(o, "", "null");
    option_set(o, "id", id ? id : "");
    if (is_mux)
        option_set(o, "mux", "on");
    o->failed = o->failed || !id;
}

/* A server waits for its client, unless told not to: there may be none, and QEMU is not up before.
 */
static void do_not_wait(struct option *o)
{
    const char *wait = option_get(o, "wait");

    if (wait ? !option_is_on(o, "wait") : option_is_on(o, "nowait"))
        return;
    option_drop(o, "wait");
    option_set(o, "wait", "off");
}

/* A socket that QEMU was given, as libvirt does: now QEMU makes it. */
static int listen_here(struct rewrite *w, struct option *o)
{
    char name[128], path[RESTORE_PATH_MAX];

    snprintf(name, sizeof(name), "%s.sock", option_get(o, "id") ? option_get(o, "id") : "char");
    int r = move_path(w, name, true, path);
    option_drop(o, "fd");
    option_drop(o, "server");
    option_drop(o, "wait");
    option_set(o, "path", path);
    option_set(o, "server", "on");
    option_set(o, "wait", "off");
    return r;
}

/* One for each machine: a swtpm has one client. */
static int rewrite_tpm(struct rewrite *w, struct option *o)
{
    int r = move_path(w, "tpm.sock", true, w->args->tpm);

    if (r < 0)
        return r;
    rewrite_lose(w, "TPM %s: by a swtpm of its own, whose files are in %s/tpm", w->tpm,
                 w->changes->dir);
    option_set(o, "path", w->args->tpm);
    return 0;
}

static int rewrite_chardev(struct rewrite *w, const char *name, const char *value)
{
    const char *why_lost = "it was not connected to a file or a socket path";
    struct option o;
    int r = 0;

    bool parsed = option_parse(&o, value);
    const char *id = option_get(&o, "id") ? option_get(&o, "id") : "?";
    bool is_server = option_is_on(&o, "server");
    w->has_qmp = w->has_qmp || !strcmp(id, QMP_ID);
    if (!parsed) {
        w->args->failed = true;
    } else if (option_is(&o, "", "socket") && option_get(&o, "path")) {
        if (is_server) {
            r = move_key(w, &o, "path", true);
        } else if (!strcmp(id, w->tpm)) {
            r = rewrite_tpm(w, &o);
        } else {
            const char *other = rewrite_other_path(w, option_get(&o, "path"));
            if (other)
                option_set(&o, "path", other);
            rewrite_lose(w, "character device %s connects to %s anew", id, option_get(&o, "path"));
        }
    } else if (option_is(&o, "", "socket") && option_get(&o, "fd")) {
        r = listen_here(w, &o);
    } else if (option_is(&o, "", "socket") && w->changes->keep_ports) {
        ; /* a port that is free again */
    } else if (option_is(&o, "", "file")) {
        r = move_key(w, &o, "path", false);
    } else if (!option_is(&o, "", "null") && !option_is(&o, "", "ringbuf")) {
        rewrite_lose(w, "character device %s is not connected: %s", id, why_lost);
        become_null(&o);
    }
    if (option_is(&o, "", "socket") && is_server)
        do_not_wait(&o);
    if (r == 0)
        r = move_key(w, &o, "logfile", false);
    if (r == 0)
        rewrite_put_option(w, name, &o);
    option_free(&o);
    return r;
}

/* -serial, -monitor and their like: "unix:PATH,server,nowait", "stdio", "chardev:ID"... */
static int rewrite_legacy(struct rewrite *w, const char *name, const char *value)
{
    static const char *const fine[] = {"chardev:", "none", "null", "vc"};
    char text[RESTORE_PATH_MAX + 64], path[RESTORE_PATH_MAX];
    const char *rest = NULL;

    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
        if (!strncmp(value, fine[i], strlen(fine[i]))) {
            rewrite_put_two(w, name, value);
            return 0;
        }
    bool is_unix = !strncmp(value, "unix:", 5);
    if (is_unix && strstr(value, ",server")) {
        rest = strchr(value, ',');
        char *from = strndup(value + 5, (size_t)(rest - value - 5));
        int r = from ? move_path(w, from, true, path) : -ENOMEM;
        free(from);
        if (r < 0)
            return r;
        snprintf(text, sizeof(text), "unix:%s,server=on,wait=off", path);
        rewrite_put_two(w, name, text);
        return 0;
    }
    rewrite_lose(w, "%s %s is not connected", name, value);
    rewrite_put_two(w, name, "null");
    return 0;
}

/* ---- network -------------------------------------------------------------------------------- */

/* Something to be plugged into, with nothing behind it. */
static void become_hub(struct rewrite *w, struct option *o)
{
    _cleanup_free_ char *id = strdup(option_get(o, "id") ? option_get(o, "id") : "?");
    char hub[16];

    snprintf(hub, sizeof(hub), "%u", 9000 + w->n_hubs++);
    option_free(o);
    option_set(o, "", "hubport");
    option_set(o, "id", id ? id : "?");
    option_set(o, "hubid", hub);
    o->failed = o->failed || !id;
}

/* The ports of the host that lead to the guest; as JSON they are a list. Returns whether there are
 * some. */
static bool drop_forwards(struct option *o, json_t *json)
{
    bool had = json_object_del(json, "hostfwd") == 0;

    return option_drop(o, "hostfwd") || had;
}

static bool is_passed(const struct option *o)
{
    static const char *const passed[] = {"fd", "fds", "vhostfd", "vhostfds"};

    for (size_t i = 0; i < sizeof(passed) / sizeof(passed[0]); i++)
        if (option_get(o, passed[i]))
            return true;
    return false;
}

static int rewrite_netdev(struct rewrite *w, const char *name, const char *value)
{
    json_t *json = NULL;
    struct option o;

    int r = read_option(w, name, value, "type", &o, &json);
    if (r < 0)
        return r;
    const char *id = option_get(&o, "id") ? option_get(&o, "id") : "?";
    if (is_passed(&o)) {
        rewrite_lose(w, "network %s is not connected: it was a descriptor that QEMU was given", id);
        become_hub(w, &o);
        json_decref(json);
        json = NULL;
    } else if (option_is(&o, "", "user")) {
        rewrite_lose(w, "network %s: the guest's open connections to the outside are cut", id);
        if (!w->changes->keep_ports && drop_forwards(&o, json))
            rewrite_lose(w, "network %s: no ports are forwarded to the guest", id);
    }
    if (json)
        put_json(w, name, json);
    else
        rewrite_put_option(w, name, &o);
    json_decref(json);
    option_free(&o);
    return 0;
}

static bool is_nic(const char *driver)
{
    static const char *const nics[] = {"virtio-net", "e1000", "rtl8139", "vmxnet3", "pcnet",
                                       "ne2k",       "i8255", "usb-net", "tulip",   "igb"};

    for (size_t i = 0; driver && i < sizeof(nics) / sizeof(nics[0]); i++)
        if (!strncmp(driver, nics[i], strlen(nics[i])))
            return true;
    return false;
}

static int rewrite_device(struct rewrite *w, const char *name, const char *value)
{
    uint8_t random[3] = {};
    struct option o;
    char mac[24];

    if (w->changes->new_macs && getrandom(random, sizeof(random), 0) != sizeof(random))
        return why_set(w->why, -EIO, "no random numbers for a MAC address");
    snprintf(mac, sizeof(mac), "52:54:00:%02x:%02x:%02x", random[0], random[1], random[2]);
    if (w->changes->new_macs && *value == '{') {
        json_t *device = json_loads(value, 0, NULL);
        if (is_nic(json_string_value(json_object_get(device, "driver"))))
            json_object_set_new(device, "mac", json_string(mac));
        _cleanup_free_ char *text = device ? json_dumps(device, JSON_COMPACT) : NULL;
        json_decref(device);
        rewrite_put_two(w, name, text ? text : value);
        return 0;
    }
    bool parsed = option_parse(&o, value);
    if (parsed && w->changes->new_macs && is_nic(option_get(&o, ""))) {
        option_set(&o, "mac", mac);
        rewrite_put_option(w, name, &o);
    } else {
        rewrite_put_two(w, name, value);
    }
    option_free(&o);
    return 0;
}

/* ---- RAM and the rest ----------------------------------------------------------------------- */

static int add_memory(struct rewrite *w, struct option *o)
{
    struct restore_args *a = w->args;
    const char *id = option_get(o, "id"), *size = option_get(o, "size");
    struct restore_memory *m = &a->memory[a->n_memory];

    if (a->n_memory == RESTORE_MEMORY_MAX)
        return why_set(w->why, -EOPNOTSUPP,
                       "the machine has more than %d memory backends, and cannot be restored",
                       RESTORE_MEMORY_MAX);
    if (!id || !size || strlen(id) >= sizeof(m->id) || size_parse(size, &m->bytes) < 0)
        return why_set(w->why, -EOPNOTSUPP, "the memory backend %s is not understood",
                       id ? id : "without an id");
    strcpy(m->id, id);
    const char *path = option_get(o, "mem-path");
    if ((path && strncmp(path, "/dev/shm", strlen("/dev/shm")) != 0) || option_is_on(o, "hugetlb"))
        rewrite_lose(w, "memory %s is on /dev/shm now, with the pages that are usual there", id);
    if (snprintf(m->path, sizeof(m->path), "%s.%s", w->changes->memory_file, id) >=
        (int)sizeof(m->path))
        return why_set(w->why, -ENAMETOOLONG, "the path %s.%s is too long", w->changes->memory_file,
                       id);
    /* Nodes that came as a list, which has no other form: QEMU takes no policy without them. */
    if (option_get(o, "policy") && !option_is(o, "policy", "default") &&
        !option_get(o, "host-nodes")) {
        rewrite_lose(w, "memory %s may be on any node of the host: its policy was %s", id,
                     option_get(o, "policy"));
        option_drop(o, "policy");
    }
    option_set(o, "", "memory-backend-file");
    option_set(o, "mem-path", m->path);
    option_set(o, "share", "on");
    /* What QEMU would fill in advance would not be what was there. */
    static const char *const dropped[] = {
        "prealloc", "prealloc-threads", "prealloc-context", "discard-data", "seal",
        "hugetlb",  "hugetlbsize",      "reserve",          "pmem",         "readonly"};
    for (size_t i = 0; i < sizeof(dropped) / sizeof(dropped[0]); i++)
        option_drop(o, dropped[i]);
    a->n_memory++;
    return 0;
}

static int rewrite_object(struct rewrite *w, const char *name, const char *value)
{
    json_t *json = NULL;
    struct option o;

    int r = read_option(w, name, value, "qom-type", &o, &json);
    if (r < 0)
        return r;
    json_decref(json);
    const char *type = option_get(&o, "");
    if (type && w->changes->memory_file &&
        (!strcmp(type, "memory-backend-file") || !strcmp(type, "memory-backend-memfd"))) {
        r = add_memory(w, &o);
        if (r == 0)
            rewrite_put_option(w, name, &o);
    } else if (type && !strcmp(type, "secret") && option_is(&o, "id", MASTER_KEY)) {
        ; /* libvirt's own: a file that went with the machine. Other secrets may want it: */
    } else if (option_is(&o, "keyid", MASTER_KEY)) {
        r = why_set(
            w->why, -EOPNOTSUPP,
            "the machine's %s %.64s is encrypted with a key of libvirt's that went with it; "
            "start a QEMU yourself with -incoming defer, and restore into that",
            type ? type : "object", option_get(&o, "id") ? option_get(&o, "id") : "?");
    } else {
        rewrite_put_two(w, name, value);
    }
    option_free(&o);
    return r;
}

/* Either would have all RAM filled with zeros, before what is in it could be given. */
static int drop_prealloc(struct rewrite *w, const char *name, const char *value)
{
    rewrite_lose(w, "%s: the machine's memory is not all there from the start", name);
    return 0;
}

static int rewrite_overcommit(struct rewrite *w, const char *name, const char *value)
{
    struct option o;

    w->args->failed = w->args->failed || !option_parse(&o, value);
    if (option_get(&o, "mem-lock") && !option_is(&o, "mem-lock", "off")) {
        rewrite_lose(w, "%s %s: the machine's memory is not locked", name, value);
        option_set(&o, "mem-lock", "off");
    }
    rewrite_put_option(w, name, &o);
    option_free(&o);
    return 0;
}

/* QEMU goes into the background, as a session of its own, after its filter is in place. */
static int rewrite_sandbox(struct rewrite *w, const char *name, const char *value)
{
    struct option o;

    w->args->failed = w->args->failed || !option_parse(&o, value);
    if (option_is(&o, "spawn", "deny") || option_is(&o, "elevateprivileges", "deny"))
        rewrite_lose(w,
                     "QEMU's system call filter (-sandbox) lets it start processes and sessions");
    if (option_get(&o, "spawn"))
        option_set(&o, "spawn", "allow");
    if (option_get(&o, "elevateprivileges"))
        option_set(&o, "elevateprivileges", "allow");
    rewrite_put_option(w, name, &o);
    option_free(&o);
    return 0;
}

static int rewrite_machine(struct rewrite *w, const char *name, const char *value)
{
    struct option o;

    w->args->failed = w->args->failed || !option_parse(&o, value);
    if (w->changes->machine_type)
        option_set(&o, option_get(&o, "") ? "" : "type", w->changes->machine_type);
    rewrite_put_option(w, name, &o);
    option_free(&o);
    return 0;
}

static int rewrite_name(struct rewrite *w, const char *name, const char *value)
{
    struct option o;

    w->args->failed = w->args->failed || !option_parse(&o, value);
    option_drop(&o, "process");
    if (w->changes->name)
        option_set(&o, option_get(&o, "guest") ? "guest" : "", w->changes->name);
    rewrite_put_option(w, name, &o);
    option_free(&o);
    return 0;
}

static int keep(struct rewrite *w, const char *name, const char *value)
{
    rewrite_put_two(w, name, value);
    return 0;
}

static int drop(struct rewrite *w, const char *name, const char *value)
{
    return 0;
}

static int drop_display(struct rewrite *w, const char *name, const char *value)
{
    if (value && strcmp(value, "none") != 0)
        rewrite_lose(w, "%s %s: the machine has no display now", name, value);
    return 0;
}

/* Sound that goes where the display went is heard by nobody. */
static int rewrite_audiodev(struct rewrite *w, const char *name, const char *value)
{
    json_t *json = NULL;
    struct option o;

    int r = read_option(w, name, value, "driver", &o, &json);
    if (r < 0)
        return r;
    json_decref(json);
    const char *first = option_get(&o, "") ? "" : "driver";
    const char *id = option_get(&o, "id") ? option_get(&o, "id") : "?";
    if (option_is(&o, first, "spice") || option_is(&o, first, "dbus")) {
        _cleanup_free_ char *copy = strdup(id);
        rewrite_lose(w, "sound %s is heard by nobody: it went to %s", id, option_get(&o, first));
        option_free(&o);
        option_set(&o, "", "none");
        option_set(&o, "id", copy ? copy : "?");
        rewrite_put_option(w, name, &o);
    } else {
        rewrite_put_two(w, name, value);
    }
    option_free(&o);
    return 0;
}

static int refuse(struct rewrite *w, const char *name, const char *value)
{
    return why_set(
        w->why, -EOPNOTSUPP,
        "QEMU was started with %s %.200s, which another process cannot have; start a QEMU "
        "yourself with -incoming defer, and restore into that",
        name, value ? value : "");
}

static const struct rule {
    const char *name;
    bool has_value;
    int (*rewrite)(struct rewrite *w, const char *name, const char *value);
} rules[] = {
    {"S", false, drop},
    {"daemonize", false, drop},
    {"nographic", false, drop_display},
    {"curses", false, drop_display},
    {"sdl", false, drop_display},
    {"incoming", true, drop},
    {"loadvm", true, drop},
    {"pidfile", true, drop},
    {"display", true, drop_display},
    {"vnc", true, drop_display},
    {"spice", true, drop_display},
    {"add-fd", true, refuse},
    {"name", true, rewrite_name},
    {"machine", true, rewrite_machine},
    {"M", true, rewrite_machine},
    {"chardev", true, rewrite_chardev},
    {"serial", true, rewrite_legacy},
    {"parallel", true, rewrite_legacy},
    {"monitor", true, rewrite_legacy},
    {"qmp", true, rewrite_legacy},
    {"qmp-pretty", true, rewrite_legacy},
    {"debugcon", true, rewrite_legacy},
    {"gdb", true, drop},
    {"s", false, drop},
    {"blockdev", true, rewrite_disk},
    {"drive", true, rewrite_disk},
    {"netdev", true, rewrite_netdev},
    {"nic", true, rewrite_netdev},
    {"device", true, rewrite_device},
    {"object", true, rewrite_object},
    {"mem-prealloc", false, drop_prealloc},
    {"overcommit", true, rewrite_overcommit},
    {"audiodev", true, rewrite_audiodev},
    {"sandbox", true, rewrite_sandbox},
    /* Their values may look like options. */
    {"append", true, keep},
    {"kernel", true, keep},
    {"initrd", true, keep},
};

static const struct rule *find_rule(const char *text)
{
    if (*text != '-')
        return NULL;
    text += text[1] == '-' ? 2 : 1;
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (!strcmp(text, rules[i].name))
            return &rules[i];
    return NULL;
}

/* What every restored machine is started with. */
static int add_ours(struct rewrite *w)
{
    struct restore_args *a = w->args;
    struct option o = {};

    int r = move_path(w, "pid", false, a->pid_file);
    if (r == 0)
        r = move_path(w, QMP_ID ".sock", true, a->qmp);
    if (r < 0)
        return r;
    if (!w->has_qmp) {
        option_set(&o, "", "socket");
        option_set(&o, "id", QMP_ID);
        option_set(&o, "path", a->qmp);
        option_set(&o, "server", "on");
        option_set(&o, "wait", "off");
        rewrite_put_option(w, "-chardev", &o);
        option_free(&o);
        rewrite_put_two(w, "-mon", "chardev=" QMP_ID ",mode=control");
    }
    rewrite_put_two(w, "-pidfile", a->pid_file);
    rewrite_put_two(w, "-display", "none");
    rewrite_put_two(w, "-incoming", "defer");
    rewrite_put(w, "-S");
    rewrite_put(w, "-daemonize");
    return 0;
}

/* Which character device a TPM has: it may stand before or behind it. */
static void find_tpm(struct rewrite *w, char *const *argv)
{
    struct option o;

    for (; argv[0] && argv[1]; argv++) {
        if (strcmp(*argv, "-tpmdev") != 0)
            continue;
        bool parsed = option_parse(&o, argv[1]);
        if (parsed && option_is(&o, "", "emulator") && option_get(&o, "chardev"))
            snprintf(w->tpm, sizeof(w->tpm), "%s", option_get(&o, "chardev"));
        option_free(&o);
    }
}

int restore_args_make(char *const *argv, const struct restore_changes *changes,
                      struct restore_args *ret, struct why *why)
{
    struct rewrite w = {.changes = changes, .args = ret, .why = why};
    int r = 0;

    *ret = (struct restore_args){};
    rewrite_put(&w, *argv);
    find_tpm(&w, argv);
    for (argv++; *argv && r == 0; argv++) {
        const struct rule *rule = find_rule(*argv);
        if (!rule) {
            rewrite_word(&w, *argv);
        } else if (rule->has_value && !argv[1]) {
            r = why_set(why, -EOPNOTSUPP, "QEMU's option %s has no value", *argv);
        } else {
            r = rule->rewrite(&w, *argv, rule->has_value ? argv[1] : NULL);
            argv += rule->has_value;
        }
    }
    if (r == 0)
        r = rewrite_check_disks(&w);
    if (r == 0)
        r = add_ours(&w);
    if (r == 0 && ret->failed)
        r = why_set(why, -ENOMEM, "no memory for the command line of QEMU");
    if (r < 0)
        restore_args_free(ret);
    return r;
}

void restore_args_free(struct restore_args *a)
{
    for (unsigned i = 0; i < a->n; i++)
        free(a->argv[i]);
    free(a->argv);
    for (unsigned i = 0; i < a->n_lost; i++)
        free(a->lost[i]);
    *a = (struct restore_args){};
}

/* ---- of a process --------------------------------------------------------------------------- */

int restore_args_of(int pid, char ***ret, struct why *why)
{
    _cleanup_free_ char *text = malloc(ARGV_MAX_BYTES);
    char path[64], **argv, *at;
    size_t len = 0, n_args = 0;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!text || fd < 0)
        return why_set(why, fd < 0 ? -ESRCH : -ENOMEM, "cannot read the command line of process %d",
                       pid);
    while (len < ARGV_MAX_BYTES && (n = read(fd, text + len, ARGV_MAX_BYTES - len)) > 0)
        len += (size_t)n;
    if (len == 0 || len == ARGV_MAX_BYTES || text[len - 1] != '\0')
        return why_set(why, -ESRCH, "process %d shows no command line", pid);
    for (size_t i = 0; i < len; i++)
        n_args += text[i] == '\0';
    argv = malloc((n_args + 1) * sizeof(*argv) + len);
    if (!argv)
        return why_set(why, -ENOMEM, "no memory");
    at = memcpy(&argv[n_args + 1], text, len);
    for (size_t i = 0; i < n_args; i++, at += strlen(at) + 1)
        argv[i] = at;
    argv[n_args] = NULL;
    *ret = argv;
    return 0;
}
