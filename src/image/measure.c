/* measure.c - what removing some versions together would free.
 *
 * A page is freed when all that refer to it are removed. Those that refer to a page are connected
 * in the forest (version.c): so it is counted at the topmost of them, as one that the version
 * before that has not, and it is freed if none of the versions and heads below has it that stay. */
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
    struct tree **others; /* those that stay below, then the one before */
    uint32_t n_others, max_others;
    struct walk walk;
};

/* What was removed already counts as going. */
static bool goes(const struct version *version)
{
    return !version->vm || version->marked;
}

static int add_other(struct measuring *m, struct tree *tree)
{
    if (m->n_others == m->max_others) {
        uint32_t max = m->max_others ? m->max_others * 2 : 8;
        struct tree **others = reallocarray(m->others, max, sizeof(*others));
        if (!others)
            return -ENOMEM;
        m->others = others;
        m->max_others = max;
    }
    m->others[m->n_others++] = tree;
    return 0;
}

static struct disk *relative(struct descent *descent, const struct tree *tree)
{
    struct list *disks = descent->is_head ? &container_of(descent, struct vm, descent)->disks
                                          : &container_of(descent, struct version, descent)->disks;
    list_for_each (l, disks) {
        struct disk *disk = container_of(l, struct disk, link);
        if (disk->tree.family == tree->family)
            return disk;
    }
    return NULL;
}

/* The topmost of those that stay, below a version. In the order of a walk through the forest. */
static int find_staying(struct measuring *m, struct version *from, const struct tree *tree)
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
        struct version *version =
            child->is_head ? NULL : container_of(child, struct version, descent);
        if (version && goes(version)) {
            at = version;
            l = version->children.next;
            continue;
        }
        struct disk *disk = relative(child, tree);
        int code = disk ? add_other(m, &disk->tree) : 0;
        if (code < 0)
            return code;
        l = l->next;
    }
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
    struct version *version = m->versions[m->next], *before = version->descent.parent;
    struct disk *older = before ? version_relative(before, &disk->tree) : NULL;
    m->family = disk->tree.family;
    m->n_others = 0;
    int code = find_staying(m, version, &disk->tree);
    if (code == 0 && older)
        code = add_other(m, &older->tree);
    if (code < 0)
        return code;
    m->walk = (struct walk){.tree = &disk->tree,
                            .others = m->others,
                            .n_others = m->n_others,
                            .n_compared = m->n_others,
                            .pages = 1ULL << disk->tree.levels * NODE_BITS,
                            .leaf = count_pages,
                            .waiter.wake = woken};
    m->walking = true;
    return walk_init(&m->walk);
}

static void measuring_free(struct measuring *m)
{
    walk_free(&m->walk);
    for (uint32_t i = 0; m->versions && i < m->measure->n_versions; i++)
        if (m->versions[i])
            m->versions[i]->marked = false;
    free(m->versions);
    free(m->others);
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
        struct version *version = vm ? version_find(vm, measure->versions[i]) : NULL;
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
