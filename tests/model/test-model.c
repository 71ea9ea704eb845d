/* test-model.c - the store on a lying medium beside the model: crash points by seed (DESIGN section
 * 8).
 *
 * usage: test-model [--seed N] [--count N] [--points N] [--ops N] [--profile NAME] [--lie]
 *     [--verbose]
 * --lie: the medium's syncs do nothing, which must be found. --crc-tails: sparse pages end in their
 * own CRC-32C. Runs count seeds from seed on, or until so many crash points were judged: each was
 * followed by an opening, a check and a comparison (one in whose recovery the power went again is
 * not). A seed and a profile give the same run again. Exit 0, or 1 with the seed and what was
 * wrong. */
#include "harness.h"

#include "base/err.h"
#include "base/mono.h"
#include "image/table_format.h"
#include "log/log_format.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What page tables may take beside their budget and what is dirty: the nodes that were used last
 * stay in any case (TABLE_KEEP in image/table.h). */
#define TABLE_SLACK_BYTES (256u * (NODE_MAX_BYTES + 512))

static struct {
    uint64_t seed, count, points, ops;
    const char *profile;
} options = {.seed = 1, .count = UINT64_MAX, .points = 0, .ops = 0};

static uint64_t total_points, total_ops, total_opens, total_full, total_faults, total_flips;
static uint64_t n_wide, total_evictions;

/* ---- what to do ----------------------------------------------------------------------------- */

static void make_disks(struct run *run, unsigned vms, unsigned disks, uint64_t pages)
{
    for (unsigned v = 0; v < vms && !sim_is_dead(run->sim); v++) {
        struct store_change c = {.kind = CHANGE_VM_CREATE};
        snprintf(c.vm, sizeof(c.vm), "vm-%u", v);
        do_change(run, &c);
        for (unsigned d = 0; d < disks && !sim_is_dead(run->sim); d++) {
            c.kind = CHANGE_DISK_ADD;
            c.size_bytes = PAGE_BYTES * rng_range(&run->rng, pages / 2 + 1, pages);
            snprintf(c.disk, sizeof(c.disk), "disk%u", d);
            do_change(run, &c);
        }
    }
}

/* Random requests until there were so many, or the power is off. */
static void work(struct run *run, uint64_t n_requests)
{
    uint64_t end = run->op_ids + n_requests, tries = 0;
    while (run->op_ids < end && !sim_is_dead(run->sim) && tries++ < 20 * n_requests) {
        uint64_t burst = rng_below(&run->rng, 1 + run->knobs.depth / 2);
        for (uint64_t i = 0; i < burst && !sim_is_dead(run->sim); i++)
            start_random_io(run);
        if (rng_below(&run->rng, 1000) < run->knobs.change_permille)
            start_random_change(run);
        if (rng_below(&run->rng, 1000) < run->knobs.race_permille)
            run_race(run);
        if (rng_below(&run->rng, 1000) < run->knobs.chore_permille && !sim_is_dead(run->sim))
            random_chore(run);
        turn(run, run->n_active >= run->knobs.depth || rng_percent(&run->rng, 50));
        if (run->n_active && rng_percent(&run->rng, 2))
            drain(run);
    }
}

static void arm_cut(struct run *run, uint64_t n_requests)
{
    uint64_t completions = rng_percent(&run->rng, 20) ? rng_below(&run->rng, 10)
                                                      : rng_below(&run->rng, 1 + n_requests);
    sim_cut_after(run->sim, completions);
}

static enum sim_end random_end(struct run *run)
{
    return rng_percent(&run->rng, 75) ? SIM_CRASH : SIM_KILL;
}

static void crash_rounds(struct run *run, unsigned rounds, uint64_t max_requests)
{
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t n = 1 + rng_below(&run->rng, max_requests);
        if (rng_percent(&run->rng, 85))
            arm_cut(run, n);
        work(run, n);
        if (rng_percent(&run->rng, 15))
            run_reopen(run); /* the power may go here too */
        if (rng_percent(&run->rng, 20))
            drain(run);
        run_recover(run, random_end(run), 25);
    }
    work(run, 50);
    run_reopen(run);
}

static bool is_enough(uint64_t points)
{
    return options.points && total_points + points >= options.points;
}

/* The power went while the store was made: it opens, empty, or not; only the former counts. */
static void half_formatted(struct run *run, enum sim_end end)
{
    sim_restart(run->sim, end);
    int r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (r) {
        run->store = NULL;
        return;
    }
    compare_all(run, MODEL_CLOSED);
    if (run_check(run, true))
        fail(run, "store_check found problems in a store that was being made");
    run->crash_points++;
}

/* ---- profiles ------------------------------------------------------------------------------- */

static struct knobs random_knobs(struct rng *rng)
{
    static const uint64_t checkpoints[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20, 0};
    struct knobs k = {.capacity_bytes = CAPACITY(16, 96),
                      .medium_bytes = 1ULL << 40,
                      .config = store_config_default,
                      .disk_pages_max = rng_percent(rng, 50) ? 64 : 700,
                      .disks_max = 6,
                      .vms_max = 4,
                      .write_pages_max = rng_percent(rng, 80) ? 12 : 300};
    k.config.cache_bytes = rng_percent(rng, 40) ? 0 : rng_percent(rng, 50) ? 64 << 10 : 4 << 20;
    k.config.table_bytes = 8 << 20;
    k.config.checkpoint_bytes = checkpoints[rng_below(rng, 5)];
    k.depth = 1 + (unsigned)rng_below(rng, rng_percent(rng, 50) ? 8 : 64);
    k.latency = (unsigned)rng_below(rng, 6);
    k.read_percent = 10 + (unsigned)rng_below(rng, 30);
    k.flush_percent = (unsigned)rng_below(rng, 3) * 5;
    k.fua_percent = (unsigned)rng_below(rng, 3) * 5;
    k.discard_percent = (unsigned)rng_below(rng, 3) * 10;
    k.change_permille = (unsigned)rng_below(rng, 3) * 10;
    k.race_permille = (unsigned)rng_below(rng, 3) * 15;
    k.sparse_percent = (unsigned)rng_below(rng, 3) * 50;
    k.hot_percent = (unsigned)rng_below(rng, 3) * 30;
    if (rng_percent(rng, 40))
        return k;
    k.versions_max = 1 + (unsigned)rng_below(rng, 8);
    k.version_percent = 60;
    k.version_read_percent = (unsigned)rng_below(rng, 3) * 5;
    k.chore_permille = (unsigned)rng_below(rng, 3) * 3;
    return k;
}

