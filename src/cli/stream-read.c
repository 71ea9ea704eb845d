/* stream-read.c - reading a send stream that may be cut, damaged or hostile.
 *
 * Order of belief: the prologue's checksum, then what it says; a record's checksum (which knows its
 * place, so that records cannot be exchanged), then its lengths, each within its bound; the body's
 * checksum, then the body, every number of it checked. Data are the business of stream_unpack().
 * At the end: the counts, and the checksum of all bytes before. */
#include "cli/stream-internal.h"

#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_MAX_BYTES  (1ULL << 57) /* of a disk */
#define CONSISTENCY_RAM 3            /* enum consistency */

/* ---- faults --------------------------------------------------------------------------------- */

static int damaged(struct stream_reader *r, const char *what)
{
    return why_set(&r->why, STREAM_FAULT_DAMAGED,
                   "the stream is damaged near byte %" PRIu64 ": %s; send it again", r->at, what);
}

/* Exactly len bytes. */
static int take(struct stream_reader *r, void *data, size_t len)
{
    ptrdiff_t n = r->read(r->arg, data, len);

    if (n < 0)
        return why_set(&r->why, STREAM_FAULT_READ, "cannot read the stream: %s", strerror((int)-n));
    r->at += (uint64_t)n;
    if ((size_t)n < len)
        return why_set(&r->why, STREAM_FAULT_CUT,
                       "the stream is cut: it ends after %" PRIu64 " bytes, in the middle; send "
                       "it again",
                       r->at);
    stream_sum_add(r->sum, data, len);
    return 0;
}

/* ---- the prologue --------------------------------------------------------------------------- */

static int read_prologue(struct stream_reader *r)
{
    struct stream_prologue p;
    ptrdiff_t n = r->read(r->arg, &p, sizeof(p));

    if (n < 0)
        return why_set(&r->why, STREAM_FAULT_READ, "cannot read the stream: %s", strerror((int)-n));
    r->at += (uint64_t)n;
    size_t magic = (size_t)n < sizeof(p.magic) ? (size_t)n : sizeof(p.magic);
    if (n == 0)
        return why_set(&r->why, STREAM_FAULT_CUT,
                       "the stream is empty; did the command that sends it fail?");
    if (memcmp(p.magic, STREAM_MAGIC, magic))
        return why_set(&r->why, STREAM_FAULT_FOREIGN,
                       "this is not a stream of varve send: it begins with other bytes");
    if ((size_t)n < sizeof(p))
        return why_set(&r->why, STREAM_FAULT_CUT,
                       "the stream is cut: it ends after %td bytes; send it again", n);
    if (le64toh(p.checksum) != stream_checksum(&p, offsetof(struct stream_prologue, checksum), 0))
        return damaged(r, "its first bytes do not match their checksum");
    stream_sum_add(r->sum, &p, sizeof(p));
    uint32_t version = le32toh(p.version);
    r->memory = le32toh(p.incompat) & STREAM_INCOMPAT_MEMORY;
    if (version > STREAM_VERSION || le32toh(p.incompat) & ~STREAM_INCOMPAT_MEMORY)
        return why_set(&r->why, STREAM_FAULT_NEWER,
                       "the stream was written by a newer Varve (format %" PRIu32
                       ", flags %#" PRIx32 "; this one reads format %u); update this one",
                       version, le32toh(p.incompat), STREAM_VERSION);
    if (version < STREAM_VERSION)
        return why_set(&r->why, STREAM_FAULT_OLDER,
                       "the stream has the format %" PRIu32 ", which is older than any that this "
                       "Varve reads (%u); send it again with a newer one",
                       version, STREAM_VERSION);
    return 0;
}

/* ---- records -------------------------------------------------------------------------------- */

static uint32_t body_max(uint8_t kind)
{
    switch (kind) {
    case STREAM_HEADER:
        return STREAM_HEADER_MAX;
    case STREAM_FRAME:
        return sizeof(struct stream_frame_header) +
               STREAM_RUNS_MAX * sizeof(struct stream_run_entry);
    case STREAM_END:
        return sizeof(struct stream_end);
    default:
        return 0;
    }
}

/* Read a record and its body, in host order; the body is in r->body. */
static int read_record(struct stream_reader *r, struct stream_record *ret)
{
    uint64_t at = r->at;
    int n = take(r, ret, sizeof(*ret));

    if (n)
        return n;
    if (le64toh(ret->checksum) !=
        stream_checksum(ret, offsetof(struct stream_record, checksum), at))
        return damaged(r, "a record does not match its checksum");
    ret->body_bytes = le32toh(ret->body_bytes);
    ret->stored_bytes = le32toh(ret->stored_bytes);
    if (le32toh(ret->magic) != STREAM_RECORD_MAGIC || !body_max(ret->kind))
        return damaged(r, "there is no such record");
    if (ret->body_bytes > body_max(ret->kind) || ret->stored_bytes > STREAM_FRAME_MAX ||
        (ret->stored_bytes && ret->kind != STREAM_FRAME) || ret->encoding > STREAM_ZSTD)
        return damaged(r, "a record has impossible lengths");
    n = take(r, r->body, ret->body_bytes);
    if (n)
        return n;
    if (le64toh(ret->body_checksum) != stream_checksum(r->body, ret->body_bytes, 0))
        return damaged(r, "a record's body does not match its checksum");
    return 0;
}

