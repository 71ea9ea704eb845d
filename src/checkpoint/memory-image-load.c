/* memory-image-load.c - page 0, directory and index from the disk. Nothing there is trusted. */
#include "checkpoint/memory-image-internal.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIRECTORY_RAW_MAX (256u << 20)
#define BLOB_RAW_MAX      (16ULL << 30)
#define PIECES_MAX        65536u /* of an index */
#define BLOBS_MAX         4096u
#define TRIM_PAGES_MAX    (1ULL << 30)

/* ---- directory ---- */

struct reader {
    const uint8_t *at;
    size_t left;
};

/* Take n structs of size bytes; *ret: a copy, which is aligned and the caller's. */
static int take(struct reader *r, uint64_t n, size_t size, void **ret)
{
    if (n > r->left / size)
        return ERR_DAMAGED;
    *ret = malloc(n * size + 1);
    if (!*ret)
        return -ENOMEM;
    memcpy(*ret, r->at, n * size);
    r->at += n * size;
    r->left -= n * size;
    return 0;
}

static int parse_blocks(struct memory_image *image, struct reader *r, unsigned n)
{
    _cleanup_free_ void *entries = NULL;
    uint64_t sum = 0;

    if (!n || n > MEMORY_BLOCKS_MAX)
        return ERR_DAMAGED;
    _cleanup_free_ struct memory_block *blocks = calloc(n, sizeof(*blocks));
    if (!blocks)
        return -ENOMEM;
    int code = take(r, n, sizeof(struct memory_block_entry), &entries);
    if (code)
        return code;
    const struct memory_block_entry *from = entries;
    for (unsigned i = 0; i < n; i++) {
        if (from[i].pages > MEMORY_PAGES_MAX - sum || from[i].name[MEMORY_NAME_BYTES - 1])
            return ERR_DAMAGED;
        sum += from[i].pages;
        blocks[i].pages = from[i].pages;
        blocks[i].shared = from[i].flags & MEMORY_BLOCK_SHARED;
        memcpy(blocks[i].name, from[i].name, MEMORY_NAME_BYTES);
    }
    return memory_table_new(blocks, n, image->writer, &image->table);
}

static int parse_epochs(struct memory_image *image, struct reader *r, uint32_t n)
{
    if (n > MEMORY_EPOCHS_MAX)
        return ERR_DAMAGED;
    int code = take(r, n, sizeof(*image->epochs), (void **)&image->epochs);
    if (code)
        return code;
    image->n_epochs = n;
    for (uint32_t i = 0; i < n; i++)
        if (image->epochs[i].start >= image->tail ||
            (i && image->epochs[i].start <= image->epochs[i - 1].start))
            return ERR_DAMAGED;
    return 0;
}

static int parse_pieces(const struct memory_image *image, struct reader *r, uint32_t n,
                        struct memory_piece **ret, size_t *ret_n)
{
    uint64_t next = 0;

    if (n > PIECES_MAX)
        return ERR_DAMAGED;
    int code = take(r, n, sizeof(**ret), (void **)ret);
    if (code)
        return code;
    *ret_n = n;
    for (uint32_t i = 0; i < n; i++) {
        const struct memory_piece *piece = &(*ret)[i];
        if (piece->first < next || piece->first > image->table->n_pages ||
            piece->pages > image->table->n_pages - piece->first ||
            piece->pages > MEMORY_INDEX_PIECE_PAGES ||
            !memory_piece_valid(piece, image->tail, MEMORY_INDEX_RAW_MAX(piece->pages)))
            return ERR_DAMAGED;
        next = piece->first + piece->pages;
    }
    return 0;
}

static int parse_blobs(struct memory_image *image, struct reader *r, uint32_t n)
{
    if (n > BLOBS_MAX)
        return ERR_DAMAGED;
    int code = take(r, n, sizeof(*image->blobs), (void **)&image->blobs);
    if (code)
        return code;
    image->n_blobs = n;
    for (uint32_t i = 0; i < n; i++)
        if (image->blobs[i].name[MEMORY_BLOB_NAME_BYTES - 1] ||
            !memory_piece_valid(&image->blobs[i].piece, image->tail, BLOB_RAW_MAX))
            return ERR_DAMAGED;
    return 0;
}

