/* harness.c - requests by seed and the comparison of their answers. */
#include "harness.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool harness_verbose, harness_lie;
const char *harness_profile = "";

void fail(struct run *run, const char *format, ...)
{
    va_list args;
    const char *more = model_complaint(run->model);
    fflush(stdout);
    fprintf(stderr, "FAILED: seed %llu profile %s, crash point %llu, request %llu: ",
            (unsigned long long)run->seed, harness_profile, (unsigned long long)run->crash_points,
            (unsigned long long)run->op_ids);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n%s", more);
    exit(1);
}

void say(struct run *run, const char *format, ...)
{
    va_list args;
    if (!harness_verbose)
        return;
    printf("[%llu:%llu @%llu] ", (unsigned long long)run->seed,
           (unsigned long long)run->crash_points, (unsigned long long)model_now(run->model));
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}

void complain(struct run *run, const char *what)
{
    const char *text = model_complaint(run->model);
    if (!text[0])
        return;
    fprintf(stderr, "%s", text);
    fail(run, "%s", what);
}

struct disk *store_disk(struct run *run, const struct model_disk *disk)
{
    const struct store_change *c = &run->change;
    const struct model_version *v = model_disk_version(disk);
    const char *vm = model_disk_vm(disk), *name = model_disk_name(disk);
    struct disk *d = v ? store_find_version_disk(run->store, vm, model_version_name(v), name)
                       : store_find_disk(run->store, vm, name);
    /* It may have its new name already, before that is durable and told. */
    if (!d && (run->change_active || run->change_stuck)) {
        if (c->kind == CHANGE_VM_RENAME)
            d = v ? store_find_version_disk(run->store, c->new_name, model_version_name(v), name)
                  : store_find_disk(run->store, c->new_name, name);
        else if (c->kind == CHANGE_VERSION_RENAME && v)
            d = store_find_version_disk(run->store, vm, c->new_name, name);
    }
    if (!d && !run->change_stuck)
        fail(run, "disk %s/%s@%s is not found", vm, name, v ? model_version_name(v) : "");
    if (d && disk_is_read_only(d) != (v != NULL))
        fail(run, "disk %s/%s@%s is%s read-only", vm, name, v ? model_version_name(v) : "",
             v ? " not" : "");
    return d;
}

/* ---- answers -------------------------------------------------------------------------------- */

static bool is_full(int error)
{
    return err_errno(error) == ENOSPC;
}

static void check_error(struct run *run, const struct slot *slot)
{
    const struct store_io *io = &slot->io;
    bool reads = io->op == STORE_READ || io->op == STORE_CACHE || io->op == STORE_EXTENTS;
    bool ok = false;
    if (is_full(io->error) && !reads) {
        run->n_full++;
        ok = run->knobs.may_be_full || run->may_fail_writes;
    } else if (err_errno(io->error) == EIO) {
        *(reads ? &run->n_read_errors : &run->n_write_errors) += 1;
        ok = run->may_fail_reads || (run->may_fail_writes && !reads);
    }
    if (!ok)
        fail(run, "request of kind %d at %llu+%llu failed: %s (%d)", io->op,
             (unsigned long long)io->offset, (unsigned long long)io->length, err_text(io->error),
             io->error);
}

