/* dirty-scan.h - finds the dirty pages in a bitmap: bit p % 64 of words[p / 64] is page p.
 *
 * A scan goes through the bitmap once, in as many calls as the caller's arrays need. Pages or
 * ranges, as each call asks; both ascend. The bitmap may change under it only where somebody sets
 * or clears whole words that the scan then sees before or after; a page is never given twice.
 * Threads: a scan is its caller's; any number at once on one bitmap. Never fails, never allocates.
 */
#ifndef VARVE_CHECKPOINT_DIRTY_SCAN_H
#define VARVE_CHECKPOINT_DIRTY_SCAN_H

#include <stddef.h>
#include <stdint.h>

/* Of one bitmap: 16 TiB of 4 KiB pages. */
#define DIRTY_SCAN_MAX_PAGES (UINT32_MAX - 63)

struct dirty_scan {
    const uint64_t *words; /* borrowed until the scan ends */
    uint32_t n_pages;
    uint32_t next; /* the first page that was not looked at */
};

struct dirty_range {
    uint32_t first;
    uint32_t end; /* the first page after it */
};

/* words: ceil(n_pages / 64) of them; bits from n_pages on are not looked at.
 * n_pages: at most DIRTY_SCAN_MAX_PAGES. */
void dirty_scan_begin(struct dirty_scan *scan, const uint64_t *words, uint32_t n_pages);

/* The next dirty pages, at most max (one or more), into out. Returns how many; 0: there are no
 * more. Out beyond that may be overwritten, within max. Quick while max is a thousand or more. */
size_t dirty_scan_pages(struct dirty_scan *scan, uint32_t *out, size_t max);

/* The same as ranges of dirty pages with a clean one between any two of them, but that a range
 * which pages of an earlier call belong to lacks those. */
size_t dirty_scan_ranges(struct dirty_scan *scan, struct dirty_range *out, size_t max);

/* dirty_scan_pages() bit by bit: what the tests and the benchmark compare with. */
size_t dirty_scan_bitwise(struct dirty_scan *scan, uint32_t *out, size_t max);

#endif
