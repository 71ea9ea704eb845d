/* offline.c - a store without a daemon. */
#include "daemon/offline.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/report.h"
#include "base/size.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "log/storage.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define MIN_CAPACITY_BYTES (512ULL << 20) /* store_format()'s */

static int open_loop(const struct config *config, struct loop **ret, struct why *why)
{
    int r = loop_create((enum loop_kind)config->io_engine, 256, ret);
    return r < 0 ? why_set(why, r, "cannot make an event loop: %s", err_text(r)) : 0;
}

static int init_why(int r, const char *path, struct why *why)
{
    switch (r) {
    case -EEXIST:
        return why_set(why, r, "there is a store at %s already; nothing was changed", path);
    case ERR_NOT_A_STORE:
        return why_set(
            why, r, "%s is not empty; name an empty directory, or one that does not exist", path);
    case ERR_BAD_SIZE:
        return why_set(why, r, "a store's capacity must be at least 512M");
    case -ENOENT:
        return why_set(why, r, "cannot make %s: the directory above it is missing", path);
    case -ENOSPC:
        return why_set(why, r, "the file system has not enough space for a store at %s", path);
    case -EACCES:
    case -EPERM:
        return why_set(why, r,
                       "no permission to make a store at %s; run this as the owner of its "
                       "directory",
                       path);
    default:
        return why_set(why, r, "cannot make a store at %s: %s", path, err_text(r));
    }
}

/* The store's reserve and checkpoints are allocated at once: a capacity that the file system has
 * not would fill it. path need not exist, the directory above it must. */
static int check_space(const char *path, uint64_t capacity, struct why *why)
{
    char has[SIZE_TEXT_CHARS], wants[SIZE_TEXT_CHARS];
    uint64_t least = capacity ? capacity : MIN_CAPACITY_BYTES;
    _cleanup_free_ char *copy = strdup(path);
    struct statvfs st;

    if (!copy)
        return why_set(why, -ENOMEM, "no memory");
    if (statvfs(path, &st) < 0 && (errno != ENOENT || statvfs(dirname(copy), &st) < 0))
        return 0; /* making it will say why */
    uint64_t bytes = (uint64_t)st.f_bavail * st.f_frsize;
    if (bytes >= least)
        return 0;
    return why_set(why, -ENOSPC,
                   "the file system of %s has %s free, and %s %s; make room on it, or choose "
                   "another directory%s",
                   path, size_format(bytes, has),
                   capacity ? "the store's capacity would be" : "a store wants at least",
                   size_format(least, wants), capacity ? " or a smaller --capacity" : "");
}

int offline_init(const char *path, uint64_t capacity, const struct config *config, struct why *why)
{
    struct store_format format = {.capacity_bytes = capacity};
    struct storage *storage;
    struct loop *loop;

    /* Before a directory is made for it. */
    if (capacity && capacity < MIN_CAPACITY_BYTES)
        return init_why(ERR_BAD_SIZE, path, why);
    int r = check_space(path, capacity, why);
    if (r == 0)
        r = open_loop(config, &loop, why);
    if (r < 0)
        return r;
    r = storage_dir_open(path, true, loop, &storage);
    if (r == 0) {
        r = store_format(storage, &format);
        storage->close(storage);
    }
    loop_free(loop);
    return r < 0 ? init_why(r, path, why) : 0;
}

/* ---- check ---------------------------------------------------------------------------------- */

struct offline {
    struct store_check check;
    bool done;
};

static void on_problem(struct store_check *check, const char *text)
{
    (void)check;
    puts(text);
}

static void on_done(struct store_check *check)
{
    container_of(check, struct offline, check)->done = true;
}

static void on_event(void *arg, const struct store_event *event)
{
    (void)arg;
    report_info("%s", event->text);
}

static int check_open_store(struct store *store, struct loop *loop, uint64_t *ret_problems)
{
    struct offline o = {.check = {.pages = true, .problem = on_problem, .done = on_done}};
    int r = store_check(store, &o.check);

    if (r < 0)
        return r;
    while (!o.done) {
        bool more = store_dispatch(store);
        loop_poll(loop, !more && !o.done);
    }
    *ret_problems = o.check.problems;
    if (!o.check.error && !o.check.problems)
        printf("no problems in %" PRIu64 " pages and %" PRIu64 " table nodes, nor in %" PRIu64
               " blocks of log files\n",
               o.check.total_pages, o.check.nodes, o.check.checked_blocks);
    if (o.check.harmless)
        report_info("%" PRIu64 " of %" PRIu64 " problems are damage where nothing lives",
                    o.check.harmless, o.check.problems);
    return o.check.error;
}

int offline_check(const char *path, const struct config *config, uint64_t *ret_problems,
                  struct why *why)
{
    struct store_config store_config = store_config_default;
    struct storage *storage;
    struct store *store;
    struct loop *loop;

    store_config.table_bytes = config->table_bytes;
    store_config.event = on_event;
    int r = open_loop(config, &loop, why);
    if (r < 0)
        return r;
    r = storage_dir_open(path, false, loop, &storage);
    if (r < 0) {
        engine_storage_why(r, path, why);
        goto out_loop;
    }
    r = store_open(storage, &store_config, &store);
    if (r < 0) {
        engine_storage_why(r, path, why);
        goto out_storage;
    }
    r = check_open_store(store, loop, ret_problems);
    if (r < 0)
        why_set(why, r, "the check of %s ended early: %s", path, err_text(r));
    int closed = store_close(store);
    if (r == 0 && closed < 0)
        r = why_set(why, closed, "cannot close the store at %s: %s", path, err_text(closed));
out_storage:
    storage->close(storage);
out_loop:
    loop_free(loop);
    return r;
}
