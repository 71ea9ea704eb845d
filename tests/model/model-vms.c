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
    model->hole = write_new(NULL, PAGE_HOLE);
    return model;
}

/* ---- disks ---------------------------------------------------------------------------------- */

struct model_disk *model_disk_new(struct model_vm *vm, const char *name, uint64_t size,
                                  uint64_t family)
{
    struct model_disk *disk = model_must(calloc(1, sizeof(*disk)));
    disk->vm = vm;
    strcpy(disk->name, name);
    disk->size = size;
    disk->family = family;
    list_init(&disk->busy);
    return disk;
}

void model_disk_free(struct model *model, struct model_disk *disk)
{
    while (!list_empty(&disk->busy)) {
        struct model_op *op = container_of(disk->busy.next, struct model_op, busy);
        model_forget(model, op);
    }
    pages_free(model, disk, 0);
    free(disk->buckets);
    free(disk->pages);
    free(disk);
}

struct model_disk *disk_copy(struct model *model, const struct model_disk *disk, uint64_t since)
{
    struct model_disk *copy = model_disk_new(disk->vm, disk->name, disk->size, disk->family);
    copy->user = disk->user;
    copy->resized = disk->resized;
    for (size_t k = 0; k < disk->n_pages; k++) {
        const struct page *p = disk->pages[k];
        struct page *q = page_get(model, copy, p->index);
        for (uint32_t i = disk->version ? 0 : oldest_since(p, since); i < p->n; i++)
            page_push(q, write_get(p->writes[i]));
        page_drop_oldest(model, q);
    }
    return copy;
}

void disks_add(struct model *model, struct model_disk *disk)
{
    model->disks =
        model_must(realloc(model->disks, (model->n_disks + 1) * sizeof(struct model_disk *)));
    model->disks[model->n_disks++] = disk;
}

static void disk_drop(struct model *model, uint32_t i)
{
    model_disk_free(model, model->disks[i]);
    model->disks[i] = model->disks[--model->n_disks];
}

void heads_drop(struct model *model, const struct model_vm *vm)
{
    for (uint32_t d = model->n_disks; d-- > 0;)
        if (model->disks[d]->vm == vm)
            disk_drop(model, d);
}

static void vm_drop(struct model *model, uint32_t i)
{
    heads_drop(model, model->vms[i]);
    versions_drop(model, model->vms[i]);
    free(model->vms[i]);
    model->vms[i] = model->vms[--model->n_vms];
}

void model_free(struct model *model)
{
    if (!model)
        return;
    while (model->n_vms)
        vm_drop(model, model->n_vms - 1);
    write_put(model, model->hole);
    free(model->vms);
    free(model->disks);
    free(model->versions);
    free(model->parents);
    free(model->moving);
    free(model);
}

int vm_index(const struct model *model, const char *name)
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

struct model_version *model_disk_version(const struct model_disk *disk)
{
    return disk->version;
}

bool model_disks_related(const struct model_disk *a, const struct model_disk *b)
{
    return a->family == b->family;
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
bool good_name(const char *name)
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

static int change_expect(const struct model *model, const struct store_change *c, bool busy,
                         int *ret_or)
{
    bool vm = vm_index(model, c->vm) >= 0, disk = disk_index(model, c->vm, c->disk) >= 0;
    bool held;
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
        if (!vm)
            return -ENOENT;
        held = versions_held(model, model->vms[vm_index(model, c->vm)]) &&
               !model->vms[vm_index(model, c->vm)]->provisional;
        *ret_or = busy ? -EBUSY : held ? ERR_HELD : 0;
        return held ? ERR_HELD : busy ? -EBUSY : 0;
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
        return version_change_expect(model, c, busy, ret_or);
    }
    return -EINVAL;
}

int model_change_expect(const struct model *model, const struct store_change *change, bool busy,
                        int *ret_or)
{
    *ret_or = MODEL_ANY_ERROR;
    int expected = change_expect(model, change, busy, ret_or);
    if (*ret_or == MODEL_ANY_ERROR)
        *ret_or = expected;
    return expected;
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
        disks_add(model, model_disk_new(model->vms[vm], c->disk, c->size_bytes, ++model->families));
        model->disks[model->n_disks - 1]->provisional = c->provisional;
        break;
    case CHANGE_DISK_REMOVE:
        disk_drop(model, (uint32_t)disk);
        break;
    case CHANGE_DISK_RESIZE:
        pages_free(model, model->disks[disk], c->size_bytes / PAGE_BYTES);
        model->disks[disk]->size = c->size_bytes;
        model->disks[disk]->resized = true;
        break;
    case CHANGE_DISK_COMMIT:
        model->disks[disk]->provisional = false;
        break;
    default:
        version_change_apply(model, c);
        break;
    }
}

