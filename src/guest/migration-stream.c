/* migration-stream.c - QEMU's migration stream.
 *
 * States: HEADER -> CONFIG -> SUBSECTIONS -> SECTIONS <-> BLOCKS, PAGES, FOOTER
 *                                            SECTIONS -> DEVICE -> SECTIONS or DESCRIPTION or DONE
 * A step takes a whole record or nothing, so that a stream can be read as it comes. */
#include "guest/migration-stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum state {
    HEADER,
    CONFIG,
    SUBSECTIONS,
    SECTIONS,
    BLOCKS,
    PAGES,
    FOOTER,
    DEVICE,
    DESCRIPTION,
    DONE
};

enum record {
    END_OF_DEVICES = 0x00,
    SECTION_START = 0x01,
    SECTION_PART = 0x02,
    SECTION_END = 0x03,
    SECTION_FULL = 0x04,
    SUBSECTION = 0x05,
    VM_DESCRIPTION = 0x06,
    CONFIGURATION = 0x07,
    COMMAND = 0x08,
    SECTION_FOOTER = 0x7e,
};

/* In the low bits of a page's offset. */
enum page_flag {
    PAGE_ZERO = 0x02,
    PAGE_BLOCK_LIST = 0x04,
    PAGE_RAW = 0x08,
    PAGE_END = 0x10,
    PAGE_SAME_BLOCK = 0x20,
};

#define HEADER_BYTES      8
#define SWITCHOVER_START  0x0b /* of the commands the one that means nothing to us */
#define RAM_VERSION       4
#define RAM_SECTION       0x7ffffff0u /* of the streams that are written here */
#define CAPABILITIES_MAX  64
#define DESCRIPTION_START 6 /* type, length, and the bracket */

static const uint8_t header[HEADER_BYTES] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};

/* ---- reading -------------------------------------------------------------------------------- */

/* Somewhere in the stream. A reader that runs off its end is short, and gives zeros. */
struct cursor {
    const uint8_t *data;
    size_t len, at;
    bool is_short;
};

static const uint8_t *take(struct cursor *c, size_t len)
{
    if (c->is_short || len > c->len - c->at) {
        c->is_short = true;
        return NULL;
    }
    c->at += len;
    return c->data + c->at - len;
}

static uint8_t take_u8(struct cursor *c)
{
    const uint8_t *p = take(c, 1);
    return p ? *p : 0;
}

static uint32_t take_u32(struct cursor *c)
{
    const uint8_t *p = take(c, 4);
    return p ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3] : 0;
}

static uint64_t take_u64(struct cursor *c)
{
    uint64_t high = take_u32(c);
    return high << 32 | take_u32(c);
}

/* Names go into messages and other streams: printable characters only. */
static bool take_chars(struct cursor *c, size_t len, char out[MIGRATION_NAME_CHARS])
{
    const uint8_t *p = take(c, len);

    if (!p)
        return true;
    if (len == 0 || len >= MIGRATION_NAME_CHARS)
        return false;
    for (size_t i = 0; i < len; i++)
        if (p[i] < 0x20 || p[i] > 0x7e)
            return false;
    memcpy(out, p, len);
    out[len] = '\0';
    return true;
}

static bool take_name(struct cursor *c, char out[MIGRATION_NAME_CHARS])
{
    return take_chars(c, take_u8(c), out);
}

static int damaged(const struct migration_stream *s, const char *what, struct why *why)
{
    return why_set(why, -EBADMSG,
                   "QEMU's state is damaged, or of a QEMU that is not known: %s at "
                   "byte %zu",
                   what, s->at);
}

/* ---- header and configuration --------------------------------------------------------------- */

static int read_header(struct migration_stream *s, struct cursor *c, struct why *why)
{
    const uint8_t *p = take(c, HEADER_BYTES);

    if (!p)
        return 0;
    if (memcmp(p, header, HEADER_BYTES) != 0)
        return damaged(s, "no header", why);
    s->state = CONFIG;
    return 0;
}

