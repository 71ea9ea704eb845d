/* device-state.c - the state of a machine's devices.
 *
 * The pipe has no name. QEMU gets its writing end by getfd and opens that again as
 * /proc/self/fd/N, for the command wants a path. Opening a named pipe would wait for a reader, so
 * if we died before QEMU came to it, it would hang for ever with the machine stopped; opening a
 * nameless one never waits. Nor does it need a directory that both can see, or rights in it. A
 * descriptor set (/dev/fdset) will not do: QEMU wants to truncate what it finds there. */
#include "guest/device-state.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "base/stop-point.h"
#include "guest/held-migration.h"
#include "guest/process-fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define FD_NAME     "varve-device-state"
#define HOLD_BYTES  4096      /* what the pipe has room for while the machine is held, at least */
#define FLOW_BYTES  (1 << 20) /* at most, and while it flows */
#define SPARE_BYTES 2048      /* that the state may be shorter than the last one */
#define LOOK_MS     10        /* between two looks for a refusal */

/* ---- may it be taken? ----------------------------------------------------------------------- */

static const struct {
    const char *status, *sentence;
} statuses[] = {
    {"prelaunch", "it was not started yet; let it run first (cont)"},
    {"preconfig", "it is still being configured; let it run first (x-exit-preconfig, cont)"},
    {"inmigrate", "it waits for its state (-incoming); let that come first"},
    {"finish-migrate", "it is being migrated; try again when that has ended"},
    {"postmigrate", "it was migrated away; let it run on here first (cont), if it is to live here"},
    {"save-vm", "QEMU is saving it; try again when that has ended"},
    {"restore-vm", "QEMU is restoring it; try again when that has ended"},
    {"shutdown", "its guest has shut down; there is nothing that runs on"},
    {"io-error",
     "it stands still after an I/O error of a disk; mend the disk and let it run (cont)"},
    {"internal-error", "QEMU stopped it after an internal error; reset it (system_reset, cont)"},
    {"guest-panicked", "its guest has panicked; reset it (system_reset, cont)"},
    {"watchdog", "its watchdog has stopped it; reset it (system_reset, cont)"},
    {"suspended", "its guest sleeps; wake it first (system_wakeup)"},
    {"colo", "it is protected by COLO; end that first"},
};

static int check_status(const struct monitor *m, const char *status, bool to_attach,
                        struct why *why)
{
    if (!strcmp(status, "running"))
        return 0;
    if (!strcmp(status, "paused")) {
        if (!to_attach)
            return 0;
        return why_set(why, ERR_PAUSED,
                       "the machine is paused; it can be attached while it runs: resume it (%s), "
                       "and pause it again when it is attached",
                       monitor_domain(m) ? "virsh resume" : "cont");
    }
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
        if (!strcmp(status, statuses[i].status))
            return why_set(why, -EBUSY, "the machine's state cannot be taken: %s",
                           statuses[i].sentence);
    return why_set(why, -EBUSY,
                   "the machine's state cannot be taken while QEMU says that it is "
                   "\"%s\"; let it run first",
                   status);
}

/* Parts of what QEMU says, and what helps. */
static const struct {
    const char *part, *mend;
} mends[] = {
    {"vfio",
     "take the passed-through device away (device_del), or give it a virtio device instead"},
    {"VFIO",
     "take the passed-through device away (device_del), or give it a virtio device instead"},
    {"vhost", "start it without vhost (vhost=off), or with virtio devices of QEMU's own"},
    {"format used by node", "put the disk on Varve"},
    {"VirtFS", "unmount the shared folder in the guest"},
    {"invtsc", "start it with -cpu ...,invtsc=off"},
    {"ivshmem", "start it without the ivshmem device"},
    {"non-migratable", "start it without that device"},
};

static int blocked(const json_t *reasons, struct why *why)
{
    const char *reason = json_string_value(json_array_get(reasons, 0));
    const char *mend = "start it without what is named there";
    size_t more = json_array_size(reasons) - 1;
    char others[48] = "";

    for (size_t i = 0; reason && i < sizeof(mends) / sizeof(mends[0]); i++)
        if (strstr(reason, mends[i].part))
            mend = mends[i].mend;
    if (more)
        snprintf(others, sizeof(others), ", and %zu more like that", more);
    return why_set(why, -EOPNOTSUPP,
                   "the machine's state cannot be taken: QEMU says \"%.500s\"%s; %s",
                   reason ? reason : "it is blocked", others, mend);
}

