/* api.h - the methods of the control API: one table, from which the XML-RPC registry with its
 * introspection and docs/api.md come.
 *
 * A request goes api_process() -> the registry -> the handler of its method, all on the control
 * thread; what concerns the store crosses to the engine's thread by engine_call(). */
#ifndef VARVE_DAEMON_API_H
#define VARVE_DAEMON_API_H

#include <stddef.h>
#include <stdint.h>
#include <xmlrpc-c/base.h>
#include <xmlrpc-c/server.h>

#define API_REQUEST_MAX_BYTES (1u << 20)

struct engine;
struct events;
struct jobs;
struct machines;
struct receives;
struct restoring;

/* What handlers work on; all borrowed. */
struct api {
    struct engine *engine;
    struct events *events;
    struct jobs *jobs;
    struct machines *machines;
    struct receives *receives;
    struct restoring *restoring;
    const char *run_path, *store_path, *control_path, *nbd_path;
    uint64_t started_us; /* mono_us() */
};

/* A handler gets arguments whose number and types fit one of the signatures. It returns a value, or
 * sets a fault in env and returns NULL. */
typedef xmlrpc_value *api_handler(xmlrpc_env *env, xmlrpc_value *args, struct api *api);

struct method {
    const char *name;
    const char *signatures; /* libxmlrpc's letters: "S:ss,S:s" takes two strings or one */
    const char *arguments;  /* names in order, "vm, new_name" */
    const char *help;
    api_handler *handler;
};
/* Parts of the table, each ended by an entry without a name. */
extern const struct method *const api_methods[];
extern const struct method api_vm_methods[], api_snap_methods[], api_version_methods[],
    api_rollback_methods[], api_version_list_methods[], api_diff_methods[], api_send_methods[],
    api_recv_methods[], api_recv_end_methods[], api_store_methods[], api_machine_methods[],
    api_restore_methods[];

/* NULL: no memory. api: borrowed for the registry's life. */
struct api_registry;
struct api_registry *api_registry_new(struct api *api);
void api_registry_free(struct api_registry *registry); /* NULL is legal */

/* Answer one request body. Never fails: what is wrong with the request is in the answer.
 * Returns the answer's XML, for the caller to free with XMLRPC_MEMBLOCK_FREE(char, ...); NULL when
 * there is no memory for one. */
xmlrpc_mem_block *api_process(struct api_registry *registry, const char *xml, size_t len_bytes);

/* ---- for handlers --------------------------------------------------------------------------- */

/* Set a fault; the sentence is a format. What XML-RPC cannot carry in it is escaped (text.h). */
void api_fault(xmlrpc_env *env, int number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Argument i as text, borrowed from args; must be a string without zero bytes. NULL: fault is set.
 */
const char *api_text(xmlrpc_env *env, xmlrpc_value *args, unsigned i);
int api_int(xmlrpc_env *env, xmlrpc_value *args, unsigned i);
unsigned api_count(xmlrpc_value *args);

/* Any bytes as a string value; what XML-RPC cannot carry is escaped (text.h). NULL text is "". The
 * library's own xmlrpc_string_new() gives a wild pointer for such text. NULL: env has a fault. */
xmlrpc_value *api_string(xmlrpc_env *env, const char *text);

/* Put a member into a struct. Nothing happens when env has a fault already. */
void api_put_text(xmlrpc_env *env, xmlrpc_value *strct, const char *key, const char *text);
void api_put_u64(xmlrpc_env *env, xmlrpc_value *strct, const char *key, uint64_t value);
void api_put_int(xmlrpc_env *env, xmlrpc_value *strct, const char *key, int value);
void api_put_bool(xmlrpc_env *env, xmlrpc_value *strct, const char *key, int value);
void api_put_time(xmlrpc_env *env, xmlrpc_value *strct, const char *key, uint64_t utc_us);
/* The same with a value that is taken; also where env has a fault. */
void api_put(xmlrpc_env *env, xmlrpc_value *strct, const char *key, xmlrpc_value *value);
void api_append(xmlrpc_env *env, xmlrpc_value *array, xmlrpc_value *value);

/* value, or NULL after dropping it when env has a fault: the last line of a handler. */
xmlrpc_value *api_result(xmlrpc_env *env, xmlrpc_value *value);

#endif
