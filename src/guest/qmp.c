/* qmp.c - one command to a QEMU by its QMP socket. */
#include "guest/qmp.h"

#include "base/cleanup.h"
#include "base/mono.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_US      10000000 /* for everything together */
#define LINE_MAX_BYTES 65536

struct qmp {
    int fd;
    uint64_t end; /* mono_us() */
    size_t len;   /* of what was read and not taken */
    char text[LINE_MAX_BYTES];
};

/* The next line as JSON: a message of QEMU's is one line. */
static int read_message(struct qmp *q, json_t **ret, struct why *why)
{
    char *newline;

    while (!(newline = memchr(q->text, '\n', q->len))) {
        uint64_t now = mono_us();
        struct pollfd fd = {.fd = q->fd, .events = POLLIN};
        if (now >= q->end || poll(&fd, 1, (int)((q->end - now) / 1000) + 1) == 0)
            return why_set(why, -ETIMEDOUT,
                           "the machine does not answer at its QMP socket; is another program "
                           "connected to it?");
        ssize_t n = read(q->fd, q->text + q->len, sizeof(q->text) - q->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return why_set(why, -EIO, "the machine closed its QMP socket");
        q->len += (size_t)n;
    }
    size_t line = (size_t)(newline - q->text) + 1;
    *ret = json_loadb(q->text, line, 0, NULL);
    q->len -= line;
    memmove(q->text, q->text + line, q->len);
    return *ret ? 0 : why_set(why, -EIO, "the machine says at its QMP socket what is not QMP");
}

/* Messages up to one that has the key, or tells of an error; events in between are left out. */
static int await(struct qmp *q, const char *key, struct why *why)
{
    for (;;) {
        json_t *message;
        int r = read_message(q, &message, why);
        if (r < 0)
            return r;
        bool found = json_object_get(message, key) != NULL;
        const json_t *error = json_object_get(message, "error");
        if (error) {
            const char *text = json_string_value(json_object_get(error, "desc"));
            r = why_set(why, -EIO, "QEMU refused: %s", text ? text : "it gave no reason");
        }
        json_decref(message);
        if (found || r < 0)
            return r;
    }
}

static int execute(struct qmp *q, const char *command, struct why *why)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "{\"execute\":\"%s\"}\n", command);

    if (send(q->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        return why_set(why, -EIO, "the machine closed its QMP socket");
    return await(q, "return", why);
}

int qmp_command(const char *socket_path, const char *command, struct why *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct qmp q = {.end = mono_us() + ANSWER_US};

    if (strlen(socket_path) >= sizeof(address.sun_path))
        return why_set(why, -ENAMETOOLONG, "the socket path %s is too long", socket_path);
    strcpy(address.sun_path, socket_path);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return why_set(why, -errno, "cannot connect to %s: %s", socket_path, strerror(errno));
    q.fd = fd;
    int r = await(&q, "QMP", why);
    if (r == 0)
        r = execute(&q, "qmp_capabilities", why);
    return r < 0 ? r : execute(&q, command, why);
}
