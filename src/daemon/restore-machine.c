/* restore-machine.c - one machine on its way from a version to running. */
#include "daemon/restore-machine.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "base/report.h"
#include "base/stop-point.h"
#include "daemon/api-change.h"
#include "daemon/engine.h"
#include "daemon/kept.h"
#include "guest/launch.h"
#include "guest/tpm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LIMIT_US      60000000
#define STATE         "restore.json"
#define PATH_ROOM     (RESTORE_DIR_MAX + 64)
#define KEPT          "before-restore-"
#define MEMORY_PREFIX "/dev/shm/varve-restore-"
#define CMDLINE_MAX   65536
#define END_MS        10000
#define WARN_US       10000000 /* between two warnings of a machine, at least */
#define LEAVE_US      10000000 /* for clients: what they have in flight is finished first */
#define LEAVE_SOON_US 1000000  /* where a daemon that starts waits for that */

void restore_machine_init(struct restore_machine *m, struct restore_request *request,
                          const char *name)
{
    *m = (struct restore_machine){
        .request = request, .pidfd = -1, .restored.uffd = -1, .restored.stream_fd = -1};
    snprintf(m->name, sizeof(m->name), "%s", name);
    for (unsigned i = 0; i < RESTORE_MEMORY_MAX; i++)
        m->restored.memory_fds[i] = m->area_blocks[i] = -1;
}

/* ---- the file ------------------------------------------------------------------------------- */

static void state_path(const struct restore_machine *m, char out[PATH_ROOM])
{
    snprintf(out, PATH_ROOM, "%s/" STATE, m->dir);
}

static void forget(const struct restore_machine *m)
{
    char path[PATH_ROOM];

    state_path(m, path);
    (void)unlink(path);
}

#define GUID_TEXT_CHARS (2 * GUID_BYTES + 1)

