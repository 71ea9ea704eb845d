/* test-ram.c - the memory blocks of real QEMUs are found and read as the guest sees them; what
 * cannot be checkpointed is refused with the mend. */
#include "base/cleanup.h"
#include "base/mono.h"
#include "guest/monitor.h"
#include "guest/ram.h"
#include "guest/test-qemu.h"
#include "guest/tracker.h"
#include "guest/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

#define BACKEND "memory-backend-file,id=ram,size=64M,mem-path=/dev/shm,share=on"
#define COMMON  "-machine", "q35,memory-backend=ram", "-m", "64", "-object", BACKEND

/* ---- the list ------------------------------------------------------------------------------- */

#define HEAD                                                                                       \
    "              Block Name    PSize              Offset               Used              Total"
#define ROW " 4 KiB  0x0000000000000000 0x0000000000001000 0x0000000000002000"

static void refuses(const char *text)
{
    static struct ram_block blocks[RAM_BLOCKS_MAX];
    struct why why = {};

    assert_int_equal(ram_parse(text, blocks, &why), -EPROTO);
    assert_true(*why.text);
}

static void list_is_strict(void **state)
{
    static struct ram_block blocks[RAM_BLOCKS_MAX];
    struct why why;

    assert_int_equal(ram_parse(HEAD "\r\n ram" ROW "\r\n a b" ROW "\r\n", blocks, &why), 2);
    assert_string_equal(blocks[0].name, "ram");
    assert_string_equal(blocks[1].name, "a b");
    assert_int_equal(blocks[0].used_bytes, 4096);
    assert_int_equal(blocks[0].total_bytes, 8192);
    assert_int_equal(blocks[0].host, 0);
    assert_int_equal(
        ram_parse(HEAD "  HVA  RO\n ram" ROW " 0x00007f0000000000  rw\n", blocks, &why), 1);
    assert_true(blocks[0].host == 0x7f0000000000);
    refuses("");
    refuses(HEAD "\n");
    refuses(" ram" ROW "\n");
    refuses(HEAD " More\n ram" ROW "\n");
    refuses(HEAD "\n ram" ROW "\n ram" ROW "\n"); /* twice */
    /* A backend that nothing uses has no name. */
    assert_int_equal(ram_parse(HEAD "\n " ROW "\n ram" ROW "\n", blocks, &why), 1);
    refuses(HEAD "\n " ROW "\n");
    refuses(HEAD "\n ram" ROW " 0x00007f0000000000  rw\n");
    refuses(HEAD "  HVA  RO\n ram" ROW "\n");
    refuses(HEAD "  HVA  RO\n ram" ROW " 0x00007f0000000000  xx\n");
    refuses(HEAD "  HVA  RO\n ram" ROW " 0x00007f0000000001  rw\n");
    refuses(HEAD "  HVA  RO\n ram" ROW " 0x0000000000000000  rw\n");
    refuses(HEAD "  HVA  RO\n ram" ROW " 0xfffffffffffff000  rw\n");
    refuses(HEAD "  HVA  RO\n a" ROW " 0x00007f0000000000  rw\n b" ROW " 0x00007f0000001000  rw\n");
    refuses(HEAD "\n ram 4 KiB  0x0000000000000000 0x0000000000003000 0x0000000000002000\n");
    refuses(HEAD "\n ram 4 KiB  0x0000000000000000 0x0000000000001001 0x0000000000002000\n");
    refuses(HEAD "\n ram 3 KiB  0x0000000000000000 0x0000000000001000 0x0000000000002000\n");
    refuses(HEAD "\n ram 4 KiB  0x0000000000000000 0x000000000000100g 0x0000000000002000\n");
}

/* ---- real ones ------------------------------------------------------------------------------ */

static unsigned block_named(const struct ram *ram, const char *name)
{
    for (unsigned i = 0; i < ram->n; i++)
        if (!strcmp(ram->blocks[i].name, name))
            return i;
    fail_msg("no block %s", name);
    return 0;
}

