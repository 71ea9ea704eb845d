/* page-copy.c - pages past the cache.
 *
 * What is written is not read into the cache first, and the next page is fetched while this one is
 * written: the processor foresees no access beyond the page's end. */
#include "checkpoint/page-copy.h"

#include "checkpoint/simd.h"

#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>

#define LINE_BYTES 64

__attribute__((target("avx2"))) static void copy_avx2(char *to, const char *from, const char *next)
{
    for (int at = 0; at < PAGE_COPY_BYTES; at += LINE_BYTES) {
        _mm_prefetch(next + at, _MM_HINT_T0);
        __m256i a = _mm256_load_si256((const __m256i *)(const void *)(from + at));
        __m256i b = _mm256_load_si256((const __m256i *)(const void *)(from + at + 32));
        _mm256_stream_si256((__m256i *)(void *)(to + at), a);
        _mm256_stream_si256((__m256i *)(void *)(to + at + 32), b);
    }
}

void page_copy(void *to, const void *from, const void *next)
{
    if (simd_level() >= SIMD_AVX2)
        copy_avx2(to, from, next);
    else
        memcpy(to, from, PAGE_COPY_BYTES);
}

void page_copy_end(void)
{
    _mm_sfence();
}
#else
void page_copy(void *to, const void *from, const void *next)
{
    (void)next;
    memcpy(to, from, PAGE_COPY_BYTES);
}

void page_copy_end(void)
{
}
#endif
