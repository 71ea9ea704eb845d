/* api-version.h - what the methods on versions share. Control threads. */
#ifndef VARVE_DAEMON_API_VERSION_H
#define VARVE_DAEMON_API_VERSION_H

#include "daemon/api.h"
#include "image/store.h"

#include <stdbool.h>

struct version_listing {
    const char *vm;                    /* NULL: all */
    const struct version_place *after; /* NULL: from the first on */
    uint32_t max;                      /* 0: all */
    struct version_info *versions;
    uint32_t n;
    int result;
};

/* Fill the listing; its versions are freed by the caller with free(). False: env has a fault. */
bool api_list_versions(xmlrpc_env *env, struct api *api, struct version_listing *l);

/* Make a CHANGE_SNAP, under the name that it has, or (anonymous) under that of the time, which is
 * set in it. Sets a fault on failure. */
void api_snap(xmlrpc_env *env, struct api *api, struct store_change *change, bool anonymous);

/* "crash", "filesystem", "application", "ram" */
const char *api_consistency_word(enum consistency consistency);

#endif
