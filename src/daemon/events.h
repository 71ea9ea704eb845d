/* events.h - what happened to the store: each told to the operator once, and the last ones kept.
 * Any thread. */
#ifndef VARVE_DAEMON_EVENTS_H
#define VARVE_DAEMON_EVENTS_H

#include <stdint.h>

#define EVENTS_MAX       256 /* kept; the oldest make room */
#define EVENT_TEXT_CHARS 400

struct event {
    uint64_t number;  /* counts from 1 */
    uint64_t time_us; /* UTC */
    const char *kind; /* static: "damage", "read-only", "full", "recovered" */
    char text[EVENT_TEXT_CHARS];
};

struct events;
struct store_event;

struct events *events_new(void); /* NULL: no memory */
void events_free(struct events *events);

/* Report an event on stderr and keep it. Fits store_config.event. */
void events_add(void *events, const struct store_event *event);

/* Copy the kept events with a number above after, oldest first, into ret (room for EVENTS_MAX).
 * Returns how many. */
unsigned events_read(struct events *events, uint64_t after, struct event *ret);

#endif
