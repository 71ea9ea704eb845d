/* compare.c - whether a vm is what one of its versions is. */
#include "daemon/compare.h"

#include "base/cleanup.h"
#include "daemon/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXTENTS 256

/* Head and version side by side, disk after disk, on the engine's thread. */
struct compare {
    const char *vm, *version; /* as given */
    struct engine_call *call;
    struct store_io io;
    struct store_extent extents[EXTENTS];
    struct version_info *versions; /* its disks are those that there were */
    const struct version_info *of;
    struct vm_info *vms;
    const struct vm_info *head;
    uint32_t i; /* of the disks */
    bool differs;
    int error;
};

static void compare_end(struct compare *c)
{
    free(c->vms);
    free(c->versions);
    engine_call_done(c->call);
}

/* The next disk, or the next part of this one. False: that was all. */
static bool compare_next(struct compare *c)
{
    struct store *store = c->call->store;
    struct store_io *io = &c->io;

    for (uint32_t k = 0; io->disk && k < io->n_extents; k++) {
        c->differs |= io->extents[k].changed;
        io->offset += io->extents[k].length;
    }
    if (io->disk && (io->error || c->differs || io->offset >= disk_size(io->disk))) {
        c->error = io->error;
        disk_put(io->disk);
        disk_put(io->base);
        io->disk = NULL;
        c->i++;
    }
    if (c->error || c->differs || c->i == c->of->n_disks)
        return io->disk != NULL;
    if (!io->disk) {
        const char *name = c->of->disks[c->i].name;
        struct disk *disk = store_find_disk(store, c->vm, name);
        struct disk *base = store_find_version_disk(store, c->vm, c->version, name);
        c->differs =
            !disk || !base || disk_size(disk) != disk_size(base) || !disk_is_related(disk, base);
        if (c->differs)
            return false;
        disk_get(disk);
        disk_get(base);
        io->disk = disk;
        io->base = base;
        io->offset = 0;
    }
    io->length = disk_size(io->disk) - io->offset;
    io->n_extents = 0;
    io->error = 0;
    return true;
}

static void compare_run(struct compare *c)
{
    while (compare_next(c))
        if (!store_submit(c->call->store, &c->io))
            return;
    compare_end(c);
}

static void compare_done(struct store_io *io)
{
    compare_run(container_of(io, struct compare, io));
}

static void on_compare(struct engine_call *call)
{
    struct compare *c = call->arg;
    uint32_t n = 0, n_vms = 0;

    c->call = call;
    c->io = (struct store_io){
        .op = STORE_EXTENTS, .extents = c->extents, .max_extents = EXTENTS, .done = compare_done};
    c->error = store_list_versions(call->store, c->vm, &c->versions, &n);
    if (c->error == 0)
        c->error = store_list(call->store, &c->vms, &n_vms);
    for (uint32_t i = 0; c->error == 0 && i < n; i++)
        if (!strcmp(c->versions[i].name, c->version))
            c->of = &c->versions[i];
    for (uint32_t i = 0; c->error == 0 && i < n_vms; i++)
        if (!strcmp(c->vms[i].name, c->vm))
            c->head = &c->vms[i];
    if (c->error == 0 && (!c->of || !c->head))
        c->error = -ENOENT;
    if (c->error == 0)
        c->differs = c->of->n_disks != c->head->n_disks;
    if (c->error || c->differs)
        compare_end(c);
    else
        compare_run(c);
}

int compare_head(struct engine *engine, const char *vm, const char *version, bool *ret_differs)
{
    _cleanup_free_ struct compare *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->vm = vm;
    c->version = version;
    int r = engine_call(engine, on_compare, c);
    if (r == 0)
        r = c->error;
    if (r == 0)
        *ret_differs = c->differs;
    return r;
}
