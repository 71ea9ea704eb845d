/* api-change.c - names and options out of arguments, changes through the engine's thread. */
#include "daemon/api-change.h"

#include "base/err.h"
#include "base/mono.h"
#include "base/text.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "daemon/receive.h"
#include "daemon/restoring.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SAME_NAMES_MAX 100000 /* versions of one second */

/* ---- arguments ------------------------------------------------------------------------------ */

static size_t characters(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text) >> 6 != 2; /* a character's first byte */
    return n;
}

void api_take_name(xmlrpc_env *env, const char *what, const char *name,
                   char out[NAME_MAX_CHARS + 1])
{
    if (!name || env->fault_occurred)
        return;
    if (name_is_valid(name)) {
        strcpy(out, name);
    } else if (characters(name) > NAME_MAX_CHARS) {
        api_fault(env, FAULT_BAD_NAME, "the %s \"%.*s...\" has %zu characters; it may have %u",
                  what, text_cut(name, 20), name, characters(name), NAME_MAX_CHARS);
    } else if (!strcmp(name, ".") || !strcmp(name, "..")) {
        api_fault(env, FAULT_BAD_NAME,
                  "\"%s\" is a name of directories and not a %s: use 1 to %u letters, digits, '.', "
                  "'_' and '-', but more than dots",
                  name, what, NAME_MAX_CHARS);
    } else {
        api_fault(env, FAULT_BAD_NAME,
                  "\"%s\" is not a %s: use 1 to %u letters, digits, '.', '_' and '-'", name, what,
                  NAME_MAX_CHARS);
    }
}

void api_take_version(xmlrpc_env *env, const char *name, char out[NAME_MAX_CHARS + 1])
{
    if (name && !env->fault_occurred && strstr(name, ".."))
        api_fault(env, FAULT_BAD_NAME,
                  "\"%.*s\" is not a version name: two dots stand between the ends of a range",
                  text_cut(name, 80), name);
    else
        api_take_name(env, "version name", name, out);
}

static void take_option(xmlrpc_env *env, const char *method, const char *key, xmlrpc_value *value,
                        const struct api_option *specs)
{
    const struct api_option *spec = specs;
    char names[200] = "";
    xmlrpc_bool flag;
    size_t len, at = 0;

    while (spec->name && strcmp(spec->name, key))
        spec++;
    if (!spec->name) {
        for (spec = specs; spec->name && at < sizeof(names); spec++)
            at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", at ? ", " : "",
                                   spec->name);
        api_fault(env, FAULT_BAD_ARGUMENT, "%s has no option \"%.*s\"; it has %s", method,
                  text_cut(key, 40), key, names);
        return;
    }
    if (spec->type == 's') {
        xmlrpc_parse_value(env, value, "s#", spec->out, &len);
        if (!env->fault_occurred && strlen(*(const char **)spec->out) != len)
            api_fault(env, FAULT_BAD_ARGUMENT, "option \"%s\" of %s is no plain text", key, method);
    } else if (spec->type == 'i') {
        xmlrpc_read_int(env, value, spec->out);
    } else {
        xmlrpc_read_bool(env, value, &flag);
        if (!env->fault_occurred)
            *(bool *)spec->out = flag;
    }
    if (env->fault_occurred && env->fault_code < 0) {
        xmlrpc_env_clean(env);
        xmlrpc_env_init(env);
        api_fault(env, FAULT_BAD_ARGUMENT, "option \"%s\" of %s has the wrong type", key, method);
    }
}

void api_take_options(xmlrpc_env *env, const char *method, xmlrpc_value *args, unsigned i,
                      const struct api_option *specs)
{
    xmlrpc_value *options;

    if (env->fault_occurred || api_count(args) <= i)
        return;
    xmlrpc_array_read_item(env, args, i, &options);
    if (env->fault_occurred)
        return;
    int n = xmlrpc_struct_size(env, options);
    for (int k = 0; k < n && !env->fault_occurred; k++) {
        xmlrpc_value *key, *value;
        const char *text;
        size_t len;

        xmlrpc_struct_get_key_and_value(env, options, k, &key, &value);
        if (!env->fault_occurred)
            xmlrpc_parse_value(env, key, "s#", &text, &len);
        if (!env->fault_occurred)
            take_option(env, method, text, value, specs);
    }
    xmlrpc_DECREF(options); /* args keeps it */
}

