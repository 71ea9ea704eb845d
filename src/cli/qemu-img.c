/* qemu-img.c - disk images through qemu-img.
 *
 * qemu-img reads what lies past the end of a truncated file as zeros, without a word. So an image
 * is looked at first: its own consistency check, and its map, whose offsets must lie in the file.
 */
#include "cli/qemu-img.h"

#include "cli/process.h"
#include "cli/progress.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *word(const char *text)
{
    return (char *)(uintptr_t)text; /* argv is not const by history */
}

const char *image_format_check(const char *format)
{
    static const char *const formats[] = {"raw", "qcow2", "vmdk", "vhdx", "vdi"};

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (!strcmp(format, formats[i]))
            return formats[i];
    return NULL;
}

const char *image_format_of_name(const char *path)
{
    const char *dot = strrchr(path, '.');
    const char *format = dot && !strchr(dot, '/') ? image_format_check(dot + 1) : NULL;

    return format ? format : "raw";
}

/* ---- running it ----------------------------------------------------------------------------- */

/* The last line of qemu-img's messages, without its name in front. */
static const char *last_line(struct process_result *result)
{
    char *text = result->errors;
    size_t len = strlen(text);

    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = '\0';
    char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    return strncmp(line, "qemu-img: ", 10) ? line : line + 10;
}

static enum exit_code cannot_run(int r, const struct process_result *result)
{
    if (result->not_found)
        return error(EXIT_FAILED,
                     "qemu-img is not installed; install it with: apt install qemu-utils");
    return error(EXIT_FAILED, "cannot run qemu-img: %s", strerror(-r));
}

struct buffer {
    char *text;
    size_t len;
};

static void collect(void *arg, const char *text, size_t len)
{
    struct buffer *b = arg;
    char *grown = b->len > 64 << 20 ? NULL : realloc(b->text, b->len + len + 1);

    if (!grown)
        return; /* the JSON will not parse, which is reported */
    b->text = grown;
    memcpy(b->text + b->len, text, len + 1);
    b->len += len;
}

/* ---- probe ---------------------------------------------------------------------------------- */

static enum exit_code refers(const char *path, const char *what, const char *other)
{
    return error(EXIT_FAILED,
                 "%s refers to another file as its %s (%s); if you trust the image, import it with "
                 "--allow-backing",
                 path, what, other);
}

/* Refuse an image that would make qemu-img read other files than itself. */
static enum exit_code check_references(const json_t *info, const struct image_info *image)
{
    const json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    const char *backing = member_text(info, "backing-filename");
    const char *data_file = member_text(data, "data-file");
    json_t *extent;
    size_t i;

    if (*backing)
        return refers(image->path, "backing file", backing);
    if (*data_file)
        return refers(image->path, "data file", data_file);
    json_array_foreach(json_object_get(data, "extents"), i, extent)
    {
        const char *file = member_text(extent, "filename");
        if (*file && strcmp(file, image->path))
            return refers(image->path, "extent", file);
    }
    return EXIT_OK;
}

static enum exit_code read_info(const char *text, bool allow_backing, struct image_info *ret)
{
    json_t *info = text ? json_loads(text, 0, NULL) : NULL;
    const char *format = member_text(info, "format");
    enum exit_code r = EXIT_OK;

    if (!info)
        return error(EXIT_FAILED, "qemu-img gave no description of %s", ret->path);
    if (!image_format_check(format))
        r = error(EXIT_FAILED, "%s has the format %s; Varve imports raw, qcow2, vmdk, vhdx and vdi",
                  ret->path, format);
    snprintf(ret->format, sizeof(ret->format), "%s", format);
    ret->size_bytes = member_u64(info, "virtual-size");
    if (r == EXIT_OK && !allow_backing)
        r = check_references(info, ret);
    json_decref(info);
    return r;
}

/* Whatever has no header that qemu-img knows is raw to it: a damaged image, too. */
static enum exit_code check_guess(const char *path, const struct image_info *image)
{
    const char *named = image_format_of_name(path), *dot = strrchr(path, '.');

