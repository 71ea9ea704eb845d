/* bench-checkpoint.c - the delta codec beside memcpy, and the scan of a bitmap beside the look at
 * each bit, in turn in one run.
 *
 *     bench-checkpoint delta-codec|dirty-scan [ROUNDS]
 *     bench-checkpoint sizes FILE...      pairs of pages (4096 bytes of base, 4096 of page): sizes
 * and times
 *
 * Prints one JSON object for each case: its name, the vector width, and the seconds of each round
 * of both sides.
 *
 * delta-codec: 64 MiB of bases and 64 MiB of pages that differ in 5 % of their bytes, at random;
 * memcpy takes the same pages to other 64 MiB. So reading and writing go to memory, not to a cache,
 * on both sides; beside it a set that fits the second-level cache. The pages are taken in their
 * order. */
#include "checkpoint/dirty-scan.h"
#include "checkpoint/page-code.h"
#include "checkpoint/simd.h"
#include "model/rng.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE       4096u
#define MAX_ROUNDS 1000u

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Memory that is there: no page faults when it counts. */
static void *memory(size_t bytes)
{
    void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                   -1, 0);
    if (m == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return m;
}

static void print_side(const char *side, const double *seconds, unsigned rounds)
{
    printf(", \"%s\": [", side);
    for (unsigned i = 0; i < rounds; i++)
        printf("%s%.9f", i ? ", " : "", seconds[i]);
    printf("]");
}

static void print_case(const char *name, enum simd level, unsigned rounds, const double *base,
                       const double *ours)
{
    printf("{\"case\": \"%s\", \"simd\": \"%s\"", name, simd_name(level));
    print_side("base", base, rounds);
    print_side("ours", ours, rounds);
    printf("}\n");
    fflush(stdout);
}

/* The delta codec. */

struct piece {
    const uint8_t *bases, *pages;
    uint8_t *copies, *deltas;
    size_t n_pages;
    unsigned repeat;
    size_t delta_bytes; /* result */
};

static void *copy_piece(void *arg)
{
    struct piece *p = arg;
    for (unsigned r = 0; r < p->repeat; r++)
        for (size_t i = 0; i < p->n_pages; i++)
            memcpy(p->copies + i * PAGE, p->pages + i * PAGE, PAGE);
    return NULL;
}

static void *encode_piece(void *arg)
{
    struct piece *p = arg;
    for (unsigned r = 0; r < p->repeat; r++) {
        uint8_t *out = p->deltas;
        for (size_t i = 0; i < p->n_pages; i++) {
            int len = delta_encode(p->bases + i * PAGE, p->pages + i * PAGE, out, 1024);
            if (len <= 0) {
                fprintf(stderr, "bench-checkpoint: page %zu: %d\n", i, len);
                exit(1);
            }
            out += ((size_t)len + DELTA_UNIT_BYTES - 1) / DELTA_UNIT_BYTES * DELTA_UNIT_BYTES;
        }
        p->delta_bytes = (size_t)(out - p->deltas);
    }
    return NULL;
}

/* Each of the two threads has a processor for itself: left alone, new threads that live for
 * milliseconds often share one. */
static void pin(pthread_t thread, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (pthread_setaffinity_np(thread, sizeof(set), &set))
        fprintf(stderr, "bench-checkpoint: no processor %d: two threads may share one\n", cpu);
}

static double timed(void *(*work)(void *), struct piece *pieces, unsigned threads)
{
    pthread_t second;
    double begun = now();

    if (threads == 2 && pthread_create(&second, NULL, work, &pieces[1])) {
        perror("pthread_create");
        exit(1);
    }
    if (threads == 2)
        pin(second, 1);
    work(&pieces[0]);
    if (threads == 2)
        pthread_join(second, NULL);
    return now() - begun;
}

static void run_codec(const char *name, struct piece *whole, unsigned threads, unsigned rounds)
{
    static double copies[MAX_ROUNDS], codes[MAX_ROUNDS];
    enum simd widest = simd_limit(SIMD_AVX512);
    struct piece pieces[2] = {*whole, *whole};

    if (threads == 2) {
        pin(pthread_self(), 0);
        size_t half = whole->n_pages / 2;
        pieces[0].n_pages = pieces[1].n_pages = half;
        pieces[1].bases += half * PAGE;
        pieces[1].pages += half * PAGE;
        pieces[1].copies += half * PAGE;
        pieces[1].deltas += half * 1024;
    }
    for (int level = SIMD_PLAIN; level <= (int)widest; level++) {
        simd_limit((enum simd)level);
        timed(copy_piece, pieces, threads);
        timed(encode_piece, pieces, threads);
        for (unsigned i = 0; i < rounds; i++) {
            copies[i] = timed(copy_piece, pieces, threads);
            codes[i] = timed(encode_piece, pieces, threads);
        }
        print_case(name, (enum simd)level, rounds, copies, codes);
    }
    simd_limit(SIMD_AVX512);
}

