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
#include "checkpoint/capture.h"
#include "checkpoint/memory-image.h"
#include "daemon/disk-io.h"
#include "daemon/engine.h"
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
#define FILE_MAX_BYTES (64u << 20)
#define BLOBS_MAX      (3 + ATTACHED_FILES_MAX)

/* ---- changes of the store ------------------------------------------------------------------- */

/* A change on its way. It is the engine's until done: so it has its own memory. */
struct trip {
    struct store_change change;
    struct engine *engine;
    struct engine_call call;
    sem_t placed, done;
    const char *names[1];
};

static void on_placed(struct store_change *change)
{
    sem_post(&container_of(change, struct trip, change)->placed);
}

static void on_done(struct store_change *change)
{
    struct trip *trip = container_of(change, struct trip, change);
    struct engine *engine = trip->engine;

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

void machine_memory_close(struct machine_memory *memory)
{
    memory_image_close(memory->image);
    disk_io_close(memory->io);
    *memory = (struct machine_memory){};
}

struct lookup {
    const char *vm, *version;
    uint32_t vm_id; /* 0: there is no such vm */
    bool version_is_there;
    char memory_vm[NAME_MAX_CHARS + 1];
    bool memory_is_there;
    int result;
};

static void on_lookup(struct engine_call *call)
{
    struct lookup *l = call->arg;
    struct version_info *versions;
    struct vm_info *vms;
    uint32_t n;

    l->result = store_list(call->store, &vms, &n);
    for (uint32_t i = 0; l->result == 0 && i < n; i++)
        if (!strcmp(vms[i].name, l->vm))
            l->vm_id = vms[i].id;
    if (l->result == 0)
        free(vms);
    memory_vm_name(l->vm_id, l->memory_vm);
    l->memory_is_there = store_find_disk(call->store, l->memory_vm, MEMORY_DISK_NAME) != NULL;
    if (l->result == 0 && l->vm_id && l->version &&
        (l->result =
             store_list_versions(call->store, l->vm, NULL, true, UINT32_MAX, &versions, &n)) == 0) {
        for (uint32_t i = 0; i < n; i++)
            l->version_is_there |= !strcmp(versions[i].name, l->version);
        free(versions);
    }
    engine_call_done(call);
}

static int look_up(const struct checkpoint_run *run, struct lookup *l, struct why *why)
{
    *l = (struct lookup){.vm = run->vm, .version = run->what->version};
    int r = engine_call(run->engine, on_lookup, l);

    if (r == 0)
        r = l->result;
    if (r < 0)
        return why_set(why, r, "cannot look into the store: %s", err_text(r));
    if (!l->vm_id)
        return why_set(why, -ENOENT, "there is no vm \"%s\"; see varve ls", run->vm);
    if (l->version_is_there)
        return why_set(why, -EEXIST, "vm \"%s\" has a version \"%s\" already; choose another name",
                       run->vm, run->what->version);
    return 0;
}

/* A daemon that dies between two of these leaves what the next opening removes. */
static int make_memory_vm(struct engine *engine, const char *name)
{
    struct store_change c = {.kind = CHANGE_VM_CREATE, .memory = true, .provisional = true};

    strcpy(c.vm, name);
    int r = checkpoint_change(engine, &c);
    if (r < 0)
        return r;
    c = (struct store_change){.kind = CHANGE_DISK_ADD, .size_bytes = MEMORY_DISK_BYTES};
    strcpy(c.vm, name);
    strcpy(c.disk, MEMORY_DISK_NAME);
    r = checkpoint_change(engine, &c);
    c.kind = r == 0 ? CHANGE_VM_COMMIT : CHANGE_VM_REMOVE;
    int end = checkpoint_change(engine, &c);
    return r < 0 ? r : end;
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

    return disk_io_write(arg, &part, 1);
}

static int image_trim(void *arg, uint64_t offset, uint64_t len)
{
    return disk_io_trim(arg, offset, len);
}

static struct memory_io memory_io_of(struct disk_io *io)
{
    return (struct memory_io){image_read, image_write, image_trim, io};
}

static int open_memory(const struct checkpoint_run *run, const struct lookup *l, struct why *why)
{
    struct machine_memory memory = {};
    struct memory_io io;

    if (run->memory->image && !strcmp(run->memory->vm, l->memory_vm))
        return 0;
    machine_memory_close(run->memory);
    int r = l->memory_is_there ? 0 : make_memory_vm(run->engine, l->memory_vm);
    if (r == 0)
        r = disk_io_open(run->engine, l->memory_vm, NULL, MEMORY_DISK_NAME, &memory.io);
    if (r < 0)
        return why_set(why, r, "cannot open where the memory of %s is kept: %s", run->vm,
                       err_text(r));
    strcpy(memory.vm, l->memory_vm);
    io = memory_io_of(memory.io);
    r = memory_image_open(&io, true, &memory.image, why);
    if (r < 0) {
        disk_io_close(memory.io);
        return r;
    }
    *run->memory = memory;
    capture_forget(run->attached->capture);
    return 0;
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

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PLACE_SECONDS;
    while ((r = sem_timedwait(&t->trip.placed, &end)) < 0 && errno == EINTR)
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

static int add_file(struct blobs *b, const char *path, struct why *why)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;
    char *name, *data;

    if (fd < 0 || fstat(fd, &st) < 0)
        return why_set(why, -errno, "cannot read %s, which the machine writes: %m", path);
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)FILE_MAX_BYTES)
        return why_set(why, -EOPNOTSUPP,
                       "%s, which the machine writes, is no file of at most %u bytes", path,
                       FILE_MAX_BYTES);
    if (asprintf(&name, "file:%s", path) < 0)
        return why_set(why, -ENOMEM, "no memory");
    b->owned[b->n_owned++] = name;
    data = malloc((size_t)st.st_size + 1);
    b->owned[b->n_owned++] = data;
    if (!data)
        return why_set(why, -ENOMEM, "no memory");
    if (pread(fd, data, (size_t)st.st_size, 0) != st.st_size)
        return why_set(why, -EIO, "cannot read %s, which the machine writes", path);
    add_blob(b, name, data, (size_t)st.st_size);
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

    return json_pack("{s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "full", result->full,
                     "rounds", (int)result->rounds, "left", (json_int_t)result->left_pages, "pages",
                     (json_int_t)s->pages, "same", (json_int_t)s->same, "zero", (json_int_t)s->zero,
                     "delta", (json_int_t)s->delta, "packed", (json_int_t)s->packed, "plain",
                     (json_int_t)s->plain, "bytes", (json_int_t)s->bytes);
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
    strcpy(c.vm, run->memory->vm);
    memcpy(c.guid, t->snap.guid, sizeof(c.guid));
    memory_version_name(c.guid, c.version);
    r = checkpoint_change(run->engine, &c);
    if (r < 0)
        return why_set(why, r, "cannot keep the machine's memory: %s", err_text(r));
    c = (struct store_change){.kind = CHANGE_VERSION_COMMIT};
    strcpy(c.vm, t->snap.vm);
    strcpy(c.version, t->snap.version);
    r = checkpoint_change(run->engine, &c);
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
    r = commit_memory(run, &result, why);
    device_state_free(&result.state);
    if (r < 0)
        return r;
    capture_done(run->attached->capture);
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
    struct lookup l;

    int r = look_up(run, &l, why);
    if (r == 0)
        r = device_state_check(run->attached->monitor, false, mono_us() + 5000000, NULL, why);
    if (r == 0)
        r = open_memory(run, &l, why);
    if (r == 0)
        r = try_once(run, why);
    return r == -EAGAIN ? try_once(run, why) : r;
}