static const char *guid_text(const uint8_t guid[GUID_BYTES], char out[GUID_TEXT_CHARS])
{
    for (unsigned i = 0; i < GUID_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", guid[i]);
    return out;
}

static json_t *describe(const struct restore_machine *m, const struct restore_args *args,
                        const char *phase)
{
    json_t *memory = json_array();
    char guid[GUID_TEXT_CHARS];

    for (unsigned i = 0; i < args->n_memory; i++)
        json_array_append_new(memory, json_pack("{s:s, s:s, s:I}", "id", args->memory[i].id, "path",
                                                args->memory[i].path, "bytes",
                                                (json_int_t)args->memory[i].bytes));
    json_t *text = json_pack("{s:i, s:s, s:i, s:s, s:b, s:b, s:o}", "format", 1, "phase", phase,
                             "pid", (int)m->pid, "guid", guid_text(m->request->source->guid, guid),
                             "lazy", !m->request->eager && m->state != RESTORE_RESIDENT, "paused",
                             m->paused, "memory", memory);
    if (text && !m->request->clone)
        json_object_set_new(text, "kept", json_string(guid_text(m->kept_guid, guid)));
    return text;
}

/* Whole or not at all. */
static int remember(const struct restore_machine *m, const struct restore_args *args,
                    const char *phase, struct why *why)
{
    char path[PATH_ROOM], partial[PATH_ROOM + 8];
    json_t *text = describe(m, args, phase);

    state_path(m, path);
    snprintf(partial, sizeof(partial), "%s.new", path);
    int r = text && json_dump_file(text, partial, JSON_COMPACT) == 0 ? 0 : -EIO;
    if (r == 0 && rename(partial, path) < 0)
        r = -errno;
    json_decref(text);
    return r < 0 ? why_set(why, r, "cannot write %s: %s", path, err_text(r)) : 0;
}

/* ---- directory and name --------------------------------------------------------------------- */

static int name_dir(struct restore_machine *m, const char *run_path, struct why *why)
{
    if (snprintf(m->dir, sizeof(m->dir), "%s/vm/%s", run_path, m->name) >= (int)sizeof(m->dir))
        return why_set(why, -ENAMETOOLONG, "the path %s/vm/%s is too long", run_path, m->name);
    return 0;
}

static int make_dirs(struct restore_machine *m, const char *run_path, struct why *why)
{
    char parent[RESTORE_DIR_MAX];

    snprintf(parent, sizeof(parent), "%s/vm", run_path);
    if ((mkdir(parent, 0700) < 0 && errno != EEXIST) ||
        (mkdir(m->dir, 0700) < 0 && errno != EEXIST))
        return why_set(why, -errno, "cannot make the directory %s: %s", m->dir, strerror(errno));
    return 0;
}

static int check_name(struct restore_machine *m, struct why *why)
{
    struct launched running;

    int r = launch_find(m->request->api->run_path, m->name, &running, why);
    if (r == 0)
        return why_set(why, -EEXIST,
                       "a machine %s runs already, as process %d; stop it first (varve stop "
                       "--force %s), or restore under another name with --as",
                       m->name, (int)running.pid, m->name);
    return r == -ENOENT ? 0 : r;
}

/* ---- disks ---------------------------------------------------------------------------------- */

static int no_disks(const struct restore_machine *m, int r, struct why *why)
{
    const struct restore_source *s = m->request->source;

    switch (r) {
    case -EEXIST:
        return why_set(why, r, "there is a vm \"%s\" already; choose another name with --as",
                       m->name);
    case -EBUSY:
        return why_set(why, r,
                       "a disk of %s is in use, and would go back to what it was in %s; stop its "
                       "machine first, or restore beside it with --as NEW",
                       m->name, s->version);
    case ERR_ASKED_FOR:
        return api_asked_why(m->request->api, m->name, why);
    default:
        return why_set(why, r, "cannot bring the disks of %s to what they were in %s@%s: %s",
                       m->name, s->vm, s->version, err_text(r));
    }
}

static int make_disks(struct restore_machine *m, struct why *why)
{
    struct restore_request *q = m->request;
    struct store_change c = {.kind = q->clone ? CHANGE_CLONE : CHANGE_ROLLBACK,
                             .provisional = q->clone};
    char stem[sizeof(KEPT) + API_STAMP_CHARS] = KEPT;
    int r;

    strcpy(c.vm, q->source->vm);
    strcpy(c.version, q->source->version);
    if (q->clone) {
        strcpy(c.new_name, m->name);
        r = api_try_held(q->api, &c, NULL, NULL, &m->hold);
    } else {
        api_stamp(stem + strlen(stem));
        memcpy(c.guid, m->kept_guid, GUID_BYTES);
        r = api_try_held(q->api, &c, c.new_name, stem, &m->hold);
        if (r == 0)
            strcpy(m->kept, c.new_name);
    }
    m->has_disks = r == 0;
    return r < 0 ? no_disks(m, r, why) : 0;
}

/* What a client that was killed had in flight uses its disk for longer than api_try() waits. */
static int try_long(struct api *api, const struct store_change *what, uint64_t end_us)
{
    int r;

    while ((r = api_try(api, what)) == -EBUSY && mono_us() < end_us)
        ;
    return r;
}

/* The disks of vm are again what they were in the version that keeps them, which goes. */
static int put_back(struct api *api, const char *vm, const char *kept, uint64_t wait_us,
                    struct why *why)
{
    uint64_t end_us = mono_us() + wait_us;
    struct store_change back = {.kind = CHANGE_ROLLBACK};
    struct store_change remove = {
        .kind = CHANGE_VERSION_REMOVE, .versions = &kept, .n_versions = 1};

    strcpy(back.vm, vm);
    strcpy(back.version, kept);
    strcpy(remove.vm, vm);
    int r = try_long(api, &back, end_us);
    if (r < 0)
        return why_set(why, r,
                       "the disks of %s are not what they were before (%s); get that back with: "
                       "varve rollback %s@%s",
                       vm, err_text(r), vm, kept);
    stop_point("restore-put-back");
    r = try_long(api, &remove, end_us);
    return r < 0 ? why_set(why, r,
                           "%s@%s, which kept the disks, is left (%s); remove it with: varve rm "
                           "%s@%s",
                           vm, kept, err_text(r), vm, kept)
                 : 0;
}

static int remove_clone(struct api *api, const char *vm, struct why *why)
{
    struct store_change c = {.kind = CHANGE_VM_REMOVE};

    strcpy(c.vm, vm);
    int r = try_long(api, &c, mono_us() + LEAVE_US);
    return r < 0 ? why_set(why, r, "the vm %s is left (%s); remove it with: varve rm %s", vm,
                           err_text(r), vm)
                 : 0;
}

/* Behind what went wrong first, which is cut if there is no room for both. */
static void add_left(struct why *why, const struct why *left)
{
    size_t len = strlen(why->text), most = sizeof(why->text) - sizeof("; ") - strlen(left->text);

    if (len > most)
        len = most;
    snprintf(why->text + len, sizeof(why->text) - len, "; %s", left->text);
}

/* As if nothing had been. */
static void undo_disks(struct restore_machine *m, struct why *why)
{
    struct restore_request *q = m->request;
    struct why left;

    if (!m->has_disks)
        return;
    m->has_disks = false;
    api_let_go(q->api, &m->hold);
    int r = q->clone ? remove_clone(q->api, m->name, &left)
                     : put_back(q->api, m->name, m->kept, LEAVE_US, &left);
    if (r < 0)
        add_left(why, &left);
}

static int commit_disks(struct restore_machine *m, struct why *why)
{
    struct store_change c = {.kind = CHANGE_VM_COMMIT};

    if (!m->request->clone)
        return 0;
    strcpy(c.vm, m->name);
    int r = api_try(m->request->api, &c);
    m->committed = r == 0;
    return r < 0 ? why_set(why, r, "cannot make the vm %s: %s", m->name, err_text(r)) : 0;
}

/* ---- QEMU ----------------------------------------------------------------------------------- */

static int map_areas(struct restore_machine *m, const struct restore_args *args, struct why *why)
{
    const struct restore_source *s = m->request->source;
    bool any = false;

    for (unsigned i = 0; i < args->n_memory; i++) {
        int block = restore_source_block(s, args->memory[i].id);
        m->area_blocks[i] = block;
        if (block < 0)
            continue;
        any = true;
        if (s->blocks[block].pages * MEMORY_PAGE_BYTES != args->memory[i].bytes)
            return why_set(why, -EINVAL,
                           "the memory \"%s\" of %s@%s has another size than its machine's",
                           args->memory[i].id, s->vm, s->version);
    }
    return any ? 0
               : why_set(why, -EINVAL, "%s@%s has no RAM that its machine could use", s->vm,
                         s->version);
}

/* One area: fetch() of the pager, by several threads. */
static int fetch(void *arg, unsigned area, uint64_t page, unsigned n, void *out)
{
    struct restore_machine *m = arg;

    if (m->area_blocks[area] < 0) {
        memset(out, 0, (size_t)n * PAGER_PAGE_BYTES);
        return 0;
    }
    return restore_source_read(m->request->source, (unsigned)m->area_blocks[area], page, n, out);
}

static bool may_fill(void *arg)
{
    struct restore_machine *m = arg;

    return atomic_load(&m->request->all_run);
}

static int fill(void *arg, const char *id, int fd, uint64_t bytes, struct why *why)
{
    struct restore_machine *m = arg;
    struct restore_request *q = m->request;
    int block = restore_source_block(q->source, id);

    return block < 0 ? 0
                     : restore_source_fill(q->source, (unsigned)block, fd, 0, &q->filled_bytes,
                                           &q->cancel, why);
}

static int write_file(const char *path, const uint8_t *data, size_t bytes)
{
    _cleanup_close_ int fd =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return -errno;
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* The files that are not in the machine: as they were, in its directory. */
static int write_files(const struct restore_machine *m, char (*paths)[PATH_ROOM], struct why *why)
{
    const struct restore_source *s = m->request->source;

    for (unsigned i = 0; i < s->n_files; i++) {
        /* Not by the names that they had: two may have the same one, or that of a socket. */
        snprintf(paths[i], PATH_ROOM, "%s/file%u", m->dir, i);
        int r = write_file(paths[i], s->files[i].data, s->files[i].bytes);
        if (r < 0)
            return why_set(why, -EIO, "cannot write %s: %s", paths[i], err_text(r));
    }
    return 0;
}

/* Everything that restore_start() is to change; paths: room for the files. */
static struct restore_changes make_changes(const struct restore_machine *m)
{
    const struct restore_source *s = m->request->source;

    return (struct restore_changes){
        .name = m->name,
        .dir = m->dir,
        .machine_type = *s->machine_type ? s->machine_type : NULL,
        .vm_from = s->disks_vm,
        .vm_to = m->name,
        .n_disks = (unsigned)json_object_size(json_object_get(s->machine, "disks")),
        .nbd_socket = m->request->api->nbd_path,
        .memory_file = m->memory_file,
        .new_macs = m->request->new_macs,
        .keep_ports = !m->request->clone,
    };
}

int restore_machine_prepare(struct restore_machine *m, struct why *why)
{
    const struct restore_source *s = m->request->source;
    struct restore_args args;
    uint64_t number;

    int r = name_dir(m, m->request->api->run_path, why);
    if (r == 0)
        r = check_name(m, why);
    if (r < 0)
        return r;
    if (getrandom(&number, sizeof(number), 0) != sizeof(number) ||
        getrandom(m->kept_guid, GUID_BYTES, 0) != GUID_BYTES)
        return why_set(why, -EIO, "no random numbers for a name");
    snprintf(m->memory_file, sizeof(m->memory_file), MEMORY_PREFIX "%016" PRIx64, number);
    struct restore_changes changes = make_changes(m);
    r = restore_args_make(s->argv, &changes, &args, why);
    if (r < 0)
        return r;
    r = map_areas(m, &args, why);
    if (r == 0)
        r = make_dirs(m, m->request->api->run_path, why);
    /* Before the disks: whoever finds a version of that guid knows whose it is. */
    if (r == 0)
        r = remember(m, &args, "starting", why);
    stop_point("restore-noted");
    uint64_t begin_us = mono_us();
    if (r == 0)
        r = make_disks(m, why);
    m->disks_us = mono_us() - begin_us;
    stop_point("restore-disks");
    restore_args_free(&args);
    return r;
}

/* Where varve run has a socket, another one of the machine's serves as well. */
static void name_socket(const struct restore_machine *m, const char *name, const char *target)
{
    char path[PATH_ROOM];

    snprintf(path, sizeof(path), "%s/%s", m->dir, name);
    if (access(path, F_OK) < 0 && access(target, F_OK) == 0 && symlink(target, path) < 0)
        report_warning("cannot make %s: %s", path, strerror(errno));
}

/* For varve stop, and for varve console: a domain of libvirt has its console by another name. */
static void name_sockets(const struct restore_machine *m)
{
    char serial[PATH_ROOM];

    snprintf(serial, sizeof(serial), "%s/charserial0.sock", m->dir);
    name_socket(m, "qmp.sock", m->restored.args.qmp);
    name_socket(m, "console.sock", serial);
}

/* Those of a machine that ran here before under this name must not look like this one's. */
static void remove_sockets(const struct restore_machine *m)
{
    static const char *const names[] = {"qmp.sock", "console.sock", "charserial0.sock"};
    char path[PATH_ROOM];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", m->dir, names[i]);
        (void)unlink(path);
    }
}

/* Which page could not be brought last, and why. Returns that error. */
static int say_error(const struct restore_machine *m, struct why *why)
{
    const struct pager_progress *p = &m->progress;

    return why_set(why, p->last_error,
                   "the memory of machine %s cannot be brought: page %" PRIu64 " of \"%s\": %s%s",
                   m->name, p->last_place.page, m->restored.args.memory[p->last_place.area].id,
                   err_text(p->last_error),
                   p->last_error == -ENOMEM ? "; make room in /dev/shm" : "");
}

/* After an error: where QEMU waits for a page that cannot be had, that is the reason, and not that
 * it does not answer. */
static int find_reason(struct restore_machine *m, int error, struct why *why)
{
    if (error == 0 || !m->restored.pager)
        return error;
    pager_progress(m->restored.pager, &m->progress);
    return m->progress.stuck && m->progress.last_error ? say_error(m, why) : error;
}

int restore_machine_start(struct restore_machine *m, struct why *why)
{
    struct restore_request *q = m->request;
    struct restore_source *s = q->source;
    char paths[SOURCE_FILES_MAX][PATH_ROOM];
    const char *pairs[SOURCE_FILES_MAX][2];
    struct restore_changes changes = make_changes(m);
    struct restore_memory_source memory = {
        .lazy = !q->eager,
        .state = &s->state,
        .fill = fill,
        .pages = {.fetch = fetch, .may_fill = may_fill, .arg = m},
        .first = q->first,
        .n_first = q->n_first,
        .cancel = &q->cancel,
        .arg = m};

    remove_sockets(m);
    int r = write_files(m, paths, why);
    for (unsigned i = 0; i < s->n_files; i++) {
        pairs[i][0] = s->files[i].path;
        pairs[i][1] = paths[i];
    }
    changes.paths = (const char *const(*)[2])pairs;
    changes.n_paths = s->n_files;
    if (r == 0)
        r = restore_start(s->argv, s->cwd, &changes, &memory, mono_us() + LIMIT_US, &m->restored,
                          why);
    if (r < 0)
        return r;
    stop_point("restore-started");
    m->started = true;
    m->start_us = m->restored.start_us;
    m->pid = m->restored.pid;
    m->pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
    if (m->pidfd < 0)
        return why_set(why, -ESRCH, "QEMU ended right after its start");
    name_sockets(m);
    r = restore_load(m->restored.monitor, &s->state, m->restored.stream_fd, mono_us() + LIMIT_US,
                     &m->load_us, why);
    if (r == 0)
        api_let_go(q->api, &m->hold); /* QEMU has them open since its start */
    return find_reason(m, r, why);
}

int restore_machine_run(struct restore_machine *m, struct why *why)
{
    struct restore_request *q = m->request;

    uint64_t begin_us = mono_us();
    m->paused = q->paused || !q->source->was_running;
    stop_point("restore-loaded");
    int r = remember(m, &m->restored.args, "loaded", why);
    stop_point("restore-loaded-noted");
    if (r == 0)
        r = commit_disks(m, why);
    stop_point("restore-committed");
    if (r == 0 && !m->paused)
        r = find_reason(m, restore_run(m->restored.monitor, mono_us() + LIMIT_US, why), why);
    if (r < 0)
        return r;
    m->run_us = mono_us() - begin_us;
    stop_point("restore-running");
    /* Where this is not written a later daemon says "cont" once more. */
    if (!q->eager && remember(m, &m->restored.args, "running", why) < 0)
        report_warning("%s", why->text);
    /* Others may have the monitor. */
    monitor_close(m->restored.monitor);
    m->restored.monitor = NULL;
    m->state = RESTORE_RUNNING;
    return 0;
}

/* ---- end ------------------------------------------------------------------------------------ */

static void end_process(pid_t pid)
{
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd ended = {.fd = fd, .events = POLLIN};

    if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0)
        (void)poll(&ended, 1, END_MS); /* its disks are in use until then */
}