/* What the guest has at a physical address, by QEMU itself. */
static void dump(const struct test_qemu *q, struct monitor *m, uint64_t gpa, size_t len, void *ret)
{
    char path[128];
    struct why why;

    snprintf(path, sizeof(path), "%s/dump", q->dir);
    assert_int_equal(monitor_run(m, "pmemsave",
                                 json_pack("{s:I, s:i, s:s}", "val", (json_int_t)gpa, "size",
                                           (int)len, "filename", path),
                                 test_end_us(5000), NULL, &why),
                     0);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, ret, len), len);
    close(fd);
    unlink(path);
}

/* Blocks of equal sizes among them, which QEMU 7.2 does not tell the places of. */
static void finds_all_blocks(void **state)
{
    const char *const args[] = {COMMON,    "-vga",           "std", "-device", "virtio-net-pci",
                                "-device", "virtio-net-pci", NULL};
    static unsigned char ours[65536], theirs[65536];
    struct ram *ram = NULL;
    struct test_qemu q;
    struct why why = {};

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    int r = ram_open(m, test_end_us(10000), &ram, &why);
    if (r < 0)
        fail_msg("%d: %s", r, why.text);
    assert_true(ram->n >= 8);
    for (unsigned i = 0; i < ram->n; i++)
        fprintf(stderr, "%-32s %9" PRIu64 " at %" PRIx64 "%s\n", ram->blocks[i].name,
                ram->blocks[i].used_bytes, ram->blocks[i].host,
                ram->blocks[i].shared ? ", shared" : "");
    unsigned main = block_named(ram, "ram"), bios = block_named(ram, "pc.bios");
    assert_true(ram->blocks[main].shared && ram->blocks[main].memory);
    assert_false(ram->blocks[bios].shared);
    assert_int_equal(ram->blocks[main].used_bytes, 64 << 20);
    assert_int_equal(monitor_run(m, "stop", NULL, test_end_us(5000), NULL, &why), 0);
    dump(&q, m, 0xf0000, sizeof(theirs), theirs); /* shadowed by the BIOS into the main memory */
    dump(&q, m, 0xffff0000, sizeof(theirs), theirs);
    assert_int_equal(ram_read(ram, bios, ram->blocks[bios].used_bytes - 65536, ours, 65536), 0);
    assert_memory_equal(ours, theirs, 65536);
    dump(&q, m, 0x10000, sizeof(theirs), theirs);
    assert_int_equal(ram_read(ram, main, 0x10000, ours, 65536), 0);
    assert_memory_equal(ours, theirs, 65536);
    assert_memory_equal(ram->blocks[main].memory + 0x10000, theirs, 65536);
    unsigned rom = block_named(ram, "0000:00:01.0/vga.rom");
    assert_int_equal(ram_read(ram, rom, 0, ours, 2), 0);
    assert_true(ours[0] == 0x55 && ours[1] == 0xaa);
    assert_int_equal(ram_read(ram, rom, 65536, ours, 1), -EINVAL);
    assert_int_equal(ram_compare(ram, m, test_end_us(5000), &why), 0);
    ram_close(ram);
    monitor_close(m);
    test_qemu_end(&q);
}

/* Reading makes no memory. */
static void holes_stay_holes(void **state)
{
    const char *const args[] = {COMMON, "-S", NULL};
    static unsigned char buf[1 << 20];
    struct test_qemu q;
    struct ram *ram;
    struct stat before, after;
    struct why why;

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    assert_int_equal(ram_open(m, test_end_us(10000), &ram, &why), 0);
    unsigned main = block_named(ram, "ram");
    assert_int_equal(fstat(ram->blocks[main].fd, &before), 0);
    for (uint64_t at = 0; at < 64u << 20; at += sizeof(buf))
        assert_int_equal(ram_read(ram, main, at, buf, sizeof(buf)), 0);
    assert_int_equal(fstat(ram->blocks[main].fd, &after), 0);
    assert_true(before.st_blocks == after.st_blocks);
    kill(q.pid, SIGKILL);
    waitpid(q.pid, NULL, 0);
    q.pid = 0;
    assert_int_equal(ram_read(ram, block_named(ram, "pc.bios"), 0, buf, 4096), -ESRCH);
    ram_close(ram);
    monitor_close(m);
    test_qemu_end(&q);
}

