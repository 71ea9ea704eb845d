/* inject.c - system calls made by another process for us.
 *
 * The main thread is made to run `syscall; ret` of its C library on a stack on which lies what a
 * signal handler would return through: the address of the library's `mov $15,%rax; syscall` and a
 * signal frame with all registers as they were. We stop it behind the `syscall`, so the `ret` runs
 * only if we are no more; then rt_sigreturn puts everything back.
 *
 * States: running -> stop() -> STOPPED -> prepare() -> PREPARED -> call()... -> restore() ->
 * detach. In PREPARED the tracer may die at any instruction:
 * 1. The frame is written before the registers, and the registers before the signal mask.
 * 2. The mask is put back before the registers.
 * 3. The registers are put back in a stop of PTRACE_INTERRUPT, as they were found in one: only
 * there the kernel looks at an interrupted system call and restarts it, or not, as it would have.
 */
#include "guest/inject.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/inject-frame.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define STOP_US      2000000 /* for a stop to come; a thread in an uninterruptible call is late */
#define SPIN_US      2000    /* of them without sleeping */
#define USER_CS64    0x33
#define RED_ZONE     128
#define MASK_BYTES   8
#define TRIES        20 /* to find it in a system call, where nothing is half done */
#define TRY_PAUSE_US 500

struct inject {
    pid_t pid;
    int pidfd, mem_fd;
    bool attached, prepared;
    uint64_t mask, stack;
    struct gadgets gadgets;
    struct user_regs_struct regs; /* as they were */
};

