/* domain-guard.h - the guard (migration-guard.h) of a domain of libvirt: a process that puts QEMU's
 * settings back through libvirt if the one that started it dies.
 *
 * Started as varved DOMAIN_GUARD_ARGUMENT UUID COMMANDS, with the reading end of a pipe as its
 * standard input: a byte from there says that all is well, the end without one that it is to act.
 * For an exec: libvirt's library cannot be used in the fork of a process with threads. */
#ifndef VARVE_GUEST_DOMAIN_GUARD_H
#define VARVE_GUEST_DOMAIN_GUARD_H

#include <sys/types.h>

#define DOMAIN_GUARD_ARGUMENT "--domain-guard"

/* Start one from this program's file. uuid, commands: borrowed. pipe_fd: stays the caller's.
 * Returns a process that ends at once, with 0 when the guard, an orphan, stands; -1 and errno. */
pid_t domain_guard_start(const char *uuid, int pipe_fd, const char *commands);

/* argv: [2] the UUID, [3] QMP commands, a line each. Returns the exit code of the process. */
int domain_guard_main(int argc, char **argv);

#endif
