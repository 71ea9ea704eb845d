/* freeze.c - writing nodes: what was dirty at one instant, leaves first (table.h). */
#include "image/table-internal.h"

#include "base/checksum.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>

/* ---- who holds what ------------------------------------------------------------------------- */

static bool page_is_passed(const struct release *r, uint64_t page)
{
    return page < r->at;
}

static bool node_is_passed(const struct release *r, const struct node *node)
{
    uint64_t end = (node->index + 1) << level_shift(node->level + 1);
    return end < r->at || (end == r->at && (!r->rise || node->level < r->rise));
}

bool tree_holds_page(const struct tree *tree, uint64_t page, uint64_t address)
{
    const struct release *r = tree->release;
    return address < (r && page_is_passed(r, page) ? r->cut : tree->held_cut);
}

/* ---- freezes -------------------------------------------------------------------------------- */

static struct freeze *freeze_at(struct tree_changes *c, uint32_t i)
{
    return &c->freezes[(c->first + i) % 2];
}

/* The freeze that nodes of an epoch belong to; NULL: it is not frozen. */
static struct freeze *freeze_of(struct tree_changes *c, uint64_t epoch)
{
    for (uint32_t i = 0; i < c->n_freezes; i++)
        if (epoch <= freeze_at(c, i)->epoch)
            return freeze_at(c, i);
    return NULL;
}

/* A form that the node had is replaced: it is dead unless a version holds it. That is the one
 * before the node's own state: not one that was made from this state, or later. */
static void form_replaced(const struct node *node, const struct entry *form, uint64_t born)
{
    const struct tree *tree = node->tree;
    const struct freeze *f = freeze_of(tree->changes, node->epoch);
    const struct release *r = f && f->fixed ? f->release : tree->release;
    uint64_t held = f && f->fixed ? f->held_epoch : tree->held_epoch;
    if (r && node_is_passed(r, node))
        held = r->epoch;
    if (!entry_is_hole(form) && (born > held || held == 0))
        log_set_dead(tree->table->log, form->address, entry_slots(form));
}

/* Put a clean node among those that are dirty since an epoch. */
static void dirty_since(struct node *node, uint64_t epoch)
{
    struct tree_changes *c = node->tree->changes;
    struct table *table = node->tree->table;
    struct freeze *f = freeze_of(c, epoch);
    if (f) {
        f->n++;
        table->n_frozen++;
        node_mark_dirty(node, &f->frozen[node->level], epoch);
    } else {
        assert(epoch == c->epoch);
        c->n_dirty++;
        node_mark_dirty(node, &c->dirty[node->level], epoch);
    }
    if (list_empty(&c->link))
        list_push_back(&table->changing, &c->link);
}

void tree_dirty(struct node *node)
{
    dirty_since(node, node->tree->changes->epoch);
}

/* What is written to the end gives its root to those that wait for it. */
static void finish_freezes(struct tree *tree)
{
    struct tree_changes *c = tree->changes;
    struct table *table = tree->table;
    while (c->n_freezes && freeze_at(c, 0)->n == 0) {
        struct freeze *f = freeze_at(c, 0);
        struct list *l;
        while ((l = list_pop_front(&f->heirs))) {
            struct tree *heir = container_of(l, struct tree, heir_link);
            heir->origin = NULL;
            heir->root_entry = tree->root_entry;
            heir->root_seq = log_table_last_seq(table->log);
            if (heir->changes) /* the checkpoint may have begun while it waited */
                heir->changes->checkpoint_root = tree->root_entry;
        }
        if (f->of_checkpoint) {
            c->checkpoint_root = tree->root_entry;
            table->n_checkpoint--;
        }
        c->first = (c->first + 1) % 2;
        c->n_freezes--;
        table->root_again = true;
    }
    if (!c->n_freezes && !c->n_dirty)
        list_del(&c->link);
}

bool tree_may_freeze(const struct tree *tree)
{
    return tree->changes->n_freezes < 2;
}

bool tree_is_frozen(const struct tree *tree)
{
    return tree->changes && tree->changes->n_freezes > 0;
}

static struct freeze *freeze(struct tree *tree)
{
    struct tree_changes *c = tree->changes;
    struct table *table = tree->table;
    assert(c->n_freezes < 2);
    struct freeze *f = freeze_at(c, c->n_freezes++);
    f->epoch = c->epoch;
    f->n = c->n_dirty;
    f->of_checkpoint = f->fixed = false;
    for (int level = 0; level < NODE_LEVELS; level++)
        list_splice(&f->frozen[level], &c->dirty[level]);
    c->n_dirty = 0;
    table->n_frozen += f->n;
    c->epoch = ++table->epoch;
    if (list_empty(&c->link))
        list_push_back(&table->changing, &c->link);
    return f;
}

