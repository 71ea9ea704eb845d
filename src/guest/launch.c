/* launch.c - starting QEMU in the background. */
#include "guest/launch.h"

#include "base/cleanup.h"
#include "base/size.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define QEMU              "qemu-system-x86_64"
#define SHM_DIR           "/dev/shm"
#define RECONNECT_SECONDS 300
#define PROBE_SECONDS     10
#define ARGS_MAX          256
#define FORWARDS_MAX      16

/* The command line as it grows; texts are freed with it. */
struct args {
    char *list[ARGS_MAX + 1];
    unsigned n;
    bool failed; /* no memory, or too many */
};

static void add(struct args *args, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct args *args, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    if (args->n < ARGS_MAX && vasprintf(&args->list[args->n], format, list) >= 0)
        args->n++;
    else
        args->failed = true;
    args->list[args->n] = NULL;
    va_end(list);
}

static void args_free(struct args *args)
{
    for (unsigned i = 0; i < args->n; i++)
        free(args->list[i]);
}

/* A comma inside a value of a QEMU option is written twice. */
static const char *escape(const char *text, char out[2 * LAUNCH_PATH_MAX])
{
    size_t n = 0;

    for (; *text && n < 2 * LAUNCH_PATH_MAX - 2; text++) {
        out[n++] = *text;
        if (*text == ',')
            out[n++] = ',';
    }
    out[n] = '\0';
    return out;
}

/* ---- files of the machine ------------------------------------------------------------------- */

struct files {
    char dir[LAUNCH_PATH_MAX], pid[LAUNCH_PATH_MAX];
};

static int make_dir(const char *path, struct why *why)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return 0;
    int r = -errno;
    return why_set(why, r, "cannot make the directory %s: %s", path, strerror(-r));
}

static int name_files(const char *run_dir, const char *name, struct files *files,
                      struct launched *ret, struct why *why)
{
    struct sockaddr_un limit;
    int n = snprintf(files->dir, sizeof(files->dir), "%s/vm/%s", run_dir, name);

    if (n + strlen("/console.sock") >= sizeof(limit.sun_path))
        return why_set(
            why, -ENAMETOOLONG,
            "the socket path %s/console.sock has %zu characters, and a Unix socket's may "
            "have %zu; use a shorter run directory or --name",
            files->dir, (size_t)n + strlen("/console.sock"), sizeof(limit.sun_path) - 1);
    /* The length is known to fit; the compiler is told so by the precision. */
    snprintf(files->pid, sizeof(files->pid), "%.120s/pid", files->dir);
    snprintf(ret->qmp, sizeof(ret->qmp), "%.120s/qmp.sock", files->dir);
    snprintf(ret->attach, sizeof(ret->attach), "%.120s/attach.sock", files->dir);
    snprintf(ret->console, sizeof(ret->console), "%.120s/console.sock", files->dir);
    snprintf(ret->log, sizeof(ret->log), "%.120s/console.log", files->dir);
    snprintf(ret->agent, sizeof(ret->agent), "%.120s/agent.sock", files->dir);
    return 0;
}

static int make_dirs(const char *run_dir, const struct files *files, struct why *why)
{
    char parent[LAUNCH_PATH_MAX];

    snprintf(parent, sizeof(parent), "%s/vm", run_dir);
    int r = make_dir(parent, why);
    return r < 0 ? r : make_dir(files->dir, why);
}

/* QEMU keeps its pid file locked while it runs. */
static pid_t running_pid(const char *path)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    char text[16] = "";

    if (fd < 0 || fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return 0;
    if (pread(fd, text, sizeof(text) - 1, 0) > 0)
        return atoi(text);
    return lock.l_pid > 0 ? lock.l_pid : 1;
}

int launch_find(const char *run_dir, const char *name, struct launched *ret, struct why *why)
{
    struct launched found = {};
    struct files files;
    int r = name_files(run_dir, name, &files, &found, why);

    if (r < 0)
        return r;
    found.pid = running_pid(files.pid);
    if (!found.pid)
        return why_set(why, -ENOENT, "no machine %s runs; start it with varve run", name);
    *ret = found;
    return 0;
}

/* ---- arguments ------------------------------------------------------------------------------ */

