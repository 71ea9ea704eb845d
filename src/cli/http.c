/* http.c - one HTTP request over a Unix socket. */
#include "cli/http.h"

#include "base/cleanup.h"
#include "base/mono.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_BYTES       65536u
#define HEAD_MAX_BYTES   65536u
#define CONNECT_PAUSE_US 1000

static int wait_for(int fd, short events, uint64_t end_us)
{
    struct pollfd p = {.fd = fd, .events = events};

    for (;;) {
        uint64_t now = mono_us();
        int n = now >= end_us ? 0 : poll(&p, 1, (int)((end_us - now + 999) / 1000));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (now >= end_us)
            return -ETIMEDOUT;
    }
}

static int send_all(int fd, const char *text, size_t len, uint64_t end_us)
{
    while (len) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        int r = n < 0 ? -errno : 0;
        if (r == -EAGAIN)
            r = wait_for(fd, POLLOUT, end_us);
        if (r < 0 && r != -EINTR)
            return r;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* Everything up to the end, with a zero behind it. */
static int receive_all(int fd, size_t max_bytes, uint64_t end_us, char **ret, size_t *ret_len)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0, room = 0;

    for (;;) {
        if (len + READ_BYTES + 1 > room) {
            room = room ? 2 * room : 4 * READ_BYTES;
            char *larger = realloc(text, room);
            if (!larger)
                return -ENOMEM;
            text = larger;
        }
        int r = wait_for(fd, POLLIN, end_us);
        ssize_t n = r < 0 ? 0 : recv(fd, text + len, READ_BYTES, MSG_DONTWAIT);
        if (r < 0)
            return r;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (n == 0)
            break;
        len += n > 0 ? (size_t)n : 0;
        if (len > max_bytes)
            return -EFBIG;
    }
    text[len] = '\0';
    *ret_len = len;
    *ret = TAKE_PTR(text);
    return 0;
}

/* The value of a header in the head of an answer, up to its line's end; NULL: there is none. */
static const char *find_header(const char *head, const char *end, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = head; (line = memmem(line, (size_t)(end - line), "\r\n", 2)); line += 2)
        if (!strncasecmp(line + 2, name, len) && line[2 + len] == ':')
            return line + 3 + len;
    return NULL;
}

/* text becomes its body. */
static int split(char *text, size_t len, struct http_answer *ret)
{
    size_t head_max = len < HEAD_MAX_BYTES ? len : HEAD_MAX_BYTES;
    const char *end = memmem(text, head_max, "\r\n\r\n", 4);
    int status;

    if (!end || sscanf(text, "HTTP/1.%*1d %3d", &status) != 1)
        return -EPROTO;
    const char *length = find_header(text, end, "Content-Length");
    size_t body_len = len - (size_t)(end + 4 - text);
    if (find_header(text, end, "Transfer-Encoding") ||
        (length && strtoull(length, NULL, 10) != body_len))
        return -EPROTO;
    memmove(text, end + 4, body_len + 1);
    *ret = (struct http_answer){.status = status, .body = text, .len = body_len};
    return 0;
}

/* Who has a full queue of those that wait to be accepted is asked again. */
static int connect_to(int fd, const struct sockaddr_un *address, uint64_t end_us)
{
    while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        if (mono_us() >= end_us)
            return -ETIMEDOUT;
        usleep(CONNECT_PAUSE_US);
    }
    return 0;
}

int http_post(const char *socket_path, const char *body, size_t len, size_t max_bytes,
              uint64_t end_us, struct http_answer *ret, int *ret_connected)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char head[200], *text = NULL;
    size_t text_len = 0;

    *ret_connected = 0;
    if (strlen(socket_path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, socket_path);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int r = connect_to(fd, &address, end_us);
    if (r < 0)
        return r;
    *ret_connected = 1;
    int n = snprintf(head, sizeof(head),
                     "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\n"
                     "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                     len);
    r = send_all(fd, head, (size_t)n, end_us);
    if (r == 0)
        r = send_all(fd, body, len, end_us);
    /* Who refuses a request may answer and close before all of it is there. */
    if (r == 0 || r == -EPIPE || r == -ECONNRESET) {
        int received = receive_all(fd, max_bytes, end_us, &text, &text_len);
        r = received < 0 && r == 0 ? received : received < 0 ? r : 0;
    }
    if (r == 0)
        r = split(text, text_len, ret);
    if (r < 0)
        free(text);
    return r;
}