static uint64_t n_requests(uint64_t otherwise)
{
    return options.ops ? options.ops : otherwise;
}

/* Small disks, much going on, the power goes often. */
static void profile_mix(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0x315);
    struct knobs k = random_knobs(&rng);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1 + (unsigned)rng_below(&rng, 2), 1 + (unsigned)rng_below(&rng, 2),
               k.disk_pages_max);
    crash_rounds(run, 20, n_requests(rng_percent(&rng, 80) ? 60 : 400));
    run_end(run);
}

/* Small disks with many versions and clones, of which as many go as come. */
static void profile_versions(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0x7e25);
    struct knobs k = random_knobs(&rng);
    k.disk_pages_max = rng_percent(&rng, 70) ? 40 : 200;
    k.write_pages_max = 12;
    k.disks_max = 8;
    k.vms_max = 6;
    k.change_permille = 30 << rng_below(&rng, 4);
    k.versions_max = 2 + (unsigned)rng_below(&rng, 30);
    k.version_percent = 85;
    k.version_read_percent = 15;
    k.chore_permille = 15;
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1 + (unsigned)rng_below(&rng, 2), 1 + (unsigned)rng_below(&rng, 2),
               k.disk_pages_max);
    crash_rounds(run, 20, n_requests(rng_percent(&rng, 70) ? 80 : 400));
    compare_space(run);
    run_end(run);
}

/* One short life of a store, with the power going after the first completion, the second, and so on
 * to its end: no moment is left out, not of formatting, opening and closing either. */
static void profile_every(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xe7);
    struct knobs k = random_knobs(&rng);
    k.disk_pages_max = 64;
    k.latency = (unsigned)rng_below(&rng, 3);
    uint64_t points = 0, requests = 0, opens = 0;
    bool died = true;
    for (uint64_t cut = 0; died && !is_enough(points); cut++) {
        run_begin(run, seed, &k);
        sim_cut_after(run->sim, cut);
        if (run_format(run)) {
            make_disks(run, 1, 2, k.disk_pages_max);
            work(run, n_requests(25));
            if (!sim_is_dead(run->sim))
                run_reopen(run);
            if (!sim_is_dead(run->sim))
                work(run, n_requests(10));
        }
        died = sim_is_dead(run->sim);
        sim_cut_after(run->sim, UINT64_MAX);
        enum sim_end end = cut % 2 ? SIM_CRASH : SIM_KILL;
        if (died && run->formatted)
            run_recover(run, end, 0);
        else if (died)
            half_formatted(run, end);
        points += run->crash_points;
        requests += run->op_ids;
        opens += run->opens;
        run_end(run);
    }
    run->crash_points = points;
    run->op_ids = requests;
    run->opens = opens;
}

/* The power goes at each moment of a recovery. */
static void profile_sweep(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0x53ee);
    struct knobs k = random_knobs(&rng);
    k.disk_pages_max = 200;
    k.change_permille = k.race_permille = 0;
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 2, k.disk_pages_max);
    for (unsigned round = 0; round < 3; round++) {
        some_changes(run, 6);
        work(run, n_requests(100));
        sim_cut(run->sim);
        take_down(run);
        sim_restart(run->sim, round % 2 ? SIM_KILL : SIM_CRASH);
        struct sim *base = run->sim;
        bool up = false;
        run->dry = true;
        for (uint64_t cut = 0; !up && !is_enough(run->crash_points); cut += 1 + cut / 100) {
            run->sim = sim_clone(base, seed + cut);
            sim_cut_after(run->sim, cut);
            up = store_open(sim_storage(run->sim), &k.config, &run->store) == 0;
            if (sim_is_dead(run->sim)) {
                up = false;
                take_down(run);
                sim_restart(run->sim, rng_percent(&rng, 80) ? SIM_CRASH : SIM_KILL);
                if (!come_up(run, MODEL_CRASHED))
                    fail(run, "test bug: dead without a cut");
                run->crash_points++;
            } else if (!up) {
                fail(run, "opening after a cut");
            }
            sim_cut_after(run->sim, UINT64_MAX);
            store_close(run->store);
            run->store = NULL;
            sim_free(run->sim);
        }
        run->dry = false;
        run->sim = base;
        if (!come_up(run, round % 2 ? MODEL_KILLED : MODEL_CRASHED))
            fail(run, "test bug: dead without a cut");
        run->crash_points++;
    }
    run_end(run);
}

/* How often something that the store counts has happened. */
static uint64_t counter(struct run *run, const char *name)
{
    struct store_counter counters[128];
    uint32_t n = store_counters(run->store, counters, 128);
    for (uint32_t i = 0; i < n && i < 128; i++)
        if (strcmp(counters[i].name, name) == 0)
            return counters[i].value;
    fail(run, "test bug: no counter %s", name);
}

/* The store is at rest: its tables are within what they may have, but for nodes that are not in a
 * checkpoint yet and those that stay in any case. */
static void require_table_bound(struct run *run)
{
    turn(run, false); /* what the last requests used may leave now */
    uint64_t bytes = counter(run, "table_memory_bytes"), dirty = counter(run, "table_dirty_bytes");
    uint64_t budget = run->knobs.config.table_bytes;
    total_evictions += counter(run, "table_evictions");
    if (bytes > budget + dirty + TABLE_SLACK_BYTES)
        fail(run, "%llu KiB of table nodes, %llu of them dirty, with a budget of %llu",
             (unsigned long long)bytes >> 10, (unsigned long long)dirty >> 10,
             (unsigned long long)budget >> 10);
}

