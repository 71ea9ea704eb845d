/* domain.h - a domain of libvirt, and commands to the monitor of its QEMU.
 *
 * That monitor is libvirt's, so commands go through libvirt's own API
 * (virDomainQemuMonitorCommandWithFiles), one at a time, descriptors with them. libvirt marks the
 * domain as tainted ("custom-monitor") with the first, and tells its clients Suspended and Resumed
 * whenever QEMU stands still.
 *
 * One thread at a time; blocks, but not beyond the deadlines, which are by mono_us(): libvirt's own
 * calls, which know none, are made by a thread of the domain's. A connection that broke, because
 * libvirtd was restarted, is made again for the next command. */
#ifndef VARVE_GUEST_DOMAIN_H
#define VARVE_GUEST_DOMAIN_H

#include "base/why.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct domain;

/* Find a domain that runs, by its name or UUID, in the libvirt of LIBVIRT_DEFAULT_URI, else
 * qemu:///system (root) or qemu:///session. Errors with a sentence: -EOPNOTSUPP (no libvirt is
 * installed), -EHOSTDOWN (no libvirtd answers there), -ENOENT (there is no such domain), -EBUSY (it
 * does not run), -ETIMEDOUT, -ENOMEM, or -EIO (libvirt's own words). */
int domain_open(const char *name, uint64_t end_us, struct domain **ret, struct why *why);
/* NULL is legal. */
void domain_close(struct domain *domain);

/* Its name and UUID, the domain's. */
const char *domain_name(const struct domain *domain);
const char *domain_uuid(const struct domain *domain);

/* Its QEMU, which is taken for it only if it got a descriptor that was sent to it by the monitor.
 * *ret_pidfd: the caller's. Errors with a sentence: -ESRCH (it cannot be seen from here), or as of
 * domain_receive(). */
int domain_find_process(struct domain *domain, uint64_t end_us, pid_t *ret_pid, int *ret_pidfd,
                        struct why *why);

/* Send a command, a JSON object without "id". fd: -1, or a descriptor that goes with it, borrowed
 * for the call. Does not wait: domain_receive() does. One at a time. -ENOMEM, -EMFILE, -EAGAIN. */
int domain_send(struct domain *domain, const char *command, int fd, struct why *why);
/* Whether domain_receive() would not wait. */
bool domain_has_answer(struct domain *domain);
/* QEMU's answer, a JSON object with "return" or "error"; *ret: the caller frees it. Errors with a
 * sentence: -EPROTO (libvirt refuses, nothing was done), -EPIPE (the domain has ended, or was
 * started anew), -EHOSTDOWN (no libvirtd, or it ended meanwhile: then it is not known what was
 * done), -ETIMEDOUT (nor then). */
int domain_receive(struct domain *domain, uint64_t end_us, char **ret, struct why *why);
/* Instead: the answer is not waited for any more. */
void domain_give_up(struct domain *domain);

#endif
