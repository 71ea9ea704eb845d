/* ram-parse.c - the text of "info ramblock". A column that we do not know, a size that is none, a
 * name twice: refused, for it is the list of what a checkpoint has to hold. */
#include "guest/ram.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_OLD 5 /* Block Name, PSize, Offset, Used, Total; later HVA, RO too */

struct line {
    const char *at, *end;
};

/* The next line without its end; false: there is none. */
static bool next_line(const char **text, struct line *ret)
{
    if (!**text)
        return false;
    size_t len = strcspn(*text, "\r\n");
    *ret = (struct line){*text, *text + len};
    *text += len;
    *text += strspn(*text, "\r\n");
    return true;
}

static struct line last_word(struct line *line)
{
    const char *end = line->end;

    while (end > line->at && end[-1] == ' ')
        end--;
    const char *at = end;
    while (at > line->at && at[-1] != ' ')
        at--;
    line->end = at;
    return (struct line){at, end};
}

static bool is_word(struct line word, const char *text)
{
    return (size_t)(word.end - word.at) == strlen(text) && !memcmp(word.at, text, strlen(text));
}

/* "0x" and sixteen digits. */
static bool take_number(struct line *line, uint64_t *ret)
{
    struct line word = last_word(line);
    uint64_t value = 0;

    if (word.end - word.at != 18 || word.at[0] != '0' || word.at[1] != 'x')
        return false;
    for (const char *c = word.at + 2; c < word.end; c++) {
        if (!isxdigit((unsigned char)*c))
            return false;
        value = value << 4 |
                (uint64_t)(isdigit((unsigned char)*c) ? *c - '0'
                                                      : tolower((unsigned char)*c) - 'a' + 10);
    }
    *ret = value;
    return true;
}

/* "4 KiB". */
static bool take_page_size(struct line *line, uint32_t *ret)
{
    struct line unit = last_word(line), number = last_word(line);
    unsigned shift = is_word(unit, "KiB")   ? 10
                     : is_word(unit, "MiB") ? 20
                     : is_word(unit, "GiB") ? 30
                                            : 0;
    uint64_t value = 0;

    if (!shift || number.at == number.end || number.end - number.at > 4)
        return false;
    for (const char *c = number.at; c < number.end; c++) {
        if (!isdigit((unsigned char)*c))
            return false;
        value = 10 * value + (uint64_t)(*c - '0');
    }
    value <<= shift;
    if (value < RAM_PAGE_BYTES || value > 1u << 30 || value & (value - 1))
        return false;
    *ret = (uint32_t)value;
    return true;
}

/* What is left is the name, right-aligned; nothing: see ram_parse(). */
static bool take_name(struct line *line, char name[RAM_NAME_BYTES])
{
    while (line->at < line->end && *line->at == ' ')
        line->at++;
    while (line->end > line->at && line->end[-1] == ' ')
        line->end--;
    size_t len = (size_t)(line->end - line->at);
    if (len >= RAM_NAME_BYTES)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isgraph((unsigned char)line->at[i]) && line->at[i] != ' ')
            return false;
    memcpy(name, line->at, len);
    name[len] = '\0';
    return true;
}

static bool parse_row(struct line line, bool has_host, struct ram_block *b)
{
    uint64_t offset;

    *b = (struct ram_block){.fd = -1};
    if (has_host) {
        struct line ro = last_word(&line);
        if ((!is_word(ro, "ro") && !is_word(ro, "rw")) || !take_number(&line, &b->host) ||
            !b->host || b->host % RAM_PAGE_BYTES)
            return false;
    }
    return take_number(&line, &b->total_bytes) && take_number(&line, &b->used_bytes) &&
           take_number(&line, &offset) && take_page_size(&line, &b->page_bytes) &&
           take_name(&line, b->name) && b->used_bytes && b->used_bytes <= b->total_bytes &&
           b->total_bytes < 1ULL << 52 && b->used_bytes % RAM_PAGE_BYTES == 0 &&
           b->total_bytes % RAM_PAGE_BYTES == 0 && b->host + b->total_bytes > b->host;
}

/* The header's columns say which rows follow. */
static bool parse_header(struct line line, bool *ret_has_host)
{
    struct line word = last_word(&line);

    *ret_has_host = is_word(word, "RO");
    if (*ret_has_host) {
        word = last_word(&line);
        if (!is_word(word, "HVA"))
            return false;
        word = last_word(&line);
    }
    static const char *const before[COLUMNS_OLD] = {"Used", "Offset", "PSize", "Name", "Block"};
    if (!is_word(word, "Total"))
        return false;
    for (unsigned i = 0; i < COLUMNS_OLD; i++)
        if (!is_word(last_word(&line), before[i]))
            return false;
    return last_word(&line).at == last_word(&line).end;
}

static bool is_new(const struct ram_block *blocks, int n, const struct ram_block *b)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(blocks[i].name, b->name) ||
            (b->host && b->host < blocks[i].host + blocks[i].total_bytes &&
             blocks[i].host < b->host + b->total_bytes))
            return false;
    return true;
}

int ram_parse(const char *text, struct ram_block *blocks, struct why *why)
{
    struct line line;
    bool has_host = false;
    int n = 0;

    if (!next_line(&text, &line) || !parse_header(line, &has_host))
        return why_set(why, -EPROTO,
                       "this QEMU's list of memory blocks has other columns than "
                       "those of QEMU 7.2 to 10");
    while (next_line(&text, &line)) {
        if (n == RAM_BLOCKS_MAX)
            return why_set(why, -EPROTO, "QEMU has more than %d memory blocks", RAM_BLOCKS_MAX);
        if (!parse_row(line, has_host, &blocks[n]) || !is_new(blocks, n, &blocks[n]))
            return why_set(why, -EPROTO,
                           "QEMU's list of memory blocks has a line that is none: "
                           "%.*s",
                           (int)(line.end - line.at > 200 ? 200 : line.end - line.at), line.at);
        n += *blocks[n].name != '\0';
    }
    return n ? n : why_set(why, -EPROTO, "this QEMU has no memory block; is there a machine?");
}
