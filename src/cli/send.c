/* send.c - varve send: a version, or what changed since an older one, becomes a stream.
 *
 * The connections that read the data are made first, and each holds its disk of the version (and of
 * the older one): neither can be removed before the stream is complete. */
#include "cli/cli.h"
#include "cli/process.h"
#include "cli/send-data.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEVEL_MAX 19

/* enum consistency */
#define CONSISTENCY_CRASH 0
#define CONSISTENCY_RAM   3

struct send {
    const struct invocation *inv;
    struct version_name name;
    const char *from; /* "": a full stream */
    int level;
    bool no_memory;
    char nbd_socket[256];
    struct version_name memory, memory_from; /* where they are in the store */
    struct stream_info info;
    struct nbd_session session;
    struct send_data data;
};

/* ---- what is sent --------------------------------------------------------------------------- */

static enum exit_code read_names(struct send *s)
{
    const char *from = option_value(s->inv, "from"), *level = option_value(s->inv, "level");
    struct version_name from_name;
    char *end;
    enum exit_code r = version_name_read(s->inv->args[0], &s->name);

    if (r != EXIT_OK)
        return r;
    s->from = "";
    s->no_memory = option_value(s->inv, "no-memory") != NULL;
    if (from) {
        /* "A" or "VM@A" */
        version_name_split(from, &from_name);
        if (from_name.has_version && strcmp(from_name.vm, s->name.vm))
            return error(EXIT_USAGE,
                         "%s is a version of another vm than %s; a stream has the difference to an "
                         "older version of the same vm",
                         from, s->inv->args[0]);
        s->from = from_name.has_version ? strchr(from, '@') + 1 : from;
        if (!*s->from)
            return error(EXIT_USAGE, "--from \"%s\" names no version; see varve ls %s", from,
                         s->name.vm);
    }
    s->level = 1;
    if (level) {
        long n = strtol(level, &end, 10);
        if (*end || end == level || n < 0 || n > LEVEL_MAX)
            return error(EXIT_USAGE,
                         "\"%s\" is no level; use 1 (fast) to %d (small), or 0 for none", level,
                         LEVEL_MAX);
        s->level = (int)n;
    }
    return EXIT_OK;
}

static bool read_guid(const json_t *object, const char *key, uint8_t out[STREAM_GUID_BYTES])
{
    const char *text = member_text(object, key);

    for (unsigned i = 0; i < STREAM_GUID_BYTES; i++)
        if (sscanf(text + 2 * i, "%2hhx", &out[i]) != 1)
            return false;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct stream_disk *)a)->name, ((const struct stream_disk *)b)->name);
}

/* The version's memory as a disk without a name. */
static void take_memory(struct send *s, const json_t *memory)
{
    struct stream_disk *d = &s->info.disks[s->info.n_disks++];

    snprintf(s->memory.vm, sizeof(s->memory.vm), "%s", member_text(memory, "vm"));
    snprintf(s->memory.version, sizeof(s->memory.version), "%s", member_text(memory, "version"));
    snprintf(s->memory_from.vm, sizeof(s->memory_from.vm), "%s", member_text(memory, "from_vm"));
    snprintf(s->memory_from.version, sizeof(s->memory_from.version), "%s",
             member_text(memory, "from_version"));
    *d = (struct stream_disk){.size_bytes = member_u64(memory, "size"),
                              .fresh = *s->from && !*s->memory_from.vm,
                              .memory = true};
}

static void take_disks(struct send *s, const json_t *disks)
{
    json_t *disk;
    size_t i;

    json_array_foreach(disks, i, disk)
    {
        struct stream_disk *d = &s->info.disks[s->info.n_disks++];
        snprintf(d->name, sizeof(d->name), "%s", member_text(disk, "name"));
        d->size_bytes = member_u64(disk, "size");
        d->fresh = *s->from && !json_is_true(json_object_get(disk, "related"));
    }
    qsort(s->info.disks, s->info.n_disks, sizeof(*s->info.disks), by_name);
}

/* A version with RAM is sent with it, or as one that has none. */
static enum exit_code choose_memory(struct send *s, const json_t *json)
{
    const json_t *memory = json_object_get(json, "memory");

