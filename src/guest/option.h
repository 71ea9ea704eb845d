/* option.h - the value of a QEMU option, "first,key=value,key=value", as a list that can be
 * changed. A comma inside a value is written twice. One thread. */
#ifndef VARVE_GUEST_OPTION_H
#define VARVE_GUEST_OPTION_H

#include <stdbool.h>

#define OPTION_PARTS_MAX 256

struct option {
    struct option_part {
        char *key;   /* NULL: a word alone, such as the first */
        char *value; /* as it is meant, without doubled commas */
    } parts[OPTION_PARTS_MAX];
    unsigned n;
    bool failed; /* no memory, or too many parts */
};

/* Take text apart. Returns whether it went well; option_free() in any case. */
bool option_parse(struct option *option, const char *text);
void option_free(struct option *option);
/* Together again, for free(); NULL: no memory. */
char *option_print(const struct option *option);

/* The value of a key (of several the last), or NULL. Key "" is the first word alone. */
const char *option_get(const struct option *option, const char *key);
bool option_is(const struct option *option, const char *key, const char *value);
/* "on" and its like; a key without a value counts. */
bool option_is_on(const struct option *option, const char *key);
/* Set a key, or the first word: where it is not there yet it is added at the end. */
void option_set(struct option *option, const char *key, const char *value);
/* Take out all of this key, also where it stands alone. Returns how many. */
unsigned option_drop(struct option *option, const char *key);

#endif
