/* change.c - changes of the catalogue.
 *
 * They are made one after the other, those of a vm in the order in which they came; one that makes
 * a disk smaller lets those of other vms pass while it waits. Each is validated, written to the log
 * as a record, done when its batch is applied (the same code does it in recovery), and reported
 * when it is durable. While one is between the log and its doing no checkpoint begins: so a
 * checkpoint has it wholly or not at all. */
#include "base/err.h"
#include "base/mono.h"
#include "image/catalogue_format.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define LAST_ID (UINT32_MAX - (1u << 20)) /* ids are never used again; a change takes few */

/* ---- validating a change -------------------------------------------------------------------- */

static int validate_disk(const struct store_change *c, struct vm *vm)
{
    struct disk *disk = disk_find(&vm->disks, c->disk);
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
        if (c->whole && disk->provisional)
            return ERR_HALF_MADE;
        if (!size_is_valid(c->size_bytes))
            return ERR_BAD_SIZE;
        if (c->from_bytes && c->from_bytes != disk->size_bytes)
            return -ESTALE;
        return c->size_bytes < disk->size_bytes && disk->users ? -EBUSY : 0;
    }
}

static bool version_in_use(const struct version *version)
{
    list_for_each (l, &version->disks) {
        if (container_of(l, struct disk, link)->users)
            return true;
    }
    return false;
}

static int may_remove(const struct version *version)
{
    return version->held ? ERR_HELD : version_in_use(version) ? -EBUSY : 0;
}

static int validate_vm_remove(const struct vm *vm)
{
    list_for_each (l, &vm->versions) {
        const struct version *version = container_of(l, struct version, link);
        int code = vm->provisional && version->held ? 0 : may_remove(version);
        if (code < 0)
            return code;
    }
    return vm_in_use(vm) ? -EBUSY : 0;
}

static const uint8_t no_guid[GUID_BYTES];

static bool note_is_valid(const char *note)
{
    if (!note)
        return true;
    if (strlen(note) > NOTE_MAX_BYTES)
        return false;
    for (; *note; note++)
        if ((unsigned char)*note < ' ' || *note == 0x7f)
            return false;
    return true;
}

/* The nodes of a version go to the log without regard to what is free: so there must be room. */
static bool room_for_version(const struct store *store)
{
    return log_room_pages(store->log) > store->table->dirty_bytes / PAGE_BYTES + 64;
}

static int validate_snap(struct store *store, const struct store_change *c, struct vm *vm)
{
    if (!name_is_valid(c->version))
        return ERR_BAD_NAME;
    if (version_by_name(vm, c->version))
        return -EEXIST;
    if (!note_is_valid(c->note) || c->consistency > CONSISTENCY_RAM)
        return -EINVAL;
    return room_for_version(store) ? 0 : ERR_STORE_FULL;
}

static int validate_removal(const struct store_change *c, struct vm *vm)
{
    if (c->n_versions == 0 || c->n_versions > CHANGE_MAX_VERSIONS)
        return -EINVAL;
    for (uint32_t i = 0; i < c->n_versions; i++) {
        const struct version *version = version_by_name(vm, c->versions[i]);
        int code = version ? may_remove(version) : ERR_NO_VERSION;
        if (code < 0)
            return code;
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(c->versions[i], c->versions[k]) == 0)
                return -EINVAL;
    }
    return 0;
}

/* The version of another vm that a clone was made from; NULL: it is gone. */
static struct version *origin_of(const struct vm *clone, const struct vm *vm)
{
    list_for_each (l, &vm->versions) {
        struct version *version = container_of(l, struct version, link);
        if (version->id == clone->cloned_from)
            return version;
    }
    return NULL;
}

static int validate_adoption(struct store *store, const struct store_change *c, struct vm *vm)
{
    struct vm *to = vm_find(store, c->new_name);
    if (!to)
        return -ENOENT;
    const struct version *origin = origin_of(vm, to);
    if (to == vm || !vm->provisional || !origin)
        return -EINVAL;
    if (vm_in_use(vm) || vm_in_use(to))
        return -EBUSY;
    list_for_each (l, &vm->versions) {
        if (version_by_name(to, container_of(l, struct version, link)->name))
            return -EEXIST;
    }
    /* Where other versions stand between them, they and the received one come from origin side by
     * side, as with force: what the head drops, and what it gets, does not ask for more. */
    int like = c->hold ? 1 : head_is_like(to, origin);
    return like > 0 ? 0 : like == 0 ? -ESTALE : like;
}

