/* migration-guard.c - a small process that puts QEMU's settings back if this one dies.
 *
 * It is a fork without an exec of a process with threads: so it may only use what a signal handler
 * may use, and what it needs is on its stack, or was there before.
 *
 * It never sends migrate_cancel: the stream's socket is closed with the process that read it, and
 * that ends the migration. A cancel that comes while QEMU 7.2 goes over to its last phase leaves
 * the disks inactive under a machine that runs, and the next migration or write aborts QEMU. */
#include "guest/migration-guard.h"

#include "base/cleanup.h"
#include "guest/domain-guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIES      3000 /* of 20 ms: while QEMU refuses, since the migration still ends */
#define TRY_MS     20
#define ANSWER_MS  10000
#define ANSWER_MAX 65536
#define TEXT(text) (text), sizeof(text) - 1

static bool send_all(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
            if (poll(&poll_fd, 1, ANSWER_MS) == 0)
                return false;
            continue;
        }
        if (n <= 0)
            return false;
        text += n;
        len -= (size_t)n;
    }
    return true;
}

/* The next line of QEMU. Returns its length, 0: there is none. */
static size_t read_line(int fd, char line[ANSWER_MAX])
{
    size_t len = 0;

    for (;;) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        char c;
        if (poll(&poll_fd, 1, ANSWER_MS) == 0)
            return 0;
        ssize_t n = recv(fd, &c, 1, 0); /* few and short */
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return 0;
        if (c == '\n')
            return len + 1;
        if (len < ANSWER_MAX - 1)
            line[len++] = c;
        line[len] = '\0';
    }
}

/* Send, and wait for the answer with our id. False: there was none. */
static bool ask(int fd, const char *text, size_t len, char answer[ANSWER_MAX])
{
    if (!send_all(fd, text, len))
        return false;
    do {
        if (read_line(fd, answer) == 0)
            return false;
    } while (!strstr(answer, "\"" GUARD_ID "\""));
    return true;
}

static void put_back(int fd, const char *commands, size_t len)
{
    static const char status[] = "{\"execute\":\"query-migrate\",\"id\":\"" GUARD_ID "\"}\n";
    static const char resume[] = "{\"execute\":\"cont\",\"id\":\"" GUARD_ID "\"}\n";
    static char answer[ANSWER_MAX];
    bool answered = false;

    send_all(fd, "\n", 1); /* ends a command that was cut short */
    for (unsigned i = 0; i < TRIES; i++) {
        answered = ask(fd, commands, len, answer);
        if (!answered || !strstr(answer, "\"error\""))
            break;
        poll(NULL, 0, TRY_MS);
    }
    if (answered && ask(fd, TEXT(status), answer) && strstr(answer, "\"completed\""))
        ask(fd, TEXT(resume), answer);
}

/* Only a byte says that all is well. */
static void guard(int pipe_fd, int qmp_fd, const char *commands, size_t len)
{
    sigset_t all;
    ssize_t n;
    char c;

    pid_t pid = fork();
    if (pid != 0)
        _exit(pid < 0);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "varve-guard");
    if (dup3(pipe_fd, 0, 0) < 0 || dup3(qmp_fd, 1, 0) < 0)
        _exit(1);
    close_range(2, ~0u, 0);
    while ((n = read(0, &c, 1)) < 0 && errno == EINTR)
        ;
    if (n == 0)
        put_back(1, commands, len);
    _exit(0);
}

/* The child of this that is not ours: -1, and errno. */
static pid_t fork_guard(int qmp_fd, const int fds[2], const char *commands)
{
    size_t len = strlen(commands);

    /* Neither may be what the other is put to. */
    int pipe_fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 3), socket_fd = fcntl(qmp_fd, F_DUPFD_CLOEXEC, 3);
    pid_t pid = pipe_fd < 0 || socket_fd < 0 ? -1 : fork();
    if (pid == 0) {
        close(fds[0]);
        close(fds[1]);
        guard(pipe_fd, socket_fd, commands, len);
    }
    int code = errno;
    if (pipe_fd >= 0)
        close(pipe_fd);
    if (socket_fd >= 0)
        close(socket_fd);
    errno = code;
    return pid;
}

int migration_guard_begin(const struct monitor *monitor, const char *commands,
                          struct migration_guard *ret, struct why *why)
{
    const char *domain = monitor_domain(monitor);
    int fds[2], status = 1;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return why_set(why, -errno, "cannot make a pipe: %s", strerror(errno));
    pid_t pid = domain ? domain_guard_start(domain, fds[0], commands)
                       : fork_guard(monitor_fd(monitor), fds, commands);
    int r = pid < 0 ? -errno : 0;
    close(fds[0]);
    if (r == 0) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (status != 0)
            r = -EAGAIN;
    }
    if (r < 0) {
        close(fds[1]);
        return why_set(why, r, "cannot start a process that guards QEMU's settings: %s",
                       strerror(-r));
    }
    ret->fd = fds[1];
    return 0;
}

void migration_guard_end(struct migration_guard *guard)
{
    char c = 0;

    if (guard->fd < 0)
        return;
    ssize_t n = write(guard->fd, &c, 1); /* if it is gone there is nobody to send away */
    (void)n;
    close(guard->fd);
    guard->fd = -1;
}

void migration_guard_fire(struct migration_guard *guard)
{
    if (guard->fd >= 0)
        close(guard->fd);
    guard->fd = -1;
}
