/* export.c - varve export: a disk becomes a disk image.
 *
 * The image is written beside its place as FILE.partial-XXXXXX, brought to its disk, and given its
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
#include <sys/stat.h>
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

/* What is exported: a disk, of a version if that is not "". */
struct source {
    struct disk_name disk;
    char version[256];
};

/* "VM[/DISK][@VERSION]" */
static enum exit_code read_source(const char *text, struct source *ret)
{
    const char *at = strchr(text, '@');
    char disk[600];

    *ret = (struct source){};
    snprintf(disk, sizeof(disk), "%.*s", at ? (int)(at - text) : (int)strlen(text), text);
    disk_name_split(disk, &ret->disk);
    if (at)
        snprintf(ret->version, sizeof(ret->version), "%s", at + 1);
    if (at && !*ret->version)
        return error(EXIT_USAGE, "\"%s\" names no version; see varve ls %s", text, ret->disk.vm);
    return EXIT_OK;
}

/* The disk's size; a word of warning when it may change under the copy. */
static enum exit_code look_at_disk(const struct invocation *inv, const struct source *source,
                                   uint64_t *ret_size)
{
    const struct disk_name *name = &source->disk;
    bool found = false;
    enum exit_code r;
    json_t *vm, *disk;
    size_t i;

    if (*source->version)
        r = call(inv, "version.show", json_pack("[s, s]", name->vm, source->version), &vm);
    else
        r = call(inv, "vm.show", json_pack("[s]", name->vm), &vm);
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
        if (r == EXIT_OK && !*source->version && member_u64(disk, "users"))
            note("disk %s/%s is in use: what is written meanwhile may be in the copy or not",
                 name->vm, name->disk);
    }
    json_decref(vm);
    if (!found)
        return error(EXIT_NOT_FOUND, "%s \"%s%s%s\" has no disk \"%s\"; see varve show %s%s%s",
                     *source->version ? "version" : "vm", name->vm, *source->version ? "@" : "",
                     source->version, name->disk, name->vm, *source->version ? "@" : "",
                     source->version);
    return r;
}

/* Make the empty file that qemu-img is to fill, with the mode that it would give: where others may
 * write to the directory too, it must follow no link of theirs. name: ends with XXXXXX. */
static int make_partial(char *name)
{
    mode_t mask = umask(077);
    _cleanup_close_ int fd = mkostemp(name, O_CLOEXEC);

    umask(mask);
    if (fd < 0)
        return -errno;
    (void)fchmod(fd, 0644 & ~mask); /* else it is ours alone */
    return 0;
}

static enum exit_code write_image(const struct invocation *inv, const struct source *source,
                                  uint64_t size, const char *nbd_socket, const char *format)
{
    char disk[600], dir[PATH_MAX], absolute[PATH_MAX], partial[PATH_MAX + 64], copy_name[PATH_MAX];
    const char *path = inv->args[1];

    /* An absolute path is no protocol of qemu's, whatever colons it has. */
    snprintf(dir, sizeof(dir), "%s", path);
    snprintf(copy_name, sizeof(copy_name), "%s", path);
    if (!realpath(dirname(dir), absolute))
        return cannot("write", path, errno);
    snprintf(partial, sizeof(partial), "%s/%s.partial-XXXXXX", absolute, basename(copy_name));
    int made = make_partial(partial);
    if (made < 0)
        return cannot("write", path, -made);

    snprintf(disk, sizeof(disk), "%s%s%s", source->disk.disk, *source->version ? "@" : "",
             source->version);
    char *from = nbd_file_name(nbd_socket, source->disk.vm, disk);
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

/* A device or a pipe is nothing that a file may replace. */
static enum exit_code check_target(const char *path, bool force)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return EXIT_OK;
    if (!S_ISREG(st.st_mode))
        return error(EXIT_USAGE,
                     "%s is no plain file, and an image is written beside its place and replaces "
                     "what is there; export to a file and copy that, or read the disk over NBD",
                     path);
    return force ? EXIT_OK : cannot("make", path, EEXIST);
}

enum exit_code cmd_export(const struct invocation *inv)
{
    const char *format = option_value(inv, "format"), *path = inv->args[1];
    char nbd_socket[256];
    struct source source;
    uint64_t size = 0;
    json_t *info;

    if (format && !image_format_check(format))
        return error(EXIT_USAGE, "\"%s\" is no format; use raw, qcow2, vmdk, vhdx or vdi", format);
    if (!format)
        format = image_format_of_name(path);
    enum exit_code r = check_target(path, option_value(inv, "force") != NULL);
    if (r != EXIT_OK)
        return r;
    interrupt_catch();

    r = read_source(inv->args[0], &source);
    if (r == EXIT_OK)
        r = look_at_disk(inv, &source, &size);
    if (r == EXIT_OK)
        r = call(inv, "daemon.info", NO_ARGUMENTS, &info);
    if (r != EXIT_OK)
        return r;
    snprintf(nbd_socket, sizeof(nbd_socket), "%s", member_text(info, "nbd_socket"));
    json_decref(info);
    return write_image(inv, &source, size, nbd_socket, format);
}
