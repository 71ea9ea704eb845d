/* stream.h - reading and writing a send stream (docs/format-send.md): its records, their checks and
 * their encoding. What is in a stream goes through here as structures of the host.
 *
 * A writer or reader belongs to one thread; stream_pack() and stream_unpack() may run in any, on
 * different frames. Whatever a stream says: memory is bounded by STREAM_HEADER_MAX and
 * STREAM_FRAME_MAX, and nothing that a checksum does not cover is believed. */
#ifndef VARVE_CLI_STREAM_H
#define VARVE_CLI_STREAM_H

#include "base/why.h"
#include "cli/stream_format.h"

#include <stdbool.h>
#include <stddef.h>

#define STREAM_NAME_MAX 64u
#define STREAM_NOTE_MAX 1024u

struct stream_sum; /* a checksum that goes on */
struct stream_zstd;

struct stream_disk {
    char name[STREAM_NAME_MAX + 1];
    uint64_t size_bytes;
    bool fresh;  /* starts empty, whatever the from-version has under this name */
    bool memory; /* the disk of the machine's memory: the first, without a name; size_bytes: those
                    of its image */
};

struct stream_info {
    char vm[STREAM_NAME_MAX + 1], version[STREAM_NAME_MAX + 1];
    char from[STREAM_NAME_MAX + 1]; /* its name where it was sent; "": a full stream */
    uint8_t guid[STREAM_GUID_BYTES], from_guid[STREAM_GUID_BYTES];
    char note[STREAM_NOTE_MAX + 1];
    uint64_t created_us, data_bytes;
    uint8_t consistency, role;
    uint32_t n_disks;
    struct stream_disk *disks; /* by name; free() */
};

static inline bool stream_has_memory(const struct stream_info *info)
{
    return info->n_disks && info->disks[0].memory;
}

struct stream_run {
    uint64_t offset, length; /* bytes */
    enum stream_run_kind kind;
};

struct stream_frame {
    uint32_t disk;
    uint32_t n_runs;
    uint32_t plain_bytes, stored_bytes;
    enum stream_encoding encoding;
    uint64_t plain_checksum;
    struct stream_run runs[STREAM_RUNS_MAX];
};

struct stream_totals {
    uint64_t n_frames, data_bytes, zero_bytes, hole_bytes;
};

/* ---- a frame's data ------------------------------------------------------------------------- */

/* For one thread. level: of zstd; 0: nothing is compressed. NULL: no memory. */
struct stream_zstd *stream_zstd_new(int level);
void stream_zstd_free(struct stream_zstd *zstd); /* NULL is legal */

/* Fill in the frame's checksum, encoding and stored_bytes. plain: frame->plain_bytes; stored: room
 * for STREAM_FRAME_MAX. Returns what is to be written: plain or stored. */
const void *stream_pack(struct stream_zstd *zstd, struct stream_frame *frame, const void *plain,
                        void *stored);

/* Decode and check. plain: room for STREAM_FRAME_MAX. Returns the data, plain or stored; NULL: they
 * are not what was sent. */
const void *stream_unpack(struct stream_zstd *zstd, const struct stream_frame *frame,
                          const void *stored, void *plain);

/* ---- writing -------------------------------------------------------------------------------- */

/* write() returns 0 or a negative errno, which the calls below return. */
struct stream_writer {
    int (*write)(void *arg, const void *data, size_t len);
    void *arg;
    uint64_t at; /* bytes written */
    struct stream_totals totals;
    struct stream_sum *sum;
    uint8_t *body;
};

/* info is borrowed for the call; its disks are sorted. Returns 0, -ENOMEM or what write() said. */
int stream_writer_open(struct stream_writer *writer, const struct stream_info *info);
int stream_write_frame(struct stream_writer *writer, const struct stream_frame *frame,
                       const void *stored);
int stream_write_end(struct stream_writer *writer);
void stream_writer_close(struct stream_writer *writer);

/* ---- reading -------------------------------------------------------------------------------- */

enum stream_fault {
    STREAM_FAULT_READ = -1,    /* read() failed */
    STREAM_FAULT_FOREIGN = -2, /* no send stream at all */
    STREAM_FAULT_NEWER = -3,
    STREAM_FAULT_OLDER = -4,
    STREAM_FAULT_CUT = -5,
    STREAM_FAULT_DAMAGED = -6,
    STREAM_FAULT_MEMORY = -7,
};

struct stream_reader {
    /* Returns how many of len bytes were read, fewer only at the end; or a negative errno. */
    ptrdiff_t (*read)(void *arg, void *data, size_t len);
    void *arg;
    uint64_t at; /* bytes read */
    struct stream_info info;
    bool memory; /* the prologue says that it has some */
    struct stream_totals totals;
    uint32_t disk; /* of the last frame, and where its runs ended */
    uint64_t end;
    struct stream_sum *sum;
    uint8_t *body;
    struct why why; /* after a fault: a sentence */
};

/* Read as far as the header. Returns 0 or an enum stream_fault; close it in any case. */
int stream_reader_open(struct stream_reader *reader);

/* The next frame, with its data as stored (room for STREAM_FRAME_MAX): its place and its form are
 * checked, its data not (see stream_unpack()). Returns 1; 0 at the end, after the whole stream has
 * been checked; or an enum stream_fault. */
int stream_read_frame(struct stream_reader *reader, struct stream_frame *ret, void *stored);
void stream_reader_close(struct stream_reader *reader);

/* XXH3-64 of bytes. */
uint64_t stream_checksum(const void *data, size_t len, uint64_t seed);

#endif
