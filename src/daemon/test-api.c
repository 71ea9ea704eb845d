/* test-api.c - texts and faults of the control API, whatever bytes they have. */
#include "daemon/api.h"

#include "daemon/fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROCKET "\xf0\x9f\x9a\x80"

static void assert_text(xmlrpc_value *value, const char *text)
{
    const char *got;
    xmlrpc_env env;

    xmlrpc_env_init(&env);
    assert_non_null(value);
    xmlrpc_read_string(&env, value, &got);
    assert_false(env.fault_occurred);
    assert_string_equal(got, text);
    free((void *)(uintptr_t)got);
    xmlrpc_env_clean(&env);
}

static void carries_any_text(void **state)
{
    static const char *const texts[][2] = {{"a\xc3\xbc", "a\xc3\xbc"},
                                           {ROCKET, "\\xf0\\x9f\\x9a\\x80"},
                                           {"\xff", "\\xff"},
                                           {NULL, ""}};
    xmlrpc_env env;

    xmlrpc_env_init(&env);
    xmlrpc_value *strct = xmlrpc_struct_new(&env), *array = xmlrpc_array_new(&env), *value;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        api_put_text(&env, strct, "key", texts[i][0]);
        api_append(&env, array, api_string(&env, texts[i][0]));
        assert_false(env.fault_occurred);
        xmlrpc_struct_find_value(&env, strct, "key", &value);
        assert_text(value, texts[i][1]);
        xmlrpc_DECREF(value);
        xmlrpc_array_read_item(&env, array, (unsigned)i, &value);
        assert_text(value, texts[i][1]);
        xmlrpc_DECREF(value);
    }
    xmlrpc_DECREF(strct);
    xmlrpc_DECREF(array);
    xmlrpc_env_clean(&env);
}

static void puts_nothing_after_a_fault(void **state)
{
    xmlrpc_env env;

    xmlrpc_env_init(&env);
    xmlrpc_value *array = xmlrpc_array_new(&env);
    api_fault(&env, FAULT_BUSY, "busy");
    assert_null(api_string(&env, ROCKET));
    api_append(&env, array, api_string(&env, "text"));
    assert_int_equal(api_count(array), 0);
    assert_int_equal(env.fault_code, FAULT_BUSY);
    xmlrpc_DECREF(array);
    xmlrpc_env_clean(&env);
}

/* A fault that cannot be carried is no answer at all. */
static void faults_can_be_carried(void **state)
{
    xmlrpc_env env;

    xmlrpc_env_init(&env);
    api_fault(&env, FAULT_NOT_FOUND, "no \"%.3s\" of \"%s\" and %s", "\xc3\xbc\xc3\xbc", ROCKET,
              "\xff");
    assert_int_equal(env.fault_code, FAULT_NOT_FOUND);
    assert_string_equal(env.fault_string,
                        "no \"\xc3\xbc\\xc3\" of \"\\xf0\\x9f\\x9a\\x80\" and \\xff");
    xmlrpc_env_clean(&env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(carries_any_text),
                                       cmocka_unit_test(puts_nothing_after_a_fault),
                                       cmocka_unit_test(faults_can_be_carried)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
