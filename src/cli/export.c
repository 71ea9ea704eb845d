/* export.c - varve export: a disk becomes a disk image.
 *
 * The image is written beside its place as FILE.partial-PID, brought to its disk, and given its
 * name only then. */
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/process.h"
#include "cli/qemu-img.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum exit_code cannot(const char *what, const char *path, int code)
{
    if (code == EEXIST)
        return error(EXIT_CONFLICT, "%s exists; replace it with --force, or choose another name",
                     path);
    return error(EXIT_FAILED, "cannot %s %s: %s", what, path, strerror(code));
}

static enum exit_code sync_path(const char *path, int flags)
{
    _cleanup_close_ int fd = open(path, flags | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? cannot("sync", path, errno) : EXIT_OK;
}

enum exit_code file_publish(const char *partial, const char *path, bool force)
{
    char copy[PATH_MAX];
    enum exit_code r = sync_path(partial, O_RDWR);

    if (r != EXIT_OK)
        return r;
    int n = renameat2(AT_FDCWD, partial, AT_FDCWD, path, force ? 0 : RENAME_NOREPLACE);
    if (n < 0 && errno == EINVAL && !force && access(path, F_OK) < 0)
        n = rename(partial, path); /* a file system without RENAME_NOREPLACE */
    if (n < 0)
        return cannot("make", path, errno);
    snprintf(copy, sizeof(copy), "%s", path);
    return sync_path(dirname(copy), O_RDONLY | O_DIRECTORY);
}

/* The disk's size; a word of warning when it may change under the copy. */
static enum exit_code look_at_disk(const struct invocation *inv, const struct disk_name *name,
                                   uint64_t *ret_size)
{
    json_t *vm, *disk;
    size_t i;
    enum exit_code r = call(inv, "vm.show", json_pack("[s]", name->vm), &vm);
    bool found = false;

    if (r != EXIT_OK)
        return r;
    json_array_foreach(json_object_get(vm, "disks"), i, disk)
    {
        if (strcmp(member_text(disk, "name"), name->disk))
            continue;
        found = true;
        *ret_size = member_u64(disk, "size");
        r = check_whole(vm, "vm", name->vm);
        if (r == EXIT_OK)
            r = check_whole(disk, "disk", inv->args[0]);
        if (r == EXIT_OK && member_u64(disk, "users"))
            note("disk %s/%s is in use: what is written meanwhile may be in the copy or not",
                 name->vm, name->disk);
    }
    json_decref(vm);
    if (!found)
        return error(EXIT_NOT_FOUND, "vm \"%s\" has no disk \"%s\"; see varve show %s", name->vm,
                     name->disk, name->vm);
    return r;
}

static enum exit_code write_image(const struct invocation *inv, const struct disk_name *name,
                                  uint64_t size, const char *nbd_socket, const char *format)
{
    char dir[PATH_MAX], absolute[PATH_MAX], partial[PATH_MAX + 64], copy_name[PATH_MAX];
    const char *path = inv->args[1];

    /* An absolute path is no protocol of qemu's, whatever colons it has. */
    snprintf(dir, sizeof(dir), "%s", path);
    snprintf(copy_name, sizeof(copy_name), "%s", path);
    if (!realpath(dirname(dir), absolute))
        return cannot("write", path, errno);
    snprintf(partial, sizeof(partial), "%s/%s.partial-%d", absolute, basename(copy_name),
             (int)getpid());

    char *from = nbd_file_name(nbd_socket, name->vm, name->disk);
    struct image_copy copy = {.from = from,
                              .from_format = "raw",
                              .to = partial,
                              .to_format = format,
                              .what = "exporting",
                              .size_bytes = size};
    enum exit_code r = image_copy(&copy);
    free(from);
    if (r != EXIT_OK && !interrupted())
        r = check_daemon(inv, r);
    if (r == EXIT_OK && interrupted())
        r = error(EXIT_FAILED, "interrupted");
    if (r == EXIT_OK)
        r = file_publish(partial, path, option_value(inv, "force") != NULL);
    if (r != EXIT_OK && unlink(partial) < 0 && errno != ENOENT)
        note("cannot remove %s: %s", partial, strerror(errno));
    return r;
}

enum exit_code cmd_export(const struct invocation *inv)
{
    const char *format = option_value(inv, "format"), *path = inv->args[1];
    char nbd_socket[256];
    struct disk_name name;
    uint64_t size = 0;
    json_t *info;

    if (format && !image_format_check(format))
        return error(EXIT_USAGE, "\"%s\" is no format; use raw, qcow2, vmdk, vhdx or vdi", format);
    if (!format)
        format = image_format_of_name(path);
    if (!option_value(inv, "force") && access(path, F_OK) == 0)
        return cannot("make", path, EEXIST);
    disk_name_split(inv->args[0], &name);
    interrupt_catch();

    enum exit_code r = look_at_disk(inv, &name, &size);
    if (r == EXIT_OK)
        r = call(inv, "daemon.info", NULL, &info);
    if (r != EXIT_OK)
        return r;
    snprintf(nbd_socket, sizeof(nbd_socket), "%s", member_text(info, "nbd_socket"));
    json_decref(info);
    return write_image(inv, &name, size, nbd_socket, format);
}
