/* config.h - the daemon's configuration: one table of keys, from which the parser, the defaults and
 * varve.conf(5) come. Used at start-up, by one thread. */
#ifndef VARVE_DAEMON_CONFIG_H
#define VARVE_DAEMON_CONFIG_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_DEFAULT_FILE "/etc/varve/varve.conf"
#define CONFIG_NO_GROUP     UINT64_MAX

struct config {
    uint64_t cache_bytes;
    uint64_t table_bytes;
    uint64_t checkpoint_bytes;
    uint64_t io_engine; /* enum loop_kind */
    uint64_t nbd_max_connections;
    uint64_t nbd_buffer_bytes;
    uint64_t nbd_group; /* a gid, or CONFIG_NO_GROUP */
    uint64_t control_max_connections;
    uint64_t log_level; /* enum report_level */
};

/* One key of the file. */
struct config_key {
    const char *section, *name;
    enum { CONFIG_SIZE, CONFIG_COUNT, CONFIG_CHOICE, CONFIG_GROUP } type;
    size_t offset; /* of a uint64_t in struct config */
    uint64_t min, max;
    const char *choices[5]; /* CONFIG_CHOICE: the words */
    uint64_t values[5];     /* and what they stand for */
    const char *help;
};
extern const struct config_key config_keys[];
extern const size_t config_keys_size;

void config_defaults(struct config *config);

/* Read an INI text over the values in config. name: of the file, for messages.
 * On the first error nothing is changed, why says "name:line: ..." and what is near it, and the
 * result is -EINVAL (or -EIO when reading failed). */
int config_parse(FILE *file, const char *name, struct config *config, struct why *why);

/* The same from a file. Also -ENOENT, -EACCES and what else fopen() may say. */
int config_load(const char *path, struct config *config, struct why *why);

/* The value of a key as the file would have it ("64M", "auto"). Returns out. */
const char *config_value_text(const struct config_key *key, const struct config *config,
                              char out[32]);

#endif