static bool names_it(pid_t pid, const char *memory_path)
{
    _cleanup_free_ char *text = malloc(CMDLINE_MAX);
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = text && fd >= 0 ? read(fd, text, CMDLINE_MAX) : -1;
    return n > 0 && memmem(text, (size_t)n, memory_path, strlen(memory_path));
}

/* A QEMU that was just being started has no pid file yet, and goes into the background in two
 * processes: all that have this RAM, whose name nobody else has. */
static void end_processes(const char *memory_path)
{
    const struct dirent *entry;
    bool found = true;

    while (found) {
        DIR *dir = opendir("/proc");
        found = false;
        while (dir && (entry = readdir(dir))) {
            pid_t pid = atoi(entry->d_name);
            if (pid <= 0 || pid == getpid() || !names_it(pid, memory_path))
                continue;
            end_process(pid);
            found = true;
        }
        if (dir)
            closedir(dir);
    }
}

static void release(struct restore_machine *m)
{
    struct restore_args kept = m->restored.args; /* what was lost is still to be told */

    m->restored.args = (struct restore_args){};
    if (m->started)
        restore_release(&m->restored);
    m->restored.args = kept;
    m->started = false;
    if (m->pidfd >= 0)
        close(m->pidfd);
    m->pidfd = -1;
}

