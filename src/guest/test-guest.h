/* test-guest.h - a QEMU that runs tests/guest/scribbler.c, under TCG. One thread. */
#ifndef VARVE_GUEST_TEST_GUEST_H
#define VARVE_GUEST_TEST_GUEST_H

#include "guest/ram.h"
#include "guest/test-qemu.h"

struct test_guest {
    struct test_qemu qemu;
    struct monitor *monitor;
    struct ram *ram;
    unsigned main; /* the block of its memory */
    int serial;
};

/* Start it with so much memory (at most 3584 MiB of which it uses), attach to it, wait until it is
 * ready. elf: the guest's file. Returns false if there is no QEMU; ends the program on errors. */
bool test_guest_start(struct test_guest *g, const char *elf, unsigned mib);
void test_guest_end(struct test_guest *g);

/* Give an order and wait for its answer; or only give it. */
void test_guest_do(struct test_guest *g, char order);
void test_guest_begin(struct test_guest *g, char order);
void test_guest_await(struct test_guest *g, char answer);

#endif
