/* diff.c - what differs between two disks of one origin, at the cost of what differs.
 *
 * Both tables are gone through together; what has the same form in both is passed over unread.
 * Where one of them comes from the other, only what that one wrote is looked at (since.c). */
#include "image/table-internal.h"

#include "base/err.h"
#include "image/store-internal.h"

#include <errno.h>

#define AHEAD 64u /* leaves asked for at the same time */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

bool diff_add(struct store_io *io, uint64_t to, const struct store_extent *e)
{
    struct store_extent *last = io->n_extents ? &io->extents[io->n_extents - 1] : NULL;
    if (last && last->hole == e->hole && last->zero == e->zero && last->changed == e->changed) {
        last->length += to - io->next;
    } else if (io->n_extents == io->max_extents) {
        return false;
    } else {
        io->extents[io->n_extents] = *e;
        io->extents[io->n_extents++].length = to - io->next;
    }
    io->next = to;
    return true;
}

/* A child of a node in memory, which may be NULL: none. */
static struct peek child_peek(const struct node *parent, uint32_t index)
{
    struct node *child = parent && parent->children ? parent->children[index] : NULL;
    if (child && !child->loading)
        return (struct peek){
            .node = child, .entry = child->self, .exact = !child->dirty && !child->dirty_children};
    return (struct peek){.entry = parent ? node_get(parent, index) : (struct entry){0},
                         .exact = true};
}

/* One form under both, or nothing. */
static bool is_same(const struct peek *p, const struct peek *q)
{
    if (!p->exact || !q->exact)
        return false;
    if (entry_is_hole(&p->entry) || entry_is_hole(&q->entry))
        return entry_is_hole(&p->entry) && entry_is_hole(&q->entry) && !p->node && !q->node;
    return p->entry.address == q->entry.address;
}

/* The end of the leaves after this one that are the same, too, under the same parents: in leaves.
 */
static uint64_t same_leaves(struct tree *a, struct tree *b, uint64_t index)
{
    struct node *in_a = NULL, *in_b = NULL;
    if (tree_node(a, 1, index / NODE_ENTRIES, NULL, &in_a) != TREE_FOUND)
        return index + 1;
    if (tree_node(b, 1, index / NODE_ENTRIES, NULL, &in_b) != TREE_FOUND)
        return index + 1;
    for (index++; index % NODE_ENTRIES; index++) {
        struct peek p = child_peek(in_a, index % NODE_ENTRIES);
        struct peek q = child_peek(in_b, index % NODE_ENTRIES);
        if (!is_same(&p, &q))
            break;
    }
    return index;
}

int diff_same(struct tree *a, struct tree *b, uint64_t page, uint8_t lowest, struct waiter *waiter,
              uint64_t *ret)
{
    uint8_t top = a->levels > b->levels ? a->levels : b->levels;
    *ret = 0;
    for (int level = top - 1; level >= lowest; level--) {
        uint64_t index = page >> level_shift(level + 1);
        uint64_t end = (index + 1) << level_shift(level + 1);
        struct peek p, q;
        int in_a = tree_peek(a, level, index, waiter, &p);
        if (in_a == TREE_WAIT) /* ask for both at once */
            tree_peek(b, level, index, NULL, &q);
        if (in_a < 0 || in_a == TREE_WAIT)
            return in_a;
        int in_b = tree_peek(b, level, index, waiter, &q);
        if (in_b < 0 || in_b == TREE_WAIT)
            return in_b;
        bool both_absent = in_a == TREE_ABSENT && in_b == TREE_ABSENT;
        bool shared = in_a == TREE_FOUND && in_b == TREE_FOUND && p.exact && q.exact &&
                      p.entry.address == q.entry.address && !entry_is_hole(&p.entry);
        if (both_absent || shared) {
            if (level == 0)
                end = same_leaves(a, b, index) << NODE_BITS;
            *ret = end - page;
            return TREE_FOUND;
        }
    }
    return TREE_FOUND;
}

/* A node above the leaves is being read: ask for the next ones of its level that differ, too. */
static void read_parents_ahead(struct tree *a, struct tree *b, uint64_t page, uint64_t end)
{
    uint32_t n = 0, ahead = table_ahead(a->table, AHEAD);
    uint64_t last = (end - 1) >> level_shift(2);
    for (uint64_t i = page >> level_shift(2); i <= last && n < ahead; i++) {
        struct peek p, q;
        struct node *node;
        int in_a = tree_peek(a, 1, i, NULL, &p), in_b = tree_peek(b, 1, i, NULL, &q);
        if (in_a < 0 || in_b < 0 || in_a == TREE_WAIT || in_b == TREE_WAIT)
            return;
        if ((in_a == TREE_ABSENT && in_b == TREE_ABSENT) ||
            (in_a == TREE_FOUND && in_b == TREE_FOUND && is_same(&p, &q)))
            continue;
        tree_node(a, 1, i, NULL, &node);
        tree_node(b, 1, i, NULL, &node);
        n += 2;
    }
}

