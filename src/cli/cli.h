/* cli.h - what the commands of varve share: the command table, calls to the daemon, messages.
 *
 * One thread. Data goes to stdout, messages to stderr; a handler returns an exit code and has
 * printed why. */
#ifndef VARVE_CLI_CLI_H
#define VARVE_CLI_CLI_H

#include "base/why.h"
#include "daemon/fault.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMMAND_OPTIONS_MAX 12

struct invocation;

struct option_spec {
    const char *name;
    const char *argument; /* NULL: a flag */
    const char *help;
    char letter; /* 0: none */
};

struct command {
    const char *name;      /* one word, or two: "disk add" */
    const char *arguments; /* as usage shows them: "VM [SIZE]" */
    const char *summary;   /* one line, no full stop */
    const char *text;      /* paragraphs, separated by empty lines */
    int min_args, max_args;
    struct option_spec options[COMMAND_OPTIONS_MAX];
    const char *examples[5];
    enum exit_code (*run)(const struct invocation *inv);
};
extern const struct command commands[];
extern const size_t n_commands;

/* Options that every command takes. */
extern const struct option_spec global_options[];
extern const size_t n_global_options;

struct invocation {
    const struct command *command;
    const char *run_dir;
    bool json, yes;
    int n_args;
    char **args;
    int n_rest; /* what stood behind "--" */
    char **rest;
    const char *values[COMMAND_OPTIONS_MAX]; /* by place in command->options; "" for a set flag */
};

/* The value of an option of the command; NULL when it was not given. */
const char *option_value(const struct invocation *inv, const char *name);

/* ---- messages ------------------------------------------------------------------------------- */

