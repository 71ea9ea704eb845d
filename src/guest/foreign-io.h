/* foreign-io.h - who writes a machine's memory in a way that tracking does not see.
 *
 * A vhost-user device is another process, with a mapping of its own: its writes are never seen. Of
 * QEMU's direct I/O the kernel notes a page when the I/O begins, and the bytes come later: a page
 * that is collected and protected between both is not noted again. So with it pages may be copied
 * only while the machine stands still, when all I/O has ended. Disks on Varve come through a socket
 * and are seen. */
#ifndef VARVE_GUEST_FOREIGN_IO_H
#define VARVE_GUEST_FOREIGN_IO_H

#include "guest/monitor.h"

#define FOREIGN_NODE_CHARS 64

/* Look at a machine's devices. ret_node: the block node of a disk or CD that has direct I/O; "":
 * there is none. Returns 0; -EOPNOTSUPP with a sentence that has the mend: there is a vhost-user
 * device; or as of monitor_run(). One thread. */
int foreign_io_look(struct monitor *monitor, uint64_t end_us, char ret_node[FOREIGN_NODE_CHARS],
                    struct why *why);

#endif