static int validate_version(struct store *store, const struct store_change *c, struct vm *vm)
{
    if (c->kind == CHANGE_SNAP)
        return validate_snap(store, c, vm);
    if (c->kind == CHANGE_VERSION_REMOVE)
        return validate_removal(c, vm);
    if (c->kind == CHANGE_ADOPT)
        return validate_adoption(store, c, vm);
    const struct version *version = version_by_name(vm, c->version);
    bool named = c->kind != CHANGE_VERSION_HOLD && c->kind != CHANGE_VERSION_COMMIT &&
                 (c->kind != CHANGE_ROLLBACK || *c->new_name);
    if (!version)
        return ERR_NO_VERSION;
    if (version->provisional && c->kind != CHANGE_VERSION_COMMIT)
        return -EBUSY;
    if (named && !name_is_valid(c->new_name))
        return ERR_BAD_NAME;
    switch (c->kind) {
    case CHANGE_VERSION_HOLD:
        return version->held == c->hold ? -EALREADY : 0;
    case CHANGE_VERSION_COMMIT:
        return version->provisional ? 0 : -EEXIST;
    case CHANGE_VERSION_RENAME:
        return version_by_name(vm, c->new_name) ? -EEXIST : 0;
    case CHANGE_ROLLBACK:
        if (named && version_by_name(vm, c->new_name))
            return -EEXIST;
        return vm_in_use(vm) ? -EBUSY : !room_for_version(store) ? ERR_STORE_FULL : 0;
    default:
        if (memcmp(c->guid, no_guid, GUID_BYTES) != 0 &&
            memcmp(c->guid, version->guid, GUID_BYTES) != 0)
            return ERR_NO_VERSION; /* another one has its name by now */
        return vm_find(store, c->new_name) ? -EEXIST : 0;
    }
}

static int validate(struct store *store, const struct store_change *c)
{
    struct vm *vm = vm_find(store, c->vm);
    if (store->log->error)
        return ERR_READ_ONLY;
    if (store->next_id > LAST_ID)
        return -EOVERFLOW;
    if (c->kind == CHANGE_VM_CREATE)
        return !name_is_valid(c->vm) ? ERR_BAD_NAME : vm ? -EEXIST : 0;
    if (!vm)
        return -ENOENT;
    if (c->whole && vm->provisional)
        return ERR_HALF_MADE;
    switch (c->kind) {
    case CHANGE_VM_COMMIT:
        return vm->provisional ? 0 : -EEXIST;
    case CHANGE_VM_RENAME:
        if (!name_is_valid(c->new_name))
            return ERR_BAD_NAME;
        return vm_find(store, c->new_name) ? -EEXIST : 0;
    case CHANGE_VM_REMOVE:
        return validate_vm_remove(vm);
    case CHANGE_DISK_ADD:
    case CHANGE_DISK_REMOVE:
    case CHANGE_DISK_COMMIT:
    case CHANGE_DISK_RESIZE:
        return validate_disk(c, vm);
    default:
        return c->kind > CHANGE_VERSION_COMMIT ? -EINVAL : validate_version(store, c, vm);
    }
}

int store_change_refused(struct store *store, const struct store_change *change)
{
    return validate(store, change);
}

/* ---- doing a change ------------------------------------------------------------------------- */

struct parsed_change {
    struct change_record r;
    char vm[NAME_MAX_CHARS + 1], new_name[NAME_MAX_CHARS + 1];
    char disk[NAME_MAX_CHARS + 1]; /* or version */
    const uint8_t *more;           /* what follows the names */
    size_t more_len;
    uint64_t cut;
};

static void use_ids(struct store *store, uint32_t first, uint32_t n)
{
    if (first + n > store->next_id)
        store->next_id = first + n;
}

