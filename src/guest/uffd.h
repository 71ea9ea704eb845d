/* uffd.h - the userfaultfd of another process's address space: made in it once, kept open there
 * for its life, and taken from there by whoever needs it. One thread at a time; blocks.
 *
 * A process has one only: while Varve's is registered, QEMU's own background snapshots and
 * post-copy migration are refused, and the other way round.
 *
 * Source: userfaultfd(2), ioctl_userfaultfd(2), pidfd_getfd(2). */
#ifndef VARVE_GUEST_UFFD_H
#define VARVE_GUEST_UFFD_H

#include "base/why.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct monitor;

/* The descriptor of the process's userfaultfd, ours to close: the one that is there, or a new one.
 * monitor: of the process, to pass it /dev/userfaultfd; NULL: the system call alone is tried. What
 * it may do is fixed: WP_ASYNC, WP_UNPOPULATED, WP_HUGETLBFS_SHMEM, MISSING_SHMEM.
 * ret_found (NULL is legal): whether it was there, from an earlier varved.
 * Errors with a sentence: -EOPNOTSUPP (this kernel is older than 6.7, or forbids it), those of
 * inject_begin() and monitor_pass_fd(). */
int uffd_open(pid_t pid, int pidfd, struct monitor *monitor, uint64_t end_us, int *ret_fd,
              bool *ret_found, struct why *why);

/* Register the range for write tracking, missing: and for faults on pages that are not there, of
 * which each waits until somebody serves it. Both may be called again with another missing.
 * Errors with a sentence: -EBUSY (another userfaultfd has it: QEMU's own), -ESRCH, or an errno. */
int uffd_register(int fd, uint64_t start, uint64_t len, bool missing, struct why *why);
int uffd_unregister(int fd, uint64_t start, uint64_t len);

/* Every page of the range counts as not written from now on, those that are not there too; huge
 * mappings of files become small ones, for good. */
int uffd_protect(int fd, uint64_t start, uint64_t len, struct why *why);

/* Whether this kernel can track writes so: 0, or -EOPNOTSUPP with a sentence. */
int uffd_probe(struct why *why);

/* Have the process close its end: after the last one is closed nothing is registered any more. */
int uffd_remove(pid_t pid, int pidfd, struct why *why);

#endif
