/* model.h - the plain model of a store that the tests compare the real one with.
 *
 * Per page it keeps the writes that a reader or a crash may still show, oldest first. Time is a
 * counter of events: every submission and every completion that the test saw has its own number. A
 * write stands in the log somewhere between its submission and its completion, so what a crash left
 * is right if there is one moment T, at or after the last acknowledged flush, such that every page
 * shows a write submitted before T whose successor was not completed by T. On top of that,
 * completions come in log order: of two completed writes the earlier is never missing where the
 * later is there (model_judge_end()).
 *
 * A version is judged in the same way: all its disks are the state at one moment between the
 * submission of its making and the end of that. It keeps all that each page may be until it is read
 * and found to be one of them (model_settle_begin()); from then on it is that for ever. What a
 * version shows is in the log, so no later crash may bring back anything older.
 *
 * The test keeps at most one changing request in flight per page (model_busy()). One thread. */
#ifndef VARVE_TESTS_MODEL_H
#define VARVE_TESTS_MODEL_H

#include "image/store.h"

#include <stdio.h>

#define MODEL_PAGE_WRITES 60 /* a page that has this many is busy until a flush */

struct model;
struct model_disk;
struct model_version;
struct model_op;

struct model *model_new(void);
void model_free(struct model *model); /* NULL is legal */
/* Sentences about what was wrong since the last call; empty: nothing. Static until the next call.
 */
const char *model_complaint(struct model *model);
uint64_t model_now(const struct model *model);

/* ---- changing requests ---------------------------------------------------------------------- */

/* A request in flight touches a page of this range, or failed there and was not resolved. */
bool model_busy(const struct model_disk *disk, uint64_t offset, uint64_t length);

/* WRITE, TRIM or ZERO is about to be submitted; not busy. buf: for WRITE, borrowed for the call. */
struct model_op *model_begin(struct model *model, struct model_disk *disk, enum store_op op,
                             uint32_t flags, uint64_t offset, uint64_t length, const void *buf);
/* It is done. With an error its pages stay busy: each may be old or new, until model_resolve() or
 * the next judgement. */
void model_end(struct model *model, struct model_op *op, int error);
/* The page at offset of a failed request was read: is it old or new? */
void model_resolve(struct model *model, struct model_disk *disk, uint64_t offset, const void *page);
/* All pages of a failed request were resolved. */
void model_forget(struct model *model, struct model_op *op);

/* A flush: what was completed before the begin is durable after the end. */
uint64_t model_flush_begin(struct model *model);
void model_flush_end(struct model *model, uint64_t begun);

/* ---- reading -------------------------------------------------------------------------------- */

struct model_read {
    struct list link;
    uint64_t begun;
};
void model_read_begin(struct model *model, struct model_read *read);
/* data: length bytes, or NULL: it was said to be all zero. Complains when any page is none of those
 * that were current at some moment of the read. */
void model_read_end(struct model *model, struct model_read *read, struct model_disk *disk,
                    uint64_t offset, uint64_t length, const void *data);
void model_read_abort(struct model_read *read);
/* base: NULL, or what the disk was compared with. */
void model_extents_end(struct model *model, struct model_read *read, const struct model_disk *disk,
                       const struct model_disk *base, uint64_t offset, uint64_t length,
                       const struct store_extent *extents, uint32_t n_extents);

/* Step through the pages that were ever written, in no order: start with *cursor 0. */
bool model_next_page(const struct model_disk *disk, uint64_t *cursor, uint64_t *ret_index);
uint64_t model_n_pages(const struct model_disk *disk);
/* The bytes of a page with one write only that is not zero: for finding it on the medium. */
bool model_page_settled(const struct model_disk *disk, uint64_t index, void *ret_page);

/* Both show the same write of this page, or, where several left the same bytes, maybe. */
bool model_page_is_same(const struct model_disk *a, const struct model_disk *b, uint64_t index);
/* Another head or version shows it too, or maybe. */
bool model_page_is_shared(const struct model *model, const struct model_disk *disk, uint64_t index);

/* ---- requests on the same pages at once ----------------------------------------------------- */

#define MODEL_RACE_PAGES 3
#define MODEL_RACE_OPS   4

struct model_race {
    struct model_disk *disk;
    uint64_t page;
    uint32_t n_pages, n;
    struct {
        uint32_t from, to;  /* bytes from the first page on */
        const uint8_t *buf; /* NULL: zeros */
        bool done;
    } ops[MODEL_RACE_OPS];
    uint8_t old[MODEL_RACE_PAGES * PAGE_BYTES];
};

/* Nothing is in flight and all was flushed. race, and its buffers, must live to its end or to the
 * next judgement. */
void model_race_begin(struct model *model, struct model_race *race, struct model_disk *disk,
                      uint64_t page, uint32_t n_pages);
void model_race_add(struct model *model, const uint8_t *buf, uint64_t offset, uint32_t length);
void model_race_done(struct model *model, uint32_t i);
/* All are done, flushed, and the pages were read: complains, and keeps what was read. */
void model_race_end(struct model *model, const uint8_t *pages);

/* ---- vms and disks -------------------------------------------------------------------------- */

