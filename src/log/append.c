/* append.c - the data stream: batches, their order, and syncs.
 *
 * One batch is open and takes pages; it is sent when nothing else is in flight (so a lone writer
 * waits for nobody), when it has gathered enough, or when it is full. Batches in flight complete in
 * any order and are applied in theirs.
 *
 * A data file is left when too little of it remains. The last batch in it names the file that goes
 * on (next_file), so that recovery can follow; therefore a batch that might be the last is opened
 * only when the next file is at hand. */
#include "base/checksum.h"
#include "base/crc.h"
#include "base/huge.h"
#include "base/mono.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BATCHES          16 /* buffers, of a little over 1 MiB each */
#define MAX_INFLIGHT         12
#define GATHER_PAGES         16 /* enough to send a batch beside others in flight */
#define MAX_HELD_TURNS       128
#define GATHER_INFLIGHT      3
#define SYNC_AHEAD_BYTES     (512 << 10) /* unsynced, that are worth a sync nobody asked for */
#define SYNC_AHEAD_FOR_BYTES (64 << 20)  /* after a flush */
#define SYNC_AHEAD_REST      FILE_BYTES  /* later, and while nobody flushes at all */
#define BATCH_MAX_ITEMS      (BATCH_RECORDS_BYTES / sizeof(struct record))

#define BATCH_BUF_BYTES ((BATCH_MAX_PAGES + 1) * BLOCK_BYTES)

/* ---- making batches ------------------------------------------------------------------------- */

/* The buffers of all batches stand side by side in huge pages; they become memory as they are used,
 * and of the spare ones the last is used first. */
int batches_create(struct log *log)
{
    log->batch_bufs = huge_alloc((size_t)MAX_BATCHES * BATCH_BUF_BYTES);
    return log->batch_bufs ? 0 : -ENOMEM;
}

void batches_free(struct log *log)
{
    for (uint32_t i = 0; i < log->n_spare_batches; i++) {
        free(log->spare_batches[i]->items);
        free(log->spare_batches[i]);
    }
    huge_free(log->batch_bufs, (size_t)MAX_BATCHES * BATCH_BUF_BYTES);
}

static struct batch *batch_alloc(struct log *log)
{
    if (log->n_spare_batches)
        return log->spare_batches[--log->n_spare_batches];
    if (log->n_batches >= MAX_BATCHES)
        return NULL;
    struct batch *batch = calloc(1, sizeof(*batch));
    struct batch_item *items = calloc(BATCH_MAX_ITEMS, sizeof(*items));
    if (!batch || !items) {
        free(batch);
        free(items);
        return NULL;
    }
    batch->log = log;
    batch->buf = log->batch_bufs + (size_t)log->n_batches * BATCH_BUF_BYTES;
    batch->items = items;
    batch->max_items = BATCH_MAX_ITEMS;
    log->n_batches++;
    return batch;
}

/* Slots that remain, with which a batch can be opened while the next file is not known. */
#define MIN_LEFT (BATCH_MAX_PAGES + 4)

/* Slots that remain in the data file for batches. */
static uint32_t data_left(const struct log *log)
{
    return log->data_file ? DATA_SEGMENT_SLOTS - log->data_slot : 0;
}

bool log_is_stalled(const struct log *log)
{
    return log->data_file && !log->data_unnamed && !log->open && !log->n_inflight &&
           !log->next_data_file && data_left(log) < MIN_LEFT;
}

static bool switch_file(struct log *log)
{
    if (!log->next_data_file)
        log->next_data_file = file_take(log, true);
    if (!log->next_data_file)
        return false;
    struct log_file *next = log->next_data_file;
    uint32_t segment;
    if (log_number_segments(log, 1, &segment) < 0)
        return false;
    if (file_open(log, next, FILE_KIND_DATA, segment) < 0) {
        log_fail(log, -ENOMEM, "opening a log file");
        return false;
    }
    log->next_data_file = NULL;
    struct log_file *old = log->data_file;
    file_touch(log, old);
    old->used_slots = log->data_slot;
    old->sealed_batch = log->next_seq - 1;
    file_seal(log, old);
    log->data_file = next;
    log->data_segment = segment;
    log->data_slot = 1;
    log->flushes_here = 0;
    return true;
}

