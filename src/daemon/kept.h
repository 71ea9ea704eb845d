/* kept.h - what a daemon keeps as JSON and reads again: the description of a machine in its memory
 * image ("machine.json"), the machines that are attached (RUN/machines.json), a machine whose pages
 * are still coming (RUN/vm/NAME/restore.json). None of it is trusted: it may be damaged, from
 * another Varve, or have come in a stream. Any thread. */
#ifndef VARVE_DAEMON_KEPT_H
#define VARVE_DAEMON_KEPT_H

#include "daemon/attached.h"
#include "guest/restore-args.h"
#include "image/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define KEPT_MACHINE_MAX_BYTES (16u << 20) /* of a description of a machine */

/* The description of a machine. On success *ret, the caller's, is an object in which
 *   argv is an array of at least one string, none of them empty but those behind the first,
 *   cwd and qemu are strings, ram_bytes is not negative,
 *   disks is an object of strings, times and sizes are objects, lost is an array of strings
 * as far as they are there; argv is. ERR_DAMAGED. */
int kept_machine_parse(const void *text, size_t bytes, json_t **ret);

/* One of the machines of machines.json. False: it makes no sense. */
bool kept_spec_read(const json_t *entry, struct attached_spec *ret);

struct kept_restore {
    enum kept_phase {
        KEPT_STARTING, /* half-made */
        KEPT_LOADED,   /* it has its state, and was perhaps not told to go on */
        KEPT_RUNNING,
    } phase;
    pid_t pid;
    uint8_t guid[GUID_BYTES]; /* of the version that its pages are from */
    uint8_t kept[GUID_BYTES]; /* of the version that keeps the disks which went back, if it was made
                                 yet; has_kept: it is said: not for a clone */
    bool has_kept;
    bool lazy, paused;
    struct restore_memory memory[RESTORE_MEMORY_MAX];
    unsigned n_memory;
};
/* restore.json. False: it makes no sense. */
bool kept_restore_read(const json_t *text, struct kept_restore *ret);

#endif
