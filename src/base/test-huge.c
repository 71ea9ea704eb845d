/* test-huge.c - huge.c. */
#include "base/huge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include <cmocka.h>

static bool is_zero(const uint8_t *at, size_t n)
{
    return !at[0] && !memcmp(at, at + 1, n - 1);
}

static void test_sizes(void **state)
{
    static const size_t sizes[] = {1,       4096,          4097,   1 << 20, (2 << 20) - 1,
                                   2 << 20, (2 << 20) + 1, 9 << 20};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *memory = huge_alloc(sizes[i]), *other = huge_alloc(sizes[i]);
        assert_non_null(memory);
        assert_non_null(other);
        assert_int_equal((uintptr_t)memory % 4096, 0);
        assert_true(is_zero(memory, sizes[i]));
        memset(memory, 0xa5, sizes[i]);
        assert_true(is_zero(other, sizes[i]));
        huge_free(memory, sizes[i]);
        memset(other, 0x5a, sizes[i]);
        huge_free(other, sizes[i]);
    }
    huge_free(NULL, 1);
    huge_free(NULL, HUGE_BYTES);
    assert_null(huge_alloc(SIZE_MAX));
}

/* Is address in a mapping? *ret_wished: of which huge pages are wished for. */
static bool is_mapped(const void *address, bool *ret_wished)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    char line[512];
    bool here = false, found = false;
    *ret_wished = false;
    while (fgets(line, sizeof(line), f)) {
        uintptr_t from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = (uintptr_t)address >= from && (uintptr_t)address < to;
        found |= here;
        if (here && strncmp(line, "VmFlags:", 8) == 0)
            *ret_wished = strstr(line, " hg");
    }
    fclose(f);
    return found;
}

/* All of it is where huge pages can be, and all goes back. (Whether there are any is the system's
 * to say.) */
static void test_pages(void **state)
{
    size_t bytes = 8 * HUGE_BYTES;
    bool wished;
    (void)state;
    uint8_t *memory = huge_alloc(bytes);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % HUGE_BYTES, 0);
    for (size_t at = 0; at < bytes; at += HUGE_BYTES) {
        memory[at] = 1;
        assert_true(is_mapped(memory + at, &wished));
        assert_true(wished || access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0);
    }
    huge_free(memory, bytes);
    for (size_t at = 0; at < bytes; at += HUGE_BYTES)
        assert_false(is_mapped(memory + at, &wished));
}

#ifdef __SANITIZE_ADDRESS__
/* What is beyond the end is found, and only that, and only as long as it is there. */
static void test_end(void **state)
{
    static const size_t sizes[] = {HUGE_BYTES, HUGE_BYTES + 8, 5 * HUGE_BYTES - 4096};
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *memory = huge_alloc(sizes[i]);
        assert_non_null(memory);
        assert_null(__asan_region_is_poisoned(memory, sizes[i]));
        assert_ptr_equal(__asan_region_is_poisoned(memory, sizes[i] + 4096), memory + sizes[i]);
        huge_free(memory, sizes[i]);
        assert_null(__asan_region_is_poisoned(memory, sizes[i] + 4096));
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_pages),
#ifdef __SANITIZE_ADDRESS__
        cmocka_unit_test(test_end),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
