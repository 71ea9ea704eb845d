/* restore-source.c - the RAM and the state of a version. */
#include "daemon/restore-source.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "base/huge.h"
#include "daemon/disk-io.h"
#include "daemon/engine.h"
#include "daemon/kept.h"
#include "daemon/memory-list.h"
#include "daemon/memory-names.h"
#include "guest/migration-stream.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define FILL_THREADS_MAX 4
#define FILL_PAGES       256u       /* that one read brings */
#define FILL_BUF_BYTES   HUGE_BYTES /* for those */
#define FILL_PIECE_PAGES 4096u      /* that a thread takes at a time */
#define PRIVATE_PAGES    64u
#define GROUP_PAGES      64u /* under one lock */
#define CHUNK_PAGES      16u /* read together */
#define LOCKS            64u
#define DIR_ROOM         256
/* Of what came in a stream no more is taken. */
#define STATE_MAX_BYTES (1u << 30)  /* of "head", and of "devices" */
#define FILE_MAX_BYTES  (64u << 20) /* as many as a checkpoint keeps of a file */

/* One block, each of whose pages was read once, or not yet. */
struct source_shared {
    uint8_t *memory; /* NULL: not a block that machines ask for */
    uint64_t pages;
    uint8_t *chunks; /* for each group: a bit for each chunk that is there; under the lock */
    pthread_mutex_t *locks;
};

/* What was read last of the blocks that are not shared. One thread: that of restore_load(). */
struct source_private {
    pthread_mutex_t lock;
    unsigned block, n;
    uint64_t page;
    uint8_t data[PRIVATE_PAGES * MEMORY_PAGE_BYTES];
};

/* ---- the disk ------------------------------------------------------------------------------- */

static_assert(sizeof(struct memory_io_part) == sizeof(struct disk_io_part) &&
                  offsetof(struct memory_io_part, buf) == offsetof(struct disk_io_part, buf) &&
                  offsetof(struct memory_io_part, len) == offsetof(struct disk_io_part, len),
              "both say the same, and are passed on as they are");

static int read_parts(void *arg, const struct memory_io_part *parts, size_t n)
{
    return disk_io_read(arg, (const struct disk_io_part *)parts, n);
}

struct listing {
    const char *vm; /* NULL: all */
    struct version_info *versions;
    uint32_t n;
    int result;
};

static void on_list(struct engine_call *call)
{
    struct listing *l = call->arg;

    l->result =
        store_list_versions(call->store, l->vm, NULL, true, UINT32_MAX, &l->versions, &l->n);
    engine_call_done(call);
}

static int list(struct engine *engine, struct listing *l)
{
    int r = engine_call(engine, on_list, l);
    return r < 0 ? r : l->result;
}

/* What the store knows of the version. */
static int look_up(struct engine *engine, struct restore_source *s, struct why *why)
{
    struct listing l = {.vm = s->vm};
    const struct version_info *v = NULL;
    int r = list(engine, &l);

    if (r == -ENOENT)
        return why_set(why, r, "there is no vm \"%s\"; see varve ls", s->vm);
    if (r < 0)
        return why_set(why, r, "cannot list the versions of %s: %s", s->vm, err_text(r));
    for (uint32_t i = 0; i < l.n && !v; i++)
        if (!strcmp(l.versions[i].name, s->version) && !l.versions[i].provisional)
            v = &l.versions[i];
    if (!v) {
        r = why_set(why, ERR_NO_VERSION, "vm %s has no version \"%s\"; see varve ls %s", s->vm,
                    s->version, s->vm);
    } else if (v->consistency != CONSISTENCY_RAM) {
        r = why_set(why, -EOPNOTSUPP,
                    "%s@%s has disks only, no RAM; varve rollback and varve clone go back to it, "
                    "and varve checkpoint takes versions that can be restored",
                    s->vm, s->version);
    } else {
        memcpy(s->guid, v->guid, GUID_BYTES);
        s->n_disks = v->n_disks;
        s->disks = malloc(v->n_disks * sizeof(*s->disks) + 1);
        if (s->disks)
            memcpy(s->disks, v->disks, v->n_disks * sizeof(*s->disks));
        else
            r = why_set(why, -ENOMEM, "no memory");
    }
    free(l.versions);
    return r;
}

