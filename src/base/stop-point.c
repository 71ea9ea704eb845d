/* stop-point.c - see stop-point.h. */
#include "base/stop-point.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *wanted;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look(void)
{
    wanted = getenv("VARVE_STOP_AT");
}

void stop_point(const char *name)
{
    static atomic_flag passed = ATOMIC_FLAG_INIT;

    pthread_once(&once, look);
    if (!wanted || strcmp(wanted, name) != 0 || atomic_flag_test_and_set(&passed))
        return;
    kill(getpid(), SIGSTOP);
    usleep(100000); /* not all threads stop in the same instant: this one goes no further */
}
