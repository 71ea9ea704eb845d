/* output.c - messages, tables, confirmation, and reading of names and sizes. */
#include "cli/cli.h"

#include "base/size.h"
#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COLUMNS_MAX 12

/* ---- messages ------------------------------------------------------------------------------- */

static bool colours(void)
{
    const char *no = getenv("NO_COLOR");
    return isatty(STDERR_FILENO) && !(no && *no);
}

enum exit_code error(enum exit_code code, const char *format, ...)
{
    va_list args;

    fputs(colours() ? "\033[31mvarve:\033[0m " : "varve: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return code;
}

void note(const char *format, ...)
{
    va_list args;

    fputs("varve: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

enum exit_code confirm(const struct invocation *inv, const char *format, ...)
{
    char question[512], line[16];
    va_list args;

    if (inv->yes)
        return EXIT_OK;
    va_start(args, format);
    vsnprintf(question, sizeof(question), format, args);
    va_end(args);
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return error(EXIT_USAGE, "%s? Say so with --yes", question);
    fprintf(stderr, "%s? [y/N] ", question);
    if (fgets(line, sizeof(line), stdin) && (*line == 'y' || *line == 'Y'))
        return EXIT_OK;
    note("nothing was changed");
    return EXIT_FAILED;
}

/* ---- output --------------------------------------------------------------------------------- */

enum exit_code print_json(const json_t *value)
{
    if (json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) < 0 || putchar('\n') == EOF)
        return error(EXIT_FAILED, "cannot write the output: %s", strerror(errno));
    return EXIT_OK;
}

struct table {
    const char *align;
    size_t n_columns, n_cells, room;
    char **cells;
};

struct table *table_new(const char *align)
{
    struct table *t = calloc(1, sizeof(*t));

    if (!t)
        abort();
    t->align = align;
    t->n_columns = strlen(align);
    return t;
}

void table_row(struct table *t, ...)
{
    const char *cell;
    va_list args;

    if (t->n_cells + t->n_columns > t->room) {
        t->room = 2 * t->room + 64;
        t->cells = realloc(t->cells, t->room * sizeof(*t->cells));
        if (!t->cells)
            abort();
    }
    va_start(args, t);
    for (size_t i = 0; i < t->n_columns; i++) {
        cell = va_arg(args, const char *);
        t->cells[t->n_cells++] = strdup(cell ? cell : "");
    }
    va_end(args);
}

void table_print(struct table *t)
{
    int widths[COLUMNS_MAX] = {};

    for (size_t i = 0; i < t->n_cells; i++)
        if ((int)strlen(t->cells[i]) > widths[i % t->n_columns])
            widths[i % t->n_columns] = (int)strlen(t->cells[i]);
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t column = i % t->n_columns;
        bool last = column + 1 == t->n_columns;
        if (t->align[column] == 'r')
            printf("%*s%s", widths[column], t->cells[i], last ? "\n" : "  ");
        else if (last)
            printf("%s\n", t->cells[i]);
        else
            printf("%-*s  ", widths[column], t->cells[i]);
        free(t->cells[i]);
    }
    free(t->cells);
    free(t);
}

const char *member_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

uint64_t member_u64(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    uint64_t number = 0;

    if (json_is_integer(value))
        return (uint64_t)json_integer_value(value);
    if (json_is_string(value) && size_parse_decimal(json_string_value(value), &number) == 0)
        return number;
    return 0;
}

uint64_t member_sum(const json_t *array, const char *key)
{
    uint64_t total = 0;
    json_t *object;
    size_t i;

    json_array_foreach(array, i, object) total += member_u64(object, key);
    return total;
}

/* ---- names and sizes ------------------------------------------------------------------------ */

/* The first n bytes of text, as many as there is room for; no character is cut. */
static void copy_name(char out[256], const char *text, size_t n)
{
    if (n > 255)
        n = (size_t)text_cut(text, 255);
    memcpy(out, text, n);
    out[n] = '\0';
}

void disk_name_split(const char *text, struct disk_name *ret)
{
    const char *slash = strchr(text, '/');
    const char *disk = slash ? slash + 1 : "root";

    ret->has_disk = slash != NULL;
    copy_name(ret->vm, text, slash ? (size_t)(slash - text) : strlen(text));
    copy_name(ret->disk, disk, strlen(disk));
}

void version_name_split(const char *text, struct version_name *ret)
{
    const char *at = strchr(text, '@');
    const char *version = at ? at + 1 : "";

    ret->has_version = at != NULL;
    copy_name(ret->vm, text, at ? (size_t)(at - text) : strlen(text));
    copy_name(ret->version, version, strlen(version));
}

enum exit_code version_name_read(const char *text, struct version_name *ret)
{
    version_name_split(text, ret);
    if (!ret->has_version || !*ret->version)
        return error(EXIT_USAGE, "\"%s\" names no version; write VM@VERSION, see varve ls %s", text,
                     *ret->vm ? ret->vm : "VM");
    return EXIT_OK;
}

enum exit_code check_whole(const json_t *object, const char *what, const char *name)
{
    if (!json_is_true(json_object_get(object, "provisional")))
        return EXIT_OK;
    return error(EXIT_CONFLICT,
                 "%s %s is half-made: an import is under way, or was cut off; wait for it, or "
                 "remove it with varve %srm",
                 what, name, strcmp(what, "disk") ? "" : "disk ");
}

const char *state_text(const json_t *object, uint64_t users)
{
    if (json_is_true(json_object_get(object, "provisional")))
        return "provisional";
    return users ? "in use" : "idle";
}

enum exit_code read_disk_size(const char *text, uint64_t *ret_bytes)
{
    uint64_t bytes;
    int r = size_parse(text, &bytes);

    if (r == -EINVAL)
        return error(EXIT_USAGE, "\"%s\" is not a size; write it as 10G, 512M, 1T or in bytes",
                     text);
    if (r < 0 || bytes < 4096 || bytes > 1ULL << 57 || bytes % 512)
        return error(
            EXIT_USAGE,
            "a disk cannot have the size %s; use a multiple of 512 bytes from 4096 bytes to "
            "128 PiB",
            text);
    *ret_bytes = bytes;
    return EXIT_OK;
}
