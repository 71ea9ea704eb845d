/* vm.c - commands on vms and disks. */
#include "cli/cli.h"

#include "base/size.h"

#include <inttypes.h>
#include <string.h>

static json_t *decimal(uint64_t number)
{
    return json_sprintf("%" PRIu64, number);
}

enum exit_code cmd_create(const struct invocation *inv)
{
    const char *size = option_value(inv, "size"), *role = option_value(inv, "role");
    json_t *options = json_object();
    uint64_t bytes;

    if (size) {
        enum exit_code r = read_disk_size(size, &bytes);
        if (r != EXIT_OK) {
            json_decref(options);
            return r;
        }
        json_object_set_new(options, "size", decimal(bytes));
    }
    if (role)
        json_object_set_new(options, "role", json_string(role));
    return call(inv, "vm.create", json_pack("[s, o]", inv->args[0], options), NULL);
}

static uint64_t sum(const json_t *disks, const char *key)
{
    uint64_t total = 0;
    json_t *disk;
    size_t i;

    json_array_foreach(disks, i, disk) total += member_u64(disk, key);
    return total;
}

static const char *state_text(const json_t *object, uint64_t users)
{
    if (json_is_true(json_object_get(object, "provisional")))
        return "provisional";
    return users ? "in use" : "idle";
}

static void print_vms(const json_t *vms)
{
    char size[SIZE_TEXT_CHARS], used[SIZE_TEXT_CHARS], disks[16];
    struct table *table = table_new("llrrrl");
    json_t *vm;
    size_t i;

    table_row(table, "NAME", "ROLE", "DISKS", "SIZE", "USED", "STATE", NULL);
    json_array_foreach(vms, i, vm)
    {
        const json_t *list = json_object_get(vm, "disks");
        snprintf(disks, sizeof(disks), "%zu", json_array_size(list));
        table_row(table, member_text(vm, "name"), member_text(vm, "role"), disks,
                  size_format(sum(list, "size"), size), size_format(sum(list, "used"), used),
                  state_text(vm, sum(list, "users")), NULL);
    }
    table_print(table);
}

static void print_disks(const json_t *vm)
{
    char size[SIZE_TEXT_CHARS], used[SIZE_TEXT_CHARS], users[16];
    struct table *table = table_new("lrrrl");
    json_t *disk;
    size_t i;

    table_row(table, "DISK", "SIZE", "USED", "CLIENTS", "STATE", NULL);
    json_array_foreach(json_object_get(vm, "disks"), i, disk)
    {
        snprintf(users, sizeof(users), "%" PRIu64, member_u64(disk, "users"));
        table_row(table, member_text(disk, "name"), size_format(member_u64(disk, "size"), size),
                  size_format(member_u64(disk, "used"), used), users,
                  state_text(disk, member_u64(disk, "users")), NULL);
    }
    table_print(table);
}

enum exit_code cmd_ls(const struct invocation *inv)
{
    json_t *result;
    enum exit_code r;

    if (inv->n_args)
        r = call(inv, "vm.show", json_pack("[s]", inv->args[0]), &result);
    else
        r = call(inv, "vm.list", NULL, &result);
    if (r != EXIT_OK)
        return r;
    if (inv->json)
        r = print_json(result);
    else if (inv->n_args)
        print_disks(result);
    else
        print_vms(result);
    json_decref(result);
    return r;
}

enum exit_code cmd_show(const struct invocation *inv)
{
    json_t *vm;
    enum exit_code r = call(inv, "vm.show", json_pack("[s]", inv->args[0]), &vm);

    if (r != EXIT_OK)
        return r;
    if (inv->json) {
        r = print_json(vm);
    } else {
        printf("name     %s\nrole     %s\ncreated  %s\n", member_text(vm, "name"),
               member_text(vm, "role"), member_text(vm, "created"));
        if (json_is_true(json_object_get(vm, "provisional")))
            puts("state    provisional: an import under way, or one that was cut off");
        putchar('\n');
        print_disks(vm);
    }
    json_decref(vm);
    return r;
}

/* A client that is cut off, as by a restart of the daemon, asks for the name that it knows. */
enum exit_code cmd_rename(const struct invocation *inv)
{
    const char *old = inv->args[0], *new = inv->args[1];
    struct why why;
    json_t *vm = NULL;
    enum exit_code r = call(inv, "vm.rename", json_pack("[s, s]", old, new), NULL);

