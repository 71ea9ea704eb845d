/* test-storage-dir.c - the directory under a store. */
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/mono.h"
#include "log/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCK 4096u

struct env {
    char path[64];
    struct loop *loop;
    struct storage *storage;
};

static enum loop_kind kind;

static int setup(void **state)
{
    struct env *env = calloc(1, sizeof(*env));
    strcpy(env->path, "/var/tmp/test-storage-XXXXXX");
    assert_non_null(mkdtemp(env->path));
    assert_int_equal(loop_create(kind, 64, &env->loop), 0);
    assert_int_equal(storage_dir_open(env->path, true, env->loop, &env->storage), 0);
    *state = env;
    return 0;
}

static int unlink_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static int teardown(void **state)
{
    struct env *env = *state;
    if (env->storage)
        env->storage->close(env->storage);
    loop_free(env->loop);
    nftw(env->path, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
    free(env);
    return 0;
}

static char *blocks(unsigned n, int fill)
{
    char *p = aligned_alloc(BLOCK, n * BLOCK);
    memset(p, fill, n * BLOCK);
    return p;
}

static int run(struct env *env, enum storage_op op, uint32_t file, uint64_t length)
{
    struct storage_req req = {.op = op, .file = file, .length_bytes = length};
    return storage_run(env->storage, &req);
}

static int transfer(struct env *env, enum storage_op op, uint32_t file, uint64_t offset, void *buf,
                    size_t len)
{
    struct iovec iov = {buf, len};
    struct storage_req req = {.op = op,
                              .file = file,
                              .offset_bytes = offset,
                              .length_bytes = len,
                              .iov = &iov,
                              .n_iov = 1};
    return storage_run(env->storage, &req);
}

static void make_super(struct env *env)
{
    assert_int_equal(run(env, STORAGE_CREATE, STORAGE_SUPER, BLOCK), 0);
}

static struct stat stat_of(struct env *env, const char *name)
{
    char path[128];
    struct stat st = {0};
    snprintf(path, sizeof(path), "%s/%s", env->path, name);
    assert_int_equal(stat(path, &st), 0);
    return st;
}

static void create_write_read(void **state)
{
    struct env *env = *state;
    _cleanup_free_ char *a = blocks(4, 'a'), *b = blocks(4, 0);
    struct storage_req create = {
        .op = STORAGE_CREATE, .file = 7, .length_bytes = 4 << 20, .zero = true};

    assert_int_equal(storage_run(env->storage, &create), 0);
    assert_int_equal(storage_run(env->storage, &create), -EEXIST);
    struct stat st = stat_of(env, "log/00000007");
    assert_int_equal(st.st_size, 4 << 20);
    assert_true(st.st_blocks * 512 >= 4 << 20);
    assert_int_equal(transfer(env, STORAGE_WRITE, 7, 3 * BLOCK, a, 4 * BLOCK), 4 * BLOCK);
    assert_int_equal(run(env, STORAGE_SYNC, 7, 0), 0);
    assert_int_equal(transfer(env, STORAGE_READ, 7, 2 * BLOCK, b, 4 * BLOCK), 4 * BLOCK);
    assert_int_equal(b[0], 0);
    assert_memory_equal(b + BLOCK, a, 3 * BLOCK);
    /* Past the end: short; a log file is never extended. */
    assert_int_equal(transfer(env, STORAGE_READ, 7, (4 << 20) - BLOCK, b, 4 * BLOCK), BLOCK);
    assert_int_equal(transfer(env, STORAGE_READ, 7, 8 << 20, b, BLOCK), 0);
    assert_int_equal(transfer(env, STORAGE_WRITE, 7, 4 << 20, a, BLOCK), -EINVAL);
    assert_int_equal(stat_of(env, "log/00000007").st_size, 4 << 20);
    /* Misaligned. */
    assert_int_equal(transfer(env, STORAGE_READ, 7, 512, b, BLOCK), -EINVAL);
    assert_int_equal(transfer(env, STORAGE_READ, 7, 0, b + 1, BLOCK), -EINVAL);
    assert_int_equal(transfer(env, STORAGE_READ, 8, 0, b, BLOCK), -ENOENT);
    assert_int_equal(run(env, STORAGE_SYNC, 8, 0), -ENOENT);
}

/* Who died may have requests in flight: a store is not opened before they have ended. The other
 * one has a lock as each descriptor of ours has. */
static void late_requests(void **state)
{
    struct env *env = *state;
    _cleanup_free_ char *a = blocks(1, 'a'), *b = blocks(1, 0);
    char path[128];
    struct storage_req create = {.op = STORAGE_CREATE, .file = 7, .length_bytes = 1 << 20};
    make_super(env);
    assert_int_equal(storage_run(env->storage, &create), 0);
    assert_int_equal(transfer(env, STORAGE_WRITE, 7, 0, a, BLOCK), BLOCK);
    snprintf(path, sizeof(path), "%s/log/00000007", env->path);
    _cleanup_close_ int other = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1); /* ours has one */
    assert_int_equal(errno, EWOULDBLOCK);
    env->storage->close(env->storage);

    int ends[2], status;
    uint64_t let_go;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        int fd = open(path, O_RDONLY | O_CLOEXEC); /* not the one that the parent has, too */
        int err = flock(fd, LOCK_SH);
        kill(getpid(), SIGSTOP);
        usleep(500000);
        let_go = mono_us();
        err |= write(ends[1], &let_go, sizeof(let_go)) != sizeof(let_go);
        _exit(err != 0);
    }
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    kill(child, SIGCONT);
    assert_int_equal(storage_dir_open(env->path, false, env->loop, &env->storage), 0);
    uint64_t opened = mono_us();
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(read(ends[0], &let_go, sizeof(let_go)), sizeof(let_go));
    assert_true(opened >= let_go);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(status, 0);
    assert_int_equal(transfer(env, STORAGE_READ, 7, 0, b, BLOCK), BLOCK);
    assert_int_equal(b[0], 'a');
}

