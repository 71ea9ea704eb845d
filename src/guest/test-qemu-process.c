/* test-qemu-process.c - programs that come up, do not start, or stay away: what is said of them,
 * and that nothing of them is left. */
#include "guest/qemu-process.h"

#include "base/mono.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct qemu_start start_script(const char *script)
{
    char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", (char *)(uintptr_t)script,
                    NULL};
    struct qemu_start start;
    struct why why = {};

    assert_int_equal(qemu_start(argv, NULL, &start, &why), 0);
    return start;
}

/* What goes into the background gives up its outputs when it is up. */
static void comes_up(void **state)
{
    struct qemu_start start =
        start_script("(sleep 0.2; exec >/dev/null 2>&1; sleep 1) & echo up; exit 0");
    struct why why = {};

    uint64_t begin_us = mono_us();
    assert_int_equal(qemu_wait(&start, &why), 0);
    assert_in_range(mono_us() - begin_us, 100000, 60000000);
    /* It was up in time, and nobody looked. */
    start = start_script("exit 0");
    usleep(300000);
    start.end_us = 0;
    assert_int_equal(qemu_wait(&start, &why), 0);
}

static void does_not_start(void **state)
{
    char *missing[] = {(char *)(uintptr_t) "no-such-qemu", NULL};
    struct qemu_start start = start_script("echo no such machine >&2; exit 1");
    struct why why = {};

    assert_int_equal(qemu_wait(&start, &why), -EIO);
    assert_string_equal(why.text, "QEMU did not start: no such machine");
    start = start_script("kill -KILL $$");
    assert_int_equal(qemu_wait(&start, &why), -EIO);
    assert_non_null(strstr(why.text, "signal 9"));
    assert_int_equal(qemu_start(missing, NULL, &start, &why), -ENOENT);
}

/* As one whose socket waits for a client: in the background already, in a session of its own. */
static void stays_away(void **state)
{
    char path[] = "/tmp/test-qemu-process.XXXXXX", script[256];
    int fd = mkstemp(path), pid = 0;
    struct why why = {};

    assert_true(fd >= 0);
    close(fd);
    snprintf(script, sizeof(script),
             "setsid sh -c 'echo waiting; echo $$ >%s; sleep 1000' & sleep 1000", path);
    struct qemu_start start = start_script(script);
    start.end_us = mono_us() + 1500000;
    assert_int_equal(qemu_wait(&start, &why), -ETIMEDOUT);
    assert_non_null(strstr(why.text, "in time"));
    assert_non_null(strstr(why.text, "waiting"));
    FILE *file = fopen(path, "re");
    assert_true(file && fscanf(file, "%d", &pid) == 1 && pid > 1);
    fclose(file);
    unlink(path);
    /* Nobody may have asked for it yet. */
    snprintf(script, sizeof(script), "/proc/%d/exe", pid);
    assert_int_equal(readlink(script, path, sizeof(path)), -1);
}

static void *cancel_soon(void *cancel)
{
    usleep(100000);
    atomic_store((atomic_bool *)cancel, true);
    return NULL;
}

/* Cancelled while it is waited for; and when it is up, and nobody looked. */
static void is_cancelled(void **state)
{
    const char *scripts[] = {"setsid sleep 1000 & sleep 1000", "yes"};
    struct why why = {};
    pthread_t thread;

    for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++) {
        struct qemu_start start = start_script(scripts[i]);
        atomic_bool cancel = false;
        start.cancel = &cancel;
        uint64_t begin_us = mono_us();
        assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel), 0);
        assert_int_equal(qemu_wait(&start, &why), -ECANCELED);
        assert_in_range(mono_us() - begin_us, 100000, 60000000);
        pthread_join(thread, NULL);
    }
    struct qemu_start start = start_script("exit 0");
    atomic_bool cancel = true;
    usleep(300000);
    start.cancel = &cancel;
    assert_int_equal(qemu_wait(&start, &why), 0);
}

/* It does not come up, and has much to say. */
static void goes_on_talking(void **state)
{
    struct qemu_start start = start_script("yes & yes");
    struct why why = {};

    start.end_us = mono_us() + 100000;
    assert_int_equal(qemu_wait(&start, &why), -ETIMEDOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(comes_up), cmocka_unit_test(does_not_start),
                                       cmocka_unit_test(stays_away), cmocka_unit_test(is_cancelled),
                                       cmocka_unit_test(goes_on_talking)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
