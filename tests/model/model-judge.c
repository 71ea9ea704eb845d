/* model-judge.c - is what a crash left a prefix of what was asked for, and is a version the state
 * at one moment?
 *
 * Each page says at which moments it would look as it does; there must be one moment for all pages,
 * and it must agree with the order in which requests were completed. */
#include "model-impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A version shows it that is older than the one that is judged: nothing older than it can be there.
 */
static bool is_shown(const struct model *model, const struct page_write *w)
{
    uint64_t uid = w->shown_epoch == 0 || w->shown_epoch == model->epoch ? w->shown_by : 0;
    return uid && (!model->judge_version || uid < model->judge_version->uid);
}

/* The cuts (moments) at which a write would be what is there: [*low, *high]. */
static bool write_cuts(const struct model *model, const struct page *p, uint32_t i, uint64_t *low,
                       uint64_t *high)
{
    const struct page_write *w = p->writes[i];
    if (w->never)
        return false;
    for (uint32_t j = i + 1; j < p->n; j++)
        if ((p->writes[j]->must && !model->judge_version) || is_shown(model, p->writes[j]))
            return false;
    bool unlogged = w->must && w->op && w->op->op != STORE_WRITE;
    *low = unlogged ? 0 : w->sub;
    *high = i + 1 < p->n && p->writes[i + 1]->ack != UINT64_MAX ? p->writes[i + 1]->ack - 1
                                                                : UINT64_MAX;
    *low = *low < model->judge_low ? model->judge_low : *low;
    *high = *high > model->judge_high ? model->judge_high : *high;
    return *low <= *high;
}

