/* text.h - text that XML-RPC can carry, which not all text of users and of other programs is.
 *
 * It is UTF-8 of the Basic Multilingual Plane (no emojis), without control characters but tab, line
 * feed and carriage return. Any thread. */
#ifndef VARVE_BASE_TEXT_H
#define VARVE_BASE_TEXT_H

#include <stddef.h>

/* Where in text the first character is that cannot be carried; NULL: all can. */
const char *text_refused(const char *text);

/* A copy in which each byte of what cannot be carried is written as \xNN; the caller's.
 * NULL: no memory. */
char *text_carried(const char *text);

/* How many bytes to print (by %.*s) of a text that is to be cut behind max_bytes: so many, or up to
 * three less where a character would be cut. */
int text_cut(const char *text, int max_bytes);

#endif
