/* fuzz-kept.c - any bytes as the files and the description that kept.h reads: no crash, and what
 * is taken is what the headers promise. The first byte chooses which: 'm' the description of a
 * machine, whose command line is then rewritten as for a restore, 'a' machines.json, 'r'
 * restore.json. */
#include "daemon/kept.h"

#include "base/cleanup.h"
#include "base/err.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void rewrite(char *const *argv)
{
    const struct restore_changes changes = {.name = "new",
                                            .dir = "/run/varve/vm/new",
                                            .machine_type = "pc-q35-7.2",
                                            .vm_from = "web1",
                                            .vm_to = "new",
                                            .nbd_socket = "/run/varve/nbd.sock",
                                            .memory_file = "/dev/shm/varve-restore-1",
                                            .new_macs = true};
    struct restore_args args;
    struct why why = {};

    int r = restore_args_make(argv, &changes, &args, &why);
    assert(r == 0 || *why.text);
    if (r < 0)
        return;
    assert(args.n > 0 && args.n_memory <= RESTORE_MEMORY_MAX && args.n_lost <= RESTORE_LOST_MAX);
    for (unsigned i = 0; i < args.n; i++)
        assert(args.argv[i]);
    assert(!args.argv[args.n]);
    restore_args_free(&args);
}

static void try_machine(const uint8_t *data, size_t size)
{
    json_t *json = NULL, *value;
    size_t i;

    int r = kept_machine_parse(data, size, &json);
    assert(r == 0 ? json != NULL : r == ERR_DAMAGED && !json);
    if (r < 0)
        return;
    const json_t *argv = json_object_get(json, "argv");
    _cleanup_free_ char **list = calloc(json_array_size(argv) + 1, sizeof(*list));
    assert(list && json_array_size(argv) > 0);
    json_array_foreach(argv, i, value)
    {
        list[i] = (char *)(uintptr_t)json_string_value(value);
        assert(list[i]);
    }
    json_array_foreach(json_object_get(json, "lost"), i, value) assert(json_string_value(value));
    assert(json_integer_value(json_object_get(json, "ram_bytes")) >= 0);
    rewrite(list);
    json_decref(json);
}

static void try_spec(const json_t *entry)
{
    struct attached_spec spec;

    if (!kept_spec_read(entry, &spec))
        return;
    assert(name_is_valid(spec.vm) && strlen(spec.qmp) < sizeof(spec.qmp));
    assert(spec.n_disks <= ATTACHED_DISKS_MAX);
    for (unsigned i = 0; i < spec.n_disks; i++)
        assert(name_is_valid(spec.disks[i].name) &&
               memchr(spec.disks[i].node, 0, sizeof(spec.disks[i].node)));
}

static void try_restore(const json_t *text)
{
    struct kept_restore kept;
    bool fits = kept_restore_read(text, &kept);

    assert(kept.phase <= KEPT_RUNNING && kept.pid >= 0 && kept.n_memory <= RESTORE_MEMORY_MAX);
    assert(!fits || json_is_object(text));
    for (unsigned i = 0; i < kept.n_memory; i++)
        assert(memchr(kept.memory[i].id, 0, sizeof(kept.memory[i].id)) &&
               memchr(kept.memory[i].path, 0, sizeof(kept.memory[i].path)) &&
               kept.memory[i].bytes <= INT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t i;
    json_t *text, *entry;

    if (size < 1)
        return 0;
    if (*data == 'm') {
        try_machine(data + 1, size - 1);
        return 0;
    }
    /* As json_load_file() reads it. */
    text = json_loadb((const char *)data + 1, size - 1, 0, NULL);
    if (*data == 'a')
        json_array_foreach(text, i, entry) try_spec(entry);
    else
        try_restore(text);
    json_decref(text);
    return 0;
}
