/* stream-write.c - writing a send stream. */
#include "cli/stream-internal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int put(struct stream_writer *w, const void *data, size_t len)
{
    stream_sum_add(w->sum, data, len);
    w->at += len;
    return w->write(w->arg, data, len);
}

static int put_record(struct stream_writer *w, enum stream_record_kind kind, const void *body,
                      size_t body_bytes, enum stream_encoding encoding, uint32_t stored_bytes)
{
    struct stream_record record = {
        .magic = htole32(STREAM_RECORD_MAGIC),
        .kind = (uint8_t)kind,
        .encoding = (uint8_t)encoding,
        .body_bytes = htole32((uint32_t)body_bytes),
        .stored_bytes = htole32(stored_bytes),
        .body_checksum = htole64(stream_checksum(body, body_bytes, 0)),
    };
    record.checksum =
        htole64(stream_checksum(&record, offsetof(struct stream_record, checksum), w->at));
    int r = put(w, &record, sizeof(record));
    return r ? r : put(w, body, body_bytes);
}

static int put_prologue(struct stream_writer *w, const struct stream_info *info)
{
    struct stream_prologue prologue = {
        .version = htole32(STREAM_VERSION),
        .incompat = htole32(stream_has_memory(info) ? STREAM_INCOMPAT_MEMORY : 0),
    };

    memcpy(prologue.magic, STREAM_MAGIC, sizeof(prologue.magic));
    prologue.checksum =
        htole64(stream_checksum(&prologue, offsetof(struct stream_prologue, checksum), 0));
    return put(w, &prologue, sizeof(prologue));
}

static void append(uint8_t **at, const void *data, size_t len)
{
    memcpy(*at, data, len);
    *at += len;
}

/* Returns the body's length. */
static size_t encode_header(const struct stream_info *info, uint8_t *body)
{
    struct stream_header header = {
        .created_us = htole64(info->created_us),
        .data_bytes = htole64(info->data_bytes),
        .n_disks = htole32(info->n_disks),
        .consistency = info->consistency,
        .role = info->role,
        .vm_len = (uint8_t)strlen(info->vm),
        .version_len = (uint8_t)strlen(info->version),
        .from_len = (uint8_t)strlen(info->from),
        .note_len = htole16((uint16_t)strlen(info->note)),
    };
    uint8_t *at = body;

    memcpy(header.guid, info->guid, sizeof(header.guid));
    memcpy(header.from_guid, info->from_guid, sizeof(header.from_guid));
    append(&at, &header, sizeof(header));
    append(&at, info->vm, header.vm_len);
    append(&at, info->version, header.version_len);
    append(&at, info->from, header.from_len);
    append(&at, info->note, strlen(info->note));
    for (uint32_t i = 0; i < info->n_disks; i++) {
        const struct stream_disk *disk = &info->disks[i];
        struct stream_disk_entry entry = {
            .size_bytes = htole64(disk->size_bytes),
            .flags = (uint8_t)((disk->fresh ? STREAM_DISK_FRESH : 0) |
                               (disk->memory ? STREAM_DISK_MEMORY : 0)),
            .name_len = (uint8_t)strlen(disk->name),
        };
        append(&at, &entry, sizeof(entry));
        append(&at, disk->name, entry.name_len);
    }
    return (size_t)(at - body);
}

int stream_writer_open(struct stream_writer *w, const struct stream_info *info)
{
    w->at = 0;
    w->totals = (struct stream_totals){};
    w->sum = stream_sum_new();
    w->body = malloc(STREAM_BODY_MAX);
    if (!w->sum || !w->body)
        return -ENOMEM;
    size_t most = sizeof(struct stream_header) + 3 * STREAM_NAME_MAX + STREAM_NOTE_MAX +
                  info->n_disks * (sizeof(struct stream_disk_entry) + STREAM_NAME_MAX);
    if (most > STREAM_HEADER_MAX)
        return -E2BIG;
    int r = put_prologue(w, info);
    return r ? r
             : put_record(w, STREAM_HEADER, w->body, encode_header(info, w->body), STREAM_PLAIN, 0);
}

static void count_run(struct stream_totals *totals, const struct stream_run *run)
{
    if (run->kind == STREAM_RUN_DATA)
        totals->data_bytes += run->length;
    else if (run->kind == STREAM_RUN_ZERO)
        totals->zero_bytes += run->length;
    else
        totals->hole_bytes += run->length;
}

int stream_write_frame(struct stream_writer *w, const struct stream_frame *frame,
                       const void *stored)
{
    struct stream_frame_header header = {
        .disk = htole32(frame->disk),
        .n_runs = htole32(frame->n_runs),
        .plain_checksum = htole64(frame->plain_checksum),
    };
    uint8_t *at = w->body;

    append(&at, &header, sizeof(header));
    for (uint32_t i = 0; i < frame->n_runs; i++) {
        struct stream_run_entry run = {
            .offset = htole64(frame->runs[i].offset),
            .length = htole64(frame->runs[i].length),
            .kind = htole32(frame->runs[i].kind),
        };
        append(&at, &run, sizeof(run));
        count_run(&w->totals, &frame->runs[i]);
    }
    w->totals.n_frames++;
    int r = put_record(w, STREAM_FRAME, w->body, (size_t)(at - w->body), frame->encoding,
                       frame->stored_bytes);
    return r || !frame->stored_bytes ? r : put(w, stored, frame->stored_bytes);
}

int stream_write_end(struct stream_writer *w)
{
    struct stream_end end = {
        .n_frames = htole64(w->totals.n_frames),
        .data_bytes = htole64(w->totals.data_bytes),
        .zero_bytes = htole64(w->totals.zero_bytes),
        .hole_bytes = htole64(w->totals.hole_bytes),
        .stream_bytes = htole64(w->at),
        .stream_checksum = htole64(stream_sum_value(w->sum)),
    };
    return put_record(w, STREAM_END, &end, sizeof(end), STREAM_PLAIN, 0);
}

void stream_writer_close(struct stream_writer *w)
{
    stream_sum_free(w->sum);
    free(w->body);
    w->sum = NULL;
    w->body = NULL;
}
