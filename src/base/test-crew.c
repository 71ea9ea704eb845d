/* test-crew.c - each number is called once, all have returned when crew_run() does, and they are
 * at work at the same time. */
#include "base/crew.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#define MAX 4u

struct work {
    unsigned n;
    atomic_uint calls[MAX], begun;
    atomic_bool together;
    unsigned plain[MAX]; /* not atomic: crew_run() makes it seen */
};

static void do_work(void *arg, unsigned i)
{
    struct work *w = arg;

    atomic_fetch_add(&w->calls[i], 1);
    w->plain[i]++;
    atomic_fetch_add(&w->begun, 1);
    for (int tries = 0; tries < 5000 && atomic_load(&w->begun) < w->n; tries++)
        usleep(1000);
    if (atomic_load(&w->begun) == w->n)
        atomic_store(&w->together, true);
}

static void test_all_are_called(void **state)
{
    struct crew *crew;

    (void)state;
    assert_int_equal(crew_new(MAX, &crew), 0);
    assert_in_range(crew_size(crew), 1, MAX);
    for (unsigned round = 0; round < 2000; round++)
        for (unsigned n = 1; n <= crew_size(crew); n++) {
            struct work w = {.n = n};
            crew_run(crew, n, do_work, &w);
            assert_true(w.together);
            for (unsigned i = 0; i < MAX; i++) {
                assert_int_equal(w.calls[i], i < n);
                assert_int_equal(w.plain[i], i < n);
            }
        }
    crew_free(crew);
}

static void test_alone(void **state)
{
    struct work w = {.n = 1};
    struct crew *crew;

    (void)state;
    assert_int_equal(crew_new(1, &crew), 0);
    assert_int_equal(crew_size(crew), 1);
    crew_run(crew, 1, do_work, &w);
    assert_int_equal(w.plain[0], 1);
    crew_free(crew);
    crew_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_are_called),
        cmocka_unit_test(test_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
