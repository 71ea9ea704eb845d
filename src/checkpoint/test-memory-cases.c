/* test-memory-cases.c - what a random history of a memory image does not show by itself.
 *
 *     test-memory-cases [--corpus DIR]    write inputs for fuzz-memory-image into DIR */
#include "base/checksum.h"
#include "base/crc.h"
#include "base/err.h"
#include "checkpoint/fake-disk.h"
#include "checkpoint/memory-image-internal.h"
#include "model/rng.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define PAGE  4096u
#define PAGES 16384u /* 64 MiB */

struct fixture {
    struct fake_disk *disk;
    struct memory_image *image;
    struct memory_block block;
    struct rng rng;
    uint8_t *ram;
    uint64_t bitmap[PAGES / 64];
    struct memory_put_stats stats;
};

static struct memory_image *open_image(struct fake_disk *disk, bool writer)
{
    struct memory_io io = fake_disk_io(disk);
    struct memory_image *image;
    struct why why;

    assert_int_equal(memory_image_open(&io, writer, &image, &why), 0);
    return image;
}

static void fix_crc(struct memory_head *head)
{
    head->crc = 0;
    head->crc = crc32c(0, head, sizeof(*head));
}

/* Half of each page random, so that a whole record is some 2 KiB. */
static void fill_page(struct fixture *f, uint64_t page)
{
    for (unsigned i = 0; i < PAGE; i += 16) {
        uint64_t v = rng_next(&f->rng) | 1;
        memcpy(f->ram + page * PAGE + i, &v, 8);
    }
}

static void put(struct fixture *f)
{
    memset(&f->stats, 0, sizeof(f->stats));
    assert_int_equal(memory_image_put(f->image, 0, f->bitmap, f->ram, NULL, NULL, &f->stats), 0);
}

/* The same from memory that has these pages alone. */
static void put_packed(struct fixture *f)
{
    uint8_t *pages = malloc(PAGES * PAGE + 1), *at = pages;

    memset(&f->stats, 0, sizeof(f->stats));
    for (uint64_t p = 0; p < PAGES; p++)
        if (f->bitmap[p / 64] >> p % 64 & 1) {
            memcpy(at, f->ram + p * PAGE, PAGE);
            at += PAGE;
        }
    assert_int_equal(memory_image_put_packed(f->image, 0, f->bitmap, pages, NULL, NULL, &f->stats),
                     0);
    free(pages);
}

