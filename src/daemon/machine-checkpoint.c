/* machine-checkpoint.c - one checkpoint of an attached machine.
 *
 * The order is that of memory-names.h: in the pause the disks become a provisional version, then
 * the memory is written and becomes a version of the memory vm, and then the provisional version is
 * committed. In the pause we wait only until the change has its place in the log, not until it is
 * durable. */
#include "daemon/machine-checkpoint.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/mono.h"
#include "base/stop-point.h"
#include "checkpoint/capture.h"
#include "checkpoint/memory-image.h"
#include "daemon/disk-io.h"
#include "daemon/engine.h"
#include "daemon/kept.h"
#include "daemon/memory-list.h"
#include "daemon/memory-names.h"
#include "guest/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define PLACE_SECONDS  2
#define SAME_NAMES_MAX 1000 /* versions of one second */
#define FILE_MAX_BYTES (64u << 20)
#define BLOBS_MAX      (3 + ATTACHED_FILES_MAX)
#define KEEP_BYTES     (64u << 20)             /* of the store: left to the machines that write */
#define TURN_BYTES     (MEMORY_DISK_BYTES / 2) /* of a memory disk: behind that a new one begins */

/* ---- changes of the store ------------------------------------------------------------------- */

/* A change on its way. It is the engine's until done: so it has its own memory. */
struct trip {
    struct store_change change;
    struct engine *engine;
    struct engine_call call;
    sem_t placed, done;
    const char *stem; /* of a version that nobody named; NULL: it has the name that was wanted */
    unsigned number;  /* behind that */
};

static void on_placed(struct store_change *change)
{
    sem_post(&container_of(change, struct trip, change)->placed);
}

/* Somebody took that name since it was chosen: the guest still stands, so the next one will do. */
static bool try_next_name(struct trip *trip)
{
    struct store_change *change = &trip->change;

    if (change->error != -EEXIST || !trip->stem || trip->number >= SAME_NAMES_MAX)
        return false;
    trip->number = trip->number ? trip->number + 1 : 2;
    snprintf(change->version, sizeof(change->version), "%.50s-%u", trip->stem, trip->number);
    store_change(change->store, change);
    engine_again(trip->engine);
    return true;
}

static void on_done(struct store_change *change)
{
    struct trip *trip = container_of(change, struct trip, change);
    struct engine *engine = trip->engine;

    if (try_next_name(trip))
        return;
    sem_post(&trip->placed); /* who failed before that has none */
    sem_post(&trip->done);
    engine_release(engine);
}

static void on_start(struct engine_call *call)
{
    struct trip *trip = call->arg;

    engine_hold(call->engine);
    store_change(call->store, &trip->change);
}

static int start_trip(struct engine *engine, struct trip *trip, const struct store_change *change)
{
    trip->change = *change;
    trip->change.placed = on_placed;
    trip->change.done = on_done;
    trip->engine = engine;
    sem_init(&trip->placed, 0, 0);
    sem_init(&trip->done, 0, 0);
    return engine_post(engine, &trip->call, on_start, trip);
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem) < 0 && errno == EINTR)
        ;
}

static void end_trip(struct trip *trip)
{
    sem_destroy(&trip->placed);
    sem_destroy(&trip->done);
}

int checkpoint_change(struct engine *engine, struct store_change *change)
{
    struct trip trip = {};

    int r = start_trip(engine, &trip, change);
    if (r == 0) {
        wait_for(&trip.done);
        r = trip.change.error;
    }
    end_trip(&trip);
    return r;
}

/* ---- the memory vm -------------------------------------------------------------------------- */

void machine_memory_close(struct engine *engine, struct machine_memory *memory)
{
    struct store_change c = {.kind = CHANGE_DISK_REMOVE};

    memory_image_close(memory->image);
    disk_io_close(memory->io);
    if (memory->io) {
        strcpy(c.vm, memory->vm);
        strcpy(c.disk, MEMORY_DISK_NAME);
        /* What the head alone holds is free again; if that fails, memory-sweep.c sees to it. */
        (void)checkpoint_change(engine, &c);
    }
    *memory = (struct machine_memory){};
}

static int list_memory(const struct checkpoint_run *run, struct memory_list *ret, struct why *why)
{
    int r = memory_list_get(run->engine, ret);

    return r < 0 ? why_set(why, r, "cannot look into the store: %s", err_text(r)) : 0;
}

