/* size.c - sizes in bytes as people write them. */
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char units[] = "KMGTPE";

/* The shift of a unit such as "G", "gb" or "GiB"; 0 for none or "B"; -1 when it is no unit. */
static int unit_shift(const char *text)
{
    int shift = 0;

    if (*text) {
        const char *unit = strchr(units, toupper((unsigned char)*text));
        if (unit) {
            shift = 10 * (int)(unit - units + 1);
            text++;
            if ((text[0] == 'i' || text[0] == 'I') && (text[1] == 'b' || text[1] == 'B'))
                text++;
        }
    }
    if (*text == 'b' || *text == 'B')
        text++;
    return *text ? -1 : shift;
}

int size_parse_decimal(const char *text, uint64_t *ret_bytes)
{
    uint64_t value = 0;

    if (!*text)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return -ERANGE;
    }
    *ret_bytes = value;
    return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
    unsigned __int128 value = 0;
    uint64_t divisor = 1;
    bool any = false, fraction = false;

    for (; (*text >= '0' && *text <= '9') || (*text == '.' && any && !fraction); text++) {
        if (*text == '.') {
            fraction = true;
            continue;
        }
        any = true;
        value = value * 10 + (unsigned)(*text - '0');
        if (fraction)
            divisor *= 10;
        if (value >> 64 || divisor > 1000000000000000ULL)
            return -ERANGE;
    }
    if (!any || text[-1] == '.')
        return -EINVAL;

    int shift = unit_shift(text);
    if (shift < 0 || (fraction && shift == 0))
        return -EINVAL;
    value <<= shift; /* below 2^124: no overflow */
    if (value % divisor)
        return -EINVAL;
    value /= divisor;
    if (value >> 64)
        return -ERANGE;
    *ret_bytes = (uint64_t)value;
    return 0;
}

const char *size_format(uint64_t bytes, char out[SIZE_TEXT_CHARS])
{
    double value = (double)bytes;
    int unit = -1;

    while (value >= 999.5 && unit < (int)strlen(units) - 1) {
        value /= 1024;
        unit++;
    }
    if (unit < 0)
        snprintf(out, SIZE_TEXT_CHARS, "%u", (unsigned)bytes);
    else if (value < 9.95 && (uint64_t)(value * 10 + 0.5) % 10)
        snprintf(out, SIZE_TEXT_CHARS, "%.1f%c", value, units[unit]);
    else
        snprintf(out, SIZE_TEXT_CHARS, "%.0f%c", value, units[unit]);
    return out;
}
