/* log_format.h - what a store looks like on its medium; docs/format-store.md tells it in prose.
 *
 * All integers are little-endian (the static_assert below keeps other hosts out until somebody
 * needs them). Every structure that can stand alone has a magic, and a checksum over the rest of
 * it. */
#ifndef VARVE_LOG_LOG_FORMAT_H
#define VARVE_LOG_LOG_FORMAT_H

#include <assert.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are read in place");

#define BLOCK_BYTES 4096u
#ifndef VARVE_SMALL_FILES
#define FILE_BYTES      (32u << 20) /* of a log file */
#define BATCH_MAX_PAGES 256u
#else /* a test build that comes to the ends of its files all the time; only it opens its stores   \
       */
#define FILE_BYTES      (512u << 10)
#define BATCH_MAX_PAGES 16u
#endif
#define FILE_BLOCKS    (FILE_BYTES / BLOCK_BYTES)
#define NO_FILE        UINT32_MAX
#define FORMAT_VERSION 1

/* Slot sizes as powers of two. */
#define DATA_SHIFT  12
#define TABLE_SHIFT 6

#define DATA_SEGMENT_SLOTS  (FILE_BYTES >> DATA_SHIFT)      /* 8,192: one segment fills a file */
#define TABLE_SEGMENT_SLOTS (FILE_BYTES / 8 >> TABLE_SHIFT) /* 65,536 */

/* ---- varve.store: one block, written once ------------------------------------------------------
 */

#define SUPER_MAGIC "VARVE\0ST"

struct super_block {
    char magic[8];
    uint32_t crc; /* of the block with this field zero */
    uint32_t version;
    uint64_t compat;   /* unknown bits: read and write */
    uint64_t incompat; /* unknown bits: do not open */
    uint8_t uuid[16];
    uint64_t capacity_bytes; /* 0: grows with the file system */
    uint64_t created_us;
    uint16_t log; /* this store's log number in addresses */
    uint16_t pad[3];
    uint32_t file_bytes;
    uint32_t page_bytes;
    uint8_t zero[BLOCK_BYTES - 80];
};
static_assert(sizeof(struct super_block) == BLOCK_BYTES, "a block");

/* ---- a log file's first block ------------------------------------------------------------------
 */

#define FILE_MAGIC 0x46565256u /* "VRVF" */

enum file_kind {
    FILE_KIND_DATA = 1,   /* one fresh data segment: batches */
    FILE_KIND_TABLE = 2,  /* eight fresh table segments: nodes */
    FILE_KIND_PACKED = 3, /* pieces that cleaning put together, and a footer that lists them */
};

struct file_header {
    uint32_t magic;
    uint32_t crc; /* of the block with this field zero */
    uint8_t uuid[16];
    uint64_t incarnation;
    uint64_t fill; /* counts uses of files: unique in the store */
    uint32_t file; /* its own number */
    uint32_t kind;
    uint32_t shift;         /* slot size */
    uint32_t first_segment; /* DATA, TABLE */
    uint64_t checkpoint;    /* the last one that was durable when this was written */
    uint32_t flags;
    uint8_t zero[BLOCK_BYTES - 68];
};

#define FILE_FLAG_NODE_CRCS 1u /* TABLE: nodes have their own crc, between them are only zeros */

static_assert(sizeof(struct file_header) == BLOCK_BYTES, "a block");

/* ---- a batch: one block of header and records, then the pages ------------------------------- */

#define BATCH_MAGIC 0x42565256u /* "VRVB" */

struct batch_header {
    uint32_t magic;
    uint32_t crc;         /* of the block with this field zero, seeded: batch_crc() */
    uint64_t seq;         /* counts batches; no gaps */
    uint64_t incarnation; /* of the store: raised by every recovery */
    uint64_t synced_seq;  /* all batches up to here were durable when this was written */
    uint64_t time_us;     /* UTC */
    uint32_t segment;
    uint32_t slot; /* of this block */
    uint32_t n_pages;
    uint32_t records_bytes;
    uint32_t next_file;  /* the file of the next segment, once known; NO_FILE before */
    uint32_t checkpoint; /* as in file_header, mod 2^32 */
};
static_assert(sizeof(struct batch_header) == 64, "header");

#define BATCH_RECORDS_BYTES (BLOCK_BYTES - sizeof(struct batch_header))

enum record_kind {
    RECORD_WRITE = 1,  /* count pages, in the batch's pages in the order of the records; then
                          count checksums of 4 bytes */
    RECORD_TRIM = 2,   /* count pages become holes */
    RECORD_ZERO = 3,   /* count pages read as zeros and stay allocated */
    RECORD_CHANGE = 4, /* of the catalogue: count bytes follow, padded to 8 */
};

