/* store.c - making, opening and closing a store; its turn of the loop; what it tells of itself. */
#include "image/store.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/mono.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

const struct store_config store_config_default = {
    .cache_bytes = 64u << 20,
    .table_bytes = 64u << 20,
    .checkpoint_bytes = 256u << 20,
};

#define MIN_CAPACITY_BYTES (16 * FILE_BYTES)

void store_event(struct store *store, int kind, int code, const char *format, ...)
{
    char text[512];
    va_list args;
    if (!store->config.event)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    struct store_event event = {.kind = kind, .code = code, .text = text};
    store->config.event(store->config.event_arg, &event);
}

/* ---- the log's client ----------------------------------------------------------------------- */

static void wake_applied(struct store *store)
{
    list_for_each_safe (l, &store->applied_waiters) {
        struct waiter *waiter = container_of(l, struct waiter, link);
        if (waiter->seq > store->log->applied_seq && !store->log->error)
            continue;
        list_del(&waiter->link);
        waiter->wake(waiter, store->log->error ? ERR_READ_ONLY : 0);
    }
}

static void on_applied(struct log_client *client, struct batch *batch, int error)
{
    struct store *store = container_of(client, struct store, client);
    batch_apply(store, batch, error);
    if (!list_empty(&store->applied_waiters))
        store->applied_again = true;
}

static void on_room(struct log_client *client)
{
    container_of(client, struct store, client)->room_again = true;
}

static void on_no_space(struct log_client *client, int error)
{
    struct store *store = container_of(client, struct store, client);
    store_event(
        store, STORE_EVENT_FULL, error,
        "no space for another log file (%s): the store stays at %u files of 32 MiB until the "
        "file system has room again",
        err_text(error), store->log->n_files);
}

static void on_failed(struct log_client *client, int error, const char *what)
{
    struct store *store = container_of(client, struct store, client);
    store->room_again = store->applied_again = true;
    store_event(store, STORE_EVENT_READ_ONLY, error,
                "%s failed (%s): the store is read-only until the daemon is restarted", what,
                err_text(error));
}

/* ---- making --------------------------------------------------------------------------------- */

static int run(struct storage *storage, struct storage_req req)
{
    return storage_run(storage, &req);
}

static int write_super(struct storage *storage, const struct store_format *format,
                       struct super_block *super)
{
    memset(super, 0, sizeof(*super));
    memcpy(super->magic, SUPER_MAGIC, sizeof(super->magic));
    super->version = FORMAT_VERSION;
    super->capacity_bytes = format->capacity_bytes / FILE_BYTES * FILE_BYTES;
    super->created_us = wall_us();
    super->file_bytes = FILE_BYTES;
    super->page_bytes = PAGE_BYTES;
    if (getrandom(super->uuid, sizeof(super->uuid), 0) != sizeof(super->uuid))
        return -EIO;
    super->crc = crc32c(0, super, sizeof(*super));

    int code = checkpoint_format(storage, super);
    if (code < 0)
        return code;
    /* The super block last: a store that was not made to the end is none. */
    struct iovec iov = {super, sizeof(*super)};
    code = run(storage, (struct storage_req){.op = STORAGE_WRITE,
                                             .file = STORAGE_SUPER,
                                             .length_bytes = sizeof(*super),
                                             .iov = &iov,
                                             .n_iov = 1});
    return code < 0 ? code
                    : run(storage, (struct storage_req){.op = STORAGE_SYNC, .file = STORAGE_SUPER});
}

int store_format(struct storage *storage, const struct store_format *format)
{
    if (format->capacity_bytes && format->capacity_bytes < MIN_CAPACITY_BYTES)
        return ERR_BAD_SIZE;
    if (!format->capacity_bytes && storage->free_bytes(storage) < MIN_CAPACITY_BYTES)
        return -ENOSPC;
    _cleanup_free_ struct super_block *super = aligned_alloc(STORAGE_ALIGN_BYTES, sizeof(*super));
    if (!super)
        return -ENOMEM;
    /* Room for checkpoints is set aside now: a full file system must not stop them. A bit for each
     * page, twice over, and what tables and names take. */
    uint64_t bytes = format->capacity_bytes ? format->capacity_bytes : storage->free_bytes(storage);
    uint64_t checkpoint_bytes = (8u << 20) + bytes / PAGE_BYTES / 8 * 3;
    checkpoint_bytes -= checkpoint_bytes % BLOCK_BYTES;
    for (int i = 0; i < 2; i++) {
        int code = run(storage, (struct storage_req){.op = STORAGE_CREATE,
                                                     .file = STORAGE_CHECKPOINT(i),
                                                     .length_bytes = checkpoint_bytes});
        if (code < 0)
            return code;
    }
    int code =
        run(storage, (struct storage_req){
                         .op = STORAGE_CREATE, .file = STORAGE_SUPER, .length_bytes = BLOCK_BYTES});
    return code < 0 ? code : write_super(storage, format, super);
}

