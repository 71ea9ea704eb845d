/* model-race.c - requests on the same pages at once.
 *
 * The ends of all requests cut a page into regions. Each region shows one of the requests that
 * cover it, whole, or what was there before: never a mixture, and never an older state where a
 * completed request covers it. So two writes of different bytes of one page must both be there. */
#include "model-impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void model_race_begin(struct model *model, struct model_race *race, struct model_disk *disk,
                      uint64_t page, uint32_t n_pages)
{
    assert(!model->race && n_pages <= MODEL_RACE_PAGES);
    assert(!model_busy(disk, page * PAGE_BYTES, (uint64_t)n_pages * PAGE_BYTES));
    memset(race, 0, sizeof(*race));
    race->disk = disk;
    race->page = page;
    race->n_pages = n_pages;
    for (uint32_t i = 0; i < n_pages; i++) {
        uint8_t *old = race->old + (size_t)i * PAGE_BYTES;
        if (!model_page_settled(disk, page + i, old))
            memset(old, 0, PAGE_BYTES);
        struct page *p = page_get(model, disk, page + i); /* so that every judgement reads it */
        page_keep(model, p, p->n - 1);
    }
    model->now++;
    model->race = race;
}

void model_race_add(struct model *model, const uint8_t *buf, uint64_t offset, uint32_t length)
{
    struct model_race *race = model->race;
    assert(race->n < MODEL_RACE_OPS);
    race->ops[race->n].from = (uint32_t)(offset - race->page * PAGE_BYTES);
    race->ops[race->n].to = race->ops[race->n].from + length;
    race->ops[race->n].buf = buf;
    race->n++;
}

void model_race_done(struct model *model, uint32_t i)
{
    if (model->race)
        model->race->ops[i].done = true;
}

static bool writer_fits(const struct model_race *race, uint32_t i, uint32_t from, uint32_t to,
                        const uint8_t *bytes)
{
    if (race->ops[i].from > from || race->ops[i].to < to)
        return false;
    const uint8_t *buf = race->ops[i].buf;
    for (uint32_t k = 0; k < to - from; k++)
        if (bytes[k] != (buf ? buf[from - race->ops[i].from + k] : 0))
            return false;
    return true;
}

/* A region without ends inside. */
static bool region_fits(const struct model_race *race, uint32_t from, uint32_t to,
                        const uint8_t *bytes, bool all_done)
{
    bool covered = false;
    for (uint32_t i = 0; i < race->n; i++) {
        if (writer_fits(race, i, from, to, bytes))
            return true;
        covered |= race->ops[i].done && race->ops[i].from <= from && race->ops[i].to >= to;
    }
    return !(all_done && covered) && memcmp(bytes, race->old + from, to - from) == 0;
}

bool race_page_fits(const struct model_race *race, uint64_t index, const uint8_t *page,
                    bool all_done)
{
    uint32_t start = (uint32_t)(index - race->page) * PAGE_BYTES, end = start + PAGE_BYTES;
    for (uint32_t from = start; from < end;) {
        uint32_t to = end;
        for (uint32_t i = 0; i < race->n; i++) {
            if (race->ops[i].from > from && race->ops[i].from < to)
                to = race->ops[i].from;
            if (race->ops[i].to > from && race->ops[i].to < to)
                to = race->ops[i].to;
        }
        if (!region_fits(race, from, to, page + (from - start), all_done))
            return false;
        from = to;
    }
    return true;
}

bool race_has(const struct model_race *race, const struct model_disk *disk, uint64_t index)
{
    return race && race->disk == disk && index >= race->page && index < race->page + race->n_pages;
}

static bool is_covered(const struct model_race *race, uint64_t index)
{
    uint64_t from = (index - race->page) * PAGE_BYTES;
    for (uint32_t i = 0; i < race->n; i++)
        if (race->ops[i].from < from + PAGE_BYTES && race->ops[i].to > from)
            return true;
    return false;
}

void race_page_keep(struct model *model, uint64_t index, const uint8_t *page)
{
    struct model_race *race = model->race;
    struct page *p = page_get(model, race->disk, index);
    if (!is_covered(race, index))
        return;
    bool same = content_equal(p->writes[0]->content, 0, PAGE_BYTES, page);
    if (same && p->writes[0]->content)
        p->writes[0]->vague = true; /* written again, or not */
    else
        page_replace(model, race->disk, index, page);
}

void model_race_end(struct model *model, const uint8_t *pages)
{
    struct model_race *race = model->race;
    model->race = NULL;
    model->now++;
    for (uint32_t i = 0; i < race->n_pages; i++) {
        const uint8_t *page = pages + (size_t)i * PAGE_BYTES;
        if (!race_page_fits(race, race->page + i, page, true))
            model_complain(model, "page %llu of %s/%s after %u requests on it at once: %s",
                           (unsigned long long)(race->page + i), race->disk->vm->name,
                           race->disk->name, race->n, stamp_text(page));
        if (is_covered(race, race->page + i))
            page_replace(model, race->disk, race->page + i, page);
    }
}
