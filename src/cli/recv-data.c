/* recv-data.c - a stream becomes the data of a vm's disks.
 *
 * Three kinds of threads: the reader reads frames and checks their places; workers decode the data
 * and check them; this one writes them over NBD, many requests at a time. A frame is used again
 * when the last of its writes is done. */
#include "cli/recv-data.h"

#include "cli/pipeline.h"
#include "cli/process.h"
#include "cli/progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#define IN_FLIGHT_MAX 256u         /* requests */
#define ZERO_BYTES    (1ULL << 30) /* of one of zeros or holes */
#define WAIT_MS       200          /* until progress is shown and an interrupt seen again */

struct receiver {
    struct recv_data *recv;
    struct pipeline *pipeline;
    struct work *writing; /* the frame whose runs are being started */
    uint32_t run;         /* which of them */
    uint64_t run_at;      /* bytes of it that were */
    uint64_t data_at;     /* bytes of the frame's data that were */
    uint64_t data_bytes;  /* written, or on the way */
    bool over;            /* all frames were taken */
    pthread_t reader;
    atomic_bool read; /* the reader has ended */
    int read_result;
};

/* ---- the reader, and the workers ------------------------------------------------------------ */

static void *reader_thread(void *arg)
{
    struct receiver *r = arg;
    struct work *work;
    int n = 1;

    while (n > 0 && (work = pipeline_get(r->pipeline, true))) {
        n = stream_read_frame(r->recv->reader, &work->frame, work->stored);
        if (n > 0)
            pipeline_put(r->pipeline, work);
        else
            pipeline_unget(r->pipeline, work);
    }
    r->read_result = n;
    atomic_store(&r->read, true);
    if (n == 0)
        pipeline_end(r->pipeline);
    else
        pipeline_wake(r->pipeline);
    return NULL;
}

static int start_reader(struct receiver *r)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int n = pthread_create(&r->reader, NULL, reader_thread, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -n;
}

static void unpack(struct stream_zstd *zstd, struct work *work)
{
    work->data = stream_unpack(zstd, &work->frame, work->stored, work->plain);
}

/* ---- writing -------------------------------------------------------------------------------- */

/* One write of a frame. */
struct piece {
    struct receiver *receiver;
    struct work *work;
    uint64_t offset;
};

static void release_if_done(struct receiver *r, struct work *work)
{
    if (work->closed && !work->pending)
        pipeline_release(r->pipeline, work);
}

static int on_written(void *arg, int *error)
{
    struct piece *piece = arg;
    struct receiver *r = piece->receiver;
    struct nbd_session *session = r->recv->session;

    session->in_flight--;
    piece->work->pending--;
    if (*error)
        nbd_session_fail_io(session, piece->work->frame.disk, "write", piece->offset, *error);
    else
        release_if_done(r, piece->work);
    return 1;
}

/* Start a write of the present run's next part. */
static void start_write(struct receiver *r, const struct stream_run *run)
{
    struct nbd_session *session = r->recv->session;
    struct nbd_handle *h = session->handles[r->writing->frame.disk];
    uint64_t offset = run->offset + r->run_at, length = run->length - r->run_at;
    struct piece *piece = malloc(sizeof(*piece));
    int64_t n;

    if (!piece) {
        nbd_session_fail(session, "no memory");
        return;
    }
    *piece = (struct piece){r, r->writing, offset};
    nbd_completion_callback done = {.callback = on_written, .user_data = piece, .free = free};
    r->writing->pending++;
    session->in_flight++;
    if (run->kind == STREAM_RUN_DATA) {
        n = libnbd.aio_pwrite(h, (const uint8_t *)r->writing->data + r->data_at, length, offset,
                              done, 0);
        r->data_at += length;
        r->data_bytes += length;
    } else {
        if (length > ZERO_BYTES)
            length = ZERO_BYTES;
        n = libnbd.aio_zero(h, length, offset, done,
                            run->kind == STREAM_RUN_ZERO ? LIBNBD_CMD_FLAG_NO_HOLE : 0);
    }
    r->run_at += length;
    if (n < 0)
        nbd_session_fail(session, "cannot write %s: %s", session->names[r->writing->frame.disk],
                         libnbd.get_error());
}

/* The next frame to write. False: there is none now. */
static bool take_frame(struct receiver *r)
{
    r->writing = pipeline_take(r->pipeline, false, &r->over);
    r->run = 0;
    r->run_at = r->data_at = 0;
    if (r->writing && !r->writing->data) {
        nbd_session_fail(r->recv->session,
                         "the stream is damaged: data of %s do not match their checksum; send it "
                         "again",
                         r->recv->session->names[r->writing->frame.disk]);
        return false;
    }
    return r->writing != NULL;
}

/* Start what may be started now. */
static void write_on(struct receiver *r)
{
    struct nbd_session *session = r->recv->session;

    while (!session->failed && session->in_flight < IN_FLIGHT_MAX) {
        if (!r->writing && !take_frame(r))
            return;
        const struct stream_run *run = &r->writing->frame.runs[r->run];
        start_write(r, run);
        if (r->run_at < run->length)
            continue;
        r->run_at = 0;
        if (++r->run < r->writing->frame.n_runs)
            continue;
        r->writing->closed = true;
        release_if_done(r, r->writing);
        r->writing = NULL;
    }
}

/* ---- the whole ------------------------------------------------------------------------------ */

static bool stream_is_bad(struct receiver *r)
{
    return atomic_load(&r->read) && r->read_result < 0;
}

static void run(struct receiver *r)
{
    struct nbd_session *session = r->recv->session;
    struct progress progress;

    progress_start(&progress, "receiving");
    for (write_on(r); !r->over || session->in_flight; write_on(r)) {
        if (session->failed || interrupted() || stream_is_bad(r))
            break;
        if (nbd_session_wait(session, pipeline_fd(r->pipeline), WAIT_MS))
            pipeline_clear(r->pipeline);
        progress_update(&progress, r->data_bytes, r->recv->reader->info.data_bytes);
    }
    progress_end(&progress);
}

static int result(struct receiver *r)
{
    struct recv_data *recv = r->recv;

    if (recv->session->failed)
        recv->why = recv->session->why;
    else if (stream_is_bad(r))
        recv->why = recv->reader->why;
    else if (!r->over || recv->session->in_flight)
        return 1; /* interrupted */
    else if (nbd_session_flush(recv->session) < 0)
        recv->why = recv->session->why;
    else
        return 0;
    return -1;
}

int recv_run(struct recv_data *recv)
{
    struct receiver *r = calloc(1, sizeof(*r));

    if (!r)
        return why_set(&recv->why, -1, "no memory");
    r->recv = recv;
    r->pipeline = pipeline_new(0, 0, unpack);
    if (!r->pipeline || start_reader(r) < 0) {
        pipeline_free(r->pipeline);
        free(r);
        return why_set(&recv->why, -1, "no memory, or no threads");
    }
    run(r);
    int n = result(r);
    if (n == 0)
        pthread_join(r->reader, NULL);
    else if (!pipeline_stop_thread(r->pipeline, r->reader))
        return n;
    pipeline_free(r->pipeline);
    free(r);
    return n;
}