static int add_disk(struct store *store, struct vm *vm, const struct parsed_change *c)
{
    struct disk *disk = disk_create(store, vm, NULL, c->disk, c->r.id, c->r.size_bytes);
    if (!disk)
        return -ENOMEM;
    disk->provisional = c->r.flags & DISK_PROVISIONAL;
    tree_init(&disk->tree, store->table, c->r.id, tree_levels(pages_of(c->r.size_bytes)),
              (struct entry){0});
    return tree_make_head(&disk->tree);
}

static int do_disk_change(struct store *store, struct vm *vm, const struct parsed_change *c)
{
    struct disk *disk = disk_find(&vm->disks, c->disk);
    if (c->r.kind == CHANGE_DISK_ADD)
        return add_disk(store, vm, c);
    if (!disk)
        return ERR_DAMAGED;
    if (c->r.kind == CHANGE_DISK_COMMIT) {
        disk->provisional = false;
        return 0;
    }
    if (c->r.kind == CHANGE_DISK_REMOVE)
        return disk_remove(store, disk, c->r.id);
    int code = 0;
    uint8_t levels = tree_levels(pages_of(c->r.size_bytes));
    if (levels > disk->tree.levels)
        code = tree_grow(&disk->tree, levels);
    if (code == 0)
        disk->size_bytes = c->r.size_bytes;
    return code;
}

static int do_snap(struct store *store, struct vm *vm, const struct parsed_change *c)
{
    struct snap_record s;
    struct version *version;
    if (c->more_len < sizeof(s))
        return ERR_DAMAGED;
    memcpy(&s, c->more, sizeof(s));
    if (s.note_len > NOTE_MAX_BYTES || c->more_len < sizeof(s) + s.note_len)
        return ERR_DAMAGED;
    int code = version_snap(store, vm, c->disk, c->r.id, c->cut, &version);
    if (code < 0)
        return code;
    version->received = c->r.flags & VERSION_RECEIVED;
    version->created_us = version->received ? c->r.size_bytes : c->r.time_us;
    version->consistency = s.consistency;
    version->provisional = c->r.flags & VERSION_PROVISIONAL;
    memcpy(version->guid, s.guid, sizeof(version->guid));
    if (s.note_len) {
        version->note = strndup((const char *)c->more + sizeof(s), s.note_len);
        if (!version->note)
            return -ENOMEM;
    }
    return 0;
}

static int do_removal(struct vm *vm, const struct parsed_change *c)
{
    for (size_t at = 0; at + sizeof(uint32_t) <= c->more_len; at += sizeof(uint32_t)) {
        uint32_t id;
        struct version *version = NULL;
        memcpy(&id, c->more + at, sizeof(id));
        list_for_each (l, &vm->versions) {
            version = container_of(l, struct version, link);
            if (version->id == id)
                break;
            version = NULL;
        }
        if (!version)
            return ERR_DAMAGED;
        version_remove(version);
    }
    return 0;
}

static int do_rollback(struct store *store, struct vm *vm, struct version *version,
                       const struct parsed_change *c)
{
    uint32_t id = c->r.id;
    struct version *kept;
    int code = 0;
    if (*c->new_name) {
        code = version_snap(store, vm, c->new_name, id++, c->cut, &kept);
        if (code < 0)
            return code;
        kept->created_us = c->r.time_us;
        memcpy(kept->guid, c->more, sizeof(kept->guid));
    }
    code = head_remove(store, vm, id++);
    if (code == 0)
        code = head_from(store, vm, version, id);
    use_ids(store, c->r.id, 2 + vm->n_disks);
    return code;
}

static int do_clone(struct store *store, const struct version *version,
                    const struct parsed_change *c)
{
    struct vm *vm = vm_find(store, c->new_name) ? NULL : vm_new(store, c->new_name, c->r.id);
    if (!vm)
        return ERR_DAMAGED;
    vm->role = version->vm->role;
    vm->cloned_from = version->id;
    vm->provisional = c->r.flags & VM_PROVISIONAL;
    vm->memory = c->r.flags & VM_MEMORY;
    vm->created_us = c->r.time_us;
    int code = head_from(store, vm, version, c->r.id + 1);
    use_ids(store, c->r.id, 1 + vm->n_disks);
    return code;
}

