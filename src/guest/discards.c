/* discards.c - pages that were given back: a balloon's, by holes punched into the file.
 *
 * A page that was write-protected and is then discarded keeps the mark "not written" in the page
 * table, though it is zeros now; and when the guest reads it, it is there again with that mark. So
 * page tables do not tell. But who punches a hole modifies the file, which inotify does tell of
 * (what is written through a mapping does not), and then:
 * 1. pages that are holes now and were none are reported;
 * 2. pages that are there and full of zeros are, too: they may have been read since. Zeros cost
 *    nothing to store.
 * hugetlbfs does not tell of its holes: there all are of the second kind. From Linux 6.14 on the
 * kernel tells nothing of a memfd: there we look each time.
 * What is known to be empty, by 1 or 2, is not reported again until it was written. */
#include "base/bus-error.h"
#include "base/cleanup.h"
#include "guest/tracker-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK_PAGES 16u

struct discards {
    const struct ram *ram;
    int inotify;
    struct {
        int watch;   /* -1: nothing to watch */
        bool always; /* nothing tells of what happens to the file */
        bool modified, has_holes;
        uint64_t *empty; /* pages that were zeros at the last look and were not written since */
    } blocks[];
};

void bitmap_set_range(uint64_t *bitmap, uint64_t first, uint64_t n)
{
    for (; n && first % 64; first++, n--)
        bitmap_set(bitmap, first);
    for (; n >= 64; first += 64, n -= 64)
        bitmap[first / 64] = ~0ULL;
    for (; n; first++, n--)
        bitmap_set(bitmap, first);
}

