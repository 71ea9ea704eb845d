/* options.c - the command line of varved. */
#include "daemon/options.h"

#include "base/size.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

enum { OPT_STORE, OPT_RUN, OPT_CONFIG, OPT_INIT, OPT_CAPACITY, OPT_CHECK, OPT_HELP, OPT_VERSION };

const struct option_doc option_docs[] = {
    [OPT_STORE] = {"store", "DIR", "The directory of the store. Default " DEFAULT_STORE "."},
    [OPT_RUN] =
        {"run", "DIR",
         "The directory of the sockets, made with mode 0700 if it is missing. Default " DEFAULT_RUN
         "."},
    [OPT_CONFIG] =
        {"config", "FILE",
         "The configuration file, see varve.conf(5). Without it /etc/varve/varve.conf is "
         "read if it is there."},
    [OPT_INIT] = {"init", NULL, "Make an empty store in the store directory and exit."},
    [OPT_CAPACITY] = {"capacity", "SIZE",
                      "With --init: the most that the store may occupy, such as 100G; at least "
                      "512M. Without it the store may take what its file system has when it is "
                      "opened: one that grows is used from the next start of varved on."},
    [OPT_CHECK] = {"check", NULL,
                   "Check the store, with no daemon running on it, and exit: every table and every "
                   "page is read, and what is alive is compared with the books; then the sealed "
                   "log files are read from end to end, for damage where nothing lives. Problems "
                   "are printed one a line."},
    [OPT_HELP] = {"help", NULL, "Print this help and exit."},
    [OPT_VERSION] = {"version", NULL, "Print the version and exit."},
};
const size_t option_docs_size = sizeof(option_docs) / sizeof(option_docs[0]);

static int take_option(int id, const char *value, struct options *o, struct why *why)
{
    switch (id) {
    case OPT_STORE:
        o->store = value;
        break;
    case OPT_RUN:
        o->run = value;
        break;
    case OPT_CONFIG:
        o->config = value;
        break;
    case OPT_INIT:
        o->init = true;
        break;
    case OPT_CHECK:
        o->check = true;
        break;
    case OPT_HELP:
        o->help = true;
        break;
    case OPT_VERSION:
        o->version = true;
        break;
    case OPT_CAPACITY:
        if (size_parse(value, &o->capacity_bytes) < 0 || o->capacity_bytes == 0)
            return why_set(why, -EINVAL, "--capacity is \"%s\"; it wants a size such as 100G",
                           value);
        break;
    }
    return 0;
}

static int check_together(const struct options *o, struct why *why)
{
    if (o->init && o->check)
        return why_set(why, -EINVAL, "--init and --check exclude each other");
    if (o->capacity_bytes && !o->init)
        return why_set(why, -EINVAL,
                       "--capacity belongs to --init: a store's capacity is set when "
                       "it is made");
    if (!*o->store || !*o->run)
        return why_set(why, -EINVAL, "--store and --run want the name of a directory");
    return 0;
}

int options_parse(int argc, char **argv, struct options *ret, struct why *why)
{
    struct options o = {.store = DEFAULT_STORE, .run = DEFAULT_RUN};
    struct option table[sizeof(option_docs) / sizeof(option_docs[0]) + 1] = {};
    int c, r;

    for (size_t i = 0; i < option_docs_size; i++)
        table[i] =
            (struct option){.name = option_docs[i].name,
                            .has_arg = option_docs[i].argument ? required_argument : no_argument,
                            .val = 256 + (int)i};
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, ":h", table, NULL)) != -1) {
        if (c == 'h')
            c = 256 + OPT_HELP;
        if (c == ':')
            return why_set(why, -EINVAL, "%s wants a value", argv[optind - 1]);
        if (c == '?')
            return why_set(why, -EINVAL, "%s is no option of varved; see varved --help",
                           argv[optind - 1]);
        r = take_option(c - 256, optarg, &o, why);
        if (r < 0)
            return r;
    }
    if (optind < argc)
        return why_set(why, -EINVAL,
                       "\"%s\" is too much: varved takes options only; see varved "
                       "--help",
                       argv[optind]);
    r = check_together(&o, why);
    if (r < 0)
        return r;
    *ret = o;
    return 0;
}

void options_print_help(void)
{
    printf("Usage: varved [OPTION...]\n\n"
           "Keep the state of virtual machines in a store and serve it over NBD.\n\n");
    for (size_t i = 0; i < option_docs_size; i++) {
        const struct option_doc *doc = &option_docs[i];
        printf("  --%s%s%s\n        %s\n", doc->name, doc->argument ? " " : "",
               doc->argument ? doc->argument : "", doc->help);
    }
}
