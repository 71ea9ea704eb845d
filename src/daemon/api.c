/* api.c - the registry, the checks that every request goes through, and helpers of the handlers. */
#include "daemon/api.h"

#include "base/cleanup.h"
#include "base/text.h"
#include "daemon/fault.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct method *const api_methods[] = {api_vm_methods,
                                            api_snap_methods,
                                            api_version_methods,
                                            api_rollback_methods,
                                            api_version_list_methods,
                                            api_diff_methods,
                                            api_send_methods,
                                            api_recv_methods,
                                            api_recv_end_methods,
                                            api_machine_methods,
                                            api_restore_methods,
                                            api_store_methods,
                                            NULL};

/* What the registry hands to each call. */
struct bound {
    const struct method *method;
    struct api *api;
};

struct api_registry {
    xmlrpc_registry *registry;
    struct bound *bound;
};

/* ---- arguments against signatures ----------------------------------------------------------- */

static char type_letter(xmlrpc_value *value)
{
    switch (xmlrpc_value_type(value)) {
    case XMLRPC_TYPE_INT:
        return 'i';
    case XMLRPC_TYPE_BOOL:
        return 'b';
    case XMLRPC_TYPE_DOUBLE:
        return 'd';
    case XMLRPC_TYPE_DATETIME:
        return '8';
    case XMLRPC_TYPE_STRING:
        return 's';
    case XMLRPC_TYPE_BASE64:
        return '6';
    case XMLRPC_TYPE_STRUCT:
        return 'S';
    case XMLRPC_TYPE_ARRAY:
        return 'A';
    case XMLRPC_TYPE_NIL:
        return 'n';
    case XMLRPC_TYPE_I8:
        return 'I';
    default:
        return '?';
    }
}

static const char *letter_word(char letter)
{
    static const char letters[] = "ibd8s6SAnI";
    static const char *const words[] = {"int",    "boolean", "double", "dateTime", "string",
                                        "base64", "struct",  "array",  "nil",      "i8"};
    const char *at = strchr(letters, letter);
    return at && *at ? words[at - letters] : "unknown";
}

/* The argument letters of args; longer lists than any method takes are cut. */
static void letters_of(xmlrpc_env *env, xmlrpc_value *args, char out[16])
{
    unsigned n = api_count(args), i;

    for (i = 0; i < n && i < 15 && !env->fault_occurred; i++) {
        xmlrpc_value *value;
        xmlrpc_array_read_item(env, args, i, &value);
        if (!env->fault_occurred) {
            out[i] = type_letter(value);
            xmlrpc_DECREF(value);
        }
    }
    out[i] = '\0';
}

static bool fits(const char *signatures, const char *letters)
{
    size_t n = strlen(letters);

    for (const char *s = signatures; s; s = strchr(s, ',')) {
        s = strchr(s, ':') + 1;
        if (strcspn(s, ",") == n && !strncmp(s, letters, n))
            return true;
    }
    return false;
}

/* "(string, struct) or (string)" */
static void signature_words(const char *signatures, char *out, size_t size)
{
    size_t at = 0;

    out[0] = '\0';
    for (const char *s = signatures; s; s = strchr(s, ',')) {
        s = strchr(s, ':') + 1;
        at += (size_t)snprintf(out + at, size - at, "%s(", at ? " or " : "");
        for (size_t i = 0; at < size && s[i] && s[i] != ','; i++)
            at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", letter_word(s[i]));
        if (at < size)
            at += (size_t)snprintf(out + at, size - at, ")");
        if (at >= size)
            return;
    }
}

static xmlrpc_value *invoke(xmlrpc_env *env, xmlrpc_value *args, void *bound_arg, void *unused)
{
    struct bound *bound = bound_arg;
    const struct method *m = bound->method;
    char letters[16], given[200], wanted[200];

    (void)unused;
    letters_of(env, args, letters);
    if (env->fault_occurred)
        return NULL;
    if (!fits(m->signatures, letters)) {
        char given_signature[20];
        snprintf(given_signature, sizeof(given_signature), ":%s", letters);
        signature_words(given_signature, given, sizeof(given));
        signature_words(m->signatures, wanted, sizeof(wanted));
        api_fault(env, FAULT_BAD_ARGUMENT, "%s takes %s, which are %s; it was given %s", m->name,
                  wanted, *m->arguments ? m->arguments : "none", given);
        return NULL;
    }
    return m->handler(env, args, bound->api);
}

