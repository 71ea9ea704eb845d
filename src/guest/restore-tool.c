/* restore-tool.c - restore.h and pager.h by hand, and for tests. Not installed.
 *
 *     restore-tool start NAME DIR COMMANDLINE HEAD STATE RAM eager|lazy [DELAY-US]
 *         COMMANDLINE: a copy of /proc/PID/cmdline; HEAD, STATE: of device-state-tool; RAM: a copy
 *         of the machine's RAM file. Says what it lost, and the times. Every fetch takes DELAY-US.
 *     restore-tool adopt PID MEMORY-FILE RAM [DELAY-US]
 *         Serve the pages of a machine whose pager has died. MEMORY-FILE: what its RAM was.
 *         Of both: while there is a file RAM.fail no page can be had.
 *     restore-tool load QMP HEAD STATE
 *         Give a QEMU that waits the state; its RAM is not touched.
 *
 * Then commands on stdin: "progress", "wait" (until all is resident), "touched", "go" (let go). Its
 * end leaves the machine as it is. */
#include "base/mono.h"
#include "guest/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIMIT_US   60000000
#define FILL_BYTES (1u << 20)

struct blob {
    uint8_t *data;
    size_t bytes;
};

static struct blob ram;
static useconds_t delay_us;
static char fail_path[4096];

static uint64_t end_us(void)
{
    return mono_us() + LIMIT_US;
}

static struct blob map_file(const char *path)
{
    struct blob blob = {};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        perror(path);
        exit(2);
    }
    blob.bytes = (size_t)st.st_size;
    blob.data = mmap(NULL, blob.bytes, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (blob.data == MAP_FAILED) {
        perror(path);
        exit(2);
    }
    return blob;
}

static int fetch(void *arg, unsigned area, uint64_t page, unsigned n, void *out)
{
    if (delay_us)
        usleep(delay_us);
    if (access(fail_path, F_OK) == 0)
        return -EIO;
    if ((page + n) * PAGER_PAGE_BYTES > ram.bytes)
        return -EIO;
    memcpy(out, ram.data + page * PAGER_PAGE_BYTES, n * (size_t)PAGER_PAGE_BYTES);
    return 0;
}

/* Holes stay holes. */
static int fill(void *arg, const char *id, int fd, uint64_t bytes, struct why *why)
{
    static const uint8_t zeros[PAGER_PAGE_BYTES];
    uint64_t at = 0, run;

    if (bytes != ram.bytes)
        return why_set(why, -EINVAL, "the RAM has another size");
    for (; at < bytes; at += run + sizeof(zeros)) {
        for (run = 0; run < FILL_BYTES && at + run < bytes &&
                      memcmp(ram.data + at + run, zeros, sizeof(zeros)) != 0;
             run += sizeof(zeros))
            ;
        if (run && pwrite(fd, ram.data + at, run, (off_t)at) != (ssize_t)run)
            return why_set(why, -EIO, "cannot write RAM: %s", strerror(errno));
        if (run == FILL_BYTES)
            run -= sizeof(zeros);
    }
    return 0;
}

static void print_progress(struct pager *pager)
{
    struct pager_progress p;

    pager_progress(pager, &p);
    printf("ok pages %" PRIu64 " resident %" PRIu64 " faults %" PRIu64 " errors %" PRIu64
           " fault_us %" PRIu64 " complete %d complete_us %" PRIu64 "\n",
           p.pages, p.resident, p.faults, p.errors, p.fault_us, p.complete, p.complete_us);
}

static void serve(struct pager *pager)
{
    struct pager_progress p = {};
    char line[64];

    while (fgets(line, sizeof(line), stdin)) {
        if (!pager) {
            printf("error no pager\n");
            continue;
        }
        while (!strcmp(line, "wait\n") && !p.complete) {
            usleep(1000);
            pager_progress(pager, &p);
        }
        if (!strcmp(line, "touched\n"))
            printf("ok %zu\n", pager_touched(pager, NULL, 0));
        else if (!strcmp(line, "go\n"))
            printf("%s\n", pager_let_go(pager) == 0 ? "ok" : "error");
        else
            print_progress(pager);
    }
}

static int fail(int r, const struct why *why)
{
    printf("error %d %s\n", -r, why->text);
    return 1;
}

