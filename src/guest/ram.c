/* ram.c - the RAM blocks of a running QEMU. */
#include "guest/ram.h"

#include "base/cleanup.h"
#include "guest/monitor.h"
#include "guest/ram-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define MEND                                                                                       \
    "start QEMU with -object memory-backend-file,id=ram,size=SIZE,mem-path=/dev/shm,share=on and " \
    "-machine memory-backend=ram (a libvirt domain: <memoryBacking><source type='file'/><access "  \
    "mode='shared'/></memoryBacking>, and memory_backing_dir = \"/dev/shm\" in qemu.conf)"

static int refuse_access(pid_t pid, int code, struct why *why)
{
    return why_set(why, -EPERM,
                   "no right to look into process %d (%s); run varved as root or as QEMU's user "
                   "with CAP_SYS_PTRACE, and see /proc/sys/kernel/yama/ptrace_scope",
                   (int)pid, strerror(-code));
}

static bool has_ended(int pidfd)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

static int ended(struct why *why)
{
    return why_set(why, -ESRCH, "QEMU has ended");
}

/* ---- one block ------------------------------------------------------------------------------ */

/* The file behind a mapping: through map_files, which wants privileges, else among the descriptors
 * that QEMU has open. */
static int open_file(pid_t pid, const struct mapping *m)
{
    char path[96];
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)pid, m->start,
             m->end);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int code = -errno;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while (fd < 0 && dir && (entry = readdir(dir))) {
        if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
            st.st_ino == m->inode && st.st_dev == m->device) {
            fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC);
            code = fd < 0 ? -errno : 0;
        }
    }
    if (dir)
        closedir(dir);
    return fd < 0 ? code : fd;
}

static int check_file(const struct ram_block *b, struct why *why)
{
    struct statfs fs;
    struct stat st;

    if (fstatfs(b->fd, &fs) < 0 || fstat(b->fd, &st) < 0)
        return why_set(why, -errno, "cannot look at the file of the memory block %s: %s", b->name,
                       strerror(errno));
    if (b->page_bytes > RAM_HUGE_MAX)
        return why_set(why, -EOPNOTSUPP,
                       "the memory block %s has pages of %u MiB, of which each would count as "
                       "written whole; use huge pages of 2 MiB, or " MEND,
                       b->name, b->page_bytes >> 20);
    if (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC)
        return why_set(why, -EOPNOTSUPP, "the file of the memory block %s is not on tmpfs; " MEND,
                       b->name);
    if ((uint64_t)st.st_size < b->file_offset + b->used_bytes)
        return why_set(why, -EOPNOTSUPP, "the file of the memory block %s is shorter than it",
                       b->name);
    return 0;
}

static int map_block(pid_t pid, const struct mapping *m, struct ram_block *b, struct why *why)
{
    b->fd = open_file(pid, m);
    if (b->fd < 0)
        return refuse_access(pid, b->fd, why);
    b->file_offset = m->offset + (b->host - m->start);
    int r = check_file(b, why);
    if (r < 0)
        return r;
    b->shared = true;
    if (b->page_bytes != RAM_PAGE_BYTES)
        return 0;
    void *memory =
        mmap(NULL, b->used_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, (off_t)b->file_offset);
    if (memory == MAP_FAILED)
        return why_set(why, -errno, "cannot map the memory block %s: %s", b->name, strerror(errno));
    b->memory = memory;
    return 0;
}

/* Blocks of QEMU's own that are not shared: main memory, which backends make, may not be one. */
static int check_private(const struct ram_block *b, uint64_t main_bytes, struct why *why)
{
    if (b->page_bytes != RAM_PAGE_BYTES)
        return why_set(why, -EOPNOTSUPP, "the memory block %s has huge pages; " MEND, b->name);
    if (b->used_bytes < main_bytes)
        return 0;
    return why_set(why, -EOPNOTSUPP,
                   "the memory block %s is private to QEMU, which Varve cannot share; " MEND,
                   b->name);
}

