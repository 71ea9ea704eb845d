"""Rows about how long what is done with versions takes, and what it does to the work beside it.

Commands are timed as a client of the control API that keeps its connection sees them; the whole time of
the varve command (a process, its start, a connection) is a note beside it.
"""

import os
import subprocess
import threading
import time

from . import fio, stats
from .api import Api
from .longrows import LongRow, growth
from .rows import close_sides
from .servers import EXPORT, BenchError, Server, Varve, processors
from .stats import GIB, MIB
from .versionrows import Writer, make_log_files, many_rounds

TIB = 1 << 40


def in_ms(times, pick=max):
    """A figure out of seconds, in milliseconds."""
    return {"value": pick(times) * 1000, **stats.spread([t * 1000 for t in times])}


def p99(times):
    return stats.percentile(times, 99)


def describe(what, times):
    return (f"{what}: median {stats.median(times) * 1000:.2f}, 99th percentile {p99(times) * 1000:.2f}, "
            f"at most {max(times) * 1000:.2f} ms of {len(times)}")


def command_times(side, count, argv):
    """Seconds of whole varve commands. argv: number -> arguments."""
    times = []
    for number in range(count):
        begun = time.monotonic()
        side.cli(*argv(number))
        times.append(time.monotonic() - begun)
    return times


class Syncer:
    """A file of its own beside the store: what a 4 KiB write with fdatasync takes there. No durable
    command is quicker."""

    def __init__(self, bench):
        self.fd = os.open(os.path.join(bench.data_dir, "sync"), os.O_CREAT | os.O_RDWR, 0o600)
        self.times = []
        os.pwrite(self.fd, bytes(MIB), 0)
        os.fsync(self.fd)

    def sync(self):
        begun = time.monotonic()
        os.pwrite(self.fd, b"s" * 4096, len(self.times) % 256 * 4096)
        os.fdatasync(self.fd)
        self.times.append(time.monotonic() - begun)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)


def sync_times(bench, count=100):
    with Syncer(bench) as syncer:
        for _ in range(count):
            syncer.sync()
    return syncer.times


def pending_end(api, timeout_s=300):
    """Until nothing of removed versions is left to free. Returns the seconds."""
    begun = time.monotonic()
    while api.space()["pending"]:
        if time.monotonic() - begun > timeout_s:
            raise BenchError("the space of removed versions does not come back")
        time.sleep(0.02)
    return time.monotonic() - begun


class TimeRow(LongRow):
    def done(self, checks, notes, **more):
        return {"name": self.name, "title": self.title, "metric": "seconds", "sides": {},
                "checks": checks, "notes": notes, **more}


class VersionAmplification(LongRow):
    """Bytes to storage (the kernel's count) per byte written. The store's log files exist, and it has
    room enough that nothing needs cleaning."""

    name = "versions-amplification"
    title = "bytes to storage per byte, 4 KiB random writes, a version after every 1,000, 64 GiB disk"

    def disk_need(self, options):
        return 4 * GIB if options.quick else 16 * GIB

    def run(self, bench):
        capacity = 4 * GIB if bench.quick else 16 * GIB
        versions, rounds = (25, 3) if bench.quick else (100, bench.rounds)
        varve = Varve(bench, 64 * GIB, capacity=capacity)
        written, brought = [], []
        try:
            make_log_files(bench, varve, capacity)
            with Writer(varve, 64 * GIB) as writer, Api(varve) as api:
                before = api.counters()
                for i in range(rounds):
                    start = varve.storage_bytes()[1]
                    for number in range(versions):
                        writer.write(1000)
                        api.call("vm.snap", EXPORT, {"version": f"v{i}-{number}"})
                    written.append(varve.storage_bytes()[1] - start)
                    brought.append(versions * 1000 * 4096)
                    bench.say(f"{self.name}: {i + 1}/{rounds}: {written[-1] / brought[-1]:.3f} bytes per byte")
                counters = growth(before, api.counters())
        finally:
            close_sides([varve])
        notes = [self.split(counters)]
        if counters.get("clean_write_bytes"):
            notes.append("SUSPECT: there was cleaning")
        return {"name": self.name, "title": self.title, "metric": "bytes", "sides": {}, "notes": notes,
                "counters": counters,
                "checks": [stats.check("bytes per byte", stats.total_ratio(written, brought),
                                       ceiling=1.25, unit="")]}

    def split(self, counters):
        brought = counters["write_bytes"]
        return "per byte written: " + ", ".join(f"{counters.get(key, 0) / brought:.4f} {key}" for key in (
            "batch_bytes", "table_bytes", "checkpoint_bytes", "clean_write_bytes"))


