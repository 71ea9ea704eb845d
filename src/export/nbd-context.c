/* nbd-context.c - metadata contexts, what BLOCK_STATUS tells of an export:
 *
 *   base:allocation       what is data, hole and zeros
 *   varve:changed:BASE    what is not the same page as in BASE, a version: bit 0 of the flags, as
 * in QEMU's dirty bitmaps. A base that there is not is not offered.
 *
 * A base has a user from the moment it is set until the connection ends, so that the version cannot
 * be removed under it. */
#include "export/nbd-internal.h"
#include "export/nbd_format.h"

#include <string.h>

/* Longer queries ask for nothing. */
#define QUERY_MAX (sizeof(changed_name) + 2 * NAME_MAX_CHARS + 2)

static const char allocation_name[] = "base:allocation";
static const char changed_name[] = "varve:changed:";

/* Returns its id, or 0 when there are too many. base: NULL for base:allocation. */
static uint32_t set(struct nbd_conn *conn, struct disk *base)
{
    for (unsigned i = 0; i < conn->n_contexts; i++)
        if (conn->contexts[i].base == base)
            return 0; /* asked for twice, and answered */
    if (conn->n_contexts == NBD_MAX_CONTEXTS)
        return 0;
    if (base)
        disk_get(base);
    conn->contexts[conn->n_contexts++] = (struct nbd_context){.base = base};
    return conn->n_contexts;
}

void nbd_context_clear(struct nbd_conn *conn)
{
    for (unsigned i = 0; i < conn->n_contexts; i++)
        if (conn->contexts[i].base)
            disk_put(conn->contexts[i].base);
    conn->n_contexts = 0;
}

static void answer(const struct nbd_context_option *o, struct disk *base, const char *name)
{
    bool is_list = o->option == NBD_OPT_LIST_META_CONTEXT;
    uint32_t id = is_list ? 0 : set(o->conn, base);
    if (id || is_list)
        o->found(o->conn, o->option, id, name);
}

/* ---- listing -------------------------------------------------------------------------------- */

static void list_base(void *arg, const char *base)
{
    const struct nbd_context_option *o = arg;
    char name[QUERY_MAX + 1];

    if (strlen(base) > QUERY_MAX - strlen(changed_name))
        return;
    strcpy(name, changed_name);
    strcat(name, base);
    o->found(o->conn, o->option, 0, name);
}

/* A name that ends in a colon stands for what begins with it: a client asks again with it as its
 * query. So a list of all exports with their contexts does not grow with versions times versions.
 */
void nbd_context_list_all(const struct nbd_context_option *o)
{
    o->found(o->conn, o->option, 0, allocation_name);
    o->found(o->conn, o->option, 0, changed_name);
}

/* False: the query names no list. */
static bool list(struct nbd_context_option *o, const char *query)
{
    struct nbd_exports *exports = o->conn->server->exports;

    if (!strcmp(query, "base:")) {
        o->found(o->conn, o->option, 0, allocation_name);
        return true;
    }
    if (strcmp(query, "varve:") && strcmp(query, changed_name))
        return false;
    if (!o->listed && exports->list_bases(exports, o->export_name, list_base, o) < 0)
        nbd_conn_kill(o->conn); /* no memory for it */
    o->listed = true;
    return true;
}

void nbd_context_query(struct nbd_context_option *o, const uint8_t *query, uint32_t len)
{
    struct nbd_exports *exports = o->conn->server->exports;
    char text[QUERY_MAX + 1];

    if (!query || len > QUERY_MAX || memchr(query, 0, len))
        return;
    memcpy(text, query, len);
    text[len] = 0;
    if (o->option == NBD_OPT_LIST_META_CONTEXT && list(o, text))
        return;
    if (!strcmp(text, allocation_name)) {
        answer(o, NULL, text);
    } else if (!strncmp(text, changed_name, strlen(changed_name))) {
        struct disk *base =
            exports->find_base(exports, o->export_name, text + strlen(changed_name));
        if (base)
            answer(o, base, text);
    }
}
