/* fake-store.c - the contract of image/store.h over plain memory: enough to run the daemon against
 * before the store itself is there. Nothing lasts but the super file. */
#include "image/store.h"

#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_VMS   64
#define MAX_DISKS 8

struct disk {
    struct store *store;
    char name[NAME_MAX_CHARS + 1];
    uint64_t size;
    uint32_t users, id;
    char *data;
    bool live;
};

struct vm {
    char name[NAME_MAX_CHARS + 1];
    bool live, provisional;
    enum vm_role role;
    struct disk disks[MAX_DISKS];
};

struct store {
    struct list changes, ios;
    struct vm vms[MAX_VMS];
    uint32_t next_id;
    uint64_t writes;
    struct store_check *check;
};

const struct store_config store_config_default = {.cache_bytes = 64 << 20, .table_bytes = 64 << 20};

static char super[4096] __attribute__((aligned(4096)));

int store_format(struct storage *storage, const struct store_format *format)
{
    struct storage_req req = {.op = STORAGE_CREATE, .file = STORAGE_SUPER, .length_bytes = 4096};
    struct iovec iov = {super, 4096};
    int r = storage_run(storage, &req);
    if (r < 0)
        return r;
    strcpy(super, "FAKE1");
    req = (struct storage_req){
        .op = STORAGE_WRITE, .file = STORAGE_SUPER, .length_bytes = 4096, .iov = &iov, .n_iov = 1};
    r = storage_run(storage, &req);
    return r < 0 ? r : 0;
}

int store_open(struct storage *storage, const struct store_config *config, struct store **ret)
{
    struct iovec iov = {super, 4096};
    struct storage_req req = {
        .op = STORAGE_READ, .file = STORAGE_SUPER, .length_bytes = 4096, .iov = &iov, .n_iov = 1};
    int r = storage_run(storage, &req);
    if (r < 0)
        return r == -ENOENT ? ERR_NOT_A_STORE : r;
    if (strcmp(super, "FAKE1"))
        return strncmp(super, "FAKE", 4) ? ERR_NOT_A_STORE : ERR_FORMAT_NEWER;
    *ret = calloc(1, sizeof(**ret));
    list_init(&(*ret)->changes);
    list_init(&(*ret)->ios);
    return 0;
}

int store_close(struct store *store)
{
    free(store);
    return 0;
}

static void do_io(struct store_io *io)
{
    struct disk *d = io->disk;
    io->error = 0;
    if (io->op != STORE_FLUSH && (io->offset > d->size || io->length > d->size - io->offset)) {
        io->error = -EINVAL;
        return;
    }
    switch (io->op) {
    case STORE_READ:
        memcpy(io->buf, d->data + io->offset, io->length);
        break;
    case STORE_WRITE:
        d->store->writes++;
        memcpy(d->data + io->offset, io->buf, io->length);
        break;
    case STORE_ZERO:
    case STORE_TRIM:
        for (uint64_t i = 0; i < io->length; i++)
            if (d->data[io->offset + i])
                d->data[io->offset + i] = 0;
        break;
    case STORE_EXTENTS: {
        uint64_t at = io->offset, end = io->offset + io->length;
        io->n_extents = 0;
        while (at < end && io->n_extents < io->max_extents) {
            bool zero = true;
            uint64_t start = at;
            for (bool first = true; at < end; first = false) {
                uint64_t n = 4096 - at % 4096 < end - at ? 4096 - at % 4096 : end - at;
                bool z = true;
                for (uint64_t i = 0; i < n && z; i++)
                    z = !d->data[at + i];
                if (first)
                    zero = z;
                else if (z != zero)
                    break;
                at += n;
            }
            io->extents[io->n_extents++] = (struct store_extent){at - start, zero, zero};
        }
        break;
    }
    default:
        break;
    }
}

bool store_submit(struct store *store, struct store_io *io)
{
    do_io(io);
    return true;
}

static struct vm *find_vm(struct store *s, const char *name)
{
    for (int i = 0; i < MAX_VMS; i++)
        if (s->vms[i].live && !strcmp(s->vms[i].name, name))
            return &s->vms[i];
    return NULL;
}

struct disk *store_find_disk(struct store *store, const char *vm, const char *disk)
{
    struct vm *v = find_vm(store, vm);
    for (int i = 0; v && i < MAX_DISKS; i++)
        if (v->disks[i].live && !strcmp(v->disks[i].name, disk))
            return &v->disks[i];
    return NULL;
}

