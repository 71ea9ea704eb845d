/* restore-args-disks.c - the disks in the command line of a QEMU, rewritten, and looked at again.
 *
 * A QEMU names a disk in many ways. What is not understood stays as it was, and would be a disk of
 * the first machine's, written by two: so no command line leaves here that names another vm's. */
#include "guest/restore-args-internal.h"

#include "base/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define JSON        "json:"
#define EXPORT_ROOM 256

/* ---- exports and files ---------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);
    return len >= end_len && !strcmp(text + len - end_len, end);
}

/* "VM/DISK", or "VM" alone. */
static bool is_of(const char *export, const char *vm)
{
    size_t len = vm ? strlen(vm) : 0;

    return vm && !strncmp(export, vm, len) && (export[len] == '/' || export[len] == '\0');
}

/* "FROM/DISK" becomes "TO/DISK". A version's, "FROM/DISK@VERSION", stays: nobody can write it. */
static char *new_export(const struct rewrite *w, const char *export)
{
    const struct restore_changes *c = w->changes;
    char *text = NULL;

    if (!c->vm_from || !c->vm_to || !is_of(export, c->vm_from) || strchr(export, '@'))
        return NULL;
    return asprintf(&text, "%s%s", c->vm_to, export + strlen(c->vm_from)) < 0 ? NULL : text;
}

/* "nbd:unix:SOCKET:exportname=VM/DISK" and "nbd+unix:///VM/DISK?socket=SOCKET". */
static char *new_uri(const struct rewrite *w, const char *uri)
{
    static const char start[] = "nbd+unix:///", question[] = "?socket=";
    static const char old[] = "nbd:unix:", name[] = ":exportname=";
    bool is_old = !strncmp(uri, old, strlen(old));
    const char *at = strstr(uri, is_old ? name : question), *nbd_socket = w->changes->nbd_socket;
    const char *first = uri + strlen(is_old ? old : start);
    char *text = NULL;

    if ((!is_old && strncmp(uri, start, strlen(start)) != 0) || !at)
        return NULL;
    const char *second = at + strlen(is_old ? name : question);
    _cleanup_free_ char *copy = strndup(first, (size_t)(at - first));
    _cleanup_free_ char *changed = copy ? new_export(w, is_old ? second : copy) : NULL;
    if (!changed)
        return NULL;
    int n = is_old ? asprintf(&text, "%s%s%s%s", old, nbd_socket ? nbd_socket : copy, name, changed)
                   : asprintf(&text, "%s%s%s%s", start, changed, question,
                              nbd_socket ? nbd_socket : second);
    return n < 0 ? NULL : text;
}

static char *new_json(struct rewrite *w, const char *text, const char *prefix);

/* What the name of a file becomes, for free(); NULL: it stays. */
static char *new_file(struct rewrite *w, const char *file)
{
    const char *other = rewrite_other_path(w, file);

    if (other)
        return strdup(other);
    if (!strncmp(file, JSON, strlen(JSON)))
        return new_json(w, file + strlen(JSON), JSON);
    return new_uri(w, file);
}

static bool names_export(const char *key)
{
    return !strcmp(key, "export") || ends_with(key, ".export");
}

static bool names_file(const char *key)
{
    return !strcmp(key, "file") || !strcmp(key, "path") || ends_with(key, "filename");
}

/* Where the socket of an export may stand beside it: its key for that of the export. */
static void socket_key(const char *export_key, bool is_old, char ret[128])
{
    snprintf(ret, 128, "%.*s%spath", (int)(strlen(export_key) - strlen("export")), export_key,
             is_old ? "" : "server.");
}

/* ---- as JSON -------------------------------------------------------------------------------- */

static void set_text(json_t *node, const char *key, const char *text)
{
    if (text && json_is_string(json_object_get(node, key)))
        json_object_set_new(node, key, json_string(text));
}

static void rewrite_entry(struct rewrite *w, json_t *node, const char *key, const char *value)
{
    _cleanup_free_ char *text = NULL;
    char beside[128];

    if (names_export(key))
        text = new_export(w, value);
    else if (names_file(key))
        text = new_file(w, value);
    set_text(node, key, text);
    if (!text || !names_export(key))
        return;
    set_text(json_object_get(node, "server"), "path", w->changes->nbd_socket);
    for (int i = 0; i < 2; i++) {
        socket_key(key, i, beside);
        set_text(node, beside, w->changes->nbd_socket);
    }
}

static void rewrite_node(struct rewrite *w, json_t *node)
{
    const char *key;
    json_t *value;
    size_t i;

    json_object_foreach(node, key, value)
    {
        if (json_is_string(value))
            rewrite_entry(w, node, key, json_string_value(value));
        else
            rewrite_node(w, value);
    }
    json_array_foreach(node, i, value) rewrite_node(w, value);
}

