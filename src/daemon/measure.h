/* measure.h - how much the removal of versions would free, found out in bounded time. Control
 * threads: the store's own work is on the engine's thread, beside everything else. */
#ifndef VARVE_DAEMON_MEASURE_H
#define VARVE_DAEMON_MEASURE_H

#include <stdint.h>

struct engine;

/* What removing n versions of vm together would free, in bytes. deadline_us: by mono_us().
 * Returns 0, -ETIMEDOUT, or an error of store_measure(). */
int measure_versions(struct engine *engine, const char *vm, const char *const *versions, uint32_t n,
                     uint64_t deadline_us, uint64_t *ret_bytes);

/* The same for a whole vm. */
int measure_vm(struct engine *engine, const char *vm, uint64_t deadline_us, uint64_t *ret_bytes);

#endif
