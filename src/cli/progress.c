/* progress.c - a line that shows how far something is. */
#include "cli/progress.h"

#include "base/mono.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define INTERVAL_US 200000

void progress_start(struct progress *p, const char *what)
{
    *p = (struct progress){.what = what, .terminal = isatty(STDERR_FILENO), .start_us = mono_us()};
}

const char *duration_format(uint64_t seconds, char out[24])
{
    if (seconds < 3600)
        snprintf(out, 24, "%" PRIu64 ":%02" PRIu64, seconds / 60, seconds % 60);
    else
        snprintf(out, 24, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, seconds / 3600, seconds / 60 % 60,
                 seconds % 60);
    return out;
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
    char rate_text[SIZE_TEXT_CHARS], left_text[24];
    uint64_t now = mono_us();

    if (!p->terminal || total == 0 || now - p->last_us < INTERVAL_US)
        return;
    p->last_us = now;
    if (done > total)
        done = total;
    uint64_t elapsed = now - p->start_us + 1;
    uint64_t rate = (uint64_t)((double)done * 1e6 / (double)elapsed);
    fprintf(stderr, "\r%s  %5.1f %%  %s/s  ", p->what, 100.0 * (double)done / (double)total,
            size_format(rate, rate_text));
    if (rate > 0)
        fprintf(stderr, "%s left", duration_format((total - done) / rate, left_text));
    fprintf(stderr, "\033[K");
    fflush(stderr);
    p->shown = true;
}

void progress_end(struct progress *p)
{
    if (p->shown)
        fprintf(stderr, "\r\033[K");
    p->shown = false;
}
