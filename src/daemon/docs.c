/* docs.c - prints the documents that come from the daemon's tables: varved(8), varve.conf(5) and
 * docs/api.md. Runs at build. */
#include "daemon/api.h"
#include "daemon/config.h"
#include "daemon/fault.h"
#include "daemon/options.h"

#include <stdio.h>
#include <string.h>

static void troff(const char *text)
{
    for (; *text; text++) {
        if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '\\')
            fputs("\\e", stdout);
        else
            putchar(*text);
    }
}

static void title(const char *name, const char *section, const char *summary)
{
    printf(".TH %s %s \"\" \"Varve " VARVE_VERSION "\" \"Varve\"\n.SH NAME\n", name, section);
    for (; *name; name++)
        putchar(*name >= 'A' && *name <= 'Z' ? *name + 'a' - 'A' : *name);
    printf(" \\- %s\n", summary);
}

static void print_varved(void)
{
    title("VARVED", "8", "the daemon that keeps the state of virtual machines");
    printf(
        ".SH SYNOPSIS\n.B varved\n[\\fIOPTION\\fR...]\n.SH DESCRIPTION\n"
        "varved opens a store and serves its disks by NBD and its control API by XML\\-RPC, on two "
        "sockets in its run directory: nbd.sock and varve.sock. It stays in the foreground and "
        "tells systemd when it is ready.\n.PP\nOn SIGTERM and SIGINT it stops accepting, finishes "
        "what is under way, and closes the store. Whatever way it ends, no acknowledged write is "
        "lost, and clients that reconnect go on.\n.SH EXPORTS\n.TP\n.B VM/DISK\na disk; the name "
        "of the vm alone means its disk root\n"
        ".TP\n.B VM/DISK@VERSION\nwhat it was in a version, read\\-only; VM@VERSION for root. "
        "Lists of exports "
        "do not have them.\n.PP\nThe context varve:changed:VERSION of an export tells which of its "
        "blocks "
        "differ from that version: see docs/nbd.md.\n.SH OPTIONS\n");
    for (size_t i = 0; i < option_docs_size; i++) {
        printf(".TP\n.B \\-\\-%s", option_docs[i].name);
        if (option_docs[i].argument)
            printf(" \\fI%s\\fR", option_docs[i].argument);
        putchar('\n');
        troff(option_docs[i].help);
        putchar('\n');
    }
    printf(".SH EXIT STATUS\n.TP\n.B 0\nstopped in order, or done\n.TP\n.B 1\nfailed; with "
           "\\-\\-check: problems were found\n.TP\n.B 2\nwrong usage or configuration\n.TP\n.B 3\n"
           "there is no store\n.TP\n.B 4\nthe store or the run directory is in use, or a store is "
           "there already\n.SH FILES\n.TP\n.B " CONFIG_DEFAULT_FILE "\nthe configuration\n.TP\n"
           ".B " DEFAULT_STORE "\nthe store\n.TP\n.B " DEFAULT_RUN "\nthe run directory\n"
           ".SH SEE ALSO\n.BR varve (1),\n.BR varve.conf (5)\n");
}

static void print_conf(void)
{
    struct config defaults;
    const char *section = "";
    char text[32];

    config_defaults(&defaults);
    title("VARVE.CONF", "5", "configuration of varved");
    printf(
        ".SH SYNOPSIS\n.B " CONFIG_DEFAULT_FILE "\n.SH DESCRIPTION\n"
        "Lines \\(lqkey = value\\(rq under a \\(lq[section]\\(rq; lines that begin with # or ; are "
        "comments. Sizes are written as 64M or 2G. A key that is not listed here, stands twice, or "
        "has a value out of its range makes varved refuse to start.\n");
    for (size_t i = 0; i < config_keys_size; i++) {
        const struct config_key *key = &config_keys[i];
        if (strcmp(section, key->section))
            printf(".SH [%s]\n", section = key->section);
        printf(".TP\n.B ");
        troff(key->name);
        putchar('\n');
        troff(key->help);
        for (int c = 0; key->type == CONFIG_CHOICE && c < 5 && key->choices[c]; c++)
            printf("%s%s", c ? ", " : " One of ", key->choices[c]);
        printf("%s Default: %s.\n", key->type == CONFIG_CHOICE ? "." : "",
               config_value_text(key, &defaults, text));
    }
    printf(".SH EXAMPLE\n.nf\n[store]\ncache\\-size = 2G\n\n[daemon]\nlog\\-level = warning\n.fi\n"
           ".SH SEE ALSO\n.BR varved (8)\n");
}

static const char *type_word(char letter)
{
    switch (letter) {
    case 'i':
        return "int";
    case 'b':
        return "boolean";
    case 's':
        return "string";
    case 'S':
        return "struct";
    case 'A':
        return "array";
    default:
        return "?";
    }
}

/* The longest signature names every argument; the shorter ones show what may be left out. */
static void print_method(const struct method *m)
{
    const char *longest = m->signatures, *argument = m->arguments;
    size_t least = 99, n = 0;

    for (const char *s = m->signatures; s; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL) {
        size_t len = strcspn(s + 2, ",");
        if (len >= strcspn(longest + 2, ","))
            longest = s;
        if (len < least)
            least = len;
    }
    printf("### %s\n\n`%s(", m->name, m->name);
    for (const char *letter = longest + 2; *letter && *letter != ','; letter++, n++) {
        size_t len = strcspn(argument, ",");
        printf("%s%s%s %.*s", n >= least ? "[" : "", n ? ", " : "", type_word(*letter), (int)len,
               argument);
        argument += len + strspn(argument + len, ", ");
    }
    for (; n > least; n--)
        putchar(']');
    printf(")` returns %s\n\n%s\n\n", type_word(m->signatures[0]), m->help);
}

static void print_api(void)
{
    printf(
        "# Control API\n\n"
        "<!-- Written by the build from the tables in src/daemon; a test compares. -->\n\n"
        "XML-RPC over HTTP: POST to `/RPC2` on the Unix socket `varve.sock` in the run directory. "
        "A "
        "request may have 1 MiB and no document type. `system.listMethods`, `system.methodHelp`, "
        "`system.methodSignature` and `system.multicall` are there. Sizes and counters are decimal "
        "strings of bytes or events, since XML-RPC's integers end at 31 bits; times are UTC in ISO "
        "8601.\n\n## Methods\n\n");
    for (const struct method *const *part = api_methods; *part; part++)
        for (const struct method *m = *part; m->name; m++)
            print_method(m);
    printf(
        "## Faults\n\nThe number decides; the sentence beside it is for people and may change.\n\n"
        "| number | name | meaning | exit code of varve |\n|---|---|---|---|\n");
    for (size_t i = 0; i < fault_table_size; i++)
        printf("| %d | %s | %s | %d |\n", fault_table[i].number, fault_table[i].name,
               fault_table[i].meaning, (int)fault_table[i].exit_code);
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";

    if (!strcmp(what, "varved.8"))
        print_varved();
    else if (!strcmp(what, "varve.conf.5"))
        print_conf();
    else if (!strcmp(what, "api.md"))
        print_api();
    else
        return fprintf(stderr, "usage: varve-docs varved.8|varve.conf.5|api.md\n"), 2;
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
