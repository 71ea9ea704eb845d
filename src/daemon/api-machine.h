/* api-machine.h - what methods that show vms and versions tell of machines. Control threads. */
#ifndef VARVE_DAEMON_API_MACHINE_H
#define VARVE_DAEMON_API_MACHINE_H

#include "base/list.h"
#include "daemon/api.h"
#include "image/store.h"

/* The machine that is attached as vm; its state is "none" where there is none. */
xmlrpc_value *api_machine_value(xmlrpc_env *env, struct api *api, const char *vm);

/* A vm that is changed in a way that no checkpoint of it outlives: which knows it by its name, and
 * has its memory at one instant with its disks. */
struct api_alone {
    struct list link;
    const char *vm; /* borrowed until the end */
};
/* Sets a fault (busy) if a checkpoint of the vm is being taken. Until api_end_alone() none begins.
 * Both whether or not env has a fault already. */
void api_begin_alone(xmlrpc_env *env, struct api *api, const char *vm, struct api_alone *alone);
void api_end_alone(struct api_alone *alone);

/* What the checkpoint took, into the struct of a version with RAM. */
void api_put_checkpoint(xmlrpc_env *env, struct api *api, xmlrpc_value *value, const char *vm,
                        const char *version);

/* Put -2, -3 and so on behind a name where the vm has a version of that name. */
void api_free_version(xmlrpc_env *env, struct api *api, const char *vm,
                      char version[NAME_MAX_CHARS + 1]);

/* Set a fault if there is no such vm. */
void api_need_vm(xmlrpc_env *env, struct api *api, const char *vm);

#define API_MACHINE_STRUCT                                                                         \
    "{state (none, attaching: also while it is paused and will be attached when it goes on, "      \
    "attached, checkpoint, detaching), qmp, pid, tracking (how written pages are found: "          \
    "userfaultfd, soft-dirty, comparison), tracking_why (why not a better way), ram, attached, "   \
    "checkpoints (since then), last_error (of the last checkpoint)}"

#define API_CHECKPOINT_STRUCT                                                                      \
    "{qemu, cwd, ram_bytes, was_running, by_migrate (QEMU refused the quick way), max_pause (as "  \
    "it was asked for), max_pause_met (boolean: the pause was not longer), times: {rounds (while " \
    "the guest ran), stop, scan, copy, disks, device, pause (all of these together), rest "        \
    "(what the pause left to write)}, sizes: {full, rounds, dirty (pages written since the last "  \
    "one), left (pages, of the pause), pages (given in all rounds), "                              \
    "same, zero, delta, packed, plain, bytes}, disks: {NAME: node}, lost: [sentences]}"

#endif
