/* restore.h - a QEMU that goes on from a version: started, given its RAM and its devices' state,
 * set running. One thread, which owns the monitor session; blocks, not beyond the deadlines.
 *
 *     restore_start()  QEMU runs, and waits; its RAM is full, or comes when it is touched
 *     restore_load()   the devices are as they were; the machine stands still
 *     restore_run()    it goes on
 *
 * restore_load() also serves a QEMU that somebody else started with -incoming defer, once its RAM
 * was filled (ram.h). No capability of migration is set in either. */
#ifndef VARVE_GUEST_RESTORE_H
#define VARVE_GUEST_RESTORE_H

#include "guest/monitor.h"
#include "guest/pager.h"
#include "guest/restore-args.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESTORE_SHARED 2

/* What QEMU is given. All borrowed for the call. */
struct restore_state {
    const uint8_t *head; /* of device_state_prepare() */
    size_t head_bytes;
    const uint8_t *devices; /* of device_capture_finish() */
    size_t devices_bytes;
    /* Bring a page of a RAM block that is not shared (VRAM, ROM) as it was at this version into
     * out. 1: done; 0: what the head has will do; RESTORE_SHARED: QEMU has it already, and what the
     * head has is older; -errno. NULL: the head has them all. */
    int (*fetch_private)(void *arg, const char *block, uint64_t offset_bytes, uint8_t *out);
    void *arg;
};

/* The RAM. Areas are the memory backends in the order of the command line, "ram" alone as a rule.
 */
struct restore_memory_source {
    bool lazy;
    /* NULL, or what restore_load() will be given: lazy, it is made ready for QEMU while that
     * starts.
     */
    const struct restore_state *state;
    /* Eager: fill the whole area, a file of holes so far, by pwrite() in long pieces: that takes
     * half the time that writing through a mapping does. From this thread, while QEMU starts. */
    int (*fill)(void *arg, const char *id, int fd, uint64_t bytes, struct why *why);
    /* Lazy. */
    struct pager_source pages;
    const struct pager_place *first; /* the working set; borrowed for restore_start() */
    size_t n_first;
    const atomic_bool *cancel; /* NULL, or: true ends restore_start() while QEMU starts */
    void *arg;
};

struct restored {
    pid_t pid;
    struct monitor *monitor;
    struct restore_args args; /* its command line, sockets, and what was lost */
    struct pager *pager;      /* lazy: stop it when the machine ended; or let it go on */
    int uffd;                 /* lazy: of QEMU; -1 */
    int stream_fd;            /* of the state, for restore_load(); -1 */
    int memory_fds[RESTORE_MEMORY_MAX];
    struct pager_area areas[RESTORE_MEMORY_MAX]; /* where they are in QEMU */
    uint64_t fill_us, start_us, load_us, run_us; /* start: from the call until QEMU answered */
};

/* Start it. argv: as the first QEMU was started; cwd: NULL, or where. Errors with a sentence, and
 * nothing is left: -ENOMEM (/dev/shm is too small), -ECANCELED, those of restore_args_make(),
 * qemu_start(), fill(), uffd_open(), pager_start() and monitor_open(). */
int restore_start(char *const *argv, const char *cwd, const struct restore_changes *changes,
                  const struct restore_memory_source *memory, uint64_t end_us, struct restored *ret,
                  struct why *why);

/* Serve the pages of a lazy machine whose pager has died, with the process it was in. Not by its
 * monitor: a thread of QEMU that waits for a page may be the one that would answer there. pidfd: of
 * the process, borrowed for the call. memory: as it was in args, n of it. ret: without monitor and
 * args. Errors with a sentence: -ESRCH (it has ended), -ENOENT (it has no such RAM), -EOPNOTSUPP,
 * those of uffd_open() and pager_start(). */
int restore_adopt(pid_t pid, int pidfd, const struct restore_memory *memory, unsigned n,
                  const struct restore_memory_source *source, uint64_t end_us, struct restored *ret,
                  struct why *why);

/* Whether a QEMU waits for a state (-incoming defer): -EBUSY with a sentence when it does not, or
 * as of monitor_run(). */
int restore_check_waits(struct monitor *monitor, uint64_t end_us, struct why *why);

/* Give a QEMU that waits for it (-incoming defer) the state. stream_fd: of a restored whose source
 * had this state; borrowed; -1: there is none. Errors with a sentence: -EBUSY (it
 * does not wait for a state), -EINVAL (another type of machine, or other RAM: nothing was done),
 * -EPROTO (QEMU refuses the state: it has other devices), -EBADMSG (the state is damaged), those of
 * monitor_run(). ret_us: how long it took; NULL is legal. */
int restore_load(struct monitor *monitor, const struct restore_state *state, int stream_fd,
                 uint64_t end_us, uint64_t *ret_us, struct why *why);

/* cont. */
int restore_run(struct monitor *monitor, uint64_t end_us, struct why *why);

/* Close what we have of it; the machine runs on, if it is not lazy. */
void restore_release(struct restored *restored);
/* Kill it, and release. */
void restore_abandon(struct restored *restored);

#endif
