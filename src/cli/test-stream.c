/* test-stream.c - a send stream comes out as it went in, or not at all. */
#include "cli/stream-internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct bytes {
    uint8_t *data;
    size_t size, at;
};

static int write_bytes(void *arg, const void *data, size_t len)
{
    struct bytes *b = arg;

    b->data = realloc(b->data, b->size + len);
    assert_non_null(b->data);
    memcpy(b->data + b->size, data, len);
    b->size += len;
    return 0;
}

static ptrdiff_t read_bytes(void *arg, void *data, size_t len)
{
    struct bytes *b = arg;
    size_t n = len < b->size - b->at ? len : b->size - b->at;

    memcpy(data, b->data + b->at, n);
    b->at += n;
    return (ptrdiff_t)n;
}

static uint8_t plain[STREAM_FRAME_MAX], stored[STREAM_FRAME_MAX], out[STREAM_FRAME_MAX];
static struct stream_frame frame;

/* Bytes that compress by about a half. */
static void fill(uint8_t *to, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        to[i] = (uint8_t)(seed >> 24) & 0x0f;
    }
}

static struct stream_info sample_info(struct stream_disk disks[2])
{
    struct stream_info info = {
        .vm = "web1",
        .version = "after",
        .from = "before",
        .note = "the grün one",
        .created_us = 1234567890123456,
        .data_bytes = 9728,
        .consistency = 1,
        .role = 2,
        .n_disks = 2,
        .disks = disks,
    };
    memset(info.guid, 0x11, sizeof(info.guid));
    memset(info.from_guid, 0x22, sizeof(info.from_guid));
    disks[0] = (struct stream_disk){"data", 1 << 20, true};
    disks[1] = (struct stream_disk){"root", 1 << 30, false};
    return info;
}

/* Two frames of data of both encodings, and one without. */
static void write_sample(struct bytes *b, int level)
{
    struct stream_disk disks[2];
    struct stream_info info = sample_info(disks);
    struct stream_writer w = {.write = write_bytes, .arg = b};
    struct stream_zstd *zstd = stream_zstd_new(level);

    assert_int_equal(stream_writer_open(&w, &info), 0);
    frame = (struct stream_frame){.disk = 0,
                                  .n_runs = 3,
                                  .plain_bytes = 1536,
                                  .runs = {{0, 512, STREAM_RUN_DATA},
                                           {512, 4096, STREAM_RUN_HOLE},
                                           {8192, 1024, STREAM_RUN_DATA}}};
    fill(plain, 1536, 1);
    assert_int_equal(stream_write_frame(&w, &frame, stream_pack(zstd, &frame, plain, stored)), 0);
    frame = (struct stream_frame){
        .disk = 1, .n_runs = 1, .runs = {{1 << 20, (1 << 30) - (1 << 20), STREAM_RUN_ZERO}}};
    assert_int_equal(stream_write_frame(&w, &frame, stream_pack(zstd, &frame, plain, stored)), 0);
    assert_int_equal(stream_write_end(&w), 0);
    stream_writer_close(&w);
    stream_zstd_free(zstd);
}

