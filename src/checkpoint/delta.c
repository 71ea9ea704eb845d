/* delta.c - deltas: their bounds, the check of what is read, and the plain form of the rest.
 *
 * Three levels of bits say which bytes differ, so that a byte in an unchanged page costs four and
 * the last of many less than one and a half. Runs of changed bytes (offset, length, bytes) were
 * shorter for a few long runs and half as long again for scattered bytes. The difference of words
 * (x - y, x ^ y) in place of the new bytes made nothing shorter: what changes in RAM is mostly
 * written anew, and looks like what is near it. */
#include "checkpoint/delta.h"
#include "base/err.h"
#include "checkpoint/delta-impl.h"
#include "checkpoint/simd.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static uint64_t get_word(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, 8);
    return le64toh(word);
}

/* Bit i: byte i of the word is not zero. */
static unsigned nonzero_bytes(uint64_t word)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7fULL;
    uint64_t high_bits = ((word & low) + low) | word; /* bit 7 of each byte that is not zero */
    return (unsigned)((((high_bits >> 7) & 0x0101010101010101ULL) * 0x0102040810204080ULL) >> 56);
}

static void compare_plain(const uint8_t *base, const uint8_t *page, struct delta_map *ret_map)
{
    struct delta_map *map = ret_map;

    map->chunks = 0;
    map->n_groups = map->n_bytes = 0;
    for (unsigned c = 0; c < DELTA_CHUNKS; c++) {
        uint64_t mask = 0;
        for (unsigned g = 0; g < 8; g++) {
            unsigned at = c * 64 + g * 8;
            uint64_t differ = get_word(base + at) ^ get_word(page + at);
            if (differ)
                mask |= (uint64_t)nonzero_bytes(differ) << 8 * g;
        }
        map->masks[c] = mask;
        map->groups[c] = (uint8_t)nonzero_bytes(mask);
        map->chunks |= (uint64_t)(mask != 0) << c;
        map->n_groups += (unsigned)__builtin_popcount(map->groups[c]);
        map->n_bytes += (unsigned)__builtin_popcountll(mask);
    }
}

static void put_plain(const struct delta_map *map, const uint8_t *page, uint8_t *out)
{
    uint8_t *groups = out, *masks = groups + __builtin_popcountll(map->chunks);
    uint8_t *bytes = masks + map->n_groups;

    for (uint64_t chunks = map->chunks; chunks; chunks &= chunks - 1) {
        unsigned c = (unsigned)__builtin_ctzll(chunks);
        *groups++ = map->groups[c];
        for (unsigned some = map->groups[c]; some; some &= some - 1)
            *masks++ = (uint8_t)(map->masks[c] >> 8 * __builtin_ctz(some));
        for (uint64_t mask = map->masks[c]; mask; mask &= mask - 1)
            *bytes++ = page[c * 64 + (unsigned)__builtin_ctzll(mask)];
    }
}

void delta_apply_plain(const struct delta_map *map, const uint8_t *base, const uint8_t *bytes,
                       uint8_t *page)
{
    memcpy(page, base, DELTA_PAGE_BYTES);
    for (unsigned c = 0; c < DELTA_CHUNKS; c++) {
        if (map->masks[c] == UINT64_MAX) {
            memcpy(page + c * 64, bytes, 64);
            bytes += 64;
            continue;
        }
        for (uint64_t mask = map->masks[c]; mask; mask &= mask - 1)
            page[c * 64 + (unsigned)__builtin_ctzll(mask)] = *bytes++;
    }
}

static bool is_zero_plain(const uint8_t *page)
{
    for (unsigned at = 0; at < DELTA_PAGE_BYTES; at += 32)
        if (get_word(page + at) | get_word(page + at + 8) | get_word(page + at + 16) |
            get_word(page + at + 24))
            return false;
    return true;
}

const struct delta_ops delta_plain = {.compare = compare_plain,
                                      .put = put_plain,
                                      .apply = delta_apply_plain,
                                      .is_zero = is_zero_plain};

const struct delta_ops *delta_ops(void)
{
#ifdef __x86_64__
    static const struct delta_ops *const all[SIMD_LEVELS] = {&delta_plain, &delta_avx2,
                                                             &delta_avx512};
    return all[simd_level()];
#else
    return &delta_plain;
#endif
}

size_t delta_bytes(const struct delta_map *map)
{
    return 9 + (size_t)__builtin_popcountll(map->chunks) + map->n_groups + map->n_bytes;
}

int delta_encode(const void *base, const void *page, void *out, size_t max)
{
    const struct delta_ops *ops = delta_ops();
    struct delta_map map;

    ops->compare(base, page, &map);
    if (!map.chunks)
        return 0;
    size_t len = delta_bytes(&map);
    if (len > max)
        return -E2BIG;
    uint64_t chunks = htole64(map.chunks);
    *(uint8_t *)out = DELTA_FORM_BYTES;
    memcpy((uint8_t *)out + 1, &chunks, 8);
    ops->put(&map, page, (uint8_t *)out + 9);
    return (int)len;
}

static bool is_padding(const uint8_t *bytes, size_t len)
{
    uint8_t any = 0;

    if (len >= DELTA_UNIT_BYTES)
        return false;
    for (size_t i = 0; i < len; i++)
        any |= bytes[i];
    return !any;
}

int delta_read_map(struct delta_map *map, const uint8_t *in, size_t len, const uint8_t **ret_bytes)
{
    size_t n_chunks = (size_t)__builtin_popcountll(map->chunks), n_groups = 0, n_bytes = 0;

    if (!n_chunks || len < n_chunks)
        return ERR_DAMAGED;
    for (size_t i = 0; i < n_chunks; i++) {
        if (!in[i])
            return ERR_DAMAGED;
        n_groups += (size_t)__builtin_popcount(in[i]);
    }
    const uint8_t *groups = in, *masks = in + n_chunks;
    if (len - n_chunks < n_groups)
        return ERR_DAMAGED;
    memset(map->masks, 0, sizeof(map->masks));
    memset(map->groups, 0, sizeof(map->groups));
    for (uint64_t chunks = map->chunks; chunks; chunks &= chunks - 1) {
        unsigned c = (unsigned)__builtin_ctzll(chunks);
        map->groups[c] = *groups++;
        for (unsigned some = map->groups[c]; some; some &= some - 1) {
            if (!*masks)
                return ERR_DAMAGED;
            n_bytes += (size_t)__builtin_popcount(*masks);
            map->masks[c] |= (uint64_t)*masks++ << 8 * __builtin_ctz(some);
        }
    }
    size_t before = n_chunks + n_groups;
    if (len - before < n_bytes || !is_padding(masks + n_bytes, len - before - n_bytes))
        return ERR_DAMAGED;
    map->n_groups = (unsigned)n_groups;
    map->n_bytes = (unsigned)n_bytes;
    *ret_bytes = masks;
    return 0;
}

int delta_decode(const void *base, const void *delta, size_t len, void *page)
{
    const uint8_t *in = delta, *bytes;
    struct delta_map map;

    if (len < 9 || in[0] != DELTA_FORM_BYTES)
        return ERR_DAMAGED;
    map.chunks = get_word(in + 1);
    int code = delta_read_map(&map, in + 9, len - 9, &bytes);
    if (code)
        return code;
    delta_ops()->apply(&map, base, bytes, page);
    return 0;
}

bool page_is_zero(const void *page)
{
    return delta_ops()->is_zero(page);
}
