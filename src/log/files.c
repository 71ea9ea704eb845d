/* files.c - log files, the segments that stand in them, and which of their slots live.
 *
 * States of a file and who moves it:
 *
 *   ABSENT --log_prepare--> CREATING --created--> FREE --file_take, file_open--> OPEN
 *   OPEN --file_seal--> SEALED --file_check_dead (nothing lives)--> DEAD
 *   DEAD --log_checkpoint_done (a checkpoint has begun since, no reader)--> FREE
 *   FREE --log_tidy (far more than needed)--> REMOVING --removed--> ABSENT
 *
 * A segment is found by its number in a two-level array. It consists of pieces: the slots
 * [first, end) that one file holds. A fresh segment is one piece with all its slots; cleaning makes
 * a piece of the slots that still live, in their order, so the place of a slot is the piece's base
 * plus the number of present slots before it (its rank). */
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIR_BITS 10

uint32_t file_slots(const struct log_file *file)
{
    return FILE_BYTES >> file->shift;
}

struct log_file *file_get(struct log *log, uint32_t number)
{
    if (number >= log->max_files)
        return NULL;
    struct log_file *file = log->files[number];
    if (file)
        return file;
    file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    file->number = number;
    list_init(&file->pieces);
    list_init(&file->link);
    list_init(&file->sync_link);
    log->files[number] = file;
    return file;
}

/* ---- pieces --------------------------------------------------------------------------------- */

struct log_segment *segment_find(const struct log *log, uint32_t number)
{
    uint32_t dir = number >> DIR_BITS;
    if (dir >= log->n_segment_dirs || !log->segments[dir])
        return NULL;
    return log->segments[dir][number & ((1u << DIR_BITS) - 1)];
}

static struct log_segment *segment_get(struct log *log, uint32_t number)
{
    uint32_t dir = number >> DIR_BITS;
    if (dir >= log->n_segment_dirs) {
        uint32_t n = dir + 64;
        struct log_segment ***dirs = reallocarray(log->segments, n, sizeof(*dirs));
        if (!dirs)
            return NULL;
        memset(dirs + log->n_segment_dirs, 0, (n - log->n_segment_dirs) * sizeof(*dirs));
        log->segments = dirs;
        log->n_segment_dirs = n;
    }
    if (!log->segments[dir]) {
        log->segments[dir] = calloc(1u << DIR_BITS, sizeof(struct log_segment *));
        if (!log->segments[dir])
            return NULL;
    }
    struct log_segment **at = &log->segments[dir][number & ((1u << DIR_BITS) - 1)];
    if (!*at) {
        *at = calloc(1, sizeof(**at));
        if (*at)
            (*at)->number = number;
    }
    return *at;
}

struct log_piece *piece_add(struct log *log, struct log_file *file, uint32_t number,
                            uint32_t generation, uint32_t first, uint32_t end, uint32_t base,
                            uint32_t count)
{
    struct log_segment *segment = segment_get(log, number);
    struct log_piece *piece = calloc(1, sizeof(*piece));
    struct log_piece **pieces =
        segment ? reallocarray(segment->pieces, segment->n_pieces + 1, sizeof(*pieces)) : NULL;
    if (!segment || !piece || !pieces) {
        free(piece);
        return NULL;
    }
    *piece = (struct log_piece){.file = file,
                                .segment = segment,
                                .generation = generation,
                                .first = first,
                                .end = end,
                                .base = base,
                                .count = count};
    segment->pieces = pieces;
    uint32_t at = segment->n_pieces;
    while (at > 0 && pieces[at - 1]->first > first) {
        pieces[at] = pieces[at - 1];
        at--;
    }
    pieces[at] = piece;
    segment->n_pieces++;
    list_push_back(&file->pieces, &piece->link);
    return piece;
}