/* A clone's versions and head become those of the vm that it comes from. */
static int do_adoption(struct store *store, struct vm *vm, const struct parsed_change *c)
{
    struct vm *to = vm_find(store, c->new_name);
    if (!to || to == vm)
        return ERR_DAMAGED;
    int code = head_remove(store, to, c->r.id);
    if (code < 0)
        return code;
    while (!list_empty(&vm->versions)) {
        struct version *version = container_of(vm->versions.next, struct version, link);
        list_del(&version->link);
        version->vm = to;
        to->n_versions++;
        version_set_name(version, version->name);
        struct list *at = &to->versions; /* by age */
        while (at->prev != &to->versions &&
               container_of(at->prev, struct version, link)->id > version->id)
            at = at->prev;
        list_insert_before(at, &version->link);
    }
    while (!list_empty(&vm->disks)) {
        struct disk *disk = container_of(vm->disks.next, struct disk, link);
        list_del(&disk->link);
        disk->vm = to;
        to->n_disks++;
        list_push_back(&to->disks, &disk->link);
    }
    descend(&to->descent, vm->descent.parent);
    vm_free(vm);
    return 0;
}

static int do_version_change(struct store *store, struct vm *vm, const struct parsed_change *c)
{
    if (c->r.kind == CHANGE_SNAP)
        return do_snap(store, vm, c);
    if (c->r.kind == CHANGE_VERSION_REMOVE)
        return do_removal(vm, c);
    if (c->r.kind == CHANGE_ADOPT)
        return do_adoption(store, vm, c);
    struct version *version = version_by_name(vm, c->disk);
    if (!version)
        return ERR_DAMAGED;
    switch (c->r.kind) {
    case CHANGE_VERSION_HOLD:
        version->held = c->r.flags & VERSION_HELD;
        return 0;
    case CHANGE_VERSION_COMMIT:
        version->provisional = false;
        return 0;
    case CHANGE_VERSION_RENAME:
        version_set_name(version, c->new_name);
        return 0;
    case CHANGE_ROLLBACK:
        return c->more_len < GUID_BYTES ? ERR_DAMAGED : do_rollback(store, vm, version, c);
    case CHANGE_CLONE:
        return do_clone(store, version, c);
    default:
        return ERR_FORMAT_NEWER;
    }
}

static int remove_vm(struct store *store, struct vm *vm, uint32_t id)
{
    int code = vm->n_disks ? head_remove(store, vm, id) : 0;
    while (!list_empty(&vm->versions))
        version_remove(container_of(vm->versions.prev, struct version, link));
    vm_free(vm);
    return code;
}

/* Changes in the log were valid when they were made: anything else is damage. */
static int do_change(struct store *store, const struct parsed_change *c)
{
    struct vm *vm = vm_find(store, c->vm);
    use_ids(store, c->r.id, 1);
    if (c->r.kind == CHANGE_VM_CREATE) {
        if (vm)
            return ERR_DAMAGED;
        vm = vm_new(store, c->vm, c->r.id);
        if (!vm)
            return -ENOMEM;
        vm->role = c->r.role;
        vm->provisional = c->r.flags & VM_PROVISIONAL;
        vm->memory = c->r.flags & VM_MEMORY;
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
        vm_rename(vm, c->new_name);
        return 0;
    case CHANGE_VM_REMOVE:
        return remove_vm(store, vm, c->r.id);
    case CHANGE_DISK_ADD:
    case CHANGE_DISK_REMOVE:
    case CHANGE_DISK_RESIZE:
    case CHANGE_DISK_COMMIT:
        return do_disk_change(store, vm, c);
    default:
        return do_version_change(store, vm, c);
    }
}

/* ---- changes in the log --------------------------------------------------------------------- */

#define CHANGE_MAX_BYTES                                                                           \
    (sizeof(struct change_record) + 3 * NAME_MAX_CHARS + sizeof(struct snap_record) +              \
     CHANGE_MAX_VERSIONS * sizeof(uint32_t))
static_assert(NOTE_MAX_BYTES <= CHANGE_MAX_VERSIONS * sizeof(uint32_t), "the longer of the two");
static_assert(sizeof(struct record) + CHANGE_MAX_BYTES + 8 <= BATCH_RECORDS_BYTES, "fits a batch");

