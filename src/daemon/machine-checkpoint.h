/* machine-checkpoint.h - one checkpoint of an attached machine, from its first round to the version
 * that is there. The machine's thread. */
#ifndef VARVE_DAEMON_MACHINE_CHECKPOINT_H
#define VARVE_DAEMON_MACHINE_CHECKPOINT_H

#include "daemon/machine.h"

struct disk_io;
struct memory_image;

/* Where a machine's memory is written to: open from the first checkpoint until it is detached. */
struct machine_memory {
    struct disk_io *io;
    struct memory_image *image;
    char vm[NAME_MAX_CHARS + 1]; /* memory_vm_name() */
};
void machine_memory_close(struct engine *engine, struct machine_memory *memory);

struct checkpoint_run {
    struct engine *engine;
    const char *vm;
    struct attached *attached;
    struct machine_memory *memory;
    struct machine_checkpoint *what; /* its version becomes that which was made */
    struct job_work *work;
};
/* Errors with a sentence: those of capture_take() and of the store. Afterwards the version is there
 * with all that belongs to it, or there is none. */
int checkpoint_run(const struct checkpoint_run *run, struct why *why);

/* Make a change durable; blocks. */
int checkpoint_change(struct engine *engine, struct store_change *change);

#endif