/* A stream of device state alone has none. */
static int read_config(struct migration_stream *s, struct cursor *c, struct why *why)
{
    char name[MIGRATION_NAME_CHARS] = "";

    uint8_t type = take_u8(c);
    if (c->is_short)
        return 0;
    if (type != CONFIGURATION) {
        c->at--;
        s->state = SECTIONS;
        return 0;
    }
    if (!take_chars(c, take_u32(c), name))
        return damaged(s, "no machine type", why);
    if (c->is_short)
        return 0;
    strcpy(s->machine, name);
    s->state = SUBSECTIONS;
    return 0;
}

static int read_capabilities(struct migration_stream *s, struct cursor *c, struct why *why)
{
    char name[MIGRATION_NAME_CHARS] = "";
    bool shared = false;

    uint32_t n = take_u32(c);
    if (n > CAPABILITIES_MAX)
        return damaged(s, "too many capabilities", why);
    for (; n && !c->is_short; n--) {
        if (!take_name(c, name))
            return damaged(s, "no capability", why);
        shared = shared || !strcmp(name, "x-ignore-shared");
    }
    if (!c->is_short)
        s->ignore_shared = shared;
    return 0;
}

static int read_subsection(struct migration_stream *s, struct cursor *c, struct why *why)
{
    char name[MIGRATION_NAME_CHARS] = "";
    int r = 0;

    uint8_t type = take_u8(c);
    if (c->is_short)
        return 0;
    if (type != SUBSECTION) {
        c->at--;
        s->state = SECTIONS;
        return 0;
    }
    if (!take_name(c, name))
        return damaged(s, "no name of a subsection", why);
    uint32_t version = take_u32(c);
    if (c->is_short)
        return 0;
    if (version != 1)
        return damaged(s, "an unknown version of a subsection", why);
    if (!strcmp(name, "configuration/capabilities"))
        r = read_capabilities(s, c, why);
    else if (!strcmp(name, "configuration/target-page-bits"))
        r = take_u32(c) == 12 || c->is_short ? 0 : damaged(s, "pages that are not of 4 KiB", why);
    else if (!strcmp(name, "configuration/uuid"))
        take(c, 16);
    else
        r = damaged(s, "an unknown subsection of the configuration", why);
    return r;
}

/* ---- RAM ------------------------------------------------------------------------------------ */

static int find_block(const struct migration_stream *s, const char *name)
{
    for (unsigned i = 0; i < s->n_blocks; i++)
        if (!strcmp(s->blocks[i].name, name))
            return (int)i;
    return -1;
}

/* The whole list, or nothing. */
static int read_blocks(struct migration_stream *s, struct cursor *c, struct why *why)
{
    uint64_t left = take_u64(c);
    unsigned n = 0;

    if (c->is_short)
        return 0;
    if ((left & (MIGRATION_PAGE_BYTES - 1)) != PAGE_BLOCK_LIST)
        return damaged(s, "no list of RAM blocks", why);
    left -= PAGE_BLOCK_LIST;
    if (!s->blocks && !(s->blocks = calloc(MIGRATION_BLOCKS_MAX, sizeof(*s->blocks))))
        return why_set(why, -ENOMEM, "no memory");
    for (s->n_blocks = 0; left && !c->is_short; n++) {
        struct migration_block block = {};
        if (n == MIGRATION_BLOCKS_MAX)
            return damaged(s, "too many RAM blocks", why);
        if (!take_name(c, block.name))
            return damaged(s, "no name of a RAM block", why);
        block.bytes = take_u64(c);
        if (s->ignore_shared)
            take_u64(c); /* where the guest sees it */
        if (c->is_short)
            break;
        if (block.bytes > left || block.bytes % MIGRATION_PAGE_BYTES ||
            find_block(s, block.name) >= 0)
            return damaged(s, "a RAM block that does not fit", why);
        left -= block.bytes;
        s->blocks[s->n_blocks++] = block;
    }
    if (!c->is_short)
        s->state = PAGES;
    return 0;
}

