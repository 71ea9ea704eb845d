/* harness-versions.c - versions: reading them, comparing with them, measuring them, by seed. */
#include "harness.h"

#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a version is ---------------------------------------------------------------------- */

static bool is_usable(const struct run *run, const struct model_version *v)
{
    for (uint32_t d = 0; model_version_disk(v, d); d++)
        if (is_concerned(run, model_version_disk(v, d)))
            return false;
    return true;
}

static bool settle_one(struct run *run, struct model_version *v)
{
    if (!is_usable(run, v))
        return false;
    model_settle_begin(run->model, v);
    for (uint32_t d = 0; model_version_disk(v, d); d++)
        if (!judge_disk(run, model_version_disk(v, d)))
            return false;
    model_settle_end(run->model, v, !run->dry);
    complain(run, "a version is read");
    return true;
}

bool settle(struct run *run, struct model_version *version)
{
    struct model_version *v;
    for (uint32_t i = 0; (v = model_version(run->model, i)); i++) {
        if (!model_version_is_settled(v) && !settle_one(run, v))
            return false;
        if (v == version)
            break;
    }
    return true;
}

bool settle_all(struct run *run)
{
    return settle(run, NULL);
}

struct model_version *random_version(struct run *run)
{
    uint32_t n = model_n_versions(run->model);
    for (unsigned i = 0; n && i < 4; i++) {
        struct model_version *v = model_version(run->model, (uint32_t)rng_below(&run->rng, n));
        if (is_usable(run, v))
            return v;
    }
    return NULL;
}

/* ---- requests ------------------------------------------------------------------------------- */

/* A disk of a settled version, or NULL. */
static struct model_disk *random_version_disk(struct run *run)
{
    struct model_version *v = random_version(run);
    uint32_t n = 0;
    if (!v || (!model_version_is_settled(v) && (rng_percent(&run->rng, 80) || !settle(run, v))))
        return NULL;
    while (model_version_disk(v, n))
        n++;
    return n ? model_version_disk(v, (uint32_t)rng_below(&run->rng, n)) : NULL;
}

/* A version takes no writes. */
static void try_write(struct run *run, struct model_disk *disk, uint64_t offset, uint64_t length)
{
    static const enum store_op ops[] = {STORE_WRITE, STORE_TRIM, STORE_ZERO};
    void *buf = calloc(1, length);
    struct store_io io = {.disk = store_disk(run, disk),
                          .op = ops[rng_below(&run->rng, 3)],
                          .offset = offset,
                          .length = length,
                          .buf = buf};
    if (!buf)
        abort();
    int r = run_io(run, &io);
    if (r != -EROFS && !sim_is_dead(run->sim))
        fail(run, "a write to a version gives %s (%d)", err_text(r), r);
    free(buf);
}

/* What to compare the disk with: mostly one of its own origin. NULL: none. */
static struct model_disk *random_base(struct run *run, const struct model_disk *disk)
{
    for (unsigned i = 0; i < 6; i++) {
        struct model_disk *base =
            rng_percent(&run->rng, 60) ? random_version_disk(run) : random_disk(run);
        if (!base)
            continue;
        bool related = model_disks_related(disk, base);
        if (disk_is_related(store_disk(run, disk), store_disk(run, base)) != related)
            fail(run, "%s/%s and %s/%s are said %sto be related", model_disk_vm(disk),
                 model_disk_name(disk), model_disk_vm(base), model_disk_name(base),
                 related ? "not " : "");
        if (related || rng_percent(&run->rng, 5))
            return base;
    }
    return NULL;
}

static bool start_diff(struct run *run)
{
    struct model_disk *disk = random_disk(run), *base;
    uint64_t offset = 0, length;
    if (rng_percent(&run->rng, 50))
        disk = random_version_disk(run);
    base = disk && !run->change_stuck ? random_base(run, disk) : NULL;
    if (!base || sim_is_dead(run->sim) || is_concerned(run, disk))
        return false;
    length = model_disk_size(disk);
    if (rng_percent(&run->rng, 30))
        random_range(run, disk, &offset, &length);
    return start_compare(run, disk, base, STORE_EXTENTS, 0, offset, length);
}

bool start_version_io(struct run *run)
{
    uint64_t offset, length;
    if (rng_percent(&run->rng, 30))
        return start_diff(run);
    struct model_disk *disk = random_version_disk(run);
    if (!disk || sim_is_dead(run->sim) || run->change_stuck)
        return false;
    random_range(run, disk, &offset, &length);
    unsigned dice = (unsigned)rng_below(&run->rng, 100);
    if (dice < 3) {
        try_write(run, disk, offset, length);
        return true;
    }
    return start_io(run, disk,
                    dice < 80   ? STORE_READ
                    : dice < 95 ? STORE_EXTENTS
                                : STORE_CACHE,
                    dice < 10 ? STORE_SKIP_ZERO : 0, offset, length);
}

