/* ram-find.c - where the blocks are in a QEMU that does not say so (before 8.2).
 *
 * Three ways, one after the other, each only where its answer is the only one:
 * 1. a shared mapping of the block's size, whose file bears its name or which alone has that size;
 * 2. blocks that the guest sees at an address now: "info mtree -f", then "gpa2hva";
 * 3. the rest by elimination: QEMU puts each private block at a multiple of 2 MiB with one guard
 *    page behind it. Among several of one size, the first bytes tell ROMs and the table loader;
 *    blocks with the same bytes may be taken for one another. */
#include "base/cleanup.h"
#include "guest/monitor.h"
#include "guest/ram-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ALIGN_BYTES (2u << 20)
#define COMPARE_MAX (16u << 20)

struct finder {
    struct ram_block *blocks;
    unsigned n;
    const struct mapping *maps;
    unsigned n_maps;
    int mem_fd;
};

static bool is_taken(const struct finder *f, const struct mapping *m)
{
    for (unsigned i = 0; i < f->n; i++)
        if (f->blocks[i].host >= m->start && f->blocks[i].host < m->end)
            return true;
    return false;
}

/* ---- 1: shared mappings --------------------------------------------------------------------- */

static bool bears_name(const struct mapping *m, const struct ram_block *b)
{
    char name[RAM_NAME_BYTES + 32];

    snprintf(name, sizeof(name), "/qemu_back_mem.%s.", b->name);
    return strstr(m->path, name) != NULL;
}

static void find_shared(struct finder *f, struct ram_block *b)
{
    const struct mapping *named = NULL, *sized = NULL;
    unsigned n_named = 0, n_sized = 0, n_blocks = 0;

    for (unsigned i = 0; i < f->n_maps; i++) {
        const struct mapping *m = &f->maps[i];
        if (!m->shared || m->end - m->start != b->total_bytes || is_taken(f, m))
            continue;
        n_sized++;
        sized = m;
        if (bears_name(m, b)) {
            n_named++;
            named = m;
        }
    }
    for (unsigned i = 0; i < f->n; i++)
        n_blocks += !f->blocks[i].host && f->blocks[i].total_bytes == b->total_bytes;
    if (n_named == 1)
        b->host = named->start;
    else if (!n_named && n_sized == 1 && n_blocks == 1)
        b->host = sized->start;
}

/* ---- 2: what the guest sees ----------------------------------------------------------------- */

/* A block's name is its region's, or the device's path, a slash and that. */
static struct ram_block *block_of_region(struct finder *f, const char *region)
{
    struct ram_block *found = NULL;
    size_t len = strlen(region);

    for (unsigned i = 0; i < f->n; i++) {
        struct ram_block *b = &f->blocks[i];
        size_t name_len = strlen(b->name);
        if (name_len < len || strcmp(b->name + name_len - len, region) != 0 ||
            (name_len > len && b->name[name_len - len - 1] != '/'))
            continue;
        if (found)
            return NULL;
        found = b;
    }
    return found;
}

static int ask_address(struct finder *f, struct ram_block *b, uint64_t gpa, uint64_t offset,
                       struct monitor *monitor, uint64_t end_us, struct why *why)
{
    _cleanup_free_ char *text = NULL;
    char line[64];
    unsigned long long host;

    snprintf(line, sizeof(line), "gpa2hva 0x%" PRIx64, gpa);
    int r = monitor_run_hmp(monitor, line, end_us, &text, why);
    const char *at = r < 0 ? NULL : strstr(text, ") is 0x");
    if (r < 0 || !at || sscanf(at, ") is 0x%16llx", &host) != 1 || host < offset)
        return r;
    const struct mapping *m = mapping_at(f->maps, f->n_maps, host - offset, b->total_bytes);
    if (m && !is_taken(f, m))
        b->host = host - offset;
    return 0;
}

static int find_seen(struct finder *f, struct monitor *monitor, uint64_t end_us, struct why *why)
{
    _cleanup_free_ char *text = NULL;
    char *save = NULL;
    int r = monitor_run_hmp(monitor, "info mtree -f", end_us, &text, why);

    if (r < 0)
        return r;
    for (char *line = strtok_r(text, "\r\n", &save); line && r == 0;
         line = strtok_r(NULL, "\r\n", &save)) {
        unsigned long long gpa, end, offset = 0;
        char region[RAM_NAME_BYTES];
        int prio, name_at = 0;
        if (sscanf(line, " %16llx-%16llx (prio %d, %*[a-z]): %n", &gpa, &end, &prio, &name_at) !=
                3 ||
            !name_at)
            continue;
        snprintf(region, sizeof(region), "%s", line + name_at);
        char *at = strstr(region, " @");
        if (at && sscanf(at, " @%16llx", &offset) != 1)
            continue;
        region[strcspn(region, " ")] = '\0';
        struct ram_block *b = block_of_region(f, region);
        if (b && !b->host)
            r = ask_address(f, b, gpa, offset, monitor, end_us, why);
    }
    return r;
}