/* A migration that is under way, and what forbids one. */
static int check_migration(struct monitor *m, uint64_t end_us, struct why *why)
{
    static const char *const idle[] = {"none", "completed", "failed", "cancelled"};
    json_t *info = NULL;
    bool is_idle = false;

    int r = monitor_run(m, "query-migrate", NULL, end_us, &info, why);
    if (r < 0)
        return r;
    const char *status = json_string_value(json_object_get(info, "status"));
    for (size_t i = 0; status && i < sizeof(idle) / sizeof(idle[0]); i++)
        is_idle = is_idle || !strcmp(status, idle[i]);
    const json_t *reasons = json_object_get(info, "blocked-reasons");
    if (status && !is_idle)
        r = why_set(why, -EBUSY,
                    "the machine is being migrated (\"%.40s\"); try again when that has ended",
                    status);
    else if (json_array_size(reasons))
        r = blocked(reasons, why);
    json_decref(info);
    return r;
}

int device_state_check(struct monitor *m, bool to_attach, uint64_t end_us, bool *ret_running,
                       struct why *why)
{
    char status[32];

    int r = monitor_status(m, status, end_us, why);
    if (r == 0)
        r = check_status(m, status, to_attach, why);
    if (r == 0)
        r = check_migration(m, end_us, why);
    if (r == 0 && ret_running)
        *ret_running = !strcmp(status, "running");
    return r;
}

/* ---- the head ------------------------------------------------------------------------------- */

void device_head_free(struct device_head *head)
{
    free(head->data);
    *head = (struct device_head){};
}

/* Pages of zeros are what a new QEMU has there; those of shared blocks it gets otherwise. */
static int make_head(const struct held_migration *h, const struct ram *ram, struct device_head *ret,
                     struct why *why)
{
    const struct migration_stream *s = &h->stream;
    struct migration_buffer b = {};

    if (!*s->machine)
        return why_set(why, -EOPNOTSUPP, "QEMU does not say what type of machine this is");
    migration_write_begin(&b, s->machine, s->blocks, s->n_blocks);
    for (size_t i = 0; i < s->n_pages; i++)
        if (s->pages[i].at && !ram_is_shared(ram, s->blocks[s->pages[i].block].name))
            migration_write_page(&b, s->blocks[s->pages[i].block].name, s->pages[i].offset_bytes,
                                 h->data.data + s->pages[i].at);
    migration_write_devices(&b, NULL, 0);
    if (b.failed) {
        migration_buffer_free(&b);
        return why_set(why, -ENOMEM, "no memory");
    }
    *ret = (struct device_head){b.data, b.len};
    return 0;
}

int device_state_prepare(struct monitor *m, const struct ram *ram, uint64_t end_us,
                         struct device_head *ret, struct why *why)
{
    struct device_head head = {};
    struct held_migration held;
    struct why ignored = {};

    int r = device_state_check(m, true, end_us, NULL, why);
    if (r == 0)
        r = held_migration_begin(m, end_us, &held, why);
    if (r < 0)
        return r;
    r = held_migration_read_head(&held, ram, end_us, why);
    stop_point("attach-held");
    if (r == 0)
        r = make_head(&held, ram, &head, why);
    int end = held_migration_end(&held, end_us, r == 0 ? why : &ignored);
    if (r == 0 && end == 0) {
        *ret = head;
        return 0;
    }
    device_head_free(&head);
    return r < 0 ? r : end;
}

/* ---- capture: the pipe ----------------------------------------------------------------------
 *
 * What holds QEMU: it has written at most what was read and what the pipe has room for. So much of
 * the state is let through that it waits with the rest. When all of it is here, its length tells
 * whether that was so (did_wait()). */

struct device_capture {
    struct monitor *monitor;
    const struct ram *ram;
    enum device_way way;
    bool was_running;
    uint64_t stop_us;
    struct held_migration held; /* by migrate */
    /* By save. The reader reads let_through bytes from pipe_fd into data, then waits for go, reads
     * until word_fd has a word, and then what is left. */
    int pipe_fd, word_fd;
    size_t room, let_through;
    char path[64]; /* of the writing end, for QEMU */
    pthread_t reader;
    bool has_reader;
    sem_t go;            /* twice; the reader ends if dropped is set */
    atomic_bool dropped; /* or the pipe is of no use any more */
    struct migration_buffer data;
};

