/* job.h - waiting for a job of the daemon. One thread. */
#ifndef VARVE_CLI_JOB_H
#define VARVE_CLI_JOB_H

#include "cli/cli.h"

#include <jansson.h>

/* Wait until the job is no longer running, or enough() says so of what job.status tells (NULL: only
 * the former), with progress under the name of what on a terminal. Ctrl-C cancels it. It is asked
 * for after 4 ms, then less and less often, in pauses of an eighth of what it took so far and of
 * most_us at the most. id: borrowed. *ret: the last
 * status, the caller's, on EXIT_OK; else NULL. The error has been told. */
enum exit_code job_wait(const struct invocation *inv, json_t *id, const char *what,
                        unsigned most_us, bool (*enough)(const json_t *job), json_t **ret);

#endif
