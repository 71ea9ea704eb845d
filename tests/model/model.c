/* model.c - see model.h. Pages, their writes, requests and reading. */
#include "model-impl.h"
#include "rng.h"

#include "base/crc.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t zero_page[PAGE_BYTES];

void *model_must(void *p)
{
    if (!p)
        abort();
    return p;
}

void model_complain(struct model *model, const char *format, ...)
{
    va_list args;
    model->n_complaints++;
    if (model->complaint_len > sizeof(model->complaint) - 512)
        return;
    va_start(args, format);
    model->complaint_len +=
        (size_t)vsnprintf(model->complaint + model->complaint_len, 500, format, args);
    va_end(args);
    model->complaint[model->complaint_len++] = '\n';
    model->complaint[model->complaint_len] = 0;
}

const char *model_complaint(struct model *model)
{
    model->complaint[model->complaint_len] = 0;
    model->complaint_len = 0;
    return model->complaint;
}

uint64_t model_now(const struct model *model)
{
    return model->now;
}

/* ---- contents ------------------------------------------------------------------------------- */

struct stamp {
    uint32_t magic, disk;
    uint64_t page, op;
    uint32_t sector, sum; /* sum: of the fields before */
};

bool stamp_crc_tails;

/* Not a CRC-32C: the CRC-32C of bytes with their own CRC-32C behind them is the same for all bytes,
 * so a store that tells an old page from a new one by CRC-32C could not tell such pages apart. */
static uint32_t stamp_sum(const struct stamp *stamp)
{
    if (stamp_crc_tails)
        return crc32c(0, stamp, offsetof(struct stamp, sum));
    return (uint32_t)rng_mix(stamp->disk ^
                             rng_mix(stamp->page ^ rng_mix(stamp->op + stamp->sector)));
}

void stamp_fill(void *buf, uint64_t length, uint32_t disk, uint64_t offset, uint64_t op,
                bool sparse)
{
    uint8_t *at = buf;
    uint64_t x = op * 0x9e3779b97f4a7c15ULL + offset + disk;
    /* Noise everywhere, so that no two places are alike, then stamps where whole ones fit. */
    if (sparse)
        memset(at, 0, length);
    else
        for (uint64_t i = 0; i < length; i += 8) {
            x = x * 6364136223846793005ULL + 1442695040888963407ULL;
            uint64_t word = x ^ x >> 29;
            memcpy(at + i, &word, length - i < 8 ? length - i : 8);
        }
    uint64_t step = sparse ? PAGE_BYTES : 512;
    for (uint64_t pos = (offset + step - 1) / step * step;
         pos + sizeof(struct stamp) <= offset + length; pos += step) {
        struct stamp stamp = {0x76727665, disk, pos / PAGE_BYTES, op, pos % PAGE_BYTES / 512, 0};
        stamp.sum = stamp_sum(&stamp);
        memcpy(at + (pos - offset), &stamp, sizeof(stamp));
    }
    if (sparse && offset % PAGE_BYTES && length)
        at[0] = (uint8_t)(x | 1);
}

const char *stamp_text(const void *page)
{
    static char text[512];
    size_t len = 0;
    uint64_t last = 0;
    text[0] = 0;
    for (unsigned sector = 0; sector < PAGE_BYTES / 512 && len < sizeof(text) - 80; sector++) {
        struct stamp stamp;
        memcpy(&stamp, (const uint8_t *)page + 512 * sector, sizeof(stamp));
        if (stamp.magic != 0x76727665 || stamp.sum != stamp_sum(&stamp))
            continue;
        if (sector && stamp.op == last)
            continue;
        last = stamp.op;
        len += (size_t)snprintf(text + len, sizeof(text) - len,
                                "%ssector %u: op %llu disk %u page %llu", len ? "; " : "", sector,
                                (unsigned long long)stamp.op, stamp.disk,
                                (unsigned long long)stamp.page);
    }
    if (!len)
        return memcmp(page, zero_page, PAGE_BYTES) ? "no stamps, not zero" : "zeros";
    return text;
}

static struct content *content_new(const uint8_t *data)
{
    uint32_t len = PAGE_BYTES;
    while (len > 0 && data[len - 1] == 0 && memcmp(data + len - 64, zero_page, 64) == 0)
        len -= 64;
    if (!len)
        return NULL;
    struct content *c = model_must(malloc(sizeof(*c) + len));
    c->refs = 1;
    c->len = len;
    memcpy(c->data, data, len);
    return c;
}