/* Where the memory of s->guid is. */
static int find_memory(struct engine *engine, const struct restore_source *s,
                       struct store_version *ret)
{
    struct memory_list list;
    int r = memory_list_get(engine, &list);
    const struct version_info *memory = r == 0 ? memory_list_find(&list, s->guid) : NULL;

    if (r < 0)
        return r;
    if (memory) {
        strcpy(ret->vm, memory->vm);
        strcpy(ret->version, memory->name);
    }
    memory_list_free(&list);
    return memory ? 0 : -ENOENT;
}

/* ---- blobs ---------------------------------------------------------------------------------- */

static int read_blob(struct restore_source *s, const char *name, size_t max_bytes, uint8_t **ret,
                     size_t *ret_bytes, struct why *why)
{
    int r = memory_image_blob(s->image, name, max_bytes, ret, ret_bytes);

    return r < 0 ? why_set(why, r, "cannot read \"%s\" of %s@%s: %s", name, s->vm, s->version,
                           err_text(r))
                 : 0;
}

static void find_disks_vm(struct restore_source *s)
{
    restore_args_disks_vm(s->argv, s->vm, json_object_get(s->machine, "disks"), s->disks_vm,
                          sizeof(s->disks_vm));
    if (!name_is_valid(s->disks_vm))
        strcpy(s->disks_vm, s->vm);
}

static int parse_machine(struct restore_source *s, const uint8_t *text, size_t bytes,
                         struct why *why)
{
    json_t *argv, *value;
    size_t i;

    if (kept_machine_parse(text, bytes, &s->machine) < 0)
        return why_set(why, ERR_DAMAGED, "%s@%s does not say how its machine was started", s->vm,
                       s->version);
    argv = json_object_get(s->machine, "argv");
    s->argv = calloc(json_array_size(argv) + 1, sizeof(*s->argv));
    if (!s->argv)
        return why_set(why, -ENOMEM, "no memory");
    json_array_foreach(argv, i, value) s->argv[i] = (char *)(uintptr_t)json_string_value(value);
    s->cwd = json_string_value(json_object_get(s->machine, "cwd"));
    s->ram_bytes = (uint64_t)json_integer_value(json_object_get(s->machine, "ram_bytes"));
    s->was_running = !json_is_false(json_object_get(s->machine, "was_running"));
    find_disks_vm(s);
    return 0;
}

/* A disk that the machine has and the version has not. */
static int check_disks(const struct restore_source *s, struct why *why)
{
    const char *name;
    json_t *node;

    json_object_foreach(json_object_get(s->machine, "disks"), name, node)
    {
        bool found = false;
        for (uint32_t i = 0; i < s->n_disks; i++)
            found = found || !strcmp(s->disks[i].name, name);
        if (!found)
            return why_set(why, -ENOENT,
                           "the machine of %s@%s has a disk \"%s\", and the version has none; it "
                           "cannot go on without it",
                           s->vm, s->version, name);
    }
    return 0;
}

/* What the version has of a file that QEMU's arguments name: from QEMU's directory, if that does
 * not begin with a slash. 0: nothing. */
static int read_file(struct restore_source *s, const char *path, struct why *why)
{
    struct source_file *f = &s->files[s->n_files];
    bool relative = *path != '/';
    char *whole, name[MEMORY_BLOB_NAME_BYTES];

    for (unsigned i = 0; i < s->n_files; i++)
        if (!strcmp(s->files[i].path, path))
            return 0;
    if (asprintf(&whole, "%s%s%s", relative && s->cwd ? s->cwd : "", relative ? "/" : "", path) < 0)
        return why_set(why, -ENOMEM, "no memory");
    memory_file_name(whole, name);
    free(whole);
    int r = s->n_files == SOURCE_FILES_MAX
                ? -ENOENT
                : memory_image_blob(s->image, name, FILE_MAX_BYTES, &f->data, &f->bytes);
    if (r == 0 && !(f->path = strdup(path)))
        r = -ENOMEM;
    s->n_files += r == 0;
    if (r < 0 && r != -ENOENT)
        r = why_set(why, r, "cannot read \"%s\" of %s@%s: %s", name, s->vm, s->version,
                    err_text(r));
    return r == -ENOENT ? 0 : r;
}

/* Those that were kept are all to be replaced: a QEMU that opened the first one's would write it.
 */