struct record {
    uint8_t kind;
    uint8_t flags;
    uint16_t count;
    uint32_t disk;
    uint64_t page;
};
static_assert(sizeof(struct record) == 16, "record");

/* ---- checkpoint.0 and checkpoint.1: a header block, then the body --------------------------- */

#define CHECKPOINT_MAGIC "VARVE\0CP"

#define CHECKPOINT_VERSIONS                                                                        \
    1u /* incompat: the catalogue has versions, and nodes are born in epochs */
#define CHECKPOINT_MAP_AHEAD                                                                       \
    2u /* incompat: the map's data files are those of map_seq, all else that of batch_seq */
#define CHECKPOINT_INCREMENTS                                                                      \
    4u /* incompat: increments of the map may follow the body, in the same file */

struct checkpoint_header {
    char magic[8];
    uint32_t crc; /* of the block with this field zero */
    uint32_t version;
    uint64_t compat, incompat;
    uint8_t uuid[16];
    uint64_t seq; /* the higher valid one counts */
    uint64_t time_us;
    uint64_t body_bytes;
    uint32_t body_crc;
    uint32_t clean; /* 1: closed in order, nothing follows in the log */
    uint64_t incarnation;
    uint64_t batch_seq;                    /* the tables hold all batches up to and with this one */
    uint32_t position_file, position_slot; /* where the next batch would stand */
    uint32_t position_segment;
    uint32_t next_segment;
    uint64_t next_fill;
    uint32_t next_id; /* of vms and disks */
    uint32_t n_files; /* records of the map */
    uint64_t catalogue_bytes;
    uint64_t map_bytes; /* follows the catalogue */
    uint64_t map_seq;   /* MAP_AHEAD: data files are in the map as they were after this batch */
    uint8_t zero[BLOCK_BYTES - 152];
};
static_assert(sizeof(struct checkpoint_header) == BLOCK_BYTES, "a block");

#define INCREMENT_MAGIC "VARVE\0MI"

/* Behind the body of a checkpoint, each in blocks of its own: what changed in the map's files of
 * pages. n_gone file numbers follow, padded to 8 bytes, then n_files records of the map. */
struct map_increment {
    char magic[8];
    uint32_t crc;   /* of `bytes` bytes from magic on, with this field zero */
    uint32_t bytes; /* this and what follows */
    uint8_t uuid[16];
    uint64_t incarnation; /* as the checkpoint's */
    uint64_t base;        /* seq of the checkpoint */
    uint64_t seq;         /* one more than the one before, or the checkpoint's */
    uint64_t map_seq;     /* the map's data files are now those after this batch */
    uint64_t next_fill;
    uint32_t next_segment;
    uint32_t n_gone;
    uint32_t n_files;
    uint32_t zero;
};
static_assert(sizeof(struct map_increment) == 88, "increment");

/* The map: for each log file in use one of these, its pieces, its live bits (64-bit words, a bit
 * for each slot of the file, up to used_slots). */
struct map_file {
    uint32_t file;
    uint8_t kind, shift;
    uint16_t zero;
    uint32_t used_slots;
    uint32_t n_pieces;
    uint32_t footer_block, footer_bytes; /* PACKED: where its footer stands */
    uint32_t footer_crc;
    uint32_t zero2;
};
static_assert(sizeof(struct map_file) == 32, "map file");

/* A piece: the slots [first, end) of a segment, those that are present, in order, from base on. */
struct map_piece {
    uint32_t segment;
    uint32_t generation;
    uint32_t first, end; /* slots of the segment */
    uint32_t base;       /* slot of the file */
    uint32_t count;      /* present; end - first: all */
};
static_assert(sizeof(struct map_piece) == 24, "map piece");

/* The footer of a PACKED file: for each piece a map_piece, then which slots are present: 16-bit
 * numbers less first when 2 * count is less than the bitmap, else the bitmap in 64-bit words;
 * either padded to 8 bytes; nothing when all are. Behind the pieces one of these with slot 0, in
 * which count says how often the footer stands here, each in blocks of its own; and, in a file of
 * pages, as many more as fill footer_bytes: so that pages that died since can be checked. */
struct moved_sum {
    uint32_t slot, count; /* of the file: pages that cleaning wrote together */
    uint32_t crc;         /* CRC-32C of them */
};
static_assert(sizeof(struct moved_sum) == 12, "moved sum");

#endif
