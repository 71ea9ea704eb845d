/* report.c - messages to stderr or the journal. */
#include "base/report.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Atomic int max_level = REPORT_INFO;

void report_set_level(enum report_level level)
{
    atomic_store(&max_level, level);
}

void report(enum report_level level, const char *format, ...)
{
    if ((int)level > atomic_load(&max_level))
        return;

    static const char *const words[] = {
        [REPORT_ERROR] = "error: ", [REPORT_WARNING] = "warning: ", [REPORT_DEBUG] = "debug: "};
    char line[1024];
    va_list args;
    int at;

    if (getenv("JOURNAL_STREAM"))
        at = snprintf(line, sizeof(line), "<%d>", (int)level);
    else
        at = snprintf(line, sizeof(line), "varved: %s", words[level] ? words[level] : "");
    va_start(args, format);
    int n = vsnprintf(line + at, sizeof(line) - at - 1, format, args);
    va_end(args);
    if (n < 0)
        return;
    at += n;
    if (at > (int)sizeof(line) - 2)
        at = sizeof(line) - 2;
    line[at++] = '\n';
    /* One write, so that lines of threads do not mix; stderr that is gone is no reason to stop. */
    ssize_t written = write(STDERR_FILENO, line, at);
    (void)written;
}
