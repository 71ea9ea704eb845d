/* model-versions.c - the model's versions: each has its own disks, which refer to the same writes
 * as those that they came from. A version that is gone is gone: nothing else depends on it. */
#include "model-impl.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- finding -------------------------------------------------------------------------------- */

uint32_t model_n_versions(const struct model *model)
{
    return model->n_versions;
}

struct model_version *model_version(const struct model *model, uint32_t i)
{
    return i < model->n_versions ? model->versions[i] : NULL;
}

struct model_version *model_find_version(const struct model *model, const char *vm,
                                         const char *name)
{
    for (uint32_t i = 0; i < model->n_versions; i++)
        if (strcmp(model->versions[i]->name, name) == 0 &&
            strcmp(model->versions[i]->vm->name, vm) == 0)
            return model->versions[i];
    return NULL;
}

struct model_version *version_of(const struct model *model, uint64_t uid)
{
    for (uint32_t i = 0; i < model->n_versions; i++)
        if (model->versions[i]->uid == uid)
            return model->versions[i];
    return NULL;
}

const char *model_version_vm(const struct model_version *version)
{
    return version->vm->name;
}

const char *model_version_name(const struct model_version *version)
{
    return version->name;
}

bool model_version_is_held(const struct model_version *version)
{
    return version->held;
}

bool model_version_is_settled(const struct model_version *version)
{
    return version->settled;
}

struct model_disk *model_version_disk(const struct model_version *version, uint32_t i)
{
    return i < version->n_disks ? version->disks[i] : NULL;
}

const char *model_clone_of(const struct model *model, const char *vm)
{
    int i = vm_index(model, vm);
    const struct model_version *v =
        i >= 0 && model->vms[i]->provisional ? version_of(model, model->vms[i]->cloned_from) : NULL;
    return v ? v->vm->name : NULL;
}

bool versions_held(const struct model *model, const struct model_vm *vm)
{
    for (uint32_t i = 0; i < model->n_versions; i++)
        if (model->versions[i]->vm == vm && model->versions[i]->held)
            return true;
    return false;
}

/* ---- making and removing -------------------------------------------------------------------- */

static void version_drop(struct model *model, uint32_t i)
{
    struct model_version *v = model->versions[i];
    for (uint32_t d = 0; d < v->n_disks; d++)
        model_disk_free(model, v->disks[d]);
    free(v->disks);
    free(v->note);
    free(v);
    model->n_versions--;
    memmove(model->versions + i, model->versions + i + 1,
            (model->n_versions - i) * sizeof(*model->versions));
}

void versions_drop(struct model *model, const struct model_vm *vm)
{
    for (uint32_t i = model->n_versions; i-- > 0;)
        if (model->versions[i]->vm == vm)
            version_drop(model, i);
}

/* The head of a vm becomes a version, as it was at some moment since the change was begun. */
static struct model_version *version_make(struct model *model, struct model_vm *vm,
                                          const char *name)
{
    struct model_version *v = model_must(calloc(1, sizeof(*v)));
    strcpy(v->name, name);
    v->vm = vm;
    v->uid = ++model->uids;
    v->sub = model->pending_read.begun;
    v->ack = model->now;
    v->settled = true;
    for (uint32_t d = 0; d < model->n_disks; d++) {
        if (model->disks[d]->vm != vm || model->disks[d]->provisional) /* half made */
            continue;
        struct model_disk *disk = disk_copy(model, model->disks[d], v->sub);
        disk->version = v;
        v->disks = model_must(realloc(v->disks, (v->n_disks + 1) * sizeof(struct model_disk *)));
        v->disks[v->n_disks++] = disk;
        for (size_t k = 0; k < disk->n_pages; k++)
            v->settled &= disk->pages[k]->n == 1;
    }
    model->parents = model_must(realloc(model->parents, (v->uid + 1) * sizeof(uint64_t)));
    model->parents[v->uid] = vm->parent;
    vm->parent = v->uid;
    model->versions = model_must(
        realloc(model->versions, (model->n_versions + 1) * sizeof(struct model_version *)));
    model->versions[model->n_versions++] = v;
    return v;
}