/* Count the cuts that this page allows, each once. */
static void page_cuts(struct model *model, struct page *p)
{
    uint64_t end = 0; /* of the last range, exclusive */
    bool any = false;
    for (uint32_t i = 0; i < p->n; i++) {
        uint64_t low, high;
        if (!(p->seen >> i & 1) || !write_cuts(model, p, i, &low, &high))
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

/* Which writes look like this; true: one of them may be there. */
static bool page_see(struct model *model, struct page *p, const void *page)
{
    uint64_t low, high;
    bool possible = false;
    p->seen = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (content_equal(p->writes[i]->content, 0, PAGE_BYTES, page)) {
            p->seen |= 1ULL << i;
            possible |= write_cuts(model, p, i, &low, &high);
        }
    return possible;
}

static void doubt_page(struct model *model, struct model_disk *disk, uint64_t index,
                       const void *page)
{
    const struct model_disk *new = replacing_disk(model, disk->name);
    struct page *p = page_find(disk, index), *q = page_find(new, index);
    model->doubt_old &= p ? page_see(model, p, page) : content_equal(NULL, 0, PAGE_BYTES, page);
    model->doubt_new &= content_equal(q ? q->writes[q->n - 1]->content : NULL, 0, PAGE_BYTES, page);
}

void model_judge_page(struct model *model, struct model_disk *disk, uint64_t index,
                      const void *page)
{
    if (model->doubt) {
        doubt_page(model, disk, index, page);
        return;
    }
    assert(model->judge_version == disk->version);
    if (race_has(model->race, disk, index) &&
        race_page_fits(model->race, index, page, model->judge_kind != MODEL_CRASHED))
        race_page_keep(model, index, page);
    const char *version = disk->version ? disk->version->name : "";
    struct page *p = page_find(disk, index);
    if (!p) {
        if (!content_equal(NULL, 0, PAGE_BYTES, page))
            model_complain(model, "page %llu of %s/%s@%s was never written but holds %s",
                           (unsigned long long)index, disk->vm->name, disk->name, version,
                           stamp_text(page));
        return;
    }
    uint64_t low, high;
    if (!disk->version)
        page_prune(model, p);
    if (p->n > 1 && p->judged != model->judgement)
        moving_add(model, p);
    p->judged = model->judgement;
    if (page_see(model, p, page))
        return;
    model_complain(
        model, "page %llu of %s/%s@%s holds %s; it should be one of:", (unsigned long long)index,
        disk->vm->name, disk->name, version, stamp_text(page));
    for (uint32_t i = 0; i < p->n; i++)
        if (write_cuts(model, p, i, &low, &high)) {
            uint8_t bytes[PAGE_BYTES];
            content_copy(p->writes[i]->content, bytes);
            model_complain(model, "    op %llu (submitted %llu, done %lld): %s",
                           p->writes[i]->op ? (unsigned long long)p->writes[i]->op->id : 0,
                           (unsigned long long)p->writes[i]->sub, (long long)p->writes[i]->ack,
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
            if (p->seen >> i & 1 && write_cuts(model, p, i, &low, &high) && low <= cut &&
                cut <= high) {
                first = first == p->n ? i : first;
                last = i;
            }
        for (uint32_t i = 0; i < p->n; i++) {
            struct model_op *op = p->writes[i]->op;
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

/* The first moment that agrees with everything; complains and returns false when there is none. */
static bool find_cut(struct model *model, const char *what, uint64_t *ret_cut)
{
    uint64_t span = model->judge_high - model->judge_low + 1, cut = model->judge_low;
    int64_t count = 0;
    struct model_op *out = NULL, *in = NULL;
    model->cuts = model_must(calloc(span + 1, sizeof(*model->cuts)));
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
    if (any && !agreed)
        model_complain(model,
                       "%s: not a prefix: op %llu (done at %llu) is missing, op %llu (done at "
                       "%llu) is there",
                       what, (unsigned long long)out->id, (unsigned long long)out->ack,
                       (unsigned long long)in->id, (unsigned long long)in->ack);
    else if (!any && !model->n_complaints)
        model_complain(model, "%s: not a prefix: no moment from %llu to %llu fits all pages", what,
                       (unsigned long long)model->judge_low, (unsigned long long)model->judge_high);
    *ret_cut = cut;
    return agreed;
}

/* Keep only the write that is there. Of several that look like it, and may be it, it is unknown
 * which it is, maybe of what kind, though not what it holds. */
static void page_settle(struct model *model, struct page *p, uint64_t cut)
{
    uint64_t low, high;
    uint32_t pick = 0;
    bool same_kind = true, alone = true;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->seen >> i & 1 && write_cuts(model, p, i, &low, &high) && low <= cut && cut <= high)
            pick = i;
    for (uint32_t i = 0; i < p->n; i++)
        if (i != pick && p->seen >> i & 1) {
            alone = false;
            same_kind &= p->writes[i]->kind == p->writes[pick]->kind;
            p->writes[i]->vague = true;
        }
    p->writes[pick]->vague |= !alone;
    page_keep(model, p, pick);
    if (!same_kind && !p->writes[0]->content) {
        struct page_write *w = write_new(NULL, PAGE_EITHER);
        w->vague = true;
        write_put(model, p->writes[0]);
        p->writes[0] = w;
    }
}

static void check_judged(struct model *model, const struct model_disk *disk)
{
    for (size_t k = 0; k < disk->n_pages; k++)
        if (disk->pages[k]->judged != model->judgement)
            model_complain(model, "test bug: page %llu of %s/%s was not judged",
                           (unsigned long long)disk->pages[k]->index, disk->vm->name, disk->name);
}

/* ---- versions ------------------------------------------------------------------------------- */

void model_settle_begin(struct model *model, struct model_version *version)
{
    model->judgement++;
    model->n_moving = 0;
    model->judge_version = version;
    model->judge_low = version->sub;
    model->judge_high = version->ack;
}

/* What it shows is in the log. */
static void mark_shown(struct model *model, const struct model_version *version, struct page *p,
                       bool keep)
{
    for (uint32_t i = 0; i < p->n; i++) {
        struct page_write *w = p->writes[i];
        if (!(p->seen >> i & 1))
            continue;
        if (!w->shown_by || version->uid < w->shown_by ||
            (w->shown_epoch && w->shown_epoch != model->epoch)) {
            w->shown_by = version->uid;
            w->shown_epoch = keep ? 0 : model->epoch;
        }
        return; /* of several the oldest surely is */
    }
}

void model_settle_end(struct model *model, struct model_version *version, bool keep)
{
    uint64_t cut;
    char what[80];
    assert(model->judge_version == version);
    snprintf(what, sizeof(what), "version %s", version->name);
    for (uint32_t d = 0; d < version->n_disks; d++)
        check_judged(model, version->disks[d]);
    bool agreed = version->settled || find_cut(model, what, &cut);
    if (agreed && !version->settled && !model->n_complaints) {
        for (uint32_t d = 0; d < version->n_disks; d++)
            for (size_t k = 0; k < version->disks[d]->n_pages; k++) {
                mark_shown(model, version, version->disks[d]->pages[k], keep);
                if (keep)
                    page_settle(model, version->disks[d]->pages[k], cut);
            }
        version->settled = keep;
        if (model->heads_low < cut)
            model->heads_low = cut;
    }
    model->judge_version = NULL;
}

/* ---- heads ---------------------------------------------------------------------------------- */

void model_judge_heads(struct model *model)
{
    assert(!model->doubt);
    model->judgement++;
    model->n_moving = 0;
    model->judge_version = NULL;
    model->judge_low = model->heads_low;
    model->judge_high = model->now;
}

/* Keep only what is there. It is durable: a store makes its cut durable before it is open. */
static void adopt(struct model *model, uint64_t cut)
{
    for (uint32_t d = 0; d < model->n_disks; d++) {
        struct model_disk *disk = model->disks[d];
        for (size_t k = 0; k < disk->n_pages; k++) {
            struct page *p = disk->pages[k];
            page_settle(model, p, cut);
            struct page_write *w = p->writes[0];
            w->sub = w->ack = 0;
            if (w->op)
                model_op_put(model, w->op);
            w->op = NULL;
        }
        list_for_each_safe (l, &disk->busy)
            model_forget(model, container_of(l, struct model_op, busy));
    }
    model->durable = ++model->now;
    model->race = NULL;
}

void model_judge_end(struct model *model, bool keep)
{
    uint64_t cut;
    for (uint32_t d = 0; d < model->n_disks; d++)
        check_judged(model, model->disks[d]);
    if (find_cut(model, "all disks", &cut) && keep && !model->n_complaints)
        adopt(model, cut);
}
