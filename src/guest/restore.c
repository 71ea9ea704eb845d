/* restore.c - a QEMU that goes on from a version.
 *
 * RAM is a file on /dev/shm of its own name until QEMU has it open; then the name goes, so that
 * nothing stays when the machine ends. It is filled while QEMU starts. */
#include "guest/restore.h"

#include "base/cleanup.h"
#include "base/mono.h"
#include "base/size.h"
#include "base/stop-point.h"
#include "guest/migration-stream.h"
#include "guest/qemu-process.h"
#include "guest/ram.h"
#include "guest/tpm.h"
#include "guest/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define FD_NAME "varve-restore"
#define POLL_US 300
#define END_MS  10000 /* for a process that was killed */

/* ---- memory --------------------------------------------------------------------------------- */

static int check_room(const struct restore_args *a, struct why *why)
{
    char wanted[SIZE_TEXT_CHARS], there[SIZE_TEXT_CHARS], dir[RESTORE_PATH_MAX];
    uint64_t bytes = 0;
    struct statvfs fs;

    if (!a->n_memory)
        return why_set(why, -EOPNOTSUPP,
                       "the machine has no memory backend of its own; it was not started with "
                       "-object memory-backend-file");
    for (unsigned i = 0; i < a->n_memory; i++)
        bytes += a->memory[i].bytes;
    strcpy(dir, a->memory[0].path);
    char *slash = strrchr(dir, '/');
    if (slash && slash > dir)
        *slash = '\0';
    if (statvfs(dir, &fs) < 0)
        return why_set(why, -errno, "%s cannot be used for RAM: %s", dir, strerror(errno));
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes < bytes)
        return why_set(why, -ENOMEM,
                       "the machine's memory of %s does not fit into %s (%s free); end another "
                       "machine, or make %s larger",
                       size_format(bytes, wanted), dir, size_format(free_bytes, there), dir);
    return 0;
}

static int make_memory(struct restored *m, struct why *why)
{
    for (unsigned i = 0; i < m->args.n_memory; i++) {
        const struct restore_memory *memory = &m->args.memory[i];
        m->memory_fds[i] = open(memory->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (m->memory_fds[i] < 0)
            return why_set(why, -errno, "cannot make %s for RAM: %s", memory->path,
                           strerror(errno));
        if (ftruncate(m->memory_fds[i], (off_t)memory->bytes) < 0)
            return why_set(why, -errno, "cannot make %s that large: %s", memory->path,
                           strerror(errno));
    }
    return 0;
}

static void unlink_memory(const struct restored *m)
{
    for (unsigned i = 0; i < m->args.n_memory; i++)
        if (m->memory_fds[i] >= 0)
            unlink(m->args.memory[i].path);
}

static int fill_memory(struct restored *m, const struct restore_memory_source *source,
                       struct why *why)
{
    int r = 0;

    for (unsigned i = 0; i < m->args.n_memory && r == 0; i++)
        r = source->fill(source->arg, m->args.memory[i].id, m->memory_fds[i],
                         m->args.memory[i].bytes, why);
    return r;
}

/* Where QEMU maps our files. */
static int find_areas(struct restored *m, struct why *why)
{
    char path[64], line[512];
    unsigned n_found = 0;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)m->pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return why_set(why, -errno, "cannot look at QEMU's memory: %s", strerror(errno));
    while (fgets(line, sizeof(line), file)) {
        uint64_t start, end, offset, inode;
        unsigned major_number, minor_number;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %x:%x %" SCNu64, &start, &end,
                   &offset, &major_number, &minor_number, &inode) != 6)
            continue;
        for (unsigned i = 0; i < m->args.n_memory; i++) {
            struct stat st;
            if (fstat(m->memory_fds[i], &st) < 0 || st.st_ino != inode ||
                st.st_dev != makedev(major_number, minor_number) || offset != 0 ||
                end - start != m->args.memory[i].bytes || m->areas[i].pages)
                continue;
            m->areas[i] = (struct pager_area){.address = start,
                                              .pages = (end - start) / PAGER_PAGE_BYTES,
                                              .file_fd = m->memory_fds[i]};
            n_found++;
        }
    }
    fclose(file);
    if (n_found != m->args.n_memory)
        return why_set(why, -EIO, "QEMU does not map its RAM as it was told to");
    return 0;
}

