/* huge.h - memory for input and output, in huge pages where the system gives them.
 *
 * A device takes a transfer in pieces that are contiguous in the machine's memory: 1 MiB of
 * ordinary pages are 256 of them, more than many devices take in one request, of huge pages it is
 * one. On a virtual disk a write of 68 KiB took two thirds of the time, one of 1 MiB a third. */
#ifndef VARVE_BASE_HUGE_H
#define VARVE_BASE_HUGE_H

#include <stddef.h>

#define HUGE_BYTES ((size_t)2 << 20) /* of a huge page; they are aligned to it */

/* Memory of zeros, aligned to 4096. From HUGE_BYTES on it is aligned to that, rounded up to it, and
 * in huge pages if there are any (transparent ones, by madvise()); less is ordinary memory. NULL:
 * out of memory. Any thread. */
void *huge_alloc(size_t bytes);

/* bytes: as they were asked for. NULL is allowed. */
void huge_free(void *memory, size_t bytes);

#endif
