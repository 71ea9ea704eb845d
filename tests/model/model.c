/* model.c - see model.h. Pages, their versions, reading and judging; the catalogue of vms and disks
 * is in model-vms.c. */
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

static void content_copy(const struct content *c, uint8_t *page)
{
    uint32_t len = c ? c->len : 0;
    if (len)
        memcpy(page, c->data, len);
    memset(page + len, 0, PAGE_BYTES - len);
}

/* Do bytes [from, to) of the page equal data[0, to - from)? data NULL: zeros. */
static bool content_equal(const struct content *c, uint32_t from, uint32_t to, const uint8_t *data)
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

static struct page *page_get(struct model_disk *disk, uint64_t index)
{
    struct page *p = page_find(disk, index);
    if (p)
        return p;
    if (disk->n_pages >= disk->n_buckets)
        pages_grow(disk);
    p = model_must(calloc(1, sizeof(*p)));
    p->index = index;
    p->n = p->max = 1;
    p->versions = model_must(calloc(1, sizeof(*p->versions))); /* a hole since ever */
    struct page **at =
        &disk->buckets[(index * 0x9e3779b97f4a7c15ULL >> 20) & (disk->n_buckets - 1)];
    p->next = *at;
    *at = p;
    disk->pages[disk->n_pages++] = p;
    return p;
}

static void version_drop(struct model *model, struct page_version *v)
{
    content_put(v->content);
    if (v->op)
        model_op_put(model, v->op);
}

/* Forget the first n versions. */
static void versions_shift(struct model *model, struct page *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        version_drop(model, &p->versions[i]);
    memmove(p->versions, p->versions + n, (p->n - n) * sizeof(*p->versions));
    p->n -= n;
}

static void versions_truncate(struct model *model, struct page *p, uint32_t n)
{
    while (p->n > n)
        version_drop(model, &p->versions[--p->n]);
}

/* Forget what neither a reader in flight nor a crash can show any more. */
static void page_prune(struct model *model, struct page *p)
{
    uint64_t bound = model->durable;
    if (!list_empty(&model->reads)) {
        uint64_t oldest = container_of(model->reads.next, struct model_read, link)->begun;
        bound = oldest < bound ? oldest : bound;
    }
    uint32_t n = 0;
    while (n + 1 < p->n && p->versions[n + 1].ack <= bound)
        n++;
    if (n)
        versions_shift(model, p, n);
}

static void page_push(struct model *model, struct page *p, struct content *content,
                      enum page_kind kind, struct model_op *op)
{
    page_prune(model, p);
    if (p->n == p->max) {
        p->max *= 2;
        p->versions = model_must(realloc(p->versions, p->max * sizeof(*p->versions)));
    }
    p->versions[p->n++] = (struct page_version){
        .content = content, .sub = op->sub, .ack = UINT64_MAX, .op = op, .kind = kind};
    op->refs++;
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
        versions_truncate(model, p, 0);
        free(p->versions);
        free(p);
    }
    disk->n_pages = kept;
}