static void add_disk(struct args *args, const struct launch *l, unsigned i)
{
    json_t *node = json_pack("{s:s, s:s, s:{s:s, s:s}, s:o, s:i, s:s}", "driver", "nbd",
                             "node-name", "?", "server", "type", "unix", "path", l->nbd_socket,
                             "export", json_sprintf("%s/%s", l->vm, l->disks[i]), "reconnect-delay",
                             RECONNECT_SECONDS, "discard", "unmap");
    json_object_set_new(node, "node-name", json_sprintf("disk%u", i));
    char *text = json_dumps(node, JSON_COMPACT);

    json_decref(node);
    add(args, "-blockdev");
    add(args, "%s", text ? text : "");
    free(text);
    add(args, "-device");
    /* A serial may have 20 characters; it is how a guest finds its disks by name. */
    if (l->kernel)
        add(args, "virtio-blk-pci,drive=disk%u,serial=%.20s", i, l->disks[i]);
    else
        add(args, "virtio-blk-pci,drive=disk%u,serial=%.20s,bootindex=%u", i, l->disks[i], i + 1);
}

/* "tcp:2222:22" becomes ",hostfwd=tcp:127.0.0.1:2222-:22". */
static int read_forwards(const char *text, char *out, size_t size, struct why *why)
{
    unsigned host, guest, n_forwards = 0;
    size_t at = 0;
    int n;

    *out = '\0';
    while (text && *text) {
        if (sscanf(text, "tcp:%5u:%5u%n", &host, &guest, &n) != 2 || !host || host > 65535 ||
            !guest || guest > 65535 || (text[n] && text[n] != ',') || ++n_forwards > FORWARDS_MAX)
            return why_set(why, -EINVAL,
                           "\"%s\" forwards no port; write tcp:HOST:GUEST, such as tcp:2222:22",
                           text);
        at += (size_t)snprintf(out + at, size - at, ",hostfwd=tcp:127.0.0.1:%u-:%u", host, guest);
        text += n;
        text += *text == ',';
    }
    return 0;
}

