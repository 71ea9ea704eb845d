/* page-shapes.h - pairs of pages as RAM has them, by seed, for the tests. Not thread safe. */
#ifndef VARVE_CHECKPOINT_PAGE_SHAPES_H
#define VARVE_CHECKPOINT_PAGE_SHAPES_H

#include "model/rng.h"

#include <stdint.h>

#define PAGE_SHAPES 14

/* Fill base and page (4096 bytes each). Returns the name of the shape; static storage. */
const char *page_shape(struct rng *rng, unsigned shape, uint8_t *base, uint8_t *page);

#endif
