/* since.c - what changed since a version that another one descends from.
 *
 * What both have is older than the older version's cut (pages) and epoch (nodes), and all that came
 * since is in the newer one's own forms. Those lie close together in the table stream, so a few
 * long reads fetch them (forms.h), where comparing leaf by leaf would read both tables.
 *
 *  1. Down to level 2 both tables are gone through (diff.c). At level 1 the newer version's own
 * form is looked at. Below it, what has an address above that of the older version's form of the
 *     same node is not in that one: for a node of a later freeze is written after its parent's form
 *     of the earlier one (settle() in freeze.c). So the base of a delta that is not above is left
 *     out: nothing of it is new.
 *  2. In such a leaf, the pages at or above the older version's cut are what changed.
 *  3. What was discarded or lost since is in no entry. A node says in which epoch that last
 *     happened to it (cleared): where that may be later than the older version, and where anything
 *     cannot be read, leaves are compared instead ("plain"). */
#include "image/table-internal.h"

#include "image/forms.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>

#define SINCE_MOST  4u /* at a time; others compare leaves */
#define LEAST_BYTES (160u << 10)
#define MOST_BYTES  (4u << 20)

struct since {
    struct store_io *io;
    uint64_t cut, epoch; /* of the older version */
    uint64_t plain_end;  /* before this page leaves are compared */
    struct forms *forms;
    struct node parent, leaf, ahead; /* put together out of forms */
    struct waiter waiter;
    bool asks, waits; /* inside forms_read(); until its waiter is woken */
    bool failed;      /* a form could not be had */
    bool used;        /* since the last tick */
    uint64_t max_bytes;
};

/* ---- who descends from whom ----------------------------------------------------------------- */

/* Is one version on the way from another to where that came from, all with this disk? Ids rise. */
static bool descends(const struct version *version, const struct version *from,
                     const struct tree *tree)
{
    if (version == from)
        return false;
    while (version && version->id > from->id && version_relative(version, tree))
        version = version->descent.parent;
    return version == from;
}

static bool is_possible(const struct store_io *io)
{
    const struct disk *disk = io->disk, *base = io->base;
    return disk->version && base->version && !disk->tree.changes && !base->tree.changes &&
           disk->tree.levels > 1 && disk->tree.levels == base->tree.levels &&
           descends(disk->version, base->version, &disk->tree);
}

static void woken(struct waiter *waiter, int error)
{
    struct since *s = container_of(waiter, struct since, waiter);
    s->waits = false;
    if (!s->asks)
        s->io->waiter.wake(&s->io->waiter, error);
}

static struct since *since_new(struct table *table)
{
    struct since *s = calloc(1, sizeof(*s));
    struct forms *forms = forms_new(table, FORMS_MOST);
    if (!s || !forms) {
        forms_free(forms);
        free(s);
        return NULL;
    }
    s->forms = forms;
    s->max_bytes = table->budget_bytes / 16 < MOST_BYTES ? table->budget_bytes / 16 : MOST_BYTES;
    if (s->max_bytes < LEAST_BYTES)
        s->max_bytes = LEAST_BYTES;
    s->waiter.wake = woken;
    list_init(&s->waiter.link);
    return s;
}

void since_free(struct since *s)
{
    if (!s)
        return;
    node_release(&s->parent);
    node_release(&s->leaf);
    node_release(&s->ahead);
    forms_free(s->forms);
    free(s);
}

void since_begin(struct store_io *io)
{
    struct store *store = io->disk->store;
    if (store->n_since == SINCE_MOST || !is_possible(io))
        return;
    struct since *s = store->since ? store->since : since_new(store->table);
    store->since = NULL;
    if (!s)
        return;
    s->io = io;
    s->cut = io->base->version->cut;
    s->epoch = io->base->version->epoch;
    s->plain_end = 0;
    s->used = true;
    store->n_since++;
    io->since = s;
}

/* One is kept, with its forms: an address names the same node for ever, and who asks for a
 * difference asks for it piece by piece. */
void since_end(struct store_io *io)
{
    struct store *store = io->disk->store;
    struct since *s = io->since;
    io->since = NULL;
    store->n_since--;
    if (store->since || s->failed)
        since_free(s);
    else
        store->since = s;
}