static int open_block(const struct ram *ram, struct ram_block *b, const struct mapping *maps,
                      unsigned n_maps, uint64_t main_bytes, struct why *why)
{
    const struct mapping *m = mapping_at(maps, n_maps, b->host, b->used_bytes);

    if (!m)
        return why_set(why, -EPROTO,
                       "the memory block %s is not in the process %d that listens at the QMP "
                       "socket; is that QEMU itself?",
                       b->name, (int)ram->pid);
    if (m->shared)
        return map_block(ram->pid, m, b, why);
    return check_private(b, main_bytes, why);
}

/* ---- all of them ---------------------------------------------------------------------------- */

static int list_blocks(struct monitor *monitor, uint64_t end_us, struct ram_block *blocks,
                       struct why *why)
{
    _cleanup_free_ char *text = NULL;
    int r = monitor_run_hmp(monitor, "info ramblock", end_us, &text, why);

    return r < 0 ? r : ram_parse(text, blocks, why);
}

/* From how many bytes on a private block is refused: what the guest's memory is made of. A block
 * of VRAM may be larger than a small DIMM, so backends are asked for by name where there are any.
 */
static int main_memory(struct monitor *monitor, uint64_t end_us, uint64_t *ret, struct why *why)
{
    json_t *value = NULL;
    json_int_t base = 0;
    int r = monitor_run(monitor, "query-memory-size-summary", NULL, end_us, &value, why);

    if (r < 0)
        return r;
    if (json_unpack(value, "{s:I}", "base-memory", &base) < 0 || base <= 0)
        r = why_set(why, -EPROTO, "QEMU does not tell how much memory its machine has");
    else
        *ret = (uint64_t)base;
    json_decref(value);
    return r;
}

/* Backends, the memory of DIMMs among them, are children of /objects; "share" tells. */
static int check_backends(const struct ram *ram, struct monitor *monitor, uint64_t end_us,
                          struct why *why)
{
    for (unsigned i = 0; i < ram->n; i++) {
        const struct ram_block *b = &ram->blocks[i];
        const char *id = strncmp(b->name, "/objects/", 9) ? b->name : b->name + 9;
        json_t *value = NULL;
        struct why none;
        if (b->shared || strchr(id, '/'))
            continue;
        char path[RAM_NAME_BYTES + 16];
        snprintf(path, sizeof(path), "/objects/%s", id);
        int r = monitor_run(monitor, "qom-get",
                            json_pack("{s:s, s:s}", "path", path, "property", "share"), end_us,
                            &value, &none);
        json_decref(value);
        if (r == 0)
            return why_set(
                why, -EOPNOTSUPP,
                "the memory backend %s is private to QEMU, which Varve cannot share; " MEND, id);
        if (r != -EPROTO)
            return why_set(why, r, "%s", none.text);
    }
    return 0;
}

static int find_blocks(struct ram *ram, struct monitor *monitor, uint64_t end_us, struct why *why)
{
    _cleanup_free_ struct mapping *maps = NULL;
    uint64_t main_bytes = 0;
    unsigned n_maps = 0;
    int r = main_memory(monitor, end_us, &main_bytes, why);

    if (r < 0)
        return r;
    r = mappings_read(ram->pid, &maps, &n_maps);
    if (r == -ESRCH)
        return ended(why);
    if (r < 0)
        return refuse_access(ram->pid, r, why);
    r = ram_find(ram->blocks, ram->n, maps, n_maps, ram->mem_fd, monitor, end_us, why);
    for (unsigned i = 0; i < ram->n && r == 0; i++)
        r = open_block(ram, &ram->blocks[i], maps, n_maps, main_bytes, why);
    return r < 0 ? r : check_backends(ram, monitor, end_us, why);
}