void piece_free(struct log *log, struct log_piece *piece)
{
    struct log_segment *segment = piece->segment;
    uint32_t at = 0;
    while (segment->pieces[at] != piece)
        at++;
    memmove(segment->pieces + at, segment->pieces + at + 1,
            (segment->n_pieces - at - 1) * sizeof(*segment->pieces));
    if (--segment->n_pieces == 0) {
        log->segments[segment->number >> DIR_BITS][segment->number & ((1u << DIR_BITS) - 1)] = NULL;
        free(segment->pieces);
        free(segment);
    }
    list_del(&piece->link);
    free(piece->bitmap);
    free(piece->rank);
    free(piece->list);
    free(piece);
}

int piece_set_present(struct log_piece *piece, const uint16_t *slots)
{
    uint32_t range = piece->end - piece->first;
    uint32_t words = (range + 63) / 64;

    if (piece->count == range)
        return 0;
    if (piece->count * 2 < words * 8) {
        piece->list = malloc(piece->count ? piece->count * sizeof(uint16_t) : 1);
        if (!piece->list)
            return -ENOMEM;
        memcpy(piece->list, slots, piece->count * sizeof(uint16_t));
        return 0;
    }
    piece->bitmap = calloc(words, sizeof(uint64_t));
    piece->rank = calloc(words / 8 + 1, sizeof(uint16_t));
    if (!piece->bitmap || !piece->rank)
        return -ENOMEM;
    for (uint32_t i = 0; i < piece->count; i++)
        piece->bitmap[slots[i] / 64] |= 1ULL << (slots[i] % 64);
    uint16_t before = 0;
    for (uint32_t w = 0; w < words; w++) {
        if (w % 8 == 0)
            piece->rank[w / 8] = before;
        before += __builtin_popcountll(piece->bitmap[w]);
    }
    return 0;
}

int32_t piece_rank(const struct log_piece *piece, uint32_t slot)
{
    slot -= piece->first;
    if (piece->lost)
        return -1;
    if (piece->bitmap) {
        if (!bit_get(piece->bitmap, slot))
            return -1;
        uint32_t word = slot / 64;
        uint32_t rank = piece->rank[word / 8];
        for (uint32_t w = word & ~7u; w < word; w++)
            rank += __builtin_popcountll(piece->bitmap[w]);
        return rank + __builtin_popcountll(piece->bitmap[word] & ((1ULL << (slot % 64)) - 1));
    }
    if (piece->list) {
        uint32_t low = 0, high = piece->count;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (piece->list[middle] < slot)
                low = middle + 1;
            else
                high = middle;
        }
        return low < piece->count && piece->list[low] == slot ? (int32_t)low : -1;
    }
    return slot;
}

void piece_cursor_init(struct piece_cursor *c, const struct log_piece *piece)
{
    *c = (struct piece_cursor){.piece = piece};
}

bool piece_cursor_next(struct piece_cursor *c, uint32_t *ret_slot, uint32_t *ret_rank)
{
    const struct log_piece *piece = c->piece;
    if (c->n >= piece->count)
        return false;
    uint32_t slot;
    if (piece->bitmap) {
        slot = c->slot;
        uint64_t word = piece->bitmap[slot / 64] >> (slot % 64);
        while (!word) {
            slot = (slot | 63) + 1;
            word = piece->bitmap[slot / 64];
        }
        slot += __builtin_ctzll(word);
        c->slot = slot + 1;
    } else {
        slot = piece->list ? piece->list[c->n] : c->n;
    }
    *ret_slot = slot;
    *ret_rank = c->n++;
    return true;
}

/* ---- looking up ----------------------------------------------------------------------------- */

