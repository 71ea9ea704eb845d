/* bench-collect.c - how long collecting 5,000 written pages of a guest of 4 GiB takes.
 *
 *     bench-collect SCRIBBLER.ELF [ROUNDS [MIB [KIND]]]
 *
 * A real QEMU (TCG) whose guest has written into all of the memory that it sees, 3.5 GiB; in each
 * round it writes into 5,000 pages and says so, then all blocks are collected, in turn while it
 * runs and in a pause. Prints one line of
 * JSON: per round the total and the phases in microseconds. Ends with 77 where there is no QEMU. */
#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/monitor.h"
#include "guest/test-guest.h"
#include "guest/tracker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

struct round {
    uint64_t total_us;
    int64_t pages;
    struct tracker_times times;
};

static struct round collect_all(const struct test_guest *g, struct tracker *t, uint64_t **bitmaps)
{
    struct round round = {};
    struct why why = {};
    uint64_t begin_us = mono_us();

    for (unsigned i = 0; i < g->ram->n; i++) {
        struct tracker_times times;
        int64_t n = tracker_collect(t, i, bitmaps[i], &times, &why);
        if (n < 0)
            die(why.text);
        round.pages += n;
        round.times.discards_us += times.discards_us;
        round.times.get_us += times.get_us;
        round.times.protect_us += times.protect_us;
        round.times.notes_us += times.notes_us;
    }
    round.total_us = mono_us() - begin_us;
    return round;
}

static void print_round(const struct round *r, bool pause, bool first)
{
    printf("%s{\"paused\": %s, \"us\": %" PRIu64 ", \"pages\": %" PRIi64
           ", \"discards_us\": %" PRIu64 ", \"get_us\": %" PRIu64 ", \"protect_us\": %" PRIu64
           ", \"notes_us\": %" PRIu64 "}",
           first ? "" : ", ", pause ? "true" : "false", r->total_us, r->pages, r->times.discards_us,
           r->times.get_us, r->times.protect_us, r->times.notes_us);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 50;
    unsigned mib = argc > 3 ? (unsigned)atoi(argv[3]) : 4096;
    struct tracker_options options = {.kind = argc > 4 ? (enum tracker_kind)atoi(argv[4])
                                                       : TRACKER_BEST};
    uint64_t *bitmaps[RAM_BLOCKS_MAX];
    struct tracker *tracker;
    struct why why = {};
    struct test_guest g;

    if (argc < 2)
        die("usage: bench-collect SCRIBBLER.ELF [ROUNDS [MIB [KIND]]]");
    if (!test_guest_start(&g, argv[1], mib)) {
        fprintf(stderr, "there is no QEMU here\n");
        return 77;
    }
    test_guest_do(&g, 'F');
    for (unsigned i = 0; i < g.ram->n; i++)
        if (!(bitmaps[i] = calloc(tracker_words(g.ram->blocks[i].used_bytes / RAM_PAGE_BYTES), 8)))
            die("no memory");
    uint64_t begin_us = mono_us();
    if (tracker_open(g.ram, &options, g.monitor, test_end_us(60000), &tracker, &why) < 0)
        die(why.text);
    printf("{\"tracker\": \"%s\", \"memory_mib\": %u, \"open_us\": %" PRIu64 ", \"rounds\": [",
           tracker_name(tracker), mib, mono_us() - begin_us);
    for (unsigned i = 0; i < rounds; i++) {
        bool pause = i % 2 == 1;
        test_guest_do(&g, 'D');
        if (pause && monitor_run(g.monitor, "stop", NULL, test_end_us(5000), NULL, &why) < 0)
            die(why.text);
        for (unsigned b = 0; b < g.ram->n; b++)
            memset(bitmaps[b], 0, tracker_words(g.ram->blocks[b].used_bytes / RAM_PAGE_BYTES) * 8);
        struct round round = collect_all(&g, tracker, bitmaps);
        if (pause && monitor_run(g.monitor, "cont", NULL, test_end_us(5000), NULL, &why) < 0)
            die(why.text);
        print_round(&round, pause, i == 0);
    }
    printf("]}\n");
    tracker_close(tracker, true);
    test_guest_end(&g);
    return 0;
}