/* What follows the names. Returns its length, or -EIO: no random bytes for a guid. */
static int encode_more(struct store *store, const struct store_change *c, uint8_t *at)
{
    if (c->kind == CHANGE_VERSION_REMOVE) {
        struct vm *vm = vm_find(store, c->vm);
        for (uint32_t i = 0; i < c->n_versions; i++)
            memcpy(at + i * sizeof(uint32_t), &version_by_name(vm, c->versions[i])->id,
                   sizeof(uint32_t));
        return c->n_versions * sizeof(uint32_t);
    }
    if (c->kind != CHANGE_SNAP && c->kind != CHANGE_ROLLBACK)
        return 0;
    static const uint8_t none[GUID_BYTES];
    struct snap_record s = {.consistency = c->consistency,
                            .note_len = c->note ? strlen(c->note) : 0};
    memcpy(s.guid, c->guid, sizeof(s.guid));
    bool made = c->kind == CHANGE_SNAP || *c->new_name; /* a version */
    if (made && memcmp(s.guid, none, sizeof(none)) == 0 &&
        getrandom(s.guid, sizeof(s.guid), 0) != sizeof(s.guid))
        return -EIO; /* one that is like another store's would let a stream fit that does not */
    memcpy(at, &s, sizeof(s));
    if (s.note_len)
        memcpy(at + sizeof(s), c->note, s.note_len);
    return sizeof(s) + s.note_len;
}

/* Returns the length, or an error of encode_more(). */
static int change_encode(struct store *store, const struct store_change *c, uint8_t *buf)
{
    struct change_record *r = (struct change_record *)buf;
    const char *disk = c->kind > CHANGE_DISK_COMMIT ? c->version : c->disk;
    if (c->kind == CHANGE_VERSION_REMOVE || c->kind == CHANGE_ADOPT)
        disk = "";
    bool provisional =
        c->provisional && (c->kind == CHANGE_VM_CREATE || c->kind == CHANGE_DISK_ADD ||
                           c->kind == CHANGE_CLONE || c->kind == CHANGE_SNAP);
    bool memory = c->memory && (c->kind == CHANGE_VM_CREATE || c->kind == CHANGE_CLONE);
    bool held = c->kind == CHANGE_VERSION_HOLD && c->hold;
    bool received = c->kind == CHANGE_SNAP && c->created_us;
    static_assert(VM_PROVISIONAL == DISK_PROVISIONAL && VM_PROVISIONAL == VERSION_PROVISIONAL,
                  "one bit for all");
    *r = (struct change_record){.kind = c->kind,
                                .role = c->role,
                                .flags = (provisional ? VM_PROVISIONAL : 0) |
                                         (memory ? VM_MEMORY : 0) | (held ? VERSION_HELD : 0) |
                                         (received ? VERSION_RECEIVED : 0),
                                .vm_len = strlen(c->vm),
                                .disk_len = strlen(disk),
                                .new_len = strlen(c->new_name),
                                .id = store->next_id,
                                .size_bytes = received ? c->created_us : c->size_bytes,
                                .time_us = wall_us()};
    uint8_t *at = buf + sizeof(*r);
    memcpy(at, c->vm, r->vm_len);
    memcpy(at + r->vm_len, disk, r->disk_len);
    memcpy(at + r->vm_len + r->disk_len, c->new_name, r->new_len);
    uint32_t len = sizeof(*r) + r->vm_len + r->disk_len + r->new_len;
    int more = encode_more(store, c, buf + len);
    return more < 0 ? more : (int)len + more;
}

static int take_name(const uint8_t **at, const uint8_t *end, uint32_t len, char *name)
{
    if (len > NAME_MAX_CHARS || (size_t)(end - *at) < len)
        return ERR_DAMAGED;
    memcpy(name, *at, len);
    name[len] = 0;
    *at += len;
    return strlen(name) != len || (len && !name_is_valid(name)) ? ERR_DAMAGED : 0;
}

