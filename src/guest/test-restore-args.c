/* test-restore-args.c - command lines of QEMU, rewritten: what must differ does, what the guest
 * sees does not, and what cannot be had again is told. */
#include "guest/restore-args.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const nvram[1][2] = {{"/var/lib/web1.fd", "/run/varve/web2.fd"}};

static const struct restore_changes to_web2 = {
    .name = "web2",
    .dir = "/run/varve/vm/web2",
    .machine_type = "pc-q35-7.2",
    .vm_from = "web1",
    .vm_to = "web2",
    .nbd_socket = "/run/new/nbd.sock",
    .memory_file = "/dev/shm/varve-web2",
    .paths = nvram,
    .n_paths = 1,
};

/* One option before and after. after NULL: it goes. lost: a part of what is told, or NULL. */
static const struct rewritten {
    const char *name, *before, *after, *lost;
} cases[] = {
    {"-name", "web1", "web2", NULL},
    {"-name", "guest=web1,debug-threads=on", "guest=web2,debug-threads=on", NULL},
    {"-name", "web1,process=qemu-web1", "web2", NULL},
    {"-machine", "q35,accel=tcg,memory-backend=ram", "pc-q35-7.2,accel=tcg,memory-backend=ram",
     NULL},
    {"-M", "type=q35,usb=off", "type=pc-q35-7.2,usb=off", NULL},
    {"-machine", "memory-backend=huge", "memory-backend=huge,type=pc-q35-7.2", NULL},
    {"-pidfile", "/run/web1.pid", NULL, NULL},
    {"-incoming", "tcp:0:4444", NULL, NULL},
    {"-loadvm", "snap", NULL, NULL},
    {"-chardev", "socket,id=qmp,path=/run/varve/vm/web1/qmp.sock,server=on,wait=off",
     "socket,id=qmp,path=/run/varve/vm/web2/qmp.sock,server=on,wait=off", NULL},
    {"-chardev", "socket,id=con,path=/a,,b/con,server,nowait,logfile=/a,,b/con.log,logappend=on",
     "socket,id=con,path=/run/varve/vm/web2/con,server,nowait,"
     "logfile=/run/varve/vm/web2/con.log,logappend=on",
     NULL},
    {"-chardev", "socket,id=charmonitor,fd=21,server=on,wait=off",
     "socket,id=charmonitor,path=/run/varve/vm/web2/charmonitor.sock,server=on,wait=off", NULL},
    {"-chardev", "socket,id=qmp,path=/a/qmp.sock,server=on",
     "socket,id=qmp,path=/run/varve/vm/web2/qmp.sock,server=on,wait=off", NULL},
    {"-chardev", "socket,id=qmp,path=/a/qmp.sock,server,wait=on,mux=on",
     "socket,id=qmp,path=/run/varve/vm/web2/qmp.sock,server,mux=on,wait=off", NULL},
    {"-chardev", "socket,id=qmp,path=/a/qmp.sock,server=yes,wait",
     "socket,id=qmp,path=/run/varve/vm/web2/qmp.sock,server=yes,wait=off", NULL},
    {"-chardev", "socket,id=tpm,path=/run/swtpm", "socket,id=tpm,path=/run/swtpm", "connects to"},
    {"-chardev", "pty,id=serial0", "null,id=serial0", "serial0 is not connected"},
    {"-chardev", "socket,id=t,host=0.0.0.0,port=99,server=on", "null,id=t", "t is not connected"},
    {"-chardev", "null,id=x", "null,id=x", NULL},
    {"-chardev", "stdio,id=c0,mux=on,signal=off", "null,id=c0,mux=on", "c0 is not connected"},
    /* libvirt's. */
    {"-object",
     "{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/m.aes\"}", NULL,
     NULL},
    {"-object", "{\"qom-type\":\"rng-random\",\"id\":\"r\",\"filename\":\"/dev/urandom\"}",
     "{\"qom-type\":\"rng-random\",\"id\":\"r\",\"filename\":\"/dev/urandom\"}", NULL},
    {"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
     "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny", "filter"},
    {"-sandbox", "on", "on", NULL},
    {"-serial", "unix:/tmp/a,server,nowait", "unix:/run/varve/vm/web2/a,server=on,wait=off", NULL},
    {"-serial", "chardev:con", "chardev:con", NULL},
    {"-serial", "stdio", "null", "stdio is not connected"},
    {"-monitor", "tcp::4444,server", "null", "not connected"},
    {"-display", "gtk", NULL, "no display"},
    {"-vnc", ":1", NULL, "no display"},
    {"-blockdev",
     "{\"driver\":\"nbd\",\"node-name\":\"disk0\",\"server\":{\"type\":\"unix\",\"path\":\"/run/"
     "old/"
     "nbd.sock\"},\"export\":\"web1/root\"}",
     "{\"driver\":\"nbd\",\"node-name\":\"disk0\",\"server\":{\"type\":\"unix\",\"path\":\"/run/"
     "new/"
     "nbd.sock\"},\"export\":\"web2/root\"}",
     NULL},
    {"-blockdev",
     "{\"driver\":\"raw\",\"file\":{\"driver\":\"nbd\",\"server\":{\"path\":\"/o\"},\"export\":"
     "\"web1/a\"}}",
     "{\"driver\":\"raw\",\"file\":{\"driver\":\"nbd\",\"server\":{\"path\":\"/run/new/nbd.sock\"},"
     "\"export\":\"web2/a\"}}",
     NULL},
    {"-blockdev",
     "{\"driver\":\"nbd\",\"server\":{\"path\":\"/o\"},\"export\":\"web10/a\",\"read-only\":true}",
     "{\"driver\":\"nbd\",\"server\":{\"path\":\"/o\"},\"export\":\"web10/a\",\"read-only\":true}",
     NULL},
    {"-blockdev", "driver=nbd,server.type=unix,server.path=/o,export=web1",
     "driver=nbd,server.type=unix,server.path=/run/new/nbd.sock,export=web2", NULL},
    {"-blockdev", "driver=nbd,server.type=unix,server.path=/o,export=web1/a@v,read-only=on",
     "driver=nbd,server.type=unix,server.path=/o,export=web1/a@v,read-only=on", NULL},
    {"-blockdev", "driver=nbd,node-name=d,server.type=unix,server.path=/o,export=web1/data",
     "driver=nbd,node-name=d,server.type=unix,server.path=/run/new/nbd.sock,export=web2/data",
     NULL},
    {"-drive", "file=nbd+unix:///web1/root?socket=/o,if=none,id=d",
     "file=nbd+unix:///web2/root?socket=/run/new/nbd.sock,if=none,id=d", NULL},
    {"-drive", "if=pflash,file=/var/lib/web1.fd,format=raw",
     "if=pflash,file=/run/varve/web2.fd,format=raw", "a copy of its own"},
    {"-drive", "file=nbd:unix:/run/varve/nbd.sock:exportname=web1/root,format=raw",
     "file=nbd:unix:/run/new/nbd.sock:exportname=web2/root,format=raw", NULL},
    {"-drive", "file.filename=nbd+unix:///web1?socket=/o",
     "file.filename=nbd+unix:///web2?socket=/run/new/nbd.sock", NULL},
    {"-drive", "file.driver=nbd,file.path=/o,file.export=web1/root",
     "file.driver=nbd,file.path=/run/new/nbd.sock,file.export=web2/root", NULL},
    {"-drive",
     "file=json:{\"driver\":\"nbd\",,\"server\":{\"type\":\"unix\",,\"path\":\"/o\"},,"
     "\"export\":\"web1/root\"},if=none",
     "file=json:{\"driver\":\"nbd\",,\"server\":{\"type\":\"unix\",,\"path\":\"/run/new/"
     "nbd.sock\"},,"
     "\"export\":\"web2/root\"},if=none",
     NULL},
    {"-drive",
     "file=json:{\"file.driver\":\"nbd\",,\"file.path\":\"/o\",,\"file.export\":\"web1/a\"}",
     "file=json:{\"file.driver\":\"nbd\",,\"file.path\":\"/run/new/"
     "nbd.sock\",,\"file.export\":\"web2/a\"}",
     NULL},
    {"-drive", "file=json:{\"driver\":\"raw\",,\"file\":\"nbd+unix:///web1/root?socket=/o\"}",
     "file=json:{\"driver\":\"raw\",,\"file\":\"nbd+unix:///web2/root?socket=/run/new/nbd.sock\"}",
     NULL},
    {"-blockdev",
     "{\"driver\":\"quorum\",\"children\":[{\"driver\":\"nbd\",\"export\":\"web1/a\"}]}",
     "{\"driver\":\"quorum\",\"children\":[{\"driver\":\"nbd\",\"export\":\"web2/a\"}]}", NULL},
    {"-hda", "nbd+unix:///web1/root?socket=/o", "nbd+unix:///web2/root?socket=/run/new/nbd.sock",
     NULL},
    {"-hdb", "nbd:unix:/o:exportname=web1", "nbd:unix:/run/new/nbd.sock:exportname=web2", NULL},
    {"-hdc", "json:{\"driver\":\"nbd\",\"path\":\"/o\",\"export\":\"web1/c\"}",
     "json:{\"driver\":\"nbd\",\"path\":\"/run/new/nbd.sock\",\"export\":\"web2/c\"}", NULL},
    {"-cdrom", "nbd+unix:///other/iso?socket=/o", "nbd+unix:///other/iso?socket=/o", NULL},
    {"-sd", "nbd+unix:///web1/sd?socket=/o", "nbd+unix:///web2/sd?socket=/run/new/nbd.sock", NULL},
    {"-pflash", "/var/lib/web1.fd", "/run/varve/web2.fd", "a copy of its own"},
    {"-snapshot", "nbd+unix:///web1/root?socket=/o", /* a disk by itself */
     "nbd+unix:///web2/root?socket=/run/new/nbd.sock", NULL},
    {"-drive", "file=nbd+unix:///other/iso?socket=/o,readonly=on",
     "file=nbd+unix:///other/iso?socket=/o,readonly=on", NULL},
    {"-drive", "file=nbd+unix:///other/iso?socket=/o,media=cdrom",
     "file=nbd+unix:///other/iso?socket=/o,media=cdrom", NULL},
    {"-drive", "file=/other.raw,if=none", "file=/other.raw,if=none", NULL},
    {"-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22", "user,id=net0",
     "no ports are forwarded"},
    {"-netdev", "user,id=net0", "user,id=net0", "connections to the outside are cut"},
    {"-netdev", "tap,fd=33,id=net0,vhost=on", "hubport,id=net0,hubid=9000",
     "net0 is not connected"},
    {"-netdev", "bridge,id=net0,br=br0", "bridge,id=net0,br=br0", NULL},
    {"-netdev",
     "{\"type\":\"tap\",\"fd\":\"33\",\"vhost\":true,\"vhostfd\":\"35\",\"id\":\"hostnet0\"}",
     "hubport,id=hostnet0,hubid=9000", "hostnet0 is not connected"},
    {"-netdev", "{\"type\":\"tap\",\"fds\":\"33:34\",\"vhostfds\":\"35:36\",\"id\":\"n\"}",
     "hubport,id=n,hubid=9000", "n is not connected"},
    {"-netdev",
     "{\"type\":\"user\",\"id\":\"net0\",\"hostfwd\":[{\"str\":\"tcp:127.0.0.1:2222-:22\"}],"
     "\"ipv6\":false}",
     "{\"type\":\"user\",\"id\":\"net0\",\"ipv6\":false}", "no ports are forwarded"},
    {"-netdev", "{\"type\":\"user\",\"id\":\"net0\"}", "{\"type\":\"user\",\"id\":\"net0\"}",
     "connections to the outside are cut"},
    {"-netdev", "{\"type\":\"bridge\",\"id\":\"net0\",\"br\":\"br0\"}",
     "{\"type\":\"bridge\",\"id\":\"net0\",\"br\":\"br0\"}", NULL},
    {"-device", "virtio-net-pci,netdev=net0,mac=52:54:00:01:02:03",
     "virtio-net-pci,netdev=net0,mac=52:54:00:01:02:03", NULL},
    {"-object", "memory-backend-file,id=ram,size=1G,mem-path=/dev/shm,share=on,prealloc=on",
     "memory-backend-file,id=ram,size=1G,mem-path=/dev/shm/varve-web2.ram,share=on", NULL},
    {"-object",
     "{\"qom-type\":\"memory-backend-memfd\",\"id\":\"r\",\"share\":true,\"size\":1048576}",
     "memory-backend-file,id=r,share=on,size=1048576,mem-path=/dev/shm/varve-web2.r", NULL},
    {"-object", "memory-backend-memfd,id=r,size=64M,hugetlb=on,hugetlbsize=2M,share=on",
     "memory-backend-file,id=r,size=64M,share=on,mem-path=/dev/shm/varve-web2.r",
     "r is on /dev/shm now"},
    {"-object", "memory-backend-file,id=r,size=64M,share=on,mem-path=/dev/hugepages",
     "memory-backend-file,id=r,size=64M,share=on,mem-path=/dev/shm/varve-web2.r",
     "r is on /dev/shm now"},
    {"-object",
     "{\"qom-type\":\"memory-backend-memfd\",\"id\":\"r\",\"size\":1048576,\"host-nodes\":[0,1],"
     "\"policy\":\"bind\"}",
     "memory-backend-file,id=r,size=1048576,mem-path=/dev/shm/varve-web2.r,share=on",
     "r may be on any node of the host"},
    {"-object", "memory-backend-memfd,id=r,size=64M,host-nodes=0-1,policy=bind,share=on",
     "memory-backend-file,id=r,size=64M,host-nodes=0-1,policy=bind,share=on,"
     "mem-path=/dev/shm/varve-web2.r",
     NULL},
    {"-mem-prealloc", "-nodefaults", NULL, "not all there from the start"},
    {"-overcommit", "mem-lock=on,cpu-pm=on", "mem-lock=off,cpu-pm=on", "not locked"},
    {"-overcommit", "mem-lock=off", "mem-lock=off", NULL},
    {"-overcommit", "cpu-pm=on", "cpu-pm=on", NULL},
    {"-audiodev", "spice,id=snd0,out.frequency=44100", "none,id=snd0", "snd0 is heard by nobody"},
    {"-audiodev", "driver=spice,id=snd0", "none,id=snd0", "snd0 is heard by nobody"},
    {"-audiodev", "{\"driver\":\"spice\",\"id\":\"audio1\"}", "none,id=audio1",
     "audio1 is heard by nobody"},
    {"-audiodev", "{\"driver\":\"alsa\",\"id\":\"audio1\"}",
     "{\"driver\":\"alsa\",\"id\":\"audio1\"}", NULL},
    {"-object", "rng-random,id=rng0,filename=/dev/urandom",
     "rng-random,id=rng0,filename=/dev/urandom", NULL},
    {"-append", "-S -daemonize console=ttyS0", "-S -daemonize console=ttyS0", NULL},
    {"-cpu", "host,migratable=on", "host,migratable=on", NULL},
};