/* Large disks with pages far apart: more table nodes than memory for them. */
static void profile_wide(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0x91de);
    struct knobs k = random_knobs(&rng);
    k.capacity_bytes = CAPACITY(16, 384);
    k.disk_pages_max = 1ULL << (20 + rng_below(&rng, 16));
    k.write_pages_max = 4;
    k.sparse_percent = 100;
    k.change_permille = 1;
    k.config.checkpoint_bytes = 1 << 20;
    k.config.table_bytes = (512 << 10) << rng_below(&rng, 2);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 2, k.disk_pages_max);
    work(run, n_requests(6000));
    drain(run);
    require_table_bound(run);
    crash_rounds(run, 6, n_requests(500));
    drain(run);
    require_table_bound(run);
    if (++n_wide == 4 && total_evictions == 0 && !options.ops)
        fail(run, "no table node has left memory in four runs");
    run_end(run);
}

static void fill_in_order(struct run *run, struct model_disk *disk, uint64_t pages, uint64_t step)
{
    for (uint64_t at = 0; at < pages && !sim_is_dead(run->sim);) {
        uint64_t n = pages - at < step ? pages - at : step;
        if (start_io(run, disk, STORE_WRITE, 0, at * PAGE_BYTES, n * PAGE_BYTES))
            at += n;
        else if (run->knobs.may_be_full)
            drain(run);
        else
            turn_or_stall(run);
    }
    drain(run);
}

/* Versions of disks with many leaves, compared all the time: what one that comes from another has
 * written, discarded and written again. */
static void profile_since(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0x51ce);
    struct knobs k = random_knobs(&rng);
    k.capacity_bytes = CAPACITY(16, 384);
    k.disk_pages_max = 1ULL << (10 + rng_below(&rng, 11));
    k.write_pages_max = rng_percent(&rng, 50) ? 4 : 40;
    k.sparse_percent = 100;
    k.discard_percent = rng_percent(&rng, 30) ? 0 : 1 + (unsigned)rng_below(&rng, 15);
    k.change_permille = 15;
    k.version_percent = 95;
    k.versions_max = 2 + (unsigned)rng_below(&rng, 12);
    k.version_read_percent = 40;
    k.config.checkpoint_bytes = 1 << 20;
    if (rng_percent(&rng, 50))
        k.config.table_bytes = (64 << 10) << rng_below(&rng, 8);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 1, k.disk_pages_max);
    struct model_disk *disk = model_disk(run->model, 0);
    uint64_t pages = model_disk_size(disk) / PAGE_BYTES;
    if (rng_percent(&rng, 60)) /* full leaves, of which deltas are written */
        fill_in_order(run, disk, pages < 2500 ? pages : 2500, 50);
    work(run, n_requests(2500));
    crash_rounds(run, 6, n_requests(300));
    run_end(run);
}

/* Disks that take much of the store are overwritten for ever: the cleaner must keep up. */
static void profile_churn(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xc4);
    struct knobs k = random_knobs(&rng);
    k.capacity_bytes = CAPACITY(16, 48);
    k.versions_max = k.version_read_percent = 0; /* they would fill it */
    k.disk_pages_max = PAGES(40000, 4000);       /* of what the log takes before it is full */
    k.disks_max = 1;
    k.change_permille = 0;
    k.sparse_percent = 100;
    k.read_percent = 3;
    k.write_pages_max = 64;
    k.depth = 32;
    k.latency = 2;
    k.config.checkpoint_bytes = PAGES(8 << 20, 1 << 20);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 1, k.disk_pages_max);
    struct model_disk *disk = model_disk(run->model, 0);
    fill_in_order(run, disk, model_disk_size(disk) / PAGE_BYTES, 64);
    for (unsigned i = 0; i < 4; i++) {
        work(run, n_requests(6000));
        crash_rounds(run, 1, 3000);
        disk = model_disk(run->model, 0);
    }
    run_end(run);
}

/* So many small requests at once that batches are full of records before they are full of pages. */
static void profile_crowd(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xc0);
    struct knobs k = random_knobs(&rng);
    k.disk_pages_max = 3000;
    if (k.versions_max) /* they must fit */
        k.capacity_bytes = CAPACITY(16, 384);
    k.depth = SLOTS_MAX;
    k.write_pages_max = 3;
    k.read_percent = 3;
    k.flush_percent = (unsigned)rng_below(&rng, 2);
    k.fua_percent = (unsigned)rng_below(&rng, 2);
    k.discard_percent = (unsigned)rng_below(&rng, 3) * 20;
    k.hot_percent = 0;
    k.change_permille = k.race_permille = (unsigned)rng_below(&rng, 3);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 2, k.disk_pages_max);
    crash_rounds(run, 5, n_requests(6000));
    run_end(run);
}

/* The log is brought near the end of a file, so that the power goes while it changes files. */
static void profile_edge(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xed9e);
    struct knobs k = random_knobs(&rng);
    k.disk_pages_max = PAGES(8192, 128);
    k.disks_max = 2;
    k.sparse_percent = 100;
    k.write_pages_max = 40;
    k.change_permille = 2;
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 1, k.disk_pages_max);
    for (unsigned i = 0; i < 8; i++) {
        struct model_disk *disk = model_n_disks(run->model) ? model_disk(run->model, 0) : NULL;
        if (!disk)
            break;
        uint64_t pages = rng_range(&rng, PAGES(7600, 90), PAGES(8150, 127)),
                 size = model_disk_size(disk) / PAGE_BYTES;
        for (uint64_t done = 0; done < pages; done += size)
            fill_in_order(run, disk, pages - done < size ? pages - done : size, 200);
        uint64_t n = 1 + rng_below(&run->rng, n_requests(120));
        arm_cut(run, n);
        work(run, n);
        run_recover(run, random_end(run), 25);
    }
    run_end(run);
}

