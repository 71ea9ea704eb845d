/* memory-list.h - which memory belongs to which version, as the store says at one moment. Any
 * thread but the engine's; the engine's has memory_list_get_here(). */
#ifndef VARVE_DAEMON_MEMORY_LIST_H
#define VARVE_DAEMON_MEMORY_LIST_H

#include "image/store.h"

struct engine;

struct memory_list {
    struct version_info *versions; /* of all vms, those that nobody sees too, by vm and age */
    uint32_t n;
    struct vm_info *vms;
    uint32_t n_vms;
    const struct version_info **memory; /* of them the memory of others, by guid */
    uint32_t n_memory;
};

/* -ENOMEM, or what engine_call() said; then there is nothing to free. */
int memory_list_get(struct engine *engine, struct memory_list *ret);
int memory_list_get_here(struct store *store, struct memory_list *ret);
void memory_list_free(struct memory_list *list);

/* The memory of a version with this guid. NULL: it has none, or it is still coming in. */
const struct version_info *memory_list_find(const struct memory_list *list,
                                            const uint8_t guid[GUID_BYTES]);
/* NULL: no such. */
const struct version_info *memory_list_version(const struct memory_list *list, const char *vm,
                                               const char *name);
/* The memory that a machine of this vm goes on from: of the version with RAM that its head comes
 * from, if there is one. NULL: none. */
const struct version_info *memory_list_origin(const struct memory_list *list, const char *vm);
/* The memory that goes when these n versions of vm are removed (names NULL: all of them): that of
 * no other version. *ret: the caller's to free. -ENOMEM. */
int memory_list_going(const struct memory_list *list, const char *vm, const char *const *names,
                      uint32_t n, struct store_version **ret, uint32_t *ret_n);

#endif
