/* track-uffd.c - write tracking from outside by userfaultfd and PAGEMAP_SCAN.
 *
 * 1. The protecting scan's output is the list of written pages: the kernel finds and protects each
 *    in one step. What only the first scan found, and the second did not, was not written.
 * 2. KVM is told of each range that is protected, as a whole, and forgets its mappings of it: under
 *    KVM a first scan finds the neighbourhoods to protect. Elsewhere one scan does all, for a call
 *    costs more than what it saves.
 * 3. Both ask for PAGE_IS_WRITTEN alone: with other masks some kernels call a page clean that was
 *    written and then discarded.
 * 4. PM_SCAN_CHECK_WPASYNC: what is not registered any more is an error, never "not written". */
#include "base/cleanup.h"
#include "base/crew.h"
#include "base/mono.h"
#include "guest/linux-abi.h"
#include "guest/ram-internal.h"
#include "guest/tracker-internal.h"
#include "guest/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REGIONS     8192u /* of one call */
#define GAP_BYTES   (32u * RAM_PAGE_BYTES)
#define THREADS_MAX 4u
#define PIECE_BYTES (64ULL << 20) /* that a thread takes at a time; whole words of the bitmap */
#define PIECES_MIN  4u            /* for fewer nobody is woken */

struct own;

/* What one thread has. */
struct part {
    struct own *own;
    uint64_t start, end; /* addresses of its piece */
    uint64_t get_us, protect_us;
    int r;
    struct page_region found[REGIONS], taken[REGIONS];
};

struct own {
    const struct ram *ram;
    int fd, pagemap;
    bool kvm;
    struct crew *crew;
    struct part parts[THREADS_MAX];

    /* Of one collect: the block, cut into pieces. No word of the bitmap is in two of them. */
    const struct ram_block *block;
    uint64_t *bitmap;
    atomic_uint_fast64_t next; /* address of the next piece */
};

static int scan(const struct own *o, uint64_t start, uint64_t end, bool protect,
                struct page_region *regions, uint64_t *ret_end)
{
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = PM_SCAN_CHECK_WPASYNC | (protect ? PM_SCAN_WP_MATCHING : 0),
        .start = start,
        .end = end,
        .vec = (uint64_t)(uintptr_t)regions,
        .vec_len = REGIONS,
        .category_mask = PAGE_IS_WRITTEN,
        .return_mask = PAGE_IS_WRITTEN,
    };
    int n;

    do
        n = ioctl(o->pagemap, PAGEMAP_SCAN, &arg);
    while (n < 0 && errno == EINTR);
    *ret_end = arg.walk_end;
    return n < 0 ? -errno : n;
}

/* All written pages of a neighbourhood, protected again. */
static int take(struct part *p, uint64_t start, uint64_t end)
{
    uint64_t host = p->own->block->host;

    while (start < end) {
        int n = scan(p->own, start, end, true, p->taken, &start);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++)
            bitmap_set_range(p->own->bitmap, (p->taken[i].start - host) / RAM_PAGE_BYTES,
                             (p->taken[i].end - p->taken[i].start) / RAM_PAGE_BYTES);
    }
    return 0;
}

static int take_found(struct part *p, int n)
{
    int r = 0;

    for (int i = 0, first = 0; i < n && r == 0; i++)
        if (i + 1 == n || p->found[i + 1].start - p->found[i].end > GAP_BYTES) {
            r = take(p, p->found[first].start, p->found[i].end);
            first = i + 1;
        }
    return r;
}

/* Find, then take. *at: where to go on. */
static int find_and_take(struct part *p, uint64_t *at)
{
    uint64_t begin_us = mono_us();
    int n = scan(p->own, *at, p->end, false, p->found, at);
    uint64_t found_us = mono_us();
    int r = n < 0 ? n : take_found(p, n);

    p->get_us += found_us - begin_us;
    p->protect_us += mono_us() - found_us;
    return r;
}

static void run_piece(struct part *p)
{
    uint64_t at = p->start, begin_us = mono_us();

    while (p->own->kvm && at < p->end && p->r == 0)
        p->r = find_and_take(p, &at);
    if (!p->own->kvm) {
        p->r = take(p, at, p->end);
        p->protect_us += mono_us() - begin_us;
    }
}

/* Pieces until there are no more: who is held up does not hold up the others. */
static void run_part(void *arg, unsigned i)
{
    struct own *o = arg;
    struct part *p = &o->parts[i];
    uint64_t end = o->block->host + o->block->used_bytes;

    p->own = o;
    p->r = 0;
    p->get_us = p->protect_us = 0;
    while (p->r == 0 && (p->start = atomic_fetch_add(&o->next, PIECE_BYTES)) < end) {
        p->end = end - p->start < PIECE_BYTES ? end : p->start + PIECE_BYTES;
        run_piece(p);
    }
}

