/* fuzz-recovery.c - open stores whose files the input damages.
 *
 * Property: store_open() gives an error, or a store whose every page reads as bytes that were once
 * written to that very page (or zeros) or gives an error; check, writes, flushes and closing work
 * or give errors; nothing crashes, overruns or goes on for ever. Where the input also mends the
 * checksum of a structure that it changed, contents may be anything, the rest still holds.
 *
 * Input: byte 0 chooses the base image (0xc0 and above: one with versions and clones); then eight
 * bytes for each damage, see damage(). */
#include "harness.h"

#include "base/crc.h"
#include "base/err.h"
#include "log/log-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BASES       6
#define BASES_MORE  3      /* with versions */
#define COMPLETIONS 400000 /* more than any of these stores can need: it goes on for ever */

struct base {
    struct sim *sim;
    struct sim_place *all, *meta; /* blocks that are not zero; those that begin with a magic */
    size_t n_all, n_meta;
    uint64_t *pages[2]; /* of each disk, those that were ever written */
    size_t n_pages[2];
    uint32_t stamp[2]; /* its number in the stamps */
    uint8_t uuid[16];
};

static struct base bases[BASES + BASES_MORE];
static struct run run;

/* ---- base images ---------------------------------------------------------------------------- */

static bool is_meta(const uint8_t *block)
{
    uint32_t magic;
    memcpy(&magic, block, 4);
    return memcmp(block, SUPER_MAGIC, 8) == 0 || memcmp(block, CHECKPOINT_MAGIC, 8) == 0 ||
           magic == FILE_MAGIC || magic == BATCH_MAGIC;
}

static void list_places(struct base *base)
{
    struct sim_place place = {0};
    uint8_t block[SIM_BLOCK_BYTES];
    sim_peek(base->sim, STORAGE_SUPER, 0, block);
    memcpy(base->uuid, ((const struct super_block *)block)->uuid, sizeof(base->uuid));
    while (sim_next_block(base->sim, &place)) {
        sim_peek(base->sim, place.file, place.offset_bytes, block);
        base->all = realloc(base->all, (base->n_all + 1) * sizeof(place));
        base->meta = realloc(base->meta, (base->n_meta + 1) * sizeof(place));
        if (!base->all || !base->meta)
            abort();
        base->all[base->n_all++] = place;
        /* What is no magic and lies in a checkpoint file is the map and the catalogue. */
        if (is_meta(block) || place.file >= STORAGE_CHECKPOINT(1))
            base->meta[base->n_meta++] = place;
    }
}

static void list_pages(struct base *base)
{
    for (unsigned d = 0; d < 2; d++) {
        struct model_disk *disk = model_find_disk(run.model, d ? "vm-1" : "vm-0", "root");
        uint64_t cursor = 0, index;
        base->pages[d] = calloc(model_n_pages(disk) + 1, sizeof(uint64_t));
        if (!base->pages[d])
            abort();
        while (model_next_page(disk, &cursor, &index))
            base->pages[d][base->n_pages[d]++] = index;
        base->stamp[d] = (uint32_t)(uintptr_t)*model_disk_user(disk);
    }
}

/* Whole single pages only, so that each page proves itself (page_is_genuine()). */
static void fill(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        struct model_disk *disk = random_disk(&run);
        uint64_t pages = model_disk_size(disk) / PAGE_BYTES, at = rng_below(&run.rng, pages);
        enum store_op op = rng_percent(&run.rng, 90)   ? STORE_WRITE
                           : rng_percent(&run.rng, 50) ? STORE_TRIM
                                                       : STORE_ZERO;
        start_io(&run, disk, op, 0, at * PAGE_BYTES, PAGE_BYTES);
        if (rng_percent(&run.rng, 3))
            start_io(&run, disk, STORE_FLUSH, 0, 0, 0);
        turn(&run, rng_percent(&run.rng, 50));
    }
    drain(&run);
}

static void change(enum change_kind kind, unsigned vm, const char *version, const char *new_name)
{
    struct store_change c = {.kind = kind, .versions = &version, .n_versions = 1, .note = "a note"};
    snprintf(c.vm, sizeof(c.vm), "vm-%u", vm);
    strcpy(c.version, version);
    strcpy(c.new_name, new_name);
    if (do_change(&run, &c))
        abort();
}

/* Versions, clones (vm-2 and vm-3, of vm-0 and vm-1), a rollback, and what is removed of them. */
static void fill_versions(void)
{
    for (unsigned vm = 0; vm < 2; vm++) {
        change(CHANGE_SNAP, vm, "a", "");
        fill(60);
        change(CHANGE_SNAP, vm, "b", "");
        change(CHANGE_CLONE, vm, "a", vm ? "vm-3" : "vm-2");
    }
    fill(200);
    change(CHANGE_SNAP, 2, "c", "");
    change(CHANGE_ROLLBACK, 0, "a", "kept");
    fill(60);
    change(CHANGE_SNAP, 0, "d", "");
    change(CHANGE_VERSION_REMOVE, 0, "a", "");
    change(CHANGE_VERSION_REMOVE, 1, "a", "");
    change(CHANGE_VERSION_RENAME, 0, "d", "e");
}

