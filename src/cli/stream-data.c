/* stream-data.c - a frame's data: checksum and compression. */
#include "cli/stream-internal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>
#include <zstd.h>

struct stream_sum {
    XXH3_state_t *state;
};

uint64_t stream_checksum(const void *data, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, len, seed);
}

struct stream_sum *stream_sum_new(void)
{
    struct stream_sum *sum = malloc(sizeof(*sum));

    if (!sum)
        return NULL;
    sum->state = XXH3_createState();
    if (!sum->state) {
        free(sum);
        return NULL;
    }
    XXH3_64bits_reset(sum->state);
    return sum;
}

void stream_sum_free(struct stream_sum *sum)
{
    if (sum)
        XXH3_freeState(sum->state);
    free(sum);
}

void stream_sum_add(struct stream_sum *sum, const void *data, size_t len)
{
    XXH3_64bits_update(sum->state, data, len);
}

uint64_t stream_sum_value(const struct stream_sum *sum)
{
    return XXH3_64bits_digest(sum->state);
}

/* ---- compression ---------------------------------------------------------------------------- */

struct stream_zstd {
    ZSTD_CCtx *c;
    ZSTD_DCtx *d;
    int level;
};

struct stream_zstd *stream_zstd_new(int level)
{
    struct stream_zstd *zstd = malloc(sizeof(*zstd));

    if (!zstd)
        return NULL;
    *zstd = (struct stream_zstd){ZSTD_createCCtx(), ZSTD_createDCtx(), level};
    if (!zstd->c || !zstd->d) {
        stream_zstd_free(zstd);
        return NULL;
    }
    return zstd;
}

void stream_zstd_free(struct stream_zstd *zstd)
{
    if (!zstd)
        return;
    ZSTD_freeCCtx(zstd->c);
    ZSTD_freeDCtx(zstd->d);
    free(zstd);
}

const void *stream_pack(struct stream_zstd *zstd, struct stream_frame *frame, const void *plain,
                        void *stored)
{
    frame->plain_checksum = stream_checksum(plain, frame->plain_bytes, 0);
    frame->encoding = STREAM_PLAIN;
    frame->stored_bytes = frame->plain_bytes;
    if (!zstd->level || !frame->plain_bytes)
        return plain;
    /* What would not become smaller does not fit, and is sent as it is. */
    size_t n = ZSTD_compressCCtx(zstd->c, stored, frame->plain_bytes - 1, plain, frame->plain_bytes,
                                 zstd->level);
    if (ZSTD_isError(n))
        return plain;
    frame->encoding = STREAM_ZSTD;
    frame->stored_bytes = (uint32_t)n;
    return stored;
}

const void *stream_unpack(struct stream_zstd *zstd, const struct stream_frame *frame,
                          const void *stored, void *plain)
{
    if (frame->encoding == STREAM_ZSTD) {
        size_t n =
            ZSTD_decompressDCtx(zstd->d, plain, frame->plain_bytes, stored, frame->stored_bytes);
        if (ZSTD_isError(n) || n != frame->plain_bytes)
            return NULL;
        stored = plain;
    }
    if (stream_checksum(stored, frame->plain_bytes, 0) != frame->plain_checksum)
        return NULL;
    return stored;
}
