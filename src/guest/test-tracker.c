/* test-tracker.c - no written page is missed, by any of the ways to track. The "machine" is a child
 * that writes into memory which is mapped from a file on tmpfs, and into some of its own. */
#include "base/mono.h"
#include "guest/linux-abi.h"
#include "guest/ram.h"
#include "guest/tracker.h"
#include "guest/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define PAGES 16384u /* of the shared block */
#define OWN   256u   /* of the private one */
#define BYTES ((uint64_t)PAGES * RAM_PAGE_BYTES)

enum order { NONE, WRITE, READ, PUNCH, REMOVE, DONTNEED, OWN_WRITE, OWN_DONTNEED, SCRIBBLE, REMAP };

/* Orders for the child, and its answers. */
struct control {
    atomic_int order, stop;
    unsigned first, n;
    unsigned char value;
    atomic_ulong written;
};

struct machine {
    pid_t pid;
    int fd;
    unsigned char *child, *own; /* where the child has them */
    struct ram ram;
    struct ram_block blocks[2];
    uint64_t bitmap[PAGES / 64];
};

static struct control *c;

/* ---- the child ------------------------------------------------------------------------------ */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Write as fast as it can: one word at a random place of a random page, in bursts around one. */
static void scribble(unsigned char *memory)
{
    uint64_t random = 88172645463325252ULL, n = 0;

    while (!atomic_load_explicit(&c->stop, memory_order_relaxed)) {
        uint64_t base = next_random(&random) % PAGES;
        for (unsigned i = 0; i < 16; i++) {
            uint64_t page = (base + next_random(&random) % 64) % PAGES;
            uint64_t at = page * RAM_PAGE_BYTES + next_random(&random) % 512 * 8;
            *(volatile uint64_t *)(void *)(memory + at) = ++n;
        }
        atomic_store_explicit(&c->written, n, memory_order_relaxed);
    }
}

static void obey(const struct machine *m, enum order order)
{
    uint64_t at = (uint64_t)c->first * RAM_PAGE_BYTES, len = (uint64_t)c->n * RAM_PAGE_BYTES;
    volatile unsigned char sum = 0;

    switch (order) {
    case WRITE:
        for (uint64_t i = at; i < at + len; i += RAM_PAGE_BYTES)
            m->child[i + 123] = c->value;
        break;
    case OWN_WRITE:
        for (uint64_t i = at; i < at + len; i += RAM_PAGE_BYTES)
            m->own[i + 123] = c->value;
        break;
    case READ:
        for (uint64_t i = at; i < at + len; i += RAM_PAGE_BYTES)
            sum = (unsigned char)(sum + m->child[i]);
        break;
    case PUNCH:
        if (fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len))
            _exit(3);
        madvise(m->child + at, len, MADV_DONTNEED); /* as QEMU does */
        break;
    case REMOVE:
        if (madvise(m->child + at, len, MADV_REMOVE))
            _exit(3);
        break;
    case DONTNEED:
        madvise(m->child + at, len, MADV_DONTNEED);
        break;
    case OWN_DONTNEED:
        madvise(m->own + at, len, MADV_DONTNEED);
        break;
    case REMAP:
        if (mmap(m->child + at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd,
                 (off_t)at) == MAP_FAILED)
            _exit(3);
        break;
    case SCRIBBLE:
        scribble(m->child);
        break;
    case NONE:
        break;
    }
}

static void run_child(const struct machine *m)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        enum order order = (enum order)atomic_load(&c->order);
        if (order == NONE) {
            poll(NULL, 0, 1);
            continue;
        }
        obey(m, order);
        atomic_store(&c->order, NONE);
    }
}

/* ---- the machine ---------------------------------------------------------------------------- */

static void begin_order(enum order order, unsigned first, unsigned n, unsigned char value)
{
    c->first = first;
    c->n = n;
    c->value = value;
    atomic_store(&c->order, order);
}

