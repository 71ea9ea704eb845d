/* walk.h - what one tree has and some others have not. The store's thread only.
 *
 * Goes through the leaves of a tree, in order, skipping every subtree whose form one of the others
 * has too: so the cost is that of what differs. The others may be heads, which change meanwhile: a
 * position counts as it is when the walk comes to it. So may the tree itself, without forms. */
#ifndef VARVE_IMAGE_WALK_H
#define VARVE_IMAGE_WALK_H

#include "image/forms.h"

struct walk {
    struct tree *tree;
    struct tree **others; /* borrowed; NULL entries are left out */
    uint32_t n_others;
    uint32_t n_compared; /* the first so many are told to leaf() and leave(); the rest only say what
                            is skipped */
    uint64_t pages;      /* where it ends */
    uint64_t older;      /* forms born up to this epoch are skipped; 0: none */
    struct forms *forms; /* borrowed. NULL: leaves are loaded. Else they are looked at by their
                            forms, with one that is compared at most, and */
    bool young;          /* of those in it that the other one after it (the version before) has too
                            some are left out, and what this one has changed of them */
    uint64_t ahead;      /* up to this page forms were asked for */
    uint64_t at;         /* the next page */
    uint8_t rise;        /* the level of the inner node that is left next; 0: none */
    /* A leaf that none of the others has. others[i < n_compared]: theirs, NULL: there is none. */
    void (*leaf)(struct walk *walk, struct node *leaf, struct node **others);
    /* A node (the leaf too) that was gone through is left; others[i < n_compared]: theirs, in
     * memory where there is one. NULL: no interest. */
    void (*leave)(struct walk *walk, struct node *node, const struct peek *others);
    uint64_t skipped;     /* pages under nodes that could not be read */
    uint64_t passed;      /* at most so many that those compared have not, but another has */
    struct waiter waiter; /* wake is set by the caller */
    bool waits;           /* set by walk_step(), cleared by the waker, */
    uint8_t wait_level;   /* of the node that is waited for */
    uint8_t tries;        /* to read what is needed at this place: damage may be on the way only */
    int failed;           /* who also says here what error woke him */
    struct node **leaves; /* the walk's own, n_others + 1 each */
    struct peek *peeks;
    struct node own, theirs; /* put together out of forms */
};

/* From now on the others are these. 0, -ENOMEM. */
int walk_set_others(struct walk *walk, struct tree **others, uint32_t n, uint32_t n_compared);
void walk_free(struct walk *walk);

/* Take up to *budget steps. 1: at the end; 0: there is more; -EAGAIN: waits is set, and the waiter
 * will be woken; -ENOMEM. */
int walk_step(struct walk *walk, uint32_t *budget);

#endif
