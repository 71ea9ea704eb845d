/* memory-compare.c - which pages of a machine's memory differ between two versions. */
#include "daemon/memory-compare.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "daemon/disk-io.h"
#include "daemon/engine.h"
#include "daemon/memory-list.h"
#include "daemon/memory-names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_PAGES 256u
#define CALL_US     500000 /* of comparing in one call: a client wants its answer */

/* The memory of one version, open. */
struct side {
    const struct store_version *name;
    struct store_version at;
    struct disk_io *io;
    struct memory_image *image;
    const struct memory_block *blocks;
    unsigned n_blocks;
};

struct run {
    struct memory_compare *compare;
    struct side from, to;
    uint64_t deadline_us;
    uint8_t *old, *now; /* BATCH_PAGES each */
    struct why *why;
};

/* ---- open ----------------------------------------------------------------------------------- */

static int find(const struct memory_list *list, struct side *side, struct why *why)
{
    const struct store_version *name = side->name;
    const struct version_info *v = memory_list_version(list, name->vm, name->version);
    const struct version_info *memory;

    if (!v)
        return why_set(why, ERR_NO_VERSION, "vm \"%s\" has no version \"%s\"; see varve ls %s",
                       name->vm, name->version, name->vm);
    memory = v->consistency == CONSISTENCY_RAM ? memory_list_find(list, v->guid) : NULL;
    if (!memory)
        return why_set(why, -EOPNOTSUPP, "%s@%s has disks only, no RAM", name->vm, name->version);
    strcpy(side->at.vm, memory->vm);
    strcpy(side->at.version, memory->name);
    return 0;
}

static int read_parts(void *arg, const struct memory_io_part *parts, size_t n)
{
    return disk_io_read(arg, (const struct disk_io_part *)parts, n);
}

static int open_side(struct engine *engine, struct side *side, struct why *why)
{
    struct why reason;

    int r = disk_io_open(engine, side->at.vm, side->at.version, MEMORY_DISK_NAME, &side->io);
    if (r < 0)
        return why_set(why, r, "the RAM of %s@%s cannot be opened: %s", side->name->vm,
                       side->name->version, err_text(r));
    const struct memory_io io = {.read = read_parts, .arg = side->io};
    r = memory_image_open(&io, false, &side->image, &reason);
    if (r < 0)
        return why_set(why, r, "the RAM of %s@%s cannot be read: %s", side->name->vm,
                       side->name->version, reason.text);
    side->n_blocks = memory_image_blocks(side->image, &side->blocks);
    return 0;
}

static void close_side(struct side *side)
{
    memory_image_close(side->image);
    disk_io_close(side->io);
}

static int open_both(struct engine *engine, struct run *run)
{
    struct memory_list list;

    int r = memory_list_get(engine, &list);
    if (r < 0)
        return why_set(run->why, r, "cannot look into the store: %s", err_text(r));
    r = find(&list, &run->from, run->why);
    if (r == 0)
        r = find(&list, &run->to, run->why);
    memory_list_free(&list);
    if (r == 0)
        r = open_side(engine, &run->from, run->why);
    return r == 0 ? open_side(engine, &run->to, run->why) : r;
}

/* ---- blocks --------------------------------------------------------------------------------- */

/* -1: it is not there. */
static int find_block(const struct side *side, const char *name)
{
    for (unsigned i = 0; i < side->n_blocks; i++)
        if (!strcmp(side->blocks[i].name, name))
            return (int)i;
    return -1;
}

static void add_block(struct memory_compare *c, const struct memory_block *old,
                      const struct memory_block *now)
{
    struct memory_block_change *change = &c->blocks[c->n_blocks++];

    *change = (struct memory_block_change){
        .shared = (now ? now : old)->shared,
        .from_bytes = old ? old->pages * MEMORY_PAGE_BYTES : 0,
        .to_bytes = now ? now->pages * MEMORY_PAGE_BYTES : 0,
    };
    strcpy(change->name, (now ? now : old)->name);
}

static void list_blocks(struct run *run)
{
    struct memory_compare *c = run->compare;

    c->n_blocks = 0;
    for (unsigned i = 0; i < run->to.n_blocks; i++) {
        int old = find_block(&run->from, run->to.blocks[i].name);
        add_block(c, old < 0 ? NULL : &run->from.blocks[old], &run->to.blocks[i]);
    }
    for (unsigned i = 0; i < run->from.n_blocks; i++)
        if (find_block(&run->to, run->from.blocks[i].name) < 0)
            add_block(c, &run->from.blocks[i], NULL);
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* False: the answer is full, and this page is not in it. */
static bool add_page(struct memory_compare *c, uint64_t page, bool zero)
{
    struct memory_extent *last = c->n_extents ? &c->extents[c->n_extents - 1] : NULL;
    uint64_t offset = page * MEMORY_PAGE_BYTES;

    if (last && last->block == c->block && last->zero == zero &&
        last->offset + last->length == offset) {
        last->length += MEMORY_PAGE_BYTES;
        return true;
    }
    if (c->n_extents == MEMORY_COMPARE_EXTENTS)
        return false;
    c->extents[c->n_extents++] = (struct memory_extent){c->block, offset, MEMORY_PAGE_BYTES, zero};
    return true;
}

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && !memcmp(page, page + 1, MEMORY_PAGE_BYTES - 1);
}

