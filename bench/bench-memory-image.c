/* bench-memory-image.c - what a memory image costs on a disk in memory: a full put, commits after
 * scattered changes, reading all of it.
 *
 *     bench-memory-image [MIB [ROUNDS [READ_US]]]
 *
 * MIB of RAM (1024), of which 80 % is filled: a tenth with what does not compress, the rest with
 * text-like bytes. Then ROUNDS (11) times: 5,000 scattered pages change in 24 bytes each, are put
 * and committed. READ_US: what each read of the disk takes at least. Prints a JSON object for each
 * part.
 *
 * The disk is memory, so the time is that of the image itself; what the store adds is measured
 * where the whole is. */
#include "base/mono.h"
#include "checkpoint/fake-disk.h"
#include "model/rng.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE  4096u
#define DIRTY 5000u

static void must(int code, const char *what)
{
    if (!code)
        return;
    fprintf(stderr, "bench-memory-image: %s: %d\n", what, code);
    exit(1);
}

static uint8_t *memory(uint64_t bytes)
{
    uint8_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (m == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return m;
}

static void fill(struct rng *rng, uint8_t *ram, uint64_t pages)
{
    for (uint64_t p = 0; p < pages; p++) {
        uint8_t *page = ram + p * PAGE;
        uint64_t kind = rng_below(rng, 100);
        if (kind >= 80)
            continue;
        for (unsigned i = 0; i < PAGE; i += 8) {
            uint64_t v = rng_next(rng);
            if (kind >= 8) /* few different words, as in text and in structures */
                v = i % 64 < 40 ? 0x2065687420 + (v & 15) * 0x101 : rng_mix(v & 255);
            memcpy(page + i, &v, 8);
        }
    }
}

static void change(struct rng *rng, uint8_t *ram, uint64_t pages, uint64_t *bitmap)
{
    memset(bitmap, 0, (pages / 64 + 1) * 8);
    for (unsigned n = 0; n < DIRTY;) {
        uint64_t p = rng_below(rng, pages);
        if (bitmap[p / 64] >> p % 64 & 1)
            continue;
        bitmap[p / 64] |= 1ULL << p % 64;
        for (unsigned i = 0; i < 3; i++) {
            uint64_t v = rng_next(rng);
            memcpy(ram + p * PAGE + rng_below(rng, PAGE - 8), &v, 8);
        }
        n++;
    }
}

static void print_put(const char *name, const struct memory_put_stats *s, uint64_t put_us,
                      uint64_t commit_us, const struct memory_image *image,
                      const struct fake_disk *disk)
{
    struct memory_image_size size;

    memory_image_size(image, &size);
    printf("{\"part\": \"%s\", \"put_ms\": %.1f, \"commit_ms\": %.1f, \"pages\": %llu, \"zero\": "
           "%llu, \"delta\": %llu, \"packed\": %llu, \"plain\": %llu, \"record_kib\": %llu, "
           "\"new_kib\": %llu, \"index_kib\": %llu, \"disk_mib\": %llu, \"read_ms\": %.1f, "
           "\"code_ms\": %.1f, \"write_ms\": %.1f}\n",
           name, (double)put_us / 1e3, (double)commit_us / 1e3, (unsigned long long)s->pages,
           (unsigned long long)s->zero, (unsigned long long)s->delta, (unsigned long long)s->packed,
           (unsigned long long)s->plain, (unsigned long long)s->bytes / 1024,
           (unsigned long long)size.new_bytes / 1024, (unsigned long long)size.index_bytes / 1024,
           (unsigned long long)disk->present * PAGE >> 20, (double)s->read_us / 1e3,
           (double)s->code_us / 1e3, (double)s->write_us / 1e3);
    fflush(stdout);
}

static void put_and_commit(const char *name, struct memory_image *image, struct fake_disk *disk,
                           const uint64_t *bitmap, const uint8_t *ram)
{
    struct memory_put_stats stats = {0};
    struct memory_blob blob = {.name = "state", .data = ram, .bytes = 65536};
    uint64_t begun = mono_us();

    must(memory_image_put(image, 0, bitmap, ram, NULL, NULL, &stats), "put");
    uint64_t put = mono_us();
    must(memory_image_commit(image, &blob, 1), "commit");
    print_put(name, &stats, put - begun, mono_us() - put, image, disk);
}

struct reader {
    const struct memory_image *image;
    const uint8_t *ram;
    uint64_t from, to;
    unsigned run;
};

static void *read_pages(void *arg)
{
    const struct reader *r = arg;
    uint8_t *out = memory((uint64_t)r->run * PAGE);

    for (uint64_t p = r->from, n; p < r->to; p += n) {
        p = memory_image_next(r->image, 0, p);
        n = r->to - p < r->run ? r->to - p : r->run;
        if (p >= r->to)
            break;
        must(memory_image_read(r->image, 0, p, (unsigned)n, out), "read");
        if (memcmp(out, r->ram + p * PAGE, n * PAGE))
            must(-1, "pages differ");
    }
    munmap(out, (uint64_t)r->run * PAGE);
    return NULL;
}

static void read_all(struct memory_io *io, const uint8_t *ram, uint64_t pages, unsigned threads,
                     unsigned run)
{
    struct memory_image *image;
    struct why why;
    struct reader readers[4];
    pthread_t ids[4];
    uint64_t begun = mono_us();

    must(memory_image_open(io, false, &image, &why), "open");
    uint64_t opened = mono_us();
    for (unsigned i = 0; i < threads; i++) {
        readers[i] = (struct reader){.image = image,
                                     .ram = ram,
                                     .from = pages * i / threads,
                                     .to = pages * (i + 1) / threads,
                                     .run = run};
        must(pthread_create(&ids[i], NULL, read_pages, &readers[i]), "thread");
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    double seconds = (double)(mono_us() - opened) / 1e6;
    printf(
        "{\"part\": \"read all\", \"threads\": %u, \"run\": %u, \"open_ms\": %.1f, \"ms\": %.0f, "
        "\"mb_per_s\": %.0f}\n",
        threads, run, (double)(opened - begun) / 1e3, seconds * 1e3,
        (double)pages * PAGE / seconds / 1e6);
    memory_image_close(image);
}

int main(int argc, char **argv)
{
    uint64_t pages = (argc > 1 ? strtoull(argv[1], NULL, 0) : 1024) * 256;
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 11;
    struct fake_disk *disk = fake_disk_new(pages * 8 + (1u << 20));
    struct memory_io io = fake_disk_io(disk);
    struct memory_block block = {.name = "ram", .pages = pages, .shared = true};
    uint8_t *ram = memory(pages * PAGE);
    uint64_t *bitmap = (uint64_t *)(void *)memory((pages / 64 + 1) * 8);
    struct memory_image *image;
    struct why why;
    struct rng rng;

    rng_seed(&rng, 1);
    fill(&rng, ram, pages);
    must(memory_image_open(&io, true, &image, &why), "open");
    must(memory_image_begin(image, &block, 1), "begin");
    memset(bitmap, 0xff, pages / 8);
    put_and_commit("full", image, disk, bitmap, ram);
    disk->part_us = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : 0;
    for (unsigned i = 0; i < rounds; i++) {
        change(&rng, ram, pages, bitmap);
        put_and_commit("5,000 pages", image, disk, bitmap, ram);
    }
    memory_image_close(image);
    disk->part_us = 0;
    for (unsigned threads = 1; threads <= 4; threads *= 2)
        for (unsigned run = 64; run <= 512; run *= 8)
            read_all(&io, ram, pages, threads, run);
    fake_disk_free(disk);
    return 0;
}
