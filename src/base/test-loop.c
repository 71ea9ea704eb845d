/* test-loop.c - the event loop, both kinds of it, and the worker. */
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/mono.h"
#include "base/worker.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

struct test_op {
    struct loop_op op;
    int res;
    bool done;
    bool inside; /* a loop call is on the stack: done() must not come */
};

static void op_done(struct loop_op *op, int res)
{
    struct test_op *t = container_of(op, struct test_op, op);
    assert_false(t->done);
    assert_false(t->inside);
    t->done = true;
    t->res = res;
}

static void prepare(struct test_op *t)
{
    *t = (struct test_op){.op.done = op_done, .inside = true};
}

static int finish(struct loop *loop, struct test_op *t)
{
    t->inside = false;
    while (!t->done)
        loop_poll(loop, true);
    return t->res;
}

static int scratch_file(void)
{
    char path[] = "/tmp/test-loop-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    return fd;
}

static int setup(void **state)
{
    /* The kind is the test's initial state; the loop goes where it was. */
    enum loop_kind kind = **(const enum loop_kind **)state;
    struct loop *loop = NULL;
    int err = loop_create(kind, 16, &loop);
    if (err)
        fprintf(stderr, "loop_create: %s\n", strerror(-err));
    assert_int_equal(err, 0);
    assert_string_equal(loop_name(loop), kind == LOOP_THREADS ? "threads" : "io_uring");
    *state = loop;
    return 0;
}

static int teardown(void **state)
{
    loop_free(*state);
    return 0;
}

static void files(void **state)
{
    struct loop *loop = *state;
    _cleanup_close_ int fd = scratch_file();
    char a[8192], b[16384];
    struct iovec w[2] = {{a, 5000}, {a + 5000, 3192}}, r = {b, sizeof(b)};
    struct test_op t;

    memset(a, 'x', sizeof(a));
    prepare(&t);
    loop_fallocate(loop, &t.op, fd, 0, 0, 10000);
    assert_int_equal(finish(loop, &t), 0);
    prepare(&t);
    loop_writev(loop, &t.op, fd, w, 2, 100);
    assert_int_equal(finish(loop, &t), 8192);
    prepare(&t);
    loop_fsync(loop, &t.op, fd, true);
    assert_int_equal(finish(loop, &t), 0);
    prepare(&t);
    loop_fsync(loop, &t.op, fd, false);
    assert_int_equal(finish(loop, &t), 0);
    prepare(&t);
    loop_readv(loop, &t.op, fd, &r, 1, 0);
    assert_int_equal(finish(loop, &t), 10000); /* short: the end of the file */
    assert_memory_equal(b + 100, a, sizeof(a));
    assert_int_equal(b[99], 0);
    prepare(&t);
    loop_readv(loop, &t.op, -1, &r, 1, 0);
    assert_int_equal(finish(loop, &t), -EBADF);
}

static void sockets(void **state)
{
    struct loop *loop = *state;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char buf[64];
    struct test_op accepting, t;

    snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "varve-test-loop-%d", getpid());
    _cleanup_close_ int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(listening, 1), 0);
    prepare(&accepting);
    loop_accept(loop, &accepting.op, listening);
    loop_poll(loop, false);
    _cleanup_close_ int client = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof(addr)), 0);
    _cleanup_close_ int server = finish(loop, &accepting);
    assert_true(server >= 0);

    prepare(&t); /* data that comes after the receive was started */
    loop_recv(loop, &t.op, server, buf, sizeof(buf));
    loop_poll(loop, false);
    assert_int_equal(write(client, "hello", 5), 5);
    assert_int_equal(finish(loop, &t), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(write(client, "again", 5), 5); /* and before */
    prepare(&t);
    loop_recv(loop, &t.op, server, buf, sizeof(buf));
    assert_int_equal(finish(loop, &t), 5);

    prepare(&t); /* one that never comes is cancelled */
    loop_recv(loop, &t.op, server, buf, sizeof(buf));
    loop_poll(loop, false);
    assert_false(t.done);
    loop_cancel(loop, &t.op);
    assert_int_equal(finish(loop, &t), -ECANCELED);
    prepare(&t); /* cancelled in the turn of its start */
    loop_recv(loop, &t.op, server, buf, sizeof(buf));
    loop_cancel(loop, &t.op);
    assert_int_equal(finish(loop, &t), -ECANCELED);

    close(client);
    client = -1;
    prepare(&t);
    loop_recv(loop, &t.op, server, buf, sizeof(buf));
    assert_int_equal(finish(loop, &t), 0);
    struct iovec iov = {buf, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    prepare(&t);
    loop_sendmsg(loop, &t.op, server, &msg, 0);
    assert_int_equal(finish(loop, &t), -EPIPE); /* and no SIGPIPE */
}

struct drain {
    int fd;
    size_t bytes;
    bool in_order;
};

static void *drain_main(void *arg)
{
    struct drain *drain = arg;
    unsigned char buf[10000];
    ssize_t n;
    drain->in_order = true;
    while ((n = read(drain->fd, buf, sizeof(buf))) > 0)
        for (ssize_t i = 0; i < n; i++)
            if (buf[i] != (unsigned char)(drain->bytes++ % 251))
                drain->in_order = false;
    return NULL;
}

/* A message larger than the socket's buffer goes out whole and in order. */
static void send_all(void **state)
{
    enum { PIECES = 300, PIECE = 7001 };
    struct loop *loop = *state;
    _cleanup_free_ unsigned char *data = malloc(PIECES * PIECE);
    struct iovec iov[PIECES];
    int fds[2];
    pthread_t thread;
    struct test_op t;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (size_t i = 0; i < PIECES * PIECE; i++)
        data[i] = i % 251;
    for (size_t i = 0; i < PIECES; i++)
        iov[i] = (struct iovec){data + i * PIECE, PIECE};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = PIECES};
    struct drain drain = {.fd = fds[1]};
    pthread_create(&thread, NULL, drain_main, &drain);
    prepare(&t);
    loop_sendmsg(loop, &t.op, fds[0], &msg, MSG_WAITALL);
    assert_int_equal(finish(loop, &t), PIECES * PIECE);
    close(fds[0]);
    pthread_join(thread, NULL);
    close(fds[1]);
    assert_int_equal(drain.bytes, PIECES * PIECE);
    assert_true(drain.in_order);
}

