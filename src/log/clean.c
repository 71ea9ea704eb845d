/* clean.c - moving what lives out of files where little does.
 *
 * A victim is a sealed file with few live slots. Its live slots are listed once (the plan), read in
 * windows, and written one after another into a packed file, several windows at a time. Only when
 * all of them are written does the victim's content count as moved (switch_pieces): addresses stay,
 * the segments' pieces change. What dies in between is simply not marked as living in the new
 * place.
 *
 *   IDLE --pick a victim, plan--> MOVING --last window written--> switch_pieces --> IDLE
 *   MOVING --block_failed: a block that was not known as bad--> READING
 *   READING --last window read--> abandon --> IDLE
 *   MOVING, READING --an error that has nothing to do with the medium--> ENDING
 *   ENDING --windows in flight are back--> abandon --> IDLE
 *   MOVING --there is no file to move to--> abandon --> IDLE
 *
 * A block counts as lost only when two attempts could not read it, RETRY_TICKS apart; where the
 * second can it was an error that passed. The first reads the file to its end (READING), whatever
 * it meets, so that the second knows of all that is bad. Nobody refers to what it wrote, and the
 * room of that is given back.
 *
 * A packed file is filled by many victims. Its footer lists the pieces in it and is written when a
 * checkpoint begins (what follows is appended after it) and when the file is sealed.
 *
 * Data and table files are cleaned alike, into packed files of their own kind: pages by gathering
 * 4 KiB blocks, nodes by copying 64-byte slots together, a whole piece at a time. */
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/err.h"
#include "base/huge.h"
#include "log/log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_BLOCKS          32u /* read at a time from a data file */
#define WINDOW_BYTES           ((size_t)WINDOW_BLOCKS * BLOCK_BYTES)
#define RETRY_TICKS            10u /* seconds until what could not be read is read again */
#define MAX_WINDOWS            4u
#define MAX_VICTIM_LIVE(slots) ((slots)*95 / 100) /* so that it fits into one packed file */
/* Cleaning gains a file by putting several into fewer: from such as are 95 % alive, after twenty or
 * so. When so many went without a gain there is none to be had, until so much more has died. */
#define MAX_IN_VAIN 128u
#define WORTH_A_TRY (FILE_BYTES / 16)
#define DEAR_PRICE  24 /* price_of() a victim of which a third lives */

static_assert(MAX_WINDOWS * WINDOW_BYTES <= HUGE_BYTES, "windows' buffers in a huge page");

struct move {
    uint32_t old_slot; /* in the victim */
    uint16_t slot;     /* of the segment, less the old piece's first */
};

/* Moves that become one piece. */
struct part {
    struct log_piece *old;
    struct log_file *target;
    uint32_t base;
    uint32_t first_move, n_moves;
    uint32_t first; /* slot of the segment where the new piece begins */
};

struct window {
    struct log *log;
    struct log_file *target;
    uint32_t first_move, n_moves;
    uint32_t target_slot;
    uint32_t sum;                  /* of pages: its number in the target's sums */
    uint64_t read_at;              /* offset in the victim */
    uint32_t buf_bytes, reread_at; /* reread_at: in buf, of the block that is read again alone */
    uint8_t *buf, *out;            /* out: nodes copied together */
    struct storage_req req;
    struct iovec *iov;
    unsigned n_iov;
};

/* The sums of the pages that were moved into a file. */
struct moved_sums {
    uint32_t n, n_switched; /* that are there; of them, of victims that count as moved */
    struct moved_sum sums[FILE_BLOCKS];
};

struct pack {
    struct log_file *file;
    uint32_t slot, kept; /* next; where an attempt that is abandoned goes back to */
    bool more;           /* pieces than the last footer lists */
};

enum attempt {
    MOVING,
    READING, /* on, only to find out what else is bad */
    ENDING,
};

struct cleaner {
    struct pack packs[2]; /* data, tables */
    struct pack full;     /* that the victim filled: to be sealed when it has moved */
    struct log_file *victim;
    enum attempt attempt; /* of moving it */
    uint32_t lost_blocks; /* of it, moved as zeros */
    struct move *moves;
    uint32_t n_moves, next_move;
    struct part *parts;
    uint32_t n_parts, max_parts;
    uint32_t windows, footers; /* in flight */
    bool starved;              /* there was no file to move to: wait until one is free */
    int64_t won, most_won;     /* files emptied less files taken to move to */
    uint32_t in_vain;          /* victims moved since most_won rose */
    uint64_t died_then;        /* log->died_bytes at that time */
    uint8_t *bufs;             /* of windows */
    uint8_t *spare_bufs[MAX_WINDOWS];
    uint32_t n_spare_bufs;
    int64_t credit;  /* blocks that may be read before writers have paid for more */
    uint32_t prices; /* price_of() the last victims with pages: four times their mean */
};

/* What is read to win a block: sixteenths of a block. */
static uint32_t price_of(const struct log_file *victim)
{
    uint32_t slots = file_slots(victim);
    uint32_t dead = slots - victim->n_live;
    return 16 * slots / (dead ? dead : 1);
}