class SnapshotLatency(TimeRow):
    """Turns with snapshots, without, and with a bare fdatasync in their place, one after another on the
    same store, whose log files exist. fio writes as fast as it can over the whole disk; a snapshot is
    taken every 20 ms."""

    name = "snapshot-latency"
    title = "snapshots of a 1 TiB disk under random writes at depth 32"
    PAUSE_S = 0.02
    KINDS = ("without", "with", "sync")

    def disk_need(self, options):
        return 12 * GIB if options.quick else 48 * GIB

    def run(self, bench):
        capacity = self.disk_need(bench)
        varve = Varve(bench, TIB, capacity=capacity)
        kinds, times = {kind: [] for kind in self.KINDS}, []
        try:
            make_log_files(bench, varve, capacity)
            bench.fio(varve, "randwrite", size=TIB, io_size=GIB // 4 if bench.quick else 2 * GIB)
            with Api(varve) as api, Syncer(bench) as syncer:
                for i in range(max(bench.rounds, 3)):
                    for k in range(len(self.KINDS)):
                        kind = self.KINDS[(i + k) % len(self.KINDS)]
                        kinds[kind].append(self.turn(bench, varve, api, syncer, kind, i, times))
                    bench.say(f"{self.name}: round {i + 1}: " + ", ".join(
                        f"{kind} {t[-1]['iops'] / 1000:.1f}k/s, write at most {t[-1]['max_us'] / 1000:.1f} ms"
                        for kind, t in kinds.items()) + f"; {len(times)} snapshots")
            whole = command_times(varve, 20, lambda n: ("snap", f"{EXPORT}@cli{n}"))
            idle = sync_times(bench)
        finally:
            close_sides([varve])
        return self.report(kinds, times, whole, syncer.times, idle)

    def turn(self, bench, varve, api, syncer, kind, i, times):
        """fio for one turn, in a thread because this program takes the snapshots."""
        answer = []

        def work():
            try:
                answer.append(bench.fio(varve, "randwrite", size=TIB, seconds=max(bench.seconds, 1),
                                        ramp_s=bench.ramp_s, seed=100 + i))
            except Exception as error:  # handed over to the caller below
                answer.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        names, begun = [], time.monotonic()
        while thread.is_alive():
            if time.monotonic() - begun > bench.ramp_s + 0.3:
                if kind == "with":
                    names.append(f"r{i}-{len(names)}")
                    times.append(api.timed("vm.snap", EXPORT, {"version": names[-1]})[0])
                elif kind == "sync":
                    syncer.sync()
            time.sleep(self.PAUSE_S)
        thread.join()
        if isinstance(answer[0], Exception):
            raise answer[0]
        if names:  # so that each turn begins with as many
            for start in range(0, len(names), 500):
                api.call("version.remove", EXPORT, names[start:start + 500])
            pending_end(api)
        return answer[0]

    def report(self, kinds, times, whole, syncs, idle):
        def later(key):
            """How much later, in milliseconds: median of with less median of without, and each round's."""
            each = [(a[key] - b[key]) / 1000 for a, b in zip(kinds["with"], kinds["without"])]
            return {"value": (stats.median([t[key] for t in kinds["with"]])
                              - stats.median([t[key] for t in kinds["without"]])) / 1000,
                    **stats.spread(each)}

        speed = stats.ratio([t["iops"] for t in kinds["with"]], [t["iops"] for t in kinds["without"]])
        checks = [stats.check("the call, 99th percentile", in_ms(times, p99), ceiling=5, unit=" ms"),
                  stats.check("greatest latency of a write, with less without", later("max_us"), ceiling=5,
                              unit=" ms"),
                  stats.check("99.99th percentile of writes, with less without", later("p9999_us"),
                              ceiling=5, unit=" ms"),
                  stats.check("speed of writes, with / without", speed),
                  stats.check("the call / a bare fdatasync, 99th percentiles",
                              {"value": p99(times) / p99(syncs), **stats.spread([p99(times) / p99(syncs)])})]
        notes = [describe("the call under load", times),
                 describe("a 4 KiB write with fdatasync into a file beside the store, under the same load", syncs),
                 describe("the varve command, no load", whole),
                 describe("a 4 KiB write with fdatasync, no load", idle)]
        if len(times) < 100:
            notes.append(f"SUSPECT: {len(times)} snapshots are too few for a 99th percentile")
        return self.done(checks, notes, kinds=kinds, seconds=times, sync_seconds=syncs)


class ScatteredRow(TimeRow):
    """A 1 TiB disk with 16 GiB written at random places."""

    def disk_need(self, options):
        return 3 * GIB if options.quick else 24 * GIB

    def scattered(self, bench):
        size = GIB // 2 if bench.quick else 16 * GIB
        varve = Varve(bench, TIB, capacity=self.disk_need(bench), cache=None)
        bench.say(f"{self.name}: writing {stats.human_bytes(size)} at random places")
        try:
            bench.fio(varve, "randwrite", size=TIB, io_size=size)
        except BaseException:
            close_sides([varve])
            raise
        return varve


class CloneRollback(ScatteredRow):
    name = "clone-rollback"
    title = "clone and rollback, 1 TiB disk, 16 GiB at random places"

    def run(self, bench):
        varve = self.scattered(bench)
        clones, rollbacks = [], []
        try:
            with Api(varve) as api:
                api.call("vm.snap", EXPORT, {"version": "v"})
                for i in range(many_rounds(bench)):
                    with Writer(varve, TIB, seed=i) as writer:
                        writer.write(1000)
                    clones.append(api.timed("vm.clone", EXPORT, "v", f"c{i}")[0])
                    rollbacks.append(api.timed("vm.rollback", EXPORT, "v", {"force": True, "keep": f"k{i}"})[0])
            whole = [command_times(varve, 10, lambda n: ("clone", f"{EXPORT}@v", f"x{n}")),
                     command_times(varve, 10, lambda n: ("rollback", f"{EXPORT}@v", "--keep", f"y{n}"))]
            syncs = sync_times(bench)
        finally:
            close_sides([varve])
        checks = [stats.check("clone, the call, worst", in_ms(clones), ceiling=5, unit=" ms"),
                  stats.check("rollback, the call, worst", in_ms(rollbacks), ceiling=5, unit=" ms")]
        notes = [describe("clone", clones), describe("rollback", rollbacks),
                 describe("varve clone, the command", whole[0]),
                 describe("varve rollback, the command", whole[1]),
                 describe("a 4 KiB write with fdatasync", syncs)]
        return self.done(checks, notes, clone_seconds=clones, rollback_seconds=rollbacks)


class Diff(ScatteredRow):
    name = "diff"
    title = "diff of two versions, 1 TiB disk, 16 GiB at random places, 1,000 changed pages"

    def run(self, bench):
        varve = self.scattered(bench)
        times = []
        try:
            with Api(varve) as api:
                for i in range(many_rounds(bench)):
                    api.call("vm.snap", EXPORT, {"version": f"a{i}"})
                    with Writer(varve, TIB, seed=i) as writer:
                        writer.write(1000)
                    api.call("vm.snap", EXPORT, {"version": f"b{i}"})
                    times.append(self.compare(api, f"a{i}", f"b{i}"))
            whole = command_times(varve, 10, lambda n: ("--json", "diff", f"{EXPORT}@a0", f"{EXPORT}@b0"))
            Server.stop(varve)  # the store stays
            varve.launch()
            varve.wait_ready()
            with Api(varve) as api:
                cold = self.compare(api, "a0", "b0")
        finally:
            close_sides([varve])
        notes = [describe("the calls", times), describe("varve diff, the command", whole),
                 f"right after the daemon's start, with no table in memory: {cold * 1000:.2f} ms"]
        return self.done([stats.check("the calls, worst", in_ms(times), ceiling=20, unit=" ms")], notes,
                         seconds=times, cold=cold)

    def compare(self, api, a, b):
        """Seconds of vm.diff and of disk.diff to its end, after a look at what it says."""
        begun, offset, pages = time.monotonic(), "", 0
        disks = api.call("vm.diff", EXPORT, a, EXPORT, b)["disks"]
        while True:
            options = {"offset": offset} if offset else {}
            part = api.call("disk.diff", EXPORT, a, EXPORT, b, disks[0]["name"], options)
            pages += sum(int(extent[1]) // 4096 for extent in part["extents"])
            offset = part["next"]
            if not offset:
                break
        seconds = time.monotonic() - begun
        if not 990 <= pages <= 1000:
            raise BenchError(f"1,000 pages were written, and {pages} differ")
        return seconds


class Remove(TimeRow):
    """fio overwrites all the while; the daemon's counters are read every 20 ms. While space returns is
    from the command's answer until nothing is pending, and beside that the two seconds after (in which
    the log's dead files are cleaned)."""

    name = "rm-1000"
    title = "removing 1,000 versions with 1,000 writes in each, under random writes"

    def disk_need(self, options):
        return 6 * GIB if options.quick else 24 * GIB

    def run(self, bench):
        disk, count = (256 * MIB, 100) if bench.quick else (2 * GIB, 1000)
        varve = Varve(bench, disk, capacity=self.disk_need(bench))
        found = []
        try:
            bench.fio(varve, "fill", size=disk)
            for i in range(2 if bench.quick else 4):
                found.append(self.once(bench, varve, disk, count, by_command=i % 2 == 1))
                self.tell(bench, found[-1])
        finally:
            close_sides([varve])
        return self.report(found, count)

    def once(self, bench, varve, disk, count, by_command):
        with Api(varve) as api:
            bench.say(f"{self.name}: taking {count} versions")
            before = api.space()["data"]
            with Writer(varve, disk, seed=7) as writer:
                for number in range(count):
                    api.call("vm.snap", EXPORT, {"version": f"v{number}"})
                    writer.write(1000)
            held = api.space()["data"] - before
            samples, marks = [], {}
            child = fio.start(bench.run_dir, bench.procs, varve.target, "randwrite", seconds=600, size=disk)
            try:
                self.watch(api, samples, 3, child)
                marks["asked"] = time.monotonic()
                self.remove(varve, api, count, by_command)
                marks["answered"] = time.monotonic()
                while True:
                    self.watch(api, samples, 0.02, child)
                    if not samples[-1][2]:
                        break
                    if samples[-1][0] - marks["answered"] > 300:
                        raise BenchError("the space of removed versions does not come back")
                marks["returned"] = samples[-1][0]
                self.watch(api, samples, 2, child)
            finally:
                bench.procs.end(child)
            after = api.space()["data"]
        return self.figures(samples, marks, {"by_command": by_command, "held": held, "left": after - before})

    def watch(self, api, samples, seconds, child):
        """Sample (time, writes so far, bytes pending) every 20 ms."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            counters = api.counters()
            samples.append((time.monotonic(), counters["writes"], counters["pending_bytes"]))
            if child.poll() is not None:
                raise BenchError(f"fio ended too early, with {child.returncode}")
            time.sleep(0.02)

    def remove(self, varve, api, count, by_command):
        """The command takes a range; the call takes 512 versions at most."""
        if by_command:
            varve.cli("rm", "--yes", f"{EXPORT}@..v{count - 1}")
            return
        for first in range(0, count, 500):
            api.call("version.remove", EXPORT, [f"v{first}..v{min(first + 500, count) - 1}"])

    def figures(self, samples, marks, found):
        asked, answered, returned = marks["asked"], marks["answered"], marks["returned"]
        found["seconds"], found["returning"] = answered - asked, returned - answered
        found["speed_before"] = stats.rate(samples, asked - 2, asked)
        found["speed_returning"] = stats.rate(samples, answered, returned)
        found["speed_after"] = stats.rate(samples, returned, returned + 2)
        return found

    def tell(self, bench, f):
        bench.say(f"{self.name}: {'command' if f['by_command'] else 'calls'} {f['seconds'] * 1000:.1f} ms, "
                  f"{stats.human_bytes(f['held'])} held, {f['left']} bytes left, back in {f['returning']:.2f} s; "
                  f"writes/s before, meanwhile, after: {f['speed_before']:.0f} {f['speed_returning'] or 0:.0f} "
                  f"{f['speed_after']:.0f}")

    def report(self, found, count):
        calls = [f["seconds"] for f in found if not f["by_command"]]
        commands = [f["seconds"] for f in found if f["by_command"]]
        slow = [f for f in found if f["speed_returning"]]
        checks = [stats.check("the calls, worst", in_ms(calls), ceiling=50, unit=" ms"),
                  stats.check("varve rm, the whole command, worst", in_ms(commands), unit=" ms")]
        notes = [f"{count} versions held {stats.human_bytes(found[0]['held'])}; their space was back after "
                 + ", ".join(f"{f['returning']:.2f}" for f in found) + " s"]
        if slow:
            figure = stats.ratio([f["speed_returning"] for f in slow], [f["speed_before"] for f in slow])
            checks.append(stats.check("speed of writes while space returns / before", figure, floor=0.8))
        else:
            notes.append("SUSPECT: the space was back before the speed meanwhile could be measured")
        after = stats.ratio([f["speed_after"] for f in found], [f["speed_before"] for f in found])
        left = [abs(f["left"]) for f in found]
        checks += [stats.check("speed of writes in the 2 s after / before", after),
                   stats.check("bytes not back", {"value": max(left), **stats.spread(left)}, ceiling=0,
                               unit=" B")]
        return self.done(checks, notes, found=found)


class Send(TimeRow):
    """varve send, a direct read of the same bytes from a file, and zstd -1 on them, in turn. Half of
    each page compresses. What they put out is thrown away."""

    name = "send"
    title = "send of a version, beside reading the disk and zstd -1"

    def disk_need(self, options):
        return 4 * GIB if options.quick else 12 * GIB

    def run(self, bench):
        disk = GIB // 2 if bench.quick else 4 * GIB
        varve = Varve(bench, disk, capacity=2 * disk)
        raw = os.path.join(bench.data_dir, "same.raw")
        times = {"send": [], "disk": [], "zstd": []}
        try:
            bench.fio(varve, "fill-half", size=disk)
            varve.cli("snap", f"{EXPORT}@v")
            self.piped(bench, ["qemu-img", "convert", "-t", "none", "-f", "raw", "-O", "raw",
                               varve.target_of(f"{EXPORT}@v")["uri"], raw], None)
            work = {"send": ([bench.varve, "--run", varve.run_dir, "send", f"{EXPORT}@v"], processors()[1]),
                    "disk": (["dd", f"if={raw}", "of=/dev/null", "bs=1M", "iflag=direct", "status=none"], None),
                    "zstd": (["zstd", "-1", "-q", "-c", raw], None)}
            sizes = {}
            for i in range(bench.rounds):
                for kind, (argv, cpus) in work.items():
                    (varve.thaw if kind == "send" else varve.freeze)()
                    seconds, sizes[kind] = self.piped(bench, argv, cpus)
                    times[kind].append(seconds)
                bench.say(f"{self.name}: round {i + 1}/{bench.rounds}: " + ", ".join(
                    f"{kind} {disk / t[-1] / MIB:.0f} MiB/s" for kind, t in times.items()))
            varve.thaw()
        finally:
            close_sides([varve])
        return self.report(times, sizes, disk)

    def piped(self, bench, argv, cpus):
        """Run it with its output thrown away: (seconds, bytes of output)."""
        begun, count = time.monotonic(), 0
        child = bench.procs.spawn(argv, cpus=cpus, stdout=subprocess.PIPE,
                                  log=os.path.join(bench.run_dir, "piped.err"))
        while part := child.stdout.read1(1 << 20):
            count += len(part)
        code = child.wait()
        child.stdout.close()
        seconds = time.monotonic() - begun
        bench.procs.end(child)
        if code:
            with open(os.path.join(bench.run_dir, "piped.err"), encoding="utf-8", errors="replace") as f:
                raise BenchError(f"{argv[0]} ended with {code}: {f.read()[-500:].strip()}")
        return seconds, count

    def report(self, times, sizes, disk):
        slower = max(("disk", "zstd"), key=lambda kind: stats.median(times[kind]))
        figure = stats.ratio(times[slower], times["send"])
        checks = [stats.check(f"speed of send / {slower}, the slower one", figure, floor=0.8)]
        notes = [", ".join(f"{kind} {disk / stats.median(t) / MIB:.0f} MiB/s" for kind, t in times.items())
                 + f"; the stream has {sizes['send'] / disk:.2f} bytes per byte, zstd's {sizes['zstd'] / disk:.2f}"]
        return self.done(checks, notes, times=times)


TIME_ROWS = [VersionAmplification(), SnapshotLatency(), CloneRollback(), Diff(), Remove(), Send()]
