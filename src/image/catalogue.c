/* catalogue.c - vms and disks: their names, the changes of them, and how both are kept.
 *
 * Changes are made one after the other. Each is validated, written to the log as a record, done
 * when its batch is applied (the same code does it in recovery), and reported when it is durable.
 * While one is between the log and its doing no checkpoint begins, and none is made while one runs:
 * so a checkpoint has it wholly or not at all. */
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

static struct disk *disk_find(struct vm *vm, const char *name)
{
    list_for_each (l, &vm->disks) {
        struct disk *disk = container_of(l, struct disk, link);
        if (strcmp(disk->name, name) == 0)
            return disk;
    }
    return NULL;
}

struct disk *store_find_disk(struct store *store, const char *vm_name, const char *disk_name)
{
    struct vm *vm = vm_find(store, vm_name);
    return vm ? disk_find(vm, disk_name) : NULL;
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
    return disk->shrinking;
}

uint64_t disk_size(const struct disk *disk)
{
    return disk->size_bytes;
}

struct store *disk_store(const struct disk *disk)
{
    return disk->store;
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

static struct vm *vm_new(struct store *store, const char *name, uint32_t id)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return NULL;
    strcpy(vm->name, name);
    vm->id = id;
    list_init(&vm->disks);
    insert_vm(store, vm);
    return vm;
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

static struct disk *disk_new(struct store *store, struct vm *vm, const char *name, uint32_t id,
                             uint64_t size_bytes)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return NULL;
    strcpy(disk->name, name);
    disk->store = store;
    disk->vm = vm;
    disk->id = id;
    disk->size_bytes = size_bytes;
    tree_init(&disk->tree, store->table, id, tree_levels(pages_of(size_bytes)), (struct entry){0});
    if (vm) {
        list_push_back(&vm->disks, &disk->link);
        list_push_back(&store->disk_ids[id % NAME_BUCKETS], &disk->id_link);
        vm->n_disks++;
    } else {
        list_push_back(&store->doomed, &disk->link);
    }
    return disk;
}

static void doom(struct store *store, struct disk *disk)
{
    list_del(&disk->link);
    list_del(&disk->id_link);
    disk->vm->n_disks--;
    disk->vm = NULL;
    list_push_back(&store->doomed, &disk->link);
}

static void vm_free(struct vm *vm)
{
    list_del(&vm->link);
    list_del(&vm->hash_link);
    free(vm);
}

void catalogue_free(struct store *store)
{
    struct list *l;
    list_for_each_safe (v, &store->vms) {
        struct vm *vm = container_of(v, struct vm, link);
        while (!list_empty(&vm->disks))
            doom(store, container_of(vm->disks.next, struct disk, link));
        vm_free(vm);
    }
    while ((l = list_pop_front(&store->doomed))) {
        struct disk *disk = container_of(l, struct disk, link);
        tree_drop(&disk->tree);
        free(disk);
    }
}

/* ---- validating a change -------------------------------------------------------------------- */

static bool size_is_valid(uint64_t bytes)
{
    return bytes >= PAGE_BYTES && bytes <= DISK_MAX_BYTES && bytes % 512 == 0;
}

static bool vm_in_use(const struct vm *vm)
{
    list_for_each (l, &vm->disks) {
        if (container_of(l, struct disk, link)->users)
            return true;
    }
    return false;
}

static int validate_disk(const struct store_change *c, struct vm *vm)
{
    struct disk *disk = disk_find(vm, c->disk);
    switch (c->kind) {
    case CHANGE_DISK_ADD:
        if (!name_is_valid(c->disk))
            return ERR_BAD_NAME;
        if (disk)
            return -EEXIST;
        return size_is_valid(c->size_bytes) ? 0 : ERR_BAD_SIZE;
    case CHANGE_DISK_REMOVE:
        if (!disk)
            return -ENOENT;
        return disk->users ? -EBUSY : 0;
    case CHANGE_DISK_COMMIT:
        return !disk ? -ENOENT : disk->provisional ? 0 : -EEXIST;
    default:
        if (!disk)
            return -ENOENT;
        if (!size_is_valid(c->size_bytes))
            return ERR_BAD_SIZE;
        return c->size_bytes < disk->size_bytes && disk->users ? -EBUSY : 0;
    }
}

