/* memory-image-commit.c - index, blobs, directory, and page 0 that leads to them.
 *
 * The order, of which any prefix is a whole state: records; a base index, where one is due; one
 * section of overlay, blobs and directory; page 0; trims of what page 0 leads to no more.
 *
 * A base index is due when the overlays since the last one have cost as much as it did: then both
 * together cost at most twice what the better of the two would have (ski rental). */
#include "checkpoint/memory-image-internal.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BASE_PIECE_PAGES    (1u << 16)
#define OVERLAY_PIECE_PAGES MEMORY_INDEX_PIECE_PAGES
/* What a writer that died may have left behind the tail: as much as it might have written. */
#define LEFT_BYTES(pages) ((pages)*MEMORY_PAGE_BYTES + (64u << 20))

/* What a commit makes; it becomes the image's when page 0 is written. */
struct commit {
    struct memory_image *image;
    struct memory_bytes section; /* overlay, blobs, directory */
    struct memory_piece *base, *overlay;
    size_t n_base, n_overlay;
    struct memory_blob_entry *blobs;
    size_t n_blobs;
    struct memory_epoch *epochs;
    size_t n_epochs;
    struct memory_bytes trims; /* struct memory_trim */
    struct memory_piece directory;
    bool has_base;
    uint64_t rented, new_bytes, seq, tail;
    struct memory_range base_at, commit_at;
};

static void commit_free(struct commit *c)
{
    memory_bytes_free(&c->section);
    memory_bytes_free(&c->trims);
    free(c->base);
    free(c->overlay);
    free(c->blobs);
    free(c->epochs);
}

/* ---- index ---- */

/* Pieces of all pages to section, which will stand at at. */
static int pack_index(const struct memory_image *image, bool overlay, uint64_t at,
                      struct memory_bytes *section, struct memory_piece **ret, size_t *ret_n)
{
    uint64_t step = overlay ? OVERLAY_PIECE_PAGES : BASE_PIECE_PAGES;
    uint64_t all = image->table->n_pages;
    size_t n = (all + step - 1) / step;
    struct memory_bytes raw = {0};

    *ret = calloc(n + 1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        uint64_t first = i * step, pages = all - first < step ? all - first : step;
        raw.len = 0;
        memory_index_encode(image->table, first, pages, overlay, &raw);
        if (raw.failed)
            break;
        memory_piece_pack(image->plain, raw.data, raw.len, at, section, &(*ret)[i]);
        (*ret)[i].first = first;
        (*ret)[i].pages = pages;
    }
    bool failed = raw.failed || section->failed;
    memory_bytes_free(&raw);
    *ret_n = n;
    return failed ? -ENOMEM : 0;
}

static uint64_t stored_bytes(const struct memory_piece *pieces, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += pieces[i].stored;
    return sum;
}

static int write_base(struct commit *c)
{
    struct memory_image *image = c->image;
    _cleanup_(memory_bytes_free) struct memory_bytes section = {0};
    uint64_t at = image->buf_at;

    int code = pack_index(image, false, at, &section, &c->base, &c->n_base);
    memory_bytes_pad(&section, MEMORY_PAGE_BYTES);
    if (!code && section.failed)
        code = -ENOMEM;
    if (!code)
        code = memory_append_pages(image, section.data, section.len, &at);
    if (code)
        return code;
    c->base_at = (struct memory_range){.page = at / MEMORY_PAGE_BYTES,
                                       .pages = section.len / MEMORY_PAGE_BYTES};
    bool added = memory_space_add_pages(image->space, c->base_at.page, c->base_at.pages);
    assert(added);
    c->new_bytes += section.len;
    c->has_base = true;
    c->rented = 0;
    return 0;
}

/* An overlay into the section, or a base before it. */
static int make_index(struct commit *c)
{
    struct memory_image *image = c->image;
    bool stale = image->base_stale || image->saved || !image->seq;
    int code = 0;

    if (!stale) {
        code = pack_index(image, true, image->buf_at, &c->section, &c->overlay, &c->n_overlay);
        uint64_t cost = stored_bytes(c->overlay, c->n_overlay);
        c->rented = image->rented_bytes + cost;
        stale = !code && c->rented > stored_bytes(image->base, image->n_base);
    }
    if (code || !stale)
        return code;
    c->section.len = 0;
    c->n_overlay = 0;
    return write_base(c);
}

/* ---- the other parts ---- */

static int pack_blobs(struct commit *c, const struct memory_blob *blobs, size_t n)
{
    c->blobs = calloc(n + 1, sizeof(*c->blobs));
    if (!c->blobs)
        return -ENOMEM;
    c->n_blobs = n;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(blobs[i].name);
        if (!len || len >= MEMORY_BLOB_NAME_BYTES)
            return -EINVAL;
        memcpy(c->blobs[i].name, blobs[i].name, len);
        memory_piece_pack(c->image->plain, blobs[i].data, blobs[i].bytes, c->image->buf_at,
                          &c->section, &c->blobs[i].piece);
    }
    return c->section.failed ? -ENOMEM : 0;
}