static void add_agent(struct args *args, const char *path)
{
    char a[2 * LAUNCH_PATH_MAX];

    add(args, "-device");
    add(args, "virtio-serial-pci");
    add(args, "-chardev");
    add(args, "socket,id=agent,path=%s,server=on,wait=off", escape(path, a));
    add(args, "-device");
    add(args, "virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
}

static void add_machine(struct args *args, const struct launch *l, const char *cpu, bool kvm)
{
    add(args, QEMU);
    add(args, "-name");
    add(args, "%s", l->name);
    add(args, "-machine");
    add(args, "q35,accel=%s,memory-backend=ram", kvm ? "kvm" : "tcg");
    add(args, "-cpu");
    add(args, "%s", cpu);
    add(args, "-smp");
    add(args, "%u", l->cpus);
    add(args, "-m");
    add(args, "%" PRIu64 "M", l->memory_bytes >> 20);
    add(args, "-object");
    add(args, "memory-backend-file,id=ram,size=%" PRIu64 ",mem-path=" SHM_DIR ",share=on",
        l->memory_bytes);
    add(args, "-nodefaults");
    add(args, "-no-user-config");
    add(args, "-display");
    add(args, "none");
    add(args, "-daemonize");
}

static void add_boot(struct args *args, const struct launch *l)
{
    const char *const pairs[][2] = {
        {"-kernel", l->kernel}, {"-initrd", l->initrd}, {"-append", l->append}};

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        if (pairs[i][1]) {
            add(args, "%s", pairs[i][0]);
            add(args, "%s", pairs[i][1]);
        }
}

static int build_args(const struct launch *l, const char *cpu, const struct files *files,
                      const struct launched *paths, struct args *args, struct why *why)
{
    char a[2 * LAUNCH_PATH_MAX], b[2 * LAUNCH_PATH_MAX];

    add_machine(args, l, cpu, paths->kvm);
    add(args, "-pidfile");
    add(args, "%s", files->pid);
    add(args, "-chardev");
    add(args, "socket,id=qmp,path=%s,server=on,wait=off", escape(paths->qmp, a));
    add(args, "-mon");
    add(args, "chardev=qmp,mode=control");
    add(args, "-chardev");
    add(args, "socket,id=attach,path=%s,server=on,wait=off", escape(paths->attach, a));
    add(args, "-mon");
    add(args, "chardev=attach,mode=control");
    add(args, "-chardev");
    add(args, "socket,id=console,path=%s,server=on,wait=off,logfile=%s,logappend=on",
        escape(paths->console, a), escape(paths->log, b));
    add(args, "-serial");
    add(args, "chardev:console");
    for (unsigned i = 0; i < l->n_disks; i++)
        add_disk(args, l, i);
    add(args, "-netdev");
    add(args, "user,id=net0%s", l->forward ? l->forward : "");
    add(args, "-device");
    add(args, "virtio-net-pci,netdev=net0,romfile=");
    add(args, "-device");
    add(args, "virtio-rng-pci");
    add_agent(args, paths->agent);
    add_boot(args, l);
    for (unsigned i = 0; i < l->n_extra; i++)
        add(args, "%s", l->extra[i]);
    return args->failed ? why_set(why, -E2BIG, "too many arguments for QEMU") : 0;
}

/* ---- starting ------------------------------------------------------------------------------- */

/* In the child: both outputs go to err; the errno of a failed exec to status. The alarm stays set
 * over the exec. */
static void run_child(char *const *argv, const char *input, int err, int status)
{
    int in[2] = {-1, -1};

    if (input) {
        alarm(PROBE_SECONDS);
        if (pipe(in) == 0 && write(in[1], input, strlen(input)) == (ssize_t)strlen(input))
            close(in[1]);
    } else {
        in[0] = open("/dev/null", O_RDONLY);
    }
    if (in[0] >= 0 && dup2(in[0], STDIN_FILENO) >= 0 && dup2(err, STDOUT_FILENO) >= 0 &&
        dup2(err, STDERR_FILENO) >= 0)
        execvp(argv[0], argv);
    int code = errno;
    ssize_t n = write(status, &code, sizeof(code));
    (void)n;
    _exit(127);
}

/* Run QEMU until it ends: with -daemonize when the machine is up, else when input tells it to.
 * input: for its stdin, short; with it there is a time limit. NULL: none of both. */
static int run_qemu(char *const *argv, const char *input, struct why *why)
{
    char text[WHY_MAX_CHARS - 64] = "";
    int err[2], status[2], wait_status = 0, code = 0;
    size_t len = 0;
    ssize_t n;

    if (pipe2(err, O_CLOEXEC) < 0)
        return why_set(why, -errno, "cannot make a pipe: %s", strerror(errno));
    if (pipe2(status, O_CLOEXEC) < 0) {
        close(err[0]);
        close(err[1]);
        return why_set(why, -errno, "cannot make a pipe: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0)
        run_child(argv, input, err[1], status[1]);
    close(err[1]);
    close(status[1]);
    if (pid > 0) {
        if (read(status[0], &code, sizeof(code)) != sizeof(code))
            code = 0;
        /* The machine in the background gives up its end too: this reaches the end of the file. */
        while (len < sizeof(text) - 1 && (n = read(err[0], text + len, sizeof(text) - 1 - len)) > 0)
            len += (size_t)n;
        while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR)
            ;
    }
    close(err[0]);
    close(status[0]);
    if (pid < 0)
        return why_set(why, -EAGAIN, "cannot start a process: %s", strerror(EAGAIN));
    if (code == ENOENT)
        return why_set(why, -ENOENT,
                       QEMU " is not installed; install it with: apt install qemu-system-x86");
    if (code)
        return why_set(why, -code, "cannot run " QEMU ": %s", strerror(code));
    while (len && text[len - 1] == '\n')
        text[--len] = '\0';
    if (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status) != 0)
        return why_set(why, -EIO, "QEMU did not start: %s", len ? text : "it gave no reason");
    return 0;
}

static int check_memory(uint64_t bytes, struct why *why)
{
    char wanted[SIZE_TEXT_CHARS], there[SIZE_TEXT_CHARS];
    struct statvfs fs;

    if (bytes < 16ULL << 20 || bytes % (1 << 20))
        return why_set(why, -EINVAL, "a guest's memory is a multiple of 1M and at least 16M");
    if (statvfs(SHM_DIR, &fs) < 0)
        return why_set(why, -ENOMEM, SHM_DIR " cannot be used: %s", strerror(errno));
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes < bytes)
        return why_set(why, -ENOMEM,
                       "the guest's memory of %s does not fit into " SHM_DIR " (%s free); use less "
                       "with -m, or make " SHM_DIR " larger",
                       size_format(bytes, wanted), size_format(free_bytes, there));
    return 0;
}