/* ---- the stream ----------------------------------------------------------------------------- */

static int read_head(const struct restore_state *state, struct migration_stream *ret,
                     struct why *why)
{
    int r = migration_read(ret, state->head, state->head_bytes, false, why);

    if (r == -EAGAIN && ret->ram_complete)
        return 0;
    if (r == -EBADMSG || r == -ENOMEM)
        return r;
    return why_set(why, -EBADMSG, "the version's description of its machine is damaged");
}

/* A head of a QEMU that leaves out no memfd has pages of what is shared, as they were then. */
static bool comes_otherwise(const struct restore_state *state, const char *block)
{
    uint8_t page[MIGRATION_PAGE_BYTES];

    return state->fetch_private &&
           state->fetch_private(state->arg, block, 0, page) == RESTORE_SHARED;
}

/* Pages of the head, unless the version has them as they were then. */
static int write_private(const struct restore_state *state, const struct migration_stream *head,
                         struct migration_buffer *out, struct why *why)
{
    uint8_t page[MIGRATION_PAGE_BYTES];

    bool otherwise[MIGRATION_BLOCKS_MAX];

    for (unsigned b = 0; b < head->n_blocks; b++)
        otherwise[b] = comes_otherwise(state, head->blocks[b].name);
    for (size_t i = 0; i < head->n_pages; i++) {
        const struct migration_page *p = &head->pages[i];
        const char *block = head->blocks[p->block].name;
        if (p->at && !otherwise[p->block])
            migration_write_page(out, block, p->offset_bytes, state->head + p->at);
    }
    for (unsigned b = 0; state->fetch_private && b < head->n_blocks; b++)
        for (uint64_t at = 0; at < head->blocks[b].bytes; at += MIGRATION_PAGE_BYTES) {
            int r = state->fetch_private(state->arg, head->blocks[b].name, at, page);
            if (r < 0)
                return why_set(why, r, "cannot read the memory \"%s\" of the version: %s",
                               head->blocks[b].name, strerror(-r));
            if (r == 0 || r == RESTORE_SHARED)
                break; /* not a block that the version has so */
            migration_write_page(out, head->blocks[b].name, at, page);
        }
    return 0;
}

/* The whole stream in a file without a name: QEMU reads it as it likes. */
static int make_stream(const struct restore_state *state, int *ret_fd, struct why *why)
{
    struct migration_stream head = {};
    struct migration_buffer b = {};

    int r = read_head(state, &head, why);
    if (r == 0) {
        migration_write_begin(&b, head.machine, head.blocks, head.n_blocks);
        r = write_private(state, &head, &b, why);
        migration_write_devices(&b, state->devices, state->devices_bytes);
    }
    migration_free(&head);
    int fd = r == 0 ? memfd_create("varve-restore", MFD_CLOEXEC) : -1;
    if (r == 0 && b.failed)
        r = why_set(why, -ENOMEM, "no memory for the state of the devices");
    else if (r == 0 && (fd < 0 || pwrite(fd, b.data, b.len, 0) != (ssize_t)b.len))
        r = why_set(why, -EIO, "cannot keep the state of the devices: %s", strerror(errno));
    migration_buffer_free(&b);
    if (r < 0 && fd >= 0)
        close(fd);
    else if (r == 0)
        *ret_fd = fd;
    return r;
}

/* ---- start ---------------------------------------------------------------------------------- */

/* monitor: NULL is legal where the userfaultfd is there already. */
static int start_pager(struct restored *m, int pidfd, const struct restore_memory_source *source,
                       uint64_t end_us, struct why *why)
{
    struct why inner;
    int r = uffd_open(m->pid, pidfd, m->monitor, end_us, &m->uffd, NULL, &inner);

    if (r == -EOPNOTSUPP)
        why_set(why, r, "%.900s; or have all RAM brought first, with --eager", inner.text);
    else if (r < 0)
        *why = inner;
    return r < 0 ? r
                 : pager_start(m->uffd, m->areas, m->args.n_memory, &source->pages, source->first,
                               source->n_first, &m->pager, why);
}

/* What QEMU has put there by itself (it may have had to take all its memory at once) is not what
 * the version has, and would count as there. */
