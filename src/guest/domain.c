/* domain.c - a domain of libvirt, and commands to the monitor of its QEMU.
 *
 * A *line* is a connection to libvirt and the thread that makes its calls. An answer that does not
 * come in time costs the line: it is left to its thread, which ends when libvirt has answered, and
 * the next command gets another one. States of a line:
 *
 *   IDLE -> domain_send() -> ASKED -> its thread -> ANSWERED -> domain_receive() -> IDLE
 *                              left -> its thread ends, and frees it
 *
 * No event loop of libvirt's runs: so a broken connection shows only when it is used, and one that
 * was idle is tried before a command that may not be sent twice. */
#include "guest/domain.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/libvirt-lib.h"
#include "guest/process-fd.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME_BYTES    256
#define IDLE_US       500000 /* after which a connection is tried first */
#define CMDLINE_BYTES (1u << 20)
#define FD_NAME       "varve-who"

enum line_state { IDLE, ASKED, ANSWERED };

/* Which domain: what the name becomes with the first connection. */
struct identity {
    char name[NAME_BYTES], uuid[VIR_UUID_STRING_BUFLEN];
    int id; /* other for each run of it; 0: not known yet */
};

struct line {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool left;
    enum line_state state;
    char *command; /* NULL: only connect */
    int fd;        /* -1 */
    char *answer;
    int result;
    struct why why;
    struct identity identity;

    /* The thread's. */
    const struct libvirt *lib;
    virConnectPtr connection;
    virDomainPtr domain;
    uint64_t used_us;
};

struct domain {
    struct identity identity;
    struct line *line; /* NULL: the next command makes one */
};

/* ---- libvirt's calls, in the line's thread -------------------------------------------------- */

static const char *uri(void)
{
    const char *set = getenv("LIBVIRT_DEFAULT_URI");

    return set && *set ? set : geteuid() == 0 ? "qemu:///system" : "qemu:///session";
}

static const char *words_of(const virError *error)
{
    return error && error->message ? error->message : "it gave no reason";
}

static void disconnect(struct line *l)
{
    if (l->domain)
        l->lib->virDomainFree(l->domain);
    if (l->connection)
        l->lib->virConnectClose(l->connection);
    l->domain = NULL;
    l->connection = NULL;
}

static bool is_broken(const struct line *l)
{
    return l->lib->virConnectIsAlive(l->connection) != 1;
}

static int no_libvirtd(const char *words, struct why *why)
{
    return why_set(
        why, -EHOSTDOWN,
        "no libvirtd answers at %.120s (%.300s); start it (systemctl start libvirtd), or "
        "start varved with LIBVIRT_DEFAULT_URI set to where it is",
        uri(), words);
}

static int look_up(struct line *l, struct why *why)
{
    struct identity *i = &l->identity;

    l->domain = i->id ? NULL : l->lib->virDomainLookupByName(l->connection, i->name);
    if (!l->domain)
        l->domain = l->lib->virDomainLookupByUUIDString(l->connection, i->id ? i->uuid : i->name);
    if (l->domain)
        return 0;
    if (is_broken(l))
        return no_libvirtd(words_of(l->lib->virGetLastError()), why);
    return why_set(why, i->id ? -EPIPE : -ENOENT,
                   "libvirt has no domain %s at %.120s; virsh list --all tells which there are",
                   i->name, uri());
}

/* It must run, and if it is known already, still. */
static int identify(struct line *l, struct why *why)
{
    struct identity *i = &l->identity;
    const char *name = l->lib->virDomainGetName(l->domain);
    int id = (int)l->lib->virDomainGetID(l->domain), state, reason;

    if (l->lib->virDomainGetState(l->domain, &state, &reason, 0) < 0 ||
        l->lib->virDomainGetUUIDString(l->domain, i->uuid) < 0)
        return why_set(why, -EIO, "libvirt does not tell of domain %s: %.300s", i->name,
                       words_of(l->lib->virGetLastError()));
    bool runs = id > 0 && state != VIR_DOMAIN_SHUTOFF && state != VIR_DOMAIN_CRASHED;
    if (i->id && (!runs || id != i->id))
        return why_set(why, -EPIPE, "domain %s has ended", i->name);
    if (!runs)
        return why_set(why, -EBUSY, "domain %s is shut off; start it first: virsh start %s",
                       i->name, i->name);
    if (name && strlen(name) < NAME_BYTES)
        strcpy(i->name, name);
    i->id = id;
    return 0;
}

static int connect_line(struct line *l, struct why *why)
{
    l->connection = l->lib->virConnectOpen(uri());
    if (!l->connection)
        return no_libvirtd(words_of(l->lib->virGetLastError()), why);
    int r = look_up(l, why);
    if (r == 0)
        r = identify(l, why);
    if (r < 0)
        disconnect(l);
    return r;
}

