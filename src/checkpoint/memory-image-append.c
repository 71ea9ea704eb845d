/* memory-image-append.c - records to the disk, gathered into writes of up to 1 MiB.
 *
 * Offsets are given out when a record is gathered. A thread that finds the buffer full takes it,
 * leaves another one for the others, and writes it without the lock. A write that failed has lost
 * records that entries lead to: it sticks until abandon(). */
#include "checkpoint/memory-image-internal.h"

#include "base/checksum.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + MEMORY_PAGE_BYTES - 1) / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
}

uint64_t memory_append_tail(const struct memory_image *image)
{
    return image->buf_at + whole_pages(image->buf_used);
}

static int add_epoch(struct memory_image *image)
{
    struct memory_epoch epoch = {.start = memory_append_tail(image)};

    if (image->n_epochs >= MEMORY_EPOCHS_MAX)
        return -EMFILE;
    if (getrandom(&epoch.id, sizeof(epoch.id), 0) != sizeof(epoch.id))
        return -EIO;
    struct memory_epoch *grown =
        realloc(image->epochs, (image->n_epochs + 1) * sizeof(*image->epochs));
    if (!grown)
        return -ENOMEM;
    image->epochs = grown;
    image->epochs[image->n_epochs++] = epoch;
    image->has_epoch = true;
    return 0;
}

int memory_append_begin(struct memory_image *image)
{
    if (image->error)
        return image->error;
    if (!image->buf)
        image->buf = aligned_alloc(MEMORY_PAGE_BYTES, MEMORY_WRITE_BYTES);
    if (!image->buf)
        return -ENOMEM;
    if (!image->bases && image->table)
        image->bases = memory_bases_new(image->table->n_pages);
    return image->has_epoch ? 0 : add_epoch(image);
}

static int write_buffer(struct memory_image *image, uint8_t *buf, uint64_t at, size_t used)
{
    size_t len = whole_pages(used);

    memset(buf + used, 0, len - used);
    return image->io.write(image->io.arg, at, buf, len);
}

/* Under lock, which is let go meanwhile if there is another buffer for who comes. */
static int write_full(struct memory_image *image)
{
    uint8_t *buf = image->buf, *other = image->spare;
    uint64_t at = image->buf_at;
    size_t used = image->buf_used;

    if (!used)
        return image->error;
    image->spare = NULL;
    if (!other)
        other = aligned_alloc(MEMORY_PAGE_BYTES, MEMORY_WRITE_BYTES);
    image->buf_at = memory_append_tail(image);
    image->buf_used = 0;
    if (other) {
        image->buf = other;
        pthread_mutex_unlock(&image->lock);
    }
    int code = write_buffer(image, buf, at, used);
    if (other) {
        pthread_mutex_lock(&image->lock);
        if (image->spare)
            free(buf);
        else
            image->spare = buf;
    }
    if (code && !image->error)
        image->error = code;
    return image->error;
}

int memory_append(struct memory_image *image, const void *record, size_t len, memory_loc *ret)
{
    unsigned units =
        (unsigned)((MEMORY_SUM_BYTES + len + MEMORY_UNIT_BYTES - 1) / MEMORY_UNIT_BYTES);
    size_t bytes = (size_t)units * MEMORY_UNIT_BYTES;

    while (image->buf_used + bytes > MEMORY_WRITE_BYTES) {
        int code = write_full(image);
        if (code)
            return code;
    }
    uint64_t offset = image->buf_at + image->buf_used;
    if (offset + bytes > MEMORY_DISK_BYTES)
        return -ENOSPC;
    uint64_t page = offset / MEMORY_PAGE_BYTES;
    int code = memory_space_reserve(image->space, page,
                                    (offset + bytes - 1) / MEMORY_PAGE_BYTES - page + 1);
    if (code)
        return code;
    uint8_t *at = image->buf + image->buf_used;
    memcpy(at + MEMORY_SUM_BYTES, record, len);
    memset(at + MEMORY_SUM_BYTES + len, 0, bytes - MEMORY_SUM_BYTES - len);
    uint32_t sum =
        checksum_at(memory_seed(image, offset), at + MEMORY_SUM_BYTES, bytes - MEMORY_SUM_BYTES);
    memcpy(at, &sum, sizeof(sum));
    image->buf_used += bytes;
    *ret = memory_loc_make(offset, units);
    return 0;
}

int memory_undo_reserve(struct memory_image *image, size_t n)
{
    if (image->n_undo + n <= image->max_undo)
        return 0;
    size_t max = image->n_undo + n + image->max_undo / 2;
    struct memory_undo *grown = realloc(image->undo, max * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    image->undo = grown;
    image->max_undo = max;
    return 0;
}

static void replace(struct memory_image *image, memory_loc old, memory_loc new)
{
    if (old == new)
        return;
    if (old) {
        bool dropped = memory_space_drop(image->space, old);
        assert(dropped);
        if (memory_loc_offset(old) >= image->tail)
            image->new_units -= memory_loc_units(old);
    }
    if (new) {
        bool added = memory_space_add(image->space, new);
        assert(added);
        if (memory_loc_offset(new) >= image->tail)
            image->new_units += memory_loc_units(new);
    }
}

void memory_set_entry(struct memory_image *image, uint64_t page, struct memory_entry entry)
{
    struct memory_table *table = image->table;
    struct memory_entry old = table->entries[page];

    if (!image->saved && !memory_bit(table->touched, page)) {
        assert(image->n_undo < image->max_undo);
        image->undo[image->n_undo++] = (struct memory_undo){.page = page, .entry = old};
        memory_bit_set(table->touched, page);
    }
    replace(image, old.whole, entry.whole);
    replace(image, old.delta, entry.delta);
    memory_bit_set(table->changed, page);
    if (old.whole != entry.whole)
        memory_bit_set(table->moved, page);
    table->entries[page] = entry;
}

int memory_append_pages(struct memory_image *image, const void *bytes, size_t len, uint64_t *ret_at)
{
    const uint8_t *from = bytes;
    int code = memory_image_flush(image);

    if (code)
        return code;
    uint64_t at = image->buf_at;
    if (at + len > MEMORY_DISK_BYTES)
        return -ENOSPC;
    code = memory_space_reserve(image->space, at / MEMORY_PAGE_BYTES, len / MEMORY_PAGE_BYTES);
    if (code)
        return code;
    image->buf_at += len; /* not used twice, whatever becomes of it */
    for (size_t done = 0; done < len && !code; done += MEMORY_WRITE_BYTES) {
        size_t n = len - done < MEMORY_WRITE_BYTES ? len - done : MEMORY_WRITE_BYTES;
        code = image->io.write(image->io.arg, at + done, from + done, n);
    }
    *ret_at = at;
    return code;
}

int memory_image_flush(struct memory_image *image)
{
    pthread_mutex_lock(&image->lock);
    int code = write_full(image);
    pthread_mutex_unlock(&image->lock);
    return code;
}
