/* capture.h - the capture of one checkpoint: a machine's RAM and the state of its devices into a
 * memory image, most of it while the guest runs.
 *
 * Rounds collect what was written and put it, until little is left. Then one pause: what was
 * written meanwhile is found and copied aside, the disks are taken, and the state of the devices.
 * What was copied aside is put when the guest runs again. The image is not committed here: who
 * calls adds what else belongs to the machine, commits, and says so by capture_done().
 *
 * What was put and not committed is remembered, and put again by the next capture.
 *
 * One thread, that of the monitor's session; blocks. */
#ifndef VARVE_CHECKPOINT_CAPTURE_H
#define VARVE_CHECKPOINT_CAPTURE_H

#include "checkpoint/memory-image.h"
#include "guest/device-state.h"

#include <stdbool.h>
#include <stdint.h>

struct capture;
struct monitor;
struct ram;
struct tracker;

/* All borrowed until capture_free(). -ENOMEM. by_pause: nothing is copied while the machine runs,
 * as its memory may be written unseen (guest/foreign-io.h). */
int capture_new(struct monitor *monitor, const struct ram *ram, struct tracker *tracker,
                bool by_pause, struct capture **ret);
void capture_free(struct capture *capture); /* NULL is legal */

/* The image is another one than the last capture wrote: the next one puts all pages. */
void capture_forget(struct capture *capture);

struct capture_hooks {
    /* Right before the pause: make durable what is written, so that QEMU, which flushes its disks
     * when it stops, does not wait for that. */
    int (*settle)(void *arg, struct why *why);
    /* In the pause: begin to take the disks at this instant, and do not wait for it: memory is
     * looked at meanwhile. Then, before the machine goes on, frozen() waits until they are taken.
     * Both return 0, or an error with a sentence: then the machine goes on and nothing was taken;
     * frozen() is not called where something else has failed. */
    int (*freeze)(void *arg, struct why *why);
    int (*frozen)(void *arg, struct why *why);
    /* NULL, or looked at now and then: true ends the capture with -ECANCELED. */
    bool (*cancel)(void *arg);
    /* NULL, or told now and then: pages of this round. phase: static. */
    void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
    void *arg;
};

/* In microseconds. The pause is told as the guest has it at most: from the command that stops it
 * until QEMU has said that it runs, all five phases together. disks_us is what the disks took
 * longer than the memory. */
struct capture_times {
    uint64_t rounds_us;                                      /* while the guest ran, before */
    uint64_t stop_us, scan_us, copy_us, disks_us, device_us; /* of the pause, in this order */
    uint64_t pause_us;
    uint64_t rest_us; /* while it ran again: what was copied aside */
};

struct capture_result {
    struct capture_times times;
    unsigned rounds;
    bool full;            /* all pages were looked at */
    uint64_t dirty_pages; /* written since the last commit, or all: each once */
    uint64_t left_pages;  /* copied in the pause */
    bool by_migrate;      /* QEMU refused the quick way */
    struct memory_put_stats stats;
    struct device_state state; /* the caller's: device_state_free() */
};

/* max_pause_us: rounds go on until the pause is likely to be shorter, or until they do not help.
 * image: open for writing. Errors with a sentence: -ECANCELED, -ESTALE (memory was plugged: attach
 * again), -EAGAIN (as of device_capture_finish(): once more), those of the tracker, of
 * device_capture_ready() and _hold(), of the image and of freeze(). The guest runs on in any case,
 * as it did before. *ret: on success only. */
int capture_take(struct capture *capture, struct memory_image *image, uint64_t max_pause_us,
                 const struct capture_hooks *hooks, struct capture_result *ret, struct why *why);

/* What was put is committed: later captures go on from there. */
void capture_done(struct capture *capture);

#endif
