/* receive.c - streams that are being received. */
#include "daemon/receive.h"

#include "base/err.h"
#include "daemon/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct slot {
    struct receives *receives;
    struct receive what;
    bool used;
    bool removing; /* the change is under way */
    unsigned idle_seconds;
    struct store_change change;
};

/* All but engine belongs to the engine's thread. */
struct receives {
    struct engine *engine;
    unsigned removing;
    bool abandoned; /* receives_free() was called */
    bool ticks;
    struct engine_ticker ticker;
    struct slot slots[RECEIVES_MAX];
};

static struct slot *find(struct receives *r, const char *vm)
{
    for (int i = 0; i < RECEIVES_MAX; i++)
        if (r->slots[i].used && !strcmp(r->slots[i].what.vm, vm))
            return &r->slots[i];
    return NULL;
}

/* ---- the version that it goes on from ------------------------------------------------------- */

struct receive_hold {
    char disk[NAME_MAX_CHARS + 1]; /* the name of the first one */
    uint32_t n;
    struct disk *disks[]; /* at least one */
};

static void release(struct receive *what)
{
    for (uint32_t i = 0; what->hold && i < what->hold->n; i++)
        disk_put(what->hold->disks[i]);
    free(what->hold);
    what->hold = NULL;
}

/* One without disks is not held: there is nothing that could be in use. */
static int hold_disks(struct store *store, struct receive *what, const struct version_info *from)
{
    struct receive_hold *hold = calloc(1, sizeof(*hold) + from->n_disks * sizeof(struct disk *));
    int r = hold ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < from->n_disks; i++) {
        struct disk *disk =
            store_find_version_disk(store, from->vm, from->name, from->disks[i].name);
        if (!disk || disk_is_shrinking(disk))
            r = ERR_NO_VERSION; /* it is being removed */
        else
            hold->disks[i] = disk;
    }
    if (r < 0 || !from->n_disks) {
        free(hold);
        return r;
    }
    strcpy(hold->disk, from->disks[0].name);
    for (hold->n = 0; hold->n < from->n_disks; hold->n++)
        disk_get(hold->disks[hold->n]);
    what->hold = hold;
    return 0;
}

static int hold(struct store *store, struct receive *what)
{
    struct version_info *versions;
    int result = ERR_NO_VERSION;
    uint32_t n;

    if (!*what->target || what->hold)
        return 0;
    int r = store_list_versions(store, what->target, NULL, true, UINT32_MAX, &versions, &n);
    if (r < 0)
        return r == -ENOENT ? ERR_NO_VERSION : r;
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(versions[i].name, what->from))
            result = hold_disks(store, what, &versions[i]);
    free(versions);
    return result;
}

/* ---- those whose receiver has died ---------------------------------------------------------- */

static void removed(struct store_change *change)
{
    struct slot *slot = container_of(change, struct slot, change);
    struct receives *r = slot->receives;
    struct engine *engine = r->engine;

    slot->removing = false;
    slot->idle_seconds = 0;
    /* Busy: somebody has connected after all. Any other error would only come again; the next
     * opening of the store removes it. The memory goes in the next second. */
    if (change->error != -EBUSY && !strcmp(change->vm, slot->what.memory_vm))
        *slot->what.memory_vm = '\0';
    else if (change->error != -EBUSY)
        *slot->what.vm = '\0';
    slot->used = *slot->what.vm || *slot->what.memory_vm;
    if (slot->used && change->error != -EBUSY)
        slot->idle_seconds = RECEIVE_GRACE_SECONDS;
    else if (slot->used)
        (void)hold(change->store, &slot->what);
    if (--r->removing == 0 && r->abandoned)
        free(r);
    engine_release(engine);
}

static void remove_vm(struct slot *slot, struct store *store)
{
    slot->change = (struct store_change){.kind = CHANGE_VM_REMOVE, .done = removed};
    strcpy(slot->change.vm, *slot->what.vm ? slot->what.vm : slot->what.memory_vm);
    slot->removing = true;
    release(&slot->what);
    slot->receives->removing++;
    engine_hold(slot->receives->engine);
    store_change(store, &slot->change);
}

static uint32_t users_of(const struct vm_info *vms, uint32_t n, const char *name)
{
    uint32_t users = 0;

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t d = 0; !strcmp(vms[i].name, name) && d < vms[i].n_disks; d++)
            users += vms[i].disks[d].users;
    return users;
}

