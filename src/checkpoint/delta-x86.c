/* delta-x86.c - the delta codec with AVX2 (and BMI2) and with AVX-512 (and VBMI2).
 *
 * Both gather the bytes that differ without a branch for each: AVX-512 packs the chosen bytes of a
 * chunk in one instruction, BMI2 those of a group (pext). They write whole vectors, of which the
 * next overwrites what was too much: that is what the slack of the output is for. */
#ifdef __x86_64__

#include "checkpoint/delta-impl.h"

#include <immintrin.h>
#include <string.h>

#define TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define TARGET_AVX512                                                                              \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,bmi,bmi2,popcnt")))

#define PAGE_BYTES 4096u

static inline uint64_t get_word(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, 8);
    return word;
}

static inline void put_word(uint8_t *to, uint64_t word)
{
    memcpy(to, &word, 8);
}

TARGET_AVX512 static void compare_avx512(const uint8_t *base, const uint8_t *page,
                                         struct delta_map *ret_map)
{
    struct delta_map *map = ret_map;
    uint64_t n_bytes = 0, n_groups = 0, groups[8];

    for (unsigned c = 0; c < DELTA_CHUNKS; c++) {
        __m512i a = _mm512_loadu_si512(base + c * 64), b = _mm512_loadu_si512(page + c * 64);
        uint64_t mask = _mm512_cmpneq_epi8_mask(a, b);
        map->masks[c] = mask;
        n_bytes += (uint64_t)_mm_popcnt_u64(mask);
    }
    for (unsigned k = 0; k < 8; k++) {
        __m512i masks = _mm512_loadu_si512(map->masks + 8 * k);
        groups[k] = _mm512_test_epi8_mask(masks, masks);
        n_groups += (uint64_t)_mm_popcnt_u64(groups[k]);
    }
    memcpy(map->groups, groups, sizeof(groups));
    __m512i all = _mm512_loadu_si512(map->groups);
    map->chunks = _mm512_test_epi8_mask(all, all);
    map->n_bytes = (unsigned)n_bytes;
    map->n_groups = (unsigned)n_groups;
}

TARGET_AVX512 static void put_avx512(const struct delta_map *map, const uint8_t *page, uint8_t *out)
{
    __m512i groups = _mm512_loadu_si512(map->groups);

    _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(map->chunks, groups));
    out += _mm_popcnt_u64(map->chunks);
    for (unsigned k = 0; k < 8; k++) {
        __m512i masks = _mm512_loadu_si512(map->masks + 8 * k);
        uint64_t some = get_word(map->groups + 8 * k);
        if (!some)
            continue;
        _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(some, masks));
        out += _mm_popcnt_u64(some);
    }
    for (uint64_t chunks = map->chunks; chunks; chunks = _blsr_u64(chunks)) {
        unsigned c = (unsigned)_tzcnt_u64(chunks);
        uint64_t mask = map->masks[c];
        __m512i bytes = _mm512_maskz_compress_epi8(mask, _mm512_loadu_si512(page + c * 64));
        _mm512_storeu_si512(out, bytes);
        out += _mm_popcnt_u64(mask);
    }
}

TARGET_AVX512 static void apply_avx512(const struct delta_map *map, const uint8_t *base,
                                       const uint8_t *bytes, uint8_t *page)
{
    for (unsigned c = 0; c < DELTA_CHUNKS; c++) {
        uint64_t mask = map->masks[c];
        unsigned n = (unsigned)_mm_popcnt_u64(mask);
        /* Bytes beyond n are not touched: they may lie outside. */
        __m512i next = _mm512_maskz_loadu_epi8(_bzhi_u64(UINT64_MAX, n), bytes);
        __m512i old = _mm512_loadu_si512(base + c * 64);
        _mm512_storeu_si512(page + c * 64, _mm512_mask_expand_epi8(old, mask, next));
        bytes += n;
    }
}

TARGET_AVX512 static bool is_zero_avx512(const uint8_t *page)
{
    for (unsigned at = 0; at < PAGE_BYTES; at += 256) {
        __m512i a =
            _mm512_or_si512(_mm512_loadu_si512(page + at), _mm512_loadu_si512(page + at + 64));
        __m512i b = _mm512_or_si512(_mm512_loadu_si512(page + at + 128),
                                    _mm512_loadu_si512(page + at + 192));
        __m512i any = _mm512_or_si512(a, b);
        if (_mm512_test_epi64_mask(any, any))
            return false;
    }
    return true;
}

