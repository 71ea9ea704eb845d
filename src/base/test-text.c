/* test-text.c - text that XML-RPC can carry, and what becomes of other text. */
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROCKET "\xf0\x9f\x9a\x80"

static void assert_carried(const char *text, const char *as)
{
    char *carried = text_carried(text);

    assert_non_null(carried);
    assert_string_equal(carried, as);
    assert_null(text_refused(carried));
    if (!strcmp(text, as))
        assert_null(text_refused(text));
    else
        assert_non_null(text_refused(text));
    free(carried);
}

static void keeps_what_can_be_carried(void **state)
{
    assert_carried("", "");
    assert_carried("a\tb\nc\r \x7f", "a\tb\nc\r \x7f");
    assert_carried("\xc2\x80 \xc3\xbc \xdf\xbf", "\xc2\x80 \xc3\xbc \xdf\xbf");
    assert_carried("\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbd",
                   "\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbd");
}

static void escapes_what_cannot(void **state)
{
    assert_carried("x" ROCKET "y", "x\\xf0\\x9f\\x9a\\x80y");
    assert_carried("\xff", "\\xff");
    assert_carried("t\xebst", "t\\xebst");
    assert_carried("\x01\x1b[0m", "\\x01\\x1b[0m");
    assert_carried("\xef\xbf\xbe", "\\xef\\xbf\\xbe"); /* U+FFFE */
    assert_carried("\xed\xa0\x80", "\\xed\\xa0\\x80"); /* a surrogate */
    assert_carried("\xc0\xaf", "\\xc0\\xaf");          /* overlong */
    assert_carried("\xe0\x80\xaf", "\\xe0\\x80\\xaf");
    assert_carried("\xc3\xbc\x80", "\xc3\xbc\\x80");
    assert_carried("\xc3", "\\xc3"); /* cut */
    assert_carried("\xe2\x82", "\\xe2\\x82");
    assert_carried("\xf8\x88\x80\x80\x80", "\\xf8\\x88\\x80\\x80\\x80");
}

static void cuts_between_characters(void **state)
{
    assert_int_equal(text_cut("abc", 2), 2);
    assert_int_equal(text_cut("abc", 3), 3);
    assert_int_equal(text_cut("abc", 9), 9);
    assert_int_equal(text_cut("a\xc3\xbc", 2), 1);
    assert_int_equal(text_cut("a\xc3\xbc", 3), 3);
    assert_int_equal(text_cut("a" ROCKET, 4), 1);
    assert_int_equal(text_cut("\x80\x80\x80\x80\x80\x80", 5), 2); /* no UTF-8 at all */
    assert_int_equal(text_cut("\x80\x80", 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keeps_what_can_be_carried),
                                       cmocka_unit_test(escapes_what_cannot),
                                       cmocka_unit_test(cuts_between_characters)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