/* The value behind an option that stands there once, or NULL. */
static const char *value_of(const struct restore_args *a, const char *name, const char *not_this)
{
    for (unsigned i = 0; i + 1 < a->n; i++)
        if (!strcmp(a->argv[i], name) && (!not_this || !strstr(a->argv[i + 1], not_this)))
            return a->argv[i + 1];
    return NULL;
}

static bool has(const struct restore_args *a, const char *word)
{
    for (unsigned i = 0; i < a->n; i++)
        if (!strcmp(a->argv[i], word))
            return true;
    return false;
}

static void each_option(void **state)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct rewritten *c = &cases[i];
        char *argv[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t)c->name,
                        (char *)(uintptr_t)c->before, NULL};
        struct restore_args a;
        struct why why = {};
        assert_int_equal(restore_args_make(argv, &to_web2, &a, &why), 0);
        /* Ours come last, and some have the same name. */
        const char *value = value_of(&a, c->name, "varve-qmp");
        bool ours = !strcmp(c->name, "-pidfile") || !strcmp(c->name, "-incoming") ||
                    !strcmp(c->name, "-display");
        if (c->after) {
            if (!value || strcmp(value, c->after) != 0)
                print_error("%s %s became %s\n", c->name, c->before, value ? value : "nothing");
            assert_non_null(value);
            assert_string_equal(value, c->after);
        } else if (!ours) {
            assert_null(value);
        } else {
            assert_string_not_equal(value, c->before);
        }
        if (c->lost) {
            assert_true(a.n_lost > 0);
            bool told = false;
            for (unsigned k = 0; k < a.n_lost; k++)
                told = told || strstr(a.lost[k], c->lost);
            assert_true(told);
        } else {
            assert_int_equal(a.n_lost, 0);
        }
        restore_args_free(&a);
    }
}

