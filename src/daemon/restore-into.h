/* restore-into.h - the state of a version for a QEMU that somebody else started with
 * -incoming defer. The group's thread. */
#ifndef VARVE_DAEMON_RESTORE_INTO_H
#define VARVE_DAEMON_RESTORE_INTO_H

#include "daemon/restore-machine.h"

/* Fill its RAM, give it its devices' state, and let it go on. Its disks are its user's matter: they
 * must be what they are in the version. qmp: the path of its monitor. Errors with a sentence: those
 * of monitor_open(), ram_open() and restore_load(), -EBUSY (it does not wait), -EINVAL (another
 * machine), -ECANCELED. It waits on then, with RAM that may have been written: another state can be
 * given to it. After an error of its own about the state it is to be ended. */
int restore_into(struct restore_request *request, const char *qmp, struct restore_machine *machine,
                 struct why *why);

#endif
