/* catalogue.c - vms and disks: finding, making and listing them. */
#include "base/crc.h"
#include "base/err.h"
#include "base/mono.h"
#include "image/catalogue_format.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---------------------------------------------------------------------------------- */

bool name_is_valid(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return len >= 1 && len <= NAME_MAX_CHARS && name[len] == 0 && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static struct list *name_bucket(struct store *store, const char *name)
{
    return &store->vm_names[crc32c(0, name, strlen(name)) % NAME_BUCKETS];
}

struct vm *vm_find(struct store *store, const char *name)
{
    list_for_each (l, name_bucket(store, name)) {
        struct vm *vm = container_of(l, struct vm, hash_link);
        if (strcmp(vm->name, name) == 0)
            return vm;
    }
    return NULL;
}

struct disk *disk_find(const struct list *disks, const char *name)
{
    list_for_each (l, disks) {
        struct disk *disk = container_of(l, struct disk, link);
        if (strcmp(disk->name, name) == 0)
            return disk;
    }
    return NULL;
}

struct disk *store_find_disk(struct store *store, const char *vm_name, const char *disk_name)
{
    struct vm *vm = vm_find(store, vm_name);
    return vm ? disk_find(&vm->disks, disk_name) : NULL;
}

struct disk *disk_by_id(struct store *store, uint32_t id)
{
    list_for_each (l, &store->disk_ids[id % NAME_BUCKETS]) {
        struct disk *disk = container_of(l, struct disk, id_link);
        if (disk->id == id)
            return disk;
    }
    return NULL;
}

void disk_get(struct disk *disk)
{
    disk->users++;
}

void disk_put(struct disk *disk)
{
    assert(disk->users);
    disk->users--;
}

bool disk_is_shrinking(const struct disk *disk)
{
    return disk->shrinking || !list_empty(&disk->leaving_link);
}

uint64_t disk_size(const struct disk *disk)
{
    return disk->size_bytes;
}

struct store *disk_store(const struct disk *disk)
{
    return disk->store;
}

const char *disk_vm_name(const struct disk *disk)
{
    return disk->version ? disk->version->vm->name : disk->vm->name;
}

/* ---- making and removing -------------------------------------------------------------------- */

static void insert_vm(struct store *store, struct vm *vm)
{
    /* From the end: in a checkpoint they stand in their order. */
    struct list *at = &store->vms;
    while (at->prev != &store->vms &&
           strcmp(container_of(at->prev, struct vm, link)->name, vm->name) > 0)
        at = at->prev;
    list_insert_before(at, &vm->link);
    list_push_back(name_bucket(store, vm->name), &vm->hash_link);
}

struct vm *vm_new(struct store *store, const char *name, uint32_t id)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return NULL;
    strcpy(vm->name, name);
    vm->store = store;
    vm->id = id;
    list_init(&vm->disks);
    list_init(&vm->versions);
    list_init(&vm->descent.link);
    vm->descent.is_head = true;
    insert_vm(store, vm);
    return vm;
}

void vm_rename(struct vm *vm, const char *name)
{
    list_del(&vm->link);
    list_del(&vm->hash_link);
    strcpy(vm->name, name);
    insert_vm(vm->store, vm);
}

void vm_free(struct vm *vm)
{
    descend(&vm->descent, NULL);
    list_del(&vm->link);
    list_del(&vm->hash_link);
    free(vm);
}

bool vm_in_use(const struct vm *vm)
{
    list_for_each (l, &vm->disks) {
        if (container_of(l, struct disk, link)->users)
            return true;
    }
    return false;
}

struct disk *disk_create(struct store *store, struct vm *vm, struct version *version,
                         const char *name, uint32_t id, uint64_t size_bytes)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return NULL;
    strcpy(disk->name, name);
    disk->store = store;
    disk->vm = vm;
    disk->version = version;
    disk->id = id;
    disk->size_bytes = size_bytes;
    list_init(&disk->id_link);
    list_init(&disk->tree.heir_link);
    list_init(&disk->leaving_link);
    if (vm) {
        list_push_back(&vm->disks, &disk->link);
        list_push_back(&store->disk_ids[id % NAME_BUCKETS], &disk->id_link);
        vm->n_disks++;
    } else {
        list_push_back(&version->disks, &disk->link);
        version->n_disks++;
    }
    return disk;
}

void disk_destroy(struct disk *disk)
{
    list_del(&disk->link);
    list_del(&disk->id_link);
    list_del(&disk->leaving_link);
    tree_drop(&disk->tree);
    free(disk);
}

void catalogue_free(struct store *store)
{
    while (!list_empty(&store->vms)) {
        struct vm *vm = container_of(store->vms.next, struct vm, link);
        while (!list_empty(&vm->disks))
            disk_destroy(container_of(vm->disks.next, struct disk, link));
        while (!list_empty(&vm->versions))
            version_free(container_of(vm->versions.next, struct version, link));
        list_del(&vm->link);
        free(vm);
    }
    while (!list_empty(&store->dying))
        version_free(container_of(store->dying.next, struct version, link));
}

bool size_is_valid(uint64_t bytes)
{
    return bytes >= PAGE_BYTES && bytes <= DISK_MAX_BYTES && bytes % 512 == 0;
}

/* ---- listing -------------------------------------------------------------------------------- */

int store_list(struct store *store, struct vm_info **ret_vms, uint32_t *ret_n)
{
    uint32_t n_vms = 0, n_disks = 0;
    list_for_each (l, &store->vms) {
        n_vms++;
        n_disks += container_of(l, struct vm, link)->n_disks;
    }
    struct vm_info *vms =
        calloc(1, (n_vms + 1) * sizeof(struct vm_info) + n_disks * sizeof(struct disk_info));
    if (!vms)
        return -ENOMEM;
    struct disk_info *disks = (struct disk_info *)(vms + n_vms + 1);
    struct vm_info *to = vms;
    list_for_each (l, &store->vms) {
        const struct vm *vm = container_of(l, struct vm, link);
        *to = (struct vm_info){.id = vm->id,
                               .role = vm->role,
                               .provisional = vm->provisional,
                               .memory = vm->memory,
                               .created_us = vm->created_us,
                               .n_disks = vm->n_disks,
                               .disks = disks};
        strcpy(to->name, vm->name);
        to->n_versions = vm->n_versions;
        version_put_origin(vm, to);
        to++;
        list_for_each (k, &vm->disks) {
            const struct disk *disk = container_of(k, struct disk, link);
            *disks = (struct disk_info){.id = disk->id,
                                        .size_bytes = disk->size_bytes,
                                        .used_bytes = disk->tree.used_pages * PAGE_BYTES,
                                        .users = disk->users,
                                        .provisional = disk->provisional};
            strcpy(disks->name, disk->name);
            disks++;
        }
    }
    *ret_vms = vms;
    *ret_n = n_vms;
    return 0;
}
