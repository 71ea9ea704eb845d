/* select.h - which versions of a vm a list of names and ranges means. Any thread.
 *
 * A range is "a..c": from a to c in the order of age, both included; an end may be left out, and
 * ".." means all. Names of versions have no two dots in them. */
#ifndef VARVE_DAEMON_SELECT_H
#define VARVE_DAEMON_SELECT_H

#include "base/why.h"

#include <stdbool.h>
#include <stdint.h>

struct version_info;

bool select_is_range(const char *item);

/* versions: of one vm, by age. items: names and ranges, in any order, more than once too.
 * ret: the names, each once, by age, in an array that the caller frees; they are borrowed from
 * versions. Errors with a sentence: ERR_NO_VERSION, -EINVAL (the first end of a range is the
 * younger one), -ENOMEM. */
int select_versions(const char *vm, const struct version_info *versions, uint32_t n,
                    const char *const *items, uint32_t n_items, const char ***ret, uint32_t *ret_n,
                    struct why *why);

/* Sort names that are no ranges and drop those that stand twice. Returns how many stay. */
uint32_t select_unique(const char **names, uint32_t n);

#endif