/* ---- lists ---------------------------------------------------------------------------------- */

/* A few at a time they come as in the list of all; vm: of one, or NULL. */
static void compare_pages(struct run *run, const char *vm, const struct version_info *all,
                          uint32_t n_all)
{
    struct version_place place;
    struct version_info *versions;
    uint32_t n = 1, at = 0, max = 1 + (uint32_t)(run->op_ids % 5);
    while (n) {
        int r = store_list_versions(run->store, vm, at ? &place : NULL, true, max, &versions, &n);
        if (r)
            fail(run, "listing some versions: %s", err_text(r));
        if (n > max || at + n > n_all || (n < max && at + n < n_all))
            fail(run, "%u versions are listed, %u before them and %u in all", n, at, n_all);
        for (uint32_t i = 0; i < n; i++, at++)
            if (versions[i].id != all[at].id || strcmp(versions[i].note, all[at].note) != 0 ||
                versions[i].n_disks != all[at].n_disks ||
                (all[at].n_disks && strcmp(versions[i].disks->name, all[at].disks->name) != 0))
                fail(run, "the versions listed in parts are not those of the whole list");
        if (n) {
            strcpy(place.vm, versions[n - 1].vm);
            place.id = versions[n - 1].id;
        }
        free(versions);
    }
}

/* The same as in the list of all, for one vm. */
static void compare_one(struct run *run, const char *vm, const struct model_list *all)
{
    struct version_info *versions;
    uint32_t n, expected = 0;
    int r = store_list_versions(run->store, vm, NULL, true, UINT32_MAX, &versions, &n);
    if (r)
        fail(run, "listing versions of %s: %s", vm, err_text(r));
    for (uint32_t i = 0; i < all->n_versions; i++) {
        if (strcmp(all->versions[i].vm, vm) != 0)
            continue;
        if (expected >= n || versions[expected].id != all->versions[i].id)
            fail(run, "the versions of %s are not those in the list of all", vm);
        expected++;
    }
    if (expected != n)
        fail(run, "%u versions of %s are listed, in the list of all %u", n, vm, expected);
    compare_pages(run, vm, versions, n);
    free(versions);
}

void compare_lists(struct run *run)
{
    struct vm_info *vms;
    struct version_info *versions;
    struct model_list list;
    const char *vm = model_vm(run->model, 0, NULL);
    int r = store_list(run->store, &vms, &list.n_vms);
    r = r ? r
          : store_list_versions(run->store, NULL, NULL, true, UINT32_MAX, &versions,
                                &list.n_versions);
    if (r)
        fail(run, "listing: %s", err_text(r));
    list.vms = vms;
    list.versions = versions;
    model_check_list(run->model, &list, run->n_active == 0 && !run->change_active);
    complain(run, "lists");
    compare_pages(run, NULL, list.versions, list.n_versions);
    if (vm && !run->change_active && !run->change_stuck)
        compare_one(run, vm, &list);
    if (run->knobs.versions_max && store_list_versions(run->store, "nobody", NULL, true, UINT32_MAX,
                                                       &versions, &list.n_versions) != -ENOENT)
        fail(run, "versions of a vm that is not there are listed");
    free(vms);
    free((void *)list.versions);
}

/* ---- measuring ------------------------------------------------------------------------------ */

static bool measure_busy;

static bool is_measuring(const struct run *run)
{
    return measure_busy;
}

static void measured(struct store_measure *measure)
{
    measure_busy = false;
}

/* The names of some versions of one vm. */
static uint32_t choose_names(struct run *run, struct store_measure *m, const char **names)
{
    struct model_version *first = random_version(run), *v;
    unsigned others = rng_percent(&run->rng, 40) ? 0 : rng_percent(&run->rng, 50) ? 40 : 100;
    uint32_t n = 0;
    if (!first)
        return 0;
    strcpy(m->vm, model_version_vm(first));
    for (uint32_t i = 0; (v = model_version(run->model, i)) && n < VERSIONS_MAX; i++)
        if (strcmp(model_version_vm(v), m->vm) == 0 &&
            (v == first || rng_percent(&run->rng, others)))
            names[n++] = model_version_name(v);
    return n;
}

static bool may_measure(struct run *run)
{
    drain(run);
    return !run->change_stuck && !sim_is_dead(run->sim) && !store_is_read_only(run->store) &&
           settle_all(run);
}

