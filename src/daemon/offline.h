/* offline.h - varved --init and --check: a store without a daemon. Main thread only. */
#ifndef VARVE_DAEMON_OFFLINE_H
#define VARVE_DAEMON_OFFLINE_H

#include "base/why.h"

#include <stdint.h>

struct config;

/* Make an empty store at path (the directory too). Returns 0 or a code with a sentence; on failure
 * nothing is left that was not there. */
int offline_init(const char *path, uint64_t capacity_bytes, const struct config *config,
                 struct why *why);

/* Check everything; problems go to stdout, one a line, or that there are none. Returns 0 with the
 * number of problems, or a code with a sentence. */
int offline_check(const char *path, const struct config *config, uint64_t *ret_problems,
                  struct why *why);

#endif
