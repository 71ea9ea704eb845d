/* test-monitor.c - sessions with a QEMU, and with what is none: slow, lying, dying, busy. */
#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/monitor.h"
#include "guest/test-qemu.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, "             \
    "\"package\": \"\"}, \"capabilities\": []}}\r\n"

/* ---- what only looks like a QEMU ------------------------------------------------------------ */

/* Says each line when one has come, the first at once; a line "." hangs up, "~" waits. */
struct fake {
    int fd;
    const char *const *lines;
    pthread_t thread;
};

static void *run_fake(void *arg)
{
    const struct fake *f = arg;
    char text[4096];

    for (const char *const *line = f->lines; *line; line++) {
        if (line != f->lines && recv(f->fd, text, sizeof(text), 0) <= 0)
            return NULL;
        if (!strcmp(*line, "."))
            shutdown(f->fd, SHUT_RDWR);
        else if (strcmp(*line, "~") != 0)
            send(f->fd, *line, strlen(*line), MSG_NOSIGNAL);
    }
    return NULL;
}

static int open_fake(struct fake *f, const char *const *lines, unsigned ms, struct monitor **ret,
                     struct why *why)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *f = (struct fake){.fd = fds[1], .lines = lines};
    assert_int_equal(pthread_create(&f->thread, NULL, run_fake, f), 0);
    *ret = NULL;
    return monitor_attach(fds[0], 0, test_end_us(ms), ret, why);
}

static void end_fake(struct fake *f, struct monitor *m)
{
    monitor_close(m);
    pthread_join(f->thread, NULL);
    close(f->fd);
}

#define READY GREETING, "{\"return\": {}, \"id\": 1}\r\n"

static void answers_and_events(void **state)
{
    const char *const lines[] = {
        READY,
        "{\"event\": \"STOP\"}\r\n{\"event\": \"RESUME\", \"data\": {\"a\": 1}}\r\n"
        "{\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n{\"event\": \"STOP\"}\r\n",
        "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"not today\"}}\r\n",
        "{\"return\": \"three\\r\\n\", \"id\": 4}\n", NULL};
    _cleanup_free_ char *text = NULL;
    struct monitor *m;
    struct why why;
    struct fake f;
    char status[32];
    json_t *data;

    assert_int_equal(open_fake(&f, lines, 5000, &m, &why), 0);
    assert_int_equal(monitor_version(m), 100002);
    assert_int_equal(monitor_pid(m), getpid());
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
    assert_string_equal(status, "paused");
    assert_int_equal(monitor_wait_event(m, "RESUME", test_end_us(5000), &data, &why), 0);
    assert_int_equal(json_integer_value(json_object_get(data, "a")), 1);
    json_decref(data);
    /* The first STOP was dropped on the way to the RESUME; the second is kept. */
    assert_int_equal(monitor_wait_event(m, "STOP", test_end_us(5000), NULL, &why), 0);
    assert_int_equal(monitor_wait_event(m, "STOP", test_end_us(20), NULL, &why), -ETIMEDOUT);
    assert_int_equal(monitor_run(m, "stop", NULL, test_end_us(5000), NULL, &why), -EPROTO);
    assert_non_null(strstr(why.text, "not today"));
    assert_int_equal(monitor_run_hmp(m, "info x", test_end_us(5000), &text, &why), 0);
    assert_string_equal(text, "three\r\n");
    end_fake(&f, m);
}

/* What is said to a second command after the first had no answer could be the first one's. */
static void late_is_dead(void **state)
{
    const char *const lines[] = {READY, "~", "{\"return\": {}, \"id\": 2}\r\n", NULL};
    struct monitor *m;
    struct why why;
    struct fake f;

    assert_int_equal(open_fake(&f, lines, 5000, &m, &why), 0);
    uint64_t begin_us = mono_us();
    assert_int_equal(monitor_run(m, "stop", NULL, test_end_us(50), NULL, &why), -ETIMEDOUT);
    assert_in_range(mono_us() - begin_us, 50000, 2000000);
    assert_int_equal(monitor_run(m, "cont", NULL, test_end_us(5000), NULL, &why), -EPIPE);
    assert_int_equal(monitor_wait_event(m, "STOP", test_end_us(50), NULL, &why), -EPIPE);
    end_fake(&f, m);
}

static void check_lie(const char *answer, int code)
{
    const char *const lines[] = {READY, answer, NULL};
    struct monitor *m;
    struct why why = {};
    struct fake f;

    assert_int_equal(open_fake(&f, lines, 5000, &m, &why), 0);
    assert_int_equal(monitor_run(m, "stop", NULL, test_end_us(5000), NULL, &why), code);
    assert_true(*why.text);
    assert_int_equal(monitor_run(m, "stop", NULL, test_end_us(5000), NULL, &why), -EPIPE);
    end_fake(&f, m);
}

