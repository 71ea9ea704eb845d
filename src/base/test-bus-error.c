/* test-bus-error.c - behind the end of a file, and what is none of that. */
#include "base/bus-error.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define PAGE 4096u

struct sum {
    const uint8_t *bytes;
    volatile size_t at;
    size_t end;
    volatile unsigned sum;
};

static void add(void *arg)
{
    struct sum *s = arg;
    for (; s->at < s->end; s->at = s->at + 1)
        s->sum = s->sum + s->bytes[s->at];
}

/* A page of three has been taken from the file: all that is before it is read, again and again. */
static void behind_the_end(void **state)
{
    int fd = memfd_create("test", 0);
    uint8_t page[PAGE];
    memset(page, 1, sizeof(page));
    assert_int_equal(pwrite(fd, page, PAGE, 0), PAGE);
    const uint8_t *bytes = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(bytes, MAP_FAILED);
    for (int i = 0; i < 3; i++) {
        struct sum whole = {.bytes = bytes, .end = PAGE}, more = {.bytes = bytes, .end = 3 * PAGE};
        assert_true(bus_error_guard(add, &whole));
        assert_int_equal(whole.sum, PAGE);
        assert_false(bus_error_guard(add, &more));
        assert_int_equal(more.at, PAGE);
        assert_int_equal(more.sum, PAGE);
    }
    munmap((void *)(uintptr_t)bytes, 3 * PAGE);
    close(fd);
}

static void send_one(void *arg)
{
    (void)arg;
    raise(SIGBUS);
}

/* One that somebody sends ends the process, in a guard or not. */
static void sent(void **state)
{
    for (int guarded = 0; guarded < 2; guarded++) {
        struct sum none = {0};
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            bus_error_guard(add, &none);
            if (guarded)
                bus_error_guard(send_one, NULL);
            else
                send_one(NULL);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(behind_the_end), cmocka_unit_test(sent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