/* A leaf is being read: ask for the next ones that differ, too, as far as their parents are there;
 * again when half of them have been passed. */
static void read_ahead(struct store_io *io, uint64_t page, uint64_t end)
{
    struct tree *a = &io->disk->tree, *b = &io->base->tree;
    uint32_t n = 0, ahead = table_ahead(a->table, AHEAD);
    if (page < io->ahead)
        return;
    io->ahead = page;
    while (page < end && n < ahead) {
        uint64_t pages;
        struct node *node;
        if (diff_same(a, b, page, 0, NULL, &pages) != TREE_FOUND)
            return;
        if (!pages) {
            tree_node(a, 0, page >> NODE_BITS, NULL, &node);
            tree_node(b, 0, page >> NODE_BITS, NULL, &node);
            n += 2;
            pages = NODE_ENTRIES - page % NODE_ENTRIES;
        }
        page += pages;
        if (n <= ahead / 2)
            io->ahead = page;
    }
}

/* The leaf of a page, NULL where there is none. */
static int leaf_of(struct tree *tree, uint64_t page, struct waiter *waiter, struct node **ret)
{
    *ret = NULL;
    int found = tree_node(tree, 0, page >> NODE_BITS, waiter, ret);
    if (found == TREE_ABSENT)
        *ret = NULL;
    return found == TREE_ABSENT ? TREE_FOUND : found;
}

static bool differ(const struct entry *a, const struct entry *b)
{
    return entry_encoding(a) != entry_encoding(b) ||
           (entry_encoding(a) == ENCODING_RAW && a->address != b->address);
}

static bool compare_leaves(struct store_io *io, const struct node *ours, const struct node *theirs,
                           uint64_t end)
{
    bool more = true;
    while (io->next < end && more) {
        uint64_t page = io->next / PAGE_BYTES;
        struct entry none = {0};
        struct entry e = ours ? node_get(ours, page % NODE_ENTRIES) : none;
        struct entry f = theirs ? node_get(theirs, page % NODE_ENTRIES) : none;
        struct store_extent extent = {.changed = differ(&e, &f)};
        if (extent.changed) {
            extent.hole = entry_is_hole(&e);
            extent.zero = extent.hole || entry_encoding(&e) == ENCODING_ZERO;
        }
        more = diff_add(io, least((page + 1) * PAGE_BYTES, end), &extent);
    }
    return more;
}

void diff_step(struct store *store, struct store_io *io)
{
    struct tree *ours = &io->disk->tree, *theirs = &io->base->tree;
    uint64_t end = io->offset + io->length;
    bool more = true;
    if (io->next == io->offset && !io->since)
        since_begin(io);
    while (io->next < end && more) {
        uint64_t page = io->next / PAGE_BYTES, pages;
        bool plain = since_is_plain(io, page);
        int code = diff_same(ours, theirs, page, plain ? 0 : 1, &io->waiter, &pages);
        if (code == TREE_WAIT && !plain)
            return;
        if (code == TREE_WAIT) {
            read_parents_ahead(ours, theirs, page, (end + PAGE_BYTES - 1) / PAGE_BYTES);
            return;
        }
        if (code == TREE_FOUND && pages) {
            more = diff_add(io, least((page + pages) * PAGE_BYTES, end), &(struct store_extent){0});
            continue;
        }
        if (code == TREE_FOUND && !plain) {
            if (since_step(io, end, &more) == TREE_WAIT)
                return;
            continue;
        }
        struct node *a = NULL, *b = NULL;
        if (code == TREE_FOUND)
            code = leaf_of(ours, page, &io->waiter, &a);
        if (code == TREE_FOUND)
            code = leaf_of(theirs, page, &io->waiter, &b);
        if (code == TREE_WAIT) {
            read_ahead(io, page, (end + PAGE_BYTES - 1) / PAGE_BYTES);
            return;
        }
        if (code < 0) {
            io->error = io->n_extents ? 0 : code;
            break;
        }
        if (scan_rests(store, io))
            return;
        uint64_t leaf_end = ((page | (NODE_ENTRIES - 1)) + 1) * PAGE_BYTES;
        more = compare_leaves(io, a, b, least(leaf_end, end));
    }
    io->busy = false;
}
