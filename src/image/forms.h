/* forms.h - forms of nodes, read many at a time. The store's thread only.
 *
 * For who goes through trees in their order and looks at each leaf once: what a version wrote lies
 * close together in the table stream, so a few long reads fetch hundreds of forms; and the table's
 * memory, which others want for their nodes, has none of it.
 *
 *   forms_want() all that is known to be needed; forms_read(), which wakes a waiter when all of it
 *   has come; forms_get() each; forms_clear(). */
#ifndef VARVE_IMAGE_FORMS_H
#define VARVE_IMAGE_FORMS_H

#include "image/table.h"

struct form_window;

/* A form that is wanted, being read, or there. */
struct form {
    struct entry entry; /* the pointer to it */
    struct log_file *file;
    uint64_t offset;      /* in the file, bytes */
    struct form *next;    /* of its window */
    const uint8_t *bytes; /* NULL: not there */
    int code;             /* why not: negative; 0: it has not come yet */
};

struct forms {
    struct table *table;
    struct waiter *waiter; /* NULL: nobody waits */
    uint32_t n, n_asked;   /* in all[]; the first so many have been asked for */
    uint32_t n_reading;    /* windows */
    uint64_t bytes;        /* of all forms */
    uint32_t max;          /* there is memory for */
    uint32_t n_most;       /* forms that may be wanted, and */
    uint64_t max_bytes;    /* their bytes: whoever asks may change both */
    struct list windows;
    uint16_t *places; /* 2 * max, by address: the number in all[], and 1 */
    struct form all[];
};

/* For so many forms, a power of two and at most FORMS_MOST. NULL: no memory. Nothing may be in
 * flight when it is freed. */
#define FORMS_MOST 4096u
struct forms *forms_new(struct table *table, uint32_t max);
void forms_free(struct forms *forms);

/* Ask for a form, if that was not done yet. False: there is no room for it. */
bool forms_want(struct forms *forms, const struct entry *entry);
/* Read what is wanted. The waiter, parked until then, is woken when nothing is in flight any more,
 * without an error: forms_get() tells those. Nobody else may wait. */
void forms_read(struct forms *forms, struct waiter *waiter);
/* A form that was read, checked against the pointer: entry_slots(entry) of 64 bytes, there until
 * forms_clear(). 0: *ret is set; -EAGAIN: it was not read; or why it could not be. */
int forms_get(const struct forms *forms, const struct entry *entry, const uint8_t **ret);

/* A node out of its own form and, where that is a delta, its base. A base whose address is not
 * above older is left out: then the node has only what differs from it, and base_born is 0.
 *
 * forms_want_node() asks for what is missing, as forms_want(); a base can be asked for only when
 * the node's own form has come. forms_get_node() fills in a node that belongs to no tree's memory,
 * but for the tree, level and index, which are the caller's, and is freed with node_release(). 0,
 * -EAGAIN: something was not read; or why it cannot be had. */
bool forms_want_node(struct forms *forms, const struct entry *entry, uint64_t older);
int forms_get_node(const struct forms *forms, const struct entry *entry, uint64_t older,
                   struct node *node);

/* Forget all. Nothing may be in flight. */
void forms_clear(struct forms *forms);

#endif