static int parse_trims(const struct memory_image *image, struct reader *r, uint32_t n,
                       struct memory_trim **ret)
{
    int code = take(r, n, sizeof(**ret), (void **)ret);
    uint64_t left = TRIM_PAGES_MAX;

    for (uint32_t i = 0; i < n && !code; i++) {
        const struct memory_trim *trim = &(*ret)[i];
        if (!trim->page || trim->page > image->tail / MEMORY_PAGE_BYTES || trim->pages > left ||
            trim->pages > image->tail / MEMORY_PAGE_BYTES - trim->page)
            code = ERR_DAMAGED;
        left -= trim->pages;
    }
    return code;
}

int memory_directory_parse(struct memory_image *image, const uint8_t *raw, size_t len,
                           struct memory_trim **ret_trims, size_t *ret_n)
{
    struct memory_directory d;
    struct reader r = {.at = raw, .left = len};

    if (len < sizeof(d))
        return ERR_DAMAGED;
    memcpy(&d, raw, sizeof(d));
    r.at += sizeof(d);
    r.left -= sizeof(d);
    int code = parse_blocks(image, &r, d.blocks);
    if (!code)
        code = parse_epochs(image, &r, d.epochs);
    if (!code)
        code = parse_pieces(image, &r, d.base, &image->base, &image->n_base);
    if (!code)
        code = parse_pieces(image, &r, d.overlay, &image->overlay, &image->n_overlay);
    if (!code)
        code = parse_blobs(image, &r, d.blobs);
    if (!code)
        code = parse_trims(image, &r, d.trims, ret_trims);
    if (!code && r.left)
        code = ERR_DAMAGED;
    image->rented_bytes = d.rented_bytes;
    image->new_bytes = d.new_bytes;
    *ret_n = d.trims;
    return code;
}

/* ---- index ---- */

static int load_index(struct memory_image *image, const struct memory_piece *pieces, size_t n,
                      bool overlay)
{
    int code = 0;

    for (size_t i = 0; i < n && !code; i++) {
        _cleanup_free_ uint8_t *raw = NULL;
        code = memory_piece_read(image, &pieces[i], &raw);
        if (!code)
            code = memory_index_decode(image->table, pieces[i].first, pieces[i].pages, overlay,
                                       image->tail, raw, pieces[i].raw);
    }
    return code;
}

/* ---- what a writer needs ---- */

static int count_record(struct memory_space *space, memory_loc loc)
{
    uint64_t page = memory_loc_offset(loc) / MEMORY_PAGE_BYTES;

    if (!loc)
        return 0;
    int code =
        memory_space_reserve(space, page, (memory_loc_end(loc) - 1) / MEMORY_PAGE_BYTES - page + 1);
    return code ? code : memory_space_add(space, loc) ? 0 : ERR_DAMAGED;
}

/* Returns the piece's stored bytes. */
static uint64_t widen(struct memory_range *range, const struct memory_piece *piece)
{
    uint64_t page = piece->offset / MEMORY_PAGE_BYTES;
    uint64_t end = (piece->offset + piece->stored + MEMORY_PAGE_BYTES - 1) / MEMORY_PAGE_BYTES;

    if (!piece->stored)
        return 0;
    if (!range->pages) {
        *range = (struct memory_range){.page = page, .pages = end - page};
        return piece->stored;
    }
    if (page < range->page) {
        range->pages += range->page - page;
        range->page = page;
    }
    if (end > range->page + range->pages)
        range->pages = end - range->page;
    return piece->stored;
}

/* Pieces that were written together stand together: stored bytes in all. */
static int count_pages(struct memory_space *space, struct memory_range range, uint64_t stored)
{
    if (range.pages > stored / MEMORY_PAGE_BYTES + 2)
        return ERR_DAMAGED;
    int code = memory_space_reserve(space, range.page, range.pages);

    return code ? code : memory_space_add_pages(space, range.page, range.pages) ? 0 : ERR_DAMAGED;
}

