/* receive.h - streams that are being received: for each the provisional vm that it goes into, with
 * another for the machine's memory, and what becomes of them at the end.
 *
 * The one who receives holds NBD connections to the vm's disks from soon after its beginning. When
 * there has been none for RECEIVE_GRACE_SECONDS, he has died, and they are removed: nothing
 * half-made stays behind. The version that a stream goes on from is in use meanwhile, so that it is
 * there at the end. All of it belongs to the engine's thread; these functions come from
 * control threads and go there by engine_call(). */
#ifndef VARVE_DAEMON_RECEIVE_H
#define VARVE_DAEMON_RECEIVE_H

#include "image/store.h"

#define RECEIVES_MAX          32 /* at once */
#define RECEIVE_GRACE_SECONDS 10

struct engine;
struct receives;
struct receive_hold; /* the use of a version */

struct receive {
    char vm[NAME_MAX_CHARS + 1];        /* the provisional one */
    char memory_vm[NAME_MAX_CHARS + 1]; /* the same for the version's memory; "": it has none */
    char target[NAME_MAX_CHARS + 1]; /* whose next version it becomes; "": it is committed itself */
    char from[NAME_MAX_CHARS + 1];   /* the version of target that it goes on from */
    struct receive_hold *hold;       /* of from; NULL: it goes on from none, or not yet */
    char version[NAME_MAX_CHARS + 1];
    uint8_t guid[GUID_BYTES];
    char note[NOTE_MAX_BYTES + 1];
    enum consistency consistency;
    uint64_t created_us; /* UTC, where it was sent; 0: not known */
    bool force;          /* also if the target has changed meanwhile */
};

/* NULL: no memory. engine: borrowed; free before it stops. */
struct receives *receives_new(struct engine *engine);
void receives_free(struct receives *receives); /* NULL is legal */

/* Note one whose vm has just been made; its from-version is in use from now on. Returns 0, -EAGAIN
 * (RECEIVES_MAX), ERR_NO_VERSION (from is not there any more), or an error. */
int receives_add(struct receives *receives, const struct receive *what);

/* The engine's thread: the memory vm of the one into vm; "" where there is none. */
void receives_memory_of(struct receives *receives, const char *vm, char ret[NAME_MAX_CHARS + 1]);

/* The engine's thread: does one go on from that version? */
bool receives_go_on_from(struct receives *receives, const char *vm, const char *version);

/* Take one out, to end it: from now on its vm is the caller's to commit, adopt or remove, and its
 * hold to be released. -ENOENT: none goes into vm. */
int receives_take(struct receives *receives, const char *vm, struct receive *ret);

/* The name that the vm of the from-version has by now; "": not known. */
void receives_target_now(struct receives *receives, const struct receive *what,
                         char ret[NAME_MAX_CHARS + 1]);
/* The from-version is not in use any more; what->hold becomes NULL. */
void receives_release(struct receives *receives, struct receive *what);

#endif