static int check_files(const struct restore_source *s, struct why *why)
{
    json_t *value;
    size_t i;

    json_array_foreach(json_object_get(s->machine, "files"), i, value)
    {
        const char *path = json_string_value(value);
        bool found = false;
        for (unsigned k = 0; path && k < s->n_files; k++) {
            const char *file = s->files[k].path;
            size_t len = strlen(path), file_len = strlen(file);
            found = found || (len >= file_len && !strcmp(path + len - file_len, file));
        }
        if (!found)
            return why_set(
                why, -EOPNOTSUPP,
                "%s@%s has kept the file %.200s, and the machine's command line does not "
                "name it in a way that is understood; start a QEMU yourself with -incoming "
                "defer, and restore into that",
                s->vm, s->version, path ? path : "?");
    }
    return 0;
}

/* Every path in the arguments may be one. */
static int read_files(struct restore_source *s, struct why *why)
{
    int r = 0;

    for (char **arg = s->argv; *arg && r == 0; arg++) {
        _cleanup_free_ char *copy = strdup(*arg);
        char *rest = copy, *part;
        if (!copy)
            return why_set(why, -ENOMEM, "no memory");
        while ((part = strsep(&rest, ",=\"")) && r == 0)
            if (*part)
                r = read_file(s, part, why);
    }
    return r < 0 ? r : check_files(s, why);
}

static int read_type(struct restore_source *s, struct why *why)
{
    struct migration_stream head = {};

    int r = migration_read(&head, s->state.head, s->state.head_bytes, false, why);
    if (r == -EAGAIN && head.ram_complete)
        r = 0;
    if (r == 0)
        snprintf(s->machine_type, sizeof(s->machine_type), "%s", head.machine);
    else
        r = why_set(why, ERR_DAMAGED, "the description of the machine of %s@%s is damaged", s->vm,
                    s->version);
    migration_free(&head);
    return r;
}

static int read_state(struct restore_source *s, struct why *why)
{
    uint8_t *text = NULL;
    size_t bytes = 0;

    int r = read_blob(s, "machine.json", KEPT_MACHINE_MAX_BYTES, &text, &bytes, why);
    if (r == 0)
        r = parse_machine(s, text, bytes, why);
    free(text);
    if (r == 0)
        r = check_disks(s, why);
    if (r == 0)
        r = read_files(s, why);
    if (r == 0)
        r = read_blob(s, "head", STATE_MAX_BYTES, &s->head, &s->state.head_bytes, why);
    if (r == 0)
        r = read_blob(s, "devices", STATE_MAX_BYTES, &s->devices, &s->state.devices_bytes, why);
    s->state.head = s->head;
    s->state.devices = s->devices;
    return r == 0 ? read_type(s, why) : r;
}

/* ---- pages ---------------------------------------------------------------------------------- */

int restore_source_block(const struct restore_source *s, const char *id)
{
    for (unsigned i = 0; i < s->n_blocks; i++) {
        const char *name = s->blocks[i].name, *slash = strrchr(name, '/');
        if (!strcmp(name, id) || (slash && !strcmp(slash + 1, id)))
            return (int)i;
    }
    return -1;
}

static int read_image(struct restore_source *s, unsigned block, uint64_t page, unsigned n,
                      void *out)
{
    atomic_fetch_add(&s->pages_read, n);
    return memory_image_read(s->image, block, page, n, out);
}

/* Whether it is the page that cannot be read, and not us or the store. */
static bool is_damage(int error)
{
    return error < 0 && err_errno(error) == EIO;
}

/* The chunks of one group that hold pages [page, page + n). */
static int read_group(struct restore_source *s, unsigned block, uint64_t page, unsigned n)
{
    struct source_shared *shared = &s->shared[block];
    uint64_t group = page / GROUP_PAGES;
    unsigned first = (unsigned)(page % GROUP_PAGES) / CHUNK_PAGES,
             last = (unsigned)((page + n - 1) % GROUP_PAGES) / CHUNK_PAGES;
    int r = 0;

    for (unsigned at = first; at <= last && r == 0;) {
        unsigned run = 0;
        while (at + run <= last && !(shared->chunks[group] >> (at + run) & 1))
            run++;
        if (run == 0) {
            at++;
            continue;
        }
        uint64_t from = group * GROUP_PAGES + at * CHUNK_PAGES, left = shared->pages - from;
        unsigned wanted = run * CHUNK_PAGES;
        r = read_image(s, block, from, left < wanted ? (unsigned)left : wanted,
                       shared->memory + from * MEMORY_PAGE_BYTES);
        for (unsigned i = 0; r == 0 && i < run; i++)
            shared->chunks[group] |= (uint8_t)(1u << (at + i));
        at += run;
    }
    return r;
}

