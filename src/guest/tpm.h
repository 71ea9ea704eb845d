/* tpm.h - the TPM of a machine that goes on from a version: a swtpm of its own. What the TPM holds
 * is in the state of QEMU's devices, which gives it to the swtpm when it loads; so that begins with
 * nothing. It ends when QEMU closes its connection. TPM 2.0 only. */
#ifndef VARVE_GUEST_TPM_H
#define VARVE_GUEST_TPM_H

#include "base/why.h"

#include <stdatomic.h>

/* Start one that listens at socket and has its files in dir/tpm; what was there goes. cancel:
 * NULL, or true ends it. Borrowed for the call. Errors with a sentence: -EOPNOTSUPP (no swtpm is
 * installed), -ECANCELED, -EIO, -errno. */
int tpm_start(const char *dir, const char *socket, const atomic_bool *cancel, struct why *why);
/* End one that no QEMU came to. Where there is none: nothing. */
void tpm_end(const char *dir);

#endif
