/* checkpoint.c - making the page tables, the segment map and the catalogue durable, and loading
 * them.
 *
 * After a checkpoint recovery need not read the log before its position, and what died before it
 * began may be used again. Two files take turns, so one is always whole.
 *
 *   IDLE --wanted, and nothing forbids it: begin()--> NODES
 *   NODES --all frozen nodes written, map taken--> DRAIN
 *   DRAIN --nodes and footers are on the medium--> SYNC
 *   SYNC --log files synced--> WRITE --checkpoint file written--> COMMIT --synced--> IDLE
 *
 * What it says is the state between two batches: the one at which it began (table.h, map.c). */
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/mono.h"
#include "image/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NODES_A_TURN     64u
#define MAP_FILES_A_TURN 64u
#define TABLE_BUFS       8u
#define INCREMENT_BYTES  (64u << 10) /* those of a checkpoint may take so much, or half its size */
#define MAX_BODY_BYTES   (512ULL << 30) /* more than 2^32 segments need */
#ifndef VARVE_SMALL_FILES
#define PIECE_BYTES (8u << 20) /* written at a time */
#else
#define PIECE_BYTES (2 * BLOCK_BYTES)
#endif

void checkpoint_want(struct store *store)
{
    store->checkpoint.wanted = true;
    store->log->checkpoint_wanted = store->checkpoint.state == CHECKPOINT_IDLE;
}

