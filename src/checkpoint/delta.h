/* delta.h - a page as its difference to an older one, byte by byte. Any thread; nothing allocated.
 *
 * docs/format-delta.md has the form. How it is made depends on the processor; what is made does
 * not. page-code.h chooses between a delta, a delta that is compressed, and the whole page. */
#ifndef VARVE_CHECKPOINT_DELTA_H
#define VARVE_CHECKPOINT_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DELTA_PAGE_BYTES 4096u

/* A buffer for a delta of at most max bytes has this much more, which is written but means nothing.
 */
#define DELTA_SLACK_BYTES 64u

/* The longest: all bytes differ. */
#define DELTA_MAX_BYTES (1u + 8 + 64 + 512 + DELTA_PAGE_BYTES)

/* What stored lengths are padded to, with zeros. A reader may leave the padding on. */
#define DELTA_UNIT_BYTES 64u

/* The first byte, which says the form: that of delta_encode(), of a delta that is compressed and of
 * a page without a base that is compressed (page-code.h). */
enum delta_form {
    DELTA_FORM_BYTES = 0x11,
    DELTA_FORM_BYTES_ZSTD = 0x12,
    DELTA_FORM_PAGE_ZSTD = 0x13,
};

/* Write page as a delta to base. base, page: 4096 bytes each, at any address, may be the same.
 * out: max + DELTA_SLACK_BYTES bytes, apart from both.
 * Returns its bytes; 0: page and base are equal; -E2BIG: it would have more than max (out may then
 * have been written to). */
int delta_encode(const void *base, const void *page, void *out, size_t max);

/* Make the page again out of its base and a delta in the form DELTA_FORM_BYTES. delta: len bytes,
 * of which the last up to 63 may be padding. page: 4096 bytes, apart from both; untouched on
 * failure. Nothing in delta is trusted. ERR_DAMAGED: it is no such delta. */
int delta_decode(const void *base, const void *delta, size_t len, void *page);

bool page_is_zero(const void *page);

#endif