static int empty_memory(const struct restored *m, struct why *why)
{
    for (unsigned i = 0; i < m->args.n_memory; i++)
        if (fallocate(m->memory_fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      (off_t)m->args.memory[i].bytes) < 0)
            return why_set(why, -errno, "cannot empty the machine's RAM: %s", strerror(errno));
    return 0;
}

static int make_dir(const char *dir, struct why *why)
{
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return why_set(why, -errno, "cannot make the directory %s: %s", dir, strerror(errno));
    return 0;
}

/* The virtio-mem device of a QEMU before 8.1 empties its file when it comes up. */
static bool empties_memory(char *const *argv)
{
    for (; *argv; argv++)
        if (strstr(*argv, "virtio-mem"))
            return true;
    return false;
}

/* QEMU comes up and meanwhile RAM is filled, if it leaves it alone. */
static int start_qemu(struct restored *m, const char *cwd,
                      const struct restore_memory_source *source, struct why *why)
{
    struct qemu_start start;
    struct why ignored = {};

    int r = qemu_start(m->args.argv, cwd, &start, why);
    if (r < 0)
        return r;
    start.cancel = source->cancel;
    bool fills_later = !source->lazy && empties_memory(m->args.argv);
    uint64_t begin_us = mono_us();
    if (source->lazy && source->state)
        r = make_stream(source->state, &m->stream_fd, why);
    else if (!source->lazy && !fills_later)
        r = fill_memory(m, source, why);
    stop_point("restore-starting");
    m->fill_us = mono_us() - begin_us;
    int started = qemu_wait(&start, r == 0 ? why : &ignored);
    if (started == 0)
        m->pid = qemu_pid(m->args.pid_file);
    if (started == 0 && m->pid <= 0)
        started = why_set(why, -EIO, "QEMU ended right after its start");
    if (r == 0 && started == 0 && fills_later) {
        begin_us = mono_us();
        r = fill_memory(m, source, why);
        m->fill_us = mono_us() - begin_us;
    }
    return r < 0 ? r : started;
}

int restore_start(char *const *argv, const char *cwd, const struct restore_changes *changes,
                  const struct restore_memory_source *source, uint64_t end_us, struct restored *ret,
                  struct why *why)
{
    struct restored m = {.uffd = -1, .stream_fd = -1};

    uint64_t begin_us = mono_us();
    for (unsigned i = 0; i < RESTORE_MEMORY_MAX; i++)
        m.memory_fds[i] = -1;
    int r = restore_args_make(argv, changes, &m.args, why);
    if (r < 0)
        return r;
    r = check_room(&m.args, why);
    if (r == 0)
        r = make_dir(changes->dir, why);
    if (r == 0)
        r = make_memory(&m, why);
    stop_point("restore-room");
    if (r == 0 && *m.args.tpm)
        r = tpm_start(changes->dir, m.args.tpm, source->cancel, why);
    if (r == 0)
        r = start_qemu(&m, cwd, source, why);
    unlink_memory(&m);
    if (r == 0)
        r = monitor_open(m.args.qmp, end_us, &m.monitor, why);
    if (r == 0 && monitor_pid(m.monitor) != m.pid)
        r = why_set(why, -EIO, "another process answers at %s", m.args.qmp);
    if (r == 0)
        r = find_areas(&m, why);
    if (r == 0 && source->lazy)
        r = empty_memory(&m, why);
    if (r == 0 && source->lazy)
        r = start_pager(&m, monitor_pidfd(m.monitor), source, end_us, why);
    m.start_us = mono_us() - begin_us;
    if (r < 0 && *m.args.tpm)
        tpm_end(changes->dir);
    if (r < 0)
        restore_abandon(&m);
    else
        *ret = m;
    return r;
}

/* ---- adopt ---------------------------------------------------------------------------------- */

