/* storage.c - what is common to all storages. */
#include "log/storage.h"

struct run {
    struct storage_req *req;
    void (*done)(struct storage_req *req, int res);
    bool is_done;
    int res;
    struct run *outer;
};

/* Start-up is single-threaded, but each store of a process may be on its own thread. */
static __thread struct run *running;

static void run_done(struct storage_req *req, int res)
{
    for (struct run *run = running; run; run = run->outer) {
        if (run->req != req)
            continue;
        run->is_done = true;
        run->res = res;
        return;
    }
}

int storage_run(struct storage *storage, struct storage_req *req)
{
    struct run run = {.req = req, .done = req->done, .outer = running};

    running = &run;
    req->done = run_done;
    storage->submit(storage, req);
    while (!run.is_done)
        storage->poll(storage, true);
    req->done = run.done;
    running = run.outer;
    return run.res;
}
