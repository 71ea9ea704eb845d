/* map.c - the segment map in a checkpoint: which file holds which slots, and which of them live.
 *
 * A checkpoint's map is the map at its beginning (its cut), though it is written later:
 * file_touch() takes a file's record just before the file first changes. Table files are the
 * exception: the nodes that the checkpoint itself writes and replaces change them, and nothing else
 * does meanwhile, so their records are taken at its end. */
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t live_bytes(uint32_t slots)
{
    return (size_t)(slots + 63) / 64 * 8;
}

static bool in_map(const struct log_file *file)
{
    return file && (file->state == FILE_OPEN || file->state == FILE_SEALED);
}

static bool taken_at_end(const struct log_file *file)
{
    return file->shift == TABLE_SHIFT;
}

static uint32_t count_pieces(const struct log_file *file)
{
    uint32_t n = 0;
    list_for_each (l, &file->pieces)
        n++;
    return n;
}

static size_t record_size(const struct log_file *file)
{
    return sizeof(struct map_file) + count_pieces(file) * sizeof(struct map_piece) +
           live_bytes(file->used_slots);
}

/* Fresh table files that so many bytes of nodes may fill. Half of a file may be lost at the ends of
 * buffers and segments: much less is. */
static uint64_t new_table_files(uint64_t node_bytes)
{
    return 20 + 2 * node_bytes / FILE_BYTES;
}

size_t log_map_size(const struct log *log, uint64_t node_bytes, uint32_t *ret_files)
{
    size_t table_record = sizeof(struct map_file) + 8 * sizeof(struct map_piece) +
                          live_bytes(FILE_BYTES >> TABLE_SHIFT);
    size_t size = new_table_files(node_bytes) * table_record;
    uint32_t files = 0;
    for (uint32_t i = 0; i < log->max_files; i++) {
        const struct log_file *file = log->files[i];
        if (!in_map(file))
            continue;
        size += record_size(file) + (taken_at_end(file) ? table_record : 0);
        files++;
    }
    *ret_files = files;
    return size;
}

static size_t take_record(const struct log_file *file, uint8_t *at)
{
    uint8_t *start = at;
    struct map_file *record = (struct map_file *)at;
    *record = (struct map_file){.file = file->number,
                                .kind = file->kind,
                                .shift = file->shift,
                                .used_slots = file->used_slots,
                                .footer_block = file->footer_block,
                                .footer_bytes = file->footer_bytes,
                                .footer_crc = file->footer_crc};
    at += sizeof(*record);
    list_for_each (l, &file->pieces) {
        const struct log_piece *piece = container_of(l, struct log_piece, link);
        struct map_piece *mp = (struct map_piece *)at;
        *mp = (struct map_piece){piece->segment->number,
                                 piece->generation,
                                 piece->first,
                                 piece->end,
                                 piece->base,
                                 piece->count};
        at += sizeof(*mp);
        record->n_pieces++;
    }
    memcpy(at, file->live, live_bytes(file->used_slots));
    return at + live_bytes(file->used_slots) - start;
}

void log_map_begin(struct log *log, uint8_t *body, size_t size)
{
    size_t at = 0;
    log->map_body = body;
    log->map_size = size;
    log->map_files = 0;
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!file)
            continue;
        file->mapped = in_map(file) && !taken_at_end(file);
        file->map_changed = false;
        if (!file->mapped)
            continue;
        file->map_pending = true;
        file->map_offset = at;
        at += record_size(file);
        log->map_files++;
    }
    log->map_end = at;
    log->map_next = 0;
    log->map_open = true;
    log->n_laters = 0;
}

void file_touch(struct log *log, struct log_file *file)
{
    if (!file->map_pending)
        return;
    file->map_pending = false;
    take_record(file, log->map_body + file->map_offset);
}

bool log_map_step(struct log *log, uint32_t n_files)
{
    while (log->map_next < log->max_files && n_files) {
        struct log_file *file = log->files[log->map_next++];
        if (!file || !file->map_pending)
            continue;
        file_touch(log, file);
        n_files--;
    }
    return log->map_next == log->max_files;
}