static int change_decode(const uint8_t *bytes, uint32_t len, struct parsed_change *c)
{
    const uint8_t *at = bytes + sizeof(c->r), *end = bytes + len;
    if (len < sizeof(c->r))
        return ERR_DAMAGED;
    memcpy(&c->r, bytes, sizeof(c->r));
    if (c->r.kind > CHANGE_VERSION_COMMIT)
        return ERR_FORMAT_NEWER;
    if (take_name(&at, end, c->r.vm_len, c->vm) < 0 || !c->r.vm_len ||
        take_name(&at, end, c->r.disk_len, c->disk) < 0 ||
        take_name(&at, end, c->r.new_len, c->new_name) < 0)
        return ERR_DAMAGED;
    bool sized = c->r.kind == CHANGE_DISK_ADD || c->r.kind == CHANGE_DISK_RESIZE;
    bool named = c->r.kind >= CHANGE_DISK_ADD && c->r.kind != CHANGE_VERSION_REMOVE &&
                 c->r.kind != CHANGE_ADOPT;
    bool renamed = c->r.kind == CHANGE_VM_RENAME || c->r.kind == CHANGE_VERSION_RENAME ||
                   c->r.kind == CHANGE_CLONE || c->r.kind == CHANGE_ADOPT;
    if ((sized && !size_is_valid(c->r.size_bytes)) || (named && !c->r.disk_len) ||
        (renamed && !c->r.new_len))
        return ERR_DAMAGED;
    c->more = at;
    c->more_len = end - at;
    return 0;
}

int catalogue_replay(struct store *store, const uint8_t *bytes, uint32_t len, uint64_t cut)
{
    struct parsed_change c;
    int code = change_decode(bytes, len, &c);
    c.cut = cut;
    return code < 0 ? code : do_change(store, &c);
}

bool catalogue_replay_waits(struct store *store, const uint8_t *bytes, uint32_t len)
{
    struct parsed_change c;
    struct vm *vm = change_decode(bytes, len, &c) < 0 ? NULL : vm_find(store, c.vm);
    if (vm && c.r.kind == CHANGE_DISK_RESIZE) {
        const struct disk *disk = disk_find(&vm->disks, c.disk);
        return disk && (tree_is_frozen(&disk->tree) || disk->tree.origin);
    }
    return vm && (c.r.kind == CHANGE_SNAP || c.r.kind == CHANGE_ROLLBACK) && !vm_may_freeze(vm);
}

/* ---- the queue of changes ------------------------------------------------------------------- */

void store_change(struct store *store, struct store_change *change)
{
    change->error = 0;
    change->store = store;
    change->record = NULL;
    change->zeroed_to = 0;
    change->shrinks = NULL;
    list_push_back(&store->changes, &change->link);
}

static void change_done(struct store *store, struct store_change *change, int error)
{
    list_del(&change->link);
    if (change->shrinks)
        change->shrinks->shrinking = false;
    free(change->record);
    change->record = NULL;
    if (store->change_making == change) {
        store->change_making = NULL;
        store->change_logged = false;
    }
    change->error = error;
    change->done(change);
}

/* ---- disks that a logged change takes away ---------------------------------------------------
 *
 * That nobody uses them was found before it was logged. Who came between then and its being made
 * would write behind it into a disk that is gone: so they take no users. */

static void bar_disk(struct disk *disk)
{
    if (list_empty(&disk->leaving_link))
        list_push_back(&disk->store->leaving, &disk->leaving_link);
}

static void bar_disks(const struct list *disks)
{
    list_for_each (l, disks)
        bar_disk(container_of(l, struct disk, link));
}

static void bar_leaving(struct store *store, const struct store_change *c)
{
    struct vm *vm = vm_find(store, c->vm);
    struct disk *disk = vm ? disk_find(&vm->disks, c->disk) : NULL;

    if (c->kind == CHANGE_DISK_REMOVE && disk)
        bar_disk(disk);
    if (c->kind == CHANGE_VM_REMOVE || c->kind == CHANGE_ROLLBACK || c->kind == CHANGE_ADOPT)
        bar_disks(&vm->disks);
    if (c->kind == CHANGE_ADOPT)
        bar_disks(&vm_find(store, c->new_name)->disks);
    if (c->kind == CHANGE_VM_REMOVE)
        list_for_each (l, &vm->versions)
            bar_disks(&container_of(l, struct version, link)->disks);
    for (uint32_t i = 0; c->kind == CHANGE_VERSION_REMOVE && i < c->n_versions; i++) {
        const struct version *version = version_by_name(vm, c->versions[i]);
        if (version)
            bar_disks(&version->disks);
    }
}

