/* qemu-process.c - starting a QEMU that goes into the background. */
#include "guest/qemu-process.h"

#include "base/cleanup.h"
#include "base/time-slice.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define TUNABLES "GLIBC_TUNABLES"

/* QEMU takes some 30 MiB of memory when it starts, page by page; in huge pages that takes an eighth
 * of its start less, and some MiB more of memory. Who has set something there knows better. The
 * entries are borrowed from our own environment; the list is freed. */
static char **make_environment(void)
{
    static char huge[] = TUNABLES "=glibc.malloc.hugetlb=1";
    size_t n = 0;

    while (environ[n])
        n++;
    char **list = calloc(n + 2, sizeof(*list));
    if (!list)
        return NULL;
    memcpy(list, environ, n * sizeof(*list));
    if (!getenv(TUNABLES))
        list[n] = huge;
    return list;
}

/* Its outputs go to fd; no signal is blocked or ignored in it. */
static int spawn(char *const *argv, const char *cwd, int fd, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    _cleanup_free_ char **environment = make_environment();

    if (!environment)
        return -ENOMEM;
    sigemptyset(&none);
    sigfillset(&all);
    int r = -posix_spawn_file_actions_init(&actions);
    if (r < 0)
        return r;
    r = -posix_spawnattr_init(&attr);
    if (r == 0) {
        posix_spawnattr_setsigmask(&attr, &none);
        posix_spawnattr_setsigdefault(&attr, &all);
        posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        r = -posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (r == 0)
            r = -posix_spawn_file_actions_adddup2(&actions, fd, STDOUT_FILENO);
        if (r == 0)
            r = -posix_spawn_file_actions_adddup2(&actions, fd, STDERR_FILENO);
        if (r == 0 && cwd)
            r = -posix_spawn_file_actions_addchdir_np(&actions, cwd);
        /* A machine is not to have the short slice of the thread that somebody's request came by.
         */
        (void)time_slice_set(0);
        if (r == 0)
            r = -posix_spawnp(ret, argv[0], &actions, &attr, argv, environment);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

int qemu_start(char *const *argv, const char *cwd, struct qemu_start *ret, struct why *why)
{
    pid_t pid = 0;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return why_set(why, -errno, "cannot make a pipe: %s", strerror(errno));
    int r = spawn(argv, cwd, fds[1], &pid);
    close(fds[1]);
    if (r == 0) {
        *ret = (struct qemu_start){.pid = pid, .out_fd = fds[0]};
        return 0;
    }
    close(fds[0]);
    if (r == -ENOENT)
        return why_set(why, r,
                       "%s is not installed, or the directory that it ran in is not there; install "
                       "it with: apt install qemu-system-x86",
                       argv[0]);
    return why_set(why, r, "cannot run %s: %s", argv[0], strerror(-r));
}

int qemu_wait(struct qemu_start *start, struct why *why)
{
    char text[WHY_MAX_CHARS - 64] = "", rest[512];
    size_t len = 0;
    int status = 0;
    ssize_t n;

    /* The machine in the background gives up its end too: this reaches the end. */
    for (;;) {
        bool full = len == sizeof(text) - 1;
        n = read(start->out_fd, full ? rest : text + len,
                 full ? sizeof(rest) : sizeof(text) - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += full ? 0 : (size_t)n;
    }
    close(start->out_fd);
    while (waitpid(start->pid, &status, 0) < 0 && errno == EINTR)
        ;
    while (len && text[len - 1] == '\n')
        len--;
    text[len] = '\0';
    if (WIFSIGNALED(status) && !len)
        return why_set(why, -EIO, "QEMU did not start: signal %d ended it", WTERMSIG(status));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return why_set(why, -EIO, "QEMU did not start: %s", len ? text : "it gave no reason");
    return 0;
}

pid_t qemu_pid(const char *pid_file)
{
    _cleanup_close_ int fd = open(pid_file, O_RDONLY | O_CLOEXEC);
    char text[16] = "";

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return 0;
    return atoi(text);
}