static void timers(void **state)
{
    struct loop *loop = *state;
    struct test_op late, soon, never;

    uint64_t start = mono_us();
    prepare(&late);
    loop_timeout(loop, &late.op, 30000);
    prepare(&never);
    loop_timeout(loop, &never.op, 3600ull * 1000000);
    prepare(&soon);
    loop_timeout(loop, &soon.op, 5000);
    late.inside = never.inside = false;
    assert_int_equal(finish(loop, &soon), 0);
    assert_true(mono_us() - start >= 5000);
    assert_false(late.done);
    assert_int_equal(finish(loop, &late), 0);
    assert_true(mono_us() - start >= 30000);
    assert_false(never.done);
    loop_cancel(loop, &never.op);
    assert_int_equal(finish(loop, &never), -ECANCELED);
}

/* Many more operations than the ring has entries, some of them cancelled at once. */
static void flood(void **state)
{
    enum { N = 5000 };
    struct loop *loop = *state;
    _cleanup_free_ struct test_op *ops = calloc(N, sizeof(*ops));
    _cleanup_close_ int fd = scratch_file();
    char buf[16];
    struct iovec iov = {buf, 16};

    assert_int_equal(write(fd, "0123456789abcdef", 16), 16);
    for (int i = 0; i < N; i++) {
        prepare(&ops[i]);
        if (i % 3)
            loop_readv(loop, &ops[i].op, fd, &iov, 1, 0);
        else
            loop_timeout(loop, &ops[i].op, 60 * 1000000);
    }
    for (int i = 0; i < N; i += 3)
        loop_cancel(loop, &ops[i].op);
    for (int i = 0; i < N; i++)
        ops[i].inside = false;
    for (int i = 0; i < N; i++)
        assert_int_equal(finish(loop, &ops[i]), i % 3 ? 16 : -ECANCELED);
}

struct poster {
    struct loop *loop;
    int id, made;
};

static struct {
    int last[4], count;
    bool disordered;
} posted;

static void count_post(void *arg)
{
    int id = (int)((uintptr_t)arg >> 24), n = (int)((uintptr_t)arg & 0xffffff);
    if (n != posted.last[id] + 1)
        posted.disordered = true;
    posted.last[id] = n;
    __atomic_fetch_add(&posted.count, 1, __ATOMIC_RELEASE); /* ping_main() waits for it */
}

static void *poster_main(void *arg)
{
    struct poster *poster = arg;
    for (int i = 1; i <= poster->made; i++) {
        if (loop_post(poster->loop, count_post, (void *)((uintptr_t)poster->id << 24 | i)))
            abort();
        if (i % 64 == 0)
            usleep(1); /* let the loop fall asleep now and then */
    }
    return NULL;
}

static void posts(void **state)
{
    enum { THREADS = 4, EACH = 10000 };
    struct loop *loop = *state;
    struct poster posters[THREADS];
    pthread_t threads[THREADS];

    memset(&posted, 0, sizeof(posted));
    for (int i = 0; i < THREADS; i++) {
        posters[i] = (struct poster){loop, i, EACH};
        pthread_create(&threads[i], NULL, poster_main, &posters[i]);
    }
    while (posted.count < THREADS * EACH)
        loop_poll(loop, true); /* hangs if a wake-up is lost */
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(posted.count, THREADS * EACH);
    assert_false(posted.disordered);
}

