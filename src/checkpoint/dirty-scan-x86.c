/* dirty-scan-x86.c - dirty_words_fn with AVX2 and AVX-512.
 *
 * The cost of a scan by words is not the reading but the branches that no one can foretell: whether
 * a word is zero, and how many bits it has. So a block of words is first thinned out without a
 * branch to those that are not zero, and then each is turned into places by as many steps for all,
 * with a branch only for words with more bits than most have. */
#ifdef __x86_64__

#include "checkpoint/dirty-scan-impl.h"

#include <immintrin.h>

#define BLOCK_WORDS 256u

#define TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define TARGET_AVX512                                                                              \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,bmi,bmi2,popcnt")))

/* The words of a block that are not zero, and where in the bitmap their first bit is. */
struct thinned {
    uint64_t words[BLOCK_WORDS + 8];
    uint32_t places[BLOCK_WORDS + 16];
    size_t n;
};

/* How many words may be taken on: all their bits could be set. Nothing writes more than 64 places
 * for a word, so too many of them never leave the room either. */
static size_t block_words(size_t first, size_t end, size_t room)
{
    size_t n = room / 64;

    if (n > end - first)
        n = end - first;
    return n < BLOCK_WORDS ? n & ~(size_t)7 : BLOCK_WORDS;
}

TARGET_AVX512 static inline void thin_avx512(const uint64_t *words, size_t first, size_t n,
                                             bool edges, struct thinned *out)
{
    const __m512i step = _mm512_set1_epi32(8 * 64);
    __m512i places = _mm512_add_epi32(
        _mm512_set1_epi32((int)(first * 64)),
        _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 448, 384, 320, 256, 192, 128, 64, 0));

    out->n = 0;
    for (size_t w = first; w < first + n; w += 8) {
        __m512i v = _mm512_loadu_si512(words + w);
        if (edges) {
            __m512i before = _mm512_srli_epi64(_mm512_loadu_si512(words + w - 1), 63);
            v = _mm512_xor_si512(v, _mm512_or_si512(_mm512_slli_epi64(v, 1), before));
        }
        __mmask8 some = _mm512_test_epi64_mask(v, v);
        _mm512_storeu_si512(out->words + out->n, _mm512_maskz_compress_epi64(some, v));
        _mm512_storeu_si512(out->places + out->n, _mm512_maskz_compress_epi32(some, places));
        out->n += (size_t)__builtin_popcount(some);
        places = _mm512_add_epi32(places, step);
    }
}

TARGET_AVX512 static inline void put_16(uint32_t *out, __m512i in_word, __m512i base, int part)
{
    __m128i bytes;

    switch (part) {
    case 0:
        bytes = _mm512_castsi512_si128(in_word);
        break;
    case 1:
        bytes = _mm512_extracti32x4_epi32(in_word, 1);
        break;
    case 2:
        bytes = _mm512_extracti32x4_epi32(in_word, 2);
        break;
    default:
        bytes = _mm512_extracti32x4_epi32(in_word, 3);
    }
    _mm512_storeu_si512(out + 16 * part, _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), base));
}

TARGET_AVX512 size_t dirty_words_avx512(const uint64_t *words, size_t first, size_t end, bool edges,
                                        uint32_t *out, size_t room, size_t *ret_next)
{
    static const uint8_t count_up[64] __attribute__((aligned(64))) = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    const __m512i numbers = _mm512_load_si512(count_up);
    struct thinned thinned;
    size_t n = 0, block;

    while ((block = block_words(first, end, room - n))) {
        thin_avx512(words, first, block, edges, &thinned);
        for (size_t i = 0; i < thinned.n; i++) {
            uint64_t word = thinned.words[i];
            unsigned count = (unsigned)_mm_popcnt_u64(word);
            __m512i base = _mm512_set1_epi32((int)thinned.places[i]);
            __m512i in_word = _mm512_maskz_compress_epi8((__mmask64)word, numbers);
            put_16(out + n, in_word, base, 0);
            if (count > 16) {
                put_16(out + n, in_word, base, 1);
                if (count > 32) {
                    put_16(out + n, in_word, base, 2);
                    put_16(out + n, in_word, base, 3);
                }
            }
            n += count;
        }
        first += block;
    }
    *ret_next = first;
    return n;
}

/* Four words: for each set of those that are not zero, the 32-bit lanes that bring them to the
 * front. */