static bool has_ended(const struct restore_machine *m, int wait_ms)
{
    struct pollfd fd = {.fd = m->pidfd, .events = POLLIN};

    return m->pidfd >= 0 && poll(&fd, 1, wait_ms) == 1;
}

void restore_machine_undo(struct restore_machine *m, struct why *why)
{
    if (m->started) {
        struct why ignored;
        /* Cut off in here, it is taken back by the next daemon. */
        if (!m->request->clone)
            (void)remember(m, &m->restored.args, "starting", &ignored);
        /* Its disks are in use until it has ended. */
        if (m->pidfd >= 0 && syscall(SYS_pidfd_send_signal, m->pidfd, SIGKILL, NULL, 0) == 0)
            (void)has_ended(m, 10000);
        release(m);
    } else if (*m->memory_file) {
        /* One that was given up just when it had come up. */
        end_processes(m->memory_file);
    }
    undo_disks(m, why);
    if (*m->memory_file)
        forget(m);
    m->state = RESTORE_FAILED;
}

/* The first error, and each that is another than was said last. */
static void warn_of_error(struct restore_machine *m)
{
    uint64_t now_us = mono_us();
    struct why why;

    if (!m->progress.last_error || m->progress.last_error == m->warned_error ||
        (m->warned_error && now_us < m->warned_us + WARN_US))
        return;
    m->warned_error = say_error(m, &why);
    m->warned_us = now_us;
    report_warning("%s; it is tried again, until it comes", why.text);
}

