/* monitor.c - a session with a QEMU's monitor.
 *
 * On a socket a message of QEMU's is one line. Each command carries a number, which its answer
 * repeats: an answer with another number is no answer to us, and ends the session, as everything
 * does after which it is not known what the next line belongs to. */
#include "guest/monitor.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/domain.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MAX_BYTES (16u << 20) /* query-qmp-schema has some hundred KiB */
#define EVENTS_MAX     1024        /* kept; older ones are dropped */
#define SEND_US        2000000     /* for a command to go out: QEMU reads it at once, or hangs */
#define RETRY_MS       10          /* until a socket that was full, or closed us, is tried again */
#define STALE_MAX      16
#define CLOSED_MAX     3 /* sessions that QEMU closes as they begin */

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct monitor {
    struct domain *domain; /* NULL: a session on a socket; else it has no fd, events and text */
    int fd, pidfd;
    pid_t pid;
    unsigned version;
    bool dead, begun; /* begun: a command waits for monitor_finish() */
    bool closed;      /* dead, by the other side */
    json_int_t id;    /* of the last command */
    json_t *events;   /* since the last monitor_wait_event() */
    char *text; /* received and not taken: len of size bytes, without newline up to searched */
    size_t len, searched, size;
};

/* ---- what ends a session -------------------------------------------------------------------- */

static int end_session(struct monitor *m, int code, struct why *why, const char *sentence)
{
    m->dead = true;
    return why_set(why, code, "%s", sentence);
}

static int silent(struct monitor *m, struct why *why)
{
    return end_session(m, -ETIMEDOUT, why,
                       "QEMU does not answer at its QMP socket; is another program connected to "
                       "it, or the process stopped?");
}

static int gone(struct monitor *m, struct why *why)
{
    m->closed = true;
    return end_session(m, -EPIPE, why, "QEMU closed its QMP socket; has it ended?");
}

static int no_qmp(struct monitor *m, struct why *why)
{
    return end_session(m, -EPIPE, why, "what answers at the QMP socket does not speak QMP");
}

static int no_memory(struct monitor *m, struct why *why)
{
    return end_session(m, -ENOMEM, why, "no memory");
}

/* ---- lines ---------------------------------------------------------------------------------- */

/* 0, or -ETIMEDOUT. */
static int wait_for(int fd, short events, uint64_t end_us)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};

    for (;;) {
        uint64_t now = mono_us();
        uint64_t ms = now >= end_us ? 0 : (end_us - now + 999) / 1000;
        int n = poll(&poll_fd, 1, ms > 1000000 ? 1000000 : (int)ms);
        if (n > 0)
            return 0;
        if (now >= end_us && (n == 0 || errno != EINTR))
            return -ETIMEDOUT;
    }
}

static int receive(struct monitor *m, uint64_t end_us, struct why *why)
{
    if (m->len == m->size) {
        size_t size = m->size ? 2 * m->size : 65536;
        if (size > LINE_MAX_BYTES)
            return no_qmp(m, why);
        char *text = realloc(m->text, size);
        if (!text)
            return no_memory(m, why);
        m->text = text;
        m->size = size;
    }
    if (wait_for(m->fd, POLLIN, end_us) < 0)
        return silent(m, why);
    ssize_t n = recv(m->fd, m->text + m->len, m->size - m->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n <= 0)
        return gone(m, why);
    m->len += (size_t)n;
    return 0;
}

/* The next line, which must be an object. */
static int read_message(struct monitor *m, uint64_t end_us, json_t **ret, struct why *why)
{
    char *newline = NULL;

    while (m->searched == m->len ||
           !(newline = memchr(m->text + m->searched, '\n', m->len - m->searched))) {
        m->searched = m->len;
        int r = receive(m, end_us, why);
        if (r < 0)
            return r;
    }
    size_t line = (size_t)(newline - m->text) + 1;
    json_t *message = json_loadb(m->text, line, JSON_ALLOW_NUL, NULL);
    m->len -= line;
    m->searched = 0;
    memmove(m->text, m->text + line, m->len);
    if (!json_is_object(message)) {
        json_decref(message);
        return no_qmp(m, why);
    }
    *ret = message;
    return 0;
}

static void keep_event(struct monitor *m, json_t *message)
{
    if (json_array_size(m->events) == EVENTS_MAX)
        json_array_remove(m->events, 0);
    json_array_append(m->events, message);
}