/* Syncs of directories, and how many of the next ones are to fail. */
static unsigned n_dir_syncs, failing_dir_syncs;

void __real_loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only);
void __wrap_loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only);

void __wrap_loop_fsync(struct loop *loop, struct loop_op *op, int fd, bool data_only)
{
    struct stat st;
    bool is_dir = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    n_dir_syncs += is_dir;
    if (is_dir && failing_dir_syncs) {
        failing_dir_syncs--;
        fd = -1;
    }
    __real_loop_fsync(loop, op, fd, data_only);
}

static int syncs_of_names(struct env *env, uint32_t file)
{
    n_dir_syncs = 0;
    assert_int_equal(run(env, STORAGE_SYNC, file, 0), 0);
    return (int)n_dir_syncs;
}

static int results[8];

static void sync_done(struct storage_req *req, int res)
{
    results[req->file] = res;
}

/* A log file is made without a sync; the next sync of any file takes its name along. */
static void names(void **state)
{
    struct env *env = *state;
    n_dir_syncs = failing_dir_syncs = 0;
    assert_int_equal(run(env, STORAGE_CREATE, 1, 2 * BLOCK), 0);
    assert_int_equal(n_dir_syncs, 0);
    assert_int_equal(syncs_of_names(env, 1), 1);
    assert_int_equal(syncs_of_names(env, 1), 0);
    assert_int_equal(run(env, STORAGE_CREATE, 2, 2 * BLOCK), 0);
    assert_int_equal(run(env, STORAGE_CREATE, 3, 2 * BLOCK), 0);
    assert_int_equal(syncs_of_names(env, 1), 1);
    assert_int_equal(syncs_of_names(env, 2), 0);
    /* With zeros it is made for those who sync: they do not wait for its name. */
    struct storage_req zeroed = {
        .op = STORAGE_CREATE, .file = 4, .length_bytes = 2 * BLOCK, .zero = true};
    assert_int_equal(storage_run(env->storage, &zeroed), 0);
    assert_int_equal(syncs_of_names(env, 4), 0);
    /* Nor does who makes one that must stay. */
    struct storage_req durable = {
        .op = STORAGE_CREATE, .file = 7, .length_bytes = 2 * BLOCK, .durable = true};
    assert_int_equal(storage_run(env->storage, &durable), 0);
    assert_int_equal(syncs_of_names(env, 7), 0);
    /* Where the directory cannot be synced, nobody may think that it is. */
    assert_int_equal(run(env, STORAGE_CREATE, 5, 2 * BLOCK), 0);
    failing_dir_syncs = 2;
    assert_int_equal(run(env, STORAGE_SYNC, 5, 0), -EBADF);
    assert_int_equal(run(env, STORAGE_SYNC, 1, 0), -EBADF);
    assert_int_equal(syncs_of_names(env, 5), 1);
    /* Many at once: all get an answer, and one sync of the directory does. */
    assert_int_equal(run(env, STORAGE_CREATE, 6, 2 * BLOCK), 0);
    struct storage_req reqs[7];
    n_dir_syncs = 0;
    for (uint32_t i = 1; i <= 6; i++) {
        results[i] = 1;
        reqs[i] = (struct storage_req){.done = sync_done, .op = STORAGE_SYNC, .file = i};
        env->storage->submit(env->storage, &reqs[i]);
    }
    for (uint32_t i = 1; i <= 6; i++) {
        while (results[i] == 1)
            env->storage->poll(env->storage, true);
        assert_int_equal(results[i], 0);
    }
    assert_int_equal(n_dir_syncs, 1);
}

