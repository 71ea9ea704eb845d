/* working-set.c - the pages that machines touched first.
 *
 * STORE/working-set/GUID, in hexadecimal digits: little-endian
 *
 *     0   8  "VARVEWS1"
 *     8   4  how many
 *     12  4  crc32c of what follows
 *     16  8  for each: area << 48 | page, in the order of their touching */
#include "daemon/working-set.h"

#include "base/cleanup.h"
#include "base/crc.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAGIC     "VARVEWS1"
#define DIRECTORY "working-set"
#define AREA_BIT  48

struct header {
    char magic[8];
    uint32_t n, crc;
};

static bool make_path(char out[PATH_MAX], const char *store_path, const uint8_t guid[GUID_BYTES],
                      const char *end)
{
    int n = snprintf(out, PATH_MAX, "%s/" DIRECTORY "/", store_path);

    if (n < 0 || n + 2 * GUID_BYTES + strlen(end) >= PATH_MAX)
        return false;
    for (unsigned i = 0; i < GUID_BYTES; i++)
        snprintf(out + n + 2 * i, 3, "%02x", guid[i]);
    strcat(out, end);
    return true;
}

size_t working_set_load(const char *store_path, const uint8_t guid[GUID_BYTES],
                        struct pager_place **ret)
{
    struct header header;
    char path[PATH_MAX];

    *ret = NULL;
    if (!make_path(path, store_path, guid, ""))
        return 0;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &header, sizeof(header)) != sizeof(header) ||
        memcmp(header.magic, MAGIC, sizeof(header.magic)) != 0)
        return 0;
    size_t n = le32toh(header.n), bytes = n * sizeof(uint64_t);
    if (n > WORKING_SET_MAX)
        return 0;
    _cleanup_free_ uint64_t *entries = malloc(bytes + 1);
    struct pager_place *places = malloc(n * sizeof(*places) + 1);
    if (!entries || !places || read(fd, entries, bytes) != (ssize_t)bytes ||
        crc32c(0, entries, bytes) != le32toh(header.crc)) {
        free(places);
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t entry = le64toh(entries[i]);
        places[i] = (struct pager_place){.area = (uint32_t)(entry >> AREA_BIT),
                                         .page = entry & ((1ULL << AREA_BIT) - 1)};
    }
    *ret = places;
    return n;
}

void working_set_save(const char *store_path, const uint8_t guid[GUID_BYTES],
                      const struct pager_place *places, size_t n)
{
    char path[PATH_MAX], partial[PATH_MAX], dir[PATH_MAX];
    struct header header = {.magic = MAGIC};

    if (n > WORKING_SET_MAX)
        n = WORKING_SET_MAX;
    if (!make_path(path, store_path, guid, "") || !make_path(partial, store_path, guid, ".new"))
        return;
    snprintf(dir, sizeof(dir), "%s/" DIRECTORY, store_path);
    (void)mkdir(dir, 0700); /* it is there as a rule */
    _cleanup_free_ uint64_t *entries = malloc(n * sizeof(*entries) + 1);
    if (!entries)
        return;
    for (size_t i = 0; i < n; i++)
        entries[i] = htole64((uint64_t)places[i].area << AREA_BIT | places[i].page);
    size_t bytes = n * sizeof(*entries);
    header.n = htole32((uint32_t)n);
    header.crc = htole32(crc32c(0, entries, bytes));
    _cleanup_close_ int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (write(fd, &header, sizeof(header)) != sizeof(header) ||
        write(fd, entries, bytes) != (ssize_t)bytes || rename(partial, path) < 0)
        unlink(partial);
}

static bool read_guid(const char *text, uint8_t ret[GUID_BYTES])
{
    unsigned byte;

    if (strlen(text) < 2 * GUID_BYTES)
        return false;
    for (unsigned i = 0; i < GUID_BYTES; i++) {
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            return false;
        ret[i] = (uint8_t)byte;
    }
    return true;
}

void working_set_sweep(const char *store_path,
                       bool (*keep)(void *arg, const uint8_t guid[GUID_BYTES]), void *arg)
{
    const struct dirent *entry;
    uint8_t guid[GUID_BYTES];
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/" DIRECTORY, store_path);
    DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir)))
        if (read_guid(entry->d_name, guid) &&
            (strlen(entry->d_name) != 2 * GUID_BYTES || !keep(arg, guid)))
            (void)unlinkat(dirfd(dir), entry->d_name, 0); /* then the next time */
    if (dir)
        closedir(dir);
}
