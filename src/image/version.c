/* version.c - versions: states of a vm that are kept, and how they come from each other.
 *
 * Versions and heads form a forest: a version's children are the versions and heads that were made
 * from it, on its own line or by cloning and rolling back. A page is referred to by a connected
 * part of the forest: it is born in one place and lives on below until it is replaced. So what a
 * child has that is older than its parent's cut, the parent has too, and whoever gives a page up
 * frees it exactly when it is younger than that.
 *
 * A removed version loses its name at once. What it alone holds is freed in time (splice.c), when
 * at most one child is left: with more it stays as a nameless ghost, for only it tells which of the
 * children's pages they share. */
#include "base/crc.h"
#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding -------------------------------------------------------------------------------- */

static struct list *name_bucket(const struct vm *vm, struct store *store, const char *name)
{
    return &store->version_names[crc32c(vm->id, name, strlen(name)) % NAME_BUCKETS];
}

struct version *version_by_name(const struct vm *vm, const char *name)
{
    list_for_each (l, name_bucket(vm, vm->store, name)) {
        struct version *version = container_of(l, struct version, hash_link);
        if (version->vm == vm && strcmp(version->name, name) == 0)
            return version;
    }
    return NULL;
}

struct disk *store_find_version_disk(struct store *store, const char *vm_name, const char *name,
                                     const char *disk)
{
    struct vm *vm = vm_find(store, vm_name);
    struct version *version = vm ? version_by_name(vm, name) : NULL;
    return version ? disk_find(&version->disks, disk) : NULL;
}

bool disk_is_read_only(const struct disk *disk)
{
    return disk->version != NULL;
}

bool disk_is_related(const struct disk *a, const struct disk *b)
{
    return a->store == b->store && a->tree.family == b->tree.family;
}

/* ---- heads that have not changed ------------------------------------------------------------- */

/* Has a head's disk what the same one has in another version? `parent` has it as the head began.
 * Both roots are of one store, and no address is used twice: the same one is the same table. */
static int disk_is_like(const struct disk *disk, const struct version *parent,
                        const struct version *version)
{
    const struct disk *then = disk_find(&version->disks, disk->name);
    const struct disk *began = version_relative(parent, &disk->tree);
    if (!then || !began || !disk_is_related(disk, then) || disk->size_bytes != then->size_bytes ||
        disk->tree.changes->touched)
        return 0;
    if (began == then)
        return 1;
    if (began->tree.origin || then->tree.origin)
        return -EAGAIN; /* they have no root yet */
    return began->tree.root_entry.address == then->tree.root_entry.address;
}

int head_is_like(const struct vm *vm, const struct version *version)
{
    const struct version *parent = vm->descent.parent;
    int like = 1;
    if (!parent || vm->n_disks != version->n_disks)
        return 0;
    list_for_each (l, &vm->disks) {
        int one = disk_is_like(container_of(l, struct disk, link), parent, version);
        if (one == 0)
            return 0;
        like = one < 0 ? one : like;
    }
    return like;
}

int store_head_is(struct store *store, const char *vm_name, const char *name)
{
    const struct vm *vm = vm_find(store, vm_name);
    const struct version *version = vm ? version_by_name(vm, name) : NULL;
    return !vm ? -ENOENT : !version ? ERR_NO_VERSION : head_is_like(vm, version);
}

/* ---- making --------------------------------------------------------------------------------- */

void descend(struct descent *descent, struct version *parent)
{
    if (descent->parent) {
        descent->parent->n_children--;
        descent->parent->store->births++;
    }
    list_del(&descent->link);
    descent->parent = parent;
    if (!parent)
        return;
    parent->n_children++;
    parent->store->births++;
    list_push_back(&parent->children, &descent->link);
}

void version_set_name(struct version *version, const char *name)
{
    list_del(&version->hash_link);
    if (name != version->name) /* it may only have changed its vm */
        strcpy(version->name, name);
    list_push_back(name_bucket(version->vm, version->store, name), &version->hash_link);
}

/* vm: NULL for what has no name any more. */
struct version *version_new(struct store *store, struct vm *vm, const char *name, uint32_t id)
{
    struct version *version = calloc(1, sizeof(*version));
    if (!version)
        return NULL;
    version->store = store;
    version->vm = vm;
    version->id = id;
    list_init(&version->link);
    list_init(&version->hash_link);
    list_init(&version->descent.link);
    list_init(&version->children);
    list_init(&version->disks);
    if (!vm) {
        list_push_back(&store->dying, &version->link);
        return version;
    }
    version_set_name(version, name);
    list_push_back(&vm->versions, &version->link);
    vm->n_versions++;
    return version;
}

void version_free(struct version *version)
{
    while (!list_empty(&version->disks))
        disk_destroy(container_of(version->disks.next, struct disk, link));
    if (version->vm)
        version->vm->n_versions--;
    list_del(&version->link);
    list_del(&version->hash_link);
    free(version->note);
    free(version);
}

bool vm_may_freeze(const struct vm *vm)
{
    list_for_each (l, &vm->disks) {
        if (!tree_may_freeze(&container_of(l, struct disk, link)->tree))
            return false;
    }
    return true;
}

