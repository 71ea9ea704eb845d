/* options.h - the command line of varved: one table for the parser, --help and varved(8). */
#ifndef VARVE_DAEMON_OPTIONS_H
#define VARVE_DAEMON_OPTIONS_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEFAULT_STORE "/var/lib/varve"
#define DEFAULT_RUN   "/run/varve"

struct options {
    const char *store, *run; /* point into argv or are static */
    const char *config;      /* NULL: the default file, if it is there */
    uint64_t capacity_bytes; /* 0: grows with the file system */
    bool init, check, help, version;
};

struct option_doc {
    const char *name, *argument; /* argument: NULL for a flag */
    const char *help;
};
extern const struct option_doc option_docs[];
extern const size_t option_docs_size;

/* Returns 0, or -EINVAL with a sentence. */
int options_parse(int argc, char **argv, struct options *ret, struct why *why);

void options_print_help(void);

#endif