int log_position_now(struct log *log, struct log_position *ret)
{
    const struct batch *next = !list_empty(&log->inflight)
                                   ? container_of(log->inflight.next, struct batch, link)
                                   : log->open;
    if (!next && log->data_file && data_left(log) < 2 && !switch_file(log))
        return log->error ? log->error : -EAGAIN;
    ret->seq = log->applied_seq;
    if (next) {
        ret->file = next->file->number;
        ret->segment = next->segment;
        ret->slot = next->slot;
    } else {
        ret->file = log->data_file ? log->data_file->number : NO_FILE;
        ret->segment = log->data_segment;
        ret->slot = log->data_slot;
    }
    return 0;
}

static bool batch_open(struct log *log)
{
    /* A checkpoint must name the first data file (log_start()): nothing leads to it before. */
    if (!log->data_file || log->data_unnamed || (data_left(log) < 2 && !switch_file(log)))
        return false;
    /* May this be the last batch of the file? Then the next file must be known when it is sent. */
    if (data_left(log) < MIN_LEFT && !log->next_data_file)
        return false;
    struct batch *batch = batch_alloc(log);
    if (!batch)
        return false;
    uint32_t pages = data_left(log) - 1;
    list_init(&batch->link);
    batch->seq = log->next_seq++;
    batch->file = log->data_file;
    batch->segment = log->data_segment;
    batch->slot = log->data_slot;
    batch->max_pages = pages < BATCH_MAX_PAGES ? pages : BATCH_MAX_PAGES;
    batch->n_pages = batch->records_bytes = batch->n_items = 0;
    batch->urgent = batch->complete = false;
    log->open = batch;
    return true;
}

uint32_t batch_crc(const uint8_t uuid[16], const struct batch_header *header, const uint8_t *block)
{
    struct batch_header copy = *header;
    copy.crc = 0;
    uint32_t seed = crc32c(0, uuid, 16) ^ (uint32_t)header->incarnation ^ header->segment << 16;
    uint32_t crc = crc32c(seed, &copy, sizeof(copy));
    return crc32c(crc, block + sizeof(copy), BLOCK_BYTES - sizeof(copy));
}

static void batch_written(struct storage_req *req, int res);

static void batch_send(struct log *log)
{
    struct batch *batch = log->open;
    log->open = NULL;
    log->held_turns = 0;
    /* Slowly: batches that wait for less than the peak would else lower it, and then wait for still
     * less. */
    if (log->stats.batches % 64 == 0)
        log->peak_pages -= (log->peak_pages + 15) / 16;
    log->data_slot += 1 + batch->n_pages;
    file_touch(log, batch->file);
    batch->file->used_slots = log->data_slot;

    struct batch_header *header = (struct batch_header *)batch->buf;
    *header = (struct batch_header){
        .magic = BATCH_MAGIC,
        .seq = batch->seq,
        .incarnation = log->incarnation,
        .synced_seq = log->synced_seq,
        .time_us = wall_us(),
        .segment = batch->segment,
        .slot = batch->slot,
        .n_pages = batch->n_pages,
        .records_bytes = batch->records_bytes,
        .next_file = log->next_data_file ? log->next_data_file->number : NO_FILE,
        .checkpoint = (uint32_t)log->checkpoint_seq,
    };
    memset(batch->buf + sizeof(*header) + batch->records_bytes, 0,
           BATCH_RECORDS_BYTES - batch->records_bytes);
    header->crc = batch_crc(log->uuid, header, batch->buf);

    uint32_t bytes = (1 + batch->n_pages) * BLOCK_BYTES;
    batch->iov = (struct iovec){batch->buf, bytes};
    batch->req = (struct storage_req){.done = batch_written,
                                      .op = STORAGE_WRITE,
                                      .file = batch->file->number,
                                      .offset_bytes = (uint64_t)batch->slot * BLOCK_BYTES,
                                      .length_bytes = bytes,
                                      .iov = &batch->iov,
                                      .n_iov = 1};
    batch->sent_us = mono_us();
    batch->file->writers++;
    list_push_back(&log->inflight, &batch->link);
    log->n_inflight++;
    log->tidy = false;
    cleaner_pay(log, 1 + batch->n_pages);
    log->pages_inflight += batch->n_pages;
    log->stats.batches++;
    log->stats.batch_pages += batch->n_pages;
    log->stats.batch_bytes += bytes;
    log->bytes_since_checkpoint += bytes;
    log->storage->submit(log->storage, &batch->req);
}

