/* migration-guard.h - a small process that puts QEMU's settings back if this one dies.
 *
 * A left-over capability is dangerous: x-ignore-shared makes libvirt save a machine without its
 * RAM. So before one is set a guard is started that holds the QMP socket; the end of this process,
 * in whatever way, makes it wait for the migration's end, send the commands that put everything
 * back, and resume a machine whose migration succeeded before it could be cancelled. One thread.
 *
 * A domain of libvirt has no socket to hold: its guard is this program started once more
 * (domain-guard.h), which speaks with libvirt when its time has come. */
#ifndef VARVE_GUEST_MIGRATION_GUARD_H
#define VARVE_GUEST_MIGRATION_GUARD_H

#include "guest/monitor.h"

struct migration_guard {
    int fd; /* its other end closes when this process dies; -1: there is no guard */
};

/* Start one. monitor: borrowed. commands: borrowed; what puts everything back: QMP commands, a line
 * each, of which the last has the id GUARD_ID. Returns 0, or -errno with a sentence. */
#define GUARD_ID "varve-guard"
int migration_guard_begin(const struct monitor *monitor, const char *commands,
                          struct migration_guard *ret, struct why *why);
/* Everything was put back: send it away. No effect on {-1}. */
void migration_guard_end(struct migration_guard *guard);
/* The session is dead, and nothing was put back: the guard does it now. Nobody else may use the
 * socket any more. No effect on {-1}. */
void migration_guard_fire(struct migration_guard *guard);

#endif