bool restore_machine_watch(struct restore_machine *m)
{
    if (m->state != RESTORE_RUNNING)
        return false;
    pager_progress(m->restored.pager, &m->progress);
    warn_of_error(m);
    if (has_ended(m, 0)) {
        release(m);
        forget(m);
        m->state = RESTORE_ENDED;
        return false;
    }
    return !m->progress.complete;
}

void restore_machine_settle(struct restore_machine *m)
{
    struct why why;

    stop_point("restore-resident");
    if (m->restored.pager) {
        int r = pager_let_go(m->restored.pager);
        /* What is missing are zeros: it waits for them for good if nobody gives them. */
        if (r < 0 && !m->is_kept)
            report_warning("machine %s still needs this daemon for its memory: %s", m->name,
                           err_text(r));
        m->is_kept = r < 0;
        if (r < 0)
            return; /* and is called again */
    }
    m->state = RESTORE_RESIDENT;
    /* Adopted without pages to bring it has no source, and the file says that. */
    if (m->request->source && remember(m, &m->restored.args, "running", &why) < 0) {
        report_warning("%s", why.text);
        forget(m);
    }
    release(m);
}

void restore_machine_forget(const struct restore_machine *m)
{
    forget(m);
}

void restore_machine_leave(struct restore_machine *m)
{
    release(m);
    restore_args_free(&m->restored.args);
}

