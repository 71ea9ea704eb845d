"""A guest for the rows about checkpoints: what runs in it, and how its memory is looked at from outside.

The guest is the tiny one (a Debian kernel and busybox) with bench/guest/load.c, and a disk that has redis and gcc
of Debian (scripts/guest-programs). It has 2 processors and virtio-blk, -net, -rng and -balloon, under TCG.

Invariants:
 1. No QEMU outlives this program: a watcher, which notices its end by a pipe, kills what the pid files name.
 2. What the guest counts is read in its RAM, a file that QEMU has open; nothing in the guest is woken for it. Of a
    machine that was restored lazily nobody may look at pages that are not there: wait until all are.
"""

import glob
import gzip
import json
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

from .api import Api
from .servers import EXPORT, BenchError, Varve
from .session import ROOT
from .stats import MIB

sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import guest  # noqa: E402
from guest import GuestError  # noqa: E402, F401

# struct mailbox of bench/guest/load.c
MAILBOX = ["magic", *(f"work{i}" for i in range(8)), "redis", "few", "random", "hot", "disk", "net", "rng", "ticks",
           "failures"]
FOUR_GIB, LOW_MEMORY = 4 << 30, 2 << 30  # where q35 has what does not fit below the devices
WATCHER = """trap '' TERM INT HUP; cat >/dev/null; for f in "$1"/vm/*/pid; do kill -9 "$(cat "$f")" 2>/dev/null; done"""
SET_UP = """
mount -t ext4 /dev/vda /mnt && mount -t proc proc /mnt/proc && mount --bind /dev /mnt/dev && chmod 1777 /mnt/tmp
cp -r /load-src /mnt/src
ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0
echo 0 >/proc/sys/vm/compact_unevictable_allowed
mkfifo /tmp/load.in /tmp/load.out
/load /tmp/load.in /tmp/load.out >/tmp/load.log 2>&1 &
chroot /mnt /usr/bin/redis-server --save '' --appendonly no --bind 127.0.0.1 >/tmp/redis.log 2>&1 &
cat >/tmp/compile <<'EOF'
export PATH=/usr/bin:/bin
n=0
while :; do
  for f in err mono report size time-slice worker loop loop-threads; do
    chroot /mnt /usr/bin/gcc -std=gnu17 -D_GNU_SOURCE -O1 -I/src -c /src/base/$f.c -o /src/out.o || exit
    n=$((n+1)); echo $n >/tmp/compiled.new; mv /tmp/compiled.new /tmp/compiled
  done
done
EOF
echo 0 >/tmp/compiled
"""
COMPILE_ENDS = """
kill $(cat /tmp/compile.pid) || echo 'it has ended by itself'; wait
cat /tmp/compile.log 2>/dev/null || :
"""


