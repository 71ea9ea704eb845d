/* check.c - does every pointer lead to what it says, and do the books agree with that?
 *
 * The check walks the trees of a checkpoint, which nothing changes any more, while the store goes
 * on. It reads every node (and, if asked, every page), compares checksums, marks the slots that it
 * finds referred to, and at the end compares the marks with the live bits that the same checkpoint
 * has. What versions and clones share is walked once. For as long as it takes, the log holds all
 * files and pieces where they are; should the store run short of files meanwhile, the check gives
 * up (-ENOSPC), not writers, changes or checkpoints.
 *
 * Then the sealed files are read from end to end (scrub.c), for damage where no pointer leads. That
 * holds up one file at a time.
 *
 *   HOLD --no victim in motion--> CHECKPOINT --durable, body taken--> WALK --all roots--> COMPARE
 *   --> FILES --all read--> done */
#include "base/checksum.h"
#include "base/err.h"
#include "image/catalogue_format.h"
#include "image/scrub.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check_root {
    char name[3 * NAME_MAX_CHARS + 3];
    uint32_t disk, family;
    uint8_t levels;
    bool removed; /* its pages may live or not: splice.c */
    bool shares;  /* it may have in common what an earlier root has */
    uint64_t used_pages;
    struct entry entry;
    struct release release; /* of what is being freed: what is passed is not its any more */
};