/* More is written than there is room for: ENOSPC, reads go on, trimming gives room again. */
static void profile_full(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xf0);
    struct knobs k = random_knobs(&rng);
    k.capacity_bytes = CAPACITY(16, rng_range(&rng, 16, 48));
    k.disk_pages_max = PAGES(1 << 18, 1 << 14); /* more than there is */
    k.sparse_percent = 100;
    k.change_permille = 2;
    k.write_pages_max = 64;
    k.depth = 16;
    k.may_be_full = true;
    k.race_permille = 0;
    if (rng_percent(&rng, 50)) /* the medium is smaller than the store may grow */
        k.medium_bytes = CAPACITY(13, 50) + CAPACITY(1, 2) * rng_below(&rng, 8);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 1, k.disk_pages_max);
    struct model_disk *disk = model_disk(run->model, 0);
    uint64_t at = 0, size = model_disk_size(disk);
    while (!run->n_full && at + 256 * PAGE_BYTES <= size) {
        if (start_io(run, disk, STORE_WRITE, 0, at, 256 * PAGE_BYTES))
            at += 256 * PAGE_BYTES;
        else
            turn_or_stall(run);
    }
    drain(run);
    if (!run->n_full)
        fail(run, "the store took %llu MiB and was never full", (unsigned long long)at >> 20);
    if (store_is_read_only(run->store))
        fail(run, "a full store became read-only");
    work(run, n_requests(300));
    crash_rounds(run, 2, n_requests(200));
    /* Half of it goes: there is room again, if cleaning is given its turns. */
    if (model_n_disks(run->model) == 0 || !(disk = model_disk(run->model, 0)))
        goto end;
    drain(run);
    keep_one_vm(run, model_disk_vm(disk));
    disk = model_disk(run->model, 0);
    while (!start_io(run, disk, STORE_TRIM, STORE_FUA, 0, model_disk_size(disk) / 2))
        drain(run);
    drain(run);
    uint64_t full = run->n_full;
    for (unsigned tries = 0; tries < 200; tries++) {
        full = run->n_full;
        while (!start_io(run, disk, STORE_WRITE, 0, 0, PAGE_BYTES))
            drain(run);
        drain(run);
        if (run->n_full == full)
            break;
        for (unsigned i = 0; i < 50; i++)
            turn(run, false);
    }
    if (run->n_full != full)
        fail(run, "half of the store was trimmed and there is still no room");
    crash_rounds(run, 2, n_requests(200));
end:
    total_full += run->n_full;
    run_end(run);
}

/* A check that runs beside the work. */
struct side_check {
    struct store_check check;
    struct run *run;
    bool active;
};

static void side_problem(struct store_check *check, const char *text)
{
    if (!sim_is_dead(container_of(check, struct side_check, check)->run->sim))
        fprintf(stderr, "store_check beside writes: %s\n", text);
}

static void side_done(struct store_check *check)
{
    container_of(check, struct side_check, check)->active = false;
}

static void work_and_check(struct run *run, struct side_check *side, uint64_t n)
{
    memset(side, 0, sizeof(*side));
    side->run = run;
    side->check.pages = rng_percent(&run->rng, 50);
    side->check.problem = side_problem;
    side->check.done = side_done;
    side->active = store_check(run->store, &side->check) == 0;
    bool begun = side->active;
    run->check_beside = true;
    for (unsigned i = 0; i < 1000 && side->active && !sim_is_dead(run->sim); i++)
        work(run, 1 + n / 50);
    run->check_beside = false;
    if (sim_is_dead(run->sim))
        return;
    side->check.cancel = true;
    for (unsigned i = 0; i < 100000 && side->active && !sim_is_dead(run->sim); i++)
        turn(run, true);
    if (sim_is_dead(run->sim))
        return;
    int error = side->check.error;
    if (begun && (side->active || side->check.problems ||
                  (error && error != -ENOSPC && error != -ECANCELED)))
        fail(run, "store_check beside writes: %llu problems, %s",
             (unsigned long long)side->check.problems, side->active ? "stalled" : err_text(error));
}

/* Everything at once in a store that is nearly full: disks come and go, checks run, memory for
 * tables is short, the power goes. */
static void profile_press(struct run *run, uint64_t seed)
{
    static struct side_check side;
    struct rng rng;
    rng_seed(&rng, seed ^ 0x9e55);
    struct knobs k = random_knobs(&rng);
    k.capacity_bytes = CAPACITY(16, rng_range(&rng, 16, 48));
    k.disk_pages_max = PAGES(20000, rng_range(&rng, 300, 3000));
    k.disks_max = 5;
    k.may_be_full = true;
    k.race_permille = 0;
    k.change_permille = (unsigned)rng_below(&rng, 30);
    k.sparse_percent = 100;
    k.config.table_bytes = (64 << 10) << rng_below(&rng, 8);
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 2, 2, k.disk_pages_max);
    for (unsigned i = 0; i < 6; i++) {
        struct model_disk *disk = random_disk(run);
        if (disk && rng_percent(&rng, 50))
            fill_in_order(run, disk, model_disk_size(disk) / PAGE_BYTES, 64);
        uint64_t n = n_requests(rng_range(&rng, 20, 1500));
        if (rng_percent(&rng, 60))
            arm_cut(run, n);
        if (rng_percent(&rng, 50))
            work_and_check(run, &side, n);
        else
            work(run, n);
        if (!sim_is_dead(run->sim) && rng_percent(&rng, 30))
            run_reopen(run);
        run_recover(run, random_end(run), 25);
    }
    total_full += run->n_full;
    run_end(run);
}

