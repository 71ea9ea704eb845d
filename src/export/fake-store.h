/* fake-store.h - a store in memory behind the interface of image/store.h, as far as an exporter
 * uses it: for tests, fuzzers and for measuring the NBD server alone. */
#ifndef VARVE_EXPORT_FAKE_STORE_H
#define VARVE_EXPORT_FAKE_STORE_H

#include "image/store.h"

/* Faults, read at each request; change them at any time. */
struct fake_faults {
    bool later;        /* complete in store_dispatch(), in reversed order, not at once */
    bool hold;         /* complete nothing until it is false again */
    uint64_t bad_page; /* a READ of this byte gives ERR_CHECKSUM; UINT64_MAX: none */
    int write_error;   /* the answer to WRITE, TRIM, ZERO; 0: none */
    int flush_error;
};

struct fake_stats {
    uint64_t n_ops[STORE_EXTENTS + 1];
    uint64_t n_with_base;
    uint64_t n_fua, n_no_hole, n_misaligned; /* misaligned: buffers not at 4096 bytes */
    unsigned in_flight, most_in_flight;
    unsigned users;
};

/* Returns 0 or -ENOMEM. */
int fake_store_create(struct store **ret);
void fake_store_free(struct store *store); /* no user, nothing in flight */
/* Add a disk. Sizes need not be whole pages. Returns 0 or -ENOMEM. */
int fake_store_add(struct store *store, const char *vm, const char *disk, uint64_t size_bytes);
/* The state of a vm's disks becomes vm@version. 0 or -ENOMEM. */
int fake_store_snap(struct store *store, const char *vm, const char *version);
/* A vm whose disks start at vm@version. 0 or -ENOMEM. */
int fake_store_clone(struct store *store, const char *vm, const char *version, const char *clone);
struct fake_faults *fake_store_faults(struct store *store);
const struct fake_stats *fake_store_stats(const struct store *store);

#endif
