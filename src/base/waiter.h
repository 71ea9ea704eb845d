/* waiter.h - somebody who waits for one thing to happen. Embedded in the one who waits; in one list
 * at a time. */
#ifndef VARVE_BASE_WAITER_H
#define VARVE_BASE_WAITER_H

#include "base/list.h"

#include <stdint.h>

struct waiter {
    struct list link;
    uint64_t seq; /* what is waited for, where that is a number */
    /* Called once, after the waiter was taken off its list. */
    void (*wake)(struct waiter *waiter, int error);
};

#endif