/* What store_change() must answer; *ret_or: what it may answer too, else the same. MODEL_ANY_ERROR:
 * any error. busy: the test holds a user of a disk concerned. */
#define MODEL_ANY_ERROR 1
int model_change_expect(const struct model *model, const struct store_change *change, bool busy,
                        int *ret_or);
/* One change may be in flight, with no request in flight on the disks concerned but of a version
 * that is made. refused: the answer must be an error, so no crash shows it done. */
void model_change_begin(struct model *model, const struct store_change *change, bool refused);
void model_change_end(struct model *model, int error);

/* Of heads; those of versions are model_version_disk(). */
uint32_t model_n_disks(const struct model *model);
struct model_disk *model_disk(const struct model *model, uint32_t i);
struct model_disk *model_find_disk(const struct model *model, const char *vm, const char *disk);
const char *model_disk_vm(const struct model_disk *disk);
const char *model_disk_name(const struct model_disk *disk);
uint64_t model_disk_size(const struct model_disk *disk);
struct model_version *model_disk_version(const struct model_disk *disk); /* NULL: of the head */
bool model_disks_related(const struct model_disk *a, const struct model_disk *b);
/* Names of vms, for choosing one; NULL past the end. */
const char *model_vm(const struct model *model, uint32_t i, bool *ret_provisional);
/* The test's own, per disk; freed by the test. NULL at first, or what the disk had that it is a
 * copy of. */
void **model_disk_user(struct model_disk *disk);

/* ---- versions ------------------------------------------------------------------------------- */

uint32_t model_n_versions(const struct model *model); /* of all vms */
/* By age. NULL past the end. */
struct model_version *model_version(const struct model *model, uint32_t i);
struct model_version *model_find_version(const struct model *model, const char *vm,
                                         const char *name);
const char *model_version_vm(const struct model_version *version);
const char *model_version_name(const struct model_version *version);
bool model_version_is_held(const struct model_version *version);
bool model_version_is_settled(const struct model_version *version);
struct model_disk *model_version_disk(const struct model_version *version,
                                      uint32_t i); /* or NULL */
/* The vm that a provisional clone can become the head of: the one of the version that it was made
 * from. NULL: none. */
const char *model_clone_of(const struct model *model, const char *vm);

/* Every page of it is going to be read, with model_judge_page() for each. */
void model_settle_begin(struct model *model, struct model_version *version);
/* Complains, or with keep it is that from now on. */
void model_settle_end(struct model *model, struct model_version *version, bool keep);

/* How many pages only these versions of a vm hold, or (versions NULL) the vm with all of its; all
 * settled. Requests may be in flight, in the first case. since: when the measuring began. */
struct model_range {
    uint64_t low, high;
};
struct model_range model_measure(struct model *model, const char *vm, const char *const *versions,
                                 uint32_t n, uint64_t since);
/* How many pages heads and versions hold together. Nothing in flight, all settled. */
struct model_range model_live(struct model *model);

/* ---- lists ---------------------------------------------------------------------------------- */

struct model_list { /* what the store says there is; borrowed */
    const struct vm_info *vms;
    const struct version_info *versions; /* of all vms */
    uint32_t n_vms, n_versions;
};
/* Complains. idle: no request is in flight. */
void model_check_list(struct model *model, const struct model_list *list, bool idle);

/* ---- judging after the store was opened again ----------------------------------------------- */

enum model_end_kind {
    MODEL_CLOSED,  /* store_close() returned 0: everything is there */
    MODEL_KILLED,  /* what was acknowledged is there, the rest may be */
    MODEL_CRASHED, /* a prefix at or after the last acknowledged flush */
};

/* The catalogue first: it says whether a change that was in flight happened. */
void model_judge_begin(struct model *model, enum model_end_kind kind,
                       const struct model_list *list);
/* It does not say whether this vm was rolled back: then every page of its disks is judged before
 * anything else. NULL: it does. */
const char *model_judge_doubt(const struct model *model);
void model_judge_doubt_end(struct model *model, const struct model_list *list);
/* The medium died meanwhile: all is as before. */
void model_judge_doubt_abort(struct model *model);
/* Then the versions that are not settled, by age, and others that one likes (model_settle_begin()).
 * Then the heads: every page of model_next_page(), and any others. */
void model_judge_heads(struct model *model);
void model_judge_page(struct model *model, struct model_disk *disk, uint64_t index,
                      const void *page);
/* Complains, or with keep adopts what is there as durable. */
void model_judge_end(struct model *model, bool keep);

/* What the model knows of a page, for a person. */
void model_print_page(const struct model *model, const struct model_disk *disk, uint64_t index,
                      FILE *out);

/* ---- contents ------------------------------------------------------------------------------- */

/* Fill a buffer so that each page, and each piece of one, names its writer. offset: where on the
 * disk buf goes. sparse: only the first bytes of each page are not zero. */
void stamp_fill(void *buf, uint64_t length, uint32_t disk, uint64_t offset, uint64_t op,
                bool sparse);
/* Stamps that end in their own CRC-32C, as the blocks of some file systems do: see stamp_sum(). */
extern bool stamp_crc_tails;
/* What the bytes of a page say of themselves, for a person; static. */
const char *stamp_text(const void *page);

#endif
