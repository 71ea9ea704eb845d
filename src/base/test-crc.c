/* test-crc.c - known sums, sums in parts, and lengths that an int does not hold. */
#include "base/crc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
/* cmocka.h wants those before it. */
#include <cmocka.h>

/* RFC 3720, B.4. */
static void known(void **state)
{
    uint8_t ones[32];

    memset(ones, 0xff, sizeof(ones));
    assert_int_equal(crc32c(0, ones, sizeof(ones)), 0x62a8ab43);
    assert_int_equal(crc32c(0, (uint8_t[32]){}, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    assert_int_equal(crc32c(7, NULL, 0), 7);
}

static void large(void **state)
{
    size_t len = (5ULL << 30) + 3;
    uint8_t *zeros = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint32_t sum = 0;

    assert_ptr_not_equal(zeros, MAP_FAILED);
    for (size_t at = 0, n; at < len; at += n) {
        n = len - at < 1000000000 ? len - at : 1000000000;
        sum = crc32c(sum, zeros + at, n);
    }
    assert_int_equal(crc32c(0, zeros, len), sum);
    munmap(zeros, len);
}

/* Each bit of short and long buffers, and what no bit explains. */
static void flipped_bit(void **state)
{
    static uint8_t buf[8256];
    uint32_t none = 0;
    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (uint8_t)(i * 41 + i / 256);
    for (size_t len = 1; len <= sizeof(buf); len = len < 70 ? len + 1 : len * 3 / 2) {
        uint32_t crc = crc32c(0, buf, len);
        for (size_t bit = 0; bit < len * 8; bit += len < 70 ? 1 : 97) {
            buf[bit / 8] ^= 1 << bit % 8;
            assert_int_equal(crc32c_flipped_bit(crc ^ crc32c(0, buf, len), len), bit);
            buf[bit / 8] ^= 1 << bit % 8;
        }
        assert_int_equal(crc32c_flipped_bit(0, len), -1);
        /* One byte more would be needed. */
        buf[0] ^= 1;
        none = crc ^ crc32c(0, buf, len);
        buf[0] ^= 1;
        assert_int_equal(crc32c_flipped_bit(none, len - 1), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known), cmocka_unit_test(large),
                                       cmocka_unit_test(flipped_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