/* The head becomes what the version is. */
static void head_from(struct model *model, struct model_vm *vm, const struct model_version *v)
{
    assert(v->settled);
    heads_drop(model, vm);
    for (uint32_t i = 0; i < v->n_disks; i++) {
        struct model_disk *disk = disk_copy(model, v->disks[i], 0);
        disk->vm = vm;
        disk->version = NULL;
        disks_add(model, disk);
    }
    vm->parent = v->uid;
}

static struct model_vm *vm_add(struct model *model, const char *name)
{
    struct model_vm *vm = model_must(calloc(1, sizeof(*vm)));
    strcpy(vm->name, name);
    model->vms = model_must(realloc(model->vms, (model->n_vms + 1) * sizeof(struct model_vm *)));
    model->vms[model->n_vms++] = vm;
    return vm;
}

static void apply_snap(struct model *model, struct model_vm *vm, const struct store_change *c)
{
    struct model_version *v = version_make(model, vm, c->version);
    v->consistency = c->consistency;
    memcpy(v->guid, c->guid, GUID_BYTES);
    v->created_us = c->created_us;
    v->received = c->created_us != 0;
    v->note = model_must(strdup(c->note ? c->note : ""));
}

static void apply_adopt(struct model *model, struct model_vm *clone, struct model_vm *vm)
{
    heads_drop(model, vm);
    for (uint32_t d = 0; d < model->n_disks; d++)
        if (model->disks[d]->vm == clone)
            model->disks[d]->vm = vm;
    for (uint32_t i = 0; i < model->n_versions; i++) {
        struct model_version *v = model->versions[i];
        if (v->vm != clone)
            continue;
        v->vm = vm;
        for (uint32_t d = 0; d < v->n_disks; d++)
            v->disks[d]->vm = vm;
    }
    vm->parent = clone->parent;
    int at = vm_index(model, clone->name);
    free(clone);
    model->vms[at] = model->vms[--model->n_vms];
}

static void apply_remove(struct model *model, const struct store_change *c)
{
    for (uint32_t k = 0; k < c->n_versions; k++)
        for (uint32_t i = model->n_versions; i-- > 0;)
            if (model->versions[i] == model_find_version(model, c->vm, c->versions[k])) {
                version_drop(model, i);
                break;
            }
}

void version_change_apply(struct model *model, const struct store_change *c)
{
    struct model_vm *vm = model->vms[vm_index(model, c->vm)], *clone;
    struct model_version *v = model_find_version(model, c->vm, c->version);
    switch (c->kind) {
    case CHANGE_SNAP:
        apply_snap(model, vm, c);
        break;
    case CHANGE_VERSION_REMOVE:
        apply_remove(model, c);
        break;
    case CHANGE_VERSION_HOLD:
        v->held = c->hold;
        break;
    case CHANGE_VERSION_RENAME:
        strcpy(v->name, c->new_name);
        break;
    case CHANGE_ROLLBACK:
        if (c->new_name[0])
            version_make(model, vm, c->new_name);
        head_from(model, vm, v);
        break;
    case CHANGE_CLONE:
        clone = vm_add(model, c->new_name);
        clone->role = vm->role;
        clone->provisional = c->provisional;
        clone->cloned_from = v->uid;
        head_from(model, clone, v);
        break;
    case CHANGE_ADOPT:
        apply_adopt(model, vm, model->vms[vm_index(model, c->new_name)]);
        break;
    default:
        abort();
    }
}

/* ---- what a change must give ---------------------------------------------------------------- */

