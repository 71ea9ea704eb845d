/* test-store.c - the store at chosen moments, and with damage at one chosen place.
 *
 * Each test makes a small store on the simulated medium; most end it as a kill or a close would,
 * damage it, and open it again. */
#include "sim-storage.h"

#include "base/crc.h"
#include "base/err.h"
#include "base/mono.h"
#include "image/store-internal.h"
#include "image/store.h"
#include "image/table_format.h"
#include "log/log-internal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef VARVE_SMALL_FILES
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

#define MIB        (1u << 20)
#define DISK_BYTES (96u * MIB)

struct env {
    struct sim *sim;
    struct store_config config;
    struct store *store;
    unsigned n_damage; /* events */
    char full[200];    /* the text of the last one about space */
    bool done;
};

static void on_event(void *arg, const struct store_event *event)
{
    struct env *env = arg;
    env->n_damage += event->kind == STORE_EVENT_DAMAGE;
    if (event->kind == STORE_EVENT_FULL)
        snprintf(env->full, sizeof(env->full), "%s", event->text);
}

static void turn(struct env *env)
{
    struct storage *storage = sim_storage(env->sim);
    bool more = store_dispatch(env->store);
    if (sim_in_flight(env->sim))
        storage->poll(storage, !more);
}

static bool *io_flag;

static void io_done(struct store_io *io)
{
    *io_flag = true;
}

static int run_io(struct env *env, struct store_io io)
{
    bool done = false;
    io_flag = &done;
    io.done = io_done;
    done = store_submit(env->store, &io);
    while (!done)
        turn(env);
    return io.error;
}

static struct disk *disk(struct env *env)
{
    struct disk *d = store_find_disk(env->store, "vm", "root");
    assert_non_null(d);
    return d;
}

static int flush(struct env *env)
{
    return run_io(env, (struct store_io){.disk = disk(env), .op = STORE_FLUSH});
}

static void fill(uint8_t *buf, uint64_t page, uint32_t n, uint32_t round)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < PAGE_BYTES / 8; j++)
            ((uint64_t *)buf)[i * (PAGE_BYTES / 8) + j] =
                (page + i) * 0x9e3779b97f4a7c15 + round * 77777 + j;
}

static void write_pages(struct env *env, uint64_t page, uint64_t n, uint32_t round)
{
    static _Alignas(PAGE_BYTES) uint8_t buf[256 * PAGE_BYTES];
    for (uint64_t at = 0; at < n; at += 256) {
        uint32_t k = n - at < 256 ? (uint32_t)(n - at) : 256;
        fill(buf, page + at, k, round);
        assert_int_equal(run_io(env, (struct store_io){.disk = disk(env),
                                                       .op = STORE_WRITE,
                                                       .offset = (page + at) * PAGE_BYTES,
                                                       .length = k * PAGE_BYTES,
                                                       .buf = buf}),
                         0);
    }
}

/* 0: the page is as round wrote it; else what reading said, or 1: wrong. */
static int read_page(struct env *env, uint64_t page, uint32_t round)
{
    static _Alignas(PAGE_BYTES) uint8_t buf[PAGE_BYTES], want[PAGE_BYTES];
    int code = run_io(env, (struct store_io){.disk = disk(env),
                                             .op = STORE_READ,
                                             .offset = page * PAGE_BYTES,
                                             .length = PAGE_BYTES,
                                             .buf = buf});
    fill(want, page, 1, round);
    return code ? code : memcmp(buf, want, PAGE_BYTES) ? 1 : 0;
}

/* In which file does a page stand as round wrote it, and where? (The first place that has it.) */
static struct sim_place find_page(struct env *env, uint64_t page, uint32_t round)
{
    static _Alignas(PAGE_BYTES) uint8_t want[PAGE_BYTES], block[PAGE_BYTES];
    struct sim_place place = {0};
    fill(want, page, 1, round);
    while (sim_next_block(env->sim, &place)) {
        sim_peek(env->sim, place.file, place.offset_bytes, block);
        if (memcmp(block, want, PAGE_BYTES) == 0)
            return place;
    }
    fail();
    return place;
}

static bool change_done_flag;

static void change_done(struct store_change *change)
{
    change_done_flag = true;
}

static int run_change(struct env *env, struct store_change *c)
{
    c->done = change_done;
    change_done_flag = false;
    store_change(env->store, c);
    while (!change_done_flag)
        turn(env);
    return c->error;
}

static int change(struct env *env, enum change_kind kind, const char *vm, const char *name,
                  uint64_t size)
{
    struct store_change c = {.kind = kind, .size_bytes = size};
    strcpy(c.vm, vm);
    strcpy(c.disk, name);
    return run_change(env, &c);
}

static int open_store(struct env *env)
{
    env->n_damage = 0;
    int code = store_open(sim_storage(env->sim), &env->config, &env->store);
    if (code)
        env->store = NULL;
    return code;
}

static void close_store(struct env *env)
{
    assert_int_equal(store_close(env->store), 0);
    env->store = NULL;
}

/* The process dies. */
static void kill_store(struct env *env)
{
    sim_cut(env->sim);
    store_close(env->store);
    env->store = NULL;
    sim_restart(env->sim, SIM_KILL);
}

/* Turn until a checkpoint more is durable: the idle second's. */
static void checkpoint(struct env *env)
{
    struct store_counter counters[128];
    uint64_t before = UINT64_MAX;
    for (unsigned i = 0; i < 100000; i++) {
        uint32_t n = store_counters(env->store, counters, 128);
        for (uint32_t k = 0; k < n; k++)
            if (strcmp(counters[k].name, "checkpoints") == 0) {
                if (before != UINT64_MAX && counters[k].value > before)
                    return;
                before = counters[k].value;
            }
        if (i < 2)
            store_tick(env->store);
        turn(env);
    }
    fail();
}

static int setup(void **state)
{
    struct env *env = calloc(1, sizeof(*env));
    struct store_format format = {.capacity_bytes = 4096ULL * MIB};
    env->sim = sim_new(7, 1ULL << 34);
    env->config = store_config_default;
    env->config.cache_bytes = 0;
    env->config.event = on_event;
    env->config.event_arg = env;
    assert_int_equal(store_format(sim_storage(env->sim), &format), 0);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(change(env, CHANGE_VM_CREATE, "vm", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "root", DISK_BYTES), 0);
    *state = env;
    return 0;
}

static int teardown(void **state)
{
    struct env *env = *state;
    if (!env)
        return 0;
    if (env->store)
        store_close(env->store);
    sim_free(env->sim);
    free(env);
    return 0;
}

/* What the check says: all problems, and those where nothing lives. */
struct checked {
    struct store_check check;
    bool done;
};

static void check_done(struct store_check *check)
{
    container_of(check, struct checked, check)->done = true;
}

static void check_problem(struct store_check *check, const char *text)
{
    print_message("%s\n", text);
}

static uint64_t check(struct env *env, uint64_t *ret_harmless)
{
    struct checked c = {.check = {.pages = true, .problem = check_problem, .done = check_done}};
    assert_int_equal(store_check(env->store, &c.check), 0);
    while (!c.done)
        turn(env);
    assert_int_equal(c.check.error, 0);
    *ret_harmless = c.check.harmless;
    return c.check.problems;
}

static void reopen(struct env *env)
{
    close_store(env);
    assert_int_equal(open_store(env), 0);
}

/* made: makes the checkpoint between two writes; damaged: what becomes of it. */
static void checkpoint_between(struct env *env, void (*made)(struct env *env),
                               void (*damaged)(struct env *env))
{
    write_pages(env, 0, 100, 1);
    made(env);
    write_pages(env, 50, 100, 2);
    damaged(env);
    assert_int_equal(read_page(env, 49, 1), 0);
    assert_int_equal(read_page(env, 50, 2), 0);
    assert_int_equal(read_page(env, 149, 2), 0);
}

static void no_damage(void **state)
{
    struct env *env = *state;
    checkpoint_between(env, checkpoint, reopen);
    assert_int_equal(env->n_damage, 0);
}

/* ---- files ---------------------------------------------------------------------------------- */

/* A file with a log file's name that nothing was written to, as one that was being made, or cut. */
static void short_file(void **state)
{
    struct env *env = *state;
    write_pages(env, 0, 100, 1);
    kill_store(env);
    for (uint32_t number = 0; number < 32; number++) {
        struct storage_req req = {
            .op = STORAGE_CREATE, .file = number, .length_bytes = BLOCK_BYTES};
        if (sim_file_bytes(env->sim, number) < 0)
            assert_int_equal(storage_run(sim_storage(env->sim), &req), 0);
    }
    assert_int_equal(open_store(env), 0);
    for (uint32_t number = 0; number < 32; number++)
        assert_true(sim_file_bytes(env->sim, number) != BLOCK_BYTES);
    write_pages(env, 100, 16000, 1);
    assert_int_equal(flush(env), 0);
    assert_int_equal(read_page(env, 50, 1), 0);
}

/* ---- batches -------------------------------------------------------------------------------- */

/* The newest batch, or that before it, and so on: its block and where it stands. */
static struct sim_place find_batch(struct env *env, unsigned before, uint8_t *block)
{
    struct sim_place place = {0}, best = {0};
    uint64_t below = UINT64_MAX;
    for (unsigned round = 0; round <= before; round++) {
        uint64_t seq = 0;
        place = (struct sim_place){0};
        while (sim_next_block(env->sim, &place)) {
            const struct batch_header *h = (const struct batch_header *)block;
            if (place.file >= STORAGE_CHECKPOINT(1))
                continue;
            sim_peek(env->sim, place.file, place.offset_bytes, block);
            if (h->magic != BATCH_MAGIC || h->seq >= below || h->seq < seq)
                continue;
            seq = h->seq;
            best = place;
        }
        below = seq;
    }
    sim_peek(env->sim, best.file, best.offset_bytes, block);
    return best;
}

static void put_batch(struct env *env, struct sim_place place, uint8_t *block)
{
    _Alignas(8) uint8_t super[BLOCK_BYTES];
    struct batch_header *h = (struct batch_header *)block;
    sim_peek(env->sim, STORAGE_SUPER, 0, super);
    h->crc = batch_crc(((struct super_block *)super)->uuid, h, block);
    sim_poke(env->sim, place.file, place.offset_bytes, block);
}

/* A record that a newer program wrote is not the end of the log. */
static void unknown_record(void **state)
{
    struct env *env = *state;
    _Alignas(8) uint8_t block[BLOCK_BYTES];
    write_pages(env, 0, 10, 1);
    kill_store(env);
    struct sim_place place = find_batch(env, 0, block);
    struct batch_header *h = (struct batch_header *)block;
    struct record *r = (struct record *)(h + 1);
    assert_int_equal(r->kind, RECORD_WRITE);
    r->kind = RECORD_CHANGE + 1;
    put_batch(env, place, block);
    assert_int_equal(open_store(env), ERR_FORMAT_NEWER);
    r->kind = RECORD_WRITE;
    put_batch(env, place, block);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(read_page(env, 0, 1), 0);
}

/* A page that a guest wrote as the batch that would come next, but for the uuid. */
static void forged_batch(void **state)
{
    struct env *env = *state;
    _Alignas(8) uint8_t block[BLOCK_BYTES], super[BLOCK_BYTES];
    write_pages(env, 0, 10, 1);
    kill_store(env);
    struct sim_place place = find_batch(env, 0, block);
    struct batch_header *h = (struct batch_header *)block;
    sim_peek(env->sim, STORAGE_SUPER, 0, super);
    static const uint8_t zero[16];
    place.offset_bytes += (1 + h->n_pages) * BLOCK_BYTES;
    h->slot = place.offset_bytes / BLOCK_BYTES;
    h->seq++;
    h->n_pages = h->records_bytes = 0;
    memset(h + 1, 0, BLOCK_BYTES - sizeof(*h));
    h->records_bytes = sizeof(struct record);
    *(struct record *)(h + 1) = (struct record){.kind = RECORD_TRIM, .count = 10, .disk = 2};
    h->crc = batch_crc(zero, h, block);
    assert_true(h->crc != batch_crc(((struct super_block *)super)->uuid, h, block));
    sim_poke(env->sim, place.file, place.offset_bytes, block);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(read_page(env, 0, 1), 0);
    kill_store(env);
}

/* The lost batch is the last of its file, or the first; a later batch, in another file, was written
 * when it was durable. */
static void lost_at_edge(struct env *env, bool first)
{
    _Alignas(8) uint8_t block[BLOCK_BYTES];
    struct sim_place place, last;
    const struct batch_header *h = (const struct batch_header *)block;
    write_pages(env, 0, 50 * MIB / PAGE_BYTES, 1);
    assert_int_equal(flush(env), 0);
    write_pages(env, 0, 1, 2);
    kill_store(env);
    last = find_batch(env, 0, block);
    for (unsigned before = 1;; before++) {
        place = find_batch(env, before, block);
        assert_int_equal(h->magic, BATCH_MAGIC);
        if (first ? h->slot == 1 : place.file != last.file)
            break;
    }
    assert_true(first == (place.file == last.file));
    sim_flip_bit(env->sim, place.file, place.offset_bytes + 30, 3);
    assert_int_equal(open_store(env), ERR_DAMAGED);
    assert_int_equal(env->n_damage, 1);
    sim_flip_bit(env->sim, place.file, place.offset_bytes + 30, 3);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(read_page(env, 0, 2), 0);
    assert_int_equal(read_page(env, 50 * MIB / PAGE_BYTES - 1, 1), 0);
}

static void lost_last_of_file(void **state)
{
    lost_at_edge(*state, false);
}

static void lost_first_of_file(void **state)
{
    lost_at_edge(*state, true);
}

/* Only a page of it is damaged: that page gives an error, and the log goes on. */
static void lost_page_at_edge(void **state)
{
    struct env *env = *state;
    _Alignas(8) uint8_t block[BLOCK_BYTES];
    struct sim_place place, last;
    write_pages(env, 0, 50 * MIB / PAGE_BYTES, 1);
    assert_int_equal(flush(env), 0);
    write_pages(env, 0, 1, 2);
    kill_store(env);
    last = find_batch(env, 0, block);
    unsigned before = 1;
    do
        place = find_batch(env, before++, block);
    while (place.file == last.file);
    const struct batch_header *h = (const struct batch_header *)block;
    uint64_t page = ((const struct record *)(h + 1))->page;
    sim_flip_bit(env->sim, place.file, place.offset_bytes + BLOCK_BYTES + 77, 3);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(err_errno(read_page(env, page, 1)), EIO);
    assert_int_equal(read_page(env, page + 1, 1), 0);
    assert_int_equal(read_page(env, 0, 2), 0);
    assert_int_equal(read_page(env, 50 * MIB / PAGE_BYTES - 1, 1), 0);
}

/* ---- checkpoints ---------------------------------------------------------------------------- */

static uint32_t newer_checkpoint(struct env *env)
{
    _Alignas(8) uint8_t a[BLOCK_BYTES], b[BLOCK_BYTES];
    sim_peek(env->sim, STORAGE_CHECKPOINT(0), 0, a);
    sim_peek(env->sim, STORAGE_CHECKPOINT(1), 0, b);
    bool first = ((struct checkpoint_header *)a)->seq > ((struct checkpoint_header *)b)->seq;
    return first ? STORAGE_CHECKPOINT(0) : STORAGE_CHECKPOINT(1);
}

