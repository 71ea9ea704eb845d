"""The sides of the comparison: Varve, qcow2 behind qemu-nbd, nbdkit memory, and a raw file.

Invariants:
 1. Whatever is started here ends with this program, even if it is killed: each child asks the kernel
    for SIGKILL when its parent dies, and Procs.end_all() runs at every orderly exit.
 2. A side that is not being measured is stopped (SIGSTOP). Work that it put off is then done in its
    own next turn and at its own cost, not in its peer's.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time

from . import nbd

PR_SET_PDEATHSIG = 1
EXPORT = "bench"
_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    pass


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def processors():
    """(the servers', the client's): one processor for the client, the others for the server.

    All sides alike. Left alone, the scheduler of a virtual machine often keeps a client and the server
    that wakes it on one processor (a halted one does not count as idle there), or does not, by chance:
    the speed of any side then has two values, 1 to 1.5."""
    every = sorted(os.sched_getaffinity(0))
    if len(every) < 2:
        return None, None
    return set(every[:-1]), {every[-1]}


class Procs:
    """Every process that was started and has not been waited for."""

    def __init__(self):
        self.running = []

    def spawn(self, argv, log=None, cpus=None, **kwargs):
        """log: a file for stderr, truncated; cpus: the only processors it may use, None for any.
        Raises BenchError with what to install when missing."""
        def prepare():
            _die_with_parent()
            if cpus:
                os.sched_setaffinity(0, cpus)

        stderr = open(log, "wb") if log else None
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=stderr,
                                     preexec_fn=prepare, **kwargs)
        except FileNotFoundError:
            raise BenchError(f"{argv[0]} is missing; scripts/setup bench installs it") from None
        finally:
            if stderr:
                stderr.close()
        self.running.append(child)
        return child

    def end(self, child, first=signal.SIGTERM, grace_s=30):
        """Ask it to end, then make it. Returns the exit code."""
        if child.poll() is None:
            child.send_signal(signal.SIGCONT)
            child.send_signal(first)
            try:
                child.wait(timeout=grace_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child in self.running:
            self.running.remove(child)
        return child.returncode

    def end_all(self):
        for child in list(reversed(self.running)):
            self.end(child, grace_s=5)


class Server:
    """A side. target: fio's lines for it. pid: whose CPU, memory and storage are counted."""

    name = "?"

    def __init__(self, bench, label=None):
        self.bench = bench
        self.label = label or self.name
        self.child = None
        self.frozen = False
        self.socket = os.path.join(bench.run_dir, f"{self.label}.sock")
        self.log = os.path.join(bench.run_dir, f"{self.label}.log")

    def target_of(self, export):
        return {"ioengine": "nbd", "uri": f"nbd+unix:///{export}?socket={self.socket}"}

    @property
    def target(self):
        return self.target_of(EXPORT)

    def _spawn(self, argv):
        self.child = self.bench.procs.spawn(argv, log=self.log, cpus=processors()[0],
                                            stdout=subprocess.DEVNULL)

    def require_alive(self):
        if self.child and self.child.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                said = f.read()[-1500:]
            raise BenchError(f"{self.label} ended with {self.child.returncode}: {said.strip()}")

    def wait_ready(self, timeout_s=30, pause_s=0.02):
        """Until a 4 KiB read at 0 is answered. Returns when, by time.monotonic(), and the bytes."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.require_alive()
            try:
                with nbd.Nbd(self.socket, EXPORT) as conn:
                    page = conn.read(0, 4096)
                    return time.monotonic(), page
            except (OSError, nbd.NbdError) as error:
                if time.monotonic() > deadline:
                    raise BenchError(f"{self.label} does not serve: {error}") from None
            time.sleep(pause_s)

    def freeze(self):
        """Stop it, and wait until it has stopped (a request in the kernel is finished first)."""
        if not self.child:
            return
        self.require_alive()
        self.child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while self.state() != "T":
            if time.monotonic() > deadline:
                raise BenchError(f"{self.label} does not stop: its state is {self.state()}")
            time.sleep(0.001)
        self.frozen = True

    def thaw(self):
        if self.child:
            self.require_alive()
            self.child.send_signal(signal.SIGCONT)
            self.frozen = False

    def stop(self):
        if self.child:
            child, self.child, self.frozen = self.child, None, False
            code = self.bench.procs.end(child)
            if code not in (0, -signal.SIGTERM):
                raise BenchError(f"{self.label} ended with {code} when asked to stop, see {self.log}")

    # What the kernel counted for it.

    def _stat(self):
        with open(f"/proc/{self.child.pid}/stat", encoding="ascii") as f:
            return f.read().rpartition(")")[2].split()

    def state(self):
        """The kernel's letter: R, S, D, T (stopped), Z."""
        return self._stat()[0]

    def cpu_s(self):
        if not self.child:
            return 0.0
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def storage_bytes(self):
        """(read, written): what it sent to the block layer, over its life."""
        if not self.child:
            return 0, 0
        with open(f"/proc/{self.child.pid}/io", encoding="ascii") as f:
            counts = dict(line.split(": ") for line in f.read().splitlines())
        return int(counts["read_bytes"]), int(counts["write_bytes"])

    def memory_bytes(self):
        """(now, peak) resident."""
        with open(f"/proc/{self.child.pid}/status", encoding="ascii") as f:
            lines = dict(line.split(":", 1) for line in f.read().splitlines())
        return tuple(int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))


