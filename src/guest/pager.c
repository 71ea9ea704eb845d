/* pager.c - RAM that comes when it is touched.
 *
 * A fault brings the aligned run of FAULT_PAGES around it: guests touch in neighbourhoods, and the
 * round trip costs more than the bytes. What several bring at once is put in once: the second gets
 * EEXIST. */
#include "guest/pager.h"

#include "base/cleanup.h"
#include "base/mono.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

#define FAULT_PAGES 16
#define FILL_PAGES  PAGER_FETCH_PAGES
#define MESSAGES    64
#define STUCK_MAX   1024 /* faults whose page could not be brought: one for each vCPU and thread */
#define WAIT_MS     5
#define TOUCHED_MAX 262144
#define PAGE        ((uint64_t)PAGER_PAGE_BYTES)
/* What could not be brought is tried again after that, then after twice as long. */
#define RETRY_MIN_US 100000
#define RETRY_MAX_US 10000000

struct stuck {
    uint64_t address; /* of a page */
    uint64_t due_us, wait_us;
};

struct pager {
    int uffd, stop_fd;
    struct pager_source source;
    struct pager_area areas[PAGER_AREAS_MAX];
    _Atomic uint64_t *resident[PAGER_AREAS_MAX]; /* a bit for each page */
    unsigned n_areas;
    struct pager_place *first;
    size_t n_first;
    pthread_t faults_thread, fill_thread;
    bool has_faults_thread, has_fill_thread;
    atomic_bool stop;
    uint64_t start_us, n_pages;
    _Atomic uint64_t n_resident, n_faults, fault_us, complete_us;
    struct stuck stuck[STUCK_MAX]; /* of the faults' thread */
    atomic_uint n_stuck;           /* others read it */
    pthread_mutex_t lock;          /* what follows */
    uint64_t n_errors;
    int last_error;
    struct pager_place last_place;
    struct pager_place *touched;
    size_t n_touched, touched_room;
};

/* ---- what is resident ----------------------------------------------------------------------- */

static bool is_resident(const struct pager *p, unsigned area, uint64_t page)
{
    return atomic_load_explicit(&p->resident[area][page / 64], memory_order_relaxed) >> page % 64 &
           1;
}

static void set_resident(struct pager *p, unsigned area, uint64_t page)
{
    uint64_t bit = 1ULL << page % 64;

    if (!(atomic_fetch_or(&p->resident[area][page / 64], bit) & bit))
        atomic_fetch_add(&p->n_resident, 1);
}

