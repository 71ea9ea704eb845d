/* held-migration.c - a real migration of QEMU that ends nowhere.
 *
 * The socket's buffer is as small as it gets. Behind the devices QEMU sends a description of them
 * that is longer than that: so when the devices are complete it still waits for its reader. Where
 * it is not (a machine of nearly no devices) the migration succeeds: then the machine is resumed.
 */
#include "guest/held-migration.h"

#include "base/mono.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FD_NAME     "varve-migration"
#define CHUNK_BYTES 65536
#define POLL_US     500

/* What is set for it; QEMU's own values come back. A long downtime-limit would have QEMU send what
 * is left while the machine stands still. */
static const struct {
    const char *name;
    const char *text;
    json_int_t number;
} parameters[] = {
    {"tls-creds", "", 0},
    {"downtime-limit", NULL, 1},
    {"max-bandwidth", NULL, (json_int_t)1 << 40},
};
#define N_PARAMETERS (sizeof(parameters) / sizeof(parameters[0]))

/* ---- settings ------------------------------------------------------------------------------- */

static json_t *capability(const char *name, bool state)
{
    return json_pack("{s:s, s:b}", "capability", name, "state", (int)state);
}

/* What is on and must be off, and x-ignore-shared: with the states that come back, and for now. */
static int read_capabilities(struct held_migration *h, json_t **ret_now, uint64_t end_us,
                             struct why *why)
{
    json_t *all = NULL, *now = json_array(), *entry;
    bool known = false;
    size_t i;

    h->capabilities = json_array();
    int r = monitor_run(h->monitor, "query-migrate-capabilities", NULL, end_us, &all, why);
    json_array_foreach(all, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "capability"));
        bool state = json_is_true(json_object_get(entry, "state")), wanted;
        if (!name || !strcmp(name, "events"))
            continue; /* those who listen go on listening */
        wanted = !strcmp(name, "x-ignore-shared");
        known = known || wanted;
        if (state && wanted && monitor_domain(h->monitor))
            /* libvirt never sets it: a guard was killed too. */
            json_array_append_new(h->capabilities, capability(name, false));
        if (state == wanted)
            continue;
        json_array_append_new(h->capabilities, capability(name, state));
        json_array_append_new(now, capability(name, wanted));
    }
    json_decref(all);
    if (r == 0 && !known)
        r = why_set(why, -EOPNOTSUPP,
                    "this QEMU cannot leave shared RAM out of a migration; use QEMU 4.0 or later");
    if (r < 0)
        json_decref(now);
    else
        *ret_now = now;
    return r;
}

static int read_parameters(struct held_migration *h, json_t **ret_now, uint64_t end_us,
                           struct why *why)
{
    json_t *all = NULL, *now = json_object();

    h->parameters = json_object();
    int r = monitor_run(h->monitor, "query-migrate-parameters", NULL, end_us, &all, why);
    for (size_t i = 0; r == 0 && i < N_PARAMETERS; i++) {
        json_t *value = json_object_get(all, parameters[i].name);
        if (!value)
            continue;
        json_object_set(h->parameters, parameters[i].name, value);
        json_object_set_new(now, parameters[i].name,
                            parameters[i].text ? json_string(parameters[i].text)
                                               : json_integer(parameters[i].number));
    }
    json_decref(all);
    if (r < 0)
        json_decref(now);
    else
        *ret_now = now;
    return r;
}

/* The commands for the guard: what put_back() does, as text. */
static char *guard_commands(const struct held_migration *h)
{
    json_t *first =
        json_pack("{s:s, s:O}", "execute", "migrate-set-parameters", "arguments", h->parameters);
    json_t *last = json_pack("{s:s, s:{s:O}, s:s}", "execute", "migrate-set-capabilities",
                             "arguments", "capabilities", h->capabilities, "id", GUARD_ID);
    char *a = json_dumps(first, JSON_COMPACT), *b = json_dumps(last, JSON_COMPACT), *text = NULL;

    if (!a || !b || asprintf(&text, "%s\n%s\n", a, b) < 0)
        text = NULL;
    free(a);
    free(b);
    json_decref(first);
    json_decref(last);
    return text;
}