/* ---- opening -------------------------------------------------------------------------------- */

static int read_super(struct store *store)
{
    _cleanup_free_ struct super_block *super = aligned_alloc(STORAGE_ALIGN_BYTES, sizeof(*super));
    if (!super)
        return -ENOMEM;
    struct iovec iov = {super, sizeof(*super)};
    int res = run(store->storage, (struct storage_req){.op = STORAGE_READ,
                                                       .file = STORAGE_SUPER,
                                                       .length_bytes = sizeof(*super),
                                                       .iov = &iov,
                                                       .n_iov = 1});
    if (res < 0)
        return res == -ENOENT ? ERR_NOT_A_STORE : res;
    uint32_t crc = super->crc;
    super->crc = 0;
    if (res != sizeof(*super) || memcmp(super->magic, SUPER_MAGIC, sizeof(super->magic)) != 0)
        return ERR_NOT_A_STORE;
    if (super->version > FORMAT_VERSION || super->incompat)
        return ERR_FORMAT_NEWER;
    if (crc32c(0, super, sizeof(*super)) != crc || super->file_bytes != FILE_BYTES ||
        super->page_bytes != PAGE_BYTES)
        return ERR_DAMAGED;
    store->super = *super;
    return 0;
}

bool store_is_busy(const struct store *store)
{
    const struct log *log = store->log;
    if (log->n_inflight || log->syncing || log->table.inflight || log->n_creating ||
        log_files_are_busy(log))
        return true;
    return !cleaner_is_idle(log) || store->checkpoint.state >= CHECKPOINT_SYNC ||
           store->table->n_loading || check_is_busy(store);
}

/* Turn until a whole checkpoint that begins now is durable; ones of the map may come before it. */
int store_finish_checkpoint(struct store *store)
{
    uint64_t before = store->stats.checkpoints;
    uint32_t stuck_turns = 0;
    checkpoint_want(store);
    while (!store->log->error && store->stats.checkpoints == before) {
        bool more = store_dispatch(store);
        bool wait = !more && store_is_busy(store);
        stuck_turns = more || wait ? 0 : stuck_turns + 1;
        if (stuck_turns > MAX_STUCK_TURNS)
            return -ENOSPC; /* there is no file to write it to, and none can be made */
        store->storage->poll(store->storage, wait);
    }
    return store->log->error;
}

/* Nodes above count for more when they are dirty, as those below them are written. So what fits
 * when its writing begins is not asked again until it has ended, or a batch was applied. */
void store_set_table_fits(struct store *store)
{
    const struct table *table = store->table;
    struct log *log = store->log;
    bool writing = table->n_frozen || log->checkpoint_running;
    if (log->table_fits && writing && !log->replaying_seq && store->fits_seq == log->applied_seq)
        return;
    log->table_fits =
        log_table_fits(log, table->dirty_bytes + (uint64_t)table->n_above * NODE_MAX_BYTES);
    store->fits_seq = log->applied_seq;
}

/* Clean before anything new is written, if the crash left too few files: another crash, and
 * another, would leave none. */
static int find_files(struct store *store)
{
    uint32_t stuck_turns = 0;
    /* Where nothing more is to be won, the store opens as it is. */
    while (!store->log->error && log_may_find(store->log) && stuck_turns <= MAX_STUCK_TURNS &&
           !store_is_stopped(store)) {
        bool more = store_dispatch(store);
        bool wait = !more && store_is_busy(store);
        stuck_turns = more || wait ? 0 : stuck_turns + 1;
        store->storage->poll(store->storage, wait);
    }
    log_found(store->log);
    return store->log->error;
}

