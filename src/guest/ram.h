/* ram.h - the RAM blocks of a running QEMU: where they are, and their bytes. One thread at a time;
 * blocks, but not beyond the deadlines, which are by mono_us().
 *
 * A block is *shared* when QEMU maps it from a file on tmpfs (memory-backend-file on /dev/shm,
 * memory-backend-memfd) or on hugetlbfs. On tmpfs it is mapped here too; not on hugetlbfs, where
 * reading a hole through a mapping would take a huge page, or kill us where there is none left. All
 * others (VRAM, ROM, pflash) are memory of QEMU alone and are read through /proc/PID/mem. Main
 * memory that is not shared is refused.
 *
 * Source: HMP "info ramblock" of QEMU, proc(5). */
#ifndef VARVE_GUEST_RAM_H
#define VARVE_GUEST_RAM_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct monitor;

#define RAM_PAGE_BYTES 4096u
#define RAM_BLOCKS_MAX 256
#define RAM_NAME_BYTES 256
#define RAM_HUGE_MAX   (64u << 20) /* larger pages of hugetlbfs are refused */

struct ram_block {
    char name[RAM_NAME_BYTES];
    uint64_t used_bytes, total_bytes; /* multiples of page_bytes; total: may grow to */
    uint32_t page_bytes;              /* of what backs it */
    uint64_t host;                    /* address in QEMU; 0: not told (QEMU before 8.2) */
    bool shared;
    int fd;                /* shared: the file, opened here; else -1 */
    uint64_t file_offset;  /* shared: of the block in it */
    unsigned char *memory; /* on tmpfs: used_bytes of it, mapped read-write; else NULL */
};

struct ram {
    pid_t pid;
    int pidfd, mem_fd; /* pidfd: borrowed from the session */
    unsigned n;
    struct ram_block *blocks; /* in QEMU's order */
};

/* The list as QEMU has it now, found in the process of the session, which must outlive *ret.
 * Errors with a sentence and its mend: -EOPNOTSUPP (memory that cannot be checkpointed: private,
 * not on tmpfs or hugetlbfs, of pages above RAM_HUGE_MAX; a VFIO device; blocks that cannot be told
 * apart), -EPERM (no right to look into the process), -EPROTO (QEMU says what is no list), -ESRCH
 * (QEMU has ended), those of monitor_run_hmp(), -ENOMEM. */
int ram_open(struct monitor *monitor, uint64_t end_us, struct ram **ret, struct why *why);
/* NULL is legal. */
void ram_close(struct ram *ram);

/* Ask again. 0: the same blocks; -ESTALE with a sentence: one came, went or changed its size
 * (memory was plugged: open again); or an error of ram_open(). */
int ram_compare(const struct ram *ram, struct monitor *monitor, uint64_t end_us, struct why *why);

/* Copy len bytes at offset in the block as the guest sees them. Holes of a shared block stay holes
 * (they read as zeros): no memory is allocated. Returns 0, -ESRCH (QEMU has ended), -EIO. */
int ram_read(const struct ram *ram, unsigned block, uint64_t offset, void *buf, size_t len);

/* Whether a block of that name is shared. ram: NULL is legal: no block is. */
bool ram_is_shared(const struct ram *ram, const char *block);

/* Whether the process holds a VFIO group or device, whose DMA nobody sees: -EOPNOTSUPP with a
 * sentence. 0: no. */
int ram_check_vfio(pid_t pid, struct why *why);

/* The text of "info ramblock" into blocks[RAM_BLOCKS_MAX]; host is 0 where the text has none. A
 * block without a name is no memory of the guest's (a backend that no device uses): left out.
 * Returns their number or -EPROTO with a sentence. */
int ram_parse(const char *text, struct ram_block *blocks, struct why *why);

#endif