static void lies_end_the_session(void **state)
{
    check_lie("{\"return\": {}, \"id\": 3}\r\n", -EPIPE); /* to another command */
    check_lie("{\"return\": {}}\r\n", -EPIPE);
    check_lie("{\"id\": 2}\r\n", -EPIPE);
    check_lie("{\"return\": {}, \"id\": 2\r\n", -EPIPE);
    check_lie("[]\r\n", -EPIPE);
    check_lie(".", -EPIPE);
}

static void no_greeting_no_session(void **state)
{
    static const char refused[] =
        "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n";
    const char *const cases[][3] = {{"220 mail.example.org ESMTP\r\n"},
                                    {"{\"QMP\": {}}\r\n"},
                                    {"[]\r\n"},
                                    {"."},
                                    {GREETING, "{\"return\": {}, \"id\": 9}\r\n[]\r\n"},
                                    {GREETING, "{\"id\": 1, \"error\": {\"desc\": \"no\"}}\r\n"},
                                    {GREETING, refused}};
    struct monitor *m;
    struct why why;
    struct fake f;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(open_fake(&f, cases[i], 5000, &m, &why), -EPROTO);
        assert_null(m);
        end_fake(&f, NULL);
    }
    const char *const silent[][3] = {
        {"~"}, {"{\"return\": {}}\r\n"}, {GREETING, "{\"return\": {}}\r\n"}};
    for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++) {
        assert_int_equal(open_fake(&f, silent[i], 50, &m, &why), -ETIMEDOUT);
        end_fake(&f, NULL);
    }
}

/* An answer to a client that went away comes to the next one. */
static void answers_to_others(void **state)
{
    static const char other[] = "{\"return\": {\"status\": \"x\"}, \"id\": 7}\r\n",
                      failed[] = "{\"id\": \"a\", \"error\": {\"desc\": \"no\"}}\r\n";
    char first[512], second[512];
    const char *const lines[] = {first, second,
                                 "{\"return\": {\"status\": \"running\"}, \"id\": 2}\r\n", NULL};
    struct monitor *m;
    struct why why;
    struct fake f;
    char status[32];

    snprintf(first, sizeof(first), "%s%s%s%s", other, failed, GREETING, other);
    snprintf(second, sizeof(second), "%s{\"event\": \"STOP\"}\r\n{\"return\": {}, \"id\": 1}\r\n",
             failed);
    assert_int_equal(open_fake(&f, lines, 5000, &m, &why), 0);
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
    assert_string_equal(status, "running");
    end_fake(&f, m);
}

/* The client before us went away with its first command under way. */
static void negotiated_by_others(void **state)
{
    const char *const lines[] = {
        GREETING,
        "{\"return\": {}, \"id\": 7}\r\n{\"return\": {}}\r\n"
        "{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"complete\"}}\r\n",
        "{\"return\": {\"status\": \"running\"}, \"id\": 2}\r\n", NULL};
    struct monitor *m;
    struct why why;
    struct fake f;
    char status[32];

    assert_int_equal(open_fake(&f, lines, 5000, &m, &why), 0);
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
    end_fake(&f, m);
}

static void *send_without_end(void *arg)
{
    static char text[65536];
    ssize_t n;

    memset(text, 'x', sizeof(text));
    do
        n = send(*(int *)arg, text, sizeof(text), MSG_NOSIGNAL);
    while (n > 0);
    return NULL;
}

/* A line without end takes no memory without end. */
static void endless_line(void **state)
{
    struct monitor *m = NULL;
    struct why why;
    pthread_t thread;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(pthread_create(&thread, NULL, send_without_end, &fds[1]), 0);
    assert_int_equal(monitor_attach(fds[0], 0, test_end_us(20000), &m, &why), -EPROTO);
    pthread_join(thread, NULL);
    close(fds[1]);
}

struct closing {
    int fd;     /* listens */
    unsigned n; /* clients to close as they come */
};