static void on_damage(void *arg, const struct tree *tree, uint32_t level, uint64_t index, int code)
{
    struct store *store = arg;
    if (!code) {
        store_event(store, STORE_EVENT_DAMAGE, ERR_CHECKSUM,
                    "disk %u: a bit of the page table's node %llu at level %u was flipped; it was "
                    "put right in memory, and \"varve check\" tells where it stands",
                    tree->family, (unsigned long long)index, level);
        return;
    }
    store->stats.checksum_errors++;
    store_event(store, STORE_EVENT_DAMAGE, code,
                "disk %u: the page table's node %llu at level %u cannot be read (%s); "
                "%llu pages from page %llu on give errors",
                tree->family, (unsigned long long)index, level, err_text(code),
                1ULL << (level + 1) * NODE_BITS,
                (unsigned long long)index << (level + 1) * NODE_BITS);
}

static void store_free(struct store *store)
{
    if (!store)
        return;
    while (store->log && store->table && store_is_busy(store))
        store->storage->poll(store->storage, true);
    check_free(store);
    measures_free(store);
    splice_free(store);
    since_free(store->since);
    if (store->table)
        catalogue_free(store);
    free(store->checkpoint.buf);
    free(store->checkpoint.last.bytes);
    table_free(store->table);
    page_cache_free(store->cache);
    log_free(store->log);
    free(store);
}

static void free_store(struct store **store)
{
    store_free(*store);
}

static struct store *store_new(struct storage *storage, const struct store_config *config)
{
    struct store *store = calloc(1, sizeof(*store));
    if (!store)
        return NULL;
    store->storage = storage;
    store->config = *config;
    if (!store->config.checkpoint_bytes)
        store->config.checkpoint_bytes = store_config_default.checkpoint_bytes;
    store->client = (struct log_client){on_applied, on_room, on_no_space, on_failed};
    list_init(&store->vms);
    list_init(&store->leaving);
    list_init(&store->dying);
    list_init(&store->measures);
    list_init(&store->room_waiters);
    list_init(&store->applied_waiters);
    list_init(&store->scan_waiters);
    store->scan_leaves = SCAN_LEAVES;
    list_init(&store->changes);
    for (int i = 0; i < LOCK_BUCKETS; i++)
        list_init(&store->locks[i]);
    for (int i = 0; i < NAME_BUCKETS; i++) {
        list_init(&store->vm_names[i]);
        list_init(&store->version_names[i]);
        list_init(&store->disk_ids[i]);
    }
    return store;
}

int store_open(struct storage *storage, const struct store_config *config, struct store **ret)
{
    _cleanup_(free_store) struct store *store = store_new(storage, config);
    struct log_position position;
    if (!store)
        return -ENOMEM;
    int code = read_super(store);
    if (code == 0)
        code = splice_create(store);
    if (code == 0)
        code = log_create(storage, &store->client, &store->super, &store->log);
    if (code == 0)
        code = table_create(store->log, store->config.table_bytes, &store->table);
    if (code == 0)
        code = page_cache_create(store->config.cache_bytes, &store->cache);
    if (code < 0)
        return code;
    store->table->damage = on_damage;
    store->table->damage_arg = store;
    code = checkpoint_load(store, &position);
    if (code == 0)
        code = store_replay(store, &position);
    if (code == 0)
        code = find_files(store);
    if (code == 0)
        code = changes_drop_provisional(store);
    if (code < 0)
        return code;
    *ret = TAKE_PTR(store);
    return 0;
}

/* ---- closing -------------------------------------------------------------------------------- */

int store_close(struct store *store)
{
    int code = store->log->error;
    while (!code && (store->log->open && store->log->open->n_items)) {
        bool more = store_dispatch(store);
        store->storage->poll(store->storage, !more && store_is_busy(store));
        code = store->log->error;
    }
    store->log->closing = true;
    uint32_t stuck_turns = 0;
    while (!code && store->checkpoint.state != CHECKPOINT_IDLE) {
        bool more = store_dispatch(store);
        bool wait = !more && store_is_busy(store);
        stuck_turns = more || wait ? 0 : stuck_turns + 1;
        store->storage->poll(store->storage, wait);
        code = stuck_turns > MAX_STUCK_TURNS ? -ENOSPC : store->log->error;
    }
    store->checkpoint.clean = true;
    if (!code)
        code = store_finish_checkpoint(store);
    store_free(store);
    return code;
}