unsigned api_texts(xmlrpc_env *env, xmlrpc_value *args, unsigned i, const char ***ret)
{
    xmlrpc_value *array;

    *ret = NULL;
    if (env->fault_occurred)
        return 0;
    xmlrpc_array_read_item(env, args, i, &array);
    if (env->fault_occurred)
        return 0;
    unsigned n = api_count(array);
    *ret = calloc(n + 1, sizeof(**ret));
    if (!*ret)
        api_fault(env, FAULT_NO_MEMORY, "no memory");
    for (unsigned k = 0; k < n && !env->fault_occurred; k++) {
        (*ret)[k] = api_text(env, array, k);
        if (env->fault_occurred) { /* that speaks of an argument k + 1 */
            xmlrpc_env_clean(env);
            xmlrpc_env_init(env);
            api_fault(env, FAULT_BAD_ARGUMENT,
                      "argument %u is an array of plain texts, and number %u in it is none", i + 1,
                      k + 1);
        }
    }
    xmlrpc_DECREF(array);
    return env->fault_occurred ? 0 : n;
}

/* ---- changes -------------------------------------------------------------------------------- */

/* A client that has hung up is a user of its disk until what it had in flight is done. */
#define HANGING_UP_US   200000
#define HANGING_UP_STEP 2000

/* A change on its way through the engine's thread. */
struct carried {
    struct store_change change;
    struct engine_call *call;
    struct api_hold *hold; /* or NULL */
};

static void hold_disks(struct store *store, const struct vm_info *vm, struct api_hold *hold)
{
    hold->disks = calloc(vm->n_disks + 1, sizeof(struct disk *));
    for (uint32_t i = 0; hold->disks && i < vm->n_disks; i++) {
        hold->disks[hold->n] = store_find_disk(store, vm->name, vm->disks[i].name);
        disk_get(hold->disks[hold->n++]);
    }
}

static void hold_made(const struct store_change *change, struct api_hold *hold)
{
    const char *name = change->kind == CHANGE_CLONE ? change->new_name : change->vm;
    struct vm_info *vms;
    uint32_t n;

    if (store_list(change->store, &vms, &n) < 0)
        return;
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(vms[i].name, name))
            hold_disks(change->store, &vms[i], hold);
    free(vms);
}

static void change_done(struct store_change *change)
{
    struct carried *carried = container_of(change, struct carried, change);

    if (carried->hold && change->error == 0)
        hold_made(change, carried->hold);
    engine_call_done(carried->call);
}

/* The name of a vm that a change gives; NULL: none that a client could ask for. */
static const char *given_name(const struct store_change *c)
{
    if (c->memory)
        return NULL;
    return c->kind == CHANGE_VM_CREATE                              ? c->vm
           : c->kind == CHANGE_CLONE || c->kind == CHANGE_VM_RENAME ? c->new_name
                                                                    : NULL;
}

struct asked {
    const char *name, *except;
    char vm[NAME_MAX_CHARS + 1], export_name[NBD_EXPORT_NAME_MAX + 1];
    int pid;
    bool found;
};

static bool is_asking(void *arg, const struct nbd_client *client)
{
    struct asked *a = arg;
    const char *now;

    if (!nbd_name_is_of(client->name, a->name))
        return false;
    now = disk_vm_name(client->disk);
    if (!strcmp(now, a->name) || !strcmp(now, a->except))
        return false;
    strcpy(a->vm, now);
    strcpy(a->export_name, client->name);
    a->pid = client->pid;
    a->found = true;
    return true;
}

/* A client that is connected by a name of that vm to a disk that is now of another one, since that
 * was renamed, asks for it again when its connection breaks, and must not be given what another vm
 * has under it. A vm that is renamed may have its old name back. */
static bool is_asked_for(struct engine *engine, const struct store_change *c)
{
    struct asked a = {given_name(c), c->kind == CHANGE_VM_RENAME ? c->vm : "", .found = false};

    return a.name && engine_clients(engine, is_asking, &a);
}

