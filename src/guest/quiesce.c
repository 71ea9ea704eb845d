/* quiesce.c - freezing a guest's file systems for a moment. */
#include "guest/quiesce.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/guardian.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOTES      "frozen" /* directory in the run directory, with a file for each frozen guest */
#define THAW_MS    10000    /* for the answer */
#define GRACE_MS   2000     /* that a guardian may be later than its own time */
#define ANSWER_MAX (WHY_MAX_CHARS + 64)

extern char **environ;

struct quiesce {
    int fd; /* the guardian's socket */
    char agent_path[PATH_MAX], file[PATH_MAX];
};

/* ---- the guardian --------------------------------------------------------------------------- */

/* Start one; *ret_fd: our end of its socket. */
static int start(const char *what, const char *agent_path, unsigned timeout_ms, const char *file,
                 int *ret_fd)
{
    char milliseconds[16];
    char *argv[] = {(char *)(uintptr_t) "varved",
                    (char *)(uintptr_t)GUARDIAN_ARGUMENT,
                    (char *)(uintptr_t)what,
                    (char *)(uintptr_t)agent_path,
                    milliseconds,
                    (char *)(uintptr_t)file,
                    NULL};
    posix_spawn_file_actions_t actions;
    int fds[2], status;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    snprintf(milliseconds, sizeof(milliseconds), "%u", timeout_ms);
    int r = -posix_spawn_file_actions_init(&actions);
    if (r == 0) {
        r = -posix_spawn_file_actions_adddup2(&actions, fds[1], GUARDIAN_FD);
        /* This program, though its file may have been replaced. */
        if (r == 0)
            r = -posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(fds[1]);
    if (r < 0) {
        close(fds[0]);
        return r;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) /* it leaves an orphan at once */
        ;
    *ret_fd = fds[0];
    return 0;
}

/* The next line of the guardian. 0, -ETIMEDOUT, or -EIO: it is gone. */
static int read_answer(int fd, unsigned ms, char answer[ANSWER_MAX])
{
    uint64_t end_us = mono_us() + ms * 1000ULL, now;
    size_t len = 0;

    while (len < ANSWER_MAX - 1) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        now = mono_us();
        int n = poll(&poll_fd, 1, now >= end_us ? 0 : (int)((end_us - now + 999) / 1000));
        if (n == 0 && now >= end_us)
            return -ETIMEDOUT;
        if (n <= 0)
            continue;
        ssize_t got = recv(fd, answer + len, 1, 0); /* lines are few and short */
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -EIO;
        if (answer[len] == '\n')
            break;
        len++;
    }
    answer[len] = '\0';
    return 0;
}

/* A guardian that was killed leaves what it froze to another one. */
static void start_thaw(const char *agent_path, const char *file)
{
    int fd;

    if (start("thaw", agent_path, 0, file, &fd) == 0)
        close(fd);
}

/* ---- begin and end -------------------------------------------------------------------------- */

static int name_file(const char *run_dir, char file[PATH_MAX])
{
    static atomic_uint counter;

    if (snprintf(file, PATH_MAX, "%s/" NOTES, run_dir) >= PATH_MAX - 32)
        return -ENAMETOOLONG;
    if (mkdir(file, 0700) < 0 && errno != EEXIST)
        return -errno;
    snprintf(file + strlen(file), 32, "/%d.%u", (int)getpid(), atomic_fetch_add(&counter, 1));
    return 0;
}

int quiesce_begin(const char *run_dir, const char *agent_path, unsigned timeout_ms,
                  struct quiesce **ret, struct why *why)
{
    _cleanup_free_ struct quiesce *q = calloc(1, sizeof(*q));
    char answer[ANSWER_MAX];

    if (!q)
        return why_set(why, -ENOMEM, "no memory");
    if (access(agent_path, F_OK) < 0)
        return why_set(why, -ENOENT, "there is no guest agent at %s", agent_path);
    int r = name_file(run_dir, q->file);
    if (r == 0 && snprintf(q->agent_path, PATH_MAX, "%s", agent_path) >= PATH_MAX)
        r = -ENAMETOOLONG;
    if (r == 0)
        r = start("freeze", agent_path, timeout_ms, q->file, &q->fd);
    if (r < 0)
        return why_set(why, r, "cannot start the process that freezes the guest: %s", strerror(-r));
    r = read_answer(q->fd, timeout_ms + GRACE_MS, answer);
    if (r == 0 && !strncmp(answer, "frozen ", 7)) {
        *ret = TAKE_PTR(q);
        return 0;
    }
    close(q->fd); /* the guardian thaws if need be */
    if (r == -EIO)
        start_thaw(agent_path, q->file);
    if (r == 0)
        return why_set(why, -EPROTO, "%s", strncmp(answer, "failed ", 7) ? answer : answer + 7);
    return why_set(why, r,
                   r == -EIO ? "the process that freezes the guest was killed"
                             : "the guest did not freeze in time");
}

int quiesce_end(struct quiesce *q, struct why *why)
{
    char answer[ANSWER_MAX];

    if (!q)
        return 0;
    shutdown(q->fd, SHUT_WR);
    int r = read_answer(q->fd, THAW_MS, answer);
    close(q->fd);
    if (r == -EIO) {
        start_thaw(q->agent_path, q->file);
        r = why_set(why, -ESTALE, "the process that kept the guest frozen was killed");
    } else if (r == -ETIMEDOUT) {
        why_set(why, r,
                "the guest was frozen and does not answer the thaw, which is being repeated; look "
                "at it");
    } else if (!strncmp(answer, "thawed ", 7)) {
        r = 0;
    } else if (!strncmp(answer, "expired ", 8)) {
        r = why_set(why, -ESTALE, "the guest had been thawed before the version was taken");
    } else {
        r = why_set(why, -ESTALE, "the guest was frozen, and then: %s",
                    strncmp(answer, "failed ", 7) ? answer : answer + 7);
    }
    free(q);
    return r;
}

unsigned quiesce_recover(const char *run_dir)
{
    char path[PATH_MAX], file[PATH_MAX + 300], agent_path[PATH_MAX];
    const struct dirent *entry;
    unsigned n = 0;
    DIR *dir;

    if (snprintf(path, sizeof(path), "%s/" NOTES, run_dir) >= PATH_MAX || !(dir = opendir(path)))
        return 0;
    while ((entry = readdir(dir))) {
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        _cleanup_close_ int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t len = fd < 0 || *entry->d_name == '.' ? -1 : read(fd, agent_path, PATH_MAX - 1);
        if (len <= 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) /* locked: its guardian lives */
            continue;
        agent_path[len] = '\0';
        start_thaw(agent_path, file);
        n++;
    }
    closedir(dir);
    return n;
}
