/* stop-point.h - places where a test can have the program stand still, to kill it, or others, just
 * there. In every build, and nothing but a comparison of a pointer unless somebody asks for one.
 *
 * $VARVE_STOP_AT names one when the program starts: the first thread that comes by stops the whole
 * process by SIGSTOP, once. After SIGCONT it goes on. tests/system/killed-at knows all names and
 * what holds at each. */
#ifndef VARVE_BASE_STOP_POINT_H
#define VARVE_BASE_STOP_POINT_H

/* name: a literal. Any thread. */
void stop_point(const char *name);

#endif