/* ---- reading -------------------------------------------------------------------------------- */

struct reading {
    const char *vm, *version;
    char memory_vm[NAME_MAX_CHARS + 1], memory_version[NAME_MAX_CHARS + 1];
    int result;
};

static void on_reading(struct engine_call *call)
{
    struct reading *q = call->arg;
    struct version_info *versions;
    struct vm_info *vms;
    uint32_t n;

    q->result = store_list(call->store, &vms, &n);
    for (uint32_t i = 0; q->result == 0 && i < n; i++)
        if (!strcmp(vms[i].name, q->vm))
            memory_vm_name(vms[i].id, q->memory_vm);
    if (q->result == 0) {
        free(vms);
        q->result = store_list_versions(call->store, q->vm, NULL, true, UINT32_MAX, &versions, &n);
    }
    if (q->result == 0) {
        q->result = -ENOENT;
        for (uint32_t i = 0; i < n; i++)
            if (!strcmp(versions[i].name, q->version) &&
                versions[i].consistency == CONSISTENCY_RAM && !versions[i].provisional) {
                memory_version_name(versions[i].guid, q->memory_version);
                q->result = 0;
            }
        free(versions);
    }
    engine_call_done(call);
}

int machine_of_version(struct engine *engine, const char *vm, const char *version, json_t **ret,
                       struct why *why)
{
    struct reading q = {.vm = vm, .version = version};
    struct memory_image *image = NULL;
    struct disk_io *disk = NULL;
    struct memory_io io;
    uint8_t *text = NULL;
    size_t bytes;

    int r = engine_call(engine, on_reading, &q);
    if (r == 0)
        r = q.result;
    if (r == 0)
        r = disk_io_open(engine, q.memory_vm, q.memory_version, MEMORY_DISK_NAME, &disk);
    if (r < 0)
        return why_set(why, r, "%s@%s has no memory: %s", vm, version, err_text(r));
    io = memory_io_of(disk);
    r = memory_image_open(&io, false, &image, why);
    if (r == 0) {
        r = memory_image_blob(image, "machine.json", &text, &bytes);
        if (r == 0 && !(*ret = json_loadb((const char *)text, bytes, 0, NULL)))
            r = ERR_DAMAGED;
        if (r < 0)
            why_set(why, r, "cannot read what the checkpoint %s@%s took: %s", vm, version,
                    err_text(r));
        free(text);
        memory_image_close(image);
    }
    disk_io_close(disk);
    return r;
}