/* The newer checkpoint was durable and the store went on after it: the older one is no way out. */
static void damaged_checkpoint(struct env *env)
{
    assert_int_equal(flush(env), 0);
    kill_store(env);
    uint32_t file = newer_checkpoint(env);
    sim_flip_bit(env->sim, file, 100, 3);
    assert_int_equal(open_store(env), ERR_DAMAGED);
    sim_flip_bit(env->sim, file, 100, 3);
    sim_flip_bit(env->sim, file, BLOCK_BYTES + 2, 3); /* the body */
    assert_int_equal(open_store(env), ERR_DAMAGED);
    sim_flip_bit(env->sim, file, BLOCK_BYTES + 2, 3);
    assert_int_equal(open_store(env), 0);
}

static void checkpoint_of_opening(void **state)
{
    checkpoint_between(*state, reopen, damaged_checkpoint);
}

static void checkpoint_of_running(void **state)
{
    checkpoint_between(*state, checkpoint, damaged_checkpoint);
}

static void damaged_at_end(struct env *env)
{
    close_store(env);
    sim_flip_bit(env->sim, newer_checkpoint(env), 100, 3);
    assert_int_equal(open_store(env), 0);
}

/* Nothing was written after the newer one: the older one and its log are the whole store. */
static void checkpoint_of_closing(void **state)
{
    checkpoint_between(*state, checkpoint, damaged_at_end);
}

/* ---- tables -----------------------------------------------------------------------------------
 */

/* Flip a bit in all forms of one node of a level. Returns how many there were. */
static unsigned flip_node(struct env *env, uint8_t level, uint32_t index, unsigned byte)
{
    _Alignas(64) uint8_t block[BLOCK_BYTES];
    struct sim_place place = {0};
    unsigned n = 0;
    while (sim_next_block(env->sim, &place)) {
        if (place.file >= STORAGE_CHECKPOINT(1))
            continue;
        sim_peek(env->sim, place.file, place.offset_bytes, block);
        for (unsigned at = 0; at < BLOCK_BYTES; at += 64) {
            const struct node_header *h = (const struct node_header *)(block + at);
            if (h->magic == NODE_MAGIC && h->level == level && h->index == index && h->form <= 3) {
                sim_flip_bit(env->sim, place.file, place.offset_bytes + at + byte, 1);
                n++;
            }
        }
    }
    return n;
}

/* Two bits: more than can be put right. */
static unsigned damage_node(struct env *env, uint8_t level, uint32_t index)
{
    flip_node(env, level, index, 24);
    return flip_node(env, level, index, 70);
}

/* A node under the tail of the log is damaged: what the tail says is there, what only the node said
 * gives errors, the rest is whole. */
static void damaged_node(struct env *env, uint8_t level)
{
    write_pages(env, 0, 2000, 1);
    checkpoint(env);
    write_pages(env, 3, 1, 2);
    assert_int_equal(flush(env), 0);
    kill_store(env);
    assert_true(damage_node(env, level, 0) > 0);
    assert_int_equal(open_store(env), 0);
    assert_true(env->n_damage > 0);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(read_page(env, 3, 2), 0);
        assert_int_equal(err_errno(read_page(env, 4, 1)), EIO);
        if (level == 0)
            assert_int_equal(read_page(env, 600, 1), 0);
        else
            assert_int_equal(err_errno(read_page(env, 600, 1)), EIO);
        close_store(env);
        assert_int_equal(open_store(env), 0);
    }
    write_pages(env, 4, 1, 3);
    assert_int_equal(read_page(env, 4, 3), 0);
    assert_int_equal(
        run_io(env,
               (struct store_io){.disk = disk(env), .op = STORE_TRIM, .length = 512 * PAGE_BYTES}),
        0);
    assert_int_equal(change(env, CHANGE_DISK_REMOVE, "vm", "root", 0), 0);
    for (unsigned i = 0; i < 2000; i++)
        turn(env);
    close_store(env);
    assert_int_equal(open_store(env), 0);
}

static void damaged_leaf(void **state)
{
    damaged_node(*state, 0);
}

static void damaged_root(void **state)
{
    damaged_node(*state, 1);
}

/* A page under a damaged leaf, to which no pointer is known any more, is found in its file, and not
 * taken for one that is dead. */
static void hidden_page(void **state)
{
    struct env *env = *state;
    _Alignas(8) uint8_t block[BLOCK_BYTES];
    uint64_t problems, harmless;
    write_pages(env, 0, 2000, 1);
    struct sim_place place = find_batch(env, 0, block);
    close_store(env);
    sim_flip_bit(env->sim, place.file, place.offset_bytes + BLOCK_BYTES + 99, 1);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(check(env, &harmless), 1);
    assert_int_equal(harmless, 0);
    close_store(env);
    assert_true(damage_node(env, 0, 0) > 0); /* of the first 512 pages */
    assert_true(damage_node(env, 1, 0) > 0); /* the root */
    assert_int_equal(open_store(env), 0);
    problems = check(env, &harmless);
    assert_true(problems >= 3); /* the root, the leaf, the page */
    assert_int_equal(harmless, 0);
}

/* Nothing of a file can be read: the check tells of it block by block, and ends. */
static void unreadable(void **state)
{
    struct env *env = *state;
    uint64_t harmless;
    write_pages(env, 0, 1000, 1);
    write_pages(env, 0, 900, 2);
    close_store(env);
    assert_int_equal(open_store(env), 0);
    sim_fail(env->sim, STORAGE_READ, 1, UINT64_MAX, -EIO);
    uint64_t problems = check(env, &harmless);
    assert_true(problems > 2 && harmless < problems);
    sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
    assert_int_equal(check(env, &harmless), 0);
}

/* ---- packed files --------------------------------------------------------------------------- */

static uint64_t counter(struct env *env, const char *name)
{
    struct store_counter counters[128];
    uint32_t n = store_counters(env->store, counters, 128);
    for (uint32_t k = 0; k < n; k++)
        if (strcmp(counters[k].name, name) == 0)
            return counters[k].value;
    fail();
    return 0;
}

/* One flipped bit of a node is found, told of and put right, wherever it is. */
static void mended_node(void **state)
{
    struct env *env = *state;
    /* The born field, form, n, the checksum, the base, the entries; the magic as the last, for then
     * it is not found again. */
    static const unsigned bytes[] = {24, 2, 4, 13, 33, 70, 200, 1};
    uint64_t harmless;
    write_pages(env, 0, 2000, 1);
    close_store(env);
    for (unsigned i = 0; i < sizeof(bytes) / sizeof(*bytes); i++) {
        uint8_t level = i % 2;
        assert_true(flip_node(env, level, 0, bytes[i]) > 0);
        env->n_damage = 0;
        assert_int_equal(open_store(env), 0);
        for (uint64_t page = 0; page < 2000; page += 100)
            assert_int_equal(read_page(env, page, 1), 0);
        assert_true(counter(env, "table_mended") > 0 && env->n_damage > 0);
        assert_int_equal(check(env, &harmless), 1);
        assert_int_equal(harmless, 0);
        close_store(env);
        flip_node(env, level, 0, bytes[i]);
    }
}

/* The newest checkpoint: its header, and its body, which is valid until the next call. */
static uint8_t *checkpoint_body(struct env *env, uint32_t *ret_file, struct checkpoint_header *ret)
{
    static _Alignas(8) uint8_t body[4 * MIB];
    *ret_file = newer_checkpoint(env);
    sim_peek(env->sim, *ret_file, 0, body);
    memcpy(ret, body, sizeof(*ret));
    assert_true(ret->body_bytes < sizeof(body));
    for (uint64_t at = 0; at < ret->body_bytes; at += BLOCK_BYTES)
        sim_peek(env->sim, *ret_file, BLOCK_BYTES + at, body + at);
    return body;
}

static const uint8_t *behind_map_file(const struct map_file *m)
{
    return (const uint8_t *)m + sizeof(*m) + m->n_pieces * sizeof(struct map_piece) +
           (m->used_slots + 63) / 64 * 8;
}

/* Where the footer of a file with pages that were packed stands, by the newest checkpoint. */
static bool find_footer(struct env *env, uint32_t *ret_file, uint64_t *ret_offset,
                        uint64_t *ret_copy)
{
    struct checkpoint_header h;
    uint32_t file;
    const uint8_t *at = checkpoint_body(env, &file, &h) + h.catalogue_bytes;
    for (uint32_t i = 0; i < h.n_files; i++) {
        const struct map_file *m = (const struct map_file *)at;
        if (m->kind == FILE_KIND_PACKED && m->shift == DATA_SHIFT) {
            *ret_file = m->file;
            *ret_offset = (uint64_t)m->footer_block * BLOCK_BYTES;
            *ret_copy = *ret_offset +
                        (m->footer_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * (uint64_t)BLOCK_BYTES;
            return true;
        }
        at = behind_map_file(m);
    }
    return false;
}

struct place {
    uint32_t file, slot;
    bool known;
};

/* Change whether a slot lives, in the newest checkpoint's map, with its checksums: the first slot
 * of a file of that kind that does (lives) or does not, or the slot that was changed before. */
static void flip_liveness(struct env *env, uint8_t shift, bool lives, struct place *changed)
{
    struct checkpoint_header h;
    uint32_t file, found = UINT32_MAX;
    uint8_t block[BLOCK_BYTES], *body = checkpoint_body(env, &file, &h);
    uint8_t *bits = NULL, *at = body + h.catalogue_bytes;
    for (uint32_t i = 0; i < h.n_files && found == UINT32_MAX; i++) {
        const struct map_file *m = (const struct map_file *)at;
        bool fits = m->shift == shift && (!changed->known || m->file == changed->file);
        bits = at + sizeof(*m) + m->n_pieces * sizeof(struct map_piece);
        at += behind_map_file(m) - at;
        for (uint32_t k = 0; fits && k < m->used_slots && found == UINT32_MAX; k++)
            if (changed->known ? k == changed->slot : (bits[k / 8] >> (k % 8) & 1) == lives) {
                *changed = (struct place){m->file, k, true};
                found = k;
            }
    }
    assert_true(found != UINT32_MAX);
    sim_flip_bit(env->sim, file, BLOCK_BYTES + (uint64_t)(bits - body) + found / 8, found % 8);
    checkpoint_body(env, &file, &h);
    h.body_crc = crc32c(0, body, h.body_bytes);
    h.crc = 0;
    sim_peek(env->sim, file, 0, block);
    memcpy(block, &h, sizeof(h));
    h.crc = crc32c(0, block, BLOCK_BYTES);
    memcpy(block, &h, sizeof(h));
    sim_poke(env->sim, file, 0, block);
}

/* The books are wrong by one slot, of pages or of nodes: one that lives counts as dead, so that
 * what stands there would be written over, or the other way round. The check tells of it. */
static void wrong_liveness(void **state)
{
    struct env *env = *state;
    uint64_t harmless;
    write_pages(env, 0, 2000, 1);
    write_pages(env, 0, 900, 2);
    reopen(env);
    write_pages(env, 100, 10, 3); /* a leaf of before is dead */
    close_store(env);
    for (unsigned i = 0; i < 4; i++) {
        struct place place = {};
        uint8_t shift = i / 2 ? TABLE_SHIFT : DATA_SHIFT;
        bool lives = i % 2;
        flip_liveness(env, shift, lives, &place);
        assert_int_equal(open_store(env), 0);
        assert_int_equal(check(env, &harmless), 1);
        assert_int_equal(harmless, 0);
        close_store(env);
        flip_liveness(env, shift, lives, &place);
        assert_int_equal(open_store(env), 0);
        assert_int_equal(check(env, &harmless), 0);
        close_store(env);
    }
    assert_int_equal(open_store(env), 0);
}

/* One of a packed file's two footers is damaged: that is told, and nothing is lost. */
static void one_footer(struct env *env, uint32_t file, uint64_t offset)
{
    uint64_t harmless;
    sim_flip_bit(env->sim, file, offset + 5, 1);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(env->n_damage, 0);
    assert_int_equal(check(env, &harmless), 1);
    assert_int_equal(harmless, 1);
    close_store(env);
    sim_flip_bit(env->sim, file, offset + 5, 1);
}

/* A packed file without its footers: its pages give errors, everything else goes on. */
static void damaged_footer(void **state)
{
    enum { N = 16000 };
    struct env *env = *state;
    uint32_t file = 0, lost = 0;
    uint64_t offset = 0, copy = 0;
    write_pages(env, 0, N, 1);
    for (uint64_t page = 0; page < N; page++)
        if (page % 3)
            write_pages(env, page, 1, 2);
    for (unsigned i = 0; i < 20000 && counter(env, "files_cleaned") == 0; i++) {
        if (i % 100 == 0)
            store_tick(env->store);
        turn(env);
    }
    assert_true(counter(env, "files_cleaned") > 0);
    close_store(env);
    assert_true(find_footer(env, &file, &offset, &copy));
    one_footer(env, file, offset);
    one_footer(env, file, copy);
    sim_flip_bit(env->sim, file, offset + 5, 1);
    sim_flip_bit(env->sim, file, copy + 5, 1);
    assert_int_equal(open_store(env), 0);
    assert_true(env->n_damage > 0);
    for (unsigned round = 0; round < 2; round++) {
        lost = 0;
        for (uint64_t page = 0; page < N; page++) {
            int code = read_page(env, page, page % 3 ? 2 : 1);
            assert_true(code == 0 || err_errno(code) == EIO);
            if (code == 0)
                continue;
            lost++;
            if (round == 0) /* what is written again is whole again */
                write_pages(env, page, 1, page % 3 ? 2 : 1);
        }
        assert_true(round == 0 ? lost > 0 && lost < N / 2 : lost == 0);
        close_store(env);
        assert_int_equal(open_store(env), 0);
    }
    write_pages(env, 0, N, 3); /* and cleaning leaves the file alone */
    for (unsigned i = 0; i < 20000; i++) {
        if (i % 100 == 0)
            store_tick(env->store);
        turn(env);
    }
    assert_int_equal(read_page(env, 0, 3), 0);
}

/* ---- the catalogue -------------------------------------------------------------------------- */

static void resized(struct store_change *c)
{
    change_done_flag = true;
}

/* A disk that shrinks says so from the first zero to the end, so that nobody opens it meanwhile. */
static void shrinking(void **state)
{
    struct env *env = *state;
    struct store_change c = {.kind = CHANGE_DISK_RESIZE, .size_bytes = MIB, .done = resized};
    bool seen = false;
    write_pages(env, 0, 4096, 1);
    strcpy(c.vm, "vm");
    strcpy(c.disk, "root");
    change_done_flag = false;
    store_change(env->store, &c);
    while (!change_done_flag) {
        turn(env);
        assert_true(change_done_flag || disk_is_shrinking(disk(env)));
        seen |= disk_is_shrinking(disk(env));
    }
    assert_int_equal(c.error, 0);
    assert_true(seen && !disk_is_shrinking(disk(env)));
    assert_int_equal(disk_size(disk(env)), MIB);
    /* One in use does not begin. */
    disk_get(disk(env));
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", MIB / 2), -EBUSY);
    assert_false(disk_is_shrinking(disk(env)));
    assert_int_equal(read_page(env, 200, 1), 0);
    disk_put(disk(env));
}

/* A shrink that cannot read the rest of the last page that stays is refused, with all there. */
static void shrinking_fails(void **state)
{
    struct env *env = *state;
    uint64_t size = disk_size(disk(env));
    uint32_t edge = MIB / PAGE_BYTES;
    write_pages(env, 0, 4096, 1);
    reopen(env);
    for (uint32_t i = 0; i < 4096; i++) /* all tables are in memory, and that page is not */
        assert_true(i == edge || read_page(env, i, 1) == 0);
    sim_fail(env->sim, STORAGE_READ, 1, 1, -EIO);
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", MIB + 512), -EIO);
    sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
    assert_int_equal(disk_size(disk(env)), size);
    assert_false(disk_is_shrinking(disk(env)));
    for (uint32_t i = 0; i < 4096; i++)
        assert_int_equal(read_page(env, i, 1), 0);
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", MIB + 512), 0);
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", size), 0);
    assert_int_equal(read_page(env, edge - 1, 1), 0);
    for (uint32_t i = edge; i < 4096; i++)
        assert_int_equal(read_page(env, i, 1), 1);
}

static bool no_random;

/* The C library's, which the store calls. */
ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
    if (!no_random)
        return syscall(SYS_getrandom, buf, len, flags);
    errno = ENOSYS;
    return -1;
}

