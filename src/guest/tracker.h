/* tracker.h - which pages of a QEMU's RAM were written since it was asked last. One thread, but for
 * tracker_note(), which any may call; blocks.
 *
 * The bits that collect() sets are all there is to copy, and the copy begins after it has returned:
 * what is written meanwhile is in the next collect(). Nothing is reported that was there before
 * tracker_open(): copy everything once after it.
 *
 * Not seen: what QEMU itself, or a device of the host, puts into pages that it has pinned (direct
 * I/O of QEMU's own); with those, collect again when the machine is stopped and copy everything.
 *
 * Source: Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst of Linux. */
#ifndef VARVE_GUEST_TRACKER_H
#define VARVE_GUEST_TRACKER_H

#include "base/why.h"

#include <stdbool.h>
#include <stdint.h>

struct monitor;
struct ram;
struct tracker;

enum tracker_kind {
    TRACKER_BEST,    /* the first of these that works */
    TRACKER_UFFD,    /* userfaultfd, asynchronous write protection */
    TRACKER_SOFT,    /* soft-dirty bits; see tracker_needs_stop() */
    TRACKER_COMPARE, /* a hash of each page: works anywhere, reads everything */
};

struct tracker_options {
    enum tracker_kind kind;
    bool missing; /* faults on pages that are not there wait for who serves them (lazy restore) */
};

/* How long the parts of a collect() took, in microseconds. */
struct tracker_times {
    uint64_t discards_us, /* pages that the guest gave back */
        get_us,           /* looking for written pages */
        protect_us,       /* getting them and protecting them again */
        notes_us;         /* adding what tracker_note() told */
};

/* Bits of 64 pages each. */
static inline uint64_t tracker_words(uint64_t n_pages)
{
    return (n_pages + 63) / 64;
}

/* Begin to track. ram: borrowed until tracker_close(). monitor: of the same process, borrowed for
 * the call; NULL where there is none. Errors with a sentence: those of uffd_open() and
 * uffd_register() (a kind that was named), -EBUSY (somebody else tracks this machine: another
 * varved, or a tracker that is still open), -ESRCH, -ENOMEM. */
int tracker_open(const struct ram *ram, const struct tracker_options *options,
                 struct monitor *monitor, uint64_t end_us, struct tracker **ret, struct why *why);

/* Set the bits of the pages of a block that were written since the last call, and forget them;
 * other bits are left. bitmap: tracker_words() of the block's pages. ret_times: NULL is legal.
 * Returns how many bits it set that were not, or -ESTALE with a sentence (the list of blocks has
 * changed, or QEMU has mapped something else there: open ram and tracker again and copy all),
 * -ESRCH, -ENOMEM. After an error nothing is known of the block: its pages all count as written. */
int64_t tracker_collect(struct tracker *tracker, unsigned block, uint64_t *bitmap,
                        struct tracker_times *ret_times, struct why *why);

/* Whether pages that the last tracker_collect() told of are holes of the block's file, which
 * reading them through a mapping would fill. */
bool tracker_found_holes(const struct tracker *tracker, unsigned block);

/* These pages of a shared block were written through our own mapping, which QEMU's page tables do
 * not show: they are in the next collect(). Call it when the write is done. Any thread, at any time
 * while the tracker is open; no locks. */
void tracker_note(struct tracker *tracker, unsigned block, uint64_t first_page, uint64_t n_pages);

/* In a pause: are these still the blocks of the machine? 0, or as ram_compare(); after -ESTALE each
 * collect() fails, too. */
int tracker_check(struct tracker *tracker, struct monitor *monitor, uint64_t end_us,
                  struct why *why);

/* Stop tracking. remove: take out of QEMU what was put in; else it stays for the next varved.
 * NULL is legal. */
void tracker_close(struct tracker *tracker, bool remove);

/* "userfaultfd", "soft-dirty", "comparison". */
const char *tracker_name(const struct tracker *tracker);
/* Why a kind before this one was not chosen, or "". */
const char *tracker_why_not(const struct tracker *tracker, enum tracker_kind kind);
/* Whether nothing may write during a collect() and until what it told was copied: the machine must
 * be stopped, its I/O done. */
bool tracker_needs_stop(const struct tracker *tracker);

#endif