static int look_up(const struct checkpoint_run *run, struct why *why)
{
    struct memory_list list;
    bool vm_is_there = false;

    int r = list_memory(run, &list, why);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < list.n_vms; i++)
        vm_is_there |= !strcmp(list.vms[i].name, run->vm);
    if (!vm_is_there)
        r = why_set(why, -ENOENT, "there is no vm \"%s\"; see varve ls", run->vm);
    else if (!*run->what->stem && memory_list_version(&list, run->vm, run->what->version))
        r = why_set(why, -EEXIST, "vm \"%s\" has a version \"%s\" already; choose another name",
                    run->vm, run->what->version);
    memory_list_free(&list);
    return r;
}

static int image_read(void *arg, const struct memory_io_part *parts, size_t n)
{
    struct disk_io_part *to = calloc(n + 1, sizeof(*to));

    if (!to)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        to[i] = (struct disk_io_part){parts[i].offset, parts[i].buf, parts[i].len};
    int r = disk_io_read(arg, to, n);
    free(to);
    return r;
}

static int image_write(void *arg, uint64_t offset, const void *buf, size_t len)
{
    const struct disk_io_part part = {offset, (void *)(uintptr_t)buf, len};

    return disk_io_write(arg, &part, 1, KEEP_BYTES);
}

static int image_trim(void *arg, uint64_t offset, uint64_t len)
{
    return disk_io_trim(arg, offset, len);
}

static struct memory_io memory_io_of(struct disk_io *io)
{
    return (struct memory_io){image_read, image_write, image_trim, io};
}

/* Empty, or as base has it (NULL: empty). It is provisional until it is in use: so nobody takes it
 * for one that can go. */
static int make_memory_vm(struct engine *engine, const char *name, const struct store_version *base)
{
    struct store_change c = {
        .kind = base ? CHANGE_CLONE : CHANGE_VM_CREATE, .memory = true, .provisional = true};

    strcpy(base ? c.new_name : c.vm, name);
    if (base) {
        strcpy(c.vm, base->vm);
        strcpy(c.version, base->version);
        return checkpoint_change(engine, &c);
    }
    int r = checkpoint_change(engine, &c);
    if (r < 0)
        return r;
    c = (struct store_change){.kind = CHANGE_DISK_ADD, .size_bytes = MEMORY_DISK_BYTES};
    strcpy(c.vm, name);
    strcpy(c.disk, MEMORY_DISK_NAME);
    return checkpoint_change(engine, &c);
}

/* On failure nothing of it stays. */
static int make_memory(const struct checkpoint_run *run, const struct store_version *base,
                       struct why *why)
{
    struct machine_memory memory = {};
    struct store_change c = {.kind = CHANGE_VM_COMMIT};
    struct memory_io io;

    if (!memory_vm_name(memory.vm))
        return why_set(why, -EIO, "the system has no random numbers");
    int r = make_memory_vm(run->engine, memory.vm, base);
    if (r == 0)
        r = disk_io_open(run->engine, memory.vm, NULL, MEMORY_DISK_NAME, &memory.io);
    if (r == 0) {
        strcpy(c.vm, memory.vm);
        r = checkpoint_change(run->engine, &c);
    }
    if (r < 0)
        why_set(why, r, "cannot open where the memory of %s is kept: %s", run->vm, err_text(r));
    if (r == 0) {
        io = memory_io_of(memory.io);
        r = memory_image_open(&io, true, &memory.image, why);
    }
    if (r == 0 && memory_image_end(memory.image) > TURN_BYTES) {
        memory_image_close(memory.image);
        r = why_set(why, -ENOSPC, "the memory of %s comes near the end of its disk", run->vm);
    }
    if (r == 0) {
        *run->memory = memory;
        return 0;
    }
    disk_io_close(memory.io);
    c = (struct store_change){.kind = CHANGE_VM_REMOVE};
    strcpy(c.vm, memory.vm);
    (void)checkpoint_change(run->engine, &c); /* as in machine_memory_close() */
    return r;
}

/* Writing goes on where the memory of the version ends that the vm goes on from. Where that cannot
 * be read, or comes near the end of its disk, all is written anew. */
static int open_memory(const struct checkpoint_run *run, struct why *why)
{
    struct memory_list list;
    struct store_version base;

    if (run->memory->image && memory_image_end(run->memory->image) <= TURN_BYTES)
        return 0;
    machine_memory_close(run->engine, run->memory);
    int r = list_memory(run, &list, why);
    if (r < 0)
        return r;
    const struct version_info *origin = memory_list_origin(&list, run->vm);
    if (origin) {
        strcpy(base.vm, origin->vm);
        strcpy(base.version, origin->name);
    }
    memory_list_free(&list);
    r = make_memory(run, origin ? &base : NULL, why);
    if (r < 0 && origin && r != ERR_STORE_FULL && r != ERR_READ_ONLY)
        r = make_memory(run, NULL, why);
    if (r == 0)
        capture_forget(run->attached->capture);
    return r;
}

