/* memory-image.c - open, close, blocks, begin, abandon, sizes. */
#include "checkpoint/memory-image-internal.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int memory_table_new(const struct memory_block *blocks, unsigned n, bool writer,
                     struct memory_table **ret)
{
    struct memory_table *table = calloc(1, sizeof(*table));

    if (!table)
        return -ENOMEM;
    table->blocks = calloc(n, sizeof(*blocks));
    if (!table->blocks)
        goto fail;
    memcpy(table->blocks, blocks, n * sizeof(*blocks));
    table->n_blocks = n;
    for (unsigned i = 0; i < n; i++) {
        table->first[i] = table->n_pages;
        table->n_pages += blocks[i].pages;
    }
    table->first[n] = table->n_pages;
    table->entries = calloc(table->n_pages + 1, sizeof(*table->entries));
    if (!table->entries)
        goto fail;
    if (writer) {
        table->touched = calloc(table->n_pages / 64 + 1, 8);
        table->changed = calloc(table->n_pages / 64 + 1, 8);
        table->moved = calloc(table->n_pages / 64 + 1, 8);
        table->hashes = calloc(table->n_pages + 1, sizeof(*table->hashes));
        if (!table->hashes || !table->touched || !table->changed || !table->moved)
            goto fail;
    }
    *ret = table;
    return 0;

fail:
    memory_table_free(table);
    return -ENOMEM;
}

void memory_table_free(struct memory_table *table)
{
    if (!table)
        return;
    free(table->blocks);
    free(table->entries);
    free(table->touched);
    free(table->changed);
    free(table->moved);
    free(table->hashes);
    free(table);
}

int memory_image_open(const struct memory_io *io, bool writer, struct memory_image **ret,
                      struct why *why)
{
    struct memory_image *image = calloc(1, sizeof(*image));
    int code = -ENOMEM;

    if (!image)
        return why_set(why, code, "no memory for a memory image");
    image->io = *io;
    image->writer = writer;
    image->was_opened = true;
    image->tail = MEMORY_PAGE_BYTES;
    pthread_mutex_init(&image->lock, NULL);
    pthread_mutex_init(&image->scratch_lock, NULL);
    if (writer)
        image->space = calloc(1, sizeof(*image->space));
    if (writer && !image->space)
        why_set(why, code, "no memory for a memory image");
    else
        code = memory_load(image, why);
    if (code) {
        memory_image_close(image);
        return code;
    }
    image->buf_at = image->tail;
    *ret = image;
    return 0;
}

void memory_image_close(struct memory_image *image)
{
    if (!image)
        return;
    while (image->scratches) {
        struct memory_scratch *next = image->scratches->next;
        memory_scratch_free(image->scratches);
        image->scratches = next;
    }
    memory_table_free(image->table);
    memory_table_free(image->saved);
    memory_space_free(image->space);
    memory_bases_free(image->bases);
    free(image->epochs);
    free(image->base);
    free(image->overlay);
    free(image->blobs);
    free(image->undo);
    free(image->buf);
    free(image->spare);
    pthread_mutex_destroy(&image->lock);
    pthread_mutex_destroy(&image->scratch_lock);
    free(image);
}

uint64_t memory_image_end(const struct memory_image *image)
{
    return image->tail;
}

unsigned memory_image_blocks(const struct memory_image *image, const struct memory_block **ret)
{
    *ret = image->table ? image->table->blocks : NULL;
    return image->table ? image->table->n_blocks : 0;
}

/* ---- begin and abandon ---- */

static bool same_blocks(const struct memory_table *table, const struct memory_block *blocks,
                        unsigned n)
{
    if (!table || table->n_blocks != n)
        return false;
    for (unsigned i = 0; i < n; i++)
        if (table->blocks[i].pages != blocks[i].pages ||
            table->blocks[i].shared != blocks[i].shared ||
            strncmp(table->blocks[i].name, blocks[i].name, MEMORY_NAME_BYTES))
            return false;
    return true;
}

/* The records of a table go out of use, or come into it again. Their pages are reserved. */
static void drop_table(struct memory_image *image, const struct memory_table *table)
{
    for (uint64_t p = 0; p < table->n_pages; p++) {
        struct memory_entry entry = table->entries[p];
        bool dropped = (!entry.whole || memory_space_drop(image->space, entry.whole)) &&
                       (!entry.delta || memory_space_drop(image->space, entry.delta));
        assert(dropped);
    }
}

