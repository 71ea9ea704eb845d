/* diff.c - varve diff: what differs between two versions, disk by disk, and in the memory of their
 * machines.
 *
 * The daemon gives a page of extents at a time, and JSON is printed as they come: memory does not
 * grow with what differs on disks. */
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

/* An extent, [offset, length, kind] from place at on. */
static uint64_t extent_number(const json_t *extent, size_t at)
{
    uint64_t number = 0;

    size_parse_decimal(json_string_value(json_array_get(extent, at)), &number);
    return number;
}

static void sum_extent(const json_t *extent, size_t at, struct sums *sums)
{
    const char *kind = json_string_value(json_array_get(extent, at + 2));
    uint64_t length = extent_number(extent, at + 1);

    if (!strcmp(kind, "data"))
        sums->data += length;
    else if (!strcmp(kind, "zero"))
        sums->zero += length;
    else
        sums->discarded += length;
    sums->extents++;
}

static void take_extent(struct diff *d, const json_t *extent, size_t at, struct sums *sums)
{
    if (!d->table)
        print_extent(d, extent_number(extent, at), extent_number(extent, at + 1),
                     json_string_value(json_array_get(extent, at + 2)));
    sum_extent(extent, at, sums);
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
            take_extent(d, extent, 0, sums);
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

/* ---- memory --------------------------------------------------------------------------------- */

/* What the daemon says of the blocks, and for each the extents that came. */
struct memory_diff {
    json_t *blocks, *extents; /* extents: for each block an array of [offset, length, kind] */
};

static void take_memory_extents(struct memory_diff *m, const json_t *page)
{
    json_t *extent;
    size_t i;

    json_array_foreach(json_object_get(page, "extents"), i, extent)
    {
        size_t block = (size_t)json_integer_value(json_array_get(extent, 0));
        json_array_append(json_array_get(m->extents, block), extent);
    }
}

static enum exit_code fetch_memory(const struct diff *d, struct memory_diff *m)
{
    json_t *page, *after = NULL;
    enum exit_code r;

    do {
        json_t *options = json_object();
        if (after)
            json_object_set_new(options, "after", after);
        after = NULL;
        r = call(d->inv, "memory.diff",
                 json_pack("[s, s, s, s, o]", d->from.vm, d->from.version, d->to.vm, d->to.version,
                           options),
                 &page);
        if (r != EXIT_OK)
            return r;
        if (!m->blocks) {
            m->blocks = json_incref(json_object_get(page, "blocks"));
            for (size_t i = 0; i < json_array_size(m->blocks); i++)
                json_array_append_new(m->extents, json_array());
        }
        take_memory_extents(m, page);
        if (*member_text(page, "next"))
            after = json_incref(json_object_get(page, "next"));
        json_decref(page);
    } while (after);
    return EXIT_OK;
}

/* ROMs and the like only where they are other than they were. */
static void print_memory_row(struct diff *d, const json_t *block, const json_t *extents)
{
    const char *state = member_text(block, "state");
    uint64_t from_size = member_u64(block, "from_size"), to_size = member_u64(block, "to_size");
    struct sums sums = {};
    json_t *extent, *row;
    size_t i;

    json_array_foreach(extents, i, extent) sum_extent(extent, 1, &sums);
    if (!json_is_true(json_object_get(block, "ram")) && !strcmp(state, "both") && !sums.extents &&
        from_size == to_size)
        return;
    row = json_pack("{s:o, s:s, s:o, s:o}", "name",
                    json_sprintf("memory:%s", member_text(block, "name")), "state", state,
                    "from_size", json_incref(json_object_get(block, "from_size")), "to_size",
                    json_incref(json_object_get(block, "to_size")));
    print_row(d, row, &sums);
    json_decref(row);
}

static void print_memory_block(struct diff *d, const json_t *block, const json_t *extents,
                               bool first)
{
    json_t *extent, *name = json_object_get(block, "name");
    char *text = json_dumps(name, JSON_ENCODE_ANY);
    struct sums sums = {};
    size_t i;

    d->any = false;
    printf("%s\n    {\n      \"name\": %s,\n      \"state\": \"%s\",\n      \"ram\": %s,\n"
           "      \"from_size\": %" PRIu64 ",\n      \"to_size\": %" PRIu64
           ",\n      \"extents\": [",
           first ? "" : ",", text, member_text(block, "state"),
           json_is_true(json_object_get(block, "ram")) ? "true" : "false",
           member_u64(block, "from_size"), member_u64(block, "to_size"));
    json_array_foreach(extents, i, extent) take_extent(d, extent, 1, &sums);
    printf("%s]\n    }", d->any ? "\n      " : "");
    free(text);
}

/* state: of vm.diff. */
static enum exit_code diff_memory(struct diff *d, const char *state)
{
    struct memory_diff m = {.extents = json_array()};
    enum exit_code r = EXIT_OK;
    json_t *block;
    size_t i;

    if (!strcmp(state, "both"))
        r = fetch_memory(d, &m);
    if (!d->table && r == EXIT_OK)
        printf(",\n  \"memory\": \"%s\",\n  \"memory_blocks\": [", state);
    if (r == EXIT_OK)
        json_array_foreach(m.blocks, i, block)
        {
            if (d->table)
                print_memory_row(d, block, json_array_get(m.extents, i));
            else
                print_memory_block(d, block, json_array_get(m.extents, i), i == 0);
        }
    if (!d->table && r == EXIT_OK)
        printf("%s]", json_array_size(m.blocks) ? "\n  " : "");
    json_decref(m.blocks);
    json_decref(m.extents);
    return r;
}

static enum exit_code diff_both(struct diff *d, const json_t *both)
{
    const json_t *disks = json_object_get(both, "disks");
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
    if (!d->table && r == EXIT_OK)
        printf("%s]", json_array_size(disks) ? "\n  " : "");
    if (r == EXIT_OK)
        r = diff_memory(d, member_text(both, "memory"));
    if (d->table)
        table_print(d->table);
    else if (r == EXIT_OK)
        puts("\n}");
    return r;
}

/* Why memory is not compared, where there is some. */
static void note_memory(const struct diff *d, const char *state)
{
    if (!strcmp(state, "added") || !strcmp(state, "removed"))
        note("%s has no RAM: only the disks are compared",
             d->inv->args[!strcmp(state, "added") ? 0 : 1]);
    else if (!strcmp(state, "unknown"))
        note("only the disks are compared: the memory of %s as it is now is in no version; varve "
             "checkpoint takes one",
             d->inv->args[1]);
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
    r = diff_both(&d, both);
    if (r == EXIT_OK)
        note_memory(&d, member_text(both, "memory"));
    json_decref(both);
    return r;
}
