"""Rows about what versions cost the work that goes on: reads, writes, bytes, memory.

Log reads and bytes are the daemon's own counters (varve stats) over each turn, its ramp included, per
request that the daemon counted in the same time.
"""

import os
import random
import subprocess
import time

from . import stats
from .api import Api
from .longrows import LongRow, growth
from .nbd import Nbd
from .rows import close_sides, one_turn, summarize
from .servers import EXPORT, BenchError, Qcow2, Server, Varve
from .stats import GIB, MIB

PAGE = 4096
# What an operation costs: the counters, its name, and how far their sum may be from the other side's
# (None: it is told only). How many pages share a batch, and so its header, is a matter of timing; so is
# which nodes of tables are in memory, where not all have room.
NODE_COSTS = [(("log_reads", "table_loads"), "reads of pages and of table nodes per {}", None),
              (("log_read_bytes", "table_load_bytes"), "bytes of both per {}", None)]
COSTS = {"randread": [(("log_reads",), "log reads per {}", 0.01),
                      (("log_read_bytes",), "bytes read per {}", 0.01), *NODE_COSTS],
         "randwrite": [(("log_reads",), "log reads per {}", 0.01), *NODE_COSTS,
                       (("batch_pages",), "pages to the log per {}", 0.01),
                       (("batch_bytes",), "bytes to the log per {}, with headers", 0.03)]}


class Writer:
    """Random page writes to an export over a kept-open connection, the same ones for the same seed."""

    def __init__(self, side, disk_bytes, export=EXPORT, seed=1):
        self.conn, self.pages = Nbd(side.socket, export), disk_bytes // PAGE
        self.chance = random.Random(seed)
        self.page = self.chance.randbytes(PAGE)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.conn.__exit__(*exc)

    def write(self, count):
        self.conn.write_pages([self.chance.randrange(self.pages) * PAGE for _ in range(count)],
                              self.page)


def writes_before(number, last, recent=100, many=1000, few=10):
    """How many pages are written before version `number` when `last` is the last: many before the last
    hundred, few before the others."""
    return many if number > last - recent else few


def take_versions(side, first, last, disk_bytes):
    """Versions v<first> to v<last> of EXPORT with writes before each. Returns the seconds that each
    took. side: awake."""
    with Writer(side, disk_bytes, seed=last) as writer, Api(side) as api:
        times = []
        for number in range(first, last + 1):
            writer.write(writes_before(number, last))
            times.append(api.timed("vm.snap", EXPORT, {"version": f"v{number}"})[0])
        there = int(api.call("vm.show", EXPORT)["versions"])
        if there != last:
            raise BenchError(f"there should be {last} versions, and are {there}")
        return times


def same_writes(side, first, last, disk_bytes):
    """What take_versions writes, without the versions."""
    with Writer(side, disk_bytes, seed=last) as writer:
        for number in range(first, last + 1):
            writer.write(writes_before(number, last))