/* A store that is opened may have files that the process before it made, and no sync since. */
static void names_of_others(void **state)
{
    struct env *env = *state;
    make_super(env);
    assert_int_equal(run(env, STORAGE_CREATE, 1, 2 * BLOCK), 0);
    env->storage->close(env->storage);
    assert_int_equal(storage_dir_open(env->path, false, env->loop, &env->storage), 0);
    assert_int_equal(syncs_of_names(env, 1), 1);
    assert_int_equal(syncs_of_names(env, 1), 0);
}

static void fixed_names(void **state)
{
    struct env *env = *state;
    _cleanup_free_ char *a = blocks(2, 'c');

    make_super(env);
    assert_int_equal(stat_of(env, "varve.store").st_size, BLOCK);
    assert_int_equal(run(env, STORAGE_CREATE, STORAGE_CHECKPOINT(0), 0), 0);
    assert_int_equal(run(env, STORAGE_CREATE, STORAGE_CHECKPOINT(1), BLOCK), 0);
    assert_int_equal(transfer(env, STORAGE_WRITE, STORAGE_CHECKPOINT(0), BLOCK, a, 2 * BLOCK),
                     2 * BLOCK);
    assert_int_equal(stat_of(env, "checkpoint.0").st_size, 3 * BLOCK);
    assert_int_equal(stat_of(env, "checkpoint.1").st_size, BLOCK);
    assert_int_equal(run(env, STORAGE_REMOVE, STORAGE_CHECKPOINT(0), 0), 0);
    assert_int_equal(run(env, STORAGE_REMOVE, STORAGE_CHECKPOINT(0), 0), -ENOENT);
}

