/* restore-source.h - the RAM and the state of a version, open for machines that begin there.
 *
 * While it is open its memory stays, also if the version is removed. Any threads read at once. With
 * sharing each page is read from the store once, however many machines ask for it: at the price of
 * a copy of the RAM in our memory for as long as it is open. */
#ifndef VARVE_DAEMON_RESTORE_SOURCE_H
#define VARVE_DAEMON_RESTORE_SOURCE_H

#include "base/why.h"
#include "checkpoint/memory-image.h"
#include "guest/restore.h"
#include "image/store.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct engine;

#define SOURCE_FILES_MAX 16

struct restore_source {
    char vm[NAME_MAX_CHARS + 1], version[NAME_MAX_CHARS + 1];
    uint8_t guid[GUID_BYTES];
    uint32_t n_disks;
    struct disk_info *disks; /* of the version */
    uint64_t ram_bytes;
    bool was_running;
    /* How its QEMU was started. Ends with NULL; borrowed from machine. */
    char **argv;
    const char *cwd; /* NULL: not known */
    char machine_type[256];
    char disks_vm[NAME_MAX_CHARS + 1]; /* of which vm argv has the disks */
    struct restore_state state;
    /* Files outside of the machine (NVRAM, TPM). */
    struct source_file {
        char *path;
        uint8_t *data;
        size_t bytes;
    } files[SOURCE_FILES_MAX];
    unsigned n_files;
    /* Its own. */
    struct disk_io *io;
    struct memory_image *image;
    struct memory_io memory_io;
    const struct memory_block *blocks;
    unsigned n_blocks;
    uint8_t *head, *devices;
    json_t *machine;
    struct source_shared *shared; /* NULL: no sharing; else for each block */
    struct source_private *private_pages;
    atomic_uint_fast64_t pages_read; /* asked of the image */
};

/* share: for several machines. Errors with a sentence: -ENOENT (no such vm), ERR_NO_VERSION,
 * -EOPNOTSUPP (a version without RAM), ERR_DAMAGED, -ENOMEM, those of disk_io_open(). */
int restore_source_open(struct engine *engine, const char *vm, const char *version, bool share,
                        struct restore_source **ret, struct why *why);
/* Can machines go on from a version whose memory is there, and has not its place yet? Errors as
 * above. */
int restore_source_check(struct engine *engine, const char *vm, const char *version,
                         const struct store_version *at, struct why *why);
/* The RAM alone of the version with that guid, for machines that run already. Errors as above. */
int restore_source_open_ram(struct engine *engine, const uint8_t guid[GUID_BYTES],
                            struct restore_source **ret, struct why *why);
void restore_source_close(struct restore_source *source); /* NULL is legal */

/* The block of a memory backend, or of QEMU's name for it; -1: the version has none. */
int restore_source_block(const struct restore_source *source, const char *id);
/* n pages of a block, as memory_image_read(). */
int restore_source_read(struct restore_source *source, unsigned block, uint64_t page, unsigned n,
                        void *out);
/* Write a whole block into a file of holes, from offset on, by several threads. done: counts bytes,
 * for who watches; cancel: true ends it with -ECANCELED. Other errors, with a sentence: -ENOMEM (no
 * memory, or what the file is on is full), those of memory_image_read(), -errno. */
int restore_source_fill(struct restore_source *source, unsigned block, int fd, uint64_t offset,
                        atomic_uint_fast64_t *done, const atomic_bool *cancel, struct why *why);

#endif