bool cleaning_is_dear(const struct log *log)
{
    return log->cleaner->prices >= 4 * DEAR_PRICE;
}

int cleaner_create(struct log *log)
{
    log->cleaner = calloc(1, sizeof(*log->cleaner));
    return log->cleaner ? 0 : -ENOMEM;
}

static void forget_plan(struct cleaner *c)
{
    free(c->moves);
    free(c->parts);
    c->moves = NULL;
    c->parts = NULL;
    c->n_moves = c->next_move = c->n_parts = c->max_parts = 0;
    c->lost_blocks = 0;
    c->attempt = MOVING;
    c->victim = NULL;
}

void cleaner_free(struct log *log)
{
    if (!log->cleaner)
        return;
    forget_plan(log->cleaner);
    huge_free(log->cleaner->bufs, HUGE_BYTES);
    free(log->cleaner);
}

bool cleaner_is_between(const struct log *log)
{
    return !log->cleaner->victim;
}

bool cleaner_is_moving(const struct log *log)
{
    return log->cleaner->windows != 0;
}

bool cleaner_is_idle(const struct log *log)
{
    return !log->cleaner->windows && !log->cleaner->footers;
}

static struct pack *pack_of(struct cleaner *c, const struct log_file *victim)
{
    return &c->packs[victim->shift == TABLE_SHIFT];
}

/* ---- footers -------------------------------------------------------------------------------- */

struct footer_write {
    struct storage_req req;
    struct iovec iov;
    struct log *log;
    struct log_file *file;
};

static void footer_written(struct storage_req *req, int res)
{
    struct footer_write *w = container_of(req, struct footer_write, req);
    w->log->cleaner->footers--;
    w->file->writers--;
    file_mark_unsynced(w->log, w->file, req->length_bytes);
    if (res < 0)
        log_fail(w->log, res, "writing the footer of a packed file");
    free(w->iov.iov_base);
    free(w);
}

static size_t present_bytes(const struct log_piece *piece)
{
    uint32_t range = piece->end - piece->first;
    uint32_t words = (range + 63) / 64;
    if (piece->count == range)
        return 0;
    return piece->list ? (piece->count * 2 + 7) & ~7u : (size_t)words * 8;
}

size_t log_footer_pieces_bytes(const struct log_file *file)
{
    size_t bytes = 0;
    list_for_each (l, &file->pieces)
        bytes += sizeof(struct map_piece) + present_bytes(container_of(l, struct log_piece, link));
    return bytes;
}

static void fill_footer(const struct log_file *file, uint8_t *at)
{
    list_for_each (l, &file->pieces) {
        const struct log_piece *piece = container_of(l, struct log_piece, link);
        *(struct map_piece *)at = (struct map_piece){piece->segment->number,
                                                     piece->generation,
                                                     piece->first,
                                                     piece->end,
                                                     piece->base,
                                                     piece->count};
        at += sizeof(struct map_piece);
        size_t bytes = present_bytes(piece);
        if (piece->list)
            memcpy(at, piece->list, piece->count * sizeof(uint16_t));
        else if (bytes)
            memcpy(at, piece->bitmap, bytes);
        at += bytes;
    }
}

/* The sums, and what tells how often the footer is there. */
static size_t sums_bytes(const struct log_file *file)
{
    return (1 + (file->sums ? file->sums->n_switched : 0)) * sizeof(struct moved_sum);
}

static void fill_sums(const struct log_file *file, uint32_t copies, uint8_t *at)
{
    struct moved_sum *sums = (struct moved_sum *)at;
    sums[0] = (struct moved_sum){.count = copies};
    if (file->sums)
        memcpy(sums + 1, file->sums->sums, file->sums->n_switched * sizeof(*sums));
}

/* Write a footer for the pieces that the pack's file has now, behind all that is in it. Twice, as
 * that would be lost with it, if that leaves room for one more. */
static void write_footer(struct log *log, struct pack *pack)
{
    struct log_file *file = pack->file;
    size_t pieces_bytes = log_footer_pieces_bytes(file);
    size_t bytes = pieces_bytes + sums_bytes(file);
    size_t padded = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    uint32_t copies = pack->slot + (3 * padded >> file->shift) <= file_slots(file) ? 2 : 1;
    if (!pieces_bytes)
        return;
    struct footer_write *w = calloc(1, sizeof(*w));
    uint8_t *buf = aligned_alloc(STORAGE_ALIGN_BYTES, 2 * padded);
    if (!w || !buf) {
        free(w);
        free(buf);
        log_fail(log, -ENOMEM, "writing the footer of a packed file");
        return;
    }
    memset(buf, 0, padded);
    fill_footer(file, buf);
    fill_sums(file, copies, buf + pieces_bytes);
    if (copies == 2)
        memcpy(buf + padded, buf, padded);
    file_touch(log, file);
    file->map_changed = true;
    uint32_t block = pack->slot >> (DATA_SHIFT - file->shift);
    file->footer_block = block;
    file->footer_bytes = bytes;
    file->footer_crc = crc32c(0, buf, bytes);
    pack->slot += copies * padded >> file->shift;
    assert(pack->slot <= file_slots(file));
    file->used_slots = pack->kept = pack->slot;
    *w = (struct footer_write){.log = log, .file = file, .iov = {buf, copies * padded}};
    w->req = (struct storage_req){.done = footer_written,
                                  .op = STORAGE_WRITE,
                                  .file = file->number,
                                  .offset_bytes = (uint64_t)block * BLOCK_BYTES,
                                  .length_bytes = copies * padded,
                                  .iov = &w->iov,
                                  .n_iov = 1};
    log->cleaner->footers++;
    file->writers++;
    log->stats.clean_bytes_written += copies * padded;
    log->storage->submit(log->storage, &w->req);
}

