/* process.h - running other programs, and being interrupted. One thread. */
#ifndef VARVE_CLI_PROCESS_H
#define VARVE_CLI_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the program, and writing to a
 * closed pipe is an error. */
void interrupt_catch(void);
bool interrupted(void);

/* Each chunk of a child's stdout; text has a terminating zero. */
typedef void process_output(void *arg, const char *text, size_t len);

struct process_result {
    int exit_code;     /* -1: it was ended by a signal */
    bool not_found;    /* the program is not installed */
    bool interrupted;  /* it was ended because this program was told to end */
    char errors[2048]; /* the end of its stderr */
};

/* Run argv[0] from PATH, hand its stdout to output, wait for it. An interrupt of this program,
 * also one that came before, is passed on to the child as SIGTERM, and so is each later one that
 * comes when the one before has been. Returns 0, or a negative errno when it could not be run at
 * all. */
int process_run(char *const *argv, process_output *output, void *arg, struct process_result *ret);

#endif
