/* fuzz-stream.c - bytes as a send stream.
 *
 * The first byte of an input chooses: bit 0 has all checksums mended first, so that what they guard
 * is reached. The rest is the stream.
 *
 * Shown: no crash, no leak, every run inside its disk and behind the one before, no more data than
 * a frame may have, and a fault has a sentence. */
#include "base/cleanup.h"
#include "cli/stream-internal.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz-stream: %s\n", what);
    abort();
}

struct source {
    const uint8_t *at;
    size_t left;
};

static ptrdiff_t read_source(void *arg, void *data, size_t len)
{
    struct source *s = arg;
    size_t n = len < s->left ? len : s->left;

    check(len <= STREAM_BODY_MAX, "more is read than there is room for");
    memcpy(data, s->at, n);
    s->at += n;
    s->left -= n;
    return (ptrdiff_t)n;
}

/* ---- mending -------------------------------------------------------------------------------- */

static void put64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof(value));
}

/* A frame's own checksum: of its data, decoded if they can be. */
static void mend_frame(struct stream_zstd *zstd, const struct stream_record *record, uint8_t *body,
                       const uint8_t *stored)
{
    static uint8_t plain[STREAM_FRAME_MAX];
    struct stream_frame_header header;
    uint64_t bytes = 0;

    memcpy(&header, body, sizeof(header));
    const uint8_t *at = body + sizeof(header), *end = body + record->body_bytes;
    for (; end - at >= (ptrdiff_t)sizeof(struct stream_run_entry);
         at += sizeof(struct stream_run_entry)) {
        struct stream_run_entry run;
        memcpy(&run, at, sizeof(run));
        if (le32toh(run.kind) == STREAM_RUN_DATA)
            bytes += le64toh(run.length);
    }
    if (bytes > STREAM_FRAME_MAX)
        return;
    struct stream_frame *frame = calloc(1, sizeof(*frame));
    check(frame, "no memory");
    frame->encoding = (enum stream_encoding)record->encoding;
    frame->stored_bytes = record->stored_bytes;
    frame->plain_bytes = (uint32_t)bytes;
    if (record->encoding == STREAM_PLAIN && bytes == record->stored_bytes)
        put64(body + 8, stream_checksum(stored, bytes, 0));
    else if (record->encoding == STREAM_ZSTD) {
        stream_unpack(zstd, frame, stored, plain); /* fails: the checksum is not known yet */
        put64(body + 8, stream_checksum(plain, bytes, 0));
    }
    free(frame);
}

static void mend(struct stream_zstd *zstd, uint8_t *data, size_t size)
{
    size_t at = sizeof(struct stream_prologue);

    if (size < at)
        return;
    put64(data + 24, stream_checksum(data, 24, 0));
    while (size - at >= sizeof(struct stream_record)) {
        struct stream_record record;
        uint8_t *body = data + at + sizeof(record);
        size_t left = size - at - sizeof(record);
        memcpy(&record, data + at, sizeof(record));
        record.body_bytes = le32toh(record.body_bytes);
        record.stored_bytes = le32toh(record.stored_bytes);
        if (record.body_bytes > left || record.stored_bytes > left - record.body_bytes) {
            put64(data + at + 24, stream_checksum(data + at, 24, at));
            return;
        }
        if (record.kind == STREAM_FRAME && record.body_bytes >= sizeof(struct stream_frame_header))
            mend_frame(zstd, &record, body, body + record.body_bytes);
        if (record.kind == STREAM_END && record.body_bytes == sizeof(struct stream_end)) {
            struct stream_sum *sum = stream_sum_new();
            check(sum, "no memory");
            stream_sum_add(sum, data, at);
            put64(body + 32, at);
            put64(body + 40, stream_sum_value(sum));
            stream_sum_free(sum);
        }
        put64(data + at + 16, stream_checksum(body, record.body_bytes, 0));
        put64(data + at + 24, stream_checksum(data + at, 24, at));
        at += sizeof(record) + record.body_bytes + record.stored_bytes;
    }
}

/* ---- the run -------------------------------------------------------------------------------- */

static void check_frame(const struct stream_reader *reader, const struct stream_frame *frame,
                        uint32_t *disk, uint64_t *end)
{
    uint64_t bytes = 0;

    check(frame->disk < reader->info.n_disks && frame->disk >= *disk, "a wrong disk");
    if (frame->disk != *disk)
        *end = 0;
    *disk = frame->disk;
    check(frame->n_runs && frame->n_runs <= STREAM_RUNS_MAX, "a wrong number of runs");
    for (uint32_t i = 0; i < frame->n_runs; i++) {
        const struct stream_run *run = &frame->runs[i];
        uint64_t size = reader->info.disks[frame->disk].size_bytes;
        check(run->offset >= *end && run->offset < size && run->length <= size - run->offset,
              "a run in a wrong place");
        *end = run->offset + run->length;
        bytes += run->kind == STREAM_RUN_DATA ? run->length : 0;
    }
    check(bytes == frame->plain_bytes && bytes <= STREAM_FRAME_MAX, "too much data");
    check(frame->stored_bytes <= STREAM_FRAME_MAX, "too much that is stored");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct stream_zstd *zstd;
    static uint8_t stored[STREAM_FRAME_MAX], plain[STREAM_FRAME_MAX];
    static struct stream_frame frame;

    if (!size)
        return 0;
    if (!zstd)
        zstd = stream_zstd_new(1);
    check(zstd, "no memory");
    _cleanup_free_ uint8_t *copy = malloc(size);
    check(copy, "no memory");
    memcpy(copy, data + 1, size - 1);
    if (*data & 1)
        mend(zstd, copy, size - 1);

    struct source source = {copy, size - 1};
    struct stream_reader reader = {.read = read_source, .arg = &source};
    uint32_t disk = 0;
    uint64_t end = 0;
    int r = stream_reader_open(&reader);
    if (r == 0)
        r = 1;
    while (r > 0) {
        r = stream_read_frame(&reader, &frame, stored);
        if (r <= 0)
            break;
        check_frame(&reader, &frame, &disk, &end);
        stream_unpack(zstd, &frame, stored, plain);
    }
    check(r == 0 || *reader.why.text, "a fault without a sentence");
    stream_reader_close(&reader);
    return 0;
}
