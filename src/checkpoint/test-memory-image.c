/* test-memory-image.c - a memory image beside a plain model, on a disk in memory.
 *
 *     test-memory-image [RUNS [SEED]]    that many random histories; run i is made from SEED + i
 *
 * A history: pages change and are put, alone and many at once; commits, abandons, flushes; the
 * writer dies, with or without a failing disk; the disk goes back to an older state; blocks change.
 * After each commit a copy of the disk is a version. Shown: each version reads as the model was,
 * by new readers at any time; what is on the disk is what the image holds, to the page; damage
 * gives ERR_DAMAGED and no wrong page; same() never says so of pages that differ. */
#include "base/err.h"
#include "checkpoint/fake-disk.h"
#include "checkpoint/memory-image-internal.h"
#include "checkpoint/page-shapes.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define PAGE       4096u
#define MAX_BLOCKS 3u
#define MAX_PAGES  1200u /* of a block: several slices */
#define DISK_PAGES 65536u
#define VERSIONS   4u

static uint64_t n_runs = 60, first_seed = 1;

/* What memory is, block by block. */
struct model {
    struct memory_block blocks[MAX_BLOCKS];
    unsigned n_blocks; /* 0: nothing was committed */
    uint8_t *memory[MAX_BLOCKS];
    uint8_t blob[3000];
    size_t blob_bytes;
};

struct version {
    struct fake_disk *disk;
    struct model model;
};

struct run {
    uint64_t seed;
    struct rng rng;
    struct fake_disk *disk;
    struct memory_image *image;
    struct model now, committed;
    struct version versions[VERSIONS];
    struct memory_put_stats stats;
    uint64_t commits, crashes, cleaned;
};

static void fail_run(const struct run *run, const char *what, int code)
{
    fail_msg("seed %llu, commit %llu: %s (%d, %s)", (unsigned long long)run->seed,
             (unsigned long long)run->commits, what, code, err_text(code));
}

#define WANT(run, condition, what, code)                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_run(run, what, code);                                                             \
    } while (0)

static void model_free(struct model *m)
{
    for (unsigned b = 0; b < MAX_BLOCKS; b++)
        free(m->memory[b]);
    memset(m, 0, sizeof(*m));
}

static void model_copy(struct model *to, const struct model *from)
{
    model_free(to);
    *to = *from;
    for (unsigned b = 0; b < MAX_BLOCKS; b++)
        to->memory[b] = NULL;
    for (unsigned b = 0; b < from->n_blocks; b++) {
        size_t bytes = from->blocks[b].pages * PAGE;
        to->memory[b] = memcpy(malloc(bytes), from->memory[b], bytes);
    }
}

/* ---- comparing ---- */

static bool is_zero_from(const uint8_t *memory, uint64_t from, uint64_t to)
{
    for (uint64_t p = from; p < to; p++)
        if (!page_is_zero(memory + p * PAGE))
            return false;
    return true;
}

/* Every page and blob of an image; damaged: some may be ERR_DAMAGED. */
static void compare(struct run *run, const struct memory_image *image, const struct model *m,
                    bool damaged)
{
    static uint8_t out[300 * PAGE];
    const struct memory_block *blocks;
    uint8_t *blob = NULL;
    size_t len = 0;

    WANT(run, memory_image_blocks(image, &blocks) == m->n_blocks, "number of blocks", 0);
    for (unsigned b = 0; b < m->n_blocks; b++) {
        WANT(run, !memcmp(&blocks[b], &m->blocks[b], sizeof(blocks[b])), "a block", 0);
        for (uint64_t p = 0, n; p < blocks[b].pages; p += n) {
            n = rng_range(&run->rng, 1, rng_percent(&run->rng, 80) ? 64 : 300);
            if (n > blocks[b].pages - p)
                n = blocks[b].pages - p;
            int code = memory_image_read(image, b, p, (unsigned)n, out);
            if (damaged && code == ERR_DAMAGED)
                continue;
            WANT(run, !code, "read", code);
            WANT(run, !memcmp(out, m->memory[b] + p * PAGE, n * PAGE), "pages differ", (int)p);
        }
        for (uint64_t p = 0, at; p < blocks[b].pages; p = at + 1) {
            at = memory_image_next(image, b, p);
            WANT(run, at <= blocks[b].pages && is_zero_from(m->memory[b], p, at), "next", 0);
        }
        WANT(run, memory_image_next(image, b, blocks[b].pages + 7) == blocks[b].pages, "end", 0);
    }
    if (!m->n_blocks)
        return;
    int code = memory_image_blob(image, "state", m->blob_bytes, &blob, &len);
    if (!damaged || code != ERR_DAMAGED) {
        WANT(run, !code && len == m->blob_bytes && !memcmp(blob, m->blob, len), "blob", code);
        free(blob);
    }
    WANT(run, memory_image_blob(image, "stat", SIZE_MAX, &blob, &len) == -ENOENT,
         "a blob of no name", 0);
}

