/* api-restore.h - what job.status shows of a restore. Control threads. */
#ifndef VARVE_DAEMON_API_RESTORE_H
#define VARVE_DAEMON_API_RESTORE_H

#include "daemon/api.h"

/* Put the machines of a job of kind "restore" into its value. Nothing happens when env has a fault
 * already. */
void api_put_restore(xmlrpc_env *env, struct api *api, xmlrpc_value *job, uint32_t id);

#endif
