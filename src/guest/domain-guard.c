/* domain-guard.c - the guard of a domain of libvirt. */
#include "guest/domain-guard.h"

#include "base/mono.h"
#include "guest/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define TRIES     600 /* with TRY_MS between them: while QEMU refuses, or libvirtd is away */
#define TRY_MS    100
#define ANSWER_US 10000000

extern char **environ;

pid_t domain_guard_start(const char *uuid, int pipe_fd, const char *commands)
{
    char *argv[] = {(char *)(uintptr_t) "varved", (char *)(uintptr_t)DOMAIN_GUARD_ARGUMENT,
                    (char *)(uintptr_t)uuid, (char *)(uintptr_t)commands, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid = -1;

    int code = posix_spawn_file_actions_init(&actions);
    if (code == 0) {
        code = posix_spawn_file_actions_adddup2(&actions, pipe_fd, STDIN_FILENO);
        /* This program, though its file may have been replaced. */
        if (code == 0)
            code = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    errno = code;
    return code ? -1 : pid;
}

/* One line of commands. */
static int run_line(struct monitor *m, const char *line, size_t len)
{
    json_t *message = json_loadb(line, len, 0, NULL);
    const char *command = json_string_value(json_object_get(message, "execute"));
    struct why why;

    int r = command ? monitor_run(m, command, json_incref(json_object_get(message, "arguments")),
                                  mono_us() + ANSWER_US, NULL, &why)
                    : -EINVAL;
    json_decref(message);
    return r;
}

/* A migration that succeeded has stopped the machine. */
static void resume_completed(struct monitor *m)
{
    json_t *info = NULL;
    struct why why;

    monitor_run(m, "query-migrate", NULL, mono_us() + ANSWER_US, &info, &why);
    const char *status = json_string_value(json_object_get(info, "status"));
    if (status && !strcmp(status, "completed"))
        monitor_run(m, "cont", NULL, mono_us() + ANSWER_US, NULL, &why);
    json_decref(info);
}

/* 0, or an error after which to try again; -ENOENT, -EBUSY: there is no such QEMU any more. */
static int put_back(const char *uuid, const char *commands)
{
    char where[64];
    struct monitor *m = NULL;
    struct why why;

    snprintf(where, sizeof(where), MONITOR_LIBVIRT "%.40s", uuid);
    int r = monitor_open(where, mono_us() + ANSWER_US, &m, &why);
    for (const char *at = commands; r == 0 && *at; at += strspn(at, "\n")) {
        size_t len = strcspn(at, "\n");
        r = run_line(m, at, len);
        at += len;
    }
    if (r == 0)
        resume_completed(m);
    monitor_close(m);
    return r;
}

int domain_guard_main(int argc, char **argv)
{
    sigset_t all;
    ssize_t n;
    char c;

    if (argc != 4)
        return 2;
    pid_t pid = fork();
    if (pid != 0)
        return pid < 0;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "varve-guard");
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
        return 1;
    close_range(STDERR_FILENO + 1, ~0u, 0);
    while ((n = read(STDIN_FILENO, &c, 1)) < 0 && errno == EINTR)
        ;
    for (unsigned i = 0; n == 0 && i < TRIES; i++) {
        int r = put_back(argv[2], argv[3]);
        if (r == 0 || r == -ENOENT || r == -EBUSY)
            break;
        poll(NULL, 0, TRY_MS);
    }
    return 0;
}
