/* memory-sweep.h - removes the memory that belongs to no version any more (memory-names.h), and the
 * heads that nobody writes. A version is removed by the store alone, and its memory some seconds
 * after it. Main thread; the sweeping is done on the engine's. */
#ifndef VARVE_DAEMON_MEMORY_SWEEP_H
#define VARVE_DAEMON_MEMORY_SWEEP_H

struct engine;
struct memory_sweep;

/* NULL: no memory. engine: borrowed until memory_sweep_free(). */
struct memory_sweep *memory_sweep_new(struct engine *engine);
/* Waits for a removal that is under way. NULL is legal. */
void memory_sweep_free(struct memory_sweep *sweep);

#endif