/* In the records from byte `from` on: take back what is not of the checkpoint, the last first. */
static void take_back(struct log *log, size_t from)
{
    for (uint32_t i = log->n_laters; i-- > 0;) {
        const struct log_later *later = &log->laters[i];
        struct log_file *file = later->file;
        uint64_t *live;
        if (!in_map(file) || file->map_offset < from)
            continue;
        live = (uint64_t *)(log->map_body + file->map_offset + record_size(file) -
                            live_bytes(file->used_slots));
        if (later->lives)
            live[later->slot / 64] &= ~(1ULL << (later->slot % 64));
        else
            live[later->slot / 64] |= 1ULL << (later->slot % 64);
    }
    log->n_laters = 0;
    log->map_open = false;
}

int log_map_finish(struct log *log, struct log_map_end *ret)
{
    size_t from = log->map_end;
    uint32_t data_files = log->map_files;
    while (!log_map_step(log, 1024))
        continue;
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!in_map(file) || !taken_at_end(file))
            continue;
        if (record_size(file) > log->map_size - log->map_end)
            return -EOVERFLOW;
        file->map_offset = log->map_end;
        log->map_end += take_record(file, log->map_body + log->map_end);
        log->map_files++;
    }
    take_back(log, from);
    *ret = (struct log_map_end){log->map_end, from, log->map_files, log->map_files - data_files};
    return 0;
}

size_t log_map_size_of_data(const struct log *log)
{
    size_t size = 0;
    for (uint32_t i = 0; i < log->max_files; i++)
        if (in_map(log->files[i]) && !taken_at_end(log->files[i]))
            size += record_size(log->files[i]);
    return size;
}

void log_map_begin_data(struct log *log, uint8_t *body, size_t size)
{
    log_map_begin(log, body, size);
    log->map_open = false; /* what happens to nodes is of no concern to it */
}

void log_map_finish_data(struct log *log, const uint8_t *tables, size_t table_bytes,
                         struct log_map_end *ret)
{
    size_t from = log->map_end;
    assert(log->map_next == log->max_files && from + table_bytes <= log->map_size);
    memcpy(log->map_body + from, tables, table_bytes);
    log->map_end += table_bytes;
    *ret = (struct log_map_end){log->map_end, from, log->map_files, 0};
}

/* ---- increments ------------------------------------------------------------------------------
 *
 * Where nothing but files of pages changed, and of these only where they are, a checkpoint need not
 * have the whole map: which of their slots live follows from the tail. */

static bool is_gone(const struct log_file *file)
{
    return file && file->mapped && !in_map(file);
}

static bool is_newer(const struct log_file *file)
{
    return in_map(file) && file->kind == FILE_KIND_PACKED && file->map_changed &&
           !taken_at_end(file);
}

static size_t gone_bytes(uint32_t n)
{
    return ((size_t)n * sizeof(uint32_t) + 7) & ~(size_t)7;
}

size_t log_increment_size(const struct log *log)
{
    size_t size = 0;
    uint32_t n_gone = 0;
    for (uint32_t i = 0; i < log->max_files; i++) {
        n_gone += is_gone(log->files[i]);
        if (is_newer(log->files[i]))
            size += record_size(log->files[i]);
    }
    return size + gone_bytes(n_gone);
}

void log_increment_take(struct log *log, uint8_t *body, struct log_increment *ret)
{
    uint32_t *gone = (uint32_t *)body;
    *ret = (struct log_increment){0};
    for (uint32_t i = 0; i < log->max_files; i++) {
        if (!is_gone(log->files[i]))
            continue;
        gone[ret->n_gone++] = i;
        log->files[i]->mapped = false;
    }
    if (ret->n_gone % 2)
        gone[ret->n_gone] = 0;
    ret->bytes = gone_bytes(ret->n_gone);
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!is_newer(file))
            continue;
        ret->bytes += take_record(file, body + ret->bytes);
        ret->n_files++;
        file->mapped = true;
        file->map_changed = false;
    }
}

/* ---- loading -------------------------------------------------------------------------------- */

static const void *take(const uint8_t **at, size_t *len, size_t n)
{
    if (*len < n)
        return NULL;
    const uint8_t *p = *at;
    *at += n;
    *len -= n;
    return p;
}

