/* catalogue-save.c - vms, versions and disks as they stand in a checkpoint. */
#include "base/err.h"
#include "image/catalogue_format.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- in a checkpoint ------------------------------------------------------------------------ */

struct cursor {
    uint8_t *buf; /* NULL: only count */
    size_t at;
};

static void put(struct cursor *c, const void *bytes, size_t len)
{
    if (c->buf)
        memcpy(c->buf + c->at, bytes, len);
    c->at += len;
}

static void put_name(struct cursor *c, const char *name)
{
    static const char zeros[8];
    size_t len = strlen(name);
    put(c, name, len);
    put(c, zeros, -len & 7);
}

static void put_disk(struct cursor *c, struct disk *disk)
{
    const struct tree *tree = &disk->tree;
    struct catalogue_disk d = {.id = disk->id,
                               .levels = tree->levels,
                               .name_len = strlen(disk->name),
                               .flags = disk->provisional ? DISK_PROVISIONAL : 0,
                               .size_bytes = disk->size_bytes,
                               .used_pages = tree->used_pages,
                               .root = tree->root_entry};
    struct catalogue_descent descent = {.family = tree->family,
                                        .rise = disk->release.rise,
                                        .at = disk->release.at,
                                        .young_pages = tree->young_pages};
    disk->root_offset = c->at + offsetof(struct catalogue_disk, root);
    put(c, &d, sizeof(d));
    put(c, &descent, sizeof(descent));
    put_name(c, disk->name);
}

static void put_disks(struct cursor *c, const struct list *disks)
{
    list_for_each (l, disks)
        put_disk(c, container_of(l, struct disk, link));
}

static uint32_t parent_id(const struct descent *descent)
{
    return descent->parent ? descent->parent->id : 0;
}

static void put_vm(struct cursor *c, const struct vm *vm)
{
    struct catalogue_vm v = {.id = vm->id,
                             .role = vm->role,
                             .flags = (vm->provisional ? VM_PROVISIONAL : 0) |
                                      (vm->memory ? VM_MEMORY : 0),
                             .name_len = strlen(vm->name),
                             .created_us = vm->created_us,
                             .n_disks = vm->n_disks,
                             .parent = parent_id(&vm->descent)};
    put(c, &v, sizeof(v));
    put_name(c, vm->name);
    put_disks(c, &vm->disks);
}

static void put_version(struct cursor *c, const struct version *version)
{
    struct catalogue_version v = {.id = version->id,
                                  .vm = version->vm ? version->vm->id : 0,
                                  .parent = parent_id(&version->descent),
                                  .n_disks = version->n_disks,
                                  .flags = (version->held ? VERSION_HELD : 0) |
                                           (version->provisional ? VERSION_PROVISIONAL : 0) |
                                           (version->received ? VERSION_RECEIVED : 0),
                                  .consistency = version->consistency,
                                  .name_len = strlen(version->name),
                                  .note_len = version->note ? strlen(version->note) : 0,
                                  .created_us = version->created_us,
                                  .cut = version->cut,
                                  .epoch = version->epoch};
    memcpy(v.guid, version->guid, sizeof(v.guid));
    put(c, &v, sizeof(v));
    put_name(c, version->name);
    if (version->note)
        put_name(c, version->note);
    put_disks(c, &version->disks);
}

int catalogue_save(struct store *store, uint8_t *buf, size_t *len)
{
    struct cursor c = {.buf = buf};
    struct catalogue_header h = {.epoch = store->table->epoch};
    list_for_each (l, &store->vms) {
        h.n_vms++;
        h.n_versions += container_of(l, struct vm, link)->n_versions;
    }
    list_for_each (l, &store->dying)
        h.n_versions++;
    put(&c, &h, sizeof(h));
    list_for_each (l, &store->vms)
        put_vm(&c, container_of(l, struct vm, link));
    list_for_each (l, &store->vms) {
        const struct vm *vm = container_of(l, struct vm, link);
        list_for_each (k, &vm->versions)
            put_version(&c, container_of(k, struct version, link));
    }
    list_for_each (l, &store->dying)
        put_version(&c, container_of(l, struct version, link));
    *len = c.at;
    return 0;
}

/* ---- loading -------------------------------------------------------------------------------- */

/* What is being loaded. Parents are told by id and may come later. */
struct loading {
    struct store *store;
    const uint8_t *at, *end;
    bool old; /* without CHECKPOINT_VERSIONS */
    struct loaded {
        struct descent *descent;
        struct version *version; /* or NULL: a vm's head */
        uint32_t id, parent;
    } * all;
    size_t n, max;
};

