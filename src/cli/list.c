/* list.c - varve ls: vms, versions, and the tree of what came from what. */
#include "cli/cli.h"

#include "base/mono.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MEASURE_US 2000000 /* over all pages of a list; a page alone may take as long again */

/* ---- vms ------------------------------------------------------------------------------------ */

static void print_vms(const json_t *vms)
{
    char size[SIZE_TEXT_CHARS], used[SIZE_TEXT_CHARS], disks[16], versions[24];
    struct table *table = table_new("llrrrrl");
    json_t *vm;
    size_t i;

    table_row(table, "NAME", "ROLE", "DISKS", "VERSIONS", "SIZE", "USED", "STATE", NULL);
    json_array_foreach(vms, i, vm)
    {
        const json_t *list = json_object_get(vm, "disks");
        snprintf(disks, sizeof(disks), "%zu", json_array_size(list));
        snprintf(versions, sizeof(versions), "%" PRIu64, member_u64(vm, "versions"));
        table_row(table, member_text(vm, "name"), member_text(vm, "role"), disks, versions,
                  size_format(member_sum(list, "size"), size),
                  size_format(member_sum(list, "used"), used),
                  state_text(vm, member_sum(list, "users")), NULL);
    }
    table_print(table);
}

static enum exit_code list_vms(const struct invocation *inv)
{
    json_t *vms;
    enum exit_code r = call(inv, "vm.list", NO_ARGUMENTS, &vms);

    if (r != EXIT_OK)
        return r;
    if (inv->json)
        r = print_json(vms);
    else
        print_vms(vms);
    json_decref(vms);
    return r;
}

/* ---- versions ------------------------------------------------------------------------------- */

enum exit_code call_versions(const struct invocation *inv, const char *vm, bool measure,
                             json_t **ret)
{
    json_t *all = json_array(), *page, *after = json_string("");
    uint64_t end_us = mono_us() + MEASURE_US;
    enum exit_code r;

    do {
        json_t *options = json_pack("{s:b}", "measure", measure && mono_us() < end_us);
        if (*json_string_value(after))
            json_object_set(options, "after", after);
        r = call(inv, "version.list", json_pack("[s, o]", vm, options), &page);
        if (r != EXIT_OK)
            break;
        json_array_extend(all, json_object_get(page, "versions"));
        json_decref(after);
        after = json_string(member_text(page, "next"));
        json_decref(page);
    } while (*json_string_value(after));
    json_decref(after);
    if (r == EXIT_OK)
        *ret = all;
    else
        json_decref(all);
    return r;
}

/* A size, or "-" where it is not known. */
static const char *size_cell(const json_t *object, const char *key, char text[SIZE_TEXT_CHARS])
{
    if (!json_is_string(json_object_get(object, key)))
        return "-";
    return size_format(member_u64(object, key), text);
}

static void print_versions(const json_t *versions)
{
    char used[SIZE_TEXT_CHARS], exclusive[SIZE_TEXT_CHARS], shared[SIZE_TEXT_CHARS], name[600];
    char memory[SIZE_TEXT_CHARS];
    struct table *table = table_new("lllrrrrll");
    json_t *v;
    size_t i;

    table_row(table, "VERSION", "TAKEN", "CONSISTENCY", "USED", "EXCLUSIVE", "SHARED", "MEMORY",
              "HELD", "NOTE", NULL);
    json_array_foreach(versions, i, v)
    {
        snprintf(name, sizeof(name), "%s@%s", member_text(v, "vm"), member_text(v, "name"));
        table_row(
            table, name, member_text(v, "created"), member_text(v, "consistency"),
            size_cell(v, "used", used), size_cell(v, "exclusive", exclusive),
            size_cell(v, "shared", shared), size_cell(json_object_get(v, "memory"), "used", memory),
            json_is_true(json_object_get(v, "held")) ? "held" : "", member_text(v, "note"), NULL);
    }
    table_print(table);
}

static void set_unknown(json_t *object)
{
    if (json_object_get(object, "exclusive"))
        return;
    json_object_set_new(object, "exclusive", json_null());
    json_object_set_new(object, "shared", json_null());
}

static enum exit_code list_versions(const struct invocation *inv)
{
    json_t *versions, *v;
    size_t i;
    bool measure = option_value(inv, "unmeasured") == NULL;
    enum exit_code r = call_versions(inv, inv->n_args ? inv->args[0] : "", measure, &versions);

    if (r != EXIT_OK)
        return r;
    if (inv->json) {
        json_array_foreach(versions, i, v)
        {
            json_t *memory = json_object_get(v, "memory");
            set_unknown(v);
            if (memory)
                set_unknown(memory);
            else
                json_object_set_new(v, "memory", json_null());
        }
        r = print_json(versions);
    } else {
        print_versions(versions);
    }
    json_decref(versions);
    return r;
}

/* ---- the tree ------------------------------------------------------------------------------- */

/* A version, or a vm's head. */
struct node {
    char *name;            /* "web1@a" or "web1" */
    const json_t *version; /* NULL: a head */
    const char *vm, *origin;
    uint64_t id;                           /* heads: after all versions */
    struct node *parent, *children, *next; /* children in order of age, the trunk last */
};

struct tree {
    struct node *nodes;
    struct node **by_name;
    size_t n;
};

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct node *const *)a)->name, (*(struct node *const *)b)->name);
}

/* Children are pushed to the front of their list: the youngest goes first. The trunk, what goes on
 * in the same vm, is pushed before the others, to be the last; and of these the youngest. */
static int by_place(const void *a, const void *b)
{
    const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;
    bool x_trunk = x->parent && !strcmp(x->vm, x->parent->vm);
    bool y_trunk = y->parent && !strcmp(y->vm, y->parent->vm);

    if (x_trunk != y_trunk)
        return x_trunk ? -1 : 1;
    if (x->id != y->id)
        return x->id > y->id ? -1 : 1;
    return -strcmp(x->name, y->name);
}