/* QEMU keeps the end that it was given until it is told. */
static void close_in_qemu(struct monitor *m, uint64_t end_us)
{
    struct why ignored = {};

    monitor_run(m, "closefd", json_pack("{s:s}", "fdname", FD_NAME), end_us, NULL, &ignored);
}

/* The number that a pipe of ours has in QEMU. */
static int find_fd(pid_t pid, int fd, unsigned *ret, struct why *why)
{
    int r = process_fd_find(pid, fd, ret);

    if (r == -ENOENT)
        return why_set(why, r, "QEMU does not have the descriptor that it was given");
    if (r < 0)
        return why_set(why, r,
                       "cannot look at QEMU's descriptors: %s; run varved as root, or as the user "
                       "that QEMU runs as",
                       strerror(-r));
    return 0;
}

/* As much room as the state, but for its end, has use for; and what is to be read besides. */
static int set_room(struct device_capture *c, int fd, size_t stream_bytes)
{
    size_t through = stream_bytes > SPARE_BYTES ? stream_bytes - SPARE_BYTES : 0;

    c->room = HOLD_BYTES;
    while (2 * c->room <= through && 2 * c->room <= FLOW_BYTES)
        c->room *= 2;
    while (fcntl(fd, F_SETPIPE_SZ, (int)c->room) != (int)c->room) {
        if (c->room == HOLD_BYTES) /* the system lets nobody have larger ones */
            return -1;
        c->room /= 2;
    }
    c->let_through = through > c->room ? through - c->room : 0;
    return 0;
}

static bool did_wait(const struct device_capture *c)
{
    return c->data.len > c->let_through + c->room;
}

/* Make the pipe, give QEMU its writing end, and the path by which QEMU opens it. */
static int make_pipe(struct device_capture *c, size_t stream_bytes, uint64_t end_us,
                     struct why *why)
{
    unsigned number = 0;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return why_set(why, -errno, "cannot make a pipe: %s", strerror(errno));
    c->pipe_fd = fds[0];
    /* It is opened by QEMU's user, whoever that is. */
    int r = fchmod(fds[1], 0666) < 0 || set_room(c, fds[0], stream_bytes) < 0
                ? why_set(why, -EIO, "cannot set up a pipe: %s", strerror(errno))
                : 0;
    if (r == 0)
        r = monitor_pass_fd(c->monitor, fds[1], FD_NAME, end_us, why);
    if (r == 0)
        r = find_fd(monitor_pid(c->monitor), fds[1], &number, why);
    close(fds[1]);
    snprintf(c->path, sizeof(c->path), "/proc/self/fd/%u", number);
    return r;
}

/* At most that much. */
static bool read_some(struct device_capture *c, size_t most)
{
    uint8_t chunk[65536];
    ssize_t n = read(c->pipe_fd, chunk, most < sizeof(chunk) ? most : sizeof(chunk));

    if (n > 0)
        migration_append(&c->data, chunk, (size_t)n);
    return n > 0 || (n < 0 && errno == EINTR);
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem) < 0 && errno == EINTR)
        ;
}

static void *run_reader(void *arg)
{
    struct device_capture *c = arg;
    struct pollfd fds[2] = {{.fd = c->pipe_fd, .events = POLLIN},
                            {.fd = c->word_fd, .events = POLLIN}};

    wait_for(&c->go);
    /* Until QEMU has answered: a state that is much shorter than the last has no more to come. */
    while (!atomic_load(&c->dropped) && c->data.len < c->let_through && !c->data.failed) {
        (void)poll(fds, 2, LOOK_MS);
        read_some(c, c->let_through - c->data.len);
        if (fds[1].revents)
            break;
    }
    wait_for(&c->go);
    if (atomic_load(&c->dropped))
        return NULL;
    do {
        while (poll(fds, 2, -1) < 0 && errno == EINTR)
            ;
        while (read_some(c, SIZE_MAX))
            ;
    } while (!fds[1].revents);
    return NULL;
}

