/* test-guest.c - a QEMU that runs tests/guest/scribbler.c. */
#include "guest/test-guest.h"

#include "guest/monitor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MS 120000 /* filling 3 GiB under TCG takes seconds, more on a busy machine */

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    abort();
}

static void connect_serial(struct test_guest *g)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/serial", g->qemu.dir);
    g->serial = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(g->serial, (struct sockaddr *)&address, sizeof(address)) < 0)
        die("no serial port");
    unlink(address.sun_path);
}

bool test_guest_start(struct test_guest *g, const char *elf, unsigned mib)
{
    char memory[32], backend[128], serial[128], dir[] = "/tmp/varve-test-guest.XXXXXX";
    const char *const args[] = {
        "-S",      "-machine", "pc,memory-backend=ram,max-ram-below-4g=3584M",
        "-m",      memory,     "-object",
        backend,   "-kernel",  elf,
        "-serial", serial,     NULL};
    struct why why = {};

    if (!mkdtemp(dir))
        die("no directory");
    snprintf(memory, sizeof(memory), "%u", mib);
    snprintf(backend, sizeof(backend),
             "memory-backend-file,id=ram,size=%uM,mem-path=/dev/shm,share=on", mib);
    snprintf(serial, sizeof(serial), "unix:%s/serial,server=on,wait=off", dir);
    if (!test_qemu_start(&g->qemu, args)) {
        rmdir(dir);
        return false;
    }
    g->monitor = test_qemu_monitor(&g->qemu);
    char own[64];
    strcpy(own, g->qemu.dir);
    strcpy(g->qemu.dir, dir);
    connect_serial(g);
    strcpy(g->qemu.dir, own);
    rmdir(dir);
    if (monitor_run(g->monitor, "cont", NULL, test_end_us(10000), NULL, &why) < 0 ||
        ram_open(g->monitor, test_end_us(10000), &g->ram, &why) < 0)
        die(why.text);
    for (unsigned i = 0; i < g->ram->n; i++)
        if (!strcmp(g->ram->blocks[i].name, "ram"))
            g->main = i;
    test_guest_await(g, 'R');
    return true;
}

void test_guest_end(struct test_guest *g)
{
    ram_close(g->ram);
    monitor_close(g->monitor);
    close(g->serial);
    test_qemu_end(&g->qemu);
}

void test_guest_begin(struct test_guest *g, char order)
{
    if (send(g->serial, &order, 1, MSG_NOSIGNAL) != 1)
        die("the guest is gone");
}

void test_guest_await(struct test_guest *g, char answer)
{
    struct pollfd fd = {.fd = g->serial, .events = POLLIN};
    char c = 0;

    while (c != answer)
        if (poll(&fd, 1, ANSWER_MS) != 1 || recv(g->serial, &c, 1, 0) != 1)
            die("the guest does not answer");
}

void test_guest_do(struct test_guest *g, char order)
{
    test_guest_begin(g, order);
    test_guest_await(g, (char)(order + 32));
}
