/* fake-store.c - a store in memory. Pages that were never written, or were trimmed, are holes.
 *
 * A version is a copy of its disks. Whatever is written to a page gives it a stamp that no other
 * has, so pages of two disks are the same if their stamps are. */
#include "export/fake-store.h"

#include "base/err.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE_HOLE, PAGE_DATA, PAGE_ZERO /* allocated, reads as zeros */ };

struct disk {
    struct list link;
    struct store *store;
    char vm[NAME_MAX_CHARS + 1], name[NAME_MAX_CHARS + 1];
    char version[NAME_MAX_CHARS + 1]; /* "": a head */
    unsigned origin;                  /* the same in all copies */
    uint64_t size;
    uint8_t *bytes, *pages; /* the content; what each page is */
    uint64_t *stamps;       /* 0: a hole */
};

struct store {
    struct list disks, later;
    struct fake_faults faults;
    struct fake_stats stats;
    uint64_t last_stamp;
    unsigned n_disks;
};

int fake_store_create(struct store **ret)
{
    struct store *store = calloc(1, sizeof(*store));
    if (!store)
        return -ENOMEM;
    list_init(&store->disks);
    list_init(&store->later);
    store->faults.bad_page = UINT64_MAX;
    *ret = store;
    return 0;
}

static size_t stamp_bytes(uint64_t size)
{
    return (size / PAGE_BYTES + 1) * sizeof(uint64_t);
}

void fake_store_free(struct store *store)
{
    struct list *l;

    if (!store)
        return;
    assert(store->stats.users == 0 && store->stats.in_flight == 0);
    while ((l = list_pop_front(&store->disks))) {
        struct disk *disk = container_of(l, struct disk, link);
        munmap(disk->bytes, disk->size + PAGE_BYTES);
        munmap(disk->pages, disk->size / PAGE_BYTES + 1);
        munmap(disk->stamps, stamp_bytes(disk->size));
        free(disk);
    }
    free(store);
}

static struct disk *add(struct store *store, const char *vm, const char *name, uint64_t size)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

    if (!disk)
        return NULL;
    disk->bytes = mmap(NULL, size + PAGE_BYTES, prot, flags, -1, 0);
    disk->pages = mmap(NULL, size / PAGE_BYTES + 1, prot, flags, -1, 0);
    disk->stamps = mmap(NULL, stamp_bytes(size), prot, flags, -1, 0);
    if (disk->bytes == MAP_FAILED || disk->pages == MAP_FAILED || disk->stamps == MAP_FAILED) {
        free(disk);
        return NULL;
    }
    disk->store = store;
    disk->size = size;
    strncpy(disk->vm, vm, NAME_MAX_CHARS);
    strncpy(disk->name, name, NAME_MAX_CHARS);
    disk->origin = store->n_disks++;
    list_push_back(&store->disks, &disk->link);
    return disk;
}

int fake_store_add(struct store *store, const char *vm, const char *name, uint64_t size)
{
    return add(store, vm, name, size) ? 0 : -ENOMEM;
}

/* Copies of the disks of vm@version ("": of its head), as to_vm@to_version. */
static int copy_disks(struct store *store, const char *vm, const char *version, const char *to_vm,
                      const char *to_version)
{
    list_for_each (l, &store->disks) {
        const struct disk *from = container_of(l, struct disk, link);
        if (strcmp(from->vm, vm) || strcmp(from->version, version))
            continue;
        struct disk *to = add(store, to_vm, from->name, from->size);
        if (!to)
            return -ENOMEM;
        strncpy(to->version, to_version, NAME_MAX_CHARS);
        to->origin = from->origin;
        for (uint64_t p = 0; p <= from->size / PAGE_BYTES; p++) {
            if (!from->stamps[p])
                continue;
            memcpy(to->bytes + p * PAGE_BYTES, from->bytes + p * PAGE_BYTES, PAGE_BYTES);
            to->pages[p] = from->pages[p];
            to->stamps[p] = from->stamps[p];
        }
    }
    return 0;
}

int fake_store_snap(struct store *store, const char *vm, const char *version)
{
    return copy_disks(store, vm, "", vm, version);
}

int fake_store_clone(struct store *store, const char *vm, const char *version, const char *clone)
{
    return copy_disks(store, vm, version, clone, "");
}

struct fake_faults *fake_store_faults(struct store *store)
{
    return &store->faults;
}

const struct fake_stats *fake_store_stats(const struct store *store)
{
    return &store->stats;
}

/* ---- the content ---------------------------------------------------------------------------- */