/* ---- the target ----------------------------------------------------------------------------- */

/* Blocks kept back for the last footer of a packed file: more than its pieces can need. */
static uint32_t footer_slots(const struct cleaner *c, const struct log_file *file)
{
    uint32_t slots = FILE_BYTES >> file->shift, pieces = 0;
    if (file->shift == TABLE_SHIFT)
        return FILE_BLOCKS * 5 / 128 << (DATA_SHIFT - TABLE_SHIFT);
    /* A list takes 2 bytes a slot at most, a bitmap is taken where it is less; and each piece that
     * is there, planned, or may come with the next window takes its record; and each window a sum.
     * Twice: a checkpoint may want a footer before the last one; and each has a copy. */
    list_for_each (l, &file->pieces)
        pieces++;
    pieces += c->n_parts + (slots < WINDOW_BLOCKS ? slots : WINDOW_BLOCKS);
    uint32_t sums = sizeof(struct moved_sum) * (2 + (file->sums ? file->sums->n : 0));
    return 4 * ((2 * slots + 40 * pieces + sums) / BLOCK_BYTES + 1);
}

/* Slots of the pack's file that pages or nodes may still take. */
static uint32_t pack_left(const struct cleaner *c, const struct pack *pack)
{
    if (!pack->file)
        return 0;
    uint32_t used = pack->slot + footer_slots(c, pack->file);
    return used < file_slots(pack->file) ? file_slots(pack->file) - used : 0;
}

/* Nothing goes on but cleaning, no file will come but from that, and what is dirty finds room in
 * the table file: it needs no other before there is one. */
static bool may_have_spare(const struct log *log)
{
    bool none_comes = !log->checkpoint_running && !log->n_dead && !log->n_creating;
    return log->table_fits && (log->finding || (none_comes && log_is_stalled(log)));
}

bool cleaner_wants_spare(const struct log *log)
{
    return may_have_spare(log) && (log->finding || log->cleaner->starved);
}

/* The table stream comes first: without a file for it no checkpoint ends, and nothing is freed. One
 * that runs, or that is to free something, or for which much is dirty, may want yet another. */
static bool may_take_file(const struct log *log)
{
    if (may_have_spare(log))
        return log->n_free > 0;
    uint32_t keep = log->checkpoint_running || log->n_dead || log->table_tight;
    return log->table.spare && log->n_free > keep;
}

bool cleaner_wants_checkpoint(const struct log *log)
{
    return log->cleaner->starved && log->table_tight && log->n_free && log->table.spare;
}

static int pack_next(struct log *log, struct pack *pack, uint8_t shift)
{
    assert(!log->cleaner->full.file);
    if (!may_take_file(log))
        return -EAGAIN;
    struct log_file *next = file_take(log, false);
    if (!next)
        return -EAGAIN;
    next->shift = shift;
    if (shift == DATA_SHIFT)
        next->sums = calloc(1, sizeof(*next->sums));
    if ((shift == DATA_SHIFT && !next->sums) || file_open(log, next, FILE_KIND_PACKED, 0) < 0) {
        log_fail(log, -ENOMEM, "opening a packed file");
        return -ENOMEM;
    }
    log->cleaner->won--;
    log->cleaner->full = *pack;
    uint32_t first = BLOCK_BYTES >> shift;
    *pack = (struct pack){.file = next, .slot = first, .kept = first};
    return 0;
}

static void seal(struct log *log, struct log_file *file)
{
    free(file->sums);
    file->sums = NULL;
    file_seal(log, file);
}

static void seal_full(struct log *log)
{
    struct pack *full = &log->cleaner->full;
    if (!full->file)
        return;
    write_footer(log, full);
    seal(log, TAKE_PTR(full->file));
}

bool cleaner_may_checkpoint(const struct log *log)
{
    /* What is in motion between data files is not in the map before it has arrived, and a footer
     * may come between two windows, as long as there is room for it and for the last one. */
    const struct cleaner *c = log->cleaner;
    const struct pack *pack = &c->packs[0];
    if (!c->victim)
        return true;
    return c->victim->shift == DATA_SHIFT && !c->full.file &&
           (!pack->file || pack->slot + footer_slots(c, pack->file) <= file_slots(pack->file));
}

