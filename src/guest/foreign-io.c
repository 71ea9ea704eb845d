/* foreign-io.c - who writes a machine's memory in a way that tracking does not see. */
#include "guest/foreign-io.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Drivers that reach a medium of this host; others copy what they bring, or stand on one of these.
 */
static bool is_direct(const json_t *node)
{
    static const char *const buffered[] = {"file", "host_device", "host_cdrom", "io_uring"};
    static const char *const always[] = {"nvme", "virtio-blk-"};
    const char *drv = json_string_value(json_object_get(node, "drv"));
    const char *file = json_string_value(json_object_get(node, "file"));
    bool on_host = false;

    for (size_t i = 0; drv && i < sizeof(always) / sizeof(always[0]); i++)
        if (!strncmp(drv, always[i], strlen(always[i])))
            return true;
    for (size_t i = 0; drv && i < sizeof(buffered) / sizeof(buffered[0]); i++)
        on_host = on_host || !strcmp(drv, buffered[i]);
    return on_host && ((file && !strncmp(file, "/dev/sg", 7)) ||
                       json_is_true(json_object_get(json_object_get(node, "cache"), "direct")));
}

static int find_direct(struct monitor *m, uint64_t end_us, char ret_node[FOREIGN_NODE_CHARS],
                       struct why *why)
{
    json_t *nodes = NULL, *node;
    size_t i;
    int r = monitor_run(m, "query-named-block-nodes", NULL, end_us, &nodes, why);

    *ret_node = '\0';
    if (r < 0)
        return r;
    json_array_foreach(nodes, i, node)
    {
        const char *name = json_string_value(json_object_get(node, "node-name"));
        if (!*ret_node && is_direct(node))
            snprintf(ret_node, FOREIGN_NODE_CHARS, "%s", name && *name ? name : "?");
    }
    json_decref(nodes);
    return 0;
}

/* Devices have the word in the name of their type, network back ends as their type. */
static int refuse_vhost_user(struct monitor *m, const char *command, uint64_t end_us,
                             struct why *why)
{
    _cleanup_free_ char *text = NULL;
    int r = monitor_run_hmp(m, command, end_us, &text, why);

    if (r < 0 || !strstr(text, "vhost-user"))
        return r;
    return why_set(why, -EOPNOTSUPP,
                   "the machine has a vhost-user device (%s), whose process writes the machine's "
                   "memory where nobody sees it; start it with virtio devices of QEMU's own, its "
                   "disks on Varve",
                   command);
}

int foreign_io_look(struct monitor *m, uint64_t end_us, char ret_node[FOREIGN_NODE_CHARS],
                    struct why *why)
{
    int r = refuse_vhost_user(m, "info qtree", end_us, why);

    if (r == 0)
        r = refuse_vhost_user(m, "info network", end_us, why);
    return r == 0 ? find_direct(m, end_us, ret_node, why) : r;
}
