/* fuzz-api.c - any bytes as the body of a control request, and as a configuration file: no crash,
 * and always an answer. The engine here takes no calls, so the handlers read all their arguments
 * and end where the store would come. */
#include "daemon/api.h"
#include "daemon/config.h"

#include "daemon/engine.h"
#include "daemon/events.h"
#include "daemon/jobs.h"
#include "daemon/machine.h"
#include "daemon/receive.h"
#include "daemon/restoring.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct api_registry *registry;

/* In place of engine.c. */
int engine_call(struct engine *engine, void (*fn)(struct engine_call *call), void *arg)
{
    return -ENOMEM;
}

int engine_post(struct engine *engine, struct engine_call *call,
                void (*fn)(struct engine_call *call), void *arg)
{
    return -ENOMEM;
}

void engine_call_done(struct engine_call *call)
{
    abort();
}

uint32_t engine_counters(struct engine *engine, struct store_counter *ret, uint32_t max)
{
    abort();
}

unsigned engine_bar(struct engine *engine, struct nbd_bar *bar, const char *vm)
{
    abort();
}

unsigned engine_disconnect(struct engine *engine, const char *vm)
{
    abort();
}

bool engine_clients(struct engine *engine, bool (*each)(void *arg, const struct nbd_client *client),
                    void *arg)
{
    abort();
}

void engine_hold(struct engine *engine)
{
    abort();
}

void engine_release(struct engine *engine)
{
    abort();
}

void engine_again(struct engine *engine)
{
    abort();
}

void engine_add_ticker(struct engine *engine, struct engine_ticker *ticker)
{
    abort();
}

void engine_remove_ticker(struct engine *engine, struct engine_ticker *ticker)
{
    abort();
}

const char *engine_io_name(const struct engine *engine)
{
    return "none";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct api api;
    struct config config;
    struct why why;

    if (!registry) {
        api =
            (struct api){.run_path = "r", .store_path = "s", .control_path = "c", .nbd_path = "n"};
        api.events = events_new();
        api.jobs = jobs_new(NULL);
        api.machines = machines_new(NULL, api.jobs, "r", "n");
        api.receives = receives_new(NULL);
        api.restoring = restoring_new(&api);
        registry = api_registry_new(&api);
    }
    assert(registry);
    xmlrpc_mem_block *answer = api_process(registry, (const char *)data, size);
    assert(answer && XMLRPC_MEMBLOCK_SIZE(char, answer) > 0);
    assert(memmem(XMLRPC_MEMBLOCK_CONTENTS(char, answer), XMLRPC_MEMBLOCK_SIZE(char, answer),
                  "<methodResponse>", 16));
    XMLRPC_MEMBLOCK_FREE(char, answer);

    if (size > 0) {
        FILE *file = fmemopen((void *)(uintptr_t)data, size, "r");
        config_defaults(&config);
        if (config_parse(file, "fuzz", &config, &why) < 0)
            assert(*why.text);
        fclose(file);
    }
    return 0;
}
