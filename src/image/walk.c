/* walk.c - what one tree has and some others have not. */
#include "image/walk.h"

#include "image/table-internal.h"

#include <errno.h>
#include <stdlib.h>

#define AHEAD 64u /* nodes read at the same time */

int walk_set_others(struct walk *walk, struct tree **others, uint32_t n, uint32_t n_compared)
{
    struct node **leaves = reallocarray(walk->leaves, n + 1, sizeof(*leaves));
    if (!leaves)
        return -ENOMEM;
    walk->leaves = leaves;
    struct peek *peeks = reallocarray(walk->peeks, n + 1, sizeof(*peeks));
    if (!peeks)
        return -ENOMEM;
    walk->peeks = peeks;
    walk->tree->table->keep = TABLE_KEEP + n * NODE_LEVELS * 2;
    walk->others = others;
    walk->n_others = n;
    walk->n_compared = n_compared;
    return 0;
}

void walk_free(struct walk *walk)
{
    if (walk->leaves)
        walk->tree->table->keep = TABLE_KEEP;
    free(walk->leaves);
    free(walk->peeks);
    walk->leaves = NULL;
    walk->peeks = NULL;
    node_release(&walk->own);
    node_release(&walk->theirs);
    if (walk->forms)
        forms_clear(walk->forms);
}

/* Pages under a node of a level. */
static uint64_t span(uint8_t level)
{
    return 1ULL << level_shift(level + 1);
}

/* Everything before page `to` is done, from a node of that level; those above it that end there are
 * left next. */
static void advance(struct walk *walk, uint64_t to, uint8_t level)
{
    walk->at = to;
    walk->tries = 0;
    walk->rise = level + 1;
}

/* For a node of that level on the way to the walk's place; should it not come, what is below it is
 * passed over. */
static int wait_for(struct walk *walk, uint8_t level)
{
    walk->waits = true;
    walk->wait_level = level < walk->tree->levels ? level : walk->tree->levels - 1;
    return -EAGAIN;
}

/* What cannot be read is passed over: neither it nor what is below it is told. */
static void pass_over(struct walk *walk, uint8_t level)
{
    uint64_t to = (walk->at / span(level) + 1) * span(level);
    walk->skipped += to - walk->at;
    advance(walk, to, level);
}

/* Look at the same place in the other trees. Returns TREE_FOUND when all are known. */
static int peek_others(struct walk *walk, uint8_t level, uint64_t index, struct waiter *waiter)
{
    int result = TREE_FOUND;
    for (uint32_t i = 0; i < walk->n_others; i++) {
        walk->peeks[i] = (struct peek){0};
        if (!walk->others[i])
            continue;
        int found = tree_peek(walk->others[i], level, index, waiter, &walk->peeks[i]);
        if (found == TREE_WAIT && waiter)
            return TREE_WAIT;
        if (found < 0 || found == TREE_WAIT)
            result = found;
    }
    return result;
}

/* The first of the others that has the form of what was peeked at too; n_others: none. */
static uint32_t who_shares(const struct walk *walk, const struct peek *own)
{
    uint32_t i = own->exact ? 0 : walk->n_others;
    for (; i < walk->n_others; i++) {
        const struct peek *p = &walk->peeks[i];
        if (p->exact && !entry_is_hole(&p->entry) && p->entry.address == own->entry.address)
            break;
    }
    return i;
}

static bool is_shared(const struct walk *walk, const struct peek *own)
{
    return who_shares(walk, own) < walk->n_others;
}

/* The node at the walk's place is being read: ask for those that come next, too. */
static void read_ahead(struct walk *walk, uint8_t level, uint64_t index)
{
    uint64_t end = (index / NODE_ENTRIES + 1) * NODE_ENTRIES;
    uint32_t n = 0, ahead = table_ahead(walk->tree->table, AHEAD);
    for (uint64_t i = index; i < end && n < ahead; i++) {
        struct peek p;
        struct node *node;
        if (tree_peek(walk->tree, level, i, NULL, &p) != TREE_FOUND)
            continue;
        if (peek_others(walk, level, i, NULL) != TREE_FOUND || is_shared(walk, &p))
            continue;
        if (!p.node)
            tree_node(walk->tree, level, i, NULL, &node);
        for (uint32_t k = 0; level == 0 && k < walk->n_compared; k++)
            if (walk->others[k] && !walk->peeks[k].node)
                tree_node(walk->others[k], level, i, NULL, &node);
        n += level == 0 ? 1 + walk->n_compared : 1;
    }
}

