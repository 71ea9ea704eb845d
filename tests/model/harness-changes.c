/* harness-changes.c - changes of the catalogue by seed: vms, disks and versions. One at a time,
 * with no request in flight on what it concerns, but for a version that is made. */
#include "harness.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- one change ----------------------------------------------------------------------------- */

/* What gives space back is never refused for lack of it. */
static bool is_removal(enum change_kind kind)
{
    return kind == CHANGE_VM_REMOVE || kind == CHANGE_DISK_REMOVE || kind == CHANGE_VERSION_REMOVE;
}

static bool is_expected(const struct run *run, int error)
{
    return error == run->change_expected || error == run->change_or ||
           (error && run->change_expected == MODEL_ANY_ERROR) ||
           (run->knobs.may_be_full && err_errno(error) == ENOSPC && !is_removal(run->change.kind));
}

static void change_done(struct store_change *change)
{
    struct run *run = container_of(change, struct run, change);
    assert(run->change_active);
    run->change_active = false;
    say(run, "change %d of %s/%s: %d", change->kind, change->vm, change->disk, change->error);
    run->change_stuck = true;
    if (sim_is_dead(run->sim))
        return; /* the model keeps it pending */
    int error = change->error;
    if (!is_expected(run, error) && !(error && (run->may_fail_writes || run->may_fail_reads)))
        fail(run, "change %d of %s/%s@%s (%s, %llu) gave %s (%d), not %s (%d)", change->kind,
             change->vm, change->disk, change->version, change->new_name,
             (unsigned long long)change->size_bytes, err_text(error), error,
             err_text(run->change_expected), run->change_expected);
    if (!is_expected(run, error) && err_errno(error) == EIO)
        return; /* stays pending until the store is opened again, as it is read-only now */
    run->change_stuck = false;
    model_change_end(run->model, error);
}

static void start_change(struct run *run, const struct store_change *change, bool held)
{
    run->change = *change;
    run->change.done = change_done;
    run->change_active = true;
    run->change_expected = model_change_expect(run->model, change, held, &run->change_or);
    model_change_begin(run->model, change, run->change_expected && run->change_or);
    say(run, "start change %d of %s/%s@%s new %s size %llu, %u names, hold %d", change->kind,
        change->vm, change->disk, change->version, change->new_name,
        (unsigned long long)change->size_bytes, change->n_versions, change->hold);
    store_change(run->store, &run->change);
}

static bool is_change_busy(const struct run *run)
{
    return run->change_active;
}

int do_change(struct run *run, const struct store_change *change)
{
    start_change(run, change, false);
    turn_until(run, is_change_busy);
    return run->change.error;
}

/* ---- what it concerns ----------------------------------------------------------------------- */

/* No request may be in flight on this disk while the change is. */
static bool concerns(const struct store_change *c, const struct model_disk *disk)
{
    const struct model_version *v = model_disk_version(disk);
    bool vm = strcmp(c->vm, model_disk_vm(disk)) == 0;
    switch (c->kind) {
    case CHANGE_VM_REMOVE:
        return vm;
    case CHANGE_DISK_REMOVE:
    case CHANGE_DISK_RESIZE:
        return !v && vm && strcmp(c->disk, model_disk_name(disk)) == 0;
    case CHANGE_ROLLBACK:
        return !v && vm;
    case CHANGE_ADOPT:
        return vm || strcmp(c->new_name, model_disk_vm(disk)) == 0;
    case CHANGE_VERSION_REMOVE:
        for (uint32_t i = 0; v && vm && i < c->n_versions; i++)
            if (strcmp(c->versions[i], model_version_name(v)) == 0)
                return true;
        return false;
    default:
        return false;
    }
}

bool is_concerned(const struct run *run, const struct model_disk *disk)
{
    return (run->change_active || run->change_stuck) && concerns(&run->change, disk);
}

static bool has_requests(const struct run *run, const struct store_change *c)
{
    for (unsigned i = 0; i < run->knobs.depth; i++) {
        const struct slot *slot = &run->slots[i];
        if (slot->active && (concerns(c, slot->disk) || (slot->base && concerns(c, slot->base))))
            return true;
    }
    return false;
}

/* ---- vms and disks -------------------------------------------------------------------------- */