/* A write or a sync fails: read-only until opened again, acknowledged data still there. */
static void fault_write(struct run *run)
{
    static const enum storage_op kinds[] = {STORAGE_WRITE, STORAGE_SYNC, STORAGE_CREATE};
    enum storage_op op = kinds[rng_below(&run->rng, 3)];
    uint64_t before = sim_failures(run->sim), errors = run->n_write_errors;
    run->may_fail_writes = true;
    sim_fail(run->sim, op, 1 + rng_below(&run->rng, 30), 1 + rng_below(&run->rng, 2),
             op == STORAGE_CREATE || rng_percent(&run->rng, 30) ? -ENOSPC : -EIO);
    work(run, n_requests(150));
    drain(run);
    sim_fail(run->sim, op, 0, 1, 0);
    if (run->n_write_errors > errors && !store_is_read_only(run->store))
        fail(run, "writes failed but the store is not read-only");
    if (store_is_read_only(run->store)) {
        if (sim_failures(run->sim) == before)
            fail(run, "read-only without a reason");
        struct model_disk *disk = random_disk(run);
        static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
        struct store_io io = {.op = STORE_FLUSH};
        if (disk) {
            io.disk = store_disk(run, disk);
            if (run_io(run, &io) == 0)
                fail(run, "a read-only store acknowledged a flush");
            io = (struct store_io){
                .disk = io.disk, .op = STORE_READ, .length = PAGE_BYTES, .buf = page};
            int r = run_io(run, &io);
            if (r)
                fail(run, "a read-only store does not read: %s", err_text(r));
        }
    }
    total_faults += sim_failures(run->sim) - before;
    run_recover(run, random_end(run), 10);
    run->may_fail_writes = false;
}

/* Reads fail or bring damaged bytes: an error for that request, never wrong data. */
static void fault_read(struct run *run)
{
    uint64_t before = sim_failures(run->sim);
    run->may_fail_reads = true;
    sim_fail(run->sim, STORAGE_READ, 1 + rng_below(&run->rng, 20), 1 + rng_below(&run->rng, 3),
             rng_percent(&run->rng, 50) ? -EIO : SIM_DAMAGE);
    work(run, n_requests(150));
    drain(run);
    sim_fail(run->sim, STORAGE_READ, 0, 1, 0);
    total_faults += sim_failures(run->sim) - before;
    run_recover(run, random_end(run), 10);
    run->may_fail_reads = false;
}

static void profile_fault(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xfa);
    struct knobs k = random_knobs(&rng);
    k.config.cache_bytes = 0;
    k.race_permille = 0;
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 2, k.disk_pages_max);
    for (unsigned i = 0; i < 6; i++) {
        work(run, n_requests(60));
        drain(run);
        if (rng_percent(&rng, 60))
            fault_write(run);
        else
            fault_read(run);
    }
    run_end(run);
}

/* ---- bits that flip at rest ----------------------------------------------------------------- */

/* Flip one bit in every copy of this page in the log files. Returns how many there were. */
static unsigned flip_page(struct run *run, const uint8_t *page)
{
    uint8_t block[SIM_BLOCK_BYTES];
    struct sim_place place = {0};
    unsigned n = 0, bit = (unsigned)rng_below(&run->rng, 8 * PAGE_BYTES);
    while (sim_next_block(run->sim, &place))
        if (sim_peek(run->sim, place.file, place.offset_bytes, block) &&
            memcmp(block, page, PAGE_BYTES) == 0) {
            sim_flip_bit(run->sim, place.file, place.offset_bytes + bit / 8, bit % 8);
            n++;
        }
    return n;
}

/* Pages that gave ERR_CHECKSUM, each place where it is shown. */
struct damaged {
    struct {
        struct model_disk *disk;
        uint64_t index;
    } places[4096];
    uint32_t n, n_pages; /* places; pages: what several show counts once */
};

static bool is_damaged(const struct damaged *d, const struct model_disk *disk, uint64_t index)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (d->places[i].disk == disk && d->places[i].index == index)
            return true;
    return false;
}

static void add_damaged(struct damaged *d, struct model_disk *disk, uint64_t index)
{
    bool known = false;
    for (uint32_t i = 0; i < d->n; i++)
        known |= d->places[i].index == index && model_page_is_same(d->places[i].disk, disk, index);
    d->n_pages += !known;
    if (d->n == sizeof(d->places) / sizeof(d->places[0]))
        return;
    d->places[d->n].disk = disk;
    d->places[d->n++].index = index;
}

/* Read every page of a disk by itself. */
static void find_damaged_on(struct run *run, struct model_disk *disk, struct damaged *d)
{
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    uint64_t index, cursor = 0;
    while (model_next_page(disk, &cursor, &index)) {
        struct model_read read;
        struct store_io io = {.disk = store_disk(run, disk),
                              .op = STORE_READ,
                              .offset = index * PAGE_BYTES,
                              .length = PAGE_BYTES,
                              .buf = page};
        model_read_begin(run->model, &read);
        int r = run_io(run, &io);
        if (r == 0) {
            model_read_end(run->model, &read, disk, io.offset, PAGE_BYTES, page);
            complain(run, "wrong data from a damaged store");
            continue;
        }
        model_read_abort(&read);
        if (err_errno(r) != EIO)
            fail(run, "a damaged page gave %s", err_text(r));
        add_damaged(d, disk, index);
    }
}

/* All versions are settled. Static until the next call. */
static const struct damaged *find_damaged(struct run *run)
{
    static struct damaged d;
    struct model_version *v;
    d.n = d.n_pages = 0;
    for (uint32_t i = 0; i < model_n_disks(run->model); i++)
        find_damaged_on(run, model_disk(run->model, i), &d);
    for (uint32_t i = 0; (v = model_version(run->model, i)); i++)
        for (uint32_t k = 0; model_version_disk(v, k); k++)
            find_damaged_on(run, model_version_disk(v, k), &d);
    return &d;
}

