/* bus-error.h - reading what is mapped of a file that may not be there. Any thread.
 *
 * Where a page of a mapped file cannot be had (it lies behind the end, or is a hole and the file
 * system is full) the kernel sends SIGBUS to who touches it. */
#ifndef VARVE_BASE_BUS_ERROR_H
#define VARVE_BASE_BUS_ERROR_H

#include <stdbool.h>

/* Call fn(arg). False: such a page was touched, and fn was left there; what it has written to
 * memory by then is there, so it should note where it is (in a volatile), and hold no lock. Other
 * causes of a SIGBUS, as memory that is broken, end the process as ever. Not to be nested. */
bool bus_error_guard(void (*fn)(void *arg), void *arg);

#endif