/* What removing a vm would free. */
static void compare_measure_of_vm(struct run *run)
{
    struct store_measure m = {.whole = true, .done = measured};
    const char *vm = model_vm(run->model, (uint32_t)(run->op_ids % 3), NULL);
    if (!vm || run->change_active || !may_measure(run))
        return;
    strcpy(m.vm, vm);
    measure_busy = true;
    store_measure(run->store, &m);
    run->long_work = true;
    turn_until(run, is_measuring);
    run->long_work = false;
    if (sim_is_dead(run->sim) || (m.error && run->may_fail_reads))
        return;
    struct model_range range = model_measure(run->model, vm, NULL, 0, model_now(run->model));
    if (m.error || m.bytes < range.low * PAGE_BYTES || m.bytes > range.high * PAGE_BYTES)
        fail(run, "removing %s would free %llu bytes, it is said (%s); it is %llu to %llu pages",
             vm, (unsigned long long)m.bytes, err_text(m.error), (unsigned long long)range.low,
             (unsigned long long)range.high);
}

/* What removing some versions would free; beside writes, or not. */
static void compare_measure(struct run *run)
{
    const char *names[VERSIONS_MAX + 1];
    struct store_measure m = {.versions = names, .done = measured};
    if (!may_measure(run) || !(m.n_versions = choose_names(run, &m, names)))
        return;
    bool missing = rng_percent(&run->rng, 5), cancel = rng_percent(&run->rng, 10);
    if (missing)
        names[m.n_versions++] = "v-none";
    uint64_t since = model_now(run->model);
    uint64_t writes = rng_percent(&run->rng, 50) ? 0 : rng_below(&run->rng, 20);
    uint64_t low = model_measure(run->model, m.vm, names, m.n_versions, since).low;
    measure_busy = true;
    store_measure(run->store, &m);
    for (uint64_t i = 0; i < writes && !sim_is_dead(run->sim); i++) {
        start_random_io(run);
        if (rng_percent(&run->rng, 30))
            turn(run, false);
    }
    m.cancel = cancel;
    run->long_work = true;
    turn_until(run, is_measuring);
    run->long_work = false;
    if (sim_is_dead(run->sim) || (m.error && run->may_fail_reads) ||
        (cancel && m.error == -ECANCELED))
        return;
    if (missing ? err_errno(m.error) != ENOENT : m.error != 0)
        fail(run, "measuring gives %s (%d)", err_text(m.error), m.error);
    uint64_t high = model_measure(run->model, m.vm, names, m.n_versions, since).high;
    if (!missing && (m.bytes < low * PAGE_BYTES || m.bytes > high * PAGE_BYTES))
        fail(run,
             "removing %s and %u more of %s would free %llu bytes, it is said; it is %llu "
             "to %llu pages",
             names[0], m.n_versions - 1, m.vm, (unsigned long long)m.bytes, (unsigned long long)low,
             (unsigned long long)high);
}

void compare_space(struct run *run)
{
    struct store_space space;
    drain(run);
    if (run->change_stuck || sim_is_dead(run->sim) || !settle_all(run))
        return;
    for (unsigned i = 0;; i++) {
        store_space(run->store, &space);
        if (store_is_read_only(run->store) || sim_is_dead(run->sim))
            return;
        if (space.pending == 0)
            break;
        if (i > 100000)
            fail(run, "%llu bytes of what was removed do not come back",
                 (unsigned long long)space.pending);
        if (i % 1000 == 999)
            store_tick(run->store);
        turn(run, true);
    }
    struct model_range live = model_live(run->model);
    if (space.data < live.low * PAGE_BYTES || space.data > live.high * PAGE_BYTES)
        fail(run, "%llu bytes are said to live, it should be %llu to %llu pages",
             (unsigned long long)space.data, (unsigned long long)live.low,
             (unsigned long long)live.high);
}

void random_chore(struct run *run)
{
    unsigned dice = (unsigned)rng_below(&run->rng, 100);
    if (run->may_fail_writes || run->may_fail_reads)
        return;
    if (dice < 40) {
        compare_lists(run);
    } else if (dice < 75) {
        compare_measure(run);
    } else if (dice < 85) {
        compare_space(run);
        compare_measure_of_vm(run);
    } else if (dice < 93) {
        uint64_t problems = run->check_beside ? 0 : run_check(run, true);
        if (problems && !sim_is_dead(run->sim))
            fail(run, "store_check finds %llu problems", (unsigned long long)problems);
    } else {
        settle_all(run);
    }
}