static int apply(struct store *s, struct store_change *c)
{
    struct vm *v = find_vm(s, c->vm);
    struct disk *d = store_find_disk(s, c->vm, c->disk);
    if (c->kind == CHANGE_VM_CREATE) {
        if (v)
            return -EEXIST;
        for (int i = 0; i < MAX_VMS; i++)
            if (!s->vms[i].live) {
                s->vms[i] =
                    (struct vm){.live = true, .provisional = c->provisional, .role = c->role};
                strcpy(s->vms[i].name, c->vm);
                return 0;
            }
        return ERR_STORE_FULL;
    }
    if (!v)
        return -ENOENT;
    switch (c->kind) {
    case CHANGE_VM_COMMIT:
        v->provisional = false;
        return 0;
    case CHANGE_VM_RENAME:
        if (find_vm(s, c->new_name))
            return -EEXIST;
        strcpy(v->name, c->new_name);
        return 0;
    case CHANGE_VM_REMOVE:
        for (int i = 0; i < MAX_DISKS; i++)
            if (v->disks[i].live && v->disks[i].users)
                return -EBUSY;
        v->live = false;
        return 0;
    case CHANGE_DISK_ADD:
        if (d)
            return -EEXIST;
        for (int i = 0; i < MAX_DISKS; i++)
            if (!v->disks[i].live) {
                char *m = mmap(NULL, c->size_bytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                if (m == MAP_FAILED)
                    return -ENOMEM;
                v->disks[i] =
                    (struct disk){.live = true, .store = s, .size = c->size_bytes, .data = m};
                strcpy(v->disks[i].name, c->disk);
                return 0;
            }
        return ERR_STORE_FULL;
    case CHANGE_DISK_REMOVE:
        if (!d)
            return -ENOENT;
        if (d->users)
            return -EBUSY;
        d->live = false;
        return 0;
    case CHANGE_DISK_RESIZE:
        if (!d)
            return -ENOENT;
        d->data = mremap(d->data, d->size, c->size_bytes, MREMAP_MAYMOVE);
        d->size = c->size_bytes;
        return 0;
    default:
        return -EINVAL;
    }
}

void store_dispatch(struct store *store)
{
    struct list *l;
    while ((l = list_pop_front(&store->changes))) {
        struct store_change *c = container_of(l, struct store_change, link);
        c->error = apply(store, c);
        c->done(c);
    }
    if (store->check) {
        struct store_check *check = store->check;
        store->check = NULL;
        check->total_pages = check->checked_pages = 10;
        check->error = check->cancel ? -ECANCELED : 0;
        check->done(check);
    }
}

void store_change(struct store *store, struct store_change *change)
{
    list_push_back(&store->changes, &change->link);
}

void disk_get(struct disk *disk)
{
    disk->users++;
}

void disk_put(struct disk *disk)
{
    disk->users--;
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
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n && n <= NAME_MAX_CHARS && !name[n] && strcmp(name, ".") && strcmp(name, "..");
}

int store_list(struct store *store, struct vm_info **ret, uint32_t *ret_n)
{
    struct vm_info *out =
        calloc(1, MAX_VMS * (sizeof(*out) + MAX_DISKS * sizeof(struct disk_info)));
    struct disk_info *di = (void *)(out + MAX_VMS);
    uint32_t n = 0;
    for (int i = 0; i < MAX_VMS; i++) {
        struct vm *v = &store->vms[i];
        if (!v->live)
            continue;
        struct vm_info *o = &out[n++];
        strcpy(o->name, v->name);
        o->role = v->role;
        o->provisional = v->provisional;
        o->created_us = 1700000000000000ULL;
        o->disks = di;
        for (int d = 0; d < MAX_DISKS; d++)
            if (v->disks[d].live) {
                strcpy(di->name, v->disks[d].name);
                di->size_bytes = v->disks[d].size;
                di->users = v->disks[d].users;
                di++, o->n_disks++;
            }
    }
    *ret = out;
    *ret_n = n;
    return 0;
}

void store_space(const struct store *store, struct store_space *ret)
{
    *ret = (struct store_space){
        .capacity = 10ULL << 30, .reserve = 128 << 20, .available = 9ULL << 30};
}

uint32_t store_counters(const struct store *store, struct store_counter *ret, uint32_t max)
{
    if (max)
        ret[0] = (struct store_counter){"writes", "Writes taken.", store->writes};
    return 1;
}

bool store_is_read_only(const struct store *store)
{
    return false;
}

int store_check(struct store *store, struct store_check *check)
{
    if (store->check)
        return -EBUSY;
    store->check = check;
    return 0;
}
