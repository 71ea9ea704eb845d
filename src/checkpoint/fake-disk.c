/* fake-disk.c - a sparse disk in memory. */
#include "checkpoint/fake-disk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE MEMORY_PAGE_BYTES

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

struct fake_disk *fake_disk_new(uint64_t n_pages)
{
    struct fake_disk *disk = must(calloc(1, sizeof(*disk)));

    disk->pages = must(calloc(n_pages, sizeof(*disk->pages)));
    disk->n_pages = n_pages;
    disk->fail_in = -1;
    pthread_mutex_init(&disk->lock, NULL);
    return disk;
}

struct fake_disk *fake_disk_copy(const struct fake_disk *disk)
{
    struct fake_disk *copy = fake_disk_new(disk->n_pages);

    for (uint64_t p = 0; p < disk->n_pages; p++)
        if (disk->pages[p])
            copy->pages[p] = memcpy(must(malloc(PAGE)), disk->pages[p], PAGE);
    copy->present = disk->present;
    return copy;
}

void fake_disk_free(struct fake_disk *disk)
{
    if (!disk)
        return;
    for (uint64_t p = 0; p < disk->n_pages; p++)
        free(disk->pages[p]);
    free(disk->pages);
    pthread_mutex_destroy(&disk->lock);
    free(disk);
}

static bool touches(const struct memory_io_part *parts, size_t n, uint64_t page)
{
    for (size_t i = 0; i < n; i++)
        if (page >= parts[i].offset / PAGE && page * PAGE < parts[i].offset + parts[i].len)
            return true;
    return false;
}

static int fake_read(void *arg, const struct memory_io_part *parts, size_t n)
{
    struct fake_disk *disk = arg;

    if (disk->fail_reads || (disk->bad_page && touches(parts, n, disk->bad_page)))
        return disk->fail_code;
    pthread_mutex_lock(&disk->lock);
    disk->reads++;
    disk->parts += n;
    for (size_t i = 0; i < n; i++)
        disk->read_bytes += parts[i].len;
    pthread_mutex_unlock(&disk->lock);
    if (disk->part_us)
        usleep((useconds_t)(disk->part_us + disk->part_us * n / 100));
    for (size_t i = 0; i < n; i++) {
        uint8_t *to = parts[i].buf;
        for (size_t done = 0, some; done < parts[i].len; done += some) {
            uint64_t at = parts[i].offset + done;
            some = PAGE - at % PAGE;
            if (some > parts[i].len - done)
                some = parts[i].len - done;
            if (at / PAGE < disk->n_pages && disk->pages[at / PAGE])
                memcpy(to + done, disk->pages[at / PAGE] + at % PAGE, some);
            else
                memset(to + done, 0, some);
        }
    }
    return 0;
}

static int may_change(struct fake_disk *disk)
{
    if (disk->fail_in == 0) {
        disk->fail_in = disk->fail_once ? -1 : 0;
        return disk->fail_code;
    }
    if (disk->fail_in > 0)
        disk->fail_in--;
    return 0;
}

static int fake_write(void *arg, uint64_t offset, const void *buf, size_t len)
{
    struct fake_disk *disk = arg;
    const uint8_t *from = buf;

    assert(offset % PAGE == 0 && len % PAGE == 0);
    pthread_mutex_lock(&disk->lock);
    int code = (offset + len) / PAGE > disk->n_pages ? -ENOSPC : may_change(disk);
    for (size_t done = 0; done < len && !code; done += PAGE) {
        uint8_t **page = &disk->pages[(offset + done) / PAGE];
        if (!*page) {
            *page = must(malloc(PAGE));
            disk->present++;
        }
        memcpy(*page, from + done, PAGE);
    }
    disk->writes++;
    disk->written_bytes += len;
    pthread_mutex_unlock(&disk->lock);
    return code;
}

static int fake_trim(void *arg, uint64_t offset, uint64_t len)
{
    struct fake_disk *disk = arg;

    assert(offset % PAGE == 0 && len % PAGE == 0 && offset + len <= MEMORY_DISK_BYTES);
    pthread_mutex_lock(&disk->lock);
    int code = may_change(disk);
    for (uint64_t p = offset / PAGE; p < (offset + len) / PAGE && p < disk->n_pages && !code; p++) {
        disk->present -= disk->pages[p] != NULL;
        free(disk->pages[p]);
        disk->pages[p] = NULL;
    }
    disk->trims++;
    pthread_mutex_unlock(&disk->lock);
    return code;
}

struct memory_io fake_disk_io(struct fake_disk *disk)
{
    return (struct memory_io){
        .read = fake_read, .write = fake_write, .trim = fake_trim, .arg = disk};
}