static void check_version(struct run *run, const struct version *v)
{
    struct memory_io io = fake_disk_io(v->disk);
    struct memory_image *image;
    struct why why;
    int code = memory_image_open(&io, rng_percent(&run->rng, 20), &image, &why);

    WANT(run, !code, "open a version", code);
    compare(run, image, &v->model, false);
    /* What both say of the pages that they share. */
    for (unsigned b = 0; b < v->model.n_blocks && b < run->now.n_blocks; b++)
        for (uint64_t p = 0; p < v->model.blocks[b].pages && p < run->now.blocks[b].pages; p++)
            if (memory_image_same(run->image, image, b, p))
                WANT(run,
                     !memcmp(v->model.memory[b] + p * PAGE, run->now.memory[b] + p * PAGE, PAGE),
                     "same, but differ", (int)p);
    for (unsigned b = 0; b < v->model.n_blocks && b < run->now.n_blocks; b++)
        for (uint64_t p = 0; p < v->model.blocks[b].pages && p < run->now.blocks[b].pages;) {
            uint64_t next = memory_image_next_unlike(run->image, b, image, b, p);
            for (; p < next; p++)
                WANT(run, memory_image_same(run->image, image, b, p), "passed over", (int)p);
            WANT(run,
                 p >= v->model.blocks[b].pages || p >= run->now.blocks[b].pages ||
                     !memory_image_same(run->image, image, b, p),
                 "told, and the same", (int)p);
            p++;
        }
    memory_image_close(image);
}

static void damage_version(struct run *run, const struct version *v)
{
    struct fake_disk *copy = fake_disk_copy(v->disk);
    struct memory_io io = fake_disk_io(copy);
    struct memory_image *image;
    struct why why;
    uint64_t page;

    for (uint64_t n = rng_range(&run->rng, 1, 3); n; n--) {
        do /* any page, page 0 and the last ones more often */
            page = rng_percent(&run->rng, 10) ? 0 : rng_below(&run->rng, DISK_PAGES);
        while (!copy->pages[page]);
        if (rng_percent(&run->rng, 20))
            memset(copy->pages[page], 0, PAGE); /* as if it had never been written */
        else
            copy->pages[page][rng_below(&run->rng, PAGE)] ^=
                (uint8_t)(1u << rng_below(&run->rng, 8));
    }
    int code = memory_image_open(&io, rng_percent(&run->rng, 50), &image, &why);
    bool gone = !copy->pages[0] || page_is_zero(copy->pages[0]);
    if (!code && gone) {
        const struct memory_block *blocks;
        WANT(run, memory_image_blocks(image, &blocks) == 0, "blocks of nothing", 0);
    } else if (!code) {
        compare(run, image, &v->model, true);
    } else {
        WANT(run, code == ERR_DAMAGED, "open a damaged one", code);
    }
    if (!code)
        memory_image_close(image);
    fake_disk_free(copy);
}

/* ---- the steps of a history ---- */

static void open_writer(struct run *run)
{
    struct memory_io io = fake_disk_io(run->disk);
    struct why why;
    int code = memory_image_open(&io, true, &run->image, &why);

    WANT(run, !code, "open", code);
    run->image->plain = rng_percent(&run->rng, 20);
    compare(run, run->image, &run->committed, false);
}

static void make_blocks(struct run *run)
{
    struct model *m = &run->now;

    model_free(m);
    m->n_blocks = (unsigned)rng_range(&run->rng, 1, MAX_BLOCKS);
    for (unsigned b = 0; b < m->n_blocks; b++) {
        snprintf(m->blocks[b].name, sizeof(m->blocks[b].name), "/objects/ram%u", b);
        m->blocks[b].pages = rng_range(&run->rng, 1, rng_percent(&run->rng, 30) ? 70 : MAX_PAGES);
        m->blocks[b].shared = rng_percent(&run->rng, 50);
        m->memory[b] = calloc(m->blocks[b].pages, PAGE);
    }
}

