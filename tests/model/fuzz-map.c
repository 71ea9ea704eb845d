/* fuzz-map.c - what a checkpoint says of the map, and its increments, from bytes that lie.
 *
 * The checksums are no help: the input is what stands under them. Property: each function gives 0
 * or an error, nothing is overrun or lost, and what lives adds up over the files that are known.
 *
 * Input: byte 0: records of the map; then, for each increment, byte 0: its bytes in units of 8,
 * byte 1: n_gone, byte 2: n_files; rounded up to 8 each; what is left at the end is not used. */
#include "base/err.h"
#include "log/log-internal.h"
#include "sim-storage.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const struct log *log)
{
    uint64_t data_slots = 0, table_slots = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < log->max_files; i++) {
        const struct log_file *file = log->files[i];
        if (!file || file->state == FILE_ABSENT)
            continue;
        n++;
        *(file->shift == DATA_SHIFT ? &data_slots : &table_slots) += file->n_live;
    }
    if (n != log->n_files || data_slots != log->data_slots || table_slots != log->table_slots)
        abort();
}

static void load(struct log *log, const uint8_t *at, size_t len)
{
    uint8_t n_files = at[0];
    int code = 0;
    at += 8;
    len -= 8;
    for (unsigned i = 0; i < n_files && code == 0; i++)
        code = log_load_map_file(log, &at, &len);
    while (code == 0 && len >= 8) {
        struct log_increment sizes = {at[0] * 8u, at[1], at[2]};
        at += 8;
        len -= 8;
        if (sizes.bytes > len)
            sizes.bytes = len;
        judge(log);
        code = log_load_increment(log, at, &sizes);
        at += sizes.bytes;
        len -= sizes.bytes;
    }
    if (code == 0)
        judge(log);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct log_client client;
    struct super_block super = {.capacity_bytes = 64ULL * FILE_BYTES};
    size_t len = size & ~(size_t)7;
    if (len < 8)
        return 0;
    struct sim *sim = sim_new(1, 1ULL << 34);
    uint8_t *copy = malloc(len); /* aligned, and no byte longer */
    struct log *log;
    if (!copy || log_create(sim_storage(sim), &client, &super, &log) < 0)
        abort();
    memcpy(copy, data, len);
    load(log, copy, len);
    log_free(log);
    free(copy);
    sim_free(sim);
    return 0;
}
