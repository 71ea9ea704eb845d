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
#define DISKS_MAX  32

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
};

struct disk {
    struct store *store;
    bool used;
    struct vm *vm;
    struct disk_info info;
    uint8_t *data, *kind; /* per page: 0 hole, 1 zero, 2 data */
};

struct record {
    struct storage_req req;
    struct list link; /* store->records, in log order */
    struct store *store;
    struct store_io *io;
    struct store_change *change;
    uint8_t *bytes;
    struct iovec iov;
    bool written, sync, synced, told;
};

struct store {
    struct storage *storage;
    struct store_config config;
    struct list records;
    struct vm vms[DISKS_MAX];
    struct disk disks[DISKS_MAX];
    uint64_t seq, incarnation;
    uint32_t file;
    uint64_t at;
    int error;
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
    memset(d, 0, sizeof(*d));
}

static void disk_resize(struct disk *d, uint64_t size)
{
    uint64_t old = d->info.size_bytes;
    d->data = realloc(d->data, size);
    d->kind = realloc(d->kind, size / PAGE_BYTES);
    if (!d->data || !d->kind)
        abort();
    if (size > old) {
        memset(d->data + old, 0, size - old);
        memset(d->kind + old / PAGE_BYTES, 0, (size - old) / PAGE_BYTES);
    }
    d->info.size_bytes = size;
}

static void vm_remove(struct store *s, struct vm *vm)
{
    for (int i = 0; i < DISKS_MAX; i++)
        if (s->disks[i].used && s->disks[i].vm == vm)
            disk_free(&s->disks[i]);
    memset(vm, 0, sizeof(*vm));
}

static void apply_change(struct store *s, const struct store_change *c)
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
        for (d = s->disks; d->used; d++)
            ;
        d->used = true;
        d->store = s;
        d->vm = vm;
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
        break;
    default: /* versions: refused by change_error() */
        break;
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
        at = next;
    }
}

/* ---- the log -------------------------------------------------------------------------------- */

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
            apply_change(r->store, change);
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
                apply_change(s, &h.change);
            else if (h.kind != STORE_FLUSH && h.disk < DISKS_MAX && s->disks[h.disk].used)
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
    int r = s->file == UINT32_MAX ? ERR_NOT_A_STORE : start_file(s);
    drop_provisional(s, !r);
    while (!list_empty(&s->records))
        storage->poll(storage, true);
    r = r ? r : s->error;
    if (r) {
        for (int i = 0; i < DISKS_MAX; i++)
            disk_free(&s->disks[i]);
        free(s);
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
    for (int i = 0; i < DISKS_MAX; i++)
        disk_free(&s->disks[i]);
    free(s);
    return r;
}

/* ---- requests ------------------------------------------------------------------------------- */

static void extents(struct store_io *io)
{
    const struct disk *d = io->disk;
    io->n_extents = 0;
    for (uint64_t at = io->offset; at < io->offset + io->length;) {
        uint8_t kind = d->kind[at / PAGE_BYTES];
        uint64_t next = at / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES, end = io->offset + io->length;
        next = next < end ? next : end;
        struct store_extent e = {next - at, kind == 0 || (bug("extents") && kind == 1), kind < 2};
        struct store_extent *last = io->n_extents ? &io->extents[io->n_extents - 1] : NULL;
        if (last && last->hole == e.hole && last->zero == e.zero)
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
    io->error = 0;
    io->all_zero = false;
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
    record_new(s, &h, io->buf, io->op == STORE_FLUSH || io->flags & STORE_FUA)->io = io;
    return false;
}

bool store_dispatch(struct store *s)
{
    advance(s);
    return false;
}

bool name_is_valid(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n && n <= NAME_MAX_CHARS && !name[n] && strcmp(name, ".") && strcmp(name, "..");
}

static int change_error(struct store *s, const struct store_change *c)
{
    struct vm *vm = find_vm(s, c->vm);
    struct disk *d = store_find_disk(s, c->vm, c->disk);
    bool size_ok = c->size_bytes && c->size_bytes <= DISK_MAX_BYTES;
    switch (c->kind) {
    case CHANGE_VM_CREATE:
        return !name_is_valid(c->vm) ? ERR_BAD_NAME : vm ? -EEXIST : 0;
    case CHANGE_VM_RENAME:
        return !vm                           ? -ENOENT
               : !name_is_valid(c->new_name) ? ERR_BAD_NAME
               : find_vm(s, c->new_name)     ? -EEXIST
                                             : 0;
    case CHANGE_VM_COMMIT:
        return !vm ? -ENOENT : vm->info.provisional ? 0 : -EEXIST;
    case CHANGE_VM_REMOVE:
        return vm ? 0 : -ENOENT;
    case CHANGE_DISK_ADD:
        return !vm                       ? -ENOENT
               : !name_is_valid(c->disk) ? ERR_BAD_NAME
               : d                       ? -EEXIST
               : !size_ok                ? ERR_BAD_SIZE
                                         : 0;
    case CHANGE_DISK_REMOVE:
        return !d ? -ENOENT : d->info.users ? -EBUSY : 0;
    case CHANGE_DISK_RESIZE:
        return !d ? -ENOENT : size_ok ? 0 : ERR_BAD_SIZE;
    case CHANGE_DISK_COMMIT:
        return !d ? -ENOENT : d->info.provisional ? 0 : -EEXIST;
    default:
        return -EOPNOTSUPP;
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

void store_change(struct store *s, struct store_change *c)
{
    struct header h = {.kind = RECORD_CHANGE, .change = *c};
    int error = s->error ? ERR_READ_ONLY : change_error(s, c);
    if (!error) {
        record_new(s, &h, NULL, true)->change = c;
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

uint64_t disk_size(const struct disk *d)
{
    return d->info.size_bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct vm_info *)a)->name, ((const struct vm_info *)b)->name);
}

int store_list(struct store *s, struct vm_info **ret_vms, uint32_t *ret_n)
{
    struct vm_info *vms = calloc(1, DISKS_MAX * (sizeof(*vms) + sizeof(struct disk_info)));
    struct disk_info *disks = (struct disk_info *)(vms + DISKS_MAX);
    uint32_t n = 0;
    if (!vms)
        return -ENOMEM;
    for (int v = 0; v < DISKS_MAX; v++) {
        if (!s->vms[v].used)
            continue;
        vms[n] = s->vms[v].info;
        vms[n].disks = disks;
        vms[n].n_disks = 0;
        for (int d = 0; d < DISKS_MAX; d++)
            if (s->disks[d].used && s->disks[d].vm == &s->vms[v]) {
                *disks++ = s->disks[d].info;
                vms[n].n_disks++;
            }
        n++;
    }
    qsort(vms, n, sizeof(*vms), by_name);
    *ret_vms = vms;
    *ret_n = n;
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