void since_tick(struct store *store)
{
    struct since *s = store->since;
    if (s && !s->used) {
        since_free(s);
        store->since = NULL;
    } else if (s) {
        s->used = false;
    }
}

bool since_is_plain(const struct store_io *io, uint64_t page)
{
    return !io->since || page < io->since->plain_end;
}

/* ---- forms ---------------------------------------------------------------------------------- */

/* A node's own form has all of it that is above an address. */
static bool is_alone(const uint8_t *form, uint64_t older)
{
    const struct node_header *h = (const struct node_header *)form;
    return h->form != NODE_DELTA || h->base.address <= older;
}

/* A node as far as it is above an address: at level 1 without other entries. As forms_get_node().
 */
static int take(struct since *s, const struct entry *entry, uint64_t older, uint8_t level,
                uint64_t index, struct node *node)
{
    struct node fresh = {.tree = &s->io->disk->tree, .level = level, .index = index};
    if (node->capacity) { /* the list's memory is used again */
        fresh.capacity = node->capacity;
        fresh.entries = node->entries;
        fresh.indexes = node->indexes;
    } else {
        node_release(node);
    }
    *node = fresh;
    const uint8_t *form;
    int code = forms_get(s->forms, entry, &form);
    if (code == 0 && level && is_alone(form, older))
        code = node_decode_above(node, fresh.tree->family, form, entry_slots(entry) << TABLE_SHIFT,
                                 older);
    else if (code == 0)
        code = forms_get_node(s->forms, entry, older, node);
    s->failed |= code < 0 && code != -EAGAIN;
    return code;
}

/* Was nothing in it cleared since the older version? */
static bool is_known(const struct since *s, const struct node *node)
{
    return node->cleared && node->cleared <= s->epoch;
}

/* Ask for what is missing of a node. Of the forms' room its own form may begin in the first so many
 * eighths, its base too: so that there is always room for what the first ones still need. */
static bool want(struct since *s, const struct entry *entry, uint64_t older, uint32_t own,
                 uint32_t base)
{
    const uint8_t *bytes;
    uint32_t eighths = forms_get(s->forms, entry, &bytes) == -EAGAIN ? own : base;
    s->forms->n_most = s->forms->max / 8 * eighths;
    s->forms->max_bytes = s->max_bytes / 8 * eighths + (eighths < 8 ? NODE_MAX_BYTES : 0);
    return forms_want_node(s->forms, entry, older);
}

/* Ask for a node of level 1, and for its leaves from a page on as far as they are known. False:
 * there is no room. */
static bool want_span(struct since *s, uint64_t index, uint64_t page)
{
    struct peek p, q;
    int found = tree_peek(&s->io->disk->tree, 1, index, NULL, &p);
    int theirs = tree_peek(&s->io->base->tree, 1, index, NULL, &q);
    if (found != TREE_FOUND || (theirs != TREE_FOUND && theirs != TREE_ABSENT))
        return true;
    if (!want(s, &p.entry, q.entry.address, 4, 5))
        return false;
    int code = take(s, &p.entry, q.entry.address, 1, index, &s->ahead);
    if (code < 0 || !is_known(s, &s->ahead))
        return true;
    uint32_t at = 0, i;
    struct entry e;
    while (node_each(&s->ahead, &at, &i, &e)) {
        if (e.address <= q.entry.address || index * NODE_ENTRIES + i < page >> NODE_BITS)
            continue;
        if (!want(s, &e, q.entry.address, 7, 8))
            return false;
    }
    return true;
}

/* Ask for what is missing from a page on, as far as there is room. False: there is none. */
static bool gather(struct since *s, uint64_t page, uint64_t end)
{
    uint32_t n = s->forms->n;
    uint64_t at = page, pages;
    while (at < end) {
        if (diff_same(&s->io->disk->tree, &s->io->base->tree, at, 1, NULL, &pages) != TREE_FOUND)
            break;
        if (!pages && !want_span(s, at >> level_shift(2), page))
            break;
        at = pages ? at + pages : ((at >> level_shift(2)) + 1) << level_shift(2);
    }
    return s->forms->n > n;
}

