/* held-migration.h - a real migration of QEMU that ends nowhere: its stream is read as far as is
 * wanted, then the socket is closed, and QEMU goes on with the machine as after any migration that
 * failed. Since QEMU waits for its reader, it holds the machine meanwhile; and since the end of
 * this process closes the socket too, nobody else has to resume it. One thread; blocks, not beyond
 * the deadlines.
 *
 * States: held_migration_begin() -> running -> held_migration_read() -> RAM complete: the machine
 * stands still -> the same -> devices complete -> held_migration_end() -> as it was.
 *
 * Capability x-ignore-shared leaves out RAM that is a shared file with a path. It, all other
 * capabilities and the parameters that matter are put back at the end; if this process dies a guard
 * does it. */
#ifndef VARVE_GUEST_HELD_MIGRATION_H
#define VARVE_GUEST_HELD_MIGRATION_H

#include "guest/migration-guard.h"
#include "guest/migration-stream.h"
#include "guest/monitor.h"
#include "guest/ram.h"

struct held_migration {
    struct monitor *monitor; /* borrowed */
    struct migration_guard guard;
    json_t *capabilities, *parameters; /* as they were: what is to be put back */
    int fd;                            /* the stream */
    struct migration_buffer data;      /* of it so far */
    struct migration_stream stream;
};

/* Start one of a machine that runs. Errors with a sentence, everything as before: as of
 * monitor_run(), or -errno. */
int held_migration_begin(struct monitor *monitor, uint64_t end_us, struct held_migration *ret,
                         struct why *why);
/* Read until the pages (devices false) or the devices are complete. As of migration_read(), or
 * -ETIMEDOUT, or -EPROTO (QEMU gave up: the sentence says why). */
int held_migration_read(struct held_migration *held, bool devices, uint64_t end_us,
                        struct why *why);
/* Read until the pages are complete, or the first page of a shared block of ram comes (NULL: none
 * is). From QEMU 8.1 on shared blocks without a path, as of a memfd, are not left out. */
int held_migration_read_head(struct held_migration *held, const struct ram *ram, uint64_t end_us,
                             struct why *why);
/* Let go: QEMU resumes the machine. Waits until the migration has ended, and puts everything
 * back. Always to be called after a held_migration_begin() that returned 0; frees everything.
 * Returns 0, or the error of the session; then the guard puts everything back. */
int held_migration_end(struct held_migration *held, uint64_t end_us, struct why *why);

#endif
