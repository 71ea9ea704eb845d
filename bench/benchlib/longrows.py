"""Rows about Varve's store over time: what it writes, how it ages, how it opens, what it keeps in memory.

Bytes written to storage are the kernel's count for the daemon (write_bytes of /proc/PID/io), so they
include tables, checkpoints, cleaning and the making of log files; the store's own counters are kept in
the JSON beside them.
"""

import os
import random
import time

from . import fio, stats
from .rows import close_sides, one_turn, open_side, run_rounds, summarize, verify
from .servers import BenchError, Varve
from .stats import GIB, MIB


class LongRow:
    needs_varve = True
    name, title = "?", "?"

    def result(self, rounds, checks, notes, metric="iops", **more):
        return {"name": self.name, "title": self.title, "metric": metric,
                "sides": summarize(rounds, metric), "checks": checks, "notes": notes, **more}


class Amplification(LongRow):
    """Random 4 KiB writes without flushes into a store that need not clean.

    Another disk is filled and removed first: the store's log files then exist and are free, as in a
    store that has been in use. What random writes into files that are made for them cost is a note."""

    name = "amplification"
    title = "bytes to storage per byte, random 4 KiB, depth 32, no flushes, no cleaning"
    needs_varve = False

    def disk_need(self, options):
        return 16 * GIB + 2 * GIB

    def run(self, bench):
        per_round = (256 * MIB) if bench.quick else GIB
        capacity = 4 * GIB if bench.quick else 16 * GIB
        disk = GIB // 2 if bench.quick else 2 * GIB
        sides, notes = [], []
        try:
            if not bench.peer_only:
                varve = Varve(bench, disk, capacity=capacity)
                sides.append(varve)
                notes.append(self.prepare(bench, varve, disk, capacity))
            qcow2 = open_side(bench, "qcow2")
            sides.append(qcow2)
            bench.fio(qcow2, "fill", size=disk)
            qcow2.freeze()
            before = sides[0].stats() if not bench.peer_only else {}
            rounds = run_rounds(bench, self.name, "randwrite", sides, io_size=per_round, size=disk)
            after = sides[0].stats() if not bench.peer_only else {}
        finally:
            close_sides(sides)
        checks = [stats.check(f"{label}, bytes per byte", stats.total_ratio(
                      [r["storage_written"] for r in results], [r["bytes"] for r in results]),
                      ceiling=1.15 if label == "varve" else None, unit="")
                  for label, results in rounds.items()]
        return self.result(rounds, checks, notes, counters=growth(before, after))

    def prepare(self, bench, varve, disk, capacity):
        bench.fio(varve, "fill", size=disk)
        start = varve.storage_bytes()[1]
        bench.fio(varve, "randwrite", size=disk, io_size=disk // 2)
        fresh = (varve.storage_bytes()[1] - start) / (disk // 2)
        bench.say(f"{self.name}: filling the store with another disk, and removing that")
        other = varve.df()["available"] // 10 * 9 // MIB * MIB
        varve.create(other, "other")
        bench.fio(varve, "fill", export="other", size=other)
        varve.cli("rm", "--yes", "other")
        varve.wait_free(capacity // 2)
        # One unmeasured round: what the sequential part put off is not the random part's.
        bench.fio(varve, "randwrite", size=disk, io_size=128 * MIB)
        varve.freeze()
        return f"the first random writes, into files made for them: {fresh:.2f} bytes per byte"


class Overwrite(LongRow):
    """Random overwriting for ever of a disk that fills a share of the store.

    full = disk size / (capacity - reserve). Runs until the store's capacity was written at least four
    times over and the cost per byte stands still, then measures, in turn with a store of twice the
    capacity that holds the same disk and was written through once, sequentially (the "empty" store: it
    need not clean, and its log files exist)."""

    size, has_empty = 12 * GIB, True

    def __init__(self, percent, workload, name, floors):
        self.percent, self.workload, self.name = percent, workload, name
        self.ceiling, self.floor = floors
        skew = "uniform" if workload == "randwrite" else "90 % of writes to 10 % of the disk"
        self.title = f"4 KiB random overwrite for ever, store {percent} % full, {skew}"

    def capacity(self, quick):
        return self.size // 8 if quick else self.size

    def disk_need(self, options):
        return (3 if self.has_empty else 1) * self.capacity(options.quick)

    def run(self, bench):
        capacity = self.capacity(bench.quick)
        full = Varve(bench, 0, capacity=capacity, label="full")
        sides = [full]
        try:
            space = full.df()
            disk = int((space["capacity"] - space["reserve"]) * self.percent / 100) // MIB * MIB
            full.create(disk)
            if self.has_empty:
                empty = Varve(bench, disk, capacity=2 * capacity, label="empty")
                sides.append(empty)
            accepts = space["available"]
            for side in sides:
                side.thaw()
                bench.fio(side, "fill", size=disk)
                if side is not full:
                    bench.fio(side, "fill", size=disk, io_size=2 * capacity - disk)
                side.freeze()
            chunks, steady = self.age(bench, full, disk, capacity)
            rounds = run_rounds(bench, self.name, self.workload, sides, size=disk, ramp_s=0)
            verify(bench, full)
            space, counters = full.df(), full.stats()
        finally:
            close_sides(sides)
        return self.report(rounds, chunks, steady, disk, capacity, accepts, space, counters)

    def age(self, bench, full, disk, capacity):
        """Chunks of half a capacity until two in a row cost the same within 3 %."""
        chunks = []
        least, most = (4, 6) if bench.quick else (8, 16)
        while len(chunks) < most:
            turn = one_turn(bench, full, self.workload, size=disk, io_size=capacity // 2,
                            seed=len(chunks) + 1)
            chunks.append(turn)
            costs = [c["storage_written"] / c["bytes"] for c in chunks[-2:]]
            bench.say(f"{self.name}: {len(chunks) / 2:.1f} x the capacity written: {costs[-1]:.2f} "
                      f"bytes per byte, {turn['iops'] / 1000:.1f}k/s")
            if len(chunks) >= least and abs(costs[1] - costs[0]) <= 0.03 * costs[0]:
                return chunks, True
        return chunks, False

    def report(self, rounds, chunks, steady, disk, capacity, accepts, space, counters):
        last = chunks[-2:] + rounds["full"]
        cost = stats.total_ratio([c["storage_written"] for c in last], [c["bytes"] for c in last])
        share = disk / accepts
        notes = [f"store of {stats.human_bytes(capacity)}, disk of {stats.human_bytes(disk)} "
                 f"({share:.0%} of what the empty store accepts before it refuses writes); "
                 f"{len(chunks) / 2:.1f} x the capacity written before measuring"]
        if not steady:
            notes.append("SUSPECT: the cost per byte had not come to rest")
        checks = [stats.check("bytes per byte", cost, ceiling=self.ceiling, unit="")]
        if self.has_empty:
            speed = stats.ratio([r["iops"] for r in rounds["full"]], [r["iops"] for r in rounds["empty"]])
            checks.append(stats.check("speed, full / empty store", speed, floor=self.floor))
        return self.result(rounds, checks, notes, chunks=chunks, space=space, counters=counters)


class OverwriteLarge(Overwrite):
    """The same in a store large enough that the files between two uses, whose number does not grow with
    it, are few of its files. Without an empty one beside it, for which there is seldom room: it is
    about bytes."""

    size, has_empty = 32 * GIB, False

    def __init__(self, percent, name, ceiling):
        super().__init__(percent, "randwrite", name, (ceiling, None))
        self.title = self.title.replace("store", f"store of {self.size // GIB} GiB")


class Open(LongRow):
    """From the exec of varved to the first read that it answers, after kill -9 under random writes."""

    name = "open"
    title = "opening a store after kill -9, 10 GiB of random 4 KiB writes in it"

    def disk_need(self, options):
        return 24 * GIB

    def run(self, bench):
        written = GIB if bench.quick else 10 * GIB
        varve = Varve(bench, 16 * GIB, capacity=24 * GIB)
        times, chance = [], random.Random(9)
        try:
            bench.say(f"{self.name}: writing {stats.human_bytes(written)}")
            bench.fio(varve, "fill", size=MIB)  # so that the page that is read back holds data
            bench.fio(varve, "randwrite", size=16 * GIB, io_size=written)
            for i in range(bench.rounds):
                self.kill_under_load(bench, varve, chance.uniform(1, 2 if bench.quick else 5), i)
                cold = drop_caches()
                varve.launch()
                answered, page = varve.wait_ready(timeout_s=120, pause_s=0.001)
                if not any(page):
                    raise BenchError("the page at 0 was written but reads as zeros after kill -9")
                times.append(answered - varve.exec_at)
                bench.say(f"{self.name}: round {i + 1}/{bench.rounds}: {times[-1] * 1000:.0f} ms")
            space = varve.df()
            verify(bench, varve)
        finally:
            close_sides([varve])
        figure = {"value": max(times), **stats.spread(times)}
        notes = [f"the worst of {len(times)} is held against the limit; median "
                 f"{stats.median(times) * 1000:.0f} ms" + ("; page cache dropped" if cold else "")]
        return {"name": self.name, "title": self.title, "metric": "seconds", "sides": {},
                "checks": [stats.check("worst", figure, ceiling=1.0, unit=" s")], "notes": notes,
                "seconds": times, "space": space}

    def kill_under_load(self, bench, varve, seconds, i):
        child = fio.start(bench.run_dir, bench.procs, varve.target, "randwrite", seconds=60,
                          size=16 * GIB, seed=500 + i)
        try:
            time.sleep(seconds)
            if child.poll() is not None:
                raise BenchError("fio ended before varved was killed, so nothing was in flight")
            varve.require_alive()
            varve.kill9()
        finally:
            bench.procs.end(child, grace_s=5)


def drop_caches():
    """Forget what the kernel cached, where that is allowed. True if it was."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3\n")
        return True
    except OSError:
        return False


class Big(LongRow):
    """A 1 TiB disk with 16 GiB at random places, then work on a GiB of it, beside a 2 GiB disk in a
    store of its own. Both daemons have the default configuration."""

    name = "big"
    title = "1 TiB disk, 16 GiB at random 4 KiB places, work on a hot GiB"

    def disk_need(self, options):
        return 6 * GIB if options.quick else 40 * GIB

    def run(self, bench):
        scattered = GIB if bench.quick else 16 * GIB
        free = 2 * GIB if bench.quick else 12 * GIB
        big = Varve(bench, 1 << 40, capacity=scattered + free, cache=None, label="big")
        sides = [big]
        try:
            bench.say(f"{self.name}: writing {stats.human_bytes(scattered)} at random places")
            scatter = one_turn(bench, big, "randwrite", size=1 << 40, io_size=scattered)
            space, memory = big.df(), {"scattered": big.memory_bytes()}
            small = Varve(bench, 2 * GIB, capacity=free, cache=None, label="small")
            sides.append(small)
            for side in sides:
                side.thaw()
                bench.fio(side, "fill", size=GIB)
                side.freeze()
            rounds = {}
            for workload in ("randwrite", "randread"):
                rounds[workload] = run_rounds(bench, f"{self.name} {workload}", workload, sides,
                                              size=GIB)
            memory["end"] = big.memory_bytes()
            memory["small"] = small.memory_bytes()
        finally:
            close_sides(sides)
        return self.report(rounds, space, memory, scatter)

    def report(self, rounds, space, memory, scatter):
        def one(value):
            return {"value": value, **stats.spread([value])}

        peak = max(memory["scattered"][1], memory["end"][1]) / MIB
        checks = [stats.check("resident, peak", one(peak), ceiling=256, unit=" MiB"),
                  stats.check("tables / data on disk", one(space["tables"] / space["data"]),
                              ceiling=0.02, unit="")]
        for workload, results in rounds.items():
            figure = stats.ratio([r["iops"] for r in results["big"]],
                                 [r["iops"] for r in results["small"]])
            checks.append(stats.check(f"{workload}, big / small disk", figure, floor=0.9))
        notes = [f"scattering ran at {scatter['iops'] / 1000:.1f}k/s; resident now "
                 f"{memory['end'][0] / MIB:.0f} MiB, beside {memory['small'][0] / MIB:.0f} MiB of the "
                 "small disk's daemon"]
        return self.result(rounds["randwrite"], checks, notes, space=space, memory=memory,
                           reads=summarize(rounds["randread"], "iops"))


def growth(before, after):
    """By how much each counter grew; those that stood still are left out."""
    return {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}


LONG_ROWS = [
    Amplification(),
    Overwrite(70, "randwrite", "overwrite-70", (2.1, 0.6)),
    Overwrite(80, "randwrite", "overwrite-80", (2.9, 0.6)),
    OverwriteLarge(80, "overwrite-80-large", 2.9),
    Overwrite(70, "skewwrite", "overwrite-70-skew", (None, None)),
    Overwrite(80, "skewwrite", "overwrite-80-skew", (None, None)),
    Open(),
    Big(),
]