/* A QEMU that was restored can be taken and restored again: one of each of ours. */
static void twice(void **state)
{
    char *argv[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t) "-S",
                    (char *)(uintptr_t) "-nographic", (char *)(uintptr_t) "-daemonize", NULL};
    struct restore_args once, again;
    struct why why = {};

    assert_int_equal(restore_args_make(argv, &to_web2, &once, &why), 0);
    assert_int_equal(restore_args_make(once.argv, &to_web2, &again, &why), 0);
    assert_int_equal(once.n, again.n);
    assert_true(has(&again, "-daemonize") && has(&again, "-S") && !has(&again, "-nographic"));
    assert_string_equal(value_of(&again, "-incoming", NULL), "defer");
    assert_string_equal(value_of(&again, "-pidfile", NULL), "/run/varve/vm/web2/pid");
    assert_string_equal(again.qmp, "/run/varve/vm/web2/varve-qmp.sock");
    restore_args_free(&once);
    restore_args_free(&again);
}

/* A port is kept by the machine that goes back itself: it does not wait there either. */
static void ports_kept(void **state)
{
    static const char *const ports[][2] = {
        {"socket,id=t,host=::,port=99,server=on", "socket,id=t,host=::,port=99,server=on,wait=off"},
        {"socket,id=t,port=99,server,telnet=on,wait=on",
         "socket,id=t,port=99,server,telnet=on,wait=off"},
        {"socket,id=t,port=99,server,nowait,websocket",
         "socket,id=t,port=99,server,nowait,websocket"},
        {"socket,id=t,host=there,port=99", "socket,id=t,host=there,port=99"},
    };
    struct restore_changes changes = to_web2;

    changes.keep_ports = true;
    for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
        char *argv[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t) "-chardev",
                        (char *)(uintptr_t)ports[i][0], NULL};
        struct restore_args a;
        struct why why = {};
        assert_int_equal(restore_args_make(argv, &changes, &a, &why), 0);
        assert_string_equal(value_of(&a, "-chardev", "varve-qmp"), ports[i][1]);
        restore_args_free(&a);
    }
}

