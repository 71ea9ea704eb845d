/* recv-data.h - a stream becomes the data of a vm's disks. */
#ifndef VARVE_CLI_RECV_DATA_H
#define VARVE_CLI_RECV_DATA_H

#include "cli/nbd-session.h"
#include "cli/stream.h"

struct recv_data {
    struct nbd_session *session;  /* connected to all disks of the stream, in its order */
    struct stream_reader *reader; /* open */
    struct why why;               /* out: why it failed */
};

/* Write all frames, each after its data were checked, and check the stream as a whole; make it
 * durable; shows progress. Returns 0; 1: interrupted; or -1. After a failure a thread may still
 * hang in a read of the stream, and with it all that this was given. */
int recv_run(struct recv_data *recv);

#endif
