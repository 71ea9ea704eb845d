/* table.h - page tables: from a page of a disk to its place in the log. The store's thread only.
 *
 * A tree per disk, of nodes with 512 entries. Nodes are read when they are needed and leave memory
 * when it is short and they are clean. Changes stay in memory until a checkpoint writes them.
 *
 * A checkpoint writes the trees as they were when it began, while changes go on:
 *   table_freeze() starts a new generation; the nodes that are dirty then are the frozen ones;
 *   table_write_some() writes them, leaves first, and a node's place goes into its parent;
 *   a frozen node that is about to change is written first (node_touch()).
 * Only leaves change by writing to a disk, and a new node is invisible to the checkpoint in
 * progress because its parent's entry for it is set only when it is written. So what a checkpoint
 * writes is exactly what was there when it began.
 *
 * Invariants:
 *  1. A node in memory has its parent in memory.
 *  2. A dirty, pinned or loading node, or one with children in memory, does not leave memory.
 *  3. A node that was written leaves memory only when the buffer with it is on the medium. */
#ifndef VARVE_IMAGE_TABLE_H
#define VARVE_IMAGE_TABLE_H

#include "image/node.h"
#include "log/log.h"

struct table_stats {
    uint64_t loads, load_bytes, evictions, nodes_written, deltas_written;
};

struct table {
    struct log *log;
    uint64_t generation; /* raised by table_freeze() */
    uint64_t budget_bytes, bytes, dirty_bytes;
    uint32_t n_nodes, n_loading;
    struct list clean; /* evictable or nearly so, least recently used first */
    struct list dirty[NODE_LEVELS];
    struct list frozen[NODE_LEVELS]; /* by the checkpoint in progress, not yet written */
    bool writing;                    /* between table_freeze() and table_thaw() */
    struct table_stats stats;
    uint8_t *scratch; /* NODE_MAX_BYTES */
    /* Called when a node could not be read: place and code, for the event. */
    void (*damage)(void *arg, const struct tree *tree, uint32_t level, uint64_t index, int code);
    void *damage_arg;
};

/* The page table of one disk. */
struct tree {
    struct table *table;
    uint32_t disk;
    uint8_t levels;          /* 1: the root is a leaf */
    struct node *root;       /* NULL: not in memory */
    struct entry root_entry; /* as last written */
    uint64_t used_pages;     /* entries that are data, or zeros kept allocated */
};

int table_create(struct log *log, uint64_t budget_bytes, struct table **ret);
void table_free(struct table *table); /* its trees are gone before */

void tree_init(struct tree *tree, struct table *table, uint32_t disk, uint8_t levels,
               struct entry root);
/* Drop what is in memory, dirty or not. Nothing may be loading or pinned. */
void tree_drop(struct tree *tree);
/* Levels that a disk of so many pages wants. */
uint8_t tree_levels(uint64_t pages);
/* Make the tree higher. No checkpoint may be in progress. 0, -ENOMEM. */
int tree_grow(struct tree *tree, uint8_t levels);

enum tree_get {
    TREE_FOUND,  /* *ret is the leaf */
    TREE_ABSENT, /* a hole: *ret_pages pages from the leaf's first page on are not there */
    TREE_WAIT,   /* waiter will be woken; ask again then */
};
/* The leaf of a page. create: make it if it is a hole. Negative: an error. */
int tree_get(struct tree *tree, uint64_t page, bool create, struct waiter *waiter,
             struct node **ret, uint64_t *ret_pages);

/* The node on the way to a page that cannot be read is damaged, and the tree must go on all the
 * same: replace it by one whose entries, those of the disk's n_pages, are lost. 0, -ENOMEM. */
int tree_mend(struct tree *tree, uint64_t page, uint64_t n_pages);

void node_pin(struct node *node);
void node_unpin(struct node *node);

/* Call before a node is changed: it is dirty from now on. 0 or what writing its old state said. */
int node_touch(struct node *node);
/* Set an entry of a leaf and keep the books of live slots. The node was touched. */
int leaf_set(struct node *leaf, uint32_t index, struct entry entry);

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

/* ---- for checkpoints ------------------------------------------------------------------------ */
void table_freeze(struct table *table);
/* Write up to n frozen nodes. Returns true when none is left, negative on error. */
int table_write_some(struct table *table, uint32_t n);
void table_thaw(struct table *table);

/* ---- for reclaiming ------------------------------------------------------------------------- */
/* Free up to *n_nodes nodes of a tree that nobody uses, with all that they point at; no checkpoint
 * is in progress. Returns 1 when the tree is empty, 0 when there is more, -EAGAIN (the waiter is
 * woken; after an error call again with cut: the node that cannot be read is left out), -ENOMEM. */
int tree_reclaim(struct tree *tree, uint32_t *n_nodes, bool cut, struct waiter *waiter);

#endif
