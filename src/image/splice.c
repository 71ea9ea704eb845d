/* splice.c - freeing what removed versions alone hold.
 *
 * A removed version with at most one child is taken out of the forest: its trees are gone through
 * beside its child's, what the child has not and what is younger than the version before is freed,
 * and the child descends from that one from then on. One at a time; how far it has come is in each
 * checkpoint, with the live bits as they are then, so after a crash it goes on from there.
 *
 * The child may be a head, and change meanwhile. What it gives up before the place that the walk
 * has come to (struct release) it frees itself; behind it the walk will find that the child has it
 * no more.
 *
 * What cannot be read is left allocated (`varve check` tells of it). */
#include "image/walk.h"

#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>

#define STEPS_A_TURN      128u
#define STEPS_BESIDE_WORK 16u /* while requests keep the log busy */

struct splice {
    struct store *store;
    struct version *version;
    struct disk *disk;     /* whose tree is walked; NULL: the next is to be found */
    struct disk *next;     /* NULL: none is left */
    struct descent *child; /* that others[] belong to */
    struct walk walk;
    struct tree *others[2]; /* the child's and that of the version before; or NULL */
};

/* ---- one disk ------------------------------------------------------------------------------- */

static struct splice *splice_of(struct walk *walk)
{
    return container_of(walk, struct splice, walk);
}

static void free_pages(struct walk *walk, struct node *leaf, struct node **others)
{
    struct splice *s = splice_of(walk);
    struct log *log = s->store->log;
    for (uint32_t i = node_next(leaf, 0); i < NODE_ENTRIES; i = node_next(leaf, i + 1)) {
        struct entry e = node_get(leaf, i), kept = {0};
        if (entry_encoding(&e) != ENCODING_RAW || e.address < s->disk->release.cut)
            continue;
        if (others[0])
            kept = node_get(others[0], i);
        if (entry_encoding(&kept) == ENCODING_RAW && kept.address == e.address)
            continue;
        log_set_dead(log, e.address, 1);
        s->store->stats.reclaimed_pages++;
    }
}

static bool has_form(const struct peek *p, const struct entry *form)
{
    if (!entry_is_hole(&p->entry) && p->entry.address == form->address)
        return true;
    return p->node && !entry_is_hole(&p->node->base) && p->node->base.address == form->address;
}

static void free_form(struct splice *s, const struct entry *form, uint64_t born,
                      const struct peek *child)
{
    uint64_t older = s->disk->release.epoch;
    if (entry_is_hole(form) || (older && born <= older) || has_form(child, form))
        return;
    log_set_dead(s->store->log, form->address, entry_slots(form));
}

static void free_node(struct walk *walk, struct node *node, const struct peek *others)
{
    struct splice *s = splice_of(walk);
    free_form(s, &node->self, node->self_born, &others[0]);
    free_form(s, &node->base, node->base_born, &others[0]);
    s->store->stats.reclaimed_nodes++;
}

static void woken(struct waiter *waiter, int error)
{
    struct walk *walk = container_of(waiter, struct walk, waiter);
    walk->waits = false;
    walk->failed = error;
}

static struct list *disks_of(struct descent *descent)
{
    return descent->is_head ? &container_of(descent, struct vm, descent)->disks
                            : &container_of(descent, struct version, descent)->disks;
}

static struct descent *child_of(const struct version *version)
{
    return list_empty(&version->children)
               ? NULL
               : container_of(version->children.next, struct descent, link);
}

static struct disk *relative(struct descent *descent, const struct tree *tree)
{
    list_for_each (l, disks_of(descent)) {
        struct disk *disk = container_of(l, struct disk, link);
        if (disk->tree.family == tree->family)
            return disk;
    }
    return NULL;
}

/* Take the version's child as it is now: it may have become another, by a snapshot of a head. */
static void find_others(struct splice *s)
{
    struct version *before = s->version->descent.parent;
    struct descent *child = child_of(s->version);
    struct disk *disk = child ? relative(child, &s->disk->tree) : NULL;
    s->child = child;
    s->others[0] = disk ? &disk->tree : NULL;
    if (disk)
        disk->tree.release = &s->disk->release;
    disk = before ? version_relative(before, &s->disk->tree) : NULL;
    s->others[1] = disk ? &disk->tree : NULL;
}

static int begin_disk(struct splice *s)
{
    struct version *before = s->version->descent.parent;
    struct tree *tree = &s->disk->tree;
    struct release *release = &s->disk->release;
    bool held = before && version_relative(before, tree);
    release->cut = held ? before->cut : 0;
    release->epoch = held ? before->epoch : 0;
    find_others(s);
    s->walk = (struct walk){.tree = tree,
                            .others = s->others,
                            .n_others = 2,
                            .n_compared = 1,
                            .pages = 1ULL << tree->levels * NODE_BITS,
                            .older = release->epoch,
                            .at = release->at,
                            .rise = release->rise,
                            .leaf = free_pages,
                            .leave = free_node,
                            .waiter.wake = woken};
    return walk_init(&s->walk);
}

