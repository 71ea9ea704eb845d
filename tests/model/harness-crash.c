/* harness-crash.c - opening, closing, crashing and judging what came back.
 *
 *   open --sim_cut()--> dead --take_down()--> down --sim_restart()--> powered --store_open()-->
 * open ^                                               |
 *                        +----------- cut again on the way --------------+
 */
#include "harness.h"

#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Reads of the comparison; small disks are read whole. */
#define CHUNK_BYTES    (256u << 10)
#define READ_ALL_BYTES (8u << 20)

static void on_event(void *arg, const struct store_event *event)
{
    struct run *run = arg;
    say(run, "event %d code %d: %s", event->kind, event->code, event->text);
    if (event->kind == STORE_EVENT_DAMAGE)
        run->n_damage_events++;
    if (event->kind == STORE_EVENT_READ_ONLY && !run->may_fail_writes && !run->may_fail_reads &&
        !sim_is_dead(run->sim))
        fail(run, "the store became read-only: %s", event->text);
}

void run_begin(struct run *run, uint64_t seed, const struct knobs *knobs)
{
    memset(run, 0, sizeof(*run));
    run->seed = seed;
    run->knobs = *knobs;
    run->knobs.config.event = on_event;
    run->knobs.config.event_arg = run;
    rng_seed(&run->rng, seed);
    run->sim = sim_new(seed, knobs->medium_bytes);
    sim_set_latency(run->sim, knobs->latency);
    sim_lie_about_syncs(run->sim, harness_lie);
    run->race_buf = aligned_alloc(PAGE_BYTES, MODEL_RACE_OPS * RACE_BUF_BYTES);
    if (!run->race_buf)
        abort();
    run->model = model_new();
}

void run_end(struct run *run)
{
    if (run->store) {
        drain(run);
        int r = store_close(run->store);
        if (r && !run->may_fail_writes)
            fail(run, "closing: %s", err_text(r));
    }
    for (unsigned i = 0; i < SLOTS_MAX; i++)
        free(run->slots[i].buf);
    free(run->race_buf);
    model_free(run->model);
    sim_free(run->sim);
}

bool run_format(struct run *run)
{
    struct store_format format = {.capacity_bytes = run->knobs.capacity_bytes};
    int r = store_format(sim_storage(run->sim), &format);
    if (sim_is_dead(run->sim))
        return false;
    if (r)
        fail(run, "formatting: %s", err_text(r));
    run->formatted = true;
    r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (sim_is_dead(run->sim))
        return false;
    if (r)
        fail(run, "opening a new store: %s", err_text(r));
    run->opens++;
    return true;
}

/* ---- comparing ------------------------------------------------------------------------------ */

static bool compare_range(struct run *run, struct model_disk *disk, uint64_t offset,
                          uint64_t length, uint8_t *buf)
{
    struct store_io io = {.disk = store_disk(run, disk),
                          .op = STORE_READ,
                          .offset = offset,
                          .length = length,
                          .buf = buf};
    int r = run_io(run, &io);
    /* Of what was just made, the tables may not have been written when the store became read-only.
     */
    bool unwritten = run->may_fail_writes && store_is_read_only(run->store);
    if (sim_is_dead(run->sim) || (r == -EIO && unwritten) ||
        (err_errno(r) == EIO && run->may_fail_reads))
        return false;
    if (r)
        fail(run, "reading all of %s/%s, %llu+%llu: %s", model_disk_vm(disk), model_disk_name(disk),
             (unsigned long long)offset, (unsigned long long)length, err_text(r));
    for (uint64_t at = 0; at < length; at += PAGE_BYTES)
        model_judge_page(run->model, disk, (offset + at) / PAGE_BYTES, buf + at);
    return true;
}

/* Untouched space of a large disk is one hole: the model knows which pages may be data. */
static bool compare_extents(struct run *run, struct model_disk *disk)
{
    static struct store_extent extents[4096];
    uint64_t at = 0, size = model_disk_size(disk);
    while (at < size) {
        struct store_io io = {.disk = store_disk(run, disk),
                              .op = STORE_EXTENTS,
                              .offset = at,
                              .length = size - at,
                              .extents = extents,
                              .max_extents = 4096};
        struct model_read read;
        model_read_begin(run->model, &read);
        int r = run_io(run, &io);
        if (sim_is_dead(run->sim) || r) {
            model_read_abort(&read);
            if (sim_is_dead(run->sim))
                return false;
            fail(run, "extents after opening: %s", err_text(r));
        }
        model_extents_end(run->model, &read, disk, NULL, at, size - at, extents, io.n_extents);
        complain(run, "extents after opening");
        for (uint32_t i = 0; i < io.n_extents; i++)
            at += extents[i].length;
    }
    return true;
}