/* ---- completion ----------------------------------------------------------------------------- */

static void batch_retire(struct log *log, struct batch *batch, int error)
{
    list_del(&batch->link);
    log->n_inflight--;
    log->pages_inflight -= batch->n_pages;
    if (!error)
        log->applied_seq = batch->seq;
    log->client->applied(log->client, batch, error);
    if (!error && batch->file->sealed_batch == batch->seq)
        file_check_dead(log, batch->file);
    log->spare_batches[log->n_spare_batches++] = batch;
}

void batches_retire(struct log *log)
{
    while (!list_empty(&log->inflight)) {
        struct batch *head = container_of(log->inflight.next, struct batch, link);
        /* Without the file's header nobody would miss its first batch (survey.c). */
        if (!head->complete || head->file->headless)
            break;
        batch_retire(log, head, log->error);
    }
    log_kick_sync(log);
    log->client->room(log->client);
}

static void batch_written(struct storage_req *req, int res)
{
    struct batch *batch = container_of(req, struct batch, req);
    struct log *log = batch->log;

    batch->complete = true;
    log->stats.batch_us += mono_us() - batch->sent_us;
    batch->file->writers--;
    file_mark_unsynced(log, batch->file, req->length_bytes);
    log->bytes_since_flush += req->length_bytes;
    if (res < 0)
        log_fail(log, res, "writing to the log");
    batches_retire(log);
}

/* ---- filling batches ------------------------------------------------------------------------ */

static bool batch_has_room(const struct batch *batch, uint32_t record_bytes)
{
    return batch->n_items < batch->max_items &&
           batch->records_bytes + record_bytes <= BATCH_RECORDS_BYTES &&
           batch->n_pages < batch->max_pages;
}

struct batch *log_batch(struct log *log, uint32_t record_bytes)
{
    if (log->error)
        return NULL;
    if (log->open && !batch_has_room(log->open, record_bytes)) {
        if (log->n_inflight >= MAX_INFLIGHT)
            return NULL;
        batch_send(log);
    }
    if (!log->open && !batch_open(log)) {
        log->stats.room_waits++;
        return NULL;
    }
    return log->open;
}

uint32_t batch_room_pages(const struct batch *batch)
{
    uint32_t by_records =
        (BATCH_RECORDS_BYTES - batch->records_bytes - sizeof(struct record)) / sizeof(uint32_t);
    uint32_t by_pages = batch->max_pages - batch->n_pages;
    /* Records are padded to 8 bytes. */
    by_records &= ~1u;
    return by_records < by_pages ? by_records : by_pages;
}

static struct batch_item *add_record(struct batch *batch, enum record_kind kind, uint32_t disk,
                                     uint64_t page, uint32_t count, uint32_t more_bytes)
{
    struct record *record =
        (struct record *)(batch->buf + sizeof(struct batch_header) + batch->records_bytes);
    *record = (struct record){.kind = kind, .count = count, .disk = disk, .page = page};
    struct batch_item *item = &batch->items[batch->n_items++];
    *item = (struct batch_item){.kind = kind, .count = count, .disk = disk, .page = page};
    item->sums_at = (uint8_t *)(record + 1) - batch->buf;
    batch->records_bytes += sizeof(*record) + ((more_bytes + 7) & ~7u);
    assert(batch->records_bytes <= BATCH_RECORDS_BYTES);
    return item;
}