static void bench_codec(unsigned rounds)
{
    const size_t n_pages = 16384, cached_pages = 32;
    uint8_t *bases = memory(n_pages * PAGE), *pages = memory(n_pages * PAGE);
    struct piece whole = {.bases = bases,
                          .pages = pages,
                          .copies = memory(n_pages * PAGE),
                          .deltas = memory(n_pages * 1024 + PAGE),
                          .n_pages = n_pages,
                          .repeat = 1};
    struct rng rng;

    memset(whole.copies, 1, n_pages * PAGE); /* written, not the zero page */
    memset(whole.deltas, 1, n_pages * 1024);
    rng_seed(&rng, 1);
    for (size_t i = 0; i < n_pages * PAGE; i++) {
        bases[i] = (uint8_t)rng_next(&rng);
        pages[i] = (uint8_t)(bases[i] + (rng_below(&rng, 20) ? 0 : rng_range(&rng, 1, 255)));
    }
    run_codec("1 thread, 64 MiB", &whole, 1, rounds);
    whole.repeat = 8; /* so that beginning and ending a thread does not count */
    run_codec("2 threads, 64 MiB", &whole, 2, rounds);
    whole.n_pages = cached_pages;
    whole.repeat = 512;
    run_codec("1 thread, 128 KiB", &whole, 1, rounds);
}

/* The scan. */

#define SCAN_PAGES (1u << 20) /* 4 GiB */

static void fill_bitmap(uint64_t *words, double percent, unsigned cluster)
{
    struct rng rng;

    memset(words, 0, SCAN_PAGES / 8);
    rng_seed(&rng, 1);
    for (uint32_t p = 0; p < SCAN_PAGES; p += cluster)
        if ((double)rng_below(&rng, 1000000) < percent * 10000)
            for (uint32_t i = p; i < p + cluster; i++)
                words[i / 64] |= (uint64_t)1 << i % 64;
}

enum how { BITWISE, PAGES, RANGES };

static double scan_once(const uint64_t *words, uint32_t *out, enum how how)
{
    struct dirty_scan scan;
    double begun = now();

    dirty_scan_begin(&scan, words, SCAN_PAGES);
    if (how == BITWISE)
        dirty_scan_bitwise(&scan, out, SCAN_PAGES);
    else if (how == PAGES)
        dirty_scan_pages(&scan, out, SCAN_PAGES);
    else
        dirty_scan_ranges(&scan, (struct dirty_range *)out, SCAN_PAGES);
    return now() - begun;
}

static void bench_density(uint64_t *words, uint32_t *out, double percent, unsigned cluster,
                          unsigned rounds)
{
    static double bits[MAX_ROUNDS], ours[MAX_ROUNDS];
    enum simd widest = simd_limit(SIMD_AVX512);
    char name[64];

    fill_bitmap(words, percent, cluster);
    for (int level = SIMD_PLAIN; level <= (int)widest; level++) {
        simd_limit((enum simd)level);
        for (enum how how = PAGES; how <= RANGES; how++) {
            for (unsigned i = 0; i < rounds; i++) {
                scan_once(words, out, BITWISE); /* not what the other side left in the cache */
                bits[i] = scan_once(words, out, BITWISE);
                scan_once(words, out, how);
                ours[i] = scan_once(words, out, how);
            }
            snprintf(name, sizeof(name), "%g %% %s, %s", percent,
                     cluster > 1 ? "clustered" : "random", how == PAGES ? "pages" : "ranges");
            print_case(name, (enum simd)level, rounds, bits, ours);
        }
    }
    simd_limit(SIMD_AVX512);
}

static void bench_scan(unsigned rounds)
{
    static const double percents[] = {0, 0.01, 0.1, 0.5, 1, 5, 10, 25, 50, 90, 100};
    uint64_t *words = memory(SCAN_PAGES / 8);
    uint32_t *out = memory((size_t)SCAN_PAGES * sizeof(struct dirty_range));

    for (unsigned cluster = 1; cluster <= 64; cluster *= 64)
        for (size_t i = 0; i < sizeof(percents) / sizeof(percents[0]); i++)
            bench_density(words, out, percents[i], cluster, rounds);
}

/* Sizes of real pages. */

static int bench_sizes(const char *path, struct page_coder *coder)
{
    static const char *const names[] = {"same", "zero", "delta", "packed", "plain"};
    static uint8_t pair[2 * PAGE], out[PAGE_CODE_OUT_BYTES];
    size_t count[5] = {0}, bytes[5] = {0}, n = 0, sum = 0, len;
    double seconds = 0;
    FILE *file = fopen(path, "rb");

    if (!file) {
        perror(path);
        return 1;
    }
    while (fread(pair, sizeof(pair), 1, file) == 1) {
        double begun = now();
        enum page_code code = page_encode(coder, pair, pair + PAGE, out, &len);
        seconds += now() - begun;
        len = (len + DELTA_UNIT_BYTES - 1) / DELTA_UNIT_BYTES * DELTA_UNIT_BYTES;
        count[code]++;
        bytes[code] += len;
        sum += len;
        n++;
    }
    fclose(file);
    printf("%s: %zu pages, %.1f %% of their bytes, %.2f us each;", path, n,
           n ? 100.0 * (double)sum / ((double)n * PAGE) : 0, n ? seconds / (double)n * 1e6 : 0);
    for (unsigned i = 0; i < 5; i++)
        printf(" %s %zu (%zu bytes)", names[i], count[i], count[i] ? bytes[i] / count[i] : 0);
    printf("\n");
    return 0;
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 0) : 11;
    struct page_coder *coder;
    int code = 0;

    if (argc > 2 && !strcmp(argv[1], "sizes")) {
        if (page_coder_new(&coder))
            return 1;
        for (int i = 2; i < argc; i++)
            code |= bench_sizes(argv[i], coder);
        page_coder_free(coder);
        return code;
    }
    if (argc < 2 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: bench-checkpoint delta-codec|dirty-scan [ROUNDS]\n");
        return 2;
    }
    if (!strcmp(argv[1], "delta-codec"))
        bench_codec((unsigned)rounds);
    else
        bench_scan((unsigned)rounds);
    return 0;
}
