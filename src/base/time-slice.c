/* time-slice.c - sched_setattr(2), which glibc does not wrap before 2.41. */
#include "base/time-slice.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's struct sched_attr, as it was at first. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

int time_slice_set(uint64_t slice_ns)
{
    struct attributes a = {.size = sizeof(a)};

    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0)
        return -errno;
    a.runtime = slice_ns;
    return syscall(SYS_sched_setattr, 0, &a, 0) < 0 ? -errno : 0;
}
