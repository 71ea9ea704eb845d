/* memory-names.h - where the memory of a vm's versions is kept. Any thread.
 *
 * In a vm that nobody sees, marked as memory (vm_info.memory), with one disk: so the disks can be
 * frozen in the pause of a checkpoint and the memory written after it. Both get a version with the
 * same guid:
 *
 *   1. in the pause: CHANGE_SNAP of the vm, provisional, CONSISTENCY_RAM
 *   2. the memory image is written into the head of the memory vm, and committed
 *   3. CHANGE_SNAP of the memory vm, under the guid's name, durable
 *   4. CHANGE_VERSION_COMMIT of the vm's version: now it is there
 *
 * A version finds its memory by the guid alone (memory-list.h), in whichever memory vm it stands:
 * one is made for each stretch of time that a machine is attached, as a clone of the memory that
 * the vm goes on from, so that what both have is there once; and one for each version that is
 * received (api-recv.c). Its head is written by the machine or the receiver, and is in use as long.
 *
 * A crash before 4 leaves a provisional version, which the next opening removes, and perhaps a
 * version of the memory vm whose guid no version has: the daemon removes such now and then, as it
 * does when a version was removed, and with it heads that nobody writes any more, and memory vms
 * without versions (memory-sweep.h). So what a version has of memory is freed with it. */
#ifndef VARVE_DAEMON_MEMORY_NAMES_H
#define VARVE_DAEMON_MEMORY_NAMES_H

#include "base/crc.h"
#include "checkpoint/memory_format.h"
#include "image/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define MEMORY_DISK_NAME "memory"

/* A name for a new memory vm. False: the system has no random numbers. */
static inline bool memory_vm_name(char ret[NAME_MAX_CHARS + 1])
{
    uint64_t number;

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return false;
    snprintf(ret, NAME_MAX_CHARS + 1, ".memory-%016" PRIx64, number);
    return true;
}

/* Its version that belongs to the version with this guid. */
static inline void memory_version_name(const uint8_t guid[GUID_BYTES], char ret[NAME_MAX_CHARS + 1])
{
    for (unsigned i = 0; i < GUID_BYTES; i++)
        snprintf(ret + 2 * i, 3, "%02x", guid[i]);
}

/* The name of the blob that holds a file of the machine (docs/format-memory.md). path: absolute;
 * ret: MEMORY_BLOB_NAME_BYTES. */
static inline void memory_file_name(const char *path, char *ret)
{
    enum { ROOM = MEMORY_BLOB_NAME_BYTES - 1 - 5, TAIL = ROOM - 9 };
    size_t len = strlen(path);

    if (len <= ROOM)
        snprintf(ret, MEMORY_BLOB_NAME_BYTES, "file:%s", path);
    else
        snprintf(ret, MEMORY_BLOB_NAME_BYTES, "file:%08x~%s", crc32c(0, path, len),
                 path + len - TAIL);
}

#endif