static const void *take(struct loading *l, size_t len)
{
    if ((size_t)(l->end - l->at) < len)
        return NULL;
    const uint8_t *p = l->at;
    l->at += len;
    return p;
}

static int take_name(struct loading *l, uint32_t len, char *name, bool may_be_empty)
{
    const char *from = len > NAME_MAX_CHARS ? NULL : take(l, len + (-len & 7));
    if (!from)
        return ERR_DAMAGED;
    memcpy(name, from, len);
    name[len] = 0;
    if (strlen(name) != len || (len ? !name_is_valid(name) : !may_be_empty))
        return ERR_DAMAGED;
    return 0;
}

static int remember(struct loading *l, struct descent *descent, struct version *version,
                    uint32_t id, uint32_t parent)
{
    if (l->n == l->max) {
        size_t max = l->max ? l->max * 2 : 64;
        struct loaded *all = reallocarray(l->all, max, sizeof(*all));
        if (!all)
            return -ENOMEM;
        l->all = all;
        l->max = max;
    }
    l->all[l->n++] = (struct loaded){descent, version, id, parent};
    return 0;
}

static int load_disk(struct loading *l, struct vm *vm, struct version *version)
{
    struct store *store = l->store;
    char name[NAME_MAX_CHARS + 1];
    const struct catalogue_disk *d = take(l, sizeof(*d));
    struct catalogue_descent descent = {.family = d ? d->id : 0,
                                        .young_pages = d ? d->used_pages : 0};
    const struct catalogue_descent *told = d && !l->old ? take(l, sizeof(*told)) : &descent;
    const struct list *disks = vm ? &vm->disks : &version->disks;
    if (!d || !told || take_name(l, d->name_len, name, false) < 0 ||
        !size_is_valid(d->size_bytes) || d->levels < tree_levels(pages_of(d->size_bytes)) ||
        d->levels > NODE_LEVELS || d->id >= store->next_id || told->rise > NODE_LEVELS ||
        disk_find(disks, name) || (vm && disk_by_id(store, d->id)))
        return ERR_DAMAGED;
    descent = *told;
    struct disk *disk = disk_create(store, vm, version, name, d->id, d->size_bytes);
    if (!disk)
        return -ENOMEM;
    tree_init(&disk->tree, store->table, descent.family, d->levels, d->root);
    disk->tree.used_pages = d->used_pages;
    disk->tree.young_pages = descent.young_pages;
    disk->release = (struct release){.at = descent.at, .rise = descent.rise};
    disk->provisional = d->flags & DISK_PROVISIONAL;
    return vm ? tree_make_head(&disk->tree) : 0;
}

static int load_vm(struct loading *l)
{
    char name[NAME_MAX_CHARS + 1];
    const struct catalogue_vm *v = take(l, sizeof(*v));
    if (!v || take_name(l, v->name_len, name, false) < 0 || vm_find(l->store, name))
        return ERR_DAMAGED;
    struct vm *vm = vm_new(l->store, name, v->id);
    if (!vm)
        return -ENOMEM;
    vm->role = v->role;
    vm->provisional = v->flags & VM_PROVISIONAL;
    vm->memory = v->flags & VM_MEMORY;
    vm->created_us = v->created_us;
    uint32_t n_disks = v->n_disks;
    int code = remember(l, &vm->descent, NULL, vm->id, v->parent);
    for (uint32_t i = 0; code == 0 && i < n_disks; i++)
        code = load_disk(l, vm, NULL);
    return code;
}

static struct vm *vm_by_id(const struct loading *l, uint32_t id)
{
    for (size_t i = 0; i < l->n && !l->all[i].version; i++) /* vms come first, sorted by name */
        if (l->all[i].id == id)
            return container_of(l->all[i].descent, struct vm, descent);
    return NULL;
}

static int load_note(struct loading *l, struct version *version, uint32_t len)
{
    if (!len)
        return 0;
    const char *note = len > NOTE_MAX_BYTES ? NULL : take(l, len + (-len & 7));
    if (!note)
        return ERR_DAMAGED;
    version->note = strndup(note, len);
    return version->note ? 0 : -ENOMEM;
}

