/* test-inject.c - system calls in another process: it does not notice, whatever it was doing and
 * however the injecting ends. */
#include "base/mono.h"
#include "guest/inject.h"
#include "guest/monitor.h"
#include "guest/test-qemu.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

/* What the victim and we share. */
struct shared {
    atomic_ulong rounds, signals;
    atomic_int wrong, quit;
    char why[128];
};

static struct shared *s;

struct victim {
    pid_t pid;
    int pidfd;
};

static void say_wrong(const char *why, long value)
{
    if (!atomic_exchange(&s->wrong, 1))
        snprintf(s->why, sizeof(s->why), "%s: %ld", why, value);
}

static struct victim start(void (*run)(void))
{
    struct victim v;

    memset(s, 0, sizeof(*s));
    v.pid = fork();
    if (v.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run();
        _exit(0);
    }
    assert_true(v.pid > 0);
    v.pidfd = (int)syscall(SYS_pidfd_open, v.pid, 0);
    while (!atomic_load(&s->rounds))
        usleep(1000);
    return v;
}

static void end(struct victim *v)
{
    int status;

    atomic_store(&s->quit, 1);
    kill(v->pid, SIGUSR2); /* out of what it waits for */
    if (waitpid(v->pid, &status, 0) == v->pid && !WIFEXITED(status))
        say_wrong("the victim was killed by signal", WTERMSIG(status));
    close(v->pidfd);
    if (atomic_load(&s->wrong))
        fail_msg("%s", s->why);
}

static int64_t inject_one(const struct victim *v, long number, uint64_t arg)
{
    const uint64_t args[6] = {arg};
    struct inject *inject;
    int64_t result = -1;
    struct why why = {};

    int r = inject_begin(v->pid, v->pidfd, &inject, &why);
    if (r == 0) {
        r = inject_call(inject, number, args, &result, &why);
        assert_int_equal(inject_end(inject, &why), 0);
    }
    if (r < 0)
        fail_msg("%d: %s", r, why.text);
    return result;
}

static void check_progress(void)
{
    unsigned long was = atomic_load(&s->rounds);
    uint64_t end_us = mono_us() + 10000000;

    while (atomic_load(&s->rounds) < was + 3 && mono_us() < end_us)
        usleep(1000);
    assert_true(atomic_load(&s->rounds) >= was + 3);
}

/* ---- victims -------------------------------------------------------------------------------- */

static void on_signal(int sig)
{
    atomic_fetch_add(&s->signals, 1);
}

static void catch_signals(void)
{
    const struct sigaction action = {.sa_handler = on_signal};

    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
}

/* Waits as QEMU does. A ppoll that nothing disturbs takes its time and returns 0. */
static void wait_in_ppoll(void)
{
    sigset_t before, after;

    catch_signals();
    sigprocmask(SIG_SETMASK, NULL, &before);
    while (!atomic_load(&s->quit)) {
        struct timespec timeout = {.tv_nsec = 20000000};
        atomic_fetch_add(&s->rounds, 1);
        uint64_t begin_us = mono_us();
        int n = ppoll(NULL, 0, &timeout, NULL);
        uint64_t took_us = mono_us() - begin_us;
        if (n < 0 && (errno != EINTR || !atomic_load(&s->signals)))
            say_wrong("ppoll gave", errno);
        if (n == 0 && took_us < 19000)
            say_wrong("ppoll was too short", (long)took_us);
        sigprocmask(SIG_SETMASK, NULL, &after);
        if (memcmp(&before, &after, 8) != 0)
            say_wrong("another signal mask", 0);
    }
}

/* Waits in what the kernel restarts by its own notes (ERESTART_RESTARTBLOCK). */
static void wait_in_nanosleep(void)
{
    catch_signals();
    while (!atomic_load(&s->quit)) {
        struct timespec time = {.tv_nsec = 20000000};
        atomic_fetch_add(&s->rounds, 1);
        uint64_t begin_us = mono_us();
        int r = (int)syscall(SYS_nanosleep, &time, &time);
        uint64_t took_us = mono_us() - begin_us;
        if (r < 0 && !atomic_load(&s->signals))
            say_wrong("nanosleep gave", errno);
        if (r == 0 && (took_us < 19000 || took_us > 2000000))
            say_wrong("nanosleep took", (long)took_us);
    }
}