/* A node as JSON becomes prefix and another one, for free(); NULL: it is not understood. */
static char *new_json(struct rewrite *w, const char *text, const char *prefix)
{
    json_t *node = json_loads(text, 0, NULL);
    char *whole = NULL;

    if (!node)
        return NULL;
    rewrite_node(w, node);
    _cleanup_free_ char *changed = json_dumps(node, JSON_COMPACT);
    json_decref(node);
    if (!changed || asprintf(&whole, "%s%s", prefix, changed) < 0)
        return NULL;
    return whole;
}

/* ---- as options ----------------------------------------------------------------------------- */

static void rewrite_disk_part(struct rewrite *w, struct option *o, struct option_part *part)
{
    char beside[128], *text = NULL;

    if (!part->key)
        return;
    if (names_export(part->key)) {
        text = new_export(w, part->value);
        for (int i = 0; i < 2; i++) {
            socket_key(part->key, i, beside);
            if (text && w->changes->nbd_socket && option_get(o, beside))
                option_set(o, beside, w->changes->nbd_socket);
        }
    } else if (names_file(part->key)) {
        text = new_file(w, part->value);
    }
    if (text) {
        free(part->value);
        part->value = text;
    }
}

int rewrite_disk(struct rewrite *w, const char *name, const char *value)
{
    struct option o;

    if (*value == '{') {
        _cleanup_free_ char *text = new_json(w, value, "");
        if (!text)
            return why_set(w->why, -EOPNOTSUPP, "%s %.200s is not understood", name, value);
        rewrite_put_two(w, name, text);
        return 0;
    }
    w->args->failed = w->args->failed || !option_parse(&o, value);
    for (unsigned i = 0; i < o.n; i++)
        rewrite_disk_part(w, &o, &o.parts[i]);
    rewrite_put_option(w, name, &o);
    option_free(&o);
    return 0;
}

void rewrite_word(struct rewrite *w, const char *word)
{
    _cleanup_free_ char *text = new_file(w, word);

    rewrite_put(w, text ? text : word);
}

/* ---- looked at again ------------------------------------------------------------------------ */

/* A text without what is there for its parser: escapes, blanks, two kinds of quotes. For free();
 * NULL: no memory. */
static char *plain(const char *text)
{
    char *copy = malloc(strlen(text) + 1), *to = copy;
    unsigned code;

    for (; copy && *text; text++) {
        if (*text == '%' && isxdigit((unsigned char)text[1]) && isxdigit((unsigned char)text[2]) &&
            sscanf(text + 1, "%2x", &code) == 1 && code) {
            *to++ = (char)code;
            text += 2;
        } else if (!strchr(" \t\n\\", *text)) {
            *to++ = *text == '\'' ? '"' : *text;
        }
    }
    if (copy)
        *to = '\0';
    return copy;
}

/* The next export that a plain text names, from *at on; *at goes behind it. */
static bool next_export(const char **at, char ret[EXPORT_ROOM])
{
    static const char *const words[] = {"export\":\"", "export=", "exportname=", "nbd+unix://"};
    const char *first = NULL;
    size_t len = 0;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        const char *found = strstr(*at, words[i]);
        if (found && (!first || found < first)) {
            first = found;
            len = strlen(words[i]);
        }
    }
    if (!first)
        return false;
    first += len;
    first += strspn(first, "/");
    len = strcspn(first, "\",?");
    snprintf(ret, EXPORT_ROOM, "%.*s", len < EXPORT_ROOM ? (int)len : EXPORT_ROOM - 1, first);
    *at = first + len;
    return true;
}

/* Whether a disk is read only, by what its option says itself. */
static bool is_read_only(const char *name, const char *value)
{
    struct option o;

    if (*value == '{') {
        json_t *node = json_loads(value, 0, NULL);
        bool is = json_is_true(json_object_get(node, "read-only"));
        json_decref(node);
        return is;
    }
    bool is = ends_with(name, "-cdrom");
    if (option_parse(&o, value))
        is = is || option_is_on(&o, "readonly") || option_is_on(&o, "read-only") ||
             option_is(&o, "media", "cdrom");
    option_free(&o);
    return is;
}

/* Whether an argument is to be looked at for exports: not the guest's own. */
static bool may_name_export(const char *name, const char *value)
{
    return !ends_with(name, "-append") && (strstr(value, "nbd") || strstr(value, ".export="));
}