static void base_make(struct base *base, unsigned number)
{
    struct knobs k = {.capacity_bytes = 512ULL << 20,
                      .medium_bytes = 1ULL << 34,
                      .config = store_config_default,
                      .depth = 16};
    k.config.cache_bytes = 0;
    k.config.checkpoint_bytes = number % 2 ? 256 << 10 : 2 << 20;
    run_begin(&run, 100 + number, &k);
    run_format(&run);
    for (unsigned d = 0; d < 2; d++) {
        struct store_change c = {.kind = CHANGE_VM_CREATE};
        snprintf(c.vm, sizeof(c.vm), "vm-%u", d);
        do_change(&run, &c);
        c.kind = CHANGE_DISK_ADD;
        c.size_bytes = d ? 40ULL << 30 : 300 * PAGE_BYTES; /* one with several levels of table */
        strcpy(c.disk, "root");
        do_change(&run, &c);
    }
    fill(number < 4 ? 300 : 1200);
    if (number >= BASES)
        fill_versions();
    if (number % 3 == 0) {
        run_reopen(&run);
    } else {
        sim_cut_after(run.sim, 40);
        while (!sim_is_dead(run.sim))
            fill(20);
        drain(&run);
        store_close(run.store);
        sim_restart(run.sim, number % 3 == 1 ? SIM_KILL : SIM_CRASH);
        run.store = NULL;
    }
    if (run.store && store_close(run.store))
        abort();
    run.store = NULL;
    base->sim = sim_clone(run.sim, number);
    list_pages(base);
    run_end(&run);
    list_places(base);
}

/* ---- damage --------------------------------------------------------------------------------- */

static uint8_t uuid[16]; /* of the store that is damaged */

/* Make the checksum of a structure right again. Returns false where there is none. */
static bool mend(uint8_t *block)
{
    uint32_t magic;
    memcpy(&magic, block, 4);
    if (memcmp(block, SUPER_MAGIC, 8) == 0 || memcmp(block, CHECKPOINT_MAGIC, 8) == 0) {
        memset(block + 8, 0, 4);
        uint32_t crc = crc32c(0, block, SIM_BLOCK_BYTES);
        memcpy(block + 8, &crc, 4);
    } else if (magic == FILE_MAGIC) {
        memset(block + 4, 0, 4);
        uint32_t crc = crc32c(0, block, SIM_BLOCK_BYTES);
        memcpy(block + 4, &crc, 4);
    } else if (magic == BATCH_MAGIC) {
        struct batch_header header;
        memcpy(&header, block, sizeof(header));
        header.crc = batch_crc(uuid, &header, block);
        memcpy(block, &header, sizeof(header));
    } else {
        return false;
    }
    return true;
}

/* A checkpoint's body has its checksum in the header. */
static void mend_checkpoint(struct sim *sim, uint32_t file)
{
    struct checkpoint_header header;
    static uint8_t body[1 << 20];
    if (!sim_peek(sim, file, 0, &header) || header.body_bytes > sizeof(body))
        return;
    for (uint64_t at = 0; at < header.body_bytes; at += SIM_BLOCK_BYTES)
        if (!sim_peek(sim, file, SIM_BLOCK_BYTES + at, body + at))
            return;
    header.body_crc = crc32c(0, body, header.body_bytes);
    mend((uint8_t *)&header);
    sim_poke(sim, file, 0, &header);
}

/* d[0]: what, and whether in a structure (0x10) and mended (0x80); d[1..2]: which block; d[3..4]:
 * where in it; d[5..7]: the bytes. Returns true when a checksum was mended. */
