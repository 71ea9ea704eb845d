/* table.h - page tables: from a page of a disk to its place in the log. The store's thread only.
 *
 * A tree per disk, of nodes with 512 entries. Nodes are read when they are needed and leave memory
 * when it is short and they are clean. Changes stay in memory until a checkpoint writes them.
 *
 * A tree can be frozen: what was dirty then is written as it was then, while changes go on. That
 * makes a version (its tree is what the freeze writes) and a checkpoint (all trees at once).
 *   tree_snapshot(), table_freeze() put what is dirty on the list of a freeze and raise the epoch;
 *   table_write_some() writes it, leaves first, and a node's place goes into its parent;
 *   a frozen leaf that is about to change is written first (node_touch()).
 * A tree has at most two freezes that are not finished, and they finish in order. When a leaf of
 * the later one must be written while its parent still waits for leaves of the earlier one, these
 * and the parent are written at once (settle()): so a parent's form never mixes two of them.
 *
 * Forms are shared between trees: by the versions before and after, by clones. Who replaces a form
 * or a page frees it only if no version holds it, which its age tells: what the parent version of a
 * head holds is older than that version's epoch (forms) or cut (pages).
 *
 * Invariants:
 *  1. A node in memory has its parent in memory. Each tree has nodes of its own in memory.
 *  2. A dirty, pinned or loading node, or one with children in memory, does not leave memory.
 *  3. A node that was written leaves memory only when the buffer with it is on the medium.
 *  4. Dirty nodes are in the trees of heads; the tree of a version never changes. */
#ifndef VARVE_IMAGE_TABLE_H
#define VARVE_IMAGE_TABLE_H

#include "image/node.h"
#include "log/log.h"

#define TABLE_KEEP 256u

struct table_stats {
    uint64_t loads, load_bytes, evictions, nodes_written, deltas_written, mended;
};

struct table {
    struct log *log;
    uint64_t epoch; /* the last one given out */
    uint64_t budget_bytes, bytes, dirty_bytes;
    uint32_t n_nodes, n_loading, n_dirty;
    uint32_t n_above; /* that are not dirty, but above one that is: they are written with it */
    uint32_t keep; /* clean nodes, used last, that stay in any case: who goes through several trees
                      together needs all of a place at the same time (walk.c, diff.c) */
    struct list clean;        /* evictable or nearly so, least recently used first */
    struct list changing;     /* struct tree_changes: those with dirty nodes */
    uint32_t n_frozen;        /* nodes of unfinished freezes */
    uint32_t n_checkpoint;    /* freezes that the running checkpoint waits for */
    struct list root_waiters; /* struct waiter: for a root that is being written */
    uint64_t woken_seq;       /* buffers on the medium when they were last woken */
    bool root_again;          /* a freeze has finished since */
    struct table_stats stats;
    uint8_t *scratch; /* NODE_MAX_BYTES */
    /* Called when a node could not be read: place and code, for the event. */
    void (*damage)(void *arg, const struct tree *tree, uint32_t level, uint64_t index, int code);
    void *damage_arg;
};

/* What was dirty at one instant. */
struct freeze {
    uint64_t epoch; /* of its nodes */
    struct list frozen[NODE_LEVELS];
    uint32_t n; /* not yet written */
    bool of_checkpoint;
    /* A version was made since (or by it): what its nodes replace was held by the one before. */
    bool fixed;
    uint64_t held_epoch;
    const struct release *release;
    struct list heirs; /* struct tree: versions and their clones, which take the root */
};

/* What changes of a head. */
struct tree_changes {
    struct list link; /* in table->changing */
    struct tree *tree;
    uint64_t epoch; /* that nodes get when they become dirty */
    struct list dirty[NODE_LEVELS];
    uint32_t n_dirty;
    struct freeze freezes[2]; /* a ring, n_freezes from first on */
    uint32_t first, n_freezes;
    bool touched;       /* changed since it was made from a version, or became one */
    bool in_checkpoint; /* checkpoint_root is or will be the root as the checkpoint wants it */
    struct entry checkpoint_root;
};

/* The version that a head comes from is being removed (splice.h): where that has come to. What it
 * has passed is held by nobody but those before it. */
struct release {
    uint64_t cut, epoch; /* that hold then */
    uint64_t at;         /* pages before it are passed, */
    uint8_t rise;        /* and nodes that end there below this level; 0: all */
};

/* The page table of one disk. */
struct tree {
    struct table *table;
    struct node *root;             /* NULL: not in memory */
    struct tree_changes *changes;  /* NULL: it never changes */
    uint32_t family;               /* all that come from one disk have one */
    uint8_t levels;                /* 1: the root is a leaf */
    uint32_t n_loading;            /* of its nodes */
    struct entry root_entry;       /* as last written */
    uint64_t used_pages;           /* entries that are data, or zeros kept allocated */
    uint64_t young_pages;          /* of them, not held by the version before */
    uint64_t held_cut, held_epoch; /* what is older is held by the version before; 0: none */
    const struct release *release;
    uint64_t *stale;       /* counts what the version before holds and this gives up; or NULL */
    struct freeze *origin; /* the freeze that will give it its root, or NULL */
    uint64_t root_seq;     /* the buffer of the table stream with its root */
    struct list heir_link;
};