void cleaner_write_footers(struct log *log)
{
    struct cleaner *c = log->cleaner;
    assert(cleaner_may_checkpoint(log));
    for (int i = 0; i < 2; i++) {
        struct pack *pack = &c->packs[i];
        if (!pack->file)
            continue;
        if (pack->more)
            write_footer(log, pack);
        pack->more = false;
        bool in_use = c->victim && pack_of(c, c->victim) == pack;
        if (!in_use && pack_left(c, pack) < FILE_BLOCKS / 32)
            seal(log, TAKE_PTR(pack->file));
    }
}

bool cleaner_footers_done(const struct log *log)
{
    return !log->cleaner->footers;
}

/* ---- choosing a victim ---------------------------------------------------------------------- */

/* Files that can be had without cleaning: free, to be created, or dead and waiting for a
 * checkpoint. */
static uint32_t files_to_be_had(const struct log *log)
{
    /* While files are to be found, what was refused once is not hoped for. */
    bool refused = log->creation_failed || (log->finding && log->medium_files);
    uint32_t creatable = refused ? 0 : log->max_files - log->n_files;
    return files_left(log) + log->n_dead + log->n_creating + creatable;
}

/* Begin to clean when fewer files can be had than this. Where each file that is won is free at
 * once, that is when data has taken the last one that it may: the next is won by the time it is
 * wanted. */
static uint32_t low_water(const struct log *log)
{
    uint32_t waiting = log->map_will_do ? 0 : dead_files_worth_it(log, false);
    return KEEP_FREE + 1 + waiting;
}

bool log_is_pressed(const struct log *log)
{
    return files_to_be_had(log) < low_water(log) + 4;
}

bool log_is_short(const struct log *log)
{
    /* Dead files cannot be had while they are held. */
    return files_to_be_had(log) < low_water(log) || (log->hold && files_left(log) <= KEEP_FREE);
}

static bool may_be_victim(const struct log *log, const struct log_file *file)
{
    if (!file || file->state != FILE_SEALED || file->damaged || file->pinned ||
        file->sealed_batch > log->applied_seq || file->writers || file->n_live == 0 ||
        file->n_live > MAX_VICTIM_LIVE(file_slots(file)))
        return false;
    return file->shift == DATA_SHIFT || !log->checkpoint_running;
}

/* One that could not be read waits, even when there is no other: an error that passes has time to.
 */
static bool has_to_wait(const struct log *log, const struct log_file *file)
{
    return file->unread_tick && log->ticks < file->unread_tick + RETRY_TICKS;
}

static struct log_file *pick_victim(const struct log *log, bool may_wait)
{
    struct log_file *best = NULL;
    uint64_t best_live = UINT64_MAX;
    for (uint32_t i = 0; i < log->max_files; i++) {
        struct log_file *file = log->files[i];
        if (!may_be_victim(log, file) || (!may_wait && has_to_wait(log, file)))
            continue;
        uint64_t live_bytes = (uint64_t)file->n_live << file->shift;
        if (live_bytes < best_live) {
            best_live = live_bytes;
            best = file;
        }
    }
    return best;
}

/* Files are needed, and there may be some to be won. */
static bool is_needed(const struct log *log)
{
    const struct cleaner *c = log->cleaner;
    bool in_vain = c->in_vain >= MAX_IN_VAIN && log->died_bytes - c->died_then < WORTH_A_TRY;
    return files_to_be_had(log) < low_water(log) && !in_vain;
}

bool cleaner_has_work(const struct log *log)
{
    return log->cleaner->victim || (is_needed(log) && pick_victim(log, false) != NULL);
}

bool cleaner_may_have_work(const struct log *log)
{
    return log->cleaner->victim || (is_needed(log) && pick_victim(log, true) != NULL);
}

bool log_may_find(const struct log *log)
{
    bool may_create = !log->creation_failed && !log->medium_files && log->n_files < log->max_files;
    return files_left(log) < KEEP_FREE && (log->n_creating || may_create || log_is_low(log));
}

bool log_is_low(const struct log *log)
{
    bool stuck = log->cleaner->starved && !may_take_file(log);
    return files_left(log) < KEEP_FREE && (log->n_dead || (cleaner_has_work(log) && !stuck));
}

/* ---- the plan ------------------------------------------------------------------------------- */

static int plan(struct log *log, struct log_file *victim)
{
    struct cleaner *c = log->cleaner;
    c->moves = calloc(victim->n_live ? victim->n_live : 1, sizeof(*c->moves));
    if (!c->moves)
        return -ENOMEM;
    c->victim = victim;
    if (victim->shift == DATA_SHIFT)
        c->prices += price_of(victim) - c->prices / 4;
    victim->cleaning = true;
    list_for_each (l, &victim->pieces) {
        struct log_piece *piece = container_of(l, struct log_piece, link);
        struct piece_cursor cursor;
        uint32_t slot, rank;
        piece_cursor_init(&cursor, piece);
        while (piece_cursor_next(&cursor, &slot, &rank))
            if (bit_get(victim->live, piece->base + rank))
                c->moves[c->n_moves++] = (struct move){piece->base + rank, slot};
    }
    assert(c->n_moves == victim->n_live);
    return 0;
}

