/* catalogue_format.h - vms and disks in a checkpoint, and changes of them in the log.
 * Little-endian; names follow their structure without a terminator, padded with zeros to 8 bytes.
 */
#ifndef VARVE_IMAGE_CATALOGUE_FORMAT_H
#define VARVE_IMAGE_CATALOGUE_FORMAT_H

#include "image/table_format.h"

/* Of checkpoints with CHECKPOINT_VERSIONS. Those without have but the first eight bytes of it,
 * where n_versions counts removed disks that follow the vms, and no struct catalogue_descent. */
struct catalogue_header {
    uint32_t n_vms;
    uint32_t n_versions; /* named ones, and what is left of removed ones; they follow the vms */
    uint64_t epoch;      /* the last one given out */
};
#define CATALOGUE_HEADER_1_BYTES 8u

#define VM_PROVISIONAL   1u /* in catalogue_vm, and in the record that makes it */
#define VM_MEMORY        4u /* the same: it keeps the memory of another vm */
#define DISK_PROVISIONAL 1u /* in catalogue_disk, and in the record that makes it */

struct catalogue_vm { /* then its name, then its disks */
    uint32_t id;
    uint8_t role;
    uint8_t flags;
    uint8_t name_len;
    uint8_t zero;
    uint64_t created_us;
    uint32_t n_disks;
    uint32_t parent; /* id of the version that its head comes from; 0: none */
};
static_assert(sizeof(struct catalogue_vm) == 24, "catalogue vm");

#define VERSION_PROVISIONAL 1u /* in catalogue_version, and in the record that makes it */
#define VERSION_HELD        2u /* in catalogue_version, and in the record */
#define VERSION_RECEIVED    4u /* in both: the time is that of its making in another store */

/* In the order of their ids within a vm. Then name and note, then its disks. */
struct catalogue_version {
    uint32_t id;
    uint32_t vm;     /* id; 0: removed, and being freed */
    uint32_t parent; /* id of a version; 0: none */
    uint32_t n_disks;
    uint8_t flags;
    uint8_t consistency;
    uint8_t name_len;
    uint8_t zero;
    uint32_t note_len;
    uint8_t guid[16];
    uint64_t created_us;
    uint64_t cut;   /* pages whose address is less were there when it was taken */
    uint64_t epoch; /* so were nodes that were born up to it */
};
static_assert(sizeof(struct catalogue_version) == 64, "catalogue version");

struct catalogue_disk { /* then its catalogue_descent, then its name */
    uint32_t id;
    uint8_t levels; /* of its page table */
    uint8_t name_len;
    uint8_t flags;
    uint8_t zero;
    uint64_t size_bytes;
    uint64_t used_pages;
    struct entry root;
};
static_assert(sizeof(struct catalogue_disk) == 40, "catalogue disk");

struct catalogue_descent {
    uint32_t family; /* id of the disk that it comes from by versions and clones */
    uint8_t rise; /* of a version being freed: nodes that end at page `at` are freed below this */
    uint8_t zero[3];      /* level; 0: all of them are */
    uint64_t at;          /* what it alone holds before this page is freed already */
    uint64_t young_pages; /* of those used, at most so many are not held by the version before */
};
static_assert(sizeof(struct catalogue_descent) == 24, "catalogue descent");

/* The payload of RECORD_CHANGE: then vm, disk and new name, one behind the other. */
struct change_record {
    uint8_t kind; /* enum change_kind; numbers are never reused */
    uint8_t role;
    uint8_t flags;
    uint8_t vm_len, disk_len, new_len;
    uint16_t zero;
    uint32_t id; /* the first one that is free: what is made takes it, and those after it */
    uint32_t zero2;
    uint64_t size_bytes; /* SNAP with VERSION_RECEIVED: the version's created_us */
    uint64_t time_us;
};
static_assert(sizeof(struct change_record) == 32, "change record");

/* Then, for SNAP and ROLLBACK: this and the note; for VERSION_REMOVE: the ids, 4 bytes each. The
 * version's name stands in the disk's place. */
struct snap_record {
    uint8_t guid[16];
    uint8_t consistency;
    uint8_t zero;
    uint16_t note_len;
    uint32_t zero2;
};
static_assert(sizeof(struct snap_record) == 24, "snap record");

#endif