static bool damage(struct sim *sim, const struct base *base, const uint8_t *d)
{
    bool structure = d[0] & 0x10 && base->n_meta;
    const struct sim_place *places = structure ? base->meta : base->all;
    size_t n = structure ? base->n_meta : base->n_all;
    struct sim_place place = places[(d[1] | d[2] << 8) % n], other;
    uint32_t at = (d[3] | (uint32_t)d[4] << 8) % SIM_BLOCK_BYTES;
    uint8_t block[SIM_BLOCK_BYTES];
    if (structure && d[4] & 0x80)
        at %= 160; /* the headers' fields */
    if (!sim_peek(sim, place.file, place.offset_bytes, block))
        return false; /* removed or cut off by an earlier one */
    switch (d[0] & 7) {
    case 0:
        block[at] ^= 1u << (d[5] & 7);
        break;
    case 1:
        block[at] = d[5];
        break;
    case 2: /* a number in a field */
        at = at / 4 * 4;
        memcpy(block + at, &(uint32_t){d[5] | (uint32_t)d[6] << 8}, 4);
        break;
    case 3:
        memset(block + at / 4 * 4, d[5] & 1 ? 0xff : 0, 4u << (d[5] >> 1 & 1));
        break;
    case 4: /* a block from elsewhere */
        other = base->all[(d[5] | d[6] << 8) % base->n_all];
        sim_peek(base->sim, other.file, other.offset_bytes, block);
        break;
    case 5: /* torn */
        memset(block + 512 * (d[5] & 7), 0, SIM_BLOCK_BYTES - 512 * (d[5] & 7));
        break;
    case 6:
        memset(block, 0, sizeof(block));
        break;
    case 7:
        if (d[5] & 1)
            sim_truncate(sim, place.file, d[5] & 2 ? 0 : place.offset_bytes);
        return false;
    }
    bool mended = d[0] & 0x80 && structure && (d[0] & 7) < 4 && mend(block);
    sim_poke(sim, place.file, place.offset_bytes, block);
    if (d[0] & 0x80 && structure && place.file >= STORAGE_CHECKPOINT(1) &&
        place.file != STORAGE_SUPER && place.offset_bytes) {
        mend_checkpoint(sim, place.file);
        mended = true;
    }
    return mended;
}

/* ---- what must hold ------------------------------------------------------------------------- */

static void __attribute__((noreturn)) bad(const char *text, uint64_t page)
{
    fprintf(stderr, "fuzz-recovery: %s (page %llu)\n", text, (unsigned long long)page);
    abort();
}

/* Zeros, or what stamp_fill() makes of the stamp that is in it. */
static bool page_is_genuine(const uint8_t *page, uint32_t stamp, uint64_t index)
{
    static uint8_t right[PAGE_BYTES];
    uint64_t op;
    memcpy(&op, page + 16, sizeof(op));
    if (op == 0) {
        memset(right, 0, sizeof(right));
        return memcmp(page, right, PAGE_BYTES) == 0;
    }
    stamp_fill(right, PAGE_BYTES, stamp, index * PAGE_BYTES, op, false);
    return memcmp(page, right, PAGE_BYTES) == 0;
}

static bool io_busy;

static void io_done(struct store_io *io)
{
    io_busy = false;
}

static int do_io(struct sim *sim, struct store *store, struct store_io *io)
{
    unsigned idle = 0;
    io->done = io_done;
    io_busy = true;
    if (store_submit(store, io))
        io_busy = false;
    while (io_busy) {
        bool more = store_dispatch(store);
        idle = sim_in_flight(sim) ? 0 : idle + 1;
        if (idle > 100000)
            bad("stalled", io->offset / PAGE_BYTES);
        if (sim_in_flight(sim))
            sim_storage(sim)->poll(sim_storage(sim), !more);
    }
    return io->error;
}

/* Read what was written and a little of what was not; then write. d: which disk of the base. */
static void use_disk(struct sim *sim, struct store *store, struct disk *disk,
                     const struct base *base, unsigned d, bool anything)
{
    static _Alignas(PAGE_BYTES) uint8_t page[PAGE_BYTES];
    static struct store_extent extents[64];
    uint64_t pages = disk_size(disk) / PAGE_BYTES;
    struct store_io io = {.disk = disk,
                          .op = STORE_EXTENTS,
                          .length = disk_size(disk),
                          .extents = extents,
                          .max_extents = 64};
    do_io(sim, store, &io);
    for (uint64_t i = 0; i < base->n_pages[d] + 16; i++) {
        uint64_t index = i < base->n_pages[d] ? base->pages[d][i] : (i * 7919) % pages;
        io = (struct store_io){.disk = disk,
                               .op = STORE_READ,
                               .offset = index * PAGE_BYTES,
                               .length = PAGE_BYTES,
                               .buf = page};
        if (do_io(sim, store, &io) == 0 && !anything &&
            !page_is_genuine(page, base->stamp[d], index))
            bad("wrong data without an error", index);
    }
    for (uint64_t i = 0; i < 3; i++) {
        io = (struct store_io){.disk = disk,
                               .op = i == 1 ? STORE_TRIM : STORE_WRITE,
                               .flags = i == 2 ? STORE_FUA : 0,
                               .offset = i * 97 % pages * PAGE_BYTES,
                               .length = PAGE_BYTES,
                               .buf = page};
        do_io(sim, store, &io);
    }
}

static void problem(struct store_check *check, const char *text)
{
}

static void check_done(struct store_check *check)
{
    check->impl = NULL;
    io_busy = false;
}

