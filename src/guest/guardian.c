/* guardian.c - the process that stands between a frozen guest and its thaw.
 *
 * States: (start) -> freeze() -> FROZEN -> hold() -> thaw() -> (end)
 *                             -> refused, nothing is frozen -> (end)
 *                             -> no answer: perhaps frozen, now or later -> thaw() -> (end)
 * In none of them does a signal end it but SIGKILL. */
#include "guest/guardian.h"

#include "base/mono.h"
#include "guest/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define THAW_US    5000000   /* for one try */
#define PAUSE_US   500000    /* between two */
#define GIVE_UP_US 600000000 /* for all */
#define TERM_US                                                                                    \
    20000000 /* after SIGTERM: a service manager waits before it starts the next daemon,           \
                which goes on with it */

struct guardian {
    const char *path, *file;
    int file_fd; /* locked as long as this process lives */
    uint64_t time_us;
    struct agent agent;
    struct why why;
};

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether anybody listens is no concern of the guest. */
static void say(const char *format, ...)
{
    char text[WHY_MAX_CHARS + 32];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof(text) - 1, format, args);
    va_end(args);
    if (n >= (int)sizeof(text) - 1)
        n = (int)sizeof(text) - 2;
    text[n++] = '\n';
    (void)send(GUARDIAN_FD, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- the file that says that a guest is frozen ---------------------------------------------- */

static int write_file(struct guardian *g)
{
    size_t len = strlen(g->path);

    g->file_fd = open(g->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (g->file_fd < 0 || flock(g->file_fd, LOCK_EX) < 0 ||
        write(g->file_fd, g->path, len) != (ssize_t)len)
        return why_set(&g->why, -EIO, "cannot write %s: %s", g->file, strerror(errno));
    return 0;
}

/* ---- thaw ----------------------------------------------------------------------------------- */

/* One try: 0, -ENOENT (the machine is gone), -EPROTO (the agent refuses: it knows of nothing that
 * is frozen), or an error after which to try again. */
static int try_thaw(struct guardian *g, int64_t *ret_n)
{
    uint64_t end_us = mono_us() + THAW_US;
    int r = 0;

    /* After an answer that did not come it would be taken for that of the thaw. */
    if (g->agent.fd < 0)
        r = agent_open(&g->agent, g->path, end_us, &g->why);
    if (r == 0)
        r = agent_command(&g->agent, "guest-fsfreeze-thaw", end_us, ret_n, &g->why);
    if (r < 0)
        agent_close(&g->agent);
    return r;
}

static bool is_told_to_end(void)
{
    sigset_t pending;

    sigpending(&pending);
    return sigismember(&pending, SIGTERM);
}

/* Returns what the last try said. */
static int thaw(struct guardian *g, int64_t *ret_n)
{
    uint64_t end_us = mono_us() + GIVE_UP_US;
    bool told = false;
    int r;

    *ret_n = 0;
    while ((r = try_thaw(g, ret_n)) < 0 && r != -ENOENT && r != -EPROTO && mono_us() < end_us) {
        if (!told && is_told_to_end()) {
            told = true;
            end_us = mono_us() + TERM_US;
        }
        usleep(PAUSE_US);
    }
    if (r == 0 || r == -ENOENT || r == -EPROTO)
        unlink(g->file);
    agent_close(&g->agent);
    return r;
}

/* ---- freeze --------------------------------------------------------------------------------- */

/* 0: frozen. Else it has said why not. */
static int freeze(struct guardian *g, int64_t *ret_n)
{
    uint64_t end_us = mono_us() + g->time_us;
    int64_t unused;

    int r = write_file(g);
    if (r == 0)
        r = agent_open(&g->agent, g->path, end_us, &g->why);
    bool asked = r == 0;
    if (r == 0)
        r = agent_command(&g->agent, "guest-fsfreeze-freeze", end_us, ret_n, &g->why);
    if (r == 0 && *ret_n <= 0)
        r = why_set(&g->why, -EPROTO, "the guest has no file system that can be frozen");
    if (r == 0)
        return 0;
    say("failed %s", g->why.text);
    if (asked && r != -EPROTO) {
        agent_close(&g->agent); /* the answer may still come */
        thaw(g, &unused);
    } else {
        unlink(g->file);
    }
    return r;
}

/* Until the word to thaw: true; false: the time is over. */
static bool hold(const struct guardian *g)
{
    struct pollfd fd = {.fd = GUARDIAN_FD, .events = POLLIN};
    uint64_t end_us = mono_us() + g->time_us, now;
    char c;

    while ((now = mono_us()) < end_us) {
        if (poll(&fd, 1, (int)((end_us - now + 999) / 1000)) <= 0)
            continue;
        ssize_t n = recv(GUARDIAN_FD, &c, 1, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return true;
    }
    return false;
}

static void freeze_and_thaw(struct guardian *g)
{
    int64_t n_frozen = 0, n_thawed = 0;

    if (freeze(g, &n_frozen) < 0)
        return;
    say("frozen %" PRIi64, n_frozen);
    bool in_time = hold(g);
    int r = thaw(g, &n_thawed);
    if (r < 0)
        say("failed %s", g->why.text);
    else
        say("%s %" PRIi64, in_time && n_thawed > 0 ? "thawed" : "expired", n_thawed);
}

static void only_thaw(struct guardian *g)
{
    int64_t n;

    g->file_fd = open(g->file, O_RDONLY | O_CLOEXEC);
    if (g->file_fd >= 0)
        flock(g->file_fd, LOCK_EX | LOCK_NB);
    int r = thaw(g, &n);

    if (r < 0)
        say("failed %s", g->why.text);
    else
        say("thawed %" PRIi64, n);
}

/* ---- the process ---------------------------------------------------------------------------- */

/* An orphan, so that nobody has to wait for it; without signals, descriptors and terminal of who
 * started it. */
static void stand_alone(void)
{
    sigset_t all;

    pid_t pid = fork();
    if (pid > 0)
        _exit(0);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "varve-guardian");
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < GUARDIAN_FD && null >= 0; fd++)
        dup2(null, fd);
    close_range(GUARDIAN_FD + 1, ~0u, 0);
    if (chdir("/") < 0)
        return; /* where it stands keeps a file system mounted, no more */
}

int guardian_main(int argc, char **argv)
{
    static struct guardian g;

    if (argc != 6)
        return 2;
    g.path = argv[3];
    g.time_us = strtoull(argv[4], NULL, 10) * 1000;
    g.file = argv[5];
    g.agent.fd = -1;
    stand_alone();
    if (!strcmp(argv[2], "thaw"))
        only_thaw(&g);
    else
        freeze_and_thaw(&g);
    return 0;
}
