/* process-fd.h - descriptors that another process was given by us. Any thread. */
#ifndef VARVE_GUEST_PROCESS_FD_H
#define VARVE_GUEST_PROCESS_FD_H

#include <sys/types.h>

/* The number by which a process has a pipe that is open here as pipe_fd. Returns 0, -ENOENT (it
 * does not have it), or -errno (no right to look, or the process has ended). ret: NULL is legal. */
int process_fd_find(pid_t pid, int pipe_fd, unsigned *ret);

#endif