static void refuses_machine(const char *const *args, const char *word)
{
    struct ram *ram = NULL;
    struct test_qemu q;
    struct why why = {};

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    int r = ram_open(m, test_end_us(10000), &ram, &why);
    fprintf(stderr, "%s\n", why.text);
    assert_int_equal(r, -EOPNOTSUPP);
    assert_null(ram);
    assert_non_null(strstr(why.text, word));
    monitor_close(m);
    test_qemu_end(&q);
}

static void private_memory(void **state)
{
    const char *const plain[] = {"-machine", "q35", "-m", "64", NULL};
    const char *const backend[] = {"-machine", "q35,memory-backend=ram",
                                   "-m",       "64",
                                   "-object",  "memory-backend-ram,id=ram,size=64M",
                                   NULL};
    const char *const disk[] = {
        "-machine", "q35,memory-backend=ram",
        "-m",       "16",
        "-object",  "memory-backend-file,id=ram,size=16M,mem-path=/var/tmp,share=on",
        NULL};
    const char *const part[] = {"-machine", "q35",
                                "-m",       "80",
                                "-object",  BACKEND,
                                "-object",  "memory-backend-ram,id=more,size=16M",
                                "-numa",    "node,memdev=ram",
                                "-numa",    "node,memdev=more",
                                NULL};

    refuses_machine(plain, "memory-backend-file");
    refuses_machine(backend, "memory-backend-file");
    refuses_machine(disk, "tmpfs");
    refuses_machine(part, "more");
}

static void memfd_is_shared(void **state)
{
    const char *const args[] = {"-machine", "q35,memory-backend=ram",
                                "-m",       "64",
                                "-object",  "memory-backend-memfd,id=ram,size=64M,share=on",
                                "-S",       NULL};
    struct test_qemu q;
    struct ram *ram;
    struct why why;

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    assert_int_equal(ram_open(m, test_end_us(10000), &ram, &why), 0);
    assert_true(ram->blocks[block_named(ram, "ram")].shared);
    ram_close(ram);
    monitor_close(m);
    test_qemu_end(&q);
}

/* A descriptor whose name is that of the kernel's for a device of the host. */
static void passed_through_device(void **state)
{
    int fd = memfd_create("[vfio-device]", MFD_CLOEXEC);
    struct why why = {};

    assert_true(fd >= 0);
    assert_int_equal(ram_check_vfio(getpid(), &why), -EOPNOTSUPP);
    assert_non_null(strstr(why.text, "VFIO"));
    assert_non_null(strstr(why.text, "use a virtio device"));
    close(fd);
    assert_int_equal(ram_check_vfio(getpid(), &why), 0);
    assert_int_equal(ram_check_vfio(0x7ffffff0, &why), -ESRCH);
}

/* ---- with a tracker ------------------------------------------------------------------------- */

static int64_t collect(struct tracker *t, const struct ram *ram, unsigned block, struct why *why)
{
    _cleanup_free_ uint64_t *bitmap =
        calloc(tracker_words(ram->blocks[block].used_bytes / RAM_PAGE_BYTES), 8);

    return tracker_collect(t, block, bitmap, NULL, why);
}

