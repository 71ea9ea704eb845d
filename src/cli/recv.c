/* recv.c - varve recv: a stream becomes a version.
 *
 * What comes in goes into a provisional vm that the daemon makes (recv.begin); when all of it is
 * there, checked and durable, it takes its place (recv.finish). A receiver that dies is
 * disconnected by that, and the daemon removes what it had begun. */
#include "base/text.h"
#include "cli/cli.h"
#include "cli/process.h"
#include "cli/recv-data.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ABORT_TRIES    50
#define ABORT_PAUSE_US 100000

struct recv {
    const struct invocation *inv;
    int fd;
    struct stream_reader reader;
    char target[STREAM_NAME_MAX + 1];
    char vm[STREAM_NAME_MAX + 1]; /* the provisional one; "": not made yet */
    char memory_vm[STREAM_NAME_MAX + 1];
    char nbd_socket[256];
    struct nbd_session session;
    struct recv_data data;
};

/* ---- the stream ----------------------------------------------------------------------------- */

/* In the thread that has the signals an interrupt ends it. */
static ptrdiff_t read_fd(void *arg, void *data, size_t len)
{
    int fd = *(int *)arg;
    size_t got = 0;

    while (got < len) {
        ssize_t n = read(fd, (char *)data + got, len - got);
        if (n == 0)
            break;
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (n < 0 && errno == EAGAIN && !interrupted()) /* somebody made our input non-blocking */
            (void)poll(&poll_fd, 1, -1);
        else if (n < 0 && (errno != EINTR || interrupted()))
            return -errno;
        got += n > 0 ? (size_t)n : 0;
    }
    return (ptrdiff_t)got;
}

static enum exit_code open_input(struct recv *r)
{
    const char *path = option_value(r->inv, "input");

    r->fd = STDIN_FILENO;
    if (path && strcmp(path, "-")) {
        r->fd = open(path, O_RDONLY | O_CLOEXEC);
        if (r->fd < 0)
            return error(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_FAILED, "cannot read %s: %s", path,
                         strerror(errno));
    } else if (isatty(STDIN_FILENO)) {
        return error(EXIT_USAGE, "a stream does not come from a terminal; read it from a file with "
                                 "-i FILE, or from a pipe");
    }
    return EXIT_OK;
}

static enum exit_code open_stream(struct recv *r)
{
    r->reader = (struct stream_reader){.read = read_fd, .arg = &r->fd};
    int n = stream_reader_open(&r->reader);

    if (interrupted())
        return error(EXIT_FAILED, "interrupted");
    if (n < 0)
        return error(EXIT_FAILED, "%s", r->reader.why.text);
    if (text_refused(r->reader.info.note))
        return error(EXIT_FAILED,
                     "the note of %s@%s in the stream has a character beyond U+FFFD, "
                     "as emojis are, which Varve cannot keep",
                     r->reader.info.vm, r->reader.info.version);
    snprintf(r->target, sizeof(r->target), "%s", r->reader.info.vm);
    return EXIT_OK;
}

/* ---- beginning ------------------------------------------------------------------------------ */

static json_t *guid_json(const uint8_t guid[STREAM_GUID_BYTES])
{
    char text[2 * STREAM_GUID_BYTES + 1];

    for (unsigned i = 0; i < STREAM_GUID_BYTES; i++)
        snprintf(text + 2 * i, 3, "%02x", guid[i]);
    return json_string(text);
}

static json_t *disks_json(const struct stream_info *info)
{
    json_t *disks = json_array();

    for (uint32_t i = stream_has_memory(info); i < info->n_disks; i++)
        json_array_append_new(disks,
                              json_pack("{s:s, s:o, s:b}", "name", info->disks[i].name, "size",
                                        json_sprintf("%" PRIu64, info->disks[i].size_bytes),
                                        "fresh", (int)info->disks[i].fresh));
    return disks;
}

static enum exit_code begin(struct recv *r)
{
    static const char *const consistencies[] = {"crash", "filesystem", "application", "ram"};
    const struct stream_info *info = &r->reader.info;
    unsigned consistency = info->consistency < 4 ? info->consistency : 0;
    json_t *answer,
        *options = json_pack("{s:s, s:o, s:s, s:s, s:i, s:o, s:o, s:b}", "version", info->version,
                             "guid", guid_json(info->guid), "note", info->note, "consistency",
                             consistencies[consistency], "role", (int)info->role, "bytes",
                             json_sprintf("%" PRIu64, info->data_bytes), "created_us",
                             json_sprintf("%" PRIu64, info->created_us), "force",
                             option_value(r->inv, "force") != NULL);

