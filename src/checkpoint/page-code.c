/* page-code.c - the choice between delta, compressed delta, compressed page and page.
 *
 * Measured on the pages of guests under TCG that differed after 1 and after 10 seconds, in 64-byte
 * units, as a part of the pages' size (idle; redis under load; a compiler; a few bytes in many
 * pages):
 *
 *     bytes that differ (delta.h)           2 %, 7 to 34 %, 44 to 46 %, 2 %
 *     these with zstd                       2 %,  3 to 9 %,       17 %, 2 %     1 to 11 us
 *     these with lz4                        2 %, 4 to 12 %, 22 to 23 %, 2 %      1 to 4 us
 *     page with zstd, no base              14 %, 16 to 26 %, 14 %,  63 to 65 %       10 us
 *     page with zstd, base as dictionary    2 %,  3 to 8 %, 12 to 13 %, 2 %      3 to 9 us
 *     as chosen here                        2 %,  3 to 8 %, 12 to 13 %, 2 %
 *
 * Level 1 of zstd; for the compiler level 3 saved half a per cent, -3 cost four to six and saved a
 * third to half of the time. A base as a dictionary is never better than the better of the two
 * others by more than half a per cent, and then needs the base. So:
 *
 * 1. A short delta is stored as it is: most deltas, and they cost hardly more than reading the
 * pages.
 * 2. One that is longer is compressed, if that saves a unit.
 * 3. A page that has changed more is compressed by itself: no longer on average, and it is read
 * back without a base. Only where it does not compress a longer delta stands in for it. */
#include "checkpoint/page-code.h"
#include "base/err.h"
#include "checkpoint/delta-impl.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define LEVEL 1

/* Deltas up to this are not compressed: three or four units would become two or three. */
#define SHORT_BYTES 256u
/* Deltas up to this are not weighed against the page. */
#define MIDDLE_BYTES 1024u
/* A delta longer than this is never worth a second read. */
#define LONG_BYTES 3072u

/* A frame's first bytes, which are always these and are left out. */
#define MAGIC_BYTES 4u

/* The most a delta has behind its form and its chunks. */
#define TAIL_BYTES (DELTA_MAX_BYTES - 9)

struct page_coder {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    uint8_t frame[DELTA_MAX_BYTES + 512]; /* with its magic; room for the bound of zstd */
    uint8_t tail[TAIL_BYTES];
};

void page_coder_free(struct page_coder *coder)
{
    if (!coder)
        return;
    ZSTD_freeCCtx(coder->compressor);
    ZSTD_freeDCtx(coder->decompressor);
    free(coder);
}

/* zstd allocates its tables with the first frame, so there is one here. */
static bool warm_up(struct page_coder *coder)
{
    size_t len;

    memset(coder->tail, 1, sizeof(coder->tail));
    len = ZSTD_compress2(coder->compressor, coder->frame, sizeof(coder->frame), coder->tail,
                         sizeof(coder->tail));
    return !ZSTD_isError(len) &&
           ZSTD_decompressDCtx(coder->decompressor, coder->tail, sizeof(coder->tail), coder->frame,
                               len) == sizeof(coder->tail);
}

int page_coder_new(struct page_coder **ret)
{
    struct page_coder *coder = malloc(sizeof(*coder));

    if (!coder)
        return -ENOMEM;
    coder->compressor = ZSTD_createCCtx();
    coder->decompressor = ZSTD_createDCtx();
    if (!coder->compressor || !coder->decompressor ||
        ZSTD_isError(ZSTD_CCtx_setParameter(coder->compressor, ZSTD_c_compressionLevel, LEVEL)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(coder->compressor, ZSTD_c_contentSizeFlag, 0)) ||
        !warm_up(coder)) {
        page_coder_free(coder);
        return -ENOMEM;
    }
    *ret = coder;
    return 0;
}

static size_t units(size_t bytes)
{
    return (bytes + DELTA_UNIT_BYTES - 1) / DELTA_UNIT_BYTES;
}

/* A frame of what is in from, without its magic, to out; 0 if that is more than max bytes. */
static size_t compress(struct page_coder *coder, const void *from, size_t len, void *out,
                       size_t max)
{
    size_t got = ZSTD_compress2(coder->compressor, coder->frame, sizeof(coder->frame), from, len);

    if (ZSTD_isError(got) || got - MAGIC_BYTES > max)
        return 0;
    memcpy(out, coder->frame + MAGIC_BYTES, got - MAGIC_BYTES);
    return got - MAGIC_BYTES;
}