/* Which pages of the block have nothing in the file. */
static int find_holes(const struct ram_block *b, uint64_t *holes)
{
    uint64_t base = b->file_offset, n_pages = block_pages(b), page = 0;

    memset(holes, 0, tracker_words(n_pages) * 8);
    while (page < n_pages) {
        off_t data = lseek(b->fd, (off_t)(base + page * RAM_PAGE_BYTES), SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            return -errno;
        uint64_t next = data < 0 ? n_pages : ((uint64_t)data - base) / RAM_PAGE_BYTES;
        bitmap_set_range(holes, page, (next < n_pages ? next : n_pages) - page);
        if (next >= n_pages)
            break;
        off_t hole = lseek(b->fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        page = ((uint64_t)hole - base) / RAM_PAGE_BYTES;
    }
    return 0;
}

static bool is_zero(const unsigned char *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;

    return !words[0] && !memcmp(page, page + 8, RAM_PAGE_BYTES - 8);
}

/* Does the kernel tell of a hole that is punched into a memfd? */
static bool is_memfd_silent(void)
{
    _cleanup_close_ int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    _cleanup_close_ int fd = memfd_create("varve-probe", MFD_CLOEXEC);
    char path[64], event[sizeof(struct inotify_event) + NAME_MAX + 1];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (inotify < 0 || fd < 0 || ftruncate(fd, RAM_PAGE_BYTES) < 0 ||
        inotify_add_watch(inotify, path, IN_MODIFY) < 0 ||
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, RAM_PAGE_BYTES) < 0)
        return true;
    return read(inotify, event, sizeof(event)) <= 0;
}

static bool is_memfd(const char *path)
{
    static const char memfd[] = "/memfd:";
    char name[sizeof(memfd)] = "";

    return readlink(path, name, sizeof(name) - 1) >= (ssize_t)sizeof(memfd) - 1 &&
           !strcmp(name, memfd);
}

static int watch(struct discards *d, unsigned i)
{
    const struct ram_block *b = &d->ram->blocks[i];
    char path[64];

    d->blocks[i].empty = calloc(tracker_words(block_pages(b)), 8);
    if (!d->blocks[i].empty)
        return -ENOMEM;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", b->fd);
    d->blocks[i].always = is_memfd(path) && is_memfd_silent();
    d->blocks[i].watch = inotify_add_watch(d->inotify, path, IN_MODIFY);
    return d->blocks[i].watch < 0 ? -errno : find_holes(b, d->blocks[i].empty);
}

int discards_open(const struct ram *ram, struct discards **ret, struct why *why)
{
    struct discards *d = calloc(1, sizeof(*d) + ram->n * sizeof(d->blocks[0]));
    int r = 0;

    if (!d)
        return why_set(why, -ENOMEM, "no memory");
    d->ram = ram;
    d->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (d->inotify < 0)
        r = -errno;
    for (unsigned i = 0; i < ram->n; i++) {
        d->blocks[i].watch = -1;
        if (r == 0 && ram->blocks[i].shared)
            r = watch(d, i);
    }
    if (r < 0) {
        discards_close(d);
        return why_set(why, r, "cannot watch a file of the machine's memory: %s%s", strerror(-r),
                       r == -ENOSPC || r == -EMFILE ? "; see /proc/sys/fs/inotify" : "");
    }
    *ret = d;
    return 0;
}

void discards_close(struct discards *d)
{
    if (!d)
        return;
    for (unsigned i = 0; i < d->ram->n; i++)
        free(d->blocks[i].empty);
    if (d->inotify >= 0)
        close(d->inotify);
    free(d);
}

static void read_events(struct discards *d)
{
    _Alignas(struct inotify_event) char buf[4096];
    ssize_t n;

    while ((n = read(d->inotify, buf, sizeof(buf))) > 0)
        for (char *at = buf; at < buf + n;) {
            const struct inotify_event *event = (const void *)at;
            for (unsigned i = 0; i < d->ram->n; i++)
                if (event->mask & IN_Q_OVERFLOW || event->wd == d->blocks[i].watch)
                    d->blocks[i].modified = d->blocks[i].watch >= 0;
            at += sizeof(*event) + event->len;
        }
}

struct zeros {
    const struct ram *ram;
    unsigned block;
    uint64_t *empty, *bitmap;
    volatile uint64_t next; /* page */
    int error;
};

static void report_zero(struct zeros *z, uint64_t page)
{
    bitmap_set(z->bitmap, page);
    bitmap_set(z->empty, page);
}

static void look_for_zeros(void *arg)
{
    struct zeros *z = arg;
    const struct ram_block *b = &z->ram->blocks[z->block];
    _Alignas(8) unsigned char chunk[CHUNK_PAGES * RAM_PAGE_BYTES]; /* of what is not mapped */
    uint64_t n_pages = block_pages(b);

    for (uint64_t i = z->next; i < n_pages && z->error == 0; z->next = ++i) {
        uint64_t at = i % CHUNK_PAGES * RAM_PAGE_BYTES;
        if (!b->memory && i % CHUNK_PAGES == 0) /* a huge page is whole */
            z->error = ram_read(z->ram, z->block, i * RAM_PAGE_BYTES, chunk, sizeof(chunk));
        if (z->error == 0 && !bitmap_has(z->empty, i) && !bitmap_has(z->bitmap, i) &&
            is_zero(b->memory ? b->memory + i * RAM_PAGE_BYTES : chunk + at))
            report_zero(z, i);
    }
}

/* Pages that are zeros though they are no holes and were not reported yet; they are set in empty,
 * too. One that has become a hole meanwhile cannot be had through the mapping where the file system
 * is full: the file says what it is. */
static int report_zeros(const struct ram *ram, unsigned block, uint64_t *empty, uint64_t *bitmap)
{
    struct zeros z = {.ram = ram, .block = block, .empty = empty, .bitmap = bitmap};
    _Alignas(8) unsigned char page[RAM_PAGE_BYTES];

    while (z.error == 0 && !bus_error_guard(look_for_zeros, &z)) {
        z.error = ram_read(ram, block, z.next * RAM_PAGE_BYTES, page, sizeof(page));
        if (z.error == 0 && is_zero(page))
            report_zero(&z, z.next);
        z.next = z.next + 1;
    }
    return z.error;
}

static int report(struct discards *d, unsigned block, uint64_t *bitmap)
{
    const struct ram_block *b = &d->ram->blocks[block];
    uint64_t *empty = d->blocks[block].empty, n_words = tracker_words(block_pages(b));
    _cleanup_free_ uint64_t *now = calloc(n_words, 8);

    if (!now)
        return -ENOMEM;
    int r = find_holes(b, now);
    if (r < 0)
        return r;
    for (uint64_t w = 0; w < n_words; w++) {
        bitmap[w] |= now[w] & ~empty[w];
        d->blocks[block].has_holes |= (bitmap[w] & now[w]) != 0;
        empty[w] |= now[w];
    }
    return report_zeros(d->ram, block, empty, bitmap);
}

int discards_collect(struct discards *d, unsigned block, uint64_t *bitmap, struct why *why)
{
    uint64_t *empty = d->blocks[block].empty;
    uint64_t n_words = empty ? tracker_words(block_pages(&d->ram->blocks[block])) : 0;

    for (uint64_t w = 0; w < n_words; w++)
        empty[w] &= ~bitmap[w];
    d->blocks[block].has_holes = false;
    read_events(d);
    if (!d->blocks[block].modified && !d->blocks[block].always)
        return 0;
    d->blocks[block].modified = false; /* before we look: what comes now is for the next time */
    int r = report(d, block, bitmap);
    if (r < 0)
        d->blocks[block].modified = true;
    return r < 0 ? why_set(why, r, "cannot look for discarded pages: %s", strerror(-r)) : 0;
}

bool discards_has_holes(const struct discards *d, unsigned block)
{
    return d->blocks[block].has_holes;
}
