/* page-code.h - a page of RAM in as few bytes as it is worth: nothing, a delta to its base, or
 * compressed. docs/format-delta.md has the forms; the first byte says which.
 *
 * A coder is its user's: one for each thread that codes. Nothing is allocated after its making.
 * What is stored is padded to multiples of DELTA_UNIT_BYTES with zeros, so the choice is made by
 * those. */
#ifndef VARVE_CHECKPOINT_PAGE_CODE_H
#define VARVE_CHECKPOINT_PAGE_CODE_H

#include "checkpoint/delta.h"

/* What page_encode() writes to: a page and what whole vectors write too much. */
#define PAGE_CODE_OUT_BYTES (DELTA_PAGE_BYTES + DELTA_SLACK_BYTES)

enum page_code {
    PAGE_SAME,   /* page and base are equal */
    PAGE_ZERO,   /* all bytes are zero */
    PAGE_DELTA,  /* DELTA_FORM_BYTES or DELTA_FORM_BYTES_ZSTD: base is needed to read it */
    PAGE_PACKED, /* DELTA_FORM_PAGE_ZSTD: it is not */
    PAGE_PLAIN,  /* as it is */
};

struct page_coder;

/* *ret: the caller's, for page_coder_free(). -ENOMEM. */
int page_coder_new(struct page_coder **ret);
void page_coder_free(struct page_coder *coder); /* NULL is legal */

/* The cheapest of the forms that do not cost more time than they are worth.
 * base: 4096 bytes, or NULL where there is none. page: 4096 bytes. out: PAGE_CODE_OUT_BYTES.
 * *ret_bytes, and what is in out: 0 for PAGE_SAME and PAGE_ZERO, DELTA_PAGE_BYTES for PAGE_PLAIN
 * (out is not written to: page itself is what is stored), else at most DELTA_PAGE_BYTES -
 * DELTA_UNIT_BYTES. */
enum page_code page_encode(struct page_coder *coder, const void *base, const void *page, void *out,
                           size_t *ret_bytes);

/* Make a page again out of what is neither SAME, ZERO nor PLAIN. base: NULL where there is none;
 * not looked at unless page_needs_base(). in: len bytes, with up to 63 of padding. page: 4096
 * bytes, apart from both; undefined on failure. Nothing in in is trusted. ERR_DAMAGED: it is not a
 * page in one of the forms, or it needs a base and there is none. */
int page_decode(struct page_coder *coder, const void *base, const void *in, size_t len, void *page);

/* Whether what begins with this byte is read with a base. */
bool page_needs_base(uint8_t form);

#endif
