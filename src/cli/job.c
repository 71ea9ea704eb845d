/* job.c - waiting for a job of the daemon. */
#include "cli/job.h"

#include "cli/process.h"
#include "cli/progress.h"

#include <string.h>
#include <unistd.h>

#define FIRST_US 4000u

enum exit_code job_wait(const struct invocation *inv, json_t *id, const char *what,
                        unsigned most_us, bool (*enough)(const json_t *job), json_t **ret)
{
    unsigned pause_us = FIRST_US;
    bool cancelled = false;
    struct progress progress;
    json_t *job = NULL;
    enum exit_code r;

    interrupt_catch();
    progress_start(&progress, what);
    for (;;) {
        r = call(inv, "job.status", json_pack("[O]", id), &job);
        if (r != EXIT_OK || strcmp(member_text(job, "state"), "running") != 0 ||
            (enough && enough(job)))
            break;
        progress_update(&progress, member_u64(job, "done") * 4096, member_u64(job, "total") * 4096);
        json_decref(job);
        job = NULL;
        if (interrupted() && !cancelled) {
            cancelled = true;
            r = call(inv, "job.cancel", json_pack("[O]", id), NULL);
            if (r != EXIT_OK)
                break;
        }
        usleep(pause_us);
        pause_us += pause_us / 8; /* so that its end is seen an eighth late at the most */
        pause_us = pause_us < most_us ? pause_us : most_us;
    }
    progress_end(&progress);
    *ret = r == EXIT_OK ? job : NULL;
    return r;
}