    if (*info->from)
        json_object_set_new(options, "from_guid", guid_json(info->from_guid));
    if (stream_has_memory(info))
        json_object_set_new(
            options, "memory",
            json_string(*info->from && !info->disks[0].fresh ? "difference" : "whole"));
    enum exit_code code =
        call(r->inv, "recv.begin", json_pack("[s, o, o]", r->target, options, disks_json(info)),
             &answer);
    if (code != EXIT_OK)
        return code;
    snprintf(r->vm, sizeof(r->vm), "%s", member_text(answer, "vm"));
    snprintf(r->memory_vm, sizeof(r->memory_vm), "%s", member_text(answer, "memory_vm"));
    json_decref(answer);
    return EXIT_OK;
}

static enum exit_code connect_disk(struct recv *r, uint32_t i)
{
    const struct stream_disk *disk = &r->reader.info.disks[i];
    char name[256];

    if (disk->memory)
        snprintf(name, sizeof(name), "%s/memory", r->memory_vm);
    else
        snprintf(name, sizeof(name), "%s/%s", r->vm, disk->name);
    if (nbd_session_connect(&r->session, i, name, NULL) < 0)
        return EXIT_FAILED;
    int64_t size = libnbd.get_size(r->session.handles[i]);
    if (disk->memory ? size < (int64_t)disk->size_bytes : size != (int64_t)disk->size_bytes) {
        nbd_session_fail(&r->session, "%s has not the size that it was given", name);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static enum exit_code connect_all(struct recv *r)
{
    const struct stream_info *info = &r->reader.info;
    json_t *answer;
    enum exit_code code = call(r->inv, "daemon.info", NO_ARGUMENTS, &answer);

    if (code != EXIT_OK)
        return code;
    snprintf(r->nbd_socket, sizeof(r->nbd_socket), "%s", member_text(answer, "nbd_socket"));
    json_decref(answer);
    if (nbd_session_init(&r->session, r->nbd_socket, info->n_disks) < 0)
        code = EXIT_FAILED;
    for (uint32_t i = 0; code == EXIT_OK && i < info->n_disks; i++)
        code = connect_disk(r, i);
    return code == EXIT_OK ? code : error(code, "%s", r->session.why.text);
}

/* ---- the end -------------------------------------------------------------------------------- */

/* The daemon may see our disconnection a moment later: busy until then. */
static void undo(struct recv *r)
{
    enum exit_code code = EXIT_CONFLICT;
    struct why why = {};

    for (int i = 0; i < ABORT_TRIES && code == EXIT_CONFLICT; i++) {
        json_t *unused = NULL;
        if (i)
            usleep(ABORT_PAUSE_US);
        code = call_quiet(r->inv, "recv.abort", json_pack("[s]", r->vm), &unused, &why);
        json_decref(unused);
    }
    if (code != EXIT_OK && code != EXIT_NOT_FOUND && code != EXIT_UNREACHABLE)
        note("what was received so far is in vm %s, and goes when the daemon starts again (%s)",
             r->vm, why.text);
}

static enum exit_code write_data(struct recv *r)
{
    r->data = (struct recv_data){.session = &r->session, .reader = &r->reader};
    int n = recv_run(&r->data);

    if (n == 0 && interrupted())
        n = 1;
    if (n == 0)
        return EXIT_OK;
    if (n > 0)
        return error(EXIT_FAILED, "interrupted; nothing was changed");
    error(EXIT_FAILED, "%s (nothing was changed)", r->data.why.text);
    return r->session.failed ? check_daemon(r->inv, EXIT_FAILED) : EXIT_FAILED;
}

static enum exit_code print_result(const struct recv *r)
{
    const struct stream_info *info = &r->reader.info;

    if (r->inv->json) {
        json_t *json = json_pack("{s:s, s:s, s:o}", "vm", r->target, "version", info->version,
                                 "guid", guid_json(info->guid));
        enum exit_code code = print_json(json);
        json_decref(json);
        return code;
    }
    printf("%s@%s\n", r->target, info->version);
    return EXIT_OK;
}

static enum exit_code receive(struct recv *r)
{
    enum exit_code code = begin(r);

    if (code != EXIT_OK)
        return code;
    code = connect_all(r);
    if (code == EXIT_OK)
        code = write_data(r);
    nbd_session_close(&r->session, code == EXIT_OK);
    if (code != EXIT_OK) {
        undo(r);
        return code;
    }
    code = call(r->inv, "recv.finish", json_pack("[s]", r->vm), NULL);
    return code == EXIT_OK ? print_result(r) : code;
}

enum exit_code cmd_recv(const struct invocation *inv)
{
    static struct recv r; /* a failure may leave a thread that uses it */

    r.inv = inv;
    interrupt_catch();
    enum exit_code code = open_input(&r);
    if (code == EXIT_OK)
        code = open_stream(&r);
    if (code == EXIT_OK && inv->n_args > 0) {
        if (strlen(inv->args[0]) > STREAM_NAME_MAX)
            return error(EXIT_USAGE, "\"%.20s...\" is too long for a vm's name", inv->args[0]);
        strcpy(r.target, inv->args[0]);
    }
    if (code == EXIT_OK)
        code = receive(&r);
    if (code == EXIT_OK)
        stream_reader_close(&r.reader);
    return code;
}
