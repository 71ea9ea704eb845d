/* qemu-process.h - starting a QEMU that goes into the background (-daemonize), while its caller
 * does something else. One thread. */
#ifndef VARVE_GUEST_QEMU_PROCESS_H
#define VARVE_GUEST_QEMU_PROCESS_H

#include "base/why.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct qemu_start {
    pid_t pid;       /* of the process that goes away when the machine is up */
    int out_fd;      /* what it says */
    uint64_t end_us; /* by mono_us(): until when qemu_wait() waits; two minutes, or what a caller
                        sets */
    const atomic_bool *cancel; /* NULL, or what a caller sets: true ends the waiting */
};

/* Start it. The calling thread gets the kernel's default time slice (time-slice.h), and QEMU with
 * it. argv: borrowed for the call; cwd: NULL, or where to start it. Returns 0, -ENOENT (it
 * is not installed), -errno, with a sentence. */
int qemu_start(char *const *argv, const char *cwd, struct qemu_start *ret, struct why *why);
/* Wait until the machine is up. Returns 0; -EIO with what QEMU said; -ETIMEDOUT: it was not up by
 * end_us, and was killed; -ECANCELED: it was not up when that was cancelled, and was killed. */
int qemu_wait(struct qemu_start *start, struct why *why);
/* The process in a pid file, or 0. */
pid_t qemu_pid(const char *pid_file);

#endif