static const char *random_vm(struct run *run, bool *ret_provisional)
{
    uint32_t n = 0;
    while (model_vm(run->model, n, NULL))
        n++;
    return n ? model_vm(run->model, (uint32_t)rng_below(&run->rng, n), ret_provisional) : NULL;
}

static uint64_t random_size(struct run *run)
{
    uint64_t max = run->knobs.disk_pages_max;
    return PAGE_BYTES * (rng_percent(&run->rng, 50) ? rng_range(&run->rng, 1, max)
                                                    : rng_range(&run->rng, max / 2 + 1, max));
}

static uint32_t n_vms(const struct run *run)
{
    uint32_t n = 0;
    while (model_vm(run->model, n, NULL))
        n++;
    return n;
}

/* Fill in what kind of change it is to be; false: not possible now. */
static bool choose_vm_change(struct run *run, struct store_change *c)
{
    struct rng *rng = &run->rng;
    bool provisional = false;
    const char *vm = random_vm(run, &provisional);
    struct model_disk *disk = random_disk(run);
    c->kind = (enum change_kind)rng_below(rng, CHANGE_DISK_COMMIT + 1);
    c->size_bytes = random_size(run);
    c->role = (enum vm_role)rng_below(rng, ROLE_BALANCER + 1);
    if (vm)
        strcpy(c->vm, vm);
    snprintf(c->disk, sizeof(c->disk), "disk%u", (unsigned)rng_below(rng, 4));
    snprintf(c->new_name, sizeof(c->new_name), "vm-%u", (unsigned)rng_below(rng, 8));
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        snprintf(c->vm, sizeof(c->vm), "vm-%u", (unsigned)rng_below(rng, 8));
        c->provisional = rng_percent(rng, 30);
        return n_vms(run) < run->knobs.vms_max;
    case CHANGE_VM_COMMIT:
        return vm && (provisional || rng_percent(rng, 10));
    case CHANGE_VM_REMOVE:
        return vm && rng_percent(rng, 30) && !has_requests(run, c);
    case CHANGE_DISK_ADD:
        c->provisional = rng_percent(rng, 30);
        return vm && model_n_disks(run->model) < run->knobs.disks_max;
    case CHANGE_DISK_REMOVE:
    case CHANGE_DISK_RESIZE:
        if (!disk)
            return false;
        strcpy(c->vm, model_disk_vm(disk));
        strcpy(c->disk, model_disk_name(disk));
        return !has_requests(run, c) && !model_busy(disk, 0, model_disk_size(disk)) &&
               (c->kind == CHANGE_DISK_RESIZE || rng_percent(rng, 30));
    case CHANGE_DISK_COMMIT:
        if (disk) {
            strcpy(c->vm, model_disk_vm(disk));
            strcpy(c->disk, model_disk_name(disk));
        }
        return disk;
    case CHANGE_VM_RENAME:
        return vm && strcmp(vm, c->new_name) != 0;
    default:
        return false;
    }
}

/* ---- versions ------------------------------------------------------------------------------- */

static void version_name(struct run *run, char *name)
{
    snprintf(name, NAME_MAX_CHARS + 1, "v-%u",
             (unsigned)rng_below(&run->rng, 1 + 2 * run->knobs.versions_max));
}

static bool choose_snap(struct run *run, struct store_change *c)
{
    static const char *const notes[] = {NULL, "", "before the update",
                                        "vor dem Ausbau \xe2\x82\xac"};
    const char *vm = random_vm(run, NULL);
    if (!vm || model_n_versions(run->model) >= run->knobs.versions_max)
        return false;
    c->kind = CHANGE_SNAP;
    strcpy(c->vm, vm);
    version_name(run, c->version);
    c->note = notes[rng_below(&run->rng, sizeof(notes) / sizeof(notes[0]))];
    c->consistency = (enum consistency)rng_below(&run->rng, CONSISTENCY_RAM + 1);
    for (unsigned i = 0; i < GUID_BYTES && run->op_ids % 2; i++)
        c->guid[i] = (uint8_t)rng_next(&run->rng);
    if (run->op_ids % 3 == 0) /* before others, and after them */
        c->created_us = 1 + rng_mix(run->op_ids) % 4000000000000000ULL;
    return true;
}

