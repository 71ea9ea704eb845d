/* table.c - nodes in memory: finding, loading, evicting, changing, writing. */
#include "image/table-internal.h"

#include "base/checksum.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- books ---------------------------------------------------------------------------------- */

void node_account(struct table *table, const struct node *node, int64_t bytes)
{
    table->bytes += bytes;
    if (node->dirty)
        table->dirty_bytes += bytes;
}

/* A node became dirty or clean, and had nothing dirty below it: those above it learn. */
static void count_dirty(struct node *node, bool dirty)
{
    for (struct node *p = node->parent; p; p = p->parent) {
        bool was = p->dirty || p->dirty_children;
        uint32_t above = !p->dirty && p->dirty_children;
        p->dirty_children += dirty ? 1 : -1;
        p->tree->table->n_above += (!p->dirty && p->dirty_children) - above;
        if (was == (p->dirty || p->dirty_children))
            return;
    }
}

void node_mark_dirty(struct node *node, struct list *to, uint64_t epoch)
{
    struct table *table = node->tree->table;
    assert(!node->dirty);
    list_del(&node->link);
    table->dirty_bytes += node_memory(node);
    if (!node->dirty_children)
        count_dirty(node, true);
    else
        table->n_above--;
    node->dirty = true;
    table->n_dirty++;
    node->epoch = epoch;
    list_push_back(to, &node->link);
}

void node_mark_clean(struct node *node)
{
    struct table *table = node->tree->table;
    assert(node->dirty);
    list_del(&node->link);
    table->dirty_bytes -= node_memory(node);
    node->dirty = false;
    table->n_dirty--;
    if (!node->dirty_children)
        count_dirty(node, false);
    else
        table->n_above++;
    list_push_back(&table->clean, &node->link);
}

static struct node *node_create(struct tree *tree, struct node *parent, uint8_t level,
                                uint64_t index)
{
    struct table *table = tree->table;
    struct node *node = calloc(1, sizeof(*node));
    if (!node)
        return NULL;
    if (parent && !parent->children) {
        parent->children = calloc(NODE_ENTRIES, sizeof(*parent->children));
        if (!parent->children) {
            free(node);
            return NULL;
        }
        node_account(table, parent, NODE_ENTRIES * sizeof(*parent->children));
    }
    list_init(&node->link);
    list_init(&node->waiters);
    node->tree = tree;
    node->parent = parent;
    node->level = level;
    node->index = index;
    if (parent) {
        parent->children[index % NODE_ENTRIES] = node;
        parent->n_children++;
    } else {
        tree->root = node;
    }
    table->n_nodes++;
    node_account(table, node, node_memory(node));
    list_push_back(&table->clean, &node->link);
    return node;
}

static void node_destroy(struct node *node)
{
    struct table *table = node->tree->table;
    assert(!node->n_children && !node->pins && !node->loading);
    if (node->dirty && !node->dirty_children)
        count_dirty(node, false);
    table->n_dirty -= node->dirty;
    node_account(table, node, -(int64_t)node_memory(node));
    list_del(&node->link);
    if (node->parent) {
        node->parent->children[node->index % NODE_ENTRIES] = NULL;
        node->parent->n_children--;
    } else {
        node->tree->root = NULL;
    }
    table->n_nodes--;
    assert(table->n_nodes || (!table->n_dirty && !table->n_above));
    node_release(node);
    free(node);
}

int table_create(struct log *log, uint64_t budget_bytes, struct table **ret)
{
    struct table *table = calloc(1, sizeof(*table));
    uint8_t *scratch = aligned_alloc(64, NODE_MAX_BYTES);
    if (!table || !scratch) {
        free(table);
        free(scratch);
        return -ENOMEM;
    }
    table->log = log;
    table->budget_bytes = budget_bytes;
    table->scratch = scratch;
    table->keep = TABLE_KEEP;
    list_init(&table->clean);
    list_init(&table->changing);
    list_init(&table->root_waiters);
    *ret = table;
    return 0;
}

void table_free(struct table *table)
{
    if (!table)
        return;
    free(table->scratch);
    free(table);
}

void tree_init(struct tree *tree, struct table *table, uint32_t family, uint8_t levels,
               struct entry root)
{
    *tree = (struct tree){.table = table, .family = family, .levels = levels, .root_entry = root};
    list_init(&tree->heir_link);
}