/* Posts are made one by one, each when the last has run: every one must wake a sleeping loop. */
static void *ping_main(void *arg)
{
    struct loop *loop = arg;
    for (int i = 1; i <= 2000; i++) {
        if (loop_post(loop, count_post, (void *)(uintptr_t)i))
            abort();
        while (__atomic_load_n(&posted.count, __ATOMIC_ACQUIRE) < i)
            sched_yield();
    }
    loop_stop(loop);
    return NULL;
}

static void wake_up(void **state)
{
    struct loop *loop = *state;
    pthread_t thread;

    memset(&posted, 0, sizeof(posted));
    pthread_create(&thread, NULL, ping_main, loop);
    loop_run(loop);
    pthread_join(thread, NULL);
    assert_int_equal(posted.count, 2000);
    loop_stop(loop); /* before the run: it returns at once */
    loop_run(loop);
}

struct test_hook {
    struct loop_hook hook;
    struct loop *loop;
    struct test_hook *other;
    int runs, order;
    bool again, removes;
};

static int hook_order;

static void hook_run(struct loop_hook *hook)
{
    struct test_hook *t = container_of(hook, struct test_hook, hook);
    t->order = ++hook_order;
    t->runs++;
    if (t->again)
        loop_again(t->loop);
    t->again = false;
    if (t->removes)
        loop_remove_hook(t->loop, &t->other->hook);
}

static void post_nothing(void *arg)
{
    (*(int *)arg)++;
}

static void hooks(void **state)
{
    struct loop *loop = *state;
    struct test_hook a = {.hook.run = hook_run, .loop = loop};
    struct test_hook b = {.hook.run = hook_run, .loop = loop, .again = true};
    int ran = 0;

    loop_add_hook(loop, &a.hook);
    loop_add_hook(loop, &b.hook);
    loop_poll(loop, true); /* does not sleep, as b asks for another turn */
    assert_int_equal(a.runs, 1);
    assert_int_equal(b.runs, 1);
    assert_true(a.order < b.order);
    loop_post(loop, post_nothing, &ran); /* from its own thread */
    while (!ran)
        loop_poll(loop, true);
    a.removes = true;
    a.other = &b;
    int before = b.runs;
    loop_poll(loop, false);
    assert_int_equal(b.runs, before);
    loop_remove_hook(loop, &a.hook);
    loop_poll(loop, false);
    assert_int_equal(b.runs, before);
}

struct test_job {
    struct worker_job job;
    pthread_t ran_on, done_on;
    int number;
};

static int jobs_done, jobs_started;

static int job_work(struct worker_job *job)
{
    struct test_job *t = container_of(job, struct test_job, job);
    t->ran_on = pthread_self();
    usleep(100);
    return __atomic_fetch_add(&jobs_started, 1, __ATOMIC_RELAXED) == t->number ? t->number : -1;
}

static void job_done(struct worker_job *job, int res)
{
    struct test_job *t = container_of(job, struct test_job, job);
    t->done_on = pthread_self();
    assert_int_equal(res, t->number);
    jobs_done++;
}

static void worker(void **state)
{
    struct loop *loop = *state;
    struct worker *w;
    struct test_job jobs[200];

    jobs_done = jobs_started = 0;
    assert_int_equal(worker_create(loop, &w), 0);
    for (int i = 0; i < 200; i++) {
        jobs[i] = (struct test_job){{.work = job_work, .done = job_done}, .number = i};
        worker_submit(w, &jobs[i].job);
    }
    assert_int_equal(jobs_done, 0);
    while (jobs_done < 200)
        loop_poll(loop, true);
    assert_true(pthread_equal(jobs[0].done_on, pthread_self()));
    assert_false(pthread_equal(jobs[0].ran_on, pthread_self()));
    worker_free(w);
}

#define THREADS(f)                                                                                 \
    {                                                                                              \
#f " (threads)", f, setup, teardown, (void *)&threads_kind                                 \
    }
#define BOTH(f) {#f " (io_uring)", f, setup, teardown, (void *)&uring_kind}, THREADS(f)

int main(void)
{
    static const enum loop_kind uring = LOOP_URING, threads = LOOP_THREADS;
    static const enum loop_kind *uring_kind = &uring, *threads_kind = &threads;
    const struct CMUnitTest tests[] = {
        BOTH(files), BOTH(sockets), BOTH(send_all), BOTH(timers), BOTH(flood),
        BOTH(posts), BOTH(wake_up), BOTH(hooks),    BOTH(worker),
    };
    struct loop *loop;
    int err = loop_create(LOOP_URING, 1, &loop);
    if (err) {
        printf("io_uring does not work here (%s): the threads alone\n", strerror(-err));
        const struct CMUnitTest some[] = {
            THREADS(files), THREADS(sockets), THREADS(send_all), THREADS(timers), THREADS(flood),
            THREADS(posts), THREADS(wake_up), THREADS(hooks),    THREADS(worker),
        };
        return cmocka_run_group_tests_name("threads", some, NULL, NULL);
    }
    loop_free(loop);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