void model_change_begin(struct model *model, const struct store_change *change, bool refused)
{
    model->pending_refused = refused;
    assert(!model->is_pending);
    model->pending = *change;
    model_read_begin(model, &model->pending_read); /* keeps what a version may show */
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
    list_del(&model->pending_read.link);
    if (error)
        return;
    if (model->pending_op)
        model_forget(model, model->pending_op);
    apply(model, &model->pending);
    if (model->durable < model->pending_read.begun)
        model->durable = model->pending_read.begun;
}

/* ---- comparing ------------------------------------------------------------------------------ */

static bool disk_differs(const struct model_disk *disk, const struct disk_info *info, bool idle)
{
    uint64_t low = 0, high = 0;
    if (disk->size != info->size_bytes || disk->provisional != info->provisional)
        return true;
    for (size_t k = 0; idle && k < disk->n_pages; k++) {
        enum page_kind kind = disk->pages[k]->writes[disk->pages[k]->n - 1]->kind;
        low += kind == PAGE_DATA || kind == PAGE_ZERO ? PAGE_BYTES : 0;
        high += kind != PAGE_HOLE ? PAGE_BYTES : 0;
    }
    return idle && (info->used_bytes < low || info->used_bytes > high);
}

static bool vm_differs(const struct model *model, const struct model_vm *vm,
                       const struct vm_info *info, bool skip_provisional)
{
    uint32_t n_disks = 0, n_versions = 0;
    for (uint32_t d = 0; d < model->n_disks; d++)
        n_disks += model->disks[d]->vm == vm && !(skip_provisional && model->disks[d]->provisional);
    for (uint32_t i = 0; i < model->n_versions; i++)
        n_versions += model->versions[i]->vm == vm;
    return vm->role != info->role || vm->provisional != info->provisional ||
           n_disks != info->n_disks || n_versions != info->n_versions ||
           !origin_fits(model, vm->parent, info->origin_vm, info->origin, skip_provisional);
}

/* Returns what differs, or NULL. skip_provisional: as after an opening. */
static const char *list_differs(struct model *model, const struct model_list *list,
                                bool skip_provisional, bool idle)
{
    static char text[400];
    uint32_t expected = 0;
    const struct vm_info *vms = list->vms;
    for (uint32_t i = 0; i < model->n_vms; i++)
        expected += !(skip_provisional && model->vms[i]->provisional);
    if (list->n_vms != expected) {
        snprintf(text, sizeof(text), "%u vms are listed, there should be %u", list->n_vms,
                 expected);
        return text;
    }
    for (uint32_t i = 0; i < list->n_vms; i++) {
        int at = vm_index(model, vms[i].name);
        snprintf(text, sizeof(text), "vm %s of role %d with %u disks, %u versions, origin %s@%s",
                 vms[i].name, vms[i].role, vms[i].n_disks, vms[i].n_versions, vms[i].origin_vm,
                 vms[i].origin);
        if (at < 0 || vm_differs(model, model->vms[at], &vms[i], skip_provisional))
            return text;
        if (i > 0 && strcmp(vms[i - 1].name, vms[i].name) >= 0)
            return "order of names";
        for (uint32_t d = 0; d < vms[i].n_disks; d++) {
            const struct disk_info *info = &vms[i].disks[d];
            int k = disk_index(model, vms[i].name, info->name);
            snprintf(text, sizeof(text), "disk %s/%s of %llu bytes, %llu used", vms[i].name,
                     info->name, (unsigned long long)info->size_bytes,
                     (unsigned long long)info->used_bytes);
            if (k < 0 || disk_differs(model->disks[k], info, idle))
                return text;
        }
    }
    return versions_differ(model, list->versions, list->n_versions, skip_provisional);
}

static void check_exclusive(struct model *model, const struct version_info *info)
{
    const char *name = info->name;
    if (info->exclusive_bytes == BYTES_UNKNOWN ||
        !model_find_version(model, info->vm, info->name)->settled)
        return;
    struct model_range range = model_measure(model, info->vm, &name, 1, UINT64_MAX);
    if (info->exclusive_bytes < range.low * PAGE_BYTES ||
        info->exclusive_bytes > range.high * PAGE_BYTES)
        model_complain(model, "%s@%s holds %llu bytes alone, it should be %llu to %llu pages",
                       info->vm, info->name, (unsigned long long)info->exclusive_bytes,
                       (unsigned long long)range.low, (unsigned long long)range.high);
}

void model_check_list(struct model *model, const struct model_list *list, bool idle)
{
    if (model->is_pending)
        return;
    const char *differs = list_differs(model, list, false, idle);
    if (differs)
        model_complain(model, "the catalogue differs: %s", differs);
    else
        versions_learn(model, list->versions, list->n_versions);
    for (uint32_t i = 0; idle && !differs && i < list->n_versions; i++)
        check_exclusive(model, &list->versions[i]);
}

/* ---- after an opening ----------------------------------------------------------------------- */

static void pending_happened(struct model *model)
{
    apply(model, &model->pending);
    if (model->heads_low < model->pending_read.begun)
        model->heads_low = model->pending_read.begun;
}