/* ---- the header ----------------------------------------------------------------------------- */

/* What is left of a body. */
struct piece {
    const uint8_t *at;
    size_t left;
};

static bool cut_off(struct piece *p, void *to, size_t len)
{
    if (p->left < len)
        return false;
    memcpy(to, p->at, len);
    p->at += len;
    p->left -= len;
    return true;
}

static bool cut_text(struct piece *p, char *to, size_t len, size_t max)
{
    if (len > max || !cut_off(p, to, len))
        return false;
    to[len] = 0;
    return strlen(to) == len;
}

/* As the store has it. */
static bool is_name(const char *name)
{
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            return false;
    return *name && strcmp(name, ".") && strcmp(name, "..");
}

/* Bytes of the character at text, 0 if it is not UTF-8 or a control character. */
static size_t character(const unsigned char *text)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = *text < 0x80       ? 1
               : *text >> 5 == 6  ? 2
               : *text >> 4 == 14 ? 3
               : *text >> 3 == 30 ? 4
                                  : 0;
    unsigned c = n == 1 ? *text : *text & (0xffu >> (n + 1));

    for (size_t i = 1; i < n; i++) {
        if (text[i] >> 6 != 2)
            return 0;
        c = c << 6 | (text[i] & 0x3f);
    }
    bool control = c < 0x20 || (c >= 0x7f && c < 0xa0);
    if (!n || control || c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    return n;
}

static bool is_note(const char *note)
{
    const unsigned char *c = (const unsigned char *)note;

    while (*c) {
        size_t n = character(c);
        if (!n)
            return false;
        c += n;
    }
    return true;
}

/* memory: the first is that. */
static bool decode_disks(struct piece *p, struct stream_info *info, bool memory)
{
    for (uint32_t i = 0; i < info->n_disks; i++) {
        struct stream_disk *disk = &info->disks[i];
        struct stream_disk_entry entry;
        if (!cut_off(p, &entry, sizeof(entry)) ||
            !cut_text(p, disk->name, entry.name_len, STREAM_NAME_MAX))
            return false;
        disk->size_bytes = le64toh(entry.size_bytes);
        disk->fresh = entry.flags & STREAM_DISK_FRESH;
        disk->memory = entry.flags & STREAM_DISK_MEMORY;
        if (disk->memory != (memory && i == 0) ||
            (disk->memory ? *disk->name != 0 : !is_name(disk->name)))
            return false;
        if (!disk->size_bytes || disk->size_bytes > SIZE_MAX_BYTES ||
            disk->size_bytes % STREAM_UNIT)
            return false;
        if (i && strcmp(disk[-1].name, disk->name) >= 0)
            return false;
    }
    return p->left == 0 && (info->n_disks || !memory);
}

static int decode_header(struct stream_reader *r, size_t len)
{
    static const uint8_t no_guid[STREAM_GUID_BYTES];
    struct piece p = {r->body, len};
    struct stream_info *info = &r->info;
    struct stream_header header;

    if (!cut_off(&p, &header, sizeof(header)) ||
        !cut_text(&p, info->vm, header.vm_len, STREAM_NAME_MAX) ||
        !cut_text(&p, info->version, header.version_len, STREAM_NAME_MAX) ||
        !cut_text(&p, info->from, header.from_len, STREAM_NAME_MAX) ||
        !cut_text(&p, info->note, le16toh(header.note_len), STREAM_NOTE_MAX))
        return damaged(r, "the header's lengths do not fit");
    memcpy(info->guid, header.guid, sizeof(info->guid));
    memcpy(info->from_guid, header.from_guid, sizeof(info->from_guid));
    info->created_us = le64toh(header.created_us);
    info->data_bytes = le64toh(header.data_bytes);
    info->consistency = header.consistency;
    info->role = header.role;
    info->n_disks = le32toh(header.n_disks);
    bool is_full = !memcmp(info->from_guid, no_guid, sizeof(no_guid));
    if (!is_name(info->vm) || !is_name(info->version) || !is_note(info->note) ||
        is_full != !*info->from || (!is_full && !is_name(info->from)) ||
        !memcmp(info->guid, no_guid, sizeof(no_guid)) ||
        (r->memory && info->consistency != CONSISTENCY_RAM))
        return damaged(r, "the header makes no sense");
    if (info->n_disks > p.left / sizeof(struct stream_disk_entry))
        return damaged(r, "the header's lengths do not fit");
    info->disks = calloc(info->n_disks + 1, sizeof(*info->disks));
    if (!info->disks)
        return why_set(&r->why, STREAM_FAULT_MEMORY, "no memory for %" PRIu32 " disks",
                       info->n_disks);
    return decode_disks(&p, info, r->memory)
               ? 0
               : damaged(r, "the header's list of disks makes no sense");
}

