/* migration-stream.h - as much of QEMU's migration stream as is wanted: to take one apart into the
 * machine's type, its RAM blocks, pages and device sections, and to put one together that
 * -incoming takes. Formats "fd:" and xen-save-devices-state, version 3, of QEMU 4.0 or later.
 * Any thread; no state but the structs. Sources: migration/savevm.c, migration/ram.c of QEMU (read
 * for facts) and streams of 7.2 and 10.0.
 *
 *     "QEVM" 3           the header
 *     07 len name        configuration: the machine's type; subsections (05 ...)
 *     01 id "ram" ...    the list of RAM blocks        } each of them ends
 *     02 id, 03 id       pages: a part of them, the end } with 7e id
 *     08 000b 0000       the machine stands still (QEMU 9.0 or later)
 *     04 id name ...     a device's state               }
 *     00                 the end of the devices
 *     06 len {...        a description for people, in "fd:" only
 *
 * The content of a device's section has no length. It ends at a footer behind which another section
 * begins, or the end: so a list of sections is a good guess, but the bytes are passed on whole. */
#ifndef VARVE_GUEST_MIGRATION_STREAM_H
#define VARVE_GUEST_MIGRATION_STREAM_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIGRATION_NAME_CHARS   256
#define MIGRATION_PAGE_BYTES   4096
#define MIGRATION_BLOCKS_MAX   256
#define MIGRATION_SECTIONS_MAX 4096

struct migration_block {
    char name[MIGRATION_NAME_CHARS];
    uint64_t bytes; /* in use; a multiple of the page */
};

struct migration_page {
    unsigned block;
    uint64_t offset_bytes; /* in the block */
    size_t at;             /* of its 4096 bytes in the stream; 0: zeros */
};

struct migration_section {
    char name[MIGRATION_NAME_CHARS];
    uint32_t id, instance, version;
    size_t at, bytes; /* of its content in the stream */
};

/* What is known of a stream so far. All zero before the first migration_read(). */
struct migration_stream {
    char machine[MIGRATION_NAME_CHARS]; /* "": the stream does not say */
    struct migration_block *blocks;
    unsigned n_blocks;
    struct migration_page *pages; /* as they came; a later one of the same place counts */
    size_t n_pages;
    struct migration_section *sections;
    unsigned n_sections;
    size_t devices_at, devices_bytes; /* the sections of devices and the 00 behind them */
    bool ram_complete;                /* the pages are all there: the machine stands still */
    bool complete;                    /* so are the devices */
    /* How far it was read. */
    size_t at, search_at;
    int state;
    bool ignore_shared;
    uint8_t ram_part;
    uint32_t ram_id;
    unsigned last_block;
    size_t pages_room;
};

/* Go on taking a stream apart. data: all of it from its first byte, len bytes so far; what came
 * before must be there unchanged, if not at the same place. final: nothing more will come.
 * Returns 0 (complete), -EAGAIN (so far it is fine, and goes on), or with a sentence -EBADMSG (no
 * such stream, or damaged), -EOPNOTSUPP (it has what is not wanted: compressed pages, block
 * migration...), -ENOMEM. After an error other than -EAGAIN only migration_free(). */
int migration_read(struct migration_stream *stream, const uint8_t *data, size_t len, bool final,
                   struct why *why);
void migration_free(struct migration_stream *stream);

/* Bytes as they grow. All zero: empty. */
struct migration_buffer {
    uint8_t *data;
    size_t len, room;
    bool failed; /* no memory: asked for at the end */
};
void migration_buffer_free(struct migration_buffer *buffer);
void migration_append(struct migration_buffer *buffer, const void *data, size_t len);

/* Put one together: begin, pages, devices. No capability is wanted where it is read: the blocks
 * are all announced, and those of which no page is sent stay as they are there.
 * devices: of a stream that was read, from devices_at on. data: MIGRATION_PAGE_BYTES. */
void migration_write_begin(struct migration_buffer *buffer, const char *machine,
                           const struct migration_block *blocks, unsigned n_blocks);
void migration_write_page(struct migration_buffer *buffer, const char *block, uint64_t offset_bytes,
                          const uint8_t *data);
void migration_write_devices(struct migration_buffer *buffer, const uint8_t *devices, size_t len);

#endif