static int validate(struct store *store, const struct store_change *c)
{
    struct vm *vm = vm_find(store, c->vm);
    if (store->log->error)
        return ERR_READ_ONLY;
    if (c->kind > CHANGE_DISK_COMMIT)
        return -EOPNOTSUPP;
    if (c->kind == CHANGE_VM_CREATE)
        return !name_is_valid(c->vm) ? ERR_BAD_NAME : vm ? -EEXIST : 0;
    if (!vm)
        return -ENOENT;
    switch (c->kind) {
    case CHANGE_VM_COMMIT:
        return vm->provisional ? 0 : -EEXIST;
    case CHANGE_VM_RENAME:
        if (!name_is_valid(c->new_name))
            return ERR_BAD_NAME;
        return vm_find(store, c->new_name) ? -EEXIST : 0;
    case CHANGE_VM_REMOVE:
        return vm_in_use(vm) ? -EBUSY : 0;
    default:
        return validate_disk(c, vm);
    }
}

/* ---- doing a change ------------------------------------------------------------------------- */

struct parsed_change {
    struct change_record r;
    char vm[NAME_MAX_CHARS + 1], disk[NAME_MAX_CHARS + 1], new_name[NAME_MAX_CHARS + 1];
};

static int do_disk_change(struct store *store, struct vm *vm, const struct parsed_change *c)
{
    struct disk *disk = disk_find(vm, c->disk);
    if (c->r.kind == CHANGE_DISK_ADD) {
        disk = disk_new(store, vm, c->disk, c->r.id, c->r.size_bytes);
        if (!disk)
            return -ENOMEM;
        disk->provisional = c->r.flags & DISK_PROVISIONAL;
        return 0;
    }
    if (!disk)
        return ERR_DAMAGED;
    if (c->r.kind == CHANGE_DISK_COMMIT) {
        disk->provisional = false;
        return 0;
    }
    if (c->r.kind == CHANGE_DISK_REMOVE) {
        doom(store, disk);
        return 0;
    }
    int code = 0;
    uint8_t levels = tree_levels(pages_of(c->r.size_bytes));
    if (levels > disk->tree.levels)
        code = tree_grow(&disk->tree, levels);
    if (code == 0)
        disk->size_bytes = c->r.size_bytes;
    return code;
}

/* Changes in the log were valid when they were made: anything else is damage. */
static int do_change(struct store *store, const struct parsed_change *c)
{
    struct vm *vm = vm_find(store, c->vm);
    if (c->r.id >= store->next_id)
        store->next_id = c->r.id + 1;
    if (c->r.kind == CHANGE_VM_CREATE) {
        if (vm)
            return ERR_DAMAGED;
        vm = vm_new(store, c->vm, c->r.id);
        if (!vm)
            return -ENOMEM;
        vm->role = c->r.role;
        vm->provisional = c->r.flags & VM_PROVISIONAL;
        vm->created_us = c->r.time_us;
        return 0;
    }
    if (!vm)
        return ERR_DAMAGED;
    switch (c->r.kind) {
    case CHANGE_VM_COMMIT:
        vm->provisional = false;
        return 0;
    case CHANGE_VM_RENAME:
        list_del(&vm->link);
        list_del(&vm->hash_link);
        strcpy(vm->name, c->new_name);
        insert_vm(store, vm);
        return 0;
    case CHANGE_VM_REMOVE:
        while (!list_empty(&vm->disks))
            doom(store, container_of(vm->disks.next, struct disk, link));
        vm_free(vm);
        return 0;
    case CHANGE_DISK_ADD:
    case CHANGE_DISK_REMOVE:
    case CHANGE_DISK_RESIZE:
    case CHANGE_DISK_COMMIT:
        return do_disk_change(store, vm, c);
    default:
        return ERR_FORMAT_NEWER;
    }
}

#define CHANGE_MAX_BYTES (sizeof(struct change_record) + 3 * NAME_MAX_CHARS)

