/* test-config.c - a configuration is taken as a whole or refused with the line and what is near it;
 * options of varved and the mapping of error codes. */
#include "base/err.h"
#include "base/loop.h"
#include "base/report.h"
#include "daemon/config.h"
#include "daemon/fault.h"
#include "daemon/options.h"
#include "daemon/rundir.h"
#include "export/nbd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int parse(const char *text, struct config *config, struct why *why)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");

    assert_non_null(file);
    int r = config_parse(file, "x.conf", config, why);
    fclose(file);
    return r;
}

static void takes_values(void **state)
{
    struct config config;
    struct why why;

    config_defaults(&config);
    assert_int_equal(parse("# comment\n[store]\ncache-size = 2.5G\n  table-memory: 64M\n"
                           "[daemon]\nio-engine=threads\nlog-level = error\n"
                           "[nbd]\nmax-connections = 7\ngroup = root\n",
                           &config, &why),
                     0);
    assert_true(config.cache_bytes == 5ULL << 29);
    assert_true(config.table_bytes == 64 << 20);
    assert_true(config.log_level == REPORT_ERROR);
    assert_true(config.nbd_max_connections == 7);
    assert_true(config.nbd_group == 0);
    assert_int_equal(parse("[nbd]\ngroup = 64055\n", &config, &why), 0);
    assert_true(config.nbd_group == 64055);
    assert_int_equal(parse("[nbd]\ngroup = none\n", &config, &why), 0);
    assert_true(config.nbd_group == CONFIG_NO_GROUP);
}

static void server_stopped(void *arg)
{
    *(bool *)arg = true;
}

/* What the parser takes the server takes. */
static void least_buffer_memory(void **state)
{
    struct nbd_config nbd = nbd_config_default;
    struct nbd_exports exports = {};
    struct nbd_server *server;
    struct config config;
    struct loop *loop;
    struct why why;

    config_defaults(&config);
    assert_int_equal(parse("[nbd]\nbuffer-memory = 64M\n", &config, &why), 0);
    nbd.buffer_bytes = config.nbd_buffer_bytes;
    assert_int_equal(loop_create(LOOP_THREADS, 64, &loop), 0);
    assert_int_equal(nbd_server_create(loop, &nbd, &exports, &server), 0);
    bool done = false;
    nbd_server_stop(server, server_stopped, &done);
    while (!done)
        loop_poll(loop, true);
    nbd_server_free(server);
    loop_free(loop);
}

static void refuses(const char *text, const char *sentence)
{
    struct config config, before;
    struct why why = {};

    config_defaults(&config);
    before = config;
    assert_int_equal(parse(text, &config, &why), -EINVAL);
    if (!strstr(why.text, sentence))
        fail_msg("\"%s\" does not say \"%s\"", why.text, sentence);
    assert_memory_equal(&config, &before, sizeof(config));
}

