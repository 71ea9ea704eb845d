/* restore-machine.h - one machine on its way from a version to running.
 *
 *     restore_machine_prepare()   name and memory are looked at, its disks are there
 *     restore_machine_start()     QEMU has its devices' state, and stands still
 *     restore_machine_run()       it goes on; from now on it is a machine like others
 *     ... its pages come, where they come when touched ...
 *     restore_machine_settle()    all are there: it needs us no more
 *     restore_machine_forget()    ... and was attached
 *
 * A file in its directory, restore.json, says to a later daemon what it finds there: a machine that
 * is half-made ("starting"), which is ended; one that has its state ("loaded"), which goes on if
 * its vm was committed, and is ended if not; one that waits for its pages ("running"), which is
 * adopted, or has them all and is not attached yet ("running", and not lazy). Of a vm that goes
 * back itself the file names the version that keeps its disks, before there is one: with a
 * half-made machine that is undone too. One thread at a time. */
#ifndef VARVE_DAEMON_RESTORE_MACHINE_H
#define VARVE_DAEMON_RESTORE_MACHINE_H

#include "base/why.h"
#include "daemon/api-change.h"
#include "daemon/api.h"
#include "daemon/restore-source.h"
#include "guest/restore.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#define RESTORE_DIR_MAX 256
#define RESTORE_MONITOR "varve-qmp.sock" /* of every restored machine: restore-args.h */

enum restore_state_word {
    RESTORE_STARTING,
    RESTORE_RUNNING,  /* pages come */
    RESTORE_RESIDENT, /* all are there */
    RESTORE_ENDED,    /* QEMU ended before */
    RESTORE_FAILED,
};

/* What all machines of one request share; outlives them. */
struct restore_request {
    struct api *api;
    struct restore_source *source;
    bool clone; /* else the vm itself goes back */
    bool eager, new_macs, paused;
    const struct pager_place *first; /* the working set */
    size_t n_first;
    atomic_uint_fast64_t filled_bytes;
    atomic_bool cancel;
    atomic_bool all_run; /* what nobody touched may come now */
};

struct restore_machine {
    struct restore_request *request;
    char name[NAME_MAX_CHARS + 1]; /* of the machine and of its vm */
    enum restore_state_word state;
    bool is_up;            /* it runs, or is paused; set by who shows it */
    bool paused;           /* it was not let go on */
    bool is_lazy, is_held; /* adopted: it wants pages; it was not told to go on yet */
    bool is_attached;      /* that was tried, by who watches */
    bool is_kept;          /* it could not be let go, which was said */
    int warned_error;      /* of its memory, that was said last; 0: none; and when: */
    uint64_t warned_us;
    struct restored restored;
    bool started;      /* restored is valid */
    _Atomic pid_t pid; /* 0: not started; others look at it while it comes up */
    int pidfd;
    char dir[RESTORE_DIR_MAX], memory_file[64];
    int area_blocks[RESTORE_MEMORY_MAX]; /* the version's block of each memory backend; -1: none */
    char kept[NAME_MAX_CHARS + 1];       /* the version that keeps the head which was replaced */
    uint8_t kept_guid[GUID_BYTES];       /* of it, from before it is made */
    bool has_disks, committed;
    struct api_hold hold; /* of the disks, until QEMU has them: nobody changes them in between */
    struct pager_progress progress;
    uint64_t running_us; /* from the beginning until it ran; of it: */
    uint64_t disks_us, start_us, load_us, run_us;
    int error;
    struct why why;
};

void restore_machine_init(struct restore_machine *machine, struct restore_request *request,
                          const char *name);

/* Errors with a sentence: -EEXIST (it runs already, or the vm is there), -EBUSY (a disk is in use),
 * -ENAMETOOLONG, -EINVAL (other memory than the version has), those of the store. */
int restore_machine_prepare(struct restore_machine *machine, struct why *why);
/* Errors as of restore_start() and restore_load(); where a page that QEMU waits for cannot be
 * brought, that one's, which the sentence names. */
int restore_machine_start(struct restore_machine *machine, struct why *why);
/* It stays ours, to be settled or undone: one of several may fail yet. Errors likewise. */
int restore_machine_run(struct restore_machine *machine, struct why *why);
/* After an error of these: nothing of it stays, and the vm is as it was. What could not be undone,
 * and how to do it, is added to the error's sentence. */
void restore_machine_undo(struct restore_machine *machine, struct why *why);

/* See how it is: progress, and whether it ended. Returns whether it still wants pages. */
bool restore_machine_watch(struct restore_machine *machine);
/* All is resident: let go. A later daemon finds it, to be attached, until it is forgotten. */
void restore_machine_settle(struct restore_machine *machine);
void restore_machine_forget(const struct restore_machine *machine);
/* Stop serving. The machine waits at the next page that is missing, for a later daemon. */
void restore_machine_leave(struct restore_machine *machine);

/* What a daemon before us left in dir (of the run directory): end what is half-made, or make
 * *ret_guid the version that the machine wants pages of, and fill machine for
 * restore_machine_adopt(). Returns whether there is such a machine. */
bool restore_machine_find(struct restore_machine *machine, struct api *api, const char *name,
                          uint8_t ret_guid[GUID_BYTES]);
/* Serve its pages, and let it go on if it was to. request: with the source, if it is_lazy. Errors
 * as of restore_adopt(); where its state is RESTORE_RUNNING then, its pages come, and only the
 * going on failed: errors as of restore_run(). */
int restore_machine_adopt(struct restore_machine *machine, struct restore_request *request,
                          struct why *why);

#endif
