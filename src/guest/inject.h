/* inject.h - system calls made by another process for us: one ptrace stop of its main thread.
 * x86-64. All calls for one stop come from the thread that began it.
 *
 * The other process does not notice: registers, vector registers, signal mask, pending signals and
 * the system call that was interrupted are as before. If this process dies in the middle, the main
 * thread finishes the call, finds on its stack the return to where it was, and goes on; a system
 * call that was interrupted may then give EINTR.
 *
 * Source: ptrace(2), sigreturn(2). */
#ifndef VARVE_GUEST_INJECT_H
#define VARVE_GUEST_INJECT_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define INJECT_SCRATCH_BYTES 256u

struct inject;

/* Stop the main thread of pid. pidfd: of the same process, borrowed until inject_end(); it decides
 * whether the number still means it. Errors with a sentence: -EPERM (no right to trace), -EBUSY
 * (somebody else traces it), -ESRCH (it has ended), -EOPNOTSUPP (32-bit code, or its program has
 * not what is needed), -ETIMEDOUT, -ENOMEM. */
int inject_begin(pid_t pid, int pidfd, struct inject **ret, struct why *why);

/* Have it make the call; *ret is what the kernel returned to it (-errno on failure). Errors:
 * -ESRCH (it has ended), -EIO; then nothing more can be done but inject_end(). */
int inject_call(struct inject *inject, long number, const uint64_t args[6], int64_t *ret,
                struct why *why);

/* INJECT_SCRATCH_BYTES of its memory that are free as long as it is stopped. */
uint64_t inject_scratch(const struct inject *inject);
int inject_write(struct inject *inject, uint64_t address, const void *buf, size_t len);

/* Let it go on; frees inject. Errors: -ESRCH, -EIO, -ETIMEDOUT: what is not let go yet is when the
 * calling thread ends. NULL is legal: 0. */
int inject_end(struct inject *inject, struct why *why);

/* All of that for one call, in a thread that ends with it: after an error the process is let go,
 * however it failed. Any thread; errors as above. */
int inject_once(pid_t pid, int pidfd, long number, const uint64_t args[6], int64_t *ret,
                struct why *why);

#endif
