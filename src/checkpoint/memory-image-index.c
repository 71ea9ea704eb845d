/* memory-image-index.c - the coding of an index, and of pieces.
 *
 * An index tells of some pages in rising order, in four columns, each of which compresses better
 * than all of them mixed: how far from the page before, the units of the whole record, the units of
 * the delta, and where they are: as the distance from the end of the record of the same kind that
 * was told before. What was put in order is nearly all zeros. */
#include "checkpoint/memory-image-internal.h"

#include "base/checksum.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define LEVEL 1

/* ---- bytes ---- */

void *memory_bytes_room(struct memory_bytes *bytes, size_t len)
{
    if (!bytes->failed && (!bytes->data || bytes->len + len > bytes->cap)) {
        size_t cap = bytes->cap * 2 > bytes->len + len ? bytes->cap * 2 : bytes->len + len + 4096;
        uint8_t *grown = realloc(bytes->data, cap);
        if (grown) {
            bytes->data = grown;
            bytes->cap = cap;
        } else {
            bytes->failed = true;
        }
    }
    if (bytes->failed)
        return NULL;
    bytes->len += len;
    return bytes->data + bytes->len - len;
}

void memory_bytes_add(struct memory_bytes *bytes, const void *data, size_t len)
{
    void *to = memory_bytes_room(bytes, len);

    if (to && len)
        memcpy(to, data, len);
}

void memory_bytes_pad(struct memory_bytes *bytes, size_t unit)
{
    size_t len = (unit - bytes->len % unit) % unit;
    void *to = memory_bytes_room(bytes, len);

    if (to)
        memset(to, 0, len);
}

void memory_bytes_free(struct memory_bytes *bytes)
{
    free(bytes->data);
    memset(bytes, 0, sizeof(*bytes));
}

static void add_number(struct memory_bytes *bytes, uint64_t v)
{
    uint8_t text[10];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        text[n++] = (uint8_t)(v | 0x80);
    text[n++] = (uint8_t)v;
    memory_bytes_add(bytes, text, n);
}

static void add_byte(struct memory_bytes *bytes, unsigned v)
{
    uint8_t byte = (uint8_t)v;

    memory_bytes_add(bytes, &byte, 1);
}

struct reader {
    const uint8_t *at, *end;
    bool damaged;
};

static uint64_t read_number(struct reader *r)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint8_t byte = *r->at++;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return v;
    }
    r->damaged = true;
    return 0;
}

/* ---- index ---- */

struct columns {
    struct memory_bytes gaps, wholes, deltas, places;
    uint64_t n, next_page, whole_end, delta_end;
};

static uint64_t zigzag(uint64_t v)
{
    return v << 1 ^ (uint64_t)((int64_t)v >> 63);
}

static uint64_t unzigzag(uint64_t v)
{
    return v >> 1 ^ -(v & 1);
}

static void add_place(struct columns *c, uint64_t *end, memory_loc loc)
{
    add_number(&c->places, zigzag((loc >> 7) - *end));
    *end = (loc >> 7) + memory_loc_units(loc);
}

static void add_entry(struct columns *c, uint64_t page, struct memory_entry entry, bool as_in_base)
{
    add_number(&c->gaps, page - c->next_page);
    add_byte(&c->wholes, as_in_base ? MEMORY_AS_IN_BASE : memory_loc_units(entry.whole));
    add_byte(&c->deltas, memory_loc_units(entry.delta));
    if (entry.whole && !as_in_base)
        add_place(c, &c->whole_end, entry.whole);
    if (entry.delta)
        add_place(c, &c->delta_end, entry.delta);
    c->next_page = page + 1;
    c->n++;
}

static void finish(struct columns *c, struct memory_bytes *out)
{
    struct memory_bytes *all[] = {&c->gaps, &c->wholes, &c->deltas, &c->places};

    add_number(out, c->n);
    add_number(out, c->gaps.len);
    for (unsigned i = 0; i < 4; i++) {
        if (all[i]->failed)
            out->failed = true;
        memory_bytes_add(out, all[i]->data, all[i]->len);
        memory_bytes_free(all[i]);
    }
}

void memory_index_encode(const struct memory_table *table, uint64_t first, uint64_t pages,
                         bool overlay, struct memory_bytes *out)
{
    struct columns c = {.next_page = first};

    for (uint64_t p = first; p < first + pages; p++) {
        struct memory_entry entry = table->entries[p];
        if (overlay && p % 64 == 0 && !table->changed[p / 64])
            p += 63;
        else if (overlay && memory_bit(table->changed, p))
            add_entry(&c, p, entry, entry.whole && !memory_bit(table->moved, p));
        else if (!overlay && entry.whole)
            add_entry(&c, p, entry, false);
    }
    finish(&c, out);
}

static memory_loc read_place(struct reader *r, uint64_t *end, unsigned units, uint64_t tail)
{
    uint64_t unit = *end + unzigzag(read_number(r));

    if (unit > MEMORY_DISK_BYTES / MEMORY_UNIT_BYTES || unit < MEMORY_UNITS_PER_PAGE ||
        (unit + units) * MEMORY_UNIT_BYTES > tail) {
        r->damaged = true;
        return 0;
    }
    *end = unit + units;
    return unit << 7 | units;
}