struct check_run {
    struct store *store;
    struct store_check *check;
    enum { CHECK_HOLD, CHECK_CHECKPOINT, CHECK_WALK, CHECK_COMPARE, CHECK_FILES } phase;
    uint8_t *body; /* of the checkpoint, with its header */
    uint64_t seq;  /* of it, once it is there */
    struct check_root *roots;
    uint32_t n_roots, next_root;
    uint64_t pages_found; /* of the present root */
    bool skipped;         /* something of it, as another has it */
    uint64_t **marks;     /* by file: slots that are referred to */
    uint64_t **maybe;     /* by file: slots that something removed refers to, and that may live */
    uint64_t **walked; /* by file: slots where a node begins that was walked, with all below it */
    uint64_t **told;   /* by file: slots whose damage was told of */
    /* The path to the present node. */
    struct node stack[NODE_LEVELS];
    uint32_t next[NODE_LEVELS]; /* index to look at next */
    int level;   /* of the top of the stack; -1: empty, levels count down from the root */
    uint8_t top; /* level of the root */
    /* A node being read. */
    struct form_read form; /* what is being read: the node, or the base of a delta */
    uint8_t *delta;
    uint32_t delta_bytes;
    bool reading;
    uint32_t page_reads; /* in flight */
    uint32_t leaf_next;  /* entry of the leaf to read next */
    struct scrub scrub;
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

/* A file's bits in marks or told; NULL: no memory. */
static uint64_t *bits_of(uint64_t **by_file, const struct log_file *file)
{
    uint64_t **bits = &by_file[file->number];
    if (!*bits)
        *bits = calloc((FILE_BYTES >> file->shift) / 64, sizeof(uint64_t));
    return *bits;
}

/* Mark slots as referred to. 1: they are so already, by one that may share them. 0, -ENOMEM. */
static int mark(struct check_run *r, struct log_file *file, uint64_t offset, uint32_t n)
{
    uint64_t *bits = bits_of(r->marks, file);
    uint32_t first = offset >> file->shift;
    if (!bits)
        return -ENOMEM;
    if (r->roots[r->next_root].shares && bits[first / 64] >> (first % 64) & 1)
        return 1;
    for (uint32_t i = first; n; i++, n--) {
        if (bits[i / 64] >> (i % 64) & 1)
            problem(r, "%s: slot %u of log file %08x is referred to twice", disk_name(r), i,
                    file->number);
        bits[i / 64] |= 1ULL << (i % 64);
    }
    return 0;
}

/* The reading of the file from end to end need not tell of it again. */
static void mark_told(struct check_run *r, struct log_file *file, uint64_t offset, uint32_t n)
{
    uint64_t *bits = bits_of(r->told, file);
    if (!bits)
        r->check->error = -ENOMEM;
    for (uint32_t i = offset >> file->shift; bits && n; i++, n--)
        bits[i / 64] |= 1ULL << (i % 64);
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
        checksum_at(p->entry.address, p->iov.iov_base, PAGE_BYTES) != p->entry.sum) {
        problem(r, "%s: page %llu is damaged (log file %08x, byte %llu)", disk_name(r),
                (unsigned long long)p->page, p->file->number,
                (unsigned long long)req->offset_bytes);
        mark_told(r, p->file, req->offset_bytes, 1);
    }
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

/* A page of something removed: it may be freed already, and its place be gone. 0, -ENOMEM. */
static int mark_maybe(struct check_run *r, const struct entry *e)
{
    struct log_file *file;
    uint64_t offset;
    if (entry_encoding(e) != ENCODING_RAW ||
        log_locate(r->store->log, e->address, &file, &offset) < 0)
        return 0;
    uint64_t *bits = bits_of(r->maybe, file);
    uint32_t slot = offset >> file->shift;
    if (!bits)
        return -ENOMEM;
    bits[slot / 64] |= 1ULL << (slot % 64);
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
        if (r->roots[r->next_root].removed) {
            if (mark_maybe(r, &e) < 0)
                return -ENOMEM;
            continue;
        }
        if (entry_encoding(&e) != ENCODING_RAW ||
            log_locate(r->store->log, e.address, &file, &offset) < 0 || file->shift != DATA_SHIFT) {
            problem(r, "%s: the table entry of page %llu leads nowhere", disk_name(r),
                    (unsigned long long)page);
            continue;
        }
        int code = mark(r, file, offset, 1);
        if (code == 0 && r->check->pages)
            code = read_page(r, &e, file, offset, page);
        else if (code == 0)
            r->check->checked_pages++;
        if (code < 0)
            return code;
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

/* The form that was read last is damaged; that is told with its place. */
static void form_is_damaged(struct check_run *r, int code)
{
    char why[128];
    const struct form_read *f = &r->form;
    mark_told(r, f->file, f->offset, f->bytes >> TABLE_SHIFT);
    snprintf(why, sizeof(why), "log file %08x, byte %llu: %s", f->file->number,
             (unsigned long long)f->offset, err_text(code));
    node_is_damaged(r, why);
}

/* A bit of the form that was read last is flipped. Nothing is lost, as long as it stays the only
 * one. */
static void form_was_mended(struct check_run *r)
{
    const struct node *node = top_node(r);
    const struct form_read *f = &r->form;
    uint64_t pages = 1ULL << (node->level + 1) * NODE_BITS;
    mark_told(r, f->file, f->offset, f->bytes >> TABLE_SHIFT);
    problem(r,
            "%s: a bit of the table node of pages %llu to %llu is flipped (log file %08x, byte "
            "%llu); it is put right whenever the node is read",
            disk_name(r), (unsigned long long)(node->index * pages),
            (unsigned long long)(node->index * pages + pages - 1), f->file->number,
            (unsigned long long)f->offset);
}

static void form_done(struct storage_req *req, int res);

static void read_form(struct check_run *r, struct entry entry)
{
    int code = form_locate(r->store->log, entry, &r->form);
    if (code < 0) {
        node_is_damaged(r, "its place does not exist");
        return;
    }
    code = mark(r, r->form.file, r->form.offset, r->form.bytes >> TABLE_SHIFT);
    if (code >= 0)
        code = form_start(r->store->log, &r->form, form_done);
    if (code < 0)
        r->check->error = code;
    else
        r->reading = true;
}

/* Has the node been walked, for another root? From now on it has. */
static bool was_walked(struct check_run *r, struct entry entry)
{
    struct form_read f;
    if (form_locate(r->store->log, entry, &f) < 0)
        return false;
    uint64_t *bits = bits_of(r->walked, f.file);
    uint32_t slot = f.offset >> f.file->shift;
    if (!bits) {
        r->check->error = -ENOMEM;
        return true;
    }
    bool was = bits[slot / 64] >> (slot % 64) & 1;
    bits[slot / 64] |= 1ULL << (slot % 64);
    return was && r->roots[r->next_root].shares;
}

/* Take the form that was read. Returns 1 when a base is wanted first, 0, or a code. */
static int take_form(struct check_run *r, const uint8_t *form, struct entry *ret_base)
{
    struct node *node = top_node(r);
    uint32_t family = r->roots[r->next_root].family, bytes = r->form.bytes;
    int code = node_decode(node, family, form, bytes, r->delta != NULL, ret_base);
    if (code == 0 && r->delta)
        code = node_decode(node, family, r->delta, r->delta_bytes, false, ret_base);
    if (code < 0 || r->delta || entry_is_hole(ret_base))
        return code;
    r->delta = malloc(bytes);
    if (!r->delta)
        return -ENOMEM;
    memcpy(r->delta, form, bytes);
    r->delta_bytes = bytes;
    node->base = *ret_base;
    return 1;
}

static void form_done(struct storage_req *req, int res)
{
    struct check_run *r = container_of(req, struct check_run, form.req);
    struct entry base = {0};
    int code;

    r->reading = false;
    r->check->nodes++;
    const uint8_t *form = form_take(&r->form, res, &code);
    if (r->form.mended)
        form_was_mended(r);
    if (form)
        code = take_form(r, form, &base);
    form_free(&r->form);
    if (code == 1) {
        read_form(r, base);
        return;
    }
    if (code == -ENOMEM)
        r->check->error = code;
    else if (code < 0)
        form_is_damaged(r, code);
    free(r->delta);
    r->delta = NULL;
    r->leaf_next = 0;
}

/* Is it freed, as nobody else has it? */
static bool is_passed(const struct release *p, uint8_t level, uint64_t index)
{
    uint64_t end = (index + 1) << (level + 1) * NODE_BITS;
    return end < p->at || (end == p->at && (!p->rise || level < p->rise));
}

static void push(struct check_run *r, uint8_t level, uint64_t index, struct entry entry)
{
    if (is_passed(&r->roots[r->next_root].release, level, index) || was_walked(r, entry)) {
        r->skipped = true;
        return;
    }
    r->level = level;
    struct node *node = top_node(r);
    memset(node, 0, sizeof(*node));
    node->level = level;
    node->index = index;
    r->next[level] = 0;
    read_form(r, entry);
}

static void root_is_walked(struct check_run *r)
{
    const struct check_root *root = &r->roots[r->next_root];
    if (r->pages_found != root->used_pages && !r->skipped)
        problem(r, "%s: %llu pages are in use, the books say %llu", root->name,
                (unsigned long long)r->pages_found, (unsigned long long)root->used_pages);
    r->next_root++;
}

/* One step of the walk. Returns true to be called again, false to wait. */
static bool walk(struct check_run *r)
{
    if (r->reading)
        return false;
    if (r->level < 0) {
        if (r->pages_found != UINT64_MAX)
            root_is_walked(r);
        r->pages_found = 0;
        r->skipped = false;
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
    const uint64_t *marks = r->marks[f->file], *maybe = r->maybe[f->file];
    uint32_t lost = 0, extra = 0;
    uint32_t words = (f->used_slots + 63) / 64;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t m = marks ? marks[w] : 0;
        lost += __builtin_popcountll(m & ~live[w]);
        extra += __builtin_popcountll(live[w] & ~(m | (maybe ? maybe[w] : 0)));
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

/* ---- files from end to end ------------------------------------------------------------------ */

static bool any_bit(const uint64_t *bits, const struct scrub_damage *d)
{
    uint32_t from = d->offset >> d->file->shift;
    uint32_t to = (d->offset + d->bytes - 1) >> d->file->shift;
    for (uint32_t i = from; bits && i <= to; i++)
        if (bits[i / 64] >> (i % 64) & 1)
            return true;
    return false;
}

static const char *name_of(const struct check_run *r, uint32_t disk)
{
    for (uint32_t i = 0; i < r->n_roots; i++)
        if (r->roots[i].disk == disk)
            return r->roots[i].name;
    return "(a disk that came later)";
}

static void say_place(char *to, size_t size, const struct scrub_damage *d)
{
    static const char *const what[] = {
        [SCRUB_HEADER] = "the header of the file",
        [SCRUB_BATCH] = "the header of a batch",
        [SCRUB_PAGE] = "a page",
        [SCRUB_NODE] = "a table node",
        [SCRUB_MOVED] = "one of the pages from here",
        [SCRUB_ZEROS] = "what is left free",
        [SCRUB_FOOTER] = "the list of what is in it",
    };
    char more[96] = "";
    if (d->kind == SCRUB_BATCH && d->n_pages)
        snprintf(more, sizeof(more), " (of %u pages, which now are checked where they live only)",
                 d->n_pages);
    if (d->kind == SCRUB_MOVED)
        snprintf(more, sizeof(more), " to byte %llu",
                 (unsigned long long)(d->offset + d->bytes - 1));
    snprintf(to, size, "log file %08x, byte %llu: %s%s", d->file->number,
             (unsigned long long)d->offset, what[d->kind], more);
}

/* Does anything live there that the walk has not looked at? */
static bool is_unseen(const struct check_run *r, const struct scrub_damage *d)
{
    const uint64_t *marks = r->marks[d->file->number], *live = d->file->live;
    uint32_t slot = d->offset >> d->file->shift, end = (d->offset + d->bytes) >> d->file->shift;
    for (; slot < end; slot++)
        if (live[slot / 64] & ~(marks ? marks[slot / 64] : 0) & 1ULL << (slot % 64))
            return true;
    return false;
}

static bool lives(const struct check_run *r, const struct scrub_damage *d)
{
    switch (d->kind) {
    case SCRUB_PAGE:
    case SCRUB_NODE:
        return any_bit(d->file->live, d);
    case SCRUB_MOVED: /* what lives was found whole, else it would have been told of */
        return is_unseen(r, d);
    default:
        return false;
    }
}

static void file_damage(struct scrub *scrub, const struct scrub_damage *d)
{
    struct check_run *r = container_of(scrub, struct check_run, scrub);
    char place[256];
    if (any_bit(r->told[d->file->number], d))
        return;
    say_place(place, sizeof(place), d);
    if (d->kind == SCRUB_FOOTER && d->n_pages) {
        problem(r, "%s is damaged, but there is another one", place);
        r->check->harmless++;
    } else if (d->kind == SCRUB_FOOTER) {
        problem(r, "%s is damaged: what cleaning put there is lost when the store is next opened",
                place);
    } else if (!lives(r, d)) {
        problem(r, "%s is damaged, but nothing lives there", place);
        r->check->harmless++;
    } else if (d->kind == SCRUB_PAGE) {
        problem(r, "%s: page %llu is damaged (log file %08x, byte %llu)", name_of(r, d->disk),
                (unsigned long long)d->page, d->file->number, (unsigned long long)d->offset);
    } else {
        problem(r, "%s is damaged", place);
    }
}

static void free_bits(const struct check_run *r, uint64_t ***by_file)
{
    for (uint32_t i = 0; *by_file && i < r->store->log->max_files; i++)
        free((*by_file)[i]);
    free(*by_file);
    *by_file = NULL;
}

/* The trees are walked: the log need not hold anything any more. */
static void begin_files(struct check_run *r)
{
    struct log *log = r->store->log;
    log_hold(log, false);
    r->phase = CHECK_FILES;
    int code = scrub_init(&r->scrub, log, r->check->pages);
    if (code < 0)
        r->check->error = code;
    r->scrub.damage = file_damage;
    for (uint32_t i = 0; i < log->max_files; i++) {
        const struct log_file *file = log->files[i];
        if (file && file->state == FILE_SEALED && (file->shift == TABLE_SHIFT || r->check->pages))
            r->check->total_blocks += ((uint64_t)file->used_slots << file->shift) / BLOCK_BYTES;
    }
}

/* Returns true when it is to be called again at once. */
static bool files_step(struct check_run *r, bool *ret_done)
{
    enum scrub_result result = scrub_step(&r->scrub);
    struct store_check *check = r->check;
    *ret_done = result == SCRUB_DONE;
    if (r->scrub.error)
        check->error = r->scrub.error;
    check->checked_blocks = r->scrub.blocks;
    if (*ret_done || check->checked_blocks > check->total_blocks)
        check->total_blocks = check->checked_blocks;
    return result == SCRUB_AGAIN;
}

/* ---- the run -------------------------------------------------------------------------------- */

static int by_family(const void *a, const void *b)
{
    const struct check_root *x = a, *y = b;
    if (x->family != y->family)
        return x->family > y->family ? 1 : -1;
    return x->removed - y->removed; /* last: what others have too is to be looked at for them */
}

static void add_root(struct check_run *r, const struct disk *disk)
{
    const struct version *version = disk->version;
    const struct vm *vm = version ? version->vm : disk->vm;
    if (!disk->root_offset) /* it came after the checkpoint had begun */
        return;
    struct check_root *root = &r->roots[r->n_roots++];
    const struct catalogue_disk *d =
        (const struct catalogue_disk *)(r->body + BLOCK_BYTES + disk->root_offset -
                                        offsetof(struct catalogue_disk, root));
    const struct catalogue_descent *descent = (const struct catalogue_descent *)(d + 1);
    snprintf(root->name, sizeof(root->name), "%s/%s%s%s", vm ? vm->name : "(removed)", disk->name,
             version && vm ? "@" : "", version && vm ? version->name : "");
    root->removed = version && !vm;
    root->disk = d->id;
    root->family = descent->family;
    root->levels = d->levels;
    root->used_pages = d->used_pages;
    root->entry = d->root;
    root->release = (struct release){.at = descent->at, .rise = descent->rise};
}

/* All disks of the store, or how many there are. */
static uint32_t add_roots(struct store *store, struct check_run *r)
{
    uint32_t n = 0;
    struct list *lists[2] = {&store->vms, &store->dying};
    list_for_each (l, lists[0]) {
        struct vm *vm = container_of(l, struct vm, link);
        n += vm->n_disks;
        list_for_each (k, &vm->disks)
            if (r)
                add_root(r, container_of(k, struct disk, link));
    }
    list_for_each (l, lists[0]) {
        list_for_each (v, &container_of(l, struct vm, link)->versions) {
            struct version *version = container_of(v, struct version, link);
            n += version->n_disks;
            list_for_each (k, &version->disks)
                if (r)
                    add_root(r, container_of(k, struct disk, link));
        }
    }
    list_for_each (l, lists[1]) {
        struct version *version = container_of(l, struct version, link);
        n += version->n_disks;
        list_for_each (k, &version->disks)
            if (r)
                add_root(r, container_of(k, struct disk, link));
    }
    return n;
}

bool check_take_body(struct store *store, uint8_t *body)
{
    struct check_run *r = store->check;
    if (!r || r->phase != CHECK_CHECKPOINT || store->checkpoint.seq < r->seq)
        return false;
    r->roots = calloc(add_roots(store, NULL) + 1, sizeof(*r->roots));
    r->marks = calloc(store->log->max_files, sizeof(*r->marks));
    r->maybe = calloc(store->log->max_files, sizeof(*r->maybe));
    r->walked = calloc(store->log->max_files, sizeof(*r->walked));
    r->told = calloc(store->log->max_files, sizeof(*r->told));
    r->body = body;
    r->level = -1;
    r->pages_found = UINT64_MAX;
    r->phase = CHECK_WALK;
    if (!r->roots || !r->marks || !r->maybe || !r->walked || !r->told) {
        r->check->error = -ENOMEM;
        return true;
    }
    add_roots(store, r);
    qsort(r->roots, r->n_roots, sizeof(*r->roots), by_family);
    for (uint32_t i = 1; i < r->n_roots; i++)
        r->roots[i].shares = r->roots[i].family == r->roots[i - 1].family;
    for (uint32_t i = 0; i < r->n_roots; i++)
        if (!r->roots[i].shares) /* what others share is counted once */
            r->check->total_pages += r->roots[i].used_pages;
    return true;
}

bool check_is_busy(const struct store *store)
{
    const struct check_run *r = store->check;
    return r && (r->reading || r->page_reads || r->scrub.reading);
}

void check_free(struct store *store)
{
    struct check_run *r = store->check;
    if (!r)
        return;
    store->check = NULL;
    while (r->level >= 0 && r->phase == CHECK_WALK)
        pop(r);
    if (r->phase == CHECK_FILES)
        scrub_free(&r->scrub);
    free_bits(r, &r->marks);
    free_bits(r, &r->maybe);
    free_bits(r, &r->walked);
    free_bits(r, &r->told);
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

/* Writers, a change, or a checkpoint (the check's own too) cannot go on for want of a file. */
static bool somebody_waits(const struct store *store)
{
    bool nodes = store->table->n_frozen ||
                 (store->checkpoint.state == CHECKPOINT_NODES && !store->checkpoint.map_only);
    return !list_empty(&store->room_waiters) || store->change_waits ||
           (nodes && !log_table_room(store->log));
}

bool check_step(struct store *store)
{
    struct check_run *r = store->check;
    bool more, done;
    if (!r)
        return false;
    if (!r->check->error && store->log->error && r->phase < CHECK_WALK)
        r->check->error = ERR_READ_ONLY; /* no checkpoint will come any more */
    if (!r->check->error && r->phase < CHECK_FILES && somebody_waits(store) &&
        log_is_short(store->log))
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
        r->seq = 1 + (store->log->checkpoint_running ? store->log->checkpoint_running
                                                     : store->log->checkpoint_seq);
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
        begin_files(r);
        return true;
    case CHECK_FILES:
        more = files_step(r, &done);
        if (done)
            finish(r);
        return more;
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
    check->total_blocks = check->checked_blocks = check->harmless = 0;
    check->error = 0;
    store->check = r;
    log_hold(store->log, true);
    return 0;
}