int restore_source_read(struct restore_source *s, unsigned block, uint64_t page, unsigned n,
                        void *out)
{
    uint8_t *to = out;

    if (page > s->blocks[block].pages || n > s->blocks[block].pages - page)
        return -EINVAL;
    if (!s->shared || !s->shared[block].memory)
        return read_image(s, block, page, n, out);
    for (unsigned done = 0; done < n;) {
        struct source_shared *shared = &s->shared[block];
        uint64_t at = page + done;
        unsigned some = GROUP_PAGES - (unsigned)(at % GROUP_PAGES);
        pthread_mutex_t *lock = &shared->locks[at / GROUP_PAGES % LOCKS];
        if (some > n - done)
            some = n - done;
        pthread_mutex_lock(lock);
        uint8_t *here = to + (size_t)done * MEMORY_PAGE_BYTES;
        int r = read_group(s, block, at, some);
        pthread_mutex_unlock(lock);
        if (r == 0)
            memcpy(here, shared->memory + at * MEMORY_PAGE_BYTES, (size_t)some * MEMORY_PAGE_BYTES);
        else if (is_damage(r)) /* it may be another page of the chunk */
            r = read_image(s, block, at, some, here);
        if (r < 0)
            return r;
        done += some;
    }
    return 0;
}

static int share_pages(struct restore_source *s, struct why *why)
{
    s->shared = calloc(s->n_blocks, sizeof(*s->shared));
    for (unsigned i = 0; s->shared && i < s->n_blocks; i++) {
        struct source_shared *shared = &s->shared[i];
        if (!s->blocks[i].shared || !s->blocks[i].pages)
            continue;
        void *memory = mmap(NULL, s->blocks[i].pages * MEMORY_PAGE_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        shared->pages = s->blocks[i].pages;
        shared->chunks = calloc(shared->pages / GROUP_PAGES + 1, 1);
        shared->locks = calloc(LOCKS, sizeof(*shared->locks));
        if (memory == MAP_FAILED || !shared->chunks || !shared->locks) {
            if (memory != MAP_FAILED)
                munmap(memory, shared->pages * MEMORY_PAGE_BYTES);
            return why_set(why, -ENOMEM, "no memory to share the RAM of %s@%s", s->vm, s->version);
        }
        for (unsigned k = 0; k < LOCKS; k++)
            pthread_mutex_init(&shared->locks[k], NULL);
        shared->memory = memory;
    }
    return s->shared ? 0 : why_set(why, -ENOMEM, "no memory");
}

static void unshare_pages(struct restore_source *s)
{
    for (unsigned i = 0; s->shared && i < s->n_blocks; i++) {
        if (s->shared[i].memory)
            munmap(s->shared[i].memory, s->shared[i].pages * MEMORY_PAGE_BYTES);
        free(s->shared[i].chunks);
        free(s->shared[i].locks);
    }
    free(s->shared);
}

/* restore_state.fetch_private: of blocks that are not shared, from beginning to end as a rule. */
static int fetch_private(void *arg, const char *name, uint64_t offset, uint8_t *out)
{
    struct restore_source *s = arg;
    struct source_private *p = s->private_pages;
    uint64_t page = offset / MEMORY_PAGE_BYTES;
    unsigned block = 0;
    int r = 0;

    while (block < s->n_blocks && strcmp(s->blocks[block].name, name) != 0)
        block++;
    if (block == s->n_blocks || page >= s->blocks[block].pages)
        return 0;
    if (s->blocks[block].shared)
        return RESTORE_SHARED;
    pthread_mutex_lock(&p->lock);
    if (p->n == 0 || p->block != block || page < p->page || page >= p->page + p->n) {
        uint64_t left = s->blocks[block].pages - page;
        p->block = block;
        p->page = page;
        p->n = left < PRIVATE_PAGES ? (unsigned)left : PRIVATE_PAGES;
        r = read_image(s, block, page, p->n, p->data);
        if (is_damage(r)) { /* it may be another page */
            p->n = 1;
            r = read_image(s, block, page, 1, p->data);
        }
        if (r < 0)
            p->n = 0;
    }
    if (r == 0)
        memcpy(out, p->data + (page - p->page) * MEMORY_PAGE_BYTES, MEMORY_PAGE_BYTES);
    pthread_mutex_unlock(&p->lock);
    return r < 0 ? -err_errno(r) : 1;
}

/* ---- filling -------------------------------------------------------------------------------- */

struct filling {
    struct restore_source *source;
    unsigned block;
    int fd;
    uint64_t offset;
    atomic_uint_fast64_t next; /* page of the next piece */
    atomic_uint_fast64_t *done;
    const atomic_bool *cancel;
    atomic_int error;
};

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && !memcmp(page, page + 1, MEMORY_PAGE_BYTES - 1);
}