    if (strcmp(image->format, "raw") != 0 || (dot && !strcmp(dot, ".raw")))
        return EXIT_OK;
    if (strcmp(named, "raw") != 0)
        return error(EXIT_FAILED,
                     "%s is named as %s and does not begin like one: it is damaged; get it again, "
                     "or, if it is raw, say so with --format raw",
                     path, named);
    note("%s has no header of an image format and is taken as raw; --format says otherwise", path);
    return EXIT_OK;
}

enum exit_code image_probe(const char *path, const char *format, bool allow_backing,
                           struct image_info *ret)
{
    struct process_result result;
    struct buffer out = {};
    struct stat st;

    if (!realpath(path, ret->path) || stat(ret->path, &st) < 0 || access(ret->path, R_OK) < 0)
        return error(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_FAILED, "cannot read %s: %s", path,
                     strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return error(EXIT_FAILED, "%s is %s; name a disk image or a block device", path,
                     S_ISDIR(st.st_mode) ? "a directory" : "no file");
    if (S_ISREG(st.st_mode) && st.st_size == 0)
        return error(EXIT_FAILED, "%s is empty", path);

    char *detect[] = {word("qemu-img"), word("info"), word("--output=json"), ret->path, NULL};
    char *as[] = {word("qemu-img"),
                  word("info"),
                  word("--output=json"),
                  word("-f"),
                  word(format ? format : ""),
                  ret->path,
                  NULL};
    int r = process_run(format ? as : detect, collect, &out, &result);
    enum exit_code code;
    if (r < 0 || result.not_found)
        code = cannot_run(r, &result);
    else if (result.interrupted)
        code = error(EXIT_FAILED, "interrupted; nothing was changed");
    else if (result.exit_code != 0)
        code = error(EXIT_FAILED, "%s is damaged, or not of the format %s (qemu-img: %s)", path,
                     format ? format : "that it seems to have", last_line(&result));
    else
        code = read_info(out.text, allow_backing, ret);
    if (code == EXIT_OK && !format)
        code = check_guess(path, ret);
    free(out.text);
    return code;
}

/* ---- check ---------------------------------------------------------------------------------- */

struct map_reader {
    char line[1024];
    size_t len;
    uint64_t end; /* of the file's bytes that are used */
};

/* One extent stands on each line of the map. */
static void map_line(struct map_reader *reader)
{
    const char *length = strstr(reader->line, "\"length\": ");
    const char *offset = strstr(reader->line, "\"offset\": ");
    const char *depth = strstr(reader->line, "\"depth\": 0,");
    const char *data = strstr(reader->line, "\"data\": true");

    if (length && offset && depth && data) {
        uint64_t end = strtoull(offset + 10, NULL, 10) + strtoull(length + 10, NULL, 10);
        if (end > reader->end)
            reader->end = end;
    }
}

static void read_map(void *arg, const char *text, size_t len)
{
    struct map_reader *reader = arg;

    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n') {
            if (reader->len < sizeof(reader->line) - 1)
                reader->line[reader->len++] = text[i];
            continue;
        }
        reader->line[reader->len] = '\0';
        map_line(reader);
        reader->len = 0;
    }
}

static enum exit_code damaged(const struct image_info *image, const char *detail)
{
    return error(EXIT_FAILED,
                 "%s is truncated or damaged (%s); get it again, or look at it with qemu-img check",
                 image->path, detail);
}

/* qemu-img check: 0 good, 3 leaks only, 63 the format has no check, else bad. */
static enum exit_code check_structure(const struct image_info *image)
{
    char *argv[] = {word("qemu-img"),    word("check"),     word("-f"),
                    word(image->format), word(image->path), NULL};
    struct process_result result;
    int r = process_run(argv, NULL, NULL, &result);

    if (r < 0 || result.not_found)
        return cannot_run(r, &result);
    if (result.interrupted)
        return error(EXIT_FAILED, "interrupted; nothing was changed");
    if (result.exit_code == 0 || result.exit_code == 3 || result.exit_code == 63)
        return EXIT_OK;
    return damaged(image, *result.errors ? last_line(&result) : "its tables contradict each other");
}