int ram_open(struct monitor *monitor, uint64_t end_us, struct ram **ret, struct why *why)
{
    struct ram *ram = calloc(1, sizeof(*ram));
    char path[64];

    if (!ram)
        return why_set(why, -ENOMEM, "no memory");
    *ram = (struct ram){.pid = monitor_pid(monitor), .pidfd = monitor_pidfd(monitor), .mem_fd = -1};
    int r = ram_check_vfio(ram->pid, why);
    ram->blocks = calloc(RAM_BLOCKS_MAX, sizeof(*ram->blocks));
    if (r == 0 && !ram->blocks)
        r = why_set(why, -ENOMEM, "no memory");
    if (r == 0) {
        snprintf(path, sizeof(path), "/proc/%d/mem", (int)ram->pid);
        ram->mem_fd = open(path, O_RDWR | O_CLOEXEC);
        r = ram->mem_fd < 0 ? refuse_access(ram->pid, -errno, why) : 0;
    }
    if (r == 0) {
        r = list_blocks(monitor, end_us, ram->blocks, why);
        ram->n = r > 0 ? (unsigned)r : 0;
    }
    if (r > 0)
        r = find_blocks(ram, monitor, end_us, why);
    if (has_ended(ram->pidfd)) /* else what /proc/PID told may be another's */
        r = ended(why);
    if (r < 0)
        ram_close(ram);
    else
        *ret = ram;
    return r;
}

bool ram_is_shared(const struct ram *ram, const char *block)
{
    for (unsigned i = 0; ram && i < ram->n; i++)
        if (!strcmp(ram->blocks[i].name, block))
            return ram->blocks[i].shared;
    return false;
}

void ram_close(struct ram *ram)
{
    if (!ram)
        return;
    for (unsigned i = 0; i < ram->n; i++) {
        if (ram->blocks[i].memory)
            munmap(ram->blocks[i].memory, ram->blocks[i].used_bytes);
        if (ram->blocks[i].fd >= 0)
            close(ram->blocks[i].fd);
    }
    if (ram->mem_fd >= 0)
        close(ram->mem_fd);
    free(ram->blocks);
    free(ram);
}

int ram_compare(const struct ram *ram, struct monitor *monitor, uint64_t end_us, struct why *why)
{
    _cleanup_free_ struct ram_block *now = calloc(RAM_BLOCKS_MAX, sizeof(*now));

    if (!now)
        return why_set(why, -ENOMEM, "no memory");
    int n = list_blocks(monitor, end_us, now, why);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++) {
        const struct ram_block *was = NULL;
        for (unsigned j = 0; j < ram->n && !was; j++)
            was = strcmp(ram->blocks[j].name, now[i].name) ? NULL : &ram->blocks[j];
        if (!was)
            return why_set(why, -ESTALE, "the memory block %s was added to the machine",
                           now[i].name);
        if (was->used_bytes != now[i].used_bytes || (now[i].host && now[i].host != was->host))
            return why_set(why, -ESTALE, "the memory block %s has changed its size or place",
                           now[i].name);
    }
    return (unsigned)n == ram->n
               ? 0
               : why_set(why, -ESTALE, "a memory block was taken from the machine");
}

int ram_read(const struct ram *ram, unsigned block, uint64_t offset, void *buf, size_t len)
{
    const struct ram_block *b = &ram->blocks[block];
    char *at = buf;

    if (offset > b->used_bytes || len > b->used_bytes - offset)
        return -EINVAL;
    uint64_t from = b->shared ? b->file_offset + offset : b->host + offset;
    while (len) {
        ssize_t n = pread(b->shared ? b->fd : ram->mem_fd, at, len, (off_t)from);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return has_ended(ram->pidfd) ? -ESRCH : -EIO;
        at += n;
        from += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int ram_check_vfio(pid_t pid, struct why *why)
{
    char path[64], target[128];
    const struct dirent *entry;
    int r = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? ended(why) : refuse_access(pid, -errno, why);
    while (r == 0 && (entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        if (n <= 0)
            continue;
        target[n] = '\0';
        if (!strncmp(target, "/dev/vfio/", 10) || strstr(target, "[vfio-device]"))
            r = why_set(why, -EOPNOTSUPP,
                        "a device of the host is passed to this machine (VFIO), whose writes to "
                        "memory nobody sees; use a virtio device in its place");
    }
    closedir(dir);
    return r;
}
