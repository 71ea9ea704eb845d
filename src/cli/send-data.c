/* send-data.c - the data of a version become a stream.
 *
 * Three kinds of threads: this one asks what there is (scan.c) and reads it over NBD straight into
 * frames, many requests at a time; workers pack them (pipeline.c); the writer writes them in order.
 *
 * A frame is filled with runs until it has STREAM_FRAME_MAX of data, or STREAM_RUNS_MAX runs, or
 * its disk ends: then it is closed, and goes to the workers when the last of its reads is done. */
#include "cli/send-data.h"

#include "cli/pipeline.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/scan.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IN_FLIGHT_MAX 256u /* requests */
#define WAIT_MS       200  /* until progress is shown and an interrupt seen again */

struct sender {
    struct send_data *send;
    struct pipeline *pipeline;
    struct scan scan;
    struct work *filling;
    uint64_t data_bytes; /* asked for */
    pthread_t writer;
    atomic_bool written; /* the writer has ended */
    int write_result;
};

/* ---- the writer ----------------------------------------------------------------------------- */

static int write_all(void *arg, const void *data, size_t len)
{
    int fd = *(int *)arg;

    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd poller = {.fd = fd, .events = POLLOUT};
            poll(&poller, 1, -1);
            continue;
        }
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data = (const char *)data + n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int write_stream(struct sender *s, struct stream_writer *writer)
{
    bool end = false;
    int r = stream_writer_open(writer, s->send->info);

    while (r == 0) {
        struct work *work = pipeline_take(s->pipeline, true, &end);
        if (!work)
            break;
        r = stream_write_frame(writer, &work->frame, work->data);
        pipeline_release(s->pipeline, work);
    }
    if (r == 0 && end)
        r = stream_write_end(writer);
    return r == 0 && !end ? -ECANCELED : r;
}

static void *writer_thread(void *arg)
{
    struct sender *s = arg;
    struct stream_writer writer = {.write = write_all, .arg = &s->send->fd};

    s->write_result = write_stream(s, &writer);
    stream_writer_close(&writer);
    atomic_store(&s->written, true);
    pipeline_wake(s->pipeline);
    return NULL;
}

static int start_writer(struct sender *s)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&s->writer, NULL, writer_thread, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

/* ---- reading -------------------------------------------------------------------------------- */

static void pack(struct stream_zstd *zstd, struct work *work)
{
    work->data = stream_pack(zstd, &work->frame, work->plain, work->stored);
}

/* One read of a frame. */
struct piece {
    struct sender *sender;
    struct work *work;
    uint64_t offset;
};

static void put_if_full(struct sender *s, struct work *work)
{
    if (work->closed && !work->pending)
        pipeline_put(s->pipeline, work);
}

static int on_read(void *arg, int *error)
{
    struct piece *piece = arg;
    struct sender *s = piece->sender;
    struct nbd_session *session = s->send->session;

    session->in_flight--;
    piece->work->pending--;
    if (*error)
        nbd_session_fail_io(session, piece->work->frame.disk, "read", piece->offset, *error);
    else
        put_if_full(s, piece->work);
    return 1;
}

static void close_frame(struct sender *s)
{
    struct work *work = s->filling;

    s->filling = NULL;
    if (!work)
        return;
    work->closed = true;
    put_if_full(s, work);
}

static void start_read(struct sender *s, struct work *work, uint64_t offset, uint32_t length)
{
    struct nbd_session *session = s->send->session;
    struct piece *piece = malloc(sizeof(*piece));

    if (!piece) {
        nbd_session_fail(session, "no memory");
        return;
    }
    *piece = (struct piece){s, work, offset};
    work->pending++;
    session->in_flight++;
    if (libnbd.aio_pread(
            session->handles[work->frame.disk], work->plain + work->frame.plain_bytes, length,
            offset,
            (nbd_completion_callback){.callback = on_read, .user_data = piece, .free = free},
            0) < 0)
        nbd_session_fail(session, "cannot read %s: %s", session->names[work->frame.disk],
                         libnbd.get_error());
}

/* Put the beginning of a run into the frame, as much as goes in. */
static void add_run(struct sender *s, const struct stream_run *run)
{
    struct stream_frame *frame = &s->filling->frame;
    struct stream_run *last = frame->n_runs ? &frame->runs[frame->n_runs - 1] : NULL;
    uint64_t length = run->length;

    if (run->kind == STREAM_RUN_DATA && length > STREAM_FRAME_MAX - frame->plain_bytes)
        length = STREAM_FRAME_MAX - frame->plain_bytes;
    if (last && last->kind == run->kind && last->offset + last->length == run->offset)
        last->length += length;
    else
        frame->runs[frame->n_runs++] = (struct stream_run){run->offset, length, run->kind};
    if (run->kind == STREAM_RUN_DATA) {
        start_read(s, s->filling, run->offset, (uint32_t)length);
        frame->plain_bytes += (uint32_t)length;
        s->data_bytes += length;
    }
    scan_consume(&s->scan, length);
    if (frame->n_runs == STREAM_RUNS_MAX || frame->plain_bytes == STREAM_FRAME_MAX)
        close_frame(s);
}

