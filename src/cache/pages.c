/* pages.c - pages in memory, by their address in the log: a hash table with chains of indexes over
 * an array of pages, and a clock hand. */
#include "cache/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define NONE UINT32_MAX

struct frame {
    uint64_t address; /* 0: empty (no page has address 0: slot 0 of a file is its header) */
    uint32_t next;    /* in its chain */
    bool used;        /* since the hand passed */
};

struct page_cache {
    uint32_t n_frames, n_filled, hand;
    uint32_t fresh;     /* frames from here on were never used */
    uint32_t free_head; /* dropped frames */
    uint32_t mask;
    uint32_t *heads;
    struct frame *frames;
    uint8_t *pages;
    struct page_cache_stats stats;
};

int page_cache_create(uint64_t bytes, struct page_cache **ret)
{
    struct page_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return -ENOMEM;
    cache->free_head = NONE;
    uint64_t n = bytes / PAGE;
    cache->n_frames = n > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)n;
    if (cache->n_frames) {
        uint32_t heads = 1;
        while (heads < cache->n_frames)
            heads *= 2;
        cache->mask = heads - 1;
        cache->heads = malloc(heads * sizeof(*cache->heads));
        cache->frames = calloc(cache->n_frames, sizeof(*cache->frames));
        cache->pages = mmap(NULL, (size_t)cache->n_frames * PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (!cache->heads || !cache->frames || cache->pages == MAP_FAILED) {
            if (cache->pages == MAP_FAILED)
                cache->pages = NULL;
            page_cache_free(cache);
            return -ENOMEM;
        }
        memset(cache->heads, 0xff, heads * sizeof(*cache->heads));
        madvise(cache->pages, (size_t)cache->n_frames * PAGE, MADV_HUGEPAGE);
    }
    *ret = cache;
    return 0;
}

void page_cache_free(struct page_cache *cache)
{
    if (!cache)
        return;
    if (cache->pages)
        munmap(cache->pages, (size_t)cache->n_frames * PAGE);
    free(cache->heads);
    free(cache->frames);
    free(cache);
}

static uint32_t *head_of(const struct page_cache *cache, uint64_t address)
{
    return &cache->heads[(address * 0x9E3779B97F4A7C15ULL) >> 32 & cache->mask];
}

static uint32_t find(const struct page_cache *cache, uint64_t address)
{
    if (!cache->n_frames)
        return NONE;
    uint32_t i = *head_of(cache, address);
    while (i != NONE && cache->frames[i].address != address)
        i = cache->frames[i].next;
    return i;
}

const void *page_cache_get(struct page_cache *cache, uint64_t address)
{
    uint32_t i = find(cache, address);
    if (i == NONE) {
        cache->stats.misses++;
        return NULL;
    }
    cache->stats.hits++;
    cache->frames[i].used = true;
    return cache->pages + (size_t)i * PAGE;
}

bool page_cache_has(const struct page_cache *cache, uint64_t address)
{
    return find(cache, address) != NONE;
}

static void unlink_frame(struct page_cache *cache, uint32_t i)
{
    uint32_t *at = head_of(cache, cache->frames[i].address);
    while (*at != i)
        at = &cache->frames[*at].next;
    *at = cache->frames[i].next;
    cache->frames[i].address = 0;
}

static uint32_t take_frame(struct page_cache *cache)
{
    uint32_t free_frame = cache->free_head;
    if (free_frame != NONE) {
        cache->free_head = cache->frames[free_frame].next;
        return free_frame;
    }
    if (cache->fresh < cache->n_frames)
        return cache->fresh++;
    for (;;) {
        struct frame *frame = &cache->frames[cache->hand];
        uint32_t i = cache->hand;
        cache->hand = (cache->hand + 1) % cache->n_frames;
        if (!frame->used) {
            unlink_frame(cache, i);
            cache->n_filled--;
            cache->stats.evictions++;
            return i;
        }
        frame->used = false;
    }
}

bool page_cache_has_room(const struct page_cache *cache)
{
    return cache->n_filled < cache->n_frames;
}

void page_cache_insert(struct page_cache *cache, uint64_t address, const void *page)
{
    if (!cache->n_frames || !address || find(cache, address) != NONE)
        return;
    uint32_t i = take_frame(cache);
    uint32_t *head = head_of(cache, address);
    cache->frames[i] = (struct frame){.address = address, .next = *head};
    *head = i;
    cache->n_filled++;
    memcpy(cache->pages + (size_t)i * PAGE, page, PAGE);
    cache->stats.inserts++;
}

void page_cache_drop(struct page_cache *cache, uint64_t address)
{
    uint32_t i = find(cache, address);
    if (i == NONE)
        return;
    unlink_frame(cache, i);
    cache->n_filled--;
    cache->frames[i].next = cache->free_head;
    cache->free_head = i;
}

void page_cache_stats(const struct page_cache *cache, struct page_cache_stats *ret)
{
    *ret = cache->stats;
    ret->bytes = (uint64_t)cache->n_filled * PAGE;
}