/* One bit of one live page: that page alone, and store_check() finds it; then it is overwritten. */
static void flip_live(struct run *run)
{
    uint8_t page[PAGE_BYTES];
    struct model_disk *disk = random_disk(run);
    uint64_t cursor, index;
    if (!disk || model_n_pages(disk) == 0)
        return;
    cursor = rng_below(&run->rng, model_n_pages(disk));
    if (!model_next_page(disk, &cursor, &index) || !model_page_settled(disk, index, page) ||
        model_page_is_shared(run->model, disk, index)) /* then it would stay */
        return;
    if (flip_page(run, page) == 0)
        fail(run, "page %llu is nowhere on the medium", (unsigned long long)index);
    say(run, "flipped a bit of page %llu of %s", (unsigned long long)index, model_disk_name(disk));
    total_flips++;
    run->may_fail_reads = true;
    run->dead_damage = true; /* of copies, and of this one when it is overwritten */
    uint64_t problems = run_check(run, harness_verbose);
    if (problems == 0)
        fail(run, "store_check did not find the flipped bit of page %llu",
             (unsigned long long)index);
    const struct damaged *damaged = find_damaged(run);
    if (damaged->n != 1 || !is_damaged(damaged, disk, index))
        fail(run, "one page is damaged, but %u pages give errors", damaged->n);
    if (run->n_damage_events == 0)
        fail(run, "damage without an event");
    run->may_fail_reads = false;
    drain(run);
    while (!start_io(run, disk, STORE_WRITE, 0, index * PAGE_BYTES, PAGE_BYTES))
        drain(run);
    drain(run);
    if (find_damaged(run)->n != 0)
        fail(run, "an overwritten page is still damaged");
}

/* Bits anywhere: errors are right, wrong data never; what cannot be read, store_check() finds. The
 * store may even refuse to open. */
static void flip_anywhere(struct run *run)
{
    struct sim *whole = run->sim;
    run->may_fail_reads = run->may_fail_writes = true;
    run->sim = sim_clone(whole, rng_next(&run->rng));
    for (uint64_t flips = rng_range(&run->rng, 1, 4), i = 0; i < flips; i++) {
        struct sim_place place = {0}, pick = {0};
        for (uint64_t n = 1; sim_next_block(run->sim, &place); n++)
            if (rng_below(&run->rng, n) == 0)
                pick = place;
        sim_flip_bit(run->sim, pick.file, pick.offset_bytes + rng_below(&run->rng, SIM_BLOCK_BYTES),
                     (unsigned)rng_below(&run->rng, 8));
        say(run, "flipped a bit in the block of file %#x at %llu", pick.file,
            (unsigned long long)pick.offset_bytes);
        total_flips++;
    }
    int r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (r == 0) {
        uint64_t problems = run_check(run, harness_verbose);
        uint32_t damaged = find_damaged(run)->n;
        if (damaged && !problems)
            fail(run, "%u pages cannot be read but store_check found nothing", damaged);
        store_close(run->store);
    } else {
        say(run, "the damaged store does not open: %s", err_text(r));
    }
    run->store = NULL;
    sim_free(run->sim);
    run->sim = whole;
    run->may_fail_reads = run->may_fail_writes = false;
}

/* ---- bits of sealed files ------------------------------------------------------------------- */

/* A file of the newest checkpoint's map. */
struct sealed {
    const struct map_file *file;
    const struct map_piece *pieces;
    const uint64_t *live;
};

static bool is_live(const struct sealed *f, uint64_t offset)
{
    uint64_t slot = offset >> f->file->shift;
    return slot < f->file->used_slots && f->live[slot / 64] >> (slot % 64) & 1;
}