static void on_change(struct engine_call *call)
{
    struct carried *carried = call->arg;
    struct store_change *change = &carried->change;

    carried->call = call;
    change->done = change_done;
    if (is_asked_for(call->engine, change)) {
        change->error = ERR_ASKED_FOR;
        change_done(change);
    } else {
        store_change(call->store, change);
    }
}

/* While a vm is being renamed nobody is given a name: it may be that one's old name, which only
 * then is seen to be asked for by another's clients. */
static pthread_rwlock_t naming = PTHREAD_RWLOCK_INITIALIZER;

static int try_once(struct api *api, const struct store_change *what, struct api_hold *hold)
{
    struct carried carried = {.change = *what, .hold = hold};

    if (what->kind == CHANGE_VM_RENAME)
        pthread_rwlock_wrlock(&naming);
    else if (given_name(what))
        pthread_rwlock_rdlock(&naming);
    int r = engine_call(api->engine, on_change, &carried);
    if (given_name(what))
        pthread_rwlock_unlock(&naming);
    return r < 0 ? r : carried.change.error;
}

static int try_for_a_moment(struct api *api, const struct store_change *what, struct api_hold *hold)
{
    uint64_t end_us = mono_us() + HANGING_UP_US;
    int r;

    while (((r = try_once(api, what, hold)) == -EBUSY || r == ERR_ASKED_FOR) && mono_us() < end_us)
        usleep(HANGING_UP_STEP);
    return r;
}

int api_try(struct api *api, const struct store_change *what)
{
    return try_for_a_moment(api, what, NULL);
}

void api_change(xmlrpc_env *env, struct api *api, const struct store_change *what)
{
    if (env->fault_occurred)
        return;
    int r = api_try(api, what);
    if (r < 0)
        api_change_fault(env, api, what, r);
}

struct refusal {
    const struct store_change *change;
    int error;
};

static void on_refused(struct engine_call *call)
{
    struct refusal *refusal = call->arg;

    refusal->error = store_change_refused(call->store, refusal->change);
    engine_call_done(call);
}

void api_refuse(xmlrpc_env *env, struct api *api, const struct store_change *what)
{
    struct refusal refusal = {.change = what};
    uint64_t end_us = mono_us() + HANGING_UP_US;
    int r;

    if (env->fault_occurred)
        return;
    while ((r = engine_ask(api->engine, on_refused, &refusal, &refusal.error)) == -EBUSY &&
           mono_us() < end_us)
        usleep(HANGING_UP_STEP);
    if (r < 0)
        api_change_fault(env, api, what, r);
}

/* ---- names that the daemon gives ------------------------------------------------------------ */

void api_stamp(char out[API_STAMP_CHARS])
{
    time_t seconds = (time_t)(wall_us() / 1000000);
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(out, API_STAMP_CHARS, "%Y-%m-%dT%H-%M-%SZ", &tm);
}

/* Where the last search for a free name ended: many versions of one second do not begin again at
 * the first. Only a guess; the store decides. */
static struct {
    pthread_mutex_t lock;
    char vm[NAME_MAX_CHARS + 1], stem[NAME_MAX_CHARS + 1];
    unsigned number;
} last_given = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned first_guess(const char *vm, const char *stem)
{
    unsigned number = 1;

    pthread_mutex_lock(&last_given.lock);
    if (!strcmp(last_given.vm, vm) && !strcmp(last_given.stem, stem))
        number = last_given.number + 1;
    pthread_mutex_unlock(&last_given.lock);
    return number;
}

static void note_given(const char *vm, const char *stem, unsigned number)
{
    pthread_mutex_lock(&last_given.lock);
    strcpy(last_given.vm, vm);
    strcpy(last_given.stem, stem);
    last_given.number = number;
    pthread_mutex_unlock(&last_given.lock);
}

int api_try_named(struct api *api, struct store_change *what, char *field, const char *stem)
{
    return api_try_held(api, what, field, stem, NULL);
}

int api_try_held(struct api *api, struct store_change *what, char *field, const char *stem,
                 struct api_hold *hold)
{
    int r = -EEXIST;
    unsigned number;