static void name_version(struct run *run, struct store_change *c, const char *name)
{
    if (c->n_versions == VERSIONS_MAX)
        return;
    strcpy(run->change_names[c->n_versions], name);
    run->change_versions[c->n_versions] = run->change_names[c->n_versions];
    c->n_versions++;
}

/* One version of a vm, or some, or all. */
static bool choose_version_remove(struct run *run, struct store_change *c)
{
    struct rng *rng = &run->rng;
    struct model_version *v = random_version(run), *w;
    unsigned others = rng_percent(rng, 60) ? 0 : rng_percent(rng, 70) ? 50 : 100;
    bool with_held = rng_percent(rng, 10);
    if (!v)
        return false;
    c->kind = CHANGE_VERSION_REMOVE;
    strcpy(c->vm, model_version_vm(v));
    c->versions = run->change_versions;
    for (uint32_t i = 0; (w = model_version(run->model, i)); i++)
        if (strcmp(model_version_vm(w), c->vm) == 0 && (w == v || rng_percent(rng, others)) &&
            (with_held || !model_version_is_held(w)))
            name_version(run, c, model_version_name(w));
    if (rng_percent(rng, 5))
        name_version(run, c, "v-none");
    if (rng_percent(rng, 3))
        name_version(run, c, model_version_name(v));
    for (uint32_t i = c->n_versions; i-- > 1;) { /* in no order */
        uint32_t k = (uint32_t)rng_below(rng, i + 1);
        const char *name = run->change_versions[i];
        run->change_versions[i] = run->change_versions[k];
        run->change_versions[k] = name;
    }
    return c->n_versions && !has_requests(run, c);
}

/* To a provisional clone's origin, if there is one. */
static bool choose_adopt(struct run *run, struct store_change *c)
{
    const char *vm, *to = NULL;
    c->kind = CHANGE_ADOPT;
    c->hold = rng_percent(&run->rng, 50);
    for (uint32_t i = 0; (vm = model_vm(run->model, i, NULL)); i++)
        if (model_clone_of(run->model, vm)) {
            strcpy(c->vm, vm);
            to = model_clone_of(run->model, vm);
            if (rng_percent(&run->rng, 50))
                break;
        }
    if (to)
        strcpy(c->new_name, to);
    if (to && rng_percent(&run->rng, 5) && (to = random_vm(run, NULL)))
        strcpy(c->new_name, to);
    /* Whether the head is still the version must be known. */
    return to && settle_all(run) && !has_requests(run, c);
}

static bool choose_version_change(struct run *run, struct store_change *c)
{
    struct rng *rng = &run->rng;
    struct model_version *v = random_version(run);
    unsigned dice = (unsigned)rng_below(rng, 100);
    if (!v || dice < 38)
        return choose_snap(run, c) || choose_version_remove(run, c);
    if (dice < 55)
        return choose_version_remove(run, c);
    if (dice < 63)
        return choose_adopt(run, c);
    strcpy(c->vm, model_version_vm(v));
    strcpy(c->version, model_version_name(v));
    if (dice < 70) {
        c->kind = CHANGE_VERSION_HOLD;
        c->hold = model_version_is_held(v) == rng_percent(rng, 10);
        return true;
    }
    version_name(run, c->new_name);
    if (dice < 75) {
        c->kind = CHANGE_VERSION_RENAME;
        return true;
    }
    if (!settle(run, v))
        return false;
    if (dice < 88) {
        c->kind = CHANGE_ROLLBACK;
        if (rng_percent(rng, 40) || model_n_versions(run->model) >= run->knobs.versions_max)
            c->new_name[0] = 0;
        return !has_requests(run, c);
    }
    c->kind = CHANGE_CLONE;
    c->provisional = rng_percent(rng, 40);
    snprintf(c->new_name, sizeof(c->new_name), "vm-%u", (unsigned)rng_below(rng, 8));
    return n_vms(run) < run->knobs.vms_max;
}

/* ---- choosing ------------------------------------------------------------------------------- */

