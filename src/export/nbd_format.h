/* nbd_format.h - the NBD protocol on the wire: fixed newstyle handshake, simple and structured
 * replies. All integers are big-endian. Source: doc/proto.md of the NetworkBlockDevice project. */
#ifndef VARVE_EXPORT_NBD_FORMAT_H
#define VARVE_EXPORT_NBD_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define NBD_PACKED __attribute__((packed))

/* ---- handshake ------------------------------------------------------------------------------ */

#define NBD_MAGIC_INIT   0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION 0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_MAGIC_REPLY  0x0003e889045565a9ULL

#define NBD_FIXED_NEWSTYLE 1u /* handshake flags, the server's and the client's alike */
#define NBD_NO_ZEROES      2u

enum nbd_option {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK          1u
#define NBD_REP_SERVER       2u
#define NBD_REP_INFO         3u
#define NBD_REP_META_CONTEXT 4u
#define NBD_REP_ERR_UNSUP    0x80000001u
#define NBD_REP_ERR_POLICY   0x80000002u
#define NBD_REP_ERR_INVALID  0x80000003u
#define NBD_REP_ERR_UNKNOWN  0x80000006u
#define NBD_REP_ERR_SHUTDOWN 0x80000007u
#define NBD_REP_ERR_TOO_BIG  0x80000009u

#define NBD_INFO_EXPORT      0u
#define NBD_INFO_NAME        1u
#define NBD_INFO_DESCRIPTION 2u
#define NBD_INFO_BLOCK_SIZE  3u

/* What an export can do. */
#define NBD_FLAG_HAS_FLAGS         0x0001u
#define NBD_FLAG_READ_ONLY         0x0002u
#define NBD_FLAG_SEND_FLUSH        0x0004u
#define NBD_FLAG_SEND_FUA          0x0008u
#define NBD_FLAG_SEND_TRIM         0x0020u
#define NBD_FLAG_SEND_WRITE_ZEROES 0x0040u
#define NBD_FLAG_SEND_DF           0x0080u
#define NBD_FLAG_CAN_MULTI_CONN    0x0100u
#define NBD_FLAG_SEND_CACHE        0x0400u
#define NBD_FLAG_SEND_FAST_ZERO    0x0800u

struct nbd_greeting {
    uint64_t init_magic, option_magic;
    uint16_t flags;
} NBD_PACKED;
static_assert(sizeof(struct nbd_greeting) == 18, "wire size");

struct nbd_option_header {
    uint64_t magic;
    uint32_t option, length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_option_header) == 16, "wire size");

struct nbd_option_reply {
    uint64_t magic;
    uint32_t option, type, length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_option_reply) == 20, "wire size");

struct nbd_info_export {
    uint16_t type;
    uint64_t size;
    uint16_t flags;
} NBD_PACKED;
static_assert(sizeof(struct nbd_info_export) == 12, "wire size");

struct nbd_info_block_size {
    uint16_t type;
    uint32_t minimum, preferred, maximum;
} NBD_PACKED;
static_assert(sizeof(struct nbd_info_block_size) == 14, "wire size");

/* The answer to NBD_OPT_EXPORT_NAME; the zeroes are left out after NBD_NO_ZEROES. */
struct nbd_export_name_reply {
    uint64_t size;
    uint16_t flags;
    uint8_t zeroes[124];
} NBD_PACKED;
static_assert(sizeof(struct nbd_export_name_reply) == 134, "wire size");

/* ---- transmission --------------------------------------------------------------------------- */

#define NBD_MAGIC_REQUEST          0x25609513u
#define NBD_MAGIC_SIMPLE_REPLY     0x67446698u
#define NBD_MAGIC_STRUCTURED_REPLY 0x668e33efu

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA       0x01u
#define NBD_CMD_FLAG_NO_HOLE   0x02u
#define NBD_CMD_FLAG_DF        0x04u
#define NBD_CMD_FLAG_REQ_ONE   0x08u
#define NBD_CMD_FLAG_FAST_ZERO 0x10u

#define NBD_CHUNK_DONE         1u /* flag of the last chunk of a reply */
#define NBD_CHUNK_NONE         0u
#define NBD_CHUNK_OFFSET_DATA  1u
#define NBD_CHUNK_OFFSET_HOLE  2u
#define NBD_CHUNK_BLOCK_STATUS 5u
#define NBD_CHUNK_ERROR        0x8001u
#define NBD_CHUNK_ERROR_OFFSET 0x8002u

#define NBD_STATE_HOLE 1u /* base:allocation */
#define NBD_STATE_ZERO 2u

#define NBD_STATE_CHANGED      1u /* varve:changed:, as in QEMU's dirty bitmaps, and varve:diff: */
#define NBD_STATE_CHANGED_HOLE 2u /* varve:diff: and it is a hole now */
#define NBD_STATE_CHANGED_ZERO 4u /* varve:diff: and it reads as zeros now */

enum nbd_error {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

struct nbd_request_header {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_request_header) == 28, "wire size");

struct nbd_simple_reply {
    uint32_t magic, error;
    uint64_t cookie;
} NBD_PACKED;
static_assert(sizeof(struct nbd_simple_reply) == 16, "wire size");

struct nbd_chunk {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk) == 20, "wire size");

struct nbd_chunk_data { /* the data follows */
    struct nbd_chunk chunk;
    uint64_t offset;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_data) == 28, "wire size");

struct nbd_chunk_hole {
    struct nbd_chunk chunk;
    uint64_t offset;
    uint32_t length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_hole) == 32, "wire size");

struct nbd_chunk_status { /* the extents follow */
    struct nbd_chunk chunk;
    uint32_t context;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_status) == 24, "wire size");

struct nbd_extent {
    uint32_t length, flags;
} NBD_PACKED;
static_assert(sizeof(struct nbd_extent) == 8, "wire size");

struct nbd_chunk_error { /* the message follows, then for ERROR_OFFSET the offset (64 bits) */
    struct nbd_chunk chunk;
    uint32_t error;
    uint16_t message_length;
} NBD_PACKED;
static_assert(sizeof(struct nbd_chunk_error) == 26, "wire size");

#endif