static int load_pieces(struct log *log, struct log_file *file, const struct map_file *record,
                       const uint8_t **at, size_t *len)
{
    uint32_t base = 0;
    for (uint32_t i = 0; i < record->n_pieces; i++) {
        const struct map_piece *mp = take(at, len, sizeof(*mp));
        if (!mp)
            return ERR_DAMAGED;
        uint32_t slots = file->shift == DATA_SHIFT ? DATA_SEGMENT_SLOTS : TABLE_SEGMENT_SLOTS;
        if (mp->first >= mp->end || mp->end > slots || mp->count > mp->end - mp->first ||
            mp->base < base || mp->base > file_slots(file) ||
            mp->count > file_slots(file) - mp->base || mp->segment >= UINT32_MAX - 64)
            return ERR_DAMAGED;
        base = mp->base + mp->count;
        struct log_segment *segment = segment_find(log, mp->segment);
        if (mp->count == 0 || (segment && segment->n_pieces >= slots))
            return ERR_DAMAGED;
        if (!piece_add(log, file, mp->segment, mp->generation, mp->first, mp->end, mp->base,
                       mp->count))
            return -ENOMEM;
    }
    return 0;
}

int log_load_map_file(struct log *log, const uint8_t **at, size_t *len)
{
    const struct map_file *record = take(at, len, sizeof(*record));
    if (!record || record->file >= log->max_files ||
        (record->shift != DATA_SHIFT && record->shift != TABLE_SHIFT) ||
        record->kind < FILE_KIND_DATA || record->kind > FILE_KIND_PACKED ||
        record->used_slots > FILE_BYTES >> record->shift)
        return ERR_DAMAGED;
    struct log_file *file = file_get(log, record->file);
    if (!file)
        return -ENOMEM;
    if (file->state != FILE_ABSENT)
        return ERR_DAMAGED; /* twice in the map */
    file->kind = record->kind;
    file->shift = record->shift;
    file->used_slots = record->used_slots;
    file->footer_block = record->footer_block;
    file->footer_bytes = record->footer_bytes;
    file->footer_crc = record->footer_crc;
    if (file->footer_block > FILE_BLOCKS || file->footer_bytes > FILE_BYTES ||
        (uint64_t)file->footer_block * BLOCK_BYTES + file->footer_bytes > FILE_BYTES)
        return ERR_DAMAGED;
    file->state = FILE_SEALED;
    log->n_files++;
    file->live = calloc(file_slots(file) / 64, sizeof(uint64_t));
    if (!file->live)
        return -ENOMEM;
    int code = load_pieces(log, file, record, at, len);
    if (code < 0)
        return code;
    const uint64_t *live = take(at, len, live_bytes(file->used_slots));
    if (!live)
        return ERR_DAMAGED;
    memcpy(file->live, live, live_bytes(file->used_slots));
    for (size_t i = 0; i < live_bytes(file->used_slots) / 8; i++)
        file->n_live += __builtin_popcountll(file->live[i]);
    if (file->shift == DATA_SHIFT)
        log->data_slots += file->n_live;
    else
        log->table_slots += file->n_live;
    return 0;
}

static bool is_known(const struct log *log, uint32_t number)
{
    const struct log_file *file = number < log->max_files ? log->files[number] : NULL;
    return file && file->state == FILE_SEALED && file->shift == DATA_SHIFT;
}

int log_load_increment(struct log *log, const uint8_t *body, const struct log_increment *sizes)
{
    const uint8_t *at = body;
    size_t len = sizes->bytes;
    const uint32_t *gone = take(&at, &len, gone_bytes(sizes->n_gone));
    if (!gone)
        return ERR_DAMAGED;
    for (uint32_t i = 0; i < sizes->n_gone; i++) {
        if (!is_known(log, gone[i]))
            return ERR_DAMAGED;
        file_forget(log, log->files[gone[i]]);
    }
    for (uint32_t i = 0; i < sizes->n_files; i++) {
        const struct map_file *record = (const struct map_file *)at;
        if (len < sizeof(*record) || record->kind != FILE_KIND_PACKED ||
            record->shift != DATA_SHIFT)
            return ERR_DAMAGED;
        if (is_known(log, record->file))
            file_forget(log, log->files[record->file]);
        int code = log_load_map_file(log, &at, &len);
        if (code < 0)
            return code;
    }
    return len ? ERR_DAMAGED : 0;
}

