/* page-copy.h - copying pages that are in nobody's cache, and that nobody reads soon. Any thread.
 */
#ifndef VARVE_CHECKPOINT_PAGE_COPY_H
#define VARVE_CHECKPOINT_PAGE_COPY_H

#include <stdint.h>

#define PAGE_COPY_BYTES 4096

/* from, to: a page each, aligned as such. next: the page that will be copied after it, or from:
 * brought near meanwhile. After the last page of a run page_copy_end() makes it seen by others. */
void page_copy(void *to, const void *from, const void *next);
void page_copy_end(void);

#endif
