/* config.c - the configuration file, by libinih.
 *
 * The handler of libinih is called right after the line it is about was read, so the reader below
 * counts the lines that messages name. */
#include "daemon/config.h"

#include "base/loop.h"
#include "base/report.h"
#include "base/size.h"
#include "export/nbd.h"
#include "image/store.h"

#include <assert.h>
#include <errno.h>
#include <grp.h>
#include <ini.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#define FIELD(name) offsetof(struct config, name)

const struct config_key config_keys[] = {
    {"store",
     "cache-size",
     CONFIG_SIZE,
     FIELD(cache_bytes),
     0,
     1ULL << 50,
     {},
     {},
     "Memory for pages that were read or written lately; 0 keeps none."},
    {"store",
     "table-memory",
     CONFIG_SIZE,
     FIELD(table_bytes),
     8 << 20,
     64ULL << 30,
     {},
     {},
     "Memory for nodes of page tables; what does not fit is read again when it is needed."},
    {"store",
     "checkpoint-interval",
     CONFIG_SIZE,
     FIELD(checkpoint_bytes),
     0,
     1ULL << 40,
     {},
     {},
     "Bytes of log between two checkpoints of the tables. Less makes opening after a crash faster "
     "and writes more; 0 leaves it to the store."},
    {"nbd",
     "max-connections",
     CONFIG_COUNT,
     FIELD(nbd_max_connections),
     1,
     65536,
     {},
     {},
     "NBD clients served at once; a further one is closed. They are fewer where the limit of open "
     "files (LimitNOFILE=) would leave the store too few."},
    {"nbd",
     "buffer-memory",
     CONFIG_SIZE,
     FIELD(nbd_buffer_bytes),
     NBD_MIN_BUFFER_BYTES,
     1ULL << 40,
     {},
     {},
     "Memory for the data of requests of all clients, at least 64M; at the bound clients wait in "
     "turn. Up to a quarter more is taken for rests of huge pages."},
    {"nbd",
     "group",
     CONFIG_GROUP,
     FIELD(nbd_group),
     0,
     0,
     {},
     {},
     "The group, by name or number, whose members may connect to nbd.sock, and so read and write "
     "every disk; the "
     "directory of the sockets is opened to it as far as that wants. libvirt-qemu lets the "
     "machines "
     "of libvirt in, which do not run as root. none: only the daemon's own user, and root."},
    {"control",
     "max-connections",
     CONFIG_COUNT,
     FIELD(control_max_connections),
     1,
     4096,
     {},
     {},
     "Clients of the control API served at once."},
    {"daemon",
     "io-engine",
     CONFIG_CHOICE,
     FIELD(io_engine),
     0,
     0,
     {"auto", "io_uring", "threads"},
     {LOOP_AUTO, LOOP_URING, LOOP_THREADS},
     "How files and sockets are driven; auto takes io_uring, or threads where it is forbidden."},
    {"daemon",
     "log-level",
     CONFIG_CHOICE,
     FIELD(log_level),
     0,
     0,
     {"error", "warning", "info", "debug"},
     {REPORT_ERROR, REPORT_WARNING, REPORT_INFO, REPORT_DEBUG},
     "The least important messages that are printed."},
};
const size_t config_keys_size = sizeof(config_keys) / sizeof(config_keys[0]);

void config_defaults(struct config *config)
{
    *config = (struct config){
        .cache_bytes = store_config_default.cache_bytes,
        .table_bytes = store_config_default.table_bytes,
        .checkpoint_bytes = store_config_default.checkpoint_bytes,
        .io_engine = LOOP_AUTO,
        .nbd_max_connections = nbd_config_default.max_connections,
        .nbd_buffer_bytes = nbd_config_default.buffer_bytes,
        .nbd_group = CONFIG_NO_GROUP,
        .control_max_connections = 64,
        .log_level = REPORT_INFO,
    };
}

static uint64_t *field_of(const struct config_key *key, struct config *config)
{
    return (uint64_t *)(void *)((char *)config + key->offset);
}

const char *config_value_text(const struct config_key *key, const struct config *config,
                              char out[32])
{
    uint64_t value = *(const uint64_t *)(const void *)((const char *)config + key->offset);

    if (key->type == CONFIG_SIZE) {
        char text[SIZE_TEXT_CHARS];
        snprintf(out, 32, "%s", size_format(value, text));
        return out;
    }
    if (key->type == CONFIG_GROUP && value == CONFIG_NO_GROUP)
        snprintf(out, 32, "none");
    else
        snprintf(out, 32, "%" PRIu64, value);
    for (int i = 0; key->type == CONFIG_CHOICE && i < 5 && key->choices[i]; i++)
        if (key->values[i] == value)
            snprintf(out, 32, "%s", key->choices[i]);
    return out;
}

/* ---- what is near a misspelt word ----------------------------------------------------------- */