/* Started before the pause, for starting a thread takes a while. */
static int start_reader(struct device_capture *c, struct why *why)
{
    c->word_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->word_fd < 0)
        return why_set(why, -errno, "cannot make an eventfd: %s", strerror(errno));
    int r = pthread_create(&c->reader, NULL, run_reader, c);
    c->has_reader = r == 0;
    return r == 0 ? 0 : why_set(why, -r, "cannot start a thread: %s", strerror(r));
}

static void end_reader(struct device_capture *c)
{
    if (!c->has_reader)
        return;
    atomic_store(&c->dropped, true);
    sem_post(&c->go);
    sem_post(&c->go);
    pthread_join(c->reader, NULL);
    c->has_reader = false;
}

static void release(struct device_capture *c)
{
    end_reader(c);
    if (c->pipe_fd >= 0)
        close(c->pipe_fd);
    if (c->word_fd >= 0)
        close(c->word_fd);
    sem_destroy(&c->go);
    migration_buffer_free(&c->data);
    free(c);
}

static int hold_by_save(struct device_capture *c, uint64_t end_us, struct why *why)
{
    uint64_t begin_us = mono_us(), now;
    /* Not "live": for a machine that is paused QEMU would give its disks away. */
    int r = monitor_begin(c->monitor, "xen-save-devices-state",
                          json_pack("{s:s, s:b}", "filename", c->path, "live", 0), why);
    if (r < 0)
        return r;
    struct pollfd poll_fd = {.fd = c->pipe_fd, .events = POLLIN};
    /* All ends of the pipe in QEMU are open: what comes is what it wrote. */
    while ((now = mono_us()) < end_us) {
        uint64_t ms = (end_us - now + 999) / 1000;
        if (poll(&poll_fd, 1, ms < LOOK_MS ? (int)ms : LOOK_MS) > 0 && poll_fd.revents & POLLIN) {
            c->stop_us = mono_us() - begin_us;
            sem_post(&c->go);
            return 0;
        }
        if (poll_fd.revents || monitor_has_refused(c->monitor)) {
            r = monitor_finish(c->monitor, end_us, NULL, why);
            return r < 0 ? r : why_set(why, -EPROTO, "QEMU gave no state of the devices");
        }
    }
    monitor_give_up(c->monitor);
    return why_set(
        why, -ETIMEDOUT,
        "the machine did not stand still in time: I/O of its disks is still under way; it "
        "runs on by itself");
}

static int hold_by_migrate(struct device_capture *c, uint64_t end_us, struct why *why)
{
    struct why ignored = {};

    if (!c->was_running)
        return why_set(
            why, -EBUSY,
            "the machine is paused, and its state can be taken by \"migrate\" only while "
            "it runs; resume it (cont)");
    int r = held_migration_begin(c->monitor, end_us, &c->held, why);
    if (r < 0)
        return r;
    uint64_t begin_us = mono_us();
    r = held_migration_read(&c->held, false, end_us, why);
    c->stop_us = mono_us() - begin_us;
    if (r < 0)
        held_migration_end(&c->held, end_us, &ignored);
    return r;
}

int device_capture_ready(struct monitor *m, const struct ram *ram, enum device_way way,
                         size_t stream_bytes, uint64_t end_us, struct device_capture **ret,
                         struct why *why)
{
    struct device_capture *c = calloc(1, sizeof(*c));

    if (!c)
        return why_set(why, -ENOMEM, "no memory");
    c->monitor = m;
    c->ram = ram;
    c->way = way;
    c->pipe_fd = c->word_fd = -1;
    sem_init(&c->go, 0, 0);
    int r = device_state_check(m, false, end_us, &c->was_running, why);
    if (r == 0 && way == DEVICE_BY_SAVE)
        r = make_pipe(c, stream_bytes, end_us, why);
    if (r == 0 && way == DEVICE_BY_SAVE)
        r = start_reader(c, why);
    if (r < 0)
        release(c);
    else
        *ret = c;
    return r;
}

void device_capture_drop(struct device_capture *c, uint64_t end_us)
{
    if (!c)
        return;
    if (c->way == DEVICE_BY_SAVE)
        close_in_qemu(c->monitor, end_us);
    release(c);
}

int device_capture_hold(struct device_capture *c, uint64_t end_us, struct why *why)
{
    int r =
        c->way == DEVICE_BY_SAVE ? hold_by_save(c, end_us, why) : hold_by_migrate(c, end_us, why);

    if (r < 0)
        release(c);
    return r;
}