/* Start what may be started now. */
static void fill(struct sender *s)
{
    struct nbd_session *session = s->send->session;
    const struct stream_run *run;

    scan_pump(&s->scan);
    while (!session->failed && session->in_flight < IN_FLIGHT_MAX && (run = scan_first(&s->scan))) {
        if (!s->filling) {
            s->filling = pipeline_get(s->pipeline, false);
            if (!s->filling)
                return;
            s->filling->frame.disk = s->scan.disk;
        }
        add_run(s, run);
    }
    if (scan_is_over(&s->scan))
        close_frame(s);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void start_scan(struct scan *scan, const struct send_data *send, uint32_t disk)
{
    scan->session = send->session;
    scan->disk = disk;
    scan->size_bytes = send->info->disks[disk].size_bytes;
    scan->diff = *send->info->from && !send->info->disks[disk].fresh;
    scan->next = 0;
    scan->busy = false;
    scan->first = scan->n = 0;
}

int send_count(struct send_data *send, uint64_t *ret_bytes)
{
    struct scan *scan = calloc(1, sizeof(*scan));
    uint64_t bytes = 0;

    if (!scan)
        nbd_session_fail(send->session, "no memory");
    for (uint32_t i = 0; !send->session->failed && i < send->info->n_disks; i++) {
        start_scan(scan, send, i);
        while (!scan_is_over(scan) && !send->session->failed && !interrupted()) {
            const struct stream_run *run;
            while ((run = scan_first(scan))) {
                bytes += run->kind == STREAM_RUN_DATA ? run->length : 0;
                scan_consume(scan, run->length);
            }
            scan_pump(scan);
            if (scan->busy)
                nbd_session_wait(send->session, -1, WAIT_MS);
        }
    }
    free(scan);
    send->why = send->session->why;
    *ret_bytes = bytes;
    return send->session->failed ? -1 : 0;
}

/* True: go on. */
static bool turn(struct sender *s, struct progress *progress)
{
    if (nbd_session_wait(s->send->session, pipeline_fd(s->pipeline), WAIT_MS))
        pipeline_clear(s->pipeline);
    progress_update(progress, s->data_bytes, s->send->info->data_bytes);
    return !s->send->session->failed && !interrupted() && !atomic_load(&s->written);
}

static void run(struct sender *s)
{
    struct progress progress;
    bool going = true;

    progress_start(&progress, "sending");
    for (uint32_t i = 0; going && i < s->send->info->n_disks; i++) {
        start_scan(&s->scan, s->send, i);
        for (fill(s); going && !(scan_is_over(&s->scan) && !s->filling); fill(s))
            going = turn(s, &progress);
    }
    while (going && s->send->session->in_flight)
        going = turn(s, &progress);
    if (going)
        pipeline_end(s->pipeline);
    while (going)
        going = turn(s, &progress);
    progress_end(&progress);
}

static int result(struct sender *s)
{
    struct send_data *send = s->send;

    if (atomic_load(&s->written) && s->write_result == -EPIPE)
        why_set(&send->why, 0, "whoever was to read the stream has gone");
    else if (atomic_load(&s->written) && s->write_result && s->write_result != -ECANCELED)
        why_set(&send->why, 0, "cannot write the stream: %s", strerror(-s->write_result));
    else if (send->session->failed)
        send->why = send->session->why;
    else if (!atomic_load(&s->written))
        return 1; /* interrupted */
    else
        return 0;
    return -1;
}

int send_run(struct send_data *send)
{
    struct sender *s = calloc(1, sizeof(*s));

    if (!s)
        return why_set(&send->why, -1, "no memory");
    s->send = send;
    s->pipeline = pipeline_new(0, send->level, pack);
    if (!s->pipeline || start_writer(s) < 0) {
        pipeline_free(s->pipeline);
        free(s);
        return why_set(&send->why, -1, "no memory, or no threads");
    }
    run(s);
    int r = result(s);
    if (r == 0)
        pthread_join(s->writer, NULL);
    else if (!pipeline_stop_thread(s->pipeline, s->writer))
        return r;
    pipeline_free(s->pipeline);
    free(s);
    return r;
}
