/* check.c - does every pointer lead to what it says, and do the books agree with that?
 *
 * The check walks the trees of a checkpoint, which nothing changes any more, while the store goes
 * on. It reads every node (and, if asked, every page), compares checksums, marks the slots that it
 * finds referred to, and at the end compares the marks with the live bits that the same checkpoint
 * has. For as long as it takes, the log holds all files and pieces where they are; should the store
 * run short of files meanwhile, the check gives up (-ENOSPC), not the writers.
 *
 *   HOLD --no victim in motion--> CHECKPOINT --durable, body taken--> WALK --all roots--> COMPARE
 * --> done */
#include "base/checksum.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "image/catalogue_format.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check_root {
    char name[2 * NAME_MAX_CHARS + 2];
    uint32_t disk;
    uint8_t levels;
    uint64_t used_pages;
    struct entry entry;
};

struct check_run {
    struct store *store;
    struct store_check *check;
    enum { CHECK_HOLD, CHECK_CHECKPOINT, CHECK_WALK, CHECK_COMPARE } phase;
    uint8_t *body; /* of the checkpoint, with its header */
    uint64_t seq;  /* of it, once it is there */
    struct check_root *roots;
    uint32_t n_roots, next_root;
    uint64_t pages_found; /* of the present root */
    uint64_t **marks;     /* by file */
    /* The path to the present node. */
    struct node stack[NODE_LEVELS];
    uint32_t next[NODE_LEVELS]; /* index to look at next */
    int level;   /* of the top of the stack; -1: empty, levels count down from the root */
    uint8_t top; /* level of the root */
    /* A node being read. */
    struct storage_req req;
    struct iovec iov;
    struct log_file *file;
    struct entry form;  /* what is being read: the node, or the base of a delta */
    struct entry whole; /* the node's own entry */
    uint8_t *delta;
    uint32_t delta_bytes, skip;
    bool reading;
    uint32_t page_reads; /* in flight */
    uint32_t leaf_next;  /* entry of the leaf to read next */
};

#define PAGE_READS 64u

static void problem(struct check_run *r, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    r->check->problems++;
    if (r->check->problem)
        r->check->problem(r->check, text);
}

static const char *disk_name(const struct check_run *r)
{
    return r->roots[r->next_root].name;
}

/* Mark slots as referred to. False when they are not where they should be. */
static bool mark(struct check_run *r, const struct entry *e, uint32_t n, uint8_t shift,
                 struct log_file **ret_file, uint64_t *ret_offset)
{
    struct log_file *file;
    uint64_t offset;
    if (log_locate(r->store->log, e->address, &file, &offset) < 0 || file->shift != shift ||
        (offset >> shift) + n > FILE_BYTES >> shift)
        return false;
    if (!r->marks[file->number])
        r->marks[file->number] = calloc((FILE_BYTES >> shift) / 64, sizeof(uint64_t));
    uint64_t *bits = r->marks[file->number];
    for (uint32_t i = offset >> shift; bits && n; i++, n--) {
        if (bits[i / 64] >> (i % 64) & 1)
            problem(r, "%s: slot %u of log file %08x is referred to twice", disk_name(r), i,
                    file->number);
        bits[i / 64] |= 1ULL << (i % 64);
    }
    *ret_file = file;
    *ret_offset = offset;
    return bits != NULL;
}

/* ---- pages ---------------------------------------------------------------------------------- */

struct page_read {
    struct storage_req req;
    struct iovec iov;
    struct check_run *run;
    struct log_file *file;
    struct entry entry;
    uint64_t page;
};

static void page_done(struct storage_req *req, int res)
{
    struct page_read *p = container_of(req, struct page_read, req);
    struct check_run *r = p->run;
    p->file->readers--;
    r->page_reads--;
    r->check->checked_pages++;
    if (res != PAGE_BYTES ||
        checksum_at(p->entry.address, p->iov.iov_base, PAGE_BYTES) != p->entry.sum)
        problem(r, "%s: page %llu is damaged (log file %08x, byte %llu)", disk_name(r),
                (unsigned long long)p->page, p->file->number,
                (unsigned long long)req->offset_bytes);
    free(p->iov.iov_base);
    free(p);
}