/* ---- the registry --------------------------------------------------------------------------- */

struct api_registry *api_registry_new(struct api *api)
{
    struct api_registry *r = calloc(1, sizeof(*r));
    xmlrpc_env env;
    size_t n = 0;

    for (const struct method *const *part = api_methods; *part; part++)
        for (const struct method *m = *part; m->name; m++)
            n++;
    if (!r || !(r->bound = calloc(n, sizeof(*r->bound)))) {
        free(r);
        return NULL;
    }

    xmlrpc_env_init(&env);
    xmlrpc_limit_set(XMLRPC_XML_SIZE_LIMIT_ID, API_REQUEST_MAX_BYTES);
    r->registry = xmlrpc_registry_new(&env);
    struct bound *bound = r->bound;
    for (const struct method *const *part = api_methods; *part && !env.fault_occurred; part++)
        for (const struct method *m = *part; m->name && !env.fault_occurred; m++) {
            *bound = (struct bound){.method = m, .api = api};
            struct xmlrpc_method_info3 info = {.methodName = m->name,
                                               .methodFunction = invoke,
                                               .serverInfo = bound++,
                                               .signatureString = m->signatures,
                                               .help = m->help};
            xmlrpc_registry_add_method3(&env, r->registry, &info);
        }
    bool failed = env.fault_occurred;
    xmlrpc_env_clean(&env);
    if (failed) {
        api_registry_free(r);
        return NULL;
    }
    return r;
}

void api_registry_free(struct api_registry *r)
{
    if (!r)
        return;
    if (r->registry)
        xmlrpc_registry_free(r->registry);
    free(r->bound);
    free(r);
}

/* XML-RPC has no use for document types, and entities make small requests large. A zero byte
 * means UTF-16 or worse, in which they could hide. */
static const char *refusal(const char *xml, size_t len)
{
    if (memchr(xml, '\0', len))
        return "the request has a zero byte; send it as UTF-8";
    if (memmem(xml, len, "<!DOCTYPE", 9) || memmem(xml, len, "<!ENTITY", 8))
        return "document types and entities are not accepted";
    /* libxmlrpc 1.33 crashes on one that is no number (its message wants an argument that it does
     * not give); no method takes them. */
    if (memmem(xml, len, "<i8", 3) || memmem(xml, len, "<ex:i8", 6))
        return "i8 integers are not accepted; send sizes as decimal strings";
    return NULL;
}

/* NULL: no memory. */
static xmlrpc_mem_block *fault_answer(int number, const char *text)
{
    xmlrpc_env env, fault;

    xmlrpc_env_init(&env);
    xmlrpc_env_init(&fault);
    api_fault(&fault, number, "%s", text);
    xmlrpc_mem_block *answer = XMLRPC_MEMBLOCK_NEW(char, &env, 0);
    if (answer)
        xmlrpc_serialize_fault(&env, answer, &fault);
    if (env.fault_occurred && answer) {
        XMLRPC_MEMBLOCK_FREE(char, answer);
        answer = NULL;
    }
    xmlrpc_env_clean(&fault);
    xmlrpc_env_clean(&env);
    return answer;
}

xmlrpc_mem_block *api_process(struct api_registry *r, const char *xml, size_t len)
{
    xmlrpc_mem_block *answer = NULL;
    const char *refused = refusal(xml, len);
    xmlrpc_env env;

    if (refused)
        return fault_answer(XMLRPC_PARSE_ERROR, refused);
    xmlrpc_env_init(&env);
    xmlrpc_registry_process_call2(&env, r->registry, xml, len, NULL, &answer);
    if (env.fault_occurred) {
        if (answer)
            XMLRPC_MEMBLOCK_FREE(char, answer);
        answer = fault_answer(env.fault_code, env.fault_string);
    }
    xmlrpc_env_clean(&env);
    return answer;
}

/* ---- for handlers --------------------------------------------------------------------------- */