/* Read the newest checkpoint of a closed store. Returns its body, to be freed, or NULL. */
static uint8_t *load_checkpoint(struct run *run, struct checkpoint_header *h)
{
    struct checkpoint_header heads[2];
    for (int i = 0; i < 2; i++)
        if (!sim_peek(run->sim, STORAGE_CHECKPOINT(i), 0, &heads[i]) ||
            memcmp(heads[i].magic, CHECKPOINT_MAGIC, sizeof(heads[i].magic)) != 0)
            return NULL;
    int newer = heads[1].seq > heads[0].seq;
    *h = heads[newer];
    uint64_t blocks = (h->body_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    uint8_t *body = calloc(blocks + 1, BLOCK_BYTES);
    for (uint64_t i = 0; body && i < blocks; i++)
        sim_peek(run->sim, STORAGE_CHECKPOINT(newer), (i + 1) * BLOCK_BYTES,
                 body + i * BLOCK_BYTES);
    return body;
}

/* A random file of the map that holds something. */
static bool pick_sealed(struct run *run, const struct checkpoint_header *h, const uint8_t *body,
                        struct sealed *ret)
{
    const uint8_t *at = body + h->catalogue_bytes;
    uint64_t n = 0;
    for (uint32_t i = 0; i < h->n_files; i++) {
        struct sealed f = {.file = (const struct map_file *)at};
        f.pieces = (const struct map_piece *)(f.file + 1);
        f.live = (const uint64_t *)(f.pieces + f.file->n_pieces);
        uint32_t words = (f.file->used_slots + 63) / 64;
        at = (const uint8_t *)(f.live + words);
        bool any = false;
        for (uint32_t w = 0; w < words; w++)
            any = any || f.live[w];
        if (any && rng_below(&run->rng, ++n) == 0)
            *ret = f;
    }
    return n > 0;
}

/* A random byte of the file that is covered by a checksum, or known to be zero: all that it holds,
 * but in a packed file what is in no piece and not in the footer. */
static uint64_t pick_byte(struct run *run, const struct sealed *f)
{
    uint64_t slot_bytes = 1u << f->file->shift;
    if (f->file->kind != FILE_KIND_PACKED)
        return rng_below(&run->rng, f->file->used_slots * slot_bytes);
    unsigned dice = (unsigned)rng_below(&run->rng, 10);
    if (dice == 0)
        return rng_below(&run->rng, BLOCK_BYTES);
    if (dice <= 2) {
        uint64_t at = (uint64_t)f->file->footer_block * BLOCK_BYTES, bytes = f->file->footer_bytes;
        uint64_t padded = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
        return at + (dice == 2 ? padded : 0) + rng_below(&run->rng, bytes);
    }
    const struct map_piece *p = &f->pieces[rng_below(&run->rng, f->file->n_pieces)];
    return (p->base + rng_below(&run->rng, p->count)) * slot_bytes +
           rng_below(&run->rng, slot_bytes);
}

static void judge_flip(struct run *run, const struct sealed *f, uint64_t offset)
{
    bool live = is_live(f, offset);
    uint64_t problems = run_check(run, harness_verbose), harmless = run->harmless;
    uint32_t damaged = find_damaged(run)->n_pages;
    if (counter(run, "files_cleaned")) { /* and with it what was damaged */
        say(run, "files were cleaned");
        return;
    }
    /* So is what only removed versions have, and where they lie, a whole file may be free before
     * it is looked at; nor does anybody read their pages. */
    if (counter(run, "reclaimed_nodes") || counter(run, "reclaimed_pages") ||
        counter(run, "pending_bytes")) {
        say(run, "removed versions were being freed");
        if (damaged && (!live || problems == harmless))
            fail(run, "%u pages give errors, store_check has %llu problems, %llu of them harmless",
                 damaged, (unsigned long long)problems, (unsigned long long)harmless);
        return;
    }
    if (problems == 0)
        fail(run, "a flipped bit at byte %llu of file %u is not found", (unsigned long long)offset,
             f->file->file);
    if (live == (problems == harmless))
        fail(run, "damage where %s lives gives %llu problems, %llu of them harmless",
             live ? "something" : "nothing", (unsigned long long)problems,
             (unsigned long long)harmless);
    if (live && f->file->shift == DATA_SHIFT && problems != 1)
        fail(run, "one damaged page gives %llu problems", (unsigned long long)problems);
    bool page = live && f->file->shift == DATA_SHIFT; /* one of a table node is put right */
    if (damaged != page)
        fail(run, "a flipped bit where %s lives: %u pages give errors",
             page   ? "one page"
             : live ? "a node"
                    : "nothing",
             damaged);
}

/* One bit of a sealed file, wherever it is, is found, and gives an error for its page alone. The
 * store is closed. */
static void flip_sealed(struct run *run)
{
    struct sim *whole = run->sim;
    struct checkpoint_header h;
    struct sealed f = {0};
    uint8_t *body = load_checkpoint(run, &h);
    if (!body || !pick_sealed(run, &h, body, &f)) {
        free(body);
        return;
    }
    uint64_t offset = pick_byte(run, &f);
    run->may_fail_reads = true;
    run->sim = sim_clone(whole, rng_next(&run->rng));
    run->dead_damage = false;
    sim_flip_bit(run->sim, f.file->file, offset, (unsigned)rng_below(&run->rng, 8));
    say(run, "flipped a bit of file %u (kind %u) at %llu", f.file->file, f.file->kind,
        (unsigned long long)offset);
    total_flips++;
    int r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (r)
        fail(run, "a flipped bit in a sealed file: opening gives %s", err_text(r));
    judge_flip(run, &f, offset);
    store_close(run->store);
    run->store = NULL;
    sim_free(run->sim);
    free(body);
    run->sim = whole;
    run->may_fail_reads = false;
}

/* The header of a batch, and whether this block is one. */
static bool peek_batch(struct run *run, const struct sim_place *place, struct batch_header *ret)
{
    uint8_t block[SIM_BLOCK_BYTES];
    if (!sim_peek(run->sim, place->file, place->offset_bytes, block))
        return false;
    memcpy(ret, block, sizeof(*ret));
    return ret->magic == BATCH_MAGIC;
}

/* The medium lost a batch of the tail of which a later one says that it was durable: the store may
 * refuse to open, but not go back behind the flush without a word. All is flushed, the power off. A
 * batch that may alone name the next file is left out (scan.c).
 */
static void flip_durable(struct run *run)
{
    struct sim *whole = run->sim;
    struct sim_place place = {0}, pick = {0};
    struct batch_header h, last = {0};
    while (sim_next_block(run->sim, &place))
        if (peek_batch(run, &place, &h) &&
            (h.incarnation > last.incarnation ||
             (h.incarnation == last.incarnation && h.seq > last.seq)))
            last = h;
    uint64_t n = 0;
    for (place = (struct sim_place){0}; sim_next_block(run->sim, &place);)
        if (peek_batch(run, &place, &h) && h.incarnation == last.incarnation &&
            h.next_file == NO_FILE && h.seq <= last.synced_seq && h.seq + 40 > last.seq &&
            rng_below(&run->rng, ++n) == 0)
            pick = place;
    if (!n)
        return;
    run->may_fail_reads = run->may_fail_writes = true;
    run->sim = sim_clone(whole, rng_next(&run->rng));
    sim_flip_bit(run->sim, pick.file, pick.offset_bytes + 8, 3);
    total_flips++;
    int r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
    if (r == 0) {
        find_damaged(run);
        store_close(run->store);
    } else if (r != ERR_DAMAGED) {
        fail(run, "a lost batch gave %s", err_text(r));
    }
    run->store = NULL;
    sim_free(run->sim);
    run->sim = whole;
    run->may_fail_reads = run->may_fail_writes = false;
}

/* Work, flush, and the power goes; then batches of the tail are lost. */
static void flip_tail(struct run *run)
{
    struct model_disk *disk = random_disk(run);
    work(run, n_requests(100));
    drain(run);
    while (disk && !start_io(run, disk, STORE_FLUSH, 0, 0, 0))
        drain(run);
    drain(run);
    sim_cut(run->sim);
    take_down(run);
    sim_restart(run->sim, SIM_CRASH);
    for (unsigned i = 0; disk && i < 6; i++)
        flip_durable(run);
    if (!come_up(run, MODEL_CRASHED))
        fail(run, "test bed: dead without a cut");
}

/* Idle seconds, in which files that are half dead are cleaned. */
static void idle(struct run *run)
{
    drain(run);
    for (unsigned i = 0; i < 200; i++) {
        if (i % 20 == 0)
            store_tick(run->store);
        turn(run, false);
    }
}

static void profile_flip(struct run *run, uint64_t seed)
{
    struct rng rng;
    rng_seed(&rng, seed ^ 0xf11);
    struct knobs k = random_knobs(&rng);
    k.capacity_bytes = CAPACITY(32, 128);
    k.config.cache_bytes = 0;
    k.sparse_percent = 0;
    k.change_permille = 0;
    k.version_percent = 100;
    run_begin(run, seed, &k);
    run_format(run);
    make_disks(run, 1, 2, k.disk_pages_max);
    for (unsigned i = 0; i < 4; i++) {
        work(run, n_requests(100));
        some_changes(run, 4);
        run_reopen(run);
        if (rng_percent(&rng, 70))
            idle(run);
        if (rng_percent(&rng, 50)) /* what was moved may die too */
            work(run, n_requests(100));
        settle_all(run);
        drain(run);
        int r = store_close(run->store);
        run->store = NULL;
        if (r)
            fail(run, "closing: %s", err_text(r));
        for (unsigned j = 0; j < 8 && !run->dead_damage; j++)
            flip_sealed(run);
        r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
        if (r)
            fail(run, "opening: %s", err_text(r));
        if (i % 2)
            flip_live(run);
        run_reopen(run);
        r = store_close(run->store);
        run->store = NULL;
        if (r)
            fail(run, "closing: %s", err_text(r));
        for (unsigned j = 0; j < 4; j++)
            flip_anywhere(run);
        r = store_open(sim_storage(run->sim), &run->knobs.config, &run->store);
        if (r)
            fail(run, "opening: %s", err_text(r));
        compare_all(run, MODEL_CLOSED);
        flip_tail(run);
    }
    run_end(run);
}

/* ---- main ----------------------------------------------------------------------------------- */

static const struct profile {
    const char *name;
    void (*run)(struct run *run, uint64_t seed);
    unsigned weight; /* of a hundred seeds */
} profiles[] = {
    {"mix", profile_mix, 55},    {"edge", profile_edge, 5},          {"every", profile_every, 3},
    {"sweep", profile_sweep, 3}, {"fault", profile_fault, 8},        {"flip", profile_flip, 4},
    {"wide", profile_wide, 2},   {"churn", profile_churn, 1},        {"full", profile_full, 1},
    {"press", profile_press, 3}, {"versions", profile_versions, 12}, {"since", profile_since, 3},
    {"crowd", profile_crowd, 0}, /* by name: more of it would move the seeds of the others */
};

static const struct profile *profile_for(uint64_t seed)
{
    uint64_t dice = rng_mix(seed * 0x9e3779b97f4a7c15ULL) % 100;
    for (size_t i = 0; i < sizeof(profiles) / sizeof(profiles[0]); i++) {
        if (options.profile ? strcmp(options.profile, profiles[i].name) == 0
                            : dice < profiles[i].weight)
            return &profiles[i];
        dice -= options.profile ? 0 : profiles[i].weight;
    }
    return NULL;
}

static uint64_t current_seed;

/* An assertion, a crash or a hang of the store: say with which seed, then die of it. */
static void on_signal(int number)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "FAILED: seed %llu profile %s: signal %d%s\n",
                     (unsigned long long)current_seed, harness_profile, number,
                     number == SIGALRM ? " (it takes for ever)" : "");
    ssize_t w = write(STDERR_FILENO, text, (size_t)n);
    (void)w;
    signal(number, SIG_DFL);
    raise(number);
}

