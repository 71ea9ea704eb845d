"""Rows about checkpoints of a machine with Linux in it: how long they take beside QEMU's own full save, and how much
they add to the store beside increments of whole pages. benchlib/machines.py has the guest."""

import os
import statistics
import time

from . import stats
from .machines import Machine, Machines
from .servers import BenchError
from .stats import GIB, MIB
from .versiontimes import TimeRow

# Pages a second, for those that this program paces; the others are as fast as they are.
LOADS = {"idle": "idle", "redis": "redis", "few bytes": "few 5000", "compiler": "compile", "random pages": "random 1000"}
RANDOM = "random pages"
INTERVAL_S = 2  # of the load before each checkpoint
PAGE, HEADER = 4096, 8  # of an increment of whole pages: a page, and what says which; a page of zeros has the latter
NO_LIMIT = 1 << 40


class CheckpointRow(TimeRow):
    def disk_need(self, options):
        return (12 if options.quick else 40) * GIB

    def sizes(self, bench):
        return (1024,) if bench.quick else (1024, 4096)

    def measure(self, bench, mib, saves):
        """{load: [rounds]}. saves: in each round QEMU saves the machine too."""
        machines = Machines(bench, self.disk_need(bench) // 3 * 2)
        path = os.path.join(bench.data_dir, "save")
        found = {}
        try:
            machine = machines.run_filled(bench, self.name, mib)
            for name, load in LOADS.items():
                found[name] = self.measure_load(bench, machines, machine, name, load, path if saves else None)
            last = f"{name}-{len(found[name]) - 1}"
            self.check_devices(machine, found)
            machine.kill()
            self.check_restored(bench, machines, last)
        finally:
            machines.stop()
        return found

    def measure_load(self, bench, machines, machine, name, load, path):
        rounds, name = [], name.replace(" ", "-")
        machine.begin_load(load)
        time.sleep(0.5 if bench.quick else 2)
        machines.checkpoint(f"{name}-before")
        for i in range(min(bench.rounds, 5)):
            before, compiled = machine.counts(), machine.compiled()
            time.sleep(INTERVAL_S)
            space = machines.api.space()
            seconds = machines.checkpoint(f"{name}-{i}")
            after = machines.api.space()
            one = {"seconds": seconds, "data": after["data"] - space["data"], **machines.show(f"{name}-{i}"),
                   "did": {key: value - before[key] for key, value in machine.counts().items()}}
            one["did"]["compiled"] = machine.compiled() - compiled
            if path:
                one["save_seconds"], one["save_bytes"] = full_save(machine.qmp, path)
                if one["save_bytes"] < machine.resident_bytes() // 2:
                    raise BenchError(f"QEMU's save has {one['save_bytes']} bytes only")
            rounds.append(one)
            bench.say(f"{self.name}: {name} {i + 1}: {seconds * 1000:.0f} ms, {one['dirty']} pages, "
                      f"{one['data'] // 1024} KiB" + (f"; saved in {one['save_seconds']:.2f} s" if path else ""))
        machine.end_load(load)
        self.require_work(name, rounds)
        self.add_tables(machines, rounds, space["tables"])
        return rounds

    def add_tables(self, machines, rounds, before):
        """Tables are written some time after a checkpoint: a share of what they grew by belongs to each."""
        time.sleep(2.5)  # an idle second makes the store write them
        share = max(machines.api.space()["tables"] - before, 0) / len(rounds)
        for one in rounds:
            one["bytes_added"] = one["data"] + share

    def require_work(self, name, rounds):
        """The load did something in every round. (The compiler is slow under TCG: it was done with a file before
        the first round, and Machine.end_load() finds it at work after the last.)"""
        key = {"few-bytes": "few", "random-pages": "random"}.get(name, name)
        if not all(one["did"].get(key, 1) for one in rounds):
            raise BenchError(f"the load {name} did nothing in {INTERVAL_S} s")

    def check_devices(self, machine, found):
        """Each of the guest's devices did I/O in every round, and none of it failed."""
        for name, rounds in found.items():
            for one in rounds:
                if not all(one["did"][device] > 0 for device in ("disk", "net", "rng")) or one["did"]["failures"]:
                    raise BenchError(f"{name}: the guest's devices did no I/O, or failed: {one['did']}")
        writes = sum(node["stats"]["wr_operations"] for node in machine.qmp.execute("query-blockstats"))
        if writes < sum(one["did"]["disk"] for rounds in found.values() for one in rounds):
            raise BenchError(f"QEMU counts {writes} writes to the disk, less than the guest made")

    def check_restored(self, bench, machines, version):
        """It goes on from the last checkpoint: memory has its sums, the disk what memory says."""
        pages = check_version(machines, version, "check")
        bench.say(f"{self.name}: restored from {version}: {pages} pages and the disk are as they should be")


def check_version(machines, version, name):
    _, job = machines.restore(version, **{"as": name, "eager": True})
    return Machine(machines.restored(job, ("resident",))[0]).prove()


def full_save(qmp, path):
    """QEMU's own way: stop, migrate into a file, all of it on the disk. (seconds, bytes). The machine
    goes on afterwards; that is not counted."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        limit = qmp.execute("query-migrate-parameters")["max-bandwidth"]
        qmp.execute("migrate-set-parameters", **{"max-bandwidth": NO_LIMIT})
        begun = time.monotonic()
        qmp.execute("stop")
        qmp.pass_fd("bench", fd)
        qmp.execute("migrate", uri="fd:bench")
        while (status := qmp.execute("query-migrate"))["status"] in ("setup", "active", "device"):
            time.sleep(0.002)
        os.fsync(fd)
        seconds = time.monotonic() - begun
        if status["status"] != "completed":
            raise BenchError(f"QEMU's save is {status['status']}: {status.get('error-desc')}")
        qmp.execute("cont")
        qmp.execute("migrate-set-parameters", **{"max-bandwidth": limit})
        return seconds, status["ram"]["transferred"]
    finally:
        os.close(fd)


def mean_of(figures):
    values = [figure["value"] for figure in figures]
    return {"value": statistics.mean(values), **stats.spread(values)}


def phases(rounds):
    keys = ("times_rounds", "times_stop", "times_scan", "times_copy", "times_disks", "times_device", "times_rest")
    told = ", ".join(f"{key[6:]} {stats.median([r[key] for r in rounds]) / 1000:.1f}" for key in keys)
    whole = stats.median([r["seconds"] for r in rounds]) * 1000
    rest = stats.median([r["seconds"] * 1000 - (r["times_rounds"] + r["times_pause"] + r["times_rest"]) / 1000
                         for r in rounds])
    return (f"{whole:.0f} ms: {told}, commit and command {rest:.1f}; {stats.median([r['dirty'] for r in rounds]):.0f} pages "
            f"written, {stats.median([r['left'] for r in rounds]):.0f} left for the pause, "
            f"{stats.median([r['rounds'] for r in rounds]):.0f} rounds")


class CheckpointTime(CheckpointRow):
    """The whole command beside stop, migrate to a file and fsync; the same machine, in turn."""

    name = "checkpoint-time"
    title = "incremental checkpoint after 2 s of a load, beside QEMU's full save of the stopped machine"

    def run(self, bench):
        checks, notes, every = [], [], {}
        for mib in self.sizes(bench):
            found = every[mib] = self.measure(bench, mib, saves=True)
            each = {name: stats.ratio([r["seconds"] for r in rounds], [r["save_seconds"] for r in rounds])
                    for name, rounds in found.items()}
            checks.append(stats.check(f"time / QEMU's, {mib // 1024} GiB, mean over the loads", mean_of(each.values()),
                                      ceiling=0.08))
            checks += [stats.check(f"{mib // 1024} GiB, {name}", figure) for name, figure in each.items()]
            notes += [f"{mib // 1024} GiB, {name}: {phases(rounds)}; QEMU's save "
                      f"{stats.median([r['save_seconds'] for r in rounds]):.2f} s, "
                      f"{stats.median([r['save_bytes'] for r in rounds]) / MIB:.0f} MiB"
                      for name, rounds in found.items()]
        bench.checkpoints = every
        return self.done(checks, notes, found=every)


class CheckpointSize(CheckpointRow):
    """What the store grew by beside 4,096 bytes and a header for each page that was written."""

    name = "checkpoint-size"
    title = "what an incremental checkpoint after 2 s of a load adds to the store, beside its dirty pages whole"

    def run(self, bench):
        checks, notes = [], []
        every = getattr(bench, "checkpoints", None) or {mib: self.measure(bench, mib, saves=False)
                                                        for mib in self.sizes(bench)}
        for mib, found in every.items():
            each = {name: stats.ratio([r["bytes_added"] for r in rounds], [whole_pages(r) for r in rounds])
                    for name, rounds in found.items()}
            checks.append(stats.check(f"bytes / whole pages, {mib // 1024} GiB, mean over the loads but {RANDOM}",
                                      mean_of([f for name, f in each.items() if name != RANDOM]), ceiling=0.25))
            checks += [stats.check(f"{mib // 1024} GiB, {name}", figure) for name, figure in each.items()]
            notes += [f"{mib // 1024} GiB, {name}: {self.describe(rounds)}" for name, rounds in found.items()]
        return self.done(checks, notes, found=every)

    def describe(self, rounds):
        def middle(key):
            return stats.median([r[key] for r in rounds])
        return (f"{stats.human_bytes(middle('bytes_added'))} added for {middle('dirty'):.0f} pages, of these "
                f"{stats.human_bytes(middle('bytes'))} records of pages; {middle('pages'):.0f} given in {middle('rounds'):.0f} "
                f"rounds: {middle('same'):.0f} as before, {middle('zero'):.0f} zeros, {middle('delta'):.0f} deltas, "
                f"{middle('packed'):.0f} compressed, {middle('plain'):.0f} whole")


def whole_pages(one):
    """Zeros are counted as a header, as QEMU does; a page that came out as before is whole, for who looks at
    pages alone cannot know. zero counts each round's, so this is at most the peer's size."""
    zeros = min(one["zero"], one["dirty"])
    return (one["dirty"] - zeros) * (PAGE + HEADER) + zeros * HEADER


CHECKPOINT_ROWS = [CheckpointTime(), CheckpointSize()]
