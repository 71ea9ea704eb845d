/* api-recv.h - what both ends of a receive share. Control threads. */
#ifndef VARVE_DAEMON_API_RECV_H
#define VARVE_DAEMON_API_RECV_H

#include "daemon/api.h"
#include "daemon/receive.h"

/* Remove the provisional vms of a receive. If that fails, the next opening of the store does it. */
void api_recv_undo(struct api *api, const struct receive *what);

#endif
