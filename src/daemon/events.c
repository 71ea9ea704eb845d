/* events.c - a bounded ring of events. */
#include "daemon/events.h"

#include "base/mono.h"
#include "base/report.h"
#include "image/store.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct events {
    pthread_mutex_t lock;
    uint64_t last; /* number of the newest */
    struct event ring[EVENTS_MAX];
};

static const struct {
    const char *word;
    enum report_level level;
} kinds[] = {
    [STORE_EVENT_DAMAGE] = {"damage", REPORT_ERROR},
    [STORE_EVENT_READ_ONLY] = {"read-only", REPORT_ERROR},
    [STORE_EVENT_FULL] = {"full", REPORT_WARNING},
    [STORE_EVENT_RECOVERED] = {"recovered", REPORT_INFO},
};

struct events *events_new(void)
{
    struct events *events = calloc(1, sizeof(*events));
    if (events)
        pthread_mutex_init(&events->lock, NULL);
    return events;
}

void events_free(struct events *events)
{
    if (!events)
        return;
    pthread_mutex_destroy(&events->lock);
    free(events);
}

void events_add(void *arg, const struct store_event *event)
{
    struct events *events = arg;

    report(kinds[event->kind].level, "%s", event->text);
    pthread_mutex_lock(&events->lock);
    struct event *e = &events->ring[events->last++ % EVENTS_MAX];
    e->number = events->last;
    e->time_us = wall_us();
    e->kind = kinds[event->kind].word;
    snprintf(e->text, sizeof(e->text), "%s", event->text);
    pthread_mutex_unlock(&events->lock);
}

unsigned events_read(struct events *events, uint64_t after, struct event *ret)
{
    unsigned n = 0;

    pthread_mutex_lock(&events->lock);
    uint64_t first = events->last > EVENTS_MAX ? events->last - EVENTS_MAX : 0;
    for (uint64_t i = after > first ? after : first; i < events->last; i++)
        ret[n++] = events->ring[i % EVENTS_MAX];
    pthread_mutex_unlock(&events->lock);
    return n;
}
