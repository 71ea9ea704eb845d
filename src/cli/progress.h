/* progress.h - a line that shows how far something is, on a terminal only. One thread. */
#ifndef VARVE_CLI_PROGRESS_H
#define VARVE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;
    bool terminal, shown;
    uint64_t start_us, last_us;
};

/* what: static, "importing". Nothing is printed when stderr is no terminal. */
void progress_start(struct progress *p, const char *what);

/* Percent, rate and time left; at most five times a second. total: 0 when it is not known yet. */
void progress_update(struct progress *p, uint64_t done_bytes, uint64_t total_bytes);

/* Clear the line. */
void progress_end(struct progress *p);

/* "3:07" or "2:03:07" for seconds; returns out. */
const char *duration_format(uint64_t seconds, char out[24]);

#endif