void tree_snapshot(struct tree *head, struct tree *version)
{
    if (head->origin) { /* nothing can have changed: it has no root yet */
        tree_copy(head, version);
        version->young_pages = head->young_pages;
        head->young_pages = 0;
        head->changes->epoch = ++head->table->epoch;
        return;
    }
    struct freeze *f = freeze(head);
    for (uint32_t i = 0; i < head->changes->n_freezes; i++) {
        struct freeze *g = freeze_at(head->changes, i);
        if (g->fixed)
            continue;
        g->fixed = true;
        g->held_epoch = head->held_epoch;
        g->release = head->release;
    }
    tree_init(version, head->table, head->family, head->levels, (struct entry){0});
    version->used_pages = head->used_pages;
    version->young_pages = head->young_pages;
    version->origin = f;
    list_push_back(&f->heirs, &version->heir_link);
    head->young_pages = 0;
    head->changes->touched = false;
    finish_freezes(head);
}

void tree_copy(const struct tree *version, struct tree *copy)
{
    tree_init(copy, version->table, version->family, version->levels, version->root_entry);
    copy->used_pages = version->used_pages;
    copy->origin = version->origin;
    copy->root_seq = version->root_seq;
    if (copy->origin)
        list_push_back(&copy->origin->heirs, &copy->heir_link);
}

bool tree_finish(struct tree *tree)
{
    struct tree_changes *c = tree->changes;
    if (!c)
        return true;
    if (c->n_dirty && c->n_freezes < 2) {
        freeze(tree);
        finish_freezes(tree);
    }
    if (c->n_dirty || c->n_freezes || c->in_checkpoint)
        return false;
    tree->root_seq = log_table_last_seq(tree->table->log);
    list_del(&c->link);
    free(c);
    tree->changes = NULL;
    return true;
}

/* ---- writing -------------------------------------------------------------------------------- */

static int node_write(struct node *node);

/* Before a node of an epoch is written: what its parent's form of an earlier freeze lacks is
 * written, and that form. */
static int settle(struct node *parent, uint64_t epoch)
{
    struct freeze *f = freeze_at(parent->tree->changes, 0);
    if (!parent->tree->changes->n_freezes || f->epoch >= epoch)
        return 0;
    if (parent->dirty && parent->epoch == epoch)
        return 0;
    uint64_t until = f->epoch;
    for (uint32_t i = 0; parent->dirty_children && i < NODE_ENTRIES; i++) {
        struct node *child = parent->children[i];
        int code = child && child->dirty && child->epoch <= until ? node_write(child) : 0;
        if (code < 0)
            return code;
    }
    return parent->dirty && parent->epoch <= until ? node_write(parent) : 0;
}

/* The parent learns where its child is now; it is to be written by the same freeze. */
static int tell_parent(struct node *node, struct entry entry)
{
    struct node *parent = node->parent;
    if (!parent) {
        node->tree->root_entry = entry;
        return 0;
    }
    int64_t bytes;
    int code = node_set(parent, node->index % NODE_ENTRIES, entry, &bytes);
    if (code < 0)
        return code;
    node_account(node->tree->table, parent, bytes);
    assert(!parent->dirty || parent->epoch == node->epoch);
    if (!parent->dirty)
        dirty_since(parent, node->epoch);
    if (entry_is_hole(&entry))
        parent->cleared = parent->epoch;
    return 0;
}

static int append_form(struct node *node, struct entry *ret, bool *ret_delta)
{
    struct table *table = node->tree->table;
    uint64_t address;
    if (!node->cleared) /* what it was made from did not say */
        node->cleared = node->epoch;
    uint32_t bytes = node_encode(node, node->tree->family, node->epoch, table->scratch, ret_delta);
    int code = log_table_append(table->log, table->scratch, bytes, &address, &node->buf_seq);
    if (code < 0)
        return code;
    *ret =
        entry_of_node(address, checksum_at(address, table->scratch, bytes), bytes >> TABLE_SHIFT);
    table->stats.nodes_written++;
    table->stats.deltas_written += *ret_delta;
    node->delta_bytes = *ret_delta ? node->delta_bytes + bytes : 0;
    return 0;
}

/* The node's form in the log is now entry: what it replaces may be free. */
static void replace_form(struct node *node, struct entry entry, bool delta)
{
    if (!delta) {
        form_replaced(node, &node->self, node->self_born);
        form_replaced(node, &node->base, node->base_born);
        node->base = (struct entry){0};
        node_forget_changes(node);
    } else if (entry_is_hole(&node->base)) {
        node->base = node->self; /* the full form stays, under the delta */
        node->base_born = node->self_born;
    } else {
        form_replaced(node, &node->self, node->self_born);
    }
    node->self = entry;
    node->self_born = node->epoch;
}

/* Is it written for another reason than the checkpoint that is being made? */
static bool is_later(struct tree_changes *c, const struct node *node)
{
    for (uint32_t i = 0; i < c->n_freezes; i++)
        if (freeze_at(c, i)->of_checkpoint && node->epoch <= freeze_at(c, i)->epoch)
            return false;
    return true;
}

