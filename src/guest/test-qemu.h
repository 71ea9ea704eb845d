/* test-qemu.h - QEMUs for tests: started as children, which end with the test. One thread.
 *
 * $VARVE_TEST_QEMU names another program than qemu-system-x86_64, for a run with another version;
 * $VARVE_ACCEL=kvm has it use KVM. */
#ifndef VARVE_GUEST_TEST_QEMU_H
#define VARVE_GUEST_TEST_QEMU_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct monitor;

struct test_qemu {
    pid_t pid;
    char dir[64], qmp[96]; /* a directory of its own, and the socket in it */
};

/* Start one with -nodefaults, no display and a QMP socket; args ends with NULL. Returns false if
 * there is no QEMU here; fails the test if it does not start. */
bool test_qemu_start(struct test_qemu *q, const char *const *args);
/* Kill it, where it lives, and remove its directory. */
void test_qemu_end(struct test_qemu *q);

/* A session with it; fails the test if there is none within 20 s. */
struct monitor *test_qemu_monitor(const struct test_qemu *q);

/* The moment in so many milliseconds, by mono_us(). */
uint64_t test_end_us(unsigned ms);

#endif