static uint32_t change_encode(struct store *store, const struct store_change *c, uint8_t *buf)
{
    struct change_record *r = (struct change_record *)buf;
    bool makes = c->kind == CHANGE_VM_CREATE || c->kind == CHANGE_DISK_ADD;
    bool provisional = c->provisional && makes;
    *r = (struct change_record){.kind = c->kind,
                                .role = c->role,
                                .flags = provisional ? VM_PROVISIONAL : 0,
                                .vm_len = strlen(c->vm),
                                .disk_len = strlen(c->disk),
                                .new_len = strlen(c->new_name),
                                .id = makes ? store->next_id : 0,
                                .size_bytes = c->size_bytes,
                                .time_us = wall_us()};
    uint8_t *at = buf + sizeof(*r);
    memcpy(at, c->vm, r->vm_len);
    memcpy(at + r->vm_len, c->disk, r->disk_len);
    memcpy(at + r->vm_len + r->disk_len, c->new_name, r->new_len);
    return sizeof(*r) + r->vm_len + r->disk_len + r->new_len;
}

static int take_name(const uint8_t **at, const uint8_t *end, uint32_t len, char *name,
                     bool may_be_empty)
{
    if (len > NAME_MAX_CHARS || (size_t)(end - *at) < len)
        return ERR_DAMAGED;
    memcpy(name, *at, len);
    name[len] = 0;
    *at += len;
    if (strlen(name) != len || (len ? !name_is_valid(name) : !may_be_empty))
        return ERR_DAMAGED;
    return 0;
}

static int change_decode(const uint8_t *bytes, uint32_t len, struct parsed_change *c)
{
    const uint8_t *at = bytes + sizeof(c->r), *end = bytes + len;
    if (len < sizeof(c->r))
        return ERR_DAMAGED;
    memcpy(&c->r, bytes, sizeof(c->r));
    if (take_name(&at, end, c->r.vm_len, c->vm, false) < 0 ||
        take_name(&at, end, c->r.disk_len, c->disk, true) < 0 ||
        take_name(&at, end, c->r.new_len, c->new_name, true) < 0)
        return ERR_DAMAGED;
    bool sized = c->r.kind == CHANGE_DISK_ADD || c->r.kind == CHANGE_DISK_RESIZE;
    bool named = sized || c->r.kind == CHANGE_DISK_REMOVE || c->r.kind == CHANGE_DISK_COMMIT;
    if ((sized && !size_is_valid(c->r.size_bytes)) || (named && !c->r.disk_len) ||
        (c->r.kind == CHANGE_VM_RENAME && !c->r.new_len))
        return ERR_DAMAGED;
    return 0;
}

int catalogue_replay(struct store *store, const uint8_t *bytes, uint32_t len)
{
    struct parsed_change c;
    int code = change_decode(bytes, len, &c);
    return code < 0 ? code : do_change(store, &c);
}

/* ---- the queue of changes ------------------------------------------------------------------- */

void store_change(struct store *store, struct store_change *change)
{
    change->error = 0;
    change->store = store;
    change->record = NULL;
    change->end_zeroed = false;
    change->shrinks = NULL;
    list_push_back(&store->changes, &change->link);
}

static struct store_change *first_change(struct store *store)
{
    return list_empty(&store->changes)
               ? NULL
               : container_of(store->changes.next, struct store_change, link);
}

static void change_done(struct store *store, int error)
{
    struct store_change *change = first_change(store);
    list_del(&change->link);
    if (change->shrinks)
        change->shrinks->shrinking = false;
    free(change->record);
    change->record = NULL;
    store->change_logged = false;
    change->error = error;
    change->done(change);
}

static void change_synced(struct waiter *waiter, int error)
{
    struct store *store = container_of(waiter, struct store, change_waiter);
    change_done(store, error ? ERR_READ_ONLY : 0);
}