static void commit(struct fixture *f)
{
    struct memory_blob blob = {.name = "state", .data = "abc", .bytes = 3};
    assert_int_equal(memory_image_commit(f->image, &blob, 1), 0);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->disk = fake_disk_new(1u << 20);
    f->image = open_image(f->disk, true);
    f->block = (struct memory_block){.name = "ram", .pages = PAGES, .shared = true};
    f->ram = calloc(PAGES, PAGE);
    rng_seed(&f->rng, 1);
    for (uint64_t p = 0; p < PAGES; p++)
        if (p % 5)
            fill_page(f, p);
    assert_int_equal(memory_image_begin(f->image, &f->block, 1), 0);
    memset(f->bitmap, 0xff, sizeof(f->bitmap));
    put(f);
    commit(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    memory_image_close(f->image);
    fake_disk_free(f->disk);
    free(f->ram);
    free(f);
    return 0;
}

static void compare(const struct memory_image *image, const uint8_t *ram)
{
    uint8_t *out = malloc(PAGES * PAGE);

    assert_int_equal(memory_image_read(image, 0, 0, PAGES, out), 0);
    assert_int_equal(memcmp(out, ram, PAGES * PAGE), 0);
    free(out);
}

/* Pages that were taken out of a mapped file, and that there is no room for: that is told, and the
 * same from elsewhere follows. */
static void lost_pages_are_told(void **state)
{
    struct fixture *f = *state;
    int fd = memfd_create("ram", 0);

    assert_int_equal(pwrite(fd, f->ram, PAGES * PAGE, 0), PAGES * PAGE);
    uint8_t *mapped = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(mapped, MAP_FAILED);
    assert_int_equal(ftruncate(fd, (off_t)(PAGES / 2 * PAGE)), 0);
    for (uint64_t p = 0; p < PAGES; p += 3)
        fill_page(f, p);
    assert_int_equal(memory_image_put(f->image, 0, f->bitmap, mapped, NULL, NULL, &f->stats),
                     -EFAULT);
    put(f);
    commit(f);
    compare(f->image, f->ram);
    munmap(mapped, PAGES * PAGE);
    close(fd);
}

static void nothing_is_stored_of_what_is_the_same(void **state)
{
    struct fixture *f = *state;
    struct memory_image_size before, after;

    memory_image_size(f->image, &before);
    put(f);
    assert_int_equal(f->stats.same, PAGES - PAGES / 5 - 1);
    assert_int_equal(f->stats.zero, PAGES / 5 + 1);
    assert_int_equal(f->stats.bytes, 0);
    commit(f);
    memory_image_size(f->image, &after);
    assert_int_equal(after.record_bytes, before.record_bytes);
    assert_true(after.new_bytes < 2000);
    compare(f->image, f->ram);
    /* Nor of what has a delta and is as it was; what is as the whole record says loses its delta.
     */
    uint8_t old = f->ram[6 * PAGE + 9];
    memset(f->bitmap, 0, sizeof(f->bitmap));
    f->bitmap[0] = 1u << 6 | 1u << 7;
    f->ram[6 * PAGE + 9] ^= 1;
    f->ram[7 * PAGE + 1] ^= 2;
    put(f);
    assert_int_equal(f->stats.delta, 2);
    commit(f);
    put(f);
    assert_int_equal(f->stats.same, 2);
    f->ram[6 * PAGE + 9] = old;
    put(f);
    assert_int_equal(f->stats.same, 2);
    assert_int_equal(f->image->table->entries[6].delta, 0);
    assert_true(f->image->table->entries[7].delta);
    memory_image_abandon(f->image);
    assert_true(f->image->table->entries[6].delta);
    put(f);
    compare(f->image, f->ram);
}

/* Change 8 bytes in n scattered pages, and put these, by one of both ways. */
static void scatter(struct fixture *f, unsigned n)
{
    bool packed = n % 2 == 0;

    memset(f->bitmap, 0, sizeof(f->bitmap));
    while (n--) {
        uint64_t p = rng_below(&f->rng, PAGES), v = rng_next(&f->rng);
        memcpy(f->ram + p * PAGE + rng_below(&f->rng, PAGE - 8), &v, 8);
        f->bitmap[p / 64] |= 1ULL << p % 64;
    }
    packed ? put_packed(f) : put(f);
}

static void a_small_change_costs_little(void **state)
{
    struct fixture *f = *state;
    struct memory_image_size size;
    uint64_t index = 0, written = f->disk->written_bytes, records = 0;

    for (unsigned i = 0; i < 30; i++) {
        scatter(f, 300 - i % 2);
        commit(f);
        memory_image_size(f->image, &size);
        records += f->stats.bytes;
        index += size.new_bytes - f->stats.bytes;
        assert_true(size.new_bytes < 300 * PAGE / 4);
    }
    assert_true(f->disk->written_bytes - written < 30 * 300 * PAGE / 4);
    assert_true(index < records / 2);
    compare(f->image, f->ram);
    struct memory_image *reader = open_image(f->disk, false);
    compare(reader, f->ram);
    memory_image_close(reader);
}

/* Pages are written anew, a seventh of them at a time, scattered over what is there. */
static void space_comes_back(void **state)
{
    struct fixture *f = *state;
    struct memory_image_size size;

    for (unsigned i = 0; i < 60; i++) {
        memset(f->bitmap, 0, sizeof(f->bitmap));
        for (uint64_t p = 0; p < PAGES; p++) {
            if (p % 5 == 0 || rng_below(&f->rng, 7))
                continue;
            fill_page(f, p);
            f->bitmap[p / 64] |= 1ULL << p % 64;
        }
        put(f);
        commit(f);
        assert_int_equal(f->disk->present, f->image->space->held_pages + 1);
    }
    memory_image_size(f->image, &size);
    assert_true(f->disk->present * PAGE < size.record_bytes * 5 / 2);
    compare(f->image, f->ram);
    /* And where most of what stands close together goes away, the rest is put together. */
    for (uint64_t p = 0; p < PAGES; p++)
        memset(f->ram + p * PAGE, (int)(p % 255 + 1), PAGE);
    memset(f->bitmap, 0xff, sizeof(f->bitmap));
    put(f);
    commit(f);
    uint64_t full = f->disk->present;
    for (uint64_t p = 0; p < PAGES; p++)
        if (p % 8)
            memset(f->ram + p * PAGE, 0, PAGE);
    put(f);
    for (unsigned i = 0; i < 3; i++)
        commit(f);
    assert_true(f->disk->present < full / 3);
    compare(f->image, f->ram);
}

static void a_bad_base_is_replaced(void **state)
{
    struct fixture *f = *state;
    memory_loc loc = f->image->table->entries[77].whole;
    uint8_t out[PAGE];

    memory_image_close(f->image); /* who knows nothing of it from before */
    f->image = open_image(f->disk, true);
    f->disk->pages[memory_loc_offset(loc) / PAGE][memory_loc_offset(loc) % PAGE + 9] ^= 1;
    assert_int_equal(memory_image_read(f->image, 0, 77, 1, out), ERR_DAMAGED);
    memset(f->bitmap, 0, sizeof(f->bitmap));
    f->bitmap[1] = 1ULL << 13;
    put(f);
    assert_int_equal(f->stats.packed, 1);
    commit(f);
    compare(f->image, f->ram);
    /* Nor does an unreadable one hinder; what is no matter of the disk does. */
    f->disk->fail_reads = true;
    f->disk->fail_code = -EIO;
    put(f);
    assert_int_equal(f->stats.packed, 1);
    assert_int_equal(memory_image_read(f->image, 0, 78, 1, out), ERR_DAMAGED);
    f->disk->fail_code = -ENOMEM;
    assert_int_equal(memory_image_put(f->image, 0, f->bitmap, f->ram, NULL, NULL, &f->stats),
                     -ENOMEM);
}

/* A page of the disk that cannot be read makes the pages damaged that stand on it, not those that
 * are read together with it. */
static void a_bad_page_takes_no_other_with_it(void **state)
{
    struct fake_disk *disk = fake_disk_new(64);
    struct memory_image *image = open_image(disk, true);
    struct memory_block block = {.name = "ram", .pages = 2};
    struct memory_put_stats stats = {0};
    uint8_t pages[2 * PAGE], out[2 * PAGE];
    struct rng rng;

    (void)state;
    rng_seed(&rng, 1);
    for (unsigned i = 0; i < sizeof(pages); i++)
        pages[i] = (uint8_t)rng_next(&rng);
    assert_int_equal(memory_image_begin(image, &block, 1), 0);
    for (unsigned i = 0; i < 3; i++) { /* page 0, page 1, and a delta of page 0 */
        pages[0] ^= i == 2;
        assert_int_equal(memory_image_put_page(image, 0, i % 2, pages + i % 2 * PAGE, &stats), 0);
        assert_int_equal(memory_image_flush(image), 0);
    }
    assert_int_equal(stats.delta, 1);
    assert_int_equal(memory_image_commit(image, NULL, 0), 0);
    disk->fail_code = -EIO;
    disk->bad_page = memory_loc_offset(image->table->entries[1].whole) / PAGE;
    assert_true(disk->bad_page > memory_loc_offset(image->table->entries[0].whole) / PAGE + 1);
    assert_true(disk->bad_page < memory_loc_offset(image->table->entries[0].delta) / PAGE);
    assert_int_equal(memory_image_read(image, 0, 0, 1, out), 0);
    assert_int_equal(memcmp(out, pages, PAGE), 0);
    assert_int_equal(memory_image_read(image, 0, 1, 1, out), ERR_DAMAGED);
    assert_int_equal(memory_image_read(image, 0, 0, 2, out), ERR_DAMAGED);
    /* Nor is a base lost that is read together with a bad one. */
    memory_image_close(image);
    image = open_image(disk, true);
    memset(&stats, 0, sizeof(stats));
    uint64_t both = 3;
    assert_int_equal(memory_image_put(image, 0, &both, pages, NULL, NULL, &stats), 0);
    assert_int_equal(stats.delta, 1);
    assert_int_equal(stats.plain, 1);
    assert_int_equal(memory_image_read(image, 0, 0, 2, out), 0);
    assert_int_equal(memcmp(out, pages, sizeof(pages)), 0);
    memory_image_close(image);
    fake_disk_free(disk);
}

/* Records that one failed write has lost are in no commit, though all else is written. */
static void a_lost_write_is_not_committed(void **state)
{
    struct fixture *f = *state;
    struct memory_image *reader;
    uint8_t *before = memcpy(malloc(PAGES * PAGE), f->ram, PAGES * PAGE);

    scatter(f, 100);
    f->disk->fail_in = 0;
    f->disk->fail_once = true;
    f->disk->fail_code = -EIO;
    assert_int_equal(memory_image_flush(f->image), -EIO);
    assert_int_equal(memory_image_commit(f->image, NULL, 0), -EIO);
    assert_int_equal(memory_image_put(f->image, 0, f->bitmap, f->ram, NULL, NULL, &f->stats), -EIO);
    memory_image_abandon(f->image);
    compare(f->image, before);
    put(f);
    commit(f);
    reader = open_image(f->disk, false);
    compare(reader, f->ram);
    memory_image_close(reader);
    free(before);
}

/* However often it is tried. */
static void what_is_abandoned_takes_no_space(void **state)
{
    struct fixture *f = *state;
    uint64_t present = f->disk->present;
    uint8_t *before = memcpy(malloc(PAGES * PAGE), f->ram, PAGES * PAGE);

    for (unsigned i = 0; i < 3; i++) {
        for (uint64_t p = 0; p < PAGES; p++)
            fill_page(f, p);
        memset(f->bitmap, 0xff, sizeof(f->bitmap));
        put(f);
        assert_int_equal(memory_image_flush(f->image), 0);
        assert_true(f->disk->present > present + PAGES / 4);
        memory_image_abandon(f->image);
        assert_int_equal(f->disk->present, present);
    }
    compare(f->image, before);
    free(before);
}

/* Two that went on from one state wrote different pages to the same place. */
static void clones_are_told_apart(void **state)
{
    struct fixture *f = *state;
    struct fake_disk *disk = fake_disk_copy(f->disk);
    struct memory_image *image = open_image(disk, true), *back;
    struct memory_put_stats stats = {0};
    uint8_t other[PAGE];

    memcpy(other, f->ram + 6 * PAGE, PAGE);
    other[5] ^= 1;
    assert_int_equal(memory_image_put_page(image, 0, 6, other, &stats), 0);
    assert_int_equal(memory_image_commit(image, NULL, 0), 0);
    memory_image_close(f->image);
    f->image = open_image(f->disk, true);
    other[5] ^= 3;
    assert_int_equal(memory_image_put_page(f->image, 0, 6, other, &stats), 0);
    commit(f);
    back = open_image(disk, false);
    assert_int_equal(f->image->table->entries[6].delta, back->table->entries[6].delta);
    assert_false(memory_image_same(f->image, back, 0, 6));
    assert_true(memory_image_same(f->image, back, 0, 7));
    assert_true(memory_image_same(f->image, back, 0, 5)); /* zeros */
    assert_false(memory_image_same(f->image, back, 1, 5));
    memory_image_close(image);
    memory_image_close(back);
    fake_disk_free(disk);
}

static atomic_bool stop;

static void *scribble(void *arg)
{
    volatile uint8_t *ram = arg;

    for (uint64_t i = 0; !stop; i++)
        ram[i * 7919 % (512 * PAGE)] = (uint8_t)i;
    return NULL;
}

static void memory_may_change_meanwhile(void **state)
{
    struct fixture *f = *state;
    uint8_t *out = malloc(512 * PAGE);
    pthread_t thread;

    memset(f->bitmap, 0, sizeof(f->bitmap));
    memset(f->bitmap, 0xff, 512 / 8);
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, scribble, f->ram), 0);
    for (unsigned i = 0; i < 5; i++) {
        put(f);
        assert_int_equal(memory_image_read(f->image, 0, 0, 512, out), 0); /* some bytes */
    }
    stop = true;
    pthread_join(thread, NULL);
    put(f);
    commit(f);
    compare(f->image, f->ram);
    free(out);
}

