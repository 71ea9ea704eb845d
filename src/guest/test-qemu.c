/* test-qemu.c - QEMUs for tests. */
#include "guest/test-qemu.h"

#include "base/mono.h"
#include "guest/monitor.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 64

uint64_t test_end_us(unsigned ms)
{
    return mono_us() + ms * 1000ULL;
}

static const char *program(void)
{
    const char *named = getenv("VARVE_TEST_QEMU");
    return named ? named : "qemu-system-x86_64";
}

static const char *accel(void)
{
    const char *named = getenv("VARVE_ACCEL");
    return named ? named : "tcg";
}

static bool is_there(void)
{
    char command[512];

    snprintf(command, sizeof(command), "command -v '%s' >/dev/null", program());
    return system(command) == 0;
}

bool test_qemu_start(struct test_qemu *q, const char *const *args)
{
    char qmp[160];
    const char *argv[ARGS_MAX] = {program(),  "-nodefaults", "-no-user-config",
                                  "-display", "none",        "-accel",
                                  accel(),    "-qmp",        qmp};
    unsigned n = 9;

    if (!is_there())
        return false;
    strcpy(q->dir, "/tmp/varve-test-qemu.XXXXXX");
    if (!mkdtemp(q->dir))
        abort();
    snprintf(q->qmp, sizeof(q->qmp), "%s/qmp", q->dir);
    snprintf(qmp, sizeof(qmp), "unix:%s,server=on,wait=off", q->qmp);
    for (; *args; args++) {
        assert(n < ARGS_MAX - 1);
        argv[n++] = *args;
    }
    q->pid = fork();
    if (q->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    assert(q->pid > 0);
    return true;
}

void test_qemu_end(struct test_qemu *q)
{
    if (q->pid > 0) {
        kill(q->pid, SIGKILL);
        waitpid(q->pid, NULL, 0);
    }
    q->pid = 0;
    unlink(q->qmp);
    rmdir(q->dir);
}

struct monitor *test_qemu_monitor(const struct test_qemu *q)
{
    uint64_t end_us = test_end_us(20000);
    struct monitor *m = NULL;
    struct why why = {};
    int r;

    while ((r = monitor_open(q->qmp, end_us, &m, &why)) < 0) {
        if ((r != -ENOENT && r != -ECONNREFUSED) || mono_us() > end_us) {
            fprintf(stderr, "no session: %s\n", why.text);
            abort();
        }
        usleep(5000);
    }
    return m;
}
