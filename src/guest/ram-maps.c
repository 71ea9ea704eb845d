/* ram-maps.c - the mappings of a process. */
#include "base/cleanup.h"
#include "guest/ram-internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int mapping_parse(const char *line, struct mapping *ret)
{
    struct mapping m = {};
    unsigned long long start, end, offset, inode;
    unsigned major, minor;
    char perms[5];
    int at = 0;

    if (sscanf(line, "%16llx-%16llx %4s %16llx %x:%x %20llu%n", &start, &end, perms, &offset,
               &major, &minor, &inode, &at) != 7 ||
        !at || strlen(perms) != 4 || start >= end || start % RAM_PAGE_BYTES || end % RAM_PAGE_BYTES)
        return -EINVAL;
    m.start = start;
    m.end = end;
    m.offset = offset;
    m.device = makedev(major, minor);
    m.inode = inode;
    m.read = perms[0] == 'r';
    m.write = perms[1] == 'w';
    m.execute = perms[2] == 'x';
    m.shared = perms[3] == 's';
    line += at;
    line += strspn(line, " ");
    snprintf(m.path, sizeof(m.path), "%.*s", (int)strcspn(line, "\n"), line);
    *ret = m;
    return 0;
}

int mappings_read(pid_t pid, struct mapping **ret, unsigned *ret_n)
{
    _cleanup_free_ struct mapping *maps = NULL;
    _cleanup_free_ char *line = NULL;
    unsigned n = 0, max = 0;
    size_t size = 0;
    char path[64];
    int r = 0;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? -ESRCH : -errno;
    while (r == 0 && getline(&line, &size, file) > 0) {
        if (n == max) {
            max = max ? 2 * max : 512;
            struct mapping *more = realloc(maps, max * sizeof(*maps));
            if (!more) {
                r = -ENOMEM;
                break;
            }
            maps = more;
        }
        r = mapping_parse(line, &maps[n]);
        n++;
    }
    if (r == 0 && ferror(file))
        r = -EIO;
    fclose(file);
    if (r == 0 && !n)
        r = -ESRCH; /* a process that has ended has none */
    if (r < 0)
        return r;
    *ret = TAKE_PTR(maps);
    *ret_n = n;
    return 0;
}

const struct mapping *mapping_at(const struct mapping *maps, unsigned n, uint64_t start,
                                 uint64_t len)
{
    for (unsigned i = 0; i < n; i++)
        if (maps[i].start <= start && start + len <= maps[i].end)
            return &maps[i];
    return NULL;
}

bool process_has_fd(pid_t pid, const char *prefix)
{
    char path[64], target[128];
    const struct dirent *entry;
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    while (dir && !found && (entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        found = n > 0 && !strncmp(target, prefix, strlen(prefix));
    }
    if (dir)
        closedir(dir);
    return found;
}
