"""machine.py - for system tests: machines of a varved of our own, which are checkpointed and restored.

A machine of run() works all the time, in its memory and on its disk, and says by agrees() whether
both are of one instant. All waits have a time-out in seconds and end the test where it passes.
"""
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import time

import guest
import varve

# The number that was begun and the one that is done are in memory, and the disk has, past all caches,
# one of them.
WORK = """
(n=0; while :; do n=$((n+1)); echo $n >/tmp/b; mv /tmp/b /tmp/begun
  printf '%-512d' $n >/tmp/sector; dd if=/tmp/sector of=/dev/vda bs=512 count=1 oflag=direct conv=notrunc \
  2>/dev/null; echo $n >/tmp/d; mv /tmp/d /tmp/done; usleep 5000; done) & echo $! >/tmp/pid
"""
LOOK = """
kill -STOP $(cat /tmp/pid); sleep 0.1
echo $(cat /tmp/done) $(cat /tmp/begun) $(dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | tr -d ' ')
kill -CONT $(cat /tmp/pid)
"""


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def until(what, function, timeout=60):
    deadline = time.monotonic() + timeout
    while not function():
        check(time.monotonic() < deadline, what)
        time.sleep(0.01)


def refused(daemon, code, words, *arguments):
    """The command fails with that exit code and one sentence with all these words. Returns it."""
    result = subprocess.run([varve.program("varve"), "--run", str(daemon.run_dir), *arguments],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    check(result.returncode == code,
          f"{arguments} exited with {result.returncode}, not {code}: {result.stderr}{result.stdout}")
    for word in words:
        check(word in result.stderr, f"{arguments} does not say {word!r}: {result.stderr}")
    check(len(result.stderr.strip().splitlines()) == 1, f"no one sentence: {result.stderr}")
    return result.stderr.strip()


def command(daemon, *arguments):
    """Begun, not waited for."""
    return subprocess.Popen([varve.program("varve"), "--run", str(daemon.run_dir), *arguments],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def show(daemon, name):
    return json.loads(daemon.varve("--json", "show", name))


def vms(daemon):
    return [vm["name"] for vm in json.loads(daemon.varve("--json", "ls"))]


def versions(daemon, vm):
    return [v["name"] for v in json.loads(daemon.varve("--json", "ls", vm, "--unmeasured"))]


def is_attached(daemon, vm):
    return show(daemon, vm)["machine"]["state"] == "attached"


def qmp(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return guest.Qmp(sock)


def qmp_once(path, name, **arguments):
    monitor = qmp(path)
    try:
        return monitor.execute(name, **arguments)
    finally:
        monitor.close()


def is_alive(pid):
    """Not one that has ended and whose parent has not asked yet."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    ended = select.select([fd], [], [], 0)[0]
    os.close(fd)
    return not ended


class Machine(guest.Running):
    """One that works (WORK), started by varve run or varve restore, as it described it."""

    def __init__(self, daemon, name, described):
        super().__init__(described)
        self.daemon, self.name, self.pid = daemon, name, described["pid"]
        self.qmp = described["qmp"]

    def begin_work(self):
        self.console.log_in()
        self.console.check(WORK.strip())
        until("it does not begin", lambda: self.begun() > 3)

    def status(self):
        return qmp_once(self.qmp, "query-status")["status"]

    def lives(self):
        return not select.select([self.pidfd], [], [], 0)[0]

    def begun(self):
        text = self.console.check("cat /tmp/begun 2>/dev/null || echo 0", 60).strip()
        return int(text) if text.isdigit() else 0

    def goes_on(self, what):
        before = self.begun()
        until(f"{what}: {self.name} does not go on", lambda: self.begun() > before)

    def agrees(self, what):
        """Its memory and its disk are of one instant. Returns the number that it is at."""
        done, begun, disk = map(int, self.console.check(LOOK.strip(), 60).split())
        check(done in (begun, begun - 1) and disk in (done, begun),
              f"{what}: {self.name} has begun {begun} and done {done}, and its disk has {disk}")
        return begun


def run(daemon, vm, memory=128, options=(), extra=(), append=""):
    """Create the vm and start a machine on it. options: of varve run; extra: of QEMU; append: to the
    kernel's command line."""
    args = guest.tiny_guest(append=append)
    named = dict(zip(args[1::2], args[2::2]))
    daemon.varve("create", vm, "--size", "64M")
    machine = Machine(daemon, vm, json.loads(daemon.varve(
        "--json", "run", vm, "-m", f"{memory}M", "--accel", "tcg", "--kernel", named["-kernel"], "--initrd",
        named["-initrd"], "--append", named["-append"], *options, *(["--", *extra] if extra else []))))
    machine.begin_work()
    return machine


def restore(daemon, version, *options):
    """The machines that varve restore has started."""
    job = json.loads(daemon.varve("--json", "restore", version, *options))
    return [Machine(daemon, m["name"], m) for m in job["machines"]]


def left_in_shm():
    return list(pathlib.Path("/dev/shm").glob("varve-restore-*"))


def need_userfaultfd():
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        varve.skip("/dev/userfaultfd cannot be opened")


class Bare:
    """A QEMU that somebody else started, without disks: two monitors, its own RAM on /dev/shm."""

    def __init__(self, directory, name, *extra, memory=64, shared=True, user=None, qemu="qemu-system-x86_64"):
        """extra: more arguments. user: a numeric one, who then owns its sockets too."""
        args = [qemu, "-nodefaults", "-display", "none", "-m", str(memory)]
        if shared:
            args += ["-object", f"memory-backend-file,id=ram,size={memory}M,mem-path=/dev/shm,share=on",
                     "-machine", "memory-backend=ram"]
        self.dir = directory / name
        self.dir.mkdir()
        self.sockets = [self.dir / "mine", self.dir / "varve"]
        for path in self.sockets:
            args += ["-qmp", f"unix:{path},server=on,wait=off"]
        if user is not None:
            os.chown(self.dir, user, user)

        def prepare():
            guest._die_with_parent()
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)

        self.process = subprocess.Popen([*args, *extra], stdin=subprocess.DEVNULL, preexec_fn=prepare)
        until(f"QEMU did not start: {args} {extra}", lambda: all(p.exists() for p in self.sockets) or
              self.process.poll() is not None)
        check(self.process.poll() is None, f"QEMU did not start: {args} {extra}")
        self.mine = qmp(self.sockets[0])
        self.varve = str(self.sockets[1])

    def status(self):
        return self.mine.execute("query-status")["status"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