static void finish_slot(struct slot *slot)
{
    struct run *run = slot->run;
    struct store_io *io = &slot->io;
    bool dead = sim_is_dead(run->sim);
    assert(slot->active);
    if (slot->unrelated && !dead && io->error != ERR_UNRELATED)
        fail(run, "a comparison with a disk of another origin gives %s (%d)", err_text(io->error),
             io->error);
    if (!dead && io->error && !slot->unrelated)
        check_error(run, slot);
    int error = dead ? -EIO : io->error;
    say(run, "done kind %d %llu+%llu: %d", io->op, (unsigned long long)io->offset,
        (unsigned long long)io->length, error);
    switch (io->op) {
    case STORE_WRITE:
    case STORE_TRIM:
    case STORE_ZERO:
        model_end(run->model, slot->op, error);
        slot->doubtful = error && !dead;
        break;
    case STORE_FLUSH:
        if (!error)
            model_flush_end(run->model, slot->flush_begun);
        break;
    case STORE_READ:
        if (error)
            model_read_abort(&slot->read);
        else
            model_read_end(run->model, &slot->read, slot->disk, io->offset, io->length,
                           io->all_zero ? NULL : slot->buf);
        break;
    case STORE_EXTENTS:
        if (error)
            model_read_abort(&slot->read);
        else
            model_extents_end(run->model, &slot->read, slot->disk, slot->base, io->offset,
                              io->length, io->extents, io->n_extents);
        break;
    case STORE_CACHE:
        break;
    }
    complain(run, "an answer is wrong");
    run->ops_done++;
    if (!slot->doubtful) {
        slot->active = false;
        run->n_active--;
    }
}

static void io_done(struct store_io *io)
{
    finish_slot(container_of(io, struct slot, io));
}

/* Read the pages of a failed request: each is old or new. */
static void resolve(struct run *run, struct slot *slot)
{
    struct model_disk *disk = slot->disk;
    uint64_t first = slot->io.offset / PAGE_BYTES * PAGE_BYTES;
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    for (uint64_t at = first; at < slot->io.offset + slot->io.length; at += PAGE_BYTES) {
        struct store_io io = {.disk = store_disk(run, disk),
                              .op = STORE_READ,
                              .offset = at,
                              .length = PAGE_BYTES,
                              .buf = page};
        int r = run_io(run, &io);
        if (sim_is_dead(run->sim) || r)
            return; /* the pages stay busy until the store is opened again */
        model_resolve(run->model, disk, at, page);
    }
    complain(run, "after a failed write");
    model_forget(run->model, slot->op);
}

/* ---- turns ---------------------------------------------------------------------------------- */

void turn(struct run *run, bool wait)
{
    struct storage *storage = sim_storage(run->sim);
    bool more = store_dispatch(run->store);
    storage->poll(storage, wait && !more && sim_in_flight(run->sim));
}

/* Without power no file can be read, and with none to be cleaned writes wait, until some seconds
 * later blocks count as lost and cannot be written either. */
static void pass_time(struct run *run, unsigned idle)
{
    if (idle % 50 == 49 && sim_is_dead(run->sim))
        store_tick(run->store);
}

void turn_or_stall(struct run *run)
{
    turn(run, true);
    run->idle = sim_in_flight(run->sim) || !run->n_active ? 0 : run->idle + 1;
    pass_time(run, run->idle);
    if (run->idle > 10000)
        fail(run, "stalled: %u requests wait and nothing is in flight", run->n_active);
}

static bool busy(const struct run *run)
{
    if (run->change_active)
        return true;
    for (unsigned i = 0; i < run->knobs.depth; i++)
        if (run->slots[i].active && !run->slots[i].doubtful)
            return true;
    return false;
}

/* Nothing may take for ever: the store must have something in flight while it owes an answer. */
void turn_until(struct run *run, bool (*more)(const struct run *run))
{
    unsigned idle = 0;
    while (more(run)) {
        turn(run, true);
        idle = sim_in_flight(run->sim) ? 0 : idle + 1;
        pass_time(run, idle);
        if (idle > (run->long_work ? 100000 : 1000))
            fail(run,
                 "stalled: %u requests, %u on shared pages, %u changes wait and nothing is in "
                 "flight",
                 run->n_active, run->race_waits, run->change_active);
    }
}

void drain(struct run *run)
{
    turn_until(run, busy);
    for (unsigned i = 0; i < run->knobs.depth; i++) {
        struct slot *slot = &run->slots[i];
        if (!slot->active)
            continue;
        /* In a read-only store they stay either until it is opened again. */
        if (!sim_is_dead(run->sim) && !store_is_read_only(run->store))
            resolve(run, slot);
        slot->active = slot->doubtful = false;
        run->n_active--;
    }
}