/* The vm whose head the pending change replaces, without a trace in the names; NULL: no such. */
static struct model_vm *replaced_vm(const struct model *model)
{
    const struct store_change *c = &model->pending;
    bool adopt = c->kind == CHANGE_ADOPT;
    int i = adopt ? vm_index(model, c->new_name) : vm_index(model, c->vm);
    if (!model->is_pending || model->pending_refused ||
        (!adopt && (c->kind != CHANGE_ROLLBACK || c->new_name[0])))
        return NULL;
    for (uint32_t k = 0; adopt && k < model->n_versions; k++)
        if (strcmp(model->versions[k]->vm->name, c->vm) == 0)
            return NULL;
    return i < 0 || model->vms[i]->provisional ? NULL : model->vms[i]; /* those are gone */
}

const struct model_disk *replacing_disk(const struct model *model, const char *name)
{
    const struct store_change *c = &model->pending;
    const struct model_version *v = model_find_version(model, c->vm, c->version);
    if (c->kind == CHANGE_ADOPT)
        return model_find_disk(model, c->vm, name);
    for (uint32_t i = 0; i < v->n_disks; i++)
        if (strcmp(v->disks[i]->name, name) == 0)
            return v->disks[i];
    return NULL;
}

/* The catalogue looks the same whether it was replaced or not. */
static bool is_doubtful(struct model *model, const struct model_list *list)
{
    struct model_vm *vm = replaced_vm(model);
    const struct store_change *c = &model->pending;
    if (!vm)
        return false;
    uint64_t parent = vm->parent;
    uint32_t n =
        c->kind == CHANGE_ROLLBACK ? model_find_version(model, c->vm, c->version)->n_disks : 0;
    for (uint32_t d = 0; d < model->n_disks; d++) {
        const struct model_disk *disk = model->disks[d];
        n += c->kind == CHANGE_ADOPT && strcmp(disk->vm->name, c->vm) == 0 && !disk->provisional;
        if (disk->vm != vm || disk->provisional)
            continue;
        const struct model_disk *other = replacing_disk(model, disk->name);
        if (!other || other->size != disk->size)
            return false;
        n--;
    }
    vm->parent = c->kind == CHANGE_ROLLBACK ? model_find_version(model, c->vm, c->version)->uid
                                            : model->vms[vm_index(model, c->vm)]->parent;
    bool doubtful = n == 0 && !list_differs(model, list, true, false);
    vm->parent = parent;
    return doubtful;
}

static void disks_drop_provisional(struct model *model)
{
    for (uint32_t i = model->n_disks; i-- > 0;)
        if (model->disks[i]->provisional)
            disk_drop(model, i);
}

static void judge_catalogue_end(struct model *model, const struct model_list *list)
{
    const char *differs = list_differs(model, list, true, false);
    if (model->is_pending)
        list_del(&model->pending_read.link);
    model->is_pending = false;
    if (differs)
        model_complain(model, "after opening the catalogue differs: %s", differs);
    else
        versions_learn(model, list->versions, list->n_versions);
    for (uint32_t i = model->n_vms; i-- > 0;)
        if (model->vms[i]->provisional)
            vm_drop(model, i);
    disks_drop_provisional(model);
}

void model_judge_begin(struct model *model, enum model_end_kind kind, const struct model_list *list)
{
    model->epoch++;
    model->now++;
    model->judge_kind = kind;
    model->heads_low = kind == MODEL_CRASHED ? model->durable : model->now;
    model->judge_version = NULL;
    const char *differs = list_differs(model, list, true, false);
    if (differs && model->is_pending && !model->pending_refused)
        pending_happened(model);
    else if (is_doubtful(model, list)) {
        model->doubt = model->doubt_old = model->doubt_new = true;
        disks_drop_provisional(model);
        model->judge_low = model->heads_low;
        model->judge_high = model->now;
        return;
    }
    judge_catalogue_end(model, list);
}

const char *model_judge_doubt(const struct model *model)
{
    return model->doubt ? replaced_vm(model)->name : NULL;
}

/* Both may be: then what is there is the same, but not which writes it is. */
static void blur_head(struct model *model, const struct model_vm *vm)
{
    for (uint32_t d = 0; d < model->n_disks; d++) {
        struct model_disk *disk = model->disks[d];
        for (size_t k = 0; k < disk->n_pages && disk->vm == vm; k++) {
            struct page *p = disk->pages[k];
            struct page_write *w = p->writes[p->n - 1];
            w->vague = true;
            if (!w->content)
                page_push(p, write_new(NULL, PAGE_EITHER));
            page_keep(model, p, p->n - 1);
        }
    }
}

void model_judge_doubt_abort(struct model *model)
{
    model->doubt = false;
}

void model_judge_doubt_end(struct model *model, const struct model_list *list)
{
    model->doubt = false;
    if (model->doubt_new && !model->doubt_old)
        pending_happened(model);
    if (model->doubt_new && model->doubt_old) {
        struct model_vm *vm = replaced_vm(model);
        apply(model, &model->pending);
        blur_head(model, vm);
    }
    judge_catalogue_end(model, list);
}