/* Where there is not room for all of it a part is written first. */
static int write_run(int fd, const uint8_t *data, size_t bytes, uint64_t offset)
{
    while (bytes) {
        ssize_t n = pwrite(fd, data, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        bytes -= (size_t)n;
        offset += (size_t)n;
    }
    return 0;
}

/* n pages into the file; those of zeros stay holes. */
static int write_pages(const struct filling *f, uint64_t page, unsigned n, const uint8_t *data)
{
    for (unsigned i = 0; i < n;) {
        unsigned run = 0;
        while (i + run < n && !is_zero(data + (size_t)(i + run) * MEMORY_PAGE_BYTES))
            run++;
        int r =
            write_run(f->fd, data + (size_t)i * MEMORY_PAGE_BYTES, (size_t)run * MEMORY_PAGE_BYTES,
                      f->offset + (page + i) * MEMORY_PAGE_BYTES);
        if (r < 0)
            return r;
        i += run ? run : 1;
    }
    return 0;
}

static int fill_piece(struct filling *f, uint64_t page, uint64_t end, uint8_t *buf)
{
    struct restore_source *s = f->source;

    for (uint64_t begin = page; page < end;) {
        page = memory_image_next(s->image, f->block, page);
        unsigned n = end - page < FILL_PAGES ? (unsigned)(end - page) : FILL_PAGES;
        if (page >= end)
            n = 0;
        int r = atomic_load(f->cancel) ? -ECANCELED : 0;
        if (r == 0 && n)
            r = restore_source_read(s, f->block, page, n, buf);
        if (r == 0 && n)
            r = write_pages(f, page, n, buf);
        if (r < 0)
            return r;
        page = page >= end ? end : page + n;
        atomic_fetch_add(f->done, (page - begin) * MEMORY_PAGE_BYTES);
        begin = page;
    }
    return 0;
}

static void *run_filling(void *arg)
{
    struct filling *f = arg;
    uint64_t pages = f->source->blocks[f->block].pages;
    uint8_t *buf = huge_alloc(FILL_BUF_BYTES);
    int r = buf ? 0 : -ENOMEM;

    while (r == 0 && atomic_load(&f->error) == 0) {
        uint64_t page = atomic_fetch_add(&f->next, FILL_PIECE_PAGES);
        if (page >= pages)
            break;
        r = fill_piece(f, page, pages - page < FILL_PIECE_PAGES ? pages : page + FILL_PIECE_PAGES,
                       buf);
    }
    huge_free(buf, FILL_BUF_BYTES);
    if (r < 0)
        atomic_store(&f->error, r);
    return NULL;
}

/* The directory of a file that may have no name any more: /dev/shm as a rule. */
static void find_dir(int fd, char ret[DIR_ROOM])
{
    char link[64];

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, ret, DIR_ROOM - 1);
    ret[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(ret, '/');
    if (slash && slash > ret)
        *slash = '\0';
}

static int not_filled(const struct restore_source *s, int fd, int error, struct why *why)
{
    char dir[DIR_ROOM];

    if (error == -ECANCELED)
        return why_set(why, error, "the restore was cancelled");
    find_dir(fd, dir);
    if (error == -ENOSPC)
        return why_set(why, -ENOMEM,
                       "%s is full, and the RAM of %s@%s is not all in it; end other machines, or "
                       "make %s larger",
                       dir, s->vm, s->version, dir);
    return why_set(why, error, "cannot bring the RAM of %s@%s: %s", s->vm, s->version,
                   err_text(error));
}

int restore_source_fill(struct restore_source *s, unsigned block, int fd, uint64_t offset,
                        atomic_uint_fast64_t *done, const atomic_bool *cancel, struct why *why)
{
    struct filling f = {
        .source = s, .block = block, .fd = fd, .offset = offset, .done = done, .cancel = cancel};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t threads[FILL_THREADS_MAX];
    unsigned n = 0, wanted = cpus < 2                  ? 1
                             : cpus > FILL_THREADS_MAX ? FILL_THREADS_MAX
                                                       : (unsigned)cpus;

    while (n < wanted - 1 && pthread_create(&threads[n], NULL, run_filling, &f) == 0)
        n++;
    run_filling(&f);
    while (n > 0)
        pthread_join(threads[--n], NULL);
    int r = atomic_load(&f.error);
    return r < 0 ? not_filled(s, fd, r, why) : 0;
}

/* ---- open and close ------------------------------------------------------------------------- */

/* at: NULL: where the store has it. */
static int open_image(struct engine *engine, struct restore_source *s,
                      const struct store_version *at, struct why *why)
{
    struct store_version found;

    int r = at ? 0 : find_memory(engine, s, &found);
    if (r == -ENOENT)
        return why_set(why, r, "the RAM of %s@%s is not in this store: it came without it", s->vm,
                       s->version);
    if (r == 0 && !at)
        at = &found;
    if (r == 0)
        r = disk_io_open(engine, at->vm, at->version, MEMORY_DISK_NAME, &s->io);
    if (r < 0)
        return why_set(why, r, "the RAM of %s@%s cannot be opened: %s", s->vm, s->version,
                       err_text(r));
    s->memory_io = (struct memory_io){.read = read_parts, .arg = s->io};
    r = memory_image_open(&s->memory_io, false, &s->image, why);
    if (r < 0)
        return r;
    s->n_blocks = memory_image_blocks(s->image, &s->blocks);
    if (s->n_blocks == 0)
        return why_set(why, ERR_DAMAGED, "the RAM of %s@%s is empty", s->vm, s->version);
    return 0;
}

static struct restore_source *make(struct why *why)
{
    struct restore_source *s = calloc(1, sizeof(*s));

    if (s)
        s->private_pages = calloc(1, sizeof(*s->private_pages));
    if (!s || !s->private_pages) {
        free(s);
        why_set(why, -ENOMEM, "no memory");
        return NULL;
    }
    pthread_mutex_init(&s->private_pages->lock, NULL);
    s->state.fetch_private = fetch_private;
    s->state.arg = s;
    return s;
}

static int open_source(struct engine *engine, const char *vm, const char *version,
                       const struct store_version *at, bool share, struct restore_source **ret,
                       struct why *why)
{
    struct restore_source *s = make(why);

    if (!s)
        return -ENOMEM;
    snprintf(s->vm, sizeof(s->vm), "%s", vm);
    snprintf(s->version, sizeof(s->version), "%s", version);
    int r = look_up(engine, s, why);
    if (r == 0)
        r = open_image(engine, s, at, why);
    if (r == 0)
        r = read_state(s, why);
    if (r == 0 && share)
        r = share_pages(s, why);
    if (r < 0)
        restore_source_close(s);
    else
        *ret = s;
    return r;
}

int restore_source_open(struct engine *engine, const char *vm, const char *version, bool share,
                        struct restore_source **ret, struct why *why)
{
    return open_source(engine, vm, version, NULL, share, ret, why);
}

int restore_source_check(struct engine *engine, const char *vm, const char *version,
                         const struct store_version *at, struct why *why)
{
    struct restore_source *s = NULL;
    int r = open_source(engine, vm, version, at, false, &s, why);

    restore_source_close(s);
    return r;
}

int restore_source_open_ram(struct engine *engine, const uint8_t guid[GUID_BYTES],
                            struct restore_source **ret, struct why *why)
{
    struct restore_source *s = make(why);

    if (!s)
        return -ENOMEM;
    memcpy(s->guid, guid, GUID_BYTES);
    memory_version_name(guid, s->version);
    int r = open_image(engine, s, NULL, why);
    if (r < 0)
        restore_source_close(s);
    else
        *ret = s;
    return r;
}

void restore_source_close(struct restore_source *s)
{
    if (!s)
        return;
    unshare_pages(s);
    if (s->image)
        memory_image_close(s->image);
    disk_io_close(s->io);
    for (unsigned i = 0; i < s->n_files; i++) {
        free(s->files[i].data);
        free(s->files[i].path);
    }
    free(s->head);
    free(s->devices);
    free(s->argv);
    json_decref(s->machine);
    free(s->private_pages);
    free(s->disks);
    free(s);
}
