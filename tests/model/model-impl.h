/* model-impl.h - inside of the model: model.c (pages, requests, reading), model-judge.c (what a
 * crash or a version shows), model-vms.c (vms and disks), model-versions.c (versions). */
#ifndef VARVE_TESTS_MODEL_IMPL_H
#define VARVE_TESTS_MODEL_IMPL_H

#include "model.h"

struct content { /* a page without its trailing zeros; NULL: all zero */
    uint32_t refs, len;
    uint8_t data[];
};

enum page_kind { PAGE_HOLE, PAGE_ZERO, PAGE_DATA, PAGE_EITHER };

enum op_fate { OP_UNSEEN, OP_IN, OP_OUT, OP_UNKNOWN };

struct model_op {
    struct list link; /* model->ops, in the order of submission */
    struct list busy; /* disk->busy, until done or resolved */
    uint32_t refs;    /* one while busy, one for each write that it made */
    uint64_t id;
    enum store_op op;
    uint32_t flags;
    uint64_t sub, ack; /* moments; ack UINT64_MAX: not done */
    struct model_disk *disk;
    uint64_t first, last; /* pages */
    enum op_fate fate;
};

/* One page as one request left it. All that show it, heads and versions, refer to the same one: so
 * who shares a page with whom is known exactly. */
struct page_write {
    uint32_t refs;
    struct content *content;
    uint64_t sub, ack;
    struct model_op *op; /* NULL: adopted at an opening */
    enum page_kind kind;
    bool must;         /* by FUA and acknowledged: nothing older may come back */
    bool never;        /* of a request that failed, and did not happen here */
    bool vague;        /* another write left the same bytes: which of the two is there is unknown */
    uint64_t shown_by; /* uid of the first version that shows it: so it is in the log; 0: none */
    uint32_t shown_epoch; /* and for this epoch only; 0: for ever */
    uint64_t mark;        /* of the measurement that found it in use */
};

struct page {
    struct page *next; /* in its bucket */
    uint64_t index;
    /* Of a head: oldest first; each but the last was done before the next began. Of a version: what
     * was current at some moment of its making; one, when it is settled. */
    struct page_write **writes;
    uint32_t n, max;
    uint32_t judged;
    uint64_t seen; /* judging: a bit for each write that looks like what is there */
};

struct model_vm {
    char name[NAME_MAX_CHARS + 1];
    enum vm_role role;
    bool provisional;
    uint64_t parent;      /* uid of the version that the head started at or became, 0: none */
    uint64_t cloned_from; /* uid of the version that the vm is a clone of, 0: none */
};

struct model_disk {
    struct model_vm *vm;
    struct model_version *version; /* NULL: of the head */
    char name[NAME_MAX_CHARS + 1];
    bool provisional;
    bool resized; /* ever; of a clone or version: or what it comes from */
    uint64_t size;
    uint64_t family; /* the same: of one origin */
    struct page **buckets, **pages;
    size_t n_buckets, n_pages;
    struct list busy;
    void *user;
};

struct model_version {
    char name[NAME_MAX_CHARS + 1];
    struct model_vm *vm;
    uint64_t uid; /* rises with time; model->parents[uid] is the one before it on its line */
    char *note;   /* NULL: not known yet */
    enum consistency consistency;
    bool held;
    uint64_t sub, ack; /* of its making; it is the state at a moment between */
    bool settled;      /* each page has one write */
    bool received;     /* it was given created_us */
    struct model_disk **disks;
    uint32_t n_disks;
    /* As the store made them; zeros: not seen yet. */
    uint32_t id;
    uint8_t guid[GUID_BYTES];
    uint64_t created_us;
};