static int change_version(struct env *env, enum change_kind kind, const char *version,
                          const char *new_name, uint8_t guid)
{
    struct store_change c = {.kind = kind, .vm = "vm", .guid = {guid}};
    strcpy(c.version, version);
    strcpy(c.new_name, new_name);
    return run_change(env, &c);
}

/* A version is not made with a guid that another may have: that is refused, and nothing else. */
static void no_guid(void **state)
{
    struct env *env = *state;
    struct version_info *versions;
    uint32_t n;
    write_pages(env, 0, 10, 1);
    no_random = true;
    assert_int_equal(change_version(env, CHANGE_SNAP, "a", "", 0), -EIO);
    assert_int_equal(change_version(env, CHANGE_SNAP, "b", "", 7), 0); /* it brings its own */
    write_pages(env, 0, 10, 2);
    assert_int_equal(change_version(env, CHANGE_ROLLBACK, "b", "kept", 0), -EIO);
    assert_int_equal(read_page(env, 0, 2), 0);
    assert_int_equal(change_version(env, CHANGE_ROLLBACK, "b", "", 0), 0); /* it makes none */
    no_random = false;
    assert_int_equal(read_page(env, 0, 1), 0);
    assert_int_equal(change_version(env, CHANGE_SNAP, "a", "", 0), 0);
    assert_int_equal(store_list_versions(env->store, "vm", NULL, true, UINT32_MAX, &versions, &n),
                     0);
    assert_int_equal(n, 2);
    assert_string_equal(versions[0].name, "b");
    assert_string_equal(versions[1].name, "a");
    assert_memory_not_equal(versions[0].guid, versions[1].guid, GUID_BYTES);
    free(versions);
}

/* ---- opening -------------------------------------------------------------------------------- */

static unsigned stop_after;

static bool stop_now(void)
{
    return stop_after == 0 || --stop_after == 0;
}

/* An opening that is given up, early or late, changes nothing. */
static void given_up(void **state)
{
    struct env *env = *state;
    for (uint32_t i = 0; i < 40; i++)
        write_pages(env, i * 10, 10, i);
    kill_store(env);
    env->config.stop = stop_now;
    for (unsigned after = 0; after < 40; after++) {
        stop_after = after;
        assert_int_equal(open_store(env), -ECANCELED);
        sim_restart(env->sim, SIM_KILL);
    }
    env->config.stop = NULL;
    assert_int_equal(open_store(env), 0);
    for (uint32_t i = 0; i < 400; i++)
        assert_int_equal(read_page(env, i, i / 10), 0);
    assert_int_equal(env->n_damage, 0);
}

static int add_provisional(struct env *env, const char *name)
{
    struct store_change c = {
        .kind = CHANGE_DISK_ADD, .vm = "vm", .size_bytes = MIB, .provisional = true};
    strcpy(c.disk, name);
    return run_change(env, &c);
}

/* A provisional disk goes with the daemon, by the log and by a checkpoint; a committed one stays.
 */
static void provisional_disk(void **state)
{
    struct env *env = *state;
    for (int with_checkpoint = 0; with_checkpoint < 2; with_checkpoint++) {
        assert_int_equal(add_provisional(env, "left"), 0);
        assert_int_equal(add_provisional(env, "whole"), 0);
        assert_int_equal(change(env, CHANGE_DISK_COMMIT, "vm", "whole", 0), 0);
        assert_int_equal(change(env, CHANGE_DISK_COMMIT, "vm", "whole", 0), -EEXIST);
        assert_int_equal(change(env, CHANGE_DISK_COMMIT, "vm", "none", 0), -ENOENT);
        if (with_checkpoint)
            checkpoint(env);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        assert_null(store_find_disk(env->store, "vm", "left"));
        assert_non_null(store_find_disk(env->store, "vm", "whole"));
        assert_non_null(store_find_disk(env->store, "vm", "root"));
        assert_int_equal(change(env, CHANGE_DISK_REMOVE, "vm", "whole", 0), 0);
    }
}

/* Thousands of vms are loaded, found by name and by id, and replayed, in no more than a moment. */
static int provisional_change(struct env *env, enum change_kind kind, const char *name,
                              bool provisional)
{
    struct store_change c = {.kind = kind,
                             .provisional = provisional,
                             .consistency = CONSISTENCY_RAM,
                             .done = change_done};
    strcpy(c.vm, "vm");
    strcpy(c.version, name);
    strcpy(c.new_name, kind == CHANGE_CLONE ? "clone" : "");
    change_done_flag = false;
    store_change(env->store, &c);
    while (!change_done_flag)
        turn(env);
    return c.error;
}

static uint32_t count_versions(struct env *env)
{
    struct version_info *infos;
    uint32_t n;
    assert_int_equal(store_list_versions(env->store, "vm", NULL, false, UINT32_MAX, &infos, &n), 0);
    free(infos);
    return n;
}

/* A checkpoint under way is there wholly when it was committed, and else not at all; by the log's
 * tail and by a checkpoint of the tables. */
static void provisional_version(void **state)
{
    struct env *env = *state;
    for (unsigned i = 0; i < 4; i++) {
        write_pages(env, 0, 100, i);
        assert_int_equal(provisional_change(env, CHANGE_SNAP, "v", true), 0);
        write_pages(env, 0, 100, 50 + i);
        assert_int_equal(provisional_change(env, CHANGE_CLONE, "v", false), -EBUSY);
        if (i % 2)
            assert_int_equal(provisional_change(env, CHANGE_VERSION_COMMIT, "v", false), 0);
        if (i / 2)
            checkpoint(env);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        assert_int_equal(count_versions(env), i % 2);
        assert_int_equal(read_page(env, 7, 50 + i), 0);
        if (i % 2) {
            assert_int_equal(provisional_change(env, CHANGE_VERSION_COMMIT, "v", false), -EEXIST);
            assert_int_equal(provisional_change(env, CHANGE_ROLLBACK, "v", false), 0);
            assert_int_equal(read_page(env, 7, i), 0);
            const char *name = "v";
            struct store_change c = {.kind = CHANGE_VERSION_REMOVE,
                                     .versions = &name,
                                     .n_versions = 1,
                                     .vm = "vm",
                                     .done = change_done};
            change_done_flag = false;
            store_change(env->store, &c);
            while (!change_done_flag)
                turn(env);
            assert_int_equal(c.error, 0);
        }
    }
}

static void many_vms(void **state)
{
    enum { N = 10000 };
    struct env *env = *state;
    static struct store_change changes[2 * N];
    struct vm_info *vms;
    uint32_t n = 0;
    for (unsigned i = 0; i < N; i++) {
        struct store_change *c = &changes[2 * i];
        *c = (struct store_change){.kind = CHANGE_VM_CREATE, .done = change_done};
        snprintf(c->vm, sizeof(c->vm), "many-%u", (unsigned)((i * 7919) % N));
        c[1] = *c;
        c[1].kind = CHANGE_DISK_ADD;
        c[1].size_bytes = 64 * MIB;
        strcpy(c[1].disk, "root");
        store_change(env->store, &c[0]);
        change_done_flag = false;
        store_change(env->store, &c[1]);
        while (!list_empty(&c[1].link) && !change_done_flag)
            turn(env);
    }
    for (unsigned i = 0; i < 2 * N; i++)
        assert_int_equal(changes[i].error, 0);
    close_store(env);
    uint64_t begun = mono_us();
    assert_int_equal(open_store(env), 0);
    uint64_t took = mono_us() - begun;
    print_message("opening %d vms took %llu ms\n", N, (unsigned long long)took / 1000);
    assert_true(took < 1000000);
    assert_int_equal(store_list(env->store, &vms, &n), 0);
    assert_int_equal(n, N + 1);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(i == 0 || strcmp(vms[i - 1].name, vms[i].name) < 0);
        assert_non_null(store_find_disk(env->store, vms[i].name, "root"));
    }
    free(vms);
}

/* A request to read ahead a whole disk has a bound, and ends where the cache does. */
static void read_ahead(void **state)
{
    struct env *env = *state;
    bool done = false;
    write_pages(env, 0, 8192, 1);
    close_store(env);
    env->config.cache_bytes = 16 * MIB;
    assert_int_equal(open_store(env), 0);
    struct store_io io = {
        .disk = disk(env), .op = STORE_CACHE, .length = DISK_BYTES, .done = io_done};
    io_flag = &done;
    done = store_submit(env->store, &io);
    while (!done) {
        assert_true(sim_in_flight(env->sim) <= 12);
        turn(env);
    }
    assert_int_equal(io.error, 0);
    struct store_counter counters[128];
    uint64_t read = 0, cached = 0;
    uint32_t n = store_counters(env->store, counters, 128);
    for (uint32_t k = 0; k < n; k++) {
        read = strcmp(counters[k].name, "log_read_bytes") == 0 ? counters[k].value : read;
        cached = strcmp(counters[k].name, "cache_bytes") == 0 ? counters[k].value : cached;
    }
    assert_true(cached > 12 * MIB && read < 28 * MIB);
    close_store(env);
    env->config.cache_bytes = 0;
    assert_int_equal(open_store(env), 0);
}

static unsigned n_done;

static void counted_done(struct store_io *io)
{
    n_done++;
}

/* All such requests together have a bound; what comes on top ends well, and again they read when
 * the others are over. */
static void many_read_ahead(void **state)
{
    struct env *env = *state;
    struct store_io io[24];
    write_pages(env, 0, 2048, 1);
    close_store(env);
    env->config.cache_bytes = 64 * MIB;
    assert_int_equal(open_store(env), 0);
    for (uint64_t page = 0; page < 2048; page += 256) /* the tables are in memory now */
        assert_int_equal(read_page(env, page, 1), 0);
    n_done = 0;
    for (unsigned i = 0; i < 24; i++) {
        io[i] = (struct store_io){
            .disk = disk(env), .op = STORE_CACHE, .length = 8 * MIB, .done = counted_done};
        n_done += store_submit(env->store, &io[i]);
        assert_true(sim_in_flight(env->sim) <= 40);
    }
    while (n_done < 24)
        turn(env);
    for (unsigned i = 0; i < 24; i++)
        assert_int_equal(io[i].error, 0);
    io[0] = (struct store_io){.disk = disk(env), .op = STORE_CACHE, .length = 8 * MIB};
    assert_int_equal(run_io(env, io[0]), 0);
    assert_int_equal(counter(env, "cache_bytes"), 8 * MIB);
    close_store(env);
    env->config.cache_bytes = 0;
    assert_int_equal(open_store(env), 0);
}

/* ---- batches whose records fill their block ------------------------------------------------- */

#define MANY       300 /* requests of one turn */
#define MANY_PAGES 4   /* of one request, at most */

struct many {
    struct store_io io[MANY];
    unsigned n, done;
    uint32_t rounds[MANY * MANY_PAGES + MANY]; /* of each page; 0: zeros */
    uint64_t next;                             /* page of the next request */
};

static struct many *many;

static void many_done(struct store_io *io)
{
    many->done++;
}

/* Put a request in, and do not turn. */
static void many_add(struct env *env, enum store_op op, uint32_t n, uint32_t round)
{
    static _Alignas(PAGE_BYTES) uint8_t bufs[MANY][MANY_PAGES * PAGE_BYTES];
    struct store_io *io = &many->io[many->n];

    fill(bufs[many->n], many->next, n, round);
    *io = (struct store_io){.disk = disk(env),
                            .op = op,
                            .offset = many->next * PAGE_BYTES,
                            .length = n * PAGE_BYTES,
                            .buf = bufs[many->n],
                            .done = many_done};
    for (uint32_t i = 0; i < n; i++)
        many->rounds[many->next + i] = op == STORE_WRITE ? round : 0;
    many->next += n + 1; /* neighbours are not joined */
    many->n++;
    many->done += store_submit(env->store, io);
}

static void many_check(struct env *env)
{
    static const uint8_t zeros[PAGE_BYTES];
    static _Alignas(PAGE_BYTES) uint8_t buf[PAGE_BYTES];

    for (uint64_t page = 0; page < many->next; page++) {
        struct store_io io = {.disk = disk(env),
                              .op = STORE_READ,
                              .offset = page * PAGE_BYTES,
                              .length = PAGE_BYTES,
                              .buf = buf};
        if (many->rounds[page]) {
            assert_int_equal(read_page(env, page, many->rounds[page]), 0);
        } else {
            assert_int_equal(run_io(env, io), 0);
            assert_memory_equal(buf, zeros, PAGE_BYTES);
        }
    }
    assert_int_equal(env->n_damage, 0);
}

/* All are acknowledged, and are there: read at once, and after a kill. */
static void many_end(struct env *env)
{
    while (many->done < many->n)
        turn(env);
    for (unsigned i = 0; i < many->n; i++)
        assert_int_equal(many->io[i].error, 0);
    many_check(env);
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    many_check(env);
    many->n = many->done = 0;
    many->next = 0;
}

/* A record whose sums end where the block of the batch ends, behind it the first page: whatever
 * stands before it, written or trimmed, cached or not. */
static void full_batches(void **state)
{
    struct env *env = *state;
    uint32_t round = 1, chance = 12345;

    many = calloc(1, sizeof(*many));
    assert_non_null(many);
    for (unsigned cached = 0; cached < 2; cached++) {
        close_store(env);
        env->config.cache_bytes = cached * 16 * MIB;
        assert_int_equal(open_store(env), 0);
        for (unsigned i = 0; i < 167; i++)
            many_add(env, STORE_WRITE, 1, round);
        many_add(env, STORE_WRITE, 4, round++);
        many_end(env);
        many_add(env, STORE_WRITE, 1, round);
        for (unsigned i = 0; i < 249; i++)
            many_add(env, STORE_TRIM, 1, 0);
        many_add(env, STORE_WRITE, 2, round++);
        many_end(env);
        for (unsigned turns = 0; turns < 20; turns++, round++) {
            for (unsigned i = 0; i < MANY; i++) {
                chance = chance * 1103515245 + 12345;
                many_add(env, chance >> 16 & 3 ? STORE_WRITE : STORE_TRIM,
                         1 + (chance >> 18 & 1) * (chance >> 19) % MANY_PAGES, round);
            }
            many_end(env);
        }
    }
    free(many);
    env->config.cache_bytes = 0;
}

/* ---- syncs ahead of flushes ----------------------------------------------------------------- */

/* What was written is synced before anybody asks, for some time after somebody did. */
static void synced_ahead(void **state)
{
    struct env *env = *state;

    write_pages(env, 0, 20480, 1); /* 80 MiB: nobody has flushed for long */
    uint64_t before = counter(env, "syncs_ahead");
    write_pages(env, 0, 2048, 2);
    assert_int_equal(counter(env, "syncs_ahead"), before);
    assert_int_equal(flush(env), 0);
    write_pages(env, 0, 2048, 3);
    assert_in_range(counter(env, "syncs_ahead"), before + 4, before + 17);
}

/* ---- checkpoints of many nodes -------------------------------------------------------------- */

static unsigned n_grouped;

