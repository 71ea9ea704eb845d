/* nbd-test-server.c - the NBD server on a store in memory: for tests with real clients, and for
 * measuring the server alone.
 *
 *     nbd-test-server SOCKET [size=BYTES] [later] [threads] [bad=OFFSET] [full] [readonly]
 *         [connections=N] [requests=N] [buffers=BYTES] [handshake=MS] [stall=MS] [tcp]
 *
 * Exports vm/root, vm/data (1 MiB and 1 byte) and, not listed, provisional/root. On SIGUSR1 it
 * takes a version of vm (v1, v2, ...), makes a clone of that (clone1, ...) and prints its name.
 * Ends on SIGTERM, in order, and prints its counters. */
#include "base/err.h"
#include "base/loop.h"
#include "export/fake-store.h"
#include "export/nbd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct loop *loop;

static struct disk *(*find_plain)(struct nbd_exports *exports, const char *name, bool *ret);

static struct disk *find_read_only(struct nbd_exports *exports, const char *name, bool *ret)
{
    struct disk *disk = find_plain(exports, name, ret);
    if (disk)
        *ret = true;
    return disk;
}

static struct nbd_server *server;

static void all_stopped(void *arg)
{
    loop_stop(loop);
}

static void stop(void *arg)
{
    nbd_server_stop(server, all_stopped, NULL);
}

static volatile sig_atomic_t asked;

static void on_signal(int sig)
{
    asked = 1;
}

static volatile sig_atomic_t snaps_asked;

static void on_snap_signal(int sig)
{
    snaps_asked++;
}

static void snap(struct store *store)
{
    static int n_snaps;
    char version[16], clone[16];

    if (n_snaps == snaps_asked)
        return;
    n_snaps++;
    snprintf(version, sizeof(version), "v%d", n_snaps);
    snprintf(clone, sizeof(clone), "clone%d", n_snaps);
    if (fake_store_snap(store, "vm", version) || fake_store_clone(store, "vm", version, clone))
        abort();
    printf("%s\n", version);
    fflush(stdout);
}

struct dispatcher {
    struct loop_hook hook;
    struct store *store;
};

static void dispatch(struct loop_hook *hook)
{
    struct store *store = container_of(hook, struct dispatcher, hook)->store;
    snap(store);
    store_dispatch(store);
}

/* The signal interrupts the wait; this sees it in the next turn. */
static void check_signal(struct loop_hook *hook)
{
    if (asked != 1)
        return;
    asked = 2;
    loop_post(loop, stop, NULL);
}

static bool option(const char *arg, const char *name, uint64_t *ret)
{
    size_t len = strlen(name);
    if (strncmp(arg, name, len) || arg[len] != '=')
        return false;
    *ret = strtoull(arg + len + 1, NULL, 0);
    return true;
}

int main(int argc, char **argv)
{
    struct nbd_config config = nbd_config_default;
    struct store *store;
    struct nbd_store_exports exports;
    uint64_t size = 1ull << 30, n;
    enum loop_kind kind = LOOP_AUTO;
    bool read_only = false, tcp = false;

    if (argc < 2 || fake_store_create(&store))
        return 2;
    struct fake_faults *faults = fake_store_faults(store);
    for (int i = 2; i < argc; i++) {
        if (option(argv[i], "size", &size) || option(argv[i], "bad", &faults->bad_page) ||
            option(argv[i], "buffers", &config.buffer_bytes) ||
            option(argv[i], "handshake", &config.handshake_ms) ||
            option(argv[i], "stall", &config.stall_ms))
            continue;
        if (option(argv[i], "connections", &n))
            config.max_connections = (unsigned)n;
        else if (option(argv[i], "requests", &n))
            config.connection_requests = (unsigned)n;
        else if (!strcmp(argv[i], "later"))
            faults->later = true;
        else if (!strcmp(argv[i], "hold"))
            faults->hold = true;
        else if (!strcmp(argv[i], "full"))
            faults->write_error = ERR_STORE_FULL;
        else if (!strcmp(argv[i], "threads"))
            kind = LOOP_THREADS;
        else if (!strcmp(argv[i], "readonly"))
            read_only = true;
        else if (!strcmp(argv[i], "tcp"))
            tcp = true;
        else
            return 2;
    }
    if (fake_store_add(store, "vm", "root", size) ||
        fake_store_add(store, "vm", "data", (1 << 20) + 1) ||
        fake_store_add(store, "provisional", "root", 1 << 20))
        return 1;
    nbd_store_exports_init(&exports, store);
    find_plain = exports.exports.find;
    if (read_only)
        exports.exports.find = find_read_only;

    int err = loop_create(kind, 256, &loop);
    if (!err)
        err = nbd_server_create(loop, &config, &exports.exports, &server);
    if (!err)
        err = nbd_server_listen_unix(server, argv[1], 0600);
    uint16_t port = 0;
    if (!err && tcp)
        err = nbd_server_listen_tcp(server, "127.0.0.1", 0, &port);
    if (err) {
        fprintf(stderr, "%s: %s\n", argv[1], err_text(err));
        nbd_server_free(server);
        loop_free(loop);
        fake_store_free(store);
        return 1;
    }
    struct dispatcher dispatcher = {.hook.run = dispatch, .store = store};
    struct loop_hook signal_hook = {.run = check_signal};
    loop_add_hook(loop, &dispatcher.hook);
    loop_add_hook(loop, &signal_hook);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = on_snap_signal;
    sigaction(SIGUSR1, &action, NULL);
    printf("ready %s %u\n", loop_name(loop), port);
    fflush(stdout);
    loop_run(loop);

    struct nbd_counter counters[32];
    size_t n_counters = nbd_server_counters(server, counters, 32);
    for (size_t i = 0; i < n_counters; i++)
        printf("%s %llu\n", counters[i].name, (unsigned long long)counters[i].value);
    printf("most_in_flight %u\n", fake_store_stats(store)->most_in_flight);
    nbd_server_free(server);
    loop_remove_hook(loop, &dispatcher.hook);
    loop_remove_hook(loop, &signal_hook);
    loop_free(loop);
    fake_store_free(store);
    return 0;
}