struct batch_item *batch_add_write(struct log *log, struct batch *batch, uint32_t disk,
                                   uint64_t page, uint32_t count, const void *src)
{
    uint32_t slot = batch->slot + 1 + batch->n_pages;
    struct batch_item *item =
        add_record(batch, RECORD_WRITE, disk, page, count, count * sizeof(uint32_t));
    uint32_t *sums = (uint32_t *)(batch->buf + item->sums_at);
    uint8_t *dst = batch->buf + (1 + (size_t)batch->n_pages) * BLOCK_BYTES;
    const uint8_t *from = src;

    if (count % 2) /* else there is no padding, and behind the last sum the first page may begin */
        sums[count] = 0;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(dst, from, BLOCK_BYTES);
        uint64_t address = address_make(log->number, batch->segment, slot + i);
        sums[i] = checksum_at(address, dst, BLOCK_BYTES);
        dst += BLOCK_BYTES;
        from += BLOCK_BYTES;
    }
    item->slot = slot;
    batch->n_pages += count;
    return item;
}

struct batch_item *batch_add_range(struct batch *batch, enum record_kind kind, uint32_t disk,
                                   uint64_t page, uint32_t count)
{
    return add_record(batch, kind, disk, page, count, 0);
}

struct batch_item *batch_add_change(struct batch *batch, const void *bytes, uint32_t len)
{
    struct batch_item *item = add_record(batch, RECORD_CHANGE, 0, 0, len, len);
    batch->urgent = true;
    memset(batch->buf + item->sums_at, 0, (len + 7) & ~7u);
    memcpy(batch->buf + item->sums_at, bytes, len);
    return item;
}

/* Does anybody wait for the open batch to be durable? */
static bool open_is_awaited(const struct log *log)
{
    if (log->open->urgent)
        return true;
    if (list_empty(&log->sync_waiters))
        return false;
    return container_of(log->sync_waiters.prev, struct waiter, link)->seq >= log->open->seq;
}

/* In a store that lives from cleaning, and pays for it, room is what writers wait for, and each
 * batch takes a block for its header: so a batch waits for most of what the clients of late had in
 * flight together.
 * With no other batch in flight it waits for some turns only, and sees to it that they come. */
static bool hold_back(struct log *log)
{
    const struct batch *batch = log->open;
    uint32_t outstanding = log->pages_inflight + batch->n_pages;
    if (outstanding > log->peak_pages)
        log->peak_pages = outstanding;
    if (!log_is_pressed(log) || !cleaning_is_dear(log) ||
        batch->n_pages >= log->peak_pages - log->peak_pages / 16 || open_is_awaited(log))
        return false;
    if (log->n_inflight > 0)
        return true;
    log->turn_again = !cleaner_is_moving(log);
    return log->held_turns++ < MAX_HELD_TURNS;
}

void log_dispatch(struct log *log)
{
    struct batch *batch = log->open;
    log->turn_again = false;
    if (!batch || !batch->n_items)
        return;
    if (log->error) { /* it will never be written */
        log->open = NULL;
        log->client->applied(log->client, batch, log->error);
        log->spare_batches[log->n_spare_batches++] = batch;
        return;
    }
    bool full = !batch_has_room(batch, sizeof(struct record) + 8);
    if (!full && hold_back(log))
        return;
    if (log->n_inflight == 0 ||
        (batch->n_pages >= GATHER_PAGES && log->n_inflight < GATHER_INFLIGHT) ||
        (log->n_inflight < MAX_INFLIGHT && (full || open_is_awaited(log))))
        batch_send(log);
}

uint64_t log_last_seq(const struct log *log)
{
    if (log->open && !log->open->n_items)
        return log->open->seq - 1;
    return log->next_seq - 1;
}

/* ---- syncs ---------------------------------------------------------------------------------- */

/* A file is in log->unsynced while it holds unsynced writes, or its name may be as new, or a sync
 * of it is in flight. */
void file_mark_unsynced(struct log *log, struct log_file *file, uint64_t bytes)
{
    log->unsynced_bytes += bytes;
    file->unsynced = true;
    if (list_empty(&file->sync_link))
        list_push_back(&log->unsynced, &file->sync_link);
}

/* A sync of several files. */
struct sync_group {
    struct log *log;
    uint32_t left;
    struct waiter *waiter; /* of log_sync_all(), or NULL */
};

struct sync_one {
    struct storage_req req;
    struct sync_group *group;
    struct log_file *file;
};

static void wake_synced(struct log *log)
{
    while (!list_empty(&log->sync_waiters)) {
        struct waiter *waiter = container_of(log->sync_waiters.next, struct waiter, link);
        if (!log->error && waiter->seq > log->synced_seq)
            break;
        list_del(&waiter->link);
        waiter->wake(waiter, log->error);
    }
}

