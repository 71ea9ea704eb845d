/* libvirt-lib.h - libvirt's client library, loaded when a domain is first asked for.
 *
 * Not linked: most machines are no domains, and a varved starts, and serves, where there is no
 * libvirt. Only its headers are wanted for the build. Any thread. */
#ifndef VARVE_GUEST_LIBVIRT_LIB_H
#define VARVE_GUEST_LIBVIRT_LIB_H

#include "base/why.h"

#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#define LIBVIRT_FUNCTIONS(of)                                                                      \
    of(virInitialize) of(virSetErrorFunc) of(virGetLastError) of(virConnectOpen)                   \
        of(virConnectClose) of(virConnectIsAlive) of(virDomainLookupByName)                        \
            of(virDomainLookupByUUIDString) of(virDomainFree) of(virDomainGetName)                 \
                of(virDomainGetUUIDString) of(virDomainGetID) of(virDomainGetState)                \
                    of(virDomainIsActive) of(virDomainQemuMonitorCommandWithFiles)

/* Each function by its own name: lib->virConnectOpen(uri). */
struct libvirt {
#define LIBVIRT_MEMBER(name) __typeof__(name) *name;
    LIBVIRT_FUNCTIONS(LIBVIRT_MEMBER)
#undef LIBVIRT_MEMBER
};

/* It stays loaded. -EOPNOTSUPP with a sentence: it is not installed, or too old. */
int libvirt_load(const struct libvirt **ret, struct why *why);

#endif
