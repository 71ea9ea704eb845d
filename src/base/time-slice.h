/* time-slice.h - how a thread shares a processor with others. */
#ifndef VARVE_BASE_TIME_SLICE_H
#define VARVE_BASE_TIME_SLICE_H

#include <stdint.h>

/* Give the calling thread, and the threads and processes that it starts from then on, a time slice
 * of its own (a process for which that is not meant begins with slice 0); its policy and nice value
 * stay. Who asks for a short slice is let in before those who have longer ones when it wakes
 * (Linux 6.12 or later; on older kernels, and where it is forbidden, this changes nothing).
 * slice_ns: 100,000 to 100,000,000; 0: the kernel's default. Returns 0 or a negative errno, of
 * which nothing needs to come. */
int time_slice_set(uint64_t slice_ns);

#endif