/* An image that says it ends there takes no record that would not end on the disk. */
static void the_disk_has_an_end(void **state)
{
    struct fixture *f = *state;
    struct memory_head *head = (struct memory_head *)(void *)f->disk->pages[0];
    uint8_t page[PAGE];

    for (unsigned i = 0; i < PAGE; i++)
        page[i] = (uint8_t)rng_next(&f->rng);
    for (unsigned pages = 0; pages < 2; pages++) {
        memory_image_close(f->image);
        head->tail = MEMORY_DISK_BYTES - pages * PAGE; /* a plain record is more than a page */
        fix_crc(head);
        f->image = open_image(f->disk, true);
        assert_int_equal(memory_image_put_page(f->image, 0, 5, page, &f->stats), -ENOSPC);
        memory_image_abandon(f->image);
        assert_int_equal(memory_image_put_page(f->image, 0, 5, page, &f->stats), -ENOSPC);
        compare(f->image, f->ram);
    }
    /* What fits is put, and no commit finds room behind it. */
    memset(page, 1, PAGE);
    assert_int_equal(memory_image_put_page(f->image, 0, 5, page, &f->stats), 0);
    assert_true(f->image->table->entries[5].whole);
    assert_int_equal(memory_image_commit(f->image, NULL, 0), -ENOSPC);
    memory_image_abandon(f->image);
    compare(f->image, f->ram);
}

