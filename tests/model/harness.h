/* harness.h - one run of the store on the simulated medium beside the model, by seed.
 *
 * The pieces: harness.c submits requests and compares their answers, harness-changes.c changes the
 * catalogue, harness-versions.c reads and measures versions, harness-crash.c takes power away and
 * judges what came back, test-model.c chooses what to do. A failure prints the seed and
 * what was wrong and ends the process with 1. One thread. */
#ifndef VARVE_TESTS_HARNESS_H
#define VARVE_TESTS_HARNESS_H

#include "model.h"
#include "rng.h"
#include "sim-storage.h"

#define SLOTS_MAX      512
#define EXTENTS_MAX    128
#define VERSIONS_MAX   64
#define RACE_BUF_BYTES ((MODEL_RACE_PAGES + 1) * PAGE_BYTES) /* for each of its requests */

/* The store may be built with small files (log_format.h), to come to their ends all the time. */
#ifndef VARVE_SMALL_FILES
#define CAPACITY(files, small_files) ((uint64_t)(files) << 25)
#define PAGES(n, small_n)            (n)
#else
#define CAPACITY(files, small_files) ((uint64_t)(small_files) << 19)
#define PAGES(n, small_n)            (small_n)
#endif

struct run;

struct slot { /* one request in flight */
    struct store_io io;
    struct run *run;
    struct model_disk *disk, *base;
    bool unrelated;      /* disk and base are not of one origin: an error */
    struct model_op *op; /* WRITE, TRIM, ZERO */
    struct model_read read;
    uint64_t flush_begun;
    uint8_t *buf;
    uint64_t buf_bytes;
    bool active, doubtful; /* doubtful: failed; its pages are to be read */
    struct store_extent extents[EXTENTS_MAX];
};

struct knobs { /* of a run; what a profile sets */
    uint64_t capacity_bytes, medium_bytes;
    struct store_config config;
    unsigned depth;          /* requests in flight at most */
    unsigned latency;        /* see sim_set_latency() */
    uint64_t disk_pages_max; /* of a new disk */
    unsigned disks_max, vms_max;
    unsigned read_percent, flush_percent, fua_percent, discard_percent, change_permille,
        race_permille;
    unsigned sparse_percent; /* pages that are nearly empty */
    uint64_t write_pages_max;
    unsigned hot_percent;          /* of requests that go to few pages */
    bool may_be_full;              /* ERR_STORE_FULL is an answer */
    unsigned versions_max;         /* of all vms; 0: no versions */
    unsigned version_percent;      /* of changes that concern versions */
    unsigned version_read_percent; /* of requests that go to versions */
    unsigned chore_permille;       /* how often lists, sizes and so on are compared on the way */
};

struct run {
    uint64_t seed;
    struct rng rng;
    struct knobs knobs;
    struct sim *sim;
    struct store *store;
    struct model *model;
    struct slot slots[SLOTS_MAX];
    unsigned n_active;
    struct store_change change;
    bool change_active, change_stuck; /* stuck: it failed, and happened or not */
    int change_expected, change_or;
    const char *change_versions[VERSIONS_MAX]; /* with change_names, for VERSION_REMOVE */
    char change_names[VERSIONS_MAX][NAME_MAX_CHARS + 1];
    uint64_t op_ids, ops_done, stamp_disks;
    /* What may go wrong at this moment because the test made it so. */
    bool may_fail_reads, may_fail_writes;
    uint64_t n_damage_events, n_full, n_write_errors, n_read_errors;
    bool check_beside; /* a store_check() may be on its way: no other can begin */
    bool dead_damage;  /* there is damage where nothing lives: run_check() does not count it */
    uint64_t harmless; /* of the problems of the last run_check(), damage where nothing lives */
    struct model_race race;
    struct store_io race_io[MODEL_RACE_OPS];
    uint8_t *race_buf;
    unsigned race_waits, race_active, idle; /* race_active: a bit each */
    bool long_work;                         /* it may take many turns without any I/O */
    uint64_t crash_points, opens;
    bool formatted;
    bool dry; /* judge without adopting */
};

extern bool harness_verbose, harness_lie; /* lie: syncs do nothing; runs must fail */
extern const char *harness_profile;