static void content_put(struct content *c)
{
    if (c && --c->refs == 0)
        free(c);
}

void content_copy(const struct content *c, uint8_t *page)
{
    uint32_t len = c ? c->len : 0;
    if (len)
        memcpy(page, c->data, len);
    memset(page + len, 0, PAGE_BYTES - len);
}

/* Do bytes [from, to) of the page equal data[0, to - from)? data NULL: zeros. */
bool content_equal(const struct content *c, uint32_t from, uint32_t to, const uint8_t *data)
{
    uint32_t len = c ? c->len : 0, split = len < from ? from : len > to ? to : len;
    if (!data)
        data = zero_page;
    if (split > from && memcmp(c->data + from, data, split - from))
        return false;
    return split >= to || memcmp(data + (split - from), zero_page, to - split) == 0;
}

/* ---- pages ---------------------------------------------------------------------------------- */

struct page *page_find(const struct model_disk *disk, uint64_t index)
{
    if (!disk->n_buckets)
        return NULL;
    struct page *p = disk->buckets[(index * 0x9e3779b97f4a7c15ULL >> 20) & (disk->n_buckets - 1)];
    while (p && p->index != index)
        p = p->next;
    return p;
}

static void pages_grow(struct model_disk *disk)
{
    size_t n = disk->n_buckets ? 4 * disk->n_buckets : 64;
    struct page **buckets = model_must(calloc(n, sizeof(*buckets)));
    for (size_t i = 0; i < disk->n_pages; i++) {
        struct page *p = disk->pages[i];
        struct page **at = &buckets[(p->index * 0x9e3779b97f4a7c15ULL >> 20) & (n - 1)];
        p->next = *at;
        *at = p;
    }
    free(disk->buckets);
    disk->buckets = buckets;
    disk->n_buckets = n;
    disk->pages = model_must(realloc(disk->pages, n * sizeof(*disk->pages)));
}

struct page *page_get(struct model *model, struct model_disk *disk, uint64_t index)
{
    struct page *p = page_find(disk, index);
    if (p)
        return p;
    if (disk->n_pages >= disk->n_buckets)
        pages_grow(disk);
    p = model_must(calloc(1, sizeof(*p)));
    p->index = index;
    p->n = p->max = 1;
    p->writes = model_must(malloc(sizeof(struct page_write *)));
    p->writes[0] = write_get(model->hole);
    struct page **at =
        &disk->buckets[(index * 0x9e3779b97f4a7c15ULL >> 20) & (disk->n_buckets - 1)];
    p->next = *at;
    *at = p;
    disk->pages[disk->n_pages++] = p;
    return p;
}

/* ---- writes --------------------------------------------------------------------------------- */

struct page_write *write_new(struct content *content, enum page_kind kind)
{
    struct page_write *w = model_must(calloc(1, sizeof(*w)));
    w->refs = 1;
    w->content = content;
    w->kind = kind;
    return w;
}

struct page_write *write_get(struct page_write *w)
{
    w->refs++;
    return w;
}

void write_put(struct model *model, struct page_write *w)
{
    if (!w || --w->refs)
        return;
    content_put(w->content);
    if (w->op)
        model_op_put(model, w->op);
    free(w);
}

void page_push(struct page *p, struct page_write *w)
{
    if (p->n == p->max) {
        p->max *= 2;
        p->writes = model_must(realloc(p->writes, p->max * sizeof(struct page_write *)));
    }
    p->writes[p->n++] = w;
}

/* Forget the first n. */
static void writes_shift(struct model *model, struct page *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        write_put(model, p->writes[i]);
    memmove(p->writes, p->writes + n, (p->n - n) * sizeof(struct page_write *));
    p->n -= n;
}

static void writes_truncate(struct model *model, struct page *p, uint32_t n)
{
    while (p->n > n)
        write_put(model, p->writes[--p->n]);
}

void page_drop_oldest(struct model *model, struct page *p)
{
    writes_shift(model, p, 1);
}

void page_keep(struct model *model, struct page *p, uint32_t i)
{
    writes_truncate(model, p, i + 1);
    writes_shift(model, p, i);
}