/* The piece and the file's slot for a slot of a segment. */
static struct log_piece *find_slot(const struct log *log, uint64_t address, uint32_t *ret_slot)
{
    struct log_segment *segment = segment_find(log, address_segment(address));
    uint32_t slot = address_slot(address);
    if (!segment || address_log(address) != log->number)
        return NULL;
    for (uint32_t i = segment->n_pieces; i-- > 0;) {
        struct log_piece *piece = segment->pieces[i];
        if (slot < piece->first || slot >= piece->end)
            continue;
        int32_t rank = piece_rank(piece, slot);
        if (rank < 0)
            continue;
        *ret_slot = piece->base + rank;
        return piece;
    }
    return NULL;
}

int log_locate(struct log *log, uint64_t address, struct log_file **ret_file,
               uint64_t *ret_offset_bytes)
{
    uint32_t slot;
    struct log_piece *piece = find_slot(log, address, &slot);
    if (!piece)
        return ERR_DAMAGED;
    *ret_file = piece->file;
    *ret_offset_bytes = (uint64_t)slot << piece->file->shift;
    return 0;
}

static void count_live(struct log *log, struct log_file *file, int32_t change)
{
    file->n_live += change;
    if (file->shift == DATA_SHIFT)
        log->data_slots += change;
    else
        log->table_slots += change;
}

/* The map takes table files at the end, when the checkpoint's nodes are written. What others did in
 * the meantime is taken back there. */
static void note_later(struct log *log, struct log_file *file, uint32_t slot, bool lives)
{
    if (!log->map_open || !log->later || file->shift != TABLE_SHIFT)
        return;
    if (log->n_laters == log->max_laters) {
        uint32_t max = log->max_laters ? log->max_laters * 2 : 1024;
        struct log_later *laters = reallocarray(log->laters, max, sizeof(*laters));
        if (!laters) {
            log_fail(log, -ENOMEM, "taking the map of a checkpoint");
            return;
        }
        log->laters = laters;
        log->max_laters = max;
    }
    log->laters[log->n_laters++] = (struct log_later){file, slot, lives};
}

void log_set_live(struct log *log, uint64_t address, uint32_t n_slots)
{
    uint32_t slot;
    struct log_piece *piece = find_slot(log, address, &slot);
    assert(piece && slot + n_slots <= file_slots(piece->file));
    /* A map that is ahead of the tables has it already, if it did not die since. */
    if (log->replaying_seq && log->replaying_seq <= log->map_seq &&
        piece->file->shift == DATA_SHIFT && bit_get(piece->file->live, slot))
        return;
    file_touch(log, piece->file);
    for (uint32_t i = slot; i < slot + n_slots; i++) {
        assert(!bit_get(piece->file->live, i));
        piece->file->live[i / 64] |= 1ULL << (i % 64);
        note_later(log, piece->file, i, true);
    }
    count_live(log, piece->file, n_slots);
}

void log_set_dead(struct log *log, uint64_t address, uint32_t n_slots)
{
    uint32_t slot;
    struct log_piece *piece = find_slot(log, address, &slot);
    /* A damaged table may name slots that do not live; the books are kept right by leaving them. */
    if (!piece || slot >= file_slots(piece->file) || n_slots > file_slots(piece->file) - slot)
        return;
    struct log_file *file = piece->file;
    file_touch(log, file);
    uint32_t n = 0;
    for (uint32_t i = slot; i < slot + n_slots; i++) {
        if (!bit_get(file->live, i))
            continue;
        n++;
        file->live[i / 64] &= ~(1ULL << (i % 64));
        note_later(log, file, i, false);
    }
    count_live(log, file, -(int32_t)n);
    log->died_bytes += (uint64_t)n << file->shift;
    if (file->n_live == 0)
        file_check_dead(log, file);
}

/* ---- the life of a file --------------------------------------------------------------------- */

struct create_req {
    struct storage_req req;
    struct log *log;
    struct log_file *file;
};