/* Every page of both, and the same one: 2; the same bytes: 1; others: 0. */
static int same_pages(const struct model *model, const struct model_disk *a,
                      const struct model_disk *b)
{
    int same = 2;
    for (size_t k = 0; k < a->n_pages + b->n_pages && same; k++) {
        uint64_t index = k < a->n_pages ? a->pages[k]->index : b->pages[k - a->n_pages]->index;
        const struct page *p = page_find(a, index), *q = page_find(b, index);
        const struct page_write *w = p ? p->writes[p->n - 1] : model->hole,
                                *x = q ? q->writes[q->n - 1] : model->hole;
        uint8_t bytes[PAGE_BYTES];
        content_copy(x->content, bytes);
        if (!content_equal(w->content, 0, PAGE_BYTES, bytes))
            same = 0;
        else if (w != x || w->vague)
            same = 1;
    }
    return same;
}

/* Is the head of a vm still what the version is? As above. Versions that stand between them do not
 * matter: a page has the same write in both only if all between have it. A table that has grown and
 * shrunk again may have another root. */
static int same_head(const struct model *model, const struct model_vm *vm,
                     const struct model_version *v)
{
    int same = 2;
    uint32_t n = 0;
    for (uint32_t d = 0; d < model->n_disks; d++)
        if (model->disks[d]->vm == vm && model->disks[d]->provisional)
            same = 1;
        else
            n += model->disks[d]->vm == vm;
    if (n != v->n_disks)
        return 0;
    for (uint32_t i = 0; i < v->n_disks; i++) {
        const struct model_disk *disk = model_find_disk(model, vm->name, v->disks[i]->name);
        if (!disk || disk->size != v->disks[i]->size || disk->provisional)
            return 0;
        int pages = same_pages(model, disk, v->disks[i]);
        if ((disk->family != v->disks[i]->family || (disk->resized && vm->parent != v->uid)) &&
            pages)
            pages = 1;
        same = pages < same ? pages : same;
    }
    return same;
}

static int expect_adopt(const struct model *model, const struct store_change *c, bool busy,
                        int *ret_or)
{
    const struct model_vm *clone = model->vms[vm_index(model, c->vm)];
    int i = vm_index(model, c->new_name);
    if (i < 0)
        return -ENOENT;
    const struct model_version *from = version_of(model, clone->cloned_from);
    if (!clone->provisional || !from || from->vm != model->vms[i])
        return MODEL_ANY_ERROR;
    bool clash = false;
    for (uint32_t k = 0; k < model->n_versions; k++)
        clash |= model->versions[k]->vm == clone &&
                 model_find_version(model, c->new_name, model->versions[k]->name);
    int same = c->hold ? 2 : same_head(model, model->vms[i], from);
    if (clash + busy + (same < 2) > 1 && (clash || busy))
        return MODEL_ANY_ERROR;
    if (clash || busy)
        return clash ? -EEXIST : -EBUSY;
    *ret_or = same == 2 ? 0 : -ESTALE;
    return same == 0 ? -ESTALE : 0;
}

static int expect_remove(const struct model *model, const struct store_change *c, bool busy,
                         int *ret_or)
{
    bool held = false, missing = false, twice = false;
    for (uint32_t k = 0; k < c->n_versions; k++) {
        const struct model_version *v = model_find_version(model, c->vm, c->versions[k]);
        missing |= !v;
        held |= v && v->held;
        for (uint32_t i = 0; i < k; i++)
            twice |= strcmp(c->versions[i], c->versions[k]) == 0;
    }
    if (twice || missing)
        return held || busy || (twice && missing) ? MODEL_ANY_ERROR
               : twice                            ? -EINVAL
                                                  : ERR_NO_VERSION;
    *ret_or = busy ? -EBUSY : held ? ERR_HELD : 0;
    return held ? ERR_HELD : busy ? -EBUSY : 0;
}