enum exit_code image_check(const struct image_info *image)
{
    char *argv[] = {
        word("qemu-img"),  word("map"), word("--output=json"), word("-f"), word(image->format),
        word(image->path), NULL};
    struct map_reader reader = {};
    struct process_result result;
    struct stat st;

    if (!strcmp(image->format, "raw"))
        return EXIT_OK;
    enum exit_code code = check_structure(image);
    if (code != EXIT_OK)
        return code;
    int r = process_run(argv, read_map, &reader, &result);
    if (r < 0 || result.not_found)
        return cannot_run(r, &result);
    if (result.interrupted)
        return error(EXIT_FAILED, "interrupted; nothing was changed");
    if (result.exit_code != 0)
        return damaged(image, last_line(&result));
    /* The file may end inside its last 512 bytes: formats round up. */
    if (stat(image->path, &st) == 0 && S_ISREG(st.st_mode) &&
        reader.end > (uint64_t)st.st_size + 511)
        return damaged(image, "it ends before its data does");
    return EXIT_OK;
}

/* ---- copy ----------------------------------------------------------------------------------- */

char *nbd_file_name(const char *socket_path, const char *vm, const char *disk)
{
    json_t *node = json_pack("{s:s, s:{s:s, s:{s:s, s:s}, s:o}}", "driver", "raw", "file", "driver",
                             "nbd", "server", "type", "unix", "path", socket_path, "export",
                             json_sprintf("%s/%s", vm, disk));
    char *text = json_dumps(node, JSON_COMPACT), *name = NULL;

    if (!text || asprintf(&name, "json:%s", text) < 0)
        abort();
    free(text);
    json_decref(node);
    return name;
}

struct copy_progress {
    struct progress progress;
    uint64_t size_bytes;
    char text[64];
    size_t len;
};

/* qemu-img -p prints "    (12.34/100%)\r" again and again. */
static void read_progress(void *arg, const char *text, size_t len)
{
    struct copy_progress *p = arg;

    for (size_t i = 0; i < len; i++) {
        if (text[i] == '(')
            p->len = 0;
        else if (p->len < sizeof(p->text) - 1)
            p->text[p->len++] = text[i];
        if (text[i] == ')') {
            p->text[p->len] = '\0';
            double done = atof(p->text) / 100 * (double)p->size_bytes;
            progress_update(&p->progress, (uint64_t)done, p->size_bytes);
        }
    }
}

static const char *copy_hint(const struct image_copy *copy, const char *errors)
{
    if (strstr(errors, "No space left on device"))
        return copy->existing ? "; the store is full, see varve df"
                              : "; make room on the file system";
    if (strstr(errors, "Input/output error"))
        return copy->existing ? "; the image or the store cannot be used, see varve df"
                              : "; varve check says what is damaged in the store";
    return "";
}

enum exit_code image_copy(const struct image_copy *copy)
{
    struct copy_progress progress = {.size_bytes = copy->size_bytes};
    struct process_result result;
    char *argv[24];
    size_t n = 0;

    argv[n++] = word("qemu-img");
    argv[n++] = word("convert");
    argv[n++] = word("-p");
    if (copy->existing) {
        argv[n++] = word("-n");
        argv[n++] = word("--target-is-zero");
        argv[n++] = word("-W");
    }
    argv[n++] = word("-t");
    argv[n++] = word("writeback"); /* the default never flushes */
    argv[n++] = word("-f");
    argv[n++] = word(copy->from_format);
    argv[n++] = word("-O");
    argv[n++] = word(copy->to_format);
    argv[n++] = word(copy->from);
    argv[n++] = word(copy->to);
    argv[n] = NULL;

    progress_start(&progress.progress, copy->what);
    int r = process_run(argv, read_progress, &progress, &result);
    progress_end(&progress.progress);
    if (r < 0 || result.not_found)
        return cannot_run(r, &result);
    if (result.interrupted)
        return error(EXIT_FAILED, "interrupted");
    if (result.exit_code == 0)
        return EXIT_OK;
    return error(EXIT_FAILED, "%s failed: qemu-img: %s%s", copy->what,
                 *result.errors ? last_line(&result) : "it was killed",
                 copy_hint(copy, result.errors));
}
