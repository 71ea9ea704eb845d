/* help.c - everything that is generated from the table of commands: help, varve(1), completion. */
#include "cli/cli.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 79

const struct command *command_find(int n_words, char **words, int *ret_words)
{
    char two[64];

    if (n_words > 1) {
        snprintf(two, sizeof(two), "%s %s", words[0], words[1]);
        for (size_t i = 0; i < n_commands; i++)
            if (!strcmp(commands[i].name, two)) {
                *ret_words = 2;
                return &commands[i];
            }
    }
    for (size_t i = 0; n_words > 0 && i < n_commands; i++)
        if (!strcmp(commands[i].name, words[0])) {
            *ret_words = 1;
            return &commands[i];
        }
    return NULL;
}

/* "disk" alone is the first word of several commands. */
enum exit_code no_command(int n_words, char **words)
{
    size_t len = strlen(words[0]), at = 0;
    char list[256] = "";

    for (size_t i = 0; i < n_commands; i++)
        if (!strncmp(commands[i].name, words[0], len) && commands[i].name[len] == ' ')
            at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "",
                                   commands[i].name);
    if (at)
        return error(EXIT_USAGE, "\"%s%s%s\" is no command; there are: %s", words[0],
                     n_words > 1 ? " " : "", n_words > 1 ? words[1] : "", list);
    return error(EXIT_USAGE, "\"%s\" is no command; see varve help", words[0]);
}

bool print_group_help(int n_words, char **words)
{
    size_t len = strlen(words[0]);
    bool found = false;

    for (size_t i = 0; n_words == 1 && i < n_commands; i++)
        if (!strncmp(commands[i].name, words[0], len) && commands[i].name[len] == ' ') {
            if (!found)
                printf("Commands:\n");
            printf("  %-12s %s\n", commands[i].name, commands[i].summary);
            found = true;
        }
    return found;
}

/* Print text in lines of at most WIDTH, each with an indent. */
static void wrap(const char *text, int indent)
{
    int column = 0;

    while (*text) {
        size_t word = strcspn(text, " \n");
        if (column && column + 1 + (int)word > WIDTH) {
            putchar('\n');
            column = 0;
        }
        column += column ? printf(" %.*s", (int)word, text)
                         : printf("%*s%.*s", indent, "", (int)word, text);
        text += word;
        if (!strncmp(text, "\n\n", 2)) {
            printf("\n\n");
            column = 0;
        }
        text += strspn(text, " \n");
    }
    putchar('\n');
}

static void print_option(const struct option_spec *spec)
{
    char letter[] = "-x, ";

    letter[1] = spec->letter;
    printf("  %s--%s%s%s\n", spec->letter ? letter : "", spec->name, spec->argument ? " " : "",
           spec->argument ? spec->argument : "");
    wrap(spec->help, 8);
}

void print_help(void)
{
    printf("Usage: varve [--run DIR] [--json] COMMAND [ARGUMENT...]\n\nCommands:\n");
    for (size_t i = 0; i < n_commands; i++)
        printf("  %-12s %s\n", commands[i].name, commands[i].summary);
    printf("\nOptions of every command:\n");
    for (size_t i = 0; i < n_global_options; i++)
        print_option(&global_options[i]);
    printf("\n\"varve help COMMAND\" says more.\n");
}

void print_command_help(const struct command *c)
{
    printf("Usage: varve %s%s%s%s\n\n", c->name, c->options[0].name ? " [OPTION...]" : "",
           *c->arguments ? " " : "", c->arguments);
    wrap(c->text, 0);
    if (c->options[0].name)
        printf("\nOptions:\n");
    for (size_t i = 0; i < COMMAND_OPTIONS_MAX && c->options[i].name; i++)
        print_option(&c->options[i]);
    printf("\nExamples:\n");
    for (size_t i = 0; i < 5 && c->examples[i]; i++)
        printf("  %s\n", c->examples[i]);
}

/* ---- varve(1) ------------------------------------------------------------------------------- */