const struct delta_ops delta_avx512 = {
    .compare = compare_avx512, .put = put_avx512, .apply = apply_avx512, .is_zero = is_zero_avx512};

TARGET_AVX2 static inline uint32_t differ_avx2(const uint8_t *a, const uint8_t *b)
{
    __m256i same = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)a),
                                     _mm256_loadu_si256((const __m256i *)b));
    return ~(uint32_t)_mm256_movemask_epi8(same);
}

TARGET_AVX2 static void compare_avx2(const uint8_t *base, const uint8_t *page,
                                     struct delta_map *ret_map)
{
    struct delta_map *map = ret_map;
    const uint8_t *masks = (const uint8_t *)map->masks;
    const uint8_t zeros[32] = {0};
    uint64_t n_bytes = 0, n_groups = 0;

    for (unsigned c = 0; c < DELTA_CHUNKS; c++) {
        uint64_t low = differ_avx2(base + c * 64, page + c * 64);
        uint64_t high = differ_avx2(base + c * 64 + 32, page + c * 64 + 32);
        map->masks[c] = low | high << 32;
        n_bytes += (uint64_t)_mm_popcnt_u64(map->masks[c]);
    }
    for (unsigned c = 0; c < DELTA_CHUNKS; c += 4) {
        uint32_t groups = differ_avx2(masks + 8 * c, zeros);
        memcpy(map->groups + c, &groups, 4);
        n_groups += (uint64_t)_mm_popcnt_u32(groups);
    }
    map->chunks = differ_avx2(map->groups, zeros) | (uint64_t)differ_avx2(map->groups + 32, zeros)
                                                        << 32;
    map->n_bytes = (unsigned)n_bytes;
    map->n_groups = (unsigned)n_groups;
}

/* Bit i of bits as byte i: 0 or 255. */
TARGET_AVX2 static inline uint64_t bits_to_bytes(uint64_t bits)
{
    return _pdep_u64(bits, 0x0101010101010101ULL) * 255;
}

/* Pack those bytes of a word that bits names. Returns behind them. */
TARGET_AVX2 static inline uint8_t *put_chosen(uint8_t *out, uint64_t word, uint64_t bits)
{
    put_word(out, _pext_u64(word, bits_to_bytes(bits)));
    return out + _mm_popcnt_u64(bits);
}

TARGET_AVX2 static void put_avx2(const struct delta_map *map, const uint8_t *page, uint8_t *out)
{
    for (unsigned i = 0; i < 8; i++)
        out = put_chosen(out, get_word(map->groups + 8 * i), map->chunks >> 8 * i & 255);
    for (uint64_t chunks = map->chunks; chunks; chunks = _blsr_u64(chunks)) {
        unsigned c = (unsigned)_tzcnt_u64(chunks);
        out = put_chosen(out, map->masks[c], map->groups[c]);
    }
    for (uint64_t chunks = map->chunks; chunks; chunks = _blsr_u64(chunks)) {
        unsigned c = (unsigned)_tzcnt_u64(chunks);
        for (unsigned g = 0; g < 8; g++)
            out = put_chosen(out, get_word(page + c * 64 + g * 8), map->masks[c] >> 8 * g & 255);
    }
}

TARGET_AVX2 static bool is_zero_avx2(const uint8_t *page)
{
    for (unsigned at = 0; at < PAGE_BYTES; at += 128) {
        const __m256i *v = (const __m256i *)(page + at);
        __m256i a = _mm256_or_si256(_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1));
        __m256i b = _mm256_or_si256(_mm256_loadu_si256(v + 2), _mm256_loadu_si256(v + 3));
        __m256i any = _mm256_or_si256(a, b);
        if (!_mm256_testz_si256(any, any))
            return false;
    }
    return true;
}

const struct delta_ops delta_avx2 = {
    .compare = compare_avx2, .put = put_avx2, .apply = delta_apply_plain, .is_zero = is_zero_avx2};

#endif
