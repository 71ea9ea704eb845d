/* select.c - which versions of a vm a list of names and ranges means. */
#include "daemon/select.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/text.h"
#include "image/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool select_is_range(const char *item)
{
    return strstr(item, "..") != NULL;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

uint32_t select_unique(const char **names, uint32_t n)
{
    uint32_t kept = 0;

    qsort(names, n, sizeof(*names), by_text);
    for (uint32_t i = 0; i < n; i++)
        if (!kept || strcmp(names[kept - 1], names[i]))
            names[kept++] = names[i];
    return kept;
}

/* ---- finding by name ------------------------------------------------------------------------ */

struct place {
    const char *name;
    uint32_t at;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct place *)a)->name, ((const struct place *)b)->name);
}

struct finder {
    const char *vm;
    struct place *places;
    uint32_t n;
    struct why *why;
};

static int find(const struct finder *f, const char *name, uint32_t *ret_at)
{
    const struct place key = {.name = name};
    const struct place *place = bsearch(&key, f->places, f->n, sizeof(key), by_name);

    if (!place)
        return why_set(f->why, ERR_NO_VERSION, "vm \"%s\" has no version \"%.*s\"; see varve ls %s",
                       f->vm, text_cut(name, 80), name, f->vm);
    *ret_at = place->at;
    return 0;
}

static int find_range(const struct finder *f, const char *item, uint32_t *ret_first,
                      uint32_t *ret_last)
{
    const char *dots = strstr(item, ".."), *second = dots + 2;
    char first[NAME_MAX_CHARS + 2];
    size_t len = (size_t)(dots - item);

    *ret_first = 0;
    *ret_last = f->n ? f->n - 1 : 0;
    if (len > NAME_MAX_CHARS)
        len = NAME_MAX_CHARS + 1; /* names nothing */
    memcpy(first, item, len);
    first[len] = '\0';
    int r = *first ? find(f, first, ret_first) : 0;
    if (r == 0 && *second)
        r = find(f, second, ret_last);
    if (r == 0 && *ret_first > *ret_last)
        return why_set(f->why, -EINVAL,
                       "%s@%s is younger than %s@%s; write the older one first: %s@%s..%s", f->vm,
                       first, f->vm, second, f->vm, second, first);
    return r;
}

int select_versions(const char *vm, const struct version_info *versions, uint32_t n,
                    const char *const *items, uint32_t n_items, const char ***ret, uint32_t *ret_n,
                    struct why *why)
{
    _cleanup_free_ struct place *places = calloc(n + 1, sizeof(*places));
    _cleanup_free_ bool *chosen = calloc(n + 1, sizeof(*chosen));
    _cleanup_free_ const char **names = calloc(n + 1, sizeof(*names));
    struct finder f = {.vm = vm, .places = places, .n = n, .why = why};
    uint32_t first = 0, last = 0, n_names = 0;
    int r = 0;

    if (!places || !chosen || !names)
        return why_set(why, -ENOMEM, "no memory");
    for (uint32_t i = 0; i < n; i++)
        places[i] = (struct place){.name = versions[i].name, .at = i};
    qsort(places, n, sizeof(*places), by_name);
    for (uint32_t i = 0; i < n_items && r == 0; i++) {
        if (select_is_range(items[i])) {
            r = find_range(&f, items[i], &first, &last);
        } else {
            r = find(&f, items[i], &first);
            last = first;
        }
        for (uint32_t v = first; r == 0 && v <= last && v < n; v++)
            chosen[v] = true;
    }
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < n; i++)
        if (chosen[i])
            names[n_names++] = versions[i].name;
    *ret_n = n_names;
    *ret = TAKE_PTR(names);
    return 0;
}