static void created(struct storage_req *req, int res)
{
    struct create_req *c = container_of(req, struct create_req, req);
    struct log *log = c->log;
    log->n_creating--;
    if (res == 0) {
        c->file->state = FILE_FREE;
        list_push_front(&log->free, &c->file->link); /* used first: made for those who write now */
        log->n_free++;
        log->stats.files_created++;
        log->creation_error = 0;
        log->medium_files = 0;
        log->client->room(log->client);
    } else {
        /* Not a failure of the log: the medium has no more to give, so the store is this large. */
        c->file->state = FILE_ABSENT;
        log->n_files--;
        if (!log->creation_error)
            log->client->no_space(log->client, res);
        log->creation_failed = true;
        log->creation_error = res;
        log->medium_files = log->n_files;
        log->client->room(log->client); /* who waits for room may be told that there is none */
    }
    free(c);
}

static bool create_file(struct log *log, bool zero, bool durable)
{
    for (uint32_t number = 0; number < log->max_files; number++) {
        if (log->files[number] && log->files[number]->state != FILE_ABSENT)
            continue;
        struct log_file *file = file_get(log, number);
        struct create_req *c = calloc(1, sizeof(*c));
        if (!file || !c) {
            free(c);
            return false;
        }
        file->state = FILE_CREATING;
        log->n_files++;
        log->n_creating++;
        *c = (struct create_req){.log = log, .file = file};
        c->req = (struct storage_req){.done = created,
                                      .op = STORAGE_CREATE,
                                      .file = number,
                                      .length_bytes = FILE_BYTES,
                                      .zero = zero,
                                      .durable = durable};
        log->storage->submit(log->storage, &c->req);
        return true;
    }
    return false;
}

/* The table stream's next file. While files are to be found for data, and where data waits for one
 * that only cleaning can win, cleaning may have it, if what is dirty does not need it: nothing else
 * becomes dirty then. It is the first to be had back (may_take_for_data()). */
static void prepare_spare(struct log *log)
{
    if (!cleaner_wants_spare(log)) {
        if (!log->table.spare)
            log->table.spare = file_take(log, false);
    } else if (log->table.spare && !log->n_free) {
        list_push_back(&log->free, &TAKE_PTR(log->table.spare)->link);
        log->n_free++;
        log->client->room(log->client); /* who waits brings the cleaner's next turn */
    }
}

/* Free files that the data stream and the table stream will want soon. */
#define FILES_AHEAD 2

void log_prepare(struct log *log)
{
    if (log->error)
        return;
    /* A file that was only allocated makes the file system change its books at each first write
     * into it, and commit its journal at each sync. Zeros cost the file's size once, beforehand,
     * and the time that the device takes for that: worth it when there are many syncs. */
    bool zero = log->flushes_here > 64;
    while (!log->creation_failed && log->n_creating < FILES_AHEAD &&
           log->n_files < log->max_files &&
           log->n_free + log->n_creating < log->reserve_files + FILES_AHEAD)
        /* A start after a crash must find the reserve: somebody else may have the space by then.
         * What is made beyond it is taken first. */
        if (!create_file(log, zero, log->n_free + log->n_creating < log->reserve_files))
            break;

    prepare_spare(log);
    /* The next data file: late, for in a full store a file that waits is missing elsewhere. */
    uint32_t ahead = FILE_BLOCKS / 4 > BATCH_MAX_PAGES + 8 ? FILE_BLOCKS / 4 : BATCH_MAX_PAGES + 8;
    if (!log->next_data_file && log->data_file && DATA_SEGMENT_SLOTS - log->data_slot < ahead) {
        struct log_file *next = file_take(log, true);
        if (next) {
            log->next_data_file = next;
            log->client->room(log->client);
        }
    }
}

static void removed(struct storage_req *req, int res)
{
    struct create_req *c = container_of(req, struct create_req, req);
    struct log *log = c->log;
    log->n_creating--;
    log->n_files--;
    /* What could not be removed is there still, and known to be free when the store is next opened.
     */
    c->file->state = res == 0 || res == -ENOENT ? FILE_ABSENT : FILE_REMOVING;
    log->stats.files_removed += res == 0;
    free(c);
}