int table_create(struct log *log, uint64_t budget_bytes, struct table **ret);
void table_free(struct table *table); /* its trees are gone before */

/* A tree that never changes. */
void tree_init(struct tree *tree, struct table *table, uint32_t family, uint8_t levels,
               struct entry root);
/* From now on it may change. 0, -ENOMEM. */
int tree_make_head(struct tree *tree);
/* Drop what is in memory, dirty or not. Nothing may be loading or pinned. */
void tree_drop(struct tree *tree);
/* Levels that a disk of so many pages wants. */
uint8_t tree_levels(uint64_t pages);
/* Make the tree higher. It is not frozen. 0, -ENOMEM. */
int tree_grow(struct tree *tree, uint8_t levels);

/* Can it be frozen now, or must table_write_some() finish something first? */
bool tree_may_freeze(const struct tree *tree);
bool tree_is_frozen(const struct tree *tree);
/* Freeze a head; version, uninitialised, becomes the tree that it is now. */
void tree_snapshot(struct tree *head, struct tree *version);
/* copy, uninitialised, becomes a tree with what version (which never changes) has. */
void tree_copy(const struct tree *version, struct tree *copy);
/* It will not change any more: true when all of it is written, and it is a tree as of a version. */
bool tree_finish(struct tree *tree);

enum tree_get {
    TREE_FOUND,  /* *ret is the leaf */
    TREE_ABSENT, /* a hole: *ret_pages pages from the leaf's first page on are not there */
    TREE_WAIT,   /* waiter will be woken; ask again then */
};
/* The leaf of a page. create: make it if it is a hole. Negative: an error. */
int tree_get(struct tree *tree, uint64_t page, bool create, struct waiter *waiter,
             struct node **ret, uint64_t *ret_pages);

/* One node of a tree, without reading it. */
struct peek {
    struct entry entry; /* its form */
    struct node *node;  /* NULL: not in memory */
    bool exact;         /* the form and those below it are what the tree has: nothing is dirty */
};
/* TREE_FOUND: *ret is set. TREE_ABSENT: a hole, or beyond the tree's end. Else as tree_get();
 * waiter may be NULL: then what is missing is asked for and nobody told. At a level above the
 * tree's root index 0 is TREE_FOUND, with neither form nor node. */
int tree_peek(struct tree *tree, uint8_t level, uint64_t index, struct waiter *waiter,
              struct peek *ret);
/* The node itself, in memory; as tree_peek(). */
int tree_node(struct tree *tree, uint8_t level, uint64_t index, struct waiter *waiter,
              struct node **ret);

/* Is a page or a form that the tree gives up held by a version before it? */
bool tree_holds_page(const struct tree *tree, uint64_t page, uint64_t address);

/* The node on the way to a page that cannot be read is damaged, and the tree must go on all the
 * same: replace it by one whose entries, those of the disk's n_pages, are lost. 0, -ENOMEM. */
int tree_mend(struct tree *tree, uint64_t page, uint64_t n_pages);

void node_pin(struct node *node);
void node_unpin(struct node *node);

/* Call before a node is changed: it is dirty from now on. 0 or what writing its old state said. */
int node_touch(struct node *node);
/* Set an entry of a leaf and keep the books of live slots. The node was touched. */
int leaf_set(struct node *leaf, uint32_t index, struct entry entry);

/* How many of n nodes, whether in memory or not, one may ask for in advance: what would be evicted
 * before it is used must be read again and again. */
uint32_t table_ahead(const struct table *table, uint32_t n);
/* Evict down to the budget. Called once a turn. */
void table_shrink(struct table *table);
/* More is dirty than may be: writers wait for a checkpoint. */
bool table_is_crowded(const struct table *table);

/* ---- reading a form ------------------------------------------------------------------------- */

/* The read of one form of a node. */
struct form_read {
    struct storage_req req;
    struct iovec iov;
    struct entry entry; /* the pointer to it */
    struct log_file *file;
    uint64_t offset; /* of it in the file */
    uint32_t bytes;
    bool mended; /* by form_take(): a bit was flipped */
};

/* Where the form is that entry points at. 0, or ERR_DAMAGED: nowhere. */
int form_locate(struct log *log, struct entry entry, struct form_read *ret);
/* Read it, once located; done() wants form_take(). 0, -ENOMEM. */
int form_start(struct log *log, struct form_read *r,
               void (*done)(struct storage_req *req, int res));
/* In done(): NULL and a code (ERR_CHECKSUM, or what the medium said), or the form, which is there
 * until form_free(). */
const uint8_t *form_take(struct form_read *r, int res, int *ret_code);
void form_free(struct form_read *r);
/* A form of this node was mended: count it, and tell. */
void table_mended(const struct tree *tree, uint8_t level, uint64_t index);

/* ---- for checkpoints ------------------------------------------------------------------------ */
/* Can all trees be frozen now? */
bool table_may_freeze(const struct table *table);
void table_freeze(struct table *table);
/* Write up to n frozen nodes. Returns true when none is left, negative on error. */
int table_write_some(struct table *table, uint32_t n);
/* All that table_freeze() froze is written. */
bool table_is_written(const struct table *table);
/* Wake who waits for roots that can be read now. Called once a turn. Was there anybody? */
bool table_wake(struct table *table);

#endif