/* Read all of it; returns what ended it. A frame's data are checked as recv does. */
static int read_all(struct bytes *b, struct stream_reader *r)
{
    struct stream_zstd *zstd = stream_zstd_new(1);
    *r = (struct stream_reader){.read = read_bytes, .arg = b};
    int n = stream_reader_open(r);

    if (n == 0)
        n = 1;
    while (n > 0) {
        n = stream_read_frame(r, &frame, stored);
        if (n > 0 && !stream_unpack(zstd, &frame, stored, out))
            n = STREAM_FAULT_DAMAGED;
    }
    stream_zstd_free(zstd);
    return n;
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int level = 0; level <= 1; level++) {
        struct bytes b = {};
        struct stream_reader r = {.read = read_bytes, .arg = &b};
        struct stream_zstd *zstd = stream_zstd_new(1);
        write_sample(&b, level);
        assert_int_equal(stream_reader_open(&r), 0);
        assert_string_equal(r.info.vm, "web1");
        assert_string_equal(r.info.version, "after");
        assert_string_equal(r.info.from, "before");
        assert_string_equal(r.info.note, "the grün one");
        assert_int_equal(r.info.guid[15], 0x11);
        assert_int_equal(r.info.from_guid[0], 0x22);
        assert_true(r.info.created_us == 1234567890123456 && r.info.data_bytes == 9728);
        assert_true(r.info.consistency == 1 && r.info.role == 2 && r.info.n_disks == 2);
        assert_string_equal(r.info.disks[0].name, "data");
        assert_true(r.info.disks[0].fresh && !r.info.disks[1].fresh);
        assert_true(r.info.disks[1].size_bytes == 1 << 30);
        assert_int_equal(stream_read_frame(&r, &frame, stored), 1);
        assert_int_equal(frame.encoding, level ? STREAM_ZSTD : STREAM_PLAIN);
        assert_true(frame.n_runs == 3 && frame.runs[1].kind == STREAM_RUN_HOLE);
        assert_true(frame.runs[2].offset == 8192 && frame.runs[2].length == 1024);
        const void *data = stream_unpack(zstd, &frame, stored, out);
        assert_non_null(data);
        fill(plain, 1536, 1);
        assert_memory_equal(data, plain, 1536);
        assert_int_equal(stream_read_frame(&r, &frame, stored), 1);
        assert_true(frame.disk == 1 && frame.plain_bytes == 0);
        assert_int_equal(stream_read_frame(&r, &frame, stored), 0);
        assert_true(r.totals.n_frames == 2 && r.totals.data_bytes == 1536);
        assert_true(b.at == b.size);
        stream_reader_close(&r);
        stream_zstd_free(zstd);
        free(b.data);
    }
}

static void test_incompressible(void **state)
{
    struct stream_zstd *zstd = stream_zstd_new(1);
    unsigned seed = 7;

    (void)state;
    for (size_t i = 0; i < sizeof(plain); i++) {
        seed = seed * 1664525 + 1013904223;
        plain[i] = (uint8_t)(seed >> 24);
    }
    frame.plain_bytes = sizeof(plain);
    assert_ptr_equal(stream_pack(zstd, &frame, plain, stored), plain);
    assert_int_equal(frame.encoding, STREAM_PLAIN);
    stream_zstd_free(zstd);
}

static void test_cut_anywhere(void **state)
{
    struct bytes b = {};
    struct stream_reader r;

    (void)state;
    write_sample(&b, 1);
    size_t size = b.size;
    for (b.size = 0; b.size < size; b.size++) {
        b.at = 0;
        assert_int_equal(read_all(&b, &r), STREAM_FAULT_CUT);
        assert_true(*r.why.text);
        stream_reader_close(&r);
    }
    free(b.data);
}