static void grouped_done(struct store_io *io)
{
    assert_int_equal(io->error, 0);
    n_grouped++;
}

/* Flushes that many clients ask for at once share their syncs: one for those that came while none
 * was under way, and one for those that came meanwhile. */
static void flushed_together(void **state)
{
    enum { N = 32 };
    struct env *env = *state;
    static _Alignas(PAGE_BYTES) uint8_t bufs[N][PAGE_BYTES];
    static struct store_io writes[N], flushes[N];
    const uint64_t *syncs = &sim_stats(env->sim)->completed[STORAGE_SYNC];
    write_pages(env, 0, 1, 1); /* whatever a first write brings with it */
    assert_int_equal(flush(env), 0);
    uint64_t before = *syncs;
    n_grouped = 0;
    for (uint32_t i = 0; i < N; i++) {
        fill(bufs[i], i, 1, 2);
        writes[i] = (struct store_io){.disk = disk(env),
                                      .op = STORE_WRITE,
                                      .offset = i * PAGE_BYTES,
                                      .length = PAGE_BYTES,
                                      .buf = bufs[i],
                                      .done = grouped_done};
        n_grouped += store_submit(env->store, &writes[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        flushes[i] = (struct store_io){.disk = disk(env), .op = STORE_FLUSH, .done = grouped_done};
        n_grouped += store_submit(env->store, &flushes[i]);
    }
    while (n_grouped < 2 * N)
        turn(env);
    assert_in_range(*syncs - before, 1, 2);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(writes[i].error | flushes[i].error, 0);
        assert_int_equal(read_page(env, i, 2), 0);
    }
}

/* The reserve is there after a crash, though nothing was flushed since it was made. */
static void reserve_stays(void **state)
{
    struct env *env = *state;
    uint32_t reserve = log_reserve_files(4096ULL * MIB / FILE_BYTES), n = 0;
    for (unsigned i = 0; counter(env, "files_free") < reserve; i++) {
        assert_true(i < 10000);
        turn(env);
    }
    sim_cut(env->sim);
    store_close(env->store);
    env->store = NULL;
    sim_restart(env->sim, SIM_CRASH);
    for (uint32_t file = 0; file < 2 * reserve; file++)
        n += sim_file_bytes(env->sim, file) > 0;
    assert_true(n >= reserve);
    assert_int_equal(open_store(env), 0);
}

/* One checkpoint of more table files than any other here fills: its map has room for them. Pages
 * far apart, so that each has nodes of its own on all levels. */
static void many_nodes(void **state)
{
    enum { N = 100000 };
    struct env *env = *state;
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "wide", DISK_MAX_BYTES), 0);
    close_store(env);
    env->config.table_bytes = 1024ULL * MIB;
    env->config.checkpoint_bytes = 1ULL << 40;
    assert_int_equal(open_store(env), 0);
    for (uint64_t i = 0; i < N; i++) {
        memcpy(page, &i, sizeof(i));
        assert_int_equal(
            run_io(env,
                   (struct store_io){.disk = store_find_disk(env->store, "vm", "wide"),
                                     .op = STORE_WRITE,
                                     .offset = i * (DISK_MAX_BYTES / N / PAGE_BYTES * PAGE_BYTES),
                                     .length = PAGE_BYTES,
                                     .buf = page}),
            0);
    }
    checkpoint(env);
    struct store_io last = {.disk = store_find_disk(env->store, "vm", "wide"),
                            .op = STORE_WRITE,
                            .offset = DISK_MAX_BYTES - PAGE_BYTES,
                            .length = PAGE_BYTES,
                            .buf = page};
    assert_int_equal(run_io(env, last), 0); /* for the tail */
    struct store_space space;
    store_space(env->store, &space);
    print_message("%llu MiB of nodes\n", (unsigned long long)space.tables >> 20);
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    /* The ends of segments, where no node fitted, are as they should be. */
    uint64_t harmless;
    assert_int_equal(check(env, &harmless), 0);
}

/* A checkpoint writes the nodes that changed since the one before, and not all of them. */
static void only_what_changed(void **state)
{
    struct env *env = *state;
    uint64_t before = counter(env, "table_writes"), leaves = DISK_BYTES / PAGE_BYTES / NODE_ENTRIES;
    assert_true(leaves >= 16);
    for (uint64_t i = 0; i < leaves; i++)
        write_pages(env, i * NODE_ENTRIES, 1, 1);
    checkpoint(env);
    assert_in_range(counter(env, "table_writes") - before, leaves, 2 * leaves);
    before = counter(env, "table_writes");
    write_pages(env, NODE_ENTRIES, 1, 2);
    checkpoint(env);
    assert_in_range(counter(env, "table_writes") - before, 1,
                    4); /* that leaf, and those above it */
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    for (uint64_t i = 0; i < leaves; i++)
        assert_int_equal(read_page(env, i * NODE_ENTRIES, i == 1 ? 2 : 1), 0);
}

struct queued {
    struct store_change change;
    unsigned place; /* in which it was done; 0: not yet */
};
static unsigned n_queued_done;

static void queued_done(struct store_change *change)
{
    container_of(change, struct queued, change)->place = ++n_queued_done;
}

static void queue_snap(struct env *env, struct queued *q, const char *vm, const char *version)
{
    *q = (struct queued){.change = {.kind = CHANGE_SNAP, .done = queued_done}};
    strcpy(q->change.vm, vm);
    strcpy(q->change.version, version);
    store_change(env->store, &q->change);
}

/* While a disk is made smaller changes of other vms go on; those of its vm come after that. */
static void passed_by_others(void **state)
{
    struct env *env = *state;
    struct queued resize = {.change = {.kind = CHANGE_DISK_RESIZE,
                                       .vm = "vm",
                                       .disk = "root",
                                       .size_bytes = MIB,
                                       .done = queued_done}};
    struct queued own, other, clone;
    assert_int_equal(change(env, CHANGE_VM_CREATE, "other", "", 0), 0);
    write_pages(env, 0, DISK_BYTES / PAGE_BYTES, 1);
    reopen(env); /* its leaves have to be read, one after the other */
    n_queued_done = 0;
    store_change(env->store, &resize.change);
    while (!disk_is_shrinking(disk(env)))
        turn(env);
    queue_snap(env, &own, "vm", "own");
    clone = (struct queued){.change = {.kind = CHANGE_CLONE, .done = queued_done}};
    strcpy(clone.change.vm, "vm");
    strcpy(clone.change.version, "own");
    strcpy(clone.change.new_name, "clone");
    store_change(env->store, &clone.change);
    queue_snap(env, &other, "other", "v");
    while (n_queued_done < 4)
        turn(env);
    assert_int_equal(other.place, 1);
    assert_int_equal(resize.place, 2);
    assert_int_equal(own.place, 3);
    assert_int_equal(clone.place, 4);
    assert_int_equal(other.change.error | resize.change.error | own.change.error, 0);
    assert_int_equal(clone.change.error, 0);
    assert_int_equal(disk_size(store_find_version_disk(env->store, "vm", "own", "root")), MIB);
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(disk_size(store_find_disk(env->store, "clone", "root")), MIB);
    assert_non_null(store_find_disk(env->store, "vm", "root"));
}

static void trim(struct env *env, uint64_t page, uint64_t n)
{
    assert_int_equal(run_io(env, (struct store_io){.disk = disk(env),
                                                   .op = STORE_TRIM,
                                                   .offset = page * PAGE_BYTES,
                                                   .length = n * PAGE_BYTES}),
                     0);
}

/* ---- checkpoints of the map alone ------------------------------------------------------------ */

#ifdef VARVE_SMALL_FILES

enum { FULL_FILES = 96, FULL_PAGES = 7000, HOT_PAGES = 30 };

static uint32_t full_rounds[FULL_PAGES];

static void overwrite(struct env *env, uint64_t page)
{
    write_pages(env, page, 1, ++full_rounds[page]);
}

/* Overwrite pages below n until there were so many checkpoints more of the map alone, in a row
 * where in_row. */
static void overwrite_until(struct env *env, uint32_t n, uint64_t maps, bool in_row)
{
    static uint64_t chance = 1;
    uint64_t whole = counter(env, "checkpoints"), base = counter(env, "map_checkpoints");
    for (unsigned i = 0; counter(env, "map_checkpoints") < base + maps; i++) {
        assert_true(i < 400000);
        chance = chance * 6364136223846793005 + 1442695040888963407;
        /* In turns, so that some files have the few only. */
        overwrite(env, (chance >> 33) % (i / 200 % 2 ? HOT_PAGES : n));
        if (in_row && counter(env, "checkpoints") != whole) {
            whole = counter(env, "checkpoints");
            base = counter(env, "map_checkpoints");
        }
    }
}

static void crash_and_compare(struct env *env)
{
    uint64_t harmless;
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    for (uint32_t i = 0; i < FULL_PAGES; i++)
        assert_int_equal(read_page(env, i, full_rounds[i]), 0);
    assert_int_equal(check(env, &harmless), 0);
}

/* A store that is full and has been written over, page by page. */
static struct env *full_store(void **state)
{
    struct env *env = calloc(1, sizeof(*env));
    struct store_format format = {.capacity_bytes = (uint64_t)FULL_FILES * FILE_BYTES};
    env->sim = sim_new(8, 1ULL << 34);
    env->config = store_config_default;
    env->config.cache_bytes = 0;
    env->config.checkpoint_bytes = 1ULL << 40;
    env->config.event = on_event;
    env->config.event_arg = env;
    *state = env;
    assert_int_equal(store_format(sim_storage(env->sim), &format), 0);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(change(env, CHANGE_VM_CREATE, "vm", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "root", (uint64_t)FULL_PAGES * PAGE_BYTES),
                     0);
    memset(full_rounds, 0, sizeof(full_rounds));
    for (uint32_t i = 0; i < FULL_PAGES; i++)
        overwrite(env, i);
    return env;
}

/* In a full store files are freed by checkpoints of the map alone. Pages everywhere are written
 * over, so that files are cleaned, or few, so that files of the tail itself die: a crash after any
 * finds everything, and the books right. */
static void map_ahead(void **state)
{
    struct env *env = full_store(state);
    for (unsigned i = 0; i < 40; i++) {
        overwrite_until(env, FULL_PAGES, 1 + i % 5, true);
        for (unsigned k = 0; k < 500 * (i % 3); k++)
            overwrite(env, k % HOT_PAGES);
        overwrite_until(env, FULL_PAGES, i % 7, i % 2);
        for (unsigned k = 0; k < 40 * (i % 5); k++)
            overwrite(env, k % 7 * 1000);
        crash_and_compare(env);
    }
}

static void wait_for_pending(struct env *env)
{
    for (unsigned i = 0; i < 100 || counter(env, "pending_bytes"); i++)
        turn(env);
}

/* Write a page, or trim it; false: it waits for ever. */
static bool change_page(struct env *env, enum store_op op, uint64_t offset, void *page)
{
    bool done = false;
    struct store_io io = {.disk = disk(env),
                          .op = op,
                          .offset = offset,
                          .length = PAGE_BYTES,
                          .buf = op == STORE_WRITE ? page : NULL,
                          .done = io_done};
    io_flag = &done;
    done = store_submit(env->store, &io);
    for (uint32_t turns = 0; !done; turns++) {
        if (turns > 100000)
            return false;
        turn(env);
    }
    if (io.error == ERR_STORE_FULL) { /* what removed versions had is not back yet */
        wait_for_pending(env);
        return change_page(env, op, offset, page);
    }
    assert_int_equal(io.error, 0);
    return true;
}

/* A full store whose page tables are larger than all that is kept free, with memory for all of
 * them, and now and then a version that comes and goes: no checkpoint waits for files that only it
 * could free, and closing makes a whole one. */
static void wide_full_store(void **state)
{
    enum { WIDE_PAGES = 6300 }; /* and as much as 1,000 of nodes, and a version's */
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    struct env *env = calloc(1, sizeof(*env));
    struct store_format format = {.capacity_bytes = (uint64_t)FULL_FILES * FILE_BYTES};
    uint64_t step = DISK_MAX_BYTES / WIDE_PAGES / PAGE_BYTES * PAGE_BYTES, chance = 1;
    uint64_t most = 0;
    const char *names[] = {"v"};
    struct store_change remove = {
        .kind = CHANGE_VERSION_REMOVE, .vm = "vm", .versions = names, .n_versions = 1};
    *state = env;
    env->sim = sim_new(8, 1ULL << 34);
    env->config = store_config_default;
    env->config.cache_bytes = 0;
    env->config.checkpoint_bytes = 1ULL << 40;
    env->config.table_bytes = 1024ULL * MIB;
    assert_int_equal(store_format(sim_storage(env->sim), &format), 0);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(change(env, CHANGE_VM_CREATE, "vm", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "root", DISK_MAX_BYTES), 0);
    for (uint32_t i = 0; i < 8 * WIDE_PAGES; i++) {
        uint64_t at = i;
        if (i >= WIDE_PAGES) {
            chance = chance * 6364136223846793005 + 1442695040888963407;
            at = (chance >> 33) % WIDE_PAGES;
        }
        memcpy(page, &i, sizeof(i));
        assert_true(change_page(env, i > WIDE_PAGES && i % 7 == 0 ? STORE_TRIM : STORE_WRITE,
                                at * step, page));
        if (i > 2 * WIDE_PAGES && i % 400 == 0) {
            int code = change_version(env, CHANGE_SNAP, "v", "", 0);
            if (code == ERR_STORE_FULL && counter(env, "pending_bytes")) { /* as in change_page() */
                wait_for_pending(env);
                code = change_version(env, CHANGE_SNAP, "v", "", 0);
            }
            assert_int_equal(code, 0);
        }
        if (i > 2 * WIDE_PAGES + 30 && i % 400 == 30 && i / 400 * 400 > 2 * WIDE_PAGES)
            assert_int_equal(run_change(env, &remove), 0);
        uint64_t dirty = counter(env, "table_dirty_bytes");
        most = i > 2 * WIDE_PAGES && dirty > most ? dirty : most;
    }
    print_message("up to %llu KiB of dirty nodes\n", (unsigned long long)most >> 10);
    uint64_t harmless;
    reopen(env);
    assert_int_equal(counter(env, "replayed_batches"), 0);
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(check(env, &harmless), 0);
}

/* The last increment of all that are there, and where it is. */
static struct map_increment last_increment(struct env *env, struct sim_place *ret)
{
    struct sim_place place = {0};
    struct map_increment last = {0};
    uint8_t block[BLOCK_BYTES];
    while (sim_next_block(env->sim, &place)) {
        if (place.file != STORAGE_CHECKPOINT(0) && place.file != STORAGE_CHECKPOINT(1))
            continue;
        sim_peek(env->sim, place.file, place.offset_bytes, block);
        const struct map_increment *m = (const struct map_increment *)block;
        if (memcmp(m->magic, INCREMENT_MAGIC, sizeof(m->magic)) == 0 && m->seq > last.seq) {
            last = *m;
            *ret = place;
        }
    }
    return last;
}

/* A file of batches that is sealed and not the first one: *ret_file. */
static bool find_data_file(struct env *env, uint32_t from, uint32_t *ret_file)
{
    uint8_t block[BLOCK_BYTES];
    for (uint32_t i = 0; i < FULL_FILES; i++) {
        uint32_t file = (from + i) % FULL_FILES;
        const struct file_header *h = (const struct file_header *)block;
        if (sim_file_bytes(env->sim, file) > 0 && sim_peek(env->sim, file, 0, block) &&
            h->magic == FILE_MAGIC && h->kind == FILE_KIND_DATA) {
            *ret_file = file;
            return true;
        }
    }
    return false;
}