/* The TPM's own swtpm, whichever option comes first. */
static void tpm(void **state)
{
    char chardev[] = "socket,id=c,path=/run/swtpm", tpmdev[] = "emulator,id=t,chardev=c";
    char *argv[] = {(char *)(uintptr_t) "qemu",
                    (char *)(uintptr_t) "-chardev",
                    chardev,
                    (char *)(uintptr_t) "-tpmdev",
                    tpmdev,
                    NULL};
    struct restore_args a;
    struct why why = {};

    for (int i = 0; i < 2; i++) {
        assert_int_equal(restore_args_make(argv, &to_web2, &a, &why), 0);
        assert_string_equal(a.tpm, "/run/varve/vm/web2/tpm.sock");
        assert_true(has(&a, "socket,id=c,path=/run/varve/vm/web2/tpm.sock"));
        assert_int_equal(a.n_lost, 1);
        restore_args_free(&a);
        char *name = argv[1], *value = argv[2];
        argv[1] = argv[3];
        argv[2] = argv[4];
        argv[3] = name;
        argv[4] = value;
    }
    argv[3] = NULL; /* then it is a character device like others */
    assert_int_equal(restore_args_make(argv, &to_web2, &a, &why), 0);
    assert_true(!*a.tpm && has(&a, chardev));
    restore_args_free(&a);
}