static bool has_ended(const struct inject *in)
{
    struct pollfd fd = {.fd = in->pidfd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

static int lost(const struct inject *in, const char *what, struct why *why)
{
    int code = errno;

    if (has_ended(in) || code == ESRCH || code == ECHILD)
        return why_set(why, -ESRCH, "QEMU has ended");
    return why_set(why, -EIO, "process %d cannot be %s: %s", (int)in->pid, what, strerror(code));
}

/* ---- stops ---------------------------------------------------------------------------------- */

/* The next stop of any kind: its status. */
static int wait_stop(const struct inject *in, int *ret_status, struct why *why)
{
    uint64_t begin_us = mono_us(), now = begin_us;

    for (; now < begin_us + STOP_US; now = mono_us()) {
        pid_t pid = waitpid(in->pid, ret_status, WNOHANG | __WALL);
        if (pid == in->pid && WIFSTOPPED(*ret_status))
            return 0;
        if (pid == in->pid || (pid < 0 && errno != EINTR)) {
            errno = ESRCH;
            return lost(in, "stopped", why);
        }
        if (now > begin_us + SPIN_US)
            usleep(200);
    }
    return why_set(why, -ETIMEDOUT,
                   "the main thread of process %d does not stop; does it wait for a disk?",
                   (int)in->pid);
}

static bool is_interrupt_stop(int status)
{
    return status >> 16 == PTRACE_EVENT_STOP;
}

/* In the stop of a system call's entry or exit, with PTRACE_O_TRACESYSGOOD. */
static bool is_call_stop(int status)
{
    return WSTOPSIG(status) == (SIGTRAP | 0x80);
}

/* Go on until a stop of that kind. Signals on the way are given back: they stay pending, as all
 * are masked, but for those that nothing can mask. */
static int run_to(const struct inject *in, int request, bool (*is_it)(int), struct why *why)
{
    for (;;) {
        int status, r;
        if (ptrace(request, in->pid, 0, 0) < 0)
            return lost(in, "continued", why);
        r = wait_stop(in, &status, why);
        if (r < 0 || is_it(status))
            return r;
    }
}

static int interrupt(const struct inject *in, struct why *why)
{
    int status, r;

    if (ptrace(PTRACE_INTERRUPT, in->pid, 0, 0) < 0)
        return lost(in, "stopped", why);
    for (;;) {
        r = wait_stop(in, &status, why);
        if (r < 0 || is_interrupt_stop(status))
            return r;
        /* A signal that was on its way: deliver it, as if we were not there. */
        if (ptrace(PTRACE_CONT, in->pid, 0, WSTOPSIG(status)) < 0)
            return lost(in, "continued", why);
    }
}

static bool is_in_call(const struct user_regs_struct *regs)
{
    return (int64_t)regs->orig_rax >= 0;
}

/* Stopped, best while it waits in a system call. */
static int stop(struct inject *in, struct why *why)
{
    for (unsigned i = 0;; i++) {
        int r = interrupt(in, why);
        if (r < 0)
            return r;
        if (ptrace(PTRACE_GETREGS, in->pid, 0, &in->regs) < 0)
            return lost(in, "read", why);
        if (in->regs.cs != USER_CS64)
            return why_set(why, -EOPNOTSUPP, "process %d runs no 64-bit code", (int)in->pid);
        if (is_in_call(&in->regs) || i == TRIES)
            return 0;
        if (ptrace(PTRACE_CONT, in->pid, 0, 0) < 0)
            return lost(in, "continued", why);
        usleep(TRY_PAUSE_US);
    }
}

/* ---- preparing and restoring ---------------------------------------------------------------- */

/* The way back onto its stack. */
static int write_frame(struct inject *in, struct why *why)
{
    unsigned char xstate[FRAME_XSTATE_MAX], frame[FRAME_MAX];
    struct iovec area = {xstate, sizeof(xstate)};

    if (ptrace(PTRACE_GETSIGMASK, in->pid, MASK_BYTES, &in->mask) < 0 ||
        ptrace(PTRACE_GETREGSET, in->pid, NT_X86_XSTATE, &area) < 0)
        return lost(in, "read", why);
    uint64_t top = in->regs.rsp - RED_ZONE - INJECT_SCRATCH_BYTES;
    size_t len =
        frame_build(&in->regs, in->mask, xstate, area.iov_len, in->gadgets.restore, top, frame);
    if (!len)
        return why_set(why, -EOPNOTSUPP, "this processor has more registers than Varve knows");
    in->stack = top - len - (top - len) % 64 - 8;
    len = frame_build(&in->regs, in->mask, xstate, area.iov_len, in->gadgets.restore, in->stack,
                      frame);
    if (pwrite(in->mem_fd, frame, len, (off_t)in->stack) != (ssize_t)len)
        return lost(in, "written", why);
    return 0;
}

static int prepare(struct inject *in, struct why *why)
{
    struct user_regs_struct regs = in->regs;
    uint64_t all = ~0ULL;
    int r = write_frame(in, why);

    if (r < 0)
        return r;
    regs.rip = in->gadgets.call + 2; /* the ret: it has nothing to do yet but to go back */
    regs.rsp = in->stack;
    regs.rax = 0;
    regs.orig_rax = (unsigned long long)-1;
    if (ptrace(PTRACE_SETREGS, in->pid, 0, &regs) < 0)
        return lost(in, "written", why);
    in->prepared = true;
    if (ptrace(PTRACE_SETSIGMASK, in->pid, MASK_BYTES, &all) < 0)
        return lost(in, "written", why);
    return 0;
}

static int restore(struct inject *in, struct why *why)
{
    if (ptrace(PTRACE_INTERRUPT, in->pid, 0, 0) < 0)
        return lost(in, "stopped", why);
    int r = run_to(in, PTRACE_CONT, is_interrupt_stop, why);
    if (r < 0)
        return r;
    if (ptrace(PTRACE_SETSIGMASK, in->pid, MASK_BYTES, &in->mask) < 0 ||
        ptrace(PTRACE_SETREGS, in->pid, 0, &in->regs) < 0)
        return lost(in, "written", why);
    in->prepared = false;
    return 0;
}

/* ---- calls ---------------------------------------------------------------------------------- */

uint64_t inject_scratch(const struct inject *in)
{
    return (in->regs.rsp - RED_ZONE - INJECT_SCRATCH_BYTES) & ~15ULL;
}

int inject_write(struct inject *in, uint64_t address, const void *buf, size_t len)
{
    return pwrite(in->mem_fd, buf, len, (off_t)address) == (ssize_t)len ? 0 : -EIO;
}

int inject_call(struct inject *in, long number, const uint64_t args[6], int64_t *ret,
                struct why *why)
{
    struct user_regs_struct regs = in->regs;

    regs.rax = (unsigned long long)number;
    regs.orig_rax = (unsigned long long)-1;
    regs.rdi = args[0];
    regs.rsi = args[1];
    regs.rdx = args[2];
    regs.r10 = args[3];
    regs.r8 = args[4];
    regs.r9 = args[5];
    regs.rip = in->gadgets.call;
    regs.rsp = in->stack;
    if (ptrace(PTRACE_SETREGS, in->pid, 0, &regs) < 0)
        return lost(in, "written", why);
    int r = run_to(in, PTRACE_SYSCALL, is_call_stop, why);
    if (r == 0)
        r = run_to(in, PTRACE_SYSCALL, is_call_stop, why);
    if (r < 0)
        return r;
    if (ptrace(PTRACE_GETREGS, in->pid, 0, &regs) < 0)
        return lost(in, "read", why);
    if (regs.rip != in->gadgets.call + 2 || regs.rsp != in->stack)
        return why_set(why, -EIO, "process %d went astray in a system call", (int)in->pid);
    *ret = (int64_t)regs.rax;
    return 0;
}

/* ---- begin and end -------------------------------------------------------------------------- */

/* Who traces it already: its number, or 0. */
static int tracer_of(pid_t pid)
{
    char path[64], line[256];
    int tracer = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "TracerPid: %d", &tracer) == 1)
            break;
    if (file)
        fclose(file);
    return tracer;
}