/* Overwrite pages anywhere until a counter says more than it did; seconds pass meanwhile. */
static bool overwrite_until_counted(struct env *env, const char *name, uint64_t *chance)
{
    uint64_t before = counter(env, name);
    for (unsigned k = 0; k < 3000 && counter(env, name) == before; k++) {
        *chance = *chance * 6364136223846793005 + 1442695040888963407;
        overwrite(env, (*chance >> 33) % FULL_PAGES);
        if (k % 20 == 0)
            store_tick(env->store);
    }
    return counter(env, name) > before;
}

static void compare_all(struct env *env)
{
    for (uint32_t k = 0; k < FULL_PAGES; k++)
        assert_int_equal(read_page(env, k, full_rounds[k]), 0);
}

/* A block of a file that is cleaned cannot be read: what stands in it is lost, and no other page.
 */
static void broken_block(void **state)
{
    struct env *env = full_store(state);
    unsigned met = 0, lost = 0;
    for (unsigned i = 0; i < 24; i++) {
        uint32_t file;
        uint64_t chance = i;
        assert_true(find_data_file(env, 5 * i, &file));
        sim_break_block(env->sim, file, (40 + i) * (uint64_t)BLOCK_BYTES);
        met += overwrite_until_counted(env, "clean_read_errors", &chance);
        sim_break_block(env->sim, 0, UINT64_MAX);
        unsigned bad = 0;
        for (uint32_t k = 0; k < FULL_PAGES; k++) {
            int code = read_page(env, k, full_rounds[k]);
            assert_true(code <= 0);
            if (code < 0)
                overwrite(env, k);
            bad += code < 0;
        }
        assert_true(bad <= 1);
        lost += bad;
    }
    print_message("%u files with a broken block were cleaned, %u pages lost\n", met, lost);
    assert_true(met > 3 && lost);
}

/* A block cannot be read while its file is cleaned, and later can: nothing is lost. */
static void passing_block(void **state)
{
    struct env *env = full_store(state);
    uint64_t chance = 1;
    unsigned met = 0;
    for (unsigned i = 0; i < 24; i++) {
        uint32_t file;
        assert_true(find_data_file(env, 5 * i, &file));
        sim_break_block(env->sim, file, (40 + i) * (uint64_t)BLOCK_BYTES);
        met += overwrite_until_counted(env, "clean_put_off", &chance);
        sim_break_block(env->sim, 0, UINT64_MAX);
        for (unsigned k = 0; k < 1000; k++) {
            chance = chance * 6364136223846793005 + 1442695040888963407;
            overwrite(env, (chance >> 33) % FULL_PAGES);
        }
        compare_all(env);
    }
    print_message("cleaning was put off %u times\n", met);
    assert_true(met > 3);
    assert_int_equal(counter(env, "clean_read_errors"), 0);
}

/* One block fails in one attempt and another in the next: neither is given up. */
static void passing_blocks(void **state)
{
    struct env *env = full_store(state);
    uint64_t chance = 2;
    unsigned met = 0;
    for (unsigned i = 0; i < 24; i++) {
        uint32_t file;
        assert_true(find_data_file(env, 5 * i, &file));
        sim_break_block(env->sim, file, (40 + 2 * i) * (uint64_t)BLOCK_BYTES);
        if (overwrite_until_counted(env, "clean_put_off", &chance)) {
            sim_break_block(env->sim, file, (41 + 2 * i) * (uint64_t)BLOCK_BYTES);
            met += overwrite_until_counted(env, "clean_put_off", &chance);
        }
        sim_break_block(env->sim, 0, UINT64_MAX);
        compare_all(env);
    }
    print_message("two blocks of %u files failed in turn\n", met);
    assert_true(met > 3);
    assert_int_equal(counter(env, "clean_read_errors"), 0);
}

/* Attempts to clean a file are lost, others take the room that they gave back, and the host
 * crashes: all is there, and the books are right. */
static void lost_attempts_and_crashes(void **state)
{
    struct env *env = full_store(state);
    uint64_t chance = 6, harmless;
    unsigned met = 0;
    for (unsigned i = 0; i < 48; i++) {
        uint32_t file;
        assert_true(find_data_file(env, 5 * i, &file));
        sim_break_blocks(env->sim, file, (20 + 2 * i) * (uint64_t)BLOCK_BYTES, i % 2 ? 7 : 0);
        met += overwrite_until_counted(env, "clean_put_off", &chance);
        sim_break_block(env->sim, 0, UINT64_MAX);
        for (unsigned k = 0; k < 30 * (i % 12); k++) {
            chance = chance * 6364136223846793005 + 1442695040888963407;
            overwrite(env, (chance >> 33) % FULL_PAGES);
        }
        assert_int_equal(flush(env), 0);
        sim_cut(env->sim);
        store_close(env->store);
        env->store = NULL;
        sim_restart(env->sim, SIM_CRASH);
        assert_int_equal(open_store(env), 0);
        compare_all(env);
        assert_int_equal(check(env, &harmless), 0);
    }
    print_message("%u attempts were lost\n", met);
    assert_true(met > 6);
    assert_int_equal(counter(env, "clean_read_errors"), 0);
}

/* The n-th page that is written: they lie in 128 leaves. */
static uint64_t full_page(uint64_t n)
{
    return n % 128 * 512 + n / 128;
}

static void checkpoint_now(struct env *env)
{
    uint64_t before = counter(env, "checkpoints");
    assert_int_equal(flush(env), 0);
    checkpoint_want(env->store);
    for (unsigned i = 0; i < 1000 && counter(env, "checkpoints") == before; i++)
        turn(env);
}

/* False: it takes for ever. */
static bool do_io(struct env *env, struct store_io *io)
{
    bool done = false;
    io->done = io_done;
    io_flag = &done;
    done = store_submit(env->store, io);
    for (uint32_t turns = 0; !done; turns++) {
        if (turns > 20000)
            return false;
        if (turns % 100 == 99) /* without power what is to be cleaned counts as lost then */
            store_tick(env->store);
        turn(env);
    }
    return true;
}

/* A page is trimmed and written, or the power goes off; false: that takes for ever. */
static bool renew_page(struct env *env, uint64_t page)
{
    static _Alignas(PAGE_BYTES) uint8_t bytes[PAGE_BYTES];
    struct store_io io = {
        .disk = disk(env), .op = STORE_TRIM, .offset = page * PAGE_BYTES, .length = PAGE_BYTES};
    if (!do_io(env, &io))
        return false;
    assert_true(io.error == 0 || sim_is_dead(env->sim));
    io.op = STORE_WRITE;
    io.buf = bytes;
    if (!do_io(env, &io))
        return false;
    assert_true(io.error == 0 || io.error == ERR_STORE_FULL || sim_is_dead(env->sim));
    return true;
}

/* A life of a store: it dies when its medium has done so many requests, while it is opened or
 * soon after. False: it cannot be opened, or written to. */
static bool live(struct env *env, uint64_t n_pages, uint64_t *chance, bool dies)
{
    *chance = *chance * 6364136223846793005 + 1442695040888963407;
    enum sim_end end = *chance >> 62 & 1 ? SIM_CRASH : SIM_KILL;
    sim_cut_after(env->sim, dies ? (*chance >> 33) % (*chance >> 60 & 1 ? 40 : 200) : UINT64_MAX);
    if (open_store(env) < 0 && !sim_is_dead(env->sim))
        return false;
    if (!sim_is_dead(env->sim)) {
        struct log *log = env->store->log;
        bool failed = log->creation_failed;
        log->creation_failed = true; /* nobody hopes for others that were refused before */
        assert_true(files_left(log) >= KEEP_FREE || !log_is_low(log));
        log->creation_failed = failed;
    }
    for (unsigned i = 0; env->store && !sim_is_dead(env->sim) && i < (dies ? 6 : 30); i++) {
        *chance = *chance * 6364136223846793005 + 1442695040888963407;
        if (!renew_page(env, full_page((*chance >> 33) % n_pages)))
            return false;
        if (!sim_is_dead(env->sim) && i % 3 == 2)
            (void)flush(env); /* it fails if it dies meanwhile */
    }
    sim_cut(env->sim);
    if (env->store)
        store_close(env->store);
    env->store = NULL;
    sim_restart(env->sim, end);
    return true;
}

/* A store with a disk that has all pages it can have, leaf after leaf, on a medium of so many
 * files, which are its capacity, or half of it. Returns how many pages that were. */
static uint64_t set_up_full(struct env *env, uint64_t seed, uint32_t files, bool full_medium)
{
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    struct store_format format = {.capacity_bytes = (full_medium + 1ULL) * files * FILE_BYTES};
    struct store_io io = {.op = STORE_WRITE, .length = PAGE_BYTES, .buf = page};
    uint64_t n = 0;
    env->sim = sim_new(seed, 1ULL << 34);
    env->config = store_config_default;
    env->config.event = on_event;
    env->config.event_arg = env;
    assert_int_equal(store_format(sim_storage(env->sim), &format), 0);
    if (full_medium)
        sim_set_medium_bytes(env->sim, sim_allocated_bytes(env->sim) + files * FILE_BYTES);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(change(env, CHANGE_VM_CREATE, "vm", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "root", 1ULL << 30), 0);
    io.disk = disk(env);
    for (; run_io(env, io) == 0; io.offset = full_page(n) * PAGE_BYTES)
        n++;
    assert_true(n > 1000);
    assert_int_equal(flush(env), 0);
    return n;
}

/* It dies again and again, while it is opened or soon after: however often in a row, it can be
 * opened and written to. */
static void die_in_a_row(struct env *env, uint64_t seed, bool full_medium)
{
    uint64_t chance = seed, harmless, n = set_up_full(env, seed, 21, full_medium);
    kill_store(env);
    for (unsigned i = 0; i < 300; i++)
        if (!live(env, n, &chance, i % 15 != 14))
            fail_msg("seed %u, full medium %d: life %u cannot be lived", (unsigned)seed,
                     full_medium, i);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(check(env, &harmless), 0);
}

static void deaths_in_a_row(void **state)
{
    for (unsigned i = 0; i < 8; i++) {
        *state = calloc(1, sizeof(struct env));
        die_in_a_row(*state, 1 + i / 2, i % 2);
        teardown(state);
        *state = NULL;
    }
}

/* It dies, and of its free files but so many are gone, and their space too. */
static void die_with_files(struct env *env, uint32_t keep)
{
    const struct log *log = env->store->log;
    uint32_t numbers[64], n = 0, had = log->table.spare && keep;
    if (log->table.spare && !keep)
        numbers[n++] = log->table.spare->number;
    if (log->next_data_file)
        numbers[n++] = log->next_data_file->number;
    list_for_each (l, &log->free) {
        if (had < keep)
            had++;
        else
            numbers[n++] = container_of(l, struct log_file, link)->number;
    }
    kill_store(env);
    for (uint32_t i = 0; i < n; i++)
        sim_truncate(env->sim, numbers[i], 0);
    sim_set_medium_bytes(env->sim, sim_allocated_bytes(env->sim));
}

/* In a store from which somebody takes the space of all files but three in each start, until
 * nothing can be won any more, trims may have the last; even those that free nothing, until they
 * do. */
static void trims_in_full_store(void **state)
{
    for (unsigned seed = 1; seed <= 60; seed++) {
        struct env *env = *state = calloc(1, sizeof(*env));
        uint64_t n = set_up_full(env, seed, 20 + seed % 24, false), chance = seed, harmless;
        for (unsigned i = 0; i < 12; i++) {
            die_with_files(env, 3);
            assert_int_equal(open_store(env), 0);
        }
        for (unsigned i = 0; i < 5000; i++)
            turn(env);
        assert_true(files_left(env->store->log) <= KEEP_FREE / 2);
        for (unsigned i = 0; i < 600; i++) {
            chance = chance * 6364136223846793005 + 1442695040888963407;
            uint64_t page = i < 300 ? (1 << 17) + i : full_page((chance >> 33) % n);
            struct store_io io = {.disk = disk(env),
                                  .op = STORE_TRIM,
                                  .offset = page * PAGE_BYTES,
                                  .length = PAGE_BYTES};
            if (!do_io(env, &io))
                fail_msg("seed %u: trim %u waits for ever", seed, i);
            assert_int_equal(io.error, 0);
        }
        assert_int_equal(check(env, &harmless), 0);
        teardown(state);
        *state = NULL;
    }
}

/* Write until the table file is used up to 300 slots before that one, or less. */
static void use_tables(struct env *env, uint64_t n, uint64_t *chance, uint32_t used)
{
    const struct log *log = env->store->log;
    for (unsigned k = 0; log->table.slot < used - 300 || log->table.slot > used; k++) {
        assert_true(k < 60000);
        *chance = *chance * 6364136223846793005 + 1442695040888963407;
        assert_true(renew_page(env, full_page((*chance >> 33) % n)));
        if (k % 3 == 0)
            checkpoint_now(env);
    }
}

/* Where one file is left, and nothing is to be won, it is for data: trims go on as long as there is
 * room in it, and the store is closed as ever. */
static void one_file_left(void **state)
{
    for (unsigned seed = 1; seed <= 12; seed++) {
        struct env *env = *state = calloc(1, sizeof(*env));
        uint64_t n = set_up_full(env, seed, 24, seed % 2), chance = seed;
        use_tables(env, n, &chance, 4500 + 250 * seed);
        for (unsigned i = 0; i < 12; i++) {
            die_with_files(env, 1);
            assert_int_equal(open_store(env), 0);
        }
        for (unsigned i = 0; i < 40; i++) {
            struct store_io io = {.disk = disk(env),
                                  .op = STORE_TRIM,
                                  .offset = ((1 << 17) + i) * (uint64_t)PAGE_BYTES,
                                  .length = PAGE_BYTES};
            if (!do_io(env, &io))
                fail_msg("seed %u: trim %u waits for ever", seed, i);
            assert_int_equal(io.error, 0);
        }
        reopen(env);
        teardown(state);
        *state = NULL;
    }
}

static uint32_t count_vms(struct env *env)
{
    struct vm_info *vms;
    uint32_t n;
    assert_int_equal(store_list(env->store, &vms, &n), 0);
    free(vms);
    return n;
}

/* What an import left unfinished cannot be removed where there is no file to write that to: the
 * store is opened all the same, says so, and can be read. With a file it goes. */
static void unfinished_and_no_file(void **state)
{
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    struct store_format format = {.capacity_bytes = 24ULL * FILE_BYTES};
    struct store_change vm = {.kind = CHANGE_VM_CREATE, .vm = "half", .provisional = true};
    struct env *env = *state = calloc(1, sizeof(*env));
    uint64_t harmless;
    env->sim = sim_new(1, 1ULL << 34);
    env->config = store_config_default;
    env->config.event = on_event;
    env->config.event_arg = env;
    assert_int_equal(store_format(sim_storage(env->sim), &format), 0);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(change(env, CHANGE_VM_CREATE, "vm", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "root", 1ULL << 30), 0);
    assert_int_equal(run_change(env, &vm), 0);
    for (uint64_t i = 0; i < 300; i++) {
        struct store_io io = {.disk = disk(env),
                              .op = STORE_WRITE,
                              .offset = i * PAGE_BYTES,
                              .length = PAGE_BYTES,
                              .buf = page};
        assert_int_equal(run_io(env, io), 0);
        if (i == 100) /* from now on there is a file of tables */
            checkpoint_now(env);
    }
    assert_int_equal(flush(env), 0);
    die_with_files(env, 0);

    assert_int_equal(open_store(env), 0);
    assert_non_null(strstr(env->full, "unfinished of \"half\""));
    assert_int_equal(count_vms(env), 2);
    struct store_io read = {.disk = disk(env), .op = STORE_READ, .length = PAGE_BYTES, .buf = page};
    assert_int_equal(run_io(env, read), 0);
    assert_int_equal(check(env, &harmless), 0);
    kill_store(env);

    sim_set_medium_bytes(env->sim, sim_allocated_bytes(env->sim) + 8ULL * FILE_BYTES);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(count_vms(env), 1);
}

