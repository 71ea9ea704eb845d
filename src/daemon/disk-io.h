/* disk-io.h - reading and writing a disk of the store from a thread that may wait.
 *
 * Any thread but the engine's; several at once. The disk is used (disk_get()) from open to close.
 */
#ifndef VARVE_DAEMON_DISK_IO_H
#define VARVE_DAEMON_DISK_IO_H

#include "daemon/engine.h"

#include <stddef.h>
#include <stdint.h>

struct disk_io;

/* version: NULL or "": the head. -ENOENT, -EBUSY (it is being rolled back or shrunk), -ENOMEM. */
int disk_io_open(struct engine *engine, const char *vm, const char *version, const char *disk,
                 struct disk_io **ret);
void disk_io_close(struct disk_io *io); /* NULL is legal */

struct disk_io_part {
    uint64_t offset;
    void *buf;
    size_t len;
};
/* All of them at once; returns when all are done: 0 or the first error. len at most 32 MiB each. */
int disk_io_read(struct disk_io *io, const struct disk_io_part *parts, size_t n);
/* ERR_STORE_FULL, too, when less than keep_bytes would be left for others to write. */
int disk_io_write(struct disk_io *io, const struct disk_io_part *parts, size_t n,
                  uint64_t keep_bytes);
int disk_io_trim(struct disk_io *io, uint64_t offset, uint64_t len);
/* Of the whole store. */
int disk_io_flush(struct disk_io *io);

#endif