/* ---- 3: elimination ------------------------------------------------------------------------- */

/* What the first bytes show it to be. */
enum kind { KIND_OTHER, KIND_ROM, KIND_LOADER };

static enum kind kind_of_block(const struct ram_block *b)
{
    size_t len = strlen(b->name);

    if (!strcmp(b->name, "/rom@etc/table-loader"))
        return KIND_LOADER;
    return len > 4 && !strcmp(b->name + len - 4, ".rom") && strcmp(b->name, "pc.rom") != 0
               ? KIND_ROM
               : KIND_OTHER;
}

static enum kind kind_of_mapping(const struct finder *f, const struct mapping *m)
{
    unsigned char head[16] = {};

    if (pread(f->mem_fd, head, sizeof(head), (off_t)m->start) != sizeof(head))
        return KIND_OTHER;
    if (head[0] == 0x55 && head[1] == 0xaa)
        return KIND_ROM;
    return head[0] == 1 && !head[1] && !memcmp(head + 4, "etc/acpi", 8) ? KIND_LOADER : KIND_OTHER;
}

static bool is_candidate(const struct finder *f, unsigned i, const struct ram_block *b)
{
    const struct mapping *m = &f->maps[i], *guard = i + 1 < f->n_maps ? m + 1 : NULL;

    return !m->shared && m->read && m->write && m->end - m->start == b->total_bytes &&
           m->start % ALIGN_BYTES == 0 && guard && guard->start == m->end && !guard->read &&
           guard->end - guard->start == RAM_PAGE_BYTES && !is_taken(f, m);
}

static bool have_equal_bytes(const struct finder *f, const struct mapping *a,
                             const struct mapping *b)
{
    size_t len = a->end - a->start;

    if (len > COMPARE_MAX)
        return false;
    _cleanup_free_ char *bytes = malloc(2 * len);
    return bytes && pread(f->mem_fd, bytes, len, (off_t)a->start) == (ssize_t)len &&
           pread(f->mem_fd, bytes + len, len, (off_t)b->start) == (ssize_t)len &&
           !memcmp(bytes, bytes + len, len);
}

/* Whether b's place is the only possible one among those of its kind (any: of all kinds). */
static const struct mapping *only_place(const struct finder *f, const struct ram_block *b, bool any)
{
    const struct mapping *first = NULL;
    unsigned n_places = 0, n_blocks = 0;
    enum kind kind = kind_of_block(b);
    bool equal = true;

    for (unsigned i = 0; i < f->n; i++) {
        const struct ram_block *other = &f->blocks[i];
        n_blocks += !other->host && other->total_bytes == b->total_bytes &&
                    (any || kind_of_block(other) == kind);
    }
    for (unsigned i = 0; i < f->n_maps; i++) {
        if (!is_candidate(f, i, b) || (!any && kind_of_mapping(f, &f->maps[i]) != kind))
            continue;
        if (!first)
            first = &f->maps[i];
        else
            equal = equal && have_equal_bytes(f, first, &f->maps[i]);
        n_places++;
    }
    return n_places && n_places == n_blocks && equal ? first : NULL;
}

static void eliminate(struct finder *f)
{
    bool again = true;

    while (again) {
        again = false;
        for (unsigned i = 0; i < f->n; i++) {
            struct ram_block *b = &f->blocks[i];
            const struct mapping *m = b->host ? NULL : only_place(f, b, true);
            if (!b->host && !m && kind_of_block(b) != KIND_OTHER)
                m = only_place(f, b, false);
            if (m) {
                b->host = m->start;
                again = true;
            }
        }
    }
}

int ram_find(struct ram_block *blocks, unsigned n, const struct mapping *maps, unsigned n_maps,
             int mem_fd, struct monitor *monitor, uint64_t end_us, struct why *why)
{
    struct finder f = {blocks, n, maps, n_maps, mem_fd};
    bool all = true;

    for (unsigned i = 0; i < n; i++)
        if (!blocks[i].host)
            find_shared(&f, &blocks[i]);
    for (unsigned i = 0; i < n; i++)
        all = all && blocks[i].host;
    if (all)
        return 0;
    int r = find_seen(&f, monitor, end_us, why);
    if (r < 0)
        return r;
    eliminate(&f);
    for (unsigned i = 0; i < n; i++)
        if (!blocks[i].host)
            return why_set(why, -EOPNOTSUPP,
                           "it cannot be told where the memory block %s is in this QEMU, whose "
                           "version does not say it; use QEMU 8.2 or later, or leave out the "
                           "device (romfile= leaves out a network card's)",
                           blocks[i].name);
    return 0;
}
