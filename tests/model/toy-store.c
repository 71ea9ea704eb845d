/* toy-store.c - the simplest store that keeps store.h: everything in memory, every change a record
 * in a log that is read from its start when it is opened. It exists so that the test bed itself is
 * tested: with TOY_BUG=name in the environment it makes one classical mistake, which the test must
 * find (selftest.sh).
 *
 * Log file n is a run of records. Each opening starts a new file with an OPEN record, which names
 * the sequence number that it goes on from; records past the first bad one are forgotten for good.
 */
#include "image/store.h"

#include "base/crc.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES (32u << 20)
#define DISKS_MAX  64
#define VERSIONS   128

enum { RECORD_OPEN = 100, RECORD_CHANGE = 101 }; /* besides enum store_op */

static const char *bug_name;

static bool bug(const char *name)
{
    return bug_name && strcmp(bug_name, name) == 0;
}

struct header {
    uint32_t crc, kind;
    uint64_t seq, incarnation;
    uint32_t disk, flags, payload;
    uint64_t offset, length;
    struct store_change change;
};

struct vm {
    bool used;
    struct vm_info info;
    uint64_t parent, cloned_from; /* of versions: the record that made it; 0: none */
};

struct disk {
    struct store *store;
    bool used;
    struct vm *vm;
    struct version *version; /* NULL: of the head */
    struct disk_info info;
    uint64_t family;
    uint8_t *data, *kind; /* per page: 0 hole, 1 zero, 2 data */
    uint64_t *serial;     /* per page: the same is the same page; 0: a hole since ever */
};

/* A copy of everything. Made when its record is sent, there when that is done. */
struct version {
    bool used, made;
    struct vm *vm;
    struct version_info info;
    char note[NOTE_MAX_BYTES + 1];
    uint64_t seq, parent;
    struct disk *disks; /* DISKS_MAX */
};

struct record {
    struct storage_req req;
    struct list link; /* store->records, in log order */
    struct store *store;
    struct store_io *io;
    struct store_change *change;
    uint64_t seq;
    uint8_t *bytes, *old; /* old: for one of the mistakes, what its first page was */
    struct iovec iov;
    bool written, sync, synced, told;
};

struct store {
    struct storage *storage;
    struct store_config config;
    struct list records;
    struct vm vms[DISKS_MAX];
    struct disk disks[DISKS_MAX];
    struct version versions[VERSIONS];
    struct store_measure *measure;
    uint64_t seq, incarnation, serials;
    uint32_t file;
    uint64_t at;
    int error;
    bool replays;
};

const struct store_config store_config_default = {.table_bytes = 8 << 20};

static void run_done(struct storage_req *req, int res)
{
    *(int *)req->impl[0] = res;
    req->impl[1] = NULL;
}

int storage_run(struct storage *storage, struct storage_req *req)
{
    int res = 0;
    req->done = run_done;
    req->impl[0] = &res;
    req->impl[1] = req;
    storage->submit(storage, req);
    while (req->impl[1])
        storage->poll(storage, true);
    return res;
}

static int run_op(struct storage *storage, enum storage_op op, uint32_t file, uint64_t at,
                  void *buf, uint64_t length)
{
    struct iovec iov = {buf, length};
    struct storage_req req = {.op = op,
                              .file = file,
                              .offset_bytes = at,
                              .length_bytes = length,
                              .iov = &iov,
                              .n_iov = 1};
    return storage_run(storage, &req);
}

/* ---- what a record does --------------------------------------------------------------------- */

static struct vm *find_vm(struct store *s, const char *name)
{
    for (int i = 0; i < DISKS_MAX; i++)
        if (s->vms[i].used && strcmp(s->vms[i].info.name, name) == 0)
            return &s->vms[i];
    return NULL;
}

struct disk *store_find_disk(struct store *s, const char *vm, const char *disk)
{
    for (int i = 0; i < DISKS_MAX; i++)
        if (s->disks[i].used && strcmp(s->disks[i].info.name, disk) == 0 &&
            strcmp(s->disks[i].vm->info.name, vm) == 0)
            return &s->disks[i];
    return NULL;
}

static void disk_free(struct disk *d)
{
    free(d->data);
    free(d->kind);
    free(d->serial);
    memset(d, 0, sizeof(*d));
}

static void disk_resize(struct disk *d, uint64_t size)
{
    uint64_t old = d->info.size_bytes;
    d->data = realloc(d->data, size);
    d->kind = realloc(d->kind, size / PAGE_BYTES);
    d->serial = realloc(d->serial, size / PAGE_BYTES * sizeof(uint64_t));
    if (!d->data || !d->kind || !d->serial)
        abort();
    if (size > old) {
        memset(d->serial + old / PAGE_BYTES, 0, (size - old) / PAGE_BYTES * sizeof(uint64_t));
        memset(d->data + old, 0, size - old);
        memset(d->kind + old / PAGE_BYTES, 0, (size - old) / PAGE_BYTES);
    }
    d->info.size_bytes = size;
}

static void heads_remove(struct store *s, const struct vm *vm)
{
    for (int i = 0; i < DISKS_MAX; i++)
        if (s->disks[i].used && s->disks[i].vm == vm)
            disk_free(&s->disks[i]);
}

static struct disk *disk_slot(struct disk *disks)
{
    while (disks->used)
        disks++;
    return disks;
}

/* The next disk of a set of DISKS_MAX, or NULL. */
static struct disk *next_disk(struct disk *disks, const struct vm *vm, int *i)
{
    while (disks && *i < DISKS_MAX) {
        struct disk *d = &disks[(*i)++];
        if (d->used && (!vm || d->vm == vm))
            return d;
    }
    return NULL;
}

static void disk_copy(struct disk *to, const struct disk *from, struct vm *vm, struct version *v)
{
    struct disk old = *from;
    *to = (struct disk){.store = old.store,
                        .used = true,
                        .vm = vm,
                        .version = v,
                        .info = old.info,
                        .family = old.family};
    to->info.size_bytes = to->info.users = 0;
    disk_resize(to, old.info.size_bytes);
    memcpy(to->data, old.data, old.info.size_bytes);
    memcpy(to->kind, old.kind, old.info.size_bytes / PAGE_BYTES);
    memcpy(to->serial, old.serial, old.info.size_bytes / PAGE_BYTES * sizeof(uint64_t));
}

