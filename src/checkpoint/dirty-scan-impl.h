/* dirty-scan-impl.h - the part of a scan that there is for each vector width. */
#ifndef VARVE_CHECKPOINT_DIRTY_SCAN_IMPL_H
#define VARVE_CHECKPOINT_DIRTY_SCAN_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The words first to end - 1, as far as they fit: the places of their set bits (with edges: of the
 * bits that differ from the bit before, for which first is 1 or more) go to out, which has room for
 * that many. Whole words only, so it may stop with room left, or do nothing; out beyond the result
 * may be overwritten within room. Returns how many; *ret_next is the first word that is not done.
 */
typedef size_t dirty_words_fn(const uint64_t *words, size_t first, size_t end, bool edges,
                              uint32_t *out, size_t room, size_t *ret_next);

dirty_words_fn dirty_words_avx2, dirty_words_avx512;

/* Bit i: word's bit i differs from the one before it, which for bit 0 is before's bit 63. */
static inline uint64_t dirty_edges(uint64_t word, uint64_t before)
{
    return word ^ (word << 1 | before >> 63);
}

#endif