/* ---- in the pause --------------------------------------------------------------------------- */

struct taking {
    const struct checkpoint_run *run;
    struct store_change snap;
    struct trip trip;
    bool started, ended; /* the trip */
};

static int on_freeze(void *arg, struct why *why)
{
    struct taking *t = arg;

    int r = start_trip(t->run->engine, &t->trip, &t->snap);
    if (r < 0) {
        end_trip(&t->trip);
        return why_set(why, r, "the store takes no versions any more: %s", err_text(r));
    }
    t->started = true;
    return 0;
}

static int on_frozen(void *arg, struct why *why)
{
    struct taking *t = arg;
    struct timespec end;
    int r;

    clock_gettime(CLOCK_MONOTONIC, &end); /* not the clock that may be set back in the pause */
    end.tv_sec += PLACE_SECONDS;
    while ((r = sem_clockwait(&t->trip.placed, CLOCK_MONOTONIC, &end)) < 0 && errno == EINTR)
        ;
    if (r < 0)
        return why_set(why, -ETIMEDOUT, "the store did not come to the version in %d s",
                       PLACE_SECONDS);
    return 0;
}

static int on_settle(void *arg, struct why *why)
{
    struct taking *t = arg;
    int r = disk_io_flush(t->run->memory->io);

    return r < 0 ? why_set(why, r, "cannot flush the store: %s", err_text(r)) : 0;
}

static int wait_for_version(struct taking *t, struct why *why)
{
    if (!t->started)
        return 0;
    if (!t->ended)
        wait_for(&t->trip.done);
    t->ended = true;
    strcpy(t->snap.version, t->trip.change.version);
    int r = t->trip.change.error;
    if (r == -EEXIST)
        return why_set(why, r, "vm \"%s\" has a version \"%s\" already; choose another name",
                       t->run->vm, t->snap.version);
    return r < 0 ? why_set(why, r, "cannot take the version of the disks: %s", err_text(r)) : 0;
}

/* After an error: the provisional version goes, if there is one. */
static void take_back(struct taking *t)
{
    const char *names[] = {t->snap.version};
    struct store_change c = {.kind = CHANGE_VERSION_REMOVE, .versions = names, .n_versions = 1};
    struct why ignored;

    if (!t->started || wait_for_version(t, &ignored) < 0)
        return;
    strcpy(c.vm, t->snap.vm);
    /* If that fails, the next opening of the store removes it. */
    (void)checkpoint_change(t->run->engine, &c);
}

static bool on_cancel(void *arg)
{
    struct taking *t = arg;
    return job_work_is_cancelled(t->run->work);
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct taking *t = arg;
    job_work_tell(t->run->work, phase, done, total);
}

/* ---- blobs ---------------------------------------------------------------------------------- */

struct blobs {
    struct memory_blob list[BLOBS_MAX];
    char *owned[2 * BLOBS_MAX]; /* to be freed */
    unsigned n, n_owned;
};

static void blobs_free(struct blobs *b)
{
    for (unsigned i = 0; i < b->n_owned; i++)
        free(b->owned[i]);
}

static void add_blob(struct blobs *b, const char *name, const void *data, size_t bytes)
{
    b->list[b->n++] = (struct memory_blob){name, data, bytes};
}