static int set(struct monitor *m, json_t *set_parameters, json_t *set_capabilities, uint64_t end_us,
               struct why *why)
{
    int r = monitor_run(m, "migrate-set-parameters", set_parameters, end_us, NULL, why);
    json_t *arguments = json_pack("{s:o}", "capabilities", set_capabilities);
    if (r < 0)
        json_decref(arguments);
    return r < 0 ? r : monitor_run(m, "migrate-set-capabilities", arguments, end_us, NULL, why);
}

static int put_back(struct held_migration *h, uint64_t end_us, struct why *why)
{
    int r = set(h->monitor, json_incref(h->parameters), json_incref(h->capabilities), end_us, why);

    if (r < 0)
        migration_guard_fire(&h->guard);
    else
        migration_guard_end(&h->guard);
    return r;
}

static int change_settings(struct held_migration *h, uint64_t end_us, struct why *why)
{
    json_t *now_parameters = NULL, *now_capabilities = NULL;
    struct why ignored = {};

    int r = read_parameters(h, &now_parameters, end_us, why);
    if (r == 0)
        r = read_capabilities(h, &now_capabilities, end_us, why);
    char *commands = r == 0 ? guard_commands(h) : NULL;
    if (r == 0 && !commands)
        r = why_set(why, -ENOMEM, "no memory");
    if (r == 0)
        r = migration_guard_begin(h->monitor, commands, &h->guard, why);
    free(commands);
    if (r == 0) {
        r = set(h->monitor, json_incref(now_parameters), json_incref(now_capabilities), end_us,
                why);
        if (r < 0)
            put_back(h, end_us, &ignored);
    }
    json_decref(now_parameters);
    json_decref(now_capabilities);
    return r;
}

/* ---- begin ---------------------------------------------------------------------------------- */

static int start(struct held_migration *h, uint64_t end_us, struct why *why)
{
    int fds[2], small = 1;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return why_set(why, -errno, "cannot make a socket: %s", strerror(errno));
    h->fd = fds[0];
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    int r = monitor_pass_fd(h->monitor, fds[1], FD_NAME, end_us, why);
    close(fds[1]);
    if (r == 0)
        r = monitor_run(h->monitor, "migrate", json_pack("{s:s}", "uri", "fd:" FD_NAME), end_us,
                        NULL, why);
    return r;
}

static void release(struct held_migration *h)
{
    if (h->fd >= 0)
        close(h->fd);
    json_decref(h->capabilities);
    json_decref(h->parameters);
    migration_buffer_free(&h->data);
    migration_free(&h->stream);
    *h = (struct held_migration){.fd = -1, .guard = {-1}};
}

int held_migration_begin(struct monitor *m, uint64_t end_us, struct held_migration *ret,
                         struct why *why)
{
    struct why ignored = {};

    *ret = (struct held_migration){.monitor = m, .fd = -1, .guard = {-1}};
    int r = change_settings(ret, end_us, why);
    if (r == 0) {
        r = start(ret, end_us, why);
        if (r < 0)
            put_back(ret, end_us, &ignored);
    }
    if (r < 0)
        release(ret);
    return r;
}

/* ---- read ----------------------------------------------------------------------------------- */