    if (s->info.consistency != CONSISTENCY_RAM)
        return EXIT_OK;
    if (s->no_memory)
        s->info.consistency = CONSISTENCY_CRASH;
    else if (*member_text(json, "memory_error"))
        return error(EXIT_FAILED, "%s; send its disks alone with --no-memory",
                     member_text(json, "memory_error"));
    else
        take_memory(s, memory);
    return EXIT_OK;
}

/* What send.info says; *ret is the caller's. */
static enum exit_code ask_info(const struct send *s, json_t **ret)
{
    json_t *args = json_pack("[s, s]", s->name.vm, s->name.version);

    enum exit_code r = args && *s->from ? add_text(args, s->from) : EXIT_OK;
    if (r != EXIT_OK) {
        json_decref(args);
        return r;
    }
    return call(s->inv, "send.info", args, ret);
}

static enum exit_code read_info(struct send *s)
{
    json_t *json;

    enum exit_code r = ask_info(s, &json);
    if (r != EXIT_OK)
        return r;
    const json_t *disks = json_object_get(json, "disks");
    snprintf(s->info.vm, sizeof(s->info.vm), "%.64s", s->name.vm);
    snprintf(s->info.version, sizeof(s->info.version), "%.64s", s->name.version);
    snprintf(s->info.from, sizeof(s->info.from), "%.64s", s->from);
    snprintf(s->info.note, sizeof(s->info.note), "%s", member_text(json, "note"));
    s->info.consistency = (uint8_t)member_u64(json, "consistency");
    s->info.role = (uint8_t)member_u64(json, "role");
    s->info.created_us = member_u64(json, "created_us");
    s->info.disks = calloc(json_array_size(disks) + 2, sizeof(*s->info.disks));
    if (!s->info.disks)
        r = error(EXIT_FAILED, "no memory");
    else if (!read_guid(json, "guid", s->info.guid) ||
             !read_guid(json, "from_guid", s->info.from_guid))
        r = error(EXIT_FAILED, "the daemon does not say how the version is known");
    else
        r = choose_memory(s, json);
    if (r == EXIT_OK)
        take_disks(s, disks);
    json_decref(json);
    return r;
}

/* The export of a disk, and the context that says what of it is sent. */
static void name_disk(const struct send *s, const struct stream_disk *disk, char export_name[256],
                      char context[192])
{
    bool whole = !*s->from || disk->fresh;

    strcpy(context, "base:allocation");
    if (disk->memory) {
        snprintf(export_name, 256, "%.64s/memory@%.64s", s->memory.vm, s->memory.version);
        if (!whole)
            snprintf(context, 192, "varve:diff:%.64s@%.64s", s->memory_from.vm,
                     s->memory_from.version);
        return;
    }
    snprintf(export_name, 256, "%s/%s@%s", s->info.vm, disk->name, s->info.version);
    if (!whole)
        snprintf(context, 192, "varve:diff:%s", s->info.from);
}

static enum exit_code connect_disk(struct send *s, uint32_t i)
{
    const struct stream_disk *disk = &s->info.disks[i];
    char export_name[256], context[192];

    name_disk(s, disk, export_name, context);
    if (nbd_session_connect(&s->session, i, export_name, context) < 0)
        return EXIT_FAILED;
    struct nbd_handle *h = s->session.handles[i];
    int64_t size = libnbd.get_size(h);
    if (libnbd.can_meta_context(h, context) != 1 ||
        (disk->memory ? size < (int64_t)disk->size_bytes : size != (int64_t)disk->size_bytes))
        nbd_session_fail(&s->session,
                         "%s@%s or %s@%s has been removed or renamed just now; send it again",
                         s->info.vm, s->info.version, s->info.vm, *s->from ? s->from : "?");
    return s->session.failed ? EXIT_FAILED : EXIT_OK;
}

static enum exit_code connect_all(struct send *s)
{
    enum exit_code r = EXIT_OK;
    json_t *info;

    r = call(s->inv, "daemon.info", NO_ARGUMENTS, &info);
    if (r != EXIT_OK)
        return r;
    snprintf(s->nbd_socket, sizeof(s->nbd_socket), "%s", member_text(info, "nbd_socket"));
    json_decref(info);
    if (nbd_session_init(&s->session, s->nbd_socket, s->info.n_disks) < 0)
        r = EXIT_FAILED;
    for (uint32_t i = 0; r == EXIT_OK && i < s->info.n_disks; i++)
        r = connect_disk(s, i);
    return r == EXIT_OK ? r : check_daemon(s->inv, error(r, "%s", s->session.why.text));
}