void api_fault(xmlrpc_env *env, int number, const char *format, ...)
{
    _cleanup_free_ char *text = NULL, *carried = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (text)
        carried = text_carried(text);
    xmlrpc_env_set_fault(env, number, carried ? carried : "no memory for what is wrong");
}

unsigned api_count(xmlrpc_value *args)
{
    xmlrpc_env env;

    xmlrpc_env_init(&env);
    int n = xmlrpc_array_size(&env, args);
    xmlrpc_env_clean(&env);
    return n > 0 ? (unsigned)n : 0;
}

/* The caller's reference of args keeps what is borrowed alive. */
static xmlrpc_value *borrow(xmlrpc_env *env, xmlrpc_value *args, unsigned i)
{
    xmlrpc_value *value = NULL;

    xmlrpc_array_read_item(env, args, i, &value);
    if (env->fault_occurred)
        return NULL;
    xmlrpc_DECREF(value);
    return value;
}

const char *api_text(xmlrpc_env *env, xmlrpc_value *args, unsigned i)
{
    xmlrpc_value *value = borrow(env, args, i);
    const char *copy, *text = NULL;
    size_t len;

    if (!value)
        return NULL;
    /* read_string copies; the same bytes are found, uncopied, by the older call. */
    xmlrpc_read_string(env, value, &copy);
    if (env->fault_occurred) {
        api_fault(env, FAULT_BAD_ARGUMENT, "argument %u is no plain text", i + 1);
        return NULL;
    }
    free((void *)(uintptr_t)copy);
    xmlrpc_parse_value(env, value, "s#", &text, &len);
    return env->fault_occurred ? NULL : text;
}

int api_int(xmlrpc_env *env, xmlrpc_value *args, unsigned i)
{
    xmlrpc_value *value = borrow(env, args, i);
    int number = 0;

    if (value)
        xmlrpc_read_int(env, value, &number);
    return number;
}

xmlrpc_value *api_string(xmlrpc_env *env, const char *text)
{
    _cleanup_free_ char *carried = NULL;

    if (env->fault_occurred)
        return NULL;
    if (text && text_refused(text)) {
        text = carried = text_carried(text);
        if (!carried) {
            api_fault(env, FAULT_NO_MEMORY, "no memory");
            return NULL;
        }
    }
    xmlrpc_value *value = xmlrpc_string_new(env, text ? text : "");
    return env->fault_occurred ? NULL : value;
}

void api_put(xmlrpc_env *env, xmlrpc_value *strct, const char *key, xmlrpc_value *value)
{
    if (!env->fault_occurred)
        xmlrpc_struct_set_value(env, strct, key, value);
    if (value)
        xmlrpc_DECREF(value);
}

void api_append(xmlrpc_env *env, xmlrpc_value *array, xmlrpc_value *value)
{
    if (!env->fault_occurred)
        xmlrpc_array_append_item(env, array, value);
    if (value)
        xmlrpc_DECREF(value);
}

void api_put_text(xmlrpc_env *env, xmlrpc_value *strct, const char *key, const char *text)
{
    if (!env->fault_occurred)
        api_put(env, strct, key, api_string(env, text));
}

void api_put_u64(xmlrpc_env *env, xmlrpc_value *strct, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, value);
    api_put_text(env, strct, key, text);
}

void api_put_int(xmlrpc_env *env, xmlrpc_value *strct, const char *key, int value)
{
    if (!env->fault_occurred)
        api_put(env, strct, key, xmlrpc_int_new(env, value));
}

void api_put_bool(xmlrpc_env *env, xmlrpc_value *strct, const char *key, int value)
{
    if (!env->fault_occurred)
        api_put(env, strct, key, xmlrpc_bool_new(env, value));
}

void api_put_time(xmlrpc_env *env, xmlrpc_value *strct, const char *key, uint64_t utc_us)
{
    time_t seconds = (time_t)(utc_us / 1000000);
    char text[32];
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    api_put_text(env, strct, key, text);
}

xmlrpc_value *api_result(xmlrpc_env *env, xmlrpc_value *value)
{
    if (env->fault_occurred && value) {
        xmlrpc_DECREF(value);
        return NULL;
    }
    return value;
}
