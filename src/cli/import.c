/* import.c - varve import: a disk image becomes a disk.
 *
 * What is made, a new vm or a new disk of a vm that is there, is provisional until everything is in
 * it: whatever dies on the way, nothing half-made stays under its name. */
#include "cli/cli.h"
#include "cli/process.h"
#include "cli/qemu-img.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISK_MIN_BYTES 4096u
#define UNDO_TRIES     50
#define UNDO_PAUSE_US  100000

struct import {
    const struct invocation *inv;
    struct disk_name name;
    struct image_info image;
    char nbd_socket[256];
    bool new_vm;
};

/* The vm decides how: made provisional, or given one more disk. */
static enum exit_code make_disk(struct import *im)
{
    const struct invocation *inv = im->inv;
    uint64_t size = (im->image.size_bytes + 511) / 512 * 512;
    json_t *vm = NULL;
    struct why why;

    if (size < DISK_MIN_BYTES)
        size = DISK_MIN_BYTES;
    json_t *text = json_sprintf("%" PRIu64, size);
    enum exit_code r = call_quiet(inv, "vm.show", json_pack("[s]", im->name.vm), &vm, &why);
    if (r == EXIT_OK)
        r = check_whole(vm, "vm", im->name.vm);
    json_decref(vm);
    if (r == EXIT_CONFLICT) {
        json_decref(text);
        return r;
    }
    if (r == EXIT_OK && im->name.has_disk)
        return call(
            inv, "disk.add",
            json_pack("[s, s, o, {s:b}]", im->name.vm, im->name.disk, text, "provisional", 1),
            NULL);
    if (r != EXIT_OK && r != EXIT_NOT_FOUND) {
        json_decref(text);
        return error(r, "%s", why.text);
    }
    im->new_vm = true;
    return call(inv, "vm.create",
                json_pack("[s, {s:o, s:s, s:b}]", im->name.vm, "size", text, "disk", im->name.disk,
                          "provisional", 1),
                NULL);
}

/* The daemon may see qemu-img's disconnection a moment after its end: busy until then. */
static void undo(struct import *im)
{
    enum exit_code r = EXIT_FAILED;
    json_t *unused = NULL;
    struct why why;

    for (int i = 0; i < UNDO_TRIES; i++) {
        if (im->new_vm)
            r = call_quiet(im->inv, "vm.remove", json_pack("[s]", im->name.vm), &unused, &why);
        else
            r = call_quiet(im->inv, "disk.remove", json_pack("[s, s]", im->name.vm, im->name.disk),
                           &unused, &why);
        json_decref(unused);
        unused = NULL;
        if (r != EXIT_CONFLICT)
            break;
        usleep(UNDO_PAUSE_US);
    }
    if (r == EXIT_OK || r == EXIT_NOT_FOUND)
        return;
    if (im->new_vm)
        note("vm %s is half-made and vanishes when the daemon starts again, or with: varve rm %s "
             "(%s)",
             im->name.vm, im->name.vm, why.text);
    else
        note("disk %s/%s is half-made and vanishes when the daemon starts again, or with: "
             "varve disk rm %s/%s (%s)",
             im->name.vm, im->name.disk, im->name.vm, im->name.disk, why.text);
}

static enum exit_code copy_and_commit(struct import *im)
{
    char *to = nbd_file_name(im->nbd_socket, im->name.vm, im->name.disk);
    struct image_copy copy = {
        .from = im->image.path,
        .from_format = im->image.format,
        .to = to,
        .to_format = "raw",
        .what = "importing",
        .size_bytes = im->image.size_bytes,
        .existing = true,
    };
    enum exit_code r = image_copy(&copy);

    free(to);
    if (r == EXIT_OK && interrupted())
        r = error(EXIT_FAILED, "interrupted");
    if (r != EXIT_OK)
        return interrupted() ? r : check_daemon(im->inv, r);
    if (im->new_vm)
        return call(im->inv, "vm.commit", json_pack("[s]", im->name.vm), NULL);
    return call(im->inv, "disk.commit", json_pack("[s, s]", im->name.vm, im->name.disk), NULL);
}

enum exit_code cmd_import(const struct invocation *inv)
{
    const char *format = option_value(inv, "format");
    struct import im = {.inv = inv};
    json_t *info;

    if (format && !image_format_check(format))
        return error(EXIT_USAGE, "\"%s\" is no format; use raw, qcow2, vmdk, vhdx or vdi", format);
    disk_name_split(inv->args[1], &im.name);
    interrupt_catch();

    /* Everything that can be known before is looked at before anything is made. */
    enum exit_code r = call(inv, "daemon.info", NO_ARGUMENTS, &info);
    if (r != EXIT_OK)
        return r;
    snprintf(im.nbd_socket, sizeof(im.nbd_socket), "%s", member_text(info, "nbd_socket"));
    json_decref(info);
    r = image_probe(inv->args[0], format, option_value(inv, "allow-backing") != NULL, &im.image);
    if (r == EXIT_OK)
        r = image_check(&im.image);
    if (r == EXIT_OK)
        r = make_disk(&im);
    if (r != EXIT_OK)
        return r;
    r = copy_and_commit(&im);
    if (r != EXIT_OK)
        undo(&im);
    return r;
}
