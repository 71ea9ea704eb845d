/* sim-blocks.c - files of the simulated medium: see sim-storage.c for what a block is. */
#include "sim-impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sim_must(void *p)
{
    if (!p) {
        fprintf(stderr, "sim-storage: out of memory\n");
        abort();
    }
    return p;
}

/* ---- blocks --------------------------------------------------------------------------------- */

struct version *sim_version_new(const uint8_t *data, uint64_t done_seq)
{
    uint32_t len = SIM_BLOCK_BYTES;
    static const uint8_t zeros[64];
    while (len > 0 && data[len - 1] == 0 && memcmp(data + len - 64, zeros, 64) == 0)
        len -= 64;
    struct version *v = sim_must(malloc(sizeof(*v) + len));
    v->below = NULL;
    v->done_seq = done_seq;
    v->len = len;
    memcpy(v->data, data, len);
    return v;
}

void sim_version_read(const struct version *v, uint8_t *buf)
{
    uint32_t len = v ? v->len : 0;
    if (len)
        memcpy(buf, v->data, len);
    memset(buf + len, 0, SIM_BLOCK_BYTES - len);
}

static void version_free_stack(struct version *v)
{
    while (v) {
        struct version *below = v->below;
        free(v);
        v = below;
    }
}

struct file *sim_file_find(const struct sim *sim, uint32_t number)
{
    list_for_each (l, &sim->files) {
        struct file *f = container_of(l, struct file, link);
        if (f->number == number)
            return f;
    }
    return NULL;
}

struct file *sim_file_new(struct sim *sim, uint32_t number, uint64_t length)
{
    struct file *f = sim_must(calloc(1, sizeof(*f)));
    f->number = number;
    f->length = f->durable_length = length;
    f->n_blocks = length / SIM_BLOCK_BYTES;
    f->blocks = sim_must(calloc(f->n_blocks ? f->n_blocks : 1, sizeof(*f->blocks)));
    list_push_back(&sim->files, &f->link);
    sim->allocated += length;
    return f;
}

static struct version *stack_copy(const struct version *v)
{
    struct version *first = NULL, **at = &first;
    for (; v; v = v->below) {
        *at = sim_must(malloc(sizeof(*v) + v->len));
        memcpy(*at, v, sizeof(*v) + v->len);
        at = &(*at)->below;
    }
    *at = NULL;
    return first;
}

void sim_file_copy(struct sim *to, const struct file *f)
{
    struct file *g = sim_file_new(to, f->number, f->length);
    g->durable_length = f->durable_length;
    g->named_seq = f->named_seq;
    for (uint64_t i = 0; i < f->n_blocks; i++)
        g->blocks[i] = stack_copy(f->blocks[i]);
    g->max_dirty = g->n_dirty = f->n_dirty;
    g->dirty = sim_must(malloc((f->n_dirty + 1) * sizeof(*g->dirty)));
    if (f->n_dirty)
        memcpy(g->dirty, f->dirty, f->n_dirty * sizeof(*g->dirty));
}

void sim_file_free(struct sim *sim, struct file *f)
{
    for (uint64_t i = 0; i < f->n_blocks; i++)
        version_free_stack(f->blocks[i]);
    sim->allocated -= f->length;
    list_del(&f->link);
    free(f->blocks);
    free(f->dirty);
    free(f);
}

void sim_file_set_length(struct sim *sim, struct file *f, uint64_t length)
{
    uint64_t n = (length + SIM_BLOCK_BYTES - 1) / SIM_BLOCK_BYTES;
    for (uint64_t i = n; i < f->n_blocks; i++)
        version_free_stack(f->blocks[i]);
    f->blocks = sim_must(realloc(f->blocks, (n ? n : 1) * sizeof(*f->blocks)));
    for (uint64_t i = f->n_blocks; i < n; i++)
        f->blocks[i] = NULL;
    sim->allocated += length - f->length;
    f->length = length;
    f->n_blocks = n;
}

void sim_block_push(struct file *f, uint64_t index, const uint8_t *data, uint64_t done_seq)
{
    struct version *top = f->blocks[index];
    if (!top || top->done_seq == 0) {
        if (f->n_dirty == f->max_dirty) {
            f->max_dirty = f->max_dirty ? 2 * f->max_dirty : 64;
            f->dirty = sim_must(realloc(f->dirty, f->max_dirty * sizeof(*f->dirty)));
        }
        f->dirty[f->n_dirty++] = index;
    }
    struct version *v = sim_version_new(data, done_seq);
    v->below = top;
    f->blocks[index] = v;
}

void sim_file_sync(struct file *f, uint64_t mark)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->n_dirty; i++) {
        struct version *top = f->blocks[f->dirty[i]], *v = top;
        while (v && v->done_seq > mark)
            v = v->below;
        if (v && v->done_seq) {
            v->done_seq = 0;
            version_free_stack(v->below);
            v->below = NULL;
        }
        if (top->done_seq)
            f->dirty[kept++] = f->dirty[i];
    }
    f->n_dirty = kept;
    f->durable_length = f->length;
}
/* ---- crashes -------------------------------------------------------------------------------- */

/* What the crash does to one write. */
enum fate { LOST, KEPT, TORN };

struct crash {
    uint64_t salt;
    unsigned kept_percent, torn_percent;
    bool torn_prefix;
};