int version_change_expect(const struct model *model, const struct store_change *c, bool busy,
                          int *ret_or)
{
    const struct model_version *v = model_find_version(model, c->vm, c->version);
    *ret_or = MODEL_ANY_ERROR;
    if (vm_index(model, c->vm) < 0)
        return -ENOENT;
    switch (c->kind) {
    case CHANGE_SNAP:
        return !good_name(c->version) ? ERR_BAD_NAME : v ? -EEXIST : 0;
    case CHANGE_VERSION_REMOVE:
        return expect_remove(model, c, busy, ret_or);
    case CHANGE_ADOPT:
        return expect_adopt(model, c, busy, ret_or);
    default:
        break;
    }
    if (!v)
        return ERR_NO_VERSION;
    switch (c->kind) {
    case CHANGE_VERSION_HOLD:
        return v->held == c->hold ? -EALREADY : 0;
    case CHANGE_VERSION_RENAME:
        return !good_name(c->new_name)                         ? ERR_BAD_NAME
               : model_find_version(model, c->vm, c->new_name) ? -EEXIST
                                                               : 0;
    case CHANGE_ROLLBACK:
        if (c->new_name[0] && !good_name(c->new_name))
            return ERR_BAD_NAME;
        if (c->new_name[0] && model_find_version(model, c->vm, c->new_name))
            return -EEXIST;
        return busy ? -EBUSY : 0;
    case CHANGE_CLONE:
        return !good_name(c->new_name)             ? ERR_BAD_NAME
               : vm_index(model, c->new_name) >= 0 ? -EEXIST
                                                   : 0;
    default:
        abort();
    }
}

/* ---- sharing -------------------------------------------------------------------------------- */

bool model_page_is_same(const struct model_disk *a, const struct model_disk *b, uint64_t index)
{
    const struct page *p = page_find(a, index), *q = page_find(b, index);
    if (!p || !q)
        return false;
    const struct page_write *v = p->writes[p->n - 1], *w = q->writes[q->n - 1];
    return v == w || ((v->vague || w->vague) && !v->content == !w->content);
}

bool model_page_is_shared(const struct model *model, const struct model_disk *disk, uint64_t index)
{
    for (uint32_t d = 0; d < model->n_disks; d++)
        if (model->disks[d] != disk && model_page_is_same(model->disks[d], disk, index))
            return true;
    for (uint32_t i = 0; i < model->n_versions; i++)
        for (uint32_t d = 0; d < model->versions[i]->n_disks; d++)
            if (model->versions[i]->disks[d] != disk &&
                model_page_is_same(model->versions[i]->disks[d], disk, index))
                return true;
    return false;
}

/* ---- measuring ------------------------------------------------------------------------------ */

static bool is_named(const struct model_version *v, const char *vm, const char *const *names,
                     uint32_t n)
{
    if (vm && !names)
        return strcmp(v->vm->name, vm) == 0;
    for (uint32_t i = 0; vm && i < n; i++)
        if (strcmp(v->vm->name, vm) == 0 && strcmp(v->name, names[i]) == 0)
            return true;
    return false;
}

/* Does a head go? */
static bool is_head_named(const struct model_disk *disk, const char *vm, const char *const *names)
{
    return vm && !names && strcmp(disk->vm->name, vm) == 0;
}

/* Mark what a disk shows at some moment since then. */
static void mark_disk(struct model *model, const struct model_disk *disk, uint64_t since)
{
    for (size_t k = 0; k < disk->n_pages; k++) {
        struct page *p = disk->pages[k];
        for (uint32_t i = oldest_since(p, since); i < p->n; i++)
            p->writes[i]->mark = model->marks;
    }
}

static void mark_others(struct model *model, const char *vm, const char *const *names, uint32_t n,
                        uint64_t since)
{
    model->marks++;
    for (uint32_t d = 0; d < model->n_disks; d++)
        if (!is_head_named(model->disks[d], vm, names))
            mark_disk(model, model->disks[d], since);
    for (uint32_t i = 0; i < model->n_versions; i++)
        for (uint32_t d = 0; d < model->versions[i]->n_disks; d++)
            if (!is_named(model->versions[i], vm, names, n))
                mark_disk(model, model->versions[i]->disks[d], since);
}