bool judge_disk(struct run *run, struct model_disk *disk)
{
    static _Alignas(PAGE_BYTES) uint8_t buf[CHUNK_BYTES];
    uint64_t size = model_disk_size(disk), cursor = 0, index;
    if (size > READ_ALL_BYTES) {
        while (model_next_page(disk, &cursor, &index))
            if (!compare_range(run, disk, index * PAGE_BYTES, PAGE_BYTES, buf))
                return false;
        return true;
    }
    for (uint64_t at = 0; at < size; at += CHUNK_BYTES) {
        uint64_t length = size - at < CHUNK_BYTES ? size - at : CHUNK_BYTES;
        if (!compare_range(run, disk, at, length, buf))
            return false;
    }
    return true;
}

/* The disks of the heads, of one vm or of all (NULL). */
static bool judge_heads(struct run *run, const char *vm)
{
    for (uint32_t i = 0; i < model_n_disks(run->model); i++) {
        struct model_disk *disk = model_disk(run->model, i);
        if (vm && strcmp(vm, model_disk_vm(disk)) != 0)
            continue;
        if (!judge_disk(run, disk))
            return false;
    }
    return true;
}

/* The names first, and with them whether a change in flight happened. false: the medium died. */
static bool judge_catalogue(struct run *run, enum model_end_kind kind)
{
    struct vm_info *vms;
    struct version_info *versions;
    struct model_list list;
    int r = store_list(run->store, &vms, &list.n_vms);
    r = r ? r
          : store_list_versions(run->store, NULL, NULL, true, UINT32_MAX, &versions,
                                &list.n_versions);
    if (r)
        fail(run, "listing: %s", err_text(r));
    list.vms = vms;
    list.versions = versions;
    model_judge_begin(run->model, kind, &list);
    bool ok = true;
    if (model_judge_doubt(run->model)) {
        ok = judge_heads(run, model_judge_doubt(run->model));
        if (ok)
            model_judge_doubt_end(run->model, &list);
        else
            model_judge_doubt_abort(run->model);
    }
    free(vms);
    free(versions);
    complain(run, "the catalogue after opening");
    return ok;
}

static bool judge_versions(struct run *run)
{
    struct model_version *v;
    unsigned percent = model_n_versions(run->model) > 8 ? 30 : 70;
    for (uint32_t i = 0; (v = model_version(run->model, i)); i++) {
        if (model_version_is_settled(v) && !rng_percent(&run->rng, percent))
            continue;
        model_settle_begin(run->model, v);
        for (uint32_t d = 0; model_version_disk(v, d); d++)
            if (!judge_disk(run, model_version_disk(v, d)))
                return false;
        model_settle_end(run->model, v, !run->dry);
        complain(run, "a version after opening");
    }
    return true;
}

bool compare_all(struct run *run, enum model_end_kind kind)
{
    struct model_version *v;
    if (!judge_catalogue(run, kind))
        return false;
    run->change_stuck = false;
    if (!judge_versions(run))
        return false;
    model_judge_heads(run->model);
    if (!judge_heads(run, NULL))
        return false;
    model_judge_end(run->model, !run->dry);
    complain(run, kind == MODEL_CRASHED  ? "after a crash"
                  : kind == MODEL_KILLED ? "after a kill"
                                         : "after closing and opening");
    if (run->dry)
        return true;
    compare_lists(run);
    for (uint32_t i = 0; i < model_n_disks(run->model); i++)
        if (rng_percent(&run->rng, 25) && !compare_extents(run, model_disk(run->model, i)))
            return true; /* the pages were judged; the cut is the next recovery's */
    for (uint32_t i = 0; (v = model_version(run->model, i)); i++)
        for (uint32_t d = 0; model_version_disk(v, d); d++)
            if (rng_percent(&run->rng, 5) && !compare_extents(run, model_version_disk(v, d)))
                return true;
    return true;
}

/* ---- checking ------------------------------------------------------------------------------- */

struct check {
    struct store_check check;
    struct run *run;
    bool print, done;
};

static void check_problem(struct store_check *check, const char *text)
{
    struct check *c = container_of(check, struct check, check);
    bool expected = c->run->dead_damage && strstr(text, "nothing lives there");
    if (c->print && !expected && !sim_is_dead(c->run->sim))
        fprintf(stderr, "store_check: %s\n", text);
}

