/* test-aside.c - what is put aside are the pages whose bits are set, of all blocks, one behind the
 * other in their order, whatever their number and place; and page_copy() copies. */
#include "checkpoint/aside.h"
#include "checkpoint/page-copy.h"
#include "checkpoint/simd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCKS 3u
/* Words that are not full, a block of one page, and one that is not shared. */
static const uint64_t sizes[BLOCKS] = {6007, 1, 130};

struct machine {
    struct ram ram;
    struct ram_block blocks[BLOCKS];
    uint8_t *memory[BLOCKS];
    uint64_t *words[BLOCKS];
    struct aside_bits bits[BLOCKS];
};

static int make(void **state)
{
    struct machine *m = calloc(1, sizeof(*m));

    m->ram.n = BLOCKS;
    m->ram.blocks = m->blocks;
    m->ram.pidfd = -1;
    m->ram.mem_fd = open("/proc/self/mem", O_RDONLY);
    assert_true(m->ram.mem_fd >= 0);
    for (unsigned b = 0; b < BLOCKS; b++) {
        size_t bytes = sizes[b] * RAM_PAGE_BYTES;
        bool shared = b < 2;
        m->blocks[b].fd = shared ? memfd_create("test-aside", MFD_CLOEXEC) : -1;
        assert_true(!shared || ftruncate(m->blocks[b].fd, (off_t)bytes) == 0);
        m->memory[b] = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, m->blocks[b].fd, 0);
        assert_ptr_not_equal(m->memory[b], MAP_FAILED);
        for (size_t i = 0; i < bytes / 4; i++)
            ((uint32_t *)(void *)m->memory[b])[i] = (uint32_t)random();
        m->ram.blocks[b].host = (uintptr_t)m->memory[b];
        m->ram.blocks[b].used_bytes = bytes;
        m->ram.blocks[b].shared = shared;
        m->ram.blocks[b].memory = shared ? m->memory[b] : NULL;
        m->words[b] = calloc(sizes[b] / 64 + 1, sizeof(uint64_t));
        m->bits[b] = (struct aside_bits){.words = m->words[b], .n_pages = sizes[b]};
    }
    *state = m;
    return 0;
}

static int end(void **state)
{
    struct machine *m = *state;

    for (unsigned b = 0; b < BLOCKS; b++) {
        munmap(m->memory[b], sizes[b] * RAM_PAGE_BYTES);
        if (m->blocks[b].fd >= 0)
            close(m->blocks[b].fd);
        free(m->words[b]);
    }
    close(m->ram.mem_fd);
    free(m);
    return 0;
}

/* One page of some, in this block or in all (-1). */
static void set_some(struct machine *m, int block, unsigned of)
{
    for (unsigned b = 0; b < BLOCKS; b++) {
        memset(m->words[b], 0, (sizes[b] / 64 + 1) * 8);
        for (uint64_t page = 0; page < sizes[b]; page++)
            if (of && (block < 0 || (unsigned)block == b) && random() % of == 0)
                m->words[b][page / 64] |= 1ULL << page % 64;
    }
}

static void check(const struct machine *m, const struct aside *aside)
{
    for (unsigned b = 0; b < BLOCKS; b++) {
        const uint8_t *at = aside_pages(aside, m->bits, b);
        for (uint64_t page = 0; page < sizes[b]; page++) {
            if (!(m->words[b][page / 64] >> page % 64 & 1))
                continue;
            assert_memory_equal(at, m->memory[b] + page * RAM_PAGE_BYTES, RAM_PAGE_BYTES);
            at += RAM_PAGE_BYTES;
        }
    }
}

/* by_file: of every other block, from that one on. */
static int copy(struct aside *aside, struct machine *m, bool by_file)
{
    for (unsigned b = 0; b < BLOCKS; b++)
        m->bits[b].by_file = by_file == (b % 2 == 0);
    return aside_copy(aside, m->bits, BLOCKS);
}

static void test_pages_are_put_aside(void **state)
{
    static const unsigned densities[] = {0, 1, 2, 7, 60, 1000, 5000};
    struct machine *m = *state;
    struct aside *aside;

    assert_int_equal(aside_new(&m->ram, &aside), 0);
    aside_provide(aside, 1000);
    for (int level = SIMD_LEVELS - 1; level >= SIMD_PLAIN; level--) {
        simd_limit((enum simd)level);
        for (int block = -1; block < (int)BLOCKS; block++)
            for (size_t i = 0; i < sizeof(densities) / sizeof(densities[0]); i++) {
                set_some(m, block, densities[i]);
                assert_int_equal(copy(aside, m, i % 2), 0);
                check(m, aside);
                assert_int_equal(copy(aside, m, !(i % 2)), 0);
                check(m, aside);
            }
        aside_shrink(aside, 10);
    }
    simd_limit(SIMD_LEVELS - 1);
    aside_free(aside);
    aside_free(NULL);
}

static void test_memory_that_cannot_be_read(void **state)
{
    struct machine *m = *state;
    struct aside *aside;

    assert_int_equal(aside_new(&m->ram, &aside), 0);
    set_some(m, -1, 1);
    m->ram.blocks[2].host = 4096; /* nothing is there */
    assert_true(copy(aside, m, false) < 0);
    m->ram.blocks[2].host = (uintptr_t)m->memory[2];
    assert_int_equal(copy(aside, m, false), 0);
    check(m, aside);
    aside_free(aside);
}

/* By the file they are zeros, and holes also then. */
static void test_holes_stay(void **state)
{
    static const uint8_t zeros[RAM_PAGE_BYTES];
    struct machine *m = *state;
    struct stat before, after;
    struct aside *aside;

    assert_int_equal(aside_new(&m->ram, &aside), 0);
    assert_int_equal(fallocate(m->blocks[0].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                               100 * RAM_PAGE_BYTES),
                     0);
    assert_int_equal(fstat(m->blocks[0].fd, &before), 0);
    set_some(m, 0, 1);
    assert_int_equal(copy(aside, m, true), 0);
    assert_int_equal(fstat(m->blocks[0].fd, &after), 0);
    assert_int_equal(before.st_blocks, after.st_blocks);
    for (unsigned i = 0; i < 100; i++)
        assert_memory_equal(aside_pages(aside, m->bits, 0) + i * RAM_PAGE_BYTES, zeros,
                            RAM_PAGE_BYTES);
    check(m, aside);
    aside_free(aside);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_are_put_aside),
        cmocka_unit_test(test_memory_that_cannot_be_read),
        cmocka_unit_test(test_holes_stay),
    };
    return cmocka_run_group_tests(tests, make, end);
}