/* Returns a descriptor, or an error. */
static int open_file(const char *path, off_t *ret_bytes, struct why *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;
    int r = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        r = why_set(why, -errno, "cannot read %s, which the machine writes: %m", path);
    else if (!S_ISREG(st.st_mode) || st.st_size > (off_t)FILE_MAX_BYTES)
        r = why_set(why, -EOPNOTSUPP,
                    "%s, which the machine writes, is no file of at most %u bytes", path,
                    FILE_MAX_BYTES);
    if (r == 0) {
        *ret_bytes = st.st_size;
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return r;
}

/* Before anything is written: whether they can be kept. */
static int check_files(const struct checkpoint_run *run, struct why *why)
{
    int r = 0;

    for (unsigned i = 0; i < run->attached->n_files && r >= 0; i++) {
        off_t bytes;
        r = open_file(run->attached->files[i], &bytes, why);
        if (r >= 0)
            close(r);
    }
    return r < 0 ? r : 0;
}

static int add_file(struct blobs *b, const char *path, struct why *why)
{
    off_t bytes = 0;
    _cleanup_close_ int fd = open_file(path, &bytes, why);
    char *name, *data;

    if (fd < 0)
        return fd;
    name = malloc(MEMORY_BLOB_NAME_BYTES);
    if (!name)
        return why_set(why, -ENOMEM, "no memory");
    memory_file_name(path, name);
    b->owned[b->n_owned++] = name;
    data = malloc((size_t)bytes + 1);
    b->owned[b->n_owned++] = data;
    if (!data)
        return why_set(why, -ENOMEM, "no memory");
    if (pread(fd, data, (size_t)bytes, 0) != bytes)
        return why_set(why, -EIO, "cannot read %s, which the machine writes", path);
    add_blob(b, name, data, (size_t)bytes);
    return 0;
}

static json_t *times_of(const struct capture_result *result)
{
    const struct capture_times *t = &result->times;

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "rounds", (json_int_t)t->rounds_us,
                     "stop", (json_int_t)t->stop_us, "scan", (json_int_t)t->scan_us, "copy",
                     (json_int_t)t->copy_us, "disks", (json_int_t)t->disks_us, "device",
                     (json_int_t)t->device_us, "pause", (json_int_t)t->pause_us, "rest",
                     (json_int_t)t->rest_us);
}

static json_t *sizes_of(const struct capture_result *result)
{
    const struct memory_put_stats *s = &result->stats;

    return json_pack(
        "{s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "full", result->full, "rounds",
        (int)result->rounds, "dirty", (json_int_t)result->dirty_pages, "left",
        (json_int_t)result->left_pages, "pages", (json_int_t)s->pages, "same", (json_int_t)s->same,
        "zero", (json_int_t)s->zero, "delta", (json_int_t)s->delta, "packed", (json_int_t)s->packed,
        "plain", (json_int_t)s->plain, "bytes", (json_int_t)s->bytes);
}

static int add_description(struct blobs *b, const struct checkpoint_run *run,
                           const struct capture_result *result, struct why *why)
{
    json_t *json = attached_describe(run->attached);

    if (json) {
        json_object_set_new(json, "was_running", json_boolean(result->state.was_running));
        json_object_set_new(json, "times", times_of(result));
        json_object_set_new(json, "sizes", sizes_of(result));
        json_object_set_new(json, "by_migrate", json_boolean(result->by_migrate));
        json_object_set_new(json, "max_pause", json_integer((json_int_t)run->what->max_pause_us));
        json_object_set_new(json, "max_pause_met",
                            json_boolean(result->times.pause_us <= run->what->max_pause_us));
    }
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text)
        return why_set(why, -ESRCH, "QEMU has ended, or there is no memory");
    b->owned[b->n_owned++] = text;
    add_blob(b, "machine.json", text, strlen(text));
    return 0;
}

static int commit_memory(const struct checkpoint_run *run, const struct capture_result *result,
                         struct why *why)
{
    const struct device_head *head =
        result->state.head.data ? &result->state.head : &run->attached->head;
    _cleanup_(blobs_free) struct blobs blobs = {};