/* Open a file that QEMU maps and whose name is gone. */
static int open_mapped(pid_t pid, const struct restore_memory *memory, int *ret, struct why *why)
{
    char path[64], line[512], range[64], wanted[RESTORE_PATH_MAX + 16];
    int fd = -1, error = 0;

    snprintf(wanted, sizeof(wanted), "%s (deleted)\n", memory->path);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return why_set(why, -ESRCH, "cannot look at the memory of process %d: %s", (int)pid,
                       strerror(errno));
    while (fd < 0 && fgets(line, sizeof(line), file)) {
        const char *at = strchr(line, '/');
        if (!at || strcmp(at, wanted) != 0 || sscanf(line, "%63s", range) != 1)
            continue;
        snprintf(line, sizeof(line), "/proc/%d/map_files/%s", (int)pid, range);
        fd = open(line, O_RDWR | O_CLOEXEC);
        error = fd < 0 ? errno : 0;
        if (fd < 0)
            break;
    }
    fclose(file);
    if (error)
        return why_set(why, -error,
                       "cannot open the RAM of process %d, %s: %s; run varved as root, or with "
                       "CAP_CHECKPOINT_RESTORE",
                       (int)pid, memory->path, strerror(error));
    if (fd < 0)
        return why_set(why, -ENOENT, "process %d has no RAM that was %s", (int)pid, memory->path);
    *ret = fd;
    return 0;
}

int restore_adopt(pid_t pid, int pidfd, const struct restore_memory *memory, unsigned n,
                  const struct restore_memory_source *source, uint64_t end_us, struct restored *ret,
                  struct why *why)
{
    struct restored m = {.pid = pid, .uffd = -1, .stream_fd = -1};
    int r = 0;

    for (unsigned i = 0; i < RESTORE_MEMORY_MAX; i++)
        m.memory_fds[i] = -1;
    if (n > RESTORE_MEMORY_MAX)
        return why_set(why, -EOPNOTSUPP, "the machine has too many memory backends");
    m.args.n_memory = n;
    for (unsigned i = 0; i < n && r == 0; i++) {
        m.args.memory[i] = memory[i];
        r = open_mapped(pid, &memory[i], &m.memory_fds[i], why);
    }
    if (r == 0)
        r = find_areas(&m, why);
    if (r == 0)
        r = start_pager(&m, pidfd, source, end_us, why);
    if (r < 0)
        restore_release(&m); /* it goes on waiting */
    else
        *ret = m;
    return r;
}

/* ---- end ------------------------------------------------------------------------------------ */

void restore_release(struct restored *m)
{
    pager_stop(m->pager);
    monitor_close(m->monitor);
    if (m->uffd >= 0)
        close(m->uffd);
    if (m->stream_fd >= 0)
        close(m->stream_fd);
    for (unsigned i = 0; i < RESTORE_MEMORY_MAX; i++)
        if (m->memory_fds[i] >= 0)
            close(m->memory_fds[i]);
    restore_args_free(&m->args);
    *m = (struct restored){.uffd = -1, .stream_fd = -1};
    for (unsigned i = 0; i < RESTORE_MEMORY_MAX; i++)
        m->memory_fds[i] = -1;
}

void restore_abandon(struct restored *m)
{
    if (m->pid > 0) {
        int pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
        if (pidfd >= 0) {
            struct pollfd ended = {.fd = pidfd, .events = POLLIN};
            if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0)
                (void)poll(&ended, 1, END_MS); /* its disks are in use until then */
            close(pidfd);
        }
    }
    restore_release(m);
}

/* ---- load: is it the right machine? --------------------------------------------------------- */

int restore_check_waits(struct monitor *m, uint64_t end_us, struct why *why)
{
    char status[32];

    int r = monitor_status(m, status, end_us, why);
    if (r == 0 && strcmp(status, "inmigrate") != 0)
        r = why_set(why, -EBUSY,
                    "this QEMU does not wait for a state (it is \"%s\"); start it with -incoming "
                    "defer -S",
                    status);
    return r;
}

static int check_machine(struct monitor *m, const char *wanted, uint64_t end_us, struct why *why)
{
    json_t *type = NULL;
    char name[MIGRATION_NAME_CHARS] = "";

    int r =
        monitor_run(m, "qom-get", json_pack("{s:s, s:s}", "path", "/machine", "property", "type"),
                    end_us, &type, why);
    if (r < 0)
        return r;
    if (json_is_string(type))
        snprintf(name, sizeof(name), "%s", json_string_value(type));
    json_decref(type);
    char *end = strstr(name, "-machine");
    if (end)
        *end = '\0';
    if (strcmp(name, wanted) != 0)
        return why_set(why, -EINVAL,
                       "the version is of a machine of type %s, and this QEMU has one of type %s; "
                       "start it with -machine %s",
                       wanted, name, wanted);
    return 0;
}

