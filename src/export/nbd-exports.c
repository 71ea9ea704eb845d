/* nbd-exports.c - the disks of a store as NBD exports. */
#include "export/nbd.h"

#include "base/cleanup.h"
#include "image/store.h"

#include <string.h>

#define DEFAULT_DISK "root"

/* "VM" or "VM/DISK" into its parts; false if it cannot be a name. */
static bool split_name(const char *name, char vm[NAME_MAX_CHARS + 1], char disk[NAME_MAX_CHARS + 1])
{
    const char *slash = strchr(name, '/');
    size_t vm_len = slash ? (size_t)(slash - name) : strlen(name);
    const char *disk_name = slash ? slash + 1 : DEFAULT_DISK;

    if (vm_len > NAME_MAX_CHARS || strlen(disk_name) > NAME_MAX_CHARS)
        return false;
    memcpy(vm, name, vm_len);
    vm[vm_len] = 0;
    strcpy(disk, disk_name);
    return name_is_valid(vm) && name_is_valid(disk);
}

static struct disk *find(struct nbd_exports *exports, const char *name, bool *ret_read_only)
{
    struct nbd_store_exports *e = container_of(exports, struct nbd_store_exports, exports);
    char vm[NAME_MAX_CHARS + 1], disk_name[NAME_MAX_CHARS + 1];

    if (!split_name(name, vm, disk_name))
        return NULL;
    struct disk *disk = store_find_disk(e->store, vm, disk_name);
    if (!disk || disk_is_shrinking(disk))
        return NULL;
    *ret_read_only = false;
    return disk;
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
        .exports = {.find = find, .list = list},
        .store = store,
    };
}
