/* rundir.c - the run directory: its lock and its sockets. */
#include "daemon/rundir.h"

#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int socket_path_check(const char *path, struct why *why)
{
    if (strlen(path) <= SOCKET_PATH_MAX)
        return 0;
    return why_set(
        why, -ENAMETOOLONG,
        "the socket path %.120s... has %zu characters, and a Unix socket's may have %zu; "
        "choose a shorter run directory with --run",
        path, strlen(path), SOCKET_PATH_MAX);
}

static int make_dir(const char *path, struct why *why)
{
    struct stat st;

    if (mkdir(path, 0700) == 0)
        return 0;
    int r = -errno;
    if (r == -ENOENT)
        return why_set(why, r,
                       "cannot make the run directory %s: the directory above it is missing", path);
    if (r != -EEXIST)
        return why_set(why, r, "cannot make the run directory %s: %s; choose another with --run",
                       path, strerror(-r));
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return why_set(why, -ENOTDIR, "the run directory %s is not a directory", path);
    if (st.st_mode & 022)
        return why_set(why, -EPERM,
                       "others may write to the run directory %s (mode %04o); make it private with "
                       "chmod 0700, or choose another with --run",
                       path, st.st_mode & 07777u);
    return 0;
}

/* A daemon that was killed holds its lock until the kernel is done with it: a second of patience.
 */
static bool lock_patiently(int fd)
{
    for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; tries++) {
        if (tries == 50)
            return false;
        usleep(20000);
    }
    return true;
}

int rundir_open(const char *path, int *ret_lock_fd, struct why *why)
{
    char file[4096], pid[16] = "";
    int r;

    /* The longest of the fixed names stands for all. */
    snprintf(file, sizeof(file), "%s/" CONTROL_SOCKET, path);
    r = socket_path_check(file, why);
    if (r == 0)
        r = make_dir(path, why);
    if (r < 0)
        return r;

    snprintf(file, sizeof(file), "%s/varved.lock", path);
    _cleanup_close_ int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        r = -errno;
        return why_set(why, r, "cannot open %s: %s; choose another run directory with --run", file,
                       strerror(-r));
    }
    if (!lock_patiently(fd)) {
        ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
        pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
        return why_set(
            why, ERR_IN_USE,
            "another varved (process %s) serves the run directory %s; stop it, or choose "
            "another directory with --run",
            *pid ? pid : "unknown", path);
    }
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n) {
        r = -errno;
        return why_set(why, r, "cannot write %s: %s", file, strerror(-r));
    }
    *ret_lock_fd = TAKE_FD(fd);
    return 0;
}

/* Remove a socket at which nobody answers. */
static int remove_stale(const char *path, const struct sockaddr_un *address, struct why *why)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : why_set(why, -errno, "cannot look at %s: %m", path);
    if (!S_ISSOCK(st.st_mode))
        return why_set(why, -EEXIST, "%s is there and is no socket; move it away", path);
    _cleanup_close_ int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe >= 0 && connect(probe, (const struct sockaddr *)address, sizeof(*address)) == 0)
        return why_set(why, ERR_IN_USE, "somebody else answers at %s; stop that program", path);
    if (unlink(path) < 0)
        return why_set(why, -errno, "cannot remove the stale socket %s: %m", path);
    return 0;
}

int rundir_listen(const char *path, int *ret_fd, struct why *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int r = socket_path_check(path, why);
    if (r < 0)
        return r;
    strcpy(address.sun_path, path);
    r = remove_stale(path, &address, why);
    if (r < 0)
        return r;

    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return why_set(why, -errno, "cannot make a socket: %m");
    /* A socket's file gets the mode of the unbound socket: no moment in which others may connect,
     * and no umask() under other threads. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, SOMAXCONN) < 0)
        r = -errno;
    if (r < 0)
        return why_set(why, r, "cannot listen at %s: %s", path, strerror(-r));
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int rundir_let_in(const char *dir, const char *path, gid_t group, struct why *why)
{
    const char *at = dir;
    struct stat st;

    int r = stat(dir, &st);
    bool others_pass = r == 0 && (st.st_mode & 01);
    if (r == 0 && !others_pass)
        r = chown(dir, (uid_t)-1, group);
    if (r == 0 && !others_pass)
        r = chmod(dir, (st.st_mode & 07777) | 010);
    if (r == 0) {
        at = path;
        r = chown(path, (uid_t)-1, group);
    }
    if (r == 0)
        r = chmod(path, 0660);
    if (r == 0)
        return 0;
    r = -errno;
    return why_set(why, r,
                   "cannot open %s to the group %u ([nbd] group in the configuration): %s; run "
                   "varved as root, or as a member of that group",
                   at, (unsigned)group, strerror(-r));
}
