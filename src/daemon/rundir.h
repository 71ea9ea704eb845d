/* rundir.h - the run directory: its lock and its sockets. One thread.
 *
 * Invariants:
 *  1. One daemon holds RUN/varved.lock (flock) for its life; a second one is refused before it has
 *     touched anything, so a socket found here while holding the lock is a dead daemon's.
 *  2. Sockets have mode 0600 from the moment they exist; that of NBD may be opened to a group. */
#ifndef VARVE_DAEMON_RUNDIR_H
#define VARVE_DAEMON_RUNDIR_H

#include "base/why.h"

#include <sys/types.h>
#include <sys/un.h>

#define CONTROL_SOCKET "varve.sock"
#define NBD_SOCKET     "nbd.sock"

#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

/* Make the directory (mode 0700) if it is missing, and lock it.
 * path: at most such that its sockets have paths that fit. ret_lock_fd: closing it unlocks.
 * Errors with a sentence: -ENAMETOOLONG, ERR_IN_USE, -EPERM (others may write to it), or an errno.
 */
int rundir_open(const char *path, int *ret_lock_fd, struct why *why);

/* Take away what a dead daemon left at path, and listen there. ret_fd: non-blocking.
 * ERR_IN_USE: somebody answers there. -EEXIST: it is no socket. */
int rundir_listen(const char *path, int *ret_fd, struct why *why);

/* Let the members of a group connect to the socket at path in dir: it gets mode 0660, and the
 * directory a way through. Errors with a sentence: -errno. */
int rundir_let_in(const char *dir, const char *path, gid_t group, struct why *why);

/* 0, or -ENAMETOOLONG with a sentence that says the limit. */
int socket_path_check(const char *path, struct why *why);

#endif