struct epoch_use {
    const struct memory_image *image;
    bool *used;
};

static int mark_epochs(void *arg, uint64_t page, const uint8_t *counts, unsigned n)
{
    struct epoch_use *use = arg;
    const struct memory_image *image = use->image;
    size_t low = 0;

    for (size_t high = image->n_epochs; high - low > 1;) {
        size_t middle = (low + high) / 2;
        if (image->epochs[middle].start <= page * MEMORY_PAGE_BYTES)
            low = middle;
        else
            high = middle;
    }
    for (unsigned i = 0; i < n; i++) {
        while (low + 1 < image->n_epochs &&
               image->epochs[low + 1].start <= (page + i) * MEMORY_PAGE_BYTES)
            low++;
        if (counts[i] && counts[i] != SPACE_NOTHING)
            use->used[low] = true;
    }
    return 0;
}

/* Those that something stands in, and the writer's own. */
static int keep_epochs(struct commit *c)
{
    const struct memory_image *image = c->image;
    _cleanup_free_ bool *used = calloc(image->n_epochs + 1, sizeof(bool));
    struct epoch_use use = {.image = image, .used = used};

    c->epochs = malloc((image->n_epochs + 1) * sizeof(*c->epochs));
    if (!used || !c->epochs)
        return -ENOMEM;
    if (image->n_epochs)
        memory_space_walk(image->space, mark_epochs, &use);
    for (size_t i = 0; i < image->n_epochs; i++)
        if (used[i] || i + 1 == image->n_epochs)
            c->epochs[c->n_epochs++] = image->epochs[i];
    return 0;
}

static int find_trims(void *arg, uint64_t page, const uint8_t *counts, unsigned n)
{
    struct memory_bytes *trims = arg;

    for (unsigned i = 0; i < n; i++) {
        if (counts[i])
            continue;
        struct memory_trim *last =
            trims->len ? (struct memory_trim *)(void *)(trims->data + trims->len) - 1 : NULL;
        if (last && last->page + last->pages == page + i) {
            last->pages++;
        } else {
            struct memory_trim trim = {.page = page + i, .pages = 1};
            memory_bytes_add(trims, &trim, sizeof(trim));
        }
        if (trims->failed)
            return -ENOMEM;
    }
    return 0;
}

static void add_blocks(const struct memory_table *table, struct memory_bytes *out)
{
    for (unsigned i = 0; i < table->n_blocks; i++) {
        struct memory_block_entry entry = {
            .pages = table->blocks[i].pages,
            .flags = table->blocks[i].shared ? MEMORY_BLOCK_SHARED : 0,
        };
        memcpy(entry.name, table->blocks[i].name,
               strnlen(table->blocks[i].name, MEMORY_NAME_BYTES - 1));
        memory_bytes_add(out, &entry, sizeof(entry));
    }
}

static int pack_directory(struct commit *c)
{
    const struct memory_image *image = c->image;
    const struct memory_piece *base = c->has_base ? c->base : image->base;
    size_t n_base = c->has_base ? c->n_base : image->n_base;
    _cleanup_(memory_bytes_free) struct memory_bytes raw = {0};

    c->new_bytes += image->new_units * MEMORY_UNIT_BYTES + c->section.len;
    struct memory_directory d = {.blocks = image->table->n_blocks,
                                 .epochs = (uint32_t)c->n_epochs,
                                 .base = (uint32_t)n_base,
                                 .overlay = (uint32_t)c->n_overlay,
                                 .blobs = (uint32_t)c->n_blobs,
                                 .trims = (uint32_t)(c->trims.len / sizeof(struct memory_trim)),
                                 .rented_bytes = c->rented,
                                 .new_bytes = c->new_bytes};
    memory_bytes_add(&raw, &d, sizeof(d));
    add_blocks(image->table, &raw);
    memory_bytes_add(&raw, c->epochs, c->n_epochs * sizeof(*c->epochs));
    memory_bytes_add(&raw, base, n_base * sizeof(*base));
    memory_bytes_add(&raw, c->overlay, c->n_overlay * sizeof(*c->overlay));
    memory_bytes_add(&raw, c->blobs, c->n_blobs * sizeof(*c->blobs));
    memory_bytes_add(&raw, c->trims.data, c->trims.len);
    if (raw.failed)
        return -ENOMEM;
    memory_piece_pack(image->plain, raw.data, raw.len, image->buf_at, &c->section, &c->directory);
    memory_bytes_pad(&c->section, MEMORY_PAGE_BYTES);
    return c->section.failed ? -ENOMEM : 0;
}

/* ---- to the disk ---- */