/* Zeros take next to nothing on a disk, and the more when they are read. */
static void a_blob_is_as_long_as_is_wanted(void **state)
{
    struct fixture *f = *state;
    size_t bytes = 17u << 20, got;
    uint8_t *zeros = calloc(1, bytes), *out = NULL;
    struct memory_blob blob = {.name = "machine.json", .data = zeros, .bytes = bytes};

    assert_int_equal(memory_image_commit(f->image, &blob, 1), 0);
    uint64_t reads = f->disk->reads;
    assert_int_equal(memory_image_blob(f->image, "machine.json", bytes - 1, &out, &got),
                     ERR_DAMAGED);
    assert_null(out);
    assert_int_equal(f->disk->reads, reads);
    assert_int_equal(memory_image_blob(f->image, "machine.json", bytes, &out, &got), 0);
    assert_int_equal(got, bytes);
    assert_int_equal(memcmp(out, zeros, bytes), 0);
    free(out);
    free(zeros);
}

/* An image whose index is one damaged piece, which tells of that many pages. */
static struct fake_disk *make_piece_of(uint64_t pages)
{
    struct {
        struct memory_directory d;
        struct memory_block_entry block;
        struct memory_piece base;
    } directory = {
        .d = {.blocks = 1, .base = 1},
        .block = {.pages = pages, .name = "ram"},
        .base = {.offset = PAGE, .stored = 1, .raw = MEMORY_INDEX_RAW_MAX(pages), .pages = pages}};
    struct fake_disk *disk = fake_disk_new(64);
    struct memory_head head = {
        .magic = MEMORY_MAGIC,
        .version = MEMORY_FORMAT_VERSION,
        .seq = 1,
        .tail = 2 * PAGE,
        .directory = {.offset = PAGE,
                      .stored = sizeof(directory),
                      .raw = sizeof(directory),
                      .sum = checksum_at(PAGE, &directory, sizeof(directory))}};