/* ret_n: adds how many of the machine's own disks, that it may write, the argument names. */
static int check_exports(const struct rewrite *w, const char *name, const char *value,
                         unsigned *ret_n)
{
    const struct restore_changes *c = w->changes;
    char export[EXPORT_ROOM];

    if (!may_name_export(name, value))
        return 0;
    _cleanup_free_ char *text = plain(value);
    const char *at = text;
    if (!text)
        return why_set(w->why, -ENOMEM, "no memory");
    bool read_only = is_read_only(name, value);
    while (next_export(&at, export)) {
        bool is_version = strchr(export, '@'), is_own = is_of(export, c->vm_to);
        *ret_n += is_own && !is_version && !read_only;
        if (is_own || is_version || (read_only && !is_of(export, c->vm_from)))
            continue;
        return why_set(w->why, -EOPNOTSUPP,
                       "QEMU was started with %.64s %.200s: the disk %.130s is not one of %s, and "
                       "how to rewrite this is not known; start a QEMU yourself with -incoming "
                       "defer, on a clone, and restore into that",
                       name, value, export, c->vm_to);
    }
    return 0;
}

static bool is_file_value(const char *text, const char *at)
{
    static const char *const words[] = {
        "file=", "filename=", "path=", "filename\":\"", "path\":\"", "file:"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        size_t len = strlen(words[i]);
        if ((size_t)(at - text) >= len && !memcmp(at - len, words[i], len))
            return true;
    }
    return at == text;
}

/* One that was restored before has its copies where this one's are. */
static bool is_copy(const struct restore_changes *c, const char *path)
{
    for (unsigned i = 0; i < c->n_paths; i++)
        if (!strcmp(path, c->paths[i][1]))
            return true;
    return false;
}

/* A file that the machine has a copy of is not to be named any more. */
static int check_paths(const struct rewrite *w, const char *name, const char *value)
{
    const struct restore_changes *c = w->changes;
    _cleanup_free_ char *text = plain(value);

    if (!text)
        return why_set(w->why, -ENOMEM, "no memory");
    for (unsigned i = 0; i < c->n_paths; i++) {
        _cleanup_free_ char *path = is_copy(c, c->paths[i][0]) ? NULL : plain(c->paths[i][0]);
        for (const char *at = text; path && *path && (at = strstr(at, path)); at++)
            if (is_file_value(text, at) && strchr(",\"", at[strlen(path)]))
                return why_set(w->why, -EOPNOTSUPP,
                               "QEMU was started with %.64s %.200s: how to give this machine a "
                               "copy of its own of %.200s is not known; start a QEMU yourself "
                               "with -incoming defer, and restore into that",
                               name, value, c->paths[i][0]);
    }
    return 0;
}

int rewrite_check_disks(struct rewrite *w)
{
    const struct restore_changes *c = w->changes;
    bool is_another = c->vm_to && (!c->vm_from || strcmp(c->vm_from, c->vm_to) != 0);
    unsigned n_own = 0;
    int r = 0;

    for (unsigned i = 1; i < w->args->n && w->args->argv[i] && r == 0; i++) {
        const char *name = w->args->argv[i - 1], *value = w->args->argv[i];
        if (is_another)
            r = check_exports(w, name, value, &n_own);
        if (r == 0)
            r = check_paths(w, name, value);
    }
    if (r == 0 && is_another && n_own < c->n_disks)
        r = why_set(w->why, -EOPNOTSUPP,
                    "the machine had %u disks, and the command line of its QEMU shows %u: others "
                    "stand in a file (-readconfig), or were plugged in while it ran; start a QEMU "
                    "yourself with -incoming defer, on a clone, and restore into that",
                    c->n_disks, n_own);
    return r;
}

/* ---- whose disks they are ------------------------------------------------------------------- */

/* How much an export says of whose disks a machine has. */
static unsigned weigh(const char *export, bool read_only, const char *vm, json_t *disks)
{
    const char *slash = strchr(export, '/');

    if (strchr(export, '@') || (read_only && !is_of(export, vm)))
        return 0;
    if (read_only)
        return 1;
    if (is_of(export, vm))
        return 4;
    return json_object_get(disks, slash ? slash + 1 : "root") ? 3 : 2;
}

void restore_args_disks_vm(char *const *argv, const char *vm, json_t *disks, char *ret, size_t size)
{
    char export[EXPORT_ROOM];
    unsigned best = 0;

    *ret = '\0';
    for (; argv[0] && argv[1]; argv++) {
        _cleanup_free_ char *text = may_name_export(argv[0], argv[1]) ? plain(argv[1]) : NULL;
        const char *at = text;
        bool read_only = text && is_read_only(argv[0], argv[1]);
        while (at && next_export(&at, export)) {
            unsigned weight = weigh(export, read_only, vm, disks);
            size_t len = strcspn(export, "/");
            if (weight <= best || len >= size)
                continue;
            best = weight;
            snprintf(ret, size, "%.*s", (int)len, export);
        }
    }
}