static void remove_file(struct log *log)
{
    struct create_req *c = calloc(1, sizeof(*c));
    if (!c)
        return;
    struct log_file *file = container_of(log->free.next, struct log_file, link);
    list_del(&file->link);
    log->n_free--;
    log->n_creating++;
    file->state = FILE_REMOVING;
    *c = (struct create_req){.log = log, .file = file};
    c->req = (struct storage_req){.done = removed, .op = STORAGE_REMOVE, .file = file->number};
    log->storage->submit(log->storage, &c->req);
}

/* Free files that are kept for the next burst of writes. */
static uint32_t files_to_keep(const struct log *log)
{
    return log->reserve_files + 16 + log->n_files / 8;
}

/* Idle seconds before files are given back: to make them again may cost their size in zeros. */
#define REMOVE_AFTER_TICKS 60

void log_tidy(struct log *log, bool idle)
{
    log->ticks++;
    log->tidy = idle;
    if (log->n_free <= KEEP_FREE)
        log->creation_failed = false; /* somebody may have made room since */
    log->idle_ticks = idle ? log->idle_ticks + 1 : 0;
    if (log->idle_ticks < REMOVE_AFTER_TICKS)
        return;
    for (int n = 0; !log->error && n < 8 && log->n_free > files_to_keep(log); n++)
        remove_file(log);
}

/* Data leaves KEEP_FREE files. In a full store writes are refused before they come here; what comes
 * are trims and changes, which make room: for them there is one more; or all, where without them
 * none will ever be won. */
static bool may_take_for_data(const struct log *log)
{
    if (log_room_pages(log) > 0)
        return files_left(log) > KEEP_FREE;
    if (!log->table.spare && log->n_free < 2)
        return false; /* the table stream's, which cleaning had, comes first */
    bool creatable = !log->creation_failed && log->n_files < log->max_files;
    bool hopeless = !creatable && !log->n_creating && !log->n_dead && !log->checkpoint_running &&
                    !log->table_tight && !cleaner_may_have_work(log);
    return log->n_free > (hopeless ? 0 : KEEP_FREE / 2);
}

struct log_file *file_take(struct log *log, bool for_data)
{
    if (list_empty(&log->free) || (for_data && !may_take_for_data(log)))
        return NULL;
    struct log_file *file = container_of(list_pop_front(&log->free), struct log_file, link);
    log->n_free--;
    log->stats.files_reused++;
    return file;
}

struct header_write {
    struct storage_req req;
    struct iovec iov;
    struct log *log;
    struct log_file *file;
};

static void header_written(struct storage_req *req, int res)
{
    struct header_write *w = container_of(req, struct header_write, req);
    struct log *log = w->log;
    w->file->writers--;
    w->file->headless = false;
    if (res < 0)
        log_fail(log, res, "writing the header of a log file");
    file_mark_unsynced(log, w->file, req->length_bytes);
    free(w->iov.iov_base);
    free(w);
    batches_retire(log);
}

static int write_header(struct log *log, struct log_file *file, uint32_t first_segment)
{
    struct header_write *w = calloc(1, sizeof(*w));
    struct file_header *header = aligned_alloc(STORAGE_ALIGN_BYTES, sizeof(*header));
    if (!w || !header) {
        free(w);
        free(header);
        return -ENOMEM;
    }
    memset(header, 0, sizeof(*header));
    header->magic = FILE_MAGIC;
    memcpy(header->uuid, log->uuid, sizeof(header->uuid));
    header->incarnation = log->incarnation;
    header->fill = log->next_fill++;
    header->file = file->number;
    header->kind = file->kind;
    header->shift = file->shift;
    header->first_segment = first_segment;
    header->checkpoint = log->checkpoint_seq;
    header->flags = file->kind == FILE_KIND_TABLE ? FILE_FLAG_NODE_CRCS : 0;
    header->crc = crc32c(0, header, sizeof(*header));
    *w = (struct header_write){.log = log, .file = file, .iov = {header, sizeof(*header)}};
    w->req = (struct storage_req){.done = header_written,
                                  .op = STORAGE_WRITE,
                                  .file = file->number,
                                  .length_bytes = sizeof(*header),
                                  .iov = &w->iov,
                                  .n_iov = 1};
    file->writers++;
    file->headless = true;
    log->storage->submit(log->storage, &w->req);
    return 0;
}

