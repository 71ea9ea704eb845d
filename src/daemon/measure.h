/* measure.h - how much the removal of versions would free, found out in bounded time. Control
 * threads: the store's own work is on the engine's thread, beside everything else. */
#ifndef VARVE_DAEMON_MEASURE_H
#define VARVE_DAEMON_MEASURE_H

#include <stdint.h>

struct engine;
struct store_version;

/* What removing n versions of vm (versions NULL: the vm, and all of them) would free together with
 * those of other vms, in bytes. deadline_us: by mono_us(). Returns 0, -ETIMEDOUT, or an error of
 * store_measure(). */
int measure_versions(struct engine *engine, const char *vm, const char *const *versions, uint32_t n,
                     const struct store_version *with, uint32_t n_with, uint64_t deadline_us,
                     uint64_t *ret_bytes);

/* The same with the memory that goes with them (memory-list.h). */
int measure_removal(struct engine *engine, const char *vm, const char *const *versions, uint32_t n,
                    uint64_t deadline_us, uint64_t *ret_bytes);

#endif