/* ---- versions ------------------------------------------------------------------------------- */

static struct version *find_version(struct store *s, const char *vm, const char *name)
{
    for (int i = 0; i < VERSIONS; i++)
        if (s->versions[i].used && s->versions[i].made &&
            strcmp(s->versions[i].info.name, name) == 0 &&
            strcmp(s->versions[i].vm->info.name, vm) == 0)
            return &s->versions[i];
    return NULL;
}

static struct version *version_by_seq(struct store *s, uint64_t seq)
{
    for (int i = 0; i < VERSIONS && seq; i++)
        if (s->versions[i].used && s->versions[i].made && s->versions[i].seq == seq)
            return &s->versions[i];
    return NULL;
}

struct disk *store_find_version_disk(struct store *s, const char *vm, const char *version,
                                     const char *disk)
{
    struct version *v = find_version(s, vm, version);
    int i = 0;
    for (struct disk *d; v && (d = next_disk(v->disks, NULL, &i));)
        if (strcmp(d->info.name, disk) == 0)
            return d;
    return NULL;
}

static void version_free(struct version *v)
{
    for (int i = 0; v->disks && i < DISKS_MAX; i++)
        disk_free(&v->disks[i]);
    free(v->disks);
    memset(v, 0, sizeof(*v));
}

/* A mistake: the version lacks one write in flight, but has later ones. */
static void miss_a_write(struct store *s, struct version *v)
{
    list_for_each (l, &s->records) {
        const struct record *r = container_of(l, struct record, link);
        int i = 0;
        for (struct disk *d; r->io && r->old && (d = next_disk(v->disks, NULL, &i));)
            if (strcmp(d->info.name, r->io->disk->info.name) == 0 && r->io->disk->vm == v->vm) {
                uint64_t page = r->io->offset / PAGE_BYTES;
                memcpy(d->data + page * PAGE_BYTES, r->old, PAGE_BYTES);
                return;
            }
    }
}

static struct version *version_copy(struct store *s, struct vm *vm, const char *name, uint64_t seq)
{
    struct version *v = s->versions;
    struct disk *d;
    int i = 0, n = 0;
    while (v->used)
        v++;
    v->used = true;
    v->vm = vm;
    v->seq = seq;
    v->disks = calloc(DISKS_MAX, sizeof(*v->disks));
    if (!v->disks)
        abort();
    while ((d = next_disk(s->disks, vm, &i)))
        if (!d->info.provisional) /* half made */
            disk_copy(&v->disks[n++], d, vm, v);
    if (n > 1 && bug("snap-half") && seq % 4 == 0)
        disk_free(&v->disks[n - 1]);
    if (bug("snap-no-prefix"))
        miss_a_write(s, v);
    strcpy(v->info.name, name);
    v->info.id = (uint32_t)seq;
    v->info.created_us = seq;
    memcpy(v->info.guid, &seq, sizeof(seq));
    return v;
}

static void version_made(struct store *s, struct version *v)
{
    struct disk *d;
    int i = 0;
    while (bug("snap-mixed") && (d = next_disk(s->disks, v->vm, &i)))
        if (v->disks[1].used && strcmp(v->disks[1].info.name, d->info.name) == 0) {
            disk_free(&v->disks[1]);
            disk_copy(&v->disks[1], d, v->vm, v);
        }
    v->made = true;
    v->parent = v->vm->parent;
    v->vm->parent = v->seq;
}

/* What is copied when the record is sent: what is written later is not in it. */
static void prepare_change(struct store *s, const struct store_change *c, uint64_t seq)
{
    struct vm *vm = find_vm(s, c->vm);
    struct version *v;
    static const uint8_t no_guid[GUID_BYTES];
    if (c->kind == CHANGE_SNAP) {
        v = version_copy(s, vm, c->version, seq);
        snprintf(v->note, sizeof(v->note), "%s", c->note ? c->note : "");
        v->info.consistency = c->consistency;
        if (c->created_us && !(bug("time-lost") && s->replays)) {
            v->info.created_us = c->created_us;
            v->info.received = true;
        }
        if (memcmp(c->guid, no_guid, GUID_BYTES))
            memcpy(v->info.guid, c->guid, GUID_BYTES);
    } else if (c->kind == CHANGE_ROLLBACK && c->new_name[0]) {
        version_copy(s, vm, c->new_name, seq);
    }
}

static void head_from(struct store *s, struct vm *vm, struct version *v)
{
    struct disk *d;
    int i = 0;
    if (bug("rollback-keeps"))
        for (struct disk *old; (old = next_disk(s->disks, vm, &i));) /* later pages stay */
            for (int k = 0; k < DISKS_MAX; k++)
                if (v->disks[k].used && strcmp(v->disks[k].info.name, old->info.name) == 0 &&
                    v->disks[k].info.size_bytes == old->info.size_bytes && old->kind[0] == 2) {
                    memcpy(v->disks[k].data, old->data, PAGE_BYTES);
                    v->disks[k].kind[0] = 2;
                }
    vm->parent = v->seq;
    if (bug("rollback-not-replayed") && s->replays)
        return;
    heads_remove(s, vm);
    i = bug("rollback-loses-disk") && v->disks[1].used;
    while ((d = next_disk(v->disks, NULL, &i)))
        disk_copy(disk_slot(s->disks), d, vm, NULL);
}

static void clone(struct store *s, const struct store_change *c, struct version *v)
{
    struct vm *vm = s->vms;
    while (vm->used)
        vm++;
    *vm = (struct vm){.used = true, .cloned_from = v->seq};
    strcpy(vm->info.name, c->new_name);
    vm->info.role = v->vm->info.role;
    vm->info.provisional = c->provisional;
    head_from(s, vm, v);
    if (bug("clone-of-head")) {
        struct disk *d;
        int i = 0, k = 0;
        heads_remove(s, vm);
        while ((d = next_disk(s->disks, v->vm, &i)) && k < 3)
            disk_copy(disk_slot(s->disks), d, vm, NULL);
    }
}

static void adopt(struct store *s, struct vm *from, struct vm *to)
{
    struct disk *d;
    int i = 0;
    heads_remove(s, to);
    while ((d = next_disk(s->disks, from, &i)))
        d->vm = to;
    for (int k = 0; k < VERSIONS; k++)
        if (s->versions[k].used && s->versions[k].vm == from) {
            s->versions[k].vm = to;
            i = 0;
            while ((d = next_disk(s->versions[k].disks, NULL, &i)))
                d->vm = to;
        }
    to->parent = from->parent;
    memset(from, 0, sizeof(*from));
}