/* The old piece in which a slot of the victim lies. */
static struct log_piece *piece_at(const struct log_file *victim, uint32_t slot)
{
    list_for_each (l, &victim->pieces) {
        struct log_piece *piece = container_of(l, struct log_piece, link);
        if (slot < piece->base + piece->count)
            return piece;
    }
    return NULL;
}

static struct part *add_part(struct cleaner *c)
{
    if (c->n_parts == c->max_parts) {
        uint32_t n = c->max_parts ? c->max_parts * 2 : 16;
        struct part *parts = reallocarray(c->parts, n, sizeof(*parts));
        if (!parts)
            return NULL;
        c->parts = parts;
        c->max_parts = n;
    }
    return &c->parts[c->n_parts++];
}

/* Give n moves from c->next_move on their places in the target, as parts. */
static int assign(struct cleaner *c, struct pack *pack, uint32_t n)
{
    for (uint32_t i = c->next_move; i < c->next_move + n; i++) {
        const struct move *m = &c->moves[i];
        struct part *part = c->n_parts ? &c->parts[c->n_parts - 1] : NULL;
        bool goes_on = part && part->target == pack->file &&
                       m->old_slot < part->old->base + part->old->count &&
                       part->base + part->n_moves == pack->slot;
        if (!goes_on) {
            struct log_piece *old = piece_at(c->victim, m->old_slot);
            bool split = part && part->old == old;
            part = add_part(c);
            if (!part)
                return -ENOMEM;
            *part = (struct part){.old = old,
                                  .target = pack->file,
                                  .base = pack->slot,
                                  .first_move = i,
                                  .first = old->first + (split ? m->slot : 0)};
        }
        part->n_moves++;
        pack->slot++;
    }
    return 0;
}

/* ---- moving --------------------------------------------------------------------------------- */

/* Buffers of a window's size stand in a huge page, as many as there may be windows. */
static uint8_t *buf_take(struct cleaner *c, size_t bytes)
{
    if (bytes > WINDOW_BYTES)
        return aligned_alloc(STORAGE_ALIGN_BYTES, bytes);
    if (!c->bufs) {
        c->bufs = huge_alloc(HUGE_BYTES);
        for (uint32_t i = 0; c->bufs && i < MAX_WINDOWS; i++)
            c->spare_bufs[c->n_spare_bufs++] = c->bufs + i * WINDOW_BYTES;
    }
    return c->n_spare_bufs ? c->spare_bufs[--c->n_spare_bufs] : NULL;
}

static void buf_give(struct cleaner *c, uint8_t *buf, size_t bytes)
{
    if (buf && bytes <= WINDOW_BYTES)
        c->spare_bufs[c->n_spare_bufs++] = buf;
    else
        free(buf);
}

static void window_free(struct window *w)
{
    w->log->cleaner->windows--;
    w->log->cleaner->victim->readers--;
    buf_give(w->log->cleaner, w->buf, w->buf_bytes);
    free(w->out);
    free(w->iov);
    free(w);
}

/* What is in it is not moved. */
static void window_drop(struct window *w)
{
    struct log *log = w->log;
    if (w->target)
        w->target->writers--;
    window_free(w);
    cleaner_step(log);
}

static void window_written(struct storage_req *req, int res)
{
    struct window *w = container_of(req, struct window, req);
    w->target->writers--;
    file_mark_unsynced(w->log, w->target, req->length_bytes);
    if (res < 0)
        log_fail(w->log, res, "writing a packed file");
    struct log *log = w->log;
    window_free(w);
    cleaner_step(log);
}

/* Pages: the iovec names the live blocks of the buffer, neighbours together. */
static void gather_pages(struct window *w)
{
    const struct move *moves = w->log->cleaner->moves + w->first_move;
    for (uint32_t i = 0; i < w->n_moves; i++) {
        uint8_t *at = w->buf + ((uint64_t)moves[i].old_slot * BLOCK_BYTES - w->read_at);
        struct iovec *last = w->n_iov ? &w->iov[w->n_iov - 1] : NULL;
        if (last && (uint8_t *)last->iov_base + last->iov_len == at)
            last->iov_len += BLOCK_BYTES;
        else
            w->iov[w->n_iov++] = (struct iovec){at, BLOCK_BYTES};
    }
}

/* The sum of a window's pages, as they are moved. */
static void sum_pages(const struct window *w)
{
    struct moved_sum *sum = &w->target->sums->sums[w->sum];
    for (unsigned i = 0; i < w->n_iov; i++)
        sum->crc = crc32c(sum->crc, w->iov[i].iov_base, w->iov[i].iov_len);
}

