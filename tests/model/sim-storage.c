/* sim-storage.c - see sim-storage.h.
 *
 * A file is a table of 4 KiB blocks. A block is a stack of versions: the lowest is what is durable
 * (done_seq 0), those above are completed writes that no sync has covered, in the order of their
 * completion. A missing block is durable zeros. Versions keep no trailing zeros, so that large and
 * mostly empty pages cost little.
 *
 *   in flight --complete()--> unsynced version --sim_file_sync()--> durable version
 *       |                           |
 *       +------sim_cut()-----+      +--sim_restart(SIM_CRASH)--> kept, torn or lost
 */
#include "sim-impl.h"

#include "base/crc.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const op_names[] = {"READ", "WRITE", "SYNC", "CREATE", "REMOVE"};

static void __attribute__((noreturn, format(printf, 2, 3)))
misuse(const struct storage_req *req, const char *format, ...)
{
    va_list args;
    fprintf(stderr, "sim-storage: misuse: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    if (req)
        fprintf(stderr, " (%s file %#x offset %llu length %llu)",
                req->op <= STORAGE_REMOVE ? op_names[req->op] : "?", req->file,
                (unsigned long long)req->offset_bytes, (unsigned long long)req->length_bytes);
    fprintf(stderr, "\n");
    abort();
}

static bool is_log_file(uint32_t number)
{
    return number < UINT32_MAX - 255; /* the fixed names are at the top */
}
/* ---- requests ------------------------------------------------------------------------------- */

static uint32_t iov_crc(const struct storage_req *req)
{
    uint32_t crc = 0;
    for (unsigned i = 0; i < req->n_iov; i++)
        crc = crc32c(crc, req->iov[i].iov_base, req->iov[i].iov_len);
    return crc;
}

static void check_transfer(struct sim *sim, const struct storage_req *req)
{
    uint64_t sum = 0;
    if (!req->n_iov || !req->iov)
        misuse(req, "no buffers");
    for (unsigned i = 0; i < req->n_iov; i++) {
        if ((uintptr_t)req->iov[i].iov_base % STORAGE_ALIGN_BYTES ||
            req->iov[i].iov_len % STORAGE_ALIGN_BYTES)
            misuse(req, "unaligned memory in iov %u", i);
        sum += req->iov[i].iov_len;
    }
    if (sum != req->length_bytes || !sum)
        misuse(req, "length is not the sum of the iov (%llu)", (unsigned long long)sum);
    if (req->offset_bytes % STORAGE_ALIGN_BYTES)
        misuse(req, "unaligned offset");
    if (req->op != STORAGE_WRITE)
        return;
    const struct file *f = sim_file_find(sim, req->file);
    if (f && is_log_file(req->file) && req->offset_bytes + sum > f->length && !sim->tolerate)
        misuse(req, "write past the end (%llu) of a log file", (unsigned long long)f->length);
    for (size_t i = 0; i < sim->n_flights; i++) {
        const struct storage_req *other = sim->flights[i].req;
        if (other->op == STORAGE_WRITE && other->file == req->file &&
            other->offset_bytes < req->offset_bytes + sum &&
            req->offset_bytes < other->offset_bytes + other->length_bytes)
            misuse(req, "two writes in flight on one place");
    }
}

static void sim_submit(struct storage *storage, struct storage_req *req)
{
    struct sim *sim = container_of(storage, struct sim, storage);
    if (req->op > STORAGE_REMOVE || !req->done)
        misuse(req, "no such operation or no done()");
    for (size_t i = 0; i < sim->n_flights; i++)
        if (sim->flights[i].req == req)
            misuse(req, "submitted while in flight");
    if (req->op == STORAGE_READ || req->op == STORAGE_WRITE)
        check_transfer(sim, req);
    if (req->op == STORAGE_CREATE &&
        (!req->length_bytes || req->length_bytes % STORAGE_ALIGN_BYTES) && is_log_file(req->file))
        misuse(req, "a log file's length must be a multiple of 4096");

    if (sim->n_flights == sim->max_flights) {
        sim->max_flights = sim->max_flights ? 2 * sim->max_flights : 64;
        sim->flights = sim_must(realloc(sim->flights, sim->max_flights * sizeof(*sim->flights)));
    }
    struct flight *fl = &sim->flights[sim->n_flights++];
    *fl = (struct flight){.req = req, .seq = ++sim->submit_seq, .mark = sim->done_seq};
    fl->ready = sim->tick + (sim->latency ? rng_below(&sim->rng, sim->latency + 1) : 0);
    if (sim->latency && rng_percent(&sim->rng, 3))
        fl->ready += 8 * sim->latency; /* one that is left behind by many others */
    if (req->op == STORAGE_WRITE)
        fl->crc = iov_crc(req);
}

/* Does it read one of the broken blocks? */
static bool reads_broken(const struct sim *sim, const struct storage_req *req)
{
    uint64_t at = sim->broken_at - 1, step = (uint64_t)sim->broken_step * SIM_BLOCK_BYTES;
    if (!sim->broken_at || sim->broken_file != req->file)
        return false;
    if (step && req->offset_bytes > at)
        at += (req->offset_bytes - at + step - 1) / step * step;
    return at >= req->offset_bytes && at < req->offset_bytes + req->length_bytes;
}

static int do_read(struct sim *sim, struct storage_req *req, bool damage)
{
    const struct file *f = sim_file_find(sim, req->file);
    if (!f)
        return -ENOENT;
    if (reads_broken(sim, req))
        return -EIO;
    uint64_t at = req->offset_bytes, done = 0;
    for (unsigned i = 0; i < req->n_iov; i++) {
        uint8_t *base = req->iov[i].iov_base;
        for (size_t j = 0; j < req->iov[i].iov_len && at < f->length; j += SIM_BLOCK_BYTES) {
            sim_version_read(f->blocks[at / SIM_BLOCK_BYTES], base + j);
            at += SIM_BLOCK_BYTES;
            done += SIM_BLOCK_BYTES;
        }
    }
    if (damage && done) {
        uint64_t bit = rng_below(&sim->rng, 8 * (uint64_t)req->iov[0].iov_len);
        ((uint8_t *)req->iov[0].iov_base)[bit / 8] ^= 1u << (bit % 8);
    }
    return (int)done;
}

static int do_write(struct sim *sim, const struct flight *fl)
{
    const struct storage_req *req = fl->req;
    struct file *f = sim_file_find(sim, req->file);
    if (!f)
        return -ENOENT;
    if (iov_crc(req) != fl->crc)
        misuse(req, "the buffer changed while its write was in flight");
    uint64_t end = req->offset_bytes + req->length_bytes;
    if (end > f->length) {
        if (is_log_file(req->file) && !sim->tolerate)
            misuse(req, "write past the end of a log file");
        if (is_log_file(req->file))
            return -EIO;
        if (sim->allocated - f->length + end > sim->medium_bytes)
            return -ENOSPC;
        sim_file_set_length(sim, f, end);
    }
    uint64_t index = req->offset_bytes / SIM_BLOCK_BYTES;
    sim->done_seq++;
    for (unsigned i = 0; i < req->n_iov; i++)
        for (size_t j = 0; j < req->iov[i].iov_len; j += SIM_BLOCK_BYTES)
            sim_block_push(f, index++, (const uint8_t *)req->iov[i].iov_base + j, sim->done_seq);
    return (int)req->length_bytes;
}

/* A write that failed: any of its sectors may have got there. */
static void do_failed_write(struct sim *sim, const struct storage_req *req)
{
    struct file *f = sim_file_find(sim, req->file);
    if (!f || req->offset_bytes + req->length_bytes > f->length || rng_percent(&sim->rng, 30))
        return;
    uint64_t index = req->offset_bytes / SIM_BLOCK_BYTES;
    sim->done_seq++;
    for (unsigned i = 0; i < req->n_iov; i++)
        for (size_t j = 0; j < req->iov[i].iov_len; j += SIM_BLOCK_BYTES, index++) {
            uint8_t block[SIM_BLOCK_BYTES];
            uint64_t mask = rng_next(&sim->rng);
            sim_version_read(f->blocks[index], block);
            for (unsigned s = 0; s < BLOCK_SECTORS; s++)
                if (mask >> s & 1)
                    memcpy(block + s * SECTOR_BYTES,
                           (const uint8_t *)req->iov[i].iov_base + j + s * SECTOR_BYTES,
                           SECTOR_BYTES);
            sim_block_push(f, index, block, sim->done_seq);
        }
}

static int do_create(struct sim *sim, const struct storage_req *req)
{
    if (sim_file_find(sim, req->file))
        return -EEXIST;
    if (sim->allocated + req->length_bytes > sim->medium_bytes)
        return -ENOSPC;
    struct file *f = sim_file_new(sim, req->file, req->length_bytes);
    f->named_seq = is_log_file(req->file) && !req->durable ? ++sim->done_seq : 0;
    return 0;
}

static int perform(struct sim *sim, const struct flight *fl)
{
    struct storage_req *req = fl->req;
    struct file *f;
    int code = 0;
    if (sim->fail[req->op].nth && --sim->fail[req->op].nth == 0) {
        code = sim->fail[req->op].code;
        if (--sim->fail[req->op].times)
            sim->fail[req->op].nth = 1;
        sim->failures++;
    }
    if (code < 0) {
        if (req->op == STORAGE_WRITE)
            do_failed_write(sim, req);
        return code;
    }
    switch (req->op) {
    case STORAGE_READ:
        return do_read(sim, req, code == SIM_DAMAGE);
    case STORAGE_WRITE:
        return do_write(sim, fl);
    case STORAGE_SYNC:
        f = sim_file_find(sim, req->file);
        if (f && !sim->lie) {
            sim_file_sync(f, fl->mark);
            sim->names_durable = fl->mark > sim->names_durable ? fl->mark : sim->names_durable;
        }
        return f ? 0 : -ENOENT;
    case STORAGE_CREATE:
        return do_create(sim, req);
    case STORAGE_REMOVE:
        f = sim_file_find(sim, req->file);
        if (f)
            sim_file_free(sim, f);
        return f ? 0 : -ENOENT;
    }
    return -EINVAL;
}

/* A removal waits for what was submitted before it on the same file: an open file outlives its
 * name. */
static bool may_complete(const struct sim *sim, const struct flight *fl)
{
    if (fl->req->op != STORAGE_REMOVE)
        return true;
    for (size_t i = 0; i < sim->n_flights; i++)
        if (sim->flights[i].req->file == fl->req->file && sim->flights[i].seq < fl->seq)
            return false;
    return true;
}

/* Take out of flight a random one of those that are due. */
static bool take_due(struct sim *sim, uint64_t last_seq, struct flight *ret)
{
    size_t n = 0, pick = 0;
    for (size_t i = 0; i < sim->n_flights; i++) {
        const struct flight *fl = &sim->flights[i];
        if (fl->seq > last_seq || (!sim->dead && fl->ready > sim->tick) || !may_complete(sim, fl))
            continue;
        if (rng_below(&sim->rng, ++n) == 0)
            pick = i;
    }
    if (n == 0)
        return false;
    *ret = sim->flights[pick];
    sim->flights[pick] = sim->flights[--sim->n_flights];
    return true;
}

static void sim_poll(struct storage *storage, bool wait)
{
    struct sim *sim = container_of(storage, struct sim, storage);
    uint64_t last_seq = sim->submit_seq, next = UINT64_MAX;
    if (sim->in_poll)
        misuse(NULL, "poll() from inside a done()");
    if (sim->n_flights == 0) {
        if (wait)
            misuse(NULL, "poll() would wait for ever: nothing is in flight");
        return;
    }
    sim->in_poll = true;
    sim->tick++;
    for (size_t i = 0; i < sim->n_flights; i++)
        if (sim->flights[i].ready < next && may_complete(sim, &sim->flights[i]))
            next = sim->flights[i].ready;
    if (wait && sim->tick < next)
        sim->tick = next;

    struct flight fl;
    while (true) {
        if (!sim->dead && sim->cut_after == 0)
            sim_cut(sim);
        if (!take_due(sim, last_seq, &fl))
            break;
        int res = sim->dead ? -EIO : perform(sim, &fl);
        if (!sim->dead) {
            sim->stats.completed[fl.req->op]++;
            if (sim->cut_after != UINT64_MAX)
                sim->cut_after--;
        }
        fl.req->done(fl.req, res);
    }
    sim->in_poll = false;
}

static int sim_list(struct storage *storage, uint32_t *numbers, uint32_t max)
{
    struct sim *sim = container_of(storage, struct sim, storage);
    uint32_t n = 0;
    if (sim->dead)
        return -EIO;
    list_for_each (l, &sim->files) {
        uint32_t number = container_of(l, struct file, link)->number;
        if (!is_log_file(number))
            continue;
        if (n < max)
            numbers[n] = number;
        n++;
    }
    for (uint32_t i = n < max ? n : max; i > 1; i--) { /* a directory has no order */
        uint32_t j = (uint32_t)rng_below(&sim->rng, i), swap = numbers[i - 1];
        numbers[i - 1] = numbers[j];
        numbers[j] = swap;
    }
    return (int)n;
}

static uint64_t sim_free_bytes(struct storage *storage)
{
    const struct sim *sim = container_of(storage, struct sim, storage);
    return sim->allocated < sim->medium_bytes ? sim->medium_bytes - sim->allocated : 0;
}

static void sim_close(struct storage *storage)
{
    const struct sim *sim = container_of(storage, struct sim, storage);
    if (sim->n_flights)
        misuse(sim->flights[0].req, "closed with %zu requests in flight", sim->n_flights);
}
/* ---- power ---------------------------------------------------------------------------------- */

void sim_cut(struct sim *sim)
{
    if (sim->dead)
        return;
    sim->cut_after = UINT64_MAX;
    sim->stats.cuts++;
    memset(sim->fail, 0, sizeof(sim->fail));
    /* In a random order, each with a chance of its own this time: all, none, or in between. */
    unsigned percent = (unsigned)rng_below(&sim->rng, 3) * 50;
    size_t *order = sim_must(malloc((sim->n_flights + 1) * sizeof(*order)));
    for (size_t i = 0; i < sim->n_flights; i++) {
        size_t j = rng_below(&sim->rng, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (size_t i = 0; i < sim->n_flights; i++) {
        const struct flight *fl = &sim->flights[order[i]];
        if (fl->req->op == STORAGE_READ || !rng_percent(&sim->rng, percent))
            continue;
        struct file *f = sim_file_find(sim, fl->req->file);
        if (fl->req->op == STORAGE_SYNC && f && !sim->lie && rng_percent(&sim->rng, 50))
            sim_file_sync(f, fl->mark); /* the names were to be next */
        else
            perform(sim, fl);
    }
    free(order);
    sim->dead = true;
}
void sim_restart(struct sim *sim, enum sim_end end)
{
    if (sim->n_flights)
        misuse(sim->flights[0].req, "restart with requests in flight");
    sim_cut(sim);
    if (end == SIM_CRASH)
        sim_crash_files(sim);
    sim->dead = false;
}

void sim_cut_after(struct sim *sim, uint64_t completions)
{
    sim->cut_after = completions;
}

bool sim_is_dead(const struct sim *sim)
{
    return sim->dead;
}
/* ---- life, faults, touching ----------------------------------------------------------------- */

struct sim *sim_new(uint64_t seed, uint64_t medium_bytes)
{
    struct sim *sim = sim_must(calloc(1, sizeof(*sim)));
    sim->storage = (struct storage){.submit = sim_submit,
                                    .poll = sim_poll,
                                    .list = sim_list,
                                    .free_bytes = sim_free_bytes,
                                    .close = sim_close};
    rng_seed(&sim->rng, seed ^ 0x51a5e);
    list_init(&sim->files);
    sim->medium_bytes = medium_bytes;
    sim->cut_after = UINT64_MAX;
    sim->latency = 4;
    return sim;
}

void sim_free(struct sim *sim)
{
    if (!sim)
        return;
    sim_close(&sim->storage);
    list_for_each_safe (l, &sim->files)
        sim_file_free(sim, container_of(l, struct file, link));
    free(sim->flights);
    free(sim);
}

struct sim *sim_clone(const struct sim *sim, uint64_t seed)
{
    struct sim *copy = sim_new(seed, sim->medium_bytes);
    if (sim->n_flights)
        misuse(sim->flights[0].req, "cloned with requests in flight");
    copy->latency = sim->latency;
    copy->done_seq = sim->done_seq;
    copy->names_durable = sim->names_durable;
    list_for_each (l, &sim->files)
        sim_file_copy(copy, container_of(l, struct file, link));
    return copy;
}

struct storage *sim_storage(struct sim *sim)
{
    return &sim->storage;
}

unsigned sim_in_flight(const struct sim *sim)
{
    return (unsigned)sim->n_flights;
}

void sim_fail(struct sim *sim, enum storage_op op, uint64_t nth, uint64_t times, int code)
{
    assert(op <= STORAGE_REMOVE && times > 0);
    sim->fail[op].nth = nth;
    sim->fail[op].times = times;
    sim->fail[op].code = code;
}

uint64_t sim_failures(const struct sim *sim)
{
    return sim->failures;
}

void sim_break_block(struct sim *sim, uint32_t file, uint64_t offset_bytes)
{
    sim_break_blocks(sim, file, offset_bytes, 0);
}

void sim_break_blocks(struct sim *sim, uint32_t file, uint64_t offset_bytes, uint32_t step_blocks)
{
    sim->broken_file = file;
    sim->broken_at = offset_bytes + 1;
    sim->broken_step = step_blocks;
}

void sim_set_medium_bytes(struct sim *sim, uint64_t bytes)
{
    sim->medium_bytes = bytes;
}

void sim_set_latency(struct sim *sim, unsigned ticks)
{
    sim->latency = ticks;
}

void sim_lie_about_syncs(struct sim *sim, bool lie)
{
    sim->lie = lie;
}
void sim_truncate(struct sim *sim, uint32_t file, uint64_t length_bytes)
{
    struct file *f = sim_file_find(sim, file);
    if (f)
        sim_file_sync(f, UINT64_MAX);
    if (f && length_bytes)
        sim_file_set_length(sim, f, length_bytes);
    else if (f)
        sim_file_free(sim, f);
}

void sim_tolerate_short_files(struct sim *sim, bool tolerate)
{
    sim->tolerate = tolerate;
}

int64_t sim_file_bytes(const struct sim *sim, uint32_t file)
{
    const struct file *f = sim_file_find(sim, file);
    return f ? (int64_t)f->length : -1;
}

uint64_t sim_allocated_bytes(const struct sim *sim)
{
    return sim->allocated;
}

const struct sim_stats *sim_stats(const struct sim *sim)
{
    return &sim->stats;
}