static int add_page(struct migration_stream *s, uint64_t offset, size_t at, struct why *why)
{
    if (offset >= s->blocks[s->last_block].bytes)
        return damaged(s, "a page beyond the end of its RAM block", why);
    if (s->n_pages == s->pages_room) {
        size_t room = s->pages_room ? 2 * s->pages_room : 128;
        struct migration_page *pages = reallocarray(s->pages, room, sizeof(*pages));
        if (!pages)
            return why_set(why, -ENOMEM, "no memory");
        s->pages = pages;
        s->pages_room = room;
    }
    s->pages[s->n_pages++] =
        (struct migration_page){.block = s->last_block, .offset_bytes = offset, .at = at};
    return 0;
}

static int read_page(struct migration_stream *s, struct cursor *c, struct why *why)
{
    uint64_t word = take_u64(c), offset = word & ~(uint64_t)(MIGRATION_PAGE_BYTES - 1);
    unsigned flags = word & (MIGRATION_PAGE_BYTES - 1), kind = flags & ~(unsigned)PAGE_SAME_BLOCK;
    char name[MIGRATION_NAME_CHARS] = "";
    int block = (int)s->last_block;
    size_t at = 0;

    if (c->is_short)
        return 0;
    if (flags == PAGE_END) {
        s->state = FOOTER;
        return 0;
    }
    if (kind != PAGE_RAW && kind != PAGE_ZERO)
        return why_set(why, -EOPNOTSUPP,
                       "QEMU sends its RAM in a way that is not known (flags %#x)", flags);
    if (!(flags & PAGE_SAME_BLOCK)) {
        if (!take_name(c, name))
            return damaged(s, "no name of a RAM block", why);
        block = c->is_short ? 0 : find_block(s, name);
    }
    if (kind == PAGE_RAW) {
        at = c->at;
        take(c, MIGRATION_PAGE_BYTES);
    } else if (take_u8(c) != 0) {
        return damaged(s, "a page filled with something", why);
    }
    if (c->is_short)
        return 0;
    if (block < 0 || (unsigned)block >= s->n_blocks)
        return damaged(s, "a page of an unknown RAM block", why);
    s->last_block = (unsigned)block;
    return add_page(s, offset, at, why);
}

/* ---- sections ------------------------------------------------------------------------------- */

static int read_footer(struct migration_stream *s, struct cursor *c, struct why *why)
{
    uint8_t type = take_u8(c);
    uint32_t id = take_u32(c);

    if (c->is_short)
        return 0;
    if (type != SECTION_FOOTER || id != s->ram_id)
        return damaged(s, "no footer", why);
    if (s->ram_part == SECTION_END)
        s->ram_complete = true;
    s->state = SECTIONS;
    return 0;
}

static int read_ram_section(struct migration_stream *s, struct cursor *c, uint8_t type,
                            struct why *why)
{
    char name[MIGRATION_NAME_CHARS] = "";
    uint32_t id = take_u32(c);

    if (type == SECTION_START) {
        if (!take_name(c, name))
            return damaged(s, "no name of a section", why);
        uint32_t instance = take_u32(c), version = take_u32(c);
        if (c->is_short)
            return 0;
        if (strcmp(name, "ram") != 0)
            return why_set(why, -EOPNOTSUPP,
                           "the machine has state of %s, which is sent in parts: it cannot be kept",
                           name);
        if (instance != 0 || version != RAM_VERSION || s->n_blocks)
            return damaged(s, "an unknown version of RAM", why);
        s->ram_id = id;
    } else if (c->is_short) {
        return 0;
    } else if (!s->n_blocks || id != s->ram_id || s->ram_complete) {
        return damaged(s, "a part of nothing", why);
    }
    s->ram_part = type; /* until its footer */
    s->state = type == SECTION_START ? BLOCKS : PAGES;
    return 0;
}

/* A section's head behind its type. False: it is none (or short). */
static bool take_head(struct cursor *c, struct migration_section *ret)
{
    ret->id = take_u32(c);
    if (!take_name(c, ret->name))
        return false;
    ret->instance = take_u32(c);
    ret->version = take_u32(c);
    ret->at = c->at;
    return !c->is_short;
}

static bool is_new(const struct migration_stream *s, uint32_t id)
{
    for (unsigned i = 0; i < s->n_sections; i++)
        if (s->sections[i].id == id)
            return false;
    return !s->n_blocks || id != s->ram_id;
}

