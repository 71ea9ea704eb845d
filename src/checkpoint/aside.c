/* aside.c - what a machine's memory held in a pause.
 *
 * 1. The pages are counted first, and cut into parts of the same size, some for each thread: so who
 *    is held up does not hold up the others for long. Where a part begins is known by the count.
 * 2. The memory is never given back but by aside_shrink(): what one pause has touched is there for
 *    the next one. */
#include "checkpoint/aside.h"

#include "base/crew.h"
#include "checkpoint/page-copy.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define THREADS_MAX 4u
#define PARTS_MAX   64u
#define PART_PAGES  128u /* at least: for fewer nobody is woken */
#define HUGE_BYTES  (2ULL << 20)

/* Where a part begins: the page'th page of a block. */
struct place {
    unsigned block;
    uint64_t page;
};

struct aside {
    const struct ram *ram;
    struct crew *crew;
    void *mapped;
    size_t mapped_bytes;
    uint8_t *pages; /* at a boundary of huge pages */

    /* Of one aside_copy(). */
    const struct aside_bits *bits;
    unsigned n_blocks, n_parts;
    uint64_t total, part_pages;
    struct place parts[PARTS_MAX];
    atomic_uint next;
    atomic_int error;
};

int aside_new(const struct ram *ram, struct aside **ret)
{
    struct aside *a = calloc(1, sizeof(*a));
    size_t bytes = 2 * HUGE_BYTES;

    if (!a)
        return -ENOMEM;
    a->ram = ram;
    for (unsigned i = 0; i < ram->n; i++)
        bytes += ram->blocks[i].used_bytes;
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || crew_new(THREADS_MAX, &a->crew) < 0) {
        if (mapped != MAP_FAILED)
            munmap(mapped, bytes);
        free(a);
        return -ENOMEM;
    }
    a->mapped = mapped;
    a->mapped_bytes = bytes;
    a->pages = (uint8_t *)(((uintptr_t)mapped + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    (void)madvise(mapped, bytes, MADV_HUGEPAGE); /* a wish */
    *ret = a;
    return 0;
}

void aside_free(struct aside *a)
{
    if (!a)
        return;
    crew_free(a->crew);
    munmap(a->mapped, a->mapped_bytes);
    free(a);
}

/* As far as there are pages at all. */
static size_t bytes_of(const struct aside *a, uint64_t pages)
{
    size_t all = a->mapped_bytes - (size_t)(a->pages - (uint8_t *)a->mapped);

    return pages < all / RAM_PAGE_BYTES ? pages * RAM_PAGE_BYTES : all;
}

void aside_provide(struct aside *a, uint64_t pages)
{
    (void)madvise(a->pages, bytes_of(a, pages), MADV_POPULATE_WRITE);
}

void aside_shrink(struct aside *a, uint64_t pages)
{
    size_t kept = bytes_of(a, pages), all = bytes_of(a, UINT64_MAX);

    (void)madvise(a->pages + kept, all - kept, MADV_DONTNEED);
}

/* ---- the pages ------------------------------------------------------------------------------ */

/* The first page of a block whose bit is set, from page on; n_pages: none. */
static uint64_t next_page(const struct aside_bits *bits, uint64_t page)
{
    uint64_t w = page / 64, n_words = (bits->n_pages + 63) / 64;

    if (page >= bits->n_pages)
        return bits->n_pages;
    uint64_t word = bits->words[w] & UINT64_MAX << page % 64;
    while (!word && ++w < n_words)
        word = bits->words[w];
    return word ? w * 64 + (uint64_t)__builtin_ctzll(word) : bits->n_pages;
}

/* From *at on; false: there is none any more. */
static bool find_page(const struct aside *a, struct place *at)
{
    for (; at->block < a->n_blocks; at->block++, at->page = 0) {
        at->page = next_page(&a->bits[at->block], at->page);
        if (at->page < a->bits[at->block].n_pages)
            return true;
    }
    return false;
}

static uint64_t count_pages(const struct aside_bits *bits, unsigned n_blocks)
{
    uint64_t n = 0;

    for (unsigned b = 0; b < n_blocks; b++)
        for (uint64_t w = 0; w < (bits[b].n_pages + 63) / 64; w++)
            n += (uint64_t)__builtin_popcountll(bits[b].words[w]);
    return n;
}

static void cut(struct aside *a)
{
    struct place at = {};

    a->total = count_pages(a->bits, a->n_blocks);
    a->part_pages = (a->total + PARTS_MAX - 1) / PARTS_MAX;
    if (a->part_pages < PART_PAGES)
        a->part_pages = PART_PAGES;
    a->n_parts = 0;
    for (uint64_t n = 0; n < a->total && find_page(a, &at); n++, at.page++)
        if (n % a->part_pages == 0)
            a->parts[a->n_parts++] = at;
}

/* ---- copying -------------------------------------------------------------------------------- */

/* Where a page is, if it is to be read from where we have mapped it. */
static const uint8_t *mapped_at(const struct aside *a, const struct place *at)
{
    const struct ram_block *b = &a->ram->blocks[at->block];

    return b->memory && !a->bits[at->block].by_file ? b->memory + at->page * RAM_PAGE_BYTES : NULL;
}

/* How many pages one behind the other, from this one on; at most that many. */
static uint64_t run_of(const struct aside *a, const struct place *at, uint64_t most)
{
    const struct aside_bits *bits = &a->bits[at->block];
    uint64_t n = 1;

    while (n < most && next_page(bits, at->page + n) == at->page + n &&
           at->page + n < bits->n_pages)
        n++;
    return n;
}

static int copy_part(struct aside *a, unsigned part)
{
    uint64_t first = part * a->part_pages, left = a->total - first, run;
    struct place at = a->parts[part], then;
    uint8_t *to = a->pages + first * RAM_PAGE_BYTES;
    int r = 0;

    for (uint64_t n = left < a->part_pages ? left : a->part_pages; n > 0 && r == 0; n -= run) {
        const uint8_t *from = mapped_at(a, &at), *next = NULL;
        run = from ? 1 : run_of(a, &at, n);
        then = (struct place){at.block, at.page + run};
        if (n > run && find_page(a, &then))
            next = mapped_at(a, &then);
        if (from)
            page_copy(to, from, next ? next : from);
        else
            r = ram_read(a->ram, at.block, at.page * RAM_PAGE_BYTES, to, run * RAM_PAGE_BYTES);
        to += run * RAM_PAGE_BYTES;
        at = then;
    }
    page_copy_end();
    return r;
}

static void run_parts(void *arg, unsigned member)
{
    struct aside *a = arg;
    unsigned part;

    (void)member;
    while ((part = atomic_fetch_add(&a->next, 1)) < a->n_parts && !atomic_load(&a->error)) {
        int r = copy_part(a, part);
        if (r < 0)
            atomic_store(&a->error, r);
    }
}

int aside_copy(struct aside *a, const struct aside_bits *bits, unsigned n_blocks)
{
    a->bits = bits;
    a->n_blocks = n_blocks;
    cut(a);
    atomic_store(&a->next, 0);
    atomic_store(&a->error, 0);
    unsigned members = crew_size(a->crew);
    crew_run(a->crew, a->n_parts < members ? a->n_parts ? a->n_parts : 1 : members, run_parts, a);
    return atomic_load(&a->error);
}

const uint8_t *aside_pages(const struct aside *a, const struct aside_bits *bits, unsigned block)
{
    return a->pages + count_pages(bits, block) * RAM_PAGE_BYTES;
}