/* ---- a turn of the loop --------------------------------------------------------------------- */

#define NODES_A_TURN 64u
/* A snapshot waits. No more than half of the room that log_table_room() speaks of. */
#define NODES_IN_A_HURRY (FILE_BYTES / 4 / NODE_MAX_BYTES)
#define TABLE_BUFS       8u

/* Write some of the nodes that versions and checkpoints froze. */
static bool write_frozen(struct store *store)
{
    struct table *table = store->table;
    struct log *log = store->log;
    bool more = false;
    if (table->n_frozen && !log->error && log->table.inflight < TABLE_BUFS && log_table_room(log)) {
        int code = table_write_some(table, store->hurry ? NODES_IN_A_HURRY : NODES_A_TURN);
        if (code < 0)
            log_fail(log, code, "writing page tables");
        store->hurry = false;
        more = table->n_frozen && log->table.inflight < TABLE_BUFS && log_table_room(log);
    }
    table_wake(table);
    return more;
}

bool store_dispatch(struct store *store)
{
    struct log *log = store->log;
    if (store->applied_again) {
        store->applied_again = false;
        wake_applied(store);
    }
    if (store->room_again && !list_empty(&store->room_waiters)) {
        store->room_again = false;
        room_waiters_wake(store);
    }
    log->table_tight = log_table_bytes(log) < 2 * store->table->dirty_bytes;
    store_set_table_fits(store);
    scans_go_on(store);
    changes_step(store);
    bool more = checkpoint_step(store);
    more |= write_frozen(store);
    more |= splice_step(store);
    more |= measure_step(store);
    cleaner_step(log);
    log_prepare(log);
    log_dispatch(log);
    log_kick_sync(log);
    table_shrink(store->table);
    more |= check_step(store);
    more |=
        table_wake(store->table); /* so that a root that was asked for in this turn is on its way */
    return more || log->turn_again || !list_empty(&store->scan_waiters) ||
           (store->room_again && !list_empty(&store->room_waiters));
}

void store_tick(struct store *store)
{
    struct log *log = store->log;
    bool idle = log->stats.batches == store->tick_batches;
    store->tick_batches = log->stats.batches;
    store->idle = idle;
    store->splice_pauses = false;
    since_tick(store);
    log_tidy(log, idle);
    if (idle && (log->bytes_since_checkpoint || log->n_dead))
        checkpoint_want(store);
}

/* ---- what it tells -------------------------------------------------------------------------- */

bool store_is_read_only(const struct store *store)
{
    return store->log->error != 0;
}

void store_space(const struct store *store, struct store_space *ret)
{
    const struct log *log = store->log;
    uint64_t tables = log->table_slots << TABLE_SHIFT;
    uint64_t data = log->data_slots << DATA_SHIFT;
    uint64_t used = log_used_bytes(log);
    *ret = (struct store_space){
        .capacity = (uint64_t)log->max_files * FILE_BYTES,
        .reserve = (uint64_t)log->reserve_files * FILE_BYTES,
        .data = data,
        .tables = tables,
        .dead = used > data + tables ? used - data - tables : 0,
        .pending = splice_pending_pages(store) * PAGE_BYTES,
        .available = log_room_pages(log) * PAGE_BYTES,
        .allocated = (uint64_t)log->n_files * FILE_BYTES,
    };
}

static uint32_t put_counter(struct store_counter *to, uint32_t max, uint32_t n, const char *name,
                            const char *description, uint64_t value)
{
    if (n < max)
        to[n] = (struct store_counter){name, description, value};
    return n + 1;
}