static int read_device_head(struct migration_stream *s, struct cursor *c, struct why *why)
{
    struct migration_section section = {};

    if (!take_head(c, &section))
        return c->is_short ? 0 : damaged(s, "no name of a section", why);
    if (!is_new(s, section.id))
        return damaged(s, "a section that was there before", why);
    if (s->n_sections == MIGRATION_SECTIONS_MAX)
        return damaged(s, "too many sections", why);
    if (!s->sections && !(s->sections = calloc(MIGRATION_SECTIONS_MAX, sizeof(*s->sections))))
        return why_set(why, -ENOMEM, "no memory");
    if (!s->n_sections)
        s->devices_at = s->at;
    s->sections[s->n_sections++] = section;
    s->search_at = c->at;
    s->state = DEVICE;
    return 0;
}

static int read_command(const struct migration_stream *s, struct cursor *c, struct why *why)
{
    uint32_t word = take_u32(c); /* the command, and the length of what belongs to it */

    if (c->is_short || word == SWITCHOVER_START << 16)
        return 0;
    return why_set(why, -EOPNOTSUPP, "QEMU sends a command in its state that is not known (%#x)",
                   word >> 16);
}

static int read_section(struct migration_stream *s, struct cursor *c, struct why *why)
{
    uint8_t type = take_u8(c);

    if (c->is_short)
        return 0;
    if (type == SECTION_FULL && (s->ram_complete || !s->n_blocks))
        return read_device_head(s, c, why);
    if (type >= SECTION_START && type <= SECTION_END && !s->n_sections)
        return read_ram_section(s, c, type, why);
    if (type == COMMAND && !s->n_sections)
        return read_command(s, c, why);
    if (type != END_OF_DEVICES || !s->n_sections)
        return damaged(s, "no section", why);
    s->devices_bytes = c->at - s->devices_at;
    s->state = DESCRIPTION;
    return 0;
}

/* Whether what stands at c, behind a footer, may follow it. Short: not known yet. */
static bool may_follow(const struct migration_stream *s, struct cursor *c, bool final)
{
    struct migration_section next = {};

    uint8_t type = take_u8(c);
    if (type == SECTION_FULL)
        return take_head(c, &next) && is_new(s, next.id);
    if (c->is_short || type != END_OF_DEVICES)
        return false;
    if (final && c->at == c->len)
        return true;
    if (take_u8(c) != VM_DESCRIPTION)
        return false;
    uint32_t len = take_u32(c);
    return len >= 2 && take_u8(c) == '{' && !c->is_short;
}

/* Look for the end of the device's content. */
static int read_device(struct migration_stream *s, struct cursor *c, bool final)
{
    struct migration_section *section = &s->sections[s->n_sections - 1];
    uint8_t footer[5] = {SECTION_FOOTER, (uint8_t)(section->id >> 24), (uint8_t)(section->id >> 16),
                         (uint8_t)(section->id >> 8), (uint8_t)section->id};

    for (;;) {
        const uint8_t *p = memmem(c->data + s->search_at, c->len - s->search_at, footer, 5);
        if (!p) {
            if (c->len - s->search_at > 4)
                s->search_at = c->len - 4;
            c->is_short = true;
            return 0;
        }
        s->search_at = (size_t)(p - c->data);
        struct cursor behind = *c;
        behind.at = s->search_at + sizeof(footer);
        if (may_follow(s, &behind, final))
            break;
        if (behind.is_short && !final) {
            c->is_short = true;
            return 0;
        }
        s->search_at++;
    }
    section->bytes = s->search_at - section->at;
    c->at = s->search_at + sizeof(footer);
    s->state = SECTIONS;
    return 0;
}

/* What is behind the devices is not looked at; they are complete. */
static int read_description(struct migration_stream *s, struct cursor *c, bool final,
                            struct why *why)
{
    if (c->at == c->len && !final) {
        c->is_short = true;
        return 0;
    }
    if (c->at < c->len && c->data[c->at] != VM_DESCRIPTION)
        return damaged(s, "something behind the end", why);
    s->complete = true;
    s->state = DONE;
    return 0;
}

