/* table-internal.h - between table.c and freeze.c. The store's thread only. */
#ifndef VARVE_IMAGE_TABLE_INTERNAL_H
#define VARVE_IMAGE_TABLE_INTERNAL_H

#include "image/table.h"

/* Pages under one entry of a node of that level, as a power of two. */
static inline uint32_t level_shift(uint8_t level)
{
    return level * NODE_BITS;
}

/* table.c: the books of a node whose memory grew by so many bytes. */
void node_account(struct table *table, const struct node *node, int64_t bytes);
void node_mark_dirty(struct node *node, struct list *to, uint64_t epoch);
void node_mark_clean(struct node *node);

/* freeze.c: a clean node of a head becomes dirty now. */
void tree_dirty(struct node *node);

#endif
