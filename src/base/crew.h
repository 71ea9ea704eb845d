/* crew.h - threads that wait to help their owner with one thing at a time, at once: for what is in
 * such a hurry that making threads would take too long. One owner, which alone calls these. */
#ifndef VARVE_BASE_CREW_H
#define VARVE_BASE_CREW_H

struct crew;

/* As many members, with the owner, as the process has processors, but at most that many. They have
 * the scheduling of the calling thread. Where no thread is to be had the crew is smaller. Returns 0
 * or -ENOMEM. */
int crew_new(unsigned max, struct crew **ret);
/* NULL is legal. */
void crew_free(struct crew *crew);

/* With the owner: 1 or more. */
unsigned crew_size(const struct crew *crew);

/* Calls fn(arg, i) for each i below n (at most crew_size()), 0 in the owner's thread and the others
 * in threads of their own, on other processors than the owner is on. Returns when all have
 * returned; what they wrote is seen. */
void crew_run(struct crew *crew, unsigned n, void (*fn)(void *arg, unsigned i), void *arg);

#endif
