/* aside.h - what a machine's memory held in a pause: pages copied one behind the other into memory
 * that was there before, by several threads, for the machine stands still meanwhile. One thread
 * calls these. */
#ifndef VARVE_CHECKPOINT_ASIDE_H
#define VARVE_CHECKPOINT_ASIDE_H

#include "guest/ram.h"

#include <stdbool.h>
#include <stdint.h>

struct aside;

/* Which pages: the bits of each block of the RAM, in their order. */
struct aside_bits {
    const uint64_t *words;
    uint64_t n_pages;
    bool by_file; /* holes of the block's file may be among them, which reading through a mapping
                     would fill: so nothing is read that way */
};

/* ram: borrowed until aside_free(). Its threads have the scheduling of the calling one. -ENOMEM. */
int aside_new(const struct ram *ram, struct aside **ret);
void aside_free(struct aside *aside); /* NULL is legal */

/* Memory for that many pages is there from now on; where the kernel refuses, the copy takes the
 * faults. */
void aside_provide(struct aside *aside, uint64_t pages);

/* Copy the pages whose bits are set. bits: n_blocks of them, all of the RAM's; none is set beyond a
 * block's end. 0, or -ESRCH, -EIO (memory that is not mapped cannot be read). */
int aside_copy(struct aside *aside, const struct aside_bits *bits, unsigned n_blocks);

/* Where the pages of one block are now; bits as they were in aside_copy(). Until the next one. */
const uint8_t *aside_pages(const struct aside *aside, const struct aside_bits *bits,
                           unsigned block);

/* Give back what is more than that many pages. */
void aside_shrink(struct aside *aside, uint64_t pages);

#endif