class Machines(Varve):
    """A store, its daemon, and machines that it starts. The daemon may use all processors: it starts
    QEMUs, which would have to share what it is bound to."""

    def __init__(self, bench, capacity, cache=None):
        self.watch = None
        super().__init__(bench, 0, capacity=capacity, cache=cache)
        self.watch = start_watch(self.run_dir)
        for name, *arguments in (("guest-tiny",), ("guest-programs", "bench")):
            made = subprocess.run([os.path.join(ROOT, "scripts", name), *arguments], check=False)
            if made.returncode:
                raise BenchError(f"scripts/{name} failed, see above; scripts/setup bench installs what it wants")
        self.cli("import", os.path.join(ROOT, "build/guest/bench.img"), EXPORT)
        self.api = Api(self)

    def _spawn(self, argv):
        self.child = self.bench.procs.spawn(argv, log=self.log, stdout=subprocess.DEVNULL)

    def end_machines(self):
        if self.watch:
            self.watch.stdin.close()
            self.watch.wait()
            self.watch = None

    def stop(self):
        self.end_machines()
        super().stop()

    def run(self, mib):
        """Start the guest; its load runs, all quiet."""
        free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
        if free < mib * MIB:
            raise BenchError(f"/dev/shm has {free // MIB} MiB free of the {mib} that the guest's memory takes")
        initrd = make_initrd(self.run_dir)
        described = json.loads(self.cli(
            "--json", "run", EXPORT, "-m", f"{mib}M", "-c", "2", "--accel", "tcg", "--kernel",
            os.path.join(ROOT, "build/guest/tiny/vmlinuz"), "--initrd", initrd, "--append",
            "console=ttyS0 quiet panic=-1 varve.job=shell", "--", "-device", "virtio-balloon-pci"))
        machine = Machine(described)
        machine.console.log_in(120)
        machine.console.check(SET_UP, 60)
        machine.find_mailbox()
        return machine

    def run_filled(self, bench, row, mib, share=0.8):
        """The same, with so much of its RAM filled, and the first checkpoint, which has all of it, taken."""
        machine = self.run(mib)
        filled = machine.fill(share)
        took = self.checkpoint_called("first")
        bench.say(f"{row}: a guest of {mib} MiB has {machine.resident_bytes() // MIB} MiB of its RAM in use, {filled} MiB "
                  f"filled by the load; its first checkpoint took {took:.1f} s")
        return machine

    def checkpoint(self, name):
        """Seconds of the whole command."""
        begun = time.monotonic()
        self.cli("checkpoint", f"{EXPORT}@{name}")
        return time.monotonic() - begun

    def checkpoint_called(self, name):
        """The same by a call over a connection that is there, as a program does it."""
        begun = time.monotonic()
        job = self.api.call("vm.checkpoint", EXPORT, {"version": name})["job"]
        while True:
            status = self.api.call("job.status", job)
            if status["state"] == "done":
                return time.monotonic() - begun
            if status["state"] != "running":
                raise BenchError(f"the checkpoint {name} is {status['state']}: {status.get('error')}")
            time.sleep(0.01)

    def show(self, name):
        """What the checkpoint took: all numbers of times and sizes."""
        shown = json.loads(self.cli("--json", "show", f"{EXPORT}@{name}"))["machine"]
        numbers = {f"{kind}_{key}" if kind == "times" else key: int(value)
                   for kind in ("times", "sizes") for key, value in shown[kind].items()}
        if shown["by_migrate"]:
            raise BenchError("QEMU refused the quick way to its devices' state")
        return numbers

    def restore(self, name, **options):
        """(when the call was made by time.monotonic(), the job's number)"""
        begun = time.monotonic()
        return begun, self.api.call("vm.restore", EXPORT, name, options)

    def restored(self, job, states=("running", "resident"), timeout_s=60):
        """The machines of a restore once all of them are in one of the states."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.api.call("job.status", job)
            if status["state"] == "failed":
                raise BenchError(f"the restore failed: {status['error']}")
            machines = status.get("machines", [])
            if machines and all(m["state"] in states for m in machines):
                return machines
            if time.monotonic() > deadline:
                raise BenchError(f"after {timeout_s} s the restored machines have " + ", ".join(
                    f"{m['resident']} of {m['pages']} pages ({m['state']})" for m in machines))
            time.sleep(0.005)


class Machine:
    """A guest that runs. described: what varve run printed, or a machine of a restore's job."""

    def __init__(self, described):
        self.pid = int(described["pid"])
        self.pidfd = os.pidfd_open(self.pid)
        directory = described.get("directory") or os.path.dirname(described["console"])
        self.log = os.path.join(directory, "console.log")
        self.console = guest.Console.connect(os.path.join(directory, "console.sock"))
        self.qmp_path = os.path.join(directory, "qmp.sock")
        self.monitor = self.ram = None

    @property
    def qmp(self):
        if not self.monitor:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.qmp_path)
            self.monitor = Monitor(sock)
        return self.monitor

    def kill(self):
        if self.monitor:
            self.monitor.close()
        self.console.close()
        if self.ram:
            self.mailbox.close()
            os.close(self.ram)
        kill(self.pidfd)
        os.close(self.pidfd)

    # The load.

    def tell(self, command, timeout=60):
        """Give the load a command; its answer's numbers."""
        out = self.console.check(f"echo '{command}' >/tmp/load.in; cat /tmp/load.out", timeout).split()
        if not out or out[0] != "ok":
            raise BenchError(f"in the guest, {command!r} gave {' '.join(out)!r}")
        return {key: int(value) for key, value in zip(out[1::2], out[2::2])}

    def fill(self, share):
        """Fill so much of its RAM, counting what is in use. Returns the MiB that were filled."""
        text = self.console.check("grep -E '^(MemTotal|MemFree):' /proc/meminfo")
        free = int(text.split("MemFree:")[1].split()[0]) // 1024
        mib = int(free - (1 - share) * self.ram_bytes() / MIB)
        self.tell(f"fill {mib}", 300)
        return mib

    def begin_load(self, name):
        verb, _, number = name.partition(" ")
        if verb == "compile":
            self.console.check("sh /tmp/compile >/tmp/compile.log 2>&1 & echo $! >/tmp/compile.pid")
            deadline = time.monotonic() + 90
            while not self.compiled():
                if time.monotonic() > deadline:
                    raise BenchError(f"the compiler does not come to an end: {self.console.run('cat /tmp/compile.log')[1]}")
                time.sleep(0.2)
        elif verb != "idle":
            self.tell(f"{verb} {number or 1}")

    def end_load(self, name):
        verb = name.partition(" ")[0]
        if verb == "compile":
            said = self.console.check(COMPILE_ENDS).strip()
            if said:
                raise BenchError(f"the compiler in the guest said: {said[-500:]}")
        elif verb != "idle":
            self.tell(f"{verb} 0")

    def compiled(self):
        return int(self.console.check("cat /tmp/compiled"))

    def verify(self):
        """RAM is what its sums say, and the disk is what RAM says. Raises if not."""
        found = self.tell("verify", 300)
        if found["bad"] or found["bad_disk"] or found["failures"]:
            raise BenchError(f"the guest's memory, its disk or a device is not as it should be: {found}")
        return found["pages"]

    def prove(self):
        """A restored one: its devices do I/O, its memory and disk are right. Returns the pages; it is gone then."""
        self.find_mailbox()
        before = self.counts()
        time.sleep(2)
        after = self.counts()
        if not all(after[device] > before[device] for device in ("disk", "net", "rng")):
            raise BenchError(f"the devices of a restored machine do no I/O: {before}, {after}")
        pages = self.verify()
        self.kill()
        return pages

    # Its RAM, from outside.

    def find_mailbox(self):
        told = self.tell("few 0")
        self.ram = open_ram(self.pid)
        offset = told["mailbox"]
        if offset >= FOUR_GIB:
            offset += LOW_MEMORY - FOUR_GIB
        self.mailbox = mmap.mmap(self.ram, 4096, prot=mmap.PROT_READ, offset=offset)
        self.magic = told["magic"]
        self.counts()

    def counts(self):
        values = dict(zip(MAILBOX, struct.unpack_from(f"={len(MAILBOX)}Q", self.mailbox)))
        if values["magic"] != self.magic:
            raise BenchError("the load's counters are not where they were")
        return values

    def ram_bytes(self):
        return os.fstat(self.ram).st_size

    def resident_bytes(self):
        return os.fstat(self.ram).st_blocks * 512


