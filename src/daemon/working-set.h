/* working-set.h - the pages that machines touched first when they went on from a version: kept
 * beside the store for the next time. Only a hint: a file that is missing, old or damaged costs
 * time, nothing else. Any thread. */
#ifndef VARVE_DAEMON_WORKING_SET_H
#define VARVE_DAEMON_WORKING_SET_H

#include "guest/pager.h"
#include "image/store.h"

#include <stddef.h>
#include <stdint.h>

#define WORKING_SET_MAX 262144u

/* Returns how many there are; *ret is allocated for the caller, NULL where there are none. */
size_t working_set_load(const char *store_path, const uint8_t guid[GUID_BYTES],
                        struct pager_place **ret);
/* Keep places. What cannot be written is not kept. */
void working_set_save(const char *store_path, const uint8_t guid[GUID_BYTES],
                      const struct pager_place *places, size_t n);
/* Remove what is kept of versions that are gone: keep() says which are not. */
void working_set_sweep(const char *store_path,
                       bool (*keep)(void *arg, const uint8_t guid[GUID_BYTES]), void *arg);

#endif