static void make_bad(struct run *run, struct store_change *c)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "a b", "\xc3\xa4"};
    uint64_t dice = rng_below(&run->rng, sizeof(bad) / sizeof(bad[0]));
    const char *name = bad[dice];
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        strcpy(c->vm, name);
        break;
    case CHANGE_SNAP:
        strcpy(c->version, name);
        break;
    case CHANGE_VM_RENAME:
    case CHANGE_VERSION_RENAME:
    case CHANGE_CLONE:
        strcpy(c->new_name, name);
        break;
    case CHANGE_ROLLBACK:
        if (dice)
            strcpy(c->new_name, name);
        else
            strcpy(c->version, "v-none");
        break;
    case CHANGE_VERSION_HOLD:
        strcpy(c->version, "v-none");
        break;
    case CHANGE_DISK_RESIZE:
        c->size_bytes = rng_percent(&run->rng, 50) ? 0 : 1ULL << 63;
        break;
    case CHANGE_DISK_ADD:
        if (rng_percent(&run->rng, 50))
            strcpy(c->disk, name);
        else
            c->size_bytes = rng_percent(&run->rng, 50) ? 0 : DISK_MAX_BYTES + PAGE_BYTES;
        break;
    default:
        strcpy(c->vm, "nobody");
        break;
    }
}

/* A disk whose being in use stands in the way of the change, or NULL. */
static struct disk *hindrance(struct run *run, const struct store_change *c)
{
    struct model_version *v;
    for (uint32_t i = 0; i < model_n_disks(run->model); i++) {
        struct model_disk *disk = model_disk(run->model, i);
        bool of_target = c->kind != CHANGE_ADOPT || strcmp(model_disk_vm(disk), c->new_name) == 0;
        if (c->kind != CHANGE_DISK_RESIZE && concerns(c, disk) && of_target)
            return store_disk(run, disk);
    }
    for (uint32_t i = 0; (v = model_version(run->model, i)); i++)
        for (uint32_t d = 0; c->kind == CHANGE_VERSION_REMOVE && model_version_disk(v, d); d++)
            if (concerns(c, model_version_disk(v, d)))
                return store_disk(run, model_version_disk(v, d));
    return NULL;
}

bool start_random_change(struct run *run)
{
    struct store_change c = {0};
    struct disk *held = NULL;
    if (run->change_active || run->change_stuck)
        return false;
    bool of_version = run->knobs.versions_max && rng_percent(&run->rng, run->knobs.version_percent);
    if (!(of_version ? choose_version_change(run, &c) : choose_vm_change(run, &c)))
        return false;
    if (sim_is_dead(run->sim))
        return false;
    if (rng_percent(&run->rng, 10))
        make_bad(run, &c);
    else if (rng_percent(&run->rng, 10) && (held = hindrance(run, &c)))
        disk_get(held);
    start_change(run, &c, held);
    if (held) {
        turn_until(run, is_change_busy);
        disk_put(held);
    }
    return true;
}

void some_changes(struct run *run, unsigned n)
{
    for (unsigned i = 0; i < n && !sim_is_dead(run->sim); i++) {
        start_random_change(run);
        drain(run);
    }
}

void keep_one_vm(struct run *run, const char *name)
{
    struct model_version *v;
    char keep[NAME_MAX_CHARS + 1];
    const char *vm;
    strcpy(keep, name);
    while ((v = model_version(run->model, 0)) && !sim_is_dead(run->sim)) {
        struct store_change c = {.kind = CHANGE_VERSION_HOLD};
        strcpy(c.vm, model_version_vm(v));
        strcpy(c.version, model_version_name(v));
        if (model_version_is_held(v) && do_change(run, &c) && !sim_is_dead(run->sim))
            fail(run, "a version cannot be released: %s", err_text(run->change.error));
        c.kind = CHANGE_VERSION_REMOVE;
        c.versions = run->change_versions;
        name_version(run, &c, model_version_name(v));
        if (!sim_is_dead(run->sim) && do_change(run, &c) && !sim_is_dead(run->sim))
            fail(run, "a version cannot be removed: %s", err_text(run->change.error));
    }
    for (uint32_t i = 0; (vm = model_vm(run->model, i, NULL)) && !sim_is_dead(run->sim);) {
        struct store_change c = {.kind = CHANGE_VM_REMOVE};
        strcpy(c.vm, vm);
        if (strcmp(vm, keep) == 0)
            i++;
        else if (do_change(run, &c) && !sim_is_dead(run->sim))
            fail(run, "a vm cannot be removed: %s", err_text(run->change.error));
    }
}
