/* delta-impl.h - the parts of the delta codec that there are for each vector width.
 *
 * A page is 64 chunks of 64 bytes, a chunk 8 groups of 8 bytes. A mask has a bit for each byte of a
 * chunk that differs, lowest bit first. */
#ifndef VARVE_CHECKPOINT_DELTA_IMPL_H
#define VARVE_CHECKPOINT_DELTA_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DELTA_CHUNKS 64

/* What is found by comparing. */
struct delta_map {
    uint64_t masks[DELTA_CHUNKS];
    uint8_t groups[DELTA_CHUNKS]; /* bit g: byte g of the mask is not zero */
    uint64_t chunks;              /* bit c: mask c is not zero */
    unsigned n_groups;            /* bits in all groups */
    unsigned n_bytes;             /* bits in all masks */
};

struct delta_ops {
    void (*compare)(const uint8_t *base, const uint8_t *page, struct delta_map *ret_map);
    /* The groups that are not zero, then the bytes of masks that are not zero, then the bytes of
     * the page that differ. out has room for all that and DELTA_SLACK_BYTES. */
    void (*put)(const struct delta_map *map, const uint8_t *page, uint8_t *out);
    /* Where a mask has bits the page gets the next byte of bytes, elsewhere the base's. Of map only
     * masks. bytes: as many as there are bits. */
    void (*apply)(const struct delta_map *map, const uint8_t *base, const uint8_t *bytes,
                  uint8_t *page);
    bool (*is_zero)(const uint8_t *page);
};

extern const struct delta_ops delta_plain, delta_avx2, delta_avx512;

/* AVX2 has nothing that does it better. */
void delta_apply_plain(const struct delta_map *map, const uint8_t *base, const uint8_t *bytes,
                       uint8_t *page);

/* Those of simd_level(). */
const struct delta_ops *delta_ops(void);

/* Read the groups and the bytes of masks that follow the chunks of a delta, whose bytes must be as
 * many as they say. map->chunks is set, the rest is filled in. in: len bytes, with up to 63 of
 * padding. *ret_bytes points into in. ERR_DAMAGED. */
int delta_read_map(struct delta_map *map, const uint8_t *in, size_t len, const uint8_t **ret_bytes);

/* Bytes of a delta with this map. */
size_t delta_bytes(const struct delta_map *map);

#endif
