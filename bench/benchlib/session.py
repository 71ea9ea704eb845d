"""One run of a bench program: its options, its directories, its processes, and the end of all three."""

import os
import shutil
import signal
import sys
import tempfile

from . import fio
from .servers import BenchError, Procs

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Session:
    """with Session(options) as bench: ... Leaves nothing running and no data behind.

    data_dir  files of all sides, on one file system; a new directory inside --dir
    run_dir   sockets and logs; under /tmp, because a socket's path is at most 107 bytes
    """

    def __init__(self, options):
        self.rounds, self.seconds, self.quick = options.rounds, options.seconds, options.quick
        self.ramp_s = 0.5 if options.quick else 1
        self.peer_only = options.peer_only
        self.varved = self.varve = None
        if not self.peer_only:
            self.varved, self.varve = find_binaries(options.varved)
        os.makedirs(options.dir, exist_ok=True)
        self.procs = Procs()
        self.base = options.dir
        self.data_dir = self.run_dir = None

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda n, _: sys.exit(128 + n))
        remove_leftovers(self.base)
        self.data_base = tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=self.base)
        self.run_base = tempfile.mkdtemp(prefix="varve-bench-")
        return self

    def __exit__(self, *exc):
        self.procs.end_all()
        shutil.rmtree(self.data_base, ignore_errors=True)
        shutil.rmtree(self.run_base, ignore_errors=True)

    def begin(self, name, need_bytes):
        """New empty directories for a row; refuses where its files would not fit."""
        free = os.statvfs(self.base).f_bavail * os.statvfs(self.base).f_frsize
        if free < need_bytes * 1.05:
            raise BenchError(f"needs {need_bytes / 2**30:.0f} GiB in {self.base}, where "
                             f"{free / 2**30:.0f} GiB are free; --dir DIR uses another place")
        self.data_dir = os.path.join(self.data_base, name)
        self.run_dir = os.path.join(self.run_base, name)
        os.mkdir(self.data_dir)
        os.mkdir(self.run_dir)

    def finish(self):
        """After a row, also one that failed."""
        self.procs.end_all()
        for directory in (self.data_dir, self.run_dir):
            if directory:
                shutil.rmtree(directory, ignore_errors=True)
        self.data_dir = self.run_dir = None

    def fio(self, side, workload, export=None, **bounds):
        target = side.target_of(export) if export else side.target
        return fio.run(self.run_dir, self.procs, target, workload, **bounds)

    def say(self, text):
        print(f"bench: {text}", file=sys.stderr, flush=True)


def remove_leftovers(base):
    """The files of runs that were killed outright: directories run-PID-* whose process is gone."""
    for name in os.listdir(base):
        parts = name.split("-")
        if len(parts) == 3 and parts[0] == "run" and parts[1].isdigit() \
                and not os.path.exists(f"/proc/{parts[1]}"):
            shutil.rmtree(os.path.join(base, name), ignore_errors=True)


def find_binaries(given):
    """(varved, varve). given: a path of varved; varve stands beside it or in ../cli."""
    build = os.path.join(ROOT, "build")
    places = [given] if given else [f"{build}/varved", f"{build}/src/daemon/varved"]
    for varved in places:
        if not os.access(varved, os.X_OK):
            continue
        here = os.path.dirname(os.path.abspath(varved))
        for varve in (f"{here}/varve", f"{here}/../cli/varve", f"{here}/src/cli/varve"):
            if os.access(varve, os.X_OK) and os.path.isfile(varve):
                return os.path.abspath(varved), os.path.normpath(varve)
        raise BenchError(f"{varved} is there, but no varve beside it; run make")
    raise BenchError(f"no varved at {' or '.join(places)}; run make, or give --varved PATH")


def add_options(parser):
    parser.add_argument("--seconds", type=float, help="length of a turn (default 5; quick 2)")
    parser.add_argument("--quick", action="store_true",
                        help="short turns and small stores: a look, not a measurement")
    parser.add_argument("--dir", default=os.path.join(ROOT, "build", "bench"),
                        help="where the files of all sides lie (default build/bench)")
    parser.add_argument("--varved", metavar="PATH", help="the daemon (default: the one in build/)")