/* Write a node's form, free the forms that it replaces, and tell its parent. It is clean then. */
static int node_write(struct node *node)
{
    struct tree *tree = node->tree;
    struct entry entry = {0};
    bool delta = false;
    int code = node->parent ? settle(node->parent, node->epoch) : 0;
    tree->table->log->later = is_later(tree->changes, node);
    if (code == 0 && node->n)
        code = append_form(node, &entry, &delta);
    if (code == 0)
        code = tell_parent(node, entry);
    if (code == 0)
        replace_form(node, entry, delta);
    tree->table->log->later = false;
    if (code < 0)
        return code;
    struct freeze *f = freeze_of(tree->changes, node->epoch);
    node_mark_clean(node);
    f->n--;
    tree->table->n_frozen--;
    finish_freezes(tree);
    return 0;
}

int node_touch(struct node *node)
{
    struct tree_changes *c = node->tree->changes;
    c->touched = true;
    if (node->dirty && node->epoch == c->epoch)
        return 0;
    if (node->dirty) {
        int code = node_write(node);
        if (code < 0)
            return code;
    }
    tree_dirty(node);
    return 0;
}

/* Is a page that stands in a leaf of the tree younger than the version before it? */
static bool is_young(const struct tree *tree, uint64_t page, const struct entry *e)
{
    return entry_encoding(e) == ENCODING_RAW && !tree_holds_page(tree, page, e->address);
}

int leaf_set(struct node *leaf, uint32_t index, struct entry entry)
{
    struct tree *tree = leaf->tree;
    struct entry old = node_get(leaf, index);
    uint64_t page = leaf->index * NODE_ENTRIES + index;
    int64_t bytes;
    int code = node_set(leaf, index, entry, &bytes);
    if (code < 0)
        return code;
    node_account(tree->table, leaf, bytes);
    if (entry_encoding(&entry) != ENCODING_RAW && entry_encoding(&entry) != entry_encoding(&old))
        leaf->cleared = leaf->epoch;
    tree->used_pages += !entry_is_hole(&entry);
    tree->used_pages -= !entry_is_hole(&old);
    if (entry_encoding(&entry) == ENCODING_RAW) {
        log_set_live(tree->table->log, entry.address, 1);
        tree->young_pages++;
    }
    if (is_young(tree, page, &old)) {
        log_set_dead(tree->table->log, old.address, 1);
        tree->young_pages -= tree->young_pages > 0;
    } else if (entry_encoding(&old) == ENCODING_RAW && tree->stale) {
        ++*tree->stale;
    }
    return 0;
}

/* ---- for checkpoints ------------------------------------------------------------------------ */

bool table_may_freeze(const struct table *table)
{
    list_for_each (l, &table->changing) {
        if (container_of(l, struct tree_changes, link)->n_freezes == 2)
            return false;
    }
    return true;
}

void table_freeze(struct table *table)
{
    assert(!table->n_checkpoint);
    list_for_each_safe (l, &table->changing) {
        struct tree_changes *c = container_of(l, struct tree_changes, link);
        freeze(c->tree)->of_checkpoint = true;
        c->in_checkpoint = true;
        table->n_checkpoint++;
        finish_freezes(c->tree);
    }
}

static int write_first(struct tree_changes *c, uint32_t *n)
{
    struct freeze *f = freeze_at(c, 0);
    for (int level = 0; level < NODE_LEVELS && *n; level++) {
        while (*n && !list_empty(&f->frozen[level])) {
            --*n;
            bool last = f->n == 1;
            int code = node_write(container_of(f->frozen[level].next, struct node, link));
            if (code < 0)
                return code;
            if (last && f != freeze_at(c, 0))
                return 0;
        }
    }
    return 0;
}

int table_write_some(struct table *table, uint32_t n)
{
    list_for_each_safe (l, &table->changing) {
        struct tree_changes *c = container_of(l, struct tree_changes, link);
        while (n && c->n_freezes) {
            int code = write_first(c, &n);
            if (code < 0)
                return code;
        }
        if (!n)
            break;
    }
    return table->n_frozen == 0;
}

bool table_is_written(const struct table *table)
{
    return table->n_checkpoint == 0;
}

bool table_wake(struct table *table)
{
    uint64_t done = table->log->table.done_seq;
    struct list waiters, *l;
    if (list_empty(&table->root_waiters))
        return false;
    if (table->root_again || !table->n_frozen) /* the roots may be in the last buffer */
        log_table_flush(table->log);
    bool never = table->log->error && !table->log->table.inflight;
    if (!table->root_again && table->woken_seq == done && !never)
        return false;
    table->root_again = false;
    table->woken_seq = done;
    list_init(&waiters);
    list_splice(&waiters, &table->root_waiters);
    while ((l = list_pop_front(&waiters))) {
        struct waiter *waiter = container_of(l, struct waiter, link);
        waiter->wake(waiter, 0);
    }
    return true;
}