static int parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        uint64_t *number = strcmp(arg, "--seed") == 0     ? &options.seed
                           : strcmp(arg, "--count") == 0  ? &options.count
                           : strcmp(arg, "--points") == 0 ? &options.points
                           : strcmp(arg, "--ops") == 0    ? &options.ops
                                                          : NULL;
        if (strcmp(arg, "--verbose") == 0) {
            harness_verbose = true;
        } else if (strcmp(arg, "--lie") == 0) {
            harness_lie = true;
        } else if (strcmp(arg, "--crc-tails") == 0) {
            stamp_crc_tails = true;
        } else if (number && value) {
            *number = strtoull(value, NULL, 0);
            i++;
        } else if (strcmp(arg, "--profile") == 0 && value) {
            options.profile = value;
            i++;
        } else {
            return -1;
        }
    }
    if (options.count == UINT64_MAX && !options.points)
        options.count = 1;
    return profile_for(0) ? 0 : -1;
}

int main(int argc, char **argv)
{
    static struct run run;
    uint64_t begun = mono_us(), seeds = 0;
    if (parse(argc, argv) != 0) {
        fprintf(
            stderr,
            "usage: test-model [--seed N] [--count N] [--points N] [--ops N] "
            "[--profile "
            "mix|edge|every|sweep|fault|flip|wide|churn|full|press|versions|since|crowd] [--lie] "
            "[--crc-tails] [--verbose]\n");
        return 2;
    }
    const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], on_signal);
    while (seeds < options.count && (!options.points || total_points < options.points)) {
        current_seed = options.seed + seeds++;
        const struct profile *profile = profile_for(current_seed);
        harness_profile = profile->name;
        alarm(120);
        profile->run(&run, current_seed);
        total_points += run.crash_points;
        total_ops += run.op_ids;
        total_opens += run.opens;
    }
    printf("%llu seeds from %llu: %llu crash points, %llu openings, %llu requests, %llu faults, "
           "%llu flipped bits, %llu times full, all right, in %.1f s\n",
           (unsigned long long)seeds, (unsigned long long)options.seed,
           (unsigned long long)total_points, (unsigned long long)total_opens,
           (unsigned long long)total_ops, (unsigned long long)total_faults,
           (unsigned long long)total_flips, (unsigned long long)total_full,
           (double)(mono_us() - begun) / 1e6);
    return 0;
}