static void begin(struct run *run, bool other)
{
    if (other || !run->now.n_blocks)
        make_blocks(run);
    int code = memory_image_begin(run->image, run->now.blocks, run->now.n_blocks);
    WANT(run, !code, "begin", code);
}

static void change_page(struct run *run, uint8_t *page)
{
    static uint8_t base[PAGE];

    switch (rng_below(&run->rng, 8)) {
    case 0:
        memset(page, 0, PAGE);
        break;
    case 1:
    case 2:
        page_shape(&run->rng, (unsigned)rng_below(&run->rng, PAGE_SHAPES), base, page);
        break;
    case 3: /* not at all */
        break;
    default:
        for (uint64_t n = rng_range(&run->rng, 1, 40); n; n--)
            page[rng_below(&run->rng, PAGE)] = (uint8_t)rng_next(&run->rng);
    }
}

/* Change some pages and put them. Returns put()'s code. */
static int change_and_put(struct run *run)
{
    uint64_t bitmap[MAX_PAGES / 64 + 1] = {0}, n = 0;
    unsigned b = (unsigned)rng_below(&run->rng, run->now.n_blocks);
    uint64_t pages = run->now.blocks[b].pages;
    unsigned percent = (unsigned)rng_below(&run->rng, rng_percent(&run->rng, 20) ? 101 : 10);
    uint64_t before = run->stats.pages;

    for (uint64_t p = 0; p < pages; p++) {
        if (!rng_percent(&run->rng, percent))
            continue;
        change_page(run, run->now.memory[b] + p * PAGE);
        bitmap[p / 64] |= 1ULL << p % 64;
        n++;
    }
    bitmap[pages / 64] |= ~0ULL << pages % 64; /* beyond the block: nobody looks */
    int code = memory_image_put(run->image, b, bitmap, run->now.memory[b], NULL, NULL, &run->stats);
    WANT(run, code || run->stats.pages - before == n, "pages counted", 0);
    return code;
}

static int put_one(struct run *run)
{
    unsigned b = (unsigned)rng_below(&run->rng, run->now.n_blocks);
    uint64_t p = rng_below(&run->rng, run->now.blocks[b].pages);
    uint8_t *page = run->now.memory[b] + p * PAGE;

    change_page(run, page);
    return memory_image_put_page(run->image, b, p, page, &run->stats);
}

static int put_zeros(struct run *run)
{
    unsigned b = (unsigned)rng_below(&run->rng, run->now.n_blocks);
    uint64_t pages = run->now.blocks[b].pages, first = rng_below(&run->rng, pages + 1);
    uint64_t n = rng_below(&run->rng, rng_percent(&run->rng, 10) ? pages - first + 1 : 9);

    n = n < pages - first ? n : pages - first;
    memset(run->now.memory[b] + first * PAGE, 0, n * PAGE);
    return memory_image_put_zeros(run->image, b, first, first + n, &run->stats);
}

static int commit(struct run *run)
{
    struct model *m = &run->now;

    m->blob_bytes = rng_below(&run->rng, sizeof(m->blob));
    for (size_t i = 0; i < m->blob_bytes; i++)
        m->blob[i] = (uint8_t)rng_below(&run->rng, 4);
    struct memory_blob blobs[] = {{.name = "empty", .data = NULL, .bytes = 0},
                                  {.name = "state", .data = m->blob, .bytes = m->blob_bytes}};
    return memory_image_commit(run->image, blobs, 2);
}

static void keep_version(struct run *run)
{
    struct version *v = &run->versions[rng_below(&run->rng, VERSIONS)];

    fake_disk_free(v->disk);
    v->disk = fake_disk_copy(run->disk);
    model_copy(&v->model, &run->committed);
}

static void commit_well(struct run *run)
{
    struct memory_image_size size;
    int code = commit(run);

    WANT(run, !code, "commit", code);
    run->commits++;
    model_copy(&run->committed, &run->now);
    compare(run, run->image, &run->now, false);
    memory_image_size(run->image, &size);
    WANT(run, run->disk->present == run->image->space->held_pages + 1, "pages on the disk",
         (int)run->disk->present);
    WANT(run, size.record_bytes + size.index_bytes + size.blob_bytes <= run->disk->present * PAGE,
         "size", 0);
    keep_version(run);
}

/* As if the process had died: what was not committed is gone. */
static void reopen(struct run *run)
{
    memory_image_close(run->image);
    model_copy(&run->now, &run->committed);
    open_writer(run);
    if (run->now.n_blocks)
        begin(run, false);
}

