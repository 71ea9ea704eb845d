/* agent.c - the guest agent of QEMU. */
#include "guest/agent.h"

#include "base/mono.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SENTINEL '\xff' /* never in JSON: what it precedes is new */

static int silent(struct why *why)
{
    return why_set(why, -ETIMEDOUT,
                   "the guest's agent does not answer; does qemu-guest-agent run in the guest, and "
                   "is nobody else connected to it?");
}

static int closed(struct why *why)
{
    return why_set(why, -EIO, "the connection to the guest's agent was closed");
}

/* 0, or -ETIMEDOUT. */
static int wait_for(const struct agent *a, short events, uint64_t end_us)
{
    struct pollfd fd = {.fd = a->fd, .events = events};

    for (;;) {
        uint64_t now = mono_us();
        int n = poll(&fd, 1, now >= end_us ? 0 : (int)((end_us - now + 999) / 1000));
        if (n > 0)
            return 0;
        if (now >= end_us && (n == 0 || errno != EINTR))
            return -ETIMEDOUT;
    }
}

static int send_all(struct agent *a, const char *text, size_t len, uint64_t end_us, struct why *why)
{
    while (len) {
        ssize_t n = send(a->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            if (wait_for(a, POLLOUT, end_us) < 0)
                return silent(why);
            continue;
        }
        if (n < 0 && errno != EINTR)
            return closed(why);
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int receive(struct agent *a, uint64_t end_us, struct why *why)
{
    if (wait_for(a, POLLIN, end_us) < 0)
        return silent(why);
    if (a->len == sizeof(a->text)) /* a line without end: drop it, its rest is no JSON */
        a->len = 0;
    ssize_t n = recv(a->fd, a->text + a->len, sizeof(a->text) - a->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0)
        return closed(why);
    a->len += (size_t)n;
    return 0;
}

static void drop(struct agent *a, size_t n)
{
    a->len -= n;
    memmove(a->text, a->text + n, a->len);
}

/* The next line as JSON, from its last sentinel on; *ret NULL: it is none. */
static int read_line(struct agent *a, uint64_t end_us, json_t **ret, struct why *why)
{
    char *newline;

    while (!(newline = memchr(a->text, '\n', a->len))) {
        int r = receive(a, end_us, why);
        if (r < 0)
            return r;
    }
    size_t len = (size_t)(newline - a->text) + 1;
    const char *sentinel = memrchr(a->text, SENTINEL, len),
               *from = sentinel ? sentinel + 1 : a->text;
    *ret = json_loadb(from, (size_t)(newline + 1 - from), 0, NULL);
    drop(a, len);
    return 0;
}

/* ---- synchronising -------------------------------------------------------------------------- */

static int skip_to_sentinel(struct agent *a, uint64_t end_us, struct why *why)
{
    char *at;

    while (!(at = memchr(a->text, SENTINEL, a->len))) {
        a->len = 0;
        int r = receive(a, end_us, why);
        if (r < 0)
            return r;
    }
    drop(a, (size_t)(at - a->text) + 1);
    return 0;
}

/* The number that we send comes back behind a sentinel: what came before it was for others. */
static int synchronise(struct agent *a, uint64_t end_us, struct why *why)
{
    char text[128];
    uint32_t id = 0;
    bool found = false;

    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        id = (uint32_t)mono_us();
    id >>= 1;
    int n = snprintf(text, sizeof(text),
                     "%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%u}}\n",
                     SENTINEL, id);
    int r = send_all(a, text, (size_t)n, end_us, why);
    while (r == 0 && !found) {
        json_t *message = NULL;
        r = skip_to_sentinel(a, end_us, why);
        if (r == 0)
            r = read_line(a, end_us, &message, why);
        const json_t *value = json_object_get(message, "return");
        found = json_is_integer(value) && json_integer_value(value) == (json_int_t)id;
        json_decref(message);
    }
    return r;
}

int agent_attach(struct agent *a, int fd, uint64_t end_us, struct why *why)
{
    a->fd = fd;
    a->len = 0;
    int r = synchronise(a, end_us, why);
    if (r < 0)
        agent_close(a);
    return r;
}

int agent_open(struct agent *a, const char *path, uint64_t end_us, struct why *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    a->fd = -1;
    if (strlen(path) >= sizeof(address.sun_path))
        return why_set(why, -ENAMETOOLONG, "the socket path %s is too long", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r = fd < 0 ? -errno : 0;
    if (r == 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        r = errno == ECONNREFUSED ? -ENOENT : -errno;
    if (r == 0)
        return agent_attach(a, fd, end_us, why);
    if (fd >= 0)
        close(fd);
    if (r == -ENOENT)
        return why_set(why, r, "no machine has a guest agent at %s", path);
    return why_set(why, r, "cannot connect to the guest's agent at %s: %s", path, strerror(-r));
}

/* The next line that is an answer. */
static int read_reply(struct agent *a, uint64_t end_us, json_t **ret, struct why *why)
{
    json_t *message = NULL;
    int r = 0;

    while (r == 0 && !message) {
        r = read_line(a, end_us, &message, why);
        if (r == 0 && !json_object_get(message, "return") && !json_object_get(message, "error")) {
            json_decref(message);
            message = NULL;
        }
    }
    *ret = message;
    return r;
}

int agent_command(struct agent *a, const char *command, uint64_t end_us, int64_t *ret,
                  struct why *why)
{
    json_t *message = NULL;
    char text[128];
    int n = snprintf(text, sizeof(text), "{\"execute\":\"%s\"}\n", command);

    if (a->fd < 0)
        return closed(why);
    int r = send_all(a, text, (size_t)n, end_us, why);
    if (r == 0)
        r = read_reply(a, end_us, &message, why);
    if (r < 0)
        return r;
    const json_t *value = json_object_get(message, "return");
    const json_t *desc = json_object_get(json_object_get(message, "error"), "desc");
    if (json_is_integer(value))
        *ret = json_integer_value(value);
    else
        r = why_set(why, -EPROTO, "the guest's agent refuses %s: %.300s", command,
                    json_is_string(desc) ? json_string_value(desc) : "it gives no reason");
    json_decref(message);
    return r;
}

void agent_close(struct agent *a)
{
    if (a->fd >= 0)
        close(a->fd);
    a->fd = -1;
}