    if (!field)
        return try_for_a_moment(api, what, hold);
    for (number = first_guess(what->vm, stem); r == -EEXIST && number < SAME_NAMES_MAX; number++) {
        snprintf(field, NAME_MAX_CHARS + 1, number > 1 ? "%s-%u" : "%s", stem, number);
        r = try_for_a_moment(api, what, hold);
    }
    if (r == 0)
        note_given(what->vm, stem, number - 1);
    return r;
}

static void on_let_go(struct engine_call *call)
{
    struct api_hold *hold = call->arg;

    while (hold->n)
        disk_put(hold->disks[--hold->n]);
    engine_call_done(call);
}

void api_let_go(struct api *api, struct api_hold *hold)
{
    while (hold->n && engine_call(api->engine, on_let_go, hold) < 0)
        usleep(HANGING_UP_STEP); /* it is ours: it must not be left */
    free(hold->disks);
    *hold = (struct api_hold){};
}

void api_change_named(xmlrpc_env *env, struct api *api, struct store_change *what, char *field,
                      const char *stem)
{
    int r = env->fault_occurred ? 0 : api_try_named(api, what, field, stem);

    if (r < 0)
        api_change_fault(env, api, what, r);
}

/* ---- faults --------------------------------------------------------------------------------- */

/* What lies behind a refusal; looked up after it. */
struct reason {
    const struct store_change *change;
    struct receives *receives;
    bool vm_exists, vm_is_half_made;
    uint32_t users;
    char version[NAME_MAX_CHARS + 1]; /* the one that is used or held; "": the head's disks are */
    bool is_received;                 /* a stream that comes in goes on from it */
    bool is_made;                     /* the change's own version, just now */
    bool is_restored;                 /* the vm, just now */
};

static bool is_named(const struct store_change *c, const char *version)
{
    if (c->kind == CHANGE_VM_REMOVE)
        return true;
    for (uint32_t i = 0; i < c->n_versions; i++)
        if (!strcmp(c->versions[i], version))
            return true;
    return false;
}

static void look_at_heads(struct store *store, struct reason *reason)
{
    const struct store_change *c = reason->change;
    const char *vm = c->kind == CHANGE_ADOPT ? c->new_name : c->vm;
    bool one_disk = c->kind == CHANGE_DISK_REMOVE || c->kind == CHANGE_DISK_RESIZE;
    struct vm_info *vms;
    uint32_t n;

    if (store_list(store, &vms, &n) < 0)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(vms[i].name, vm))
            continue;
        reason->vm_exists = true;
        reason->vm_is_half_made = vms[i].provisional;
        for (uint32_t d = 0; d < vms[i].n_disks; d++)
            if (!one_disk || !strcmp(vms[i].disks[d].name, c->disk))
                reason->users += vms[i].disks[d].users;
    }
    free(vms);
}

static void look_at_versions(struct store *store, struct reason *reason, bool held)
{
    struct version_info *versions;
    uint32_t n;

    if (store_list_versions(store, reason->change->vm, NULL, true, UINT32_MAX, &versions, &n) < 0)
        return;
    for (uint32_t i = 0; i < n && !*reason->version; i++)
        if ((held ? versions[i].held : versions[i].users > 0) &&
            is_named(reason->change, versions[i].name)) {
            strcpy(reason->version, versions[i].name);
            reason->users = versions[i].users;
        }
    free(versions);
}

/* A version that is being made can be none of what these changes do with it. */
static void look_whether_made(struct store *store, struct reason *reason)
{
    const struct store_change *c = reason->change;
    struct version_info *versions;
    uint32_t n;

    if (store_list_versions(store, c->vm, NULL, true, UINT32_MAX, &versions, &n) < 0)
        return;
    for (uint32_t i = 0; i < n; i++)
        reason->is_made |= versions[i].provisional && !strcmp(versions[i].name, c->version);
    free(versions);
}

static void on_reason(struct engine_call *call)
{
    struct reason *reason = call->arg;
    const struct store_change *c = reason->change;
    bool removes = c->kind == CHANGE_VERSION_REMOVE || c->kind == CHANGE_VM_REMOVE;

    look_at_heads(call->store, reason);
    if (removes && c->error == ERR_HELD)
        look_at_versions(call->store, reason, true);
    else if (removes && (c->kind == CHANGE_VERSION_REMOVE || !reason->users))
        look_at_versions(call->store, reason, false);
    reason->is_received =
        *reason->version && receives_go_on_from(reason->receives, c->vm, reason->version);
    if (c->kind == CHANGE_CLONE || c->kind == CHANGE_ROLLBACK || c->kind == CHANGE_VERSION_HOLD ||
        c->kind == CHANGE_VERSION_RENAME)
        look_whether_made(call->store, reason);
    engine_call_done(call);
}