def make_log_files(bench, side, capacity):
    """Fill the store with another disk and remove that, so that its log files exist and are free."""
    bench.say(f"filling {side.label} with another disk, and removing that")
    other = side.df()["available"] // 10 * 9 // MIB * MIB
    side.create(other, "other")
    bench.fio(side, "fill", export="other", size=other)
    side.cli("rm", "--yes", "other")
    side.wait_free(capacity // 2)


def counted_turn(bench, side, workload, **bounds):
    """one_turn with what the daemon's counters grew by, as `counters`."""
    before, cpu = side.stats(), side.cpu_s()
    turn = one_turn(bench, side, workload, **bounds)
    turn["server_s"] = side.cpu_s() - cpu
    turn["counters"] = growth(before, side.stats())
    return turn


def counted_rounds(bench, name, workload, sides, count, **bounds):
    """side -> turns, as run_rounds; short turns, many rounds."""
    bounds = {"seconds": max(bench.seconds / 5, 1), "ramp_s": 0.5, **bounds}
    rounds = {side.label: [] for side in sides}
    for i in range(count):
        for side in sides if i % 2 == 0 else reversed(sides):
            rounds[side.label].append(counted_turn(bench, side, workload, seed=1000 + i, **bounds))
    bench.say(f"{name}: " + ", ".join(
        f"{label} {stats.median([r['iops'] for r in turns]) / 1000:.1f}k/s" for label, turns in rounds.items()))
    return rounds


def settle(side, timeout_s=60):
    """Let it clean until it has nothing to clean for a second: what was overwritten is dead in the
    store without versions, and alive in the other."""
    side.thaw()
    deadline, cleaned, still = time.monotonic() + timeout_s, None, 0
    while still < 2 and time.monotonic() < deadline:
        now = side.stats()["clean_write_bytes"]
        still = still + 1 if now == cleaned else 0
        cleaned = now
        time.sleep(0.5)
    side.freeze()


def many_rounds(bench):
    """30 where other rows have 7."""
    return bench.rounds if bench.quick else 4 * bench.rounds + 2


def compare(workload, ours, theirs, what):
    """Checks: counted costs equal, speed within 5 %. Only slower is a miss."""
    requests = "reads" if workload == "randread" else "writes"
    checks = []
    for keys, name, equal in COSTS[workload]:
        def cost(turns):
            return [(sum(t["counters"].get(key, 0) for key in keys), t["counters"][requests]) for t in turns]
        limits = {} if equal is None else {"floor": 1 - equal, "ceiling": 1 + equal}
        checks.append(stats.check(f"{name.format(requests[:-1])}, {what}",
                                  stats.relative_cost(cost(ours), cost(theirs)), **limits))
    def cpu(turns):
        return [(t["server_s"], t["counters"][requests]) for t in turns]
    checks.append(stats.check(f"the server's CPU time for one of the {requests}, {what}",
                              stats.relative_cost(cpu(ours), cpu(theirs))))
    speed = stats.ratio([t["iops"] for t in ours], [t["iops"] for t in theirs])
    return checks + [stats.check(f"speed of {requests}, {what}", speed, floor=0.95)]


def cost_note(label, workload, turns):
    requests = sum(t["counters"]["reads" if workload == "randread" else "writes"] for t in turns)
    per = {key: sum(t["counters"].get(key, 0) for t in turns) / requests
           for key in ("log_reads", "log_read_bytes", "batch_bytes", "table_bytes", "table_loads",
                       "table_load_bytes", "clean_write_bytes")}
    return f"{label}, per request: " + ", ".join(f"{value:.3g} {key}" for key, value in per.items())


class AfterVersions(LongRow):
    """A store with ever more versions, in turn with one where the same was written without any. The
    one without gets a second disk with as many bytes as the versions hold, so that both stores are
    equally full."""

    needs_varve = True

    def __init__(self, name, workload):
        self.name, self.workload = name, workload
        self.title = f"4 KiB random {workload[4:]}, depth 32, after many versions"

    def plan(self, bench):
        if bench.quick:
            return 256 * MIB, 4 * GIB, (10, 100, 1000), (1, 10)
        return GIB, 16 * GIB, (10, 100, 1000, 10000), (1, 10, 100, 500)

    def disk_need(self, options):
        return 10 * GIB if options.quick else 40 * GIB

    def run(self, bench):
        disk, capacity, stages, chains = self.plan(bench)
        base = Varve(bench, disk, capacity=capacity, label="none")
        sides, rounds, checks, notes = [base], {"0 versions": []}, [], []
        try:
            other = Varve(bench, disk, capacity=capacity, label="versions")
            sides.append(other)
            for side in sides:
                if self.workload == "randwrite":
                    make_log_files(bench, side, capacity)
                bench.fio(side, "fill", size=disk)
                side.freeze()
            done = 0
            for stage in stages:
                self.grow(bench, base, other, done + 1, stage, disk)
                turns = counted_rounds(bench, f"{self.name}, {stage}", self.workload, sides,
                                       many_rounds(bench), size=disk)
                checks += compare(self.workload, turns["versions"], turns["none"], f"{stage} / 0 versions")
                notes.append(cost_note(f"{stage} versions", self.workload, turns["versions"]))
                rounds["0 versions"] += turns["none"]
                rounds[f"{stage} versions"] = turns["versions"]
                done = stage
            notes += [cost_note("0 versions", self.workload, rounds["0 versions"])]
            notes += self.suspicions(rounds)
        finally:
            close_sides(sides)
        rounds.update(peers(bench, self.name, self.workload, disk, chains))
        return self.result(rounds, checks, notes)

    def grow(self, bench, base, other, first, last, disk):
        bench.say(f"{self.name}: taking versions {first} to {last}")
        base.thaw()
        same_writes(base, first, last, disk)
        base.freeze()
        other.thaw()
        times = take_versions(other, first, last, disk)
        other.freeze()
        bench.say(f"{self.name}: a version took {stats.median(times) * 1000:.2f} ms, at most "
                  f"{max(times) * 1000:.1f}")
        more = (other.df()["data"] - base.df()["data"]) // MIB * MIB
        if more > 0:
            base.thaw()
            base.create(more, f"ballast{last}")
            bench.fio(base, "fill", export=f"ballast{last}", size=more)
            base.freeze()
        for side in (base, other):  # what one of them put off is nobody's turn's
            one_turn(bench, side, self.workload, size=disk, seconds=1, seed=last)
            settle(side)

    def suspicions(self, rounds):
        if self.workload != "randread":
            return []
        notes = []
        for label, turns in rounds.items():
            share = stats.median([t["counters"].get("log_reads", 0) / t["counters"]["reads"] for t in turns])
            if share < 0.9:
                notes.append(f"SUSPECT: {label}: {share:.2f} log reads per read; all should come from there")
            if any(t["counters"].get("clean_write_bytes") for t in turns):
                notes.append(f"SUSPECT: {label} was cleaning while it was read")
        return notes


class Chain(Qcow2):
    """qemu-nbd on an image that is there: the last of a chain, or one with snapshots inside."""

    def __init__(self, bench, label, file, files):
        Server.__init__(self, bench, label)
        self.files = files
        self._spawn(["qemu-nbd", "-t", "-e", "0", "--cache=none", "--aio=io_uring", "-f", "qcow2",
                     "-k", self.socket, "-x", EXPORT, file])
        self.wait_ready()

    def stop(self):
        Server.stop(self)
        for file in self.files:
            os.unlink(file)


def qemu(*argv, lines=None):
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise BenchError(f"{argv[0]} {argv[1]}: exit {done.returncode}: {done.stderr.strip()[-500:]}")


def scatter_qcow2(file, count, disk, chance):
    lines = "".join(f"write -q -P 7 {chance.randrange(disk // PAGE) * PAGE} 4k\n" for _ in range(count))
    qemu("qemu-io", "-t", "unsafe", "-f", "qcow2", file, lines=lines)


def filled_qcow2(bench, disk, label):
    """A qcow2 image with data in all of the disk. Returns its path."""
    peer = Qcow2(bench, disk)
    bench.fio(peer, "fill", size=disk)
    file = os.path.join(bench.data_dir, f"{label}-0.qcow2")
    os.rename(peer.file, file)
    peer.stop()
    return file


def external_chain(bench, disk, depth):
    chance = random.Random(depth)
    files = [filled_qcow2(bench, disk, f"chain{depth}")]
    for level in range(1, depth + 1):
        files.append(os.path.join(bench.data_dir, f"chain{depth}-{level}.qcow2"))
        qemu("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", files[-2], "-F", "qcow2", files[-1],
             str(disk))
        scatter_qcow2(files[-1], writes_before(level, depth), disk, chance)
    return Chain(bench, f"qcow2-chain-{depth}", files[-1], files)


def internal_snapshots(bench, disk, count):
    chance = random.Random(count)
    file = filled_qcow2(bench, disk, "internal")
    for number in range(1, count + 1):
        qemu("qemu-img", "snapshot", "-q", "-c", f"s{number}", file)
        scatter_qcow2(file, writes_before(number, count), disk, chance)
    return Chain(bench, f"qcow2-internal-{count}", file, [file])


def peers(bench, name, workload, disk, chains):
    """side -> turns of qcow2 with versions, for print only: three rounds each, one after another."""
    rounds = {}
    makers = [(external_chain, depth) for depth in chains] + [(internal_snapshots, chains[-2])]
    for make, depth in makers:
        bench.say(f"{name}: making a qcow2 {make.__name__.replace('_', ' ')} of {depth}")
        peer = make(bench, disk, depth)
        try:
            rounds[peer.label] = [one_turn(bench, peer, workload, size=disk, seed=1000 + i, ramp_s=0.5,
                                           seconds=max(bench.seconds / 5, 1)) for i in range(3)]
        finally:
            close_sides([peer])
    return rounds


class Part:
    """A vm of a store as a side of its own: the daemon's life and counts are those of all."""

    def __init__(self, side, export, label):
        self._side, self.export, self.label = side, export, label

    @property
    def target(self):
        return self._side.target_of(self.export)

    def __getattr__(self, name):
        return getattr(self._side, name)


class CloneDepth(LongRow):
    name = "clone-depth"

    def __init__(self):
        self.title = "clones of clones, 1,000 levels deep, 100 writes in each"

    def disk_need(self, options):
        return 6 * GIB if options.quick else 20 * GIB

    def run(self, bench):
        disk, levels = (256 * MIB, 100) if bench.quick else (GIB, 1000)
        varve = Varve(bench, disk, capacity=4 * GIB if bench.quick else 16 * GIB)
        checks, notes, rounds = [], [], {}
        try:
            make_log_files(bench, varve, 4 * GIB if bench.quick else 16 * GIB)
            bench.fio(varve, "fill", size=disk)
            times = self.descend(varve, disk, levels)
            notes.append(f"a clone took {stats.median(times) * 1000:.2f} ms, at most {max(times) * 1000:.1f}")
            sides = [Part(varve, EXPORT, "level 0"), Part(varve, f"c{levels}", f"level {levels}")]
            for workload in ("randread", "randwrite"):
                for side in sides:
                    one_turn(bench, side, workload, size=disk, seconds=1, seed=5)
                turns = counted_rounds(bench, f"{self.name} {workload}", workload, sides,
                                       many_rounds(bench), size=disk)
                ours, theirs = turns[sides[1].label], turns["level 0"]
                checks += compare(workload, ours, theirs, f"level {levels} / 0")
                notes += [cost_note(label, workload, t) for label, t in turns.items()]
                rounds.update({f"{workload}, {label}": t for label, t in turns.items()})
        finally:
            close_sides([varve])
        return self.result(rounds, checks, notes)

    def descend(self, varve, disk, levels):
        times, parent = [], EXPORT
        with Api(varve) as api:
            for level in range(1, levels + 1):
                times.append(api.timed("vm.clone", parent, "", f"c{level}")[0])
                parent = f"c{level}"
                with Writer(varve, disk, parent, seed=level) as writer:
                    writer.write(100)
        return times


class VersionMemory(LongRow):
    """What the daemon's resident memory grows by per version, beyond what the same writes cost
    without versions (they fill the same caches)."""

    name = "versions-memory"
    title = "memory of 10,000 versions, one write before each"

    def disk_need(self, options):
        return 4 * GIB

    def run(self, bench):
        disk, count = 256 * MIB, 1000 if bench.quick else 10000
        varve = Varve(bench, disk, capacity=3 * GIB)
        try:
            bench.fio(varve, "fill", size=disk)
            resident, tables = [], []
            with Writer(varve, disk) as writer, Api(varve) as api:
                def look():
                    resident.append(varve.memory_bytes()[0])
                    tables.append(api.counters()["table_memory_bytes"])

                for number in range(100):
                    writer.write(1)
                    api.call("vm.snap", EXPORT, {"version": f"warm{number}"})
                look()
                for number in range(count):
                    writer.write(1)
                    api.call("vm.show", EXPORT)
                look()
                for number in range(count):
                    writer.write(1)
                    api.call("vm.snap", EXPORT, {"version": f"v{number}"})
                look()
        finally:
            close_sides([varve])
        growth_bytes = (resident[2] - resident[1]) / count
        figure = {"value": growth_bytes, **stats.spread([growth_bytes])}
        notes = [f"resident {resident[0] / MIB:.1f}, {resident[1] / MIB:.1f} after {count} writes, "
                 f"{resident[2] / MIB:.1f} MiB after {count} versions; table nodes "
                 f"{' '.join(f'{t / MIB:.1f}' for t in tables)} MiB of that"]
        return {"name": self.name, "title": self.title, "metric": "bytes", "sides": {}, "notes": notes,
                "checks": [stats.check("resident, per version", figure, ceiling=1024, unit=" B")]}


VERSION_ROWS = [AfterVersions("versions-read", "randread"), AfterVersions("versions-write", "randwrite"),
                CloneDepth(), VersionMemory()]