int tree_make_head(struct tree *tree)
{
    struct tree_changes *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->tree = tree;
    c->epoch = ++tree->table->epoch;
    list_init(&c->link);
    for (int level = 0; level < NODE_LEVELS; level++) {
        list_init(&c->dirty[level]);
        for (int i = 0; i < 2; i++)
            list_init(&c->freezes[i].frozen[level]);
    }
    for (int i = 0; i < 2; i++)
        list_init(&c->freezes[i].heirs);
    tree->changes = c;
    return 0;
}

static void drop_node(struct node *node)
{
    for (uint32_t i = 0; node->n_children && i < NODE_ENTRIES; i++)
        if (node->children[i])
            drop_node(node->children[i]);
    node_destroy(node);
}

void tree_drop(struct tree *tree)
{
    struct tree_changes *c = tree->changes;
    if (tree->root)
        drop_node(tree->root);
    list_del(&tree->heir_link);
    if (!c)
        return;
    list_del(&c->link);
    for (uint32_t i = 0; i < 2; i++)
        while (!list_empty(&c->freezes[i].heirs))
            container_of(list_pop_front(&c->freezes[i].heirs), struct tree, heir_link)->origin =
                NULL;
    free(c);
    tree->changes = NULL;
}

uint8_t tree_levels(uint64_t pages)
{
    uint8_t levels = 1;
    while (levels < NODE_LEVELS && pages > 1ULL << level_shift(levels))
        levels++;
    return levels;
}

/* ---- loading -------------------------------------------------------------------------------- */

int form_locate(struct log *log, struct entry entry, struct form_read *ret)
{
    struct log_file *file;
    uint64_t offset;
    uint32_t bytes = entry_slots(&entry) << TABLE_SHIFT;
    if (entry_encoding(&entry) != ENCODING_NODE || bytes == 0 || bytes > NODE_MAX_BYTES)
        return ERR_DAMAGED;
    if (log_locate(log, entry.address, &file, &offset) < 0 || file->shift != TABLE_SHIFT ||
        offset + bytes > FILE_BYTES)
        return ERR_DAMAGED;
    *ret = (struct form_read){.entry = entry, .file = file, .offset = offset, .bytes = bytes};
    return 0;
}