/* As many memory backends as there may be, each with something to be told; and one more. */
static void memory_backends(void **state)
{
    static char texts[RESTORE_MEMORY_MAX + 1][80];
    char *argv[2 * RESTORE_MEMORY_MAX + 4] = {(char *)(uintptr_t) "qemu"};
    struct restore_args a;
    struct why why = {};

    for (unsigned i = 0; i <= RESTORE_MEMORY_MAX; i++) {
        snprintf(texts[i], sizeof(texts[i]), "memory-backend-file,id=r%u,size=1M,mem-path=/huge",
                 i);
        argv[2 * i + 1] = (char *)(uintptr_t) "-object";
        argv[2 * i + 2] = texts[i];
    }
    char **last = &argv[2 * RESTORE_MEMORY_MAX + 1], *option = *last;
    *last = NULL;
    assert_int_equal(RESTORE_MEMORY_MAX, 64);
    assert_int_equal(restore_args_make(argv, &to_web2, &a, &why), 0);
    assert_int_equal(a.n_memory, RESTORE_MEMORY_MAX);
    assert_int_equal(a.n_lost, RESTORE_MEMORY_MAX);
    assert_string_equal(a.memory[63].path, "/dev/shm/varve-web2.r63");
    restore_args_free(&a);
    *last = option;
    assert_int_equal(restore_args_make(argv, &to_web2, &a, &why), -EOPNOTSUPP);
    assert_non_null(strstr(why.text, "more than 64 memory backends"));
}

