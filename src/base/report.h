/* report.h - messages of the daemon to its operator. Any thread.
 *
 * One line each on stderr; under systemd with the <N> priority prefix that the journal understands.
 * Programs report, libraries return errors: only src/daemon, src/cli and the start-up paths call
 * this, and a failure is reported once, with the operation, the object and the values. */
#ifndef VARVE_BASE_REPORT_H
#define VARVE_BASE_REPORT_H

enum report_level { REPORT_ERROR = 3, REPORT_WARNING = 4, REPORT_INFO = 6, REPORT_DEBUG = 7 };

/* Messages above this level are dropped. Default REPORT_INFO. */
void report_set_level(enum report_level level);

void report(enum report_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define report_error(...)   report(REPORT_ERROR, __VA_ARGS__)
#define report_warning(...) report(REPORT_WARNING, __VA_ARGS__)
#define report_info(...)    report(REPORT_INFO, __VA_ARGS__)
#define report_debug(...)   report(REPORT_DEBUG, __VA_ARGS__)

#endif