/* Forget what neither a reader in flight nor a crash can show any more. */
void page_prune(struct model *model, struct page *p)
{
    uint64_t bound = model->durable;
    if (!list_empty(&model->reads)) {
        uint64_t oldest = container_of(model->reads.next, struct model_read, link)->begun;
        bound = oldest < bound ? oldest : bound;
    }
    uint32_t n = 0;
    while (n + 1 < p->n && p->writes[n + 1]->ack <= bound)
        n++;
    if (n)
        writes_shift(model, p, n);
}

static void page_change(struct model *model, struct page *p, struct content *content,
                        enum page_kind kind, struct model_op *op)
{
    struct page_write *w = write_new(content, kind);
    w->sub = op->sub;
    w->ack = UINT64_MAX;
    w->op = op;
    op->refs++;
    page_prune(model, p);
    page_push(p, w);
}

void pages_free(struct model *model, struct model_disk *disk, uint64_t from_index)
{
    size_t kept = 0;
    for (size_t i = 0; i < disk->n_pages; i++) {
        struct page *p = disk->pages[i];
        if (p->index < from_index) {
            disk->pages[kept++] = p;
            continue;
        }
        struct page **at =
            &disk->buckets[(p->index * 0x9e3779b97f4a7c15ULL >> 20) & (disk->n_buckets - 1)];
        while (*at != p)
            at = &(*at)->next;
        *at = p->next;
        writes_truncate(model, p, 0);
        free(p->writes);
        free(p);
    }
    disk->n_pages = kept;
}

void page_replace(struct model *model, struct model_disk *disk, uint64_t index, const uint8_t *data)
{
    struct page *p = page_get(model, disk, index);
    struct content *content = content_new(data);
    page_push(p, write_new(content, content ? PAGE_DATA : PAGE_EITHER));
    page_keep(model, p, p->n - 1);
}

bool model_next_page(const struct model_disk *disk, uint64_t *cursor, uint64_t *ret_index)
{
    if (*cursor >= disk->n_pages)
        return false;
    *ret_index = disk->pages[(*cursor)++]->index;
    return true;
}

uint64_t model_n_pages(const struct model_disk *disk)
{
    return disk->n_pages;
}

bool model_page_settled(const struct model_disk *disk, uint64_t index, void *ret_page)
{
    const struct page *p = page_find(disk, index);
    if (!p || !p->writes[p->n - 1]->content || p->writes[p->n - 1]->ack == UINT64_MAX)
        return false;
    content_copy(p->writes[p->n - 1]->content, ret_page);
    return true;
}

/* ---- changing requests ---------------------------------------------------------------------- */

void model_op_put(struct model *model, struct model_op *op)
{
    if (--op->refs)
        return;
    list_del(&op->link);
    free(op);
}

bool model_busy(const struct model_disk *disk, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / PAGE_BYTES, last = (offset + length - 1) / PAGE_BYTES;
    list_for_each (l, &disk->busy) {
        const struct model_op *op = container_of(l, struct model_op, busy);
        if (op->first <= last && first <= op->last)
            return true;
    }
    bool sparse = last - first > disk->n_pages;
    for (uint64_t k = 0; k < (sparse ? disk->n_pages : last - first + 1); k++) {
        const struct page *p = sparse ? disk->pages[k] : page_find(disk, first + k);
        if (p && p->n >= MODEL_PAGE_WRITES && first <= p->index && p->index <= last)
            return true;
    }
    return false;
}

/* One page's part of an operation: bytes [from, to) of page p. */
static void change_page(struct model *model, struct model_disk *disk, struct model_op *op,
                        uint64_t index, uint32_t from, uint32_t to, const uint8_t *data)
{
    bool whole = from == 0 && to == PAGE_BYTES;
    enum page_kind kind = PAGE_EITHER;
    struct content *content = NULL;
    if (op->op == STORE_TRIM && !whole)
        return;
    struct page *p = page_get(model, disk, index);
    const struct page_write *old = p->writes[p->n - 1];
    if (op->op == STORE_WRITE || !whole) {
        uint8_t page[PAGE_BYTES];
        if (!whole)
            content_copy(old->content, page);
        if (op->op == STORE_WRITE)
            memcpy(page + from, data, to - from);
        else
            memset(page + from, 0, to - from);
        content = content_new(page);
        kind = content ? PAGE_DATA : PAGE_EITHER;
    } else {
        kind = op->flags & STORE_NO_HOLE ? PAGE_ZERO : PAGE_HOLE;
    }
    page_change(model, p, content, kind, op);
}

