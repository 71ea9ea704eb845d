/* measure.c - what removing some versions together, or a vm with its head, would free.
 *
 * A page is freed when all that refer to it are removed. Those that refer to a page are connected
 * in the forest (version.c): so it is counted at the topmost of them, as one that the version
 * before that has not, and it is freed if none of the versions and heads below has it that stay.
 * The head comes last; it may change meanwhile, and be removed.
 *
 * What was removed before and is a ghost still goes with them. Where there are ghosts above, all
 * that is connected by such as go is looked at, and what was counted already. */
#include "base/err.h"
#include "image/store-internal.h"
#include "image/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_A_TURN 64u

struct measuring {
    struct store *store;
    struct store_measure *measure;
    struct version **versions; /* that are to go, marked; none is freed meanwhile (splice.c) */
    uint32_t n_versions;
    uint32_t next;   /* of them; then the head, if it goes too */
    uint32_t family; /* of the disk that is walked; 0: the next one's first */
    bool walking;
    struct trees others; /* those that stay below, then the one before */
    struct walk walk;
};

/* What was removed already counts as going. */
static bool goes(const struct descent *descent)
{
    const struct version *version = container_of(descent, struct version, descent);
    if (descent->is_head)
        return container_of(descent, struct vm, descent)->marked;
    return !version->vm || version->marked;
}

/* NULL: none, or it is gone. */
static struct vm *marked_vm(const struct measuring *m)
{
    list_for_each (l, &m->store->vms) {
        struct vm *vm = container_of(l, struct vm, link);
        if (vm->marked)
            return vm;
    }
    return NULL;
}

/* Whose turn it is; NULL: nobody is left. */
static struct descent *next_descent(const struct measuring *m)
{
    if (m->next < m->n_versions)
        return &m->versions[m->next]->descent;
    struct vm *vm = m->next == m->n_versions ? marked_vm(m) : NULL;
    return vm ? &vm->descent : NULL;
}

static void count_pages(struct walk *walk, struct node *leaf, struct node **others)
{
    struct measuring *m = container_of(walk, struct measuring, walk);
    for (uint32_t i = node_next(leaf, 0); i < NODE_ENTRIES; i = node_next(leaf, i + 1)) {
        struct entry e = node_get(leaf, i);
        bool stays = entry_encoding(&e) != ENCODING_RAW;
        for (uint32_t k = 0; k < walk->n_compared && !stays; k++) {
            struct entry f = others[k] ? node_get(others[k], i) : (struct entry){0};
            stays = entry_encoding(&f) == ENCODING_RAW && f.address == e.address;
        }
        m->measure->bytes += stays ? 0 : PAGE_BYTES;
    }
}

static void woken(struct waiter *waiter, int error)
{
    struct walk *walk = container_of(waiter, struct walk, waiter);
    walk->waits = false;
    walk->failed = error;
}

static struct disk *disk_after(struct descent *descent, uint32_t family)
{
    bool found = family == 0;
    list_for_each (l, descent_disks(descent)) {
        struct disk *disk = container_of(l, struct disk, link);
        if (found)
            return disk;
        found = disk->tree.family == family;
    }
    return NULL;
}

static int add_relative(struct measuring *m, struct version *version, const struct tree *tree)
{
    struct disk *disk = version ? version_relative(version, tree) : NULL;
    return disk ? trees_add(&m->others, &disk->tree) : 0;
}

/* Whatever may have a page of the version or head so that it is not to be counted here. */
static int gather(struct measuring *m, struct descent *descent, const struct tree *tree)
{
    struct version *self = descent->is_head ? NULL : container_of(descent, struct version, descent);
    struct version *top = self, *before = descent->parent;
    bool ghosts = false;
    for (; before && goes(&before->descent); before = before->descent.parent) {
        ghosts |= !before->marked;
        top = before;
    }
    if (!ghosts) {
        top = self;
        before = descent->parent;
    }
    int code = top ? version_add_staying(top, tree, goes, &m->others) : 0;
    if (code == 0)
        code = add_relative(m, before, tree);
    for (uint32_t i = 0; code == 0 && ghosts && i < m->next; i++)
        code = add_relative(m, m->versions[i], tree);
    return code;
}

