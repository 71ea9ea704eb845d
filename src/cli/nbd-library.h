/* nbd-library.h - libnbd, loaded by the commands that move data and by no other: with it come a
 * dozen libraries, which would cost every command ten milliseconds. */
#ifndef VARVE_CLI_NBD_LIBRARY_H
#define VARVE_CLI_NBD_LIBRARY_H

#include "base/why.h"

#include <libnbd.h>

/* nbd_X() of the library is libnbd.X(). */
/* clang-format off */
#define NBD_LIBRARY_FUNCTIONS(f) \
    f(add_meta_context) f(aio_block_status) f(aio_get_direction) f(aio_get_fd) \
    f(aio_is_closed) f(aio_is_dead) f(aio_notify_read) f(aio_notify_write) \
    f(aio_pread) f(aio_pwrite) f(aio_zero) f(can_meta_context) \
    f(close) f(connect_unix) f(create) f(flush) \
    f(get_error) f(get_size) f(set_export_name) f(set_pread_initialize) \
    f(shutdown)
/* clang-format on */

#define NBD_LIBRARY_MEMBER(name) __typeof__(nbd_##name) *name;
struct nbd_library {
    NBD_LIBRARY_FUNCTIONS(NBD_LIBRARY_MEMBER)
};
extern struct nbd_library libnbd;

/* Before any use. Returns 0 or -1. One thread. */
int nbd_library_load(struct why *why);

#endif