static int load_version(struct loading *l, struct vm **vm)
{
    char name[NAME_MAX_CHARS + 1];
    const struct catalogue_version *v = take(l, sizeof(*v));
    if (!v || take_name(l, v->name_len, name, !v->vm) < 0 || v->id >= l->store->next_id)
        return ERR_DAMAGED;
    if (!v->vm)
        *vm = NULL;
    else if (!*vm || (*vm)->id != v->vm)
        *vm = vm_by_id(l, v->vm);
    if (v->vm && (!*vm || version_by_name(*vm, name)))
        return ERR_DAMAGED;
    struct version *version = version_new(l->store, *vm, name, v->id);
    if (!version)
        return -ENOMEM;
    version->stale = v->vm ? 0 : UINT64_MAX / 2;
    version->held = v->flags & VERSION_HELD;
    version->provisional = v->flags & VERSION_PROVISIONAL;
    version->received = v->flags & VERSION_RECEIVED;
    version->consistency = v->consistency;
    version->created_us = v->created_us;
    version->cut = v->cut;
    version->epoch = v->epoch;
    memcpy(version->guid, v->guid, sizeof(version->guid));
    uint32_t n_disks = v->n_disks;
    int code = remember(l, &version->descent, version, v->id, v->parent);
    if (code == 0)
        code = load_note(l, version, v->note_len);
    for (uint32_t i = 0; code == 0 && i < n_disks; i++)
        code = load_disk(l, NULL, version);
    return code;
}

/* A removed disk of the old form is what is left of a head. */
static int load_doomed(struct loading *l)
{
    struct version *rest = version_new(l->store, NULL, "", l->store->next_id++);
    return rest ? load_disk(l, NULL, rest) : -ENOMEM;
}

static int by_id(const void *a, const void *b)
{
    const struct loaded *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* What a removed version's freeing had passed when the checkpoint began is not held by it. */
static void resume_child(const struct version *version, const struct list *disks)
{
    const struct version *before = version->descent.parent;
    list_for_each (l, disks) {
        struct tree *tree = &container_of(l, struct disk, link)->tree;
        struct disk *disk = version_relative(version, tree);
        if (!disk || !(disk->release.at || disk->release.rise))
            continue;
        bool held = before && version_relative(before, tree);
        disk->release.cut = held ? before->cut : 0;
        disk->release.epoch = held ? before->epoch : 0;
        tree->release = &disk->release;
    }
}

static void resume_release(const struct version *version)
{
    if (version->vm)
        return;
    list_for_each (c, &version->children) {
        struct descent *child = container_of(c, struct descent, link);
        resume_child(version, descent_disks(child));
    }
}

/* Tell everybody his parent, and from that what others hold. */
static int connect(struct loading *l)
{
    if (l->n)
        qsort(l->all, l->n, sizeof(*l->all), by_id);
    for (size_t i = 0; i < l->n; i++) {
        if (!l->all[i].parent)
            continue;
        struct loaded key = {.id = l->all[i].parent};
        const struct loaded *parent = bsearch(&key, l->all, l->n, sizeof(key), by_id);
        if (!parent || !parent->version || parent->version == l->all[i].version)
            return ERR_DAMAGED;
        descend(l->all[i].descent, parent->version);
    }
    for (size_t i = 0; i < l->n; i++)
        descent_set_held(l->all[i].descent);
    for (size_t i = 0; i < l->n; i++)
        if (l->all[i].version)
            resume_release(l->all[i].version);
    return 0;
}

/* A head is untouched if its roots are those of the version that it comes from. */
static void find_touched(struct store *store)
{
    list_for_each (l, &store->vms) {
        struct vm *vm = container_of(l, struct vm, link);
        list_for_each (k, &vm->disks) {
            struct tree *tree = &container_of(k, struct disk, link)->tree;
            const struct disk *then =
                vm->descent.parent ? version_relative(vm->descent.parent, tree) : NULL;
            tree->changes->touched =
                !then || tree->root_entry.address != then->tree.root_entry.address;
        }
    }
}

int catalogue_load(struct store *store, const uint8_t *buf, size_t len, bool old, uint64_t epoch)
{
    struct loading l = {.store = store, .at = buf, .end = buf + len, .old = old};
    const struct catalogue_header *h = take(&l, old ? CATALOGUE_HEADER_1_BYTES : sizeof(*h));
    struct vm *vm = NULL;
    if (!h)
        return ERR_DAMAGED;
    store->table->epoch = old ? epoch : h->epoch;
    int code = 0;
    for (uint32_t i = 0; code == 0 && i < h->n_vms; i++)
        code = load_vm(&l);
    for (uint32_t i = 0; code == 0 && i < h->n_versions; i++)
        code = old ? load_doomed(&l) : load_version(&l, &vm);
    if (code == 0)
        code = connect(&l);
    if (code == 0)
        find_touched(store);
    free(l.all);
    return code;
}
