/* inject-frame.c - the way back for a thread whose tracer died. */
#include "guest/inject-frame.h"

#include "base/cleanup.h"
#include "guest/ram-internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <ucontext.h>

#define SW_OFFSET    464 /* in the legacy area: free for the system; ptrace puts XCR0 there */
#define MAGIC1       0x46505853u
#define MAGIC2       0x46505845u
#define LEGACY_BYTES 512u
#define FLAGS        7 /* UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
#define CODE_MAX     (64u << 20)

#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516

/* The kernel's part of a ucontext_t ends with eight bytes of mask. */
struct frame {
    uint64_t restore;
    uint64_t flags, link;
    stack_t stack;
    uint64_t regs[NGREG]; /* order of REG_R8 and so on; then the pointer to the xstate */
    uint64_t fpstate, reserved[8];
    uint64_t mask;
};
static_assert(sizeof(struct frame) == 8 + 40 + 23 * 8 + 8 + 64 + 8, "the kernel's rt_sigframe");

struct fx_sw {
    uint32_t magic1, extended_size;
    uint64_t xfeatures;
    uint32_t xstate_size, padding[7];
};

/* Back to where it was, or to what interrupted it: where the kernel restarts a call without a
 * handler it is restarted, where it wants its own notes (which rt_sigreturn drops), it gives EINTR.
 */
static void set_pc(struct frame *f, const struct user_regs_struct *regs)
{
    f->regs[REG_RIP] = regs->rip;
    f->regs[REG_RAX] = regs->rax;
    if ((int64_t)regs->orig_rax < 0)
        return;
    switch (-(int64_t)regs->rax) {
    case ERESTARTSYS:
    case ERESTARTNOINTR:
    case ERESTARTNOHAND:
        f->regs[REG_RIP] = regs->rip - 2;
        f->regs[REG_RAX] = regs->orig_rax;
        break;
    case ERESTART_RESTARTBLOCK:
        f->regs[REG_RAX] = (uint64_t)-EINTR;
        break;
    default:
        break;
    }
}

static void set_regs(struct frame *f, const struct user_regs_struct *r)
{
    const uint64_t values[] = {r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15,
                               r->rdi, r->rsi, r->rbp, r->rbx, r->rdx, r->rax, r->rcx, r->rsp};

    static_assert(REG_R8 == 0 && REG_RDI == 8 && REG_RSP == 15 && REG_RIP == 16, "order");
    memcpy(f->regs, values, sizeof(values));
    f->regs[REG_EFL] = r->eflags;
    f->regs[REG_CSGSFS] = r->cs | r->ss << 48;
    set_pc(f, r);
}

size_t frame_build(const struct user_regs_struct *regs, uint64_t mask, const unsigned char *xstate,
                   size_t xstate_len, uint64_t restore, uint64_t stack, unsigned char *out)
{
    struct fx_sw sw = {.magic1 = MAGIC1};
    struct frame f = {.restore = restore, .flags = FLAGS, .mask = mask};
    size_t at = (sizeof(f) - 8 + 63) / 64 * 64 + 8; /* of the xstate: stack + at is aligned */
    uint32_t magic2 = MAGIC2;

    if (xstate_len < LEGACY_BYTES + 64 || xstate_len > FRAME_XSTATE_MAX)
        return 0;
    f.stack.ss_flags = SS_DISABLE;
    f.fpstate = stack + at;
    set_regs(&f, regs);
    memcpy(&sw.xfeatures, xstate + SW_OFFSET, sizeof(sw.xfeatures));
    if (!sw.xfeatures)
        return 0;
    sw.xstate_size = (uint32_t)xstate_len;
    sw.extended_size = (uint32_t)xstate_len + sizeof(magic2);
    memset(out, 0, at);
    memcpy(out, &f, sizeof(f));
    memcpy(out + at, xstate, xstate_len);
    memcpy(out + at + SW_OFFSET, &sw, sizeof(sw));
    memcpy(out + at + xstate_len, &magic2, sizeof(magic2));
    return at + xstate_len + sizeof(magic2);
}

/* ---- code that is there --------------------------------------------------------------------- */

static void look_in(const struct mapping *m, int mem_fd, struct gadgets *g)
{
    static const unsigned char call[] = {0x0f, 0x05, 0xc3},
                               restore[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
    size_t len = m->end - m->start;
    _cleanup_free_ unsigned char *code = len > CODE_MAX ? NULL : malloc(len);

    if (!code || pread(mem_fd, code, len, (off_t)m->start) != (ssize_t)len)
        return;
    const unsigned char *at = g->call ? NULL : memmem(code, len, call, sizeof(call));
    if (at)
        g->call = m->start + (uint64_t)(at - code);
    at = g->restore ? NULL : memmem(code, len, restore, sizeof(restore));
    if (at)
        g->restore = m->start + (uint64_t)(at - code);
}

int gadgets_find(pid_t pid, int mem_fd, struct gadgets *ret, struct why *why)
{
    _cleanup_free_ struct mapping *maps = NULL;
    struct gadgets g = {};
    unsigned n = 0;
    int r = mappings_read(pid, &maps, &n);

    if (r < 0)
        return why_set(why, r, "cannot read the mappings of process %d: %s", (int)pid,
                       strerror(-r));
    for (int pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < n && (!g.call || !g.restore); i++)
            if (maps[i].read && maps[i].execute && !maps[i].write && maps[i].path[0] == '/' &&
                (strstr(maps[i].path, "/libc.so") || strstr(maps[i].path, "/libc-") || pass == 1))
                look_in(&maps[i], mem_fd, &g);
    if (!g.call || !g.restore)
        return why_set(why, -EOPNOTSUPP,
                       "the program of process %d has no code by which it can make system calls",
                       (int)pid);
    *ret = g;
    return 0;
}
