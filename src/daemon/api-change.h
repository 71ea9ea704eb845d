/* api-change.h - what the methods that change the catalogue share: names and options out of their
 * arguments, and changes on their way through the engine's thread. Control threads.
 *
 * All functions that take an env do nothing when it has a fault already. */
#ifndef VARVE_DAEMON_API_CHANGE_H
#define VARVE_DAEMON_API_CHANGE_H

#include "base/why.h"
#include "daemon/api.h"
#include "image/store.h"

#include <stdbool.h>

/* ---- arguments ------------------------------------------------------------------------------ */

/* Copy a name into out if it is one; else a fault that says what a name is. what: "vm name". */
void api_take_name(xmlrpc_env *env, const char *what, const char *name,
                   char out[NAME_MAX_CHARS + 1]);

/* The same for a version, whose name has no "..": that is a range. */
void api_take_version(xmlrpc_env *env, const char *name, char out[NAME_MAX_CHARS + 1]);

/* The note of a version, borrowed, into c->note; note: NULL: none. api-snap.c */
void api_take_note(xmlrpc_env *env, const char *note, struct store_change *c);

/* A member of the struct of options that a method takes. */
struct api_option {
    const char *name;
    char type; /* 's': const char *, borrowed from args; 'b': bool; 'i': int */
    void *out; /* left alone when the option is not there */
};

/* Read argument i of method, if there is one. The last of specs has no name. */
void api_take_options(xmlrpc_env *env, const char *method, xmlrpc_value *args, unsigned i,
                      const struct api_option *specs);

/* Argument i, an array of texts: their number, and *ret, allocated, which the caller frees; the
 * texts are borrowed from args. */
unsigned api_texts(xmlrpc_env *env, xmlrpc_value *args, unsigned i, const char ***ret);

/* ---- changes -------------------------------------------------------------------------------- */

/* Make a change durable. Sets a fault on failure. */
void api_change(xmlrpc_env *env, struct api *api, const struct store_change *what);

/* Make a change durable; returns its error. For callers who try something else then. What is in use
 * is tried again for a moment: its client may have just hung up. */
int api_try(struct api *api, const struct store_change *what);

/* Sets the fault that the change would be refused with as things are, in no other words; nothing is
 * done. What is in use is looked at again for a moment, as by api_try(). */
void api_refuse(xmlrpc_env *env, struct api *api, const struct store_change *what);

/* Set the fault for a change for which api_try() returned error. */
void api_change_fault(xmlrpc_env *env, struct api *api, const struct store_change *what, int error);

/* Set the sentence for ERR_ASKED_FOR, with which api_try() refuses to make, clone or rename a vm
 * to name: a client is connected by that name to a vm that was renamed since. Returns that. */
int api_asked_why(struct api *api, const char *name, struct why *why);

/* As api_change_named(), returning the error. */
int api_try_named(struct api *api, struct store_change *what, char *field, const char *stem);

/* The disks of a vm's head, in use by the daemon itself. Zeros: none. */
struct api_hold {
    struct disk **disks;
    uint32_t n;
};

/* The same for a ROLLBACK or a CLONE (field NULL: as api_try()). The disks that it makes are in use
 * from then on, before another change is looked at, until api_let_go(). Where there is no memory
 * for that they are not. */
int api_try_held(struct api *api, struct store_change *what, char *field, const char *stem,
                 struct api_hold *hold);
void api_let_go(struct api *api, struct api_hold *hold);

/* Make a change that gives a version the name `stem` in field, or with -2, -3 ... behind it, when
 * that is taken. field: what->version or what->new_name, of what itself. Sets a fault on failure.
 */
void api_change_named(xmlrpc_env *env, struct api *api, struct store_change *what, char *field,
                      const char *stem);

/* The time as a name: 2026-11-20T18-05-09Z. */
#define API_STAMP_CHARS 24
void api_stamp(char out[API_STAMP_CHARS]);

xmlrpc_value *api_truth(xmlrpc_env *env);

#endif
