/* mono.h - clocks. Any thread. */
#ifndef VARVE_BASE_MONO_H
#define VARVE_BASE_MONO_H

#include <stdint.h>

uint64_t mono_us(void); /* since an arbitrary moment; never goes back */
uint64_t wall_us(void); /* since 1970-01-01 UTC; may jump */

#endif