/* Compress a delta in its place if that saves a unit. Returns its bytes. */
static size_t squeeze(struct page_coder *coder, uint8_t *delta, size_t len)
{
    size_t most = (units(len) - 1) * DELTA_UNIT_BYTES;
    size_t got = compress(coder, delta + 9, len - 9, delta + 9, most - 9);

    if (!got)
        return len;
    delta[0] = DELTA_FORM_BYTES_ZSTD;
    return 9 + got;
}

/* Instead of a delta of len bytes, unless that is shorter; len 0: there is none. */
static enum page_code encode_whole(struct page_coder *coder, size_t len, const void *page,
                                   uint8_t *out, size_t *ret_bytes)
{
    size_t most = len ? units(len) * DELTA_UNIT_BYTES : DELTA_PAGE_BYTES - DELTA_UNIT_BYTES;
    size_t got = compress(coder, page, DELTA_PAGE_BYTES, out + 1, most - 1);

    if (got) {
        out[0] = DELTA_FORM_PAGE_ZSTD;
        *ret_bytes = 1 + got;
        return PAGE_PACKED;
    }
    if (len) {
        *ret_bytes = squeeze(coder, out, len);
        return PAGE_DELTA;
    }
    *ret_bytes = DELTA_PAGE_BYTES;
    return PAGE_PLAIN;
}

enum page_code page_encode(struct page_coder *coder, const void *base, const void *page, void *out,
                           size_t *ret_bytes)
{
    int len = base ? delta_encode(base, page, out, LONG_BYTES) : -E2BIG;

    *ret_bytes = 0;
    if (!len)
        return PAGE_SAME;
    if (page_is_zero(page))
        return PAGE_ZERO;
    if (len < 0 || len > (int)MIDDLE_BYTES)
        return encode_whole(coder, len < 0 ? 0 : (size_t)len, page, out, ret_bytes);
    *ret_bytes = len > (int)SHORT_BYTES ? squeeze(coder, out, (size_t)len) : (size_t)len;
    return PAGE_DELTA;
}

static bool is_padding(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i])
            return false;
    return len < DELTA_UNIT_BYTES;
}

/* A frame without its magic, to out of max bytes. *ret_bytes: what came out. */
static int decompress(struct page_coder *coder, const uint8_t *in, size_t len, void *out,
                      size_t max, size_t *ret_bytes)
{
    static const uint8_t magic[MAGIC_BYTES] = {0x28, 0xb5, 0x2f, 0xfd};

    if (len > sizeof(coder->frame) - MAGIC_BYTES)
        return ERR_DAMAGED;
    memcpy(coder->frame, magic, MAGIC_BYTES);
    memcpy(coder->frame + MAGIC_BYTES, in, len);
    size_t frame = ZSTD_findFrameCompressedSize(coder->frame, len + MAGIC_BYTES);
    if (ZSTD_isError(frame) || !is_padding(coder->frame + frame, len + MAGIC_BYTES - frame))
        return ERR_DAMAGED;
    size_t got = ZSTD_decompressDCtx(coder->decompressor, out, max, coder->frame, frame);
    if (ZSTD_isError(got))
        return ERR_DAMAGED;
    *ret_bytes = got;
    return 0;
}

static int decode_squeezed(struct page_coder *coder, const void *base, const uint8_t *in,
                           size_t len, void *page)
{
    struct delta_map map;
    const uint8_t *bytes;
    uint64_t chunks;
    size_t got = 0;

    if (len < 9)
        return ERR_DAMAGED;
    memcpy(&chunks, in + 1, 8);
    map.chunks = le64toh(chunks);
    int code = decompress(coder, in + 9, len - 9, coder->tail, sizeof(coder->tail), &got);
    if (!code)
        code = delta_read_map(&map, coder->tail, got, &bytes);
    if (!code)
        delta_ops()->apply(&map, base, bytes, page);
    return code;
}

int page_decode(struct page_coder *coder, const void *base, const void *in, size_t len, void *page)
{
    const uint8_t *bytes = in;
    size_t got = 0;

    if (!len || (page_needs_base(bytes[0]) && !base))
        return ERR_DAMAGED;
    switch (bytes[0]) {
    case DELTA_FORM_BYTES:
        return delta_decode(base, in, len, page);
    case DELTA_FORM_BYTES_ZSTD:
        return decode_squeezed(coder, base, bytes, len, page);
    case DELTA_FORM_PAGE_ZSTD: {
        int code = decompress(coder, bytes + 1, len - 1, page, DELTA_PAGE_BYTES, &got);
        return code ? code : got == DELTA_PAGE_BYTES ? 0 : ERR_DAMAGED;
    }
    default:
        return ERR_DAMAGED;
    }
}

bool page_needs_base(uint8_t form)
{
    return form == DELTA_FORM_BYTES || form == DELTA_FORM_BYTES_ZSTD;
}