static enum fate fate_of(const struct crash *crash, uint64_t done_seq)
{
    unsigned dice = (unsigned)(rng_mix(crash->salt ^ rng_mix(done_seq)) % 100);
    return dice < crash->kept_percent                         ? KEPT
           : dice < crash->kept_percent + crash->torn_percent ? TORN
                                                              : LOST;
}

static void crash_block(struct sim *sim, struct file *f, uint64_t index, const struct crash *crash)
{
    struct version *stack[256], *v = f->blocks[index];
    unsigned n = 0;
    uint8_t block[SIM_BLOCK_BYTES], data[SIM_BLOCK_BYTES];
    while (v && v->done_seq) {
        assert(n < 256);
        stack[n++] = v;
        v = v->below;
    }
    sim_version_read(v, block);
    while (n-- > 0) {
        enum fate fate = fate_of(crash, stack[n]->done_seq);
        uint64_t mask = fate == KEPT ? UINT64_MAX : fate == TORN ? rng_next(&sim->rng) : 0;
        if (fate == TORN && crash->torn_prefix)
            mask = (1u << (mask % (BLOCK_SECTORS + 1))) - 1;
        sim_version_read(stack[n], data);
        for (unsigned s = 0; s < BLOCK_SECTORS; s++)
            if (mask >> s & 1)
                memcpy(block + s * SECTOR_BYTES, data + s * SECTOR_BYTES, SECTOR_BYTES);
        sim->stats.lost_writes += fate == LOST;
        sim->stats.torn_writes += fate == TORN;
    }
    version_free_stack(f->blocks[index]);
    f->blocks[index] = sim_version_new(block, 0);
}

static void crash_file(struct sim *sim, struct file *f, const struct crash *crash)
{
    uint64_t end = f->durable_length;
    for (size_t i = 0; i < f->n_dirty; i++) {
        uint64_t index = f->dirty[i], seq = f->blocks[index]->done_seq;
        if (fate_of(crash, seq) != LOST && (index + 1) * SIM_BLOCK_BYTES > end)
            end = (index + 1) * SIM_BLOCK_BYTES;
        crash_block(sim, f, index, crash);
    }
    f->n_dirty = 0;
    if (end < f->length)
        sim_file_set_length(sim, f, end);
    f->durable_length = f->length;
}
void sim_crash_files(struct sim *sim)
{
    static const struct {
        unsigned kept, torn;
    } moods[] = {{0, 0}, {100, 0}, {50, 0}, {50, 30}, {10, 80}, {90, 5}, {5, 5}};
    size_t mood = rng_below(&sim->rng, sizeof(moods) / sizeof(moods[0]));
    struct crash crash = {.salt = rng_next(&sim->rng),
                          .kept_percent = moods[mood].kept,
                          .torn_percent = moods[mood].torn,
                          .torn_prefix = rng_percent(&sim->rng, 50)};
    list_for_each_safe (l, &sim->files) {
        struct file *f = container_of(l, struct file, link);
        if (f->named_seq > sim->names_durable && fate_of(&crash, f->named_seq) != KEPT) {
            sim->stats.lost_names++;
            sim_file_free(sim, f);
        } else {
            f->named_seq = 0;
            crash_file(sim, f, &crash);
        }
    }
}

/* ---- looking and touching ------------------------------------------------------------------- */

bool sim_next_block(const struct sim *sim, struct sim_place *place)
{
    list_for_each (l, &sim->files) {
        const struct file *f = container_of(l, struct file, link);
        if (place->started && f->number != place->file)
            continue;
        uint64_t i = place->started ? place->offset_bytes / SIM_BLOCK_BYTES + 1 : 0;
        for (; i < f->n_blocks; i++) {
            if (!f->blocks[i] || !f->blocks[i]->len)
                continue;
            *place = (struct sim_place){true, f->number, i * SIM_BLOCK_BYTES};
            return true;
        }
        place->started = false; /* on to the next file, from its start */
    }
    return false;
}

bool sim_peek(const struct sim *sim, uint32_t file, uint64_t offset_bytes, void *buf)
{
    const struct file *f = sim_file_find(sim, file);
    if (!f || offset_bytes + SIM_BLOCK_BYTES > f->n_blocks * SIM_BLOCK_BYTES)
        return false;
    sim_version_read(f->blocks[offset_bytes / SIM_BLOCK_BYTES], buf);
    return true;
}

void sim_poke(struct sim *sim, uint32_t file, uint64_t offset_bytes, const void *buf)
{
    struct file *f = sim_file_find(sim, file);
    assert(f && offset_bytes / SIM_BLOCK_BYTES < f->n_blocks);
    struct version **at = &f->blocks[offset_bytes / SIM_BLOCK_BYTES];
    struct version *v = sim_version_new(buf, *at ? (*at)->done_seq : 0);
    if (*at) {
        v->below = (*at)->below;
        free(*at);
    }
    *at = v;
}

void sim_flip_bit(struct sim *sim, uint32_t file, uint64_t offset_bytes, unsigned bit)
{
    uint8_t block[SIM_BLOCK_BYTES];
    uint64_t start = offset_bytes / SIM_BLOCK_BYTES * SIM_BLOCK_BYTES;
    bool there = sim_peek(sim, file, start, block);
    assert(there);
    block[offset_bytes - start] ^= 1u << (bit % 8);
    sim_poke(sim, file, start, block);
}
