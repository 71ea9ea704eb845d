/* test-pager.c - who touches a missing page gets it, also where pages cannot be read for a while.
 * The "machine" is this process: threads of its own touch. */
#include "guest/pager.h"

#include "base/mono.h"
#include "guest/linux-abi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define DEVICE     "/dev/userfaultfd"
#define PAGES      2048u
#define BYTES      ((size_t)PAGES * PAGER_PAGE_BYTES)
#define DIMM_PAGES 256u
#define DIMM_BYTES ((size_t)DIMM_PAGES * PAGER_PAGE_BYTES)
#define NO_PAGE    UINT64_MAX
#define SECOND     1000000u /* in microseconds */
#define FEATURES                                                                                   \
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |                                 \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)

struct machine {
    int uffd, file_fd, dimm_fd;
    uint8_t *ram, *dimm; /* the areas */
    struct pager *pager;
    bool is_full; /* each page has another byte than its neighbours; else all are zeros */
    /* What fetch() does. */
    atomic_uint fail_runs;     /* so many calls for several pages fail */
    atomic_uint_fast64_t bad;  /* the page of ram that cannot be read */
    atomic_uint bad_us, tries; /* how long that takes; how often it was tried */
    atomic_uint dimm_us;       /* how long pages of dimm take */
    atomic_bool may_fill;
};

static uint8_t content(const struct machine *m, uint64_t page)
{
    return m->is_full ? (uint8_t)(1 + page % 255) : 0;
}

static int fetch(void *arg, unsigned area, uint64_t page, unsigned n, void *out)
{
    struct machine *m = arg;
    uint64_t bad = atomic_load(&m->bad);

    if (n > 1 && atomic_load(&m->fail_runs) > 0) {
        atomic_fetch_sub(&m->fail_runs, 1);
        return -EIO;
    }
    if (area == 1)
        usleep(atomic_load(&m->dimm_us));
    if (area == 0 && bad >= page && bad - page < n) {
        atomic_fetch_add(&m->tries, 1);
        usleep(atomic_load(&m->bad_us));
        return -EIO;
    }
    for (unsigned i = 0; i < n; i++)
        memset((uint8_t *)out + i * PAGER_PAGE_BYTES, content(m, page + i), PAGER_PAGE_BYTES);
    return 0;
}

static bool may_fill(void *arg)
{
    struct machine *m = arg;

    return atomic_load(&m->may_fill);
}

static int open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    int device = open(DEVICE, O_RDWR | O_CLOEXEC);

    assert_true(device >= 0);
    int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
    return fd;
}

static void start(struct machine *m, bool is_full, uint64_t bad, bool fills)
{
    struct pager_source source = {.fetch = fetch, .may_fill = may_fill, .arg = m};
    struct why why = {};

    memset(m, 0, sizeof(*m));
    m->is_full = is_full;
    atomic_store(&m->bad, bad);
    atomic_store(&m->may_fill, fills);
    m->uffd = open_uffd();
    m->file_fd = memfd_create("ram", MFD_CLOEXEC);
    assert_int_equal(ftruncate(m->file_fd, BYTES), 0);
    m->dimm_fd = memfd_create("dimm", MFD_CLOEXEC);
    assert_int_equal(ftruncate(m->dimm_fd, DIMM_BYTES), 0);
    m->ram = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->file_fd, 0);
    m->dimm = mmap(NULL, DIMM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->dimm_fd, 0);
    assert_true(m->ram != MAP_FAILED && m->dimm != MAP_FAILED);
    struct pager_area areas[2] = {
        {.address = (uintptr_t)m->ram, .pages = PAGES, .file_fd = m->file_fd},
        {.address = (uintptr_t)m->dimm, .pages = DIMM_PAGES, .file_fd = m->dimm_fd}};
    assert_int_equal(pager_start(m->uffd, areas, 2, &source, NULL, 0, &m->pager, &why), 0);
}

static void end(struct machine *m)
{
    pager_stop(m->pager);
    close(m->uffd);
    munmap(m->ram, BYTES);
    munmap(m->dimm, DIMM_BYTES); /* some tests did */
    close(m->file_fd);
    close(m->dimm_fd);
}

static struct pager_progress progress(struct machine *m)
{
    struct pager_progress p;

    pager_progress(m->pager, &p);
    return p;
}

static void wait_complete(struct machine *m)
{
    uint64_t end_us = mono_us() + 10 * SECOND;

    while (!progress(m).complete && mono_us() < end_us)
        usleep(1000);
    assert_true(progress(m).complete);
}

