/* main.c - varve: finds the command, reads its options, runs it. */
#include "cli/cli.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_RUN "/run/varve"

/* getopt_long() values: global options, then those of the command. */
enum { OPT_GLOBAL = 256, OPT_COMMAND = 512 };

const struct option_spec global_options[] = {
    {"run", "DIR", "The daemon's run directory. Default $VARVE_RUN, else " DEFAULT_RUN ".", 0},
    {"json", NULL, "Print data as JSON.", 0},
    {"yes", NULL, "Do not ask before destroying something.", 'y'},
    {"help", NULL, "Print help on the command and exit.", 'h'},
};
const size_t n_global_options = sizeof(global_options) / sizeof(global_options[0]);

const char *option_value(const struct invocation *inv, const char *name)
{
    const struct option_spec *specs = inv->command->options;

    for (size_t i = 0; i < COMMAND_OPTIONS_MAX && specs[i].name; i++)
        if (!strcmp(specs[i].name, name))
            return inv->values[i];
    abort(); /* the table and the handler disagree */
}

static void add_options(const struct option_spec *specs, size_t n, int base, struct option *table,
                        size_t *n_table, char *letters)
{
    for (size_t i = 0; i < n && specs[i].name; i++) {
        table[(*n_table)++] = (struct option){
            .name = specs[i].name,
            .has_arg = specs[i].argument ? required_argument : no_argument,
            .val = base + (int)i,
        };
        if (specs[i].letter) {
            size_t at = strlen(letters);
            letters[at] = specs[i].letter;
            strcpy(letters + at + 1, specs[i].argument ? ":" : "");
        }
    }
}

static int value_of_letter(const struct option_spec *specs, size_t n, int base, int letter)
{
    for (size_t i = 0; i < n && specs[i].name; i++)
        if (specs[i].letter == letter)
            return base + (int)i;
    return -1;
}

static void take_global(struct invocation *inv, int number, bool *help)
{
    switch (number) {
    case 0:
        inv->run_dir = optarg;
        break;
    case 1:
        inv->json = true;
        break;
    case 2:
        inv->yes = true;
        break;
    default:
        *help = true;
    }
}

/* Options from argv on; stop_early: end at the first word that is no option (the command). */
static bool read_options(struct invocation *inv, int argc, char **argv, bool stop_early, bool *help)
{
    const struct option_spec *specs = inv->command ? inv->command->options : NULL;
    struct option table[COMMAND_OPTIONS_MAX + 8] = {};
    char letters[64];
    size_t n = 0;
    int c;

    strcpy(letters, stop_early ? "+:" : ":");
    add_options(global_options, n_global_options, OPT_GLOBAL, table, &n, letters);
    if (specs)
        add_options(specs, COMMAND_OPTIONS_MAX, OPT_COMMAND, table, &n, letters);
    opterr = 0;
    optind = 0;
    while ((c = getopt_long(argc, argv, letters, table, NULL)) != -1) {
        if (c == ':' || c == '?') {
            error(EXIT_USAGE, c == ':' ? "%s wants a value" : "%s is no option of %s%s%s",
                  argv[optind - 1], inv->command ? "varve " : "varve",
                  inv->command ? inv->command->name : "", "; see --help");
            return false;
        }
        if (c < OPT_GLOBAL) {
            int letter = c;
            c = value_of_letter(global_options, n_global_options, OPT_GLOBAL, letter);
            if (c < 0)
                c = value_of_letter(specs, COMMAND_OPTIONS_MAX, OPT_COMMAND, letter);
        }
        if (c >= OPT_COMMAND)
            inv->values[c - OPT_COMMAND] = optarg ? optarg : "";
        else
            take_global(inv, c - OPT_GLOBAL, help);
    }
    return true;
}

/* Cut argv at "--": what stands behind is for the command's own use. */
static int split_rest(struct invocation *inv, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--")) {
            inv->rest = argv + i + 1;
            inv->n_rest = argc - i - 1;
            return i;
        }
    return argc;
}

static enum exit_code run_command(struct invocation *inv, int argc, char **argv)
{
    const struct command *command = inv->command;
    bool help = false;

    argc = split_rest(inv, argc, argv);
    if (!read_options(inv, argc, argv, false, &help))
        return EXIT_USAGE;
    if (help) {
        print_command_help(command);
        return EXIT_OK;
    }
    inv->args = argv + optind;
    inv->n_args = argc - optind;
    if (inv->n_args < command->min_args || inv->n_args > command->max_args ||
        (inv->rest && command->run != cmd_run))
        return error(EXIT_USAGE, "usage: varve %s%s%s%s; see varve help %s", command->name,
                     command->options[0].name ? " [OPTION...]" : "", *command->arguments ? " " : "",
                     command->arguments, command->name);
    if (!*inv->run_dir)
        return error(EXIT_USAGE, "--run wants the name of a directory");
    enum exit_code r = command->run(inv);
    if (fflush(stdout) != 0 || ferror(stdout))
        return error(EXIT_FAILED, "cannot write the output");
    return r;
}

int main(int argc, char **argv)
{
    const char *run_dir = getenv("VARVE_RUN");
    struct invocation inv = {.run_dir = run_dir && *run_dir ? run_dir : DEFAULT_RUN};
    bool help = false;
    int words;

    if (!read_options(&inv, argc, argv, true, &help))
        return EXIT_USAGE;
    if (optind == argc) {
        print_help();
        return help ? EXIT_OK : EXIT_USAGE;
    }
    argc -= optind;
    argv += optind;
    inv.command = command_find(argc, argv, &words);
    if (!inv.command) {
        help |= argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"));
        return help && print_group_help(1, argv) ? EXIT_OK : no_command(argc, argv);
    }
    if (help) {
        print_command_help(inv.command);
        return EXIT_OK;
    }
    /* getopt wants a program name in front: the last word of the command. */
    return run_command(&inv, argc - words + 1, argv + words - 1);
}
