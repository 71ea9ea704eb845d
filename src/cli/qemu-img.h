/* qemu-img.h - disk images through qemu-img: what a file is, whether it is whole, and copying
 * between files and Varve's NBD server. One thread. Functions print why they fail. */
#ifndef VARVE_CLI_QEMU_IMG_H
#define VARVE_CLI_QEMU_IMG_H

#include "cli/cli.h"

struct image_info {
    char path[4096];     /* absolute */
    char format[16];     /* qemu-img's word */
    uint64_t size_bytes; /* that the guest sees */
};

/* qemu-img's word for a format of ours ("vhdx", "vpc" is none of ours); NULL: not one. */
const char *image_format_check(const char *format);
/* The format of a file's ending; "raw" for any that says nothing. */
const char *image_format_of_name(const char *path);

/* Look at the image. format: NULL to detect it. allow_backing: references to other files are
 * followed, not refused. */
enum exit_code image_probe(const char *path, const char *format, bool allow_backing,
                           struct image_info *ret);

/* Find truncated and damaged images before anything is made of them. */
enum exit_code image_check(const struct image_info *image);

/* A disk as a file name that qemu understands, "json:{...}"; free() it. */
char *nbd_file_name(const char *socket_path, const char *vm, const char *disk);

/* Copy with holes kept and progress shown. from_format, to_format: "raw" for NBD. existing: the
 * target is there, has the right size and is all zeros. */
struct image_copy {
    const char *from, *from_format, *to, *to_format, *what;
    uint64_t size_bytes;
    bool existing;
};
enum exit_code image_copy(const struct image_copy *copy);

#endif