/* ---- what was left -------------------------------------------------------------------------- */

struct vm_lookup {
    const char *name;
    bool found;
};

static void on_look_up(struct engine_call *call)
{
    struct vm_lookup *l = call->arg;
    struct vm_info *vms;
    uint32_t n;

    if (store_list(call->store, &vms, &n) == 0) {
        for (uint32_t i = 0; i < n && !l->found; i++)
            l->found = !strcmp(vms[i].name, l->name);
        free(vms);
    }
    engine_call_done(call);
}

/* One that was not committed went when the store was opened. */
static bool vm_exists(struct api *api, const char *name)
{
    struct vm_lookup l = {.name = name};

    return engine_call(api->engine, on_look_up, &l) == 0 && l.found;
}

struct kept_lookup {
    const char *vm;
    const uint8_t *guid;
    char name[NAME_MAX_CHARS + 1];
};

static void on_look_up_kept(struct engine_call *call)
{
    struct kept_lookup *l = call->arg;
    struct version_info *versions;
    uint32_t n;

    if (store_list_versions(call->store, l->vm, NULL, true, UINT32_MAX, &versions, &n) == 0) {
        for (uint32_t i = 0; i < n; i++)
            if (!memcmp(versions[i].guid, l->guid, GUID_BYTES))
                strcpy(l->name, versions[i].name);
        free(versions);
    }
    engine_call_done(call);
}

/* The version that keeps the disks of a machine that was to go back, by whatever name. Returns
 * whether there is one. */
static bool find_kept(struct restore_machine *m, struct api *api, const struct kept_restore *kept)
{
    struct kept_lookup l = {.vm = m->name, .guid = kept->kept};

    if (!kept->has_kept || engine_call(api->engine, on_look_up_kept, &l) < 0 || !*l.name)
        return false;
    strcpy(m->kept, l.name);
    return true;
}

/* All that a machine was to be made of; done again from the beginning where this is cut off, too.
 */