static const uint32_t front[16][8] __attribute__((aligned(32))) = {
    {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {2, 3, 0, 1, 4, 5, 6, 7},
    {0, 1, 2, 3, 4, 5, 6, 7}, {4, 5, 0, 1, 2, 3, 6, 7}, {0, 1, 4, 5, 2, 3, 6, 7},
    {2, 3, 4, 5, 0, 1, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {6, 7, 0, 1, 2, 3, 4, 5},
    {0, 1, 6, 7, 2, 3, 4, 5}, {2, 3, 6, 7, 0, 1, 4, 5}, {0, 1, 2, 3, 6, 7, 4, 5},
    {4, 5, 6, 7, 0, 1, 2, 3}, {0, 1, 4, 5, 6, 7, 2, 3}, {2, 3, 4, 5, 6, 7, 0, 1},
    {0, 1, 2, 3, 4, 5, 6, 7}};

/* The same for their places, as offsets from the first. */
static const uint32_t front_places[16][4] __attribute__((aligned(16))) = {
    {0, 0, 0, 0},     {0, 0, 0, 0},     {64, 0, 0, 0},     {0, 64, 0, 0},
    {128, 0, 0, 0},   {0, 128, 0, 0},   {64, 128, 0, 0},   {0, 64, 128, 0},
    {192, 0, 0, 0},   {0, 192, 0, 0},   {64, 192, 0, 0},   {0, 64, 192, 0},
    {128, 192, 0, 0}, {0, 128, 192, 0}, {64, 128, 192, 0}, {0, 64, 128, 192}};

TARGET_AVX2 static inline void thin_avx2(const uint64_t *words, size_t first, size_t n, bool edges,
                                         struct thinned *out)
{
    out->n = 0;
    for (size_t w = first; w < first + n; w += 4) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(words + w));
        if (edges) {
            __m256i before =
                _mm256_srli_epi64(_mm256_loadu_si256((const __m256i *)(words + w - 1)), 63);
            v = _mm256_xor_si256(v, _mm256_or_si256(_mm256_slli_epi64(v, 1), before));
        }
        __m256i zero = _mm256_cmpeq_epi64(v, _mm256_setzero_si256());
        unsigned some = 15u & ~(unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(zero));
        __m256i lanes = _mm256_load_si256((const __m256i *)front[some]);
        __m128i places = _mm_load_si128((const __m128i *)front_places[some]);
        _mm256_storeu_si256((__m256i *)(out->words + out->n),
                            _mm256_permutevar8x32_epi32(v, lanes));
        _mm_storeu_si128((__m128i *)(out->places + out->n),
                         _mm_add_epi32(places, _mm_set1_epi32((int)(w * 64))));
        out->n += (size_t)__builtin_popcount(some);
    }
}

/* The places of the lowest bits of a word: steps of them, whether there are as many or not. */
TARGET_AVX2 static inline uint64_t put_lowest(uint32_t *out, uint64_t word, uint32_t base,
                                              int steps)
{
    for (int i = 0; i < steps; i++) {
        out[i] = base + (uint32_t)_tzcnt_u64(word);
        word = _blsr_u64(word);
    }
    return word;
}

TARGET_AVX2 static inline size_t put_words(const struct thinned *thinned, uint32_t *out, int steps)
{
    size_t n = 0;

    for (size_t i = 0; i < thinned->n; i++) {
        uint64_t word = thinned->words[i];
        uint32_t base = thinned->places[i];
        size_t count = (size_t)_mm_popcnt_u64(word);
        uint64_t rest = put_lowest(out + n, word, base, steps);
        for (size_t done = (size_t)steps; done < count; done += 8)
            rest = put_lowest(out + n + done, rest, base, 8);
        n += count;
    }
    return n;
}

TARGET_AVX2 size_t dirty_words_avx2(const uint64_t *words, size_t first, size_t end, bool edges,
                                    uint32_t *out, size_t room, size_t *ret_next)
{
    struct thinned thinned;
    size_t n = 0, block;

    while ((block = block_words(first, end, room - n))) {
        thin_avx2(words, first, block, edges, &thinned);
        /* Where most words are zero, most others have one or two bits. */
        if (thinned.n < block / 2)
            n += put_words(&thinned, out + n, 2);
        else
            n += put_words(&thinned, out + n, 8);
        first += block;
    }
    *ret_next = first;
    return n;
}

#endif
