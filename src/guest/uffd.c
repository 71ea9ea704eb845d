/* uffd.c - the userfaultfd of another process's address space. */
#include "guest/uffd.h"

#include "base/cleanup.h"
#include "guest/inject.h"
#include "guest/linux-abi.h"
#include "guest/monitor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEVICE  "/dev/userfaultfd"
#define FD_NAME "varve-userfaultfd"
#define FDS_MAX 64
#define CHUNK   (64ULL << 20) /* protected at once: how long the process's mmap() may wait */
#define TRIES   1000
#define FEATURES                                                                                   \
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |                                 \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)

/* ---- descriptors of the process ------------------------------------------------------------- */

/* Those that link to target: how many (at most FDS_MAX), or -errno. */
static int list_fds(pid_t pid, const char *target, int fds[FDS_MAX])
{
    char path[64], link[64];
    const struct dirent *entry;
    int n = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? -ESRCH : -errno;
    while (n < FDS_MAX && (entry = readdir(dir))) {
        ssize_t len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
        if (len <= 0)
            continue;
        link[len] = '\0';
        if (!strcmp(link, target))
            fds[n++] = atoi(entry->d_name);
    }
    closedir(dir);
    return n;
}

static int refuse_list(pid_t pid, int code, struct why *why)
{
    if (code == -ESRCH)
        return why_set(why, code, "QEMU has ended");
    return why_set(why, -EPERM,
                   "no right to see the descriptors of process %d; run varved as root or with "
                   "CAP_SYS_PTRACE, and see /proc/sys/kernel/yama/ptrace_scope",
                   (int)pid);
}

/* Whether it has our features: QEMU's own have not WP_ASYNC. */
static bool is_ours(pid_t pid, int fd)
{
    unsigned long long api, features = 0, ioctls;
    char path[64], line[128];

    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, fd);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "API: %llx:%llx:%llx", &api, &features, &ioctls) == 3)
            break;
    if (file)
        fclose(file);
    return (features & FEATURES) == FEATURES;
}

/* The number that ours has in the process, or -ENOENT, or -errno. */
static int find_ours(pid_t pid, struct why *why)
{
    int fds[FDS_MAX], n = list_fds(pid, "anon_inode:[userfaultfd]", fds);

    if (n < 0)
        return refuse_list(pid, n, why);
    for (int i = 0; i < n; i++)
        if (is_ours(pid, fds[i]))
            return fds[i];
    return -ENOENT;
}

static int take(pid_t pid, int pidfd, int number, int *ret_fd, struct why *why)
{
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

    if (fd < 0)
        return why_set(why, -errno,
                       "cannot take the userfaultfd of process %d: %s; run varved as root or with "
                       "CAP_SYS_PTRACE, and see /proc/sys/kernel/yama/ptrace_scope",
                       (int)pid, strerror(errno));
    *ret_fd = fd;
    return 0;
}

/* ---- making one ----------------------------------------------------------------------------- */

static int enable(int fd, struct why *why)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return 0;
    return why_set(why, -EOPNOTSUPP,
                   "this kernel cannot tell which pages of another process were written "
                   "(userfaultfd with WP_ASYNC); Linux 6.7 or later can");
}

