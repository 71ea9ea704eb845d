/* table_format.h - page tables in the log; docs/format-store.md tells it in prose. */
#ifndef VARVE_IMAGE_TABLE_FORMAT_H
#define VARVE_IMAGE_TABLE_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define NODE_BITS    9
#define NODE_ENTRIES (1u << NODE_BITS)
#define NODE_LEVELS  5 /* at most */

/* What a table says of one page (level 0) or of one node below (other levels). All zero: a hole. */
struct entry {
    uint64_t address;
    uint32_t sum;   /* checksum_at(address) of the stored bytes */
    uint32_t flags; /* encoding in bits 0-3; for a node its length in slots in bits 8-23 */
};
static_assert(sizeof(struct entry) == 16, "entry");

enum encoding {
    ENCODING_HOLE = 0, /* nothing there; reads as zeros */
    ENCODING_RAW = 1,  /* the page as it is */
    ENCODING_ZERO = 2, /* reads as zeros, kept allocated; takes no space */
    ENCODING_NODE = 3, /* a table node */
    /* 4 to 7: lz4, zstd, delta and delta of a compressed base: reserved for later formats */
    ENCODING_LOST = 8, /* nobody knows: the node that said it was damaged. Gives an error */
};

static inline enum encoding entry_encoding(const struct entry *e)
{
    return (enum encoding)(e->flags & 15);
}

static inline bool entry_is_hole(const struct entry *e)
{
    return entry_encoding(e) == ENCODING_HOLE;
}

static inline uint32_t entry_slots(const struct entry *e)
{
    return e->flags >> 8 & 0xffff;
}

static inline struct entry entry_of_node(uint64_t address, uint32_t sum, uint32_t slots)
{
    return (struct entry){.address = address, .sum = sum, .flags = ENCODING_NODE | slots << 8};
}

#define NODE_MAGIC 0x4e56u /* "VN" */

enum node_form {
    NODE_DENSE = 1,  /* 512 entries */
    NODE_SPARSE = 2, /* n 16-bit indexes padded to 16 bytes, then n entries */
    NODE_DELTA = 3,  /* as sparse: what differs from the node at base, which is not a delta */
};

struct node_header {
    uint16_t magic;
    uint8_t form;
    uint8_t level;
    uint16_t n; /* entries that follow */
    uint16_t zero;
    uint32_t family;   /* the disk that this one comes from by versions and clones */
    uint32_t crc;      /* of all of the node with this field zero, never 0; 0: not known */
    uint64_t index;    /* of the node among those of its level */
    uint64_t born;     /* epoch in which this node was copied from its predecessor */
    struct entry base; /* DELTA */
    uint64_t cleared;  /* no entry was made anything but a page (level 0), a node (above) in a later
                          epoch, since the node is there; 0: not known */
    uint8_t zero3[8];
};
static_assert(sizeof(struct node_header) == 64, "node header");

#define NODE_MAX_BYTES (sizeof(struct node_header) + NODE_ENTRIES * sizeof(struct entry))
#define NODE_MAX_SLOTS (NODE_MAX_BYTES / 64)

#endif