int file_open(struct log *log, struct log_file *file, enum file_kind kind, uint32_t first_segment)
{
    file->kind = kind;
    if (kind != FILE_KIND_PACKED)
        file->shift = kind == FILE_KIND_DATA ? DATA_SHIFT : TABLE_SHIFT;
    file->state = FILE_OPEN;
    file->used_slots = BLOCK_BYTES >> file->shift;
    file->n_live = 0;
    file->footer_block = file->footer_bytes = file->footer_crc = 0;
    file->map_changed = file->damaged = false;
    file->unread_tick = 0;
    file->sealed_batch = 0;
    file->live = calloc(file_slots(file) / 64, sizeof(uint64_t));
    if (!file->live)
        return -ENOMEM;
    if (kind != FILE_KIND_PACKED) {
        uint32_t slots = kind == FILE_KIND_DATA ? DATA_SEGMENT_SLOTS : TABLE_SEGMENT_SLOTS;
        for (uint32_t i = 0; i < file_slots(file) / slots; i++)
            if (!piece_add(log, file, first_segment + i, 0, 0, slots, i * slots, slots))
                return -ENOMEM;
    }
    /* From now on something may refer to it: a new one's name is durable by the next sync. */
    file_mark_unsynced(log, file, 0);
    return write_header(log, file, first_segment);
}

void file_seal(struct log *log, struct log_file *file)
{
    assert(file->state == FILE_OPEN);
    file->state = FILE_SEALED;
    file_check_dead(log, file);
}

/* A sealed file in which nothing lives, and nothing will: its batches are all applied. */
void file_check_dead(struct log *log, struct log_file *file)
{
    if (file->state != FILE_SEALED || file->n_live || file->cleaning || file->pinned || log->hold ||
        file->sealed_batch > log->applied_seq || (log->map_open && file->shift == TABLE_SHIFT))
        return;
    file_touch(log, file);
    while (!list_empty(&file->pieces))
        piece_free(log, container_of(file->pieces.next, struct log_piece, link));
    file->state = FILE_DEAD;
    /* The checkpoint that runs now began when it was still alive. */
    uint64_t last = log->checkpoint_running ? log->checkpoint_running : log->checkpoint_seq;
    file->release_seq = last + 1;
    list_push_back(&log->dead, &file->link);
    log->n_dead++;
}

void file_forget(struct log *log, struct log_file *file)
{
    count_live(log, file, -(int32_t)file->n_live);
    while (!list_empty(&file->pieces))
        piece_free(log, container_of(file->pieces.next, struct log_piece, link));
    free(file->live);
    file->live = NULL;
    file->state = FILE_ABSENT;
    log->n_files--;
}

bool log_pin(const struct log *log, struct log_file *file)
{
    if (file->state != FILE_SEALED || file->cleaning || file->writers ||
        file->sealed_batch > log->applied_seq)
        return false;
    file->pinned = true;
    return true;
}

void log_unpin(struct log *log, struct log_file *file)
{
    file->pinned = false;
    file_check_dead(log, file);
}

bool log_header_is_whole(const struct log *log, uint32_t number, const struct file_header *h)
{
    struct file_header copy = *h;
    copy.crc = 0;
    return h->magic == FILE_MAGIC && h->file == number &&
           memcmp(h->uuid, log->uuid, sizeof(h->uuid)) == 0 &&
           crc32c(0, &copy, sizeof(copy)) == h->crc;
}

