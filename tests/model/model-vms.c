/* model-vms.c - the model's catalogue of vms and disks, and its beginning and end. */
#include "model-impl.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct model *model_new(void)
{
    struct model *model = model_must(calloc(1, sizeof(*model)));
    list_init(&model->ops);
    list_init(&model->reads);
    model->now = model->durable = 1;
    return model;
}

static void disk_drop(struct model *model, uint32_t i)
{
    struct model_disk *disk = model->disks[i];
    while (!list_empty(&disk->busy)) {
        struct model_op *op = container_of(disk->busy.next, struct model_op, busy);
        model_forget(model, op);
    }
    pages_free(model, disk, 0);
    free(disk->buckets);
    free(disk->pages);
    free(disk);
    model->disks[i] = model->disks[--model->n_disks];
}

static void vm_drop(struct model *model, uint32_t i)
{
    for (uint32_t d = model->n_disks; d-- > 0;)
        if (model->disks[d]->vm == model->vms[i])
            disk_drop(model, d);
    free(model->vms[i]);
    model->vms[i] = model->vms[--model->n_vms];
}

void model_free(struct model *model)
{
    if (!model)
        return;
    while (model->n_vms)
        vm_drop(model, model->n_vms - 1);
    free(model->vms);
    free(model->disks);
    free(model->moving);
    free(model);
}

static int vm_index(const struct model *model, const char *name)
{
    for (uint32_t i = 0; i < model->n_vms; i++)
        if (strcmp(model->vms[i]->name, name) == 0)
            return (int)i;
    return -1;
}

static int disk_index(const struct model *model, const char *vm, const char *name)
{
    for (uint32_t i = 0; i < model->n_disks; i++)
        if (strcmp(model->disks[i]->vm->name, vm) == 0 && strcmp(model->disks[i]->name, name) == 0)
            return (int)i;
    return -1;
}

uint32_t model_n_disks(const struct model *model)
{
    return model->n_disks;
}

struct model_disk *model_disk(const struct model *model, uint32_t i)
{
    return i < model->n_disks ? model->disks[i] : NULL;
}

struct model_disk *model_find_disk(const struct model *model, const char *vm, const char *disk)
{
    int i = disk_index(model, vm, disk);
    return i < 0 ? NULL : model->disks[i];
}

const char *model_disk_vm(const struct model_disk *disk)
{
    return disk->vm->name;
}

const char *model_disk_name(const struct model_disk *disk)
{
    return disk->name;
}

uint64_t model_disk_size(const struct model_disk *disk)
{
    return disk->size;
}

const char *model_vm(const struct model *model, uint32_t i, bool *ret_provisional)
{
    if (i >= model->n_vms)
        return NULL;
    if (ret_provisional)
        *ret_provisional = model->vms[i]->provisional;
    return model->vms[i]->name;
}

void **model_disk_user(struct model_disk *disk)
{
    return &disk->user;
}

/* ---- changes -------------------------------------------------------------------------------- */

/* The test's own idea of a name, not the store's. */
static bool good_name(const char *name)
{
    size_t len = strlen(name);
    if (len < 1 || len > 64 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

static bool good_size(uint64_t size)
{
    return size > 0 && size <= DISK_MAX_BYTES && size % PAGE_BYTES == 0;
}

int model_change_expect(const struct model *model, const struct store_change *c, bool busy)
{
    bool vm = vm_index(model, c->vm) >= 0, disk = disk_index(model, c->vm, c->disk) >= 0;
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        return !good_name(c->vm) ? ERR_BAD_NAME : vm ? -EEXIST : 0;
    case CHANGE_VM_COMMIT:
        return !vm ? -ENOENT : model->vms[vm_index(model, c->vm)]->provisional ? 0 : -EEXIST;
    case CHANGE_VM_RENAME:
        return !vm                                 ? -ENOENT
               : !good_name(c->new_name)           ? ERR_BAD_NAME
               : vm_index(model, c->new_name) >= 0 ? -EEXIST
                                                   : 0;
    case CHANGE_VM_REMOVE:
        return !vm ? -ENOENT : busy ? -EBUSY : 0;
    case CHANGE_DISK_ADD:
        return !vm                         ? -ENOENT
               : !good_name(c->disk)       ? ERR_BAD_NAME
               : disk                      ? -EEXIST
               : !good_size(c->size_bytes) ? ERR_BAD_SIZE
                                           : 0;
    case CHANGE_DISK_REMOVE:
        return !disk ? -ENOENT : busy ? -EBUSY : 0;
    case CHANGE_DISK_RESIZE:
        return !disk ? -ENOENT : good_size(c->size_bytes) ? 0 : ERR_BAD_SIZE;
    case CHANGE_DISK_COMMIT:
        return !disk                                                          ? -ENOENT
               : model->disks[disk_index(model, c->vm, c->disk)]->provisional ? 0
                                                                              : -EEXIST;
    default:
        return -EOPNOTSUPP;
    }
    return -EINVAL;
}

static void add_vm(struct model *model, const struct store_change *c)
{
    struct model_vm *vm = model_must(calloc(1, sizeof(*vm)));
    strcpy(vm->name, c->vm);
    vm->role = c->role;
    vm->provisional = c->provisional;
    model->vms = model_must(realloc(model->vms, (model->n_vms + 1) * sizeof(struct model_vm *)));
    model->vms[model->n_vms++] = vm;
}

static void add_disk(struct model *model, const struct store_change *c)
{
    struct model_disk *disk = model_must(calloc(1, sizeof(*disk)));
    disk->vm = model->vms[vm_index(model, c->vm)];
    strcpy(disk->name, c->disk);
    disk->size = c->size_bytes;
    disk->provisional = c->provisional;
    list_init(&disk->busy);
    model->disks =
        model_must(realloc(model->disks, (model->n_disks + 1) * sizeof(struct model_disk *)));
    model->disks[model->n_disks++] = disk;
}

static void apply(struct model *model, const struct store_change *c)
{
    int vm = vm_index(model, c->vm), disk = disk_index(model, c->vm, c->disk);
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        add_vm(model, c);
        break;
    case CHANGE_VM_COMMIT:
        model->vms[vm]->provisional = false;
        break;
    case CHANGE_VM_RENAME:
        strcpy(model->vms[vm]->name, c->new_name);
        break;
    case CHANGE_VM_REMOVE:
        vm_drop(model, (uint32_t)vm);
        break;
    case CHANGE_DISK_ADD:
        add_disk(model, c);
        break;
    case CHANGE_DISK_REMOVE:
        disk_drop(model, (uint32_t)disk);
        break;
    case CHANGE_DISK_RESIZE:
        pages_free(model, model->disks[disk], c->size_bytes / PAGE_BYTES);
        model->disks[disk]->size = c->size_bytes;
        break;
    case CHANGE_DISK_COMMIT:
        model->disks[disk]->provisional = false;
        break;
    default: /* versions: none yet */
        abort();
    }
}

