/* stream-internal.h - what the files of stream.h share. */
#ifndef VARVE_CLI_STREAM_INTERNAL_H
#define VARVE_CLI_STREAM_INTERNAL_H

#include "cli/stream.h"

/* The largest body of a record. */
#define STREAM_BODY_MAX STREAM_HEADER_MAX
static_assert(sizeof(struct stream_frame_header) +
                      STREAM_RUNS_MAX * sizeof(struct stream_run_entry) <=
                  STREAM_BODY_MAX,
              "a frame's body fits");

/* NULL: no memory. */
struct stream_sum *stream_sum_new(void);
void stream_sum_free(struct stream_sum *sum);
void stream_sum_add(struct stream_sum *sum, const void *data, size_t len);
uint64_t stream_sum_value(const struct stream_sum *sum);

#endif