static int explain(int code, const struct ram_block *b, struct why *why)
{
    if (code == -ESRCH)
        return why_set(why, code, "QEMU has ended");
    if (code == -EPERM || code == -ENOMEM || code == -EFAULT)
        return why_set(why, -ESTALE,
                       "the memory block %s is not tracked any more; attach the machine again",
                       b->name);
    return why_set(why, code, "the written pages of the memory block %s cannot be read: %s",
                   b->name, strerror(-code));
}

static int collect_uffd(void *own, unsigned block, uint64_t *bitmap, struct tracker_times *times,
                        struct why *why)
{
    struct own *o = own;
    const struct ram_block *b = &o->ram->blocks[block];
    unsigned n = b->used_bytes < PIECES_MIN * PIECE_BYTES ? 1 : crew_size(o->crew);
    int r = 0;

    o->block = b;
    o->bitmap = bitmap;
    atomic_store(&o->next, b->host);

    crew_run(o->crew, n, run_part, o);
    for (unsigned i = 0; i < n; i++) {
        const struct part *p = &o->parts[i];
        times->get_us = p->get_us > times->get_us ? p->get_us : times->get_us;
        times->protect_us = p->protect_us > times->protect_us ? p->protect_us : times->protect_us;
        r = r < 0 ? r : p->r;
    }
    return r < 0 ? explain(r, b, why) : 0;
}

static void close_uffd(void *own, bool remove)
{
    struct own *o = own;
    struct why unused;

    if (!o)
        return;
    if (remove && o->fd >= 0) {
        for (unsigned i = 0; i < o->ram->n; i++)
            uffd_unregister(o->fd, o->ram->blocks[i].host, o->ram->blocks[i].total_bytes);
        uffd_remove(o->ram->pid, o->ram->pidfd, &unused);
    }
    if (o->fd >= 0)
        close(o->fd);
    if (o->pagemap >= 0)
        close(o->pagemap);
    crew_free(o->crew);
    free(o);
}

static int open_pagemap(struct own *o, struct why *why)
{
    struct page_region none[1];
    struct pm_scan_arg arg = {.size = sizeof(arg),
                              .vec = (uint64_t)(uintptr_t)none,
                              .vec_len = 1,
                              .category_mask = PAGE_IS_WRITTEN,
                              .return_mask = PAGE_IS_WRITTEN};
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)o->ram->pid);
    o->pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (o->pagemap < 0)
        return errno == ENOENT || errno == ESRCH
                   ? why_set(why, -ESRCH, "QEMU has ended")
                   : why_set(why, -EPERM,
                             "no right to read the page tables of process %d: %s; run varved as "
                             "root or with CAP_SYS_PTRACE",
                             (int)o->ram->pid, strerror(errno));
    if (ioctl(o->pagemap, PAGEMAP_SCAN, &arg) < 0 && (errno == ENOTTY || errno == EINVAL))
        return why_set(why, -EOPNOTSUPP,
                       "this kernel cannot list the written pages of another process "
                       "(PAGEMAP_SCAN); Linux 6.7 or later can");
    return 0;
}

static int open_uffd(const struct ram *ram, const struct tracker_options *options,
                     struct monitor *monitor, uint64_t end_us, void **ret, struct why *why)
{
    struct own *o = calloc(1, sizeof(*o));

    if (!o)
        return why_set(why, -ENOMEM, "no memory");
    o->ram = ram;
    o->fd = o->pagemap = -1;
    o->kvm = process_has_fd(ram->pid, "anon_inode:kvm-vm");
    int r = crew_new(THREADS_MAX, &o->crew);
    r = r < 0 ? why_set(why, r, "no memory") : open_pagemap(o, why);
    if (r == 0)
        r = uffd_open(ram->pid, ram->pidfd, monitor, end_us, &o->fd, NULL, why);
    for (unsigned i = 0; i < ram->n && r == 0; i++) {
        const struct ram_block *b = &ram->blocks[i];
        /* All of it: else the mapping is cut in two, and ram-find.c looks for one of its size. */
        r = uffd_register(o->fd, b->host, b->total_bytes, options->missing && b->shared, why);
        if (r == 0)
            r = uffd_protect(o->fd, b->host, b->used_bytes, why);
    }
    if (r < 0)
        close_uffd(o, false);
    else
        *ret = o;
    return r;
}

const struct tracker_ops track_uffd = {
    .name = "userfaultfd", .open = open_uffd, .collect = collect_uffd, .close = close_uffd};