static int write_head(struct commit *c)
{
    const struct memory_image *image = c->image;
    _cleanup_free_ struct memory_head *head = aligned_alloc(MEMORY_PAGE_BYTES, sizeof(*head));

    if (!head)
        return -ENOMEM;
    memset(head, 0, sizeof(*head));
    memcpy(head->magic, MEMORY_MAGIC, sizeof(head->magic));
    head->version = MEMORY_FORMAT_VERSION;
    head->seq = c->seq = image->seq + 1;
    head->tail = c->tail = image->buf_at;
    head->directory = c->directory;
    head->crc = crc32c(0, head, sizeof(*head));
    return image->io.write(image->io.arg, 0, head, sizeof(*head));
}

/* What the last commit has and the next will not: out of use, or in use again. */
static void let_go(struct commit *c, bool back)
{
    struct memory_image *image = c->image;
    bool (*change)(struct memory_space *, uint64_t, uint64_t) =
        back ? memory_space_add_pages : memory_space_drop_pages;
    bool ok = change(image->space, image->commit_at.page, image->commit_at.pages) &&
              (!c->has_base || change(image->space, image->base_at.page, image->base_at.pages));

    assert(ok);
}

static int write_section(struct commit *c)
{
    struct memory_image *image = c->image;
    uint64_t at = 0;

    let_go(c, false);
    int code = memory_space_walk(image->space, find_trims, &c->trims);
    if (!code)
        code = pack_directory(c);
    if (!code)
        code = memory_append_pages(image, c->section.data, c->section.len, &at);
    if (!code) {
        c->commit_at = (struct memory_range){.page = at / MEMORY_PAGE_BYTES,
                                             .pages = c->section.len / MEMORY_PAGE_BYTES};
        code = write_head(c);
    }
    if (code)
        let_go(c, true);
    return code;
}

/* A trim that fails is tried again with the next commit, by this writer or another. */
static void trim(struct commit *c)
{
    struct memory_image *image = c->image;
    const struct memory_trim *trims = (const struct memory_trim *)(const void *)c->trims.data;
    const struct memory_io *io = &image->io;

    for (size_t i = 0; i < c->trims.len / sizeof(*trims); i++)
        if (!io->trim(io->arg, trims[i].page * MEMORY_PAGE_BYTES,
                      trims[i].pages * MEMORY_PAGE_BYTES))
            memory_space_trimmed(image->space, trims[i].page, trims[i].pages);
    if (image->was_opened) {
        uint64_t left = LEFT_BYTES(image->table->n_pages);
        if (left > MEMORY_DISK_BYTES - image->tail)
            left = MEMORY_DISK_BYTES - image->tail;
        if (left)
            io->trim(io->arg, image->tail, left);
    }
    image->was_opened = false;
}

static void take_over(struct commit *c)
{
    struct memory_image *image = c->image;
    struct memory_table *table = image->table;
    size_t words = (table->n_pages / 64 + 1) * 8;

    if (c->has_base) {
        free(image->base);
        image->base = TAKE_PTR(c->base);
        image->n_base = c->n_base;
        image->base_at = c->base_at;
        memset(table->changed, 0, words);
        memset(table->moved, 0, words);
    }
    free(image->overlay);
    image->overlay = TAKE_PTR(c->overlay);
    image->n_overlay = c->n_overlay;
    free(image->blobs);
    image->blobs = TAKE_PTR(c->blobs);
    image->n_blobs = c->n_blobs;
    free(image->epochs);
    image->epochs = TAKE_PTR(c->epochs);
    image->n_epochs = c->n_epochs;
    image->commit_at = c->commit_at;
    image->seq = c->seq;
    image->tail = c->tail;
    image->rented_bytes = c->rented;
    image->new_bytes = c->new_bytes;
    image->directory_bytes = c->directory.stored;
    memory_table_free(image->saved);
    image->saved = NULL;
    image->n_undo = 0;
    image->new_units = 0;
    memset(table->touched, 0, words);
    bool added = memory_space_add_pages(image->space, c->commit_at.page, c->commit_at.pages);
    assert(added);
}

int memory_image_commit(struct memory_image *image, const struct memory_blob *blobs, unsigned n)
{
    _cleanup_(commit_free) struct commit c = {.image = image};

    if (!image->writer || !image->table)
        return -EINVAL;
    int code = image->error;
    if (!code)
        code = memory_clean(image);
    if (!code)
        code = memory_image_flush(image);
    if (!code)
        code = make_index(&c);
    if (!code)
        code = pack_blobs(&c, blobs, n);
    if (!code)
        code = keep_epochs(&c);
    if (!code)
        code = write_section(&c);
    if (code) {
        if (c.has_base) /* to be trimmed some day */
            memory_space_drop_pages(image->space, c.base_at.page, c.base_at.pages);
        return code;
    }
    take_over(&c);
    trim(&c);
    return 0;
}
