/* stream_format.h - what varve send writes and varve recv reads. docs/format-send.md says it in
 * full. Little-endian. A prologue, then records: header, frames, end. */
#ifndef VARVE_CLI_STREAM_FORMAT_H
#define VARVE_CLI_STREAM_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define STREAM_MAGIC        "VARVSEND" /* 8 bytes, no terminator */
#define STREAM_VERSION      1u
#define STREAM_RECORD_MAGIC 0x43455256u /* "VREC" */

#define STREAM_HEADER_MAX 1048576u /* bytes of the header's body */
#define STREAM_FRAME_MAX  1048576u /* bytes of plain data in a frame */
#define STREAM_RUNS_MAX   4096u    /* in a frame */
#define STREAM_UNIT       512u     /* offsets and lengths are multiples of it */
#define STREAM_GUID_BYTES 16u

/* Never changes, whatever the version. */
struct stream_prologue {
    char magic[8];
    uint32_t version;
    uint32_t zero;
    uint32_t compat, incompat; /* flags: unknown ones of the first kind are ignored, of the second
                                  refused */
    uint64_t checksum;         /* of what stands before it */
};
static_assert(sizeof(struct stream_prologue) == 32, "stream prologue");

/* incompat: the first of the disks is the machine's memory. */
#define STREAM_INCOMPAT_MEMORY 1u

enum stream_record_kind {
    STREAM_HEADER = 1,
    STREAM_FRAME = 2,
    STREAM_END = 3,
};

enum stream_encoding {
    STREAM_PLAIN = 0,
    STREAM_ZSTD = 1, /* one zstd frame */
};

/* Then body_bytes of body and stored_bytes of data. */
struct stream_record {
    uint32_t magic;
    uint8_t kind;
    uint8_t encoding; /* of the data */
    uint16_t zero;
    uint32_t body_bytes;
    uint32_t stored_bytes; /* FRAME only; as many as the plain data, or fewer and encoded */
    uint64_t body_checksum;
    uint64_t checksum; /* of what stands before it, seeded with the record's place in the stream */
};
static_assert(sizeof(struct stream_record) == 32, "stream record");

/* Body of HEADER; then vm, version, from and note, then n_disks disks. */
struct stream_header {
    uint8_t guid[STREAM_GUID_BYTES];      /* of the version */
    uint8_t from_guid[STREAM_GUID_BYTES]; /* what the difference is to; zeros: all is here */
    uint64_t created_us;                  /* of the version: microseconds of UTC since 1970 */
    uint64_t data_bytes;                  /* of plain data that follow, about; for progress */
    uint32_t n_disks;
    uint8_t consistency; /* enum consistency */
    uint8_t role;        /* enum vm_role */
    uint8_t vm_len, version_len, from_len;
    uint8_t zero;
    uint16_t note_len;
    uint32_t zero2;
};
static_assert(sizeof(struct stream_header) == 64, "stream header");

#define STREAM_DISK_FRESH  1u /* does not go on from the disk of its name in the from-version */
#define STREAM_DISK_MEMORY 2u /* the memory of the machine, whose name is empty */

struct stream_disk_entry { /* then its name; in the order of names, by their bytes */
    uint64_t size_bytes;
    uint8_t flags;
    uint8_t name_len;
    uint8_t zero[6];
};
static_assert(sizeof(struct stream_disk_entry) == 16, "stream disk");

/* Body of FRAME; then n_runs runs. */
struct stream_frame_header {
    uint32_t disk; /* by its place in the header; never falls from frame to frame */
    uint32_t n_runs;
    uint64_t plain_checksum; /* of the plain data: those of its DATA runs, one behind the other */
};
static_assert(sizeof(struct stream_frame_header) == 16, "stream frame");

enum stream_run_kind {
    STREAM_RUN_DATA = 1,
    STREAM_RUN_ZERO = 2, /* allocated, reads as zeros */
    STREAM_RUN_HOLE = 3,
};

struct stream_run_entry { /* each at or after the end of the one before, on the same disk */
    uint64_t offset, length;
    uint32_t kind;
    uint32_t zero;
};
static_assert(sizeof(struct stream_run_entry) == 24, "stream run");

/* Body of END, the last record. */
struct stream_end {
    uint64_t n_frames;
    uint64_t data_bytes, zero_bytes, hole_bytes; /* of all runs of that kind */
    uint64_t stream_bytes;                       /* before this record */
    uint64_t stream_checksum;                    /* of all of them */
};
static_assert(sizeof(struct stream_end) == 48, "stream end");

#endif
