/* test-domain.c - domains of libvirt, with the pretended ones of its own test driver: who is found,
 * what is refused with which sentence, and that no call holds anybody up beyond its deadline.
 * tests/system/libvirt-machine has real ones. */
#include "base/mono.h"
#include "guest/domain.h"
#include "guest/monitor.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LIMIT_US 20000000

static struct domain *open_test(void)
{
    struct domain *d = NULL;
    struct why why = {};

    setenv("LIBVIRT_DEFAULT_URI", "test:///default", 1);
    if (domain_open("test", mono_us() + LIMIT_US, &d, &why) < 0)
        fail_msg("%s", why.text);
    return d;
}

static void refuses(const char *uri, const char *name, int code, const char *words)
{
    struct domain *d = NULL;
    struct why why = {};

    setenv("LIBVIRT_DEFAULT_URI", uri, 1);
    assert_int_equal(domain_open(name, mono_us() + LIMIT_US, &d, &why), code);
    assert_null(d);
    if (!strstr(why.text, words))
        fail_msg("\"%s\" does not say \"%s\"", why.text, words);
}

static void finds(void **state)
{
    struct domain *d = open_test(), *same = NULL;
    struct why why = {};

    assert_string_equal(domain_name(d), "test");
    assert_int_equal(strlen(domain_uuid(d)), 36);
    assert_int_equal(domain_open(domain_uuid(d), mono_us() + LIMIT_US, &same, &why), 0);
    assert_string_equal(domain_name(same), "test");
    domain_close(same);
    domain_close(d);
    domain_close(NULL);
}

static void says_what_is_missing(void **state)
{
    char name[300];

    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    refuses("test:///default", "nosuch", -ENOENT, "virsh list --all");
    refuses("test:///default", name, -ENOENT, "299 characters");
    refuses("qemu+unix:///system?socket=/nonexistent/sock", "test", -EHOSTDOWN, "start it");
    refuses("nosuch:///system", "test", -EHOSTDOWN, "LIBVIRT_DEFAULT_URI");
}

/* What libvirt refuses was not done, and the next command is made all the same. */
static void refuses_commands(void **state)
{
    struct domain *d = open_test();
    struct why why = {};
    char *answer = NULL;

    for (int i = 0; i < 3; i++) {
        assert_int_equal(domain_send(d, "{\"execute\":\"query-status\"}", i ? 0 : -1, &why), 0);
        assert_int_equal(domain_receive(d, mono_us() + LIMIT_US, &answer, &why), -EPROTO);
        assert_non_null(strstr(why.text, "libvirt refuses"));
        assert_null(answer);
    }
    domain_close(d);
}

/* The deadline passes while libvirt still works on it, or did not even begin: the line is left, and
 * another one serves what comes next. */
static void is_not_held_up(void **state)
{
    struct domain *d = open_test();
    struct why why = {};
    char *answer = NULL;

    for (int i = 0; i < 50; i++) {
        assert_int_equal(domain_send(d, "{}", 0, &why), 0);
        int r = domain_receive(d, mono_us() + (uint64_t)i % 3, &answer, &why);
        assert_true(r == -ETIMEDOUT || r == -EPROTO);
    }
    assert_int_equal(domain_send(d, "{}", -1, &why), 0);
    assert_int_equal(domain_receive(d, mono_us() + LIMIT_US, &answer, &why), -EPROTO);
    assert_int_equal(domain_send(d, "{}", -1, &why), 0);
    domain_give_up(d);
    /* Closed while a command is under way. */
    assert_int_equal(domain_send(d, "{}", -1, &why), 0);
    domain_close(d);
}

/* A domain whose QEMU does not get what is sent there is none that can be attached. */
static void is_no_monitor(void **state)
{
    struct monitor *m = NULL;
    struct why why = {};

    setenv("LIBVIRT_DEFAULT_URI", "test:///default", 1);
    assert_int_equal(monitor_open(MONITOR_LIBVIRT "test", mono_us() + LIMIT_US, &m, &why), -EPROTO);
    assert_null(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds),
        cmocka_unit_test(says_what_is_missing),
        cmocka_unit_test(refuses_commands),
        cmocka_unit_test(is_not_held_up),
        cmocka_unit_test(is_no_monitor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