/* It dies when its table file is used up to a slot, with few files: it opens, wins some back and
 * can be written to, however often it dies on the way. */
static void few_files(struct env *env, uint64_t seed, uint32_t keep, uint32_t used)
{
    uint64_t chance = seed, harmless, n = set_up_full(env, seed, 21, true);
    struct log *log = env->store->log;
    use_tables(env, n, &chance, used);
    for (unsigned k = 0; k < 100; k++) { /* in many leaves, not yet in a checkpoint */
        chance = chance * 6364136223846793005 + 1442695040888963407;
        assert_true(renew_page(env, full_page((chance >> 33) % n)));
    }
    assert_int_equal(flush(env), 0);
    die_with_files(env, keep);
    for (unsigned i = 0; i < 20; i++)
        if (!live(env, n, &chance, true))
            fail_msg("seed %u, %u files, slot %u: life %u cannot be lived", (unsigned)seed, keep,
                     used, i);
    assert_int_equal(open_store(env), 0);
    log = env->store->log;
    for (unsigned i = 0; i < 20; i++)
        assert_true(renew_page(env, i));
    if (log->n_free + (log->table.spare != NULL) + log->n_dead < 2)
        fail_msg("seed %u, %u files, slot %u: no file was won", (unsigned)seed, keep, used);
    assert_int_equal(check(env, &harmless), 0);
}

static void few_files_and_full_tables(void **state)
{
    static const uint32_t used[] = {1500, 4096, 6000, 7500};
    for (unsigned i = 0; i < 48; i++) {
        *state = calloc(1, sizeof(struct env));
        few_files(*state, 1 + i / 12, 1 + i / 4 % 3, used[i % 4]);
        teardown(state);
        *state = NULL;
    }
}

/* Nothing can be read that is to be cleaned: no block is given up before seconds have passed, and
 * writers wait meanwhile. */
static void impatient_cleaning(void **state)
{
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    struct env *env = full_store(state);
    uint64_t chance = 3, put_off = counter(env, "clean_put_off");
    unsigned waited = 0;
    for (unsigned i = 0; i < 12; i++) {
        sim_fail(env->sim, STORAGE_READ, 1, UINT64_MAX, -EIO);
        bool done = true;
        for (unsigned k = 0; k < 3000 && done; k++) {
            chance = chance * 6364136223846793005 + 1442695040888963407;
            uint64_t at = (chance >> 33) % FULL_PAGES;
            struct store_io io = {.disk = disk(env),
                                  .op = STORE_WRITE,
                                  .offset = at * PAGE_BYTES,
                                  .length = PAGE_BYTES,
                                  .buf = page,
                                  .done = io_done};
            fill(page, at, 1, ++full_rounds[at]);
            io_flag = &done;
            done = store_submit(env->store, &io);
            for (unsigned turns = 0; !done && turns < 3000; turns++)
                turn(env);
            waited += !done;
            if (!done)
                sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
            for (unsigned turns = 0; !done; turns++) {
                if (turns % 100 == 0)
                    store_tick(env->store);
                turn(env);
            }
            assert_int_equal(io.error, 0);
        }
        sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
        compare_all(env);
    }
    put_off = counter(env, "clean_put_off") - put_off;
    print_message("cleaning was put off %u times, %u writes waited\n", (unsigned)put_off, waited);
    assert_true(put_off > 3);
    assert_int_equal(counter(env, "clean_read_errors"), 0);
}

/* There is no descriptor, or no memory, to read what is to be moved: that passes, and the store
 * goes on. */
static void errors_in_cleaning(void **state)
{
    struct env *env = full_store(state);
    uint64_t chance = 4, before = counter(env, "clean_put_off");
    unsigned met = 0;
    for (unsigned i = 0; i < 24; i++) {
        sim_fail(env->sim, STORAGE_READ, 1, 12, i % 2 ? -EMFILE : -ENOMEM);
        met += overwrite_until_counted(env, "clean_put_off", &chance);
        sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
        compare_all(env);
    }
    print_message("cleaning was put off %u times\n", met);
    assert_true(met > 3 && counter(env, "clean_put_off") > before);
    assert_int_equal(counter(env, "clean_read_errors"), 0);
}

/* Reads fail while the store is opened, and later do not: then nothing is lost, whether it was
 * opened or not. An I/O error may be for good, so a footer that has one does not hold the store up;
 * slots that die then, in a file whose footer is not known, stay counted. */
static void passing_errors(void **state)
{
    struct env *env = full_store(state);
    unsigned refused = 0;
    uint64_t harmless;
    overwrite_until(env, FULL_PAGES, 3, false);
    for (unsigned i = 0; i < 90; i++) {
        int error = i >= 60 ? -EIO : i % 2 ? -EMFILE : -ENFILE;
        overwrite_until(env, FULL_PAGES, i % 3, false);
        kill_store(env);
        sim_fail(env->sim, STORAGE_READ, 1 + i % 60 * 3 / 2, 2 + i % 2, error);
        int code = open_store(env);
        if (code == 0)
            kill_store(env);
        else
            refused++;
        sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
        assert_int_equal(open_store(env), 0);
        for (uint32_t k = 0; k < FULL_PAGES; k++)
            assert_int_equal(read_page(env, k, full_rounds[k]), 0);
        if (error != -EIO)
            assert_int_equal(check(env, &harmless), 0);
    }
    print_message("opening was refused %u times\n", refused);
    assert_true(refused);
}

/* A sync fails while another of the same checkpoint is under way: a flush that comes then must not
 * succeed. */
static void failed_sync(void **state)
{
    unsigned failed = 0;
    for (unsigned i = 0; i < 60; i++) {
        struct env *env = full_store(state);
        sim_set_latency(env->sim, 1 + i % 9);
        for (unsigned k = 0; k < 40 + i * 7; k++)
            overwrite(env, k * 31 % FULL_PAGES);
        uint64_t before = sim_failures(env->sim);
        sim_fail(env->sim, STORAGE_SYNC, 1 + i % 4, 1, -EIO);
        store_tick(env->store); /* the idle second's checkpoint */
        store_tick(env->store);
        for (unsigned k = 0; k < 2000 && sim_failures(env->sim) == before; k++)
            turn(env);
        if (sim_failures(env->sim) > before) {
            failed++;
            assert_int_not_equal(flush(env), 0);
        }
        teardown(state);
    }
    *state = NULL;
    print_message("%u syncs failed\n", failed);
    assert_true(failed > 20);
}

/* Is the checkpoint all there? It may have been on its way when the store died. */
static bool is_whole(struct env *env, uint32_t file)
{
    struct checkpoint_header h;
    uint8_t block[BLOCK_BYTES];
    uint32_t crc = 0;
    assert_true(sim_peek(env->sim, file, 0, &h));
    for (uint64_t at = 0; at < h.body_bytes; at += BLOCK_BYTES) {
        size_t n = h.body_bytes - at < BLOCK_BYTES ? h.body_bytes - at : BLOCK_BYTES;
        if (!sim_peek(env->sim, file, BLOCK_BYTES + at, block))
            return false;
        crc = crc32c(crc, block, n);
    }
    return crc == h.body_crc;
}

/* Whether a batch says that the increment was durable when it was written, and no checkpoint came
 * after it. */
static bool is_vouched_for(struct env *env, const struct map_increment *m)
{
    struct sim_place place = {0};
    uint8_t block[BLOCK_BYTES];
    bool vouched = false;
    while (sim_next_block(env->sim, &place)) {
        sim_peek(env->sim, place.file, place.offset_bytes, block);
        const struct checkpoint_header *c = (const struct checkpoint_header *)block;
        const struct batch_header *b = (const struct batch_header *)block;
        if (place.file == STORAGE_CHECKPOINT(0) || place.file == STORAGE_CHECKPOINT(1)) {
            if (!place.offset_bytes && c->seq > m->base && is_whole(env, place.file))
                return false;
        } else if (b->magic == BATCH_MAGIC && b->incarnation == m->incarnation) {
            vouched |= b->checkpoint >= m->seq;
        }
    }
    return vouched;
}

/* An increment that was durable is gone: if anything was written since that says so, the store is
 * refused; else it is what it was. And with the increment back it is that in any case. */
static void damaged_increment(void **state)
{
    struct env *env = full_store(state);
    unsigned refused = 0, taken = 0;
    uint64_t harmless;
    for (unsigned i = 0; i < 60; i++) {
        /* After none, the few that vouch for it, or so many that a checkpoint may follow. */
        static const unsigned more[] = {0, 1, 5, 150};
        struct sim_place place;
        uint64_t had = counter(env, "map_increments");
        overwrite_until(env, FULL_PAGES, 2 + i % 3, true);
        for (unsigned k = 0; k < more[i % 4]; k++)
            overwrite(env, k % HOT_PAGES);
        bool any = counter(env, "map_increments") > had;
        kill_store(env);
        struct map_increment m = last_increment(env, &place);
        if (any && m.seq) {
            uint32_t bit = (i * 977 + 8) % (m.bytes * 8);
            sim_flip_bit(env->sim, place.file, place.offset_bytes + bit / 8, bit % 8);
            bool vouched = is_vouched_for(env, &m);
            int code = open_store(env);
            assert_int_equal(code, vouched ? ERR_DAMAGED : 0);
            if (code == ERR_DAMAGED) {
                refused++;
                sim_flip_bit(env->sim, place.file, place.offset_bytes + bit / 8, bit % 8);
                code = open_store(env);
                assert_int_equal(code, 0);
            } else {
                taken++;
            }
        } else {
            assert_int_equal(open_store(env), 0);
        }
        for (uint32_t k = 0; k < FULL_PAGES; k++)
            assert_int_equal(read_page(env, k, full_rounds[k]), 0);
        assert_int_equal(check(env, &harmless), 0);
    }
    print_message("refused %u times, taken %u times\n", refused, taken);
    assert_true(refused > 5 && taken);
}

#endif

/* ---- what changed since a version -------------------------------------------------------------
 */

static void snap(struct env *env, const char *name)
{
    struct store_change c = {.kind = CHANGE_SNAP, .vm = "vm", .done = change_done};
    strcpy(c.version, name);
    change_done_flag = false;
    store_change(env->store, &c);
    while (!change_done_flag)
        turn(env);
    assert_int_equal(c.error, 0);
}

static struct disk *going;
static bool going_takes_users;

/* The change is in the log, and not made yet. */
static void on_going(struct store_change *c)
{
    going_takes_users = !disk_is_shrinking(going);
}

/* From when a change that takes a disk away is in the log the disk takes no users: what they wrote
 * would stand in the log behind the end of their disk. What stays does again. */
static void taken_while_it_goes(void **state)
{
    static const enum change_kind kinds[] = {CHANGE_VM_REMOVE, CHANGE_DISK_REMOVE, CHANGE_ROLLBACK,
                                             CHANGE_VERSION_REMOVE};
    static const char *const versions[] = {"v"};
    struct env *env = *state;
    for (unsigned i = 0; i < 12; i++) {
        struct store_change snap_it = {.kind = CHANGE_SNAP, .version = "v"};
        struct store_change c = {.kind = kinds[i % 4],
                                 .version = "v",
                                 .new_name = "kept",
                                 .disk = "d",
                                 .versions = versions,
                                 .n_versions = 1,
                                 .placed = on_going};
        snprintf(c.vm, sizeof(c.vm), "vm%u", i);
        assert_int_equal(change(env, CHANGE_VM_CREATE, c.vm, "", 0), 0);
        assert_int_equal(change(env, CHANGE_DISK_ADD, c.vm, "d", MIB), 0);
        strcpy(snap_it.vm, c.vm);
        assert_int_equal(run_change(env, &snap_it), 0);
        bool of_version = c.kind == CHANGE_VERSION_REMOVE || (c.kind == CHANGE_VM_REMOVE && i > 5);
        going = of_version ? store_find_version_disk(env->store, c.vm, "v", "d")
                           : store_find_disk(env->store, c.vm, "d");
        assert_false(disk_is_shrinking(going));
        going_takes_users = true;
        assert_int_equal(run_change(env, &c), 0);
        assert_false(going_takes_users);
        if (c.kind == CHANGE_ROLLBACK) {
            assert_false(disk_is_shrinking(store_find_disk(env->store, c.vm, "d")));
            assert_false(disk_is_shrinking(store_find_version_disk(env->store, c.vm, "kept", "d")));
        }
    }
    kill_store(env);
    assert_int_equal(open_store(env), 0);
}

/* A head that has not changed since the last checkpoint is written to and rolled back while the
 * next one writes nodes: the version that keeps it has in that checkpoint what it had when that
 * began. */
static void rolled_back_in_checkpoint(void **state)
{
    struct env *env = *state;
    uint64_t harmless;
    write_pages(env, 0, 500, 1);
    snap(env, "v");
    assert_int_equal(change(env, CHANGE_VM_CREATE, "other", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "other", "wide", 1ULL << 40), 0);
    checkpoint(env);
    for (unsigned i = 0; i < 24; i++) {
        static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
        struct store_change c = {.kind = CHANGE_ROLLBACK, .vm = "vm", .version = "v"};
        for (uint64_t k = 0; k < 1500; k++)
            assert_int_equal(
                run_io(env, (struct store_io){.disk = store_find_disk(env->store, "other", "wide"),
                                              .op = STORE_WRITE,
                                              .offset = (k * 100000 + i) * PAGE_BYTES,
                                              .length = PAGE_BYTES,
                                              .buf = page}),
                0);
        uint64_t before = counter(env, "checkpoints");
        store_tick(env->store);
        store_tick(env->store);
        for (unsigned k = 0; k < i; k++)
            turn(env);
        write_pages(env, 100 + i, 1, 2 + i);
        snprintf(c.new_name, sizeof(c.new_name), "kept%u", i);
        assert_int_equal(run_change(env, &c), 0);
        for (unsigned k = 0; k < 100000 && counter(env, "checkpoints") == before; k++)
            turn(env);
        assert_true(counter(env, "checkpoints") > before);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        assert_int_equal(check(env, &harmless), 0);
        assert_int_equal(read_page(env, 100 + i, 1), 0);
        fill(page, 100 + i, 1, 2 + i);
        static _Alignas(PAGE_BYTES) uint8_t is[PAGE_BYTES];
        struct store_io io = {.disk = store_find_version_disk(env->store, "vm", c.new_name, "root"),
                              .op = STORE_READ,
                              .offset = (100 + i) * PAGE_BYTES,
                              .length = PAGE_BYTES,
                              .buf = is};
        assert_non_null(io.disk);
        assert_int_equal(run_io(env, io), 0);
        assert_memory_equal(page, is, PAGE_BYTES);
    }
}

#define FAR_LEAVES 1500u

/* A page in each of many leaves, from the last to the first. */
static void write_far(struct env *env)
{
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    for (uint64_t k = FAR_LEAVES; k-- > 0;)
        assert_int_equal(
            run_io(env, (struct store_io){.disk = store_find_disk(env->store, "far", "root"),
                                          .op = STORE_WRITE,
                                          .offset = k * NODE_ENTRIES * PAGE_BYTES,
                                          .length = PAGE_BYTES,
                                          .buf = page}),
            0);
}