/* ---- touching ------------------------------------------------------------------------------- */

struct touch {
    pthread_t thread;
    const volatile uint8_t *at;
    unsigned n;       /* pages, one in each run of 16 */
    atomic_int value; /* -1: it waits */
};

static void *run_touch(void *arg)
{
    struct touch *t = arg;
    int value = -1;

    for (unsigned i = 0; i < t->n; i++)
        value = t->at[(size_t)i * 16 * PAGER_PAGE_BYTES];
    atomic_store(&t->value, value);
    return NULL;
}

static void touch_many(struct touch *t, struct machine *m, uint64_t page, unsigned n)
{
    t->at = m->ram + page * PAGER_PAGE_BYTES;
    t->n = n;
    atomic_store(&t->value, -1);
    assert_int_equal(pthread_create(&t->thread, NULL, run_touch, t), 0);
}

static void touch(struct touch *t, struct machine *m, uint64_t page)
{
    touch_many(t, m, page, 1);
}

/* What was read last, or -1: not in that time. */
static int touched(struct touch *t, uint64_t limit_us)
{
    uint64_t end_us = mono_us() + limit_us;

    while (atomic_load(&t->value) < 0 && mono_us() < end_us)
        usleep(1000);
    if (atomic_load(&t->value) >= 0)
        pthread_join(t->thread, NULL);
    return atomic_load(&t->value);
}

/* ---- pages that cannot be read -------------------------------------------------------------- */

/* The fill leaves zeros as holes: they are still to be given, each time. */
static void holes_come_after_an_error(void **state)
{
    static struct machine m;
    static struct touch t;

    start(&m, false, NO_PAGE, true);
    wait_complete(&m);
    for (uint64_t page = 5; page < PAGES; page += 16) {
        atomic_store(&m.fail_runs, 1);
        touch(&t, &m, page);
        assert_int_equal(touched(&t, SECOND), 0);
        assert_int_equal(atomic_load(&m.fail_runs), 0);
    }
    assert_int_equal(progress(&m).last_error, 0); /* of no page */
    end(&m);
}

static void holes_come_beside_a_bad_page(void **state)
{
    static struct machine m;
    static struct touch good, bad;

    start(&m, false, NO_PAGE, true);
    wait_complete(&m);
    atomic_store(&m.bad, 3); /* from now on */
    for (uint64_t page = 4; page < 16; page++) {
        touch(&good, &m, page);
        assert_int_equal(touched(&good, SECOND), 0);
    }
    touch(&bad, &m, 3);
    assert_int_equal(touched(&bad, SECOND / 2), -1);
    assert_int_equal(progress(&m).stuck, 1);
    assert_int_equal(progress(&m).last_error, -EIO);
    assert_int_equal(progress(&m).last_place.area, 0);
    assert_int_equal(progress(&m).last_place.page, 3);
    atomic_store(&m.bad, NO_PAGE);
    assert_int_equal(touched(&bad, 5 * SECOND), 0);
    end(&m);
}

static void holes_are_populated_after_an_error(void **state)
{
    static struct machine m;

    start(&m, false, NO_PAGE, true);
    wait_complete(&m);
    assert_int_equal(lseek(m.file_fd, 0, SEEK_DATA), -1);
    atomic_store(&m.fail_runs, 1);
    assert_int_equal(pager_populate(m.pager, 0, 0, PAGES), 0);
    assert_int_equal(lseek(m.file_fd, 0, SEEK_HOLE), BYTES);
    end(&m);
}

/* Each look at the bad page takes two seconds: one or two of them the others wait for, and no more.
 */
static void others_do_not_wait_for_a_slow_page(void **state)
{
    static struct machine m;
    static struct touch bad, good, neighbour;

    start(&m, true, 3, false);
    atomic_store(&m.bad_us, 2 * SECOND);
    touch(&bad, &m, 3);
    usleep(SECOND / 10);
    touch_many(&good, &m, 16, 100);
    assert_int_equal(touched(&good, 8 * SECOND), content(&m, 16 + 99 * 16));
    touch(&neighbour, &m, 4);
    assert_int_equal(touched(&neighbour, 8 * SECOND), content(&m, 4));
    assert_int_equal(touched(&bad, SECOND), -1);
    atomic_store(&m.bad, NO_PAGE);
    assert_int_equal(touched(&bad, 12 * SECOND), content(&m, 3));
    end(&m);
}

