/* test-huge.c - huge.c. */
#include "base/huge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

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

#ifndef __SANITIZE_ADDRESS__
/* A field of the mapping that holds address, in kB, or -1. */
static long field_of_mapping(const void *address, const char *name)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    char line[512];
    bool here = false;
    long kb = -1;
    while (fgets(line, sizeof(line), f)) {
        uintptr_t from, to;
        char key[64];
        long value;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = (uintptr_t)address >= from && (uintptr_t)address < to;
        else if (here && sscanf(line, "%63[^:]: %ld kB", key, &value) == 2 && !strcmp(key, name))
            kb = value;
    }
    fclose(f);
    return kb;
}

static bool huge_pages_are_given(void)
{
    char text[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!f)
        return false;
    bool given = fgets(text, sizeof(text), f) && !strstr(text, "[never]");
    fclose(f);
    return given;
}

/* Where the system gives huge pages, the memory is in them; and all of it goes back. */
static void test_pages(void **state)
{
    size_t bytes = 8 * HUGE_BYTES;
    (void)state;
    uint8_t *memory = huge_alloc(bytes);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % HUGE_BYTES, 0);
    memset(memory, 1, bytes);
    if (huge_pages_are_given())
        assert_true(field_of_mapping(memory, "AnonHugePages") >= (long)(HUGE_BYTES >> 10));
    huge_free(memory, bytes);
    assert_int_equal(field_of_mapping(memory + bytes / 2, "Size"), -1);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test(test_pages),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