static int read_step(struct migration_stream *s, struct cursor *c, bool final, struct why *why)
{
    switch ((enum state)s->state) {
    case HEADER:
        return read_header(s, c, why);
    case CONFIG:
        return read_config(s, c, why);
    case SUBSECTIONS:
        return read_subsection(s, c, why);
    case SECTIONS:
        return read_section(s, c, why);
    case BLOCKS:
        return read_blocks(s, c, why);
    case PAGES:
        return read_page(s, c, why);
    case FOOTER:
        return read_footer(s, c, why);
    case DEVICE:
        return read_device(s, c, final);
    case DESCRIPTION:
        return read_description(s, c, final, why);
    case DONE:
        break;
    }
    return 0;
}

int migration_read(struct migration_stream *s, const uint8_t *data, size_t len, bool final,
                   struct why *why)
{
    while (s->state != DONE) {
        struct cursor c = {.data = data, .len = len, .at = s->at};
        int state = s->state;
        int r = read_step(s, &c, final, why);
        if (r < 0)
            return r;
        if (c.is_short && final)
            return damaged(s, "an early end", why);
        if (c.is_short) {
            s->state = state;
            return -EAGAIN;
        }
        s->at = c.at;
    }
    return 0;
}

void migration_free(struct migration_stream *s)
{
    free(s->blocks);
    free(s->pages);
    free(s->sections);
    *s = (struct migration_stream){};
}

/* ---- writing -------------------------------------------------------------------------------- */

void migration_buffer_free(struct migration_buffer *b)
{
    free(b->data);
    *b = (struct migration_buffer){};
}

void migration_append(struct migration_buffer *b, const void *data, size_t len)
{
    if (b->failed || len == 0)
        return;
    if (len > b->room - b->len) {
        size_t room = b->room ? b->room : 65536;
        while (room - b->len < len)
            room *= 2;
        uint8_t *grown = realloc(b->data, room);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->room = room;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void put_u8(struct migration_buffer *b, uint8_t value)
{
    migration_append(b, &value, 1);
}

static void put_u32(struct migration_buffer *b, uint32_t value)
{
    uint8_t p[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                    (uint8_t)value};
    migration_append(b, p, sizeof(p));
}

static void put_u64(struct migration_buffer *b, uint64_t value)
{
    put_u32(b, (uint32_t)(value >> 32));
    put_u32(b, (uint32_t)value);
}

static void put_name(struct migration_buffer *b, const char *name)
{
    size_t len = strlen(name);

    assert(len < MIGRATION_NAME_CHARS);
    put_u8(b, (uint8_t)len);
    migration_append(b, name, len);
}

static void put_ram_end(struct migration_buffer *b)
{
    put_u64(b, PAGE_END);
    put_u8(b, SECTION_FOOTER);
    put_u32(b, RAM_SECTION);
}

void migration_write_begin(struct migration_buffer *b, const char *machine,
                           const struct migration_block *blocks, unsigned n_blocks)
{
    uint64_t total = 0;

    migration_append(b, header, sizeof(header));
    put_u8(b, CONFIGURATION);
    put_u32(b, (uint32_t)strlen(machine));
    migration_append(b, machine, strlen(machine));
    put_u8(b, SECTION_START);
    put_u32(b, RAM_SECTION);
    put_name(b, "ram");
    put_u32(b, 0);
    put_u32(b, RAM_VERSION);
    for (unsigned i = 0; i < n_blocks; i++)
        total += blocks[i].bytes;
    put_u64(b, total | PAGE_BLOCK_LIST);
    for (unsigned i = 0; i < n_blocks; i++) {
        put_name(b, blocks[i].name);
        put_u64(b, blocks[i].bytes);
    }
    put_ram_end(b);
    put_u8(b, SECTION_END);
    put_u32(b, RAM_SECTION);
}

void migration_write_page(struct migration_buffer *b, const char *block, uint64_t offset_bytes,
                          const uint8_t *data)
{
    put_u64(b, offset_bytes | PAGE_RAW);
    put_name(b, block);
    migration_append(b, data, MIGRATION_PAGE_BYTES);
}

void migration_write_devices(struct migration_buffer *b, const uint8_t *devices, size_t len)
{
    put_ram_end(b);
    migration_append(b, devices, len);
}