class Raw(Server):
    """No server: fio's io_uring engine on a file, O_DIRECT. What the file system gives."""

    name = "raw"

    def __init__(self, bench, disk_bytes):
        super().__init__(bench)
        self.file = os.path.join(bench.data_dir, "raw.img")
        with open(self.file, "wb") as f:
            f.truncate(disk_bytes)

    @property
    def target(self):
        return {"ioengine": "io_uring", "filename": self.file, "direct": 1}

    def stop(self):
        if os.path.exists(self.file):
            os.unlink(self.file)


class Memory(Server):
    """nbdkit memory: the ceiling of the protocol and the client. Nothing is stored."""

    name = "memory"

    def __init__(self, bench, disk_bytes):
        super().__init__(bench)
        self._spawn(["nbdkit", "-f", "-U", self.socket, "-e", EXPORT, "memory", str(disk_bytes)])
        self.wait_ready()


class Qcow2(Server):
    """A qcow2 file, not preallocated, behind qemu-nbd with O_DIRECT and io_uring."""

    name = "qcow2"

    def __init__(self, bench, disk_bytes):
        super().__init__(bench)
        self.file = os.path.join(bench.data_dir, "peer.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=off",
                        self.file, str(disk_bytes)], check=True)
        self._spawn(["qemu-nbd", "-t", "-e", "0", "--cache=none", "--aio=io_uring", "-f", "qcow2",
                     "-k", self.socket, "-x", EXPORT, self.file])
        self.wait_ready()

    def stop(self):
        super().stop()
        if os.path.exists(self.file):
            os.unlink(self.file)


class Varve(Server):
    """A store with one vm in it, and its daemon. cache: cache-size; None is the default's."""

    name = "varve"

    def __init__(self, bench, disk_bytes, *, capacity, cache="0", label=None):
        super().__init__(bench, label)
        self.run_dir = os.path.join(bench.run_dir, self.label)
        self.store = os.path.join(bench.data_dir, self.label)
        self.socket = os.path.join(self.run_dir, "nbd.sock")
        self.cache = cache
        os.mkdir(self.run_dir)
        self.cli("init", self.store, "--capacity", str(capacity))
        self.launch()
        self._wait_control()
        if disk_bytes:
            self.create(disk_bytes)

    def cli(self, *args):
        """Run varve; a frozen daemon is woken for as long as that takes."""
        frozen = self.frozen
        if frozen:
            self.thaw()
        try:
            return self._cli(args)
        finally:
            if frozen:
                self.freeze()

    def _cli(self, args):
        argv = [self.bench.varve, "--run", self.run_dir, *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise BenchError(f"varve {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def create(self, disk_bytes, vm=EXPORT):
        self.cli("create", vm, "--size", str(disk_bytes))
        self.wait_ready()

    def wait_free(self, least_bytes, timeout_s=60):
        """Until so many bytes of log files are there and free."""
        deadline = time.monotonic() + timeout_s
        while self.stats()["files_free"] * (32 << 20) < least_bytes:
            if time.monotonic() > deadline:
                raise BenchError("what was removed does not come back")
            time.sleep(0.2)

    def launch(self):
        """Start the daemon; exec_at says when. It does not serve yet when this returns."""
        config = os.path.join(self.run_dir, "bench.conf")
        with open(config, "w", encoding="ascii") as f:
            f.write("[store]\n" + (f"cache-size = {self.cache}\n" if self.cache is not None else ""))
        self.exec_at = time.monotonic()
        self._spawn([self.bench.varved, "--store", self.store, "--run", self.run_dir,
                     "--config", config])

    def _wait_control(self, timeout_s=30):
        """Until the daemon answers the command: there is no disk yet whose reads could be tried."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.require_alive()
            try:
                return self.df()
            except BenchError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def kill9(self):
        """The daemon's sudden death."""
        child, self.child, self.frozen = self.child, None, False
        child.kill()
        self.bench.procs.end(child)

    def stop(self):
        super().stop()
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def df(self):
        """Bytes by name: capacity, reserve, data, tables, dead, available, allocated."""
        return _numbers(json.loads(self.cli("--json", "df")))

    def stats(self):
        return _numbers(json.loads(self.cli("--json", "stats")))


def _numbers(tree, into=None):
    """All numbers of a JSON tree by their last name; decimal strings are numbers too (the control API
    carries 64-bit counts so)."""
    into = {} if into is None else into
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict) and "value" in value and "name" in value:
            key, value = value["name"], value["value"]
        if isinstance(value, (dict, list)):
            _numbers(value, into)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            into[key] = value
        elif isinstance(value, str) and value.isdigit():
            into[key] = int(value)
    return into
