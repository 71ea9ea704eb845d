/* memory-names.h - where the memory of a vm's versions is kept. Any thread.
 *
 * In a vm of its own, marked as memory (vm_info.memory), with one disk: so the disks can be frozen
 * in the pause of a checkpoint and the memory written after it. Both get a version with the same
 * guid:
 *
 *   1. in the pause: CHANGE_SNAP of the vm, provisional, CONSISTENCY_RAM
 *   2. the memory image is written into the head of the memory vm, and committed
 *   3. CHANGE_SNAP of the memory vm, under the guid's name, durable
 *   4. CHANGE_VERSION_COMMIT of the vm's version: now it is there
 *
 * A crash before 4 leaves a provisional version, which the next opening removes, and perhaps a
 * version of the memory vm whose guid no version has: the daemon removes such now and then, as it
 * does when a version was removed. Names follow the id and the guid, which no renaming changes. */
#ifndef VARVE_DAEMON_MEMORY_NAMES_H
#define VARVE_DAEMON_MEMORY_NAMES_H

#include "image/store.h"

#include <stdio.h>

#define MEMORY_DISK_NAME "memory"

/* The memory vm of the vm with this id. */
static inline void memory_vm_name(uint32_t vm_id, char ret[NAME_MAX_CHARS + 1])
{
    snprintf(ret, NAME_MAX_CHARS + 1, ".memory-%u", vm_id);
}

/* Its version that belongs to the version with this guid. */
static inline void memory_version_name(const uint8_t guid[GUID_BYTES], char ret[NAME_MAX_CHARS + 1])
{
    for (unsigned i = 0; i < GUID_BYTES; i++)
        snprintf(ret + 2 * i, 3, "%02x", guid[i]);
}

#endif