struct model {
    uint64_t now;     /* moments so far */
    uint64_t durable; /* no crash may lose what was done before this moment */
    uint64_t op_ids;
    struct list ops, reads;
    struct model_vm **vms;
    struct model_disk **disks;       /* of heads */
    struct model_version **versions; /* by age */
    uint32_t n_vms, n_disks, n_versions;
    uint64_t uids, *parents, families;
    struct page_write *hole; /* of all pages since ever */
    struct store_change pending;
    bool is_pending, pending_refused;
    struct model_read pending_read; /* from the submission on */
    struct model_op *pending_op;    /* what it drops, or NULL */
    struct model_race *race;        /* NULL: none */
    uint64_t marks;
    /* Judging: the moments that may be what is there. */
    uint64_t judge_low, judge_high;
    enum model_end_kind judge_kind;
    uint64_t heads_low;                  /* for the heads: raised by what versions show */
    struct model_version *judge_version; /* NULL: the heads */
    bool doubt, doubt_old, doubt_new;
    uint32_t judgement, epoch; /* an epoch: an opening */
    int32_t *cuts; /* differences of the number of pages that allow each moment from judge_low on */
    struct page **moving; /* pages with more than one write */
    size_t n_moving, max_moving;
    uint64_t n_complaints;
    size_t complaint_len;
    char complaint[8192];
};

void *model_must(void *p);
void model_complain(struct model *model, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void model_op_put(struct model *model, struct model_op *op);

/* ---- pages ---------------------------------------------------------------------------------- */

bool content_equal(const struct content *c, uint32_t from, uint32_t to, const uint8_t *data);
void content_copy(const struct content *c, uint8_t *page);
/* content: a reference is taken over. */
struct page_write *write_new(struct content *content, enum page_kind kind);
struct page_write *write_get(struct page_write *w);
void write_put(struct model *model, struct page_write *w); /* NULL is legal */

struct page *page_find(const struct model_disk *disk, uint64_t index);
struct page *page_get(struct model *model, struct model_disk *disk, uint64_t index);
/* Take over a reference to the page's newest write. */
void page_push(struct page *p, struct page_write *w);
void page_drop_oldest(struct model *model, struct page *p);
/* Keep one write alone. */
void page_keep(struct model *model, struct page *p, uint32_t i);
void page_prune(struct model *model, struct page *p);
/* Give a page one new write, durable. */
void page_replace(struct model *model, struct model_disk *disk, uint64_t index,
                  const uint8_t *data);
/* The oldest write that was current at some moment since then. */
uint32_t oldest_since(const struct page *p, uint64_t begun);
/* Forget the pages at or after this index. */
void pages_free(struct model *model, struct model_disk *disk, uint64_t from_index);

/* ---- disks ---------------------------------------------------------------------------------- */

/* Not in any list yet. */
struct model_disk *model_disk_new(struct model_vm *vm, const char *name, uint64_t size,
                                  uint64_t family);
void model_disk_free(struct model *model, struct model_disk *disk);
/* One that shows what was current at some moment since then. */
struct model_disk *disk_copy(struct model *model, const struct model_disk *disk, uint64_t since);
void disks_add(struct model *model, struct model_disk *disk);
void heads_drop(struct model *model, const struct model_vm *vm);

/* ---- the catalogue -------------------------------------------------------------------------- */

/* A head may have been replaced by a change in flight: what the new one would be; or NULL. */
const struct model_disk *replacing_disk(const struct model *model, const char *name);
int vm_index(const struct model *model, const char *name);
bool good_name(const char *name);
struct model_version *version_of(const struct model *model, uint64_t uid); /* NULL: removed */
void versions_drop(struct model *model, const struct model_vm *vm);
bool versions_held(const struct model *model, const struct model_vm *vm);
int version_change_expect(const struct model *model, const struct store_change *c, bool busy,
                          int *ret_or);
void version_change_apply(struct model *model, const struct store_change *c);
/* What differs, or NULL. skip_provisional: as after an opening. */
const char *versions_differ(struct model *model, const struct version_info *infos, uint32_t n,
                            bool skip_provisional);
/* Take from the list what the store chose. */
void versions_learn(struct model *model, const struct version_info *infos, uint32_t n);
bool origin_fits(const struct model *model, uint64_t parent, const char *vm, const char *name,
                 bool skip_provisional);

/* ---- races ---------------------------------------------------------------------------------- */

/* Is the page one of the race's? Can it look like this? all_done: what is done must be there. */
bool race_has(const struct model_race *race, const struct model_disk *disk, uint64_t index);
bool race_page_fits(const struct model_race *race, uint64_t index, const uint8_t *page,
                    bool all_done);
/* It looks like this now, after some of the race. */
void race_page_keep(struct model *model, uint64_t index, const uint8_t *page);

#endif
