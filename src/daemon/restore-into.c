/* restore-into.c - the state of a version for a QEMU that waits for one. */
#include "daemon/restore-into.h"

#include "base/mono.h"
#include "base/size.h"
#include "guest/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define LIMIT_US 60000000

/* The block of QEMU for one of the version; NULL: there is none that fits. */
static const struct ram_block *find_block(const struct ram *ram, const struct memory_block *wanted)
{
    for (unsigned i = 0; i < ram->n; i++) {
        const struct ram_block *b = &ram->blocks[i];
        if (!strcmp(b->name, wanted->name) && b->shared &&
            b->used_bytes == wanted->pages * MEMORY_PAGE_BYTES)
            return b;
    }
    return NULL;
}

static int check_blocks(const struct restore_source *s, const struct ram *ram, struct why *why)
{
    char size[SIZE_TEXT_CHARS];

    for (unsigned i = 0; i < s->n_blocks; i++) {
        const struct ram_block *b = find_block(ram, &s->blocks[i]);
        if (s->blocks[i].shared && b && !b->memory)
            return why_set(
                why, -EOPNOTSUPP,
                "the memory \"%.100s\" of this QEMU has huge pages, which cannot be filled "
                "from outside; start it with mem-path=/dev/shm, or have Varve start it",
                b->name);
        if (s->blocks[i].shared && !b)
            return why_set(why, -EINVAL,
                           "the machine of %s@%s has %s of RAM in \"%.100s\", and this QEMU has no "
                           "such; start it with the same -m and memory devices",
                           s->vm, s->version,
                           size_format(s->blocks[i].pages * MEMORY_PAGE_BYTES, size),
                           s->blocks[i].name);
    }
    return 0;
}

static int fill_blocks(struct restore_request *q, const struct ram *ram, struct why *why)
{
    struct restore_source *s = q->source;
    int r = 0;

    for (unsigned i = 0; i < s->n_blocks && r == 0; i++) {
        if (!s->blocks[i].shared)
            continue;
        const struct ram_block *b = find_block(ram, &s->blocks[i]);
        /* Only what is no zeros is written. */
        if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)b->file_offset,
                      (off_t)b->used_bytes) < 0)
            return why_set(why, -errno, "the memory of this QEMU cannot be emptied: %s",
                           strerror(errno));
        r = restore_source_fill(s, i, b->fd, b->file_offset, &q->filled_bytes, &q->cancel, why);
    }
    return r;
}

static int restore(struct restore_request *q, struct restore_machine *m, struct monitor *monitor,
                   struct why *why)
{
    struct ram *ram = NULL;

    int r = restore_check_waits(monitor, mono_us() + LIMIT_US, why);
    if (r == 0)
        r = ram_open(monitor, mono_us() + LIMIT_US, &ram, why);
    if (r < 0)
        return r;
    r = check_blocks(q->source, ram, why);
    if (r == 0)
        r = fill_blocks(q, ram, why);
    ram_close(ram);
    if (r == 0)
        r = restore_load(monitor, &q->source->state, -1, mono_us() + LIMIT_US, &m->load_us, why);
    m->paused = q->paused || !q->source->was_running;
    if (r == 0 && !m->paused)
        r = restore_run(monitor, mono_us() + LIMIT_US, why);
    return r;
}

int restore_into(struct restore_request *q, const char *qmp, struct restore_machine *m,
                 struct why *why)
{
    struct monitor *monitor = NULL;

    int r = monitor_open(qmp, mono_us() + LIMIT_US, &monitor, why);
    if (r < 0)
        return r;
    m->pid = monitor_pid(monitor);
    r = restore(q, m, monitor, why);
    monitor_close(monitor);
    m->state = r < 0 ? RESTORE_FAILED : RESTORE_RESIDENT;
    return r;
}