static bool is_of_disk(enum change_kind kind)
{
    return kind == CHANGE_DISK_ADD || kind == CHANGE_DISK_REMOVE || kind == CHANGE_DISK_RESIZE ||
           kind == CHANGE_DISK_COMMIT;
}

static void fault_not_found(xmlrpc_env *env, const struct store_change *c,
                            const struct reason *reason)
{
    if (!reason->vm_exists)
        api_fault(env, FAULT_NOT_FOUND, "there is no vm \"%s\"; see varve ls", c->vm);
    else if (is_of_disk(c->kind))
        api_fault(env, FAULT_NOT_FOUND, "vm \"%s\" has no disk \"%s\"; see varve show %s", c->vm,
                  c->disk, c->vm);
    else if (c->n_versions > 1)
        api_fault(env, FAULT_NO_VERSION,
                  "vm \"%s\" does not have all of these %u versions, and none was removed; see "
                  "varve ls %s",
                  c->vm, c->n_versions, c->vm);
    else
        api_fault(env, FAULT_NO_VERSION, "vm \"%s\" has no version \"%s\"; see varve ls %s", c->vm,
                  c->n_versions ? c->versions[0] : c->version, c->vm);
}

static void fault_exists(xmlrpc_env *env, const struct store_change *c)
{
    const char *version = c->kind == CHANGE_SNAP ? c->version : c->new_name;

    if (c->kind == CHANGE_VM_COMMIT)
        api_fault(env, FAULT_EXISTS, "vm \"%s\" is not provisional", c->vm);
    else if (c->kind == CHANGE_DISK_COMMIT)
        api_fault(env, FAULT_EXISTS, "disk \"%s/%s\" is not provisional", c->vm, c->disk);
    else if (is_of_disk(c->kind))
        api_fault(env, FAULT_EXISTS, "vm \"%s\" has a disk \"%s\" already; choose another name",
                  c->vm, c->disk);
    else if (c->kind == CHANGE_SNAP || c->kind == CHANGE_VERSION_RENAME ||
             c->kind == CHANGE_ROLLBACK)
        api_fault(env, FAULT_EXISTS, "there is a version \"%s@%s\" already; choose another name",
                  c->vm, version);
    else
        api_fault(env, FAULT_EXISTS, "there is a vm \"%s\" already; choose another name",
                  c->kind == CHANGE_VM_RENAME || c->kind == CHANGE_CLONE ? c->new_name : c->vm);
}

static void on_asked(struct engine_call *call)
{
    (void)engine_clients(call->engine, is_asking, call->arg);
    engine_call_done(call);
}

int api_asked_why(struct api *api, const char *name, struct why *why)
{
    struct asked a = {.name = name, .except = ""};

    if (engine_call(api->engine, on_asked, &a) < 0 || !a.found)
        return why_set(why, ERR_ASKED_FOR,
                       "a client of another vm was connected by the name \"%s\" just now; try "
                       "again",
                       name);
    return why_set(why, ERR_ASKED_FOR,
                   "a client of vm \"%s\" (process %d) is connected by the name \"%s\", and would "
                   "come to another vm's disk when it connects again; stop that machine, or "
                   "restart it under the name %s, or choose another name",
                   a.vm, a.pid, a.export_name, a.vm);
}

static void fault_half_made(xmlrpc_env *env, const struct store_change *c,
                            const struct reason *reason)
{
    bool of_disk = is_of_disk(c->kind) && !reason->vm_is_half_made;

    api_fault(env, FAULT_BUSY,
              "%s %s%s%s is half-made: an import, a restore or a receive is under way, or was cut "
              "off; wait for it, or remove it with varve %srm",
              of_disk ? "disk" : "vm", c->vm, of_disk ? "/" : "", of_disk ? c->disk : "",
              of_disk ? "disk " : "");
}