void log_check_dead(struct log *log)
{
    for (uint32_t i = 0; i < log->max_files; i++)
        if (log->files[i])
            file_check_dead(log, log->files[i]);
}

void log_hold(struct log *log, bool hold)
{
    log->hold = hold;
    if (!hold)
        log_check_dead(log);
}

/* Would the next checkpoint free this dead file? */
static bool is_freed_by(const struct log *log, const struct log_file *file, bool map_only)
{
    if (map_only && (file->shift == TABLE_SHIFT ||
                     (file->kind == FILE_KIND_DATA && file->sealed_batch > log->tables_seq)))
        return false;
    return !file->readers && !file->writers;
}

bool log_wants_checkpoint(const struct log *log, bool map_only)
{
    bool creatable = !log->creation_failed && log->n_files < log->max_files;
    if (log->hold || log->n_free > log->reserve_files || creatable)
        return false;
    uint32_t n = 0;
    list_for_each (l, &log->dead) {
        const struct log_file *file = container_of(l, struct log_file, link);
        n += file->release_seq <= log->checkpoint_seq + 1 && is_freed_by(log, file, map_only);
    }
    return n && (n >= log->reserve_files || files_left(log) <= KEEP_FREE ||
                 (n >= dead_files_worth_it(log, map_only) && files_left(log) <= KEEP_FREE + 1));
}

bool log_files_are_busy(const struct log *log)
{
    for (uint32_t i = 0; i < log->max_files; i++) {
        const struct log_file *file = log->files[i];
        if (file && (file->readers || file->writers || file->syncing))
            return true;
    }
    return false;
}

static void release(struct log *log, struct log_file *file)
{
    list_del(&file->link);
    log->n_dead--;
    free(file->live);
    file->live = NULL;
    free(file->unread);
    file->unread = NULL;
    file->state = FILE_FREE;
    file->unsynced = false;
    list_del(&file->sync_link);
    list_push_back(&log->free, &file->link);
    log->n_free++;
}

void log_checkpoint_done(struct log *log, uint64_t seq, bool map_only)
{
    log->checkpoint_seq = seq;
    log->checkpoint_running = 0;
    log->map_body = NULL;
    log_check_dead(log);
    log->creation_failed = false; /* somebody may have made room since */
    bool any = log->data_unnamed;
    log->data_unnamed = false;
    list_for_each_safe (l, &log->dead) {
        struct log_file *file = container_of(l, struct log_file, link);
        if (file->release_seq > seq || log->hold || !is_freed_by(log, file, map_only))
            continue;
        release(log, file);
        any = true;
    }
    if (any)
        log->client->room(log->client);
}

/* How many files there may be: by the capacity, or all that the file system has (what the store
 * takes already and what is free, less 5 %); and never fewer than there are. */
static int find_capacity(struct log *log, uint64_t capacity)
{
    struct storage *storage = log->storage;
    int n = storage->list(storage, NULL, 0);
    if (n < 0)
        return n;
    uint32_t *numbers = calloc(n + 1, sizeof(*numbers));
    if (!numbers)
        return -ENOMEM;
    n = storage->list(storage, numbers, n);
    if (!capacity)
        capacity = (uint64_t)n * FILE_BYTES + storage->free_bytes(storage) / 20 * 19;
    uint64_t max_files = capacity / FILE_BYTES;
    for (int i = 0; i < n; i++)
        if (numbers[i] >= max_files)
            max_files = (uint64_t)numbers[i] + 1;
    free(numbers);
    log->max_files = max_files > UINT32_MAX / 64 ? UINT32_MAX / 64 : (uint32_t)max_files;
    return n < 0 ? n : 0;
}

/* ---- life of the log ------------------------------------------------------------------------ */

