/* memory-sweep.c - removes the memory that belongs to no version any more. */
#include "daemon/memory-sweep.h"

#include "base/cleanup.h"
#include "daemon/engine.h"

#include <stdlib.h>
#include <string.h>

#define EVERY_SECONDS 5
#define AT_ONCE       64u

struct memory_sweep {
    struct engine *engine;
    struct engine_ticker ticker;
    unsigned seconds;
    bool busy;
    struct store_change change;
    char names[AT_ONCE][NAME_MAX_CHARS + 1];
    const char *pointers[AT_ONCE];
    struct engine_call *waits; /* memory_sweep_free() for the end of a removal */
};

static void removed(struct store_change *change)
{
    struct memory_sweep *sweep = container_of(change, struct memory_sweep, change);
    struct engine *engine = sweep->engine;

    /* What was in use is tried again at the next time; else there may be more. */
    sweep->busy = false;
    sweep->seconds = change->error < 0 ? 0 : EVERY_SECONDS - 1;
    if (sweep->waits)
        engine_call_done(sweep->waits);
    engine_release(engine);
}

static void start(struct memory_sweep *sweep, struct store *store)
{
    sweep->change.done = removed;
    sweep->busy = true;
    engine_hold(sweep->engine);
    store_change(store, &sweep->change);
}

static int by_guid(const void *a, const void *b)
{
    return memcmp(a, b, GUID_BYTES);
}

/* The guids of all versions that may have memory, sorted. NULL: no memory, or there are none. */
static uint8_t (*guids_of(const struct version_info *versions, uint32_t n,
                          size_t *ret_n))[GUID_BYTES]
{
    uint8_t(*guids)[GUID_BYTES] = calloc(n + 1, GUID_BYTES);

    *ret_n = 0;
    if (!guids)
        return NULL;
    for (uint32_t i = 0; i < n; i++)
        if (!versions[i].memory && versions[i].consistency == CONSISTENCY_RAM)
            memcpy(guids[(*ret_n)++], versions[i].guid, GUID_BYTES);
    qsort(guids, *ret_n, GUID_BYTES, by_guid);
    return guids;
}

/* Choose versions of one memory vm that no version has the guid of. */
static void choose_versions(struct memory_sweep *sweep, const struct version_info *versions,
                            uint32_t n)
{
    size_t n_guids;
    _cleanup_free_ uint8_t(*guids)[GUID_BYTES] = guids_of(versions, n, &n_guids);
    struct store_change *c = &sweep->change;

    *c = (struct store_change){.kind = CHANGE_VERSION_REMOVE, .versions = sweep->pointers};
    for (uint32_t i = 0; guids && i < n && c->n_versions < AT_ONCE; i++) {
        const struct version_info *v = &versions[i];
        if (!v->memory || v->held || v->users || (c->n_versions && strcmp(c->vm, v->vm) != 0) ||
            bsearch(v->guid, guids, n_guids, GUID_BYTES, by_guid))
            continue;
        strcpy(c->vm, v->vm);
        strcpy(sweep->names[c->n_versions], v->name);
        sweep->pointers[c->n_versions] = sweep->names[c->n_versions];
        c->n_versions++;
    }
}

static bool is_in_use(const struct vm_info *vm)
{
    uint32_t users = 0;

    for (uint32_t i = 0; i < vm->n_disks; i++)
        users += vm->disks[i].users;
    return users > 0;
}

/* Choose a memory vm that nobody writes into: without versions it goes, else its head, which holds
 * what its last version had, also if that is removed. */
static bool choose_vm(struct memory_sweep *sweep, const struct vm_info *vms, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct vm_info *vm = &vms[i];
        if (!vm->memory || vm->provisional || is_in_use(vm) || (vm->n_versions && !vm->n_disks))
            continue;
        sweep->change = (struct store_change){
            .kind = vm->n_versions ? CHANGE_DISK_REMOVE : CHANGE_VM_REMOVE,
        };
        strcpy(sweep->change.vm, vm->name);
        if (vm->n_versions)
            strcpy(sweep->change.disk, vm->disks[0].name);
        return true;
    }
    return false;
}

static void sweep_once(struct memory_sweep *sweep, struct store *store)
{
    _cleanup_free_ struct vm_info *vms = NULL;
    _cleanup_free_ struct version_info *versions = NULL;
    uint32_t n_vms = 0, n = 0;
    bool any = false;

    if (store_list(store, &vms, &n_vms) < 0)
        return; /* no memory: the next time sees to it */
    for (uint32_t i = 0; i < n_vms && !any; i++)
        any = vms[i].memory;
    if (!any || store_list_versions(store, NULL, NULL, true, UINT32_MAX, &versions, &n) < 0)
        return;
    choose_versions(sweep, versions, n);
    if (sweep->change.n_versions || choose_vm(sweep, vms, n_vms))
        start(sweep, store);
}

static void tick(struct engine_ticker *ticker, struct store *store)
{
    struct memory_sweep *sweep = container_of(ticker, struct memory_sweep, ticker);

    if (sweep->busy || store_is_read_only(store) || ++sweep->seconds < EVERY_SECONDS)
        return;
    sweep->seconds = 0;
    sweep_once(sweep, store);
}

static void on_start(struct engine_call *call)
{
    struct memory_sweep *sweep = call->arg;

    engine_add_ticker(call->engine, &sweep->ticker);
    engine_call_done(call);
}

struct memory_sweep *memory_sweep_new(struct engine *engine)
{
    struct memory_sweep *sweep = calloc(1, sizeof(*sweep));

    if (!sweep)
        return NULL;
    sweep->engine = engine;
    sweep->ticker.tick = tick;
    if (engine_call(engine, on_start, sweep) < 0) {
        free(sweep);
        return NULL;
    }
    return sweep;
}

static void on_stop(struct engine_call *call)
{
    struct memory_sweep *sweep = call->arg;

    engine_remove_ticker(call->engine, &sweep->ticker);
    if (sweep->busy)
        sweep->waits = call;
    else
        engine_call_done(call);
}

void memory_sweep_free(struct memory_sweep *sweep)
{
    if (!sweep || engine_call(sweep->engine, on_stop, sweep) < 0)
        return; /* the engine still has it */
    free(sweep);
}