/* The disks were opened by name, some time after the guid was told: it must be that of the version
 * that has the names now, for the receiver goes by it. */
static enum exit_code check_guid(struct send *s)
{
    uint8_t guid[STREAM_GUID_BYTES], from[STREAM_GUID_BYTES];
    json_t *json;

    enum exit_code r = ask_info(s, &json);
    if (r != EXIT_OK)
        return r;
    bool same = read_guid(json, "guid", guid) && read_guid(json, "from_guid", from) &&
                !memcmp(guid, s->info.guid, sizeof(guid)) &&
                !memcmp(from, s->info.from_guid, sizeof(from));
    json_decref(json);
    return same ? EXIT_OK
                : error(EXIT_FAILED,
                        "%s@%s or %s@%s has been removed or renamed just now; send it again",
                        s->info.vm, s->info.version, s->info.vm, *s->from ? s->from : "?");
}

/* ---- where it goes -------------------------------------------------------------------------- */

struct output {
    int fd;
    const char *path;            /* NULL: stdout */
    char partial[PATH_MAX + 64]; /* "": the path itself is written, which is no plain file */
};

static enum exit_code open_output(const struct invocation *inv, struct output *out)
{
    const char *path = option_value(inv, "output");
    struct stat st;

    *out = (struct output){.fd = STDOUT_FILENO};
    if (!path || !strcmp(path, "-")) {
        if (isatty(STDOUT_FILENO))
            return error(EXIT_USAGE,
                         "a stream is nothing for a terminal; write it into a file with "
                         "-o FILE, or send it through a pipe");
        return EXIT_OK;
    }
    out->path = path;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISREG(st.st_mode))
        return error(EXIT_CONFLICT, "%s exists; remove it, or choose another name", path);
    if (!exists)
        snprintf(out->partial, sizeof(out->partial), "%s.partial-%d", path, (int)getpid());
    out->fd = open(exists ? path : out->partial,
                   O_WRONLY | O_CLOEXEC | (exists ? 0 : O_CREAT | O_EXCL), 0600);
    if (out->fd < 0)
        return error(EXIT_FAILED, "cannot write %s: %s", path, strerror(errno));
    return EXIT_OK;
}

static enum exit_code close_output(struct output *out, enum exit_code r)
{
    if (!out->path)
        return r;
    if (r == EXIT_OK && close(out->fd) < 0)
        r = error(EXIT_FAILED, "cannot write %s: %s", out->path, strerror(errno));
    if (!*out->partial)
        return r;
    if (r == EXIT_OK)
        r = file_publish(out->partial, out->path, false);
    if (r != EXIT_OK && unlink(out->partial) < 0 && errno != ENOENT)
        note("cannot remove %s: %s", out->partial, strerror(errno));
    return r;
}

/* ---- the command ---------------------------------------------------------------------------- */

static enum exit_code send_stream(struct send *s, int fd)
{
    s->data =
        (struct send_data){.session = &s->session, .info = &s->info, .fd = fd, .level = s->level};
    /* What a disk has in use is no measure: zeros that keep their place are in it. */
    int r = send_count(&s->data, &s->info.data_bytes);

    if (r == 0)
        r = interrupted() ? 1 : send_run(&s->data);
    if (r == 0)
        return EXIT_OK;
    if (r > 0)
        return error(EXIT_FAILED, "interrupted");
    error(EXIT_FAILED, "%s", s->data.why.text);
    return s->session.failed ? check_daemon(s->inv, EXIT_FAILED) : EXIT_FAILED;
}

enum exit_code cmd_send(const struct invocation *inv)
{
    /* A failure may leave a thread that uses it. */
    static struct send s;
    static struct output out;

    s.inv = inv;
    enum exit_code r = read_names(&s);
    if (r == EXIT_OK)
        r = open_output(inv, &out);
    if (r != EXIT_OK)
        return r;
    interrupt_catch();
    r = read_info(&s);
    if (r == EXIT_OK)
        r = connect_all(&s);
    if (r == EXIT_OK)
        r = check_guid(&s);
    if (r == EXIT_OK)
        r = send_stream(&s, out.fd);
    bool fine = r == EXIT_OK;
    nbd_session_close(&s.session, fine);
    r = close_output(&out, r);
    if (fine)
        free(s.info.disks);
    return r;
}