    fix_crc(&head);
    disk->pages[0] = memcpy(malloc(PAGE), &head, PAGE);
    disk->pages[1] = memcpy(calloc(1, PAGE), &directory, sizeof(directory));
    return disk;
}

static void a_piece_of_index_is_bounded(void **state)
{
    struct memory_image *image;
    struct why why;

    (void)state;
    for (unsigned more = 0; more < 2; more++) {
        struct fake_disk *disk = make_piece_of(MEMORY_INDEX_PIECE_PAGES + more);
        struct memory_io io = fake_disk_io(disk);
        assert_int_equal(memory_image_open(&io, false, &image, &why), ERR_DAMAGED);
        /* Page 0, the directory, and the piece only if it may be so long. */
        assert_int_equal(disk->reads, more ? 2 : 3);
        fake_disk_free(disk);
    }
}

static void a_newer_format_is_refused(void **state)
{
    struct fixture *f = *state;
    struct memory_io io = fake_disk_io(f->disk);
    struct memory_head *head = (struct memory_head *)(void *)f->disk->pages[0];
    struct memory_image *image;
    struct why why;

    head->version = 2;
    fix_crc(head);
    assert_int_equal(memory_image_open(&io, false, &image, &why), ERR_FORMAT_NEWER);
    head->version = 1;
    assert_int_equal(memory_image_open(&io, false, &image, &why), ERR_DAMAGED);
    head->incompat = 1;
    fix_crc(head);
    assert_int_equal(memory_image_open(&io, false, &image, &why), ERR_FORMAT_NEWER);
    f->disk->fail_reads = true;
    f->disk->fail_code = -EIO;
    assert_int_equal(memory_image_open(&io, false, &image, &why), -EIO);
}