int trees_add(struct trees *trees, struct tree *tree)
{
    if (trees->n == trees->max) {
        uint32_t max = trees->max ? trees->max * 2 : 8;
        struct tree **all = reallocarray(trees->all, max, sizeof(*all));
        if (!all)
            return -ENOMEM;
        trees->all = all;
        trees->max = max;
    }
    trees->all[trees->n++] = tree;
    return 0;
}

struct list *descent_disks(struct descent *descent)
{
    return descent->is_head ? &container_of(descent, struct vm, descent)->disks
                            : &container_of(descent, struct version, descent)->disks;
}

static struct disk *relative_of(const struct list *disks, const struct tree *tree)
{
    list_for_each (l, disks) {
        struct disk *disk = container_of(l, struct disk, link);
        if (disk->tree.family == tree->family)
            return disk;
    }
    return NULL;
}

struct disk *version_relative(const struct version *version, const struct tree *tree)
{
    return relative_of(&version->disks, tree);
}

struct disk *descent_relative(struct descent *descent, const struct tree *tree)
{
    return relative_of(descent_disks(descent), tree);
}

int version_add_staying(struct version *from, const struct tree *tree,
                        bool (*goes)(const struct descent *descent), struct trees *trees)
{
    struct list *l = from->children.next;
    struct version *at = from;
    for (;;) {
        if (l == &at->children) {
            if (at == from)
                return 0;
            l = at->descent.link.next;
            at = at->descent.parent;
            continue;
        }
        struct descent *child = container_of(l, struct descent, link);
        bool gone = goes(child);
        if (gone && !child->is_head) {
            at = container_of(child, struct version, descent);
            l = at->children.next;
            continue;
        }
        struct disk *disk = gone ? NULL : descent_relative(child, tree);
        int code = disk ? trees_add(trees, &disk->tree) : 0;
        if (code < 0)
            return code;
        l = l->next;
    }
}

/* A disk that came after the version is not in it: nothing of it is held. */
static void tree_set_held(struct tree *tree, struct version *parent)
{
    bool there = parent && version_relative(parent, tree);
    tree->held_cut = there ? parent->cut : 0;
    tree->held_epoch = there ? parent->epoch : 0;
    tree->stale = there ? &parent->stale : NULL;
    tree->release = NULL;
}

void descent_set_held(struct descent *descent)
{
    list_for_each (l, descent_disks(descent))
        tree_set_held(&container_of(l, struct disk, link)->tree, descent->parent);
}

int version_snap(struct store *store, struct vm *vm, const char *name, uint32_t id, uint64_t cut,
                 struct version **ret)
{
    struct version *version = version_new(store, vm, name, id);
    if (!version)
        return -ENOMEM;
    version->cut = cut;
    version->epoch = store->table->epoch;
    list_for_each (l, &vm->disks) {
        struct disk *disk = container_of(l, struct disk, link);
        if (disk->provisional) /* half an import */
            continue;
        struct disk *copy =
            disk_create(store, NULL, version, disk->name, disk->id, disk->size_bytes);
        if (!copy)
            return -ENOMEM;
        tree_snapshot(&disk->tree, &copy->tree);
    }
    descend(&version->descent, vm->descent.parent);
    descend(&vm->descent, version);
    descent_set_held(&vm->descent);
    *ret = version;
    return 0;
}

int head_from(struct store *store, struct vm *vm, const struct version *version, uint32_t id)
{
    list_for_each (l, &version->disks) {
        const struct disk *disk = container_of(l, struct disk, link);
        struct disk *copy = disk_create(store, vm, NULL, disk->name, id++, disk->size_bytes);
        if (!copy)
            return -ENOMEM;
        tree_copy(&disk->tree, &copy->tree);
        if (tree_make_head(&copy->tree) < 0)
            return -ENOMEM;
    }
    descend(&vm->descent, (struct version *)version);
    descent_set_held(&vm->descent);
    return 0;
}

/* ---- removing ------------------------------------------------------------------------------- */

static void move_disk(struct disk *disk, struct version *rest)
{
    list_del(&disk->link);
    list_del(&disk->id_link);
    disk->vm->n_disks--;
    rest->n_disks++;
    disk->vm = NULL;
    disk->version = rest;
    list_push_back(&rest->disks, &disk->link);
}

int head_remove(struct store *store, struct vm *vm, uint32_t id)
{
    struct version *rest = version_new(store, NULL, "", id);
    if (!rest)
        return -ENOMEM;
    descend(&rest->descent, vm->descent.parent);
    descend(&vm->descent, NULL);
    while (!list_empty(&vm->disks))
        move_disk(container_of(vm->disks.next, struct disk, link), rest);
    return 0;
}

int disk_remove(struct store *store, struct disk *disk, uint32_t id)
{
    struct version *rest = version_new(store, NULL, "", id);
    if (!rest)
        return -ENOMEM;
    descend(&rest->descent, disk->vm->descent.parent);
    move_disk(disk, rest);
    return 0;
}