/* Close n clients as they come, then be a QMP for one. */
static void *close_some(void *arg)
{
    static const char greeting[] =
        "{\"QMP\":{\"version\":{\"qemu\":{\"major\":10,\"minor\":0,\"micro\":2}}}}\n";
    const struct closing *c = arg;
    char text[256] = "", answer[128];
    int fd;

    for (unsigned i = 0; (fd = accept(c->fd, NULL, NULL)) >= 0 && i < c->n; i++)
        close(fd);
    if (fd < 0)
        return NULL;
    if (send(fd, greeting, strlen(greeting), MSG_NOSIGNAL) > 0 &&
        recv(fd, text, sizeof(text) - 1, 0) > 0) {
        const char *id = strstr(text, "\"id\":");
        unsigned long long number = id ? strtoull(id + 5, NULL, 10) : 0;
        snprintf(answer, sizeof(answer), "{\"return\":{},\"id\":%llu}\n", number);
        (void)send(fd, answer, strlen(answer), MSG_NOSIGNAL);
    }
    close(fd);
    return NULL;
}

/* QEMU may close a session that begins while it ends another: the next one is tried. One that does
 * nothing else is no QMP. */
static void closed_as_it_begins(void **state)
{
    char dir[] = "/tmp/varve-test-monitor.XXXXXX", path[128];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const unsigned n[] = {0, 2, 1000};

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/qmp", dir);
    strcpy(address.sun_path, path);
    for (unsigned i = 0; i < 3; i++) {
        struct closing c = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .n = n[i]};
        struct monitor *m = NULL;
        struct why why = {};
        pthread_t thread;
        assert_int_equal(bind(c.fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(c.fd, 8), 0);
        assert_int_equal(pthread_create(&thread, NULL, close_some, &c), 0);
        int r = monitor_open(path, test_end_us(5000), &m, &why);
        shutdown(c.fd, SHUT_RDWR);
        pthread_join(thread, NULL);
        if (r != (i < 2 ? 0 : -EPROTO))
            fail_msg("%u closed: %d, %s", n[i], r, why.text);
        if (r < 0)
            assert_non_null(strstr(why.text, "closed"));
        else
            assert_int_equal(monitor_version(m), 100002);
        monitor_close(m);
        close(c.fd);
        unlink(path);
    }
    rmdir(dir);
}

static void sockets_of_nobody(void **state)
{
    char dir[] = "/tmp/varve-test-monitor.XXXXXX", path[128], longer[200];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct monitor *m = NULL;
    struct why why;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/qmp", dir);
    assert_int_equal(monitor_open(path, test_end_us(1000), &m, &why), -ENOENT);
    assert_non_null(strstr(why.text, "-qmp"));
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(monitor_open(path, test_end_us(1000), &m, &why), -ECONNREFUSED);
    /* A listener that takes nobody: in its queue first, then not even there. */
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(monitor_open(path, test_end_us(50), &m, &why), -ETIMEDOUT);
    assert_int_equal(monitor_open(path, test_end_us(50), &m, &why), -ETIMEDOUT);
    assert_non_null(strstr(why.text, "of its own"));
    close(fd);
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(monitor_open(longer, test_end_us(50), &m, &why), -ENAMETOOLONG);
    unlink(path);
    rmdir(dir);
}

/* ---- a real one ----------------------------------------------------------------------------- */

static const char *const machine[] = {"-machine", "none", "-S", NULL};

static void real_session(void **state)
{
    struct test_qemu q;
    struct monitor *other = NULL;
    _cleanup_free_ char *text = NULL;
    char status[32];
    struct why why;

    if (!test_qemu_start(&q, machine))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    assert_int_equal(monitor_pid(m), q.pid);
    assert_true(monitor_version(m) >= 70000);
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
    assert_string_equal(status, "prelaunch");
    assert_int_equal(monitor_open(q.qmp, test_end_us(100), &other, &why), -ETIMEDOUT);
    assert_int_equal(monitor_run_hmp(m, "info version", test_end_us(5000), &text, &why), 0);
    assert_true(strlen(text) > 3);
    assert_int_equal(monitor_run(m, "no-such-thing", NULL, test_end_us(5000), NULL, &why), -EPROTO);
    assert_int_equal(monitor_begin(m, "qom-list", json_pack("{s:s}", "path", "/machine"), &why), 0);
    assert_int_equal(monitor_finish(m, test_end_us(5000), NULL, &why), 0);
    assert_int_equal(monitor_run(m, "cont", NULL, test_end_us(5000), NULL, &why), 0);
    assert_int_equal(monitor_wait_event(m, "RESUME", test_end_us(5000), NULL, &why), 0);
    assert_null(monitor_domain(m));
    assert_false(monitor_is_over(m));
    /* An answer that nobody waits for any more would be taken for the next one's. */
    assert_int_equal(monitor_begin(m, "query-status", NULL, &why), 0);
    monitor_give_up(m);
    assert_true(monitor_is_over(m));
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), -EPIPE);
    monitor_close(m);
    m = test_qemu_monitor(&q); /* the next session finds the place free */
    assert_int_equal(monitor_run(m, "quit", NULL, test_end_us(5000), NULL, &why), 0);
    assert_int_equal(waitpid(q.pid, NULL, 0), q.pid);
    q.pid = 0;
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), -EPIPE);
    monitor_close(m);
    test_qemu_end(&q);
}