static void bad_arguments_are_refused(void **state)
{
    struct fixture *f = *state;
    struct memory_image *reader = open_image(f->disk, false);
    struct memory_block block = f->block;
    struct memory_blob blob = {.data = "", .name = ""};
    char name[80];
    uint8_t page[PAGE] = {0};

    memset(name, 'n', sizeof(name) - 1);
    name[79] = 0;
    assert_int_equal(memory_image_commit(f->image, &blob, 1), -EINVAL);
    blob.name = name;
    assert_int_equal(memory_image_commit(f->image, &blob, 1), -EINVAL);
    memset(block.name, 'b', sizeof(block.name));
    assert_int_equal(memory_image_begin(f->image, &block, 1), -EINVAL);
    assert_int_equal(memory_image_begin(f->image, &block, 0), -EINVAL);
    block = (struct memory_block){.name = "x", .pages = UINT64_MAX};
    assert_int_equal(memory_image_begin(f->image, &block, 1), -EINVAL);
    assert_int_equal(memory_image_begin(reader, &f->block, 1), -EINVAL);
    assert_int_equal(memory_image_commit(reader, NULL, 0), -EINVAL);
    assert_int_equal(memory_image_put_page(reader, 0, 0, page, &f->stats), -EINVAL);
    assert_int_equal(memory_image_put_page(f->image, 0, PAGES, page, &f->stats), -EINVAL);
    assert_int_equal(memory_image_put_page(f->image, 1, 0, page, &f->stats), -EINVAL);
    assert_int_equal(memory_image_put_zeros(reader, 0, 0, 1, &f->stats), -EINVAL);
    assert_int_equal(memory_image_put_zeros(f->image, 0, 0, PAGES + 1, &f->stats), -EINVAL);
    assert_int_equal(memory_image_put_zeros(f->image, 0, 2, 1, &f->stats), -EINVAL);
    assert_int_equal(memory_image_put_zeros(f->image, 1, 0, 1, &f->stats), -EINVAL);
    assert_int_equal(memory_image_read(f->image, 0, PAGES, 1, page), -EINVAL);
    assert_int_equal(memory_image_read(f->image, 0, UINT64_MAX, 2, page), -EINVAL);
    memory_image_close(reader);
    commit(f);
}