static void test_flip_any_bit(void **state)
{
    struct bytes b = {};
    struct stream_reader r;

    (void)state;
    write_sample(&b, 1);
    for (size_t bit = 0; bit < b.size * 8; bit++) {
        b.at = 0;
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int n = read_all(&b, &r);
        if (bit / 8 < 8)
            assert_int_equal(n, STREAM_FAULT_FOREIGN);
        else
            assert_int_equal(n, STREAM_FAULT_DAMAGED);
        stream_reader_close(&r);
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    b.at = 0;
    assert_int_equal(read_all(&b, &r), 0);
    stream_reader_close(&r);
    free(b.data);
}

static void set_prologue(struct bytes *b, uint32_t version, uint32_t incompat, uint32_t compat)
{
    struct stream_prologue *p = (struct stream_prologue *)(void *)b->data;
    p->version = version;
    p->incompat = incompat;
    p->compat = compat;
    p->checksum = stream_checksum(p, offsetof(struct stream_prologue, checksum), 0);
}

static void test_other_formats(void **state)
{
    static const struct {
        uint32_t version, incompat, compat;
        int fault;
    } cases[] = {{2, 0, 0, STREAM_FAULT_NEWER},
                 {1, 2, 0, STREAM_FAULT_NEWER},
                 {1, 3, 0, STREAM_FAULT_NEWER},
                 {1, 1u << 31, 0, STREAM_FAULT_NEWER},
                 {0, 0, 0, STREAM_FAULT_OLDER},
                 /* Known at the prologue; then the checksum of all says that it was changed. */
                 {1, 0, 5, STREAM_FAULT_DAMAGED},
                 /* Memory is announced, and none of the disks is that. */
                 {1, STREAM_INCOMPAT_MEMORY, 0, STREAM_FAULT_DAMAGED}};
    struct bytes b = {};
    struct stream_reader r;

    (void)state;
    write_sample(&b, 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        set_prologue(&b, cases[i].version, cases[i].incompat, cases[i].compat);
        b.at = 0;
        assert_int_equal(read_all(&b, &r), cases[i].fault);
        stream_reader_close(&r);
    }
    free(b.data);
}

/* A record put in the place of another of the same length is noticed at once. */
static void test_exchanged_frames(void **state)
{
    struct stream_disk disks[2];
    struct stream_info info = sample_info(disks);
    struct bytes b = {};
    struct stream_writer w = {.write = write_bytes, .arg = &b};
    struct stream_zstd *zstd = stream_zstd_new(0);
    struct stream_reader r;
    size_t at[3];
    uint8_t copy[1024];

    (void)state;
    assert_int_equal(stream_writer_open(&w, &info), 0);
    for (unsigned i = 0; i < 2; i++) {
        at[i] = b.size;
        frame = (struct stream_frame){
            .disk = 1, .n_runs = 1, .plain_bytes = 512, .runs = {{4096 * i, 512, STREAM_RUN_DATA}}};
        fill(plain, 512, i);
        assert_int_equal(stream_write_frame(&w, &frame, stream_pack(zstd, &frame, plain, stored)),
                         0);
    }
    at[2] = b.size;
    assert_int_equal(stream_write_end(&w), 0);
    stream_writer_close(&w);
    stream_zstd_free(zstd);
    size_t len = at[1] - at[0];
    assert_true(len == at[2] - at[1] && len < sizeof(copy));
    memcpy(copy, b.data + at[0], len);
    memcpy(b.data + at[0], b.data + at[1], len);
    memcpy(b.data + at[1], copy, len);
    assert_int_equal(read_all(&b, &r), STREAM_FAULT_DAMAGED);
    assert_true(r.totals.n_frames == 0);
    stream_reader_close(&r);
    free(b.data);
}

/* The memory is a disk without a name, the first, of a version with RAM, and the prologue says so:
 * all of this or none of it. */
static void test_memory(void **state)
{
    struct stream_disk disks[3], sample[2];
    struct stream_info info = sample_info(sample);
    struct bytes b = {};
    struct stream_reader r;

    (void)state;
    disks[0] = (struct stream_disk){.size_bytes = 8192, .fresh = true, .memory = true};
    memcpy(disks + 1, sample, sizeof(sample));
    info.disks = disks;
    info.n_disks = 3;
    for (unsigned i = 0; i < 4; i++) {
        struct stream_writer w = {.write = write_bytes, .arg = &b};
        b = (struct bytes){};
        info.consistency = i == 1 ? 0 : 3;
        strcpy(disks[0].name, i == 2 ? "a" : "");
        disks[0].memory = true;
        assert_int_equal(stream_writer_open(&w, &info), 0);
        assert_int_equal(stream_write_end(&w), 0);
        stream_writer_close(&w);
        if (i == 3)
            set_prologue(&b, 1, 0, 0);
        assert_int_equal(read_all(&b, &r), i == 0 ? 0 : STREAM_FAULT_DAMAGED);
        if (i == 0) {
            assert_true(stream_has_memory(&r.info) && r.info.disks[0].fresh);
            assert_string_equal(r.info.disks[0].name, "");
            assert_int_equal(r.info.disks[0].size_bytes, 8192);
            assert_false(r.info.disks[1].memory);
        }
        stream_reader_close(&r);
        free(b.data);
    }
}

static void test_foreign(void **state)
{
    static char text[] = "QFI\xfb this is something else, and longer than a prologue";
    struct bytes b = {.data = (uint8_t *)text, .size = sizeof(text)};
    struct stream_reader r;

    (void)state;
    assert_int_equal(read_all(&b, &r), STREAM_FAULT_FOREIGN);
    stream_reader_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_incompressible),
        cmocka_unit_test(test_cut_anywhere),  cmocka_unit_test(test_flip_any_bit),
        cmocka_unit_test(test_other_formats), cmocka_unit_test(test_exchanged_frames),
        cmocka_unit_test(test_foreign),       cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
