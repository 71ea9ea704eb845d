/* fuzz-memory-image.c - a disk from anywhere is opened as a memory image, read, and written on.
 *
 * The first byte of an input chooses; two bytes are the length n of what follows at once:
 *   bit 0 clear   the rest is the disk; bit 1: the crc of its page 0 is made right
 *   bit 0 set     n bytes are the directory, as it is uncompressed, the rest is the disk from page
 * 1 on; page 0 is made; bit 1: the sums of index and blobs are made right bit 2         as a
 * writer, who puts pages and commits
 *
 * Shown: nothing is touched that is not the image's (in a build with sanitizers), every answer is
 * ERR_DAMAGED, ERR_FORMAT_NEWER or bytes, twice the same, and what a writer put is read back. */
#include "base/checksum.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"
#include "checkpoint/fake-disk.h"
#include "checkpoint/memory-image-internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE           4096u
#define DISK_PAGES     1024u
#define BLOB_MAX_BYTES (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz-memory-image: %s\n", what);
    abort();
}

static void put_bytes(struct fake_disk *disk, uint64_t at, const uint8_t *bytes, size_t len)
{
    for (size_t done = 0, some; done < len; done += some) {
        uint8_t **page = &disk->pages[(at + done) / PAGE];
        some = PAGE - (at + done) % PAGE;
        some = some < len - done ? some : len - done;
        if (!*page)
            *page = calloc(1, PAGE);
        check(*page, "no memory");
        memcpy(*page + (at + done) % PAGE, bytes + done, some);
    }
}

static void fix_crc(struct fake_disk *disk)
{
    struct memory_head *head = (struct memory_head *)(void *)disk->pages[0];

    if (!head)
        return;
    head->crc = 0;
    head->crc = crc32c(0, head, sizeof(*head));
}

/* What would only cost memory and time is made smaller. */
static void fix_piece(struct memory_piece *piece, const uint8_t *disk, size_t disk_bytes, bool sum)
{
    piece->raw &= 0xfffff;
    if (sum && piece->offset >= PAGE && piece->offset - PAGE <= disk_bytes &&
        piece->stored <= disk_bytes - (piece->offset - PAGE))
        piece->sum = checksum_at(piece->offset, disk + piece->offset - PAGE, piece->stored);
}

static void fix_directory(uint8_t *directory, size_t len, const uint8_t *disk, size_t disk_bytes,
                          bool sums)
{
    struct memory_directory d;
    size_t at = sizeof(d);

    if (len < sizeof(d))
        return;
    memcpy(&d, directory, sizeof(d));
    for (uint32_t i = 0; i < d.blocks && at + 272 <= len; i++, at += 272)
        memset(directory + at + 2, 0, 6); /* pages: 16 bits */
    at += (size_t)d.epochs * sizeof(struct memory_epoch);
    for (uint64_t i = 0; i < (uint64_t)d.base + d.overlay + d.blobs; i++) {
        struct memory_piece piece;
        at += i < (uint64_t)d.base + d.overlay ? 0 : MEMORY_BLOB_NAME_BYTES;
        if (at > len || sizeof(piece) > len - at)
            return;
        memcpy(&piece, directory + at, sizeof(piece));
        fix_piece(&piece, disk, disk_bytes, sums);
        memcpy(directory + at, &piece, sizeof(piece));
        at += sizeof(piece);
    }
}

/* A disk of a directory and what it leads to. */
static void assemble(struct fake_disk *disk, uint8_t *directory, size_t len, const uint8_t *bytes,
                     size_t size, bool sums)
{
    uint64_t at = PAGE + (size + PAGE - 1) / PAGE * PAGE;
    struct memory_head head = {.magic = MEMORY_MAGIC,
                               .version = MEMORY_FORMAT_VERSION,
                               .seq = 1,
                               .tail = at + (len + PAGE - 1) / PAGE * PAGE,
                               .directory = {.offset = at, .stored = len, .raw = len}};

    fix_directory(directory, len, bytes, size, sums);
    head.directory.sum = checksum_at(at, directory, len);
    put_bytes(disk, 0, (const uint8_t *)&head, sizeof(head));
    put_bytes(disk, PAGE, bytes, size);
    put_bytes(disk, at, directory, len);
    fix_crc(disk);
}

static void read_all(const struct memory_image *image)
{
    static uint8_t out[64 * PAGE], again[64 * PAGE];
    const struct memory_block *blocks;
    unsigned n = memory_image_blocks(image, &blocks);

    for (unsigned b = 0; b < n; b++)
        for (uint64_t p = 0; p < blocks[b].pages && p < 512; p += 64) {
            unsigned some = blocks[b].pages - p < 64 ? (unsigned)(blocks[b].pages - p) : 64;
            int code = memory_image_read(image, b, p, some, out);
            check(code == 0 || code == ERR_DAMAGED, "another error of read");
            check(memory_image_read(image, b, p, some, again) == code, "another answer");
            check(code || !memcmp(out, again, (size_t)some * PAGE), "other pages");
            memory_image_next(image, b, p);
        }
    for (size_t i = 0; i < image->n_blobs; i++) {
        _cleanup_free_ uint8_t *blob = NULL;
        size_t len;
        int code = memory_image_blob(image, image->blobs[i].name, BLOB_MAX_BYTES, &blob, &len);
        check(code == 0 || code == ERR_DAMAGED, "another error of blob");
    }
}

static void write_on(struct fake_disk *disk, struct memory_image *image)
{
    static uint8_t page[PAGE], out[PAGE];
    struct memory_io io = fake_disk_io(disk);
    struct memory_put_stats stats = {0};
    const struct memory_block *blocks;
    struct memory_image *back;
    struct why why;

    if (!memory_image_blocks(image, &blocks) || !blocks[0].pages || image->tail > 512 * PAGE)
        return;
    memset(page, 7, sizeof(page));
    check(!memory_image_put_page(image, 0, 0, page, &stats), "put");
    memory_image_abandon(image);
    page[9] = 1;
    check(!memory_image_put_page(image, 0, 0, page, &stats), "put after abandon");
    check(!memory_image_commit(image, NULL, 0), "commit");
    check(!memory_image_open(&io, true, &back, &why), "open again");
    check(!memory_image_read(back, 0, 0, 1, out) && !memcmp(out, page, PAGE), "read back");
    read_all(back);
    memory_image_close(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory_image *image;
    struct why why;

    if (size < 3)
        return 0;
    uint8_t mode = data[0];
    size_t len = data[1] | (size_t)data[2] << 8;
    data += 3;
    size -= 3;
    struct fake_disk *disk = fake_disk_new(DISK_PAGES);
    if (mode & 1) {
        len = len < size ? len : size;
        uint8_t *directory = memcpy(malloc(len + 1), data, len);
        assemble(disk, directory, len, data + len, size - len, mode & 2);
        free(directory);
    } else {
        put_bytes(disk, 0, data, size);
        if (mode & 2)
            fix_crc(disk);
    }
    struct memory_io io = fake_disk_io(disk);
    int code = memory_image_open(&io, mode & 4, &image, &why);
    check(code == 0 || code == ERR_DAMAGED || code == ERR_FORMAT_NEWER, "another error of open");
    if (!code) {
        read_all(image);
        if (mode & 4)
            write_on(disk, image);
        memory_image_close(image);
    }
    fake_disk_free(disk);
    return 0;
}