static int check_block(const struct migration_block *wanted, const struct ram_block *blocks, int n,
                       struct why *why)
{
    char a[SIZE_TEXT_CHARS], b[SIZE_TEXT_CHARS];

    for (int i = 0; i < n; i++) {
        if (strcmp(blocks[i].name, wanted->name) != 0)
            continue;
        /* What may grow is made to fit by QEMU. */
        if (wanted->bytes == blocks[i].used_bytes ||
            (blocks[i].used_bytes != blocks[i].total_bytes &&
             wanted->bytes <= blocks[i].total_bytes))
            return 0;
        return why_set(
            why, -EINVAL,
            "the machine of the version has %s of RAM in \"%s\", and this QEMU %s; start "
            "it with the same -m and memory devices",
            size_format(wanted->bytes, a), wanted->name, size_format(blocks[i].used_bytes, b));
    }
    return why_set(
        why, -EINVAL,
        "the machine of the version has RAM \"%s\", and this QEMU has none of that name; "
        "start it with the same devices and the same ids",
        wanted->name);
}

static int check_blocks(struct monitor *m, const struct migration_stream *head, uint64_t end_us,
                        struct why *why)
{
    _cleanup_free_ struct ram_block *blocks = calloc(RAM_BLOCKS_MAX, sizeof(*blocks));
    _cleanup_free_ char *text = NULL;

    if (!blocks)
        return why_set(why, -ENOMEM, "no memory");
    int r = monitor_run_hmp(m, "info ramblock", end_us, &text, why);
    int n = r < 0 ? r : ram_parse(text, blocks, why);
    if (n < 0)
        return n;
    for (unsigned i = 0; i < head->n_blocks; i++) {
        r = check_block(&head->blocks[i], blocks, n, why);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- load: the stream goes in --------------------------------------------------------------- */

static int wait_for_load(struct monitor *m, uint64_t end_us, struct why *why)
{
    json_t *info;
    int r = -EAGAIN;

    while (r == -EAGAIN) {
        r = monitor_run(m, "query-migrate", NULL, end_us, &info, why);
        if (r == -EPIPE)
            return why_set(why, -EPROTO,
                           "QEMU ended while it took the state: it has other devices than the "
                           "machine of the version; its log says which");
        if (r < 0)
            return r;
        const char *status = json_string_value(json_object_get(info, "status")),
                   *text = json_string_value(json_object_get(info, "error-desc"));
        if (status && !strcmp(status, "completed"))
            r = 0;
        else if (status && !strcmp(status, "failed"))
            r = why_set(why, -EPROTO, "QEMU does not take the state of the devices: %.500s",
                        text ? text : "it has other devices than the machine of the version");
        else if (mono_us() > end_us)
            r = why_set(why, -ETIMEDOUT, "QEMU does not take the state of the devices in time");
        else
            r = -EAGAIN;
        json_decref(info);
        if (r == -EAGAIN)
            usleep(POLL_US);
    }
    return r;
}

static int load(struct monitor *m, int stream_fd, uint64_t end_us, struct why *why)
{
    int r = monitor_pass_fd(m, stream_fd, FD_NAME, end_us, why);

    if (r == 0)
        r = monitor_run(m, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" FD_NAME), end_us,
                        NULL, why);
    return r < 0 ? r : wait_for_load(m, end_us, why);
}

int restore_load(struct monitor *m, const struct restore_state *state, int stream_fd,
                 uint64_t end_us, uint64_t *ret_us, struct why *why)
{
    struct migration_stream head = {};
    int own_fd = -1;

    uint64_t begin_us = mono_us();
    int r = read_head(state, &head, why);
    if (r == 0)
        r = restore_check_waits(m, end_us, why);
    if (r == 0)
        r = check_machine(m, head.machine, end_us, why);
    if (r == 0)
        r = check_blocks(m, &head, end_us, why);
    migration_free(&head);
    if (r == 0 && stream_fd < 0)
        r = make_stream(state, &own_fd, why);
    if (r == 0)
        r = load(m, stream_fd < 0 ? own_fd : stream_fd, end_us, why);
    if (own_fd >= 0)
        close(own_fd);
    if (r == 0 && ret_us)
        *ret_us = mono_us() - begin_us;
    return r;
}

int restore_run(struct monitor *m, uint64_t end_us, struct why *why)
{
    return monitor_run(m, "cont", NULL, end_us, NULL, why);
}