static bool range_is_zero(const struct disk *disk, uint64_t at, uint64_t len)
{
    for (uint64_t page = at / PAGE_BYTES; page <= (at + len - 1) / PAGE_BYTES; page++)
        if (disk->pages[page] == PAGE_DATA)
            return false;
    return true;
}

static void fake_read(struct disk *disk, struct store_io *io)
{
    uint64_t bad = disk->store->faults.bad_page;
    uint64_t first = io->offset / PAGE_BYTES, last = (io->offset + io->length - 1) / PAGE_BYTES;

    if (bad != UINT64_MAX && bad / PAGE_BYTES >= first && bad / PAGE_BYTES <= last) {
        io->error = ERR_CHECKSUM;
        return;
    }
    if (io->flags & STORE_SKIP_ZERO && range_is_zero(disk, io->offset, io->length))
        io->all_zero = true;
    else
        memcpy(io->buf, disk->bytes + io->offset, io->length);
}

static void set_page(struct disk *disk, uint64_t page, uint8_t becomes)
{
    disk->pages[page] = becomes;
    disk->stamps[page] = becomes == PAGE_HOLE ? 0 : ++disk->store->last_stamp;
}

static void fake_write(struct disk *disk, struct store_io *io)
{
    memcpy(disk->bytes + io->offset, io->buf, io->length);
    for (uint64_t p = io->offset / PAGE_BYTES; p <= (io->offset + io->length - 1) / PAGE_BYTES; p++)
        set_page(disk, p, PAGE_DATA);
}

static void fake_clear(struct disk *disk, uint64_t at, uint64_t end, bool edges, uint8_t becomes)
{
    while (at < end) {
        uint64_t next = (at / PAGE_BYTES + 1) * PAGE_BYTES;
        uint64_t stop = next < end ? next : end;
        bool whole = at % PAGE_BYTES == 0 && (stop == next || stop == disk->size);
        if (whole || edges)
            memset(disk->bytes + at, 0, stop - at);
        if (whole)
            set_page(disk, at / PAGE_BYTES, becomes);
        else if (edges)
            set_page(disk, at / PAGE_BYTES, PAGE_DATA);
        at = stop;
    }
}

static bool is_changed(const struct disk *disk, const struct disk *base, uint64_t page)
{
    return base && disk->stamps[page] != (page * PAGE_BYTES < base->size ? base->stamps[page] : 0);
}

static void fake_extents(const struct disk *disk, struct store_io *io)
{
    uint64_t at = io->offset, end = io->offset + io->length;

    io->n_extents = 0;
    while (at < end && io->n_extents < io->max_extents) {
        uint8_t kind = disk->pages[at / PAGE_BYTES];
        bool changed = is_changed(disk, io->base, at / PAGE_BYTES);
        uint64_t stop = at;
        while (stop < end && disk->pages[stop / PAGE_BYTES] == kind &&
               is_changed(disk, io->base, stop / PAGE_BYTES) == changed)
            stop = (stop / PAGE_BYTES + 1) * PAGE_BYTES;
        if (stop > end)
            stop = end;
        io->extents[io->n_extents++] = (struct store_extent){
            .length = stop - at,
            .hole = kind == PAGE_HOLE,
            .zero = kind != PAGE_DATA,
            .changed = changed,
        };
        at = stop;
    }
}

static void run(struct store *store, struct store_io *io)
{
    struct disk *disk = io->disk;
    const struct fake_faults *faults = &store->faults;

    io->error = 0;
    io->all_zero = false;
    if (io->op == STORE_FLUSH) {
        io->error = faults->flush_error;
        return;
    }
    if (!io->length || io->offset > disk->size || io->length > disk->size - io->offset) {
        io->error = -EINVAL;
        return;
    }
    bool writes = io->op == STORE_WRITE || io->op == STORE_TRIM || io->op == STORE_ZERO;
    if (writes && disk_is_read_only(disk)) {
        io->error = -EROFS;
        return;
    }
    if (writes && faults->write_error) {
        io->error = faults->write_error;
        return;
    }
    uint64_t end = io->offset + io->length;
    switch (io->op) {
    case STORE_READ:
        fake_read(disk, io);
        break;
    case STORE_WRITE:
        fake_write(disk, io);
        break;
    case STORE_TRIM:
        fake_clear(disk, io->offset, end, false, PAGE_HOLE);
        break;
    case STORE_ZERO:
        fake_clear(disk, io->offset, end, true, io->flags & STORE_NO_HOLE ? PAGE_ZERO : PAGE_HOLE);
        break;
    case STORE_EXTENTS:
        fake_extents(disk, io);
        break;
    case STORE_CACHE:
    case STORE_FLUSH:
        break;
    }
}