/* ---- capture: the end ----------------------------------------------------------------------- */

/* The state must be longer than the pipe: else QEMU did not wait, and the machine ran. */
static int take_sections(struct device_capture *c, struct device_state *ret, struct why *why)
{
    struct migration_stream stream = {};

    if (c->data.failed)
        return why_set(why, -ENOMEM, "no memory for the state of the machine's devices");
    if (!did_wait(c) && c->let_through + c->room > HOLD_BYTES)
        return why_set(why, -EAGAIN,
                       "the state of the machine's devices is shorter than it was, and the machine "
                       "ran too early");
    if (!did_wait(c))
        return why_set(why, -EOPNOTSUPP,
                       "the machine has so few devices that QEMU does not wait with their state");
    ret->stream_bytes = c->data.len;
    int r = migration_read(&stream, c->data.data, c->data.len, true, why);
    if (r == 0) {
        memmove(c->data.data, c->data.data + stream.devices_at, stream.devices_bytes);
        ret->bytes = stream.devices_bytes;
        ret->data = TAKE_PTR(c->data.data);
    }
    migration_free(&stream);
    return r;
}

static int finish_by_save(struct device_capture *c, uint64_t end_us, struct device_state *ret,
                          struct why *why)
{
    const uint64_t word = 1;

    uint64_t begin_us = mono_us();
    if (c->room < FLOW_BYTES)
        (void)fcntl(c->pipe_fd, F_SETPIPE_SZ, FLOW_BYTES); /* where it is refused it takes longer */
    sem_post(&c->go);
    int r = monitor_finish(c->monitor, end_us, NULL, why);
    uint64_t answered_us = mono_us();
    if (write(c->word_fd, &word, sizeof(word)) != sizeof(word))
        abort(); /* the counter of an eventfd that nobody else writes to */
    pthread_join(c->reader, NULL);
    c->has_reader = false;
    ret->state_us = answered_us - begin_us;
    return r < 0 ? r : take_sections(c, ret, why);
}

static int finish_by_migrate(struct device_capture *c, uint64_t end_us, struct device_state *ret,
                             struct why *why)
{
    struct held_migration *h = &c->held;
    struct why ignored = {};

    uint64_t begin_us = mono_us();
    int r = held_migration_read(h, true, end_us, why);
    uint64_t read_us = mono_us();
    if (r == 0)
        r = make_head(h, c->ram, &ret->head, why);
    if (r == 0 && !(ret->data = malloc(h->stream.devices_bytes)))
        r = why_set(why, -ENOMEM, "no memory for the state of the machine's devices");
    if (r == 0) {
        ret->bytes = h->stream.devices_bytes;
        memcpy(ret->data, h->data.data + h->stream.devices_at, ret->bytes);
    }
    int end = held_migration_end(h, end_us, r == 0 ? why : &ignored);
    ret->state_us = read_us - begin_us;
    ret->resume_us = mono_us() - read_us;
    return r < 0 ? r : end;
}

void device_state_free(struct device_state *state)
{
    free(state->data);
    device_head_free(&state->head);
    *state = (struct device_state){};
}

int device_capture_finish(struct device_capture *c, uint64_t end_us, struct device_state *ret,
                          struct why *why)
{
    struct device_state state = {.was_running = c->was_running, .stop_us = c->stop_us};

    int r = c->way == DEVICE_BY_SAVE ? finish_by_save(c, end_us, &state, why)
                                     : finish_by_migrate(c, end_us, &state, why);
    if (c->way == DEVICE_BY_SAVE && r != -ETIMEDOUT && r != -EPIPE)
        close_in_qemu(c->monitor, end_us);
    release(c);
    if (r < 0)
        device_state_free(&state);
    else
        *ret = state;
    return r;
}

int device_capture_abort(struct device_capture *c, uint64_t end_us, struct why *why)
{
    int r;

    if (c->way == DEVICE_BY_MIGRATE) {
        r = held_migration_end(&c->held, end_us, why);
    } else {
        end_reader(c);
        close(c->pipe_fd); /* what QEMU writes fails now */
        c->pipe_fd = -1;
        r = monitor_finish(c->monitor, end_us, NULL, why);
        if (r == -EPROTO)
            r = 0;
        if (r == 0)
            close_in_qemu(c->monitor, end_us);
    }
    release(c);
    return r;
}