static struct node *find_node(const struct tree *tree, const char *name)
{
    struct node key = {.name = (char *)(uintptr_t)name}, *p = &key;
    struct node **found = bsearch(&p, tree->by_name, tree->n, sizeof(p), by_name);

    return found ? *found : NULL;
}

static char *join(const char *vm, const char *version)
{
    char *text;

    if (asprintf(&text, "%s%s%s", vm, version ? "@" : "", version ? version : "") < 0)
        abort();
    return text;
}

static void tree_make(struct tree *tree, const json_t *vms, const json_t *versions)
{
    struct node *node;
    json_t *object;
    size_t i;

    tree->n = json_array_size(vms) + json_array_size(versions);
    tree->nodes = node = calloc(tree->n + 1, sizeof(*tree->nodes));
    tree->by_name = calloc(tree->n + 1, sizeof(*tree->by_name));
    if (!tree->nodes || !tree->by_name)
        abort();
    json_array_foreach(versions, i, object)
    {
        const char *vm = member_text(object, "vm");
        *node++ = (struct node){.name = join(vm, member_text(object, "name")),
                                .version = object,
                                .vm = vm,
                                .origin = member_text(object, "origin"),
                                .id = member_u64(object, "id")};
    }
    json_array_foreach(vms, i, object)
    {
        const char *vm = member_text(object, "name");
        *node++ = (struct node){.name = join(vm, NULL),
                                .vm = vm,
                                .origin = member_text(object, "origin"),
                                .id = UINT64_MAX};
    }
    for (i = 0; i < tree->n; i++)
        tree->by_name[i] = &tree->nodes[i];
    qsort(tree->by_name, tree->n, sizeof(*tree->by_name), by_name);
    for (i = 0; i < tree->n; i++)
        tree->nodes[i].parent = find_node(tree, tree->nodes[i].origin);
}

static void tree_free(struct tree *tree)
{
    for (size_t i = 0; i < tree->n; i++)
        free(tree->nodes[i].name);
    free(tree->nodes);
    free(tree->by_name);
}

/* Returns the first root. Uses by_name up. */
static struct node *tree_link(struct tree *tree)
{
    struct node *roots = NULL;

    qsort(tree->by_name, tree->n, sizeof(*tree->by_name), by_place);
    for (size_t i = 0; i < tree->n; i++) {
        struct node *node = tree->by_name[i],
                    **to = node->parent ? &node->parent->children : &roots;
        node->next = *to;
        *to = node;
    }
    return roots;
}

static void print_node(struct table *table, const struct node *node, const char *indent)
{
    char used[SIZE_TEXT_CHARS];
    char *name;

    if (asprintf(&name, "%s%s", indent, node->name) < 0)
        abort();
    if (node->version)
        table_row(table, name, member_text(node->version, "created"),
                  size_cell(node->version, "used", used),
                  json_is_true(json_object_get(node->version, "held")) ? "held" : "",
                  member_text(node->version, "note"), NULL);
    else
        table_row(table, name, "now", "", "", "", NULL);
    free(name);
}

/* A line of descent, one under the other; what branches off stands indented before it goes on.
 * first: the indent of its first node. */
static void print_line(struct table *table, const struct node *node, const char *first,
                       const char *indent)
{
    char *branch, *deeper;

    if (asprintf(&branch, "%s|- ", indent) < 0 || asprintf(&deeper, "%s|  ", indent) < 0)
        abort();
    while (node) {
        const struct node *child = node->children;
        print_node(table, node, first);
        for (; child && child->next; child = child->next)
            print_line(table, child, branch, deeper);
        node = child;
        first = indent;
    }
    free(branch);
    free(deeper);
}

static void print_tree(const struct node *roots)
{
    struct table *table = table_new("llrll");

    table_row(table, "NAME", "TAKEN", "USED", "HELD", "NOTE", NULL);
    for (const struct node *root = roots; root; root = root->next)
        print_line(table, root, "", "");
    table_print(table);
}

/* Flat, for a line of ten thousand versions is nested deeper than programs read. */
static enum exit_code print_tree_json(const struct tree *tree)
{
    json_t *out = json_array();

    for (size_t i = 0; i < tree->n; i++) {
        const struct node *node = &tree->nodes[i];
        json_t *parent = node->parent ? json_string(node->parent->name) : json_null();
        json_array_append_new(out, json_pack("{s:s, s:s, s:s, s:o}", "name", node->name, "kind",
                                             node->version ? "version" : "vm", "vm", node->vm,
                                             "parent", parent));
    }
    enum exit_code r = print_json(out);
    json_decref(out);
    return r;
}

static enum exit_code list_tree(const struct invocation *inv)
{
    json_t *vms = NULL, *versions = NULL;
    struct tree tree;
    enum exit_code r = call(inv, "vm.list", NO_ARGUMENTS, &vms);

    if (r == EXIT_OK)
        r = call_versions(inv, "", false, &versions);
    if (r == EXIT_OK) {
        tree_make(&tree, vms, versions);
        if (inv->json)
            r = print_tree_json(&tree);
        else
            print_tree(tree_link(&tree));
        tree_free(&tree);
    }
    json_decref(vms);
    json_decref(versions);
    return r;
}

enum exit_code cmd_ls(const struct invocation *inv)
{
    bool tree = option_value(inv, "tree") != NULL;

    if (tree && inv->n_args)
        return error(EXIT_USAGE, "--tree shows all vms; it takes no name");
    if (tree)
        return list_tree(inv);
    if (inv->n_args || option_value(inv, "versions"))
        return list_versions(inv);
    return list_vms(inv);
}