/* The disk fails at some change; then the writer dies, or abandons and goes on. */
static void fail_somewhere(struct run *run)
{
    uint8_t before[PAGE], *head = run->disk->pages[0];
    int code = 0;

    if (!run->committed.n_blocks)
        return;
    memcpy(before, head, PAGE);
    run->disk->fail_code = rng_percent(&run->rng, 50) ? -ENOSPC : -EIO;
    run->disk->fail_in = (int64_t)rng_below(&run->rng, 6);
    for (unsigned i = 0; i < 3 && !code; i++)
        code = rng_percent(&run->rng, 50) ? memory_image_flush(run->image) : change_and_put(run);
    if (!code)
        code = commit(run);
    WANT(run, !code || code == run->disk->fail_code, "another error", code);
    run->disk->fail_in = -1;
    /* Page 0 decides, whatever was said. */
    WANT(run, !code == !!memcmp(before, run->disk->pages[0], PAGE), "page 0", code);
    if (!code)
        model_copy(&run->committed, &run->now);
    run->crashes++;
    if (code && rng_percent(&run->rng, 50)) {
        memory_image_abandon(run->image);
        model_copy(&run->now, &run->committed);
        compare(run, run->image, &run->now, false);
    } else {
        reopen(run);
    }
}

static void roll_back(struct run *run)
{
    const struct version *v = &run->versions[rng_below(&run->rng, VERSIONS)];

    if (!v->disk)
        return;
    memory_image_close(run->image);
    fake_disk_free(run->disk);
    run->disk = fake_disk_copy(v->disk);
    model_copy(&run->committed, &v->model);
    model_copy(&run->now, &v->model);
    open_writer(run);
}

static bool cancel_soon(void *arg)
{
    unsigned *left = arg;
    return !*left || !--*left;
}

static void cancel_put(struct run *run)
{
    static const uint64_t all[MAX_PAGES / 64 + 1] = {[0 ... MAX_PAGES / 64] = ~0ULL};
    unsigned left = (unsigned)rng_below(&run->rng, 3);
    int code =
        memory_image_put(run->image, 0, all, run->now.memory[0], cancel_soon, &left, &run->stats);

    WANT(run, !code || code == -ECANCELED, "cancelled", code);
}

static void step(struct run *run)
{
    int code = 0;

    switch (rng_below(&run->rng, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        code = change_and_put(run);
        break;
    case 5:
        for (uint64_t n = rng_below(&run->rng, 20); n && !code; n--)
            code = rng_percent(&run->rng, 20) ? put_zeros(run) : put_one(run);
        break;
    case 6:
        code = memory_image_flush(run->image);
        break;
    case 7:
        if (!run->committed.n_blocks)
            break;
        memory_image_abandon(run->image);
        model_copy(&run->now, &run->committed);
        compare(run, run->image, &run->now, false);
        break;
    case 8:
        if (rng_percent(&run->rng, 50))
            fail_somewhere(run);
        else
            reopen(run);
        break;
    case 9:
        if (rng_percent(&run->rng, 20))
            roll_back(run);
        break;
    case 10:
        if (rng_percent(&run->rng, 10))
            begin(run, true);
        else
            cancel_put(run);
        break;
    default:
        commit_well(run);
    }
    WANT(run, !code, "put", code);
    if (!run->now.n_blocks)
        begin(run, true);
}

static void run_history(uint64_t seed)
{
    struct run run = {.seed = seed};

    rng_seed(&run.rng, seed);
    run.disk = fake_disk_new(DISK_PAGES);
    open_writer(&run);
    begin(&run, true);
    for (unsigned i = 0; i < 60; i++) {
        step(&run);
        const struct version *v = &run.versions[i % VERSIONS];
        if (v->disk && rng_percent(&run.rng, 30))
            check_version(&run, v);
        if (v->disk && rng_percent(&run.rng, 40))
            damage_version(&run, v);
    }
    memory_image_close(run.image);
    fake_disk_free(run.disk);
    for (unsigned i = 0; i < VERSIONS; i++) {
        fake_disk_free(run.versions[i].disk);
        model_free(&run.versions[i].model);
    }
    model_free(&run.now);
    model_free(&run.committed);
}

static void histories_read_as_the_model(void **state)
{
    for (uint64_t i = 0; i < n_runs; i++)
        run_history(first_seed + i);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(histories_read_as_the_model),
    };
    if (argc > 1)
        n_runs = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
