/* agent.h - the guest agent of QEMU, on its Unix socket. One thread; blocks, but not beyond its
 * deadlines.
 *
 * What comes from the socket comes from a guest: it is read with bounds and believed only as far as
 * it is an answer to what was asked. Source: docs/interop/qemu-ga-ref of QEMU. */
#ifndef VARVE_GUEST_AGENT_H
#define VARVE_GUEST_AGENT_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>

#define AGENT_LINE_MAX_BYTES 65536u

struct agent {
    int fd; /* -1: not connected */
    size_t len;
    char text[AGENT_LINE_MAX_BYTES]; /* received and not taken yet */
};

/* Connect to the socket at path and find the beginning of the answers, whatever others left there.
 * end_us: by mono_us(). Errors with a sentence: -ENOENT (nobody is there), -ETIMEDOUT (no agent
 * answers: it does not run, or somebody else talks to it), -ENAMETOOLONG, or an errno. */
int agent_open(struct agent *agent, const char *path, uint64_t end_us, struct why *why);

/* The same on a socket that is connected, which is taken. */
int agent_attach(struct agent *agent, int fd, uint64_t end_us, struct why *why);

/* Run a command without arguments whose answer is a number. Errors with a sentence: -EPROTO (the
 * agent refuses: nothing was done), -ETIMEDOUT, -EIO (of both it is not known what was done; the
 * connection must be opened again). */
int agent_command(struct agent *agent, const char *command, uint64_t end_us, int64_t *ret,
                  struct why *why);

void agent_close(struct agent *agent);

#endif
