/* memory-same.h - whether two memories of the store are one state of one machine. Control threads.
 */
#ifndef VARVE_DAEMON_MEMORY_SAME_H
#define VARVE_DAEMON_MEMORY_SAME_H

#include "image/store.h"

struct engine;

/* Are the heads of both (page 0: what commit it is, where it ends, where its directory is) and
 * their directories the same? These have the places and the sums of all else. 1 or 0; ERR_DAMAGED,
 * -ENOMEM, those of disk_io_open() and of reading. */
int memory_is_same(struct engine *engine, const struct store_version *a,
                   const struct store_version *b);

#endif
