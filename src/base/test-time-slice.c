/* test-time-slice.c - a thread's time slice is its own, and of the threads that it starts. */
#include "base/time-slice.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define SLICE_NS 100000
#define SKIPPED  77

struct attributes { /* the kernel's, as it was at first */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static struct attributes look(void)
{
    struct attributes a = {.size = sizeof(a)};
    assert_int_equal(syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0), 0);
    return a;
}

static void *look_in_thread(void *arg)
{
    *(struct attributes *)arg = look();
    return NULL;
}

static struct attributes look_at_new_thread(void)
{
    struct attributes a;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look_in_thread, &a), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return a;
}

static void assert_others_same(struct attributes a, struct attributes before)
{
    a.runtime = before.runtime;
    assert_memory_equal(&a, &before, sizeof(a));
}

static void slice(void **state)
{
    struct attributes before = look();
    assert_int_not_equal(before.runtime, SLICE_NS);
    assert_int_equal(time_slice_set(SLICE_NS), 0);
    assert_int_equal(look().runtime, SLICE_NS);
    assert_others_same(look(), before);
    assert_int_equal(look_at_new_thread().runtime, SLICE_NS);
    assert_int_equal(time_slice_set(0), 0);
    assert_int_equal(look().runtime, before.runtime);
    assert_others_same(look(), before);
    assert_int_not_equal(look_at_new_thread().runtime, SLICE_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(slice)};
    struct attributes a = {.size = sizeof(a)};

    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0 || !a.runtime) {
        puts("this kernel tells no time slices (Linux 6.12 or later does), or has none for this "
             "policy");
        return SKIPPED;
    }
    if (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH) {
        printf("only threads of the policies OTHER and BATCH have slices of their own, this one is "
               "of policy %u\n",
               a.policy);
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("time-slice", tests, NULL, NULL);
}