void version_remove(struct version *version)
{
    list_del(&version->link);
    list_del(&version->hash_link);
    version->vm->n_versions--;
    version->vm = NULL;
    version->name[0] = 0;
    version->stale = UINT64_MAX / 2; /* not known: more than it has */
    list_push_back(&version->store->dying, &version->link);
}

/* ---- listing -------------------------------------------------------------------------------- */

static size_t note_bytes(const struct version *version)
{
    return version->note ? strlen(version->note) + 1 : 1;
}

static void put_origin(const struct descent *descent, char *vm, char *name)
{
    const struct version *parent = descent->parent;
    *vm = *name = 0;
    if (!parent || !parent->vm)
        return;
    strcpy(vm, parent->vm->name);
    strcpy(name, parent->name);
}

void version_put_origin(const struct vm *vm, struct vm_info *to)
{
    put_origin(&vm->descent, to->origin_vm, to->origin);
}

static void put_disks(const struct version *version, struct version_info *to,
                      struct disk_info *disks)
{
    to->n_disks = version->n_disks;
    to->disks = disks;
    list_for_each (l, &version->disks) {
        const struct disk *disk = container_of(l, struct disk, link);
        *disks = (struct disk_info){.id = disk->id,
                                    .size_bytes = disk->size_bytes,
                                    .used_bytes = disk->tree.used_pages * PAGE_BYTES,
                                    .users = disk->users};
        strcpy(disks->name, disk->name);
        to->used_bytes += disks->used_bytes;
        to->users += disk->users;
        disks++;
    }
}

static void put_version(const struct version *version, struct version_info *to,
                        struct disk_info *disks, char *note)
{
    *to = (struct version_info){.note = note,
                                .id = version->id,
                                .created_us = version->created_us,
                                .received = version->received,
                                .consistency = version->consistency,
                                .held = version->held,
                                .provisional = version->provisional,
                                .memory = version->vm->memory,
                                .exclusive_bytes = BYTES_UNKNOWN};
    strcpy(to->vm, version->vm->name);
    strcpy(to->name, version->name);
    put_origin(&version->descent, to->origin_vm, to->origin);
    memcpy(to->guid, version->guid, sizeof(to->guid));
    strcpy(note, version->note ? version->note : "");
    put_disks(version, to, disks);
}

/* The first version of this vm or, unless it is the only one that counts, of one after it. */
static const struct version *first_from(const struct store *store, const struct list *vm, bool only)
{
    for (; vm != &store->vms; vm = vm->next) {
        const struct list *versions = &container_of(vm, struct vm, link)->versions;
        if (!list_empty(versions))
            return container_of(versions->next, struct version, link);
        if (only)
            break;
    }
    return NULL;
}

/* The next one in the order of lists. */
static const struct version *next_version(const struct version *version, bool only)
{
    const struct vm *vm = version->vm;
    if (version->link.next != &vm->versions)
        return container_of(version->link.next, struct version, link);
    return only ? NULL : first_from(vm->store, vm->link.next, false);
}

static bool is_behind(const struct version *version, const struct version_place *place)
{
    int order = place ? strcmp(version->vm->name, place->vm) : 1;
    return order > 0 || (order == 0 && version->id > place->id);
}

/* Whole vms before the place are passed over at once. */
static const struct version *first_behind(const struct store *store, const struct vm *only,
                                          const struct version_place *place)
{
    const struct list *vm = only ? &only->link : store->vms.next;
    while (place && !only && vm != &store->vms &&
           strcmp(container_of(vm, struct vm, link)->name, place->vm) < 0)
        vm = vm->next;
    const struct version *version = first_from(store, vm, only);
    while (version && !is_behind(version, place))
        version = next_version(version, only);
    return version;
}

/* This one or the first behind it that is to be told. */
static const struct version *next_told(const struct version *version, bool only, bool hidden)
{
    while (version && !hidden && (version->provisional || version->vm->memory))
        version = next_version(version, only);
    return version;
}

int store_list_versions(struct store *store, const char *name, const struct version_place *after,
                        bool hidden, uint32_t max, struct version_info **ret, uint32_t *ret_n)
{
    const struct vm *only = name ? vm_find(store, name) : NULL;
    size_t n = 0, n_disks = 0, notes = 0;
    if (name && !only)
        return -ENOENT;
    const struct version *first = next_told(first_behind(store, only, after), only, hidden);
    for (const struct version *v = first; v && n < max;
         v = next_told(next_version(v, only), only, hidden)) {
        n++;
        n_disks += v->n_disks;
        notes += note_bytes(v);
    }
    struct version_info *infos =
        calloc(1, (n + 1) * sizeof(*infos) + n_disks * sizeof(struct disk_info) + notes);
    if (!infos)
        return -ENOMEM;
    struct disk_info *disks = (struct disk_info *)(infos + n + 1);
    char *note = (char *)(disks + n_disks);
    const struct version *v = first;
    for (size_t i = 0; i < n; i++, v = next_told(next_version(v, only), only, hidden)) {
        put_version(v, &infos[i], disks, note);
        disks += v->n_disks;
        note += note_bytes(v);
    }
    *ret = infos;
    *ret_n = n;
    return 0;
}
