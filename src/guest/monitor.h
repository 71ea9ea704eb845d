/* monitor.h - a session with a QEMU's monitor: on its QMP socket, or through libvirt (domain.h), to
 * which the monitor of a domain belongs. One thread at a time; blocks, but not beyond the
 * deadlines, which are by mono_us().
 *
 * A QEMU serves one client of a monitor at a time: while a session on a socket is open nobody else
 * gets an answer there. Source: docs/interop/qmp-spec of QEMU. */
#ifndef VARVE_GUEST_MONITOR_H
#define VARVE_GUEST_MONITOR_H

#include "base/why.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MONITOR_LIBVIRT "libvirt:"

struct monitor;

/* where: the path of a socket, or MONITOR_LIBVIRT and the name of a domain. A socket: connect, read
 * the greeting, leave negotiation mode; three times more where QEMU closes it meanwhile. Errors
 * with a sentence that says the mend: -ENOENT, -ECONNREFUSED (nobody listens: a dead socket),
 * -EPROTO (what answers is no QMP), -ETIMEDOUT (somebody else is connected there), -ENAMETOOLONG,
 * or an errno; a domain: as of domain_open() and domain_find_process(). */
int monitor_open(const char *where, uint64_t end_us, struct monitor **ret, struct why *why);
/* The same on a socket that is connected, which is taken, also on error. The first command has the
 * number id + 1: a random one, as QEMU may still answer to another client that had the socket
 * before.
 */
int monitor_attach(int fd, uint32_t id, uint64_t end_us, struct monitor **ret, struct why *why);
/* NULL is legal. */
void monitor_close(struct monitor *monitor);

/* The process on the other side, by SO_PEERCRED or domain_find_process(), and a pidfd of it that
 * the session owns. */
pid_t monitor_pid(const struct monitor *monitor);
int monitor_pidfd(const struct monitor *monitor);
/* The socket, which stays the session's: for a guard that goes on with it when we are dead. -1:
 * there is none, the session is with a domain of libvirt. */
int monitor_fd(const struct monitor *monitor);
/* The UUID of the domain; NULL: the session is on a socket. */
const char *monitor_domain(const struct monitor *monitor);
/* Whether no command will ever be answered any more. One with a domain goes on where libvirtd does
 * not answer for a while, and is over only when QEMU has ended. */
bool monitor_is_over(const struct monitor *monitor);
/* The version of QEMU: major * 10000 + minor * 100 + micro. */
unsigned monitor_version(const struct monitor *monitor);

/* Run a command. arguments: NULL, or an object, which is taken (also on error). *ret: NULL is
 * legal, else the value of "return", which the caller decrefs. Events that come meanwhile are kept.
 * Errors with a sentence: -EPROTO (QEMU refuses, nothing was done; the sentence has its words),
 * -ETIMEDOUT (it is not known whether it was done; the session is dead), -EPIPE (QEMU has gone, or
 * says what is no QMP; every later call says so too), -ENOMEM; a domain: -EHOSTDOWN (libvirtd does
 * not answer; -ETIMEDOUT and this are not for good), -EPROTO also when libvirt refuses. */
int monitor_run(struct monitor *monitor, const char *command, json_t *arguments, uint64_t end_us,
                json_t **ret, struct why *why);

/* Begin a command without waiting (monitor_finish() waits), for what must come right after another
 * in a pause. One at a time. */
int monitor_begin(struct monitor *monitor, const char *command, json_t *arguments, struct why *why);
int monitor_finish(struct monitor *monitor, uint64_t end_us, json_t **ret, struct why *why);
/* Instead of monitor_finish(), when the answer is not waited for any more: a session on a socket is
 * dead then, as after -ETIMEDOUT. */
void monitor_give_up(struct monitor *monitor);
/* Between them: whether QEMU has refused already. False may also be: it is not seen yet. */
bool monitor_has_refused(struct monitor *monitor);

/* A command of the human monitor; *ret: its text, which the caller frees. Errors as above. */
int monitor_run_hmp(struct monitor *monitor, const char *line, uint64_t end_us, char **ret,
                    struct why *why);

/* Give QEMU a descriptor under a name (getfd); fd stays the caller's. */
int monitor_pass_fd(struct monitor *monitor, int fd, const char *name, uint64_t end_us,
                    struct why *why);

/* Wait for an event of that name; what came before since the last call counts; others are dropped.
 * *ret: its "data" (NULL is legal). -ETIMEDOUT, -EPIPE, -EOPNOTSUPP (a domain's go to libvirt). */
int monitor_wait_event(struct monitor *monitor, const char *event, uint64_t end_us, json_t **ret,
                       struct why *why);

/* query-status: "running", "paused", "prelaunch", "inmigrate", "shutdown"... ret: 32 bytes. */
int monitor_status(struct monitor *monitor, char ret[32], uint64_t end_us, struct why *why);

#endif
