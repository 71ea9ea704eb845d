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
    enum exit_code r = EXIT_OK;
    uint64_t bytes;

    if (size)
        r = read_disk_size(size, &bytes);
    if (r == EXIT_OK && size)
        json_object_set_new(options, "size", decimal(bytes));
    if (r == EXIT_OK && role)
        r = set_text(options, "role", role);
    if (r != EXIT_OK) {
        json_decref(options);
        return r;
    }
    return call(inv, "vm.create", json_pack("[s, o]", inv->args[0], options), NULL);
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

static void print_vm(const json_t *vm)
{
    printf("name      %s\nrole      %s\ncreated   %s\nversions  %" PRIu64 "\n",
           member_text(vm, "name"), member_text(vm, "role"), member_text(vm, "created"),
           member_u64(vm, "versions"));
    if (*member_text(vm, "origin"))
        printf("origin    %s\n", member_text(vm, "origin"));
    if (json_is_true(json_object_get(vm, "provisional")))
        puts("state     provisional: an import under way, or one that was cut off");
    print_machine(json_object_get(vm, "machine"));
    putchar('\n');
    print_disks(vm);
}

/* "; of it 80.0 MiB memory", where there is some. */
static void print_memory_part(const json_t *memory, const char *key)
{
    char text[SIZE_TEXT_CHARS];

    if (json_object_get(memory, key))
        printf("; of it %s of memory", size_format(member_u64(memory, key), text));
    putchar('\n');
}

static void print_version(const json_t *v)
{
    static const char *const sizes[] = {"used", "exclusive", "shared"};
    char text[SIZE_TEXT_CHARS];

    printf("name         %s@%s\ntaken        %s\nconsistency  %s\n", member_text(v, "vm"),
           member_text(v, "name"), member_text(v, "created"), member_text(v, "consistency"));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (json_object_get(v, sizes[i])) {
            printf("%-12s %s", sizes[i], size_format(member_u64(v, sizes[i]), text));
            print_memory_part(json_object_get(v, "memory"), sizes[i]);
        }
    if (*member_text(v, "origin"))
        printf("origin       %s\n", member_text(v, "origin"));
    if (json_is_true(json_object_get(v, "held")))
        puts("state        held");
    if (*member_text(v, "note"))
        printf("note         %s\n", member_text(v, "note"));
    printf("guid         %s\n", member_text(v, "guid"));
    print_checkpoint(v);
    putchar('\n');
    print_disks(v);
}

enum exit_code cmd_show(const struct invocation *inv)
{
    struct version_name name;
    json_t *result;
    enum exit_code r;

    version_name_split(inv->args[0], &name);
    if (name.has_version)
        r = call(inv, "version.show", json_pack("[s, s]", name.vm, name.version), &result);
    else
        r = call(inv, "vm.show", json_pack("[s]", name.vm), &result);
    if (r != EXIT_OK)
        return r;
    if (inv->json)
        r = print_json(result);
    else if (name.has_version)
        print_version(result);
    else
        print_vm(result);
    json_decref(result);
    return r;
}

static enum exit_code rename_version(const struct invocation *inv, const struct version_name *old)
{
    struct version_name new;

    version_name_split(inv->args[1], &new);
    if (new.has_version && strcmp(new.vm, old->vm))
        return error(EXIT_USAGE, "a version stays with its vm; write varve rename %s %s@%s",
                     inv->args[0], old->vm, new.version);
    return call(
        inv, "version.rename",
        json_pack("[s, s, s]", old->vm, old->version, new.has_version ? new.version : new.vm),
        NULL);
}

/* A client that is cut off, as by a restart of the daemon, asks for the name that it knows. */
enum exit_code cmd_rename(const struct invocation *inv)
{
    const char *old = inv->args[0], *new = inv->args[1];
    struct version_name name;
    struct why why;
    json_t *vm = NULL;

    version_name_split(old, &name);
    if (name.has_version)
        return rename_version(inv, &name);
    enum exit_code r = call(inv, "vm.rename", json_pack("[s, s]", old, new), NULL);

    if (r != EXIT_OK)
        return r;
    call_quiet(inv, "vm.show", json_pack("[s]", new), &vm, &why);
    if (vm && member_sum(json_object_get(vm, "disks"), "users"))
        note(
            "%s is in use: its clients stay connected, but will not find %s when they connect "
            "again, as after a restart of varved; restart them, or rename it back. As long as they "
            "are connected no other vm gets the name %s; once varved was restarted it is free, and "
            "a client that still asks for it would come to the new vm's disk",
            new, old, old);
    json_decref(vm);
    return r;
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
    return call(inv, "disk.resize",
                json_pack("[s, s, o, o]", name.vm, name.disk, decimal(bytes), decimal(size)), NULL);
}