/* "varve: ..." on stderr; error() returns code. */
enum exit_code error(enum exit_code code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Before what destroys. EXIT_OK: --yes, or "y" typed at a terminal; else, after a message,
 * EXIT_FAILED: another answer, EXIT_USAGE: nobody there to be asked. */
enum exit_code confirm(const struct invocation *inv, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- output --------------------------------------------------------------------------------- */

/* Print value as JSON (indented, one newline). */
enum exit_code print_json(const json_t *value);

/* Columns of equal width; cells are copied. Columns whose letter in align is 'r' stand right. */
struct table;
struct table *table_new(const char *align);
void table_row(struct table *table, ...) __attribute__((sentinel)); /* const char *, ..., NULL */
void table_print(struct table *table);                              /* and free */

/* Members of an object: "" or 0 where there is none of that type. Decimal strings count as numbers.
 */
const char *member_text(const json_t *object, const char *key);
uint64_t member_u64(const json_t *object, const char *key);

/* The sum of a member over an array of objects. */
uint64_t member_sum(const json_t *array, const char *key);

/* ---- the daemon ----------------------------------------------------------------------------- */

#define NO_ARGUMENTS json_array()

/* Call a method with an array of arguments (taken; NULL, which is what json_pack() makes of text
 * that is not UTF-8: EXIT_USAGE). On success *ret is a new reference. On failure the sentence is
 * printed. */
enum exit_code call(const struct invocation *inv, const char *method, json_t *args, json_t **ret);

/* The same, where the caller wants to look at the sentence itself. */
enum exit_code call_quiet(const struct invocation *inv, const char *method, json_t *args,
                          json_t **ret, struct why *why);

/* Text of the user's becomes a member of options, or an item of list. EXIT_USAGE after a message,
 * and nothing is set: it is not UTF-8. */
enum exit_code set_text(json_t *options, const char *key, const char *text);
enum exit_code add_text(json_t *list, const char *text);

/* All versions of vm ("": of all vms), page after page, as version.list gives them. measure: find
 * out what is exclusive. *ret is a new reference. */
enum exit_code call_versions(const struct invocation *inv, const char *vm, bool measure,
                             json_t **ret);

/* After something that goes past the API (a copy over NBD) failed with code: where the daemon does
 * not answer any more, say so and return EXIT_UNREACHABLE; else return code. */
enum exit_code check_daemon(const struct invocation *inv, enum exit_code code);

/* ---- files ---------------------------------------------------------------------------------- */

/* A file that is complete gets its name, when it is on its disk. force: also if something has the
 * name. Prints why not. */
enum exit_code file_publish(const char *partial, const char *path, bool force);

/* ---- names and sizes ------------------------------------------------------------------------ */

struct disk_name {
    char vm[256], disk[256]; /* longer ones are cut, and refused by the daemon as too long */
    bool has_disk;           /* else disk is "root" */
};
void disk_name_split(const char *text, struct disk_name *ret);

struct version_name {
    char vm[256], version[256]; /* as above; version: may be a range */
    bool has_version;
};
void version_name_split(const char *text, struct version_name *ret);

/* The same, where a version has to be named. EXIT_USAGE after a message that says how. */
enum exit_code version_name_read(const char *text, struct version_name *ret);

/* Refuse what only whole disks are good for where an import is under way or was cut off: object is
 * a vm or a disk of the API, whose name is for the message. EXIT_OK: it is whole. */
enum exit_code check_whole(const json_t *object, const char *what, const char *name);

/* "provisional", "in use" or "idle": of a vm or a disk with so many users. */
const char *state_text(const json_t *object, uint64_t users);

/* What vm.show and vm.attach tell of a machine; nothing where there is none. And what version.show
 * tells of a checkpoint. checkpoint.c */
void print_machine(const json_t *machine);
void print_checkpoint(const json_t *version);

/* EXIT_USAGE after a message: what cannot name a machine (a directory is made of it). */
enum exit_code check_machine_name(const char *name);

/* Read SIZE for a disk into decimal text. EXIT_USAGE after a message that says what a size is. */
enum exit_code read_disk_size(const char *text, uint64_t *ret_bytes);

/* ---- handlers, by file ---------------------------------------------------------------------- */

enum exit_code cmd_create(const struct invocation *inv); /* vm.c */
enum exit_code cmd_show(const struct invocation *inv);
enum exit_code cmd_rename(const struct invocation *inv);
enum exit_code cmd_disk_add(const struct invocation *inv);
enum exit_code cmd_disk_rm(const struct invocation *inv);
enum exit_code cmd_disk_resize(const struct invocation *inv);
enum exit_code cmd_ls(const struct invocation *inv);   /* list.c */
enum exit_code cmd_rm(const struct invocation *inv);   /* remove.c */
enum exit_code cmd_snap(const struct invocation *inv); /* version.c */
enum exit_code cmd_hold(const struct invocation *inv);
enum exit_code cmd_release(const struct invocation *inv);
enum exit_code cmd_rollback(const struct invocation *inv);
enum exit_code cmd_clone(const struct invocation *inv);
enum exit_code cmd_diff(const struct invocation *inv); /* diff.c */
enum exit_code cmd_init(const struct invocation *inv); /* store.c */
enum exit_code cmd_df(const struct invocation *inv);
enum exit_code cmd_stats(const struct invocation *inv);
enum exit_code cmd_check(const struct invocation *inv);
enum exit_code cmd_version(const struct invocation *inv);
enum exit_code cmd_import(const struct invocation *inv);  /* import.c */
enum exit_code cmd_export(const struct invocation *inv);  /* export.c */
enum exit_code cmd_send(const struct invocation *inv);    /* send.c */
enum exit_code cmd_recv(const struct invocation *inv);    /* recv.c */
enum exit_code cmd_run(const struct invocation *inv);     /* run.c */
enum exit_code cmd_restore(const struct invocation *inv); /* restore.c */
enum exit_code cmd_console(const struct invocation *inv); /* machine.c */
enum exit_code cmd_stop(const struct invocation *inv);
enum exit_code cmd_attach(const struct invocation *inv); /* checkpoint.c */
enum exit_code cmd_detach(const struct invocation *inv);
enum exit_code cmd_checkpoint(const struct invocation *inv);
enum exit_code cmd_help(const struct invocation *inv); /* help.c */

/* ---- help ----------------------------------------------------------------------------------- */

void print_help(void);
void print_command_help(const struct command *command);
/* The command named by the first one or two words; *ret_words: how many it took. NULL: none. */
const struct command *command_find(int n_words, char **words, int *ret_words);

/* Say that the words are no command, and which ones begin with the first. Returns EXIT_USAGE. */
enum exit_code no_command(int n_words, char **words);
/* Where the words are the first one of several commands, such as "disk", list those with their
 * summaries. False: they are not. */
bool print_group_help(int n_words, char **words);

#endif
