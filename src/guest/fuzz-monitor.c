/* fuzz-monitor.c - any bytes in place of QEMU's: no crash, no waiting beyond the deadline, a
 * session only after a greeting, and after an error that leaves open what was done no more answers.
 */
#include "base/mono.h"
#include "guest/monitor.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIME_US 20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct monitor *m, uint64_t end_us)
{
    struct why why = {};
    char *text = NULL, status[32] = "";
    json_t *value = NULL;

    int r = monitor_status(m, status, end_us, &why);
    assert(r == 0 ? strlen(status) < sizeof(status) : !*status && *why.text);
    int event = monitor_wait_event(m, "STOP", end_us, &value, &why);
    assert((event == 0) == (value != NULL));
    json_decref(value);
    int hmp = monitor_run_hmp(m, "info ramblock", end_us, &text, &why);
    assert((hmp == 0) == (text != NULL));
    if (r == -EPIPE || r == -ETIMEDOUT)
        assert(hmp == -EPIPE); /* dead is dead */
    free(text);
}

/* The first byte chooses whether QEMU hangs up behind its bytes ('w': it does not), and whether
 * the fuzzer's bytes come after a proper greeting and its answer. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char greeting[] =
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
        "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n{\"return\": {}, \"id\": 1}\r\n";
    struct monitor *m = NULL;
    struct why why = {};
    int fds[2];

    if (size < 1)
        return 0;
    uint8_t how = *data++;
    size--;
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    if (how & 1)
        assert(send(fds[1], greeting, sizeof(greeting) - 1, MSG_NOSIGNAL) > 0);
    ssize_t n = send(fds[1], data, size, MSG_NOSIGNAL);
    assert(n >= 0 || errno == EAGAIN);
    if (how != 'w')
        shutdown(fds[1], SHUT_WR);
    uint64_t begin_us = mono_us();
    int r = monitor_attach(fds[0], 0, begin_us + TIME_US, &m, &why);
    assert((r == 0) == (m != NULL));
    assert(r == 0 || *why.text);
    assert(r == 0 || !(how & 1));
    if (m) {
        assert(monitor_pid(m) == getpid());
        use(m, begin_us + TIME_US);
    }
    assert(mono_us() < begin_us + TIME_US + 5000000);
    monitor_close(m);
    close(fds[1]);
    return 0;
}
