/* test-memory-zeros.c - zeros that are put at once, beside zeros that are put page by page.
 *
 *     test-memory-zeros [RUNS [SEED]]    that many random histories; run i is made from SEED + i
 *
 * Two images go the same way, through epochs, commits and abandons; where pages become
 * zeros one takes them at once and the other page by page. Shown: both are the same after each
 * step, to the place of each record and the statistics; and what is put at once reads nothing. */
#include "checkpoint/fake-disk.h"
#include "checkpoint/memory-image-internal.h"
#include "checkpoint/page-shapes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define PAGE       4096u
#define BLOCKS     2u
#define PAGES      300u /* of a block */
#define DISK_PAGES 16384u
#define STEPS      150u

static uint64_t n_runs = 20, first_seed = 1;

/* [0] takes zeros at once, [1] page by page. */
struct twins {
    struct rng rng;
    struct fake_disk *disks[2];
    struct memory_image *images[2];
    struct memory_put_stats stats[2];
};

static void begin_both(struct twins *t)
{
    static const struct memory_block blocks[BLOCKS] = {{.name = "ram", .pages = PAGES},
                                                       {.name = "vga", .pages = PAGES}};

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(memory_image_begin(t->images[i], blocks, BLOCKS), 0);
}

static void open_both(struct twins *t)
{
    struct why why;

    for (unsigned i = 0; i < 2; i++) {
        struct memory_io io = fake_disk_io(t->disks[i]);
        assert_int_equal(memory_image_open(&io, true, &t->images[i], &why), 0);
    }
    begin_both(t);
}

static void close_both(struct twins *t)
{
    memory_image_close(t->images[0]);
    memory_image_close(t->images[1]);
}

static void same_state(const struct twins *t)
{
    const struct memory_image *a = t->images[0], *b = t->images[1];
    const struct memory_put_stats *x = &t->stats[0], *y = &t->stats[1];
    size_t n = a->table->n_pages, bits = (n / 64 + 1) * 8;

    assert_memory_equal(a->table->entries, b->table->entries, n * sizeof(struct memory_entry));
    assert_memory_equal(a->table->touched, b->table->touched, bits);
    assert_memory_equal(a->table->changed, b->table->changed, bits);
    assert_memory_equal(a->table->moved, b->table->moved, bits);
    assert_memory_equal(a->table->hashes, b->table->hashes, n * sizeof(uint32_t));
    assert_int_equal(a->n_undo, b->n_undo);
    for (size_t i = 0; i < a->n_undo; i++)
        assert_memory_equal(&a->undo[i], &b->undo[i], sizeof(a->undo[i]));
    assert_int_equal(a->space->live_units, b->space->live_units);
    assert_int_equal(a->space->held_pages, b->space->held_pages);
    assert_int_equal(a->new_units, b->new_units);
    assert_int_equal(a->n_epochs, b->n_epochs);
    assert_int_equal(memory_append_tail(a), memory_append_tail(b));
    assert_int_equal(x->pages, y->pages);
    assert_int_equal(x->same, y->same);
    assert_int_equal(x->zero, y->zero);
    assert_int_equal(x->delta, y->delta);
    assert_int_equal(x->packed, y->packed);
    assert_int_equal(x->plain, y->plain);
    assert_int_equal(x->bytes, y->bytes);
}

/* A page that is new, or what was there with a few other bytes. */
static void put_one(struct twins *t)
{
    unsigned block = (unsigned)rng_below(&t->rng, BLOCKS);
    uint64_t page = rng_below(&t->rng, PAGES);
    uint8_t bytes[PAGE], base[PAGE];

    assert_int_equal(memory_image_read(t->images[0], block, page, 1, bytes), 0);
    if (rng_percent(&t->rng, 30))
        page_shape(&t->rng, (unsigned)rng_below(&t->rng, PAGE_SHAPES), base, bytes);
    else
        for (unsigned n = 0; n < 9; n++)
            bytes[rng_below(&t->rng, PAGE)] = (uint8_t)rng_next(&t->rng);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(memory_image_put_page(t->images[i], block, page, bytes, &t->stats[i]), 0);
}

static void put_zeros(struct twins *t)
{
    static const uint8_t zeros[PAGE];
    unsigned block = (unsigned)rng_below(&t->rng, BLOCKS);
    uint64_t first = rng_below(&t->rng, PAGES + 1), reads = t->disks[0]->reads;
    uint64_t end = first + rng_below(&t->rng, rng_percent(&t->rng, 20) ? PAGES - first + 1 : 30);

    end = end < PAGES ? end : PAGES;
    assert_int_equal(memory_image_put_zeros(t->images[0], block, first, end, &t->stats[0]), 0);
    assert_int_equal(t->disks[0]->reads, reads);
    uint64_t page = memory_image_next(t->images[1], block, first);
    while (page < end) {
        assert_int_equal(memory_image_put_page(t->images[1], block, page, zeros, &t->stats[1]), 0);
        page = memory_image_next(t->images[1], block, page + 1);
    }
    assert_true(memory_image_next(t->images[0], block, first) >= end);
}

static void commit_both(struct twins *t)
{
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(memory_image_commit(t->images[i], NULL, 0), 0);
}

static void step(struct twins *t)
{
    switch (rng_below(&t->rng, 12)) {
    case 0:
    case 1:
    case 2:
        put_zeros(t);
        break;
    case 3: /* before the first commit it takes the blocks with it */
        memory_image_abandon(t->images[0]);
        memory_image_abandon(t->images[1]);
        begin_both(t);
        break;
    case 4:
        commit_both(t);
        break;
    case 5: /* another epoch */
        commit_both(t);
        close_both(t);
        open_both(t);
        break;
    default:
        for (uint64_t n = rng_below(&t->rng, 40); n; n--)
            put_one(t);
    }
}

static void run_history(uint64_t seed)
{
    struct twins t = {0};

    rng_seed(&t.rng, seed);
    t.disks[0] = fake_disk_new(DISK_PAGES);
    t.disks[1] = fake_disk_new(DISK_PAGES);
    open_both(&t);
    for (unsigned i = 0; i < STEPS; i++) {
        step(&t);
        same_state(&t);
    }
    assert_true(t.stats[0].zero);
    close_both(&t);
    fake_disk_free(t.disks[0]);
    fake_disk_free(t.disks[1]);
}

static void zeros_at_once_are_zeros_one_by_one(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < n_runs; i++)
        run_history(first_seed + i);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeros_at_once_are_zeros_one_by_one),
    };
    if (argc > 1)
        n_runs = strtoull(argv[1], NULL, 0);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