static void fault_busy(xmlrpc_env *env, const struct store_change *c, const struct reason *reason)
{
    bool of_disk = is_of_disk(c->kind);

    if (reason->is_received)
        api_fault(env, FAULT_BUSY,
                  "a stream that is being received goes on from version \"%s@%s\", and nothing was "
                  "removed; wait for it, or interrupt its varve recv",
                  c->vm, reason->version);
    else if (*reason->version)
        api_fault(
            env, FAULT_BUSY,
            "version \"%s@%s\" is in use by %u client(s), and nothing was removed; disconnect "
            "them",
            c->vm, reason->version, reason->users);
    else if (reason->is_made)
        api_fault(env, FAULT_BUSY,
                  "version \"%s@%s\" is being made just now, by a checkpoint of its machine; wait "
                  "for that",
                  c->vm, c->version);
    else if (reason->is_restored)
        api_fault(
            env, FAULT_BUSY,
            "vm \"%s\" is being restored just now, and its disks belong to the memory that its "
            "machine gets; wait for that",
            c->vm);
    else if (c->error == ERR_HALF_MADE)
        fault_half_made(env, c, reason);
    else if (c->kind == CHANGE_ROLLBACK)
        api_fault(env, FAULT_BUSY,
                  "vm \"%s\" is in use by %u client(s), and was not rolled back; stop the machine, "
                  "or disconnect them with --force",
                  c->vm, reason->users);
    else
        api_fault(env, FAULT_BUSY,
                  "%s \"%s%s%s\" is in use by %u client(s); stop the machine or disconnect them",
                  of_disk ? "disk" : "vm", c->vm, of_disk ? "/" : "", of_disk ? c->disk : "",
                  reason->users);
}

static void fault_held(xmlrpc_env *env, const struct store_change *c, const struct reason *reason)
{
    const char *version = *reason->version ? reason->version : "?";

    api_fault(env, FAULT_HELD,
              "version \"%s@%s\" is held, and nothing was removed; let it go with: varve release "
              "%s@%s",
              c->vm, version, c->vm, version);
}

void api_change_fault(xmlrpc_env *env, struct api *api, const struct store_change *what, int error)
{
    struct store_change c = *what;
    struct reason reason = {.change = &c, .receives = api->receives};
    int fault = (int)fault_from_code(error);
    struct why why;

    c.error = error;
    if (error == ERR_ASKED_FOR) {
        (void)api_asked_why(api, given_name(what), &why);
        api_fault(env, fault, "%s", why.text);
        return;
    }
    if (fault == FAULT_NOT_FOUND || fault == FAULT_NO_VERSION || fault == FAULT_BUSY ||
        fault == FAULT_HELD)
        (void)engine_call(api->engine, on_reason, &reason); /* without it the words are plainer */
    reason.is_restored = fault == FAULT_BUSY && restoring_brings_up(api->restoring, c.vm);
    switch (fault) {
    case FAULT_NOT_FOUND:
    case FAULT_NO_VERSION:
        fault_not_found(env, &c, &reason);
        break;
    case FAULT_EXISTS:
        fault_exists(env, &c);
        break;
    case FAULT_BUSY:
        fault_busy(env, &c, &reason);
        break;
    case FAULT_HELD:
        fault_held(env, &c, &reason);
        break;
    case FAULT_ALREADY:
        api_fault(env, fault, "version \"%s@%s\" is %s", c.vm, c.version,
                  c.hold ? "held already" : "not held");
        break;
    case FAULT_CHANGED: /* of a resize: who may meet it with another looks for it himself */
        api_fault(env, fault,
                  "disk \"%s\" of vm \"%s\" has not %" PRIu64
                  " bytes any more, and nothing was changed; see varve show %s",
                  c.disk, c.vm, c.from_bytes, c.vm);
        break;
    case FAULT_STORE_FULL:
        api_fault(env, fault, "the store is full; remove what is not needed, see varve df");
        break;
    default:
        api_fault(env, fault, "%s", err_text(error));
    }
}

xmlrpc_value *api_truth(xmlrpc_env *env)
{
    return env->fault_occurred ? NULL : xmlrpc_bool_new(env, 1);
}