static void new_macs(void **state)
{
    char *argv[] = {(char *)(uintptr_t) "qemu",
                    (char *)(uintptr_t) "-device",
                    (char *)(uintptr_t) "virtio-net-pci,netdev=net0,mac=52:54:00:01:02:03",
                    (char *)(uintptr_t) "-device",
                    (char *)(uintptr_t) "virtio-rng-pci",
                    NULL};
    struct restore_changes changes = to_web2;
    struct restore_args a;
    struct why why = {};

    changes.new_macs = true;
    assert_int_equal(restore_args_make(argv, &changes, &a, &why), 0);
    const char *value = value_of(&a, "-device", NULL);
    assert_non_null(strstr(value, "mac=52:54:00:"));
    assert_null(strstr(value, "mac=52:54:00:01:02:03"));
    assert_true(has(&a, "virtio-rng-pci"));
    restore_args_free(&a);
}

static void refused(void **state)
{
    char long_dir[300];
    char *passed[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t) "-add-fd",
                      (char *)(uintptr_t) "set=1,fd=5", NULL};
    char *cut[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t) "-chardev", NULL};
    char *secret[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t) "-object",
                      (char *)(uintptr_t) "secret,id=luks0,data=abc,keyid=masterKey0", NULL};
    char *plain[] = {(char *)(uintptr_t) "qemu", NULL};
    struct restore_changes changes = to_web2;
    struct restore_args a;
    struct why why = {};

    assert_int_equal(restore_args_make(passed, &to_web2, &a, &why), -EOPNOTSUPP);
    assert_non_null(strstr(why.text, "-incoming defer"));
    assert_int_equal(restore_args_make(secret, &to_web2, &a, &why), -EOPNOTSUPP);
    assert_non_null(strstr(why.text, "luks0"));
    assert_int_equal(restore_args_make(cut, &to_web2, &a, &why), -EOPNOTSUPP);
    memset(long_dir, 'x', sizeof(long_dir) - 1);
    long_dir[0] = '/';
    long_dir[120] = '\0';
    changes.dir = long_dir;
    assert_int_equal(restore_args_make(plain, &changes, &a, &why), -ENAMETOOLONG);
}

/* What is left as it was and would be another vm's disk, or the first machine's own file. */
static void not_its_own(void **state)
{
    static const char *const not_its_own[][2] = {
        {"-drive", "file=nbd+unix:///web1%2Froot?socket=/o"},
        {"-drive", "file=nbd+unix:////web1/root?socket=/o"},
        {"-drive", "file=json:{'driver':'nbd',,'export':'web1/root',,'path':'/o'}"},
        {"-drive", "file=json:{\"driver\": \"nbd\",, \"export\" : \"other/root\"}"},
        {"-drive", "file=nbd:unix:/o:exportname=other/root"},
        {"-drive", "file=nbd+unix:///web10/root?socket=/o,readonly=off"},
        {"-set", "drive.d.file.export=web1/root"},
        {"-set", "drive.d.file=nbd+unix:///web1/root?socket=/o"},
        {"-hda", "nbd+unix:///web1%2froot?socket=/o"},
        {"-hdd", "json:{'driver':'nbd','export':'web1','path':'/o'}"},
        {"-blockdev", "driver=nbd,server.path=/o,export=other/root"},
        {"-blockdev", "{\"driver\":\"nbd\",\"export\":\"other/root\",\"read-only\":false}"},
        {"-drive", "if=pflash,file=file:/var/lib/web1.fd"},
        {"-set", "drive.d.file=/var/lib/web1.fd"},
        {"-hda", "json:{'driver':'file','filename':'/var/lib/web1.fd'}"},
    };

    for (size_t i = 0; i < sizeof(not_its_own) / sizeof(not_its_own[0]); i++) {
        char *argv[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t)not_its_own[i][0],
                        (char *)(uintptr_t)not_its_own[i][1], NULL};
        struct restore_args a;
        struct why why = {};
        int r = restore_args_make(argv, &to_web2, &a, &why);
        if (r != -EOPNOTSUPP)
            print_error("%s %s is taken\n", argv[1], argv[2]);
        assert_int_equal(r, -EOPNOTSUPP);
        assert_non_null(strstr(why.text, argv[1]));
        assert_non_null(strstr(why.text, "-incoming defer"));
    }
}

