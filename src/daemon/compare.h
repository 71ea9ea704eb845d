/* compare.h - whether a vm is what one of its versions is. Control threads. */
#ifndef VARVE_DAEMON_COMPARE_H
#define VARVE_DAEMON_COMPARE_H

#include <stdbool.h>

struct engine;

/* Compare the disks, their sizes and their pages; what is found first ends it, and what both share
 * is not read. Returns 0, -ENOENT (no such vm or version) or an error of the store. */
int compare_head(struct engine *engine, const char *vm, const char *version, bool *ret_differs);

#endif