static void refuses_with_the_line(void **state)
{
    char line[600];

    refuses("[store]\n\ncache-sise = 1G\n", "x.conf:3: unknown key \"cache-sise\" in [store]; the "
                                            "nearest one is cache-size in [store]");
    refuses("[store]\nmax-connection = 1\n", "the nearest one is max-connections in [");
    refuses("cache-size = 1G\n", "x.conf:1: \"cache-size\" stands before any [section]");
    refuses("[store]\ncache-size = lots\n", "x.conf:2: cache-size is \"lots\"; it wants a size");
    refuses("[store]\ncache-size = 1G\ncache-size = 2G\n", "x.conf:3: cache-size is set a second");
    refuses("[store]\ntable-memory = 1M\n", "x.conf:2: table-memory is 1M; it may be from 8M");
    refuses("[nbd]\nbuffer-memory = 63M\n", "x.conf:2: buffer-memory is 63M; it may be from 64M");
    refuses("[nbd]\nmax-connections = 0\n", "it may be from 1 to");
    refuses("[nbd]\nmax-connections = 5G\n", "it wants a whole number");
    refuses("[nbd]\ngroup = 4294967295\n", "there is no such group");
    refuses("[nbd]\ngroup = nobody-has-this\n", "there is no such group");
    refuses("[daemon]\nio-engine = magic\n", "it may be one of auto, io_uring, threads");
    refuses("[store\n", "x.conf:1: this is neither");
    refuses("[store]\nwhat is this\n", "x.conf:2: this is neither");
    /* What was good before the error is not taken either. */
    refuses("[store]\ncache-size = 1G\nbad = 1\n", "x.conf:3:");
    /* A word of any length is near something (found by the fuzzer). */
    refuses("[store]\na-key-that-is-longer-than-any-there-will-ever-be = 1\n",
            "the nearest one is");
    memset(line, 'a', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\0';
    refuses(line, "x.conf:1: the line is longer than");
}

static void options(void **state)
{
    struct options o;
    struct why why;
    char *good[] = {"varved", "--store", "/s", "--run=/r", "--init", "--capacity", "10G", NULL};
    char *bad[][4] = {{"varved", "--nope"},
                      {"varved", "word"},
                      {"varved", "--store"},
                      {"varved", "--capacity", "10G"},
                      {"varved", "--init", "--check"},
                      {"varved", "--store", ""}};

    assert_int_equal(options_parse(7, good, &o, &why), 0);
    assert_string_equal(o.store, "/s");
    assert_string_equal(o.run, "/r");
    assert_true(o.init && !o.check && o.capacity_bytes == 10ULL << 30);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(options_parse(bad[i][2] ? 3 : 2, bad[i], &o, &why), -EINVAL);
}

static void faults_are_distinct(void **state)
{
    for (size_t i = 0; i < fault_table_size; i++)
        for (size_t j = i + 1; j < fault_table_size; j++) {
            assert_int_not_equal(fault_table[i].number, fault_table[j].number);
            assert_string_not_equal(fault_table[i].name, fault_table[j].name);
        }
    assert_int_equal(fault_from_code(-ENOENT), FAULT_NOT_FOUND);
    assert_int_equal(fault_from_code(ERR_STORE_FULL), FAULT_STORE_FULL);
    assert_int_equal(fault_from_code(ERR_READ_ONLY), FAULT_READ_ONLY);
    assert_int_equal(fault_from_code(ERR_CHECKSUM), FAULT_DAMAGED);
    assert_int_equal(fault_from_code(-EXDEV), FAULT_FAILED);
    assert_int_equal(exit_from_code(0), EXIT_OK);
    assert_int_equal(exit_from_code(ERR_IN_USE), EXIT_CONFLICT);
    assert_int_equal(exit_from_code(-ENAMETOOLONG), EXIT_USAGE);
    assert_int_equal(fault_find(12345)->number, FAULT_FAILED);
}

static void run_directory(void **state)
{
    char top[] = "/tmp/varve-rundir-XXXXXX", run[64], path[80], longer[200];
    int lock, other, fd, second;
    struct why why;
    struct stat st;

    assert_non_null(mkdtemp(top));
    snprintf(run, sizeof(run), "%s/run", top);
    snprintf(path, sizeof(path), "%s/x.sock", run);
    assert_int_equal(rundir_open(run, &lock, &why), 0);
    assert_int_equal(stat(run, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(rundir_open(run, &other, &why), ERR_IN_USE);

    assert_int_equal(rundir_listen(path, &fd, &why), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(rundir_listen(path, &second, &why), ERR_IN_USE);
    close(fd); /* now it is a dead daemon's */
    assert_int_equal(rundir_listen(path, &fd, &why), 0);
    close(fd);
    unlink(path);
    close(lock);
    assert_int_equal(rundir_open(run, &lock, &why), 0);
    close(lock);

    chmod(run, 0770);
    assert_int_equal(rundir_open(run, &lock, &why), -EPERM);
    memset(longer, 'a', sizeof(longer) - 1);
    longer[0] = '/';
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(rundir_open(longer, &lock, &why), -ENAMETOOLONG);
    assert_non_null(strstr(why.text, "107"));
    snprintf(path, sizeof(path), "%s/varved.lock", run);
    unlink(path);
    rmdir(run);
    rmdir(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_values),  cmocka_unit_test(refuses_with_the_line),
        cmocka_unit_test(options),       cmocka_unit_test(faults_are_distinct),
        cmocka_unit_test(run_directory), cmocka_unit_test(least_buffer_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