/* How many pages a disk shows that have no mark yet; they have it then. surely: only those that
 * surely are pages of their own. */
static uint64_t count_unmarked(struct model *model, const struct model_disk *disk, bool surely)
{
    uint64_t n = 0;
    for (size_t k = 0; k < disk->n_pages; k++) {
        struct page_write *w = disk->pages[k]->writes[disk->pages[k]->n - 1];
        bool marked = w->mark == model->marks;
        w->mark = model->marks;
        if (surely)
            n += w->kind == PAGE_DATA && !w->vague && !marked;
        else
            n += (w->kind == PAGE_DATA || w->kind == PAGE_EITHER) && (!marked || w->vague);
    }
    return n;
}

static uint64_t count_named(struct model *model, const char *vm, const char *const *names,
                            uint32_t n, bool surely)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i < model->n_versions; i++)
        for (uint32_t d = 0; d < model->versions[i]->n_disks; d++)
            if (is_named(model->versions[i], vm, names, n))
                pages += count_unmarked(model, model->versions[i]->disks[d], surely);
    for (uint32_t d = 0; d < model->n_disks; d++)
        if (is_head_named(model->disks[d], vm, names))
            pages += count_unmarked(model, model->disks[d], surely);
    return pages;
}

struct model_range model_measure(struct model *model, const char *vm, const char *const *versions,
                                 uint32_t n, uint64_t since)
{
    struct model_range range;
    mark_others(model, vm, versions, n, since);
    range.low = count_named(model, vm, versions, n, true);
    /* Requests in flight may be done: only the newest writes are surely in use. */
    mark_others(model, vm, versions, n, UINT64_MAX);
    range.high = count_named(model, vm, versions, n, false);
    return range;
}

struct model_range model_live(struct model *model)
{
    struct model_range range = {0};
    for (int surely = 0; surely < 2; surely++) {
        uint64_t pages = 0;
        model->marks++;
        for (uint32_t d = 0; d < model->n_disks; d++)
            pages += count_unmarked(model, model->disks[d], surely);
        for (uint32_t i = 0; i < model->n_versions; i++)
            for (uint32_t d = 0; d < model->versions[i]->n_disks; d++)
                pages += count_unmarked(model, model->versions[i]->disks[d], surely);
        *(surely ? &range.low : &range.high) = pages;
    }
    return range;
}

/* ---- comparing ------------------------------------------------------------------------------ */

static const struct model_version *origin(const struct model *model, uint64_t uid,
                                          bool skip_provisional)
{
    const struct model_version *v = uid ? version_of(model, uid) : NULL;
    return v && skip_provisional && v->vm->provisional ? NULL : v;
}

bool origin_fits(const struct model *model, uint64_t parent, const char *vm, const char *name,
                 bool skip_provisional)
{
    const struct model_version *v = origin(model, parent, skip_provisional);
    if (parent && !v && !name[0])
        return vm[0] == 0;
    while (parent && !v) { /* removed: the next one that is there may stand for it */
        parent = model->parents[parent];
        v = origin(model, parent, skip_provisional);
    }
    return strcmp(v ? v->name : "", name) == 0 && strcmp(v ? v->vm->name : "", vm) == 0;
}

static struct model_range used_bytes(const struct model_version *v)
{
    struct model_range range = {0};
    for (uint32_t d = 0; d < v->n_disks; d++)
        for (size_t k = 0; k < v->disks[d]->n_pages; k++) {
            enum page_kind kind = v->disks[d]->pages[k]->writes[0]->kind;
            range.low += kind == PAGE_DATA || kind == PAGE_ZERO ? PAGE_BYTES : 0;
            range.high += kind != PAGE_HOLE ? PAGE_BYTES : 0;
        }
    return range;
}

