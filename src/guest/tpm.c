/* tpm.c - a swtpm for a machine that goes on from a version. */
#include "guest/tpm.h"

#include "base/cleanup.h"
#include "guest/qemu-process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_ROOM 320

/* Of an earlier machine of this name. */
static int empty(const char *path, struct why *why)
{
    const struct dirent *entry;

    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return why_set(why, -errno, "cannot make the directory %s: %s", path, strerror(errno));
    DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir)))
        if (*entry->d_name != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    return 0;
}

int tpm_start(const char *dir, const char *socket, const atomic_bool *cancel, struct why *why)
{
    char path[PATH_ROOM], state[PATH_ROOM + 8], control[PATH_ROOM + 24], pid[PATH_ROOM + 16];
    struct qemu_start start;
    struct why inner;

    snprintf(path, sizeof(path), "%s/tpm", dir);
    snprintf(state, sizeof(state), "dir=%s", path);
    snprintf(control, sizeof(control), "type=unixio,path=%s", socket);
    snprintf(pid, sizeof(pid), "file=%s/tpm.pid", dir);
    const char *argv[] = {"swtpm", "socket", "--tpm2", "--tpmstate",  state,      "--ctrl",
                          control, "--pid",  pid,      "--terminate", "--daemon", NULL};
    int r = empty(path, why);
    if (r < 0)
        return r;
    (void)unlink(socket);
    r = qemu_start((char *const *)(uintptr_t)argv, NULL, &start, &inner);
    if (r == -ENOENT)
        return why_set(why, -EOPNOTSUPP,
                       "the machine has a TPM, and no swtpm is installed; install it with: apt "
                       "install swtpm");
    start.cancel = cancel;
    if (r == 0)
        r = qemu_wait(&start, &inner);
    return r < 0 ? why_set(why, r, "the machine's TPM does not start: %.600s", inner.text) : 0;
}

void tpm_end(const char *dir)
{
    char path[PATH_ROOM], text[4096];

    snprintf(path, sizeof(path), "%s/tpm.pid", dir);
    pid_t pid = qemu_pid(path);
    if (pid <= 0)
        return;
    (void)unlink(path);
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
    /* The number may be another process's by now. */
    if (n > 0 && memmem(text, (size_t)n, dir, strlen(dir)))
        kill(pid, SIGTERM);
}
