/* memory-list.c - which memory belongs to which version. */
#include "daemon/memory-list.h"

#include "base/cleanup.h"
#include "daemon/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_guid(const void *a, const void *b)
{
    const struct version_info *x = *(const struct version_info *const *)a;
    const struct version_info *y = *(const struct version_info *const *)b;

    return memcmp(x->guid, y->guid, GUID_BYTES);
}

static const struct vm_info *find_vm(const struct memory_list *list, const char *name)
{
    for (uint32_t i = 0; i < list->n_vms; i++)
        if (!strcmp(list->vms[i].name, name))
            return &list->vms[i];
    return NULL;
}

/* Memory that is coming in is in a provisional vm. */
static void index_memory(struct memory_list *list)
{
    const struct vm_info *vm = NULL;

    for (uint32_t i = 0; i < list->n; i++) {
        const struct version_info *v = &list->versions[i];
        if (!v->memory)
            continue;
        if (!vm || strcmp(vm->name, v->vm) != 0)
            vm = find_vm(list, v->vm);
        if (vm && !vm->provisional)
            list->memory[list->n_memory++] = v;
    }
    qsort(list->memory, list->n_memory, sizeof(struct version_info *), by_guid);
}

int memory_list_get_here(struct store *store, struct memory_list *ret)
{
    struct memory_list list = {};

    int r = store_list(store, &list.vms, &list.n_vms);
    if (r == 0)
        r = store_list_versions(store, NULL, NULL, true, UINT32_MAX, &list.versions, &list.n);
    if (r == 0 && !(list.memory = calloc((size_t)list.n + 1, sizeof(struct version_info *))))
        r = -ENOMEM;
    if (r < 0) {
        memory_list_free(&list);
        return r;
    }
    index_memory(&list);
    *ret = list;
    return 0;
}

struct request {
    struct memory_list list;
    int result;
};

static void on_get(struct engine_call *call)
{
    struct request *q = call->arg;

    q->result = memory_list_get_here(call->store, &q->list);
    engine_call_done(call);
}

int memory_list_get(struct engine *engine, struct memory_list *ret)
{
    struct request q = {};
    int r = engine_ask(engine, on_get, &q, &q.result);

    if (r == 0)
        *ret = q.list;
    return r;
}

void memory_list_free(struct memory_list *list)
{
    free(list->versions);
    free(list->vms);
    free(list->memory);
    *list = (struct memory_list){};
}

const struct version_info *memory_list_find(const struct memory_list *list,
                                            const uint8_t guid[GUID_BYTES])
{
    struct version_info key;
    const struct version_info *p = &key;

    memcpy(key.guid, guid, GUID_BYTES);
    const struct version_info *const *found =
        bsearch(&p, list->memory, list->n_memory, sizeof(p), by_guid);
    return found ? *found : NULL;
}

const struct version_info *memory_list_version(const struct memory_list *list, const char *vm,
                                               const char *name)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (!strcmp(list->versions[i].name, name) && !strcmp(list->versions[i].vm, vm))
            return &list->versions[i];
    return NULL;
}

/* The version before it on its line; mostly the one before it in the list. NULL: none. */
static const struct version_info *before(const struct memory_list *list,
                                         const struct version_info *v)
{
    const struct version_info *last = v > list->versions ? v - 1 : NULL;

    if (!*v->origin)
        return NULL;
    if (last && !strcmp(last->name, v->origin) && !strcmp(last->vm, v->origin_vm))
        return last;
    return memory_list_version(list, v->origin_vm, v->origin);
}

const struct version_info *memory_list_origin(const struct memory_list *list, const char *vm)
{
    const struct vm_info *head = find_vm(list, vm);
    const struct version_info *v =
        head && *head->origin ? memory_list_version(list, head->origin_vm, head->origin) : NULL;

    while (v && v->consistency != CONSISTENCY_RAM)
        v = before(list, v);
    return v ? memory_list_find(list, v->guid) : NULL;
}

/* ---- what goes ------------------------------------------------------------------------------ */

static bool is_named(const struct version_info *v, const char *const *names, uint32_t n)
{
    bool named = !names;

    for (uint32_t i = 0; i < n && names && !named; i++)
        named = !strcmp(names[i], v->name);
    return named;
}

static bool has_ram(const struct version_info *v)
{
    return !v->memory && v->consistency == CONSISTENCY_RAM;
}

/* Does a version have this guid that stays? going: for each version of the list. */
static bool stays(const struct memory_list *list, const bool *going, const uint8_t guid[GUID_BYTES])
{
    for (uint32_t i = 0; i < list->n; i++)
        if (has_ram(&list->versions[i]) && !going[i] &&
            !memcmp(list->versions[i].guid, guid, GUID_BYTES))
            return true;
    return false;
}

int memory_list_going(const struct memory_list *list, const char *vm, const char *const *names,
                      uint32_t n, struct store_version **ret, uint32_t *ret_n)
{
    _cleanup_free_ bool *going = calloc((size_t)list->n + 1, sizeof(*going));
    struct store_version *out = calloc((size_t)list->n_memory + 1, sizeof(*out));
    uint32_t n_out = 0;

    if (!going || !out) {
        free(out);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < list->n; i++)
        going[i] = has_ram(&list->versions[i]) && !strcmp(list->versions[i].vm, vm) &&
                   is_named(&list->versions[i], names, n);
    for (uint32_t i = 0; i < list->n; i++) {
        const struct version_info *memory =
            going[i] ? memory_list_find(list, list->versions[i].guid) : NULL;
        if (!memory || stays(list, going, memory->guid))
            continue;
        strcpy(out[n_out].vm, memory->vm);
        strcpy(out[n_out].version, memory->name);
        n_out++;
    }
    *ret = out;
    *ret_n = n_out;
    return 0;
}