static void tries_become_rare(void **state)
{
    static struct machine m;
    static struct touch bad;

    start(&m, true, 3, true);
    touch(&bad, &m, 3);
    usleep(SECOND);
    /* The fill looks with its neighbours and alone, the fault alone. */
    assert_in_range(atomic_load(&m.tries), 6, 20);
    usleep(3 * SECOND);
    assert_in_range(atomic_load(&m.tries), 10, 26);
    atomic_store(&m.bad, NO_PAGE);
    assert_int_equal(touched(&bad, 12 * SECOND), content(&m, 3));
    wait_complete(&m);
    end(&m);
}

static void all_come(void **state)
{
    static struct machine m;

    start(&m, true, NO_PAGE, true);
    atomic_store(&m.fail_runs, 3);
    for (uint64_t page = 0; page < PAGES; page += 7)
        assert_int_equal(m.ram[page * PAGER_PAGE_BYTES], content(&m, page));
    wait_complete(&m);
    assert_int_equal(pager_let_go(m.pager), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        assert_int_equal(m.ram[page * PAGER_PAGE_BYTES], content(&m, page));
    end(&m);
}

/* ---- memory that goes away ------------------------------------------------------------------ */

static void is_whole(const struct machine *m, const uint8_t *area, uint64_t from, uint64_t to)
{
    for (uint64_t page = from; page < to; page++)
        assert_int_equal(area[page * PAGER_PAGE_BYTES], content(m, page));
}

/* As a thread of QEMU that waits in a system call: it gets EFAULT when its page is gone. */
static void *run_write(void *arg)
{
    struct touch *t = arg;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return NULL;
    ssize_t n = write(fds[1], (const void *)(uintptr_t)t->at, 1);
    atomic_store(&t->value, n < 0 ? errno : 0);
    close(fds[0]);
    close(fds[1]);
    return NULL;
}

static void dimm_goes_while_it_fills(void **state)
{
    static struct machine m;
    static struct touch waits = {.value = -1};

    start(&m, true, NO_PAGE, false);
    atomic_store(&m.dimm_us, SECOND / 5);
    waits.at = m.dimm + 100 * PAGER_PAGE_BYTES;
    assert_int_equal(pthread_create(&waits.thread, NULL, run_write, &waits), 0);
    usleep(SECOND / 10); /* its page is being fetched */
    munmap(m.dimm, DIMM_BYTES);
    assert_int_equal(touched(&waits, SECOND), EFAULT);
    atomic_store(&m.may_fill, true);
    wait_complete(&m);
    assert_int_equal(progress(&m).errors, 0);
    assert_int_equal(pager_let_go(m.pager), 0);
    is_whole(&m, m.ram, 0, PAGES);
    end(&m);
}

static void dimm_goes_before_it_is_let_go(void **state)
{
    static struct machine m;

    start(&m, true, NO_PAGE, true);
    wait_complete(&m);
    munmap(m.dimm, DIMM_BYTES);
    assert_int_equal(pager_let_go(m.pager), 0);
    is_whole(&m, m.ram, 0, PAGES);
    end(&m);
}

/* What is left of an area whose mapping is cut comes, also beside the cuts. */
static void what_stays_comes(void **state)
{
    static struct machine m;

    start(&m, true, NO_PAGE, false);
    assert_int_equal(madvise(m.ram + 40 * PAGER_PAGE_BYTES, 9 * PAGER_PAGE_BYTES, MADV_DONTFORK),
                     0);
    munmap(m.dimm + 100 * PAGER_PAGE_BYTES, DIMM_BYTES - 100 * PAGER_PAGE_BYTES);
    assert_int_equal(m.ram[39 * PAGER_PAGE_BYTES], content(&m, 39));
    atomic_store(&m.may_fill, true);
    wait_complete(&m);
    assert_int_equal(pager_let_go(m.pager), 0);
    is_whole(&m, m.ram, 0, PAGES);
    is_whole(&m, m.dimm, 0, 100);
    end(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_come),
        cmocka_unit_test(holes_come_after_an_error),
        cmocka_unit_test(holes_come_beside_a_bad_page),
        cmocka_unit_test(holes_are_populated_after_an_error),
        cmocka_unit_test(others_do_not_wait_for_a_slow_page),
        cmocka_unit_test(tries_become_rare),
        cmocka_unit_test(dimm_goes_while_it_fills),
        cmocka_unit_test(dimm_goes_before_it_is_let_go),
        cmocka_unit_test(what_stays_comes),
    };
    if (access(DEVICE, R_OK | W_OK) < 0) {
        printf(DEVICE " cannot be opened: %s\n", strerror(errno));
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
