/* machine.h - the machines that are attached: QEMUs whose checkpoints this daemon can take.
 *
 * Each has a thread of its own, where everything that waits for QEMU or for the store happens. The
 * functions here are for control threads, which may wait too; none may be the engine's. No lock is
 * held while somebody waits.
 *
 * RUN/machines.json remembers them: after a restart they are attached again. */
#ifndef VARVE_DAEMON_MACHINE_H
#define VARVE_DAEMON_MACHINE_H

#include "daemon/attached.h"
#include "daemon/job-work.h"

struct engine;
struct jobs;
struct machines;

/* NULL: no memory. All borrowed until machines_free(). */
struct machines *machines_new(struct engine *engine, struct jobs *jobs, const char *run_path,
                              const char *nbd_path);
/* Attach what RUN/machines.json remembers, in the background. What cannot be is reported. */
void machines_recall(struct machines *machines);
/* End all threads; what runs ends with -ECANCELED. The QEMUs run on, and stay remembered. NULL is
 * legal. */
void machines_free(struct machines *machines);

/* Returns when it is attached. Errors with a sentence: -ENOENT (no such vm), -EEXIST (a machine is
 * attached as it), or those of attached_open(). spec: its nbd_path and engine are not looked at. If
 * it waits, returns at once: the machine is attached in the background, and as long as it is
 * paused, that is tried again each second; what fails is reported. */
int machines_attach(struct machines *machines, const struct attached_spec *spec, struct why *why);
/* The machine runs on without us. A checkpoint that is under way is cancelled. -ENOENT. */
int machines_detach(struct machines *machines, const char *vm, struct why *why);

struct machine_checkpoint {
    char version[NAME_MAX_CHARS + 1];
    char stem[NAME_MAX_CHARS + 1]; /* "": that name and no other; else the time, and where the
                                      name is taken meanwhile it is this with -2, -3 ... */
    char note[NOTE_MAX_BYTES + 1];
    uint64_t max_pause_us;
};
/* Start one as a job; its text is the name of the version that was made. -ENOENT (nothing is
 * attached as vm), -EBUSY (one is being taken), -EAGAIN (too many jobs), -ENOMEM. */
int machines_checkpoint(struct machines *machines, const char *vm,
                        const struct machine_checkpoint *what, uint32_t *ret_job, struct why *why);

struct machine_view {
    const char *state; /* static: "attaching", "attached", "checkpoint" */
    char qmp[ATTACHED_PATH_MAX];
    int pid;                          /* 0: not known yet */
    char tracking[32];                /* "userfaultfd", "soft-dirty", "comparison" */
    char tracking_why[WHY_MAX_CHARS]; /* why not a better one; "": it is the best */
    uint64_t ram_bytes;
    uint64_t attached_us;           /* UTC */
    uint64_t checkpoints;           /* since then */
    char last_error[WHY_MAX_CHARS]; /* of the last checkpoint; "": it was taken */
};
/* -ENOENT: nothing is attached as vm. */
int machines_show(struct machines *machines, const char *vm, struct machine_view *ret);

/* The vm has another name now. */
void machines_rename(struct machines *machines, const char *vm, const char *new_name);

/* The blob machine.json of a version with RAM: what the checkpoint took, and what a restore wants.
 * -ENOENT: it has none. */
int machine_of_version(struct engine *engine, const char *vm, const char *version, json_t **ret,
                       struct why *why);

#endif
