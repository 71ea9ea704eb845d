/* why.h - a sentence for people beside an error code: what failed, on what, and what to do next.
 * Filled by start-up and edge code, which has the words; libraries return codes alone. */
#ifndef VARVE_BASE_WHY_H
#define VARVE_BASE_WHY_H

#include <stdarg.h>
#include <stdio.h>

#define WHY_MAX_CHARS 1024

struct why {
    char text[WHY_MAX_CHARS];
};

/* Set the sentence (no full stop, no newline) and return code, so that `return why_set(...)` reads
 * as the error it is. Longer texts are cut. */
static inline __attribute__((format(printf, 3, 4))) int why_set(struct why *why, int code,
                                                                const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    return code;
}

#endif
