/* restore-args.h - the command line of a QEMU, rewritten for one that goes on from a version of its
 * machine. What the guest sees stays; what belongs to the process (sockets, files, ports, RAM)
 * gets new names, and what cannot be had again is taken away and told. One thread.
 *
 * Trap: a new MAC address is what the device has after the guest's next reset. Until then the
 * device and the guest go on with the old one, which is part of the state. */
#ifndef VARVE_GUEST_RESTORE_ARGS_H
#define VARVE_GUEST_RESTORE_ARGS_H

#include "base/why.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESTORE_LOST_MAX   128
#define RESTORE_MEMORY_MAX 64
#define RESTORE_PATH_MAX   256

/* All borrowed for the call. NULL: that stays as it is. */
struct restore_changes {
    const char *name;            /* of the machine */
    const char *dir;             /* absolute: where sockets, pid file and logs go; never NULL */
    const char *machine_type;    /* with its version, as the head says */
    const char *vm_from, *vm_to; /* exports FROM/DISK become TO/DISK */
    unsigned n_disks;            /* that it may write and argv is to name; 0: not known */
    const char *nbd_socket;      /* and are found here */
    const char *memory_file;     /* absolute: RAM is PATH.ID for each memory backend */
    bool new_macs;
    bool keep_ports;               /* the first machine is gone: its TCP ports may be used again */
    const char *const (*paths)[2]; /* other files: from, to (NVRAM, TPM) */
    unsigned n_paths;
};

struct restore_args {
    char **argv; /* ends with NULL */
    unsigned n;
    char qmp[RESTORE_PATH_MAX], pid_file[RESTORE_PATH_MAX]; /* where they will be */
    struct restore_memory {
        char id[64], path[RESTORE_PATH_MAX];
        uint64_t bytes;
    } memory[RESTORE_MEMORY_MAX];
    unsigned n_memory;
    char tpm[RESTORE_PATH_MAX];   /* where a swtpm is to listen for it (tpm.h); "": it has no TPM */
    char *lost[RESTORE_LOST_MAX]; /* a sentence for each thing that is not as it was */
    unsigned n_lost;
    bool failed;
};

/* argv: of the first QEMU, ends with NULL; from argv[0] on. Where vm_to is another vm, what it
 * makes names no disk that can be written but those of vm_to. Returns 0, -EOPNOTSUPP (there is an
 * option that cannot be had again, or whose disk or file cannot be replaced, the sentence says
 * which), -ENAMETOOLONG, -ENOMEM. On error nothing is to be freed. */
int restore_args_make(char *const *argv, const struct restore_changes *changes,
                      struct restore_args *ret, struct why *why);
void restore_args_free(struct restore_args *args);

/* Of which vm a command line has the disks that can be written: vm if it has one of its, else one
 * with a disk that is a key of disks (machine.json's; NULL is legal). ret, size: its name; "": it
 * has none. */
void restore_args_disks_vm(char *const *argv, const char *vm, json_t *disks, char *ret,
                           size_t size);

/* The command line of a process, as it was started. *ret: one allocation for free(). -ESRCH, or
 * -errno. */
int restore_args_of(int pid, char ***ret, struct why *why);

#endif