int form_start(struct log *log, struct form_read *r, void (*done)(struct storage_req *, int))
{
    uint64_t from = r->offset / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t to = (r->offset + r->bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    r->iov = (struct iovec){aligned_alloc(STORAGE_ALIGN_BYTES, to - from), to - from};
    if (!r->iov.iov_base)
        return -ENOMEM;
    r->req = (struct storage_req){.done = done,
                                  .op = STORAGE_READ,
                                  .file = r->file->number,
                                  .offset_bytes = from,
                                  .length_bytes = to - from,
                                  .iov = &r->iov,
                                  .n_iov = 1};
    r->file->readers++;
    log->storage->submit(log->storage, &r->req);
    return 0;
}

const uint8_t *form_take(struct form_read *r, int res, int *ret_code)
{
    uint32_t skip = r->offset % BLOCK_BYTES;
    uint8_t *form = (uint8_t *)r->iov.iov_base + skip;
    r->file->readers--;
    *ret_code = res < 0 ? res : ERR_CHECKSUM;
    if (res < 0 || (uint32_t)res < skip + r->bytes)
        return NULL;
    if (checksum_at(r->entry.address, form, r->bytes) != r->entry.sum) {
        if (!node_form_mend(form, r->bytes, r->entry.address, r->entry.sum))
            return NULL;
        r->mended = true;
    }
    *ret_code = 0;
    return form;
}

void form_free(struct form_read *r)
{
    free(r->iov.iov_base);
    r->iov.iov_base = NULL;
}

/* A node being read: first its own form, then the base of a delta. */
struct node_read {
    struct form_read form;
    struct node *node;
    uint8_t *delta; /* the delta, while its base is read */
    uint32_t delta_bytes;
};

static void wake_waiters(struct node *node, int error)
{
    struct list waiters;
    list_init(&waiters);
    list_splice(&waiters, &node->waiters);
    if (error)
        node_destroy(node);
    struct list *l;
    while ((l = list_pop_front(&waiters))) {
        struct waiter *waiter = container_of(l, struct waiter, link);
        waiter->wake(waiter, error);
    }
}

static void load_done(struct node_read *r, int error)
{
    struct node *node = r->node;
    struct table *table = node->tree->table;
    form_free(&r->form);
    free(r->delta);
    free(r);
    node->loading = false;
    node->tree->n_loading--;
    table->n_loading--;
    list_push_back(&table->clean, &node->link);
    if (error && table->damage)
        table->damage(table->damage_arg, node->tree, node->level, node->index, error);
    wake_waiters(node, error);
}

void table_mended(const struct tree *tree, uint8_t level, uint64_t index)
{
    struct table *table = tree->table;
    table->stats.mended++;
    if (table->damage)
        table->damage(table->damage_arg, tree, level, index, 0);
}

static void node_was_read(struct storage_req *req, int res);

static int read_form(struct node_read *r, struct entry entry)
{
    struct table *table = r->node->tree->table;
    int code = form_locate(table->log, entry, &r->form);
    if (code == 0)
        code = form_start(table->log, &r->form, node_was_read);
    if (code < 0)
        return code;
    table->stats.loads++;
    table->stats.load_bytes += r->form.iov.iov_len;
    return 0;
}

/* What was read is the node's own form. Returns 1 when a base is wanted first. */
static int take_form(struct node_read *r, const uint8_t *form, uint32_t bytes)
{
    struct node *node = r->node;
    struct entry base;
    int64_t before = node_memory(node);
    int code = node_decode(node, node->tree->family, form, bytes, r->delta != NULL, &base);
    if (code == 0 && r->delta)
        code = node_decode(node, node->tree->family, r->delta, r->delta_bytes, false, &base);
    node_account(node->tree->table, node, (int64_t)node_memory(node) - before);
    if (code == 0 && r->delta)
        node->base_born = node_born(form);
    else if (code == 0)
        node->self_born = node_born(form);
    if (code < 0 || r->delta || entry_is_hole(&base))
        return code;
    node->base = base;
    node->delta_bytes = bytes;
    return 1;
}

static void node_was_read(struct storage_req *req, int res)
{
    struct node_read *r = container_of(req, struct node_read, form.req);
    uint32_t bytes = r->form.bytes;
    int code;
    const uint8_t *form = form_take(&r->form, res, &code);

    if (r->form.mended)
        table_mended(r->node->tree, r->node->level, r->node->index);
    if (form)
        code = take_form(r, form, bytes);
    if (code <= 0) {
        load_done(r, code);
        return;
    }
    r->delta = malloc(bytes);
    if (!r->delta) {
        load_done(r, -ENOMEM);
        return;
    }
    memcpy(r->delta, form, bytes);
    r->delta_bytes = bytes;
    form_free(&r->form);
    code = read_form(r, r->node->base);
    if (code < 0)
        load_done(r, code);
}

static int node_load(struct tree *tree, struct node *parent, uint8_t level, uint64_t index,
                     struct entry entry, struct waiter *waiter)
{
    struct node *node = node_create(tree, parent, level, index);
    struct node_read *r = calloc(1, sizeof(*r));
    if (!node || !r) {
        if (node)
            node_destroy(node);
        free(r);
        return -ENOMEM;
    }
    node->self = entry;
    r->node = node;
    int code = read_form(r, entry);
    if (code < 0) {
        free(r);
        if (tree->table->damage)
            tree->table->damage(tree->table->damage_arg, tree, level, index, code);
        node_destroy(node);
        return code;
    }
    node->loading = true;
    tree->n_loading++;
    tree->table->n_loading++;
    list_del(&node->link);
    if (waiter)
        list_push_back(&node->waiters, &waiter->link);
    return TREE_WAIT;
}

/* ---- finding -------------------------------------------------------------------------------- */

/* Is the root's form not written yet, or not on the medium? Then the waiter is parked (TREE_WAIT);
 * when the log has failed it will never be (-EIO). 0: it is there. */
static int root_waits(struct tree *tree, struct waiter *waiter)
{
    struct table *table = tree->table;
    if (!tree->origin && tree->root_seq <= table->log->table.done_seq)
        return 0;
    if (table->log->error && !table->log->table.inflight)
        return -EIO;
    if (waiter)
        list_push_back(&table->root_waiters, &waiter->link);
    return TREE_WAIT;
}

static int child_get(struct tree *tree, struct node *parent, uint64_t index, bool create,
                     struct waiter *waiter, struct node **ret)
{
    uint8_t level = parent ? parent->level - 1 : tree->levels - 1;
    struct node *node = !parent            ? tree->root
                        : parent->children ? parent->children[index % NODE_ENTRIES]
                                           : NULL;
    if (!node) {
        int waits = parent ? 0 : root_waits(tree, waiter);
        if (waits)
            return waits;
        struct entry e = parent ? node_get(parent, index % NODE_ENTRIES) : tree->root_entry;
        if (!entry_is_hole(&e))
            return node_load(tree, parent, level, index, e, waiter);
        if (!create)
            return TREE_ABSENT;
        node = node_create(tree, parent, level, index);
        if (!node)
            return -ENOMEM;
        node->cleared = level == 0; /* a leaf that went before is its parent's to tell */
    }
    if (node->loading) {
        if (waiter)
            list_push_back(&node->waiters, &waiter->link);
        return TREE_WAIT;
    }
    *ret = node;
    return TREE_FOUND;
}

/* A clean node has been looked at. */
static void used(struct node *node)
{
    if (node->dirty || node->pins)
        return;
    list_del(&node->link);
    list_push_back(&node->tree->table->clean, &node->link);
}

int tree_get(struct tree *tree, uint64_t page, bool create, struct waiter *waiter,
             struct node **ret, uint64_t *ret_pages)
{
    struct node *node = NULL;
    for (int level = tree->levels - 1; level >= 0; level--) {
        uint64_t index = page >> level_shift(level + 1);
        int found = child_get(tree, node, index, create, waiter, &node);
        if (found == TREE_ABSENT)
            *ret_pages =
                (1ULL << level_shift(level + 1)) - (page & ((1ULL << level_shift(level + 1)) - 1));
        if (found != TREE_FOUND)
            return found;
    }
    used(node);
    *ret = node;
    return TREE_FOUND;
}

/* The parent of a node of the given level, which is below the root. */
static int parent_get(struct tree *tree, uint8_t level, uint64_t index, struct waiter *waiter,
                      struct node **ret)
{
    struct node *node = NULL;
    for (int l = tree->levels - 1; l > level; l--) {
        int found = child_get(tree, node, index >> level_shift(l - level), false, waiter, &node);
        if (found != TREE_FOUND)
            return found;
    }
    *ret = node;
    return TREE_FOUND;
}

int tree_peek(struct tree *tree, uint8_t level, uint64_t index, struct waiter *waiter,
              struct peek *ret)
{
    *ret = (struct peek){0};
    if (index >> level_shift(tree->levels - 1 - (level < tree->levels ? level : tree->levels - 1)))
        return TREE_ABSENT;
    if (level >= tree->levels)
        return TREE_FOUND;
    struct node *parent = NULL;
    int found = parent_get(tree, level, index, waiter, &parent);
    if (found != TREE_FOUND)
        return found;
    ret->node = !parent            ? tree->root
                : parent->children ? parent->children[index % NODE_ENTRIES]
                                   : NULL;
    if (ret->node && ret->node->loading)
        ret->node = NULL;
    if (ret->node) {
        ret->entry = ret->node->self;
        ret->exact = !ret->node->dirty && !ret->node->dirty_children;
        return TREE_FOUND;
    }
    int waits = parent ? 0 : root_waits(tree, waiter);
    if (waits)
        return waits;
    ret->entry = parent ? node_get(parent, index % NODE_ENTRIES) : tree->root_entry;
    ret->exact = true;
    return entry_is_hole(&ret->entry) ? TREE_ABSENT : TREE_FOUND;
}

int tree_node(struct tree *tree, uint8_t level, uint64_t index, struct waiter *waiter,
              struct node **ret)
{
    struct node *parent = NULL;
    if (level >= tree->levels || index >> level_shift(tree->levels - 1 - level))
        return TREE_ABSENT;
    int found = parent_get(tree, level, index, waiter, &parent);
    if (found != TREE_FOUND)
        return found;
    found = child_get(tree, parent, index, false, waiter, ret);
    if (found == TREE_FOUND)
        used(*ret);
    return found;
}

static int lose_entries(struct node *node, uint64_t n_pages)
{
    const struct entry lost = {.flags = ENCODING_LOST};
    for (uint32_t i = 0; i < NODE_ENTRIES; i++) {
        int64_t bytes;
        if ((node->index * NODE_ENTRIES + i) << level_shift(node->level) >= n_pages)
            break;
        int code = node_set(node, i, lost, &bytes);
        if (code < 0)
            return code;
        node_account(node->tree->table, node, bytes);
        node->tree->used_pages += node->level == 0; /* too many, never too few */
    }
    return 0;
}

int tree_mend(struct tree *tree, uint64_t page, uint64_t n_pages)
{
    struct node *parent = NULL;
    for (int level = tree->levels - 1; level >= 0; level--) {
        uint64_t index = page >> level_shift(level + 1);
        struct node *node = !parent            ? tree->root
                            : parent->children ? parent->children[index % NODE_ENTRIES]
                                               : NULL;
        if (node) {
            parent = node;
            continue;
        }
        struct entry e = parent ? node_get(parent, index % NODE_ENTRIES) : tree->root_entry;
        node = node_create(tree, parent, level, index);
        if (!node)
            return -ENOMEM;
        if (entry_encoding(&e) == ENCODING_NODE)
            node->self = e; /* its slots are freed when this one is written */
        return lose_entries(node, n_pages);
    }
    return ERR_DAMAGED;
}

void node_pin(struct node *node)
{
    node->pins++;
}

void node_unpin(struct node *node)
{
    assert(node->pins);
    node->pins--;
}

static bool may_leave(const struct table *table, const struct node *node)
{
    return !node->pins && !node->n_children && !node->loading &&
           node->buf_seq <= table->log->table.done_seq;
}

uint32_t table_ahead(const struct table *table, uint32_t n)
{
    uint64_t may = table->budget_bytes / 4 / NODE_MAX_BYTES;
    return may < n ? (uint32_t)may : n;
}

/* What is dirty and what is above it cannot leave. Of the others it keeps as many as all walks need
 * at once: else each would find gone what another one's wait has pushed out, for ever. */
static bool is_small(const struct table *table)
{
    return table->bytes <= table->budget_bytes ||
           table->n_nodes <= table->n_dirty + table->n_above + table->keep;
}

void table_shrink(struct table *table)
{
    uint32_t looked = 0;
    list_for_each_safe (l, &table->clean) {
        struct node *node = container_of(l, struct node, link);
        if (is_small(table) || looked++ > 4096)
            return;
        if (may_leave(table, node)) {
            node_destroy(node);
            table->stats.evictions++;
        } else {
            list_del(&node->link); /* look at others first, next time */
            list_push_back(&table->clean, &node->link);
        }
    }
}

/* A checkpoint has to find room for what is dirty: one and a half files may stand in what is kept
 * for the table stream; more only where there are many more files. */
bool table_is_crowded(const struct table *table)
{
    uint64_t most = log_table_ample(table->log);
    if (most < FILE_BYTES / 2 * 3)
        most = FILE_BYTES / 2 * 3;
    if (most > table->budget_bytes / 4 * 3)
        most = table->budget_bytes / 4 * 3;
    return table->dirty_bytes > most;
}

/* ---- growing -------------------------------------------------------------------------------- */

int tree_grow(struct tree *tree, uint8_t levels)
{
    while (tree->levels < levels) {
        struct node *old = tree->root;
        if (!old && entry_is_hole(&tree->root_entry)) {
            tree->levels = levels;
            return 0;
        }
        tree->root = NULL;
        struct node *root = node_create(tree, NULL, tree->levels, 0);
        struct node **children = calloc(NODE_ENTRIES, sizeof(*children));
        int64_t bytes = 0;
        if (!root || !children || node_set(root, 0, tree->root_entry, &bytes) < 0) {
            if (root)
                node_destroy(root);
            free(children);
            tree->root = old;
            return -ENOMEM;
        }
        root->children = children;
        node_account(tree->table, root, bytes + NODE_ENTRIES * (int64_t)sizeof(*children));
        if (old) {
            old->parent = root;
            children[0] = old;
            root->n_children = 1;
            root->dirty_children = old->dirty || old->dirty_children;
            root->tree->table->n_above += root->dirty_children;
        }
        tree_dirty(root);
        tree->root_entry = (struct entry){0};
        tree->levels++;
    }
    return 0;
}
