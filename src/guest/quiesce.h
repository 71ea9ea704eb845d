/* quiesce.h - freezing a guest's file systems for a moment, through a guardian (guardian.h) that
 * thaws them whatever becomes of this process. Any thread; blocks, but not beyond the times given.
 */
#ifndef VARVE_GUEST_QUIESCE_H
#define VARVE_GUEST_QUIESCE_H

#include "base/why.h"

struct quiesce;

/* Freeze, within timeout_ms; the guest stays frozen for at most so long again.
 * agent_path: its socket. run_dir: where the note of it is kept. Both borrowed for the call.
 * Errors with a sentence; nothing is frozen then, or it is being thawed: -ENOENT (there is no
 * agent), -ETIMEDOUT, -EPROTO (the agent refuses), or an errno. */
int quiesce_begin(const char *run_dir, const char *agent_path, unsigned timeout_ms,
                  struct quiesce **ret, struct why *why);

/* Thaw, and free q. Returns 0: it was frozen until now; -ESTALE: it was not, what was done
 * meanwhile was done to a running guest; -ETIMEDOUT: it was, but does not answer the thaw, which
 * the guardian goes on sending. NULL is legal: 0. */
int quiesce_end(struct quiesce *q, struct why *why);

/* When a daemon starts: thaw what a guardian that was killed left frozen, in the background.
 * Returns how many guests that were. */
unsigned quiesce_recover(const char *run_dir);

#endif