static void listing(void **state)
{
    struct env *env = *state;
    uint32_t numbers[4];
    char path[128];

    make_super(env);
    assert_int_equal(env->storage->list(env->storage, numbers, 4), 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(run(env, STORAGE_CREATE, 0xabc0 + i, BLOCK), 0);
    snprintf(path, sizeof(path), "%s/log/stranger", env->path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(env->storage->list(env->storage, numbers, 4), 3);
    assert_int_equal(numbers[0] + numbers[1] + numbers[2], 3 * 0xabc0 + 3);
    numbers[1] = 99;
    assert_int_equal(env->storage->list(env->storage, numbers, 1), 3);
    assert_int_equal(numbers[1], 99);
    assert_int_equal(run(env, STORAGE_REMOVE, 0xabc1, 0), 0);
    assert_int_equal(env->storage->list(env->storage, numbers, 4), 2);
    assert_true(env->storage->free_bytes(env->storage) > 1 << 20);
}

/* A file has its name when it has its space: what a crash left before that is no log file. */
static void unfinished(void **state)
{
    struct env *env = *state;
    uint32_t number;
    char path[128];
    struct stat st;

    make_super(env);
    for (uint32_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/log/%08x.new", env->path, i);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    assert_int_equal(env->storage->list(env->storage, &number, 1), 0);
    assert_int_equal(run(env, STORAGE_CREATE, 1, 2 * BLOCK), 0);
    assert_int_equal(stat(path, &st), -1);
    env->storage->close(env->storage);
    assert_int_equal(storage_dir_open(env->path, false, env->loop, &env->storage), 0);
    snprintf(path, sizeof(path), "%s/log/%08x.new", env->path, 0);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(env->storage->list(env->storage, &number, 1), 1);
    assert_int_equal(number, 1);
}

static void opening(void **state)
{
    struct env *env = *state;
    struct storage *other = NULL;
    char path[128];

    /* Made but not formatted: no store yet, and held against a second creator. */
    assert_int_equal(storage_dir_open(env->path, false, env->loop, &other), ERR_NOT_A_STORE);
    assert_int_equal(storage_dir_open(env->path, true, env->loop, &other), ERR_IN_USE);
    stat_of(env, "log"); /* untouched */
    env->storage->close(env->storage);
    assert_int_equal(storage_dir_open(env->path, true, env->loop, &env->storage), 0);
    make_super(env);
    assert_int_equal(storage_dir_open(env->path, false, env->loop, &other), ERR_IN_USE);
    assert_int_equal(storage_dir_open(env->path, true, env->loop, &other), -EEXIST);
    env->storage->close(env->storage);
    assert_int_equal(storage_dir_open(env->path, false, env->loop, &env->storage), 0);

    snprintf(path, sizeof(path), "%s/none", env->path);
    assert_int_equal(storage_dir_open(path, false, env->loop, &other), -ENOENT);
    snprintf(path, sizeof(path), "%s/none/none", env->path);
    assert_int_equal(storage_dir_open(path, true, env->loop, &other), -ENOENT);
    snprintf(path, sizeof(path), "%s/varve.store", env->path);
    assert_int_equal(storage_dir_open(path, false, env->loop, &other), -ENOTDIR);
    assert_int_equal(storage_dir_open(path, true, env->loop, &other), -ENOTDIR);
    snprintf(path, sizeof(path), "%s/log/x", env->path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    snprintf(path, sizeof(path), "%s/log", env->path);
    assert_int_equal(storage_dir_open(path, true, env->loop, &other), ERR_NOT_A_STORE);
    assert_int_equal(storage_dir_open(path, false, env->loop, &other), ERR_NOT_A_STORE);
    assert_null(other);
}

struct many {
    struct storage_req req;
    struct iovec iov;
    int res;
    bool inside;
};

static int many_left;

static void many_done(struct storage_req *req, int res)
{
    struct many *m = container_of(req, struct many, req);
    assert_false(m->inside);
    m->res = res;
    many_left--;
}

static void submit_many(struct env *env, struct many *m, enum storage_op op, uint32_t file,
                        void *buf)
{
    m->iov = (struct iovec){buf, BLOCK};
    m->req = (struct storage_req){.done = many_done, .op = op, .file = file, .length_bytes = BLOCK};
    m->req.iov = &m->iov;
    m->req.n_iov = 1;
    m->inside = true;
    many_left++;
    env->storage->submit(env->storage, &m->req);
    m->inside = false;
}

static int count_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Ten times more files than descriptors, all in use at once, and removed while in use. */
static void many_files(void **state)
{
    enum { N = 300 };
    struct env *env = *state;
    struct rlimit old, low = {64, 64};
    struct many *m = calloc(N, sizeof(*m)), *r = calloc(N, sizeof(*r));
    _cleanup_free_ char *buf = blocks(N, 'm');

    getrlimit(RLIMIT_NOFILE, &old);
    low.rlim_max = old.rlim_max;
    env->storage->close(env->storage);
    setrlimit(RLIMIT_NOFILE, &low);
    assert_int_equal(storage_dir_open(env->path, true, env->loop, &env->storage), 0);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(run(env, STORAGE_CREATE, i, 2 * BLOCK), 0);
    for (uint32_t i = 0; i < N; i++) {
        buf[i * BLOCK] = (char)i;
        submit_many(env, &m[i], STORAGE_WRITE, i, buf + i * BLOCK);
    }
    while (many_left)
        env->storage->poll(env->storage, true);
    assert_true(count_descriptors() <= 50);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(m[i].res, BLOCK);
    memset(buf, 0, N * BLOCK);
    for (uint32_t i = 0; i < N; i++) {
        submit_many(env, &m[i], STORAGE_READ, i, buf + i * BLOCK);
        submit_many(env, &r[i], STORAGE_REMOVE, i, NULL);
    }
    while (many_left)
        env->storage->poll(env->storage, true);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(r[i].res, 0);
        /* Whether a read that waited for a descriptor came before the removal is open. */
        assert_true(m[i].res == (int)BLOCK || m[i].res == -ENOENT);
        if (m[i].res == (int)BLOCK)
            assert_true(buf[i * BLOCK] == (char)i && buf[i * BLOCK + 1] == 'm');
    }
    assert_int_equal(m[0].res, BLOCK);
    assert_int_equal(env->storage->list(env->storage, NULL, 0), 0);
    setrlimit(RLIMIT_NOFILE, &old);
    free(m);
    free(r);
}

/* More pieces than one system call takes. */
static void many_pieces(void **state)
{
    enum { N = 2500 };
    struct env *env = *state;
    _cleanup_free_ char *a = blocks(N, 0), *b = blocks(N, 0);
    struct iovec iov[N];
    struct storage_req req = {
        .op = STORAGE_WRITE, .file = 1, .length_bytes = N * BLOCK, .iov = iov, .n_iov = N};

    for (unsigned i = 0; i < N; i++) {
        memset(a + i * BLOCK, (int)(i % 255), BLOCK);
        iov[i] = (struct iovec){a + i * BLOCK, BLOCK};
    }
    assert_int_equal(run(env, STORAGE_CREATE, 1, N * BLOCK), 0);
    assert_int_equal(storage_run(env->storage, &req), N * BLOCK);
    for (unsigned i = 0; i < N; i++)
        iov[i].iov_base = b + i * BLOCK;
    req.op = STORAGE_READ;
    assert_int_equal(storage_run(env->storage, &req), N * BLOCK);
    assert_memory_equal(a, b, N * BLOCK);
}

/* The linker puts these between storage-dir and the loop: transfers come back short. */
static bool cut_short;
static struct iovec cut_iov[256];
static unsigned n_cut;

void __real_loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                       unsigned n_iov, uint64_t offset);
void __real_loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                        unsigned n_iov, uint64_t offset);
void __wrap_loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                       unsigned n_iov, uint64_t offset);
void __wrap_loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                        unsigned n_iov, uint64_t offset);