static int seize(struct inject *in, struct why *why)
{
    if (ptrace(PTRACE_SEIZE, in->pid, 0, PTRACE_O_TRACESYSGOOD) == 0) {
        in->attached = true;
        /* The number is ours now; was it the right one? */
        return has_ended(in) ? why_set(why, -ESRCH, "QEMU has ended") : 0;
    }
    int code = errno, tracer = tracer_of(in->pid);
    if (code == EPERM && tracer)
        return why_set(why, -EBUSY,
                       "process %d is traced by process %d (gdb, strace?); end that first",
                       (int)in->pid, tracer);
    if (code == EPERM || code == EACCES)
        return why_set(why, -EPERM,
                       "no right to trace process %d; run varved as root or with CAP_SYS_PTRACE, "
                       "and see /proc/sys/kernel/yama/ptrace_scope",
                       (int)in->pid);
    errno = code;
    return lost(in, "traced", why);
}

int inject_begin(pid_t pid, int pidfd, struct inject **ret, struct why *why)
{
    struct inject *in = calloc(1, sizeof(*in));
    char path[64];
    int r;

    if (!in)
        return why_set(why, -ENOMEM, "no memory");
    *in = (struct inject){.pid = pid, .pidfd = pidfd, .mem_fd = -1};
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    in->mem_fd = open(path, O_RDWR | O_CLOEXEC);
    if (in->mem_fd < 0)
        r = errno == EACCES || errno == EPERM
                ? why_set(why, -EPERM,
                          "no right to trace process %d; run varved as root or with "
                          "CAP_SYS_PTRACE, and see /proc/sys/kernel/yama/ptrace_scope",
                          (int)pid)
                : lost(in, "read", why);
    else
        r = gadgets_find(pid, in->mem_fd, &in->gadgets, why);
    if (r == 0)
        r = seize(in, why);
    if (r == 0)
        r = stop(in, why);
    if (r == 0)
        r = prepare(in, why);
    if (r == 0)
        *ret = in;
    else {
        struct why unused;
        inject_end(in, &unused);
    }
    return r;
}

/* Only what is stopped can be let go. */
static int detach(struct inject *in, struct why *why)
{
    if (ptrace(PTRACE_DETACH, in->pid, 0, 0) == 0)
        return 0;
    int r = errno == ESRCH ? interrupt(in, why) : lost(in, "released", why);
    if (r == 0 && ptrace(PTRACE_DETACH, in->pid, 0, 0) < 0)
        r = lost(in, "released", why);
    return r;
}

int inject_end(struct inject *in, struct why *why)
{
    struct why second;
    int r = 0;

    if (!in)
        return 0;
    if (in->prepared)
        r = restore(in, why);
    if (in->attached) {
        int detached = detach(in, r < 0 ? &second : why);
        r = r < 0 ? r : detached;
    }
    if (in->mem_fd >= 0)
        close(in->mem_fd);
    free(in);
    return r;
}

/* ---- one call ------------------------------------------------------------------------------- */

struct once {
    pid_t pid;
    int pidfd, r;
    long number;
    const uint64_t *args;
    int64_t result;
    struct why why;
};

static void *run_once(void *arg)
{
    struct once *o = arg;
    struct inject *in;
    struct why second;

    o->r = inject_begin(o->pid, o->pidfd, &in, &o->why);
    if (o->r < 0)
        return NULL;
    o->r = inject_call(in, o->number, o->args, &o->result, &o->why);
    int ended = inject_end(in, o->r < 0 ? &second : &o->why);
    if (o->r == 0)
        o->r = ended;
    return NULL;
}

int inject_once(pid_t pid, int pidfd, long number, const uint64_t args[6], int64_t *ret,
                struct why *why)
{
    struct once o = {.pid = pid, .pidfd = pidfd, .number = number, .args = args};
    pthread_t thread;
    int r = -pthread_create(&thread, NULL, run_once, &o);

    if (r < 0)
        return why_set(why, r, "cannot start a thread: %s", strerror(-r));
    pthread_join(thread, NULL);
    if (o.r < 0)
        return why_set(why, o.r, "%s", o.why.text);
    *ret = o.result;
    return 0;
}