/* Computes in vector and general registers, and never waits. */
static void compute(void)
{
    double sum[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    unsigned long n = 1;

    catch_signals();
    while (!atomic_load(&s->quit)) {
        unsigned long x = n;
        double y[8];
        memcpy(y, sum, sizeof(y));
        for (unsigned i = 0; i < 100000; i++) {
            x = x * 6364136223846793005UL + 1442695040888963407UL;
            for (unsigned j = 0; j < 8; j++)
                y[j] = y[j] * 1.0000001 + (double)j;
        }
        unsigned long again = n;
        double z[8];
        memcpy(z, sum, sizeof(z));
        for (unsigned i = 0; i < 100000; i++) {
            again = again * 6364136223846793005UL + 1442695040888963407UL;
            for (unsigned j = 0; j < 8; j++)
                z[j] = z[j] * 1.0000001 + (double)j;
        }
        if (x != again || memcmp(y, z, sizeof(y)) != 0)
            say_wrong("computed wrongly in round", (long)n);
        n = x;
        atomic_fetch_add(&s->rounds, 1);
    }
}

/* ---- what must hold ------------------------------------------------------------------------- */

static void many(void (*run)(void), unsigned n)
{
    struct victim v = start(run);

    for (unsigned i = 0; i < n; i++)
        assert_int_equal(inject_one(&v, SYS_getpid, 0), v.pid);
    check_progress();
    assert_int_equal(inject_one(&v, SYS_close, 12345), -EBADF);
    end(&v);
}

static void two_hundred_in_ppoll(void **state)
{
    many(wait_in_ppoll, 200);
}

static void two_hundred_in_a_restart(void **state)
{
    many(wait_in_nanosleep, 200);
}

static void two_hundred_while_computing(void **state)
{
    many(compute, 200);
}

static void *send_signals(void *arg)
{
    const struct victim *v = arg;

    while (!atomic_load(&s->quit)) {
        kill(v->pid, SIGUSR1);
        usleep(300);
    }
    return NULL;
}

/* None is lost, none comes into the injected call, EINTR only where one came. */
static void under_signals(void **state)
{
    struct victim v = start(wait_in_ppoll);
    pthread_t thread;

    pthread_create(&thread, NULL, send_signals, &v);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(inject_one(&v, SYS_getpid, 0), v.pid);
    unsigned long was = atomic_load(&s->signals);
    usleep(50000);
    assert_true(atomic_load(&s->signals) > was);
    check_progress();
    atomic_store(&s->quit, 1);
    pthread_join(thread, NULL);
    end(&v);
}

/* The tracer ends after so many of its steps: by itself, as at a SIGKILL. */
static void die_injecting(const struct victim *v, unsigned step)
{
    const uint64_t args[6] = {};
    struct inject *inject;
    struct why why = {};
    int64_t result;

    pid_t pid = fork();
    if (pid == 0) {
        if (step == 0) { /* killed anywhere */
            for (;;) {
                if (inject_begin(v->pid, v->pidfd, &inject, &why) == 0) {
                    inject_call(inject, SYS_getppid, args, &result, &why);
                    inject_call(inject, SYS_getppid, args, &result, &why);
                    inject_end(inject, &why);
                }
            }
        }
        if (inject_begin(v->pid, v->pidfd, &inject, &why) < 0)
            _exit(2);
        if (step >= 2)
            inject_call(inject, SYS_getppid, args, &result, &why);
        if (step >= 3)
            inject_call(inject, SYS_getppid, args, &result, &why);
        _exit(0);
    }
    if (step == 0) {
        usleep((useconds_t)(1000 + (unsigned)rand() % 3000));
        kill(pid, SIGKILL);
    }
    int status;
    waitpid(pid, &status, 0);
    if (step)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void tracer_dies(void (*run)(void))
{
    struct victim v = start(run);

    for (unsigned i = 0; i < 20; i++)
        for (unsigned step = 0; step <= 3; step++) {
            atomic_store(&s->signals, 1); /* an EINTR is allowed here */
            die_injecting(&v, step);
        }
    check_progress();
    assert_int_equal(inject_one(&v, SYS_getpid, 0), v.pid); /* the next one finds it in order */
    check_progress();
    end(&v);
}

static void tracer_dies_in_ppoll(void **state)
{
    tracer_dies(wait_in_ppoll);
}

static void tracer_dies_in_a_restart(void **state)
{
    tracer_dies(wait_in_nanosleep);
}

static void tracer_dies_while_computing(void **state)
{
    tracer_dies(compute);
}

static void victim_dies(void **state)
{
    const uint64_t args[6] = {};
    struct inject *inject;
    int64_t result;
    struct why why;

    for (unsigned step = 0; step < 3; step++) {
        struct victim v = start(wait_in_ppoll);
        int r = step ? inject_begin(v.pid, v.pidfd, &inject, &why) : 0;
        assert_int_equal(r, 0);
        kill(v.pid, SIGKILL);
        if (step == 0) {
            struct pollfd fd = {.fd = v.pidfd, .events = POLLIN};
            poll(&fd, 1, 5000);
            assert_int_equal(inject_begin(v.pid, v.pidfd, &inject, &why), -ESRCH);
        } else {
            if (step == 2)
                assert_int_equal(inject_call(inject, SYS_getpid, args, &result, &why), -ESRCH);
            assert_int_equal(inject_end(inject, &why), -ESRCH);
        }
        waitpid(v.pid, NULL, 0);
        close(v.pidfd);
    }
}

static void somebody_else_traces(void **state)
{
    struct victim v = start(wait_in_ppoll);
    struct inject *inject;
    struct why why;
    int ready[2];
    char c;

    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        c = ptrace(PTRACE_SEIZE, v.pid, 0, 0) == 0;
        (void)!write(ready[1], &c, 1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(c, 1);
    assert_int_equal(inject_begin(v.pid, v.pidfd, &inject, &why), -EBUSY);
    assert_non_null(strstr(why.text, "gdb"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(inject_one(&v, SYS_getpid, 0), v.pid);
    end(&v);
}

/* As another user: a sentence with the mend, and the victim has felt nothing. */
static void no_right_to_trace(void **state)
{
    struct victim v = start(wait_in_ppoll);
    struct inject *inject;
    struct why why = {};
    int status;

    if (getuid() != 0) {
        end(&v);
        skip();
    }
    pid_t pid = fork();
    if (pid == 0) {
        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
            _exit(3);
        int r = inject_begin(v.pid, v.pidfd, &inject, &why);
        _exit(r == -EPERM && strstr(why.text, "ptrace_scope") ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    check_progress();
    end(&v);
}

/* The pidfd is of one that has ended, the number of one that lives. */
static void reused_number(void **state)
{
    struct victim v = start(wait_in_ppoll), other = v;
    struct inject *inject;
    struct why why;

    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    other.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    waitpid(pid, NULL, 0);
    assert_int_equal(inject_begin(v.pid, other.pidfd, &inject, &why), -ESRCH);
    close(other.pidfd);
    check_progress();
    assert_int_equal(inject_one(&v, SYS_getpid, 0), v.pid); /* it was let go */
    end(&v);
}

/* The thread that called is not left its tracer. */
static void once(void **state)
{
    struct victim v = start(wait_in_ppoll);
    const uint64_t args[6] = {};
    int64_t result = 0;
    struct why why;

    assert_int_equal(inject_once(v.pid, v.pidfd, SYS_getpid, args, &result, &why), 0);
    assert_int_equal(result, v.pid);
    assert_int_equal(inject_one(&v, SYS_getpid, 0), v.pid);
    end(&v);
}

/* ---- a real QEMU ---------------------------------------------------------------------------- */

static void two_hundred_in_qemu(void **state)
{
    const char *const args[] = {
        "-machine", "q35",      "-m",
        "16",       "-sandbox", "on,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        NULL};
    struct test_qemu q;
    struct why why;
    char status[32];

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    struct victim v = {q.pid, monitor_pidfd(m)};
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(inject_one(&v, SYS_getpid, 0), q.pid);
        assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
        assert_string_equal(status, "running");
    }
    for (unsigned i = 0; i < 40; i++) {
        die_injecting(&v, i % 4);
        assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
    }
    monitor_close(m);
    test_qemu_end(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_hundred_in_ppoll),
        cmocka_unit_test(two_hundred_in_a_restart),
        cmocka_unit_test(two_hundred_while_computing),
        cmocka_unit_test(under_signals),
        cmocka_unit_test(tracer_dies_in_ppoll),
        cmocka_unit_test(tracer_dies_in_a_restart),
        cmocka_unit_test(tracer_dies_while_computing),
        cmocka_unit_test(victim_dies),
        cmocka_unit_test(somebody_else_traces),
        cmocka_unit_test(no_right_to_trace),
        cmocka_unit_test(reused_number),
        cmocka_unit_test(once),
        cmocka_unit_test(two_hundred_in_qemu),
    };
    s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return s == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
