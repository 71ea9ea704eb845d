/* test-track-guest.c - a real guest that writes all the time: what is copied of the told pages
 * alone is its memory in the end, whatever was injected and paused meanwhile.
 *
 *     test-track-guest SCRIBBLER.ELF [SECONDS] */
#include "base/mono.h"
#include "guest/inject.h"
#include "guest/monitor.h"
#include "guest/test-guest.h"
#include "guest/tracker.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define MIB 768u /* enough for several threads */

static const char *elf;
static unsigned seconds = 5;

struct copy {
    unsigned char *bytes;
    uint64_t *bitmap;
    uint64_t n_pages;
};

static struct copy copies[RAM_BLOCKS_MAX];

static void run(struct test_guest *g, const char *command)
{
    struct why why = {};

    if (monitor_run(g->monitor, command, NULL, test_end_us(10000), NULL, &why) < 0)
        fail_msg("%s: %s", command, why.text);
}

static void make_copies(const struct test_guest *g)
{
    for (unsigned i = 0; i < g->ram->n; i++) {
        struct copy *c = &copies[i];
        c->n_pages = g->ram->blocks[i].used_bytes / RAM_PAGE_BYTES;
        c->bytes = malloc(g->ram->blocks[i].used_bytes);
        c->bitmap = calloc(tracker_words(c->n_pages), 8);
        assert_true(c->bytes && c->bitmap);
        assert_int_equal(ram_read(g->ram, i, 0, c->bytes, g->ram->blocks[i].used_bytes), 0);
    }
}

static void drop_copies(const struct test_guest *g)
{
    for (unsigned i = 0; i < g->ram->n; i++) {
        free(copies[i].bytes);
        free(copies[i].bitmap);
    }
}

/* Returns how many pages it copied. */
static int64_t collect_and_copy(const struct test_guest *g, struct tracker *t)
{
    int64_t sum = 0;

    for (unsigned i = 0; i < g->ram->n; i++) {
        struct copy *c = &copies[i];
        struct why why = {};
        memset(c->bitmap, 0, tracker_words(c->n_pages) * 8);
        int64_t n = tracker_collect(t, i, c->bitmap, NULL, &why);
        if (n < 0)
            fail_msg("%s", why.text);
        sum += n;
        for (uint64_t page = 0; page < c->n_pages && n; page++)
            if (c->bitmap[page / 64] >> page % 64 & 1) {
                uint64_t at = page * RAM_PAGE_BYTES;
                assert_int_equal(ram_read(g->ram, i, at, c->bytes + at, RAM_PAGE_BYTES), 0);
                n--;
            }
    }
    return sum;
}

static void compare_copies(const struct test_guest *g)
{
    unsigned char page[RAM_PAGE_BYTES];

    for (unsigned i = 0; i < g->ram->n; i++)
        for (uint64_t at = 0; at < g->ram->blocks[i].used_bytes; at += RAM_PAGE_BYTES) {
            assert_int_equal(ram_read(g->ram, i, at, page, RAM_PAGE_BYTES), 0);
            if (memcmp(page, copies[i].bytes + at, RAM_PAGE_BYTES) != 0)
                fail_msg("a write to page %lu of %s was lost", (unsigned long)(at / RAM_PAGE_BYTES),
                         g->ram->blocks[i].name);
        }
}

static void inject(const struct test_guest *g)
{
    const uint64_t args[6] = {};
    int64_t result = -1;
    struct why why = {};

    if (inject_once(g->qemu.pid, monitor_pidfd(g->monitor), SYS_getpid, args, &result, &why) < 0)
        fail_msg("%s", why.text);
    assert_int_equal(result, g->qemu.pid);
}

static struct tracker *track(struct test_guest *g, enum tracker_kind kind)
{
    const struct tracker_options options = {.kind = kind};
    struct tracker *t = NULL;
    struct why why = {};

    if (tracker_open(g->ram, &options, g->monitor, test_end_us(20000), &t, &why) < 0)
        fprintf(stderr, "%s\n", why.text);
    return t;
}

static void nothing_of_a_guest_is_lost(void **state)
{
    struct test_guest g;
    unsigned rounds = 0;
    int64_t pages = 0;

    if (!test_guest_start(&g, elf, MIB))
        skip();
    struct tracker *t = track(&g, TRACKER_UFFD);
    if (!t) {
        test_guest_end(&g);
        skip();
    }
    make_copies(&g); /* while it runs: what changes meanwhile is told */
    test_guest_do(&g, 'D');
    test_guest_begin(&g, 'S');
    for (uint64_t end_us = mono_us() + seconds * 1000000ULL; mono_us() < end_us; rounds++) {
        pages += collect_and_copy(&g, t);
        if (rounds % 10 == 0)
            inject(&g);
        if (rounds % 50 == 25) { /* in a pause it is the same bytes, and then nothing more */
            run(&g, "stop");
            collect_and_copy(&g, t);
            assert_int_equal(collect_and_copy(&g, t), 0);
            compare_copies(&g);
            run(&g, "cont");
        }
    }
    test_guest_begin(&g, 'N'); /* the byte that ends the writing */
    test_guest_await(&g, 's');
    test_guest_await(&g, 'n');
    run(&g, "stop");
    collect_and_copy(&g, t);
    compare_copies(&g);
    fprintf(stderr, "%u rounds, %ld pages\n", rounds, (long)pages);
    assert_true(rounds > 20 && pages > 1000);
    run(&g, "cont");
    test_guest_do(&g, 'N'); /* the guest lives */
    drop_copies(&g);
    tracker_close(t, true);
    test_guest_do(&g, 'D');
    test_guest_end(&g);
}

/* 5,000 pages are 5,000 pages: one word in each, by all ways. */
static void exact_number(void **state)
{
    struct test_guest g;

    if (!test_guest_start(&g, elf, MIB))
        skip();
    for (enum tracker_kind kind = TRACKER_UFFD; kind <= TRACKER_COMPARE; kind++) {
        struct tracker *t = kind == TRACKER_SOFT ? NULL : track(&g, kind);
        if (!t)
            continue;
        make_copies(&g);
        test_guest_do(&g, 'D');
        run(&g, "stop");
        int64_t n = collect_and_copy(&g, t);
        fprintf(stderr, "%s: %ld pages\n", tracker_name(t), (long)n);
        assert_in_range(n, 5000, 5100); /* and the guest's stack */
        compare_copies(&g);
        run(&g, "cont");
        drop_copies(&g);
        tracker_close(t, true);
    }
    test_guest_end(&g);
}

/* Each call says so in a sentence, none hangs. */
static void qemu_dies(void **state)
{
    struct test_guest g;
    struct why why = {};

    if (!test_guest_start(&g, elf, 64))
        skip();
    struct tracker *t = track(&g, TRACKER_BEST);
    assert_non_null(t);
    uint64_t *bitmap = calloc(tracker_words(64 << 8), 8);
    kill(g.qemu.pid, SIGKILL);
    waitpid(g.qemu.pid, NULL, 0);
    g.qemu.pid = 0;
    for (unsigned i = 0; i < g.ram->n; i++)
        assert_int_equal(tracker_collect(t, i, bitmap, NULL, &why), -ESRCH);
    assert_true(tracker_check(t, g.monitor, test_end_us(1000), &why) < 0);
    free(bitmap);
    tracker_close(t, true);
    test_guest_end(&g);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_of_a_guest_is_lost),
                                       cmocka_unit_test(exact_number), cmocka_unit_test(qemu_dies)};

    if (argc < 2)
        return 2;
    elf = argv[1];
    if (argc > 2)
        seconds = (unsigned)atoi(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
