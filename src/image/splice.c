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
 * With more children it stays, as a ghost, and is swept: of its pages those are freed that none of
 * its children has. Its own table still names them, and nobody asks it to read them. What children
 * give up later a later sweep frees.
 *
 * What cannot be read is left allocated (`varve check` tells of it). */
#include "image/walk.h"

#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>

#define STEPS_A_TURN    128u
#define TURNS_A_STEP    2u   /* without a request, while others wait for the medium */
#define REQUESTS_A_STEP 2u   /* so it takes less than a tenth of their time */
#define STEPS_IN_NEED   64u  /* when writers will soon wait for space */
#define STEPS_FOR_ROOM  256u /* when they will soon be refused */
#define FORMS_AT_ONCE   1024u
#define QUIET_TURNS     64u /* without a request: there is nobody */

struct splice {
    struct store *store;
    struct version *version;
    struct disk *disk;   /* whose tree is walked; NULL: the next is to be found */
    struct disk *next;   /* NULL: none is left */
    bool sweeps;         /* does not splice */
    uint32_t births;     /* the store's when the others were found */
    uint64_t stale;      /* the version's when the sweep began */
    struct trees others; /* the children's, then that of the version before */
    struct walk walk;
    struct forms *forms; /* NULL: none yet */
    uint64_t n_requests; /* of the store, at the last look */
    uint32_t quiet;      /* turns since there was one, up to QUIET_TURNS */
};

/* ---- one disk ------------------------------------------------------------------------------- */

static struct splice *splice_of(struct walk *walk)
{
    return container_of(walk, struct splice, walk);
}

static bool is_kept(const struct walk *walk, struct node **others, uint32_t index, uint64_t address)
{
    for (uint32_t i = 0; i < walk->n_compared; i++) {
        struct entry e = others[i] ? node_get(others[i], index) : (struct entry){0};
        if (entry_encoding(&e) == ENCODING_RAW && e.address == address)
            return true;
    }
    return false;
}