/* ---- inputs for the fuzzer: see its head ---- */

static void write_input(const char *dir, const char *name, uint8_t mode, const uint8_t *directory,
                        size_t len, const struct fake_disk *disk, uint64_t first, uint64_t end)
{
    char path[1024];
    static const uint8_t zeros[PAGE];
    uint8_t head[3] = {mode, (uint8_t)len, (uint8_t)(len >> 8)};

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fwrite(head, 1, sizeof(head), file);
    fwrite(directory, 1, len, file);
    for (uint64_t p = first; p < end; p++)
        fwrite(disk->pages[p] ? disk->pages[p] : zeros, 1, PAGE, file);
    fclose(file);
}

static void write_inputs(const char *dir, bool plain, unsigned commits)
{
    struct fake_disk *disk = fake_disk_new(64);
    struct memory_image *image = open_image(disk, true);
    struct memory_block blocks[2] = {{.name = "pc.ram", .pages = 40, .shared = true},
                                     {.name = "vga", .pages = 3}};
    struct memory_put_stats stats = {0};
    uint8_t page[PAGE] = {0}, *raw;
    char name[64];

    image->plain = plain;
    memory_image_begin(image, blocks, 2);
    for (unsigned i = 0; i < commits; i++) {
        for (unsigned p = i; p < 40; p += 3 + i) {
            page[p * 11 % PAGE] = (uint8_t)(p + i);
            memory_image_put_page(image, 0, p, page, &stats);
        }
        struct memory_blob blob = {.name = "device-state", .data = page, .bytes = 700};
        memory_image_commit(image, &blob, 1);
    }
    const struct memory_head *head = (const struct memory_head *)(const void *)disk->pages[0];
    uint64_t end = head->tail / PAGE;
    memory_piece_read(image, &head->directory, &raw);
    for (uint8_t mode = 0; mode < 8; mode++) {
        if (commits == 1 ? mode & 1 : !(mode & 1)) /* enough of each */
            continue;
        snprintf(name, sizeof(name), "%s-%u-%u", plain ? "plain" : "packed", commits, mode);
        if (mode & 1)
            write_input(dir, name, mode, raw, head->directory.raw, disk, 1, end);
        else
            write_input(dir, name, mode, raw, 0, disk, 0, end);
    }
    free(raw);
    memory_image_close(image);
    fake_disk_free(disk);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_stored_of_what_is_the_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_small_change_costs_little, set_up, tear_down),
        cmocka_unit_test_setup_teardown(space_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_bad_base_is_replaced, set_up, tear_down),
        cmocka_unit_test(a_bad_page_takes_no_other_with_it),
        cmocka_unit_test_setup_teardown(a_lost_write_is_not_committed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_abandoned_takes_no_space, set_up, tear_down),
        cmocka_unit_test_setup_teardown(clones_are_told_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_may_change_meanwhile, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lost_pages_are_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_disk_has_an_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_blob_is_as_long_as_is_wanted, set_up, tear_down),
        cmocka_unit_test(a_piece_of_index_is_bounded),
        cmocka_unit_test_setup_teardown(a_newer_format_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_arguments_are_refused, set_up, tear_down),
    };
    if (argc > 2 && !strcmp(argv[1], "--corpus")) {
        for (unsigned commits = 1; commits <= 3; commits += 2) {
            write_inputs(argv[2], false, commits);
            write_inputs(argv[2], true, commits);
        }
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