static void end_half_made(struct restore_machine *m, struct api *api,
                          const struct kept_restore *kept)
{
    struct why why;

    for (unsigned i = 0; i < kept->n_memory; i++) {
        const char *path = kept->memory[i].path;
        if (strncmp(path, MEMORY_PREFIX, strlen(MEMORY_PREFIX)) != 0 ||
            strchr(path + strlen(MEMORY_PREFIX), '/'))
            continue; /* none of ours */
        end_processes(path);
        (void)unlink(path); /* QEMU has no name of it, once it runs */
    }
    tpm_end(m->dir);
    if (!find_kept(m, api, kept))
        report_warning("the restore of machine %s was cut off, and is taken back", m->name);
    else if (put_back(api, m->name, m->kept, LEAVE_SOON_US, &why) == 0)
        report_warning("the restore of machine %s was cut off, and is taken back: its disks are "
                       "what they were before",
                       m->name);
    else
        report_warning("the restore of machine %s was cut off, and %s", m->name, why.text);
    /* Also then: from now on the disks may be written to, and must not go back any more. */
    forget(m);
}

/* What the file says, of a machine that runs as found says. */
static bool take_up(struct restore_machine *m, struct api *api, const json_t *text,
                    const struct launched *found, uint8_t ret_guid[GUID_BYTES])
{
    struct restore_args *args = &m->restored.args;
    struct kept_restore kept;
    bool fits = kept_restore_read(text, &kept), loaded = kept.phase == KEPT_LOADED;

    if (!fits)
        report_warning("what is kept of machine %s, in %s/" STATE ", makes no sense", m->name,
                       m->dir);
    if (fits && (kept.phase == KEPT_STARTING || (loaded && !vm_exists(api, m->name)))) {
        end_half_made(m, api, &kept);
        return false;
    }
    m->pid = found->pid;
    m->paused = kept.paused;
    m->is_lazy = kept.lazy;
    m->is_held = loaded && !m->paused;
    args->n_memory = kept.n_memory;
    memcpy(args->memory, kept.memory, sizeof(kept.memory));
    memcpy(ret_guid, kept.guid, GUID_BYTES);
    if (fits && found->pid > 0 && m->pid == kept.pid && kept.n_memory > 0)
        return true;
    if (fits && loaded && find_kept(m, api, &kept))
        report_warning("machine %s ended while it was restored; what its disks were before is in "
                       "%s@%s",
                       m->name, m->name, m->kept);
    forget(m); /* it has ended */
    return false;
}

bool restore_machine_find(struct restore_machine *m, struct api *api, const char *name,
                          uint8_t ret_guid[GUID_BYTES])
{
    struct launched found = {};
    char path[PATH_ROOM];
    struct why why;

    restore_machine_init(m, NULL, name);
    if (name_dir(m, api->run_path, &why) < 0)
        return false;
    state_path(m, path);
    json_t *text = json_load_file(path, 0, NULL);
    if (!text)
        return false;
    (void)launch_find(api->run_path, name, &found, &why); /* pid 0: it does not run */
    bool waits = take_up(m, api, text, &found, ret_guid);
    json_decref(text);
    return waits;
}

/* It was to go on when its daemon died. */
static int let_go_on(struct restore_machine *m, struct why *why)
{
    struct monitor *monitor;
    char path[PATH_ROOM];

    snprintf(path, sizeof(path), "%s/" RESTORE_MONITOR, m->dir);
    int r = monitor_open(path, mono_us() + LIMIT_US, &monitor, why);
    if (r < 0)
        return r;
    r = restore_run(monitor, mono_us() + LIMIT_US, why);
    monitor_close(monitor);
    return r;
}

int restore_machine_adopt(struct restore_machine *m, struct restore_request *request,
                          struct why *why)
{
    struct restore_memory_source source = {.lazy = true,
                                           .pages = {.fetch = fetch, .arg = m},
                                           .first = request->first,
                                           .n_first = request->n_first};
    struct restore_args args = m->restored.args;

    m->request = request;
    int r = m->is_lazy ? map_areas(m, &args, why) : 0;
    if (r < 0)
        return r;
    m->pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
    if (m->pidfd < 0)
        return why_set(why, -ESRCH, "machine %s has ended", m->name);
    if (m->is_lazy)
        r = restore_adopt(m->pid, m->pidfd, args.memory, args.n_memory, &source,
                          mono_us() + LIMIT_US, &m->restored, why);
    if (r < 0)
        return r;
    m->started = m->is_lazy;
    m->state = RESTORE_RUNNING;
    r = m->is_held ? let_go_on(m, why) : 0;
    if (r == 0 && !m->is_lazy)
        restore_machine_settle(m);
    return r;
}