/* The nodes of those that are compared, at one place, in memory. */
static int other_nodes(struct walk *walk, uint8_t level, uint64_t index)
{
    for (uint32_t i = 0; i < walk->n_compared; i++) {
        walk->leaves[i] = NULL;
        if (!walk->others[i])
            continue;
        int found = tree_node(walk->others[i], level, index, &walk->waiter, &walk->leaves[i]);
        if (found == TREE_ABSENT)
            walk->leaves[i] = NULL;
        else if (found != TREE_FOUND)
            return found;
    }
    return TREE_FOUND;
}

/* A leaf that differs. */
static int do_leaf(struct walk *walk, struct node *leaf)
{
    int found = other_nodes(walk, 0, leaf->index);
    if (found == TREE_WAIT) {
        read_ahead(walk, 0, leaf->index);
        return wait_for(walk, 0);
    }
    if (found == -ENOMEM)
        return found;
    if (found < 0) {
        pass_over(walk, 0);
        return 0;
    }
    if (walk->leaf)
        walk->leaf(walk, leaf, walk->leaves);
    if (walk->leave) {
        /* The leaves are in memory, and so is what is above them. */
        peek_others(walk, 0, leaf->index, NULL);
        walk->leave(walk, leaf, walk->peeks);
    }
    advance(walk, (leaf->index + 1) * span(0), 0);
    return 0;
}

/* ---- leaves by their forms ------------------------------------------------------------------ */

/* What has no greater address is in the version before, too: forms of one node are appended in the
 * order of their epochs, and nobody has forms of a clone's line and not of its origin's before that
 * clone was made. */
static uint64_t before_address(const struct walk *walk)
{
    const struct peek *p = &walk->peeks[walk->n_compared];
    return walk->young && walk->n_others > walk->n_compared ? p->entry.address : 0;
}

/* Where the walk comes after this page, at the first leaf that not all share; false: it is not
 * known. *page moves on to it. */
static bool next_leaf(struct walk *walk, uint64_t *page, struct peek *ret)
{
    int level = walk->tree->levels - 1;
    while (*page < walk->pages) {
        uint64_t index = *page / span(level);
        int found = tree_peek(walk->tree, level, index, NULL, ret);
        if (found == TREE_FOUND)
            found = peek_others(walk, level, index, NULL);
        if (found != TREE_FOUND && found != TREE_ABSENT)
            return false;
        if (found == TREE_FOUND && !is_shared(walk, ret)) {
            if (level-- == 0)
                return true;
            continue;
        }
        *page = (index + 1) * span(level);
        while (level < walk->tree->levels - 1 && *page % span(level + 1) == 0)
            level++;
    }
    return false;
}

/* Ask for what is missing of the leaf that was peeked at. False: there is no room. */
static bool want_leaf(struct walk *walk, const struct peek *p)
{
    uint64_t older = before_address(walk);
    const struct peek *q = walk->n_compared ? &walk->peeks[0] : NULL;
    if (!p->node && !forms_want_node(walk->forms, &p->entry, older))
        return false;
    return !q || q->node || entry_is_hole(&q->entry) ||
           forms_want_node(walk->forms, &q->entry, older);
}

/* Something is missing at the walk's place: ask for it and for what comes next. First for the forms
 * of many leaves, then for the bases that these turn out to need. */
static int read_forms(struct walk *walk, const struct peek *p)
{
    struct forms *forms = walk->forms;
    bool more = walk->at < walk->ahead;
    if (!more || !want_leaf(walk, p)) {
        forms_clear(forms);
        want_leaf(walk, p);
        more = false;
    }
    uint64_t page = walk->at, end = more ? walk->ahead : walk->pages;
    struct peek next;
    for (;;) {
        page = (page / span(0) + 1) * span(0);
        if (!more)
            walk->ahead = page;
        if (!more && (forms->n > forms->max / 2 || forms->bytes > forms->max_bytes / 2))
            break;
        if (!next_leaf(walk, &page, &next) || page >= end || !want_leaf(walk, &next))
            break;
    }
    wait_for(walk, 0);
    forms_read(forms, &walk->waiter);
    return walk->waits ? -EAGAIN : 0;
}

/* The leaf of a tree that was peeked at; NULL: it has none. */
static int take_leaf(struct walk *walk, struct tree *tree, const struct peek *p,
                     struct node *scratch, struct node **ret)
{
    *ret = p->node;
    if (p->node || entry_is_hole(&p->entry))
        return 0;
    node_release(scratch);
    *scratch = (struct node){.tree = tree, .index = walk->at / span(0)};
    *ret = scratch;
    int code = forms_get_node(walk->forms, &p->entry, before_address(walk), scratch);
    if (code < 0 && code != -EAGAIN && tree->table->damage)
        tree->table->damage(tree->table->damage_arg, tree, 0, scratch->index, code);
    return code;
}

