/* memory-same.c - whether two memories of the store are one state of one machine. */
#include "daemon/memory-same.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "checkpoint/memory_format.h"
#include "daemon/disk-io.h"
#include "daemon/memory-names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIRECTORY_MAX_BYTES (32u << 20) /* of what is compared; stored, it is much smaller */

/* The same part of both disks, into buf and behind it. */
static int read_both(struct disk_io *const io[2], uint64_t offset, size_t len, uint8_t *buf)
{
    int r = 0;

    for (int i = 0; i < 2 && r == 0; i++) {
        const struct disk_io_part part = {offset, buf + (size_t)i * len, len};
        r = disk_io_read(io[i], &part, 1);
    }
    return r;
}

static int compare(struct disk_io *const io[2], uint64_t offset, size_t len, uint8_t **ret)
{
    uint8_t *buf = malloc(2 * len + 1);

    if (!buf)
        return -ENOMEM;
    int r = read_both(io, offset, len, buf);
    if (r == 0)
        r = memcmp(buf, buf + len, len) == 0;
    *ret = buf;
    return r;
}

static int compare_heads(struct disk_io *const io[2])
{
    _cleanup_free_ uint8_t *page = NULL, *directories = NULL;
    struct memory_head head;

    int r = compare(io, 0, sizeof(head), &page);
    if (r <= 0)
        return r;
    memcpy(&head, page, sizeof(head));
    if (memcmp(head.magic, MEMORY_MAGIC, sizeof(head.magic)) != 0 ||
        head.directory.stored > DIRECTORY_MAX_BYTES)
        return ERR_DAMAGED;
    return compare(io, head.directory.offset, head.directory.stored, &directories);
}

int memory_is_same(struct engine *engine, const struct store_version *a,
                   const struct store_version *b)
{
    struct disk_io *io[2] = {};

    int r = disk_io_open(engine, a->vm, a->version, MEMORY_DISK_NAME, &io[0]);
    if (r == 0)
        r = disk_io_open(engine, b->vm, b->version, MEMORY_DISK_NAME, &io[1]);
    if (r == 0)
        r = compare_heads(io);
    disk_io_close(io[0]);
    disk_io_close(io[1]);
    return r;
}