/* While a removed version is freed a check, and with it a checkpoint of many nodes, begins at any
 * moment, its nodes written against the order in which the version is freed. */
static void removed_in_checkpoint(void **state)
{
    static const char *const names[] = {"v"};
    struct env *env = *state;
    uint64_t harmless;
    struct store_change c = {.kind = CHANGE_SNAP, .vm = "far", .version = "v"};
    assert_int_equal(change(env, CHANGE_VM_CREATE, "far", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "far", "root", 1ULL << 40), 0);
    for (unsigned i = 0; i < 12; i++) {
        struct store_change remove = {
            .kind = CHANGE_VERSION_REMOVE, .vm = "far", .versions = names, .n_versions = 1};
        write_far(env);
        if (i % 2)
            checkpoint(env);
        assert_int_equal(run_change(env, &c), 0);
        checkpoint(env);
        write_far(env);
        assert_int_equal(run_change(env, &remove), 0);
        for (unsigned k = 0; k < i * 12; k++)
            turn(env);
        assert_int_equal(check(env, &harmless), 0);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        for (unsigned k = 0; k < 2000; k++)
            turn(env);
        assert_int_equal(env->n_damage, 0);
        assert_int_equal(check(env, &harmless), 0);
    }
}

/* The difference is those pages: "7+ 9-" for page 7 of data, and 9 discarded. */
static void expect_changes(struct env *env, const char *from, const char *to, const char *expected)
{
    static struct store_extent extents[256];
    struct store_io io = {.disk = store_find_version_disk(env->store, "vm", to, "root"),
                          .base = store_find_version_disk(env->store, "vm", from, "root"),
                          .op = STORE_EXTENTS,
                          .length = DISK_BYTES,
                          .extents = extents,
                          .max_extents = 256};
    char text[1024] = "";
    bool done = false;
    io_flag = &done;
    io.done = io_done;
    done = store_submit(env->store, &io);
    while (!done)
        turn(env);
    assert_int_equal(io.error, 0);
    uint64_t page = 0;
    for (uint32_t i = 0; i < io.n_extents; page += extents[i++].length / PAGE_BYTES)
        for (uint64_t p = page; extents[i].changed && p < page + extents[i].length / PAGE_BYTES;
             p++)
            snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%llu%c", *text ? " " : "",
                     (unsigned long long)p, extents[i].hole ? '-' : '+');
    assert_int_equal(page, DISK_BYTES / PAGE_BYTES);
    assert_string_equal(text, expected);
}

/* Pages, leaves and a whole table that went and came again between two versions, written as they
 * were meanwhile: the newer one's entries alone do not tell that they had been there. */
static void went_and_came(void **state)
{
    struct env *env = *state;
    static const uint64_t pages[] = {5, 6, 1000, 2000};
    for (unsigned i = 0; i < 4; i++)
        write_pages(env, pages[i], 1, 1);
    snap(env, "a");
    trim(env, 6, 1);
    trim(env, 1000, 1);
    snap(env, "b");
    reopen(env);
    write_pages(env, 1001, 1, 2);
    snap(env, "c");
    expect_changes(env, "a", "b", "6- 1000-");
    expect_changes(env, "b", "c", "1001+");
    expect_changes(env, "a", "c", "6- 1000- 1001+");
    reopen(env);
    expect_changes(env, "a", "c", "6- 1000- 1001+");
    trim(env, 0, DISK_BYTES / PAGE_BYTES);
    snap(env, "d");
    reopen(env);
    write_pages(env, 7, 1, 3);
    snap(env, "e");
    reopen(env);
    expect_changes(env, "a", "e", "5- 6- 7+ 1000- 2000-");
    expect_changes(env, "c", "d", "5- 1001- 2000-");
    expect_changes(env, "d", "e", "7+");
    expect_changes(env, "e", "c", "5+ 7- 1001+ 2000+");
}

/* However much there is to look at for the extents, a turn of the loop looks at some of it, and the
 * answers are whole. */
static void extents_by_turns(void **state)
{
    struct env *env = *state;
    enum { LEAVES = 150, N = 12 };
    static struct store_extent extents[N][4 * LEAVES];
    struct store_io io[N];
    uint64_t size = LEAVES * 512ULL * PAGE_BYTES;
    unsigned turns = 0;
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", size), 0);
    snap(env, "empty");
    for (uint64_t i = 0; i < LEAVES; i++)
        write_pages(env, i * 512 + 7, 1, 1);
    n_done = 0;
    for (unsigned i = 0; i < N; i++) {
        io[i] = (struct store_io){.disk = disk(env),
                                  .op = STORE_EXTENTS,
                                  .length = size,
                                  .extents = extents[i],
                                  .max_extents = 4 * LEAVES,
                                  .done = counted_done};
        if (i % 2) { /* the other way round leaves are not compared: since.c */
            io[i].base = io[i].disk;
            io[i].disk = store_find_version_disk(env->store, "vm", "empty", "root");
        }
        n_done += store_submit(env->store, &io[i]);
    }
    assert_int_equal(n_done, 0);
    for (; n_done < N; turns++)
        turn(env);
    assert_in_range(turns, N * LEAVES / 64 - 1, 100);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(io[i].error, 0);
        assert_int_equal(io[i].n_extents, 2 * LEAVES + 1);
        assert_int_equal(io[i].next, size);
    }
}

/* ---- zeros that do not fill their pages ----------------------------------------------------- */

static int zero_part(struct env *env, uint64_t offset, uint64_t length, uint32_t flags)
{
    return run_io(env, (struct store_io){.disk = disk(env),
                                         .op = STORE_ZERO,
                                         .flags = flags,
                                         .offset = offset,
                                         .length = length});
}

/* How many bytes of hole there are from a byte on; 0: there is none. */
static uint64_t hole_at(struct env *env, uint64_t offset)
{
    struct store_extent extents[2];
    assert_int_equal(run_io(env, (struct store_io){.disk = disk(env),
                                                   .op = STORE_EXTENTS,
                                                   .offset = offset,
                                                   .length = disk_size(disk(env)) - offset,
                                                   .extents = extents,
                                                   .max_extents = 2}),
                     0);
    return extents[0].hole ? extents[0].length : 0;
}

/* A hole stays one, unless that is not wished or a write to it is on its way. */
static void zeros_in_hole(void **state)
{
    struct env *env = *state;
    _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES], is[PAGE_BYTES];
    struct store_io io = {.disk = disk(env), .op = STORE_WRITE, .length = PAGE_BYTES, .buf = page};
    assert_int_equal(zero_part(env, 512, 512, 0), 0);
    assert_int_equal(zero_part(env, 3 * PAGE_BYTES + 512, 5 * PAGE_BYTES, STORE_FUA), 0);
    assert_int_equal(hole_at(env, 0), DISK_BYTES);
    assert_int_equal(zero_part(env, PAGE_BYTES + 512, 512, STORE_NO_HOLE), 0);
    assert_int_equal(hole_at(env, 0), PAGE_BYTES);
    assert_int_equal(hole_at(env, PAGE_BYTES), 0);

    fill(page, 0, 1, 1);
    io.done = counted_done;
    n_done = 0;
    assert_false(store_submit(env->store, &io));
    assert_int_equal(zero_part(env, 512, 512, 0), 0);
    assert_int_equal(n_done, 1);
    memset(page + 512, 0, 512);
    io.op = STORE_READ;
    io.buf = is;
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(run_io(env, io), 0);
        assert_memory_equal(page, is, PAGE_BYTES);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        io.disk = disk(env);
    }
}

#ifdef VARVE_SMALL_FILES
/* A full store has room for them. */
static void zeros_in_full_store(void **state)
{
    struct env *env = full_store(state);
    uint64_t pages = 1 << 16, at = FULL_PAGES;
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", pages * PAGE_BYTES), 0);
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    struct store_io io = {.disk = disk(env), .op = STORE_WRITE, .length = PAGE_BYTES, .buf = page};
    do
        io.offset = at++ * PAGE_BYTES;
    while (at < pages && run_io(env, io) == 0);
    io.offset = (pages - 9) * PAGE_BYTES;
    assert_int_equal(run_io(env, io), ERR_STORE_FULL);
    assert_int_equal(zero_part(env, io.offset + 512, 3 * PAGE_BYTES, 0), 0);
    assert_int_equal(hole_at(env, io.offset), 9 * PAGE_BYTES);
}
#endif

#ifdef VARVE_SMALL_FILES
/* Zeros that keep their place want leaves: in a full store they are refused before these take what
 * it needs to go on, and to be opened. */
static void leaves_in_full_store(void **state)
{
    struct env *env = full_store(state);
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    bool done = false;
    uint64_t pages = 1 << 22, at = FULL_PAGES;
    assert_int_equal(change(env, CHANGE_DISK_RESIZE, "vm", "root", pages * PAGE_BYTES), 0);
    struct store_io io = {.disk = disk(env), .op = STORE_WRITE, .length = PAGE_BYTES, .buf = page};
    do
        io.offset = at++ * PAGE_BYTES;
    while (run_io(env, io) == 0);
    io = (struct store_io){.disk = disk(env),
                           .op = STORE_ZERO,
                           .flags = STORE_NO_HOLE,
                           .offset = pages / 2 * PAGE_BYTES,
                           .length = pages / 2 * PAGE_BYTES,
                           .done = io_done};
    io_flag = &done;
    done = store_submit(env->store, &io);
    for (unsigned i = 0; i < 100000 && !done; i++)
        turn(env);
    assert_true(done);
    assert_int_equal(io.error, ERR_STORE_FULL);
    crash_and_compare(env);
    io = (struct store_io){
        .disk = disk(env), .op = STORE_TRIM, .length = FULL_PAGES / 2 * PAGE_BYTES};
    assert_int_equal(run_io(env, io), 0);
    io.op = STORE_WRITE;
    io.length = PAGE_BYTES;
    io.buf = page;
    assert_int_equal(run_io(env, io), 0);
}
#endif

/* What EXTENTS says from a page on: how many pages of data, or an error. */
static int64_t data_from(struct env *env, uint64_t page, const char *base)
{
    static struct store_extent extents[8];
    static struct store_io io;
    io = (struct store_io){.disk = disk(env),
                           .op = STORE_EXTENTS,
                           .offset = page * PAGE_BYTES,
                           .length = DISK_BYTES - page * PAGE_BYTES,
                           .extents = extents,
                           .max_extents = 8};
    if (base)
        io.base = store_find_version_disk(env->store, "vm", base, "root");
    bool done = false;
    io_flag = &done;
    io.done = io_done;
    done = store_submit(env->store, &io);
    while (!done)
        turn(env);
    if (io.error)
        return io.error;
    assert_true(io.n_extents && !extents[0].hole && extents[0].changed == (base != NULL));
    return (int64_t)(extents[0].length / PAGE_BYTES);
}

/* Extents are told up to a leaf that cannot be read, and an error from there on only. */
static void extents_to_damage(void **state)
{
    struct env *env = *state;
    snap(env, "empty");
    write_pages(env, 0, 2000, 1);
    close_store(env);
    assert_true(damage_node(env, 0, 2) > 0);
    assert_int_equal(open_store(env), 0);
    for (unsigned round = 0; round < 4; round++) {
        const char *base = round % 2 ? "empty" : NULL;
        assert_int_equal(data_from(env, 0, base), 1024);
        assert_int_equal(data_from(env, 100, base), 924);
        assert_int_equal(err_errno((int)data_from(env, 1024, base)), EIO);
        assert_int_equal(data_from(env, 1536, base), 464);
    }
}

/* ---- the memory of versions ----------------------------------------------------------------- */

static int named_change(struct env *env, struct store_change c, const char *vm, const char *version,
                        const char *new_name)
{
    strcpy(c.vm, vm);
    strcpy(c.version, version);
    strcpy(c.new_name, new_name);
    return run_change(env, &c);
}

static bool measured_flag;

static void measured(struct store_measure *measure)
{
    measured_flag = true;
}

/* Pages that go with versions of "vm", or all of it, and with those of others. Or an error. */
static int64_t measure_with(struct env *env, const char *version, const struct store_version *with,
                            uint32_t n_with)
{
    struct store_measure m = {.vm = "vm",
                              .versions = &version,
                              .n_versions = version ? 1 : 0,
                              .whole = !version,
                              .with = with,
                              .n_with = n_with,
                              .done = measured};
    measured_flag = false;
    store_measure(env->store, &m);
    while (!measured_flag)
        turn(env);
    return m.error ? m.error : (int64_t)(m.bytes / PAGE_BYTES);
}

/* What two vms share goes when the versions of both go. A clone that keeps memory is one after each
 * opening. */
static void measured_together(void **state)
{
    const struct store_change clone = {.kind = CHANGE_CLONE, .memory = true};
    const struct store_version b = {"m", "b"}, none = {"m", "none"}, twice[2] = {b, b};
    struct env *env = *state;
    struct vm_info *vms;
    uint32_t n;

    write_pages(env, 0, 100, 1);
    snap(env, "a");
    assert_int_equal(named_change(env, clone, "vm", "a", "m"), 0);
    assert_int_equal(named_change(env, (struct store_change){.kind = CHANGE_SNAP}, "m", "b", ""),
                     0);
    assert_int_equal(change(env, CHANGE_DISK_REMOVE, "m", "root", 0), 0);
    write_pages(env, 0, 50, 2);
    assert_int_equal(measure_with(env, "a", NULL, 0), 0);
    assert_int_equal(measure_with(env, "a", &b, 1), 50);
    assert_int_equal(measure_with(env, NULL, NULL, 0), 50);
    assert_int_equal(measure_with(env, NULL, &b, 1), 150);
    assert_int_equal(measure_with(env, "a", &none, 1), ERR_NO_VERSION);
    assert_int_equal(measure_with(env, "a", twice, 2), -EINVAL);
    assert_int_equal(measure_with(env, "a", &b, 1), 50);
    for (int with_checkpoint = 0; with_checkpoint < 2; with_checkpoint++) {
        write_pages(env, 200, 1, 3); /* something for a checkpoint */
        if (with_checkpoint)
            checkpoint(env);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        assert_int_equal(store_list(env->store, &vms, &n), 0);
        assert_int_equal(n, 2);
        assert_true(vms[0].memory && !vms[1].memory && vms[0].n_versions == 1);
        free(vms);
    }
}

/* The changes of a receive with memory (api-recv-end.c), in their order. */
static int receive_step(struct env *env, unsigned step)
{
    const struct store_change snapped = {
        .kind = CHANGE_SNAP, .consistency = CONSISTENCY_RAM, .guid = {7}};
    const struct store_change commit = {.kind = CHANGE_VM_COMMIT};
    const struct store_change made = {.kind = CHANGE_VM_CREATE, .provisional = true};
    struct store_change memory = made;

    memory.memory = true;
    switch (step) {
    case 0:
        return named_change(env, made, "in", "", "");
    case 1:
        return change(env, CHANGE_DISK_ADD, "in", "root", MIB);
    case 2:
        return named_change(env, memory, "m", "", "");
    case 3:
        return change(env, CHANGE_DISK_ADD, "m", "memory", MIB);
    case 4:
        return named_change(env, snapped, "in", "v", "");
    case 5:
        return named_change(env, snapped, "m", "07", "");
    case 6:
        return named_change(env, commit, "m", "", "");
    default:
        return named_change(env, commit, "in", "", "");
    }
}

