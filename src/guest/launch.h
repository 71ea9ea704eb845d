/* launch.h - starting QEMU in the background on disks that an NBD server exports. One thread.
 *
 * RAM is a shared file on /dev/shm that QEMU unlinks once it has it: others reach it through
 * /proc/PID, and nothing of it stays when the guest ends. */
#ifndef VARVE_GUEST_LAUNCH_H
#define VARVE_GUEST_LAUNCH_H

#include "base/why.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define LAUNCH_PATH_MAX 256

enum accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG };

struct launch {
    const char *name; /* of the machine */
    const char *vm;   /* whose disks: exports "VM/DISK" */
    const char *const *disks;
    unsigned n_disks;
    bool in_use; /* somebody has one of them open */
    const char *nbd_socket;
    const char *run_dir; /* sockets and files go to RUN/vm/NAME/ */
    uint64_t memory_bytes;
    unsigned cpus;
    enum accel accel;
    const char *forward;                  /* NULL, or "tcp:HOST:GUEST", several with commas */
    const char *kernel, *initrd, *append; /* NULL: boot from the first disk */
    char *const *extra;                   /* more arguments for QEMU */
    unsigned n_extra;
};

struct launched {
    pid_t pid;
    bool kvm;
    char kvm_why[128]; /* ACCEL_AUTO and no KVM: why not */
    char qmp[LAUNCH_PATH_MAX], console[LAUNCH_PATH_MAX], log[LAUNCH_PATH_MAX];
    char attach[LAUNCH_PATH_MAX]; /* a second QMP socket, for the daemon: each serves one client */
    char agent[LAUNCH_PATH_MAX];  /* the socket of the guest's agent, if it runs one */
};

/* Start it. All pointers are borrowed for the call. Errors, with a sentence: -EEXIST (runs
 * already), -ENOENT (no QEMU), -ENAMETOOLONG (socket path), -ENOMEM (/dev/shm is too small),
 * -EOPNOTSUPP (ACCEL_KVM, and it does not work), -EINVAL, or -EIO with what QEMU said. */
int launch_qemu(const struct launch *launch, struct launched *ret, struct why *why);

/* The machine that launch_qemu() started under a name and that still runs: its process and paths.
 * Returns 0, -ENOENT (there is none), -ENAMETOOLONG. */
int launch_find(const char *run_dir, const char *name, struct launched *ret, struct why *why);

/* Whether KVM runs code here: makes a machine with one page that halts, and runs it, in a child
 * process with a time limit. Returns 0, or -EOPNOTSUPP with why not. */
int kvm_probe(struct why *why);

#endif