    if (r != EXIT_OK)
        return r;
    call_quiet(inv, "vm.show", json_pack("[s]", new), &vm, &why);
    if (vm && sum(json_object_get(vm, "disks"), "users"))
        note("%s is in use: its clients stay connected, but will not find %s when they connect "
             "again, as after a restart of varved; restart them, or rename it back",
             new, old);
    json_decref(vm);
    return r;
}

enum exit_code cmd_rm(const struct invocation *inv)
{
    json_t *vm;
    enum exit_code r = call(inv, "vm.show", json_pack("[s]", inv->args[0]), &vm);

    if (r != EXIT_OK)
        return r;
    size_t n = json_array_size(json_object_get(vm, "disks"));
    json_decref(vm);
    r = confirm(inv, "Remove vm %s with its %zu disk(s) and all data on them", inv->args[0], n);
    if (r != EXIT_OK)
        return r;
    return call(inv, "vm.remove", json_pack("[s]", inv->args[0]), NULL);
}

/* ---- disks ---------------------------------------------------------------------------------- */

static enum exit_code read_disk_name(const struct invocation *inv, struct disk_name *name)
{
    disk_name_split(inv->args[0], name);
    if (!name->has_disk)
        return error(EXIT_USAGE, "\"%s\" names no disk; write VM/DISK, such as %s/data",
                     inv->args[0], inv->args[0]);
    return EXIT_OK;
}

enum exit_code cmd_disk_add(const struct invocation *inv)
{
    struct disk_name name;
    uint64_t bytes;
    enum exit_code r = read_disk_name(inv, &name);

    if (r == EXIT_OK)
        r = read_disk_size(inv->args[1], &bytes);
    if (r != EXIT_OK)
        return r;
    return call(inv, "disk.add", json_pack("[s, s, o]", name.vm, name.disk, decimal(bytes)), NULL);
}

/* The disk's entry in vm.show: its present size is asked before something is destroyed. */
static enum exit_code show_disk(const struct invocation *inv, const struct disk_name *name,
                                uint64_t *ret_size)
{
    json_t *vm, *disk;
    size_t i;
    enum exit_code r = call(inv, "vm.show", json_pack("[s]", name->vm), &vm);

    if (r != EXIT_OK)
        return r;
    r = EXIT_NOT_FOUND;
    json_array_foreach(json_object_get(vm, "disks"), i,
                       disk) if (!strcmp(member_text(disk, "name"), name->disk))
    {
        *ret_size = member_u64(disk, "size");
        r = EXIT_OK;
    }
    json_decref(vm);
    if (r != EXIT_OK)
        error(r, "vm \"%s\" has no disk \"%s\"; see varve show %s", name->vm, name->disk, name->vm);
    return r;
}

enum exit_code cmd_disk_rm(const struct invocation *inv)
{
    struct disk_name name;
    uint64_t size;
    enum exit_code r = read_disk_name(inv, &name);

    if (r == EXIT_OK)
        r = show_disk(inv, &name, &size);
    if (r == EXIT_OK)
        r = confirm(inv, "Remove disk %s and all data on it", inv->args[0]);
    if (r != EXIT_OK)
        return r;
    return call(inv, "disk.remove", json_pack("[s, s]", name.vm, name.disk), NULL);
}

enum exit_code cmd_disk_resize(const struct invocation *inv)
{
    char old_text[SIZE_TEXT_CHARS], new_text[SIZE_TEXT_CHARS];
    struct disk_name name;
    uint64_t bytes, size;
    enum exit_code r = read_disk_name(inv, &name);

    if (r == EXIT_OK)
        r = read_disk_size(inv->args[1], &bytes);
    if (r == EXIT_OK)
        r = show_disk(inv, &name, &size);
    if (r == EXIT_OK && bytes < size)
        r = confirm(inv, "Shrink disk %s from %s to %s and lose what lies beyond", inv->args[0],
                    size_format(size, old_text), size_format(bytes, new_text));
    if (r != EXIT_OK)
        return r;
    return call(inv, "disk.resize", json_pack("[s, s, o]", name.vm, name.disk, decimal(bytes)),
                NULL);
}