/* A page that only others still show goes with it. */
static void lose_shared(struct store *s, const struct version *v)
{
    for (int k = 0; k < VERSIONS; k++)
        for (int i = 0; s->versions[k].used && i < DISKS_MAX; i++) {
            struct disk *a = &s->versions[k].disks[i], *b = &v->disks[i];
            if (&s->versions[k] != v && a->used && b->used && a->kind[0] == 2 &&
                a->serial[0] == b->serial[0])
                memset(a->data, 0, PAGE_BYTES);
        }
}

/* The same of a clone's head. */
static void lose_clones(struct store *s, const struct version *v)
{
    for (int i = 0; i < DISKS_MAX; i++)
        for (int k = 0; k < DISKS_MAX; k++) {
            struct disk *a = &s->disks[i], *b = &v->disks[k];
            if (a->used && b->used && a->vm != v->vm && a->kind[0] == 2 &&
                a->serial[0] == b->serial[0])
                memset(a->data, 0, PAGE_BYTES);
        }
}

static void versions_remove(struct store *s, const struct store_change *c)
{
    for (uint32_t i = 0; i < c->n_versions; i++) {
        struct version *v = find_version(s, c->vm, c->versions[i]);
        if (v && bug("remove-frees-shared"))
            lose_shared(s, v);
        if (v && bug("remove-takes-clones"))
            lose_clones(s, v);
        if (v && !(bug("remove-not-all") && i == 2))
            version_free(v);
    }
}

static void vm_remove(struct store *s, struct vm *vm)
{
    heads_remove(s, vm);
    for (int i = 0; i < VERSIONS; i++)
        if (s->versions[i].used && s->versions[i].vm == vm)
            version_free(&s->versions[i]);
    memset(vm, 0, sizeof(*vm));
}

static void apply_version_change(struct store *s, const struct store_change *c, uint64_t seq)
{
    struct vm *vm = find_vm(s, c->vm);
    struct version *v = find_version(s, c->vm, c->version), *made = s->versions;
    while (made < s->versions + VERSIONS && !(made->used && !made->made && made->seq == seq))
        made++;
    if (made < s->versions + VERSIONS)
        version_made(s, made);
    switch (c->kind) {
    case CHANGE_VERSION_REMOVE:
        versions_remove(s, c);
        break;
    case CHANGE_VERSION_HOLD:
        v->info.held = c->hold;
        break;
    case CHANGE_VERSION_RENAME:
        strcpy(v->info.name, c->new_name);
        break;
    case CHANGE_ROLLBACK:
        head_from(s, vm, v);
        break;
    case CHANGE_CLONE:
        clone(s, c, v);
        break;
    case CHANGE_ADOPT:
        adopt(s, vm, find_vm(s, c->new_name));
        break;
    default:
        break;
    }
}

static void apply_change(struct store *s, const struct store_change *c, uint64_t seq)
{
    struct vm *vm = find_vm(s, c->vm);
    struct disk *d = store_find_disk(s, c->vm, c->disk);
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        for (vm = s->vms; vm->used; vm++)
            ;
        vm->used = true;
        strcpy(vm->info.name, c->vm);
        vm->info.role = c->role;
        vm->info.provisional = c->provisional;
        break;
    case CHANGE_VM_COMMIT:
        vm->info.provisional = false;
        break;
    case CHANGE_VM_RENAME:
        strcpy(vm->info.name, c->new_name);
        break;
    case CHANGE_VM_REMOVE:
        vm_remove(s, vm);
        break;
    case CHANGE_DISK_ADD:
        d = disk_slot(s->disks);
        d->used = true;
        d->store = s;
        d->vm = vm;
        d->family = seq;
        strcpy(d->info.name, c->disk);
        d->info.provisional = c->provisional;
        disk_resize(d, c->size_bytes);
        break;
    case CHANGE_DISK_COMMIT:
        d->info.provisional = false;
        break;
    case CHANGE_DISK_REMOVE:
        disk_free(d);
        break;
    case CHANGE_DISK_RESIZE:
        disk_resize(d, c->size_bytes);
        for (int i = 0; i < VERSIONS && bug("version-resized"); i++)
            if (s->versions[i].made && s->versions[i].vm == vm && s->versions[i].disks[0].used &&
                s->versions[i].disks[0].info.size_bytes < c->size_bytes)
                disk_resize(&s->versions[i].disks[0], c->size_bytes);
        break;
    default:
        apply_version_change(s, c, seq);
        break;
    }
}

/* Mistakes: others see what is written to a head. */
static void share_writes(struct disk *d, uint64_t page)
{
    struct store *s = d->store;
    for (int i = 0; bug("clone-shares") && i < DISKS_MAX; i++)
        if (s->disks[i].used && s->disks[i].family == d->family && page == 3 &&
            s->disks[i].info.size_bytes == d->info.size_bytes)
            memcpy(s->disks[i].data + page * PAGE_BYTES, d->data + page * PAGE_BYTES, PAGE_BYTES);
    for (int k = 0; (bug("snap-late") || bug("version-mutable")) && k < VERSIONS; k++)
        for (int i = 0;
             s->versions[k].used && s->versions[k].made == bug("version-mutable") && i < DISKS_MAX;
             i++) {
            struct disk *o = &s->versions[k].disks[i];
            if (o->used && s->versions[k].vm == d->vm && strcmp(o->info.name, d->info.name) == 0 &&
                page < o->info.size_bytes / PAGE_BYTES) {
                memcpy(o->data + page * PAGE_BYTES, d->data + page * PAGE_BYTES, PAGE_BYTES);
                o->kind[page] = d->kind[page];
                o->serial[page] = d->serial[page];
            }
        }
}