/* Text as troff source: hyphens that may be typed, backslashes, leading dots; \n\n is a paragraph.
 */
static void troff(const char *text)
{
    bool line_start = true;

    for (; *text; text++) {
        if (!strncmp(text, "\n\n", 2)) {
            printf("\n.PP\n");
            text++;
            line_start = true;
            continue;
        }
        if (line_start && (*text == '.' || *text == '\''))
            printf("\\&");
        if (*text == '-' || *text == '\\')
            printf(*text == '-' ? "\\-" : "\\e");
        else
            putchar(*text);
        line_start = *text == '\n';
    }
}

static void troff_option(const struct option_spec *spec)
{
    printf(".TP\n.B ");
    if (spec->letter)
        printf("\\-%c\\fR, \\fB", spec->letter);
    printf("\\-\\-");
    troff(spec->name);
    if (spec->argument) {
        printf(" \\fI");
        troff(spec->argument);
        printf("\\fR");
    }
    putchar('\n');
    troff(spec->help);
    putchar('\n');
}

static void troff_command(const struct command *c)
{
    printf(".SS varve %s ", c->name);
    troff(c->arguments);
    putchar('\n');
    troff(c->text);
    putchar('\n');
    for (size_t i = 0; i < COMMAND_OPTIONS_MAX && c->options[i].name; i++)
        troff_option(&c->options[i]);
    printf(".PP\n.nf\n");
    for (size_t i = 0; i < 5 && c->examples[i]; i++) {
        printf(".B ");
        troff(c->examples[i]);
        putchar('\n');
    }
    printf(".fi\n");
}

static void print_man(void)
{
    static const char *const codes[] = {"done",
                                        "failed",
                                        "wrong usage",
                                        "not found",
                                        "conflict: it exists, or is in use",
                                        "the daemon cannot be reached"};

    printf(".TH VARVE 1 \"\" \"Varve " VARVE_VERSION "\" \"Varve\"\n"
           ".SH NAME\nvarve \\- keep the state of virtual machines\n"
           ".SH SYNOPSIS\n.B varve\n[\\fB\\-\\-run\\fR \\fIDIR\\fR] [\\fB\\-\\-json\\fR] "
           "\\fICOMMAND\\fR [\\fIARGUMENT\\fR...]\n.SH DESCRIPTION\n");
    troff("Commands on the vms that a varved daemon keeps. Data goes to stdout, messages go to "
          "stderr. A "
          "vm is named by 1 to 64 letters, digits, '.', '_' and '-'; a disk as VM/DISK.");
    printf("\n.SH OPTIONS\n");
    for (size_t i = 0; i < n_global_options; i++)
        troff_option(&global_options[i]);
    printf(".SH COMMANDS\n");
    for (size_t i = 0; i < n_commands; i++)
        troff_command(&commands[i]);
    printf(".SH EXIT STATUS\n");
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        printf(".TP\n.B %zu\n%s\n", i, codes[i]);
    printf(".SH ENVIRONMENT\n.TP\n.B VARVE_RUN\nThe daemon's run directory, if \\-\\-run is not "
           "given.\n"
           ".TP\n.B NO_COLOR\nMessages are not coloured when it is set.\n"
           ".SH SEE ALSO\n.BR varved (8),\n.BR varve.conf (5)\n");
}

/* ---- completion ----------------------------------------------------------------------------- */

