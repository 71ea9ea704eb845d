/* catalogue_format.h - vms and disks in a checkpoint, and changes of them in the log.
 * Little-endian; names follow their structure without a terminator, padded with zeros to 8 bytes.
 */
#ifndef VARVE_IMAGE_CATALOGUE_FORMAT_H
#define VARVE_IMAGE_CATALOGUE_FORMAT_H

#include "image/table_format.h"

struct catalogue_header {
    uint32_t n_vms;
    uint32_t n_doomed; /* removed disks whose pages are not all freed; follow the vms */
};

#define VM_PROVISIONAL   1u /* in catalogue_vm, and in the record that makes it */
#define DISK_PROVISIONAL 1u /* in catalogue_disk, and in the record that makes it */

struct catalogue_vm { /* then its name, then its disks */
    uint32_t id;
    uint8_t role;
    uint8_t flags;
    uint8_t name_len;
    uint8_t zero;
    uint64_t created_us;
    uint32_t n_disks;
    uint32_t zero2;
};
static_assert(sizeof(struct catalogue_vm) == 24, "catalogue vm");

struct catalogue_disk { /* then its name */
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

/* The payload of RECORD_CHANGE: then vm, disk and new name, one behind the other. */
struct change_record {
    uint8_t kind; /* enum change_kind; numbers are never reused */
    uint8_t role;
    uint8_t flags;
    uint8_t vm_len, disk_len, new_len;
    uint16_t zero;
    uint32_t id; /* of what is made */
    uint32_t zero2;
    uint64_t size_bytes;
    uint64_t time_us;
};
static_assert(sizeof(struct change_record) == 32, "change record");

#endif
