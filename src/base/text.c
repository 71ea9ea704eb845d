/* text.c - text that XML-RPC can carry. */
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ESCAPED_CHARS 4 /* \xNN */

/* Bytes of the character at text, which is not the end; 0: it cannot be carried. */
static size_t character(const unsigned char *text)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800};
    size_t n = *text < 0x80 ? 1 : *text >> 5 == 6 ? 2 : *text >> 4 == 14 ? 3 : 0;

    if (n == 1)
        return *text >= 0x20 || strchr("\t\n\r", *text) ? 1 : 0;
    unsigned c = n ? *text & (0xffu >> (n + 1)) : 0;
    for (size_t i = 1; i < n; i++) {
        if (text[i] >> 6 != 2)
            return 0;
        c = c << 6 | (text[i] & 0x3f);
    }
    return n && c >= least[n] && c <= 0xfffd && !(c >= 0xd800 && c < 0xe000) ? n : 0;
}

const char *text_refused(const char *text)
{
    while (*text) {
        size_t n = character((const unsigned char *)text);
        if (!n)
            return text;
        text += n;
    }
    return NULL;
}

char *text_carried(const char *text)
{
    char *copy = malloc(ESCAPED_CHARS * strlen(text) + 1), *out = copy;

    if (!copy)
        return NULL;
    while (*text) {
        size_t n = character((const unsigned char *)text);
        if (n) {
            memcpy(out, text, n);
            out += n;
            text += n;
        } else {
            out += sprintf(out, "\\x%02x", (unsigned char)*text++);
        }
    }
    *out = '\0';
    return copy;
}

int text_cut(const char *text, int max_bytes)
{
    int n = max_bytes;

    if (strlen(text) <= (size_t)max_bytes)
        return n;
    while (n > 0 && max_bytes - n < 3 && ((unsigned char)text[n]) >> 6 == 2)
        n--;
    return n;
}