static int open_local(void)
{
    _cleanup_close_ int device = open(DEVICE, O_RDWR | O_CLOEXEC);

    if (device >= 0)
        return ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

int uffd_probe(struct why *why)
{
    _cleanup_close_ int fd = open_local();

    if (fd < 0)
        return why_set(why, -EOPNOTSUPP,
                       "userfaultfd cannot be used here (%s); run varved as root, or give it "
                       "access to " DEVICE,
                       strerror(errno));
    return enable(fd, why);
}

/* Pass the device; *ret: its number in the process. */
static int pass_device(pid_t pid, struct monitor *monitor, int device, uint64_t end_us, int *ret,
                       struct why *why)
{
    int before[FDS_MAX], after[FDS_MAX], n_before = list_fds(pid, DEVICE, before);

    if (n_before < 0)
        return refuse_list(pid, n_before, why);
    int r = monitor_pass_fd(monitor, device, FD_NAME, end_us, why);
    if (r < 0)
        return r;
    int n_after = list_fds(pid, DEVICE, after);
    for (int i = 0; i < n_after; i++) {
        bool is_new = true;
        for (int j = 0; j < n_before; j++)
            is_new = is_new && before[j] != after[i];
        if (is_new) {
            *ret = after[i];
            return 0;
        }
    }
    return why_set(why, -EPROTO, "QEMU took " DEVICE " and does not have it");
}

static int make_by_device(pid_t pid, int pidfd, struct monitor *monitor, int device,
                          uint64_t end_us, int64_t *ret, struct why *why)
{
    struct why unused;
    int number = -1, r = pass_device(pid, monitor, device, end_us, &number, why);

    if (r == 0) {
        const uint64_t args[6] = {(uint64_t)number, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK};
        r = inject_once(pid, pidfd, SYS_ioctl, args, ret, why);
    }
    monitor_run(monitor, "closefd", json_pack("{s:s}", "fdname", FD_NAME), end_us, NULL, &unused);
    return r;
}

/* *ret: its number in the process. */
static int make(pid_t pid, int pidfd, struct monitor *monitor, uint64_t end_us, int *ret,
                struct why *why)
{
    const uint64_t args[6] = {O_CLOEXEC | O_NONBLOCK};
    _cleanup_close_ int device = monitor ? open(DEVICE, O_RDWR | O_CLOEXEC) : -1;
    int64_t made = -1;
    int r = device >= 0 ? make_by_device(pid, pidfd, monitor, device, end_us, &made, why)
                        : inject_once(pid, pidfd, SYS_userfaultfd, args, &made, why);

    if (r == 0 && made < 0)
        r = why_set(why, -EOPNOTSUPP, "process %d may not have a userfaultfd: %s", (int)pid,
                    strerror((int)-made));
    if (r == 0)
        *ret = (int)made;
    return r;
}

int uffd_open(pid_t pid, int pidfd, struct monitor *monitor, uint64_t end_us, int *ret_fd,
              bool *ret_found, struct why *why)
{
    int fd = -1, number = find_ours(pid, why);
    bool found = number >= 0;
    int r = number;

    if (r == -ENOENT) {
        r = uffd_probe(why); /* before anything of the process is touched */
        if (r == 0)
            r = make(pid, pidfd, monitor, end_us, &number, why);
    }
    if (r >= 0)
        r = take(pid, pidfd, number, &fd, why);
    if (r == 0 && !found)
        r = enable(fd, why);
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        return r;
    }
    *ret_fd = fd;
    if (ret_found)
        *ret_found = found;
    return 0;
}

int uffd_remove(pid_t pid, int pidfd, struct why *why)
{
    int number = find_ours(pid, why);
    int64_t unused;

    if (number < 0)
        return number == -ENOENT ? 0 : number;
    const uint64_t args[6] = {(uint64_t)number};
    return inject_once(pid, pidfd, SYS_close, args, &unused, why);
}

/* ---- ranges --------------------------------------------------------------------------------- */

int uffd_register(int fd, uint64_t start, uint64_t len, bool missing, struct why *why)
{
    struct uffdio_register range = {.range = {.start = start, .len = len},
                                    .mode = UFFDIO_REGISTER_MODE_WP};

    if (missing)
        range.mode |= UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(fd, UFFDIO_REGISTER, &range) == 0)
        return 0;
    if (errno == EBUSY)
        return why_set(why, -EBUSY,
                       "QEMU watches its memory itself (background snapshot or post-copy "
                       "migration); end that first");
    if (errno == ENOMEM || errno == ESRCH)
        return why_set(why, -ESRCH, "QEMU has ended");
    return why_set(why, -errno, "memory of QEMU cannot be registered for tracking: %s",
                   strerror(errno));
}

int uffd_unregister(int fd, uint64_t start, uint64_t len)
{
    struct uffdio_range range = {.start = start, .len = len};

    return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int uffd_protect(int fd, uint64_t start, uint64_t len, struct why *why)
{
    unsigned tries = 0;

    for (uint64_t at = start; at < start + len;) {
        uint64_t rest = start + len - at;
        struct uffdio_writeprotect range = {
            .range = {.start = at, .len = rest < CHUNK ? rest : CHUNK},
            .mode = UFFDIO_WRITEPROTECT_MODE_WP};
        if (ioctl(fd, UFFDIO_WRITEPROTECT, &range) == 0) {
            at += range.range.len;
            continue;
        }
        if (errno == ESRCH)
            return why_set(why, -ESRCH, "QEMU has ended");
        if ((errno != EAGAIN && errno != EINTR) || ++tries == TRIES)
            return why_set(why, -errno, "memory of QEMU cannot be write-protected: %s",
                           strerror(errno));
    }
    return 0;
}