static void add_table(struct memory_image *image, const struct memory_table *table)
{
    for (uint64_t p = 0; p < table->n_pages; p++) {
        struct memory_entry entry = table->entries[p];
        bool added = (!entry.whole || memory_space_add(image->space, entry.whole)) &&
                     (!entry.delta || memory_space_add(image->space, entry.delta));
        assert(added);
    }
}

int memory_image_begin(struct memory_image *image, const struct memory_block *blocks, unsigned n)
{
    struct memory_table *table;
    uint64_t sum = 0;

    if (!image->writer || !n || n > MEMORY_BLOCKS_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < n; sum += blocks[i++].pages)
        if (blocks[i].pages > MEMORY_PAGES_MAX - sum ||
            memchr(blocks[i].name, 0, MEMORY_NAME_BYTES) == NULL)
            return -EINVAL;
    if (same_blocks(image->table, blocks, n))
        return 0;
    int code = memory_table_new(blocks, n, true, &table);
    if (code)
        return code;
    if (image->table)
        drop_table(image, image->table);
    if (image->table && !image->saved && image->seq)
        image->saved = image->table;
    else
        memory_table_free(image->table);
    image->table = table;
    image->new_units = 0;
    return 0;
}

/* Entries as they were at the last commit, newest change first. */
static void undo_changes(struct memory_image *image)
{
    struct memory_table *table = image->table;

    while (image->n_undo) {
        const struct memory_undo *undo = &image->undo[--image->n_undo];
        struct memory_entry now = table->entries[undo->page];
        bool ok = (!now.whole || memory_space_drop(image->space, now.whole)) &&
                  (!now.delta || memory_space_drop(image->space, now.delta)) &&
                  (!undo->entry.whole || memory_space_add(image->space, undo->entry.whole)) &&
                  (!undo->entry.delta || memory_space_add(image->space, undo->entry.delta));
        assert(ok);
        table->entries[undo->page] = undo->entry;
        table->touched[undo->page / 64] = 0;
        table->hashes[undo->page] = 0;
    }
}

/* What was written behind the last commit, and belongs to nobody. If that fails, the next commit's
 * trims have it. */
static void trim_tail(struct memory_image *image)
{
    uint64_t from = image->tail > MEMORY_PAGE_BYTES ? image->tail : MEMORY_PAGE_BYTES;

    if (from < image->buf_at && !image->io.trim(image->io.arg, from, image->buf_at - from))
        memory_space_trimmed(image->space, from / MEMORY_PAGE_BYTES,
                             (image->buf_at - from) / MEMORY_PAGE_BYTES);
}

void memory_image_abandon(struct memory_image *image)
{
    if (!image->writer)
        return;
    image->buf_at = memory_append_tail(image); /* its offsets were given out */
    image->buf_used = 0;
    image->error = 0;
    image->new_units = 0;
    if (image->saved || !image->seq) {
        if (image->table)
            drop_table(image, image->table);
        memory_table_free(image->table);
        image->table = image->saved;
        image->saved = NULL;
        if (image->table)
            add_table(image, image->table);
    }
    if (image->table)
        undo_changes(image);
    image->n_undo = 0;
    trim_tail(image);
}

/* ---- sizes ---- */

static uint64_t stored_bytes(const struct memory_piece *pieces, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += pieces[i].stored;
    return sum;
}

void memory_image_size(const struct memory_image *image, struct memory_image_size *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (uint64_t p = 0; image->table && p < image->table->n_pages; p++)
        ret->record_bytes += (uint64_t)(memory_loc_units(image->table->entries[p].whole) +
                                        memory_loc_units(image->table->entries[p].delta)) *
                             MEMORY_UNIT_BYTES;
    ret->index_bytes = stored_bytes(image->base, image->n_base) +
                       stored_bytes(image->overlay, image->n_overlay) + image->directory_bytes;
    for (size_t i = 0; i < image->n_blobs; i++)
        ret->blob_bytes += image->blobs[i].piece.stored;
    ret->new_bytes = image->new_bytes;
}