uint32_t store_counters(const struct store *store, struct store_counter *ret, uint32_t max)
{
    const struct store_stats *s = &store->stats;
    const struct log_stats *g = &store->log->stats;
    const struct table_stats *t = &store->table->stats;
    struct page_cache_stats c;
    page_cache_stats(store->cache, &c);
    const struct store_counter all[] = {
        {"reads", "read requests", s->reads},
        {"read_bytes", "bytes that read requests asked for", s->read_bytes},
        {"writes", "write requests", s->writes},
        {"write_bytes", "bytes that write requests brought", s->write_bytes},
        {"flushes", "flush requests", s->flushes},
        {"trims", "trim requests", s->trims},
        {"zeroes", "write-zeroes requests", s->zeroes},
        {"partial_writes", "pages that a request changed in part", s->partial_writes},
        {"page_locks_waited", "requests that waited for a page being changed in part",
         s->locks_waited},
        {"log_reads", "reads of pages from log files", s->disk_reads},
        {"log_read_bytes", "bytes of them", s->disk_read_bytes},
        {"cache_hits", "pages found in memory", c.hits},
        {"cache_misses", "pages not found in memory", c.misses},
        {"cache_bytes", "pages held in memory", c.bytes},
        {"checksum_errors", "pages and table nodes that did not match their checksum",
         s->checksum_errors},
        {"batches", "batches written to the log", g->batches},
        {"batch_pages", "pages in them", g->batch_pages},
        {"batch_bytes", "bytes of them, with their headers", g->batch_bytes},
        {"batch_us", "microseconds that batches took to be written, added up", g->batch_us},
        {"table_bytes", "bytes of page-table nodes written", g->table_bytes},
        {"checkpoint_bytes", "bytes of checkpoints written", g->checkpoint_bytes},
        {"clean_read_bytes", "bytes that cleaning read", g->clean_bytes_read},
        {"clean_write_bytes", "bytes that cleaning wrote", g->clean_bytes_written},
        {"clean_put_off", "files whose cleaning was put off, as a block could not be read",
         g->clean_put_off},
        {"clean_read_errors", "blocks that cleaning could not read", g->clean_read_errors},
        {"files_cleaned", "log files cleaned", g->files_cleaned},
        {"files_created", "log files created", g->files_created},
        {"files_removed", "log files given back to the file system", g->files_removed},
        {"files_reused", "log files used again", g->files_reused},
        {"files_free", "log files that hold nothing", store->log->n_free},
        {"files_dead", "log files that the next checkpoint frees", store->log->n_dead},
        {"syncs", "syncs of log files", g->syncs},
        {"syncs_ahead", "times that log files were synced before anybody asked", g->syncs_ahead},
        {"room_waits", "times a write found no room in the log at once", g->room_waits},
        {"checkpoints", "checkpoints of the page tables", s->checkpoints},
        {"map_checkpoints", "checkpoints of the segment map alone", s->map_checkpoints},
        {"map_increments", "of these, such as only say what changed in it", s->map_increments},
        {"checkpoint_us", "microseconds from their beginnings to their ends", s->checkpoint_us},
        {"replayed_batches", "batches read again when the store was opened", s->replayed_batches},
        {"reclaimed_nodes", "table nodes of removed versions and disks gone through",
         s->reclaimed_nodes},
        {"reclaimed_pages", "pages of them freed", s->reclaimed_pages},
        {"reclaimed_versions", "removed versions and disks of which nothing is left",
         s->reclaimed_versions},
        {"unreclaimed_pages", "pages passed over because their table could not be read",
         s->unreclaimed_pages},
        {"pending_bytes", "at most so much will still be freed",
         splice_pending_pages(store) * PAGE_BYTES},
        {"refused_full", "writes refused because the store was full", s->full},
        {"table_memory_bytes", "page-table nodes in memory", store->table->bytes},
        {"table_dirty_bytes", "of them, not yet in a checkpoint", store->table->dirty_bytes},
        {"table_nodes", "page-table nodes in memory", store->table->n_nodes},
        {"table_loads", "page-table nodes read", t->loads},
        {"table_load_bytes", "bytes of them", t->load_bytes},
        {"table_mended", "of them, a flipped bit put right", t->mended},
        {"table_evictions", "page-table nodes that left memory", t->evictions},
        {"table_writes", "page-table nodes written", t->nodes_written},
        {"table_deltas", "of them, as deltas", t->deltas_written},
    };
    uint32_t n = 0;
    for (uint32_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        n = put_counter(ret, max, n, all[i].name, all[i].description, all[i].value);
    return n;
}