/* ---- the store's interface ------------------------------------------------------------------ */

bool store_submit(struct store *store, struct store_io *io)
{
    struct fake_stats *stats = &store->stats;

    assert(io->done && io->disk && io->disk->store == store);
    assert(io->op != STORE_READ || io->length <= STORE_IO_MAX_BYTES);
    assert(io->op != STORE_WRITE || io->length <= STORE_IO_MAX_BYTES);
    stats->n_ops[io->op]++;
    assert(!io->base || (io->op == STORE_EXTENTS && disk_is_related(io->disk, io->base)));
    stats->n_with_base += io->base != NULL;
    stats->n_fua += (io->flags & STORE_FUA) != 0;
    stats->n_no_hole += (io->flags & STORE_NO_HOLE) != 0;
    stats->n_misaligned += (uintptr_t)io->buf % PAGE_BYTES != 0;
    if (!store->faults.later && !store->faults.hold) {
        run(store, io);
        return true;
    }
    if (++stats->in_flight > stats->most_in_flight)
        stats->most_in_flight = stats->in_flight;
    list_push_front(&store->later, &io->waiter.link);
    return false;
}

bool store_dispatch(struct store *store)
{
    struct list now, *l;

    if (store->faults.hold)
        return false;
    list_init(&now);
    list_splice(&now, &store->later);
    while ((l = list_pop_front(&now))) {
        struct store_io *io = container_of(l, struct store_io, waiter.link);
        store->stats.in_flight--;
        run(store, io);
        io->done(io);
    }
    return !list_empty(&store->later);
}

struct disk *store_find_version_disk(struct store *store, const char *vm, const char *version,
                                     const char *name)
{
    list_for_each (l, &store->disks) {
        struct disk *disk = container_of(l, struct disk, link);
        if (!strcmp(disk->vm, vm) && !strcmp(disk->name, name) && !strcmp(disk->version, version))
            return disk;
    }
    return NULL;
}

struct disk *store_find_disk(struct store *store, const char *vm, const char *name)
{
    return store_find_version_disk(store, vm, "", name);
}

void disk_get(struct disk *disk)
{
    disk->store->stats.users++;
}

void disk_put(struct disk *disk)
{
    disk->store->stats.users--;
}

bool disk_is_shrinking(const struct disk *disk)
{
    return false;
}

bool disk_is_read_only(const struct disk *disk)
{
    return *disk->version;
}

bool disk_is_related(const struct disk *a, const struct disk *b)
{
    return a->origin == b->origin;
}

uint64_t disk_size(const struct disk *disk)
{
    return disk->size;
}

struct store *disk_store(const struct disk *disk)
{
    return disk->store;
}

bool name_is_valid(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    return len && len <= NAME_MAX_CHARS && strcmp(name, ".") && strcmp(name, "..");
}

/* Each disk as a vm of its own: nobody here needs more. */
int store_list(struct store *store, struct vm_info **ret_vms, uint32_t *ret_n)
{
    uint32_t n = 0;
    list_for_each (l, &store->disks)
        n++;
    struct vm_info *vms = calloc(n + 1, sizeof(*vms) + sizeof(struct disk_info));
    if (!vms)
        return -ENOMEM;
    struct disk_info *disks = (struct disk_info *)(void *)(vms + n + 1);
    n = 0;
    list_for_each (d, &store->disks) {
        const struct disk *disk = container_of(d, struct disk, link);
        if (*disk->version)
            continue;
        strcpy(vms[n].name, disk->vm);
        strcpy(disks[n].name, disk->name);
        vms[n].provisional = !strncmp(disk->vm, "provisional", 11);
        vms[n].n_disks = 1;
        vms[n].disks = &disks[n];
        n++;
    }
    *ret_vms = vms;
    *ret_n = n;
    return 0;
}

/* Names alone: nobody here needs more. The disks of a version stand side by side. */
int store_list_versions(struct store *store, const char *vm, const struct version_place *after,
                        bool hidden, uint32_t max, struct version_info **ret, uint32_t *ret_n)
{
    struct version_info *versions = calloc(store->n_disks + 1, sizeof(*versions));
    uint32_t n = 0;

    if (!versions)
        return -ENOMEM;
    list_for_each (l, &store->disks) {
        const struct disk *disk = container_of(l, struct disk, link);
        if (!*disk->version || strcmp(disk->vm, vm))
            continue;
        if (n == max)
            break;
        if (n && !strcmp(versions[n - 1].name, disk->version))
            continue;
        strcpy(versions[n].vm, vm);
        strcpy(versions[n++].name, disk->version);
    }
    *ret = versions;
    *ret_n = n;
    return 0;
}
