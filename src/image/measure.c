/* measure.c - what removing some versions together would free.
 *
 * A page is freed when all that refer to it are removed. Those that refer to a page are connected
 * in the forest (version.c): so it is counted at the topmost of them, as one that the version
 * before that has not, and it is freed if none of the versions and heads below has it that stay.
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
    uint32_t next;             /* of them */
    uint32_t family;           /* of the disk that is walked; 0: the next one's first */
    bool walking;
    struct trees others; /* those that stay below, then the one before */
    struct walk walk;
};

/* What was removed already counts as going. */
static bool goes(const struct version *version)
{
    return !version->vm || version->marked;
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

static struct disk *disk_after(struct version *version, uint32_t family)
{
    bool found = family == 0;
    list_for_each (l, &version->disks) {
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

/* Whatever may have a page of the version so that it is not to be counted here. */
static int gather(struct measuring *m, struct version *version, const struct tree *tree)
{
    struct version *top = version, *before = version->descent.parent;
    bool ghosts = false;
    for (; before && goes(before); before = before->descent.parent) {
        ghosts |= !before->marked;
        top = before;
    }
    if (!ghosts) {
        top = version;
        before = version->descent.parent;
    }
    int code = version_add_staying(top, tree, goes, &m->others);
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
    while (!disk && m->next < m->measure->n_versions) {
        disk = disk_after(m->versions[m->next], m->family);
        if (!disk) {
            m->family = 0;
            m->next++;
        }
    }
    if (!disk)
        return 1;
    m->family = disk->tree.family;
    m->others.n = 0;
    int code = gather(m, m->versions[m->next], &disk->tree);
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
    walk_free(&m->walk);
    for (uint32_t i = 0; m->versions && i < m->measure->n_versions; i++)
        if (m->versions[i])
            m->versions[i]->marked = false;
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

static int mark(struct measuring *m)
{
    const struct store_measure *measure = m->measure;
    const struct vm *vm = vm_find(m->store, measure->vm);
    m->versions = calloc(measure->n_versions + 1, sizeof(*m->versions));
    if (!m->versions)
        return -ENOMEM;
    for (uint32_t i = 0; i < measure->n_versions; i++) {
        struct version *version = vm ? version_by_name(vm, measure->versions[i]) : NULL;
        if (!version)
            return vm ? ERR_NO_VERSION : -ENOENT;
        if (version->marked) /* told twice */
            return -EINVAL;
        version->marked = true;
        m->versions[i] = version;
    }
    return 0;
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
