/* diff.c - varve diff: what differs between two versions, disk by disk.
 *
 * The daemon gives a page of extents at a time, and JSON is printed as they come: memory does not
 * grow with what differs. */
#include "cli/cli.h"

#include "base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct sums {
    uint64_t data, zero, discarded, extents;
};

struct diff {
    const struct invocation *inv;
    struct version_name from, to;
    struct table *table; /* NULL: JSON */
    bool any;            /* an extent was printed for this disk */
};

static void print_extent(struct diff *d, uint64_t offset, uint64_t length, const char *kind)
{
    printf("%s\n        {\"offset\": %" PRIu64 ", \"length\": %" PRIu64 ", \"type\": \"%s\"}",
           d->any ? "," : "", offset, length, kind);
    d->any = true;
}

static void take_extent(struct diff *d, const json_t *extent, struct sums *sums)
{
    const char *kind = json_string_value(json_array_get(extent, 2));
    uint64_t offset = 0, length = 0;

    size_parse_decimal(json_string_value(json_array_get(extent, 0)), &offset);
    size_parse_decimal(json_string_value(json_array_get(extent, 1)), &length);
    if (!d->table)
        print_extent(d, offset, length, kind);
    if (!strcmp(kind, "data"))
        sums->data += length;
    else if (!strcmp(kind, "zero"))
        sums->zero += length;
    else
        sums->discarded += length;
    sums->extents++;
}

/* All pages of one disk. whole: it was not there before. */
static enum exit_code walk_disk(struct diff *d, const char *disk, bool whole, struct sums *sums)
{
    json_t *page, *extent, *offset = json_string("0");
    enum exit_code r;
    size_t i;

    do {
        r = call(d->inv, "disk.diff",
                 json_pack("[s, s, s, s, s, {s:o, s:b}]", d->from.vm, d->from.version, d->to.vm,
                           d->to.version, disk, "offset", offset, "whole", whole),
                 &page);
        offset = NULL;
        if (r != EXIT_OK)
            return r;
        json_array_foreach(json_object_get(page, "extents"), i, extent)
            take_extent(d, extent, sums);
        if (*member_text(page, "next"))
            offset = json_incref(json_object_get(page, "next"));
        json_decref(page);
    } while (offset);
    return EXIT_OK;
}

static void print_row(const struct diff *d, const json_t *disk, const struct sums *sums)
{
    char size[2 * SIZE_TEXT_CHARS + 4], from[SIZE_TEXT_CHARS], to[SIZE_TEXT_CHARS];
    char data[SIZE_TEXT_CHARS], zero[SIZE_TEXT_CHARS], discarded[SIZE_TEXT_CHARS], extents[24];
    uint64_t from_size = member_u64(disk, "from_size"), to_size = member_u64(disk, "to_size");
    const char *state = member_text(disk, "state");

    if (from_size && to_size && from_size != to_size)
        snprintf(size, sizeof(size), "%s to %s", size_format(from_size, from),
                 size_format(to_size, to));
    else
        snprintf(size, sizeof(size), "%s", size_format(to_size ? to_size : from_size, to));
    snprintf(extents, sizeof(extents), "%" PRIu64, sums->extents);
    if (!strcmp(state, "both"))
        state = sums->extents || from_size != to_size ? "changed" : "same";
    table_row(d->table, member_text(disk, "name"), state, size, size_format(sums->data, data),
              size_format(sums->zero, zero), size_format(sums->discarded, discarded), extents,
              NULL);
}

static enum exit_code diff_disk(struct diff *d, const json_t *disk, bool first)
{
    const char *state = member_text(disk, "state");
    bool whole = !strcmp(state, "added") || !strcmp(state, "replaced");
    struct sums sums = {};
    enum exit_code r = EXIT_OK;

    d->any = false;
    if (!d->table)
        printf("%s\n    {\n      \"name\": \"%s\",\n      \"state\": \"%s\",\n"
               "      \"from_size\": %" PRIu64 ",\n      \"to_size\": %" PRIu64
               ",\n      \"extents\": [",
               first ? "" : ",", member_text(disk, "name"), state, member_u64(disk, "from_size"),
               member_u64(disk, "to_size"));
    if (strcmp(state, "removed"))
        r = walk_disk(d, member_text(disk, "name"), whole, &sums);
    if (r != EXIT_OK)
        return r;
    if (d->table)
        print_row(d, disk, &sums);
    else
        printf("%s]\n    }", d->any ? "\n      " : "");
    return EXIT_OK;
}

static enum exit_code diff_disks(struct diff *d, const json_t *disks)
{
    enum exit_code r = EXIT_OK;
    json_t *disk;
    size_t i;

    if (d->inv->json) {
        printf("{\n  \"from\": \"%s\",\n  \"to\": \"%s\",\n  \"disks\": [", d->inv->args[0],
               d->inv->args[1]);
    } else {
        d->table = table_new("llrrrrr");
        table_row(d->table, "DISK", "STATE", "SIZE", "DATA", "ZERO", "DISCARDED", "EXTENTS", NULL);
    }
    json_array_foreach(disks, i, disk) if (r == EXIT_OK) r = diff_disk(d, disk, i == 0);
    if (d->table)
        table_print(d->table);
    else if (r == EXIT_OK)
        printf("%s]\n}\n", json_array_size(disks) ? "\n  " : "");
    return r;
}

enum exit_code cmd_diff(const struct invocation *inv)
{
    struct diff d = {.inv = inv};
    json_t *both;
    enum exit_code r = version_name_read(inv->args[0], &d.from);

    version_name_split(inv->args[1], &d.to);
    if (r == EXIT_OK && d.to.has_version)
        r = version_name_read(inv->args[1], &d.to);
    if (r == EXIT_OK)
        r = call(inv, "vm.diff",
                 json_pack("[s, s, s, s]", d.from.vm, d.from.version, d.to.vm, d.to.version),
                 &both);
    if (r != EXIT_OK)
        return r;
    r = diff_disks(&d, json_object_get(both, "disks"));
    json_decref(both);
    return r;
}
