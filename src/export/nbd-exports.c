/* nbd-exports.c - the disks of a store as NBD exports. */
#include "export/nbd.h"

#include "base/cleanup.h"
#include "image/store.h"

#include <errno.h>
#include <string.h>

struct name {
    char vm[NAME_MAX_CHARS + 1], disk[NAME_MAX_CHARS + 1];
    char version[NAME_MAX_CHARS + 1]; /* "": the head */
};

/* Copy a part of len bytes; false if it cannot be a name. */
static bool take_part(const char *text, size_t len, char ret[NAME_MAX_CHARS + 1])
{
    if (len > NAME_MAX_CHARS)
        return false;
    memcpy(ret, text, len);
    ret[len] = 0;
    return name_is_valid(ret);
}

/* "VM" or "VM/DISK", and "@VERSION", into its parts; false if it cannot be a name. */
static bool split_name(const char *text, struct name *ret)
{
    size_t len = strcspn(text, "@"), vm_len = strcspn(text, "/@");
    const char *disk = text[vm_len] == '/' ? text + vm_len + 1 : NBD_DEFAULT_DISK;
    size_t disk_len = text[vm_len] == '/' ? len - vm_len - 1 : strlen(NBD_DEFAULT_DISK);

    *ret->version = 0;
    return take_part(text, vm_len, ret->vm) && take_part(disk, disk_len, ret->disk) &&
           (!text[len] || take_part(text + len + 1, strlen(text + len + 1), ret->version));
}

bool nbd_name_is_of(const char *export_name, const char *vm)
{
    struct name name;

    return split_name(export_name, &name) && !strcmp(name.vm, vm);
}

static struct store *store_of(struct nbd_exports *exports)
{
    return container_of(exports, struct nbd_store_exports, exports)->store;
}

static bool is_barred(struct nbd_exports *exports, const char *vm)
{
    list_for_each (l, &container_of(exports, struct nbd_store_exports, exports)->barred)
        if (!strcmp(container_of(l, struct nbd_bar, link)->vm, vm))
            return true;
    return false;
}

void nbd_bar(struct nbd_store_exports *exports, struct nbd_bar *bar, const char *vm)
{
    bar->vm = vm;
    list_push_back(&exports->barred, &bar->link);
}

void nbd_unbar(struct nbd_bar *bar)
{
    list_del(&bar->link);
}

static struct disk *find_by_name(struct store *store, const struct name *name)
{
    if (*name->version)
        return store_find_version_disk(store, name->vm, name->version, name->disk);
    return store_find_disk(store, name->vm, name->disk);
}

static struct disk *find(struct nbd_exports *exports, const char *text, bool *ret_read_only)
{
    struct name name;

    if (!split_name(text, &name) || (!*name.version && is_barred(exports, name.vm)))
        return NULL;
    struct disk *disk = find_by_name(store_of(exports), &name);
    if (!disk || disk_is_shrinking(disk))
        return NULL;
    *ret_read_only = disk_is_read_only(disk);
    return disk;
}

/* ---- bases ---------------------------------------------------------------------------------- */

/* The export's disk in another version, if both come from one. */
static struct disk *related(struct store *store, struct disk *disk, const struct name *base)
{
    struct disk *found = find_by_name(store, base);
    return found && disk_is_related(found, disk) && !disk_is_shrinking(found) ? found : NULL;
}

static struct disk *find_base(struct nbd_exports *exports, const char *text, const char *base)
{
    struct store *store = store_of(exports);
    const char *at = strchr(base, '@'), *version = at ? at + 1 : base;
    struct name name;

    if (!split_name(text, &name))
        return NULL;
    struct disk *disk = find_by_name(store, &name);
    if (!disk || (at && !take_part(base, (size_t)(at - base), name.vm)) ||
        !take_part(version, strlen(version), name.version))
        return NULL;
    return related(store, disk, &name);
}

static int list_bases(struct nbd_exports *exports, const char *text,
                      void (*each)(void *arg, const char *base), void *arg)
{
    struct store *store = store_of(exports);
    _cleanup_free_ struct version_info *versions = NULL;
    struct name name;
    uint32_t n = 0;

    if (!split_name(text, &name))
        return -ENOENT;
    struct disk *disk = find_by_name(store, &name);
    if (!disk)
        return -ENOENT;
    int err = store_list_versions(store, name.vm, NULL, true, UINT32_MAX, &versions, &n);
    if (err)
        return err;
    for (uint32_t i = 0; i < n; i++) {
        strcpy(name.version, versions[i].name);
        if (related(store, disk, &name))
            each(arg, name.version);
    }
    return 0;
}

/* ---- the list ------------------------------------------------------------------------------- */

static int list(struct nbd_exports *exports, void (*each)(void *arg, const char *name), void *arg)
{
    _cleanup_free_ struct vm_info *vms = NULL;
    uint32_t n = 0;

    int err = store_list(store_of(exports), &vms, &n);
    if (err)
        return err;
    for (uint32_t i = 0; i < n; i++) {
        if (vms[i].provisional || vms[i].memory)
            continue;
        for (uint32_t j = 0; j < vms[i].n_disks; j++) {
            char name[2 * NAME_MAX_CHARS + 2];
            if (vms[i].disks[j].provisional)
                continue;
            strcpy(name, vms[i].name);
            strcat(name, "/");
            strcat(name, vms[i].disks[j].name);
            each(arg, name);
        }
    }
    return 0;
}

void nbd_store_exports_init(struct nbd_store_exports *exports, struct store *store)
{
    *exports = (struct nbd_store_exports){
        .exports =
            {
                .find = find,
                .find_base = find_base,
                .list_bases = list_bases,
                .list = list,
            },
        .store = store,
    };
    list_init(&exports->barred);
}
