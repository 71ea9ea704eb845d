/* fuzz-migration.c - any bytes in place of QEMU's migration stream: no crash, nothing beyond its
 * end, the same whether it comes at once or in pieces, and what was understood can be written and
 * is understood again. */
#include "guest/migration-stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_bounds(const struct migration_stream *s, size_t size)
{
    for (size_t i = 0; i < s->n_pages; i++) {
        const struct migration_page *page = &s->pages[i];
        assert(page->block < s->n_blocks);
        assert(page->offset_bytes < s->blocks[page->block].bytes);
        assert(page->offset_bytes % MIGRATION_PAGE_BYTES == 0);
        assert(page->at == 0 || page->at + MIGRATION_PAGE_BYTES <= size);
    }
    for (unsigned i = 0; i < s->n_sections; i++) {
        assert(*s->sections[i].name);
        assert(s->sections[i].at + s->sections[i].bytes <= size);
    }
    assert(s->devices_at + s->devices_bytes <= size);
    assert(!s->complete || (s->n_sections && s->devices_bytes));
}

/* A copy of the exact size for each piece, so that a sanitizer sees reads beyond it. */
static int read_in_pieces(struct migration_stream *s, const uint8_t *data, size_t size, size_t step,
                          struct why *why)
{
    int r = -EAGAIN;

    for (size_t len = 0; r == -EAGAIN && len < size;) {
        len = size - len < step ? size : len + step;
        uint8_t *copy = malloc(len);
        assert(copy);
        memcpy(copy, data, len);
        r = migration_read(s, copy, len, len == size, why);
        assert(r != -EAGAIN || len < size);
        free(copy);
    }
    return r;
}

static void check_again(const struct migration_stream *s, const uint8_t *data)
{
    static const uint8_t zeros[MIGRATION_PAGE_BYTES];
    struct migration_stream again = {};
    struct migration_buffer b = {};
    struct why why = {};

    migration_write_begin(&b, *s->machine ? s->machine : "none", s->blocks, s->n_blocks);
    for (size_t i = 0; i < s->n_pages; i++) {
        const struct migration_page *page = &s->pages[i];
        migration_write_page(&b, s->blocks[page->block].name, page->offset_bytes,
                             page->at ? data + page->at : zeros);
    }
    migration_write_devices(&b, data + s->devices_at, s->devices_bytes);
    assert(!b.failed);
    int r = migration_read(&again, b.data, b.len, true, &why);
    /* A device whose number is that of the RAM section, as QEMU never gives it. */
    assert(r == 0 || strstr(why.text, "that was there before") || strstr(why.text, "early end"));
    if (r == 0) {
        assert(again.n_blocks == s->n_blocks && again.n_pages == s->n_pages);
        assert(again.devices_bytes == s->devices_bytes);
        assert(!memcmp(b.data + again.devices_at, data + s->devices_at, s->devices_bytes));
    }
    migration_free(&again);
    migration_buffer_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct migration_stream whole = {}, pieces = {};
    struct why why = {}, why_pieces = {};

    if (size < 2)
        return 0;
    size_t step = (size_t)*data++ * 16 + 1;
    size--;
    int r = migration_read(&whole, data, size, true, &why);
    assert(r != -EAGAIN);
    assert(r == 0 || *why.text);
    int r_pieces = read_in_pieces(&pieces, data, size, step, &why_pieces);
    check_bounds(&whole, size);
    check_bounds(&pieces, size);
    /* The end of a stream of devices alone is known by its being the last byte. */
    assert(r_pieces == r);
    assert(whole.n_pages == pieces.n_pages || r < 0);
    assert(whole.n_sections == pieces.n_sections || r < 0);
    if (r == 0 && whole.n_blocks)
        check_again(&whole, data);
    migration_free(&whole);
    migration_free(&pieces);
    return 0;
}