void fail(struct run *run, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
void say(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Fail with the model's complaints if there are any; what: in which doing. */
void complain(struct run *run, const char *what);

/* ---- requests ------------------------------------------------------------------------------- */

/* Start one; false when there is no slot, or a page of it is busy. For STORE_WRITE the data is
 * made here. */
bool start_io(struct run *run, struct model_disk *disk, enum store_op op, uint32_t flags,
              uint64_t offset, uint64_t length);
/* The same; base: for STORE_EXTENTS, or NULL. */
bool start_compare(struct run *run, struct model_disk *disk, struct model_disk *base,
                   enum store_op op, uint32_t flags, uint64_t offset, uint64_t length);
/* A range inside the disk: of one page, of some, inside one, or at odd places. */
void random_range(struct run *run, const struct model_disk *disk, uint64_t *ret_offset,
                  uint64_t *ret_length);
bool start_random_io(struct run *run);
/* Two to four requests on the same few pages at once; waits for them. */
void run_race(struct run *run);
/* One turn of the loop. wait: for something to happen. */
void turn(struct run *run, bool wait);
/* One that waits; fails when nothing has moved for long. */
void turn_or_stall(struct run *run);
/* Turns until nothing is in flight (also when the medium died), failed writes resolved. */
void drain(struct run *run);
/* Wait for one request of the test's own. Returns io->error. */
int run_io(struct run *run, struct store_io *io);
/* Turns while there is more; fails when nothing moves. */
void turn_until(struct run *run, bool (*more)(const struct run *run));
/* A random disk of a head that no change concerns, or NULL. */
struct model_disk *random_disk(struct run *run);
/* NULL only after a change that failed, when the disk may be gone. */
struct disk *store_disk(struct run *run, const struct model_disk *disk);

/* ---- changes of the catalogue --------------------------------------------------------------- */

bool start_random_change(struct run *run);
/* Returns what the store said. Not while another change is in flight. */
int do_change(struct run *run, const struct store_change *change);
/* One after the other, nothing else being in flight. */
void some_changes(struct run *run, unsigned n);
/* Remove all versions, and all vms but this one: nothing of that is refused. */
void keep_one_vm(struct run *run, const char *name);
/* A change in flight, or stuck, concerns this disk: no requests to it. */
bool is_concerned(const struct run *run, const struct model_disk *disk);

/* ---- versions ------------------------------------------------------------------------------- */

/* Read a version, and the older ones that were never read, so that the model knows what they are
 * for ever; false: not possible now. */
bool settle(struct run *run, struct model_version *version);
bool settle_all(struct run *run);
/* A random version that no change concerns, or NULL. */
struct model_version *random_version(struct run *run);
/* A request to a disk of a version, or a comparison with one. */
bool start_version_io(struct run *run);
/* Now and then: compare lists, sizes, what removing would free; check the store. */
void random_chore(struct run *run);
void compare_lists(struct run *run);
/* All that was removed comes back, and what is used is what is referred to. */
void compare_space(struct run *run);

/* ---- opening, closing, judging -------------------------------------------------------------- */

void run_begin(struct run *run, uint64_t seed, const struct knobs *knobs);
void run_end(struct run *run);
/* Format and open; fails when that does not work. false: the medium died. */
bool run_format(struct run *run);
/* store_close() and open again; everything must be there. */
void run_reopen(struct run *run);
/* After sim_cut() (or when the medium died by itself): take the store down, and up again, perhaps
 * with more cuts on the way, and judge. end: of the first cut. */
void run_recover(struct run *run, enum sim_end end, unsigned more_cuts_percent);
/* Open, check and compare; false: the medium died, and the store may be open. */
bool come_up(struct run *run, enum model_end_kind kind);
/* Close a store on a dead medium, with what is in flight. */
void take_down(struct run *run);
/* store_check() with all pages. Returns problems found; UINT64_MAX when the medium died. */
uint64_t run_check(struct run *run, bool print);
/* Read a disk for the model's judgement (model_judge_page()). false: the medium died, or reads may
 * fail and one did. */
bool judge_disk(struct run *run, struct model_disk *disk);
/* Compare everything with the model, nothing being in flight. false: the medium died. */
bool compare_all(struct run *run, enum model_end_kind kind);

#endif