/* vm-0 and its clone have the first stamp, the others the second. */
static unsigned which(const char *vm)
{
    return strcmp(vm, "vm-1") == 0 || strcmp(vm, "vm-3") == 0;
}

/* Work off what io_busy stands for. */
static void wait_for(struct sim *sim, struct store *store, const char *stalled)
{
    for (unsigned idle = 0; io_busy;) {
        bool more = store_dispatch(store);
        idle = sim_in_flight(sim) ? 0 : idle + 1;
        if (idle > 100000)
            bad(stalled, 0);
        if (sim_in_flight(sim))
            sim_storage(sim)->poll(sim_storage(sim), !more);
    }
}

static void change_done(struct store_change *c)
{
    io_busy = false;
}

static void try_change(struct sim *sim, struct store *store, struct store_change c)
{
    c.done = change_done;
    io_busy = true;
    store_change(store, &c);
    wait_for(sim, store, "a change is stalled");
}

static void compare_disks(struct sim *sim, struct store *store, struct disk *a, struct disk *b)
{
    static struct store_extent extents[64];
    struct store_io io = {.disk = a,
                          .op = STORE_EXTENTS,
                          .length = disk_size(a),
                          .base = b,
                          .extents = extents,
                          .max_extents = 64};
    do_io(sim, store, &io);
}

static void measure_done(struct store_measure *m)
{
    io_busy = false;
}

/* Take a version, measure one, and remove one. */
static void change_versions(struct sim *sim, struct store *store)
{
    const char *names[] = {"b", "new"};
    struct store_measure m = {
        .vm = "vm-0", .versions = names, .n_versions = 1, .done = measure_done};
    try_change(sim, store,
               (struct store_change){.kind = CHANGE_SNAP, .vm = "vm-0", .version = "new"});
    io_busy = true;
    store_measure(store, &m);
    wait_for(sim, store, "measuring is stalled");
    try_change(
        sim, store,
        (struct store_change){
            .kind = CHANGE_VERSION_REMOVE, .vm = "vm-0", .versions = names, .n_versions = 1});
    try_change(sim, store,
               (struct store_change){.kind = CHANGE_ROLLBACK, .vm = "vm-0", .version = "new"});
}

static void use_versions(struct sim *sim, struct store *store, const struct base *base,
                         bool anything)
{
    struct version_info *infos;
    struct disk *last = NULL;
    uint32_t n;
    if (store_list_versions(store, NULL, NULL, true, UINT32_MAX, &infos, &n) != 0)
        return;
    for (uint32_t v = 0; v < n; v++)
        for (uint32_t d = 0; d < infos[v].n_disks; d++) {
            struct disk *disk =
                store_find_version_disk(store, infos[v].vm, infos[v].name, infos[v].disks[d].name);
            if (!disk || disk_size(disk) < PAGE_BYTES)
                continue;
            use_disk(sim, store, disk, base, which(infos[v].vm), anything);
            if (last)
                compare_disks(sim, store, disk, last);
            last = disk;
        }
    free(infos);
    change_versions(sim, store);
}

static void use(struct sim *sim, struct store *store, const struct base *base, bool anything)
{
    struct vm_info *vms;
    uint32_t n;
    if (store_list(store, &vms, &n) == 0) {
        for (uint32_t v = 0; v < n; v++)
            for (uint32_t d = 0; d < vms[v].n_disks; d++) {
                struct disk *disk = store_find_disk(store, vms[v].name, vms[v].disks[d].name);
                if (disk && disk_size(disk) >= PAGE_BYTES)
                    use_disk(sim, store, disk, base, which(vms[v].name), anything);
            }
        free(vms);
    }
    use_versions(sim, store, base, anything);
    struct store_check check = {.pages = true, .problem = problem, .done = check_done};
    io_busy = true;
    if (store_check(store, &check) != 0)
        return;
    wait_for(sim, store, "the check is stalled");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool anything = false;
    struct store *store = NULL;
    struct store_config config = store_config_default;
    if (size < 9)
        return 0;
    unsigned number = data[0] < 0xc0 ? data[0] % BASES : BASES + data[0] % BASES_MORE;
    struct base *base = &bases[number];
    if (!base->sim)
        base_make(base, number);
    struct sim *sim = sim_clone(base->sim, crc32c(0, data, size));
    sim_tolerate_short_files(sim, true);
    memcpy(uuid, base->uuid, sizeof(uuid));
    for (size_t i = 1; i + 8 <= size && i < 8 * 32; i += 8)
        anything |= damage(sim, base, data + i);
    sim_cut_after(sim, COMPLETIONS);
    config.cache_bytes = 0;
    if (store_open(sim_storage(sim), &config, &store) == 0) {
        use(sim, store, base, anything);
        store_close(store);
    }
    if (sim_is_dead(sim))
        bad("it goes on for ever", 0);
    sim_free(sim);
    return 0;
}