/* The words that may follow: options by command, names of vms where one is wanted. */
static void print_bash(void)
{
    printf(
        "# bash completion for varve; made by: varve help --completion bash\n"
        "_varve_versions() { # bash breaks words at @\n"
        "    varve ls --unmeasured \"${1%%%%/*}\" 2>/dev/null | awk 'NR > 1 { sub(/^[^@]*@/, \"\", "
        "$1); print $1 }'\n"
        "}\n"
        "_varve() {\n"
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
        "    local command= i options vms=\n"
        "    COMPREPLY=()\n"
        "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "        case ${COMP_WORDS[i]} in\n"
        "            --run) ((i++)) ;;\n"
        "            -*) ;;\n"
        "            disk) command=\"disk ${COMP_WORDS[i+1]}\"; ((i++)); break ;;\n"
        "            *) command=${COMP_WORDS[i]}; break ;;\n"
        "        esac\n"
        "    done\n"
        "    case $prev in\n"
        "        --run|--store) COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n"
        "        --kernel|--initrd) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"
        "        --format|-f) COMPREPLY=($(compgen -W 'raw qcow2 vmdk vhdx vdi' -- \"$cur\")); "
        "return ;;\n"
        "        --accel) COMPREPLY=($(compgen -W 'auto kvm tcg' -- \"$cur\")); return ;;\n"
        "        --role) COMPREPLY=($(compgen -W 'generic app database balancer' -- \"$cur\")); "
        "return ;;\n"
        "        --quiesce) COMPREPLY=($(compgen -W 'off auto require' -- \"$cur\")); return ;;\n"
        "        --agent) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"
        "        --completion) COMPREPLY=($(compgen -W 'bash' -- \"$cur\")); return ;;\n"
        "    esac\n"
        "    options='");
    for (size_t i = 0; i < n_global_options; i++)
        printf("%s--%s", i ? " " : "", global_options[i].name);
    printf("'\n    case $command in\n");
    for (size_t i = 0; i < n_commands; i++) {
        const struct command *c = &commands[i];
        printf("        '%s') options+='", c->name);
        for (size_t o = 0; o < COMMAND_OPTIONS_MAX && c->options[o].name; o++)
            printf(" --%s", c->options[o].name);
        printf("'%s ;;\n", (strstr(c->arguments, "VM") && strcmp(c->name, "create")) ||
                                   !strncmp(c->arguments, "NAME", 4)
                               ? "; vms=1"
                               : "");
    }
    printf("        'disk '*) COMPREPLY=($(compgen -W 'add rm resize' -- \"$cur\")); return ;;\n"
           "        '') COMPREPLY=($(compgen -W \"$options");
    for (size_t i = 0; i < n_commands; i++)
        if (!strchr(commands[i].name, ' '))
            printf(" %s", commands[i].name);
    printf(
        " disk\" -- \"$cur\")); return ;;\n"
        "    esac\n"
        "    if [[ $cur == -* ]]; then\n"
        "        COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n"
        "    elif [[ $vms && $cur == @ ]]; then\n"
        "        COMPREPLY=($(compgen -W \"$(_varve_versions \"$prev\")\"))\n"
        "    elif [[ $vms && $prev == @ ]]; then\n"
        "        COMPREPLY=($(compgen -W \"$(_varve_versions \"${COMP_WORDS[COMP_CWORD-2]}\")\" -- "
        "\"$cur\"))\n"
        "    elif [[ $vms ]]; then\n"
        "        COMPREPLY=($(compgen -W \"$(varve ls 2>/dev/null | awk 'NR > 1 { print $1 "
        "}')\" -- "
        "\"$cur\"))\n"
        "    fi\n"
        "    case $command in\n"
        "        import|export|init) COMPREPLY+=($(compgen -f -- \"$cur\")) ;;\n"
        "    esac\n"
        "}\n"
        "complete -F _varve varve\n");
}

enum exit_code cmd_help(const struct invocation *inv)
{
    const char *shell = option_value(inv, "completion");
    int words;

    if (option_value(inv, "man")) {
        print_man();
        return EXIT_OK;
    }
    if (shell && strcmp(shell, "bash"))
        return error(EXIT_USAGE, "there is completion for bash only, not for \"%s\"", shell);
    if (shell) {
        print_bash();
        return EXIT_OK;
    }
    if (!inv->n_args) {
        print_help();
        return EXIT_OK;
    }
    const struct command *command = command_find(inv->n_args, inv->args, &words);
    if (!command)
        return print_group_help(inv->n_args, inv->args) ? EXIT_OK
                                                        : no_command(inv->n_args, inv->args);
    print_command_help(command);
    return EXIT_OK;
}
