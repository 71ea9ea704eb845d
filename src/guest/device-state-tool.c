/* device-state-tool.c - device-state.h and restore.h by hand, and for tests. Not installed.
 *
 *     device-state-tool QMP-SOCKET
 *
 * Commands come as lines on stdin, each is answered by a line: "ok ..." or "error CODE SENTENCE".
 *
 *     check attach|capture      may it be taken now?
 *     prepare FILE              the head into a file
 *     expect BYTES              as if the last state had been so long
 *     begin save|migrate        pause
 *     finish FILE               the state into a file, and resume: its times in microseconds
 *     abort                     resume */
#include "base/mono.h"
#include "guest/device-state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t limit_us = 5000000;

static uint64_t end_us(void)
{
    return mono_us() + limit_us;
}

static int put_file(const char *path, const void *data, size_t bytes, struct why *why)
{
    FILE *file = fopen(path, "wb");
    bool written = file && fwrite(data, 1, bytes, file) == bytes;

    if (file && fclose(file) != 0)
        written = false;
    return written ? 0 : why_set(why, -EIO, "cannot write %s", path);
}

static int prepare(struct monitor *m, const char *path, struct why *why)
{
    struct device_head head = {};

    uint64_t begin_us = mono_us();
    int r = device_state_prepare(m, NULL, end_us(), &head, why);
    uint64_t took_us = mono_us() - begin_us;
    if (r == 0)
        r = put_file(path, head.data, head.bytes, why);
    if (r == 0)
        printf("ok bytes %zu took_us %" PRIu64 "\n", head.bytes, took_us);
    device_head_free(&head);
    return r;
}

static size_t stream_bytes; /* of the last one */

static int begin(struct monitor *m, enum device_way way, struct device_capture **ret,
                 struct why *why)
{
    struct device_capture *capture;

    int r = device_capture_ready(m, NULL, way, stream_bytes, end_us(), &capture, why);
    if (r == 0)
        r = device_capture_hold(capture, end_us(), why);
    if (r == 0)
        *ret = capture;
    return r;
}

static int finish(struct device_capture *capture, const char *path, struct why *why)
{
    struct device_state state = {};

    int r = device_capture_finish(capture, end_us(), &state, why);
    if (r == 0)
        r = put_file(path, state.data, state.bytes, why);
    stream_bytes = r == 0 ? state.stream_bytes : 0;
    if (r == 0)
        printf("ok bytes %zu running %d stop_us %" PRIu64 " state_us %" PRIu64 " resume_us %" PRIu64
               "\n",
               state.bytes, state.was_running, state.stop_us, state.state_us, state.resume_us);
    device_state_free(&state);
    return r;
}

/* -ENOSYS: there is no such command. */
static int run(struct monitor *m, struct device_capture **capture, const char *verb,
               const char *argument, struct why *why)
{
    struct device_capture *held = *capture;
    int r;

    if (!strcmp(verb, "limit_ms")) {
        limit_us = strtoull(argument, NULL, 10) * 1000;
        r = 0;
    } else if (!strcmp(verb, "expect")) {
        stream_bytes = strtoull(argument, NULL, 10);
        r = 0;
    } else if (!strcmp(verb, "check")) {
        r = device_state_check(m, !strcmp(argument, "attach"), end_us(), NULL, why);
    } else if (!strcmp(verb, "prepare")) {
        return prepare(m, argument, why);
    } else if (!strcmp(verb, "begin") && !held) {
        r = begin(m, !strcmp(argument, "migrate") ? DEVICE_BY_MIGRATE : DEVICE_BY_SAVE, capture,
                  why);
    } else if (!strcmp(verb, "finish") && held) {
        *capture = NULL;
        return finish(held, argument, why);
    } else if (!strcmp(verb, "abort") && held) {
        *capture = NULL;
        r = device_capture_abort(held, end_us(), why);
    } else {
        return why_set(why, -ENOSYS, "no such command now: %s", verb);
    }
    if (r == 0)
        printf("ok\n");
    return r;
}

int main(int argc, char **argv)
{
    struct device_capture *capture = NULL;
    char line[4096], verb[32], argument[4000];
    struct monitor *m = NULL;
    struct why why = {};

    if (argc != 2) {
        fprintf(stderr, "usage: device-state-tool QMP-SOCKET\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    int r = monitor_open(argv[1], end_us(), &m, &why);
    if (r == 0)
        printf("ok pid %d\n", (int)monitor_pid(m));
    else
        printf("error %d %s\n", -r, why.text);
    while (r == 0 && fgets(line, sizeof(line), stdin)) {
        *argument = '\0';
        if (sscanf(line, "%31s %3999s", verb, argument) < 1)
            continue;
        int code = run(m, &capture, verb, argument, &why);
        if (code < 0)
            printf("error %d %s\n", -code, why.text);
    }
    if (capture)
        device_capture_abort(capture, end_us(), &why);
    monitor_close(m);
    return r < 0;
}