static int read_page(struct check_run *r, const struct entry *e, struct log_file *file,
                     uint64_t offset, uint64_t page)
{
    struct page_read *p = calloc(1, sizeof(*p));
    void *buf = aligned_alloc(STORAGE_ALIGN_BYTES, PAGE_BYTES);
    if (!p || !buf) {
        free(p);
        free(buf);
        return -ENOMEM;
    }
    *p = (struct page_read){
        .run = r, .file = file, .entry = *e, .page = page, .iov = {buf, PAGE_BYTES}};
    p->req = (struct storage_req){.done = page_done,
                                  .op = STORAGE_READ,
                                  .file = file->number,
                                  .offset_bytes = offset,
                                  .length_bytes = PAGE_BYTES,
                                  .iov = &p->iov,
                                  .n_iov = 1};
    file->readers++;
    r->page_reads++;
    r->store->storage->submit(r->store->storage, &p->req);
    return 0;
}

/* Look at entries of the leaf. Returns 1 when it is done with, 0 to wait, or a code. */
static int leaf_step(struct check_run *r, struct node *leaf)
{
    while (r->page_reads < PAGE_READS) {
        uint32_t i = r->leaf_next = node_next(leaf, r->leaf_next);
        if (i >= NODE_ENTRIES)
            return r->page_reads ? 0 : 1;
        r->leaf_next++;
        r->pages_found++;
        struct entry e = node_get(leaf, i);
        uint64_t page = leaf->index * NODE_ENTRIES + i;
        struct log_file *file;
        uint64_t offset;
        if (entry_encoding(&e) == ENCODING_ZERO)
            continue;
        if (entry_encoding(&e) != ENCODING_RAW || !mark(r, &e, 1, DATA_SHIFT, &file, &offset)) {
            problem(r, "%s: the table entry of page %llu leads nowhere", disk_name(r),
                    (unsigned long long)page);
            continue;
        }
        if (r->check->pages) {
            int code = read_page(r, &e, file, offset, page);
            if (code < 0)
                return code;
        } else {
            r->check->checked_pages++;
        }
    }
    return 0;
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static struct node *top_node(struct check_run *r)
{
    return &r->stack[r->level];
}

static void pop(struct check_run *r)
{
    node_release(top_node(r));
    r->level++;
    if (r->level > r->top)
        r->level = -1;
}

static void node_is_damaged(struct check_run *r, const char *why)
{
    const struct node *node = top_node(r);
    uint64_t pages = 1ULL << (node->level + 1) * NODE_BITS;
    problem(r, "%s: the table node of pages %llu to %llu is damaged (%s)", disk_name(r),
            (unsigned long long)(node->index * pages),
            (unsigned long long)(node->index * pages + pages - 1), why);
    free(r->delta);
    r->delta = NULL;
    pop(r);
}

static void form_read(struct storage_req *req, int res);

static void read_form(struct check_run *r, struct entry form)
{
    uint32_t slots = entry_slots(&form);
    uint64_t offset;
    if (entry_encoding(&form) != ENCODING_NODE || !slots || slots > NODE_MAX_SLOTS ||
        !mark(r, &form, slots, TABLE_SHIFT, &r->file, &offset)) {
        node_is_damaged(r, "its place does not exist");
        return;
    }
    uint64_t from = offset / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t end = offset + ((uint64_t)slots << TABLE_SHIFT);
    uint64_t to = (end + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    r->form = form;
    r->skip = offset - from;
    r->iov = (struct iovec){aligned_alloc(STORAGE_ALIGN_BYTES, to - from), to - from};
    if (!r->iov.iov_base) {
        r->check->error = -ENOMEM;
        return;
    }
    r->req = (struct storage_req){.done = form_read,
                                  .op = STORAGE_READ,
                                  .file = r->file->number,
                                  .offset_bytes = from,
                                  .length_bytes = to - from,
                                  .iov = &r->iov,
                                  .n_iov = 1};
    r->file->readers++;
    r->reading = true;
    r->store->storage->submit(r->store->storage, &r->req);
}

static void form_read(struct storage_req *req, int res)
{
    struct check_run *r = container_of(req, struct check_run, req);
    struct node *node = top_node(r);
    uint32_t bytes = entry_slots(&r->form) << TABLE_SHIFT;
    _cleanup_free_ uint8_t *buf = TAKE_PTR(r->iov.iov_base);
    uint8_t *form = buf + r->skip;
    struct entry base = {0};

    r->reading = false;
    r->file->readers--;
    r->check->nodes++;
    if (res < 0 || (uint32_t)res < r->skip + bytes ||
        checksum_at(r->form.address, form, bytes) != r->form.sum) {
        node_is_damaged(r, res < 0 ? err_text(res) : "checksum mismatch");
        return;
    }
    uint32_t disk = r->roots[r->next_root].disk;
    int code = node_decode(node, disk, form, bytes, r->delta != NULL, &base);
    if (code == 0 && r->delta)
        code = node_decode(node, disk, r->delta, r->delta_bytes, false, &base);
    if (code < 0) {
        node_is_damaged(r, err_text(code));
        return;
    }
    if (!r->delta && !entry_is_hole(&base)) {
        r->delta = malloc(bytes);
        if (!r->delta) {
            r->check->error = -ENOMEM;
            return;
        }
        memcpy(r->delta, form, bytes);
        r->delta_bytes = bytes;
        node->base = base;
        read_form(r, base);
        return;
    }
    free(r->delta);
    r->delta = NULL;
    r->leaf_next = 0;
}

static void push(struct check_run *r, uint8_t level, uint64_t index, struct entry entry)
{
    r->level = level;
    struct node *node = top_node(r);
    memset(node, 0, sizeof(*node));
    node->level = level;
    node->index = index;
    r->next[level] = 0;
    r->whole = entry;
    read_form(r, entry);
}

/* One step of the walk. Returns true to be called again, false to wait. */
static bool walk(struct check_run *r)
{
    if (r->reading)
        return false;
    if (r->level < 0) {
        if (r->pages_found != UINT64_MAX) { /* a root was walked */
            const struct check_root *root = &r->roots[r->next_root];
            if (r->pages_found != root->used_pages)
                problem(r, "%s: %llu pages are in use, the books say %llu", root->name,
                        (unsigned long long)r->pages_found, (unsigned long long)root->used_pages);
            r->next_root++;
        }
        r->pages_found = 0;
        if (r->next_root == r->n_roots) {
            r->phase = CHECK_COMPARE;
            return true;
        }
        const struct check_root *root = &r->roots[r->next_root];
        r->top = root->levels - 1;
        if (!entry_is_hole(&root->entry))
            push(r, r->top, 0, root->entry);
        return true;
    }
    struct node *node = top_node(r);
    if (node->level == 0) {
        int code = leaf_step(r, node);
        if (code < 0)
            r->check->error = code;
        if (code == 1)
            pop(r);
        return code != 0;
    }
    uint32_t i = node_next(node, r->next[node->level]);
    if (i >= NODE_ENTRIES) {
        pop(r);
        return true;
    }
    r->next[node->level] = i + 1;
    push(r, node->level - 1, node->index * NODE_ENTRIES + i, node_get(node, i));
    return true;
}

/* ---- comparing ------------------------------------------------------------------------------ */

static void compare_file(struct check_run *r, const struct map_file *f, const uint64_t *live)
{
    const uint64_t *marks = r->marks[f->file];
    uint32_t lost = 0, extra = 0;
    uint32_t words = (f->used_slots + 63) / 64;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t m = marks ? marks[w] : 0;
        lost += __builtin_popcountll(m & ~live[w]);
        extra += __builtin_popcountll(live[w] & ~m);
    }
    if (lost)
        problem(r, "log file %08x: %u slots are referred to but counted as dead", f->file, lost);
    if (extra)
        problem(r, "log file %08x: %u slots are counted as living but nothing refers to them",
                f->file, extra);
}

static void compare(struct check_run *r)
{
    const struct checkpoint_header *h = (const struct checkpoint_header *)r->body;
    const uint8_t *at = r->body + BLOCK_BYTES + h->catalogue_bytes;
    for (uint32_t i = 0; i < h->n_files; i++) {
        const struct map_file *f = (const struct map_file *)at;
        at += sizeof(*f) + f->n_pieces * sizeof(struct map_piece);
        compare_file(r, f, (const uint64_t *)at);
        at += (size_t)(f->used_slots + 63) / 64 * 8;
    }
}

/* ---- the run -------------------------------------------------------------------------------- */

static uint32_t add_root(struct check_run *r, uint32_t n, const struct disk *disk)
{
    struct check_root *root = &r->roots[n];
    const struct catalogue_disk *d =
        (const struct catalogue_disk *)(r->body + BLOCK_BYTES + disk->root_offset -
                                        offsetof(struct catalogue_disk, root));
    snprintf(root->name, sizeof(root->name), "%s/%s", disk->vm ? disk->vm->name : "(removed)",
             disk->name);
    root->disk = d->id;
    root->levels = d->levels;
    root->used_pages = d->used_pages;
    root->entry = d->root;
    r->check->total_pages += d->used_pages;
    return n + 1;
}

bool check_take_body(struct store *store, uint8_t *body)
{
    struct check_run *r = store->check;
    if (!r || r->phase != CHECK_CHECKPOINT || store->checkpoint.seq < r->seq)
        return false;
    uint32_t n = 0;
    list_for_each (l, &store->vms)
        n += container_of(l, struct vm, link)->n_disks;
    list_for_each (l, &store->doomed)
        n++;
    r->roots = calloc(n + 1, sizeof(*r->roots));
    r->marks = calloc(store->log->max_files, sizeof(*r->marks));
    r->body = body;
    r->level = -1;
    r->pages_found = UINT64_MAX;
    r->phase = CHECK_WALK;
    if (!r->roots || !r->marks) {
        r->check->error = -ENOMEM;
        return true;
    }
    n = 0;
    list_for_each (l, &store->vms) {
        struct vm *vm = container_of(l, struct vm, link);
        list_for_each (k, &vm->disks)
            n = add_root(r, n, container_of(k, struct disk, link));
    }
    list_for_each (l, &store->doomed)
        n = add_root(r, n, container_of(l, struct disk, link));
    r->n_roots = n;
    return true;
}

bool check_is_busy(const struct store *store)
{
    return store->check && (store->check->reading || store->check->page_reads);
}

void check_free(struct store *store)
{
    struct check_run *r = store->check;
    if (!r)
        return;
    store->check = NULL;
    while (r->level >= 0 && r->phase == CHECK_WALK)
        pop(r);
    for (uint32_t i = 0; r->marks && i < store->log->max_files; i++)
        free(r->marks[i]);
    free(r->marks);
    free(r->roots);
    free(r->body);
    free(r->delta);
    free(r);
}

static void finish(struct check_run *r)
{
    struct store *store = r->store;
    struct store_check *check = r->check;
    check_free(store);
    log_hold(store->log, false);
    check->done(check);
}

bool check_step(struct store *store)
{
    struct check_run *r = store->check;
    if (!r)
        return false;
    if (!r->check->error && store->log->error && r->phase < CHECK_WALK)
        r->check->error = ERR_READ_ONLY; /* no checkpoint will come any more */
    if (!r->check->error && !list_empty(&store->room_waiters) && log_is_short(store->log))
        r->check->error = -ENOSPC;
    if (!r->check->error && r->check->cancel)
        r->check->error = -ECANCELED;
    if (r->check->error) {
        if (check_is_busy(store))
            return false;
        finish(r);
        return false;
    }
    switch (r->phase) {
    case CHECK_HOLD:
        if (!cleaner_is_between(store->log))
            return false;
        /* The first one that begins from now on. */
        r->phase = CHECK_CHECKPOINT;
        r->seq = store->log->checkpoint_seq + (store->log->checkpoint_running ? 2 : 1);
        checkpoint_want(store);
        return true;
    case CHECK_CHECKPOINT:
        return false;
    case CHECK_WALK:
        for (int i = 0; i < 16 && r->phase == CHECK_WALK && !r->check->error; i++)
            if (!walk(r))
                return false;
        return true;
    case CHECK_COMPARE:
        compare(r);
        finish(r);
        return false;
    }
    return false;
}

int store_check(struct store *store, struct store_check *check)
{
    if (store->check)
        return -EBUSY;
    if (store->log->error)
        return ERR_READ_ONLY;
    struct check_run *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->store = store;
    r->check = check;
    r->level = -1;
    check->total_pages = check->checked_pages = check->nodes = check->problems = 0;
    check->error = 0;
    store->check = r;
    log_hold(store->log, true);
    return 0;
}
