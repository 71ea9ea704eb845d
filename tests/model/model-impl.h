/* model-impl.h - inside of the model: what model.c (pages, judging) and model-vms.c share. */
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
    uint32_t refs;    /* one while busy, one for each version that it made */
    uint64_t id;
    enum store_op op;
    uint32_t flags;
    uint64_t sub, ack; /* moments; ack UINT64_MAX: not done */
    struct model_disk *disk;
    uint64_t first, last; /* pages */
    enum op_fate fate;
};

struct page_version {
    struct content *content;
    uint64_t sub, ack;
    struct model_op *op; /* NULL: adopted at the last opening */
    enum page_kind kind;
    bool must; /* by FUA and acknowledged: nothing older may come back */
};

struct page {
    struct page *next; /* in its bucket */
    uint64_t index;
    struct page_version
        *versions; /* oldest first; each but the last was done before the next began */
    uint32_t n, max;
    uint32_t judged;
    uint64_t seen; /* judging: a bit for each version that looks like what is there */
};

struct model_vm {
    char name[NAME_MAX_CHARS + 1];
    enum vm_role role;
    bool provisional;
};

struct model_disk {
    struct model_vm *vm;
    char name[NAME_MAX_CHARS + 1];
    bool provisional;
    uint64_t size;
    struct page **buckets, **pages;
    size_t n_buckets, n_pages;
    struct list busy;
    void *user;
};

struct model {
    uint64_t now;     /* moments so far */
    uint64_t durable; /* no crash may lose what was done before this moment */
    uint64_t op_ids;
    struct list ops, reads;
    struct model_vm **vms;
    struct model_disk **disks;
    uint32_t n_vms, n_disks;
    struct store_change pending;
    bool is_pending;
    uint64_t pending_sub;
    struct model_op *pending_op; /* what it drops, or NULL */
    struct model_race *race;     /* NULL: none */
    /* Judging. */
    uint64_t judge_low;
    uint32_t judgement;
    int32_t *cuts; /* differences of the number of pages that allow each moment from judge_low on */
    struct page **moving; /* pages with more than one version */
    size_t n_moving, max_moving;
    uint64_t n_complaints;
    size_t complaint_len;
    char complaint[8192];
};

void *model_must(void *p);
void model_complain(struct model *model, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void model_op_put(struct model *model, struct model_op *op);
struct page *page_find(const struct model_disk *disk, uint64_t index);
/* Give a page this one version, durable. */
void page_replace(struct model *model, struct model_disk *disk, uint64_t index,
                  const uint8_t *data);
/* Is the page one of the race's? Can it look like this? all_done: what is done must be there. */
bool race_has(const struct model_race *race, const struct model_disk *disk, uint64_t index);
bool race_page_fits(const struct model_race *race, uint64_t index, const uint8_t *page,
                    bool all_done);
/* Forget the pages at or after this index. */
void pages_free(struct model *model, struct model_disk *disk, uint64_t from_index);

#endif