static int parse_footer(struct log_file *file, const uint8_t *at, size_t len)
{
    list_for_each (l, &file->pieces) {
        struct log_piece *piece = container_of(l, struct log_piece, link);
        const struct map_piece *mp = take(&at, &len, sizeof(*mp));
        if (!mp || mp->segment != piece->segment->number || mp->first != piece->first ||
            mp->end != piece->end || mp->count != piece->count)
            return ERR_DAMAGED;
        uint32_t range = piece->end - piece->first;
        uint32_t words = (range + 63) / 64;
        if (piece->count == range)
            continue;
        _cleanup_free_ uint16_t *slots = malloc((piece->count + 1) * sizeof(uint16_t));
        if (!slots)
            return -ENOMEM;
        if (piece->count * 2 < words * 8) {
            const uint16_t *list = take(&at, &len, (piece->count * 2 + 7) & ~7u);
            if (!list)
                return ERR_DAMAGED;
            memcpy(slots, list, piece->count * sizeof(uint16_t));
        } else {
            const uint64_t *bits = take(&at, &len, (size_t)words * 8);
            uint32_t n = 0;
            for (uint32_t i = 0; bits && i < range && n <= piece->count; i++)
                if (bit_get(bits, i))
                    slots[n++] = i;
            if (n != piece->count)
                return ERR_DAMAGED;
        }
        for (uint32_t i = 0; i < piece->count; i++)
            if (slots[i] >= range || (i && slots[i] <= slots[i - 1]))
                return ERR_DAMAGED;
        int code = piece_set_present(piece, slots);
        if (code < 0)
            return code;
    }
    return 0;
}

/* copy: 0, or 1 for the one behind it, which need not be there. */
static int load_footer(struct log *log, struct log_file *file, uint32_t copy)
{
    size_t bytes = (file->footer_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t offset = (uint64_t)file->footer_block * BLOCK_BYTES + copy * bytes;
    if (!bytes) /* cleaning was given up before anything in it counted */
        return list_empty(&file->pieces) ? 0 : ERR_DAMAGED;
    if (offset + bytes > FILE_BYTES)
        return ERR_DAMAGED;
    _cleanup_free_ uint8_t *buf = aligned_alloc(STORAGE_ALIGN_BYTES, bytes);
    if (!buf)
        return -ENOMEM;
    struct iovec iov = {buf, bytes};
    struct storage_req req = {.op = STORAGE_READ,
                              .file = file->number,
                              .offset_bytes = offset,
                              .length_bytes = bytes,
                              .iov = &iov,
                              .n_iov = 1};
    int res = storage_run(log->storage, &req);
    if (res < 0)
        return res;
    if ((size_t)res != bytes || crc32c(0, buf, file->footer_bytes) != file->footer_crc)
        return ERR_DAMAGED;
    return parse_footer(file, buf, file->footer_bytes);
}

/* Which slots are in a piece, only the footer knows, unless all are. */
static void lose_pieces(struct log_file *file)
{
    file->damaged = true;
    list_for_each (l, &file->pieces) {
        struct log_piece *piece = container_of(l, struct log_piece, link);
        piece->lost = piece->count != piece->end - piece->first;
    }
}

int log_load_footers(struct log *log)
{
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!file || file->state != FILE_SEALED || file->kind != FILE_KIND_PACKED)
            continue;
        int code = load_footer(log, file, 0);
        if (code < 0 && code != -ENOMEM)
            code = load_footer(log, file, 1);
        if (code == -ENOMEM)
            return code;
        /* An error that may pass must not have what follows from it written down, and a tail that
         * comes by nodes that are lost does write. */
        if (code < 0 && code != ERR_DAMAGED &&
            (file->shift == TABLE_SHIFT || !is_medium_error(code)))
            return code;
        if (code < 0)
            lose_pieces(file);
    }
    return 0;
}