static bool own_busy;

static bool is_own_busy(const struct run *run)
{
    return own_busy;
}

static void own_done(struct store_io *io)
{
    own_busy = false;
}

int run_io(struct run *run, struct store_io *io)
{
    assert(!own_busy);
    io->done = own_done;
    own_busy = true;
    if (store_submit(run->store, io))
        own_busy = false;
    turn_until(run, is_own_busy);
    return io->error;
}

/* ---- requests ------------------------------------------------------------------------------- */

static void slot_buffer(struct slot *slot, uint64_t bytes)
{
    bytes = (bytes + 2 * PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (slot->buf_bytes >= bytes)
        return;
    free(slot->buf);
    slot->buf = aligned_alloc(PAGE_BYTES, bytes);
    slot->buf_bytes = bytes;
    if (!slot->buf)
        abort();
}

static bool is_change(enum store_op op)
{
    return op == STORE_WRITE || op == STORE_TRIM || op == STORE_ZERO;
}

/* The disk's number in its stamps. */
static uint32_t stamp_disk(struct run *run, struct model_disk *disk)
{
    void **user = model_disk_user(disk);
    if (!*user)
        *user = (void *)(uintptr_t)++run->stamp_disks;
    return (uint32_t)(uintptr_t)*user;
}

bool start_io(struct run *run, struct model_disk *disk, enum store_op op, uint32_t flags,
              uint64_t offset, uint64_t length)
{
    return start_compare(run, disk, NULL, op, flags, offset, length);
}

bool start_compare(struct run *run, struct model_disk *disk, struct model_disk *base,
                   enum store_op op, uint32_t flags, uint64_t offset, uint64_t length)
{
    struct slot *slot = NULL;
    for (unsigned i = 0; i < run->knobs.depth && !slot; i++)
        if (!run->slots[i].active)
            slot = &run->slots[i];
    if (!slot || (is_change(op) && model_busy(disk, offset, length)))
        return false;
    slot->io = (struct store_io){.disk = store_disk(run, disk),
                                 .op = op,
                                 .flags = flags,
                                 .offset = offset,
                                 .length = length,
                                 .base = base ? store_disk(run, base) : NULL,
                                 .extents = slot->extents,
                                 .max_extents = 1 + (uint32_t)rng_below(&run->rng, EXTENTS_MAX),
                                 .done = io_done};
    slot->run = run;
    slot->disk = disk;
    slot->base = base;
    slot->unrelated = base && !model_disks_related(disk, base);
    slot->active = true;
    slot->doubtful = false;
    run->n_active++;
    run->op_ids++;
    if (op == STORE_READ || op == STORE_WRITE) {
        slot_buffer(slot, length);
        slot->io.buf = slot->buf;
    }
    if (op == STORE_WRITE) {
        if (rng_percent(&run->rng, 2))
            memset(slot->buf, 0, length);
        else
            stamp_fill(slot->buf, length, stamp_disk(run, disk), offset, run->op_ids,
                       rng_percent(&run->rng, run->knobs.sparse_percent));
    } else if (op == STORE_READ) {
        memset(slot->buf, 0xa5, length);
    }
    say(run, "start request %llu kind %d flags %u %s/%s%s%s %llu+%llu",
        (unsigned long long)run->op_ids, op, flags, model_disk_vm(disk), model_disk_name(disk),
        model_disk_version(disk) ? "@" : "",
        model_disk_version(disk) ? model_version_name(model_disk_version(disk)) : "",
        (unsigned long long)offset, (unsigned long long)length);
    if (is_change(op))
        slot->op = model_begin(run->model, disk, op, flags, offset, length, slot->buf);
    else if (op == STORE_FLUSH)
        slot->flush_begun = model_flush_begin(run->model);
    else if (op != STORE_CACHE)
        model_read_begin(run->model, &slot->read);
    if (store_submit(run->store, &slot->io))
        finish_slot(slot);
    return true;
}

struct model_disk *random_disk(struct run *run)
{
    uint32_t n = model_n_disks(run->model);
    for (unsigned i = 0; n && i < 4; i++) {
        struct model_disk *disk = model_disk(run->model, (uint32_t)rng_below(&run->rng, n));
        if (is_concerned(run, disk) || (run->change_stuck && !store_disk(run, disk)))
            continue;
        return disk;
    }
    return NULL;
}

/* A range inside the disk: of one page, of some, inside one, or at odd places. */
void random_range(struct run *run, const struct model_disk *disk, uint64_t *ret_offset,
                  uint64_t *ret_length)
{
    struct rng *rng = &run->rng;
    uint64_t size = model_disk_size(disk), pages = size / PAGE_BYTES;
    uint64_t max = run->knobs.write_pages_max < pages ? run->knobs.write_pages_max : pages;
    uint64_t page =
        rng_below(rng, rng_percent(rng, run->knobs.hot_percent) && pages > 8 ? 8 : pages);
    uint64_t offset = page * PAGE_BYTES, length = PAGE_BYTES;
    switch (rng_below(rng, 10)) {
    case 0:
    case 1:
        length = PAGE_BYTES * rng_range(rng, 1, max);
        break;
    case 2:
        offset += 512 * rng_below(rng, 8);
        length = 512 * rng_range(rng, 1, 8);
        break;
    case 3:
        offset += rng_below(rng, PAGE_BYTES);
        length = rng_range(rng, 1, 2 * PAGE_BYTES);
        break;
    case 4:
        offset += rng_below(rng, PAGE_BYTES);
        length = rng_range(rng, 1, max * PAGE_BYTES);
        break;
    default:
        break;
    }
    *ret_offset = offset;
    *ret_length = length < size - offset ? length : size - offset;
}

bool start_random_io(struct run *run)
{
    struct rng *rng = &run->rng;
    const struct knobs *k = &run->knobs;
    struct model_disk *disk = random_disk(run);
    uint64_t offset, length;
    if (rng_percent(rng, k->version_read_percent))
        return start_version_io(run);
    if (!disk)
        return false;
    random_range(run, disk, &offset, &length);
    uint32_t fua = rng_percent(rng, k->fua_percent) ? STORE_FUA : 0;
    if (rng_percent(rng, k->flush_percent))
        return start_io(run, disk, STORE_FLUSH, 0, 0, 0);
    if (rng_percent(rng, k->read_percent)) {
        static const enum store_op kinds[] = {STORE_READ, STORE_READ,   STORE_READ,  STORE_READ,
                                              STORE_READ, STORE_READ,   STORE_CACHE, STORE_EXTENTS,
                                              STORE_READ, STORE_EXTENTS};
        enum store_op op = kinds[rng_below(rng, sizeof(kinds) / sizeof(kinds[0]))];
        if (op == STORE_EXTENTS && rng_percent(rng, 50)) {
            offset = 0;
            length = model_disk_size(disk);
        }
        uint32_t flags = op == STORE_READ && rng_percent(rng, 20) ? STORE_SKIP_ZERO : 0;
        return start_io(run, disk, op, flags, offset, length);
    }
    if (rng_percent(rng, k->discard_percent)) {
        if (rng_percent(rng, 5)) { /* a large part of the disk */
            offset = rng_below(rng, model_disk_size(disk));
            length = rng_range(rng, 1, model_disk_size(disk) - offset);
        }
        if (rng_percent(rng, 50))
            return start_io(run, disk, STORE_TRIM, fua, offset, length);
        if (length > 4096 * (uint64_t)PAGE_BYTES)
            length = 4096 * (uint64_t)PAGE_BYTES;
        return start_io(run, disk, STORE_ZERO, fua | (rng_percent(rng, 50) ? STORE_NO_HOLE : 0),
                        offset, length);
    }
    return start_io(run, disk, STORE_WRITE, fua, offset, length);
}

/* ---- races ---------------------------------------------------------------------------------- */

static void race_done(struct store_io *io)
{
    struct run *run = (struct run *)io->extents; /* unused by WRITE and ZERO */
    if (!(run->race_active & 1u << (io - run->race_io)))
        fail(run, "a request was told twice");
    run->race_active &= ~(1u << (io - run->race_io));
    run->race_waits--;
    if (sim_is_dead(run->sim))
        return;
    if (io->error)
        fail(run, "a request on a shared page failed: %s", err_text(io->error));
    model_race_done(run->model, (uint32_t)(io - run->race_io));
}

static bool is_racing(const struct run *run)
{
    return run->race_waits > 0;
}

static void start_racer(struct run *run, unsigned i)
{
    const struct model_race *race = &run->race;
    uint64_t bytes = (uint64_t)race->n_pages * PAGE_BYTES;
    uint64_t unit = rng_percent(&run->rng, 70) ? 512 : 1, at, length;
    at = rng_below(&run->rng, bytes / unit) * unit;
    length = rng_range(&run->rng, 1, (rng_percent(&run->rng, 50) ? 1024 : bytes) / unit) * unit;
    length = length < bytes - at ? length : bytes - at;
    bool zero = rng_percent(&run->rng, 20);
    uint8_t *buf = run->race_buf + (size_t)i * RACE_BUF_BYTES;
    at += race->page * PAGE_BYTES;
    stamp_fill(buf, length, stamp_disk(run, race->disk), at, ++run->op_ids, false);
    run->race_io[i] = (struct store_io){.disk = store_disk(run, race->disk),
                                        .op = zero ? STORE_ZERO : STORE_WRITE,
                                        .offset = at,
                                        .length = length,
                                        .buf = buf,
                                        .extents = (struct store_extent *)run,
                                        .done = race_done};
    say(run, "racer %u kind %d %llu+%llu", i, zero ? STORE_ZERO : STORE_WRITE,
        (unsigned long long)at, (unsigned long long)length);
    model_race_add(run->model, zero ? NULL : buf, at, (uint32_t)length);
    run->race_waits++;
    run->race_active |= 1u << i;
    if (store_submit(run->store, &run->race_io[i]))
        race_done(&run->race_io[i]);
}

void run_race(struct run *run)
{
    static _Alignas(PAGE_BYTES) uint8_t pages[MODEL_RACE_PAGES * PAGE_BYTES];
    drain(run);
    struct model_disk *disk = random_disk(run);
    if (sim_is_dead(run->sim) || !disk || !start_io(run, disk, STORE_FLUSH, 0, 0, 0))
        return;
    drain(run);
    uint64_t n = rng_range(&run->rng, 1, MODEL_RACE_PAGES),
             size = model_disk_size(disk) / PAGE_BYTES;
    n = n < size ? n : size;
    uint64_t page = rng_below(&run->rng, size - n + 1);
    if (sim_is_dead(run->sim) || model_busy(disk, page * PAGE_BYTES, n * PAGE_BYTES))
        return;
    model_race_begin(run->model, &run->race, disk, page, (uint32_t)n);
    unsigned racers = (unsigned)rng_range(&run->rng, 2, MODEL_RACE_OPS);
    for (unsigned i = 0; i < racers && !sim_is_dead(run->sim); i++) {
        start_racer(run, i);
        if (rng_percent(&run->rng, 30))
            turn(run, false);
    }
    turn_until(run, is_racing);
    if (sim_is_dead(run->sim))
        return; /* the race is judged with the rest */
    struct store_io io = {.disk = store_disk(run, disk), .op = STORE_FLUSH};
    int r = run_io(run, &io);
    io = (struct store_io){.disk = io.disk,
                           .op = STORE_READ,
                           .offset = page * PAGE_BYTES,
                           .length = n * PAGE_BYTES,
                           .buf = pages};
    r = r || sim_is_dead(run->sim) ? r : run_io(run, &io);
    if (sim_is_dead(run->sim))
        return;
    if (r)
        fail(run, "flush or read after a race: %s", err_text(r));
    model_race_end(run->model, pages);
    complain(run, "requests on one page at once");
}
