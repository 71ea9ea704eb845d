/* process-fd.c - descriptors that another process was given by us. */
#include "guest/process-fd.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int process_fd_find(pid_t pid, int pipe_fd, unsigned *ret)
{
    char dir_path[64], wanted[64], link[64];
    const struct dirent *entry;
    int r = -ENOENT;
    struct stat st;

    if (fstat(pipe_fd, &st) < 0)
        return -errno;
    snprintf(dir_path, sizeof(dir_path), "/proc/%d/fd", (int)pid);
    snprintf(wanted, sizeof(wanted), "pipe:[%ju]", (uintmax_t)st.st_ino);
    DIR *dir = opendir(dir_path);
    if (!dir)
        return -errno;
    while (r < 0 && (entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
        if (n <= 0)
            continue;
        link[n] = '\0';
        if (!strcmp(link, wanted)) {
            if (ret)
                *ret = (unsigned)strtoul(entry->d_name, NULL, 10);
            r = 0;
        }
    }
    closedir(dir);
    return r;
}