static char **split(struct blob text)
{
    char **list = calloc(text.bytes + 1, sizeof(*list));
    unsigned n = 0;

    for (size_t at = 0; list && at < text.bytes; at += strlen((char *)text.data + at) + 1)
        list[n++] = (char *)text.data + at;
    return list;
}

static struct restore_state read_state(const char *head, const char *devices)
{
    struct blob h = map_file(head), d = map_file(devices);

    return (struct restore_state){
        .head = h.data, .head_bytes = h.bytes, .devices = d.data, .devices_bytes = d.bytes};
}

static int start(char **argv)
{
    char memory_file[128];
    struct restore_changes changes = {.name = argv[0], .dir = argv[1], .memory_file = memory_file};
    struct restore_memory_source source = {
        .lazy = !strcmp(argv[6], "lazy"), .fill = fill, .pages = {.fetch = fetch}};
    struct restore_state state = read_state(argv[3], argv[4]);
    struct restored m = {};
    struct why why = {};

    snprintf(memory_file, sizeof(memory_file), "/dev/shm/varve-%s", argv[0]);
    ram = map_file(argv[5]);
    snprintf(fail_path, sizeof(fail_path), "%s.fail", argv[5]);
    delay_us = argv[7] ? (useconds_t)atoi(argv[7]) : 0;
    char **command = split(map_file(argv[2]));
    uint64_t begin_us = mono_us();
    int r = restore_start(command, NULL, &changes, &source, end_us(), &m, &why);
    free(command);
    if (r < 0)
        return fail(r, &why);
    r = restore_load(m.monitor, &state, -1, end_us(), &m.load_us, &why);
    uint64_t loaded_us = mono_us();
    if (r == 0)
        r = restore_run(m.monitor, end_us(), &why);
    uint64_t ran_us = mono_us();
    if (r < 0) {
        restore_abandon(&m);
        return fail(r, &why);
    }
    for (unsigned i = 0; i < m.args.n_lost; i++)
        printf("lost %s\n", m.args.lost[i]);
    printf("ok pid %d total_us %" PRIu64 " start_us %" PRIu64 " fill_us %" PRIu64
           " load_us %" PRIu64 " run_us %" PRIu64 " qmp %s\n",
           (int)m.pid, ran_us - begin_us, m.start_us, m.fill_us, m.load_us, ran_us - loaded_us,
           m.args.qmp);
    /* Others may have the monitor. */
    monitor_close(m.monitor);
    m.monitor = NULL;
    serve(m.pager);
    restore_release(&m);
    return 0;
}

static int adopt(char **argv)
{
    struct restore_memory memory = {.id = "ram"};
    struct restore_memory_source source = {.lazy = true, .pages = {.fetch = fetch}};
    struct restored m = {};
    struct why why = {};
    pid_t pid = atoi(argv[0]);

    snprintf(memory.path, sizeof(memory.path), "%s", argv[1]);
    ram = map_file(argv[2]);
    snprintf(fail_path, sizeof(fail_path), "%s.fail", argv[2]);
    memory.bytes = ram.bytes;
    delay_us = argv[3] ? (useconds_t)atoi(argv[3]) : 0;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int r = restore_adopt(pid, pidfd, &memory, 1, &source, end_us(), &m, &why);
    if (r < 0)
        return fail(r, &why);
    printf("ok\n");
    serve(m.pager);
    restore_release(&m);
    close(pidfd);
    return 0;
}

static int load(char **argv)
{
    struct restore_state state = read_state(argv[1], argv[2]);
    struct monitor *m = NULL;
    struct why why = {};

    int r = monitor_open(argv[0], end_us(), &m, &why);
    if (r == 0)
        r = restore_load(m, &state, -1, end_us(), NULL, &why);
    monitor_close(m);
    if (r < 0)
        return fail(r, &why);
    printf("ok\n");
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc >= 9 && !strcmp(argv[1], "start"))
        return start(argv + 2);
    if (argc >= 5 && !strcmp(argv[1], "adopt"))
        return adopt(argv + 2);
    if (argc == 5 && !strcmp(argv[1], "load"))
        return load(argv + 2);
    fprintf(stderr, "usage: restore-tool start|adopt|load ...\n");
    return 2;
}