struct model_op *model_begin(struct model *model, struct model_disk *disk, enum store_op op,
                             uint32_t flags, uint64_t offset, uint64_t length, const void *buf)
{
    assert(length && !model_busy(disk, offset, length));
    struct model_op *o = model_must(calloc(1, sizeof(*o)));
    *o = (struct model_op){.refs = 1,
                           .id = ++model->op_ids,
                           .op = op,
                           .flags = flags,
                           .sub = ++model->now,
                           .ack = UINT64_MAX,
                           .disk = disk,
                           .first = offset / PAGE_BYTES,
                           .last = (offset + length - 1) / PAGE_BYTES};
    list_push_back(&model->ops, &o->link);
    list_push_back(&disk->busy, &o->busy);
    uint64_t at = offset, end = offset + length;
    /* A trim leaves alone what was never written. */
    if (op == STORE_TRIM && o->last - o->first > disk->n_pages) {
        for (size_t i = 0; i < disk->n_pages; i++) {
            uint64_t start = disk->pages[i]->index * PAGE_BYTES;
            if (start >= offset && start + PAGE_BYTES <= end)
                change_page(model, disk, o, disk->pages[i]->index, 0, PAGE_BYTES, NULL);
        }
        return o;
    }
    while (at < end) {
        uint32_t from = (uint32_t)(at % PAGE_BYTES);
        uint32_t to = end - at < PAGE_BYTES - from ? from + (uint32_t)(end - at) : PAGE_BYTES;
        change_page(model, disk, o, at / PAGE_BYTES, from, to,
                    buf ? (const uint8_t *)buf + (at - offset) : NULL);
        at += to - from;
    }
    return o;
}

/* Call fn for the writes that op made and that are still known. */
static void op_each(struct model *model, struct model_op *op,
                    void (*fn)(struct model *model, struct page *p, uint32_t i))
{
    struct model_disk *disk = op->disk;
    bool sparse = op->last - op->first > disk->n_pages;
    uint64_t n = sparse ? disk->n_pages : op->last - op->first + 1;
    for (uint64_t k = 0; k < n; k++) {
        struct page *p = sparse ? disk->pages[k] : page_find(disk, op->first + k);
        for (uint32_t i = 0; p && i < p->n; i++)
            if (p->writes[i]->op == op) {
                fn(model, p, i);
                break;
            }
    }
}

static void write_ack(struct model *model, struct page *p, uint32_t i)
{
    p->writes[i]->ack = p->writes[i]->op->ack;
    p->writes[i]->must = p->writes[i]->op->flags & STORE_FUA;
}

void model_end(struct model *model, struct model_op *op, int error)
{
    model->now++;
    if (error)
        return;
    op->ack = model->now;
    op_each(model, op, write_ack);
    /* A write is in the log, and all before it; a trim of a hole need not be. */
    if (op->flags & STORE_FUA && op->op == STORE_WRITE && model->durable < op->sub)
        model->durable = op->sub;
    model_forget(model, op);
}

void model_forget(struct model *model, struct model_op *op)
{
    list_del(&op->busy);
    model_op_put(model, op);
}

/* The two newest look alike, and either may be what is there: the older one's place is taken by one
 * that stands for both. */
static void page_blur(struct model *model, struct page *p)
{
    struct page_write *old = p->writes[p->n - 2], *new = p->writes[p->n - 1];
    struct page_write *w = write_new(NULL, new->kind == old->kind ? old->kind : PAGE_EITHER);
    if (old->content) {
        old->content->refs++;
        w->content = old->content;
    }
    w->sub = old->sub;
    w->ack = old->ack;
    w->op = old->op;
    if (w->op)
        w->op->refs++;
    w->must = old->must;
    w->vague = old->vague = new->vague = true;
    p->writes[p->n - 2] = w;
    write_put(model, old);
}

