/* sim-impl.h - inside of the simulated medium: what sim-storage.c (requests, power) and
 * sim-blocks.c (files, their blocks, what a crash leaves of them) share. */
#ifndef VARVE_TESTS_SIM_IMPL_H
#define VARVE_TESTS_SIM_IMPL_H

#include "rng.h"
#include "sim-storage.h"

#define SECTOR_BYTES  512u
#define BLOCK_SECTORS (SIM_BLOCK_BYTES / SECTOR_BYTES)

struct version {
    struct version *below;
    uint64_t done_seq; /* 0: durable */
    uint32_t len;
    uint8_t data[];
};

struct file {
    struct list link;
    uint32_t number;
    uint64_t length, durable_length;
    uint64_t named_seq; /* of its creation; durable when a sync of any file covers that */
    struct version **blocks;
    uint64_t n_blocks; /* size of the table */
    uint64_t *dirty;   /* indexes of blocks with unsynced versions */
    size_t n_dirty, max_dirty;
};

struct flight {
    struct storage_req *req;
    uint64_t seq;   /* of submission */
    uint64_t ready; /* tick from which it may complete */
    uint64_t mark;  /* SYNC: writes done up to here are covered */
    uint32_t crc;   /* WRITE: of the data as submitted */
};

struct sim {
    struct storage storage;
    struct rng rng;
    struct list files;
    uint64_t medium_bytes, allocated;
    struct flight *flights;
    size_t n_flights, max_flights;
    uint64_t submit_seq, done_seq, tick;
    uint64_t names_durable; /* names made up to here */
    unsigned latency;
    bool dead, lie, tolerate, in_poll;
    uint64_t cut_after;
    struct {
        uint64_t nth, times;
        int code;
    } fail[STORAGE_REMOVE + 1];
    uint64_t failures;
    uint32_t broken_file;
    uint64_t broken_at;   /* + 1; 0: none */
    uint32_t broken_step; /* blocks; 0: one block */
    struct sim_stats stats;
};

void *sim_must(void *p);

struct file *sim_file_find(const struct sim *sim, uint32_t number);
struct file *sim_file_new(struct sim *sim, uint32_t number, uint64_t length);
void sim_file_copy(struct sim *to, const struct file *f);
void sim_file_free(struct sim *sim, struct file *f);
void sim_file_set_length(struct sim *sim, struct file *f, uint64_t length);
/* Bytes of a version; NULL: zeros. buf: SIM_BLOCK_BYTES. */
void sim_version_read(const struct version *v, uint8_t *buf);
struct version *sim_version_new(const uint8_t *data, uint64_t done_seq);
/* A completed write of one block. */
void sim_block_push(struct file *f, uint64_t index, const uint8_t *data, uint64_t done_seq);
/* Make all versions up to mark durable. */
void sim_file_sync(struct file *f, uint64_t mark);
/* The host died: keep, tear or lose what was not synced, by seed. */
void sim_crash_files(struct sim *sim);

#endif
