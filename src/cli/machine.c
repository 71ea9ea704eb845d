/* machine.c - varve console and varve stop: machines that varve run started. They need no daemon.
 */
#include "base/cleanup.h"
#include "base/mono.h"
#include "cli/cli.h"
#include "cli/process.h"
#include "guest/launch.h"
#include "guest/monitor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define NAME_CHARS_MAX 64
#define NAME_CHARS     "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
#define ESCAPE         0x1d /* Ctrl-] */
#define END_MS         10000
#define QMP_US         10000000

enum exit_code check_machine_name(const char *name)
{
    size_t len = strlen(name);

    if (len >= 1 && len <= NAME_CHARS_MAX && *name != '.' && strspn(name, NAME_CHARS) == len)
        return EXIT_OK;
    return error(EXIT_USAGE,
                 "\"%s\" is no name of a machine: use 1 to %d letters, digits, '.', '_' and '-', "
                 "and no dot in front",
                 name, NAME_CHARS_MAX);
}

static enum exit_code find(const struct invocation *inv, struct launched *ret)
{
    struct why why;
    enum exit_code r = check_machine_name(inv->args[0]);

    if (r != EXIT_OK)
        return r;
    switch (launch_find(inv->run_dir, inv->args[0], ret, &why)) {
    case 0:
        return EXIT_OK;
    case -ENOENT:
        return error(EXIT_NOT_FOUND, "%s", why.text);
    default:
        return error(EXIT_USAGE, "%s", why.text);
    }
}

/* ---- console -------------------------------------------------------------------------------- */

static bool write_all(int fd, const char *buf, ssize_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, buf, (size_t)n);
        if (done < 0 && errno != EINTR)
            return false;
        if (done > 0) {
            buf += done;
            n -= done;
        }
    }
    return true;
}

/* Until the escape key, the machine's end, or a signal. Returns whether the machine has ended. */
static bool talk(int console)
{
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                            {.fd = console, .events = POLLIN}};
    char buf[4096];

    while (!interrupted()) {
        if (poll(fds, 2, 250) <= 0)
            continue;
        if (fds[1].revents) {
            ssize_t n = read(console, buf, sizeof(buf));
            if (n <= 0)
                return true;
            if (!write_all(STDOUT_FILENO, buf, n))
                return false;
        }
        if (fds[0].revents) {
            ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
            const char *escape = n > 0 ? memchr(buf, ESCAPE, (size_t)n) : NULL;
            if (n <= 0 || !write_all(console, buf, escape ? escape - buf : n))
                return n > 0;
            if (escape)
                return false;
        }
    }
    return false;
}

enum exit_code cmd_console(const struct invocation *inv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct termios before, raw;
    struct launched machine;
    enum exit_code r = find(inv, &machine);

    if (r != EXIT_OK)
        return r;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &before) < 0)
        return error(EXIT_USAGE,
                     "a console wants a terminal; a program connects to the Unix socket %s, or "
                     "reads %s",
                     machine.console, machine.log);
    strcpy(address.sun_path, machine.console); /* launch_find() knows that it fits */
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return error(EXIT_FAILED, "cannot connect to %s: %s", machine.console, strerror(errno));
    note("console of %s; Ctrl-] leaves it, the machine runs on", inv->args[0]);
    interrupt_catch();
    raw = before;
    cfmakeraw(&raw);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    bool ended = talk(fd);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    fputc('\n', stderr);
    if (ended)
        note("the machine has ended");
    return EXIT_OK;
}

/* ---- stop ----------------------------------------------------------------------------------- */

/* Not by QMP: QEMU's quit flushes the disks first, and waits minutes for a daemon that is away. */
static enum exit_code end_at_once(const struct invocation *inv, const struct launched *machine)
{
    struct launched again;
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, machine->pid, 0);
    struct pollfd ended = {.fd = fd, .events = POLLIN};

    /* Asked once more: the number might have been given to another process meanwhile. */
    if (fd < 0 || find(inv, &again) != EXIT_OK || again.pid != machine->pid ||
        syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) < 0)
        return error(EXIT_FAILED, "cannot end process %d: %s", (int)machine->pid, strerror(errno));
    if (poll(&ended, 1, END_MS) != 1)
        return error(EXIT_FAILED, "process %d has not ended after %d s", (int)machine->pid,
                     END_MS / 1000);
    return EXIT_OK;
}

static int press_power_button(const char *qmp, struct why *why)
{
    uint64_t end_us = mono_us() + QMP_US;
    struct monitor *monitor;
    int r = monitor_open(qmp, end_us, &monitor, why);

    if (r < 0)
        return r;
    r = monitor_run(monitor, "system_powerdown", NULL, end_us, NULL, why);
    monitor_close(monitor);
    return r;
}

enum exit_code cmd_stop(const struct invocation *inv)
{
    struct launched machine;
    struct why why;
    enum exit_code r = find(inv, &machine);

    if (r != EXIT_OK)
        return r;
    if (option_value(inv, "force"))
        return end_at_once(inv, &machine);
    if (press_power_button(machine.qmp, &why) < 0)
        return error(EXIT_FAILED, "%s; varve stop --force %s ends it at once", why.text,
                     inv->args[0]);
    note("the power button of %s was pressed; if its guest does not switch off: varve stop "
         "--force %s",
         inv->args[0], inv->args[0]);
    return EXIT_OK;
}
