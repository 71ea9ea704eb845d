/* api-snap.c - vm.snap: a version, of a guest that is frozen meanwhile if that is wanted. */
#include "base/err.h"
#include "base/text.h"
#include "daemon/api-change.h"
#include "daemon/api-version.h"
#include "daemon/engine.h"
#include "daemon/fault.h"
#include "guest/quiesce.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FREEZE_SECONDS_DEFAULT 10
#define FREEZE_SECONDS_MAX     60

enum quiesce_mode { QUIESCE_OFF, QUIESCE_AUTO, QUIESCE_REQUIRE };

struct snap {
    struct store_change change;
    bool anonymous;
    enum quiesce_mode mode;
    int timeout_seconds;
    char agent[PATH_MAX];
    char warning[WHY_MAX_CHARS + 100];
};

/* ---- arguments ------------------------------------------------------------------------------ */

void api_take_note(xmlrpc_env *env, const char *note, struct store_change *c)
{
    if (!note || env->fault_occurred)
        return;
    if (strlen(note) > NOTE_MAX_BYTES)
        api_fault(env, FAULT_BAD_ARGUMENT, "the note has %zu bytes; it may have %u", strlen(note),
                  NOTE_MAX_BYTES);
    for (const char *p = note; *p && !env->fault_occurred; p++)
        if ((unsigned char)*p < ' ' || *p == '\x7f')
            api_fault(env, FAULT_BAD_ARGUMENT,
                      "the note has a control character; write it on one line");
    c->note = note;
}

static void take_mode(xmlrpc_env *env, const char *text, enum quiesce_mode *out)
{
    static const char *const words[] = {"off", "auto", "require"};

    if (!text || env->fault_occurred)
        return;
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (!strcmp(text, words[i])) {
            *out = (enum quiesce_mode)i;
            return;
        }
    api_fault(env, FAULT_BAD_ARGUMENT,
              "\"%.*s\" is no way to quiesce a guest: use off, auto or require", text_cut(text, 40),
              text);
}

/* Without a path: where varve run puts it. */
static void take_agent(xmlrpc_env *env, const struct api *api, const char *path, struct snap *s)
{
    int n;

    if (env->fault_occurred)
        return;
    if (path)
        n = snprintf(s->agent, sizeof(s->agent), "%s", path);
    else
        n = snprintf(s->agent, sizeof(s->agent), "%s/vm/%s/agent.sock", api->run_path,
                     s->change.vm);
    if (n >= (int)sizeof(s->agent) || (path && *path != '/'))
        api_fault(env, FAULT_BAD_ARGUMENT,
                  "option \"agent\" of vm.snap is the absolute path of a socket");
}

static void take_snap(xmlrpc_env *env, xmlrpc_value *args, const struct api *api, struct snap *s)
{
    const char *version = NULL, *text = NULL, *quiesce = NULL, *agent = NULL;
    const struct api_option options[] = {
        {"version", 's', &version}, {"note", 's', &text},
        {"quiesce", 's', &quiesce}, {"timeout", 'i', &s->timeout_seconds},
        {"agent", 's', &agent},     {}};

    s->timeout_seconds = FREEZE_SECONDS_DEFAULT;
    s->change.kind = CHANGE_SNAP;
    s->change.whole = true;
    api_take_name(env, "vm name", api_text(env, args, 0), s->change.vm);
    api_take_options(env, "vm.snap", args, 1, options);
    api_take_version(env, version, s->change.version);
    s->anonymous = !version;
    api_take_note(env, text, &s->change);
    take_mode(env, quiesce, &s->mode);
    take_agent(env, api, agent, s);
    if (!env->fault_occurred && (s->timeout_seconds < 1 || s->timeout_seconds > FREEZE_SECONDS_MAX))
        api_fault(env, FAULT_BAD_ARGUMENT, "a guest may be frozen for 1 to %d seconds, not %d",
                  FREEZE_SECONDS_MAX, s->timeout_seconds);
}

/* ---- taking --------------------------------------------------------------------------------- */

void api_snap(xmlrpc_env *env, struct api *api, struct store_change *change, bool anonymous)
{
    char stamp[API_STAMP_CHARS];

    if (anonymous) {
        api_stamp(stamp);
        api_change_named(env, api, change, change->version, stamp);
    } else {
        api_change(env, api, change);
    }
}

