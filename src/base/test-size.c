/* test-size.c - sizes as people write them are read exactly or refused, and print back short. */
#include "base/size.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

static void check(const char *text, int code, uint64_t bytes)
{
    uint64_t got = 77;

    assert_int_equal(size_parse(text, &got), code);
    assert_true(got == (code ? 77 : bytes)); /* untouched on failure */
}

static void reads_units(void **state)
{
    check("0", 0, 0);
    check("4096", 0, 4096);
    check("512M", 0, 512ULL << 20);
    check("10g", 0, 10ULL << 30);
    check("1T", 0, 1ULL << 40);
    check("128P", 0, 1ULL << 57);
    check("15E", 0, 15ULL << 60);
    check("64KiB", 0, 64 << 10);
    check("64kb", 0, 64 << 10);
    check("100B", 0, 100);
    check("1.5G", 0, 3ULL << 29);
    check("0.5K", 0, 512);
    check("18446744073709551615", 0, UINT64_MAX);
}

static void refuses_the_rest(void **state)
{
    static const char *const bad[] = {"",    " ",    "-1",   "+1",   "G",   "1Q",  "1 G",
                                      "1G ", "0x10", "1e3",  "1.",   ".5G", "1.5", "1..5G",
                                      "1GG", "1iB",  "0.3K", "1,5G", "1Gi", "nan", "1.5.5G"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        check(bad[i], -EINVAL, 0);
    check("18446744073709551616", -ERANGE, 0);
    check("16E", -ERANGE, 0);
    check("99999999999999999999999999999999999999999999999999999", -ERANGE, 0);
    check("16777216T", -ERANGE, 0);
}

static void decimals_only_in_the_api(void **state)
{
    uint64_t got = 77;

    assert_int_equal(size_parse_decimal("10737418240", &got), 0);
    assert_true(got == 10ULL << 30);
    assert_int_equal(size_parse_decimal("10G", &got), -EINVAL);
    assert_int_equal(size_parse_decimal("", &got), -EINVAL);
    assert_int_equal(size_parse_decimal("-5", &got), -EINVAL);
    assert_int_equal(size_parse_decimal("18446744073709551616", &got), -ERANGE);
}

static void prints_short(void **state)
{
    char text[SIZE_TEXT_CHARS];

    assert_string_equal(size_format(0, text), "0");
    assert_string_equal(size_format(999, text), "999");
    assert_string_equal(size_format(1000, text), "1K");
    assert_string_equal(size_format(4096, text), "4K");
    assert_string_equal(size_format(1536, text), "1.5K");
    assert_string_equal(size_format(10ULL << 30, text), "10G");
    assert_string_equal(size_format(1ULL << 57, text), "128P");
    assert_string_equal(size_format(UINT64_MAX, text), "16E");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_units),
        cmocka_unit_test(refuses_the_rest),
        cmocka_unit_test(decimals_only_in_the_api),
        cmocka_unit_test(prints_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