/* The next message that is no event; *ret is the caller's. */
static int read_reply(struct monitor *m, uint64_t end_us, json_t **ret, struct why *why)
{
    for (;;) {
        json_t *message;
        int r = read_message(m, end_us, &message, why);
        if (r < 0)
            return r;
        if (!json_object_get(message, "event")) {
            *ret = message;
            return 0;
        }
        keep_event(m, message);
        json_decref(message);
    }
}

/* ---- commands ------------------------------------------------------------------------------- */

/* The first byte carries the descriptor. */
static ssize_t send_some(const struct monitor *m, const char *text, size_t len, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {};
    struct iovec part = {.iov_base = (char *)(uintptr_t)text, .iov_len = len};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    return sendmsg(m->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* fd: -1, or a descriptor to send with it. */
static int send_all(struct monitor *m, const char *text, size_t len, int fd, struct why *why)
{
    uint64_t end_us = mono_us() + SEND_US;

    while (len) {
        ssize_t n = send_some(m, text, len, fd);
        if (n < 0 && errno == EAGAIN) {
            if (wait_for(m->fd, POLLOUT, end_us) < 0)
                return silent(m, why);
        } else if (n < 0 && errno == EBADF) {
            return why_set(why, -EBADF, "the descriptor that was to be passed to QEMU is closed");
        } else if (n < 0 && errno != EINTR) {
            return gone(m, why);
        } else if (n > 0) {
            text += n;
            len -= (size_t)n;
            fd = -1;
        }
    }
    return 0;
}

static int send_command(struct monitor *m, json_t *message, int fd, struct why *why)
{
    _cleanup_free_ char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

    if (!text)
        return why_set(why, -ENOMEM, "no memory");
    if (m->domain)
        return domain_send(m->domain, text, fd, why);
    size_t len = strlen(text);
    text[len++] = '\n'; /* in place of the terminator */
    return send_all(m, text, len, fd, why);
}

/* arguments: taken. */
static int begin(struct monitor *m, const char *command, json_t *arguments, int fd, struct why *why)
{
    assert(!m->begun);
    if (m->dead) {
        json_decref(arguments);
        return why_set(why, -EPIPE, "the session at QEMU's QMP socket is over");
    }
    json_t *message = json_pack("{s:s, s:o*}", "execute", command, "arguments", arguments);
    if (message && !m->domain) /* libvirt has numbers of its own */
        json_object_set_new(message, "id", json_integer(++m->id));
    int r = send_command(m, message, fd, why);
    json_decref(message);
    m->begun = r == 0;
    return r;
}

int monitor_begin(struct monitor *m, const char *command, json_t *arguments, struct why *why)
{
    return begin(m, command, arguments, -1, why);
}

static int receive_from_domain(struct monitor *m, uint64_t end_us, json_t **ret, struct why *why)
{
    char *text = NULL;
    int r = domain_receive(m->domain, end_us, &text, why);

    if (r < 0) {
        m->dead = r == -EPIPE;
        return r;
    }
    *ret = json_loads(text ? text : "", JSON_ALLOW_NUL, NULL);
    free(text);
    return *ret ? 0 : no_qmp(m, why);
}

static bool is_answer(const struct monitor *m, const json_t *message)
{
    const json_t *id = json_object_get(message, "id");

    if (!json_object_get(message, "return") && !json_object_get(message, "error"))
        return false;
    return m->domain || (json_is_integer(id) && json_integer_value(id) == m->id);
}

/* What QEMU answers, in *ret if not NULL; message: taken. */
static int take_answer(struct monitor *m, json_t *message, json_t **ret, struct why *why)
{
    json_t *value = json_object_get(message, "return");
    const json_t *error = json_object_get(message, "error");
    int r = 0;

    if (!is_answer(m, message)) {
        r = no_qmp(m, why);
    } else if (error) {
        const char *text = json_string_value(json_object_get(error, "desc"));
        r = why_set(why, -EPROTO, "QEMU refuses: %.600s", text ? text : "it gives no reason");
    } else if (ret) {
        *ret = json_incref(value);
    }
    json_decref(message);
    return r;
}

int monitor_finish(struct monitor *m, uint64_t end_us, json_t **ret, struct why *why)
{
    json_t *message = NULL;

    assert(m->begun);
    m->begun = false;
    int r = m->domain ? receive_from_domain(m, end_us, &message, why)
                      : read_reply(m, end_us, &message, why);
    return r < 0 ? r : take_answer(m, message, ret, why);
}

void monitor_give_up(struct monitor *m)
{
    assert(m->begun);
    m->begun = false;
    if (m->domain)
        domain_give_up(m->domain);
    else
        m->dead = true;
}

/* An answer that says "return" may come after events, so what was received is not looked at whole.
 */
bool monitor_has_refused(struct monitor *m)
{
    static const char error[] = "\"error\": {\"class\"";
    char text[16384];

    if (m->domain)
        return domain_has_answer(m->domain);
    ssize_t n = recv(m->fd, text, sizeof(text), MSG_PEEK | MSG_DONTWAIT);
    return n > 0 && memmem(text, (size_t)n, error, sizeof(error) - 1);
}

int monitor_run(struct monitor *m, const char *command, json_t *arguments, uint64_t end_us,
                json_t **ret, struct why *why)
{
    int r = begin(m, command, arguments, -1, why);

    return r < 0 ? r : monitor_finish(m, end_us, ret, why);
}

int monitor_run_hmp(struct monitor *m, const char *line, uint64_t end_us, char **ret,
                    struct why *why)
{
    json_t *value = NULL;
    int r = monitor_run(m, "human-monitor-command", json_pack("{s:s}", "command-line", line),
                        end_us, &value, why);

    if (r < 0)
        return r;
    const char *text = json_string_value(value);
    char *copy = text ? strdup(text) : NULL;
    json_decref(value);
    if (!text)
        return no_qmp(m, why);
    if (!copy)
        return why_set(why, -ENOMEM, "no memory");
    *ret = copy;
    return 0;
}

int monitor_pass_fd(struct monitor *m, int fd, const char *name, uint64_t end_us, struct why *why)
{
    int r = begin(m, "getfd", json_pack("{s:s}", "fdname", name), fd, why);

    return r < 0 ? r : monitor_finish(m, end_us, NULL, why);
}

int monitor_status(struct monitor *m, char ret[32], uint64_t end_us, struct why *why)
{
    json_t *value = NULL;
    int r = monitor_run(m, "query-status", NULL, end_us, &value, why);

    if (r < 0)
        return r;
    const char *status = json_string_value(json_object_get(value, "status"));
    if (status && strlen(status) < 32)
        strcpy(ret, status);
    else
        r = no_qmp(m, why);
    json_decref(value);
    return r;
}

/* ---- events --------------------------------------------------------------------------------- */

/* Take events out of those that are kept, up to the first of that name: true, and it is *ret. */
static bool take_event(struct monitor *m, const char *name, json_t **ret)
{
    while (json_array_size(m->events)) {
        json_t *event = json_incref(json_array_get(m->events, 0));
        const char *is = json_string_value(json_object_get(event, "event"));
        json_array_remove(m->events, 0);
        if (is && !strcmp(is, name)) {
            *ret = event;
            return true;
        }
        json_decref(event);
    }
    return false;
}

int monitor_wait_event(struct monitor *m, const char *name, uint64_t end_us, json_t **ret,
                       struct why *why)
{
    json_t *event, *data;

    assert(!m->begun);
    if (m->domain)
        return why_set(why, -EOPNOTSUPP, "QEMU's events go to libvirt, whose domain this is");
    while (!take_event(m, name, &event)) {
        json_t *message;
        if (m->dead)
            return why_set(why, -EPIPE, "the session at QEMU's QMP socket is over");
        int r = read_message(m, end_us, &message, why);
        if (r == -ETIMEDOUT) {
            m->dead = false; /* no answer is outstanding: the session is as good as before */
            return why_set(why, r, "QEMU did not tell of %s in time", name);
        }
        if (r < 0)
            return r;
        bool event_came = json_object_get(message, "event") != NULL;
        if (event_came)
            keep_event(m, message);
        json_decref(message);
        if (!event_came)
            return no_qmp(m, why); /* an answer to what nobody asked */
    }
    data = json_object_get(event, "data");
    if (ret)
        *ret = data ? json_incref(data) : json_object();
    json_decref(event);
    return 0;
}

/* ---- opening -------------------------------------------------------------------------------- */

/* What QEMU says to a client before us, who went away with a command under way, comes to us: before
 * the greeting or behind it, but before the answer to our first command, for it does one after the
 * other. */
static bool is_stale(const struct monitor *m, const json_t *message)
{
    return json_object_get(message, "event") ||
           ((json_object_get(message, "return") || json_object_get(message, "error")) &&
            !is_answer(m, message));
}

/* The next message that is for us; *ret is the caller's. */
static int read_fresh(struct monitor *m, uint64_t end_us, json_t **ret, struct why *why)
{
    for (unsigned n = 0;; n++) {
        int r = read_message(m, end_us, ret, why);
        if (r < 0 || !is_stale(m, *ret))
            return r;
        json_decref(*ret);
        if (n == STALE_MAX)
            return no_qmp(m, why);
    }
}

static int take_version(struct monitor *m, json_t *version, struct why *why)
{
    int major, minor, micro;

    if (json_unpack(version, "{s:{s:i, s:i, s:i}}", "qemu", "major", &major, "minor", &minor,
                    "micro", &micro) < 0 ||
        major < 0 || major > 99999 || minor < 0 || minor > 99 || micro < 0 || micro > 99)
        return no_qmp(m, why);
    m->version = (unsigned)(major * 10000 + minor * 100 + micro);
    return 0;
}

static int read_greeting(struct monitor *m, uint64_t end_us, struct why *why)
{
    json_t *message;
    int r = read_fresh(m, end_us, &message, why);

    if (r < 0)
        return r;
    r = take_version(m, json_object_get(json_object_get(message, "QMP"), "version"), why);
    json_decref(message);
    return r;
}

/* If the client before us went away with this very command under way, that one is done after our
 * greeting, and ours is refused, for there is nothing left to negotiate. */
static bool is_negotiated(const json_t *message)
{
    const char *class =
        json_string_value(json_object_get(json_object_get(message, "error"), "class"));

    return class && !strcmp(class, "CommandNotFound");
}

/* Leave negotiation mode. */
static int negotiate(struct monitor *m, uint64_t end_us, struct why *why)
{
    json_t *message;

    int r = begin(m, "qmp_capabilities", NULL, -1, why);
    m->begun = false;
    if (r == 0)
        r = read_fresh(m, end_us, &message, why);
    if (r == 0 && is_answer(m, message) && is_negotiated(message)) {
        json_decref(message);
        return 0;
    }
    return r < 0 ? r : take_answer(m, message, NULL, why);
}

/* Before the first answer: who answers after it is alive now, so the number is still its own. */
static int find_process(struct monitor *m, struct why *why)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (getsockopt(m->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return why_set(why, -errno, "cannot tell who listens at the QMP socket: %s",
                       strerror(errno));
    if (peer.pid <= 0)
        return why_set(why, -ESRCH,
                       "the QEMU behind the QMP socket cannot be seen from here; run both in one "
                       "PID namespace");
    len = sizeof(m->pidfd);
    if (getsockopt(m->fd, SOL_SOCKET, SO_PEERPIDFD, &m->pidfd, &len) < 0)
        m->pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    if (m->pidfd < 0)
        return why_set(why, -errno, "the process %d behind the QMP socket cannot be held: %s",
                       (int)peer.pid, strerror(errno));
    m->pid = peer.pid;
    return 0;
}

/* -EPIPE: closed by the other side. */
static int attach(int fd, uint32_t id, uint64_t end_us, struct monitor **ret, struct why *why)
{
    struct monitor *m = calloc(1, sizeof(*m));
    json_t *events = json_array();

    if (!m || !events) {
        free(m);
        json_decref(events);
        close(fd);
        return why_set(why, -ENOMEM, "no memory");
    }
    m->fd = fd;
    m->id = id;
    m->pidfd = -1;
    m->events = events;
    int r = find_process(m, why);
    if (r == 0)
        r = read_greeting(m, end_us, why);
    if (r == 0)
        r = negotiate(m, end_us, why);
    if (r == 0) {
        *ret = m;
        return 0;
    }
    if (r == -EPIPE && !m->closed)
        r = -EPROTO;
    monitor_close(m);
    return r;
}

int monitor_attach(int fd, uint32_t id, uint64_t end_us, struct monitor **ret, struct why *why)
{
    int r = attach(fd, id, end_us, ret, why);

    return r == -EPIPE ? -EPROTO : r;
}

static int connect_fd(int fd, const struct sockaddr_un *address, uint64_t end_us)
{
    while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
        if (errno == EAGAIN && mono_us() >= end_us)
            return -ETIMEDOUT;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        poll(NULL, 0, RETRY_MS);
    }
    return 0;
}

static int connect_to(const struct sockaddr_un *address, uint64_t end_us, int *ret, struct why *why)
{
    const char *path = address->sun_path;
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r = fd < 0 ? -errno : connect_fd(fd, address, end_us);

    if (r == -ENOENT)
        return why_set(why, r,
                       "there is no QMP socket %s; start QEMU with -qmp unix:%s,server=on,"
                       "wait=off",
                       path, path);
    if (r == -ECONNREFUSED)
        return why_set(why, r, "nobody listens at %s any more; its QEMU has ended", path);
    if (r == -ETIMEDOUT)
        return why_set(why, r,
                       "another program is connected to the QMP socket %s; give Varve one of its "
                       "own",
                       path);
    if (r < 0)
        return why_set(why, r, "cannot connect to the QMP socket %s: %s", path, strerror(-r));
    *ret = TAKE_FD(fd);
    return 0;
}

static int open_socket(const char *path, uint64_t end_us, struct monitor **ret, struct why *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct why inner = {};
    int r = -EPIPE;

    if (strlen(path) >= sizeof(address.sun_path))
        return why_set(why, -ENAMETOOLONG, "the socket path %s is too long", path);
    strcpy(address.sun_path, path);
    /* A session that begins while QEMU (10.0) still ends the one before may be closed with that. */
    for (unsigned n = 0; r == -EPIPE && n <= CLOSED_MAX; n++) {
        uint32_t id;
        int fd = -1;
        if (n)
            poll(NULL, 0, RETRY_MS);
        r = connect_to(&address, end_us, &fd, why);
        if (r < 0)
            return r;
        if (getrandom(&id, sizeof(id), 0) != sizeof(id))
            id = (uint32_t)mono_us();
        r = attach(fd, id, end_us, ret, &inner);
    }
    if (r == -ETIMEDOUT)
        return why_set(why, r,
                       "QEMU does not answer at %s; another program is connected there, or the "
                       "process is stopped; give Varve a QMP socket of its own",
                       path);
    r = r == -EPIPE ? -EPROTO : r;
    return r < 0 ? why_set(why, r, "%s: %.900s", path, inner.text) : 0;
}

/* A domain has no greeting: QEMU is asked. */
static int read_version(struct monitor *m, uint64_t end_us, struct why *why)
{
    json_t *value = NULL;
    int r = monitor_run(m, "query-version", NULL, end_us, &value, why);

    if (r == 0)
        r = take_version(m, value, why);
    json_decref(value);
    return r;
}

static int open_domain(const char *name, uint64_t end_us, struct monitor **ret, struct why *why)
{
    struct monitor *m = calloc(1, sizeof(*m));

    if (!m)
        return why_set(why, -ENOMEM, "no memory");
    m->fd = m->pidfd = -1;
    int r = domain_open(name, end_us, &m->domain, why);
    if (r == 0)
        r = domain_find_process(m->domain, end_us, &m->pid, &m->pidfd, why);
    if (r == 0)
        r = read_version(m, end_us, why);
    if (r < 0)
        monitor_close(m);
    else
        *ret = m;
    return r;
}

int monitor_open(const char *where, uint64_t end_us, struct monitor **ret, struct why *why)
{
    size_t len = strlen(MONITOR_LIBVIRT);

    return strncmp(where, MONITOR_LIBVIRT, len) ? open_socket(where, end_us, ret, why)
                                                : open_domain(where + len, end_us, ret, why);
}

void monitor_close(struct monitor *m)
{
    if (!m)
        return;
    domain_close(m->domain);
    if (m->fd >= 0)
        close(m->fd);
    if (m->pidfd >= 0)
        close(m->pidfd);
    json_decref(m->events);
    free(m->text);
    free(m);
}

pid_t monitor_pid(const struct monitor *m)
{
    return m->pid;
}

int monitor_fd(const struct monitor *m)
{
    return m->fd;
}

const char *monitor_domain(const struct monitor *m)
{
    return m->domain ? domain_uuid(m->domain) : NULL;
}

bool monitor_is_over(const struct monitor *m)
{
    struct pollfd ended = {.fd = m->pidfd, .events = POLLIN};

    return m->dead || poll(&ended, 1, 0) > 0;
}

int monitor_pidfd(const struct monitor *m)
{
    return m->pidfd;
}

unsigned monitor_version(const struct monitor *m)
{
    return m->version;
}
