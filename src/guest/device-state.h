/* device-state.h - the state of a machine's devices, taken from a QEMU that runs.
 *
 * Two parts. The *head*, once, when a machine is attached: what kind of machine it is, its RAM
 * blocks, and the content of those that are no shared RAM (firmware, ROMs, tables): a stream of
 * QEMU's up to its devices. The *state*, for each version: the devices' sections. Both together
 * are what a new QEMU is given (restore.h).
 *
 * The machine is paused by QEMU itself, and resumed by QEMU itself: xen-save-devices-state writes
 * into a pipe that holds less than the state has, and whose other end is ours. While nobody reads
 * QEMU waits, with the machine stopped. Our death closes the pipe, and QEMU goes on. So
 * nothing here ever sends "stop" or "cont", and a machine that was paused before stays so. Where it
 * is known how long the state is, all but its end is let through meanwhile: QEMU takes longer to
 * put it together than others to look at memory.
 * The way by "migrate" (held-migration.h) does the same, slower.
 *
 * One thread, that of the session; blocks, not beyond the deadlines, which are by mono_us(). While
 * a capture holds the machine the session answers nothing. A deadline that passes ends the session:
 * it is to be closed (monitor_close()); the machine runs on. */
#ifndef VARVE_GUEST_DEVICE_STATE_H
#define VARVE_GUEST_DEVICE_STATE_H

#include "guest/monitor.h"
#include "guest/ram.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether a machine can be attached (prepare) or kept now: by its status and what QEMU says
 * forbids a migration. Returns 0, -EBUSY (not in this state), -EOPNOTSUPP (a device forbids it),
 * with a sentence that says the mend, or as of monitor_run(). ret_running: NULL is legal. */
int device_state_check(struct monitor *monitor, bool to_attach, uint64_t end_us, bool *ret_running,
                       struct why *why);

struct device_head {
    uint8_t *data; /* a stream up to its devices (migration-stream.h); to be kept once */
    size_t bytes;
};

/* Take the head. The machine runs; it stands still for some milliseconds, once. All settings of
 * QEMU are as before afterwards, also if this process dies. ram: NULL, or which blocks are shared:
 * no page of theirs is in the head, and where QEMU would send one it is not waited for those of
 * others either, which who keeps ram has. Errors as of device_state_check(), or -EBADMSG,
 * -EOPNOTSUPP (a stream that is not understood), -ETIMEDOUT, -ENOMEM. */
int device_state_prepare(struct monitor *monitor, const struct ram *ram, uint64_t end_us,
                         struct device_head *ret, struct why *why);
void device_head_free(struct device_head *head);

enum device_way {
    DEVICE_BY_SAVE,    /* xen-save-devices-state */
    DEVICE_BY_MIGRATE, /* where QEMU refuses that */
};

struct device_state {
    uint8_t *data; /* the sections of devices, up to the 00 behind them */
    size_t bytes;
    struct device_head head; /* by migrate: a new one, with what is in ROMs now; else NULL */
    size_t stream_bytes;     /* by save: of what QEMU wrote in all; for the next capture */
    bool was_running;
    uint64_t stop_us;   /* from the command until the machine stood still, with all I/O done */
    uint64_t state_us;  /* from the word to go on until all of the state was here; by save: and the
                           machine ran again */
    uint64_t resume_us; /* by migrate: from there until the machine ran */
};
void device_state_free(struct device_state *state);

struct device_capture;

/* Get ready while the machine runs: what can be refused is refused here, and the pause has less to
 * do. ram: as of device_state_prepare(); borrowed until finish, abort or drop. stream_bytes: of
 * this machine's last state, or 0. Errors: as of device_state_check(), or of the session. */
int device_capture_ready(struct monitor *monitor, const struct ram *ram, enum device_way way,
                         size_t stream_bytes, uint64_t end_us, struct device_capture **ret,
                         struct why *why);
/* Pause. When this returns 0 the machine stands still, and stays so until finish or abort: the
 * moment to scan for dirty pages and to take the disks' snapshot. A machine that is paused already
 * is taken as it is. Errors, and then capture is freed: -EBUSY (nothing was paused), or -ETIMEDOUT
 * (I/O in flight took too long), -EPIPE, -EPROTO (QEMU refuses; DEVICE_BY_SAVE: try the other way).
 */
int device_capture_hold(struct device_capture *capture, uint64_t end_us, struct why *why);
/* One that does not hold yet. NULL is legal. */
void device_capture_drop(struct device_capture *capture, uint64_t end_us);
/* Take the state; QEMU resumes the machine. capture is freed, also on error, and the machine runs
 * on also then. ret: to be freed by device_state_free(), on success only. -EAGAIN: the state was so
 * much shorter than stream_bytes that the machine did not stand still all the time; nothing that
 * was taken meanwhile counts. Do it again with 0. */
int device_capture_finish(struct device_capture *capture, uint64_t end_us, struct device_state *ret,
                          struct why *why);
/* Let it run on without taking anything. capture is freed. Returns 0, or the session's error. */
int device_capture_abort(struct device_capture *capture, uint64_t end_us, struct why *why);

#endif