/* The first piece and, now and then, a block of the second; or a part of the first. */
static const struct iovec *cut(const struct iovec *iov, unsigned *n_iov)
{
    if (!cut_short)
        return iov;
    struct iovec *to = &cut_iov[n_cut++ * 2 % 256];
    memcpy(to, iov, (*n_iov > 1 ? 2 : 1) * sizeof(*iov));
    if (n_cut % 3 == 0 && *n_iov > 1) {
        *n_iov = 2;
        to[1].iov_len = BLOCK;
    } else {
        *n_iov = 1;
        if (to[0].iov_len > 2 * BLOCK)
            to[0].iov_len = 2 * BLOCK;
    }
    return to;
}

void __wrap_loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                       unsigned n_iov, uint64_t offset)
{
    iov = cut(iov, &n_iov);
    __real_loop_readv(loop, op, fd, iov, n_iov, offset);
}

void __wrap_loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov,
                        unsigned n_iov, uint64_t offset)
{
    iov = cut(iov, &n_iov);
    __real_loop_writev(loop, op, fd, iov, n_iov, offset);
}

static void short_transfers(void **state)
{
    enum { N = 64 };
    static const unsigned sizes[] = {1, 7, 2, 3, 1, 1, 20, 5, 24};
    struct env *env = *state;
    _cleanup_free_ char *a = blocks(N, 0), *b = blocks(N, 0);
    struct iovec iov[9];
    struct storage_req req = {
        .op = STORAGE_WRITE, .file = 1, .length_bytes = N * BLOCK, .iov = iov, .n_iov = 9};

    for (unsigned i = 0; i < N; i++)
        memset(a + i * BLOCK, (int)i + 1, BLOCK);
    assert_int_equal(run(env, STORAGE_CREATE, 1, N * BLOCK), 0);
    for (unsigned i = 0, at = 0; i < 9; at += sizes[i++])
        iov[i] = (struct iovec){a + at * BLOCK, sizes[i] * BLOCK};
    cut_short = true;
    assert_int_equal(storage_run(env->storage, &req), N * BLOCK);
    cut_short = false;
    assert_int_equal(transfer(env, STORAGE_READ, 1, 0, b, N * BLOCK), N * BLOCK);
    assert_memory_equal(a, b, N * BLOCK);
    memset(b, 0, N * BLOCK);
    for (unsigned i = 0, at = 0; i < 9; at += sizes[i++])
        iov[i] = (struct iovec){b + at * BLOCK, sizes[i] * BLOCK};
    req.op = STORAGE_READ;
    cut_short = true;
    assert_int_equal(storage_run(env->storage, &req), N * BLOCK);
    cut_short = false;
    assert_memory_equal(a, b, N * BLOCK);
    assert_true(n_cut > 20);
}

