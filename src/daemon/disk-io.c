/* disk-io.c - reading and writing a disk of the store from a thread that may wait. */
#include "daemon/disk-io.h"

#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define MAX_IN_FLIGHT 128u

struct disk_io {
    struct engine *engine;
    struct disk *disk;
};

/* ---- opening and closing -------------------------------------------------------------------- */

struct opening {
    const char *vm, *version, *disk;
    struct disk *found;
    int error;
};

static void on_open(struct engine_call *call)
{
    struct opening *o = call->arg;

    o->found = o->version && *o->version
                   ? store_find_version_disk(call->store, o->vm, o->version, o->disk)
                   : store_find_disk(call->store, o->vm, o->disk);
    o->error = !o->found ? -ENOENT : disk_is_shrinking(o->found) ? -EBUSY : 0;
    if (o->error == 0)
        disk_get(o->found);
    engine_call_done(call);
}

int disk_io_open(struct engine *engine, const char *vm, const char *version, const char *disk,
                 struct disk_io **ret)
{
    struct opening o = {.vm = vm, .version = version, .disk = disk};
    struct disk_io *io = calloc(1, sizeof(*io));

    if (!io)
        return -ENOMEM;
    int r = engine_call(engine, on_open, &o);
    if (r == 0)
        r = o.error;
    if (r < 0) {
        free(io);
        return r;
    }
    *io = (struct disk_io){.engine = engine, .disk = o.found};
    *ret = io;
    return 0;
}

static void on_close(struct engine_call *call)
{
    disk_put(call->arg);
    engine_call_done(call);
}

void disk_io_close(struct disk_io *io)
{
    if (!io)
        return;
    /* It fails only when the engine is ending: then the store goes, and its disks with it. */
    (void)engine_call(io->engine, on_close, io->disk);
    free(io);
}

/* ---- requests ------------------------------------------------------------------------------- */

struct trip;

struct request {
    struct store_io io;
    struct trip *trip;
};

/* All parts of one call. On the engine's thread while it is under way. */
struct trip {
    struct engine_call *call;
    struct disk *disk;
    enum store_op op;
    const struct disk_io_part *parts;
    size_t n, next;
    uint64_t keep_bytes; /* of a write */
    unsigned in_flight;
    bool starting; /* inside start_some() */
    int error;
    struct request *requests; /* MAX_IN_FLIGHT of them, or n */
    struct request **idle;
    unsigned n_idle;
};

static void start_some(struct trip *trip);

static void part_done(struct store_io *io)
{
    struct request *request = container_of(io, struct request, io);
    struct trip *trip = request->trip;

    if (io->error && !trip->error)
        trip->error = io->error;
    trip->idle[trip->n_idle++] = request;
    trip->in_flight--;
    if (!trip->starting) {
        start_some(trip); /* the trip may be over, and gone */
    }
}

static bool leaves_room(const struct trip *trip, size_t len)
{
    struct store_space space;

    if (!trip->keep_bytes)
        return true;
    store_space(trip->call->store, &space);
    return space.available >= trip->keep_bytes && space.available - trip->keep_bytes >= len;
}

static void start_some(struct trip *trip)
{
    struct engine *engine = trip->call->engine;

    trip->starting = true;
    while (trip->n_idle && trip->next < trip->n && !trip->error) {
        const struct disk_io_part *part = &trip->parts[trip->next++];
        if (!leaves_room(trip, part->len)) {
            trip->error = ERR_STORE_FULL;
            break;
        }
        struct request *request = trip->idle[--trip->n_idle];
        *request = (struct request){.trip = trip,
                                    .io = {.disk = trip->disk,
                                           .op = trip->op,
                                           .offset = part->offset,
                                           .length = part->len,
                                           .buf = part->buf,
                                           .done = part_done}};
        trip->in_flight++;
        if (store_submit(trip->call->store, &request->io))
            part_done(&request->io);
    }
    trip->starting = false;
    if (trip->in_flight)
        engine_again(engine);
    else
        engine_call_done(trip->call);
}

static void on_parts(struct engine_call *call)
{
    struct trip *trip = call->arg;

    trip->call = call;
    start_some(trip);
}

static int run(struct disk_io *io, enum store_op op, const struct disk_io_part *parts, size_t n,
               uint64_t keep_bytes)
{
    unsigned max = n < MAX_IN_FLIGHT ? (unsigned)n : MAX_IN_FLIGHT;
    struct trip trip = {.disk = io->disk,
                        .op = op,
                        .parts = parts,
                        .n = n,
                        .keep_bytes = keep_bytes,
                        .n_idle = max};

    if (n == 0)
        return 0;
    trip.requests = calloc(max, sizeof(*trip.requests));
    trip.idle = calloc(max, sizeof(struct request *));
    int r = trip.requests && trip.idle ? 0 : -ENOMEM;
    if (r == 0) {
        for (unsigned i = 0; i < max; i++)
            trip.idle[i] = &trip.requests[i];
        r = engine_call(io->engine, on_parts, &trip);
    }
    free(trip.requests);
    free(trip.idle);
    return r < 0 ? r : trip.error;
}

int disk_io_read(struct disk_io *io, const struct disk_io_part *parts, size_t n)
{
    return run(io, STORE_READ, parts, n, 0);
}

int disk_io_write(struct disk_io *io, const struct disk_io_part *parts, size_t n,
                  uint64_t keep_bytes)
{
    return run(io, STORE_WRITE, parts, n, keep_bytes);
}

int disk_io_trim(struct disk_io *io, uint64_t offset, uint64_t len)
{
    struct disk_io_part part = {.offset = offset, .len = len};
    return run(io, STORE_TRIM, &part, 1, 0);
}

int disk_io_flush(struct disk_io *io)
{
    struct disk_io_part part = {};
    return run(io, STORE_FLUSH, &part, 1, 0);
}