static struct disk *disk_after(struct version *version, struct disk *disk)
{
    struct list *l = disk ? disk->link.next : version->disks.next;
    return l == &version->disks ? NULL : container_of(l, struct disk, link);
}

/* ---- one version ---------------------------------------------------------------------------- */

/* All its trees are written to the end and will not change. */
static bool is_finished(struct version *version)
{
    bool finished = true;
    list_for_each (l, &version->disks)
        finished &= tree_finish(&container_of(l, struct disk, link)->tree);
    return finished;
}

/* The next one to be freed; NULL: none, or none yet. */
static struct version *find_version(struct store *store)
{
    list_for_each (l, &store->dying) {
        struct version *version = container_of(l, struct version, link);
        if (version->n_children <= 1 && is_finished(version))
            return version;
    }
    return NULL;
}

static void take_over(struct version *before, struct version *version, struct descent *child)
{
    descend(child, before);
    list_for_each (l, disks_of(child)) {
        struct tree *tree = &container_of(l, struct disk, link)->tree;
        const struct disk *disk = version_relative(version, tree);
        if (disk)
            tree->young_pages += disk->tree.young_pages;
        if (tree->young_pages > tree->used_pages)
            tree->young_pages = tree->used_pages;
    }
    if (child->is_head)
        vm_set_held(container_of(child, struct vm, descent));
    else
        version_set_held(container_of(child, struct version, descent));
}

/* Is a version's tree still being written by its head's freeze, which looks at what is held? */
static bool is_being_written(struct descent *child)
{
    list_for_each (l, disks_of(child)) {
        if (container_of(l, struct disk, link)->tree.origin)
            return true;
    }
    return false;
}

/* Everything is freed: the version goes. Not while a checkpoint has a place for its roots. */
static void finish(struct splice *s)
{
    struct version *version = s->version, *before = version->descent.parent;
    struct descent *child = child_of(version);
    if (child)
        take_over(before, version, child);
    descend(&version->descent, NULL);
    version_free(version);
    s->version = NULL;
    s->store->stats.reclaimed_versions++;
    if (list_empty(&s->store->dying))
        checkpoint_want(s->store);
}

static bool may_finish(const struct splice *s)
{
    struct descent *child = child_of(s->version);
    return s->store->checkpoint.state == CHECKPOINT_IDLE && !s->store->change_logged &&
           (!child || !is_being_written(child));
}

static int next_disk(struct splice *s)
{
    s->disk = s->next;
    s->next = disk_after(s->version, s->disk);
    return begin_disk(s);
}

/* Returns 1 when the disk is done. */
static int walk_disk(struct splice *s)
{
    uint32_t steps = s->store->log->n_inflight ? STEPS_BESIDE_WORK : STEPS_A_TURN;
    if (s->child != child_of(s->version))
        find_others(s);
    int code = walk_step(&s->walk, &steps);
    s->disk->release.at = s->walk.at;
    s->disk->release.rise = s->walk.rise;
    if (code != 1)
        return code;
    s->store->stats.unreclaimed_pages += s->walk.skipped;
    walk_free(&s->walk);
    s->disk = NULL;
    return 1;
}

bool splice_step(struct store *store)
{
    struct splice *s = store->splice;
    if (store->log->error || store->measuring || (!s->version && list_empty(&store->dying)))
        return false;
    if (!s->version) {
        s->version = find_version(store);
        if (!s->version)
            return false;
        s->disk = NULL;
        s->next = disk_after(s->version, NULL);
    }
    if (s->disk && s->walk.waits)
        return false;
    int code = 0;
    if (s->disk)
        code = walk_disk(s);
    else if (s->next)
        code = next_disk(s);
    else if (may_finish(s))
        finish(s);
    else
        return false;
    if (code == -ENOMEM)
        log_fail(store->log, code, "freeing a removed version");
    return code >= 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

int splice_create(struct store *store)
{
    store->splice = calloc(1, sizeof(*store->splice));
    if (!store->splice)
        return -ENOMEM;
    store->splice->store = store;
    return 0;
}

void splice_free(struct store *store)
{
    if (store->splice)
        walk_free(&store->splice->walk);
    free(store->splice);
}

uint64_t splice_pending_pages(const struct store *store)
{
    uint64_t pages = 0;
    list_for_each (l, &store->dying) {
        const struct version *version = container_of(l, struct version, link);
        list_for_each (k, &version->disks)
            pages += container_of(k, struct disk, link)->tree.young_pages;
    }
    return pages;
}