/* Begin with the next disk. Returns 1 when there is none. */
static int begin(struct measuring *m)
{
    struct disk *disk = NULL;
    struct descent *descent;
    while ((descent = next_descent(m)) && !(disk = disk_after(descent, m->family))) {
        m->family = 0;
        m->next++;
    }
    if (!disk)
        return 1;
    m->family = disk->tree.family;
    m->others.n = 0;
    int code = gather(m, descent, &disk->tree);
    if (code < 0)
        return code;
    m->walk = (struct walk){.tree = &disk->tree,
                            .pages = 1ULL << disk->tree.levels * NODE_BITS,
                            .leaf = count_pages,
                            .waiter.wake = woken};
    m->walking = true;
    return walk_set_others(&m->walk, m->others.all, m->others.n, m->others.n);
}

static void measuring_free(struct measuring *m)
{
    struct vm *vm = marked_vm(m);
    walk_free(&m->walk);
    for (uint32_t i = 0; i < m->n_versions; i++)
        m->versions[i]->marked = false;
    if (vm)
        vm->marked = false;
    free(m->versions);
    free(m->others.all);
    m->store->measuring = NULL;
    free(m);
}

static void finish(struct measuring *m, int error)
{
    struct store_measure *measure = m->measure;
    measuring_free(m);
    list_del(&measure->link);
    measure->error = error;
    measure->done(measure);
}

static int mark_version(struct measuring *m, struct version *version)
{
    if (!version)
        return ERR_NO_VERSION;
    if (version->marked) /* told twice */
        return -EINVAL;
    version->marked = true;
    m->versions[m->n_versions++] = version;
    return 0;
}

static int mark(struct measuring *m)
{
    const struct store_measure *measure = m->measure;
    struct vm *vm = vm_find(m->store, measure->vm);
    if (!vm)
        return -ENOENT;
    uint32_t n = measure->whole ? vm->n_versions : measure->n_versions;
    m->versions = calloc((size_t)n + measure->n_with + 1, sizeof(*m->versions));
    if (!m->versions)
        return -ENOMEM;
    vm->marked = measure->whole;
    list_for_each (l, &vm->versions)
        if (measure->whole)
            (void)mark_version(m, container_of(l, struct version, link));
    int code = 0;
    for (uint32_t i = 0; code == 0 && !measure->whole && i < n; i++)
        code = mark_version(m, version_by_name(vm, measure->versions[i]));
    for (uint32_t i = 0; code == 0 && i < measure->n_with; i++) {
        vm = vm_find(m->store, measure->with[i].vm);
        code = mark_version(m, vm ? version_by_name(vm, measure->with[i].version) : NULL);
    }
    return code;
}

static int walk_some(struct measuring *m)
{
    uint32_t steps = STEPS_A_TURN;
    int code = walk_step(&m->walk, &steps);
    if (code != 1)
        return code;
    code = m->walk.skipped ? ERR_CHECKSUM : 0;
    walk_free(&m->walk);
    m->walking = false;
    return code;
}

static void start(struct store *store, struct store_measure *measure)
{
    struct measuring *m = calloc(1, sizeof(*m));
    if (!m) {
        list_del(&measure->link);
        measure->error = -ENOMEM;
        measure->done(measure);
        return;
    }
    m->store = store;
    m->measure = measure;
    store->measuring = m;
    int code = mark(m);
    if (code < 0)
        finish(m, code);
}

bool measure_step(struct store *store)
{
    struct measuring *m = store->measuring;
    if (!m && list_empty(&store->measures))
        return false;
    if (!m) {
        start(store, container_of(store->measures.next, struct store_measure, link));
        return true;
    }
    if (m->walking && m->walk.waits)
        return false;
    int code = m->measure->cancel ? -ECANCELED : m->walking ? walk_some(m) : begin(m);
    if (code == 1 || (code < 0 && code != -EAGAIN))
        finish(m, code == 1 ? 0 : code);
    return code != -EAGAIN;
}

void store_measure(struct store *store, struct store_measure *measure)
{
    measure->bytes = 0;
    measure->error = 0;
    list_push_back(&store->measures, &measure->link);
}

void measures_free(struct store *store)
{
    if (store->measuring)
        measuring_free(store->measuring);
}
