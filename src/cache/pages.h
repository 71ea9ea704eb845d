/* pages.h - pages in memory, by their address in the log. The store's thread only.
 *
 * An address never stands for other bytes, so nothing here is ever invalid, only useless. Clones
 * that share a page share its address and so its place here. Replacement is by CLOCK: a page that
 * was used since the hand last passed stays for another round (F. J. Corbato, A Paging Experiment
 * with the Multics System, 1968). */
#ifndef VARVE_CACHE_PAGES_H
#define VARVE_CACHE_PAGES_H

#include <stdbool.h>
#include <stdint.h>

struct page_cache;

/* bytes: of pages; 0 makes a cache that holds nothing. Memory is touched only as it is used. */
int page_cache_create(uint64_t bytes, struct page_cache **ret);
void page_cache_free(struct page_cache *cache);

/* The 4,096 bytes of the page at address, or NULL. Valid until the next insert. */
const void *page_cache_get(struct page_cache *cache, uint64_t address);
bool page_cache_has(const struct page_cache *cache, uint64_t address);
/* Copy a page in, in the place of one that has not been used for long. */
void page_cache_insert(struct page_cache *cache, uint64_t address, const void *page);
/* Is there room that no page has yet? */
bool page_cache_has_room(const struct page_cache *cache);
/* The page is useless: its place is the next to be taken. */
void page_cache_drop(struct page_cache *cache, uint64_t address);

struct page_cache_stats {
    uint64_t hits, misses, inserts, evictions, bytes;
};
void page_cache_stats(const struct page_cache *cache, struct page_cache_stats *ret);

#endif