static void tick(struct engine_ticker *ticker, struct store *store)
{
    struct receives *r = container_of(ticker, struct receives, ticker);
    struct vm_info *vms = NULL;
    uint32_t n = 0;

    for (int i = 0; i < RECEIVES_MAX; i++) {
        struct slot *slot = &r->slots[i];
        if (!slot->used || slot->removing)
            continue;
        if (!vms && store_list(store, &vms, &n) < 0)
            return; /* no memory: the next tick sees to it */
        if (users_of(vms, n, slot->what.vm) + users_of(vms, n, slot->what.memory_vm))
            slot->idle_seconds = 0;
        else if (++slot->idle_seconds > RECEIVE_GRACE_SECONDS)
            remove_vm(slot, store);
    }
    free(vms);
}

/* ---- from the control threads --------------------------------------------------------------- */

struct request {
    struct receives *receives;
    struct receive *what;
    int result;
};

static void on_add(struct engine_call *call)
{
    struct request *q = call->arg;

    if (!q->receives->ticks)
        engine_add_ticker(call->engine, &q->receives->ticker);
    q->receives->ticks = true;
    q->result = -EAGAIN;
    for (int i = 0; i < RECEIVES_MAX && q->result == -EAGAIN; i++) {
        struct slot *slot = &q->receives->slots[i];
        if (slot->used)
            continue;
        q->result = hold(call->store, q->what);
        if (q->result == 0)
            *slot = (struct slot){.receives = q->receives, .what = *q->what, .used = true};
    }
    engine_call_done(call);
}

int receives_add(struct receives *receives, const struct receive *what)
{
    struct receive copy = *what;
    struct request q = {.receives = receives, .what = &copy};
    return engine_ask(receives->engine, on_add, &q, &q.result);
}

void receives_memory_of(struct receives *receives, const char *vm, char ret[NAME_MAX_CHARS + 1])
{
    const struct slot *slot = find(receives, vm);

    strcpy(ret, slot ? slot->what.memory_vm : "");
}

bool receives_go_on_from(struct receives *receives, const char *vm, const char *version)
{
    for (int i = 0; i < RECEIVES_MAX; i++) {
        const struct slot *slot = &receives->slots[i];
        const struct receive_hold *hold = slot->used ? slot->what.hold : NULL;
        if (hold && store_find_version_disk(disk_store(hold->disks[0]), vm, version, hold->disk) ==
                        hold->disks[0])
            return true;
    }
    return false;
}

static void on_take(struct engine_call *call)
{
    struct request *q = call->arg;
    struct slot *slot = find(q->receives, q->what->vm);

    q->result = slot && !slot->removing ? 0 : -ENOENT;
    if (q->result == 0) {
        *q->what = slot->what;
        slot->used = false;
    }
    engine_call_done(call);
}

int receives_take(struct receives *receives, const char *vm, struct receive *ret)
{
    struct receive what = {};
    struct request q = {.receives = receives, .what = &what};

    strncpy(what.vm, vm, NAME_MAX_CHARS);
    int r = engine_ask(receives->engine, on_take, &q, &q.result);
    if (r == 0)
        *ret = what;
    return r;
}

struct target_now {
    const struct receive_hold *hold;
    char *name;
};

static void on_target_now(struct engine_call *call)
{
    struct target_now *t = call->arg;

    strcpy(t->name, disk_vm_name(t->hold->disks[0]));
    engine_call_done(call);
}

void receives_target_now(struct receives *receives, const struct receive *what,
                         char ret[NAME_MAX_CHARS + 1])
{
    struct target_now t = {.hold = what->hold, .name = ret};

    *ret = '\0';
    if (what->hold)
        (void)engine_call(receives->engine, on_target_now, &t);
}

static void on_release(struct engine_call *call)
{
    release(call->arg);
    engine_call_done(call);
}

void receives_release(struct receives *receives, struct receive *what)
{
    while (what->hold && engine_call(receives->engine, on_release, what) < 0)
        usleep(1000); /* it is ours: it must not be left */
}

struct receives *receives_new(struct engine *engine)
{
    struct receives *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->engine = engine;
    r->ticker.tick = tick;
    return r;
}

static void on_free(struct engine_call *call)
{
    struct receives *r = call->arg;

    if (r->ticks)
        engine_remove_ticker(call->engine, &r->ticker);
    for (int i = 0; i < RECEIVES_MAX; i++)
        if (r->slots[i].used)
            release(&r->slots[i].what);
    r->abandoned = true;
    if (r->removing == 0)
        free(r);
    engine_call_done(call);
}

void receives_free(struct receives *r)
{
    if (r && engine_call(r->engine, on_free, r) < 0)
        free(r); /* the loop takes no work: nothing ticks on it either */
}
