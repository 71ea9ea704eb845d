/* qmp.h - one command to a QEMU by its QMP socket. One thread; blocks, with a time limit. */
#ifndef VARVE_GUEST_QMP_H
#define VARVE_GUEST_QMP_H

#include "base/why.h"

/* Connect, give a command that has no arguments, wait until it is answered. Returns 0, or with a
 * sentence -ETIMEDOUT (QEMU serves one client at a time, and another one is connected), -EIO (it
 * refused, or went away before its answer), or what connecting said. */
int qmp_command(const char *socket_path, const char *command, struct why *why);

#endif