/* Whenever it is cut off: the version is there with its memory, or is not there. */
static void received_with_memory(void **state)
{
    struct env *env = *state;
    enum { STEPS = 8 };

    for (unsigned i = 0; i < 2 * (STEPS + 1); i++) {
        unsigned steps = i / 2;
        for (unsigned k = 0; k < steps; k++)
            assert_int_equal(receive_step(env, k), 0);
        write_pages(env, 0, 1, i);
        if (i % 2)
            checkpoint(env);
        kill_store(env);
        assert_int_equal(open_store(env), 0);
        bool there = store_find_version_disk(env->store, "in", "v", "root") != NULL;
        bool memory = store_find_version_disk(env->store, "m", "07", "memory") != NULL;
        assert_int_equal(there, steps == STEPS);
        assert_int_equal(memory, steps >= STEPS - 1);
        if (there)
            assert_int_equal(change(env, CHANGE_VM_REMOVE, "in", "", 0), 0);
        if (memory)
            assert_int_equal(change(env, CHANGE_VM_REMOVE, "m", "", 0), 0);
    }
}

/* ---- files with much that cannot be read ----------------------------------------------------- */

enum { HALF_PAGES = 24000, RUN = 16, RUN_DEAD = 9 };

static uint32_t half_round(uint64_t page)
{
    return page % RUN < RUN_DEAD ? 2 : 1;
}

/* A second without a write, and all that is done in it. */
static void idle_second(struct env *env)
{
    struct storage *storage = sim_storage(env->sim);
    store_tick(env->store);
    for (unsigned still = 0; still < 3;) {
        bool more = store_dispatch(env->store);
        still = more || sim_in_flight(env->sim) ? 0 : still + 1;
        if (sim_in_flight(env->sim))
            storage->poll(storage, !more);
    }
}

/* Idle seconds until a counter says more. */
static unsigned idle_until(struct env *env, const char *name)
{
    uint64_t before = counter(env, name);
    unsigned seconds = 0;
    while (counter(env, name) == before) {
        assert_true(seconds < 30);
        idle_second(env);
        seconds++;
    }
    return seconds;
}

/* Pages below n, and of each 16 of them 9 written over: of the files that they were in first more
 * than half is dead, everywhere, and they are cleaned in the next idle second. */
static void write_half_dead(struct env *env, uint64_t n)
{
    write_pages(env, 0, n, 1);
    for (uint64_t page = 0; page < n; page += RUN)
        write_pages(env, page, RUN_DEAD, 2);
    assert_int_equal(flush(env), 0);
}

static void compare_half_dead(struct env *env, uint64_t n, const bool *lost)
{
    for (uint64_t page = 0; page < n; page++) {
        int code = read_page(env, page, half_round(page));
        assert_true(code <= 0);
        assert_int_equal(code < 0, lost && lost[page]);
    }
}

/* Every 61st block of a file cannot be read, so that no window of it can at once: it is cleaned in
 * the second attempt, ten seconds after the first, and nothing is lost but what stands in them.
 * Where an error that has nothing to do with the medium ends the first one, a second one finds the
 * rest. */
static void scattered(struct env *env, int error)
{
    enum { N = 9000 };
    static bool lost[N];
    unsigned n_lost = 0;
    write_half_dead(env, N);
    uint32_t file = find_page(env, RUN_DEAD, 1).file;
    assert_int_equal(counter(env, "files_cleaned"), 0);
    sim_break_blocks(env->sim, file, 100 * (uint64_t)BLOCK_BYTES, 61);
    for (uint64_t page = 0; page < N; page++) {
        int code = read_page(env, page, half_round(page));
        assert_true(code <= 0);
        lost[page] = code < 0;
        n_lost += lost[page];
    }
    if (error)
        sim_fail(env->sim, STORAGE_READ, 300, 12, error);
    unsigned seconds = idle_until(env, "clean_put_off");
    assert_int_equal(counter(env, "clean_read_errors"), 0);
    if (error) {
        sim_fail(env->sim, STORAGE_READ, 0, 1, 0);
        seconds += idle_until(env, "clean_put_off");
    }
    seconds += idle_until(env, "files_cleaned");
    print_message("%u pages of a file were lost, which was cleaned within %u seconds\n", n_lost,
                  seconds);
    assert_true(n_lost > 40 && n_lost <= counter(env, "clean_read_errors"));
    assert_int_equal(counter(env, "clean_put_off"), error ? 2 : 1);
    assert_int_equal(counter(env, "files_cleaned"), 1);
    assert_true(seconds >= (error ? 20 : 10) && seconds <= (error ? 24 : 12));
    sim_break_block(env->sim, 0, UINT64_MAX);
    compare_half_dead(env, N, lost);
    while (counter(env, "files_dead"))
        idle_second(env); /* until a checkpoint has it in its new place */
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    compare_half_dead(env, N, lost);
}

static void scattered_blocks(void **state)
{
    scattered(*state, 0);
}

static void scattered_blocks_and_errors(void **state)
{
    scattered(*state, -EMFILE);
}

/* A block fails in the first attempt and in the third, and another, before it, in the second: there
 * it was read, so none has failed twice in a row, and none is given up. */
static void failing_by_turns(void **state)
{
    enum { N = 9000 };
    struct env *env = *state;
    write_half_dead(env, N);
    struct sim_place early = find_page(env, 4000 + RUN_DEAD, 1);
    struct sim_place late = find_page(env, 6000 + RUN_DEAD, 1);
    assert_true(early.file == late.file && early.offset_bytes < late.offset_bytes);
    for (unsigned i = 0; i < 5; i++) {
        const struct sim_place *broken = i % 2 ? &early : &late;
        sim_break_block(env->sim, broken->file, broken->offset_bytes);
        idle_until(env, "clean_put_off");
        assert_int_equal(counter(env, "clean_read_errors"), 0);
    }
    sim_break_block(env->sim, 0, UINT64_MAX);
    idle_until(env, "files_cleaned");
    assert_int_equal(counter(env, "clean_read_errors"), 0);
    compare_half_dead(env, N, NULL);
}

static uint64_t used_bytes(struct env *env)
{
    struct store_space space;
    store_space(env->store, &space);
    return space.data + space.tables + space.dead;
}

/* Attempts that are lost take no room, also near the end of a file: neither in the packed file nor
 * by the one that they begin when that is full. */
static void lost_attempts(void **state)
{
    struct env *env = *state;
    uint64_t used = 0, files = 0, harmless;
    write_half_dead(env, HALF_PAGES);
    struct sim_place a = find_page(env, HALF_PAGES - 3 * RUN + RUN_DEAD, 1);
    struct sim_place b = find_page(env, HALF_PAGES - 2 * RUN + RUN_DEAD, 1);
    assert_true(a.file == b.file);
    for (unsigned i = 0; i < 6; i++) {
        if (i == 0) /* lost from the beginning */
            sim_break_blocks(env->sim, a.file, BLOCK_BYTES, 30);
        else
            sim_break_block(env->sim, a.file, i % 2 ? a.offset_bytes : b.offset_bytes);
        idle_until(env, "clean_put_off");
        for (unsigned k = 0; k < 4; k++)
            idle_second(env); /* and the checkpoint that frees what is dead */
        assert_int_equal(counter(env, "files_dead"), 0);
        if (i == 0) {
            used = used_bytes(env);
            files = counter(env, "files_free");
            assert_int_equal(counter(env, "files_cleaned"), 2);
        }
        assert_int_equal(used_bytes(env), used);
        assert_int_equal(counter(env, "files_free"), files);
    }
    sim_break_block(env->sim, 0, UINT64_MAX);
    idle_until(env, "files_cleaned");
    assert_int_equal(counter(env, "clean_read_errors"), 0);
    compare_half_dead(env, HALF_PAGES, NULL);
    assert_int_equal(check(env, &harmless), 0);
    kill_store(env);
    assert_int_equal(open_store(env), 0);
    compare_half_dead(env, HALF_PAGES, NULL);
    assert_int_equal(check(env, &harmless), 0);
}

/* ---- what cannot be read behind the end of the log ------------------------------------------ */

/* Nothing needs it: the store opens. The batches are needed. */
static void unreadable_behind_end(void **state)
{
    struct env *env = *state;
    uint8_t block[BLOCK_BYTES];
    const struct file_header *h = (const struct file_header *)block;
    uint32_t file = 0;
    write_pages(env, 0, 20, 1);
    assert_int_equal(flush(env), 0);
    while (!sim_file_bytes(env->sim, file) || !sim_peek(env->sim, file, 0, block) ||
           h->kind != FILE_KIND_DATA)
        assert_true(++file < 16);
    kill_store(env);
    sim_break_block(env->sim, file, BLOCK_BYTES);
    assert_true(open_store(env) < 0);
    sim_break_block(env->sim, file, (FILE_BLOCKS - 2) * (uint64_t)BLOCK_BYTES);
    assert_int_equal(open_store(env), 0);
    for (uint64_t page = 0; page < 20; page++)
        assert_int_equal(read_page(env, page, 1), 0);
    sim_break_block(env->sim, 0, UINT64_MAX);
}

#ifndef VARVE_SMALL_FILES
static void take_checkpoint(struct env *env)
{
    uint64_t before = counter(env, "checkpoints");
    checkpoint_want(env->store);
    for (unsigned i = 0; i < 100000 && counter(env, "checkpoints") == before; i++)
        turn(env);
    assert_true(counter(env, "checkpoints") > before);
}

/* Where cleaning has the tables' spare, and data waits: a checkpoint whose nodes find room in the
 * table file ends, whatever those above the written ones count for meanwhile. */
static void fits_until_written(void **state)
{
    enum { ABOVE = 100, BELOW = 400 };
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    struct store_format format = {.capacity_bytes = 200ULL * FILE_BYTES};
    struct env *env = *state = calloc(1, sizeof(*env));
    env->sim = sim_new(1, 1ULL << 36);
    env->config = store_config_default;
    env->config.table_bytes = 512u << 20;
    env->config.checkpoint_bytes = 1ULL << 40;
    assert_int_equal(store_format(sim_storage(env->sim), &format), 0);
    assert_int_equal(open_store(env), 0);
    assert_int_equal(change(env, CHANGE_VM_CREATE, "vm", "", 0), 0);
    assert_int_equal(change(env, CHANGE_DISK_ADD, "vm", "root", 256ULL << 30), 0);
    for (uint64_t i = 0; i < ABOVE * (BELOW + 1); i++) {
        uint64_t leaf = i < ABOVE * BELOW ? i / BELOW * 512 + i % BELOW : i % ABOVE * 512;
        struct store_io io = {.op = STORE_WRITE,
                              .disk = disk(env),
                              .offset = leaf * 512 * PAGE_BYTES,
                              .length = PAGE_BYTES,
                              .buf = page};
        if (i == ABOVE * BELOW)
            take_checkpoint(env);
        assert_int_equal(run_io(env, io), 0);
    }
    assert_int_equal(flush(env), 0);
    for (unsigned i = 0; i < 2000; i++)
        turn(env);
    struct log *log = env->store->log;
    const struct table *table = env->store->table;
    uint64_t n = table->dirty_bytes + (uint64_t)table->n_above * NODE_MAX_BYTES;
    uint64_t room = (2 * n + 4 * BLOCK_BYTES) * 12 / 10;
    assert_true(room < FILE_BYTES / 2 && !log->open && !log->n_inflight);
    while (!list_empty(&log->free))
        list_pop_front(&log->free);
    log->n_free = 0;
    log->max_files = log->n_files;
    log->table.spare = log->next_data_file = NULL;
    log->data_slot = DATA_SEGMENT_SLOTS - 4;
    log_table_flush(log);
    for (unsigned i = 0; i < 100; i++)
        turn(env);
    log->table.slot = log->table.buf_slot = (FILE_BYTES - room) / BLOCK_BYTES * 64;
    log->table.file->used_slots = log->table.slot;
    turn(env);
    assert_true(log->table_fits);
    take_checkpoint(env);
}
#endif

/* An argument: only the tests whose names fit that pattern. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#ifdef VARVE_SMALL_FILES
        cmocka_unit_test_teardown(map_ahead, teardown),
        cmocka_unit_test_teardown(damaged_increment, teardown),
        cmocka_unit_test_teardown(broken_block, teardown),
        cmocka_unit_test_teardown(wide_full_store, teardown),
        cmocka_unit_test_teardown(passing_block, teardown),
        cmocka_unit_test_teardown(passing_blocks, teardown),
        cmocka_unit_test_teardown(lost_attempts_and_crashes, teardown),
        cmocka_unit_test_teardown(deaths_in_a_row, teardown),
        cmocka_unit_test_teardown(few_files_and_full_tables, teardown),
        cmocka_unit_test_teardown(trims_in_full_store, teardown),
        cmocka_unit_test_teardown(one_file_left, teardown),
        cmocka_unit_test_teardown(unfinished_and_no_file, teardown),
        cmocka_unit_test_teardown(impatient_cleaning, teardown),
        cmocka_unit_test_teardown(errors_in_cleaning, teardown),
        cmocka_unit_test_teardown(passing_errors, teardown),
        cmocka_unit_test_teardown(failed_sync, teardown),
        cmocka_unit_test_teardown(zeros_in_full_store, teardown),
        cmocka_unit_test_teardown(leaves_in_full_store, teardown),
#endif
        cmocka_unit_test_setup_teardown(flushed_together, setup, teardown),
        cmocka_unit_test_setup_teardown(reserve_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(many_nodes, setup, teardown),
        cmocka_unit_test_setup_teardown(only_what_changed, setup, teardown),
        cmocka_unit_test_setup_teardown(passed_by_others, setup, teardown),
        cmocka_unit_test_setup_teardown(taken_while_it_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(rolled_back_in_checkpoint, setup, teardown),
        cmocka_unit_test_setup_teardown(removed_in_checkpoint, setup, teardown),
        cmocka_unit_test_setup_teardown(went_and_came, setup, teardown),
        cmocka_unit_test_setup_teardown(extents_by_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(zeros_in_hole, setup, teardown),
        cmocka_unit_test_setup_teardown(measured_together, setup, teardown),
        cmocka_unit_test_setup_teardown(received_with_memory, setup, teardown),
#ifndef VARVE_SMALL_FILES /* what follows says where in a file it is */
        cmocka_unit_test_teardown(fits_until_written, teardown),
        cmocka_unit_test_setup_teardown(no_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(short_file, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_record, setup, teardown),
        cmocka_unit_test_setup_teardown(forged_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_last_of_file, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_first_of_file, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_page_at_edge, setup, teardown),
        cmocka_unit_test_setup_teardown(checkpoint_of_opening, setup, teardown),
        cmocka_unit_test_setup_teardown(checkpoint_of_running, setup, teardown),
        cmocka_unit_test_setup_teardown(checkpoint_of_closing, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_leaf, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_root, setup, teardown),
        cmocka_unit_test_setup_teardown(mended_node, setup, teardown),
        cmocka_unit_test_setup_teardown(extents_to_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden_page, setup, teardown),
        cmocka_unit_test_setup_teardown(unreadable, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_liveness, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_footer, setup, teardown),
        cmocka_unit_test_setup_teardown(shrinking, setup, teardown),
        cmocka_unit_test_setup_teardown(shrinking_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(no_guid, setup, teardown),
        cmocka_unit_test_setup_teardown(given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(provisional_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(provisional_version, setup, teardown),
        cmocka_unit_test_setup_teardown(many_vms, setup, teardown),
        cmocka_unit_test_setup_teardown(read_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(many_read_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(synced_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(unreadable_behind_end, setup, teardown),
        cmocka_unit_test_setup_teardown(full_batches, setup, teardown),
        cmocka_unit_test_setup_teardown(scattered_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(scattered_blocks_and_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(failing_by_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_attempts, setup, teardown),
#endif
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("damage", tests, NULL, NULL);
}