static void free_pages(struct walk *walk, struct node *leaf, struct node **others)
{
    struct splice *s = splice_of(walk);
    struct version *before = s->version->descent.parent;
    uint32_t at = 0, i;
    struct entry e;
    while (node_each(leaf, &at, &i, &e)) {
        bool old = e.address < s->disk->release.cut;
        if (entry_encoding(&e) != ENCODING_RAW || (old && walk->young) ||
            is_kept(walk, others, i, e.address))
            continue;
        if (old) {
            before->stale++;
            continue;
        }
        log_set_dead(s->store->log, e.address, 1);
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
                      const struct peek *others)
{
    uint64_t older = s->disk->release.epoch;
    if (entry_is_hole(form) || (older && born <= older) ||
        (s->walk.n_compared && has_form(&others[0], form)))
        return;
    s->store->log->later = true;
    log_set_dead(s->store->log, form->address, entry_slots(form));
    s->store->log->later = false;
}

static void free_node(struct walk *walk, struct node *node, const struct peek *others)
{
    struct splice *s = splice_of(walk);
    free_form(s, &node->self, node->self_born, others);
    free_form(s, &node->base, node->base_born, others);
    s->store->stats.reclaimed_nodes++;
}

static void woken(struct waiter *waiter, int error)
{
    struct walk *walk = container_of(waiter, struct walk, waiter);
    walk->waits = false;
    walk->failed = error;
}

static bool is_removed(const struct descent *descent)
{
    return !descent->is_head && !container_of(descent, struct version, descent)->vm;
}

/* Take those below as they are now: a snapshot of a head takes its place. A splice looks at the one
 * child, a sweep at what stays below ghosts. */
static int find_others(struct splice *s)
{
    struct version *before = s->version->descent.parent;
    struct tree *tree = &s->disk->tree;
    struct disk *disk;
    int code = 0;
    s->others.n = 0;
    s->births = s->store->births;
    if (s->sweeps) {
        code = version_add_staying(s->version, tree, is_removed, &s->others);
    }
    list_for_each (l, &s->version->children) {
        disk = descent_relative(container_of(l, struct descent, link), tree);
        if (s->sweeps || !disk || code < 0)
            continue;
        disk->tree.release = &s->disk->release;
        code = trees_add(&s->others, &disk->tree);
    }
    uint32_t n_compared = s->others.n;
    disk = before ? version_relative(before, tree) : NULL;
    if (disk && code == 0)
        code = trees_add(&s->others, &disk->tree);
    /* A ghost before it counts all that this one and its child give up. */
    s->walk.young = disk && (before->vm || before->n_children < 2);
    return code < 0 ? code : walk_set_others(&s->walk, s->others.all, s->others.n, n_compared);
}

static int begin_disk(struct splice *s)
{
    struct version *before = s->version->descent.parent;
    struct tree *tree = &s->disk->tree;
    struct release *release = &s->disk->release;
    bool held = before && version_relative(before, tree);
    release->cut = held ? before->cut : 0;
    release->epoch = held ? before->epoch : 0;
    if (!s->forms)
        s->forms = forms_new(tree->table, FORMS_AT_ONCE);
    if (!s->forms)
        return -ENOMEM;
    s->walk = (struct walk){.tree = tree,
                            .forms = s->sweeps ? NULL : s->forms,
                            .pages = 1ULL << tree->levels * NODE_BITS,
                            .older = release->epoch,
                            .at = s->sweeps ? 0 : release->at,
                            .rise = s->sweeps ? 0 : release->rise,
                            .leaf = free_pages,
                            .leave = s->sweeps ? NULL : free_node,
                            .waiter.wake = woken};
    return find_others(s);
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

static uint64_t young_pages(const struct version *version)
{
    uint64_t pages = 0;
    list_for_each (l, &version->disks)
        pages += container_of(l, struct disk, link)->tree.young_pages;
    return pages;
}

/* Is it worth to look for what its children gave up? */
static bool wants_sweep(const struct version *version)
{
    return version->n_children > 1 && version->stale &&
           (version->store->idle || version->stale >= young_pages(version) / 16 + 64);
}

/* Once begun it is spliced to the end. A removal of one disk of the head below may give it a second
 * child meanwhile, but no two children have the same disk then. */
static bool is_begun(const struct version *version)
{
    list_for_each (l, &version->disks) {
        const struct release *r = &container_of(l, struct disk, link)->release;
        if (r->at || r->rise)
            return true;
    }
    return false;
}

static bool may_begin(struct version *version)
{
    return (version->n_children <= 1 || wants_sweep(version)) && is_finished(version);
}

/* Of removed versions that follow each other the last one goes first: the child, to which all of
 * them are compared, then stays the same, and of each leaf only what is younger than the version
 * before is looked at, which a delta tells without its base. */
static struct version *last_of_run(struct version *version)
{
    while (version->n_children == 1) {
        struct descent *child = container_of(version->children.next, struct descent, link);
        struct version *next = child->is_head ? NULL : container_of(child, struct version, descent);
        if (!next || next->vm || next->n_children > 1 || !may_begin(next))
            break;
        version = next;
    }
    return version;
}

/* The next one to be freed, or swept; NULL: none, or none yet. One that was begun comes first: what
 * it has passed it does not hold for its child any more. */
static struct version *find_version(struct store *store)
{
    list_for_each (l, &store->dying) {
        struct version *version = container_of(l, struct version, link);
        if (is_begun(version))
            return version;
    }
    list_for_each (l, &store->dying) {
        struct version *version = container_of(l, struct version, link);
        if (may_begin(version))
            return last_of_run(version);
    }
    return NULL;
}

static void take_over(struct version *before, struct version *version, struct descent *child)
{
    descend(child, before);
    list_for_each (l, descent_disks(child)) {
        struct tree *tree = &container_of(l, struct disk, link)->tree;
        const struct disk *disk = version_relative(version, tree);
        if (disk)
            tree->young_pages += disk->tree.young_pages;
        if (tree->young_pages > tree->used_pages)
            tree->young_pages = tree->used_pages;
        const struct disk *older = before ? version_relative(before, tree) : NULL;
        if (child->is_head && disk &&
            (!older || older->tree.root_entry.address != disk->tree.root_entry.address))
            tree->changes->touched = true;
    }
    if (!child->is_head && !container_of(child, struct version, descent)->vm)
        container_of(child, struct version, descent)->stale = UINT64_MAX / 2;
    descent_set_held(child);
}

/* Is a version's tree still being written by its head's freeze, which looks at what is held? */
static bool is_being_written(const struct version *version)
{
    list_for_each (l, &version->children) {
        list_for_each (k, descent_disks(container_of(l, struct descent, link)))
            if (container_of(k, struct disk, link)->tree.origin)
                return true;
    }
    return false;
}

/* Ahead of somebody who is gone. */
static bool is_being_read(const struct version *version)
{
    list_for_each (l, &version->disks)
        if (container_of(l, struct disk, link)->tree.n_loading)
            return true;
    return false;
}

static bool may_finish(const struct splice *s)
{
    return s->sweeps ||
           (s->store->checkpoint.state == CHECKPOINT_IDLE && !s->store->change_logged &&
            !is_being_written(s->version) && !is_being_read(s->version));
}

/* Everything is freed: the version goes. Not while a checkpoint has a place for its roots. */
static void finish(struct splice *s)
{
    struct version *version = s->version, *before = version->descent.parent;
    s->version = NULL;
    /* What it shared with a ghost before it, nobody else may have now. */
    if (before && !before->vm)
        before->stale++;
    if (s->sweeps) {
        version->stale -= s->stale;
        return;
    }
    while (!list_empty(&version->children))
        take_over(before, version, container_of(version->children.next, struct descent, link));
    descend(&version->descent, NULL);
    version_free(version);
    s->store->stats.reclaimed_versions++;
    if (list_empty(&s->store->dying))
        checkpoint_want(s->store);
}

static void begin(struct splice *s, struct version *version)
{
    s->version = version;
    s->sweeps = version->n_children > 1 && !is_begun(version);
    s->stale = version->stale;
    s->disk = NULL;
    s->next = disk_after(version, NULL);
}

static int next_disk(struct splice *s)
{
    s->disk = s->next;
    s->next = disk_after(s->version, s->disk);
    return begin_disk(s);
}

/* How far it may go in this turn. Requests pay for it, so that it takes a share of the thread's
 * time that does not depend on the machine. */
static uint32_t steps_now(struct splice *s)
{
    const struct store_stats *t = &s->store->stats;
    uint64_t n = t->reads + t->writes + t->flushes + t->trims + t->zeroes;
    uint64_t fresh = n - s->n_requests;
    s->n_requests = n;
    if (fresh)
        s->quiet = 0;
    else if (s->quiet < QUIET_TURNS)
        s->quiet++;
    if (s->quiet == QUIET_TURNS)
        return STEPS_A_TURN;
    const struct log *log = s->store->log;
    if (log_room_pages(log) < log_limit_pages(log) / 16)
        return STEPS_FOR_ROOM;
    if (log_is_low(log))
        return STEPS_IN_NEED;
    if (!fresh)
        return s->quiet % TURNS_A_STEP == 0;
    uint64_t steps = (fresh + REQUESTS_A_STEP - 1) / REQUESTS_A_STEP;
    return steps < STEPS_A_TURN ? steps : STEPS_A_TURN;
}

/* Returns 1 when the disk is done. */
static int walk_disk(struct splice *s)
{
    uint32_t steps = steps_now(s);
    int code = s->births != s->store->births ? find_others(s) : 0;
    if (code < 0)
        return code;
    code = walk_step(&s->walk, &steps);
    if (!s->sweeps) {
        s->disk->release.at = s->walk.at;
        s->disk->release.rise = s->walk.rise;
    }
    if (code != 1)
        return code;
    s->store->stats.unreclaimed_pages += s->walk.skipped;
    /* What only the version before has now, it may be a ghost's to free. */
    struct version *before = s->version->descent.parent;
    if (!s->sweeps && before && before->stale < UINT64_MAX / 4)
        before->stale += s->walk.passed;
    walk_free(&s->walk);
    s->disk = NULL;
    return 1;
}

/* An error that may pass; not damage, which stays. */
static bool is_transient(int error)
{
    return error && error != ERR_CHECKSUM && error != ERR_DAMAGED;
}

bool splice_step(struct store *store)
{
    struct splice *s = store->splice;
    if (store->log->error || store->measuring || store->splice_pauses ||
        (!s->version && list_empty(&store->dying)))
        return false;
    if (!s->version) {
        struct version *version = find_version(store);
        if (!version)
            return false;
        begin(s, version);
    }
    /* What its children free behind the place where this stands must be so in the checkpoint, too,
     * and that has the place where this stood when it began. */
    if (store->checkpoint.state == CHECKPOINT_NODES && !store->checkpoint.map_only)
        return false;
    if (s->disk && s->walk.waits)
        return false;
    if (s->disk && is_transient(s->walk.failed)) {
        /* It is taken up where it was, later. */
        walk_free(&s->walk);
        s->version = NULL;
        store->splice_pauses = true;
        return false;
    }
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
    if (!store->splice)
        return;
    walk_free(&store->splice->walk);
    forms_free(store->splice->forms);
    free(store->splice->others.all);
    free(store->splice);
}

uint64_t splice_pending_pages(const struct store *store)
{
    uint64_t pages = 0;
    bool splicing = false;
    list_for_each (l, &store->dying)
        splicing |= container_of(l, struct version, link)->n_children <= 1;
    list_for_each (l, &store->dying) {
        const struct version *version = container_of(l, struct version, link);
        uint64_t young = young_pages(version);
        /* A swept ghost has nothing more, unless others go and leave it with what they shared. */
        pages +=
            !splicing && version->n_children > 1 && version->stale < young ? version->stale : young;
    }
    return pages;
}