struct outlook {
    const struct snap *snap;
    int error;
};

/* A version without a name will get a free one. */
static void on_outlook(struct engine_call *call)
{
    struct outlook *o = call->arg;
    struct store_change c = o->snap->change;

    if (o->snap->anonymous)
        strcpy(c.version, "any");
    o->error = store_change_refused(call->store, &c);
    if (o->snap->anonymous && o->error == -EEXIST)
        o->error = 0;
    engine_call_done(call);
}

/* What is known to be refused is refused before a guest stands still for it. */
static void refuse_early(xmlrpc_env *env, struct api *api, const struct snap *s)
{
    struct outlook o = {.snap = s};
    int r = engine_ask(api->engine, on_outlook, &o, &o.error);

    if (r < 0)
        api_change_fault(env, api, &s->change, r);
}

static void not_frozen(xmlrpc_env *env, struct snap *s, const char *why)
{
    if (s->mode == QUIESCE_REQUIRE)
        api_fault(env, FAULT_NOT_FROZEN, "no version was taken: %s", why);
    else
        snprintf(s->warning, sizeof(s->warning),
                 "the version is consistent as after a crash, since the guest was not frozen: %s",
                 why);
}

/* It was taken, but the guest ran: it is not what it says it is. */
static void take_back(xmlrpc_env *env, struct api *api, struct snap *s, const char *why)
{
    const char *names[] = {s->change.version};
    struct store_change c = {.kind = CHANGE_VERSION_REMOVE, .versions = names, .n_versions = 1};

    strcpy(c.vm, s->change.vm);
    api_change(env, api, &c);
    if (!env->fault_occurred)
        not_frozen(env, s, why);
    s->change.consistency = CONSISTENCY_CRASH;
    if (!env->fault_occurred)
        api_snap(env, api, &s->change, s->anonymous);
}

static void snap_frozen(xmlrpc_env *env, struct api *api, struct snap *s)
{
    struct quiesce *q = NULL;
    struct why why = {};

    refuse_early(env, api, s);
    if (env->fault_occurred)
        return;
    int r = quiesce_begin(api->run_path, s->agent, (unsigned)s->timeout_seconds * 1000, &q, &why);
    if (r < 0)
        not_frozen(env, s, why.text);
    else
        s->change.consistency = CONSISTENCY_FILESYSTEM;
    if (!env->fault_occurred)
        api_snap(env, api, &s->change, s->anonymous);
    r = quiesce_end(q, &why);
    if (env->fault_occurred || r == 0)
        return;
    if (r == -ESTALE)
        take_back(env, api, s, why.text);
    else
        snprintf(s->warning, sizeof(s->warning), "%s", why.text);
}

static xmlrpc_value *vm_snap(xmlrpc_env *env, xmlrpc_value *args, struct api *api)
{
    struct snap s = {};

    take_snap(env, args, api, &s);
    if (env->fault_occurred)
        return NULL;
    if (s.mode == QUIESCE_OFF)
        api_snap(env, api, &s.change, s.anonymous);
    else
        snap_frozen(env, api, &s);
    if (env->fault_occurred)
        return NULL;

    xmlrpc_value *value = xmlrpc_struct_new(env);
    api_put_text(env, value, "vm", s.change.vm);
    api_put_text(env, value, "name", s.change.version);
    api_put_text(env, value, "consistency", api_consistency_word(s.change.consistency));
    api_put_text(env, value, "warning", s.warning);
    return api_result(env, value);
}

const struct method api_snap_methods[] = {
    {"vm.snap", "S:s,S:sS", "vm, options",
     "Take a version: the state of all disks of a vm at one instant; it is durable when the answer "
     "comes. Options: version (its name; without one it is the time, such as 2026-11-20T18-05-09Z, "
     "with -2, -3 and so on behind it when that is taken), note (up to 1024 bytes on one line), "
     "quiesce (off, the default; require: have the guest's agent freeze its file systems "
     "meanwhile, "
     "or take nothing and fault with not-frozen; auto: take it all the same), timeout (seconds for "
     "the freezing and again for the time in it, 1 to 60, 10 by default), agent (the absolute path "
     "of its socket, if the machine was not started by varve run). Returns {vm, name, consistency "
     "(crash, or filesystem when it was frozen), warning (a sentence, or empty)}.",
     vm_snap},
    {},
};
