/* client.c - calls to the daemon: XML-RPC by libxmlrpc's serialisation.
 *
 * The commands speak JSON values; this file turns them into XML-RPC values and back. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "base/text.h"
#include "cli/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <xmlrpc-c/base.h>

#define CALL_TIMEOUT_SECONDS 120
#define ANSWER_MAX_BYTES     (64u << 20) /* lists of many vms */

/* ---- values --------------------------------------------------------------------------------- */

static enum exit_code add(json_t *to, const char *key, const char *text)
{
    _cleanup_free_ char *carried = NULL;
    json_t *value = json_string(text);

    if (!value) {
        carried = text_carried(text);
        return error(EXIT_USAGE, "\"%s\" is not UTF-8", carried ? carried : "");
    }
    if ((key ? json_object_set_new(to, key, value) : json_array_append_new(to, value)) < 0)
        return error(EXIT_FAILED, "no memory");
    return EXIT_OK;
}

enum exit_code set_text(json_t *options, const char *key, const char *text)
{
    return add(options, key, text);
}

enum exit_code add_text(json_t *list, const char *text)
{
    return add(list, NULL, text);
}

/* A text in it that XML-RPC cannot carry; NULL: there is none. */
static const char *find_refused(const json_t *json)
{
    const char *text, *key;
    json_t *member;
    size_t i;

    if (json_is_string(json))
        return text_refused(json_string_value(json)) ? json_string_value(json) : NULL;
    json_array_foreach(json, i, member)
    {
        if ((text = find_refused(member)))
            return text;
    }
    json_object_foreach((json_t *)(uintptr_t)json, key, member)
    {
        if ((text = find_refused(member)))
            return text;
    }
    return NULL;
}

/* EXIT_USAGE with a sentence: the arguments cannot be sent. */
static enum exit_code check_arguments(const json_t *args, struct why *why)
{
    _cleanup_free_ char *carried = NULL;
    const char *refused = args ? find_refused(args) : NULL;

    if (!args)
        why_set(why, 0, "what was given is not UTF-8");
    else if (refused)
        why_set(why, 0,
                "\"%s\" has a character that Varve cannot keep: a control character, or one beyond "
                "U+FFFD, as emojis are",
                (carried = text_carried(refused)) ? carried : "");
    return args && !refused ? EXIT_OK : EXIT_USAGE;
}

/* Of what check_arguments() has passed. */
static xmlrpc_value *to_xmlrpc(xmlrpc_env *env, const json_t *json)
{
    xmlrpc_value *value = NULL, *item;
    const char *key;
    json_t *member;
    size_t i;

    switch (json_typeof(json)) {
    case JSON_STRING:
        return xmlrpc_string_new(env, json_string_value(json));
    case JSON_INTEGER:
        return xmlrpc_int_new(env, (int)json_integer_value(json));
    case JSON_TRUE:
    case JSON_FALSE:
        return xmlrpc_bool_new(env, json_is_true(json));
    case JSON_ARRAY:
        value = xmlrpc_array_new(env);
        json_array_foreach(json, i, member)
        {
            item = to_xmlrpc(env, member);
            xmlrpc_array_append_item(env, value, item);
            xmlrpc_DECREF(item);
        }
        return value;
    case JSON_OBJECT:
        value = xmlrpc_struct_new(env);
        json_object_foreach((json_t *)(uintptr_t)json, key, member)
        {
            item = to_xmlrpc(env, member);
            xmlrpc_struct_set_value(env, value, key, item);
            xmlrpc_DECREF(item);
        }
        return value;
    default:
        return xmlrpc_nil_new(env);
    }
}

static json_t *from_xmlrpc(xmlrpc_env *env, xmlrpc_value *value)
{
    xmlrpc_value *item, *key;
    const char *text;
    json_t *json;
    size_t len;
    int number;

    switch (xmlrpc_value_type(value)) {
    case XMLRPC_TYPE_INT:
        xmlrpc_read_int(env, value, &number);
        return json_integer(number);
    case XMLRPC_TYPE_BOOL:
        xmlrpc_read_bool(env, value, &number);
        return json_boolean(number);
    case XMLRPC_TYPE_STRING:
        xmlrpc_read_string_lp(env, value, &len, &text);
        if (env->fault_occurred)
            return NULL;
        json = json_stringn(text, len);
        free((void *)(uintptr_t)text);
        return json;
    case XMLRPC_TYPE_ARRAY:
        json = json_array();
        for (int i = 0; i < xmlrpc_array_size(env, value) && !env->fault_occurred; i++) {
            xmlrpc_array_read_item(env, value, (unsigned)i, &item);
            json_array_append_new(json, from_xmlrpc(env, item));
            xmlrpc_DECREF(item);
        }
        return json;
    case XMLRPC_TYPE_STRUCT:
        json = json_object();
        for (int i = 0; i < xmlrpc_struct_size(env, value) && !env->fault_occurred; i++) {
            xmlrpc_struct_read_member(env, value, (unsigned)i, &key, &item);
            xmlrpc_read_string(env, key, &text);
            json_object_set_new(json, text, from_xmlrpc(env, item));
            free((void *)(uintptr_t)text);
            xmlrpc_DECREF(key);
            xmlrpc_DECREF(item);
        }
        return json;
    default:
        return json_null();
    }
}

