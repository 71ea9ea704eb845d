/* pipeline.h - frames of a stream on their way: filled by one thread, packed or unpacked by
 * several, taken by another in the order in which they were filled.
 *
 * Memory is bounded by the number of frames: who finds none free waits, so the slowest part sets
 * the pace of all. Each function is for one side: pipeline_get(), _put(), _unget() and _end() for
 * the filler, pipeline_take() and _release() for the taker; pipeline_stop() for any. */
#ifndef VARVE_CLI_PIPELINE_H
#define VARVE_CLI_PIPELINE_H

#include "cli/stream.h"

#include <pthread.h>

struct pipeline;

/* One frame and its data. What is said of it as it passes the workers is in data. */
struct work {
    struct stream_frame frame;
    uint8_t *plain, *stored; /* room for STREAM_FRAME_MAX each */
    const void *data;        /* out: packed or unpacked; NULL: damaged */
    unsigned pending;        /* for the filler's and the taker's own use; 0 when it is gotten */
    bool closed;             /* as well */
    /* The pipeline's own. */
    uint64_t number;
    int state;
};

/* What a worker does to a frame: sets work->data. */
typedef void pipeline_step(struct stream_zstd *zstd, struct work *work);

/* n_workers: 0: one for each processor that there is to run on, up to 8. level: of zstd. All
 * signals are left to the threads that there are already. NULL: no memory, or no threads. */
struct pipeline *pipeline_new(unsigned n_workers, int level, pipeline_step *step);

/* Ends the workers. No other thread may be in a call. NULL is legal. */
void pipeline_free(struct pipeline *pipeline);

/* An empty frame, next in the order. NULL: there is none free and wait is false, or the pipeline
 * was stopped. */
struct work *pipeline_get(struct pipeline *pipeline, bool wait);
/* It is filled; the order is that of pipeline_get(). */
void pipeline_put(struct pipeline *pipeline, struct work *work);
/* The last one gotten will not be filled. */
void pipeline_unget(struct pipeline *pipeline, struct work *work);
/* There will be no more. */
void pipeline_end(struct pipeline *pipeline);

/* The next one. NULL: it is not ready and wait is false; or there are no more (*ret_end); or the
 * pipeline was stopped. */
struct work *pipeline_take(struct pipeline *pipeline, bool wait, bool *ret_end);
void pipeline_release(struct pipeline *pipeline, struct work *work);

/* Something went wrong: whoever waits, or will, gets NULL. */
void pipeline_stop(struct pipeline *pipeline);

/* Stop, and wait a moment for the end of a thread that fills or takes. False: it hangs in something
 * else, such as a write to a pipe; then the pipeline and all that it uses must stay where they are.
 */
bool pipeline_stop_thread(struct pipeline *pipeline, pthread_t thread);

/* Readable when a frame became ready or free, or the pipeline ended or was stopped, since the last
 * pipeline_clear(): to be waited for beside other things. */
int pipeline_fd(const struct pipeline *pipeline);
void pipeline_clear(struct pipeline *pipeline);
/* Make it readable. */
void pipeline_wake(struct pipeline *pipeline);

#endif