void change_applied(struct store *store, int error)
{
    struct store_change *change = first_change(store);
    if (!error)
        error = catalogue_replay(store, change->record, change->record_len);
    if (error) {
        /* It is in the log: what is in memory is not the store any more. */
        log_fail(store->log, error, "making a change of the catalogue");
        change_done(store, ERR_READ_ONLY);
        return;
    }
    store->change_waiter.seq = store->log->applied_seq;
    store->change_waiter.wake = change_synced;
    log_sync(store->log, &store->change_waiter);
}

/* Shrinking: what lies beyond the new end becomes zeros first, so that growing again shows nothing.
 * Until the change is made the disk takes no users, for whom it could be refused with those bytes
 * gone. */
static void end_zeroed(struct store_io *io)
{
    struct store *store = io->disk->store;
    struct store_change *change = first_change(store);
    int error = io->error;
    disk_put(io->disk);
    free(io);
    store->change_zeroing = false;
    if (error) {
        change_done(store, error);
        return;
    }
    change->end_zeroed = true;
}

static bool zero_end(struct store *store, struct store_change *change)
{
    struct disk *disk = store_find_disk(store, change->vm, change->disk);
    if (change->kind != CHANGE_DISK_RESIZE || change->size_bytes >= disk->size_bytes ||
        change->end_zeroed)
        return false;
    struct store_io *io = calloc(1, sizeof(*io));
    if (!io) {
        change_done(store, -ENOMEM);
        return true;
    }
    *io = (struct store_io){.disk = disk,
                            .op = STORE_ZERO,
                            .offset = change->size_bytes,
                            .length = disk->size_bytes - change->size_bytes,
                            .done = end_zeroed};
    disk_get(disk);
    disk->shrinking = true;
    change->shrinks = disk;
    store->change_zeroing = true;
    if (store_submit(store, io))
        end_zeroed(io);
    return true;
}

void changes_step(struct store *store)
{
    struct store_change *change = first_change(store);
    if (!change || store->change_logged || store->change_zeroing)
        return;
    int code = validate(store, change);
    if (code < 0) {
        change_done(store, code);
        return;
    }
    if (zero_end(store, change))
        return;
    if (store->checkpoint.state != CHECKPOINT_IDLE)
        return;
    struct batch *batch = log_batch(store->log, sizeof(struct record) + CHANGE_MAX_BYTES + 8);
    if (!batch)
        return;
    change->record = malloc(CHANGE_MAX_BYTES);
    if (!change->record) {
        change_done(store, -ENOMEM);
        return;
    }
    change->record_len = change_encode(store, change, change->record);
    batch_add_change(batch, change->record, change->record_len);
    store->change_logged = true;
}

struct dropping {
    struct store_change change;
    bool done;
};

static void dropped(struct store_change *change)
{
    container_of(change, struct dropping, change)->done = true;
}

/* The change that removes one vm or disk that an import left; false: there is none. */
static bool find_provisional(struct store *store, struct store_change *ret)
{
    list_for_each (l, &store->vms) {
        const struct vm *vm = container_of(l, struct vm, link);
        strcpy(ret->vm, vm->name);
        ret->kind = CHANGE_VM_REMOVE;
        if (vm->provisional)
            return true;
        ret->kind = CHANGE_DISK_REMOVE;
        list_for_each (k, &vm->disks) {
            const struct disk *disk = container_of(k, struct disk, link);
            strcpy(ret->disk, disk->name);
            if (disk->provisional)
                return true;
        }
    }
    return false;
}

/* Remove what an interrupted import left. At start-up: turns until it is done. */
int changes_drop_provisional(struct store *store)
{
    for (;;) {
        struct dropping d = {.change.done = dropped};
        if (!find_provisional(store, &d.change))
            return 0;
        store_change(store, &d.change);
        while (!d.done) {
            bool more = store_dispatch(store);
            if (!d.done)
                store->storage->poll(store->storage, !more);
        }
        if (d.change.error)
            return d.change.error;
    }
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
                               .created_us = vm->created_us,
                               .n_disks = vm->n_disks,
                               .disks = disks};
        strcpy(to->name, vm->name);
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
    struct catalogue_disk d = {.id = disk->id,
                               .levels = disk->tree.levels,
                               .name_len = strlen(disk->name),
                               .flags = disk->provisional ? DISK_PROVISIONAL : 0,
                               .size_bytes = disk->size_bytes,
                               .used_pages = disk->tree.used_pages,
                               .root = disk->tree.root_entry};
    disk->root_offset = c->at + offsetof(struct catalogue_disk, root);
    put(c, &d, sizeof(d));
    put_name(c, disk->name);
}