/* As itself it may have disks that nobody sees, and those of others that are none of its vm. */
static void disks_not_seen(void **state)
{
    char *argv[] = {(char *)(uintptr_t) "qemu",
                    (char *)(uintptr_t) "-readconfig",
                    (char *)(uintptr_t) "/etc/web1.cfg",
                    (char *)(uintptr_t) "-hda",
                    (char *)(uintptr_t) "nbd+unix:///web1/a?socket=/o",
                    (char *)(uintptr_t) "-drive",
                    (char *)(uintptr_t) "file=nbd+unix:///web1/iso?socket=/o,readonly=on",
                    (char *)(uintptr_t) "-append",
                    (char *)(uintptr_t) "root=nbd export=web1/root",
                    NULL};
    struct restore_changes changes = to_web2;
    struct restore_args a;
    struct why why = {};

    changes.n_disks = 1;
    assert_int_equal(restore_args_make(argv, &changes, &a, &why), 0);
    restore_args_free(&a);
    changes.n_disks = 2;
    assert_int_equal(restore_args_make(argv, &changes, &a, &why), -EOPNOTSUPP);
    assert_non_null(strstr(why.text, "-readconfig"));
    changes.vm_to = "web1";
    assert_int_equal(restore_args_make(argv, &changes, &a, &why), 0);
    restore_args_free(&a);
}

/* A machine that was restored before has its copy where this one's will be. */
static void same_copy(void **state)
{
    static const char *const same[1][2] = {{"/run/varve/web2.fd", "/run/varve/web2.fd"}};
    char *argv[] = {(char *)(uintptr_t) "qemu", (char *)(uintptr_t) "-pflash",
                    (char *)(uintptr_t) "/run/varve/web2.fd", NULL};
    struct restore_changes changes = to_web2;
    struct restore_args a;
    struct why why = {};

    changes.paths = same;
    assert_int_equal(restore_args_make(argv, &changes, &a, &why), 0);
    assert_true(has(&a, "/run/varve/web2.fd"));
    restore_args_free(&a);
}

static void whose_disks(void **state)
{
    static const struct {
        const char *vm, *first, *second;
    } lines[] = {
        {"web1", "file=nbd+unix:///tools/iso?socket=/o,readonly=on",
         "file=nbd+unix:///web1?socket=/o"},
        {"web1", "file=nbd:unix:/o:exportname=tools/iso", "file=nbd:unix:/o:exportname=web1/root"},
        {"web1", "driver=nbd,export=web1/root@v", "file=nbd+unix:///web1/b?socket=/o"},
        {"old", "driver=nbd,export=tools/iso", "driver=nbd,export=old/root"},
        {"old", "driver=nbd,export=web1/iso,read-only=on", "driver=nbd,export=old/a"},
        {"web1", "driver=nbd,export=web1/iso,read-only=on",
         "driver=nbd,export=tools/iso,read-only=on"},
        {"", "driver=nbd,export=tools/iso,read-only=on", "driver=file,filename=/export=web1/root"},
    };
    json_t *disks = json_pack("{s:s}", "root", "d0");

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        char *argv[] = {(char *)(uintptr_t) "qemu",         (char *)(uintptr_t) "-drive",
                        (char *)(uintptr_t)lines[i].first,  (char *)(uintptr_t) "-drive",
                        (char *)(uintptr_t)lines[i].second, NULL};
        char vm[64] = "";
        restore_args_disks_vm(argv, "web1", disks, vm, sizeof(vm));
        assert_string_equal(vm, lines[i].vm);
    }
    json_decref(disks);
}

static void of_a_process(void **state)
{
    char **argv = NULL;
    struct why why = {};

    assert_int_equal(restore_args_of(getpid(), &argv, &why), 0);
    assert_non_null(strstr(argv[0], "test-restore-args"));
    free(argv);
    assert_int_equal(restore_args_of(0x7ffffff0, &argv, &why), -ESRCH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_option),     cmocka_unit_test(twice),
        cmocka_unit_test(ports_kept),      cmocka_unit_test(tpm),
        cmocka_unit_test(memory_backends), cmocka_unit_test(new_macs),
        cmocka_unit_test(refused),         cmocka_unit_test(not_its_own),
        cmocka_unit_test(disks_not_seen),  cmocka_unit_test(same_copy),
        cmocka_unit_test(whose_disks),     cmocka_unit_test(of_a_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