uint32_t log_reserve_files(uint64_t max_files)
{
    uint64_t reserve = max_files / 50;
    return reserve < 4 ? 4 : reserve > 4096 ? 4096 : (uint32_t)reserve;
}

int log_create(struct storage *storage, struct log_client *client, const struct super_block *super,
               struct log **ret)
{
    struct log *log = calloc(1, sizeof(*log));
    if (!log)
        return -ENOMEM;
    log->storage = storage;
    log->client = client;
    memcpy(log->uuid, super->uuid, sizeof(log->uuid));
    log->number = super->log;
    list_init(&log->free);
    list_init(&log->dead);
    list_init(&log->inflight);
    list_init(&log->sync_waiters);
    list_init(&log->unsynced);
    list_init(&log->table.bufs);
    log->table.buf_seq = 1;
    log->bytes_since_flush = UINT32_MAX; /* nobody flushes yet */
    log->ticks = 1;

    int code = find_capacity(log, super->capacity_bytes);
    if (code < 0) {
        free(log);
        return code;
    }
    log->reserve_files = log_reserve_files(log->max_files);
    log->files = calloc(log->max_files ? log->max_files : 1, sizeof(*log->files));
    if (!log->files || batches_create(log) < 0 || cleaner_create(log) < 0) {
        batches_free(log);
        free(log->files);
        free(log);
        return -ENOMEM;
    }
    *ret = log;
    return 0;
}

void log_free(struct log *log)
{
    if (!log)
        return;
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!file)
            continue;
        while (!list_empty(&file->pieces))
            piece_free(log, container_of(file->pieces.next, struct log_piece, link));
        free(file->live);
        free(file->unread);
        free(file->sums);
        free(file);
    }
    for (uint32_t i = 0; i < log->n_segment_dirs; i++)
        free(log->segments[i]);
    free(log->segments);
    free(log->files);
    batches_free(log);
    free(log->table.buf);
    free(log->laters);
    cleaner_free(log);
    free(log);
}

void log_fail(struct log *log, int error, const char *what)
{
    if (log->error)
        return;
    log->error = error;
    log->client->failed(log->client, error, what);
}

int log_number_segments(struct log *log, uint32_t n, uint32_t *ret_first)
{
    if (log->next_segment > UINT32_MAX - n) {
        log_fail(log, -EOVERFLOW, "numbering the segments of a log that has written all it can");
        return -EOVERFLOW;
    }
    *ret_first = log->next_segment;
    log->next_segment += n;
    return 0;
}

/* Files that may be nearly empty even when the store is full: the data file, the table file and two
 * packed files being filled, and the next ones of data and tables. */
#define FIXED_FILES 6

uint64_t log_limit_pages(const struct log *log)
{
    /* Of the files that data may fill, fifteen sixteenths: so there is always a file whose cleaning
     * gains something (clean.c takes those that are up to 95 % alive), and trims and changes find
     * room in the log of a full store. */
    uint64_t files = log->medium_files ? log->medium_files : log->max_files;
    uint64_t fixed = log->reserve_files + FIXED_FILES;
    return (files > fixed ? files - fixed : 0) * (DATA_SEGMENT_SLOTS - 1) / 16 * 15;
}

uint64_t log_used_bytes(const struct log *log)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < log->max_files; i++) {
        const struct log_file *file = log->files[i];
        if (file && (file->state == FILE_OPEN || file->state == FILE_SEALED))
            bytes += (uint64_t)file->used_slots << file->shift;
        else if (file && file->state == FILE_DEAD)
            bytes += FILE_BYTES;
    }
    return bytes;
}

uint64_t log_room_pages(const struct log *log)
{
    uint64_t used = log->data_slots + (log->table_slots >> (DATA_SHIFT - TABLE_SHIFT)) +
                    log->pages_inflight + (log->open ? log->open->n_pages : 0);
    uint64_t limit = log_limit_pages(log);
    return used < limit ? limit - used : 0;
}