/* What is in the file was put there by a pager before us. */
static void find_resident(struct pager *p, unsigned area)
{
    const struct pager_area *a = &p->areas[area];
    off_t at = (off_t)a->file_offset, end = at + (off_t)(a->pages * PAGE);

    if (a->file_fd < 0)
        return;
    while ((at = lseek(a->file_fd, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(a->file_fd, at, SEEK_HOLE);
        if (hole < 0)
            return;
        for (; at < hole && at < end; at += PAGER_PAGE_BYTES)
            set_resident(p, area, ((uint64_t)at - a->file_offset) / PAGE);
    }
}

/* ---- putting pages in ----------------------------------------------------------------------- */

static void wake(struct pager *p, uint64_t address, uint64_t bytes)
{
    struct uffdio_range range = {.start = address, .len = bytes};

    (void)ioctl(p->uffd, UFFDIO_WAKE, &range); /* fails for nobody that waits */
}

/* Of n pages that were asked for together nobody knows which one it was: they are asked for again,
 * each alone. */
static void note_error(struct pager *p, int error, unsigned area, uint64_t page, unsigned n)
{
    pthread_mutex_lock(&p->lock);
    p->n_errors++;
    if (n == 1) {
        p->last_error = error;
        p->last_place = (struct pager_place){area, page};
    }
    pthread_mutex_unlock(&p->lock);
}

/* Put n pages in, where there are none yet, and wake who waits for them. Returns 0, -ESRCH (QEMU
 * has ended), -errno.
 *
 * ENOENT: not all of it lies in one mapping that is registered. Of one page it says that this is
 * not ours any more: QEMU has taken that memory away (a DIMM), or mapped other memory there, and
 * nothing is to be brought. Nor is it so for a moment only, while mappings change: the kernel looks
 * under their lock, a mapping that lost its registration does not get it back, and one that moved
 * has lost it. */
static int put(struct pager *p, unsigned area, uint64_t page, unsigned n, const uint8_t *data)
{
    uint64_t address = p->areas[area].address + page * PAGE;
    unsigned most = n; /* at once */

    for (unsigned done = 0; done < n;) {
        unsigned some = n - done < most ? n - done : most;
        struct uffdio_copy copy = {.dst = address + done * PAGE,
                                   .src = (uintptr_t)data + done * PAGE,
                                   .len = some * PAGE,
                                   .mode = UFFDIO_COPY_MODE_WP};
        int r = ioctl(p->uffd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;
        unsigned copied = copy.copy > 0 ? (unsigned)((uint64_t)copy.copy / PAGE) : 0;
        for (unsigned i = 0; i < copied; i++)
            set_resident(p, area, page + done + i);
        done += copied;
        if (r == 0 || done == n)
            continue;
        if (r == -ENOENT && some > 1) {
            most = 1;
        } else if (r == -EEXIST || r == -ENOENT || (copied == 0 && copy.copy == -EEXIST)) {
            wake(p, address + done * PAGE, PAGE);
            set_resident(p, area, page + done);
            done++;
        } else if (r != -EAGAIN) { /* that: its mappings change just now */
            if (r != -ESRCH)
                note_error(p, r, area, page + done, 1);
            return r;
        }
    }
    return 0;
}

/* Bring n pages, up to PAGER_FETCH_PAGES, together. */
static int bring(struct pager *p, unsigned area, uint64_t page, unsigned n)
{
    uint8_t data[PAGER_FETCH_PAGES * PAGER_PAGE_BYTES];

    int r = p->source.fetch(p->source.arg, area, page, n, data);
    if (r < 0)
        note_error(p, r, area, page, n);
    return r < 0 ? r : put(p, area, page, n, data);
}

/* Bring n pages, each alone, whatever its bit says: a page of zeros that was filled is a hole. What
 * can be had is put in, the first error is returned. */
static int bring_each(struct pager *p, unsigned area, uint64_t page, uint64_t n)
{
    int result = 0;

    for (uint64_t i = 0; i < n; i++) {
        int r = bring(p, area, page + i, 1);
        if (r < 0 && result == 0)
            result = r;
    }
    return result;
}

int pager_populate(struct pager *p, unsigned area, uint64_t page, uint64_t n)
{
    int r = 0;

    if (area >= p->n_areas || page > p->areas[area].pages || n > p->areas[area].pages - page)
        return -EINVAL;
    /* Not by the bits: a page of zeros counts as resident, and is a hole. */
    for (uint64_t end = page + n; page < end && r == 0;) {
        unsigned some = end - page < PAGER_FETCH_PAGES ? (unsigned)(end - page) : PAGER_FETCH_PAGES;
        r = bring(p, area, page, some);
        if (r < 0)
            r = bring_each(p, area, page, some);
        page += some;
    }
    return r;
}

/* ---- faults --------------------------------------------------------------------------------- */

static bool find_place(const struct pager *p, uint64_t address, unsigned *ret_area,
                       uint64_t *ret_page)
{
    for (unsigned i = 0; i < p->n_areas; i++)
        if (address >= p->areas[i].address &&
            address - p->areas[i].address < p->areas[i].pages * PAGE) {
            *ret_area = i;
            *ret_page = (address - p->areas[i].address) / PAGE;
            return true;
        }
    return false;
}

static void note_touched(struct pager *p, unsigned area, uint64_t page)
{
    pthread_mutex_lock(&p->lock);
    if (p->n_touched == p->touched_room && p->touched_room < TOUCHED_MAX) {
        size_t room = p->touched_room ? 2 * p->touched_room : 1024;
        struct pager_place *grown = reallocarray(p->touched, room, sizeof(*grown));
        if (grown) { /* else the working set is shorter */
            p->touched = grown;
            p->touched_room = room;
        }
    }
    if (p->n_touched < p->touched_room)
        p->touched[p->n_touched++] = (struct pager_place){area, page};
    pthread_mutex_unlock(&p->lock);
}

/* The neighbours that are missing, after an error. */
static void bring_neighbours(struct pager *p, unsigned area, uint64_t from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!is_resident(p, area, from + i))
            (void)bring(p, area, from + i, 1);
}

/* Returns whether nobody waits for the page any more. */
static bool serve(struct pager *p, unsigned area, uint64_t page)
{
    uint64_t from = page - page % FAULT_PAGES, left = p->areas[area].pages - from;
    unsigned n = left < FAULT_PAGES ? (unsigned)left : FAULT_PAGES;
    int r = bring(p, area, from, n);

    if (r == 0 || r == -ESRCH)
        return true;
    /* Not by its bit: a hole has one too, of zeros or taken away again (a balloon). It comes first,
     * and alone if it is a bad one: each attempt on that may take seconds, and others wait. */
    r = bring(p, area, page, 1);
    if (r == 0)
        bring_neighbours(p, area, from, n);
    return r == 0 || r == -ESRCH;
}

static bool is_stuck(const struct pager *p, uint64_t address)
{
    for (unsigned i = 0; i < p->n_stuck; i++)
        if (p->stuck[i].address == address)
            return true;
    return false;
}

static void on_fault(struct pager *p, uint64_t address)
{
    uint64_t page = 0, begin_us = mono_us();
    unsigned area = 0;

    atomic_fetch_add(&p->n_faults, 1);
    address &= ~(PAGE - 1);
    /* Whoever waits for one that is stuck is woken with the others. */
    if (!find_place(p, address, &area, &page) || is_stuck(p, address))
        return;
    if (!is_resident(p, area, page))
        note_touched(p, area, page);
    bool served = serve(p, area, page);
    atomic_fetch_add(&p->fault_us, mono_us() - begin_us);
    if (served)
        return;
    if (p->n_stuck < STUCK_MAX)
        p->stuck[p->n_stuck++] = (struct stuck){
            .address = address, .due_us = mono_us() + RETRY_MIN_US, .wait_us = RETRY_MIN_US};
    else
        wake(p, address, PAGE); /* it asks again */
}

/* The one that is due first, or NULL: none is stuck. */
static struct stuck *next_stuck(struct pager *p)
{
    struct stuck *next = p->n_stuck ? &p->stuck[0] : NULL;

    for (unsigned i = 1; i < p->n_stuck; i++)
        if (p->stuck[i].due_us < next->due_us)
            next = &p->stuck[i];
    return next;
}

/* Only one, if it is due: others fault meanwhile. */
static void retry_stuck(struct pager *p)
{
    struct stuck *s = next_stuck(p);
    uint64_t page = 0, begin_us = mono_us();
    unsigned area = 0;

    if (!s || s->due_us > begin_us)
        return;
    (void)find_place(p, s->address, &area, &page); /* it was found when it faulted */
    int r = bring(p, area, page, 1);
    uint64_t end_us = mono_us(), took_us = end_us - begin_us;
    atomic_fetch_add(&p->fault_us, took_us);
    if (r == 0 || r == -ESRCH) {
        *s = p->stuck[--p->n_stuck];
        return;
    }
    s->wait_us = 2 * s->wait_us < RETRY_MAX_US ? 2 * s->wait_us : RETRY_MAX_US;
    /* Half of the time at least is for the others. */
    s->due_us = end_us + (s->wait_us > took_us ? s->wait_us : took_us);
}

/* How long poll() may wait. */
static int retry_ms(struct pager *p)
{
    const struct stuck *s = next_stuck(p);
    uint64_t now_us = mono_us();

    if (!s)
        return -1;
    return s->due_us > now_us ? (int)((s->due_us - now_us) / 1000 + 1) : 0;
}

static void *run_faults(void *arg)
{
    struct pager *p = arg;
    struct uffd_msg messages[MESSAGES];
    struct pollfd fds[2] = {{.fd = p->uffd, .events = POLLIN},
                            {.fd = p->stop_fd, .events = POLLIN}};

    while (!atomic_load(&p->stop)) {
        (void)poll(fds, 2, retry_ms(p));
        if (fds[0].revents & (POLLERR | POLLNVAL)) /* QEMU has ended */
            break;
        ssize_t n = fds[0].revents & POLLIN ? read(p->uffd, messages, sizeof(messages)) : 0;
        for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(messages[0]); i++)
            if (messages[i].event == UFFD_EVENT_PAGEFAULT)
                on_fault(p, messages[i].arg.pagefault.address);
        retry_stuck(p);
    }
    return NULL;
}

/* ---- the rest ------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *data)
{
    return data[0] == 0 && !memcmp(data, data + 1, PAGER_PAGE_BYTES - 1);
}

/* Those of n pages that are missing and no zeros. Returns 0, or an error: some are missing still.
 */
static int fill(struct pager *p, unsigned area, uint64_t page, unsigned n)
{
    uint8_t data[FILL_PAGES * PAGER_PAGE_BYTES];
    int result = 0;

    int r = p->source.fetch(p->source.arg, area, page, n, data);
    if (r < 0) {
        note_error(p, r, area, page, n);
        for (unsigned i = 0; i < n && n > 1; i++) {
            r = is_resident(p, area, page + i) ? 0 : fill(p, area, page + i, 1);
            if (r < 0)
                result = r;
        }
        return n > 1 ? result : r;
    }
    for (unsigned i = 0; i < n;) {
        unsigned run = 0;
        while (i + run < n && !is_resident(p, area, page + i + run) &&
               !is_zero(data + (i + run) * PAGE))
            run++;
        if (run == 0) {
            set_resident(p, area, page + i++);
            continue;
        }
        r = put(p, area, page + i, run, data + i * PAGE);
        if (r < 0)
            return r;
        i += run;
    }
    return result;
}

static void fill_first(struct pager *p)
{
    for (size_t i = 0; i < p->n_first && !atomic_load(&p->stop); i++) {
        const struct pager_place *place = &p->first[i];
        if (place->area >= p->n_areas || place->page >= p->areas[place->area].pages ||
            is_resident(p, place->area, place->page))
            continue;
        uint64_t from = place->page - place->page % FAULT_PAGES,
                 left = p->areas[place->area].pages - from;
        fill(p, place->area, from, left < FAULT_PAGES ? (unsigned)left : FAULT_PAGES);
    }
}

/* Returns whether nothing is missing. */
static bool fill_all(struct pager *p)
{
    bool complete = true;

    for (unsigned area = 0; area < p->n_areas; area++) {
        uint64_t pages = p->areas[area].pages;
        for (uint64_t page = 0; page < pages; page += FILL_PAGES) {
            if (atomic_load(&p->stop))
                return false;
            unsigned n = pages - page < FILL_PAGES ? (unsigned)(pages - page) : FILL_PAGES;
            uint64_t all = n == 64 ? UINT64_MAX : (1ULL << n) - 1;
            if (atomic_load(&p->resident[area][page / 64]) == all)
                continue;
            if (fill(p, area, page, n) < 0)
                complete = false;
        }
    }
    return complete;
}

static void *run_fill(void *arg)
{
    struct pager *p = arg;
    struct pollfd fd = {.fd = p->stop_fd, .events = POLLIN};

    fill_first(p);
    while (p->source.may_fill && !atomic_load(&p->stop) && !p->source.may_fill(p->source.arg))
        poll(&fd, 1, WAIT_MS);
    for (uint64_t us = RETRY_MIN_US; !atomic_load(&p->stop) && !fill_all(p);) {
        poll(&fd, 1, (int)(us / 1000));
        us = 2 * us < RETRY_MAX_US ? 2 * us : RETRY_MAX_US;
    }
    if (!atomic_load(&p->stop)) {
        uint64_t us = mono_us() - p->start_us;
        atomic_store(&p->complete_us, us ? us : 1);
    }
    return NULL;
}

/* ---- start and stop ------------------------------------------------------------------------- */

static int register_area(int uffd, const struct pager_area *a, uint64_t mode)
{
    struct uffdio_register reg = {.range = {.start = a->address, .len = a->pages * PAGE},
                                  .mode = mode};

    return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int prepare(struct pager *p, const struct pager_place *first, size_t n_first,
                   struct why *why)
{
    p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->stop_fd < 0)
        return why_set(why, -errno, "cannot make an eventfd: %s", strerror(errno));
    p->first = malloc(n_first * sizeof(*first) + 1);
    for (unsigned i = 0; i < p->n_areas; i++) {
        p->resident[i] = calloc(p->areas[i].pages / 64 + 1, sizeof(*p->resident[i]));
        if (!p->resident[i])
            return why_set(why, -ENOMEM, "no memory");
        p->n_pages += p->areas[i].pages;
    }
    if (!p->first)
        return why_set(why, -ENOMEM, "no memory");
    if (n_first)
        memcpy(p->first, first, n_first * sizeof(*first));
    p->n_first = n_first;
    for (unsigned i = 0; i < p->n_areas; i++) {
        int r = register_area(p->uffd, &p->areas[i],
                              UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
        if (r == -EBUSY)
            return why_set(why, r, "somebody else serves the pages of this machine already");
        if (r < 0)
            return why_set(why, r == -EINVAL ? -EOPNOTSUPP : r,
                           "the machine's RAM cannot be brought when it is touched: %s; have it on "
                           "/dev/shm, or have all of it brought first, with --eager",
                           strerror(-r));
        find_resident(p, i);
    }
    return 0;
}

static int start_threads(struct pager *p, struct why *why)
{
    int r = -pthread_create(&p->faults_thread, NULL, run_faults, p);

    p->has_faults_thread = r == 0;
    if (r == 0) {
        /* Who waits since before somebody died asks again. */
        for (unsigned i = 0; i < p->n_areas; i++)
            wake(p, p->areas[i].address, p->areas[i].pages * PAGE);
        r = -pthread_create(&p->fill_thread, NULL, run_fill, p);
        p->has_fill_thread = r == 0;
    }
    return r < 0 ? why_set(why, r, "cannot start a thread: %s", strerror(-r)) : 0;
}

int pager_start(int uffd, const struct pager_area *areas, unsigned n_areas,
                const struct pager_source *source, const struct pager_place *first, size_t n_first,
                struct pager **ret, struct why *why)
{
    struct pager *p = n_areas <= PAGER_AREAS_MAX ? calloc(1, sizeof(*p)) : NULL;

    if (!p)
        return why_set(why, -ENOMEM, "no memory, or too many areas of it");
    *p = (struct pager){
        .uffd = uffd, .stop_fd = -1, .source = *source, .n_areas = n_areas, .start_us = mono_us()};
    memcpy(p->areas, areas, n_areas * sizeof(*areas));
    pthread_mutex_init(&p->lock, NULL);
    int r = prepare(p, first, n_first, why);
    if (r == 0)
        r = start_threads(p, why);
    if (r < 0)
        pager_stop(p);
    else
        *ret = p;
    return r;
}

void pager_stop(struct pager *p)
{
    const uint64_t word = 1;

    if (!p)
        return;
    atomic_store(&p->stop, true);
    if (p->stop_fd >= 0 && write(p->stop_fd, &word, sizeof(word)) != sizeof(word))
        abort(); /* the counter of an eventfd that nobody else writes to */
    if (p->has_faults_thread)
        pthread_join(p->faults_thread, NULL);
    if (p->has_fill_thread)
        pthread_join(p->fill_thread, NULL);
    if (p->stop_fd >= 0)
        close(p->stop_fd);
    for (unsigned i = 0; i < p->n_areas; i++)
        free((void *)(uintptr_t)p->resident[i]);
    pthread_mutex_destroy(&p->lock);
    free(p->first);
    free(p->touched);
    free(p);
}

/* Returns 0 also where QEMU has taken the memory away. */
static int let_go_area(int uffd, const struct pager_area *a)
{
    struct uffdio_range range = {.start = a->address, .len = a->pages * PAGE};
    int r = ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;

    if (r == 0)
        r = register_area(uffd, a, UFFDIO_REGISTER_MODE_WP);
    return r == -EINVAL || r == -ENOENT ? 0 : r;
}

int pager_let_go(struct pager *p)
{
    int r = 0;

    if (!atomic_load(&p->complete_us))
        return -EBUSY;
    for (unsigned i = 0; i < p->n_areas && r == 0; i++)
        r = let_go_area(p->uffd, &p->areas[i]);
    return r;
}

/* ---- what can be seen ----------------------------------------------------------------------- */

void pager_progress(struct pager *p, struct pager_progress *ret)
{
    uint64_t complete_us = atomic_load(&p->complete_us);

    *ret = (struct pager_progress){
        .pages = p->n_pages,
        .resident = atomic_load(&p->n_resident),
        .faults = atomic_load(&p->n_faults),
        .stuck = atomic_load(&p->n_stuck),
        .fault_us = atomic_load(&p->fault_us),
        .complete = complete_us > 0,
        .complete_us = complete_us,
    };
    pthread_mutex_lock(&p->lock);
    ret->errors = p->n_errors;
    ret->last_error = p->last_error;
    ret->last_place = p->last_place;
    pthread_mutex_unlock(&p->lock);
}

size_t pager_touched(struct pager *p, struct pager_place *out, size_t max)
{
    pthread_mutex_lock(&p->lock);
    size_t n = p->n_touched;
    if (n && max)
        memcpy(out, p->touched, (n < max ? n : max) * sizeof(*out));
    pthread_mutex_unlock(&p->lock);
    return n;
}
