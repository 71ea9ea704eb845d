/* pager.h - RAM that comes when it is touched: serves the missing pages of a machine that runs
 * already, by a userfaultfd of QEMU's address space (Linux 6.4 or later).
 *
 * Two threads of its own: one answers faults; one brings the working set, in the order given, then
 * all the rest. A page is only ever put in where there is none, so nothing that the guest wrote is
 * lost. Pages of zeros are not brought: they stay holes, and are given when touched.
 *
 * Invariant: until a page is resident nobody but the userfaultfd may touch it. Reading or writing a
 * hole of the RAM file through another mapping fills it with zeros, silently. Who needs pages there
 * (device back ends, captures) calls pager_populate() first.
 *
 * While our process is dead the guest waits at the first missing page that it touches: QEMU keeps
 * the descriptor open. Another process gets it by pidfd_getfd(), starts a pager on it, and the
 * guest goes on. */
#ifndef VARVE_GUEST_PAGER_H
#define VARVE_GUEST_PAGER_H

#include "base/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGER_PAGE_BYTES  4096
#define PAGER_FETCH_PAGES 64 /* at most, for one call of fetch() */
#define PAGER_AREAS_MAX   64

struct pager;

struct pager_area {
    uint64_t address; /* in QEMU */
    uint64_t pages;
    int file_fd; /* of the RAM file, borrowed until pager_stop(): says what is resident already, for
                    an area that another pager has served; -1: nothing is */
    uint64_t file_offset;
};

/* A page of an area. */
struct pager_place {
    uint32_t area;
    uint64_t page;
};

struct pager_source {
    /* Bring n pages of an area from page on, up to PAGER_FETCH_PAGES, into out. Called by both
     * threads and by callers of pager_populate(), at once. Returns 0 or -errno: then it is asked
     * again, page by page, and for a page that cannot be had again and again, from ten times a
     * second to once in ten seconds; the guest waits, and is never given anything else. */
    int (*fetch)(void *arg, unsigned area, uint64_t page, unsigned n, void *out);
    /* Whether what nobody asked for may come already, behind the working set; asked again and again
     * until it is true. So that who starts has the processors. NULL: at once. */
    bool (*may_fill)(void *arg);
    void *arg;
};

/* Register the areas for missing pages and write protection, and serve them. Before QEMU loads its
 * devices, for that touches RAM. uffd: borrowed until pager_stop(); features were agreed on. Pages
 * arrive write-protected: as clean, for who tracks changes. first: the working set, borrowed for
 * the call. Returns 0, -EOPNOTSUPP (this RAM cannot be served so: the sentence has the mend),
 * -EBUSY, -ENOMEM, -errno. */
int pager_start(int uffd, const struct pager_area *areas, unsigned n_areas,
                const struct pager_source *source, const struct pager_place *first, size_t n_first,
                struct pager **ret, struct why *why);
/* Stop the threads and free it. Missing pages stay missing, and the guest waits for them. NULL is
 * legal. */
void pager_stop(struct pager *pager);

/* Make n pages resident, zeros too. Any thread; waits for fetch(). Returns 0 or its error. */
int pager_populate(struct pager *pager, unsigned area, uint64_t page, uint64_t n);

struct pager_progress {
    uint64_t pages, resident; /* resident: brought, known to be zeros, or no memory of QEMU's any
                                 more (a DIMM that was taken away) */
    uint64_t faults, errors;  /* errors: of fetch(), and of the kernel when pages are put in */
    uint64_t stuck;           /* pages that are waited for, and could not be brought yet */
    int last_error;           /* of one page alone; -ENOMEM: no room in /dev/shm; 0: none yet */
    struct pager_place last_place; /* of that page */
    uint64_t fault_us;             /* in all, from reading a fault to having served it */
    bool complete;                 /* all is resident */
    uint64_t complete_us;          /* since the start; 0: not yet */
};
/* Any thread. */
void pager_progress(struct pager *pager, struct pager_progress *ret);

/* The places that were touched before they came, in that order: the working set to be given the
 * next time. Copies up to max of them, returns how many there are. Any thread. */
size_t pager_touched(struct pager *pager, struct pager_place *out, size_t max);

/* When complete, and the guest stands still: missing pages are the kernel's matter again, and the
 * guest no longer needs us. The write protection of the areas is lost: so first take what changed,
 * and protect all afterwards. Returns 0, -EBUSY (not complete), -errno. */
int pager_let_go(struct pager *pager);

#endif
