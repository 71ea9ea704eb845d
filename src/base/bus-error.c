/* bus-error.c - a handler that goes back to who asked for it. */
#include "base/bus-error.h"

#include <assert.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

static _Thread_local sigjmp_buf *guard;

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
    (void)context;
    /* Not sent by anybody, nor broken memory (BUS_MCEERR_AR). */
    if (guard && info->si_code == BUS_ADRERR)
        siglongjmp(*guard, 1);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* Others may have put theirs there since the last time. */
static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction now;

    if (sigaction(SIGBUS, NULL, &now) < 0 || now.sa_sigaction != on_bus_error)
        sigaction(SIGBUS, &action, NULL);
}

bool bus_error_guard(void (*fn)(void *arg), void *arg)
{
    sigjmp_buf here;

    assert(!guard);
    install();
    if (sigsetjmp(here, 0)) {
        guard = NULL;
        return false;
    }
    guard = &here;
    fn(arg);
    guard = NULL;
    return true;
}