static void do_order(enum order order, unsigned first, unsigned n, unsigned char value)
{
    begin_order(order, first, n, value);
    for (uint64_t end_us = mono_us() + 20000000; atomic_load(&c->order) != NONE;) {
        assert_true(mono_us() < end_us);
        poll(NULL, 0, 1);
    }
}

/* dir: on a tmpfs. */
static void start(struct machine *m, const char *dir)
{
    memset(c, 0, sizeof(*c));
    memset(m, 0, sizeof(*m));
    m->fd = dir ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : memfd_create("t", MFD_CLOEXEC);
    assert_true(m->fd >= 0);
    assert_int_equal(ftruncate(m->fd, BYTES), 0);
    /* At a multiple of 2 MiB, for huge pages. */
    unsigned char *room =
        mmap(NULL, BYTES + (2 << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(room != MAP_FAILED);
    m->child = (void *)(((uintptr_t)room + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
    assert_true(mmap(m->child, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0) !=
                MAP_FAILED);
    m->own = mmap(NULL, OWN * RAM_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    m->pid = fork();
    if (m->pid == 0)
        run_child(m);
    munmap(room, BYTES + (2 << 20));
    munmap(m->own, OWN * RAM_PAGE_BYTES);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)m->pid);
    m->ram = (struct ram){.pid = m->pid, .n = 2, .blocks = m->blocks};
    m->ram.pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
    m->ram.mem_fd = open(path, O_RDWR | O_CLOEXEC);
    m->blocks[0] = (struct ram_block){.name = "ram",
                                      .used_bytes = BYTES,
                                      .total_bytes = BYTES,
                                      .page_bytes = RAM_PAGE_BYTES,
                                      .shared = true,
                                      .fd = m->fd,
                                      .host = (uint64_t)(uintptr_t)m->child};
    m->blocks[0].memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    m->blocks[1] = (struct ram_block){.name = "vga.vram",
                                      .used_bytes = OWN * RAM_PAGE_BYTES,
                                      .total_bytes = OWN * RAM_PAGE_BYTES,
                                      .page_bytes = RAM_PAGE_BYTES,
                                      .fd = -1,
                                      .host = (uint64_t)(uintptr_t)m->own};
}

static void end(struct machine *m)
{
    kill(m->pid, SIGKILL);
    waitpid(m->pid, NULL, 0);
    munmap(m->blocks[0].memory, BYTES);
    close(m->fd);
    close(m->ram.pidfd);
    close(m->ram.mem_fd);
}

static bool open_kind(struct machine *m, enum tracker_kind kind, struct tracker **ret)
{
    const struct tracker_options options = {.kind = kind};
    struct why why = {};
    int r = tracker_open(&m->ram, &options, NULL, mono_us() + 5000000, ret, &why);

    if (r == -EOPNOTSUPP) {
        fprintf(stderr, "%s\n", why.text);
        return false;
    }
    if (r < 0)
        fail_msg("%d: %s", r, why.text);
    return true;
}

static int64_t collect(struct machine *m, struct tracker *t, unsigned block)
{
    struct why why = {};
    struct tracker_times times;

    memset(m->bitmap, 0, sizeof(m->bitmap));
    int64_t n = tracker_collect(t, block, m->bitmap, &times, &why);
    if (n < 0)
        fail_msg("%d: %s", (int)n, why.text);
    return n;
}

static bool has(const struct machine *m, unsigned page)
{
    return m->bitmap[page / 64] >> page % 64 & 1;
}

static void check_range(const struct machine *m, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++)
        if (!has(m, i))
            fail_msg("page %u is missing", i);
}

/* ---- what every way must do ----------------------------------------------------------------- */

static const enum tracker_kind all_kinds[] = {TRACKER_UFFD, TRACKER_SOFT, TRACKER_COMPARE};
#define N_KINDS (sizeof(all_kinds) / sizeof(all_kinds[0]))

static void with_each_in(const char *dir, void (*run)(struct machine *m, struct tracker *t))
{
    unsigned n_run = 0;

    for (unsigned i = 0; i < N_KINDS; i++) {
        static struct machine m;
        struct tracker *t;
        start(&m, dir);
        do_order(WRITE, 0, 1000, 7);
        do_order(OWN_WRITE, 0, 100, 7);
        if (open_kind(&m, all_kinds[i], &t)) {
            run(&m, t);
            tracker_close(t, true);
            n_run++;
        }
        end(&m);
    }
    if (!n_run)
        skip();
}

static void with_each(void (*run)(struct machine *m, struct tracker *t))
{
    with_each_in("/dev/shm", run);
}

static void run_written(struct machine *m, struct tracker *t)
{
    assert_int_equal(collect(m, t, 0), 0);
    assert_int_equal(collect(m, t, 1), 0);
    do_order(WRITE, 100, 50, 8);   /* there */
    do_order(WRITE, 5000, 1, 8);   /* not there yet */
    do_order(WRITE, 16383, 1, 8);  /* the last one */
    do_order(READ, 9000, 10, 0);   /* only read */
    do_order(OWN_WRITE, 99, 2, 8); /* there, and not */
    do_order(OWN_WRITE, 255, 1, 8);
    assert_int_equal(collect(m, t, 0), 52);
    check_range(m, 100, 50);
    check_range(m, 5000, 1);
    check_range(m, 16383, 1);
    assert_int_equal(collect(m, t, 1), 3);
    check_range(m, 99, 2);
    check_range(m, 255, 1);
    assert_int_equal(collect(m, t, 0), 0); /* told once */
    assert_int_equal(collect(m, t, 1), 0);
    do_order(WRITE, 100, 1, 9); /* and again when written again */
    assert_int_equal(collect(m, t, 0), 1);
}

static void each_written_page(void **state)
{
    with_each(run_written);
}

/* A page that is given back is zeros, whatever was known of it. */
static void run_discarded(struct machine *m, struct tracker *t)
{
    const enum order ways[] = {PUNCH, REMOVE};

    for (unsigned i = 0; i < 2; i++) {
        do_order(WRITE, 0, 1000, 10);
        collect(m, t, 0);
        do_order(ways[i], 10, 20, 0);
        collect(m, t, 0);
        check_range(m, 10, 20);
        do_order(ways[i], 40, 20, 0);
        do_order(READ, 40, 20, 0); /* there again, and zeros */
        collect(m, t, 0);
        check_range(m, 40, 20);
        do_order(WRITE, 6000, 10, 10); /* not there at the beginning */
        do_order(ways[i], 6000, 10, 0);
        collect(m, t, 0);
        do_order(WRITE, 7000 + i, 1, 10);
        collect(m, t, 0);
        check_range(m, 7000 + i, 1);
        do_order(ways[i], 7000 + i, 1, 0);
        collect(m, t, 0);
        check_range(m, 7000 + i, 1);
        assert_int_equal(collect(m, t, 0), 0);
    }
    /* What only goes out of the page table is as it was: telling of it is no error. */
    do_order(WRITE, 200, 10, 11);
    collect(m, t, 0);
    do_order(DONTNEED, 200, 10, 0);
    collect(m, t, 0);
    do_order(WRITE, 200, 10, 12);
    assert_true(collect(m, t, 0) >= 10);
    check_range(m, 200, 10);
    do_order(OWN_WRITE, 0, 100, 10);
    collect(m, t, 1);
    do_order(OWN_DONTNEED, 20, 10, 0);
    collect(m, t, 1);
    check_range(m, 20, 10);
}

static void discarded_pages(void **state)
{
    with_each(run_discarded);
}

static void discarded_in_memfd(void **state)
{
    with_each_in(NULL, run_discarded);
}

static off_t blocks_of(const struct machine *m)
{
    struct stat st;

    assert_int_equal(fstat(m->fd, &st), 0);
    return st.st_blocks;
}

/* Holes are told of as such, looking for them fills none, and what was reported as zeros is not
 * reported again. */
static void run_holes(struct machine *m, struct tracker *t)
{
    if (tracker_needs_stop(t)) /* the others read every page */
        return;
    do_order(WRITE, 0, 1000, 10);
    collect(m, t, 0);
    assert_false(tracker_found_holes(t, 0));
    do_order(PUNCH, 100, 200, 0);
    do_order(READ, 100, 50, 0);
    off_t blocks = blocks_of(m);
    assert_true(collect(m, t, 0) >= 200);
    check_range(m, 100, 200);
    assert_true(tracker_found_holes(t, 0));
    assert_int_equal(blocks_of(m), blocks);
    assert_int_equal(collect(m, t, 0), 0);
    do_order(WRITE, 120, 1, 10);
    assert_int_equal(collect(m, t, 0), 1);
    assert_false(tracker_found_holes(t, 0));
    do_order(PUNCH, 120, 1, 10);
    do_order(READ, 120, 1, 0);
    assert_true(collect(m, t, 0) >= 1);
    check_range(m, 120, 1);
}

static void holes_are_told_of(void **state)
{
    with_each(run_holes);
    with_each_in(NULL, run_holes);
}

static void run_noted(struct machine *m, struct tracker *t)
{
    m->blocks[0].memory[2 * RAM_PAGE_BYTES] = 99;
    m->blocks[0].memory[70 * RAM_PAGE_BYTES] = 99;
    m->blocks[0].memory[71 * RAM_PAGE_BYTES] = 99;
    tracker_note(t, 0, 2, 1);
    tracker_note(t, 0, 62, 130);
    assert_int_equal(collect(m, t, 0), 131);
    check_range(m, 2, 1);
    check_range(m, 62, 130);
    assert_int_equal(collect(m, t, 0), 0);
}

static void notes_are_told_once(void **state)
{
    with_each(run_noted);
}

/* Always writing: the copy that is made of the told pages alone is the same in the end. */
static void run_scribbled(struct machine *m, struct tracker *t)
{
    unsigned char *copy = malloc(BYTES);
    unsigned rounds = 0;

    assert_non_null(copy);
    memcpy(copy, m->blocks[0].memory, BYTES);
    begin_order(SCRIBBLE, 0, 0, 0);
    uint64_t end_us = mono_us() + 4000000;
    bool last = false, stopped = false;
    while (!last) {
        last = stopped;
        if (!stopped && (tracker_needs_stop(t) || mono_us() > end_us)) {
            atomic_store(&c->stop, 1);
            while (atomic_load(&c->order) != NONE)
                poll(NULL, 0, 1);
            stopped = true;
            last = tracker_needs_stop(t);
        }
        collect(m, t, 0);
        for (unsigned i = 0; i < PAGES; i++)
            if (has(m, i))
                memcpy(copy + (size_t)i * RAM_PAGE_BYTES,
                       m->blocks[0].memory + (size_t)i * RAM_PAGE_BYTES, RAM_PAGE_BYTES);
        rounds++;
    }
    unsigned n_lost = 0;
    for (unsigned i = 0; i < PAGES; i++)
        n_lost += memcmp(copy + (size_t)i * RAM_PAGE_BYTES,
                         m->blocks[0].memory + (size_t)i * RAM_PAGE_BYTES, RAM_PAGE_BYTES) != 0;
    free(copy);
    fprintf(stderr, "%s: %u rounds, %lu writes, %u pages lost\n", tracker_name(t), rounds,
            atomic_load(&c->written), n_lost);
    assert_int_equal(n_lost, 0);
}

static void nothing_is_lost_under_writes(void **state)
{
    with_each(run_scribbled);
}

/* ---- userfaultfd's own ---------------------------------------------------------------------- */

static bool open_uffd(struct machine *m, struct tracker **ret)
{
    start(m, "/dev/shm");
    do_order(WRITE, 0, 1000, 7);
    if (open_kind(m, TRACKER_UFFD, ret))
        return true;
    end(m);
    return false;
}

/* A varved that ends leaves what the next one finds; what was written in between is copied whole by
 * that one, and from then on nothing is missed. */
static void found_again(void **state)
{
    static struct machine m;
    struct tracker *t;
    bool found = true;
    struct why why;
    int fd;

    if (!open_uffd(&m, &t))
        skip();
    tracker_close(t, false);
    assert_int_equal(uffd_open(m.pid, m.ram.pidfd, NULL, mono_us() + 5000000, &fd, &found, &why),
                     0);
    assert_true(found);
    close(fd);
    assert_true(open_kind(&m, TRACKER_UFFD, &t));
    do_order(WRITE, 500, 3, 9);
    assert_int_equal(collect(&m, t, 0), 3);
    tracker_close(t, true);
    /* Now nothing is left: a new one is made. */
    assert_int_equal(uffd_open(m.pid, m.ram.pidfd, NULL, mono_us() + 5000000, &fd, &found, &why),
                     0);
    assert_false(found);
    close(fd);
    end(&m);
}

/* QEMU's own userfaultfd has its memory: EBUSY. */
static void second_is_busy(void **state)
{
    static struct machine m;
    struct tracker *t;
    struct why why = {};
    int first, second;

    if (!open_uffd(&m, &t))
        skip();
    tracker_close(t, true);
    /* Two of one address space: the second is made while the first is not known as ours. */
    first = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    assert_true(first >= 0);
    second = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    assert_int_equal(ioctl(first, UFFDIO_API, &api), 0);
    api = (struct uffdio_api){.api = UFFD_API};
    assert_int_equal(ioctl(second, UFFDIO_API, &api), 0);
    uint64_t at = (uint64_t)(uintptr_t)m.blocks[0].memory;
    assert_int_equal(uffd_register(first, at, BYTES, false, &why), 0);
    assert_int_equal(uffd_register(second, at, BYTES, false, &why), -EBUSY);
    assert_non_null(strstr(why.text, "post-copy"));
    assert_int_equal(uffd_unregister(first, at, BYTES), 0);
    close(first);
    close(second);
    end(&m);
}

/* What is not registered any more is no "not written". */
static void remapped_is_stale(void **state)
{
    static struct machine m;
    struct tracker *t;
    struct why why = {};

    if (!open_uffd(&m, &t))
        skip();
    do_order(REMAP, 4096, 512, 0);
    memset(m.bitmap, 0, sizeof(m.bitmap));
    assert_int_equal(tracker_collect(t, 0, m.bitmap, NULL, &why), -ESTALE);
    assert_non_null(strstr(why.text, "ram"));
    tracker_close(t, true);
    end(&m);
}

static void dies_at_each_step(void **state)
{
    static struct machine m;
    const struct tracker_options options = {.kind = TRACKER_BEST};
    struct tracker *t;
    struct why why = {};

    start(&m, "/dev/shm");
    kill(m.pid, SIGKILL);
    struct pollfd ended = {.fd = m.ram.pidfd, .events = POLLIN};
    poll(&ended, 1, 5000);
    assert_int_equal(tracker_open(&m.ram, &options, NULL, mono_us() + 5000000, &t, &why), -ESRCH);
    end(&m);
    for (unsigned i = 0; i < N_KINDS; i++) {
        start(&m, "/dev/shm");
        do_order(OWN_WRITE, 0, 100, 7);
        if (!open_kind(&m, all_kinds[i], &t)) {
            end(&m);
            continue;
        }
        kill(m.pid, SIGKILL);
        ended.fd = m.ram.pidfd;
        poll(&ended, 1, 5000);
        memset(m.bitmap, 0, sizeof(m.bitmap));
        /* Only its own memory is gone with it. */
        assert_int_equal(tracker_collect(t, 1, m.bitmap, NULL, &why), -ESRCH);
        tracker_close(t, true);
        end(&m);
    }
}

/* Huge pages are split when tracking begins, and stay so: one write, one page. */
static void huge_pages(void **state)
{
    static struct machine m;
    char dir[] = "/tmp/varve-test-huge.XXXXXX";
    struct tracker *t;

    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        !mkdtemp(dir) || mount("tmpfs", dir, "tmpfs", 0, "huge=always,size=256M") < 0) {
        fprintf(stderr, "no tmpfs with huge pages: %s\n", strerror(errno));
        skip();
    }
    start(&m, dir);
    do_order(WRITE, 0, 4096, 7);
    assert_true(open_kind(&m, TRACKER_UFFD, &t));
    do_order(WRITE, 100, 1, 8);
    do_order(WRITE, 9000, 1, 8); /* where a huge page would come */
    int64_t n = collect(&m, t, 0);
    check_range(&m, 100, 1);
    check_range(&m, 9000, 1);
    fprintf(stderr, "huge pages: %ld pages for 2\n", (long)n);
    assert_true(n <= 4);
    do_order(WRITE, 101, 1, 9);
    n = collect(&m, t, 0);
    check_range(&m, 101, 1);
    assert_true(n <= 2);
    run_scribbled(&m, t);
    tracker_close(t, true);
    end(&m);
    umount(dir);
    rmdir(dir);
}

/* Another daemon would take pages that this one then never hears of. */
static void two_daemons(void **state)
{
    static struct machine m;
    const struct tracker_options options = {.kind = TRACKER_BEST};
    struct tracker *t, *other = NULL;
    struct why why = {};
    char path[64];

    start(&m, "/dev/shm");
    assert_true(open_kind(&m, TRACKER_BEST, &t));
    struct ram_block blocks[2] = {m.blocks[0], m.blocks[1]};
    struct ram ram = m.ram;
    ram.blocks = blocks;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", m.fd);
    blocks[0].fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(tracker_open(&ram, &options, NULL, mono_us() + 5000000, &other, &why), -EBUSY);
    assert_non_null(strstr(why.text, "another varved"));
    do_order(WRITE, 3, 1, 9);
    assert_int_equal(collect(&m, t, 0), 1);
    tracker_close(t, false);
    assert_int_equal(tracker_open(&ram, &options, NULL, mono_us() + 5000000, &other, &why), 0);
    tracker_close(other, true);
    close(blocks[0].fd);
    end(&m);
}

static void best_is_chosen(void **state)
{
    static struct machine m;
    struct tracker *t;

    start(&m, "/dev/shm");
    assert_true(open_kind(&m, TRACKER_BEST, &t));
    struct why why = {};
    if (uffd_probe(&why) == 0) {
        assert_string_equal(tracker_name(t), "userfaultfd");
        assert_string_equal(tracker_why_not(t, TRACKER_UFFD), "");
    } else {
        assert_true(*tracker_why_not(t, TRACKER_UFFD));
    }
    tracker_close(t, true);
    end(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_written_page),   cmocka_unit_test(discarded_pages),
        cmocka_unit_test(discarded_in_memfd),  cmocka_unit_test(holes_are_told_of),
        cmocka_unit_test(notes_are_told_once), cmocka_unit_test(nothing_is_lost_under_writes),
        cmocka_unit_test(found_again),         cmocka_unit_test(second_is_busy),
        cmocka_unit_test(remapped_is_stale),   cmocka_unit_test(dies_at_each_step),
        cmocka_unit_test(best_is_chosen),      cmocka_unit_test(two_daemons),
        cmocka_unit_test(huge_pages),
    };
    c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return c == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