static int load_space(struct memory_image *image, const struct memory_piece *directory,
                      const struct memory_trim *trims, size_t n_trims)
{
    uint64_t base_bytes = 0, commit_bytes = 0;

    for (size_t i = 0; i < image->n_base; i++)
        base_bytes += widen(&image->base_at, &image->base[i]);
    for (size_t i = 0; i < image->n_overlay; i++)
        commit_bytes += widen(&image->commit_at, &image->overlay[i]);
    for (size_t i = 0; i < image->n_blobs; i++)
        commit_bytes += widen(&image->commit_at, &image->blobs[i].piece);
    commit_bytes += widen(&image->commit_at, directory);
    int code = count_pages(image->space, image->base_at, base_bytes);
    if (!code)
        code = count_pages(image->space, image->commit_at, commit_bytes);
    for (uint64_t p = 0; p < image->table->n_pages && !code; p++) {
        code = count_record(image->space, image->table->entries[p].whole);
        if (!code)
            code = count_record(image->space, image->table->entries[p].delta);
    }
    for (size_t i = 0; i < n_trims && !code; i++)
        code = memory_space_reserve(image->space, trims[i].page, trims[i].pages);
    return code;
}

/* ---- page 0 ---- */

static int read_head(struct memory_image *image, struct memory_head *head, struct why *why)
{
    struct memory_io_part part = {.offset = 0, .buf = head, .len = sizeof(*head)};
    int code = image->io.read(image->io.arg, &part, 1);

    if (code)
        return why_set(why, code, "page 0 of the memory image cannot be read: %s", err_text(code));
    if (page_is_zero(head))
        return -ENODATA;
    uint32_t crc = head->crc;
    head->crc = 0;
    if (memcmp(head->magic, MEMORY_MAGIC, sizeof(head->magic)) ||
        crc32c(0, head, sizeof(*head)) != crc)
        return why_set(why, ERR_DAMAGED, "page 0 of the memory image is damaged");
    if (head->version > MEMORY_FORMAT_VERSION || head->incompat)
        return why_set(why, ERR_FORMAT_NEWER,
                       "the memory image was written by a newer Varve (version %u, flags %llx)",
                       head->version, (unsigned long long)head->incompat);
    if (head->version < MEMORY_FORMAT_VERSION || !head->seq || head->tail % MEMORY_PAGE_BYTES ||
        head->tail > MEMORY_DISK_BYTES ||
        !memory_piece_valid(&head->directory, head->tail, DIRECTORY_RAW_MAX))
        return why_set(why, ERR_DAMAGED, "page 0 of the memory image makes no sense");
    return 0;
}

static int load_state(struct memory_image *image, const struct memory_piece *directory)
{
    _cleanup_free_ uint8_t *raw = NULL;
    _cleanup_free_ struct memory_trim *trims = NULL;
    size_t n_trims = 0;

    int code = memory_piece_read(image, directory, &raw);
    if (!code)
        code = memory_directory_parse(image, raw, directory->raw, &trims, &n_trims);
    if (!code)
        code = load_index(image, image->base, image->n_base, false);
    if (!code)
        code = load_index(image, image->overlay, image->n_overlay, true);
    if (!code && image->writer)
        code = load_space(image, directory, trims, n_trims);
    return code;
}

int memory_load(struct memory_image *image, struct why *why)
{
    _cleanup_free_ struct memory_head *head = aligned_alloc(MEMORY_PAGE_BYTES, sizeof(*head));

    if (!head)
        return why_set(why, -ENOMEM, "no memory for a memory image");
    int code = read_head(image, head, why);
    if (code)
        return code == -ENODATA ? 0 : code;
    image->seq = head->seq;
    image->tail = head->tail;
    image->directory_bytes = head->directory.stored;
    code = load_state(image, &head->directory);
    if (code)
        return why_set(why, code, "the index of the memory image cannot be read: %s",
                       err_text(code));
    return 0;
}
