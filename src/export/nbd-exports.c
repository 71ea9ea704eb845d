/* nbd-exports.c - the disks of a store as NBD exports. */
#include "export/nbd.h"

#include "base/cleanup.h"
#include "image/store.h"

#include <string.h>

#define DEFAULT_DISK "root"

struct name {
    char vm[NAME_MAX_CHARS + 1], disk[NAME_MAX_CHARS + 1];
    char version[NAME_MAX_CHARS + 1]; /* "": the head */
};

static bool take_part(char to[NAME_MAX_CHARS + 1], const char *from, size_t len)
{
    if (len > NAME_MAX_CHARS)
        return false;
    memcpy(to, from, len);
    to[len] = 0;
    return name_is_valid(to);
}

/* "VM[/DISK][@VERSION]" into its parts; false if it cannot be a name. */
static bool split_name(const char *name, struct name *ret)
{
    const char *at = strchrnul(name, '@'), *slash = memchr(name, '/', (size_t)(at - name));
    const char *vm_end = slash ? slash : at;

    *ret = (struct name){.disk = DEFAULT_DISK};
    return take_part(ret->vm, name, (size_t)(vm_end - name)) &&
           (!slash || take_part(ret->disk, slash + 1, (size_t)(at - slash - 1))) &&
           (!*at || take_part(ret->version, at + 1, strlen(at + 1)));
}

static bool is_barred(const struct nbd_store_exports *e, const char *vm)
{
    list_for_each (l, &e->barred)
        if (!strcmp(container_of(l, struct nbd_bar, link)->vm, vm))
            return true;
    return false;
}

static struct disk *find_split(const struct nbd_store_exports *e, const struct name *name)
{
    if (*name->version)
        return store_find_version_disk(e->store, name->vm, name->version, name->disk);
    struct disk *disk = store_find_disk(e->store, name->vm, name->disk);
    return disk && !disk_is_shrinking(disk) && !is_barred(e, name->vm) ? disk : NULL;
}

static struct disk *find(struct nbd_exports *exports, const char *name, bool *ret_read_only)
{
    struct nbd_store_exports *e = container_of(exports, struct nbd_store_exports, exports);
    struct name split;

    struct disk *disk = split_name(name, &split) ? find_split(e, &split) : NULL;
    if (disk)
        *ret_read_only = disk_is_read_only(disk);
    return disk;
}

static struct disk *find_base(struct nbd_exports *exports, const char *name, const char *base)
{
    struct nbd_store_exports *e = container_of(exports, struct nbd_store_exports, exports);
    const char *at = strchr(base, '@');
    struct name split, other;

    if (!split_name(name, &split))
        return NULL;
    other = split;
    if ((at && !take_part(other.vm, base, (size_t)(at - base))) ||
        !take_part(other.version, at ? at + 1 : base, strlen(at ? at + 1 : base)))
        return NULL;
    const struct disk *disk = find_split(e, &split);
    struct disk *found = find_split(e, &other);
    return disk && found && disk_is_related(disk, found) ? found : NULL;
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

static int list(struct nbd_exports *exports, void (*each)(void *arg, const char *name), void *arg)
{
    struct nbd_store_exports *e = container_of(exports, struct nbd_store_exports, exports);
    _cleanup_free_ struct vm_info *vms = NULL;
    uint32_t n = 0;

    int err = store_list(e->store, &vms, &n);
    if (err)
        return err;
    for (uint32_t i = 0; i < n; i++) {
        if (vms[i].provisional)
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
        .exports = {.find = find, .find_base = find_base, .list = list},
        .store = store,
    };
    list_init(&exports->barred);
}