/* Some more of the stream. Returns 1, 0 at its end, or -ETIMEDOUT. */
static int receive(struct held_migration *h, uint64_t end_us)
{
    uint8_t chunk[CHUNK_BYTES];

    for (;;) {
        uint64_t now = mono_us();
        struct pollfd poll_fd = {.fd = h->fd, .events = POLLIN};
        int n = poll(&poll_fd, 1, now >= end_us ? 0 : (int)((end_us - now + 999) / 1000));
        if (n == 0 && now >= end_us)
            return -ETIMEDOUT;
        if (n <= 0)
            continue;
        ssize_t got = recv(h->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return 0;
        migration_append(&h->data, chunk, (size_t)got);
        return 1;
    }
}

/* QEMU closed the stream: ask it why. */
static int gave_up(struct held_migration *h, uint64_t end_us, struct why *why)
{
    json_t *info = NULL;
    struct why ignored = {};

    monitor_run(h->monitor, "query-migrate", NULL, end_us, &info, &ignored);
    const char *text = json_string_value(json_object_get(info, "error-desc"));
    int r = why_set(why, -EPROTO, "QEMU did not give the state of the machine's devices: %.500s",
                    text ? text : "it gave no reason; its own log may have one");
    json_decref(info);
    return r;
}

static bool has_shared_page(const struct held_migration *h, const struct ram *ram, size_t *seen)
{
    const struct migration_stream *s = &h->stream;

    for (; *seen < s->n_pages; ++*seen)
        if (ram_is_shared(ram, s->blocks[s->pages[*seen].block].name))
            return true;
    return false;
}

static int read_until(struct held_migration *h, bool devices, const struct ram *ram,
                      uint64_t end_us, struct why *why)
{
    size_t seen = 0;

    for (;;) {
        int r = migration_read(&h->stream, h->data.data, h->data.len, false, why);
        if (r < 0 && r != -EAGAIN)
            return r;
        if (devices ? h->stream.devices_bytes > 0 : h->stream.ram_complete)
            return 0;
        if (ram && has_shared_page(h, ram, &seen))
            return 0;
        r = receive(h, end_us);
        if (r == -ETIMEDOUT)
            return why_set(why, r, "QEMU did not give the state of the machine's devices in time");
        if (r == 0)
            return gave_up(h, end_us, why);
        if (h->data.failed)
            return why_set(why, -ENOMEM, "no memory for the state of the machine's devices");
    }
}

int held_migration_read(struct held_migration *h, bool devices, uint64_t end_us, struct why *why)
{
    return read_until(h, devices, NULL, end_us, why);
}

int held_migration_read_head(struct held_migration *h, const struct ram *ram, uint64_t end_us,
                             struct why *why)
{
    return read_until(h, false, ram, end_us, why);
}

/* ---- end ------------------------------------------------------------------------------------ */

static bool has_ended(const char *status)
{
    static const char *const ends[] = {"completed", "failed", "cancelled", "none"};

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (!strcmp(status, ends[i]))
            return true;
    return false;
}

/* QEMU writes to a socket without a reader, fails, and resumes the machine. */
static int wait_for_end(struct held_migration *h, bool *ret_completed, uint64_t end_us,
                        struct why *why)
{
    json_t *info;
    bool ended = false;
    int r;

    while (!ended) {
        r = monitor_run(h->monitor, "query-migrate", NULL, end_us, &info, why);
        if (r < 0)
            return r;
        const char *status = json_string_value(json_object_get(info, "status"));
        ended = !status || has_ended(status);
        *ret_completed = status && !strcmp(status, "completed");
        json_decref(info);
        if (!ended && mono_us() > end_us)
            return why_set(why, -ETIMEDOUT,
                           "QEMU does not end the migration in which it gave the "
                           "state of the machine's devices");
        if (!ended)
            usleep(POLL_US);
    }
    return 0;
}

int held_migration_end(struct held_migration *h, uint64_t end_us, struct why *why)
{
    bool completed = false;

    close(h->fd);
    h->fd = -1;
    int r = wait_for_end(h, &completed, end_us, why);
    /* It ran when this began, and then a migration's success is what stopped it. */
    if (r == 0 && completed)
        r = monitor_run(h->monitor, "cont", NULL, end_us, NULL, why);
    if (r < 0)
        migration_guard_fire(&h->guard);
    else
        r = put_back(h, end_us, why);
    release(h);
    return r;
}