/* Pages of a block that may differ. */
struct batch {
    int old; /* the block in from; -1: it was not there */
    uint64_t pages[BATCH_PAGES];
    unsigned n, n_old; /* of them in from, too: the first ones */
};

static int read_pages(const struct run *run, const struct side *side, unsigned block,
                      const struct batch *batch, unsigned n, uint8_t *out)
{
    int r = memory_image_read_some(side->image, block, batch->pages, n, out);

    return r < 0 ? why_set(run->why, r,
                           "cannot read the RAM of %s@%s (block %s, from %" PRIu64 " on): %s",
                           side->name->vm, side->name->version, side->blocks[block].name,
                           batch->pages[0] * MEMORY_PAGE_BYTES, err_text(r))
                 : 0;
}

/* Gather the next ones, from c->offset on, which moves behind them. */
static void gather(const struct run *run, struct batch *batch)
{
    struct memory_compare *c = run->compare;
    uint64_t end = run->to.blocks[c->block].pages, page = c->offset / MEMORY_PAGE_BYTES;
    uint64_t old_end = batch->old < 0 ? 0 : run->from.blocks[batch->old].pages;

    old_end = old_end < end ? old_end : end;
    batch->n = batch->n_old = 0;
    while (page < end && batch->n < BATCH_PAGES) {
        bool in_both = page < old_end;
        page = in_both ? memory_image_next_unlike(run->from.image, (unsigned)batch->old,
                                                  run->to.image, c->block, page)
                       : memory_image_next(run->to.image, c->block, page);
        if (page == (in_both ? old_end : end))
            continue;
        batch->n_old += in_both;
        batch->pages[batch->n++] = page++;
    }
    c->offset = page * MEMORY_PAGE_BYTES;
}

/* Returns 1 when the answer is full. */
static int compare_pages(struct run *run, const struct batch *batch)
{
    struct memory_compare *c = run->compare;

    int r = batch->n ? read_pages(run, &run->to, c->block, batch, batch->n, run->now) : 0;
    if (r == 0 && batch->n_old)
        r = read_pages(run, &run->from, (unsigned)batch->old, batch, batch->n_old, run->old);
    for (unsigned i = 0; r == 0 && i < batch->n; i++) {
        const uint8_t *now = run->now + (size_t)i * MEMORY_PAGE_BYTES;
        const uint8_t *old = run->old + (size_t)i * MEMORY_PAGE_BYTES;
        bool same = i < batch->n_old ? !memcmp(now, old, MEMORY_PAGE_BYTES) : is_zero(now);
        if (same || add_page(c, batch->pages[i], is_zero(now)))
            continue;
        c->offset = batch->pages[i] * MEMORY_PAGE_BYTES;
        return 1;
    }
    return r;
}

/* Returns 1 when it is enough for one answer. */
static int compare_block(struct run *run)
{
    struct memory_compare *c = run->compare;
    uint64_t end = run->to.blocks[c->block].pages;
    struct batch batch = {.old = find_block(&run->from, run->to.blocks[c->block].name)};
    int r = 0;

    while (r == 0 && c->offset / MEMORY_PAGE_BYTES < end) {
        gather(run, &batch);
        r = compare_pages(run, &batch);
        if (r == 0 && mono_us() > run->deadline_us)
            r = 1;
    }
    return r;
}

static int compare_blocks(struct run *run)
{
    struct memory_compare *c = run->compare;
    int r = 0;

    if (c->block > run->to.n_blocks || c->offset % MEMORY_PAGE_BYTES)
        return why_set(run->why, -EINVAL,
                       "there is no such place in the memory; give \"after\" the \"next\" of the "
                       "last answer");
    while (r == 0 && c->block < run->to.n_blocks) {
        r = compare_block(run);
        if (r != 0)
            break;
        c->block++;
        c->offset = 0;
    }
    c->done = c->block == run->to.n_blocks;
    return r < 0 ? r : 0;
}

int memory_compare(struct engine *engine, struct memory_compare *c, struct why *why)
{
    _cleanup_free_ uint8_t *old = malloc(BATCH_PAGES * MEMORY_PAGE_BYTES);
    _cleanup_free_ uint8_t *now = malloc(BATCH_PAGES * MEMORY_PAGE_BYTES);
    struct run run = {
        .compare = c, .from.name = &c->from, .to.name = &c->to, .old = old, .now = now, .why = why};

    c->n_extents = 0;
    if (!old || !now)
        return why_set(why, -ENOMEM, "no memory");
    uint64_t begin_us = mono_us();
    int r = open_both(engine, &run);
    uint64_t opened_us = mono_us(), opening_us = opened_us - begin_us;
    /* Each call opens them anew: half of the time goes into comparing, at least. */
    run.deadline_us = opened_us + (opening_us > CALL_US ? opening_us : CALL_US);
    if (r == 0) {
        list_blocks(&run);
        r = compare_blocks(&run);
    }
    close_side(&run.from);
    close_side(&run.to);
    return r;
}