static void compare_until(struct since *s, uint64_t page)
{
    s->plain_end = page;
}

/* Something is missing at io->next. TREE_WAIT, or TREE_FOUND: try again. */
static int ask(struct since *s, uint64_t end)
{
    uint64_t page = s->io->next / PAGE_BYTES, last = (end + PAGE_BYTES - 1) / PAGE_BYTES;
    if (!gather(s, page, last)) {
        forms_clear(s->forms);
        if (!gather(s, page, last)) {
            compare_until(s, (page | (NODE_ENTRIES - 1)) + 1);
            return TREE_FOUND;
        }
    }
    s->asks = s->waits = true;
    forms_read(s->forms, &s->waiter);
    s->asks = false;
    return s->waits ? TREE_WAIT : TREE_FOUND;
}

/* ---- the way -------------------------------------------------------------------------------- */

/* Nothing changed up to a byte, at most the end. */
static bool same_until(struct store_io *io, uint64_t to, uint64_t end)
{
    if (to > end)
        to = end;
    return to <= io->next || diff_add(io, to, &(struct store_extent){0});
}

/* What changed in a leaf that nothing was cleared in. */
static bool put_leaf(struct since *s, uint64_t end)
{
    struct store_io *io = s->io;
    uint64_t first = s->leaf.index << NODE_BITS;
    uint32_t at = 0, i;
    struct entry e;
    while (node_each(&s->leaf, &at, &i, &e)) {
        uint64_t from = (first + i) * PAGE_BYTES, to = from + PAGE_BYTES;
        if (entry_encoding(&e) != ENCODING_RAW || e.address < s->cut || to <= io->next)
            continue;
        if (from >= end)
            break;
        if (!same_until(io, from, end) ||
            !diff_add(io, to < end ? to : end, &(struct store_extent){.changed = true}))
            return false;
    }
    return same_until(io, (first + NODE_ENTRIES) * PAGE_BYTES, end);
}

/* The leaves of s->parent that came since; older: the address of the older version's form of it. */
static int leaves_step(struct since *s, uint64_t older, uint64_t end, bool *more)
{
    struct store_io *io = s->io;
    uint32_t at = 0, i;
    struct entry e;
    while (node_each(&s->parent, &at, &i, &e)) {
        uint64_t index = s->parent.index * NODE_ENTRIES + i;
        uint64_t from = (index << NODE_BITS) * PAGE_BYTES, to = from + PAGE_BYTES * NODE_ENTRIES;
        if (e.address <= older || to <= io->next)
            continue;
        if (from >= end)
            break;
        *more = same_until(io, from, end);
        if (!*more)
            return TREE_FOUND;
        int code = take(s, &e, older, 0, index, &s->leaf);
        if (code == -EAGAIN)
            return ask(s, end);
        if (code < 0 || !is_known(s, &s->leaf)) {
            compare_until(s, (index + 1) << NODE_BITS);
            return TREE_FOUND;
        }
        *more = put_leaf(s, end);
        if (!*more)
            return TREE_FOUND;
    }
    *more = same_until(io, ((s->parent.index + 1) << level_shift(2)) * PAGE_BYTES, end);
    return TREE_FOUND;
}

int since_step(struct store_io *io, uint64_t end, bool *more)
{
    struct since *s = io->since;
    uint64_t index = io->next / PAGE_BYTES >> level_shift(2);
    struct peek p, q;
    int found = tree_peek(&io->disk->tree, 1, index, NULL, &p);
    int theirs = tree_peek(&io->base->tree, 1, index, NULL, &q);
    int code = found == TREE_FOUND && (theirs == TREE_FOUND || theirs == TREE_ABSENT)
                   ? take(s, &p.entry, q.entry.address, 1, index, &s->parent)
                   : -ENOENT;
    if (code == -EAGAIN)
        return ask(s, end);
    if (code < 0 || !is_known(s, &s->parent)) {
        compare_until(s, (index + 1) << level_shift(2));
        return TREE_FOUND;
    }
    return leaves_step(s, q.entry.address, end, more);
}