static bool disks_differ(const struct model_version *v, const struct version_info *info)
{
    if (v->n_disks != info->n_disks)
        return true;
    for (uint32_t d = 0; d < v->n_disks; d++) {
        bool found = false;
        for (uint32_t i = 0; i < info->n_disks; i++)
            found |= strcmp(info->disks[i].name, v->disks[d]->name) == 0 &&
                     info->disks[i].size_bytes == v->disks[d]->size;
        if (!found)
            return true;
    }
    return false;
}

/* What of it differs, or NULL. */
static const char *info_differs(const struct model *model, const struct model_version *v,
                                const struct version_info *info, bool skip_provisional)
{
    static const uint8_t no_guid[GUID_BYTES];
    struct model_range used = used_bytes(v);
    if (v->held != info->held)
        return "held";
    if (v->note && (v->consistency != info->consistency || strcmp(v->note, info->note) != 0))
        return "note or consistency";
    if (disks_differ(v, info))
        return "disks";
    if (!origin_fits(model, model->parents[v->uid], info->origin_vm, info->origin,
                     skip_provisional))
        return "origin";
    if (v->settled && (info->used_bytes < used.low || info->used_bytes > used.high))
        return "used bytes";
    if (v->received != info->received)
        return "received";
    if ((v->id && v->id != info->id) || (v->created_us && v->created_us != info->created_us))
        return "id or time";
    if (memcmp(info->guid, no_guid, GUID_BYTES) == 0 ||
        (memcmp(v->guid, no_guid, GUID_BYTES) && memcmp(v->guid, info->guid, GUID_BYTES)))
        return "guid";
    return NULL;
}

/* By vm and then by age. */
static bool in_order(const struct version_info *a, const struct version_info *b)
{
    int names = strcmp(a->vm, b->vm);
    return names < 0 || (names == 0 && a->id < b->id);
}

const char *versions_differ(struct model *model, const struct version_info *infos, uint32_t n,
                            bool skip_provisional)
{
    static char text[400];
    uint32_t expected = 0, last_id = 0;
    for (uint32_t i = 0; i < model->n_versions; i++)
        expected += !(skip_provisional && model->versions[i]->vm->provisional);
    if (n != expected) {
        snprintf(text, sizeof(text), "%u versions are listed, there should be %u", n, expected);
        return text;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct model_version *v = model_find_version(model, infos[i].vm, infos[i].name);
        const char *what = !v                                             ? "there is no such"
                           : i > 0 && !in_order(infos + i - 1, infos + i) ? "order"
                                                                          : NULL;
        what = what ? what : info_differs(model, v, &infos[i], skip_provisional);
        snprintf(text, sizeof(text), "version %s@%s: %s (origin %s@%s, used %llu)", infos[i].vm,
                 infos[i].name, what ? what : "", infos[i].origin_vm, infos[i].origin,
                 (unsigned long long)infos[i].used_bytes);
        if (what)
            return text;
    }
    for (uint32_t k = 0; k < model->n_versions; k++)
        for (uint32_t i = 0; i < n; i++)
            if (model_find_version(model, infos[i].vm, infos[i].name) == model->versions[k]) {
                if (infos[i].id <= last_id)
                    return "ids that do not rise with time";
                last_id = infos[i].id;
            }
    return NULL;
}

void versions_learn(struct model *model, const struct version_info *infos, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct model_version *v = model_find_version(model, infos[i].vm, infos[i].name);
        if (!v)
            continue;
        v->id = infos[i].id;
        v->created_us = infos[i].created_us;
        memcpy(v->guid, infos[i].guid, GUID_BYTES);
        if (!v->note) {
            v->note = model_must(strdup(infos[i].note));
            v->consistency = infos[i].consistency;
        }
    }
}
