/* ram-internal.h - between the files of ram.h. */
#ifndef VARVE_GUEST_RAM_INTERNAL_H
#define VARVE_GUEST_RAM_INTERNAL_H

#include "guest/ram.h"

#define RAM_PATH_BYTES 512

/* One mapping of a process. */
struct mapping {
    uint64_t start, end, offset;
    bool read, write, execute, shared;
    uint64_t device, inode;    /* as of stat() */
    char path[RAM_PATH_BYTES]; /* "" for anonymous memory; cut where longer */
};

/* One line of /proc/PID/maps: 0, or -EINVAL. */
int mapping_parse(const char *line, struct mapping *ret);
/* All of a process; *ret is the caller's to free. Returns 0, -ESRCH, -EACCES, -ENOMEM... */
int mappings_read(pid_t pid, struct mapping **ret, unsigned *ret_n);
/* The one that has all of the range, or NULL. */
const struct mapping *mapping_at(const struct mapping *maps, unsigned n, uint64_t start,
                                 uint64_t len);

/* Whether a process has a descriptor whose link begins so; false, too, where that cannot be seen.
 */
bool process_has_fd(pid_t pid, const char *prefix);

/* Find the addresses of blocks that QEMU did not tell. */
int ram_find(struct ram_block *blocks, unsigned n, const struct mapping *maps, unsigned n_maps,
             int mem_fd, struct monitor *monitor, uint64_t end_us, struct why *why);

#endif