static void no_space(void **state)
{
    struct env *env = *state;
    uint32_t number;

    /* A file larger than the file system: refused, and nothing is left of it. */
    assert_true(run(env, STORAGE_CREATE, 5, 1ULL << 43) < 0);
    assert_int_equal(env->storage->list(env->storage, &number, 1), 0);
    assert_int_equal(run(env, STORAGE_CREATE, 5, BLOCK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(create_write_read, setup, teardown),
        cmocka_unit_test_setup_teardown(late_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(names, setup, teardown),
        cmocka_unit_test_setup_teardown(names_of_others, setup, teardown),
        cmocka_unit_test_setup_teardown(fixed_names, setup, teardown),
        cmocka_unit_test_setup_teardown(listing, setup, teardown),
        cmocka_unit_test_setup_teardown(unfinished, setup, teardown),
        cmocka_unit_test_setup_teardown(opening, setup, teardown),
        cmocka_unit_test_setup_teardown(many_files, setup, teardown),
        cmocka_unit_test_setup_teardown(many_pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(short_transfers, setup, teardown),
        cmocka_unit_test_setup_teardown(no_space, setup, teardown),
    };
    struct loop *loop;
    int failed = 0;

    if (!loop_create(LOOP_URING, 1, &loop)) {
        loop_free(loop);
        kind = LOOP_URING;
        failed = cmocka_run_group_tests_name("storage-dir on io_uring", tests, NULL, NULL);
    }
    kind = LOOP_THREADS;
    return failed + cmocka_run_group_tests_name("storage-dir on threads", tests, NULL, NULL);
}
