/* sim-storage.h - a medium in memory that lies by seed: struct storage for tests.
 *
 * It keeps to storage.h and to nothing more: requests complete in an order and after a delay that
 * the seed chooses, and what a crash leaves of unsynced writes is whatever the contract allows.
 * The power goes off (sim_cut(), or by itself after a count of completions, also in the middle of
 * store_format(), store_open() and store_close()); from then on the medium is dead: requests in
 * flight and later ones end with -EIO and change nothing, so that the store above can be taken down
 * as it is. sim_restart() then decides what survived and the medium serves again.
 *
 * Misuse of the contract (unaligned requests, writes past a log file's end, two writes in flight on
 * one place, a request submitted twice, a buffer that changes while its write is in flight, a wait
 * with nothing in flight) aborts with a message: it is a bug of the caller. One thread. */
#ifndef VARVE_TESTS_SIM_STORAGE_H
#define VARVE_TESTS_SIM_STORAGE_H

#include "log/storage.h"

#define SIM_BLOCK_BYTES 4096u

struct sim;

/* medium_bytes: what all files together may take (CREATE past it: -ENOSPC). Never NULL. */
struct sim *sim_new(uint64_t seed, uint64_t medium_bytes);
void sim_free(struct sim *sim); /* NULL is legal; nothing may be in flight */
/* A medium with the same files, durable and not, and a seed of its own. Nothing may be in flight.
 */
struct sim *sim_clone(const struct sim *sim, uint64_t seed);

/* Lives as long as the sim; its close() does nothing. */
struct storage *sim_storage(struct sim *sim);
unsigned sim_in_flight(const struct sim *sim);

/* ---- power ---------------------------------------------------------------------------------- */

/* Cut the power now. Each request in flight takes effect or not, by seed. */
void sim_cut(struct sim *sim);
/* Cut it when this many more requests have completed; UINT64_MAX: never. */
void sim_cut_after(struct sim *sim, uint64_t completions);
bool sim_is_dead(const struct sim *sim);

enum sim_end {
    SIM_CRASH, /* the host died: of what was not synced each write survives, in part, or not */
    SIM_KILL,  /* the daemon died: every completed write survives, though still not synced */
};
/* After a cut, when nothing is in flight any more: decide what survived, and serve again. */
void sim_restart(struct sim *sim, enum sim_end end);

/* ---- faults --------------------------------------------------------------------------------- */

#define SIM_DAMAGE                                                                                 \
    1 /* as a code for READ: succeed, with one bit of the data flipped on the way                  \
       */

/* The nth (1: next) completion of this kind from now, and the (times - 1) after it, end with code.
 * A failed write leaves any part of itself behind. nth 0: no more failures. */
void sim_fail(struct sim *sim, enum storage_op op, uint64_t nth, uint64_t times, int code);
/* Failures of sim_fail() that happened so far. */
uint64_t sim_failures(const struct sim *sim);
/* Reads of this block, and whatever they read besides, end with -EIO. One block; offset UINT64_MAX:
 * none. */
void sim_break_block(struct sim *sim, uint32_t file, uint64_t offset_bytes);
/* The same with that block of the file and each step_blocks-th behind it. */
void sim_break_blocks(struct sim *sim, uint32_t file, uint64_t offset_bytes, uint32_t step_blocks);
void sim_set_medium_bytes(struct sim *sim, uint64_t bytes);
/* The most ticks of poll() that a request may be held back. 0: all in one poll, still shuffled. */
void sim_set_latency(struct sim *sim, unsigned ticks);
/* A broken medium for tests of the tests: syncs that report success and do nothing. */
void sim_lie_about_syncs(struct sim *sim, bool lie);

/* ---- looking and touching (at rest) --------------------------------------------------------- */

/* Step through the blocks that are not all zero; start with *file = *offset = 0 and *started false.
 * Returns false at the end. The sim must not be changed in between, but by sim_flip_bit(). */
struct sim_place {
    bool started;
    uint32_t file;
    uint64_t offset_bytes;
};
bool sim_next_block(const struct sim *sim, struct sim_place *place);
/* buf: SIM_BLOCK_BYTES. False where there is no such file. */
bool sim_peek(const struct sim *sim, uint32_t file, uint64_t offset_bytes, void *buf);
void sim_flip_bit(struct sim *sim, uint32_t file, uint64_t offset_bytes, unsigned bit);
/* Overwrite one block (at an aligned offset inside the file), durably. */
void sim_poke(struct sim *sim, uint32_t file, uint64_t offset_bytes, const void *buf);
/* Cut a file short, or remove it with length 0, durably. */
void sim_truncate(struct sim *sim, uint32_t file, uint64_t length_bytes);
/* Writes past a log file's end (of one that sim_truncate() cut short) give -EIO instead of misuse.
 */
void sim_tolerate_short_files(struct sim *sim, bool tolerate);
/* Bytes of a file, or -1 where there is none. */
int64_t sim_file_bytes(const struct sim *sim, uint32_t file);
uint64_t sim_allocated_bytes(const struct sim *sim);

struct sim_stats {
    uint64_t completed[STORAGE_REMOVE + 1];
    uint64_t lost_writes, torn_writes, lost_names, cuts;
};
const struct sim_stats *sim_stats(const struct sim *sim);

#endif
