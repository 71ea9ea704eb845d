/* restore-args-internal.h - between the files of restore-args.h. */
#ifndef VARVE_GUEST_RESTORE_ARGS_INTERNAL_H
#define VARVE_GUEST_RESTORE_ARGS_INTERNAL_H

#include "guest/option.h"
#include "guest/restore-args.h"

#include <stdbool.h>

/* A command line as it is rewritten. */
struct rewrite {
    const struct restore_changes *changes;
    struct restore_args *args;
    struct why *why;
    unsigned room, n_hubs;
    bool has_qmp;
    char tpm[64]; /* the character device of an emulated TPM, "": there is none */
};

void rewrite_lose(struct rewrite *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Add to the new command line. */
void rewrite_put(struct rewrite *w, const char *text);
void rewrite_put_two(struct rewrite *w, const char *name, const char *value);
void rewrite_put_option(struct rewrite *w, const char *name, const struct option *option);
/* What a path becomes that the caller has another one for; NULL: it stays. */
const char *rewrite_other_path(struct rewrite *w, const char *path);

/* -blockdev and -drive. */
int rewrite_disk(struct rewrite *w, const char *name, const char *value);
/* What is no option, or stands behind one that is not known: the name of a disk, maybe. */
void rewrite_word(struct rewrite *w, const char *word);
/* Whether all that was rewritten names the machine's own disks and files. Returns 0, or
 * -EOPNOTSUPP with a sentence. */
int rewrite_check_disks(struct rewrite *w);

#endif