    add_blob(&blobs, "head", head->data, head->bytes);
    add_blob(&blobs, "devices", result->state.data, result->state.bytes);
    int r = add_description(&blobs, run, result, why);
    for (unsigned i = 0; i < run->attached->n_files && r == 0; i++)
        r = add_file(&blobs, run->attached->files[i], why);
    if (r < 0)
        return r;
    job_work_tell(run->work, "commit", 0, 0);
    r = memory_image_commit(run->memory->image, blobs.list, blobs.n);
    return r < 0 ? why_set(why, r, "cannot write the machine's memory: %s", err_text(r)) : 0;
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* The memory is in the head of its vm: make both versions. */
static int make_versions(struct taking *t, struct why *why)
{
    const struct checkpoint_run *run = t->run;
    struct store_change c = {.kind = CHANGE_SNAP, .consistency = CONSISTENCY_RAM};

    int r = wait_for_version(t, why);
    if (r < 0)
        return r;
    stop_point("disks-kept");
    strcpy(c.vm, run->memory->vm);
    memcpy(c.guid, t->snap.guid, sizeof(c.guid));
    memory_version_name(c.guid, c.version);
    r = checkpoint_change(run->engine, &c);
    if (r < 0)
        return why_set(why, r, "cannot keep the machine's memory: %s", err_text(r));
    stop_point("memory-kept");
    c = (struct store_change){.kind = CHANGE_VERSION_COMMIT};
    strcpy(c.vm, t->snap.vm);
    strcpy(c.version, t->snap.version);
    r = checkpoint_change(run->engine, &c);
    strcpy(run->what->version, t->snap.version);
    stop_point("committed");
    return r < 0 ? why_set(why, r, "cannot make the version: %s", err_text(r)) : 0;
}

static int take(struct taking *t, struct why *why)
{
    const struct checkpoint_run *run = t->run;
    const struct capture_hooks hooks = {on_settle, on_freeze, on_frozen, on_cancel, on_progress, t};
    struct capture_result result;

    int r = capture_take(run->attached->capture, run->memory->image, run->what->max_pause_us,
                         &hooks, &result, why);
    if (r < 0)
        return r;
    stop_point("put");
    r = commit_memory(run, &result, why);
    device_state_free(&result.state);
    if (r < 0)
        return r;
    capture_done(run->attached->capture);
    stop_point("memory-written");
    return make_versions(t, why);
}

static int try_once(const struct checkpoint_run *run, struct why *why)
{
    struct taking t = {.run = run,
                       .snap = {.kind = CHANGE_SNAP,
                                .provisional = true,
                                .consistency = CONSISTENCY_RAM,
                                .note = *run->what->note ? run->what->note : NULL}};

    strcpy(t.snap.vm, run->vm);
    strcpy(t.snap.version, run->what->version);
    t.trip.stem = *run->what->stem ? run->what->stem : NULL;
    if (getrandom(t.snap.guid, sizeof(t.snap.guid), 0) != sizeof(t.snap.guid))
        return why_set(why, -EIO, "the system has no random numbers");
    int r = take(&t, why);
    if (r < 0) {
        take_back(&t);
        memory_image_abandon(run->memory->image);
    }
    if (t.started)
        end_trip(&t.trip);
    return r;
}

int checkpoint_run(const struct checkpoint_run *run, struct why *why)
{
    int r = look_up(run, why);

    if (r == 0)
        r = check_files(run, why);
    if (r == 0)
        r = device_state_check(run->attached->monitor, false, mono_us() + 5000000, NULL, why);
    if (r == 0)
        r = open_memory(run, why);
    if (r < 0)
        return r;
    r = try_once(run, why);
    if (r == -EAGAIN)
        r = try_once(run, why);
    if (r == ERR_STORE_FULL) {
        struct why full = *why;
        why_set(why, r, "%.300s; a checkpoint leaves the last %u MiB to the machines that write",
                full.text, KEEP_BYTES >> 20);
    }
    return r;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Where the memory of a version is. */
static int find_memory(struct engine *engine, const char *vm, const char *version,
                       struct store_version *ret)
{
    struct memory_list list;

    int r = memory_list_get(engine, &list);
    if (r < 0)
        return r;
    const struct version_info *v = memory_list_version(&list, vm, version);
    const struct version_info *memory =
        v && v->consistency == CONSISTENCY_RAM ? memory_list_find(&list, v->guid) : NULL;
    if (memory) {
        strcpy(ret->vm, memory->vm);
        strcpy(ret->version, memory->name);
    }
    memory_list_free(&list);
    return memory ? 0 : -ENOENT;
}

int machine_of_version(struct engine *engine, const char *vm, const char *version, json_t **ret,
                       struct why *why)
{
    struct store_version at;
    struct memory_image *image = NULL;
    struct disk_io *disk = NULL;
    struct memory_io io;
    uint8_t *text = NULL;
    size_t bytes;

    int r = find_memory(engine, vm, version, &at);
    if (r == 0)
        r = disk_io_open(engine, at.vm, at.version, MEMORY_DISK_NAME, &disk);
    if (r < 0)
        return why_set(why, r, "%s@%s has no memory: %s", vm, version, err_text(r));
    io = memory_io_of(disk);
    r = memory_image_open(&io, false, &image, why);
    if (r == 0) {
        r = memory_image_blob(image, "machine.json", KEPT_MACHINE_MAX_BYTES, &text, &bytes);
        if (r == 0)
            r = kept_machine_parse(text, bytes, ret);
        if (r < 0)
            why_set(why, r, "cannot read what the checkpoint %s@%s took: %s", vm, version,
                    err_text(r));
        free(text);
        memory_image_close(image);
    }
    disk_io_close(disk);
    return r;
}