static void apply_io(struct disk *d, uint32_t op, uint32_t flags, uint64_t offset, uint64_t length,
                     const void *data)
{
    uint64_t end = offset + length;
    if (flags >> 31)
        return; /* lost-update */
    if (bug("trim-edges") && op == STORE_TRIM)
        memset(d->data + offset, 0, length);
    for (uint64_t at = offset; at < end;) {
        uint64_t page = at / PAGE_BYTES,
                 next = (page + 1) * PAGE_BYTES < end ? (page + 1) * PAGE_BYTES : end;
        bool whole = at % PAGE_BYTES == 0 && next - at == PAGE_BYTES;
        if (op == STORE_WRITE)
            memcpy(d->data + at, (const uint8_t *)data + (at - offset), next - at);
        else if (op == STORE_ZERO || whole)
            memset(d->data + at, 0, next - at);
        if (whole && op != STORE_WRITE)
            d->kind[page] = op == STORE_ZERO && flags & STORE_NO_HOLE ? 1 : 0;
        else if (op != STORE_TRIM)
            d->kind[page] = 2;
        if (whole || op != STORE_TRIM)
            d->serial[page] = d->kind[page] ? ++d->store->serials : 0;
        share_writes(d, page);
        at = next;
    }
}

/* ---- the log -------------------------------------------------------------------------------- */

/* A version whose record was not kept. */
static void forget_unmade(struct store *s)
{
    for (int i = 0; i < VERSIONS; i++)
        if (s->versions[i].used && !s->versions[i].made)
            version_free(&s->versions[i]);
}

static void tell(struct record *r)
{
    struct store_io *io = r->io;
    struct store_change *change = r->change;
    int error = r->store->error ? ERR_READ_ONLY : 0;
    r->told = true;
    r->io = NULL;
    r->change = NULL;
    if (io) {
        io->error = error;
        io->done(io);
    } else if (change) {
        change->error = error;
        if (!error)
            apply_change(r->store, change, r->seq);
        else
            forget_unmade(r->store);
        change->done(change);
    }
}

static void sync_done(struct storage_req *req, int res);

/* Completions in log order; a sync goes out when all before it is written. */
static void advance(struct store *s)
{
    bool prefix = true;
    list_for_each_safe (l, &s->records) {
        struct record *r = container_of(l, struct record, link);
        bool early = bug("ack-early") || (bug("ack-order") && r->written);
        prefix &= r->written;
        if (r->sync && !r->synced && (prefix || bug("sync-early"))) {
            bool skip = (bug("flush-no-sync") && r->io && r->io->op == STORE_FLUSH) ||
                        (bug("fua-no-sync") && r->io && r->io->op != STORE_FLUSH);
            r->sync = false;
            if (skip) {
                r->synced = true;
            } else {
                struct record *sync = calloc(1, sizeof(*sync));
                if (!sync)
                    abort();
                sync->store = s;
                sync->req =
                    (struct storage_req){.op = STORAGE_SYNC, .file = s->file, .done = sync_done};
                sync->req.impl[0] = r;
                s->storage->submit(s->storage, &sync->req);
            }
        }
        if (!r->told && !r->sync && r->synced && (prefix || early || s->error))
            tell(r);
        if (prefix && r->told && r->written) {
            list_del(&r->link);
            free(r->bytes);
            free(r->old);
            free(r);
        }
    }
}

static void sync_done(struct storage_req *req, int res)
{
    struct record *sync = container_of(req, struct record, req), *r = req->impl[0];
    struct store *s = sync->store;
    if (res)
        s->error = res;
    r->synced = true;
    free(sync);
    advance(s);
}

static void write_done(struct storage_req *req, int res)
{
    struct record *r = container_of(req, struct record, req);
    if (res < 0)
        r->store->error = res;
    r->written = true;
    advance(r->store);
}