/* Edit distance of two words of at most 31 characters; 99 for longer ones. */
static unsigned distance(const char *a, const char *b)
{
    size_t n = strlen(b);
    unsigned row[32];

    if (strlen(a) > 31 || n > 31)
        return 99;
    for (size_t j = 0; j <= n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

static const struct config_key *nearest_key(const char *section, const char *name)
{
    const struct config_key *best = NULL;
    unsigned best_distance = UINT_MAX;

    for (size_t i = 0; i < config_keys_size; i++) {
        unsigned d = distance(name, config_keys[i].name);
        /* The same word in another section is the likelier slip than a bad word. */
        d = 2 * d + (strcmp(section, config_keys[i].section) != 0);
        if (d < best_distance) {
            best = &config_keys[i];
            best_distance = d;
        }
    }
    return best;
}

/* ---- parsing -------------------------------------------------------------------------------- */

struct parser {
    FILE *file;
    const char *name;
    unsigned line;
    bool failed, mid_line;
    uint64_t seen; /* bit per key */
    struct config config;
    struct why *why;
};

static_assert(sizeof(config_keys) / sizeof(config_keys[0]) <= 64, "one bit per key in parser.seen");

#define PARSE_ERROR(p, ...)                                                                        \
    do {                                                                                           \
        if (!(p)->failed) {                                                                        \
            char text_[WHY_MAX_CHARS / 2];                                                         \
            snprintf(text_, sizeof(text_), __VA_ARGS__);                                           \
            why_set((p)->why, 0, "%s:%u: %s", (p)->name, (p)->line, text_);                        \
        }                                                                                          \
        (p)->failed = true;                                                                        \
    } while (0)

static char *read_line(char *buf, int size, void *arg)
{
    struct parser *p = arg;

    if (p->failed || !fgets(buf, size, p->file))
        return NULL;
    if (!p->mid_line)
        p->line++;
    size_t len = strlen(buf);
    p->mid_line = len == 0 || buf[len - 1] != '\n';
    if (p->mid_line && !feof(p->file)) {
        PARSE_ERROR(p, "the line is longer than %d characters or has a zero byte", size - 2);
        return NULL;
    }
    return buf;
}

static int read_choice(struct parser *p, const struct config_key *key, const char *value)
{
    char words[128] = "";
    size_t at = 0;

    for (int i = 0; i < 5 && key->choices[i]; i++) {
        if (!strcmp(value, key->choices[i])) {
            *field_of(key, &p->config) = key->values[i];
            return 1;
        }
        at += (size_t)snprintf(words + at, sizeof(words) - at, "%s%s", i ? ", " : "",
                               key->choices[i]);
    }
    PARSE_ERROR(p, "%s is \"%s\"; it may be one of %s", key->name, value, words);
    return 0;
}

static int read_number(struct parser *p, const struct config_key *key, const char *value)
{
    bool size = key->type == CONFIG_SIZE;
    uint64_t number;
    int r = size ? size_parse(value, &number) : size_parse_decimal(value, &number);

    if (r == -EINVAL) {
        PARSE_ERROR(p, "%s is \"%s\"; it wants %s", key->name, value,
                    size ? "a size such as 512M or 4G" : "a whole number");
        return 0;
    }
    if (r < 0 || number < key->min || number > key->max) {
        char low[SIZE_TEXT_CHARS], high[SIZE_TEXT_CHARS];
        if (size)
            PARSE_ERROR(p, "%s is %s; it may be from %s to %s", key->name, value,
                        size_format(key->min, low), size_format(key->max, high));
        else
            PARSE_ERROR(p, "%s is %s; it may be from %" PRIu64 " to %" PRIu64, key->name, value,
                        key->min, key->max);
        return 0;
    }
    *field_of(key, &p->config) = number;
    return 1;
}

static int read_group(struct parser *p, const struct config_key *key, const char *value)
{
    struct group group, *found = NULL;
    char room[16384];
    uint64_t number;

    if (!strcmp(value, "none")) {
        *field_of(key, &p->config) = CONFIG_NO_GROUP;
        return 1;
    }
    if (getgrnam_r(value, &group, room, sizeof(room), &found) == 0 && found) {
        *field_of(key, &p->config) = found->gr_gid;
        return 1;
    }
    if (size_parse_decimal(value, &number) == 0 && number < (gid_t)-1) {
        *field_of(key, &p->config) = number;
        return 1;
    }
    PARSE_ERROR(p, "%s is \"%s\", and there is no such group; getent group lists them", key->name,
                value);
    return 0;
}

/* libinih: 1 to go on, 0 on error. */
static int take_value(void *arg, const char *section, const char *name, const char *value)
{
    struct parser *p = arg;

    if (p->failed)
        return 0;
    for (size_t i = 0; i < config_keys_size; i++) {
        const struct config_key *key = &config_keys[i];
        if (strcmp(section, key->section) || strcmp(name, key->name))
            continue;
        if (p->seen & 1ULL << i) {
            PARSE_ERROR(p, "%s is set a second time; keep one of them", name);
            return 0;
        }
        p->seen |= 1ULL << i;
        return key->type == CONFIG_CHOICE  ? read_choice(p, key, value)
               : key->type == CONFIG_GROUP ? read_group(p, key, value)
                                           : read_number(p, key, value);
    }
    const struct config_key *near = nearest_key(section, name);
    if (*section)
        PARSE_ERROR(p, "unknown key \"%s\" in [%s]; the nearest one is %s in [%s]", name, section,
                    near->name, near->section);
    else
        PARSE_ERROR(p, "\"%s\" stands before any [section]; the nearest key is %s in [%s]", name,
                    near->name, near->section);
    return 0;
}

int config_parse(FILE *file, const char *name, struct config *config, struct why *why)
{
    struct parser p = {.file = file, .name = name, .config = *config, .why = why};

    ini_allow_multiline = false;
    int r = ini_parse_stream(read_line, &p, take_value, &p);
    if (ferror(file))
        return why_set(why, -EIO, "cannot read %s: %s", name, strerror(errno));
    if (p.failed)
        return -EINVAL;
    if (r > 0) {
        p.line = (unsigned)r;
        PARSE_ERROR(&p, "this is neither \"[section]\", \"key = value\" nor a comment");
        return -EINVAL;
    }
    if (r < 0)
        return why_set(why, -ENOMEM, "cannot read %s: no memory", name);
    *config = p.config;
    return 0;
}

int config_load(const char *path, struct config *config, struct why *why)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        int r = -errno;
        return why_set(why, r, "cannot open the configuration file %s: %s", path, strerror(-r));
    }
    int r = config_parse(file, path, config, why);
    fclose(file);
    return r;
}