int memory_index_decode(struct memory_table *table, uint64_t first, uint64_t pages, bool overlay,
                        uint64_t tail, const uint8_t *bytes, size_t len)
{
    struct reader gaps = {.at = bytes, .end = bytes + len};
    uint64_t n = read_number(&gaps), gaps_len = read_number(&gaps), page = first;
    uint64_t whole_end = 0, delta_end = 0, left = (uint64_t)(gaps.end - gaps.at);

    if (gaps.damaged || n > pages || gaps_len > left || 2 * n > left - gaps_len)
        return ERR_DAMAGED;
    const uint8_t *wholes = gaps.at + gaps_len, *deltas = wholes + n;
    struct reader places = {.at = deltas + n, .end = bytes + len};
    gaps.end = wholes;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t gap = read_number(&gaps);
        if (gaps.damaged || gap >= first + pages - page)
            return ERR_DAMAGED;
        page += gap;
        struct memory_entry *entry = &table->entries[page];
        bool as_in_base = overlay && wholes[i] == MEMORY_AS_IN_BASE;
        if ((!as_in_base && wholes[i] > MEMORY_RECORD_UNITS) || deltas[i] >= MEMORY_RECORD_UNITS)
            return ERR_DAMAGED;
        if (!as_in_base)
            entry->whole = wholes[i] ? read_place(&places, &whole_end, wholes[i], tail) : 0;
        entry->delta = deltas[i] ? read_place(&places, &delta_end, deltas[i], tail) : 0;
        if (places.damaged || ((as_in_base || deltas[i] || !overlay) && !entry->whole))
            return ERR_DAMAGED;
        if (overlay && table->changed) {
            memory_bit_set(table->changed, page);
            if (!as_in_base)
                memory_bit_set(table->moved, page);
        }
        page++;
    }
    return gaps.at == gaps.end && places.at == places.end ? 0 : ERR_DAMAGED;
}

/* ---- pieces ---- */

void memory_piece_pack(bool plain, const void *raw, size_t len, uint64_t at,
                       struct memory_bytes *section, struct memory_piece *piece)
{
    size_t begun = section->len, bound = plain ? len : ZSTD_compressBound(len);
    uint8_t *to = memory_bytes_room(section, bound > len ? bound : len);

    memset(piece, 0, sizeof(*piece));
    if (!to)
        return;
    size_t got = plain ? len : ZSTD_compress(to, bound, raw, len, LEVEL);
    if (plain || ZSTD_isError(got) || got >= len) {
        got = len;
        if (len)
            memcpy(to, raw, len);
    }
    section->len = begun + got;
    piece->offset = at + begun;
    piece->stored = got;
    piece->raw = len;
    piece->sum = checksum_at(piece->offset, to, got);
}

bool memory_piece_valid(const struct memory_piece *piece, uint64_t tail, uint64_t max_raw)
{
    return piece->offset >= MEMORY_PAGE_BYTES && piece->offset <= tail &&
           piece->stored <= tail - piece->offset && piece->stored <= piece->raw &&
           piece->raw <= max_raw;
}

int memory_piece_unpack(const struct memory_piece *piece, const uint8_t *stored, uint8_t **ret)
{
    if (checksum_at(piece->offset, stored, piece->stored) != piece->sum)
        return ERR_DAMAGED;
    if (piece->stored < piece->raw && ZSTD_getFrameContentSize(stored, piece->stored) != piece->raw)
        return ERR_DAMAGED; /* before as much memory is asked for */
    _cleanup_free_ uint8_t *raw = malloc(piece->raw ? piece->raw : 1);
    if (!raw)
        return -ENOMEM;
    if (piece->stored == piece->raw)
        memcpy(raw, stored, piece->raw);
    else if (ZSTD_decompress(raw, piece->raw, stored, piece->stored) != piece->raw)
        return ERR_DAMAGED;
    *ret = TAKE_PTR(raw);
    return 0;
}

int memory_piece_read(const struct memory_image *image, const struct memory_piece *piece,
                      uint8_t **ret)
{
    uint64_t from = piece->offset / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
    size_t len = (piece->offset + piece->stored - from + MEMORY_PAGE_BYTES - 1) /
                 MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
    /* In parts, since there is a bound to how long one may be. */
    size_t part_bytes = 4u << 20, n = (len + part_bytes - 1) / part_bytes;
    _cleanup_free_ uint8_t *buf = aligned_alloc(MEMORY_PAGE_BYTES, len ? len : MEMORY_PAGE_BYTES);
    _cleanup_free_ struct memory_io_part *parts = malloc((n + 1) * sizeof(*parts));

    if (!buf || !parts)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        parts[i] = (struct memory_io_part){
            .offset = from + i * part_bytes,
            .buf = buf + i * part_bytes,
            .len = i + 1 < n ? part_bytes : len - i * part_bytes,
        };
    int code = n ? image->io.read(image->io.arg, parts, n) : 0;
    return code ? code : memory_piece_unpack(piece, buf + (piece->offset - from), ret);
}
