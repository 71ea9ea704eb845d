/* fake-disk.h - a sparse disk in memory under a memory image, for tests and measurements.
 * Reading: any threads at once. Copies: nobody may be at the disk. */
#ifndef VARVE_CHECKPOINT_FAKE_DISK_H
#define VARVE_CHECKPOINT_FAKE_DISK_H

#include "checkpoint/memory-image.h"

#include <pthread.h>

struct fake_disk {
    uint8_t **pages; /* NULL: zeros */
    uint64_t n_pages;
    uint64_t present;
    pthread_mutex_t lock;
    uint64_t reads, parts, writes, trims; /* calls */
    uint64_t read_bytes, written_bytes;
    int64_t fail_in; /* changes until all of them fail; negative: never */
    int fail_code;
    bool fail_once; /* only one change fails */
    bool fail_reads;
    uint64_t bad_page; /* a read that touches it fails; 0: none */
    unsigned part_us;  /* a part takes so long, hundreds of them together a hundredth of it each */
};

/* n_pages: the disk's; beyond is read as zeros, trimmed in vain, and full. */
struct fake_disk *fake_disk_new(uint64_t n_pages);
struct fake_disk *fake_disk_copy(const struct fake_disk *disk); /* fails nothing */
void fake_disk_free(struct fake_disk *disk);
struct memory_io fake_disk_io(struct fake_disk *disk);

#endif
