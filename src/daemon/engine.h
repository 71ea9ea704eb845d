/* engine.h - the data-plane thread: the event loop, the store on it, and the NBD server.
 *
 * Everything of the store belongs to that thread. Others reach it by engine_call(), which runs a
 * function there and waits; the function may finish later, from a callback of the store. */
#ifndef VARVE_DAEMON_ENGINE_H
#define VARVE_DAEMON_ENGINE_H

#include "base/loop.h"
#include "base/why.h"
#include "export/nbd.h"
#include "image/store.h"

#include <semaphore.h>

struct engine;

struct engine_config {
    const char *store_path; /* borrowed for the engine's life, as nbd_path */
    const char *nbd_path;   /* of the socket */
    enum loop_kind io_engine;
    struct nbd_config nbd;
    struct store_config store; /* its stop may be called on the engine's thread at any time before
                                  engine_start() returns */
};

/* Start the thread and wait until the store is open and NBD clients are served. On failure all is
 * undone and why has the sentence. Errors: those of loop_create(), storage_dir_open(), store_open()
 * (-ECANCELED: config->store.stop said so) and the NBD server's. */
int engine_start(const struct engine_config *config, struct engine **ret, struct why *why);

/* Stop accepting, finish what is in flight, close the store, end the thread, free the engine. No
 * engine_call() may be under way. NULL is legal. Returns what store_close() said. */
int engine_stop(struct engine *engine);

/* Set the sentence for what storage_dir_open() or store_open() returned; returns r. Any thread. */
int engine_storage_why(int r, const char *path, struct why *why);

/* "io_uring" or "threads". Any thread. */
const char *engine_io_name(const struct engine *engine);

/* ---- work for the data-plane thread --------------------------------------------------------- */

struct engine_call {
    struct engine *engine;
    struct store *store;
    void *arg;
    /* The engine's own. */
    void (*fn)(struct engine_call *call);
    sem_t done;
};

/* Any thread but the engine's: run fn there and wait for engine_call_done(). fn must not block.
 * Returns 0, or what loop_post() said; then fn is not called. */
int engine_call(struct engine *engine, void (*fn)(struct engine_call *call), void *arg);

/* Have fn called there and do not wait: call, which stands still until then, is filled in, and fn
 * does not call engine_call_done(). Returns 0, or what loop_post() said; then fn is not called. */
int engine_post(struct engine *engine, struct engine_call *call,
                void (*fn)(struct engine_call *call), void *arg);

/* engine_call() for an fn that says in *result (in arg) how it went. Returns that, or
 * engine_call()'s.
 */
static inline int engine_ask(struct engine *engine, void (*fn)(struct engine_call *call), void *arg,
                             const int *result)
{
    int r = engine_call(engine, fn, arg);
    return r < 0 ? r : *result;
}

/* On the engine's thread, once per call, in fn or later. The call is gone afterwards. */
void engine_call_done(struct engine_call *call);

/* On the engine's thread: what the store and the NBD server count. Fills up to max; returns how
 * many there are. */
uint32_t engine_counters(struct engine *engine, struct store_counter *ret, uint32_t max);

/* On the engine's thread: let no NBD client come to a vm's disks until nbd_unbar(), and close the
 * connections that there are; they are gone some turns later. bar and vm: the caller's until then.
 * Returns how many that were. engine_disconnect(): the closing alone. */
unsigned engine_bar(struct engine *engine, struct nbd_bar *bar, const char *vm);
unsigned engine_disconnect(struct engine *engine, const char *vm);

/* On the engine's thread: nbd_server_clients(). */
bool engine_clients(struct engine *engine, bool (*each)(void *arg, const struct nbd_client *client),
                    void *arg);

/* On the engine's thread: a request was submitted to the store outside of a call, from a callback
 * of the store's: the loop takes another turn. */
void engine_again(struct engine *engine);

/* On the engine's thread: something asynchronous outlives the call that started it (a check). The
 * store is closed only when all of them were released. */
void engine_hold(struct engine *engine);
void engine_release(struct engine *engine);

/* On the engine's thread: tick() is called there about once a second, as long as it is added. */
struct engine_ticker {
    void (*tick)(struct engine_ticker *ticker, struct store *store);
    struct list link; /* the engine's own */
};
void engine_add_ticker(struct engine *engine, struct engine_ticker *ticker);
void engine_remove_ticker(struct engine *engine, struct engine_ticker *ticker);

#endif
