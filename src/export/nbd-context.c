/* nbd-context.c - metadata contexts, what BLOCK_STATUS tells of an export:
 *
 *   base:allocation       what is data, hole and zeros
 *   varve:changed:BASE    bit 0: it is not the same page as in BASE, a version; as in QEMU's dirty
 *                         bitmaps
 *   varve:diff:BASE       the same; bit 1: and it is a hole now; bit 2: and it reads as zeros now
 *
 * A base that there is not is not offered. One that is has a user from the moment it is set until
 * the connection ends, so that the version cannot be removed under it. */
#include "export/nbd-internal.h"
#include "export/nbd_format.h"

#include <string.h>

/* Longer queries ask for nothing. */
#define QUERY_MAX (sizeof(changed_prefix) + 2 * NAME_MAX_CHARS + 2)

static const char allocation_name[] = "base:allocation";
static const char changed_prefix[] = "varve:changed:";
static const char diff_prefix[] = "varve:diff:";

/* Returns its id, or 0 when there are too many. base: NULL for base:allocation. */
static uint32_t set(struct nbd_conn *conn, struct disk *base, bool diff)
{
    for (unsigned i = 0; i < conn->n_contexts; i++)
        if (conn->contexts[i].base == base && conn->contexts[i].diff == diff)
            return 0; /* asked for twice, and answered */
    if (conn->n_contexts == NBD_MAX_CONTEXTS)
        return 0;
    if (base)
        disk_get(base);
    conn->contexts[conn->n_contexts++] = (struct nbd_context){.base = base, .diff = diff};
    return conn->n_contexts;
}

void nbd_context_clear(struct nbd_conn *conn)
{
    for (unsigned i = 0; i < conn->n_contexts; i++)
        if (conn->contexts[i].base)
            disk_put(conn->contexts[i].base);
    conn->n_contexts = 0;
}

static void answer(const struct nbd_context_option *o, struct disk *base, bool diff,
                   const char *name)
{
    bool is_list = o->option == NBD_OPT_LIST_META_CONTEXT;
    uint32_t id = is_list ? 0 : set(o->conn, base, diff);
    if (id || is_list)
        o->found(o->conn, o->option, id, name);
}

/* ---- listing -------------------------------------------------------------------------------- */

static void list_base(const struct nbd_context_option *o, const char *prefix, const char *base)
{
    char name[QUERY_MAX + 1];

    if (strlen(base) > QUERY_MAX - strlen(prefix))
        return;
    strcpy(name, prefix);
    strcat(name, base);
    o->found(o->conn, o->option, 0, name);
}

static void list_changed(void *arg, const char *base)
{
    list_base(arg, changed_prefix, base);
}

static void list_diff(void *arg, const char *base)
{
    list_base(arg, diff_prefix, base);
}

/* A name that ends in a colon stands for what begins with it: a client asks again with it as its
 * query. So a list of all exports with their contexts does not grow with versions times versions.
 */
void nbd_context_list_all(const struct nbd_context_option *o)
{
    o->found(o->conn, o->option, 0, allocation_name);
    o->found(o->conn, o->option, 0, changed_prefix);
    o->found(o->conn, o->option, 0, diff_prefix);
}

/* Once in an option, however often it is asked. */
static void list_bases(struct nbd_context_option *o, void (*each)(void *arg, const char *base),
                       bool *listed)
{
    struct nbd_exports *exports = o->conn->server->exports;

    if (!*listed && exports->list_bases(exports, o->export_name, each, o) < 0)
        nbd_conn_kill(o->conn); /* no memory for it */
    *listed = true;
}

/* False: the query names no list. */
static bool list(struct nbd_context_option *o, const char *query)
{
    bool both = !strcmp(query, "varve:");

    if (!strcmp(query, "base:")) {
        o->found(o->conn, o->option, 0, allocation_name);
        return true;
    }
    if (both || !strcmp(query, changed_prefix))
        list_bases(o, list_changed, &o->listed_changed);
    else if (strcmp(query, diff_prefix))
        return false;
    if (both || !strcmp(query, diff_prefix))
        list_bases(o, list_diff, &o->listed_diff);
    return true;
}

static void query_base(const struct nbd_context_option *o, const char *text, const char *base,
                       bool diff)
{
    struct nbd_exports *exports = o->conn->server->exports;
    struct disk *found = exports->find_base(exports, o->export_name, base);

    if (found)
        answer(o, found, diff, text);
}

void nbd_context_query(struct nbd_context_option *o, const uint8_t *query, uint32_t len)
{
    char text[QUERY_MAX + 1];

    if (!query || len > QUERY_MAX || memchr(query, 0, len))
        return;
    memcpy(text, query, len);
    text[len] = 0;
    if (o->option == NBD_OPT_LIST_META_CONTEXT && list(o, text))
        return;
    if (!strcmp(text, allocation_name))
        answer(o, NULL, false, text);
    else if (!strncmp(text, changed_prefix, strlen(changed_prefix)))
        query_base(o, text, text + strlen(changed_prefix), false);
    else if (!strncmp(text, diff_prefix, strlen(diff_prefix)))
        query_base(o, text, text + strlen(diff_prefix), true);
}