/* Nodes: copied together, padded to a block. */
static int gather_nodes(struct window *w)
{
    const struct move *moves = w->log->cleaner->moves + w->first_move;
    uint32_t slot_bytes = 1u << TABLE_SHIFT;
    size_t len = (size_t)w->n_moves * slot_bytes;
    size_t padded = (len + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    w->out = aligned_alloc(STORAGE_ALIGN_BYTES, padded);
    if (!w->out)
        return -ENOMEM;
    for (uint32_t i = 0; i < w->n_moves; i++)
        memcpy(w->out + (size_t)i * slot_bytes,
               w->buf + ((uint64_t)moves[i].old_slot * slot_bytes - w->read_at), slot_bytes);
    memset(w->out + len, 0, padded - len);
    w->iov[0] = (struct iovec){w->out, padded};
    w->n_iov = 1;
    return 0;
}

/* What was read, or cannot be, is in the buffer. */
static void window_filled(struct window *w)
{
    struct log *log = w->log;

    log->stats.clean_bytes_read += w->buf_bytes;
    if (log->cleaner->attempt != MOVING || log->error) {
        window_drop(w);
        return;
    }
    bool nodes = w->target->shift == TABLE_SHIFT;
    if (nodes && gather_nodes(w) < 0)
        log_fail(log, -ENOMEM, "cleaning");
    else if (!nodes)
        gather_pages(w);
    if (!nodes)
        sum_pages(w);
    if (log->error) {
        window_drop(w);
        return;
    }
    uint64_t bytes = 0;
    for (unsigned i = 0; i < w->n_iov; i++)
        bytes += w->iov[i].iov_len;
    w->req = (struct storage_req){.done = window_written,
                                  .op = STORAGE_WRITE,
                                  .file = w->target->number,
                                  .offset_bytes = (uint64_t)w->target_slot << w->target->shift,
                                  .length_bytes = bytes,
                                  .iov = w->iov,
                                  .n_iov = w->n_iov};
    log->stats.clean_bytes_written += bytes;
    log->storage->submit(log->storage, &w->req);
}

/* A block of the victim cannot be read. Did it fail before, in another attempt? */
static bool failed_before(struct cleaner *c, uint32_t block)
{
    struct log_file *victim = c->victim;
    if (!victim->unread)
        victim->unread = calloc(FILE_BLOCKS / 64, sizeof(*victim->unread));
    if (!victim->unread)
        return false;
    bool before = bit_get(victim->unread, block);
    victim->unread[block / 64] |= 1ULL << (block % 64);
    return before;
}

static void block_failed(struct cleaner *c, uint32_t block)
{
    if (failed_before(c, block)) {
        /* The medium has lost it. It is moved as zeros: who reads what was there gets a checksum
         * error from now on, and a read error before, and nothing else is held up. */
        c->lost_blocks++;
    } else if (c->attempt == MOVING) {
        c->attempt = READING; /* it may pass: other files first */
    }
}

/* If some of them failed before, that has passed. */
static void blocks_were_read(struct cleaner *c, uint64_t offset, uint32_t bytes)
{
    uint64_t *unread = c->victim->unread;
    uint32_t block = offset / BLOCK_BYTES, end = block + bytes / BLOCK_BYTES;
    for (; unread && block < end; block++)
        unread[block / 64] &= ~(1ULL << (block % 64));
}

static void reread_block(struct window *w);

static void block_reread(struct storage_req *req, int res)
{
    struct window *w = container_of(req, struct window, req);
    struct cleaner *c = w->log->cleaner;
    uint8_t *block = w->buf + w->reread_at;

    uint32_t read = res > 0 ? (uint32_t)res : 0;
    uint64_t offset = w->read_at + w->reread_at;

    memset(block + read, 0, BLOCK_BYTES - read);
    blocks_were_read(c, offset, read);
    if (res < 0 && !is_medium_error(res)) /* no descriptor, no memory */
        c->attempt = ENDING;
    else if (res < 0)
        block_failed(c, offset / BLOCK_BYTES);
    w->reread_at += BLOCK_BYTES;
    if (w->reread_at < w->buf_bytes && !w->log->error && c->attempt != ENDING)
        reread_block(w);
    else
        window_filled(w);
}

static void reread_block(struct window *w)
{
    w->iov[0] = (struct iovec){w->buf + w->reread_at, BLOCK_BYTES};
    w->req = (struct storage_req){.done = block_reread,
                                  .op = STORAGE_READ,
                                  .file = w->log->cleaner->victim->number,
                                  .offset_bytes = w->read_at + w->reread_at,
                                  .length_bytes = BLOCK_BYTES,
                                  .iov = w->iov,
                                  .n_iov = 1};
    w->log->storage->submit(w->log->storage, &w->req);
}

static void window_read(struct storage_req *req, int res)
{
    struct window *w = container_of(req, struct window, req);

    if (res < 0) {
        reread_block(w); /* a block that cannot be read must not take the others with it */
        return;
    }
    blocks_were_read(w->log->cleaner, w->read_at, res);
    if ((uint32_t)res < w->buf_bytes)
        memset(w->buf + res, 0, w->buf_bytes - res); /* a short file: the checksums will tell */
    window_filled(w);
}

/* How many of the next moves go into one window: pages within WINDOW_BLOCKS, nodes of one piece. */
static uint32_t window_moves(const struct cleaner *c)
{
    const struct move *m = &c->moves[c->next_move];
    uint32_t end = c->victim->shift == DATA_SHIFT ? m->old_slot + WINDOW_BLOCKS : 0;
    if (!end) {
        struct log_piece *piece = piece_at(c->victim, m->old_slot);
        end = piece->base + piece->count;
    }
    uint32_t n = 1;
    while (c->next_move + n < c->n_moves && m[n].old_slot < end)
        n++;
    return n;
}

/* See to it that the pack has room for the next window, for *n moves or fewer. */
static int make_room(struct log *log, struct pack *pack, uint32_t *n)
{
    struct cleaner *c = log->cleaner;
    uint8_t shift = c->victim->shift;

    if (pack_left(c, pack) < (shift == DATA_SHIFT ? 1 : *n)) {
        if (c->full.file) /* a victim's pieces span two packed files, not three */
            return -EAGAIN;
        int code = pack_next(log, pack, shift);
        if (code < 0)
            return code;
    }
    if (*n > pack_left(c, pack))
        *n = pack_left(c, pack);
    return 0;
}

/* Give the window's moves their places in the pack. */
static int window_place(struct window *w, struct pack *pack)
{
    struct log *log = w->log;
    uint32_t slot = pack->slot;

    if (assign(log->cleaner, pack, w->n_moves) < 0)
        return -ENOMEM;
    w->target = pack->file;
    w->target_slot = slot;
    if (w->target->shift == DATA_SHIFT) {
        w->sum = w->target->sums->n++;
        w->target->sums->sums[w->sum] = (struct moved_sum){.slot = slot, .count = w->n_moves};
    }
    uint32_t block_slots = BLOCK_BYTES >> w->target->shift;
    pack->slot = (pack->slot + block_slots - 1) / block_slots * block_slots;
    file_touch(log, w->target);
    w->target->used_slots = pack->slot;
    w->target->writers++;
    return 0;
}

static int start_window(struct log *log)
{
    struct cleaner *c = log->cleaner;
    struct log_file *victim = c->victim;
    struct pack *pack = pack_of(c, victim);
    uint32_t n = window_moves(c);
    bool moves = c->attempt == MOVING;
    int code = moves ? make_room(log, pack, &n) : 0;
    if (code < 0)
        return code;
    const struct move *m = &c->moves[c->next_move];
    uint64_t from = (uint64_t)m[0].old_slot << victim->shift;
    uint64_t to = ((uint64_t)m[n - 1].old_slot + 1) << victim->shift;
    from -= from % BLOCK_BYTES;
    to = (to + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;

    struct window *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = (struct window){.log = log, .first_move = c->next_move, .n_moves = n, .read_at = from};
    w->buf_bytes = to - from;
    w->buf = buf_take(c, w->buf_bytes);
    w->iov = calloc(victim->shift == DATA_SHIFT ? n : 1, sizeof(*w->iov));
    if (!w->buf || !w->iov || (moves && window_place(w, pack) < 0)) {
        buf_give(c, w->buf, w->buf_bytes);
        free(w->iov);
        free(w);
        return -ENOMEM;
    }
    w->iov[0] = (struct iovec){w->buf, w->buf_bytes};
    w->req = (struct storage_req){.done = window_read,
                                  .op = STORAGE_READ,
                                  .file = victim->number,
                                  .offset_bytes = from,
                                  .length_bytes = w->buf_bytes,
                                  .iov = w->iov,
                                  .n_iov = 1};
    victim->readers++;
    c->next_move += n;
    c->windows++;
    c->credit -= w->buf_bytes / BLOCK_BYTES;
    log->storage->submit(log->storage, &w->req);
    return 0;
}

/* ---- the switch ----------------------------------------------------------------------------- */

/* The victim's pages count as moved, or they do not and their sums are forgotten. */
static void settle_sums(struct log_file *file, bool moved)
{
    struct moved_sums *sums = file ? file->sums : NULL;
    if (sums && moved)
        sums->n_switched = sums->n;
    else if (sums)
        sums->n = sums->n_switched;
}

static int switch_part(struct log *log, const struct part *part, uint32_t end)
{
    struct cleaner *c = log->cleaner;
    struct log_file *target = part->target;
    _cleanup_free_ uint16_t *slots = malloc(part->n_moves * sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < part->n_moves; i++) {
        const struct move *m = &c->moves[part->first_move + i];
        slots[i] = m->slot - (part->first - part->old->first);
        if (!bit_get(c->victim->live, m->old_slot))
            continue;
        uint32_t slot = part->base + i;
        target->live[slot / 64] |= 1ULL << (slot % 64);
        target->n_live++;
    }
    struct log_piece *piece =
        piece_add(log, target, part->old->segment->number, part->old->generation + 1, part->first,
                  end, part->base, part->n_moves);
    return piece ? piece_set_present(piece, slots) : -ENOMEM;
}

/* A victim was moved: was it worth it? */
static void count_gain(struct log *log)
{
    struct cleaner *c = log->cleaner;
    c->won++;
    bool gained = c->won > c->most_won;
    if (gained)
        c->most_won = c->won;
    if (gained || log->died_bytes - c->died_then >= WORTH_A_TRY) {
        c->in_vain = 0;
        c->died_then = log->died_bytes;
    } else {
        c->in_vain++;
    }
}

static void switch_pieces(struct log *log)
{
    struct cleaner *c = log->cleaner;
    struct log_file *victim = c->victim;
    struct pack *pack = pack_of(c, victim);

    if (victim->kind == FILE_KIND_DATA && victim->sealed_batch > log->tables_seq)
        log->tail_cleaned = true;
    file_touch(log, victim);
    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *part = &c->parts[i];
        bool split = i + 1 < c->n_parts && c->parts[i + 1].old == part->old;
        file_touch(log, part->target);
        if (switch_part(log, part, split ? c->parts[i + 1].first : part->old->end) < 0) {
            log_fail(log, -ENOMEM, "cleaning");
            return;
        }
    }
    while (!list_empty(&victim->pieces))
        piece_free(log, container_of(victim->pieces.next, struct log_piece, link));
    memset(victim->live, 0, file_slots(victim) / 8);
    victim->n_live = 0;
    victim->cleaning = false;
    log->stats.files_cleaned++;
    log->stats.clean_read_errors += c->lost_blocks;
    count_gain(log);
    forget_plan(c);
    pack->more = true;
    pack->kept = pack->slot;
    settle_sums(c->full.file, true);
    settle_sums(pack->file, true);
    seal_full(log);
    file_check_dead(log, victim);
}

/* The room that an attempt took in packed files is free again, and the file that it began goes. */
static void give_back(struct log *log, struct pack *pack)
{
    struct cleaner *c = log->cleaner;
    if (c->full.file) {
        struct log_file *begun = pack->file;
        *pack = c->full;
        c->full = (struct pack){0};
        c->won++;
        seal(log, begun);
    }
    if (pack->file) {
        file_touch(log, pack->file);
        pack->file->used_slots = pack->slot = pack->kept;
        settle_sums(pack->file, false);
    }
}

/* Give a plan up: there is no file to write to, or the victim cannot be read. What it wrote is not
 * referred to. */
static void abandon(struct log *log)
{
    struct cleaner *c = log->cleaner;
    struct log_file *victim = c->victim;
    struct pack *pack = pack_of(c, victim);
    bool starved = c->attempt == MOVING;
    victim->cleaning = false;
    forget_plan(c);
    if (starved) {
        /* Its room stays taken: so the next attempt begins with the file that it waits for, and
         * does not come to that when another has it. */
        c->starved = true;
        settle_sums(c->full.file, false);
        settle_sums(pack->file, false);
        seal_full(log);
    } else {
        victim->unread_tick = log->ticks;
        log->stats.clean_put_off++;
        give_back(log, pack);
    }
    file_check_dead(log, victim);
}

/* ---- pacing ------------------------------------------------------------------------------------
 */

/* Writers pay for the room that they take: for each block that goes into the log, cleaning may read
 * as many as it takes to win one, a little more when files get few. So both go on evenly; a cleaner
 * that ran as fast as it can would keep the device from the writers, and then from nobody. */
void cleaner_pay(struct log *log, uint32_t blocks)
{
    struct cleaner *c = log->cleaner;
    uint32_t had = files_to_be_had(log), wanted = low_water(log);
    if (!c->victim || had >= wanted) {
        c->credit = 0;
        return;
    }
    uint64_t price = price_of(c->victim);
    uint32_t least = log->map_will_do ? 6 : 4; /* quarters: 1 or 1.5, and up by a half */
    uint64_t haste = least + 2 * (wanted - had - 1);
    c->credit += (int64_t)(blocks * price * haste / 64);
}

static bool may_start_window(const struct log *log)
{
    const struct cleaner *c = log->cleaner;
    if (c->next_move == c->n_moves || c->windows >= MAX_WINDOWS)
        return false;
    bool writing = log->n_inflight || (log->open && log->open->n_items);
    bool urgent = files_left(log) <= KEEP_FREE && !log->n_dead;
    return c->credit > 0 || !writing || urgent || log->hold || log->checkpoint_wanted;
}

void cleaner_step(struct log *log)
{
    struct cleaner *c = log->cleaner;
    if (log->error)
        return;
    if (c->starved && !may_take_file(log))
        return;
    c->starved = false;
    if (!c->victim) {
        bool needed = is_needed(log);
        if (log->checkpoint_wanted || log->hold || (!needed && !log->tidy))
            return;
        struct log_file *victim = pick_victim(log, false);
        if (!victim || (!needed && victim->n_live > victim->used_slots / 2)) {
            log->tidy = false; /* until the next idle second */
            return;
        }
        if (plan(log, victim) < 0) {
            log_fail(log, -ENOMEM, "cleaning");
            return;
        }
    }
    int code = 0;
    while (code == 0 && c->attempt != ENDING && may_start_window(log))
        code = start_window(log);
    if (code == -ENOMEM)
        log_fail(log, code, "cleaning");
    if (c->windows)
        return;
    bool at_end = c->next_move == c->n_moves;
    if (at_end && c->attempt == MOVING)
        switch_pieces(log);
    else if (at_end || c->attempt == ENDING || code < 0)
        abandon(log);
}
