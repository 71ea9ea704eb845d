/* kept.c - what a daemon keeps as JSON and reads again. */
#include "daemon/kept.h"

#include "base/err.h"

#include <string.h>

/* ---- the description of a machine ----------------------------------------------------------- */

static bool is_texts(const json_t *array)
{
    size_t i;
    json_t *value;

    json_array_foreach(array, i, value) if (!json_is_string(value)) return false;
    return json_is_array(array);
}

static bool is_text_object(const json_t *object)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, name,
                        value) if (!json_is_string(value)) return false;
    return json_is_object(object);
}

static bool is_absent_or(const json_t *object, const char *key, bool (*fits)(const json_t *value))
{
    const json_t *value = json_object_get(object, key);
    return !value || fits(value);
}

static bool is_text(const json_t *value)
{
    return json_is_string(value);
}

static bool is_object(const json_t *value)
{
    return json_is_object(value);
}

static bool is_size(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

int kept_machine_parse(const void *text, size_t bytes, json_t **ret)
{
    json_t *json = json_loadb(text, bytes, 0, NULL);
    const json_t *argv = json_object_get(json, "argv");
    const char *program = json_string_value(json_array_get(argv, 0));

    if (program && *program && is_texts(argv) && is_absent_or(json, "cwd", is_text) &&
        is_absent_or(json, "qemu", is_text) && is_absent_or(json, "ram_bytes", is_size) &&
        is_absent_or(json, "disks", is_text_object) && is_absent_or(json, "times", is_object) &&
        is_absent_or(json, "sizes", is_object) && is_absent_or(json, "lost", is_texts)) {
        *ret = json;
        return 0;
    }
    json_decref(json);
    return ERR_DAMAGED;
}

/* ---- machines.json -------------------------------------------------------------------------- */

/* False: it is no text, or too long. */
static bool copy_text(const json_t *value, char *to, size_t room)
{
    const char *text = json_string_value(value);

    if (!text || strlen(text) >= room)
        return false;
    strcpy(to, text);
    return true;
}

bool kept_spec_read(const json_t *entry, struct attached_spec *spec)
{
    const char *name;
    json_t *node;

    *spec = (struct attached_spec){};
    if (!copy_text(json_object_get(entry, "vm"), spec->vm, sizeof(spec->vm)) ||
        !name_is_valid(spec->vm) ||
        !copy_text(json_object_get(entry, "qmp"), spec->qmp, sizeof(spec->qmp)))
        return false;
    json_object_foreach(json_object_get(entry, "disks"), name, node)
    {
        struct attached_disk *disk = &spec->disks[spec->n_disks];
        if (spec->n_disks == ATTACHED_DISKS_MAX || !name_is_valid(name) ||
            !copy_text(node, disk->node, sizeof(disk->node)))
            return false;
        strcpy(disk->name, name);
        spec->n_disks++;
    }
    spec->waits = true; /* it may have been paused since */
    node = json_object_get(entry, "was");
    return !node || (copy_text(node, spec->was, sizeof(spec->was)) && name_is_valid(spec->was));
}

/* ---- restore.json --------------------------------------------------------------------------- */

static bool read_guid(const json_t *value, uint8_t ret[GUID_BYTES])
{
    const char *text = json_string_value(value);

    if (!text || strlen(text) != (size_t)2 * GUID_BYTES ||
        strspn(text, "0123456789abcdef") != (size_t)2 * GUID_BYTES)
        return false;
    for (unsigned i = 0; i < GUID_BYTES; i++)
        sscanf(text + (size_t)2 * i, "%2hhx", &ret[i]);
    return true;
}

static bool read_memory(const json_t *list, struct kept_restore *ret)
{
    bool fits = json_is_array(list);
    size_t i;
    json_t *one;

    json_array_foreach(list, i, one)
    {
        struct restore_memory *to = &ret->memory[ret->n_memory];
        const json_t *bytes = json_object_get(one, "bytes");
        if (ret->n_memory == RESTORE_MEMORY_MAX ||
            !copy_text(json_object_get(one, "id"), to->id, sizeof(to->id)) ||
            !copy_text(json_object_get(one, "path"), to->path, sizeof(to->path)) ||
            !is_size(bytes)) {
            fits = false;
            continue;
        }
        to->bytes = (uint64_t)json_integer_value(bytes);
        ret->n_memory++;
    }
    return fits;
}

static bool read_phase(const json_t *value, enum kept_phase *ret)
{
    static const char *const words[] = {
        [KEPT_STARTING] = "starting", [KEPT_LOADED] = "loaded", [KEPT_RUNNING] = "running"};
    const char *text = json_string_value(value);

    for (unsigned i = 0; text && i < sizeof(words) / sizeof(words[0]); i++)
        if (!strcmp(text, words[i])) {
            *ret = (enum kept_phase)i;
            return true;
        }
    return false;
}

bool kept_restore_read(const json_t *text, struct kept_restore *ret)
{
    const json_t *pid = json_object_get(text, "pid");
    json_int_t number = json_integer_value(pid);

    *ret = (struct kept_restore){.lazy = json_is_true(json_object_get(text, "lazy")),
                                 .paused = json_is_true(json_object_get(text, "paused"))};
    bool fits = read_memory(json_object_get(text, "memory"), ret);
    fits = read_phase(json_object_get(text, "phase"), &ret->phase) && fits;
    fits = read_guid(json_object_get(text, "guid"), ret->guid) && fits;
    ret->has_kept = json_object_get(text, "kept") != NULL;
    if (ret->has_kept)
        fits = read_guid(json_object_get(text, "kept"), ret->kept) && fits;
    if (!json_is_integer(pid) || number < 0 || number > INT32_MAX)
        return false;
    ret->pid = (pid_t)number;
    return fits;
}