static size_t pad(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* How far increments may go behind a checkpoint of so many bytes, its header counted. */
static size_t increments_end(size_t checkpoint_bytes)
{
    size_t half = checkpoint_bytes / 2 / BLOCK_BYTES * BLOCK_BYTES;
    return checkpoint_bytes + (half > INCREMENT_BYTES ? half : INCREMENT_BYTES);
}

/* ---- the roots ------------------------------------------------------------------------------ */

/* The root as it was when the checkpoint began: of all that are heads, also of one that is no head
 * any more, and of a version whose root was not written yet. The others stood in the catalogue. */
static void put_root(struct checkpoint *c, struct disk *disk)
{
    struct tree_changes *changes = disk->tree.changes;
    const struct entry *root = changes ? &changes->checkpoint_root : &disk->tree.root_entry;
    if (disk->root_offset && (!changes || changes->in_checkpoint))
        memcpy(c->buf + BLOCK_BYTES + disk->root_offset, root, sizeof(*root));
}

/* A head has its root now, gets it when what has changed is written (table_freeze()), or, while it
 * is still being written for a version, from that. What is written to it from here on, and maybe
 * made a version of, is not to be in it. */
static void expect_root(struct checkpoint *c, struct disk *disk)
{
    struct tree_changes *changes = disk->tree.changes;
    if (!changes)
        return;
    changes->in_checkpoint = true;
    if (!disk->tree.origin)
        changes->checkpoint_root = disk->tree.root_entry;
}

static void forget_root(struct checkpoint *c, struct disk *disk)
{
    disk->root_offset = 0;
    if (disk->tree.changes)
        disk->tree.changes->in_checkpoint = false;
}

typedef void disk_fn(struct checkpoint *c, struct disk *disk);

static void for_disks(struct store *store, const struct list *disks, disk_fn *fn)
{
    list_for_each (l, disks)
        fn(&store->checkpoint, container_of(l, struct disk, link));
}

static void for_each_disk(struct store *store, disk_fn *fn)
{
    list_for_each (l, &store->vms) {
        struct vm *vm = container_of(l, struct vm, link);
        for_disks(store, &vm->disks, fn);
        list_for_each (k, &vm->versions)
            for_disks(store, &container_of(k, struct version, link)->disks, fn);
    }
    list_for_each (l, &store->dying)
        for_disks(store, &container_of(l, struct version, link)->disks, fn);
}

/* ---- beginning ------------------------------------------------------------------------------ */

/* May the map be made durable without the tables? What the last whole checkpoint has must still be
 * all there is but for pages: recovery does its tail again over the newer map. */
static bool may_be_map_only(const struct store *store)
{
    const struct last_whole *last = &store->checkpoint.last;
    return last->bytes && last->n_changes == store->n_changes && !store->log->tail_cleaned &&
           list_empty(&store->dying);
}

static bool is_due(struct store *store, bool *ret_map_only)
{
    struct log *log = store->log;
    log->map_will_do = may_be_map_only(store);
    /* A whole one might not find room for its nodes, and one of the map wins some. */
    *ret_map_only =
        log->map_will_do && log->data_file && log_wants_checkpoint(log, true) && log->table_tight;
    if (*ret_map_only)
        return true;
    if (store->checkpoint.wanted || log_may_start(log))
        return true;
    if (log->bytes_since_checkpoint >= store->config.checkpoint_bytes ||
        cleaner_wants_checkpoint(log))
        return true;
    *ret_map_only = log->map_will_do && log_wants_checkpoint(log, true);
    return *ret_map_only || log_wants_checkpoint(log, false);
}

static void start(struct store *store, bool map_only, bool increment)
{
    struct checkpoint *c = &store->checkpoint;
    c->map_only = map_only;
    c->increment = increment;
    c->seq = store->log->checkpoint_seq + 1;
    if (!increment && c->seq % 2 == c->base.seq % 2)
        c->seq++; /* it goes into the other file */
    c->started_us = mono_us();
    c->state = CHECKPOINT_NODES;
    store->log->checkpoint_wanted = false;
    store->log->checkpoint_running = c->seq;
}

static int begin(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    struct log *log = store->log;
    uint32_t files;

    log_start(log);
    int code = log_position_now(log, &c->position);
    if (code < 0)
        return code;
    cleaner_write_footers(log);
    catalogue_save(store, NULL, &c->catalogue_bytes);
    c->catalogue_bytes = pad(c->catalogue_bytes, 8);
    /* What it writes is in memory now: dirty nodes, and those above them. In the log a node takes
     * no more than in memory, and a few bytes for a child that it did not have. */
    size_t map_bytes = log_map_size(log, store->table->bytes, &files);
    c->buf_bytes = pad(BLOCK_BYTES + c->catalogue_bytes + map_bytes, BLOCK_BYTES);
    c->buf = aligned_alloc(STORAGE_ALIGN_BYTES, c->buf_bytes);
    if (!c->buf)
        return -ENOMEM;
    size_t ignored;
    memset(c->buf, 0, BLOCK_BYTES + c->catalogue_bytes);
    catalogue_save(store, c->buf + BLOCK_BYTES, &ignored);
    c->next_id = store->next_id;
    c->n_changes = store->n_changes;
    c->any_dying = !list_empty(&store->dying);
    c->map_seq = 0;
    c->wanted = false;
    log->bytes_since_checkpoint = 0;
    log->tail_cleaned = false;
    start(store, false, false);
    log_map_begin(log, c->buf + BLOCK_BYTES + c->catalogue_bytes, map_bytes);
    for_each_disk(store, expect_root);
    table_freeze(store->table);
    return 0;
}

/* The position stays that of the last whole one. */
static int begin_map(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    struct log *log = store->log;
    size_t map_bytes = log_map_size_of_data(log) + c->last.table_bytes;
    c->catalogue_bytes = c->last.catalogue_bytes;
    c->buf_bytes = pad(BLOCK_BYTES + c->catalogue_bytes + map_bytes, BLOCK_BYTES);
    c->buf = aligned_alloc(STORAGE_ALIGN_BYTES, c->buf_bytes);
    if (!c->buf)
        return -ENOMEM;
    memset(c->buf, 0, BLOCK_BYTES);
    memcpy(c->buf + BLOCK_BYTES, c->last.bytes, c->catalogue_bytes);
    c->next_id = c->last.next_id;
    c->map_seq = log->applied_seq;
    start(store, true, false);
    log_map_begin_data(log, c->buf + BLOCK_BYTES + c->catalogue_bytes, map_bytes);
    return 0;
}

/* Of the map alone, and of that what changed: behind the last one that has it whole. -EFBIG: it has
 * no room. */
static int begin_increment(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    struct log *log = store->log;
    struct log_increment sizes;
    if (c->base.at >= c->base.limit)
        return -EFBIG;
    c->buf_bytes = pad(sizeof(struct map_increment) + log_increment_size(log), BLOCK_BYTES);
    if (c->buf_bytes > c->base.limit - c->base.at)
        return -EFBIG;
    c->buf = aligned_alloc(STORAGE_ALIGN_BYTES, c->buf_bytes);
    if (!c->buf)
        return -ENOMEM;
    start(store, true, true);
    struct map_increment *m = (struct map_increment *)c->buf;
    memset(c->buf, 0, c->buf_bytes);
    log_increment_take(log, (uint8_t *)(m + 1), &sizes);
    memcpy(m->magic, INCREMENT_MAGIC, sizeof(m->magic));
    m->bytes = sizeof(*m) + sizes.bytes;
    memcpy(m->uuid, log->uuid, sizeof(m->uuid));
    m->incarnation = log->incarnation;
    m->base = c->base.seq;
    m->seq = c->seq;
    m->map_seq = log->applied_seq;
    m->next_fill = log->next_fill;
    m->next_segment = log->next_segment;
    m->n_gone = sizes.n_gone;
    m->n_files = sizes.n_files;
    m->crc = crc32c(0, c->buf, m->bytes);
    c->iov = (struct iovec){c->buf, c->buf_bytes};
    c->state = CHECKPOINT_DRAIN;
    return 0;
}

static int begin_map_only(struct store *store)
{
    cleaner_write_footers(store->log); /* once: there may be no room for another before the last */
    int code = begin_increment(store);
    return code == -EFBIG ? begin_map(store) : code;
}

/* ---- the steps ------------------------------------------------------------------------------ */

static void put_header(struct store *store, const struct log_map_end *map)
{
    struct checkpoint *c = &store->checkpoint;
    struct log *log = store->log;
    struct checkpoint_header *h = (struct checkpoint_header *)c->buf;
    size_t body = c->catalogue_bytes + map->bytes;

    memset(h, 0, sizeof(*h));
    memcpy(h->magic, CHECKPOINT_MAGIC, sizeof(h->magic));
    h->version = FORMAT_VERSION;
    c->extensible = log_is_pressed(log) && !c->clean;
    h->incompat = CHECKPOINT_VERSIONS | (c->map_only ? CHECKPOINT_MAP_AHEAD : 0) |
                  (c->extensible ? CHECKPOINT_INCREMENTS : 0);
    memcpy(h->uuid, log->uuid, sizeof(h->uuid));
    h->seq = c->seq;
    h->time_us = wall_us();
    h->body_bytes = body;
    h->body_crc = crc32c(0, c->buf + BLOCK_BYTES, body);
    h->clean = c->clean && !c->map_only;
    h->incarnation = log->incarnation;
    h->batch_seq = c->position.seq;
    h->position_file = c->position.file;
    h->position_segment = c->position.segment;
    h->position_slot = c->position.slot;
    h->next_segment = log->next_segment;
    h->next_fill = log->next_fill;
    h->next_id = c->next_id;
    h->n_files = map->n_files + (c->map_only ? c->last.n_table_files : 0);
    h->catalogue_bytes = c->catalogue_bytes;
    h->map_bytes = map->bytes;
    h->map_seq = c->map_seq;
    h->crc = crc32c(0, h, sizeof(*h));
    size_t used = BLOCK_BYTES + body;
    memset(c->buf + used, 0, pad(used, BLOCK_BYTES) - used);
    c->iov = (struct iovec){c->buf, pad(used, BLOCK_BYTES)};
}

static void failed(struct store *store, int error, const char *what)
{
    /* The buffer stays: the log may still put records of the map into it. */
    log_fail(store->log, error, what);
    store->checkpoint.state = CHECKPOINT_IDLE;
}

/* Where files are short, keep what checkpoints of the map alone will repeat. */
static void keep_whole(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    struct last_whole *last = &c->last;
    free(last->bytes);
    last->bytes = NULL;
    if (!log_is_pressed(store->log) || c->any_dying)
        return;
    last->catalogue_bytes = c->catalogue_bytes;
    last->table_bytes = c->map.bytes - c->map.tables_at;
    last->n_table_files = c->map.n_table_files;
    last->next_id = c->next_id;
    last->n_changes = c->n_changes;
    last->bytes = malloc(last->catalogue_bytes + last->table_bytes);
    if (!last->bytes)
        return; /* then whole ones will do */
    const uint8_t *body = c->buf + BLOCK_BYTES;
    memcpy(last->bytes, body, last->catalogue_bytes);
    memcpy(last->bytes + last->catalogue_bytes, body + last->catalogue_bytes + c->map.tables_at,
           last->table_bytes);
}

static void whole_committed(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    store->stats.checkpoints++;
    store->log->tables_seq = c->position.seq;
    keep_whole(store);
    if (!check_take_body(store, c->buf))
        free(c->buf);
    for_each_disk(store, forget_root);
}

static void full_committed(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    size_t bytes = c->iov.iov_len;
    c->base = (struct checkpoint_base){c->seq, bytes, c->extensible ? increments_end(bytes) : 0};
    if (!c->map_only)
        whole_committed(store);
    else
        free(c->buf);
}

static void committed(struct storage_req *req, int res)
{
    struct store *store = container_of(req, struct store, checkpoint.req);
    struct checkpoint *c = &store->checkpoint;
    if (res < 0) {
        failed(store, res, "syncing a checkpoint");
        return;
    }
    store->stats.checkpoint_us += mono_us() - c->started_us;
    store->log->stats.checkpoint_bytes += c->iov.iov_len;
    store->stats.map_checkpoints += c->map_only;
    store->stats.map_increments += c->increment;
    if (c->increment) {
        c->base.at += c->iov.iov_len;
        free(c->buf);
    } else {
        full_committed(store);
    }
    c->buf = NULL;
    c->state = CHECKPOINT_IDLE;
    log_checkpoint_done(store->log, c->seq, c->map_only);
}

static uint32_t file_of(const struct checkpoint *c)
{
    return STORAGE_CHECKPOINT((c->increment ? c->base.seq : c->seq) % 2);
}

static void write_piece(struct store *store);

static void written(struct storage_req *req, int res)
{
    struct store *store = container_of(req, struct store, checkpoint.req);
    struct checkpoint *c = &store->checkpoint;
    if (res < 0) {
        failed(store, res, "writing a checkpoint");
        return;
    }
    c->written_bytes += c->piece.iov_len;
    if (c->written_bytes < c->iov.iov_len) {
        write_piece(store);
        return;
    }
    c->state = CHECKPOINT_COMMIT;
    *req = (struct storage_req){
        .done = committed, .op = STORAGE_SYNC, .file = file_of(&store->checkpoint)};
    store->storage->submit(store->storage, req);
}

/* One after the other: a storage has a limit for one request, a large store's map has not. */
static void write_piece(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    size_t left = c->iov.iov_len - c->written_bytes;
    c->piece = (struct iovec){(uint8_t *)c->iov.iov_base + c->written_bytes,
                              left < PIECE_BYTES ? left : PIECE_BYTES};
    c->req =
        (struct storage_req){.done = written,
                             .op = STORAGE_WRITE,
                             .file = file_of(c),
                             .offset_bytes = (c->increment ? c->base.at : 0) + c->written_bytes,
                             .length_bytes = c->piece.iov_len,
                             .iov = &c->piece,
                             .n_iov = 1};
    store->storage->submit(store->storage, &c->req);
}

static void log_synced(struct waiter *waiter, int error)
{
    struct store *store = container_of(waiter, struct store, checkpoint.waiter);
    struct checkpoint *c = &store->checkpoint;
    if (error) {
        failed(store, error, "syncing the log for a checkpoint");
        return;
    }
    c->state = CHECKPOINT_WRITE;
    c->written_bytes = 0;
    write_piece(store);
}

static bool map_step(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    if (log_map_step(store->log, MAP_FILES_A_TURN)) {
        log_map_finish_data(store->log, c->last.bytes + c->last.catalogue_bytes,
                            c->last.table_bytes, &c->map);
        put_header(store, &c->map);
        c->state = CHECKPOINT_DRAIN;
    }
    return true;
}

/* Some nodes, some files of the map. Returns true when there is more that waits for nothing. */
static bool nodes_step(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    struct log *log = store->log;
    if (c->map_only)
        return map_step(store);
    /* One whose nodes are written needs no more room; should it free none either, it waits as if it
     * did: who opens a store on a full file system is to hear of that. */
    bool needs_room = !table_is_written(store->table) || !log->n_dead;
    if (log->table.inflight >= TABLE_BUFS || (needs_room && !log_table_room(log)))
        return false;
    bool map_taken = log_map_step(log, MAP_FILES_A_TURN);
    if (!table_is_written(store->table) || !map_taken)
        return true;
    log_table_flush(log);
    int code = log_map_finish(log, &c->map);
    if (code < 0) {
        failed(store, code, "taking the map of a checkpoint");
        return false;
    }
    for_each_disk(store, put_root);
    put_header(store, &c->map);
    c->state = CHECKPOINT_DRAIN;
    return true;
}

bool checkpoint_step(struct store *store)
{
    struct checkpoint *c = &store->checkpoint;
    struct log *log = store->log;
    bool map_only;
    if (log->error)
        return false;
    if (c->state == CHECKPOINT_IDLE) {
        if (!is_due(store, &map_only))
            return false;
        if (!map_only)
            checkpoint_want(store);
        if (!cleaner_may_checkpoint(log) || store->change_logged ||
            (!map_only && !table_may_freeze(store->table)))
            return false;
        int code = map_only ? begin_map_only(store) : begin(store);
        if (code < 0 && code != -EAGAIN)
            failed(store, code, "beginning a checkpoint");
        return code == 0;
    }
    if (c->state == CHECKPOINT_NODES)
        return nodes_step(store);
    if (c->state == CHECKPOINT_DRAIN && (c->map_only || !log->table.inflight) &&
        cleaner_footers_done(log)) {
        c->state = CHECKPOINT_SYNC;
        c->waiter.wake = log_synced;
        log_sync_all(log, &c->waiter);
    }
    return false;
}

/* ---- an empty store ------------------------------------------------------------------------- */

int checkpoint_format(struct storage *storage, const struct super_block *super)
{
    _cleanup_free_ struct checkpoint_header *h = aligned_alloc(STORAGE_ALIGN_BYTES, sizeof(*h) * 2);
    if (!h)
        return -ENOMEM;
    memset(h, 0, sizeof(*h) * 2); /* a body of 8 zero bytes: no vms */
    memcpy(h->magic, CHECKPOINT_MAGIC, sizeof(h->magic));
    h->version = FORMAT_VERSION;
    memcpy(h->uuid, super->uuid, sizeof(h->uuid));
    h->seq = 1;
    h->time_us = super->created_us;
    h->catalogue_bytes = h->body_bytes = 8;
    h->body_crc = crc32c(0, h + 1, 8);
    h->clean = 1;
    h->incarnation = 1;
    h->position_file = NO_FILE;
    h->next_segment = 1;
    h->next_fill = 1;
    h->next_id = 1;
    h->crc = crc32c(0, h, sizeof(*h));
    struct iovec iov = {h, sizeof(*h) * 2};
    struct storage_req req = {.op = STORAGE_WRITE,
                              .file = STORAGE_CHECKPOINT(1),
                              .length_bytes = iov.iov_len,
                              .iov = &iov,
                              .n_iov = 1};
    int code = storage_run(storage, &req);
    if (code < 0)
        return code;
    req = (struct storage_req){.op = STORAGE_SYNC, .file = STORAGE_CHECKPOINT(1)};
    return storage_run(storage, &req);
}

/* ---- loading -------------------------------------------------------------------------------- */

static int read_at(struct store *store, uint32_t file, uint64_t offset, void *buf, size_t len)
{
    struct iovec iov = {buf, len};
    struct storage_req req = {.op = STORAGE_READ,
                              .file = file,
                              .offset_bytes = offset,
                              .length_bytes = len,
                              .iov = &iov,
                              .n_iov = 1};
    int res = storage_run(store->storage, &req);
    if (res < 0)
        return res == -ENOENT ? ERR_DAMAGED : res;
    return (size_t)res == len ? 0 : ERR_DAMAGED;
}

/* The header of one of the two files, if it is whole. */
static int load_header(struct store *store, int which, struct checkpoint_header *h)
{
    int code = read_at(store, STORAGE_CHECKPOINT(which), 0, h, sizeof(*h));
    if (code < 0)
        return code;
    uint32_t crc = h->crc;
    h->crc = 0;
    if (memcmp(h->magic, CHECKPOINT_MAGIC, sizeof(h->magic)) != 0 ||
        crc32c(0, h, sizeof(*h)) != crc)
        return ERR_DAMAGED;
    if (h->version > FORMAT_VERSION ||
        h->incompat &
            ~(uint64_t)(CHECKPOINT_VERSIONS | CHECKPOINT_MAP_AHEAD | CHECKPOINT_INCREMENTS))
        return ERR_FORMAT_NEWER;
    if (h->incompat & CHECKPOINT_MAP_AHEAD && h->map_seq < h->batch_seq)
        return ERR_DAMAGED;
    if (memcmp(h->uuid, store->super.uuid, sizeof(h->uuid)) != 0 ||
        h->body_bytes > MAX_BODY_BYTES || h->catalogue_bytes > h->body_bytes ||
        h->map_bytes != h->body_bytes - h->catalogue_bytes || h->catalogue_bytes % 8 || h->seq == 0)
        return ERR_DAMAGED;
    return 0;
}

static int load_body(struct store *store, int which, const struct checkpoint_header *h,
                     uint8_t **ret)
{
    size_t bytes = pad(h->body_bytes + 1, BLOCK_BYTES);
    size_t want = pad(h->body_bytes, BLOCK_BYTES);
    _cleanup_free_ uint8_t *body = aligned_alloc(STORAGE_ALIGN_BYTES, bytes);
    if (!body)
        return -ENOMEM;
    /* In pieces: one read moves at most 2 GiB. */
    for (size_t at = 0; at < want;) {
        size_t n = want - at < 8u << 20 ? want - at : 8u << 20;
        int code = read_at(store, STORAGE_CHECKPOINT(which), BLOCK_BYTES + at, body + at, n);
        if (code < 0)
            return code;
        at += n;
    }
    if (crc32c(0, body, h->body_bytes) != h->body_crc)
        return ERR_DAMAGED;
    *ret = TAKE_PTR(body);
    return 0;
}

/* The increment at *at of the checkpoint's file: *ret, to be freed, is NULL where there is none
 * that is whole and due. Moves *at past it. */
static int load_increment(struct store *store, int which, const struct checkpoint_header *h,
                          size_t *at, struct map_increment **ret)
{
    size_t end = increments_end(pad(BLOCK_BYTES + h->body_bytes, BLOCK_BYTES));
    _cleanup_free_ uint8_t *buf = aligned_alloc(STORAGE_ALIGN_BYTES, BLOCK_BYTES);
    *ret = NULL;
    if (*at >= end)
        return 0;
    if (!buf)
        return -ENOMEM;
    int code = read_at(store, STORAGE_CHECKPOINT(which), *at, buf, BLOCK_BYTES);
    if (code < 0)
        return code == ERR_DAMAGED ? 0 : code;
    const struct map_increment *m = (const struct map_increment *)buf;
    size_t bytes = m->bytes;
    if (memcmp(m->magic, INCREMENT_MAGIC, sizeof(m->magic)) != 0 || bytes < sizeof(*m) ||
        bytes > end - *at || memcmp(m->uuid, h->uuid, sizeof(m->uuid)) != 0 ||
        m->incarnation != h->incarnation || m->base != h->seq ||
        m->seq != store->log->checkpoint_seq + 1 || m->map_seq < store->log->map_seq ||
        m->map_seq < h->batch_seq)
        return 0;
    size_t padded = pad(bytes, BLOCK_BYTES);
    free(buf);
    buf = aligned_alloc(STORAGE_ALIGN_BYTES, padded);
    if (!buf)
        return -ENOMEM;
    code = read_at(store, STORAGE_CHECKPOINT(which), *at, buf, padded);
    if (code < 0)
        return code == ERR_DAMAGED ? 0 : code;
    struct map_increment *whole = (struct map_increment *)buf;
    uint32_t crc = whole->crc;
    whole->crc = 0;
    if (whole->bytes != bytes || crc32c(0, buf, bytes) != crc)
        return 0;
    *at += padded;
    *ret = (struct map_increment *)TAKE_PTR(buf);
    return 0;
}

/* The files of pages are where the last of the increments says. One that is not whole was torn, or
 * it is a loss: survey.c looks, as where one of the two checkpoints is not. */
static int load_increments(struct store *store, int which, const struct checkpoint_header *h)
{
    struct log *log = store->log;
    size_t at = pad(BLOCK_BYTES + h->body_bytes, BLOCK_BYTES);
    if (!(h->incompat & CHECKPOINT_INCREMENTS))
        return 0;
    log->older = true;
    for (;;) {
        _cleanup_free_ struct map_increment *m = NULL;
        int code = load_increment(store, which, h, &at, &m);
        if (code < 0 || !m)
            return code;
        struct log_increment sizes = {m->bytes - sizeof(*m), m->n_gone, m->n_files};
        code = log_load_increment(log, (const uint8_t *)(m + 1), &sizes);
        if (code < 0)
            return code;
        log->checkpoint_seq = m->seq;
        log->map_seq = m->map_seq;
        log->next_segment = m->next_segment;
        log->next_fill = m->next_fill;
    }
}

/* Footers that cannot be read take with them what is found by them, and no more. */
static int load_footers(struct store *store)
{
    const struct log *log = store->log;
    int code = log_load_footers(store->log);
    for (uint32_t i = 0; code == 0 && i < log->max_files; i++) {
        const struct log_file *file = log->files[i];
        if (!file || !file->damaged)
            continue;
        store->stats.checksum_errors++;
        store_event(store, STORE_EVENT_DAMAGE, ERR_CHECKSUM,
                    "log file %08x: the list of what is in it is damaged; up to %u %s in it "
                    "give errors",
                    i, file->n_live, file->shift == DATA_SHIFT ? "pages" : "slots of page tables");
    }
    return code;
}

static int take_body(struct store *store, int which, const struct checkpoint_header *h,
                     const uint8_t *body)
{
    struct log *log = store->log;
    store->checkpoint.base = (struct checkpoint_base){.seq = h->seq};
    log->checkpoint_seq = h->seq;
    log->incarnation = h->incarnation;
    log->map_seq = h->incompat & CHECKPOINT_MAP_AHEAD ? h->map_seq : 0;
    log->next_segment = h->next_segment;
    log->next_fill = h->next_fill;
    store->next_id = h->next_id;
    /* Before there were epochs, nodes were born in batches: any epoch that begins behind them will
     * do. */
    bool old = !(h->incompat & CHECKPOINT_VERSIONS);
    int code = catalogue_load(store, body, h->catalogue_bytes, old, h->batch_seq + (1ULL << 40));
    const uint8_t *at = body + h->catalogue_bytes;
    size_t len = h->map_bytes;
    for (uint32_t i = 0; code == 0 && i < h->n_files; i++)
        code = log_load_map_file(log, &at, &len);
    if (code == 0)
        code = load_increments(store, which, h);
    return code < 0 ? code : load_footers(store);
}

int checkpoint_load(struct store *store, struct log_position *ret_position)
{
    _cleanup_free_ struct checkpoint_header *h = aligned_alloc(STORAGE_ALIGN_BYTES, sizeof(*h) * 2);
    _cleanup_free_ uint8_t *body = NULL;
    int codes[2], best = -1;
    if (!h)
        return -ENOMEM;
    for (int i = 0; i < 2; i++)
        codes[i] = load_header(store, i, &h[i]);
    for (int tries = 0; tries < 2 && !body; tries++) {
        best = codes[0] == 0 && (codes[1] != 0 || h[0].seq > h[1].seq) ? 0 : 1;
        if (codes[best] < 0)
            break;
        codes[best] = load_body(store, best, &h[best], &body);
    }
    if (!body) {
        if (codes[0] == ERR_FORMAT_NEWER || codes[1] == ERR_FORMAT_NEWER)
            return ERR_FORMAT_NEWER;
        return codes[best] == -ENOMEM || codes[best] == -EIO ? codes[best] : ERR_DAMAGED;
    }
    /* It was written, but if the process died then it need not be durable: what follows relies on
     * it, the overwriting of the other one first of all. */
    struct storage_req sync = {.op = STORAGE_SYNC, .file = STORAGE_CHECKPOINT(best)};
    int code = storage_run(store->storage, &sync);
    if (code < 0)
        return code;
    /* The other one should be the one before. If it is not whole it may have been the one after. */
    store->log->older = codes[!best] < 0;
    *ret_position = (struct log_position){.file = h[best].position_file,
                                          .segment = h[best].position_segment,
                                          .slot = h[best].position_slot,
                                          .seq = h[best].batch_seq};
    return take_body(store, best, &h[best], body);
}
