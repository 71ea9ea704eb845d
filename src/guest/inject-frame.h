/* inject-frame.h - between the files of inject.h: the way back for a thread whose tracer died.
 * Any thread. Source: arch/x86/include/uapi/asm/sigcontext.h and ucontext.h of Linux, whose layout
 * is ABI. */
#ifndef VARVE_GUEST_INJECT_FRAME_H
#define VARVE_GUEST_INJECT_FRAME_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#define FRAME_XSTATE_MAX 16384u
#define FRAME_MAX        (FRAME_XSTATE_MAX + 1024u)

/* Addresses in the process: of "syscall; ret", and of "mov $15,%rax; syscall". */
struct gadgets {
    uint64_t call, restore;
};

/* Look in its C library, then in the rest of its code. mem_fd: of its /proc/PID/mem. Errors with a
 * sentence: -EOPNOTSUPP, -ESRCH, or an errno of reading its mappings. */
int gadgets_find(pid_t pid, int mem_fd, struct gadgets *ret, struct why *why);

/* The bytes that lie at address stack, 8 below a multiple of 64: restore, then a signal frame that
 * leads back to regs, in which a system call may have been interrupted. out: FRAME_MAX bytes.
 * Returns their number, or 0 (xstate is too large, or makes no sense). */
size_t frame_build(const struct user_regs_struct *regs, uint64_t mask, const unsigned char *xstate,
                   size_t xstate_len, uint64_t restore, uint64_t stack, unsigned char *out);

#endif
