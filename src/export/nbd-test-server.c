/* nbd-test-server.c - the NBD server on a store in memory: for tests with real clients, and for
 * measuring the server alone.
 *
 *     nbd-test-server SOCKET [size=BYTES] [later] [threads] [bad=OFFSET] [full] [readonly]
 *         [connections=N] [requests=N] [buffers=BYTES] [handshake=MS] [stall=MS] [tcp]
 *
 * Exports vm/root, vm/data (1 MiB and 1 byte) and, not listed, provisional/root. SIGUSR1 takes the
 * versions vm@s1, vm@s2 and so on, and makes the clones provisional1 and so on of them, SIGUSR2
 * disconnects the clients of vm/root and lets nobody in until the next one; each prints a line when
 * it is done. Ends on SIGTERM, in order, and prints its counters. */
#include "base/err.h"
#include "base/loop.h"
#include "export/fake-store.h"
#include "export/nbd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct loop *loop;

struct dispatcher {
    struct loop_hook hook;
    struct store *store;
};

static void dispatch(struct loop_hook *hook)
{
    store_dispatch(container_of(hook, struct dispatcher, hook)->store);
}

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

static volatile sig_atomic_t asked, asked_snap, asked_bar;

static void on_signal(int sig)
{
    if (sig == SIGUSR1)
        asked_snap = 1;
    else if (sig == SIGUSR2)
        asked_bar = 1;
    else
        asked = 1;
}

struct signal_hook {
    struct loop_hook hook;
    struct store *store;
    struct nbd_store_exports *exports;
    struct nbd_bar bar;
    bool barred;
    unsigned n_snaps;
};

static void take_snap(struct signal_hook *s)
{
    char name[16], clone[32];

    asked_snap = 0;
    snprintf(name, sizeof(name), "s%u", ++s->n_snaps);
    snprintf(clone, sizeof(clone), "provisional%u", s->n_snaps);
    if (fake_store_snap(s->store, "vm", name) || fake_store_clone(s->store, "vm", name, clone))
        exit(2);
    printf("snap %s\n", name);
    fflush(stdout);
}

static void change_bar(struct signal_hook *s)
{
    unsigned n = 0;

    asked_bar = 0;
    s->barred = !s->barred;
    if (s->barred) {
        nbd_bar(s->exports, &s->bar, "vm");
        n = nbd_server_disconnect(server, store_find_disk(s->store, "vm", "root"));
    } else {
        nbd_unbar(&s->bar);
    }
    printf("disconnected %u\n", n);
    fflush(stdout);
}

/* The signal interrupts the wait; this sees it in the next turn. */
static void check_signal(struct loop_hook *hook)
{
    struct signal_hook *s = container_of(hook, struct signal_hook, hook);

    if (asked_snap)
        take_snap(s);
    if (asked_bar)
        change_bar(s);
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

struct server_options {
    struct nbd_config config;
    uint64_t size;
    enum loop_kind kind;
    bool read_only, tcp;
};

static bool take_flag(const char *arg, struct server_options *o, struct fake_faults *faults)
{
    if (!strcmp(arg, "later"))
        faults->later = true;
    else if (!strcmp(arg, "hold"))
        faults->hold = true;
    else if (!strcmp(arg, "full"))
        faults->write_error = ERR_STORE_FULL;
    else if (!strcmp(arg, "threads"))
        o->kind = LOOP_THREADS;
    else if (!strcmp(arg, "readonly"))
        o->read_only = true;
    else if (!strcmp(arg, "tcp"))
        o->tcp = true;
    else
        return false;
    return true;
}

static bool take_option(const char *arg, struct server_options *o, struct fake_faults *faults)
{
    uint64_t n;

    if (option(arg, "connections", &n))
        o->config.max_connections = (unsigned)n;
    else if (option(arg, "requests", &n))
        o->config.connection_requests = (unsigned)n;
    else
        return option(arg, "size", &o->size) || option(arg, "bad", &faults->bad_page) ||
               option(arg, "buffers", &o->config.buffer_bytes) ||
               option(arg, "handshake", &o->config.handshake_ms) ||
               option(arg, "stall", &o->config.stall_ms) || take_flag(arg, o, faults);
    return true;
}

static int add_exports(struct store *store, const struct server_options *o,
                       struct nbd_store_exports *exports)
{
    if (fake_store_add(store, "vm", "root", o->size) ||
        fake_store_add(store, "vm", "data", (1 << 20) + 1) ||
        fake_store_add(store, "provisional", "root", 1 << 20))
        return -ENOMEM;
    nbd_store_exports_init(exports, store);
    find_plain = exports->exports.find;
    if (o->read_only)
        exports->exports.find = find_read_only;
    return 0;
}

/* Until a signal. */
static void serve(struct store *store, struct nbd_store_exports *exports, uint16_t port)
{
    struct dispatcher dispatcher = {.hook.run = dispatch, .store = store};
    struct signal_hook signal_hook = {.hook.run = check_signal, .store = store, .exports = exports};
    struct sigaction action = {.sa_handler = on_signal};

    loop_add_hook(loop, &dispatcher.hook);
    loop_add_hook(loop, &signal_hook.hook);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    printf("ready %s %u\n", loop_name(loop), port);
    fflush(stdout);
    loop_run(loop);
    loop_remove_hook(loop, &dispatcher.hook);
    loop_remove_hook(loop, &signal_hook.hook);
}

static void print_counters(struct store *store)
{
    struct nbd_counter counters[32];
    size_t n = nbd_server_counters(server, counters, 32);

    for (size_t i = 0; i < n; i++)
        printf("%s %llu\n", counters[i].name, (unsigned long long)counters[i].value);
    printf("most_in_flight %u\n", fake_store_stats(store)->most_in_flight);
}

int main(int argc, char **argv)
{
    struct server_options o = {.config = nbd_config_default, .size = 1ull << 30, .kind = LOOP_AUTO};
    struct nbd_store_exports exports;
    struct store *store;
    uint16_t port = 0;

    if (argc < 2 || fake_store_create(&store))
        return 2;
    for (int i = 2; i < argc; i++)
        if (!take_option(argv[i], &o, fake_store_faults(store)))
            return 2;
    int err = add_exports(store, &o, &exports);
    if (!err)
        err = loop_create(o.kind, 256, &loop);
    if (!err)
        err = nbd_server_create(loop, &o.config, &exports.exports, &server);
    if (!err)
        err = nbd_server_listen_unix(server, argv[1], 0600);
    if (!err && o.tcp)
        err = nbd_server_listen_tcp(server, "127.0.0.1", 0, &port);
    if (err) {
        fprintf(stderr, "%s: %s\n", argv[1], err_text(err));
    } else {
        serve(store, &exports, port);
        print_counters(store);
    }
    nbd_server_free(server);
    loop_free(loop);
    fake_store_free(store);
    return err ? 1 : 0;
}