/* A QEMU without rights passes /dev/userfaultfd; DIMMs that come in are noticed. */
static void plugged_memory(void **state)
{
    const char *const args[] = {
        "-machine", "q35,memory-backend=ram", "-m", "64,slots=2,maxmem=1G", "-object", BACKEND,
        NULL};
    const struct tracker_options options = {.kind = TRACKER_UFFD};
    struct tracker *t = NULL;
    struct ram *ram;
    struct test_qemu q;
    struct why why = {};

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    assert_int_equal(ram_open(m, test_end_us(10000), &ram, &why), 0);
    int r = tracker_open(ram, &options, m, test_end_us(10000), &t, &why);
    if (r == -EOPNOTSUPP)
        skip();
    if (r < 0)
        fail_msg("%d: %s", r, why.text);
    unsigned main = block_named(ram, "ram");
    assert_true(collect(t, ram, main, &why) >= 0);
    assert_int_equal(tracker_check(t, m, test_end_us(5000), &why), 0);
    assert_int_equal(
        monitor_run(m, "object-add",
                    json_pack("{s:s, s:s, s:I, s:s, s:b}", "qom-type", "memory-backend-file", "id",
                              "dimm", "size", (json_int_t)(128 << 20), "mem-path", "/dev/shm",
                              "share", 1),
                    test_end_us(5000), NULL, &why),
        0);
    assert_int_equal(
        monitor_run(m, "device_add",
                    json_pack("{s:s, s:s, s:s}", "driver", "pc-dimm", "id", "d1", "memdev", "dimm"),
                    test_end_us(5000), NULL, &why),
        0);
    assert_true(collect(t, ram, main, &why) >= 0); /* nobody has asked yet */
    assert_int_equal(tracker_check(t, m, test_end_us(5000), &why), -ESTALE);
    assert_non_null(strstr(why.text, "dimm"));
    assert_int_equal(collect(t, ram, main, &why), -ESTALE);
    tracker_close(t, false);
    ram_close(ram);
    r = ram_open(m, test_end_us(10000), &ram, &why);
    if (r < 0)
        fail_msg("%d: %s", r, why.text);
    assert_int_equal(tracker_open(ram, &options, m, test_end_us(10000), &t, &why), 0);
    for (unsigned i = 0; i < ram->n; i++)
        assert_true(collect(t, ram, i, &why) >= 0);
    assert_int_equal(tracker_check(t, m, test_end_us(5000), &why), 0);
    tracker_close(t, true);
    ram_close(ram);
    monitor_close(m);
    test_qemu_end(&q);
}

/* Paused, running and shut-down machines can be tracked alike; QEMU's own use of userfaultfd is
 * refused while Varve's is there, and the other way round. */
static void qemus_own_snapshot(void **state)
{
    const char *const args[] = {COMMON, "-S", NULL};
    const struct tracker_options options = {.kind = TRACKER_UFFD};
    struct tracker *t = NULL;
    struct ram *ram;
    struct test_qemu q;
    struct why why = {};

    if (!test_qemu_start(&q, args))
        skip();
    struct monitor *m = test_qemu_monitor(&q);
    assert_int_equal(ram_open(m, test_end_us(10000), &ram, &why), 0);
    int r = tracker_open(ram, &options, m, test_end_us(10000), &t, &why);
    if (r == -EOPNOTSUPP)
        skip();
    assert_int_equal(r, 0);
    json_t *on = json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "background-snapshot",
                           "state", 1);
    r = monitor_run(m, "migrate-set-capabilities", on, test_end_us(5000), NULL, &why);
    fprintf(stderr, "background-snapshot: %s\n", r < 0 ? why.text : "accepted");
    if (r == 0) {
        assert_int_equal(monitor_run(m, "migrate", json_pack("{s:s}", "uri", "exec:cat>/dev/null"),
                                     test_end_us(5000), NULL, &why) <= 0,
                         1);
        usleep(300000);
    }
    assert_true(collect(t, ram, block_named(ram, "ram"), &why) >= 0);
    assert_int_equal(monitor_run(m, "query-status", NULL, test_end_us(5000), NULL, &why), 0);
    tracker_close(t, true);
    ram_close(ram);
    monitor_close(m);
    test_qemu_end(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_is_strict),   cmocka_unit_test(finds_all_blocks),
        cmocka_unit_test(holes_stay_holes), cmocka_unit_test(private_memory),
        cmocka_unit_test(memfd_is_shared),  cmocka_unit_test(passed_through_device),
        cmocka_unit_test(plugged_memory),   cmocka_unit_test(qemus_own_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