void model_resolve(struct model *model, struct model_disk *disk, uint64_t offset, const void *page)
{
    struct page *p = page_find(disk, offset / PAGE_BYTES);
    if (!p || p->n < 2 || p->writes[p->n - 1]->ack != UINT64_MAX)
        return;
    if (content_equal(p->writes[p->n - 2]->content, 0, PAGE_BYTES, page)) {
        if (content_equal(p->writes[p->n - 1]->content, 0, PAGE_BYTES, page))
            page_blur(model, p); /* a version may have settled on the newer one */
        else
            p->writes[p->n - 1]->never = true;
        writes_truncate(model, p, p->n - 1);
    } else if (content_equal(p->writes[p->n - 1]->content, 0, PAGE_BYTES, page)) {
        p->writes[p->n - 1]->ack = ++model->now;
    } else {
        model_complain(model, "after a failed write page %llu of %s/%s is neither old nor new: %s",
                       (unsigned long long)p->index, disk->vm->name, disk->name, stamp_text(page));
    }
}

uint64_t model_flush_begin(struct model *model)
{
    return ++model->now;
}

void model_flush_end(struct model *model, uint64_t begun)
{
    model->now++;
    if (model->durable < begun)
        model->durable = begun;
}

/* ---- reading -------------------------------------------------------------------------------- */

void model_read_begin(struct model *model, struct model_read *read)
{
    read->begun = ++model->now;
    list_push_back(&model->reads, &read->link);
}

void model_read_abort(struct model_read *read)
{
    list_del(&read->link);
}

uint32_t oldest_since(const struct page *p, uint64_t begun)
{
    uint32_t i = p->n - 1;
    while (i > 0 && p->writes[i]->ack > begun)
        i--;
    return i;
}

void model_read_end(struct model *model, struct model_read *read, struct model_disk *disk,
                    uint64_t offset, uint64_t length, const void *data)
{
    uint64_t at = offset, end = offset + length;
    model->now++;
    while (at < end) {
        uint32_t from = (uint32_t)(at % PAGE_BYTES);
        uint32_t to = end - at < PAGE_BYTES - from ? from + (uint32_t)(end - at) : PAGE_BYTES;
        const uint8_t *bytes = data ? (const uint8_t *)data + (at - offset) : NULL;
        const struct page *p = page_find(disk, at / PAGE_BYTES);
        bool found = !p && content_equal(NULL, from, to, bytes);
        for (uint32_t i = p ? oldest_since(p, read->begun) : 0; p && i < p->n && !found; i++)
            found = content_equal(p->writes[i]->content, from, to, bytes);
        if (!found)
            model_complain(model, "read of %s/%s@%s page %llu bytes [%u, %u) is wrong: found %s",
                           disk->vm->name, disk->name, disk->version ? disk->version->name : "",
                           (unsigned long long)(at / PAGE_BYTES), from, to,
                           to - from == PAGE_BYTES && bytes ? stamp_text(bytes) : "?");
        at += to - from;
    }
    list_del(&read->link);
}

static bool kind_allows(const struct page_write *w, const struct store_extent *e)
{
    switch (w->kind) {
    case PAGE_HOLE:
        return e->hole && e->zero;
    case PAGE_ZERO:
        return !e->hole && e->zero;
    case PAGE_DATA:
        return !e->hole && !e->zero;
    case PAGE_EITHER: /* holds zeros; kept as a page, as a mark, or not at all */
        return true;
    }
    return false;
}

static bool write_equal(const struct page_write *a, const struct page_write *b)
{
    uint8_t bytes[PAGE_BYTES];
    content_copy(b->content, bytes);
    return content_equal(a->content, 0, PAGE_BYTES, bytes);
}

/* base: NULL beyond its end. A page written again with the same bytes may be either; of what has
 * not changed nothing is told. */
static bool changed_allows(const struct page_write *w, const struct page_write *base, bool changed)
{
    if (!base)
        return w->kind == PAGE_EITHER || changed == (w->kind != PAGE_HOLE);
    if (w->kind == PAGE_HOLE && base->kind == PAGE_HOLE)
        return !changed;
    if (w == base)
        return !changed || w->vague;
    bool kinds = w->kind != base->kind && w->kind != PAGE_EITHER && base->kind != PAGE_EITHER;
    return changed || (!kinds && write_equal(w, base));
}

/* What a page was at some moment of the read: n writes, the oldest first. */
static struct page_write *const *shown_since(const struct model *model,
                                             const struct model_disk *disk, uint64_t index,
                                             uint64_t begun, uint32_t *ret_n)
{
    const struct page *p = page_find(disk, index);
    uint32_t first = p ? oldest_since(p, begun) : 0;
    *ret_n = p ? p->n - first : 1;
    return p ? p->writes + first : &model->hole;
}