/* ---- the request ---------------------------------------------------------------------------- */

static enum exit_code unreachable(int code, bool connected, const char *path, struct why *why)
{
    if (code == -EPROTO)
        why_set(why, 0, "the daemon at %s did not answer: its answer was cut off", path);
    else if (connected)
        why_set(why, 0, "the daemon at %s did not answer: %s", path, strerror(-code));
    else if (code == -EACCES || code == -EPERM)
        why_set(why, 0, "no permission to talk to the daemon at %s; run varve as the daemon's user",
                path);
    else
        why_set(why, 0,
                "no daemon answers at %s (%s); start varved, or name its run directory with --run",
                path, strerror(-code));
    return EXIT_UNREACHABLE;
}

static enum exit_code send_request(const char *path, const char *method, xmlrpc_mem_block *request,
                                   struct http_answer *answer, struct why *why)
{
    int connected;
    int r = http_post(path, XMLRPC_MEMBLOCK_CONTENTS(char, request),
                      XMLRPC_MEMBLOCK_SIZE(char, request), ANSWER_MAX_BYTES,
                      mono_us() + CALL_TIMEOUT_SECONDS * 1000000ULL, answer, &connected);

    if (r == -EFBIG) {
        why_set(
            why, 0,
            "what the daemon answered to %s is longer than the %u MiB that varve takes; ask for "
            "less, such as one vm in place of all",
            method, ANSWER_MAX_BYTES >> 20);
        return EXIT_FAILED;
    }
    if (r < 0)
        return unreachable(r, connected, path, why);
    if (answer->status == 200)
        return EXIT_OK;
    why_set(why, 0, "the daemon at %s answered with HTTP status %d", path, answer->status);
    return EXIT_FAILED;
}

static enum exit_code read_answer(xmlrpc_env *env, const struct http_answer *answer, json_t **ret,
                                  struct why *why)
{
    const char *fault_text;
    xmlrpc_value *value;
    int fault = 0;

    xmlrpc_parse_response2(env, answer->body, answer->len, &value, &fault, &fault_text);
    if (env->fault_occurred)
        return EXIT_FAILED;
    if (fault_text) {
        why_set(why, 0, "%s", fault_text);
        free((void *)(uintptr_t)fault_text);
        return fault_find(fault)->exit_code;
    }
    *ret = from_xmlrpc(env, value);
    xmlrpc_DECREF(value);
    return EXIT_OK;
}

enum exit_code call_quiet(const struct invocation *inv, const char *method, json_t *args,
                          json_t **ret, struct why *why)
{
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    enum exit_code r = check_arguments(args, why);
    struct http_answer answer = {};
    xmlrpc_env env;

    if (r != EXIT_OK) {
        json_decref(args);
        return r;
    }
    if (snprintf(path, sizeof(path), "%s/varve.sock", inv->run_dir) >= (int)sizeof(path)) {
        json_decref(args);
        why_set(why, 0,
                "the socket path %.60s.../varve.sock is longer than the %zu characters that a Unix "
                "socket's may have; choose a shorter run directory",
                inv->run_dir, sizeof(path) - 1);
        return EXIT_USAGE;
    }
    xmlrpc_env_init(&env);
    xmlrpc_limit_set(XMLRPC_XML_SIZE_LIMIT_ID, ANSWER_MAX_BYTES);
    xmlrpc_mem_block *request = XMLRPC_MEMBLOCK_NEW(char, &env, 0);
    xmlrpc_value *params = to_xmlrpc(&env, args);
    xmlrpc_serialize_call(&env, request, method, params);
    r = EXIT_FAILED;
    if (!env.fault_occurred)
        r = send_request(path, method, request, &answer, why);
    if (!env.fault_occurred && r == EXIT_OK)
        r = read_answer(&env, &answer, ret, why);
    if (env.fault_occurred) {
        why_set(why, 0, "%s: %s", method, env.fault_string);
        r = EXIT_FAILED;
    }
    xmlrpc_DECREF(params);
    XMLRPC_MEMBLOCK_FREE(char, request);
    free(answer.body);
    xmlrpc_env_clean(&env);
    json_decref(args);
    return r;
}

enum exit_code call(const struct invocation *inv, const char *method, json_t *args, json_t **ret)
{
    struct why why = {};
    json_t *unused = NULL;
    enum exit_code r = call_quiet(inv, method, args, ret ? ret : &unused, &why);

    if (r != EXIT_OK)
        error(r, "%s", why.text);
    if (unused)
        json_decref(unused);
    return r;
}

enum exit_code check_daemon(const struct invocation *inv, enum exit_code code)
{
    json_t *unused = NULL;
    struct why why = {};
    enum exit_code r = call_quiet(inv, "daemon.info", NO_ARGUMENTS, &unused, &why);

    json_decref(unused);
    return r == EXIT_UNREACHABLE ? error(r, "the daemon is gone: %s", why.text) : code;
}