/* Clients that go away with a command under way: what is said to them, and what they have
 * negotiated, comes to the next one. */
static void clients_that_went(void **state)
{
    static const char *const said[] = {
        "{\"execute\":\"qmp_capabilities\",\"id\":1}\n",
        "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n",
        "{\"execute\":\"qmp_capabilities\",\"id\":1}\n{\"execute\":\"x-no\",\"id\":2}\n"};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct test_qemu q;
    struct monitor *m;
    struct why why;
    char status[32], greeting[512];
    unsigned n_closed = 0, version = 0;

    if (!test_qemu_start(&q, machine))
        skip();
    monitor_close(test_qemu_monitor(&q)); /* it listens */
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", q.qmp);
    for (unsigned i = 0; i < 600; i++) {
        const char *text = said[i % 3];
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        /* 10.0 closes one now and then that begins while it ends the one before. */
        if (recv(fd, greeting, sizeof(greeting), 0) > 0) {
            assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
            usleep(i % 7 * 30);
        } else {
            n_closed++;
        }
        close(fd);
        int r = monitor_open(q.qmp, test_end_us(20000), &m, &why);
        if (r < 0)
            fail_msg("round %u: %s", i, why.text);
        assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), 0);
        version = monitor_version(m);
        monitor_close(m);
    }
    assert_true(n_closed <= (version >= 80000 ? 20 : 0));
    test_qemu_end(&q);
}

/* QEMU has the write end of a pipe until it is told to close it. */
static void passes_descriptors(void **state)
{
    struct test_qemu q;
    struct why why;
    char c = 0;
    int fds[2];

    if (!test_qemu_start(&q, machine))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    assert_int_equal(pipe2(fds, 0), 0);
    assert_int_equal(monitor_pass_fd(m, fds[1], "varve", test_end_us(5000), &why), 0);
    close(fds[1]);
    assert_int_equal(monitor_run(m, "closefd", json_pack("{s:s}", "fdname", "other"),
                                 test_end_us(5000), NULL, &why),
                     -EPROTO);
    assert_int_equal(monitor_run(m, "closefd", json_pack("{s:s}", "fdname", "varve"),
                                 test_end_us(5000), NULL, &why),
                     0);
    assert_int_equal(read(fds[0], &c, 1), 0); /* the last one has closed it */
    close(fds[0]);
    assert_int_equal(monitor_pass_fd(m, 12345, "varve", test_end_us(5000), &why), -EBADF);
    assert_int_equal(monitor_run(m, "query-status", NULL, test_end_us(5000), NULL, &why), 0);
    monitor_close(m);
    test_qemu_end(&q);
}

static void stopped_and_killed(void **state)
{
    struct test_qemu q;
    struct monitor *m, *again = NULL;
    struct why why;
    char status[32];

    if (!test_qemu_start(&q, machine))
        skip();
    m = test_qemu_monitor(&q);
    monitor_close(m);
    kill(q.pid, SIGSTOP);
    assert_int_equal(monitor_open(q.qmp, test_end_us(100), &again, &why), -ETIMEDOUT);
    kill(q.pid, SIGCONT);
    m = test_qemu_monitor(&q);
    kill(q.pid, SIGKILL);
    assert_int_equal(monitor_status(m, status, test_end_us(5000), &why), -EPIPE);
    waitpid(q.pid, NULL, 0);
    q.pid = 0;
    assert_int_equal(monitor_open(q.qmp, test_end_us(1000), &again, &why), -ECONNREFUSED);
    monitor_close(m);
    test_qemu_end(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_and_events),   cmocka_unit_test(late_is_dead),
        cmocka_unit_test(lies_end_the_session), cmocka_unit_test(no_greeting_no_session),
        cmocka_unit_test(endless_line),         cmocka_unit_test(closed_as_it_begins),
        cmocka_unit_test(sockets_of_nobody),    cmocka_unit_test(real_session),
        cmocka_unit_test(passes_descriptors),   cmocka_unit_test(stopped_and_killed),
        cmocka_unit_test(answers_to_others),    cmocka_unit_test(negotiated_by_others),
        cmocka_unit_test(clients_that_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