void model_change_begin(struct model *model, const struct store_change *change)
{
    assert(!model->is_pending);
    model->pending = *change;
    model->pending_sub = ++model->now;
    model->is_pending = true;
    /* What a shrinking drops may be gone before the disk is smaller. */
    struct model_disk *disk = model_find_disk(model, change->vm, change->disk);
    model->pending_op = NULL;
    if (change->kind == CHANGE_DISK_RESIZE && disk && good_size(change->size_bytes) &&
        change->size_bytes < disk->size)
        model->pending_op = model_begin(model, disk, STORE_TRIM, 0, change->size_bytes,
                                        disk->size - change->size_bytes, NULL);
}

void model_change_end(struct model *model, int error)
{
    model->now++;
    model->is_pending = false;
    if (error)
        return;
    if (model->pending_op)
        model_forget(model, model->pending_op);
    apply(model, &model->pending);
    if (model->durable < model->pending_sub)
        model->durable = model->pending_sub;
}

/* ---- comparing ------------------------------------------------------------------------------ */

/* Returns what differs, or NULL. skip_provisional: as after an opening. */
static const char *list_differs(const struct model *model, const struct vm_info *vms, uint32_t n,
                                bool skip_provisional)
{
    static char text[256];
    uint32_t expected = 0;
    for (uint32_t i = 0; i < model->n_vms; i++)
        expected += !(skip_provisional && model->vms[i]->provisional);
    if (n != expected) {
        snprintf(text, sizeof(text), "%u vms are listed, there should be %u", n, expected);
        return text;
    }
    for (uint32_t i = 0; i < n; i++) {
        int at = vm_index(model, vms[i].name);
        const struct model_vm *vm = at < 0 ? NULL : model->vms[at];
        uint32_t n_disks = 0;
        snprintf(text, sizeof(text), "vm %s", vms[i].name);
        if (!vm || vm->role != vms[i].role || vm->provisional != vms[i].provisional)
            return text;
        if (i > 0 && strcmp(vms[i - 1].name, vms[i].name) >= 0)
            return "order of names";
        for (uint32_t d = 0; d < model->n_disks; d++)
            n_disks +=
                model->disks[d]->vm == vm && !(skip_provisional && model->disks[d]->provisional);
        if (n_disks != vms[i].n_disks)
            return text;
        for (uint32_t d = 0; d < vms[i].n_disks; d++) {
            const struct disk_info *info = &vms[i].disks[d];
            int k = disk_index(model, vm->name, info->name);
            snprintf(text, sizeof(text), "disk %s/%s of %llu bytes", vm->name, info->name,
                     (unsigned long long)info->size_bytes);
            if (k < 0 || model->disks[k]->size != info->size_bytes ||
                model->disks[k]->provisional != info->provisional)
                return text;
        }
    }
    return NULL;
}

void model_check_list(struct model *model, const struct vm_info *vms, uint32_t n)
{
    const char *differs = list_differs(model, vms, n, false);
    if (differs && !model->is_pending)
        model_complain(model, "the catalogue differs: %s", differs);
}

void model_judge_begin(struct model *model, enum model_end_kind kind, const struct vm_info *vms,
                       uint32_t n)
{
    model->judgement++;
    model->now++;
    model->judge_low = kind == MODEL_CRASHED ? model->durable : model->now;
    model->n_moving = 0;
    const char *differs = list_differs(model, vms, n, true);
    if (differs && model->is_pending) {
        apply(model, &model->pending);
        if (model->judge_low < model->pending_sub)
            model->judge_low = model->pending_sub;
        differs = list_differs(model, vms, n, true);
    }
    model->is_pending = false;
    if (differs)
        model_complain(model, "after opening the catalogue differs: %s", differs);
    for (uint32_t i = model->n_vms; i-- > 0;)
        if (model->vms[i]->provisional)
            vm_drop(model, i);
    for (uint32_t i = model->n_disks; i-- > 0;)
        if (model->disks[i]->provisional)
            disk_drop(model, i);
}
