/* attached.h - a running QEMU that was attached: its monitor, memory, tracker and the head of its
 * state. One thread, the machine's; blocks, but not beyond some seconds. */
#ifndef VARVE_DAEMON_ATTACHED_H
#define VARVE_DAEMON_ATTACHED_H

#include "base/why.h"
#include "guest/device-state.h"
#include "image/store.h"

#include <jansson.h>
#include <stdbool.h>

#define ATTACHED_DISKS_MAX 32
#define ATTACHED_FILES_MAX 8
#define ATTACHED_PATH_MAX  256

struct capture;
struct engine;
struct monitor;
struct ram;
struct tracker;

struct attached_disk {
    char name[NAME_MAX_CHARS + 1]; /* of the disk */
    char node[64];                 /* QEMU's */
};

/* What is to be attached. */
struct attached_spec {
    char vm[NAME_MAX_CHARS + 1];
    char qmp[ATTACHED_PATH_MAX];  /* where its monitor is, as for monitor_open() */
    const char *nbd_path;         /* where this daemon serves disks */
    struct engine *engine;        /* that has them; borrowed */
    char was[NAME_MAX_CHARS + 1]; /* what vm was called when QEMU opened its disks; "": as now */
    bool waits;                   /* while its machine is paused: machine.h */
    pid_t pid;                    /* of this QEMU and no other; 0: whichever is there */
    /* NULL, or whether this QEMU may be attached, else an error with a sentence. Called by
     * machines_attach() before anything is done to it, while its caller waits. */
    int (*check)(void *arg, pid_t pid, struct why *why);
    void *check_arg;
    unsigned n_disks; /* that the user named; of all others the export says the name */
    struct attached_disk disks[ATTACHED_DISKS_MAX];
};

struct attached {
    struct monitor *monitor;
    struct ram *ram;
    struct tracker *tracker;
    struct capture *capture;
    struct device_head head;
    pid_t pid;          /* QEMU's */
    uint64_t ram_bytes; /* of main memory and whatever else is shared */
    unsigned n_disks, n_files;
    struct attached_disk disks[ATTACHED_DISKS_MAX];
    char *files[ATTACHED_FILES_MAX]; /* that the machine writes outside of its disks: NVRAM */
};

/* Errors with a sentence that says the mend: those of monitor_open(), device_state_check(),
 * ram_open(), tracker_open(), device_state_prepare(); -EOPNOTSUPP: a disk is not on Varve, or
 * of another vm, or what QEMU was started by is not UTF-8; -ENOENT: there is no such node, or disk
 * of the vm; -ESRCH: another QEMU. On error nothing is left; after ERR_PAUSED ret->pid says who is
 * paused. */
int attached_open(const struct attached_spec *spec, struct attached *ret, struct why *why);
/* remove: take what was put into QEMU out again; else it stays for the next daemon. */
void attached_close(struct attached *attached, bool remove);

/* What a restore wants to know beside memory and devices: {qemu, argv (with what was plugged in
 * since), cwd, disks, files, ram_bytes, lost}. NULL: no memory, or QEMU has ended. */
json_t *attached_describe(const struct attached *attached);

#endif