static void free_leaving(struct store *store)
{
    while (list_pop_front(&store->leaving))
        ;
}

static void change_synced(struct waiter *waiter, int error)
{
    struct store *store = container_of(waiter, struct store, change_waiter);
    change_done(store, store->change_making, error ? ERR_READ_ONLY : 0);
}

void change_applied(struct store *store, int error, uint64_t cut)
{
    struct store_change *change = store->change_making;
    if (!error)
        error = catalogue_replay(store, change->record, change->record_len, cut);
    free_leaving(store);
    if (error) {
        /* It is in the log: what is in memory is not the store any more. */
        log_fail(store->log, error, "making a change of the catalogue");
        change_done(store, change, ERR_READ_ONLY);
        return;
    }
    store->n_changes++;
    store->change_waiter.seq = store->log->applied_seq;
    store->change_waiter.wake = change_synced;
    log_sync(store->log, &store->change_waiter);
}

/* Shrinking: what lies beyond the new end becomes zeros first, so that growing again shows nothing:
 * the rest of the last page that stays, which has to be read and may fail, before all else goes.
 * (A table that cannot be read then still leaves part of the end gone.)
 * Until the change is made the disk takes no users, for whom it could be refused with those bytes
 * gone. */
static void end_zeroed(struct store_io *io)
{
    struct store *store = io->disk->store;
    struct store_change *change = store->change_zeroing;
    int error = io->error;
    uint64_t to = io->offset + io->length;
    disk_put(io->disk);
    free(io);
    store->change_zeroing = NULL;
    if (error)
        change_done(store, change, error);
    else
        change->zeroed_to = to;
}

static int zero_range(struct store *store, struct store_change *change, struct disk *disk,
                      uint64_t from, uint64_t to)
{
    struct store_io *io = calloc(1, sizeof(*io));
    if (!io)
        return -ENOMEM;
    *io = (struct store_io){
        .disk = disk, .op = STORE_ZERO, .offset = from, .length = to - from, .done = end_zeroed};
    disk_get(disk);
    disk->shrinking = true;
    change->shrinks = disk;
    store->change_zeroing = change;
    if (store_submit(store, io))
        end_zeroed(io);
    return 0;
}

