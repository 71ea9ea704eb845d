/* qemu-process.c - starting a QEMU that goes into the background. */
#include "guest/qemu-process.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "base/time-slice.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define TUNABLES "GLIBC_TUNABLES"
#define START_US 120000000u
#define LOOK_US  20000u /* between two looks at cancel */
#define KILL_MS  10
#define KILLS    500 /* so often, as long as there is one to be killed */

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
        *ret = (struct qemu_start){.pid = pid, .out_fd = fds[0], .end_us = mono_us() + START_US};
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

/* ---- one that does not come up -------------------------------------------------------------- */

/* Whether a process has our pipe ("pipe:[NUMBER]") as one of its outputs: those that -daemonize
 * makes have no other sign, and belong to nobody. */
static bool has_output(pid_t pid, const char *wanted)
{
    char path[64], name[64];

    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
        ssize_t n = readlink(path, name, sizeof(name) - 1);
        name[n > 0 ? n : 0] = '\0';
        if (!strcmp(name, wanted))
            return true;
    }
    return false;
}

static void kill_all(const char *output)
{
    const struct dirent *entry;
    DIR *dir = opendir("/proc");

    while (dir && (entry = readdir(dir))) {
        pid_t pid = atoi(entry->d_name);
        if (pid > 1 && pid != getpid() && has_output(pid, output))
            kill(pid, SIGKILL);
    }
    if (dir)
        closedir(dir);
}

/* Until nobody has our pipe any more. */
static void end_all(const struct qemu_start *start)
{
    struct pollfd fd = {.fd = start->out_fd};
    char path[64], output[64];

    kill(start->pid, SIGKILL);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", start->out_fd);
    ssize_t n = readlink(path, output, sizeof(output) - 1);
    output[n > 0 ? n : 0] = '\0';
    for (unsigned i = 0; *output && i < KILLS && !(fd.revents & POLLHUP); i++) {
        kill_all(output);
        (void)poll(&fd, 1, KILL_MS);
    }
}

/* ---- waiting -------------------------------------------------------------------------------- */

static bool is_cancelled(const struct qemu_start *start)
{
    return start->cancel && atomic_load(start->cancel);
}

static uint64_t left_us(const struct qemu_start *start)
{
    uint64_t now_us = mono_us();

    return is_cancelled(start) || start->end_us <= now_us ? 0 : start->end_us - now_us;
}

/* Whether there is something to read in time, or afterwards nobody who could say more. */
static bool comes(const struct qemu_start *start)
{
    uint64_t most_us = start->cancel ? LOOK_US : START_US;
    struct pollfd one = {.fd = start->out_fd, .events = POLLIN};

    for (;;) {
        uint64_t left = left_us(start);
        int n = poll(&one, 1, (int)((left < most_us ? left + 999 : most_us) / 1000));
        if (n > 0 && (left > 0 || one.revents & POLLHUP))
            return true;
        if (left == 0 || (n < 0 && errno != EINTR))
            return false;
    }
}

/* All that is said until the machine is up, as much as there is room for. The machine in the
 * background gives up its end too: this reaches the end. Returns whether it did. */
static bool read_all(const struct qemu_start *start, char *text, size_t size)
{
    char rest[512];
    size_t len = 0;

    *text = '\0';
    while (comes(start)) {
        bool full = len == size - 1;
        ssize_t n =
            read(start->out_fd, full ? rest : text + len, full ? sizeof(rest) : size - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return true;
        len += full ? 0 : (size_t)n;
        text[len] = '\0';
    }
    return false;
}

int qemu_wait(struct qemu_start *start, struct why *why)
{
    char text[WHY_MAX_CHARS - 256];
    int status = 0;

    bool is_up = read_all(start, text, sizeof(text));
    if (!is_up)
        end_all(start);
    close(start->out_fd);
    while (waitpid(start->pid, &status, 0) < 0 && errno == EINTR)
        ;
    size_t len = strlen(text);
    while (len && text[len - 1] == '\n')
        text[--len] = '\0';
    if (!is_up && is_cancelled(start))
        return why_set(why, -ECANCELED, "the start of QEMU was cancelled");
    if (!is_up)
        return why_set(why, -ETIMEDOUT,
                       "QEMU did not come up in time, and was ended; it may have waited for "
                       "somebody at one of its sockets, or the host is too busy: %s",
                       len ? text : "it said nothing");
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
