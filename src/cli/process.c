/* process.c - running other programs, and being interrupted. */
#include "cli/process.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t signalled; /* how often */

static void on_signal(int number)
{
    (void)number;
    signalled = signalled + 1;
}

void interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: poll() is to return */
    struct sigaction hangup;

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, NULL, &hangup);
    if (hangup.sa_handler != SIG_IGN) /* nohup's */
        sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool interrupted(void)
{
    return signalled > 0;
}

/* What interrupt_catch() has set, in the child. */
static void reset_signals(void)
{
    struct sigaction hangup;

    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    sigaction(SIGHUP, NULL, &hangup);
    if (hangup.sa_handler != SIG_IGN)
        signal(SIGHUP, SIG_DFL);
}

/* In the child, with the interrupts blocked. A program that cannot be run says so by its errno in
 * the status pipe. */
static void run_child(char *const *argv, int out, int err, int status, const sigset_t *mask)
{
    int null = open("/dev/null", O_RDONLY);

    reset_signals();
    sigprocmask(SIG_SETMASK, mask, NULL);
    setpgid(0, 0); /* ^C comes to us, who tell the child */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
        dup2(err, STDERR_FILENO) >= 0)
        execvp(argv[0], argv);
    int code = errno;
    ssize_t n = write(status, &code, sizeof(code));
    (void)n;
    _exit(127);
}

/* Keep the end of what came. */
static void keep_tail(char *tail, size_t size, const char *text, size_t len)
{
    size_t have = strlen(tail);

    if (len >= size) {
        text += len - (size - 1);
        len = size - 1;
    }
    if (have + len >= size) {
        size_t drop = have + len - (size - 1);
        memmove(tail, tail + drop, have - drop);
        have -= drop;
    }
    memcpy(tail + have, text, len);
    tail[have + len] = '\0';
}

/* Once for each interrupt: a child may take the first one for less than it is. */
static void pass_on(pid_t pid, sig_atomic_t *passed, struct process_result *ret)
{
    sig_atomic_t now = signalled;

    if (now == *passed)
        return;
    *passed = now;
    ret->interrupted = true;
    kill(pid, SIGTERM);
}

/* Until both pipes are closed. */
static void read_output(int out, int err, pid_t pid, sig_atomic_t *passed, process_output *output,
                        void *arg, struct process_result *ret)
{
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    char buf[4097];

    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        pass_on(pid, passed, ret);
        /* The timeout catches a signal that came between the test and the wait. */
        if (poll(fds, 2, 250) <= 0)
            continue;
        for (int i = 0; i < 2; i++) {
            if (fds[i].fd < 0 || !fds[i].revents)
                continue;
            ssize_t n = read(fds[i].fd, buf, sizeof(buf) - 1);
            if (n <= 0) {
                if (n == 0 || errno != EINTR)
                    fds[i].fd = -1;
                continue;
            }
            buf[n] = '\0';
            if (i == 1)
                keep_tail(ret->errors, sizeof(ret->errors), buf, (size_t)n);
            else if (output)
                output(arg, buf, (size_t)n);
        }
    }
}

/* fork() that leaves the interrupts blocked in the child until run_child() has taken our handler
 * away: one that is passed on would be lost in it. ret_mask: the signals that were blocked before.
 */
static pid_t fork_quietly(sigset_t *ret_mask)
{
    sigset_t interrupts;

    sigemptyset(&interrupts);
    sigaddset(&interrupts, SIGINT);
    sigaddset(&interrupts, SIGTERM);
    sigaddset(&interrupts, SIGHUP);
    sigprocmask(SIG_BLOCK, &interrupts, ret_mask);
    pid_t pid = fork();
    int code = errno;
    if (pid != 0)
        sigprocmask(SIG_SETMASK, ret_mask, NULL);
    errno = code;
    return pid;
}

/* The errno of a program that could not be run; 0: it runs, and the pipe was closed by that. */
static int read_status(int fd)
{
    int code = 0;
    ssize_t n;

    do
        n = read(fd, &code, sizeof(code));
    while (n < 0 && errno == EINTR);
    return n == sizeof(code) ? code : 0;
}

int process_run(char *const *argv, process_output *output, void *arg, struct process_result *ret)
{
    _cleanup_close_ int out_r = -1, err_r = -1, status_r = -1;
    int out[2], err[2], status[2], wait_status;
    sig_atomic_t passed = 0;
    sigset_t mask;

    *ret = (struct process_result){.exit_code = -1};
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    out_r = out[0];
    if (pipe2(err, O_CLOEXEC) < 0) {
        close(out[1]);
        return -errno;
    }
    err_r = err[0];
    if (pipe2(status, O_CLOEXEC) < 0) {
        close(out[1]);
        close(err[1]);
        return -errno;
    }
    status_r = status[0];

    pid_t pid = fork_quietly(&mask);
    int fork_errno = errno;
    if (pid == 0)
        run_child(argv, out[1], err[1], status[1], &mask);
    close(out[1]);
    close(err[1]);
    close(status[1]);
    if (pid < 0)
        return -fork_errno;

    int code = read_status(status_r);
    if (code == 0)
        read_output(out_r, err_r, pid, &passed, output, arg, ret);
    while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR)
        pass_on(pid, &passed, ret);
    if (WIFEXITED(wait_status))
        ret->exit_code = WEXITSTATUS(wait_status);
    ret->not_found = code == ENOENT;
    return code && code != ENOENT ? -code : 0;
}
