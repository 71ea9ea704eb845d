/* node.h - one page-table node in memory, and its form in the log. The store's thread only.
 *
 * A node has 512 entries: of pages (level 0) or of nodes (above). With few entries it is kept as a
 * sorted list, else as an array. Which entries differ from the full node in the log (the base) is
 * remembered, so that a little changed node can be written as a delta. */
#ifndef VARVE_IMAGE_NODE_H
#define VARVE_IMAGE_NODE_H

#include "base/list.h"
#include "image/table_format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct table;
struct tree;

#define NODE_SPARSE_MAX 96 /* entries in a list, at most */

struct node {
    struct list link;    /* in the table's lists, by state */
    struct list waiters; /* struct waiter, while loading */
    struct tree *tree;
    struct node *parent;    /* NULL: the root */
    struct node **children; /* level > 0: resident ones, 512; NULL: none yet */
    uint64_t index;         /* among the nodes of its level */
    uint64_t epoch;         /* in which it became dirty (table.h) */
    uint64_t buf_seq;       /* the buffer of the table stream that holds its last form */
    struct entry self;      /* its form in the log; hole: none */
    struct entry base;      /* the full form under self when that is a delta; else hole */
    uint64_t self_born;     /* the epochs that they were made in */
    uint64_t base_born;
    uint64_t cleared; /* as in its form (table_format.h) */
    uint32_t pins;
    uint16_t dirty_children; /* that are dirty, or have such below them */
    uint32_t delta_bytes;    /* spent on deltas since the full form */
    uint16_t n;              /* entries that are not holes */
    uint16_t capacity;       /* of the list; 0: an array */
    uint16_t n_children;     /* resident */
    uint8_t level;
    bool dirty, loading;
    struct entry *entries;
    union {
        uint16_t *indexes; /* of the list */
        uint64_t *changed; /* of the array: 8 words, entries that differ from the full form */
    };
};

/* Out: the entry at index (a hole when there is none). */
struct entry node_get(const struct node *node, uint32_t index);
/* Set it. 0, or -ENOMEM and nothing changed. *ret_bytes: by how much the node's memory grew. */
int node_set(struct node *node, uint32_t index, struct entry entry, int64_t *ret_bytes);
/* The first entry at or after index that is not a hole; NODE_ENTRIES when there is none. */
uint32_t node_next(const struct node *node, uint32_t index);

/* Goes through the entries that are not holes, in order: *at is 0 first, and the caller's to keep.
 * False: that was the last one. The node does not change meanwhile. */
bool node_each(const struct node *node, uint32_t *at, uint32_t *ret_index, struct entry *ret);

size_t node_memory(const struct node *node); /* bytes, with its entries and children */

/* Write the node's form into buf (NODE_MAX_BYTES): as a delta against its full form in the log
 * until such deltas have cost as much as a full form would, which is never more than twice the
 * least. Returns its length, a multiple of 64, and whether it is a delta. */
uint32_t node_encode(const struct node *node, uint32_t family, uint64_t born, uint8_t *buf,
                     bool *ret_delta);
/* The node's full form is now in the log: nothing differs from it. */
void node_forget_changes(struct node *node);

/* The length of the form that buf (64 bytes) is the header of, a multiple of 64; 0: of none. */
uint32_t node_form_bytes(const uint8_t *buf);
/* Does a form match its own checksum? That is for forms to which no pointer is known; what is read
 * by a pointer is checked against that. */
bool node_form_is_whole(const uint8_t *buf, uint32_t bytes);
/* A form read from address does not match the sum of its pointer: put it right, if that is the
 * matter of one bit. Which one its own checksum tells, and the other one whether that is so. False:
 * it is as it was. */
bool node_form_mend(uint8_t *buf, uint32_t bytes, uint64_t address, uint32_t sum);

/* Take the entries from a form. family, level and index are checked. A delta sets *ret_base and
 * wants to be applied (node_decode() again) after its base. 0, ERR_DAMAGED, -ENOMEM. */
int node_decode(struct node *node, uint32_t family, const uint8_t *buf, size_t len,
                bool base_wanted, struct entry *ret_base);
/* The same, but only entries whose address is above this one; of a delta only what it has itself.
 * The node is empty. */
int node_decode_above(struct node *node, uint32_t family, const uint8_t *buf, size_t len,
                      uint64_t above);
/* The epoch in which a form (of at least a header) was made. */
uint64_t node_born(const uint8_t *buf);

/* Free what the node owns, not the node. */
void node_release(struct node *node);

#endif