int catalogue_save(struct store *store, uint8_t *buf, size_t *len)
{
    struct cursor c = {.buf = buf};
    struct catalogue_header h = {0};
    list_for_each (l, &store->vms)
        h.n_vms++;
    list_for_each (l, &store->doomed)
        h.n_doomed++;
    put(&c, &h, sizeof(h));
    list_for_each (l, &store->vms) {
        const struct vm *vm = container_of(l, struct vm, link);
        struct catalogue_vm v = {.id = vm->id,
                                 .role = vm->role,
                                 .flags = vm->provisional ? VM_PROVISIONAL : 0,
                                 .name_len = strlen(vm->name),
                                 .created_us = vm->created_us,
                                 .n_disks = vm->n_disks};
        put(&c, &v, sizeof(v));
        put_name(&c, vm->name);
        list_for_each (k, &vm->disks)
            put_disk(&c, container_of(k, struct disk, link));
    }
    list_for_each (l, &store->doomed)
        put_disk(&c, container_of(l, struct disk, link));
    *len = c.at;
    return 0;
}

static const void *take(const uint8_t **at, const uint8_t *end, size_t len)
{
    if ((size_t)(end - *at) < len)
        return NULL;
    const uint8_t *p = *at;
    *at += len;
    return p;
}

static int take_padded_name(const uint8_t **at, const uint8_t *end, uint32_t len, char *name)
{
    int code = take_name(at, end, len, name, false);
    return code < 0 ? code : take(at, end, -len & 7) ? 0 : ERR_DAMAGED;
}

static int load_disk(struct store *store, struct vm *vm, const uint8_t **at, const uint8_t *end)
{
    char name[NAME_MAX_CHARS + 1];
    const struct catalogue_disk *d = take(at, end, sizeof(*d));
    if (!d || take_padded_name(at, end, d->name_len, name) < 0 || !size_is_valid(d->size_bytes) ||
        d->levels < tree_levels(pages_of(d->size_bytes)) || d->levels > NODE_LEVELS ||
        d->id >= store->next_id || (vm && disk_find(vm, name)) || disk_by_id(store, d->id))
        return ERR_DAMAGED;
    struct disk *disk = disk_new(store, vm, name, d->id, d->size_bytes);
    if (!disk)
        return -ENOMEM;
    tree_init(&disk->tree, store->table, d->id, d->levels, d->root);
    disk->tree.used_pages = d->used_pages;
    disk->provisional = d->flags & DISK_PROVISIONAL;
    return 0;
}

int catalogue_load(struct store *store, const uint8_t *buf, size_t len)
{
    const uint8_t *at = buf, *end = buf + len;
    const struct catalogue_header *h = take(&at, end, sizeof(*h));
    if (!h)
        return ERR_DAMAGED;
    for (uint32_t i = 0; i < h->n_vms; i++) {
        char name[NAME_MAX_CHARS + 1];
        const struct catalogue_vm *v = take(&at, end, sizeof(*v));
        if (!v || take_padded_name(&at, end, v->name_len, name) < 0 || vm_find(store, name))
            return ERR_DAMAGED;
        struct vm *vm = vm_new(store, name, v->id);
        if (!vm)
            return -ENOMEM;
        vm->role = v->role;
        vm->provisional = v->flags & VM_PROVISIONAL;
        vm->created_us = v->created_us;
        for (uint32_t k = 0; k < v->n_disks; k++) {
            int code = load_disk(store, vm, &at, end);
            if (code < 0)
                return code;
        }
    }
    for (uint32_t i = 0; i < h->n_doomed; i++) {
        int code = load_disk(store, NULL, &at, end);
        if (code < 0)
            return code;
    }
    return 0;
}