/* What KVM is tried with. The second is for nested machines whose KVM refuses to set that register.
 */
static const char *const kvm_cpus[] = {"host", "host,arch-capabilities=off"};

/* A machine of QEMU's own that quits before its first instruction: KVM may run code and still
 * refuse what QEMU asks of it. */
static int try_cpu(const char *cpu, struct why *why)
{
    static const char quit[] = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n";
    static const char *const fixed[] = {
        QEMU,          "-machine",        "q35,accel=kvm", "-m",   "16",
        "-nodefaults", "-no-user-config", "-display",      "none", "-S",
        "-qmp",        "stdio",           "-cpu"};
    struct args args = {};

    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        add(&args, "%s", fixed[i]);
    add(&args, "%s", cpu);
    int r = args.failed ? why_set(why, -ENOMEM, "no memory") : run_qemu(args.list, quit, why);
    args_free(&args);
    return r;
}

/* The processor to start with, under KVM where that works. */
static int choose_accel(enum accel accel, const char **ret_cpu, struct launched *ret,
                        struct why *why)
{
    struct why kvm = {};
    int r = -EOPNOTSUPP;

    *ret_cpu = "max";
    if (accel == ACCEL_TCG)
        return 0;
    if (kvm_probe(&kvm) == 0)
        for (size_t i = 0; i < sizeof(kvm_cpus) / sizeof(kvm_cpus[0]) && r < 0 && r != -ENOENT;
             i++) {
            *ret_cpu = kvm_cpus[i];
            r = try_cpu(kvm_cpus[i], &kvm);
        }
    if (r == 0) {
        ret->kvm = true;
        return 0;
    }
    if (r == -ENOENT)
        return why_set(why, r, "%s", kvm.text);
    if (accel == ACCEL_KVM)
        return why_set(why, -EOPNOTSUPP, "KVM does not work here: %.600s; use --accel tcg",
                       kvm.text);
    *ret_cpu = "max";
    kvm.text[strcspn(kvm.text, "\n")] = '\0';
    snprintf(ret->kvm_why, sizeof(ret->kvm_why), "%.120s", kvm.text);
    return 0;
}

int launch_qemu(const struct launch *given, struct launched *ret, struct why *why)
{
    struct launch copy = *given, *l = &copy;
    char forwards[FORWARDS_MAX * 48];
    struct launched result = {};
    const char *cpu;
    struct files files;
    struct args args = {};

    if (l->n_disks == 0 && !l->kernel)
        return why_set(why, -EINVAL, "vm %s has no disk to boot from; add one, or name a --kernel",
                       l->vm);
    int r = read_forwards(l->forward, forwards, sizeof(forwards), why);
    copy.forward = forwards; /* as QEMU wants them */
    if (r == 0)
        r = check_memory(l->memory_bytes, why);
    if (r == 0)
        r = name_files(l->run_dir, l->name, &files, &result, why);
    if (r == 0)
        r = make_dirs(l->run_dir, &files, why);
    if (r < 0)
        return r;
    result.pid = running_pid(files.pid);
    if (result.pid)
        return why_set(why, -EEXIST, "%s runs already, as process %d (QMP socket %s)", l->name,
                       (int)result.pid, result.qmp);
    if (l->in_use)
        return why_set(why, -EBUSY,
                       "a disk of %s is in use; two machines on one disk destroy its file system: "
                       "stop the other client first",
                       l->vm);
    r = choose_accel(l->accel, &cpu, &result, why);
    if (r == 0)
        r = build_args(l, cpu, &files, &result, &args, why);
    if (r == 0)
        r = run_qemu(args.list, NULL, why);
    args_free(&args);
    if (r < 0)
        return r;
    result.pid = running_pid(files.pid);
    if (!result.pid)
        return why_set(why, -EIO, "QEMU ended right after its start; see %s", result.log);
    *ret = result;
    return 0;
}