static void check_page_extent(struct model *model, const struct model_read *read,
                              const struct model_disk *disk, const struct model_disk *base,
                              uint64_t index, const struct store_extent *e)
{
    uint32_t n, n_base = 1;
    struct page_write *const *w = shown_since(model, disk, index, read->begun, &n);
    struct page_write *none = NULL, *const *b = &none;
    if (base && index < base->size / PAGE_BYTES)
        b = shown_since(model, base, index, read->begun, &n_base);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_base; k++)
            if (!base ? kind_allows(w[i], e)
                      : changed_allows(w[i], b[k], e->changed) &&
                            (e->changed ? kind_allows(w[i], e) : !e->hole && !e->zero))
                return;
    model_complain(
        model, "extents of %s/%s@%s%s: page %llu is in one of hole=%d zero=%d changed=%d",
        disk->vm->name, disk->name, disk->version ? disk->version->name : "",
        base ? " against a base" : "", (unsigned long long)index, e->hole, e->zero, e->changed);
}

/* The pages of a range that one disk knows, in no order. */
static bool next_known(const struct model_disk *disk, uint64_t first, uint64_t last,
                       uint64_t *cursor, uint64_t *ret_index)
{
    bool sparse = last - first > disk->n_pages;
    while (*cursor < (sparse ? disk->n_pages : last - first + 1)) {
        uint64_t k = (*cursor)++;
        const struct page *p = sparse ? disk->pages[k] : page_find(disk, first + k);
        if (!p || p->index < first || p->index > last)
            continue;
        *ret_index = p->index;
        return true;
    }
    return false;
}

static void check_extent(struct model *model, const struct model_read *read,
                         const struct model_disk *disk, const struct model_disk *base,
                         uint64_t start, const struct store_extent *e)
{
    uint64_t first = start / PAGE_BYTES, last = (start + e->length - 1) / PAGE_BYTES, known = 0;
    uint64_t cursor = 0, index;
    while (next_known(disk, first, last, &cursor, &index)) {
        known++;
        check_page_extent(model, read, disk, base, index, e);
    }
    cursor = 0;
    while (base && next_known(base, first, last, &cursor, &index))
        if (!page_find(disk, index)) {
            known++;
            check_page_extent(model, read, disk, base, index, e);
        }
    bool ok = base ? !e->changed && !e->hole && !e->zero : e->hole && e->zero;
    if (known < last - first + 1 && !ok)
        model_complain(
            model, "extents of %s/%s: [%llu, +%llu) has holes but is hole=%d zero=%d changed=%d",
            disk->vm->name, disk->name, (unsigned long long)start, (unsigned long long)e->length,
            e->hole, e->zero, e->changed);
}

void model_extents_end(struct model *model, struct model_read *read, const struct model_disk *disk,
                       const struct model_disk *base, uint64_t offset, uint64_t length,
                       const struct store_extent *extents, uint32_t n_extents)
{
    uint64_t sum = 0;
    model->now++;
    if (n_extents == 0)
        model_complain(model, "extents of %s/%s: none", disk->vm->name, disk->name);
    for (uint32_t i = 0; i < n_extents; i++) {
        if (extents[i].length == 0 || extents[i].length > length - sum) {
            model_complain(model, "extents of %s/%s: extent %u has length %llu of %llu left",
                           disk->vm->name, disk->name, i, (unsigned long long)extents[i].length,
                           (unsigned long long)(length - sum));
            break;
        }
        check_extent(model, read, disk, base, offset + sum, &extents[i]);
        sum += extents[i].length;
    }
    list_del(&read->link);
}

void model_print_page(const struct model *model, const struct model_disk *disk, uint64_t index,
                      FILE *out)
{
    const struct page *p = page_find(disk, index);
    fprintf(out, "page %llu of %s/%s (durable since %llu, now %llu):\n", (unsigned long long)index,
            disk->vm->name, disk->name, (unsigned long long)model->durable,
            (unsigned long long)model->now);
    for (uint32_t i = 0; p && i < p->n; i++) {
        uint8_t bytes[PAGE_BYTES];
        content_copy(p->writes[i]->content, bytes);
        fprintf(out, "  sub %llu ack %lld kind %d: %s\n", (unsigned long long)p->writes[i]->sub,
                (long long)p->writes[i]->ack, p->writes[i]->kind, stamp_text(bytes));
    }
}