int stream_reader_open(struct stream_reader *r)
{
    struct stream_record record;

    r->at = r->end = 0;
    r->disk = 0;
    r->info = (struct stream_info){};
    r->totals = (struct stream_totals){};
    r->sum = stream_sum_new();
    r->body = malloc(STREAM_BODY_MAX);
    if (!r->sum || !r->body)
        return why_set(&r->why, STREAM_FAULT_MEMORY, "no memory to read the stream");
    int n = read_prologue(r);
    if (!n)
        n = read_record(r, &record);
    if (n)
        return n;
    if (record.kind != STREAM_HEADER)
        return damaged(r, "it does not begin with a header");
    return decode_header(r, record.body_bytes);
}

void stream_reader_close(struct stream_reader *r)
{
    stream_sum_free(r->sum);
    free(r->body);
    free(r->info.disks);
    r->sum = NULL;
    r->body = NULL;
    r->info.disks = NULL;
}

/* ---- frames and the end --------------------------------------------------------------------- */

/* Its place: behind all that came before, and inside the disk. */
static bool decode_run(struct stream_reader *r, const struct stream_run_entry *entry,
                       struct stream_frame *frame, struct stream_run *run)
{
    uint64_t size = r->info.disks[frame->disk].size_bytes;

    *run = (struct stream_run){le64toh(entry->offset), le64toh(entry->length),
                               (enum stream_run_kind)le32toh(entry->kind)};
    if (run->offset < r->end || run->offset > size || !run->length ||
        run->length > size - run->offset || run->offset % STREAM_UNIT || run->length % STREAM_UNIT)
        return false;
    r->end = run->offset + run->length;
    switch (run->kind) {
    case STREAM_RUN_DATA:
        if (run->length > STREAM_FRAME_MAX - frame->plain_bytes)
            return false;
        frame->plain_bytes += (uint32_t)run->length;
        r->totals.data_bytes += run->length;
        return true;
    case STREAM_RUN_ZERO:
        r->totals.zero_bytes += run->length;
        return true;
    case STREAM_RUN_HOLE:
        r->totals.hole_bytes += run->length;
        return true;
    default:
        return false;
    }
}

static int decode_frame(struct stream_reader *r, const struct stream_record *record,
                        struct stream_frame *frame)
{
    struct piece p = {r->body, record->body_bytes};
    struct stream_frame_header header;

    if (!cut_off(&p, &header, sizeof(header)))
        return damaged(r, "a frame is too short");
    frame->disk = le32toh(header.disk);
    frame->n_runs = le32toh(header.n_runs);
    frame->plain_checksum = le64toh(header.plain_checksum);
    frame->encoding = (enum stream_encoding)record->encoding;
    frame->stored_bytes = record->stored_bytes;
    frame->plain_bytes = 0;
    if (frame->disk >= r->info.n_disks || frame->disk < r->disk || !frame->n_runs ||
        frame->n_runs > STREAM_RUNS_MAX ||
        p.left != frame->n_runs * sizeof(struct stream_run_entry))
        return damaged(r, "a frame makes no sense");
    if (frame->disk != r->disk)
        r->end = 0;
    r->disk = frame->disk;
    for (uint32_t i = 0; i < frame->n_runs; i++) {
        struct stream_run_entry entry;
        if (!cut_off(&p, &entry, sizeof(entry)) || !decode_run(r, &entry, frame, &frame->runs[i]))
            return damaged(r, "a frame has an impossible place");
    }
    bool fits = frame->encoding == STREAM_PLAIN ? frame->stored_bytes == frame->plain_bytes
                                                : frame->stored_bytes < frame->plain_bytes;
    return fits ? 0 : damaged(r, "a frame's data have an impossible length");
}

static int check_end(struct stream_reader *r, uint64_t at, uint64_t sum, size_t len)
{
    const struct stream_totals *t = &r->totals;
    struct stream_end end;

    if (len != sizeof(end))
        return damaged(r, "its end has the wrong length");
    memcpy(&end, r->body, sizeof(end));
    if (le64toh(end.n_frames) != t->n_frames || le64toh(end.data_bytes) != t->data_bytes ||
        le64toh(end.zero_bytes) != t->zero_bytes || le64toh(end.hole_bytes) != t->hole_bytes ||
        le64toh(end.stream_bytes) != at)
        return damaged(r, "something was left out");
    if (le64toh(end.stream_checksum) != sum)
        return damaged(r, "it does not match its checksum as a whole");
    return 0;
}

int stream_read_frame(struct stream_reader *r, struct stream_frame *ret, void *stored)
{
    uint64_t at = r->at, sum = stream_sum_value(r->sum);
    struct stream_record record;
    int n = read_record(r, &record);

    if (n)
        return n;
    if (record.kind == STREAM_END)
        return check_end(r, at, sum, record.body_bytes);
    if (record.kind != STREAM_FRAME)
        return damaged(r, "there is a second header");
    n = decode_frame(r, &record, ret);
    if (!n)
        n = take(r, stored, record.stored_bytes);
    r->totals.n_frames++;
    return n ? n : 1;
}
