/* nbd-library.c - loading libnbd. */
#include "cli/nbd-library.h"

#include <dlfcn.h>
#include <stdbool.h>

#define LIBRARY "libnbd.so.0" /* its interface only grows, under this name */

struct nbd_library libnbd;

int nbd_library_load(struct why *why)
{
    static void *handle;
    bool fine = true;

    if (handle)
        return 0;
    handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return why_set(why, -1, "cannot load " LIBRARY " (%s); install the package libnbd0",
                       dlerror());
#define LOAD(name) fine = fine && (libnbd.name = dlsym(handle, "nbd_" #name));
    NBD_LIBRARY_FUNCTIONS(LOAD)
#undef LOAD
    if (fine)
        return 0;
    why_set(why, -1, LIBRARY " has not all that is needed (%s); install a newer libnbd0",
            dlerror());
    dlclose(handle);
    handle = NULL;
    return -1;
}
