/* compare.c - what differs between two disks.
 *
 * run() goes on from callback to callback on the engine's thread: a query for extents at a time,
 * until the answer is full, the disk ends, or enough was looked at for one call. */
#include "daemon/compare.h"

#include "base/err.h"
#include "daemon/engine.h"

#include <errno.h>
#include <stdlib.h>

#define QUERY_EXTENTS 1024u /* at a time: they fit the processor's cache */
#define QUERIES_MAX   64u   /* of one call: others want the thread, and a client its answer */

struct run {
    struct store_io io;
    struct engine_call *call;
    struct compare *compare;
    unsigned n_queries;
    int result;
    struct store_extent extents[QUERY_EXTENTS];
};

static struct disk *find(struct store *store, const struct compare_disk *name)
{
    if (*name->version)
        return store_find_version_disk(store, name->vm, name->version, name->disk);
    return store_find_disk(store, name->vm, name->disk);
}

/* ---- the answer ----------------------------------------------------------------------------- */

static bool is_wanted(const struct run *run, const struct store_extent *extent)
{
    return run->io.base ? extent->changed : !extent->hole;
}

static enum compare_kind kind_of(const struct store_extent *extent)
{
    return extent->hole ? COMPARE_DISCARDED : extent->zero ? COMPARE_ZERO : COMPARE_DATA;
}

/* False: the answer is full, and this extent is not in it. */
static bool add(struct compare *c, const struct store_extent *extent)
{
    struct compare_extent *last = c->n_extents ? &c->extents[c->n_extents - 1] : NULL;
    enum compare_kind kind = kind_of(extent);

    if (last && last->kind == kind && last->offset + last->length == c->offset) {
        last->length += extent->length;
        return true;
    }
    if (c->n_extents == COMPARE_EXTENTS)
        return false;
    c->extents[c->n_extents++] =
        (struct compare_extent){.offset = c->offset, .length = extent->length, .kind = kind};
    return true;
}

/* Take what a query found. False: enough for one answer. */
static bool take(struct run *run)
{
    struct compare *c = run->compare;

    for (uint32_t i = 0; i < run->io.n_extents; i++) {
        if (is_wanted(run, &run->extents[i]) && !add(c, &run->extents[i]))
            return false;
        c->offset += run->extents[i].length;
    }
    return c->offset < c->size_bytes && ++run->n_queries < QUERIES_MAX;
}

/* ---- the way -------------------------------------------------------------------------------- */

static void end(struct run *run, int result)
{
    run->result = result;
    run->compare->done = run->compare->offset >= run->compare->size_bytes;
    if (run->io.base)
        disk_put(run->io.base);
    disk_put(run->io.disk);
    engine_call_done(run->call);
}

static void queried(struct store_io *io);

static void query(struct run *run)
{
    const struct compare *c = run->compare;
    struct store_io *io = &run->io;

    *io = (struct store_io){.disk = io->disk,
                            .base = io->base,
                            .op = STORE_EXTENTS,
                            .offset = c->offset,
                            .length = c->size_bytes - c->offset,
                            .extents = run->extents,
                            .max_extents = QUERY_EXTENTS,
                            .done = queried};
}

/* Queries that are answered at once follow each other here, not inside each other. */
static void go_on(struct run *run)
{
    do {
        query(run);
        engine_again(run->call->engine);
        if (!store_submit(run->call->store, &run->io))
            return;
        if (run->io.error < 0) {
            end(run, run->io.error);
            return;
        }
    } while (take(run));
    end(run, 0);
}

static void queried(struct store_io *io)
{
    struct run *run = container_of(io, struct run, io);

    if (io->error < 0)
        end(run, io->error);
    else if (take(run))
        go_on(run);
    else
        end(run, 0);
}

static int open_disks(struct run *run, struct store *store)
{
    struct compare *c = run->compare;
    struct disk *to = find(store, &c->to), *from = c->from_nothing ? NULL : find(store, &c->from);

    if (!to)
        return -ENOENT;
    if (!from && !c->from_nothing)
        return ERR_NO_VERSION;
    if (disk_is_shrinking(to) || (from && disk_is_shrinking(from)))
        return -EBUSY;
    if (from && !disk_is_related(from, to))
        return ERR_UNRELATED;
    c->size_bytes = disk_size(to);
    if (c->offset > c->size_bytes)
        return -EINVAL;
    disk_get(to);
    if (from)
        disk_get(from);
    run->io = (struct store_io){.disk = to, .base = from};
    return 0;
}

static void on_compare(struct engine_call *call)
{
    struct run *run = call->arg;

    run->call = call;
    int r = open_disks(run, call->store);
    if (r < 0) {
        run->result = r;
        engine_call_done(call);
    } else if (run->compare->offset == run->compare->size_bytes) {
        end(run, 0);
    } else {
        go_on(run);
    }
}

int compare_disks(struct engine *engine, struct compare *compare)
{
    struct run *run = malloc(sizeof(*run));

    if (!run)
        return -ENOMEM;
    *run = (struct run){.compare = compare};
    compare->n_extents = 0;
    int r = engine_ask(engine, on_compare, run, &run->result);
    free(run);
    return r;
}
