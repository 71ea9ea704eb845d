/* track-soft.c - the kernel's soft-dirty bits: bit 55 of /proc/PID/pagemap, cleared for the whole
 * process by writing 4 to /proc/PID/clear_refs.
 *
 * Reading and clearing are two steps, and a page written between them is lost: nothing may write
 * meanwhile. As clearing is for all blocks at once, the first collect() after one that cleared
 * reads all blocks, clears, and keeps the bits of the others for their own collect(). */
#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/tracker-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SOFT_DIRTY   (1ULL << 55)
#define ENTRIES      65536u
#define CLEAR_SOFT   "4"
#define PAGEMAP_ITEM sizeof(uint64_t)

struct own {
    const struct ram *ram;
    int pagemap, clear_refs;
    uint64_t entries[ENTRIES];
    struct {
        uint64_t *bits;
        bool fresh; /* read since its last collect() */
    } blocks[];
};

static int clear(int fd)
{
    return pwrite(fd, CLEAR_SOFT, 1, 0) == 1 ? 0 : -errno;
}

static int open_of(pid_t pid, const char *name, int flags)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Where the kernel has none the bit reads as 0 always: try it on a page of our own. */
static int probe(struct why *why)
{
    _cleanup_close_ int pagemap = open_of(getpid(), "pagemap", O_RDONLY);
    _cleanup_close_ int clear_refs = open_of(getpid(), "clear_refs", O_WRONLY);
    uint64_t before = 0, after = 0;
    bool read = false;

    unsigned char *page =
        mmap(NULL, RAM_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return why_set(why, -ENOMEM, "no memory");
    off_t at = (off_t)((uintptr_t)page / RAM_PAGE_BYTES * PAGEMAP_ITEM);
    page[0] = 1;
    if (pagemap >= 0 && clear_refs >= 0 && clear(clear_refs) == 0) {
        read = pread(pagemap, &before, sizeof(before), at) == sizeof(before);
        *(volatile unsigned char *)page = 2;
        read = read && pread(pagemap, &after, sizeof(after), at) == sizeof(after);
    }
    munmap(page, RAM_PAGE_BYTES);
    if (read && !(before & SOFT_DIRTY) && after & SOFT_DIRTY)
        return 0;
    return why_set(why, -EOPNOTSUPP, "this kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
}

/* The bits of all blocks, on top of those not asked for yet; then forget them in the kernel. */
static int read_all(struct own *o)
{
    for (unsigned i = 0; i < o->ram->n; i++) {
        const struct ram_block *b = &o->ram->blocks[i];
        uint64_t n_pages = block_pages(b);
        for (uint64_t page = 0; page < n_pages;) {
            uint64_t n = n_pages - page < ENTRIES ? n_pages - page : ENTRIES;
            off_t at = (off_t)((b->host / RAM_PAGE_BYTES + page) * PAGEMAP_ITEM);
            if (pread(o->pagemap, o->entries, n * PAGEMAP_ITEM, at) != (ssize_t)(n * PAGEMAP_ITEM))
                return -ESRCH;
            for (uint64_t j = 0; j < n; j++)
                if (o->entries[j] & SOFT_DIRTY)
                    bitmap_set(o->blocks[i].bits, page + j);
            page += n;
        }
        o->blocks[i].fresh = true;
    }
    return clear(o->clear_refs);
}

static int explain(int r, struct why *why)
{
    return r == -ESRCH ? why_set(why, r, "QEMU has ended")
                       : why_set(why, r, "QEMU's soft-dirty bits cannot be read: %s", strerror(-r));
}

static int collect_soft(void *own, unsigned block, uint64_t *bitmap, struct tracker_times *times,
                        struct why *why)
{
    struct own *o = own;
    uint64_t begin_us = mono_us(), n_words = tracker_words(block_pages(&o->ram->blocks[block]));
    int r = o->blocks[block].fresh ? 0 : read_all(o);

    if (r == 0) {
        for (uint64_t w = 0; w < n_words; w++)
            bitmap[w] |= o->blocks[block].bits[w];
        memset(o->blocks[block].bits, 0, n_words * 8);
        o->blocks[block].fresh = false;
    }
    times->get_us += mono_us() - begin_us;
    return r < 0 ? explain(r, why) : 0;
}

static void close_soft(void *own, bool remove)
{
    struct own *o = own;

    if (!o)
        return;
    for (unsigned i = 0; i < o->ram->n; i++)
        free(o->blocks[i].bits);
    if (o->pagemap >= 0)
        close(o->pagemap);
    if (o->clear_refs >= 0)
        close(o->clear_refs);
    free(o);
}

static int open_soft(const struct ram *ram, const struct tracker_options *options,
                     struct monitor *monitor, uint64_t end_us, void **ret, struct why *why)
{
    int r = probe(why);

    if (r < 0)
        return r;
    struct own *o = calloc(1, sizeof(*o) + ram->n * sizeof(o->blocks[0]));
    if (!o)
        return why_set(why, -ENOMEM, "no memory");
    o->ram = ram;
    o->pagemap = open_of(ram->pid, "pagemap", O_RDONLY);
    o->clear_refs = open_of(ram->pid, "clear_refs", O_WRONLY);
    r = o->pagemap < 0 ? o->pagemap : o->clear_refs < 0 ? o->clear_refs : 0;
    for (unsigned i = 0; i < ram->n && r == 0; i++) {
        o->blocks[i].bits = calloc(tracker_words(block_pages(&ram->blocks[i])), 8);
        r = o->blocks[i].bits ? 0 : -ENOMEM;
    }
    if (r == 0)
        r = clear(o->clear_refs);
    if (r < 0) {
        close_soft(o, true);
        return explain(r, why);
    }
    *ret = o;
    return 0;
}

const struct tracker_ops track_soft = {.name = "soft-dirty",
                                       .needs_stop = true,
                                       .open = open_soft,
                                       .collect = collect_soft,
                                       .close = close_soft};