void page_replace(struct model *model, struct model_disk *disk, uint64_t index, const uint8_t *data)
{
    struct page *p = page_get(disk, index);
    versions_truncate(model, p, 0);
    struct content *content = content_new(data);
    p->versions[p->n++] =
        (struct page_version){.content = content, .kind = content ? PAGE_DATA : PAGE_EITHER};
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
    if (!p || !p->versions[p->n - 1].content || p->versions[p->n - 1].ack == UINT64_MAX)
        return false;
    content_copy(p->versions[p->n - 1].content, ret_page);
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
        if (p && p->n >= MODEL_PAGE_VERSIONS && first <= p->index && p->index <= last)
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
    struct page *p = page_get(disk, index);
    const struct page_version *old = &p->versions[p->n - 1];
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
    page_push(model, p, content, kind, op);
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

/* Call fn for the versions that op made and that are still known. */
static void op_each(struct model *model, struct model_op *op,
                    void (*fn)(struct model *model, struct page *p, uint32_t i))
{
    struct model_disk *disk = op->disk;
    bool sparse = op->last - op->first > disk->n_pages;
    uint64_t n = sparse ? disk->n_pages : op->last - op->first + 1;
    for (uint64_t k = 0; k < n; k++) {
        struct page *p = sparse ? disk->pages[k] : page_find(disk, op->first + k);
        for (uint32_t i = 0; p && i < p->n; i++)
            if (p->versions[i].op == op) {
                fn(model, p, i);
                break;
            }
    }
}

static void version_ack(struct model *model, struct page *p, uint32_t i)
{
    p->versions[i].ack = p->versions[i].op->ack;
    p->versions[i].must = p->versions[i].op->flags & STORE_FUA;
}

void model_end(struct model *model, struct model_op *op, int error)
{
    model->now++;
    if (error)
        return;
    op->ack = model->now;
    op_each(model, op, version_ack);
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

void model_resolve(struct model *model, struct model_disk *disk, uint64_t offset, const void *page)
{
    struct page *p = page_find(disk, offset / PAGE_BYTES);
    if (!p || p->n < 2 || p->versions[p->n - 1].ack != UINT64_MAX)
        return;
    if (content_equal(p->versions[p->n - 2].content, 0, PAGE_BYTES, page)) {
        if (content_equal(p->versions[p->n - 1].content, 0, PAGE_BYTES, page))
            p->versions[p->n - 2].kind = PAGE_EITHER;
        versions_truncate(model, p, p->n - 1);
    } else if (content_equal(p->versions[p->n - 1].content, 0, PAGE_BYTES, page)) {
        p->versions[p->n - 1].ack = ++model->now;
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

/* The oldest version that was current at some moment since then. */
static uint32_t oldest_since(const struct page *p, uint64_t begun)
{
    uint32_t i = p->n - 1;
    while (i > 0 && p->versions[i].ack > begun)
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
            found = content_equal(p->versions[i].content, from, to, bytes);
        if (!found)
            model_complain(model, "read of %s/%s page %llu bytes [%u, %u) is wrong: found %s",
                           disk->vm->name, disk->name, (unsigned long long)(at / PAGE_BYTES), from,
                           to, to - from == PAGE_BYTES && bytes ? stamp_text(bytes) : "?");
        at += to - from;
    }
    list_del(&read->link);
}

static bool kind_allows(const struct page_version *v, const struct store_extent *e)
{
    switch (v->kind) {
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

static void check_extent(struct model *model, const struct model_read *read,
                         struct model_disk *disk, uint64_t start, const struct store_extent *e)
{
    uint64_t first = start / PAGE_BYTES, last = (start + e->length - 1) / PAGE_BYTES, known = 0;
    bool sparse = last - first > disk->n_pages;
    for (uint64_t k = 0; k < (sparse ? disk->n_pages : last - first + 1); k++) {
        const struct page *p = sparse ? disk->pages[k] : page_find(disk, first + k);
        if (!p || p->index < first || p->index > last)
            continue;
        known++;
        bool ok = false;
        for (uint32_t i = oldest_since(p, read->begun); i < p->n && !ok; i++)
            ok = kind_allows(&p->versions[i], e);
        if (!ok)
            model_complain(model, "extents of %s/%s: page %llu is in one of hole=%d zero=%d",
                           disk->vm->name, disk->name, (unsigned long long)p->index, e->hole,
                           e->zero);
    }
    if (known < last - first + 1 && !(e->hole && e->zero))
        model_complain(model, "extents of %s/%s: [%llu, +%llu) has holes but is hole=%d zero=%d",
                       disk->vm->name, disk->name, (unsigned long long)start,
                       (unsigned long long)e->length, e->hole, e->zero);
}

void model_extents_end(struct model *model, struct model_read *read, struct model_disk *disk,
                       uint64_t offset, uint64_t length, const struct store_extent *extents,
                       uint32_t n_extents)
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
        check_extent(model, read, disk, offset + sum, &extents[i]);
        sum += extents[i].length;
    }
    list_del(&read->link);
}

/* ---- judging -------------------------------------------------------------------------------- */

/* The cuts (moments) at which a version would be what a crash leaves: [*low, *high]. */
static bool version_cuts(const struct model *model, const struct page *p, uint32_t i, uint64_t *low,
                         uint64_t *high)
{
    for (uint32_t j = i + 1; j < p->n; j++)
        if (p->versions[j].must)
            return false;
    bool unlogged =
        p->versions[i].must && p->versions[i].op && p->versions[i].op->op != STORE_WRITE;
    *low = unlogged ? 0 : p->versions[i].sub;
    *high = i + 1 < p->n && p->versions[i + 1].ack != UINT64_MAX ? p->versions[i + 1].ack - 1
                                                                 : model->now;
    *low = *low < model->judge_low ? model->judge_low : *low;
    return *low <= *high;
}

/* Count the cuts that this page allows, each once. */
static void page_cuts(struct model *model, struct page *p)
{
    uint64_t end = 0; /* of the last range, exclusive */
    bool any = false;
    for (uint32_t i = 0; i < p->n; i++) {
        uint64_t low, high;
        if (!(p->seen >> i & 1) || !version_cuts(model, p, i, &low, &high))
            continue;
        low = any && low < end ? end : low;
        if (low > high)
            continue;
        model->cuts[low - model->judge_low]++;
        model->cuts[high + 1 - model->judge_low]--;
        end = high + 1;
        any = true;
    }
}

static void moving_add(struct model *model, struct page *p)
{
    if (model->n_moving == model->max_moving) {
        model->max_moving = model->max_moving ? 2 * model->max_moving : 256;
        model->moving =
            model_must(realloc(model->moving, model->max_moving * sizeof(*model->moving)));
    }
    model->moving[model->n_moving++] = p;
}

void model_judge_page(struct model *model, struct model_disk *disk, uint64_t index,
                      const void *page)
{
    if (race_has(model->race, disk, index) &&
        race_page_fits(model->race, index, page, model->judge_low == model->now))
        page_replace(model, disk, index, page);
    struct page *p = page_find(disk, index);
    if (!p) {
        if (!content_equal(NULL, 0, PAGE_BYTES, page))
            model_complain(model, "page %llu of %s/%s was never written but holds %s",
                           (unsigned long long)index, disk->vm->name, disk->name, stamp_text(page));
        return;
    }
    uint64_t low, high;
    bool possible = false;
    page_prune(model, p);
    if (p->n > 1 && p->judged != model->judgement)
        moving_add(model, p);
    p->seen = 0;
    p->judged = model->judgement;
    for (uint32_t i = 0; i < p->n; i++)
        if (content_equal(p->versions[i].content, 0, PAGE_BYTES, page)) {
            p->seen |= 1ULL << i;
            possible |= version_cuts(model, p, i, &low, &high);
        }
    if (possible)
        return;
    model_complain(model,
                   "page %llu of %s/%s holds %s; it should be one of:", (unsigned long long)index,
                   disk->vm->name, disk->name, stamp_text(page));
    for (uint32_t i = 0; i < p->n; i++)
        if (version_cuts(model, p, i, &low, &high)) {
            uint8_t bytes[PAGE_BYTES];
            content_copy(p->versions[i].content, bytes);
            model_complain(model, "    op %llu (submitted %llu, done %lld): %s",
                           p->versions[i].op ? (unsigned long long)p->versions[i].op->id : 0,
                           (unsigned long long)p->versions[i].sub, (long long)p->versions[i].ack,
                           stamp_text(bytes));
        }
}

/* With the cut at this moment: which operations are in, which are out, and does that agree with the
 * order in which they were completed? FUA waits longer than its place in the log: left out. */
static bool cut_agrees(struct model *model, uint64_t cut, struct model_op **ret_out,
                       struct model_op **ret_in)
{
    list_for_each (l, &model->ops)
        container_of(l, struct model_op, link)->fate = OP_UNSEEN;
    for (size_t k = 0; k < model->n_moving; k++) {
        const struct page *p = model->moving[k];
        uint64_t low, high;
        uint32_t first = p->n, last = 0;
        for (uint32_t i = 0; i < p->n; i++)
            if (p->seen >> i & 1 && version_cuts(model, p, i, &low, &high) && low <= cut &&
                cut <= high) {
                first = first == p->n ? i : first;
                last = i;
            }
        for (uint32_t i = 0; i < p->n; i++) {
            struct model_op *op = p->versions[i].op;
            if (op && i > last)
                op->fate = OP_OUT;
            else if (op && op->fate != OP_OUT)
                op->fate = i > first ? OP_UNKNOWN : op->fate == OP_UNSEEN ? OP_IN : op->fate;
        }
    }
    struct model_op *first_out = NULL, *last_in = NULL;
    list_for_each (l, &model->ops) {
        struct model_op *op = container_of(l, struct model_op, link);
        if (op->flags & STORE_FUA || op->ack == UINT64_MAX)
            continue;
        if (op->fate == OP_OUT && (!first_out || op->ack < first_out->ack))
            first_out = op;
        if (op->fate == OP_IN && (!last_in || op->ack > last_in->ack))
            last_in = op;
    }
    *ret_out = first_out;
    *ret_in = last_in;
    return !first_out || !last_in || first_out->ack > last_in->ack;
}

/* Keep only what is there. It is durable: a store makes its cut durable before it is open. */
static void adopt(struct model *model, uint64_t cut)
{
    for (uint32_t d = 0; d < model->n_disks; d++) {
        struct model_disk *disk = model->disks[d];
        for (size_t k = 0; k < disk->n_pages; k++) {
            struct page *p = disk->pages[k];
            uint64_t low, high;
            uint32_t pick = 0, n = 0;
            for (uint32_t i = 0; i < p->n; i++)
                if (p->seen >> i & 1 && version_cuts(model, p, i, &low, &high) && low <= cut &&
                    cut <= high) {
                    pick = i;
                    n++;
                }
            /* Another cut may be the true one: the same zeros, but not the same kind of them. */
            for (uint32_t i = 0; i < p->n; i++)
                n += i != pick && (p->seen >> i & 1) &&
                     p->versions[i].kind != p->versions[pick].kind;
            struct page_version v = p->versions[pick];
            if (v.content)
                v.content->refs++;
            versions_truncate(model, p, 0);
            p->versions[p->n++] = (struct page_version){
                .content = v.content, .kind = n > 1 && !v.content ? PAGE_EITHER : v.kind};
        }
        list_for_each_safe (l, &disk->busy)
            model_forget(model, container_of(l, struct model_op, busy));
    }
    model->durable = ++model->now;
    model->race = NULL;
}

void model_judge_end(struct model *model, bool keep)
{
    uint64_t span = model->now - model->judge_low + 1, cut = model->judge_low;
    int64_t count = 0;
    struct model_op *out = NULL, *in = NULL;
    model->cuts = model_must(calloc(span + 1, sizeof(*model->cuts)));
    for (uint32_t d = 0; d < model->n_disks; d++)
        for (size_t k = 0; k < model->disks[d]->n_pages; k++)
            if (model->disks[d]->pages[k]->judged != model->judgement)
                model_complain(model, "test bug: page %llu was not judged",
                               (unsigned long long)model->disks[d]->pages[k]->index);
    for (size_t k = 0; k < model->n_moving; k++)
        page_cuts(model, model->moving[k]);
    bool agreed = false, any = false;
    for (uint64_t i = 0; i < span && !agreed; i++) {
        count += model->cuts[i];
        if (count != (int64_t)model->n_moving)
            continue;
        any = true;
        cut = model->judge_low + i;
        agreed = cut_agrees(model, cut, &out, &in);
    }
    free(model->cuts);
    model->cuts = NULL;
    if (agreed && keep && !model->n_complaints)
        adopt(model, cut);
    else if (any && !agreed)
        model_complain(
            model,
            "not a prefix: op %llu (done at %llu) is missing, op %llu (done at %llu) is there",
            (unsigned long long)out->id, (unsigned long long)out->ack, (unsigned long long)in->id,
            (unsigned long long)in->ack);
    else if (!any && !model->n_complaints)
        model_complain(model, "not a prefix: no moment since %llu fits all pages (now %llu)",
                       (unsigned long long)model->judge_low, (unsigned long long)model->now);
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
        content_copy(p->versions[i].content, bytes);
        fprintf(out, "  sub %llu ack %lld kind %d: %s\n", (unsigned long long)p->versions[i].sub,
                (long long)p->versions[i].ack, p->versions[i].kind, stamp_text(bytes));
    }
}
