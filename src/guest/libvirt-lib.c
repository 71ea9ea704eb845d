/* libvirt-lib.c - libvirt's client library, loaded when a domain is first asked for. */
#include "guest/libvirt-lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>

#define LIBRARY "libvirt-qemu.so.0" /* and with it libvirt.so.0, which it needs */

static struct libvirt libvirt;
static struct why failure; /* "": it is loaded */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define LIBVIRT_ENTRY(name) {#name, offsetof(struct libvirt, name)},
    LIBVIRT_FUNCTIONS(LIBVIRT_ENTRY)
#undef LIBVIRT_ENTRY
};

/* Its own would print to stderr. */
static void ignore_error(void *arg, virErrorPtr error)
{
}

static void load(void)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (!handle) {
        why_set(&failure, 0,
                "libvirt's client library cannot be loaded (%.300s); install it with: apt install "
                "libvirt0",
                dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        void *address = dlsym(handle, functions[i].name);
        if (!address) {
            why_set(&failure, 0,
                    "libvirt's client library has no %s, without which QEMU cannot be given a "
                    "descriptor; install libvirt 8.2 or later",
                    functions[i].name);
            return;
        }
        *(void **)((char *)&libvirt + functions[i].offset) = address;
    }
    libvirt.virSetErrorFunc(NULL, ignore_error);
    if (libvirt.virInitialize() < 0)
        why_set(&failure, 0, "libvirt's client library does not start");
}

int libvirt_load(const struct libvirt **ret, struct why *why)
{
    pthread_once(&once, load);
    if (*failure.text) {
        *why = failure;
        return -EOPNOTSUPP;
    }
    *ret = &libvirt;
    return 0;
}