/* A leaf that differs; it and the others were peeked at. */
static int do_forms(struct walk *walk, const struct peek *p)
{
    struct node *leaf;
    int code = take_leaf(walk, walk->tree, p, &walk->own, &leaf);
    if (code == 0 && walk->n_compared)
        code = take_leaf(walk, walk->others[0], &walk->peeks[0], &walk->theirs, &walk->leaves[0]);
    if (code == -EAGAIN)
        return read_forms(walk, p);
    if (code < 0) {
        forms_clear(walk->forms);
        walk->ahead = 0;
        walk->failed = code;
        walk->wait_level = 0;
        return code == -ENOMEM ? code : 0;
    }
    if (walk->older && leaf->self_born <= walk->older) {
        walk->passed += span(0);
    } else {
        walk->leaf(walk, leaf, walk->leaves);
        if (walk->n_compared)
            walk->peeks[0].node = walk->leaves[0];
        if (walk->leave)
            walk->leave(walk, leaf, walk->peeks);
    }
    advance(walk, (walk->at / span(0) + 1) * span(0), 0);
    return 0;
}

/* From the root, or within a node that differs from that, down to the first node that all share, or
 * that differs as a leaf. */
static int go_down(struct walk *walk)
{
    int level = walk->tree->levels - 1;
    while (level > 0 && walk->at % span(level))
        level--;
    for (; level >= 0; level--) {
        uint64_t index = walk->at / span(level);
        struct peek p;
        struct node *node;
        int found = tree_peek(walk->tree, level, index, &walk->waiter, &p);
        if (found == TREE_WAIT)
            return wait_for(walk, level + 1);
        if (found == TREE_ABSENT) {
            advance(walk, (index + 1) * span(level), level);
            return 0;
        }
        if (found == TREE_FOUND)
            found = peek_others(walk, level, index, &walk->waiter);
        if (found == TREE_WAIT)
            return wait_for(walk, level + 1);
        if (found == TREE_FOUND && is_shared(walk, &p)) {
            if (who_shares(walk, &p) >= walk->n_compared)
                walk->passed += span(level);
            advance(walk, (index + 1) * span(level), level);
            return 0;
        }
        if (found == TREE_FOUND && level == 0 && walk->forms)
            return do_forms(walk, &p);
        if (found == TREE_FOUND)
            found = tree_node(walk->tree, level, index, &walk->waiter, &node);
        if (found == TREE_WAIT) {
            read_ahead(walk, level, index);
            return wait_for(walk, level);
        }
        if (found == -ENOMEM)
            return found;
        if (found < 0) {
            pass_over(walk, level);
            return 0;
        }
        if (walk->older && node->self_born <= walk->older) {
            walk->passed += span(level);
            advance(walk, (index + 1) * span(level), level);
            return 0;
        }
        if (level == 0)
            return do_leaf(walk, node);
    }
    return 0;
}

/* Leave the inner node of level rise that ends at the walk's place, if one does. */
static int go_up(struct walk *walk)
{
    uint8_t level = walk->rise;
    if (level >= walk->tree->levels || (walk->at % span(level) && walk->at < walk->pages)) {
        walk->rise = 0;
        return 0;
    }
    if (walk->leave) {
        uint64_t index = (walk->at - 1) / span(level);
        struct node *node;
        int found = tree_node(walk->tree, level, index, &walk->waiter, &node);
        if (found == TREE_FOUND)
            found = other_nodes(walk, level, index);
        if (found == TREE_WAIT)
            return wait_for(walk, level);
        if (found == -ENOMEM)
            return found;
        if (found == TREE_FOUND) {
            peek_others(walk, level, index, NULL);
            walk->leave(walk, node, walk->peeks);
        }
    }
    walk->rise = level + 1;
    return 0;
}

/* A node that was waited for cannot be read. */
static void give_up(struct walk *walk)
{
    walk->failed = 0;
    if (walk->tries++ < 2)
        return;
    walk->tries = 0;
    if (walk->rise)
        walk->rise++;
    else
        pass_over(walk, walk->wait_level);
}

int walk_step(struct walk *walk, uint32_t *budget)
{
    if (walk->failed)
        give_up(walk);
    while (*budget && !walk->failed) {
        --*budget;
        if (!walk->rise && walk->at >= walk->pages)
            return 1;
        int code = walk->rise ? go_up(walk) : go_down(walk);
        if (code < 0)
            return code;
    }
    return 0;
}
