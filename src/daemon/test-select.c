/* test-select.c - names and ranges of versions. */
#include "daemon/select.h"

#include "base/err.h"
#include "image/store.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* By age: not by name. */
static struct version_info versions[] = {
    {.name = "c"}, {.name = "a"}, {.name = "e"}, {.name = "b"}, {.name = "d"}};
#define N (sizeof(versions) / sizeof(versions[0]))

/* What the items mean, as one text; NULL ends the items. */
static int select_text(char *out, struct why *why, const char *const *items)
{
    const char **names = NULL;
    uint32_t n_items = 0, n = 0;

    while (items[n_items])
        n_items++;
    *out = '\0';
    int r = select_versions("w", versions, N, items, n_items, &names, &n, why);
    for (uint32_t i = 0; r == 0 && i < n; i++)
        strcat(out, names[i]);
    free(names);
    return r;
}

#define assert_means(text, ...)                                                                    \
    do {                                                                                           \
        assert_int_equal(select_text(out, &why, (const char *const[]){__VA_ARGS__, NULL}), 0);     \
        assert_string_equal(out, text);                                                            \
    } while (0)
#define assert_refused(code, ...)                                                                  \
    assert_int_equal(select_text(out, &why, (const char *const[]){__VA_ARGS__, NULL}), code)

static void names_and_ranges(void **state)
{
    struct why why;
    char out[64];

    assert_means("a", "a");
    assert_means("ad", "d", "a", "d");
    assert_means("aeb", "a..b");
    assert_means("ca", "..a");
    assert_means("bd", "b..");
    assert_means("caebd", "..");
    assert_means("e", "e..e");
    assert_means("caed", "..e", "d", "a..e");
    assert_int_equal(select_text(out, &why, (const char *const[]){NULL}), 0);
}

static void what_is_not_there(void **state)
{
    char out[64], longer[200];
    struct why why;

    assert_refused(ERR_NO_VERSION, "x");
    assert_non_null(strstr(why.text, "no version \"x\""));
    assert_refused(ERR_NO_VERSION, "a", "x..b");
    assert_refused(ERR_NO_VERSION, "a..x");
    assert_refused(ERR_NO_VERSION, "a...b"); /* ".b" is no version */
    assert_refused(-EINVAL, "b..a");
    assert_non_null(strstr(why.text, "w@a..b"));
    memset(longer, 'y', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    memcpy(longer + 150, "..a", 3);
    assert_refused(ERR_NO_VERSION, longer);
}

static void once_each(void **state)
{
    const char *names[] = {"b", "a", "b", "c", "a"};

    assert_int_equal(select_unique(names, 5), 3);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[2], "c");
    assert_int_equal(select_unique(names, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_ranges),
        cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(once_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