/* After a command that failed in libvirt, not in QEMU. */
static int refused(struct line *l, struct why *why)
{
    virErrorPtr error = l->lib->virGetLastError();

    if (is_broken(l)) {
        int r = why_set(why, -EHOSTDOWN,
                        "libvirtd ended while it was asked (%.300s); try again when it is back",
                        words_of(error));
        disconnect(l);
        return r;
    }
    if (l->lib->virDomainIsActive(l->domain) == 0)
        return why_set(why, -EPIPE, "domain %s has ended", l->identity.name);
    return why_set(why, -EPROTO, "libvirt refuses: %.600s", words_of(error));
}

static int run(struct line *l, const char *command, int fd, char **ret, struct why *why)
{
    int files[] = {fd};

    if (l->connection && mono_us() - l->used_us > IDLE_US &&
        l->lib->virDomainIsActive(l->domain) != 1)
        disconnect(l);
    int r = l->connection ? 0 : connect_line(l, why);
    if (r == 0 && command &&
        l->lib->virDomainQemuMonitorCommandWithFiles(l->domain, command, fd >= 0, files, NULL, NULL,
                                                     ret, 0) < 0)
        r = refused(l, why);
    l->used_us = mono_us();
    return r;
}

static void free_line(struct line *l)
{
    disconnect(l);
    if (l->fd >= 0)
        close(l->fd);
    free(l->command);
    free(l->answer);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static void *serve(void *arg)
{
    struct line *l = arg;

    pthread_mutex_lock(&l->lock);
    while (!l->left) {
        if (l->state != ASKED) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        char *answer = NULL;
        pthread_mutex_unlock(&l->lock);
        int r = run(l, l->command, l->fd, &answer, &l->why);
        pthread_mutex_lock(&l->lock);
        l->answer = answer;
        l->result = r;
        l->state = ANSWERED;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    free_line(l);
    return NULL;
}

/* ---- a line, from the caller's thread ------------------------------------------------------- */

static int open_line(struct domain *d, struct why *why)
{
    const struct libvirt *lib;
    pthread_condattr_t attr;
    pthread_t thread;

    int r = libvirt_load(&lib, why);
    if (r < 0)
        return r;
    struct line *l = calloc(1, sizeof(*l));
    if (!l)
        return why_set(why, -ENOMEM, "no memory");
    l->lib = lib;
    l->identity = d->identity;
    l->fd = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &attr);
    pthread_condattr_destroy(&attr);
    r = -pthread_create(&thread, NULL, serve, l);
    if (r < 0) {
        free_line(l);
        return why_set(why, r, "cannot start a thread that speaks with libvirt: %s", strerror(-r));
    }
    pthread_detach(thread);
    d->line = l;
    return 0;
}

/* What its thread waits for comes some time, or never; then it frees it. */
static void leave_line(struct domain *d)
{
    struct line *l = d->line;

    d->line = NULL;
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->left = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* command: NULL: only connect. */
static int ask(struct domain *d, const char *command, int fd, struct why *why)
{
    int r = d->line ? 0 : open_line(d, why);

    if (r < 0)
        return r;
    char *copy = command ? strdup(command) : NULL;
    int fd_copy = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    if (command && !copy) {
        r = why_set(why, -ENOMEM, "no memory");
    } else if (fd >= 0 && fd_copy < 0) {
        r = why_set(why, -errno, "a descriptor cannot be passed to QEMU: %s", strerror(errno));
        free(copy);
    }
    if (r < 0)
        return r;
    struct line *l = d->line;
    pthread_mutex_lock(&l->lock);
    assert(l->state == IDLE);
    l->command = copy;
    l->fd = fd_copy;
    l->state = ASKED;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return 0;
}

static bool wait_for_answer(struct line *l, uint64_t end_us)
{
    struct timespec end = {(time_t)(end_us / 1000000), (long)(end_us % 1000000) * 1000};
    int r = 0;

    pthread_mutex_lock(&l->lock);
    while (l->state != ANSWERED && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&l->changed, &l->lock, &end);
    bool answered = l->state == ANSWERED;
    pthread_mutex_unlock(&l->lock);
    return answered;
}

int domain_receive(struct domain *d, uint64_t end_us, char **ret, struct why *why)
{
    struct line *l = d->line;

    if (!wait_for_answer(l, end_us)) {
        leave_line(d);
        return why_set(why, -ETIMEDOUT,
                       "libvirt does not answer for domain %s; does another job hold it (virsh "
                       "domjobinfo %s), or is libvirtd stopped?",
                       d->identity.name, d->identity.name);
    }
    int r = l->result;
    if (r < 0)
        *why = l->why;
    else
        *ret = TAKE_PTR(l->answer);
    d->identity = l->identity;
    free(l->answer);
    free(l->command);
    if (l->fd >= 0)
        close(l->fd);
    l->answer = l->command = NULL;
    l->fd = -1;
    l->state = IDLE;
    return r;
}

int domain_send(struct domain *d, const char *command, int fd, struct why *why)
{
    return ask(d, command, fd, why);
}

void domain_give_up(struct domain *d)
{
    leave_line(d);
}

bool domain_has_answer(struct domain *d)
{
    pthread_mutex_lock(&d->line->lock);
    bool answered = d->line->state == ANSWERED;
    pthread_mutex_unlock(&d->line->lock);
    return answered;
}

/* ---- its process ---------------------------------------------------------------------------- */

/* Whether the arguments of a process have "-uuid" and this behind it, as libvirt starts QEMU. */
static bool has_uuid(pid_t pid, const char *uuid, char *room)
{
    static const char option[] = "-uuid";
    char path[64];
    size_t len = 0;
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    while (len < CMDLINE_BYTES && (n = read(fd, room + len, CMDLINE_BYTES - len)) > 0)
        len += (size_t)n;
    for (const char *at = room, *end = room + len; at < end;) {
        const char *next = memchr(at, '\0', (size_t)(end - at));
        if (!next)
            return false;
        next++;
        if (!strcmp(at, option) && end - next > (long)strlen(uuid) && !strcmp(next, uuid))
            return true;
        at = next;
    }
    return false;
}

/* Of the processes with its UUID the one that has the pipe: a machine that was restored from this
 * domain may have the same UUID, the pipe is of this one alone. */
static int find_holder(const char *uuid, int pipe_fd, pid_t *ret_pid, int *ret_pidfd)
{
    _cleanup_free_ char *room = malloc(CMDLINE_BYTES);
    const struct dirent *entry;
    int r = -ESRCH;

    DIR *dir = room ? opendir("/proc") : NULL;
    while (dir && r == -ESRCH && (entry = readdir(dir))) {
        pid_t pid = isdigit((unsigned char)*entry->d_name) ? atoi(entry->d_name) : 0;
        if (!pid || !has_uuid(pid, uuid, room))
            continue;
        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0)
            continue;
        int found = process_fd_find(pid, pipe_fd, NULL);
        struct pollfd ended = {.fd = pidfd, .events = POLLIN};
        if (found == 0 && poll(&ended, 1, 0) == 0) {
            *ret_pid = pid;
            *ret_pidfd = pidfd;
            r = 0;
        } else {
            close(pidfd);
            r = found == -EACCES || found == -EPERM ? found : r;
        }
    }
    if (dir)
        closedir(dir);
    return r;
}

static int run_simple(struct domain *d, const char *command, int fd, uint64_t end_us,
                      struct why *why)
{
    char *answer = NULL;
    int r = domain_send(d, command, fd, why);

    if (r == 0)
        r = domain_receive(d, end_us, &answer, why);
    free(answer);
    return r;
}

int domain_find_process(struct domain *d, uint64_t end_us, pid_t *ret_pid, int *ret_pidfd,
                        struct why *why)
{
    struct why ignored;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return why_set(why, -errno, "cannot make a pipe: %s", strerror(errno));
    int r = run_simple(d, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"" FD_NAME "\"}}",
                       fds[1], end_us, why);
    if (r == 0) {
        r = find_holder(d->identity.uuid, fds[1], ret_pid, ret_pidfd);
        run_simple(d, "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"" FD_NAME "\"}}", -1,
                   end_us, &ignored);
        if (r == -ESRCH)
            why_set(why, r,
                    "the QEMU of domain %s cannot be seen from here; run varved on the host where "
                    "it runs, and in its PID namespace",
                    d->identity.name);
        else if (r < 0)
            why_set(why, r,
                    "no right to look into the QEMU of domain %s; run varved as root or with "
                    "CAP_SYS_PTRACE",
                    d->identity.name);
    }
    close(fds[0]);
    close(fds[1]);
    return r;
}

/* ---- opening -------------------------------------------------------------------------------- */

int domain_open(const char *name, uint64_t end_us, struct domain **ret, struct why *why)
{
    char *nothing = NULL;

    if (strlen(name) >= NAME_BYTES)
        return why_set(why, -ENOENT, "libvirt has no domain with a name of %zu characters",
                       strlen(name));
    struct domain *d = calloc(1, sizeof(*d));
    if (!d)
        return why_set(why, -ENOMEM, "no memory");
    strcpy(d->identity.name, name);
    int r = ask(d, NULL, -1, why);
    if (r == 0)
        r = domain_receive(d, end_us, &nothing, why);
    if (r == 0)
        *ret = d;
    else
        domain_close(d);
    return r;
}

void domain_close(struct domain *d)
{
    if (!d)
        return;
    leave_line(d);
    free(d);
}

const char *domain_name(const struct domain *d)
{
    return d->identity.name;
}

const char *domain_uuid(const struct domain *d)
{
    return d->identity.uuid;
}