static void check_done(struct store_check *check)
{
    container_of(check, struct check, check)->done = true;
}

static int check_once(struct run *run, bool print, uint64_t *ret_problems)
{
    struct check c = {.check = {.pages = true, .problem = check_problem, .done = check_done},
                      .run = run,
                      .print = print};
    unsigned idle = 0;
    int r = store_check(run->store, &c.check);
    if (r)
        return r;
    while (!c.done) {
        turn(run, true);
        idle = sim_in_flight(run->sim) ? 0 : idle + 1;
        if (idle > 100000)
            fail(run, "store_check() is stalled");
    }
    run->harmless = c.check.harmless;
    *ret_problems = c.check.problems - (run->dead_damage ? c.check.harmless : 0);
    return c.check.error;
}

uint64_t run_check(struct run *run, bool print)
{
    uint64_t problems = 0;
    int r = check_once(run, print, &problems);
    /* It gives way where the store is short of files: cleaning goes first then. */
    for (unsigned i = 0; r == -ENOSPC && i < 10 && !sim_is_dead(run->sim); i++) {
        for (unsigned n = 0; n < 200 && !sim_is_dead(run->sim); n++)
            turn(run, true);
        r = check_once(run, print, &problems);
    }
    if (sim_is_dead(run->sim))
        return UINT64_MAX;
    if (r && !(run->may_fail_reads || (run->may_fail_writes && store_is_read_only(run->store))))
        fail(run, "store_check: %s", err_text(r));
    return problems;
}

/* ---- down and up ---------------------------------------------------------------------------- */

void run_reopen(struct run *run)
{
    drain(run);
    if (sim_is_dead(run->sim))
        return;
    uint64_t flush = model_flush_begin(run->model);
    int r = store_close(run->store);
    run->store = NULL;
    if (sim_is_dead(run->sim))
        return;
    if (r)
        fail(run, "closing: %s", err_text(r));
    model_flush_end(run->model, flush);
    r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (sim_is_dead(run->sim))
        return;
    if (r)
        fail(run, "opening after closing: %s", err_text(r));
    run->opens++;
    say(run, "closed and opened");
    compare_all(run, MODEL_CLOSED);
}

void take_down(struct run *run)
{
    if (!run->store)
        return;
    drain(run);
    store_close(run->store); /* what it says of a dead medium is nobody's business */
    run->store = NULL;
}

/* Open, check, compare. false: the power went on the way. */
bool come_up(struct run *run, enum model_end_kind kind)
{
    int r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (r)
        run->store = NULL;
    if (sim_is_dead(run->sim))
        return false;
    if (r)
        fail(run, "opening after a %s: %s (%d)", kind == MODEL_CRASHED ? "crash" : "kill",
             err_text(r), r);
    run->opens++;
    /* Half of the time compare first: what the check repairs or caches must not matter. */
    bool check_first = rng_percent(&run->rng, 50);
    uint64_t problems = check_first ? run_check(run, true) : 0;
    if (sim_is_dead(run->sim) || !compare_all(run, kind))
        return false;
    if (!check_first && !sim_is_dead(run->sim))
        problems = run_check(run, true);
    if (problems && !sim_is_dead(run->sim))
        fail(run, "store_check found %llu problems after recovery", (unsigned long long)problems);
    if (!sim_is_dead(run->sim))
        sim_cut_after(run->sim, UINT64_MAX);
    return !sim_is_dead(run->sim);
}

void run_recover(struct run *run, enum sim_end end, unsigned more_cuts_percent)
{
    enum model_end_kind kind = end == SIM_CRASH ? MODEL_CRASHED : MODEL_KILLED;
    bool up = false;
    sim_cut(run->sim);
    while (!up) {
        take_down(run);
        if (end == SIM_CRASH)
            kind = MODEL_CRASHED;
        say(run, "%s", end == SIM_CRASH ? "crash" : "kill");
        sim_restart(run->sim, end);
        if (rng_percent(&run->rng, more_cuts_percent))
            sim_cut_after(run->sim, rng_below(&run->rng, rng_percent(&run->rng, 50) ? 12 : 200));
        up = come_up(run, kind);
        run->crash_points += up; /* judged: opened, checked, compared */
        end = rng_percent(&run->rng, 70) ? SIM_CRASH : SIM_KILL;
    }
}