class Monitor(guest.Qmp):
    """A QMP session that can pass a descriptor."""

    def pass_fd(self, name, fd):
        self.id += 1
        text = json.dumps({"execute": "getfd", "arguments": {"fdname": name}, "id": self.id})
        socket.send_fds(self.sock, [text.encode() + b"\n"], [fd])
        reply = self._answer()
        if "error" in reply:
            raise guest.GuestError(f"QMP getfd: {reply['error']['desc']}")

    def new_events(self):
        """Those that came since the last call, also ones that no command has read yet."""
        self.execute("query-status")
        events, self.events = self.events, []
        return events


def start_watch(run_dir):
    """It ends the machines whose pid files are in the run directory when its stdin ends."""
    return subprocess.Popen(["/bin/sh", "-c", WATCHER, "watch", run_dir], stdin=subprocess.PIPE, start_new_session=True)


def kill(pidfd):
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    select.select([pidfd], [], [], 10)


def open_ram(pid):
    """The file that is the machine's RAM, among what QEMU has open: the largest one on /dev/shm."""
    found = []
    for path in glob.glob(f"/proc/{pid}/fd/*"):
        try:
            if os.readlink(path).startswith("/dev/shm/"):
                found.append((os.stat(path).st_size, path))
        except OSError:
            continue
    if not found:
        raise BenchError("QEMU has no file of /dev/shm open: its RAM cannot be looked at")
    return os.open(max(found)[1], os.O_RDONLY)


def make_initrd(directory):
    """The tiny guest's initramfs, with the load and the sources for the compiler behind it."""
    load = os.path.join(ROOT, "build", "bench", "guest", "load")
    if not os.access(load, os.X_OK):
        raise BenchError(f"no {load}; run make")
    tree, out = os.path.join(directory, "initrd.d"), os.path.join(directory, "initrd")
    if os.path.exists(out):
        return out
    os.makedirs(tree)
    shutil.copy(load, os.path.join(tree, "load"))
    shutil.copytree(os.path.join(ROOT, "src", "base"), os.path.join(tree, "load-src", "base"))
    archive = subprocess.run("find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0", shell=True, cwd=tree,
                             stdout=subprocess.PIPE, check=True).stdout
    with open(out, "wb") as f, open(os.path.join(ROOT, "build/guest/tiny/initrd"), "rb") as tiny:
        f.write(tiny.read() + gzip.compress(archive, 1))
    shutil.rmtree(tree)
    return out