static void group_done(struct sync_group *group)
{
    struct log *log = group->log;
    if (group->waiter) {
        struct waiter *waiter = group->waiter;
        free(group);
        waiter->wake(waiter, log->error);
        return;
    }
    free(group);
    log->syncing = false;
    if (!log->error && log->sync_target > log->synced_seq)
        log->synced_seq = log->sync_target;
    wake_synced(log);
    log_kick_sync(log);
}

static void file_synced(struct storage_req *req, int res)
{
    struct sync_one *one = container_of(req, struct sync_one, req);
    struct sync_group *group = one->group;
    struct log_file *file = one->file;
    if (--file->syncing == 0 && !file->unsynced)
        list_del(&file->sync_link);
    group->log->stats.syncs++;
    /* At once: another group, which need not wait for this file any more, may end first. */
    if (res < 0)
        log_fail(group->log, res, "syncing the log");
    free(one);
    if (--group->left == 0)
        group_done(group);
}

/* Sync the files that hold unsynced writes, or whose sync is still in flight: a group's end says
 * that all that was complete at its beginning is durable. */
static int group_start(struct log *log, bool data_only, struct waiter *waiter)
{
    struct sync_group *group = calloc(1, sizeof(*group));
    if (!group)
        return -ENOMEM;
    *group = (struct sync_group){.log = log, .waiter = waiter, .left = 1};
    list_for_each_safe (l, &log->unsynced) {
        struct log_file *file = container_of(l, struct log_file, sync_link);
        if (data_only && file->kind != FILE_KIND_DATA)
            continue;
        struct sync_one *one = calloc(1, sizeof(*one));
        if (!one) {
            log_fail(log, -ENOMEM, "syncing the log");
            break;
        }
        *one = (struct sync_one){.group = group, .file = file};
        one->req =
            (struct storage_req){.done = file_synced, .op = STORAGE_SYNC, .file = file->number};
        group->left++;
        file->syncing++;
        file->unsynced = false;
        log->storage->submit(log->storage, &one->req);
    }
    if (--group->left == 0)
        group_done(group);
    return 0;
}

/* A device with a cache takes as long for a flush as there is in that cache. While somebody flushes
 * now and then, or changes the catalogue, syncs go ahead of that, so that there is little. Else
 * they come seldom, for some devices do nothing else meanwhile: but no write waits for the sync of
 * all that a checkpoint finds. */
static bool syncs_ahead(const struct log *log)
{
    uint64_t enough =
        log->bytes_since_flush < SYNC_AHEAD_FOR_BYTES ? SYNC_AHEAD_BYTES : SYNC_AHEAD_REST;
    return log->unsynced_bytes >= enough && log->applied_seq > log->synced_seq;
}

void log_kick_sync(struct log *log)
{
    wake_synced(log);
    if (log->syncing || log->error)
        return;
    if (list_empty(&log->sync_waiters)) {
        if (!syncs_ahead(log))
            return;
        log->stats.syncs_ahead++;
    } else if (container_of(log->sync_waiters.next, struct waiter, link)->seq > log->applied_seq) {
        return; /* its batches are still on their way */
    }
    log->unsynced_bytes = 0;
    log->syncing = true;
    log->sync_target = log->applied_seq;
    if (group_start(log, true, NULL) < 0) {
        log->syncing = false;
        log_fail(log, -ENOMEM, "syncing the log");
        wake_synced(log);
    }
}

void log_sync(struct log *log, struct waiter *waiter)
{
    log->flushes_here++;
    log->bytes_since_flush = 0;
    struct list *at = &log->sync_waiters; /* before which; the list is sorted by seq */
    while (at->prev != &log->sync_waiters &&
           container_of(at->prev, struct waiter, link)->seq > waiter->seq)
        at = at->prev;
    list_insert_before(at, &waiter->link);
}

void log_sync_all(struct log *log, struct waiter *waiter)
{
    if (group_start(log, false, waiter) < 0) {
        log_fail(log, -ENOMEM, "syncing the log");
        waiter->wake(waiter, log->error);
    }
}