/* The next part of it. False: there is none. */
static bool find_end(const struct store_change *change, const struct disk *disk, uint64_t *ret_from,
                     uint64_t *ret_to)
{
    uint64_t page_end = (change->size_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t from = change->zeroed_to ? change->zeroed_to : change->size_bytes;
    *ret_from = from;
    *ret_to = from < page_end && page_end < disk->size_bytes ? page_end : disk->size_bytes;
    return from < *ret_to;
}

enum resize_step { RESIZE_READY, RESIZE_BEGUN, RESIZE_WAITS };

/* Negative: an error. */
static int resize_step(struct store *store, struct store_change *change)
{
    struct disk *disk = store_find_disk(store, change->vm, change->disk);
    uint64_t from, to;
    if (!find_end(change, disk, &from, &to))
        return store->checkpoint.state == CHECKPOINT_IDLE ? RESIZE_READY : RESIZE_WAITS;
    if (store->change_zeroing)
        return RESIZE_WAITS;
    int code = zero_range(store, change, disk, from, to);
    return code < 0 ? code : RESIZE_BEGUN;
}

/* Put a change into the log, if there is room and nothing frozen is in its way. */
static int log_change(struct store *store, struct store_change *change)
{
    struct batch *batch = log_batch(store->log, sizeof(struct record) + CHANGE_MAX_BYTES + 8);
    store->change_waits = !batch;
    if (!batch)
        return 0;
    if (!change->record)
        change->record = malloc(CHANGE_MAX_BYTES);
    if (!change->record)
        return -ENOMEM;
    int len = change_encode(store, change, change->record);
    if (len < 0)
        return len;
    change->record_len = len;
    bool freezes = change->kind == CHANGE_SNAP || change->kind == CHANGE_ROLLBACK;
    store->change_waits = freezes && !log_table_room(store->log);
    if (store->change_waits)
        return 0;
    if (catalogue_replay_waits(store, change->record, change->record_len)) {
        store->hurry = true; /* with what is frozen */
        return 0;
    }
    batch_add_change(batch, change->record, change->record_len);
    store->change_making = change;
    store->change_logged = true;
    bar_leaving(store, change);
    if (change->placed)
        change->placed(change);
    return 0;
}

/* Go on with a change. Returns whether it waits and others may pass it; else it may be gone. */
static bool change_step(struct store *store, struct store_change *change)
{
    if (change == store->change_zeroing)
        return true;
    int code = validate(store, change);
    if (code == -EAGAIN) {
        store->hurry = true; /* roots that it asks about are still to be written */
        return false;
    }
    int step = code == 0 && change->kind == CHANGE_DISK_RESIZE ? resize_step(store, change) : code;
    if (step == RESIZE_BEGUN || step == RESIZE_WAITS)
        return step == RESIZE_WAITS;
    code = step < 0 ? step : log_change(store, change);
    if (code < 0)
        change_done(store, change, code);
    return false;
}

/* Is it of a vm that one before it is of? */
static bool is_behind(const struct store *store, const struct store_change *change)
{
    list_for_each (l, &store->changes) {
        const struct store_change *c = container_of(l, struct store_change, link);
        if (c == change)
            break;
        if (!strcmp(c->vm, change->vm) || !strcmp(c->vm, change->new_name) ||
            !strcmp(c->new_name, change->vm) ||
            (*c->new_name && !strcmp(c->new_name, change->new_name)))
            return true;
    }
    return false;
}

void changes_step(struct store *store)
{
    store->change_waits = false;
    if (store->change_logged)
        return;
    list_for_each (l, &store->changes) {
        struct store_change *change = container_of(l, struct store_change, link);
        if (!is_behind(store, change) && !change_step(store, change))
            return;
    }
}

struct dropping {
    struct store_change change;
    bool done;
};

static void dropped(struct store_change *change)
{
    container_of(change, struct dropping, change)->done = true;
}

/* The same for a version that a checkpoint left. name: its place for the change. */
static bool find_provisional_version(const struct vm *vm, struct store_change *ret,
                                     const char **name)
{
    list_for_each (l, &vm->versions) {
        const struct version *version = container_of(l, struct version, link);
        if (!version->provisional)
            continue;
        ret->kind = CHANGE_VERSION_REMOVE;
        *name = version->name;
        ret->versions = name;
        ret->n_versions = 1;
        return true;
    }
    return false;
}

/* The change that removes one vm or disk that an import left; false: there is none. */
static bool find_provisional(struct store *store, struct store_change *ret, const char **name)
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
        if (find_provisional_version(vm, ret, name))
            return true;
    }
    return false;
}

/* Remove what an interrupted import left; where there is no space for that it stays. At start-up:
 * turns until it is done. On an error the store can only be closed. */
int changes_drop_provisional(struct store *store)
{
    uint32_t stuck_turns = 0;
    for (;;) {
        struct dropping d = {.change.done = dropped};
        const char *name;
        if (!find_provisional(store, &d.change, &name))
            return 0;
        store_change(store, &d.change);
        while (!d.done) {
            bool more = store_dispatch(store);
            bool wait = !more && store_is_busy(store);
            stuck_turns = more || wait ? 0 : stuck_turns + 1;
            int given_up = stuck_turns == 0                ? 0
                           : store->log->error             ? store->log->error
                           : store_is_stopped(store)       ? -ECANCELED
                           : stuck_turns > MAX_STUCK_TURNS ? -ENOSPC
                                                           : 0;
            if (!d.done && given_up && store->change_logged)
                return given_up;
            if (!d.done && given_up)
                change_done(store, &d.change, given_up);
            else if (!d.done)
                store->storage->poll(store->storage, wait);
        }
        if (d.change.error == -ENOSPC && !store->log->error) {
            store_event(store, STORE_EVENT_FULL, -ENOSPC,
                        "there is no space to remove what was left unfinished of \"%s\": free some "
                        "and open the store again",
                        d.change.vm);
            return 0;
        }
        if (d.change.error)
            return d.change.error;
    }
}
