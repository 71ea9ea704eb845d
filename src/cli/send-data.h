/* send-data.h - the data of a version become a stream. */
#ifndef VARVE_CLI_SEND_DATA_H
#define VARVE_CLI_SEND_DATA_H

#include "cli/nbd-session.h"
#include "cli/stream.h"

struct send_data {
    struct nbd_session *session; /* connected to all disks of info, in its order, each with one
                                    context: varve:diff:, or for what is sent whole (a full stream,
                                    a fresh disk) base:allocation */
    struct stream_info *info;    /* data_bytes: for progress */
    int fd;                      /* where the stream goes */
    int level;                   /* of zstd */
    struct why why;              /* out: why it failed */
};

/* How much data the stream will have: asks for all that is sent, and reads none of it. Returns 0 or
 * -1. After a failure or an interrupt the session is good for nothing but a disorderly end; so it
 * is for send_run(). */
int send_count(struct send_data *send, uint64_t *ret_bytes);

/* Write the stream, showing progress. Returns 0; 1: interrupted; or -1. After a failure a thread
 * may still hang in a write to fd, and with it all that this was given. */
int send_run(struct send_data *send);

#endif