static struct record *record_new(struct store *s, struct header *h, const void *payload, bool sync)
{
    struct record *r = calloc(1, sizeof(*r));
    uint64_t bytes = (sizeof(*h) + h->payload + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (!r || !(r->bytes = aligned_alloc(PAGE_BYTES, bytes)))
        abort();
    memset(r->bytes, 0, bytes);
    h->seq = ++s->seq;
    h->incarnation = s->incarnation;
    h->change.done = NULL;
    memcpy(r->bytes, h, sizeof(*h));
    if (h->payload)
        memcpy(r->bytes + sizeof(*h), payload, h->payload);
    uint32_t crc = crc32c(0, r->bytes + 4, sizeof(*h) + h->payload - 4);
    memcpy(r->bytes, &crc, 4);
    r->store = s;
    r->seq = h->seq;
    r->sync = sync;
    r->synced = !sync;
    r->iov = (struct iovec){r->bytes, bytes};
    r->req = (struct storage_req){.op = STORAGE_WRITE,
                                  .file = s->file,
                                  .offset_bytes = s->at,
                                  .length_bytes = bytes,
                                  .iov = &r->iov,
                                  .n_iov = 1,
                                  .done = write_done};
    s->at += bytes;
    assert(s->at <= FILE_BYTES); /* the self-test keeps its runs short */
    list_push_back(&s->records, &r->link);
    s->storage->submit(s->storage, &r->req);
    return r;
}

/* Read one record at s->at. Returns its bytes, 0 when there is none. */
static uint64_t read_record(struct store *s, uint8_t *buf, struct header *h)
{
    uint64_t limit = FILE_BYTES - s->at;
    if (limit == 0 ||
        run_op(s->storage, STORAGE_READ, s->file, s->at, buf, PAGE_BYTES) != PAGE_BYTES)
        return 0;
    memcpy(h, buf, sizeof(*h));
    uint64_t bytes = (sizeof(*h) + (uint64_t)h->payload + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (h->seq == 0 || bytes > limit)
        return 0;
    if (run_op(s->storage, STORAGE_READ, s->file, s->at, buf, bytes) != (int)bytes)
        return 0;
    if (h->crc != crc32c(0, buf + 4, sizeof(*h) + h->payload - 4) && !bug("no-crc"))
        return 0;
    return bytes;
}

/* Is there what the change is of? With a mistake in what was logged before it may not be. */
static bool is_known(struct store *s, const struct store_change *c)
{
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        return true;
    case CHANGE_DISK_COMMIT:
    case CHANGE_DISK_REMOVE:
    case CHANGE_DISK_RESIZE:
        return store_find_disk(s, c->vm, c->disk);
    case CHANGE_VERSION_HOLD:
    case CHANGE_VERSION_RENAME:
    case CHANGE_ROLLBACK:
    case CHANGE_CLONE:
        return find_version(s, c->vm, c->version);
    case CHANGE_ADOPT:
        return find_vm(s, c->vm) && find_vm(s, c->new_name);
    default:
        return find_vm(s, c->vm);
    }
}

/* The note, or the names of the versions, stand behind the header. */
static void replay_change(struct store *s, struct header *h, char *payload)
{
    const char *names[CHANGE_MAX_VERSIONS];
    h->change.versions = names;
    h->change.note = h->payload && !bug("note-lost") ? payload : NULL;
    for (uint32_t i = 0; i < h->change.n_versions; i++) {
        names[i] = payload;
        payload += strlen(payload) + 1;
    }
    if (!is_known(s, &h->change)) {
        s->error = ERR_DAMAGED;
        return;
    }
    s->replays = true;
    prepare_change(s, &h->change, h->seq);
    apply_change(s, &h->change, h->seq);
    s->replays = false;
}

static void recover_file(struct store *s, uint8_t *buf)
{
    struct header h;
    uint64_t bytes;
    for (s->at = 0; s->at < FILE_BYTES;) {
        bytes = read_record(s, buf, &h);
        if (bytes && h.kind == RECORD_OPEN && s->at == 0) {
            s->incarnation = h.incarnation;
            s->seq = h.seq;
        } else if (bytes && h.incarnation == s->incarnation &&
                   (h.seq == s->seq + 1 || (bug("no-prefix") && h.seq > s->seq))) {
            s->seq = h.seq;
            if (h.kind == RECORD_CHANGE)
                replay_change(s, &h, (char *)buf + sizeof(h));
            else if (h.kind != STORE_FLUSH && h.disk < DISKS_MAX && s->disks[h.disk].used &&
                     h.offset + h.length <= s->disks[h.disk].info.size_bytes)
                apply_io(&s->disks[h.disk], h.kind, h.flags, h.offset, h.length, buf + sizeof(h));
        } else if (bug("no-prefix")) {
            bytes = PAGE_BYTES;
        } else {
            break;
        }
        s->at += bytes;
    }
}

static int start_file(struct store *s)
{
    struct storage_req create = {
        .op = STORAGE_CREATE, .file = ++s->file, .length_bytes = FILE_BYTES};
    struct header h = {.kind = RECORD_OPEN};
    int r = s->file && !bug("recovery-not-durable")
                ? run_op(s->storage, STORAGE_SYNC, s->file - 1, 0, NULL, 0)
                : 0;
    if (r)
        return r;
    run_op(s->storage, STORAGE_REMOVE, s->file, 0, NULL, 0);
    r = storage_run(s->storage, &create);
    if (r)
        return r;
    s->at = 0;
    s->incarnation++;
    record_new(s, &h, NULL, true);
    while (!list_empty(&s->records))
        s->storage->poll(s->storage, true);
    return s->error;
}

int store_format(struct storage *storage, const struct store_format *format)
{
    struct store s = {.storage = storage, .file = UINT32_MAX};
    bug_name = getenv("TOY_BUG");
    list_init(&s.records);
    return start_file(&s);
}

/* The file goes on from what was read so far: its OPEN record says so. */
static bool file_follows(struct store *s, uint32_t file, uint8_t *buf)
{
    struct header h;
    uint32_t old_file = s->file;
    uint64_t old_at = s->at;
    s->file = file;
    s->at = 0;
    bool follows = read_record(s, buf, &h) && h.kind == RECORD_OPEN && h.seq == s->seq + 1 &&
                   h.incarnation == s->incarnation + 1;
    s->file = old_file;
    s->at = old_at;
    return follows;
}

/* A mistake: versions show what was written after them. */
static void copy_again(struct store *s)
{
    struct disk *d;
    for (int k = 0; k < VERSIONS; k++) {
        struct version *v = &s->versions[k];
        int i = 0;
        while (v->made && v->disks[0].used && (d = next_disk(s->disks, v->vm, &i)))
            if (strcmp(v->disks[0].info.name, d->info.name) == 0) {
                disk_free(&v->disks[0]);
                disk_copy(&v->disks[0], d, v->vm, v);
                break;
            }
    }
}

static void store_free(struct store *s)
{
    for (int i = 0; i < DISKS_MAX; i++)
        disk_free(&s->disks[i]);
    for (int i = 0; i < VERSIONS; i++)
        version_free(&s->versions[i]);
    free(s);
}

static void drop_provisional(struct store *s, bool log)
{
    for (int i = 0; i < DISKS_MAX; i++) {
        struct header h = {.kind = RECORD_CHANGE, .change.kind = CHANGE_VM_REMOVE};
        if (!s->vms[i].used || !s->vms[i].info.provisional)
            continue;
        strcpy(h.change.vm, s->vms[i].info.name);
        if (log)
            record_new(s, &h, NULL, true);
        vm_remove(s, &s->vms[i]);
    }
    for (int i = 0; i < DISKS_MAX; i++) {
        struct header h = {.kind = RECORD_CHANGE, .change.kind = CHANGE_DISK_REMOVE};
        if (!s->disks[i].used || !s->disks[i].info.provisional)
            continue;
        strcpy(h.change.vm, s->disks[i].vm->info.name);
        strcpy(h.change.disk, s->disks[i].info.name);
        if (log)
            record_new(s, &h, NULL, true);
        disk_free(&s->disks[i]);
    }
}

int store_open(struct storage *storage, const struct store_config *config, struct store **ret)
{
    struct store *s = calloc(1, sizeof(*s));
    static _Alignas(PAGE_BYTES) uint8_t buf[FILE_BYTES];
    if (!s)
        abort();
    s->storage = storage;
    s->config = *config;
    s->file = UINT32_MAX;
    list_init(&s->records);
    while (file_follows(s, s->file + 1, buf)) {
        s->file++;
        recover_file(s, buf);
    }
    if (bug("snap-replayed-late"))
        copy_again(s);
    int r = s->file == UINT32_MAX ? ERR_NOT_A_STORE : start_file(s);
    drop_provisional(s, !r);
    while (!list_empty(&s->records))
        storage->poll(storage, true);
    r = r ? r : s->error;
    if (r) {
        store_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

int store_close(struct store *s)
{
    struct header h = {.kind = STORE_FLUSH};
    if (!s->error)
        record_new(s, &h, NULL, true);
    while (!list_empty(&s->records))
        s->storage->poll(s->storage, true);
    int r = s->error;
    store_free(s);
    return r;
}

/* ---- requests ------------------------------------------------------------------------------- */

static bool is_changed(const struct disk *d, const struct disk *base, uint64_t page)
{
    if (!base)
        return false;
    if (page >= base->info.size_bytes / PAGE_BYTES)
        return d->kind[page] != 0 && !bug("diff-end");
    if (bug("diff-misses-trim") && d->kind[page] == 0)
        return false;
    return d->serial[page] != base->serial[page] || (bug("diff-everything") && d->kind[page]);
}

static void extents(struct store_io *io)
{
    const struct disk *d = io->disk;
    io->n_extents = 0;
    for (uint64_t at = io->offset; at < io->offset + io->length;) {
        uint8_t kind = d->kind[at / PAGE_BYTES];
        uint64_t next = at / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES, end = io->offset + io->length;
        next = next < end ? next : end;
        struct store_extent e = {next - at, kind == 0 || (bug("extents") && kind == 1), kind < 2,
                                 is_changed(d, io->base, at / PAGE_BYTES)};
        if (io->base && !e.changed)
            e.hole = e.zero = false;
        struct store_extent *last = io->n_extents ? &io->extents[io->n_extents - 1] : NULL;
        if (last && last->hole == e.hole && last->zero == e.zero && last->changed == e.changed)
            last->length += e.length;
        else if (io->n_extents == io->max_extents)
            return;
        else
            io->extents[io->n_extents++] = e;
        at = next;
    }
}

/* A write of a page that another one in flight writes too. */
static bool shares_page(const struct store *s, const struct store_io *io)
{
    list_for_each (l, &s->records) {
        const struct store_io *other = container_of(l, struct record, link)->io;
        if (other && other->op == STORE_WRITE && other->disk == io->disk &&
            other->offset / PAGE_BYTES == io->offset / PAGE_BYTES)
            return true;
    }
    return false;
}

bool store_submit(struct store *s, struct store_io *io)
{
    struct header h = {.kind = io->op,
                       .flags = io->flags,
                       .disk = (uint32_t)(io->disk - s->disks),
                       .offset = io->offset,
                       .length = io->length};
    uint8_t *old = NULL;
    bool writes = io->op == STORE_WRITE || io->op == STORE_TRIM || io->op == STORE_ZERO;
    io->error = writes && io->disk->version && !bug("version-writable") ? -EROFS
                : io->base && io->op == STORE_EXTENTS && io->base->family != io->disk->family
                    ? ERR_UNRELATED
                    : 0;
    io->all_zero = false;
    if (io->error)
        return true;
    switch (io->op) {
    case STORE_READ:
        memcpy(io->buf, io->disk->data + io->offset, io->length);
        return true;
    case STORE_CACHE:
        return true;
    case STORE_EXTENTS:
        extents(io);
        return true;
    case STORE_WRITE:
        if (bug("lost-update") && shares_page(s, io))
            h.flags = 1u << 31;
        if (bug("snap-no-prefix")) {
            old = malloc(PAGE_BYTES);
            if (!old)
                abort();
            memcpy(old, io->disk->data + io->offset / PAGE_BYTES * PAGE_BYTES, PAGE_BYTES);
        }
        h.payload = (uint32_t)io->length;
        /* fall through */
    case STORE_TRIM:
    case STORE_ZERO:
        apply_io(io->disk, io->op, h.flags, io->offset, io->length, io->buf);
        /* fall through */
    case STORE_FLUSH:
        break;
    }
    if (s->error) {
        io->error = ERR_READ_ONLY;
        return true;
    }
    if (bug("trim-not-logged") && io->op == STORE_TRIM)
        h.length = 0;
    struct record *r = record_new(s, &h, io->buf, io->op == STORE_FLUSH || io->flags & STORE_FUA);
    r->io = io;
    r->old = old;
    return false;
}

/* ---- what versions hold --------------------------------------------------------------------- */

static bool is_named(const struct version *v, const struct store_measure *m)
{
    if (m && m->whole)
        return strcmp(v->vm->info.name, m->vm) == 0;
    for (uint32_t i = 0; m && i < m->n_versions; i++)
        if (strcmp(v->vm->info.name, m->vm) == 0 && strcmp(v->info.name, m->versions[i]) == 0)
            return true;
    return false;
}

/* Set a bit of use for every page of data of these disks: 1 named, 2 others. */
static void mark(struct disk *disks, const struct vm *vm, uint8_t *use, uint8_t bit)
{
    struct disk *d;
    int i = 0;
    while ((d = next_disk(disks, vm, &i)))
        for (uint64_t page = 0; page < d->info.size_bytes / PAGE_BYTES; page++)
            if (d->kind[page] == 2)
                use[d->serial[page]] |= bit;
}

static bool goes_whole(const struct vm *vm, const struct store_measure *m)
{
    return m->whole && !bug("measure-no-head") && strcmp(vm->info.name, m->vm) == 0;
}

/* Bytes of pages that only the named versions hold; of all pages without names. */
static uint64_t count_bytes(struct store *s, const struct store_measure *m)
{
    uint8_t *use = calloc(s->serials + 1, 1);
    uint64_t n = 0;
    if (!use)
        abort();
    for (int v = 0; v < DISKS_MAX; v++)
        if (s->vms[v].used)
            mark(s->disks, &s->vms[v], use, !m || goes_whole(&s->vms[v], m) ? 1 : 2);
    for (int k = 0; k < VERSIONS; k++)
        if (s->versions[k].used && s->versions[k].made)
            mark(s->versions[k].disks, NULL, use, !m || is_named(&s->versions[k], m) ? 1 : 2);
    for (uint64_t i = 0; i <= s->serials; i++)
        n += use[i] == 1 || (bug("measure-shared") && use[i] == 3 && i % 4 == 0);
    free(use);
    return n * PAGE_BYTES;
}

void store_measure(struct store *s, struct store_measure *measure)
{
    s->measure = measure;
}

static void measure_step(struct store *s)
{
    struct store_measure *m = s->measure;
    if (!m)
        return;
    s->measure = NULL;
    m->error = m->cancel ? -ECANCELED : find_vm(s, m->vm) ? 0 : -ENOENT;
    for (uint32_t i = 0; !m->whole && i < m->n_versions && !m->error; i++)
        if (!find_version(s, m->vm, m->versions[i]))
            m->error = ERR_NO_VERSION;
    m->bytes = m->error ? 0 : count_bytes(s, m);
    m->done(m);
}

void store_space(const struct store *s, struct store_space *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->data = count_bytes((struct store *)s, NULL) + (bug("space-leaks") && s->serials > 500);
}

bool store_dispatch(struct store *s)
{
    advance(s);
    measure_step(s);
    return false;
}

bool name_is_valid(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n && n <= NAME_MAX_CHARS && !name[n] && strcmp(name, ".") && strcmp(name, "..");
}

static bool vm_in_use(struct store *s, const struct vm *vm, bool versions)
{
    struct disk *d;
    int i = 0;
    while ((d = next_disk(s->disks, vm, &i)))
        if (d->info.users)
            return true;
    for (int k = 0; versions && k < VERSIONS; k++) {
        i = 0;
        while (s->versions[k].used && s->versions[k].vm == vm &&
               (d = next_disk(s->versions[k].disks, NULL, &i)))
            if (d->info.users)
                return true;
    }
    return false;
}

static int remove_error(struct store *s, const struct store_change *c)
{
    struct disk *d;
    for (uint32_t i = 0; i < c->n_versions; i++) {
        struct version *v = find_version(s, c->vm, c->versions[i]);
        int k = 0;
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->versions[i], c->versions[j]) == 0)
                return -EINVAL;
        if (!v)
            return ERR_NO_VERSION;
        if (v->info.held && !bug("held-ignored"))
            return ERR_HELD;
        while ((d = next_disk(v->disks, NULL, &k)))
            if (d->info.users)
                return -EBUSY;
    }
    return 0;
}

static bool is_head_of(struct store *s, const struct vm *vm, const struct version *v)
{
    struct disk *d, *e;
    int i = 0, k = 0, n = 0;
    while (next_disk(v->disks, NULL, &k))
        n++;
    while ((d = next_disk(s->disks, vm, &i))) {
        k = 0;
        while ((e = next_disk(v->disks, NULL, &k)))
            if (strcmp(d->info.name, e->info.name) == 0)
                break;
        uint64_t pages = d->info.size_bytes / PAGE_BYTES;
        if (!e || e->info.size_bytes != d->info.size_bytes || d->family != e->family ||
            memcmp(d->serial, e->serial, pages * sizeof(uint64_t)) != 0 ||
            memcmp(d->kind, e->kind, pages) != 0)
            return false;
        n--;
    }
    return n == 0;
}

static int adopt_error(struct store *s, const struct store_change *c)
{
    struct vm *clone = find_vm(s, c->vm), *vm = find_vm(s, c->new_name);
    if (!vm)
        return -ENOENT;
    struct version *from = version_by_seq(s, clone->cloned_from);
    if (!clone->info.provisional || !from || from->vm != vm)
        return -EINVAL;
    for (int k = 0; k < VERSIONS; k++)
        if (s->versions[k].used && s->versions[k].vm == clone &&
            find_version(s, c->new_name, s->versions[k].info.name))
            return -EEXIST;
    if (vm_in_use(s, vm, false))
        return -EBUSY;
    return c->hold || is_head_of(s, vm, from) || bug("adopt-stale") ? 0 : -ESTALE;
}

static int version_change_error(struct store *s, const struct store_change *c)
{
    struct version *v = find_version(s, c->vm, c->version);
    bool keeps = c->kind == CHANGE_ROLLBACK && c->new_name[0];
    if (c->kind == CHANGE_SNAP)
        return !name_is_valid(c->version) ? ERR_BAD_NAME : v ? -EEXIST : 0;
    if (c->kind == CHANGE_VERSION_REMOVE)
        return remove_error(s, c);
    if (c->kind == CHANGE_ADOPT)
        return adopt_error(s, c);
    if (!v)
        return ERR_NO_VERSION;
    if (c->kind == CHANGE_VERSION_HOLD)
        return v->info.held == c->hold ? -EALREADY : 0;
    if ((keeps || c->kind != CHANGE_ROLLBACK) && !name_is_valid(c->new_name))
        return ERR_BAD_NAME;
    if (c->kind == CHANGE_CLONE)
        return find_vm(s, c->new_name) ? -EEXIST : 0;
    if (c->new_name[0] && find_version(s, c->vm, c->new_name))
        return -EEXIST;
    return c->kind == CHANGE_ROLLBACK && vm_in_use(s, find_vm(s, c->vm), false) ? -EBUSY : 0;
}

static bool has_held(struct store *s, const struct vm *vm)
{
    for (int k = 0; k < VERSIONS; k++)
        if (s->versions[k].used && s->versions[k].vm == vm && s->versions[k].info.held)
            return true;
    return false;
}

static int change_error(struct store *s, const struct store_change *c)
{
    struct vm *vm = find_vm(s, c->vm);
    struct disk *d = store_find_disk(s, c->vm, c->disk);
    bool size_ok = c->size_bytes && c->size_bytes <= DISK_MAX_BYTES;
    if (c->kind == CHANGE_VM_CREATE)
        return !name_is_valid(c->vm) ? ERR_BAD_NAME : vm ? -EEXIST : 0;
    if (!vm)
        return -ENOENT;
    switch (c->kind) {
    case CHANGE_VM_RENAME:
        return !name_is_valid(c->new_name) ? ERR_BAD_NAME : find_vm(s, c->new_name) ? -EEXIST : 0;
    case CHANGE_VM_COMMIT:
        return vm->info.provisional ? 0 : -EEXIST;
    case CHANGE_VM_REMOVE:
        return has_held(s, vm) && !vm->info.provisional ? ERR_HELD
               : vm_in_use(s, vm, true)                 ? -EBUSY
                                                        : 0;
    case CHANGE_DISK_ADD:
        return !name_is_valid(c->disk) ? ERR_BAD_NAME : d ? -EEXIST : !size_ok ? ERR_BAD_SIZE : 0;
    case CHANGE_DISK_REMOVE:
        return !d ? -ENOENT : d->info.users ? -EBUSY : 0;
    case CHANGE_DISK_RESIZE:
        return !d ? -ENOENT : size_ok ? 0 : ERR_BAD_SIZE;
    case CHANGE_DISK_COMMIT:
        return !d ? -ENOENT : d->info.provisional ? 0 : -EEXIST;
    default:
        return version_change_error(s, c);
    }
}

/* A refusal is logged as a flush, so that done() comes later as it must. */
static void refused_done(struct store_io *io)
{
    struct store_change *c = io->buf;
    c->error = (int)io->offset;
    free(io);
    c->done(c);
}

static uint32_t change_payload(const struct store_change *c, char *to)
{
    char *at = to;
    for (uint32_t i = 0; i < c->n_versions; i++)
        at = stpcpy(at, c->versions[i]) + 1;
    if (c->note)
        at = stpcpy(at, c->note) + 1;
    return (uint32_t)(at - to);
}

void store_change(struct store *s, struct store_change *c)
{
    struct header h = {.kind = RECORD_CHANGE, .change = *c};
    int error = s->error ? ERR_READ_ONLY : change_error(s, c);
    if (!error) {
        char payload[16384];
        uint32_t len = change_payload(c, payload);
        h.payload = len;
        if ((bug("hold-not-logged") && c->kind == CHANGE_VERSION_HOLD) ||
            (bug("rename-not-logged") && c->kind == CHANGE_VERSION_RENAME))
            h.kind = STORE_FLUSH;
        record_new(s, &h, payload, !bug("snap-no-sync") || c->kind != CHANGE_SNAP)->change = c;
        prepare_change(s, c, h.seq);
        return;
    }
    struct store_io *io = calloc(1, sizeof(*io));
    if (!io)
        abort();
    *io = (struct store_io){
        .op = STORE_FLUSH, .buf = c, .offset = (uint64_t)error, .done = refused_done};
    h.kind = STORE_FLUSH;
    record_new(s, &h, NULL, false)->io = io;
}

void disk_get(struct disk *d)
{
    d->info.users++;
}

void disk_put(struct disk *d)
{
    d->info.users--;
}

bool disk_is_read_only(const struct disk *d)
{
    return d->version != NULL;
}

bool disk_is_related(const struct disk *a, const struct disk *b)
{
    return a->family == b->family;
}

uint64_t disk_size(const struct disk *d)
{
    return d->info.size_bytes;
}

/* ---- lists ---------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct vm_info *)a)->name, ((const struct vm_info *)b)->name);
}

static int by_vm_and_age(const void *a, const void *b)
{
    const struct version_info *v = a, *w = b;
    int names = strcmp(v->vm, w->vm);
    if (names == 0 && bug("list-by-name"))
        return strcmp(v->name, w->name);
    return names ? names : v->id < w->id ? -1 : v->id > w->id;
}

static void put_origin(struct store *s, uint64_t parent, char *vm, char *name)
{
    struct version *v = version_by_seq(s, parent);
    if (v && !bug("origin")) {
        strcpy(vm, v->vm->info.name);
        strcpy(name, v->info.name);
    }
}

static uint32_t list_disks(struct disk *set, const struct vm *vm, struct disk_info *to,
                           uint64_t *ret_used)
{
    struct disk *d;
    uint32_t n = 0;
    int i = 0;
    *ret_used = 0;
    while ((d = next_disk(set, vm, &i))) {
        to[n] = d->info;
        to[n].used_bytes = 0;
        for (uint64_t page = 0; page < d->info.size_bytes / PAGE_BYTES; page++)
            to[n].used_bytes += d->kind[page] ? PAGE_BYTES : 0;
        *ret_used += to[n++].used_bytes;
    }
    return n;
}

int store_list(struct store *s, struct vm_info **ret_vms, uint32_t *ret_n)
{
    struct vm_info *vms = calloc(1, DISKS_MAX * (sizeof(*vms) + sizeof(struct disk_info)));
    struct disk_info *disks = (struct disk_info *)(vms + DISKS_MAX);
    uint32_t n = 0;
    uint64_t used;
    if (!vms)
        return -ENOMEM;
    for (int v = 0; v < DISKS_MAX; v++) {
        if (!s->vms[v].used)
            continue;
        vms[n] = s->vms[v].info;
        vms[n].disks = disks;
        vms[n].n_disks = list_disks(s->disks, &s->vms[v], disks, &used);
        disks += vms[n].n_disks;
        put_origin(s, s->vms[v].parent, vms[n].origin_vm, vms[n].origin);
        for (int k = 0; k < VERSIONS; k++)
            vms[n].n_versions += s->versions[k].made && s->versions[k].vm == &s->vms[v];
        n++;
    }
    qsort(vms, n, sizeof(*vms), by_name);
    *ret_vms = vms;
    *ret_n = n;
    return 0;
}

static bool is_behind(const struct version *v, const struct version_place *place)
{
    int order = place ? strcmp(v->vm->info.name, place->vm) : 1;
    return order > 0 || (order == 0 && v->info.id > place->id - bug("list-page"));
}

int store_list_versions(struct store *s, const char *vm, const struct version_place *after,
                        bool hidden, uint32_t max, struct version_info **ret, uint32_t *ret_n)
{
    if (vm && !find_vm(s, vm))
        return -ENOENT;
    struct version_info *infos =
        calloc(1, VERSIONS * (sizeof(*infos) + 8 * sizeof(struct disk_info)));
    struct disk_info *disks = (struct disk_info *)(infos + VERSIONS);
    uint32_t n = 0;
    if (!infos)
        return -ENOMEM;
    for (int k = 0; k < VERSIONS; k++) {
        struct version *v = &s->versions[k];
        if (!v->used || !v->made || (vm && strcmp(v->vm->info.name, vm) != 0) ||
            !is_behind(v, after))
            continue;
        struct version_info *info = &infos[n++];
        *info = v->info;
        strcpy(info->vm, v->vm->info.name);
        put_origin(s, v->parent, info->origin_vm, info->origin);
        info->note = v->note;
        info->disks = disks;
        info->n_disks = list_disks(v->disks, NULL, disks, &info->used_bytes);
        info->exclusive_bytes = BYTES_UNKNOWN;
        disks += info->n_disks;
    }
    qsort(infos, n, sizeof(*infos), by_vm_and_age);
    *ret = infos;
    *ret_n = n < max ? n : max;
    return 0;
}

bool store_is_read_only(const struct store *s)
{
    return s->error != 0;
}

void store_tick(struct store *s)
{
}

uint32_t store_counters(const struct store *s, struct store_counter *ret, uint32_t max)
{
    return 0;
}

int store_check(struct store *s, struct store_check *check)
{
    check->problems = check->harmless = 0;
    check->error = 0;
    check->done(check);
    return 0;
}
