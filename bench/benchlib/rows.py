"""Rows that compare sides round by round: A B C, A B C, ... on the same working set.

Every row prepares its sides in the same way (a full sequential write) and therefore does not depend on
the rows before it. All servers of a row live through the whole row; only one is awake at a time.
"""

import os
import time

from . import fio, stats
from .servers import BenchError, Memory, Qcow2, Raw, Varve
from .stats import GIB, MIB

WORKING_SET = 2 * GIB
STORE_CAPACITY = 16 * GIB
P99 = ("p99_us", "99th percentile")


class Row:
    """One line of the table.

    sides      in the order in which they run within a round
    metric     iops or bytes_per_s
    floors     peer -> the least ratio varve/peer
    cache      Varve's cache-size
    warm       read everything once after filling
    scatter    overwrite everything at random after filling: a log's worst layout for reading
    from_disk  True: Varve's reads must reach the storage; False: they must not; None: does not apply
    """

    def __init__(self, name, title, workload, sides, floors, *, metric="iops", cache="0", warm=False,
                 scatter=False, from_disk=None, p99=True, verify=False):
        self.name, self.title, self.workload, self.sides = name, title, workload, sides
        self.floors, self.metric, self.cache, self.warm = floors, metric, cache, warm
        self.scatter, self.from_disk, self.p99, self.verify = scatter, from_disk, p99, verify

    needs_varve = False

    def disk_need(self, options):
        return STORE_CAPACITY + 2 * WORKING_SET

    def run(self, bench):
        sides = []
        try:
            for name in self.sides:
                if name == "varve" and bench.peer_only:
                    continue
                sides.append(open_side(bench, name, self.cache))
                self.prepare(bench, sides[-1])
                sides[-1].freeze()
            rounds = run_rounds(bench, self.name, self.workload, sides)
            notes = self.sanity(rounds)
            if self.verify:
                for side in sides:
                    verify(bench, side, WORKING_SET // 2)
                notes.append("every side gave back what was written to it (crc32c of 128 MiB of "
                             "random 4 KiB writes)")
        finally:
            close_sides(sides)
        return {"name": self.name, "title": self.title, "metric": self.metric,
                "sides": summarize(rounds, self.metric), "checks": self.checks(rounds),
                "notes": notes}

    def prepare(self, bench, side):
        bench.say(f"{self.name}: filling {side.name}")
        bench.fio(side, "fill", size=WORKING_SET)
        if self.scatter:
            bench.fio(side, "randwrite", size=WORKING_SET, io_size=WORKING_SET)
        if self.warm:
            bench.fio(side, "seqread", size=WORKING_SET)

    def checks(self, rounds):
        out = []
        ours = rounds.get("varve")
        for peer, theirs in rounds.items():
            if peer == "varve" or not ours:
                continue
            figure = stats.ratio([r[self.metric] for r in ours], [r[self.metric] for r in theirs])
            out.append(stats.check(f"varve / {peer}", figure, floor=self.floors.get(peer)))
        if ours and self.p99 and "qcow2" in rounds:
            keys = [P99] + ([("flush_p99_us", "99th percentile of a flush")]
                            if "flush_p99_us" in ours[0] else [])
            for key, what in keys:
                figure = stats.ratio([r[key] for r in ours], [r[key] for r in rounds["qcow2"]])
                out.append(stats.check(f"{what}, varve / qcow2", figure, ceiling=1.0))
        return out

    def sanity(self, rounds):
        """Did the reads come from where the row says they do?"""
        notes = []
        for name, results in rounds.items():
            if self.from_disk is None or name in ("raw", "memory"):
                continue
            share = stats.median([r["storage_read"] / r["bytes"] for r in results])
            expected = self.from_disk or name == "qcow2"
            if expected and share < 0.9 or not expected and share > 0.05:
                notes.append(f"SUSPECT: {name} read {share:.2f} bytes from storage per byte served; "
                             f"this row wants {'all' if expected else 'none'} to come from there")
        return notes


def open_side(bench, name, cache="0"):
    if name == "varve":
        return Varve(bench, WORKING_SET, capacity=STORE_CAPACITY, cache=cache)
    return {"qcow2": Qcow2, "memory": Memory, "raw": Raw}[name](bench, WORKING_SET)


def close_sides(sides):
    """Stop all, even where one complains; then complain."""
    problems = []
    for side in sides:
        try:
            side.stop()
        except BenchError as error:
            problems.append(str(error))
    if problems:
        raise BenchError("; ".join(problems))


def one_turn(bench, side, workload, **bounds):
    """One side's turn of one round: awake, measured, asleep. Adds what the server spent. What the side
    before left in the device's cache is flushed first: whoever syncs would pay for it."""
    os.sync()
    side.thaw()
    cpu, (read, written), begun = side.cpu_s(), side.storage_bytes(), time.monotonic()
    result = bench.fio(side, workload, **bounds)
    elapsed = time.monotonic() - begun
    side.require_alive()
    after_read, after_written = side.storage_bytes()
    result["server_cpus"] = (side.cpu_s() - cpu) / elapsed
    result["storage_read"] = after_read - read
    result["storage_written"] = after_written - written
    side.freeze()
    return result


def run_rounds(bench, name, workload, sides, **bounds):
    """side -> a list with one result a round. Every side of a round gets the same random seed."""
    if "io_size" not in bounds:
        bounds = {"seconds": bench.seconds, "ramp_s": bench.ramp_s, **bounds}
    bounds.setdefault("size", WORKING_SET)
    rounds = {side.label: [] for side in sides}
    for i in range(bench.rounds):
        for side in sides:
            rounds[side.label].append(one_turn(bench, side, workload, seed=1000 + i, **bounds))
        bench.say(f"{name}: round {i + 1}/{bench.rounds}: " + ", ".join(
            f"{label} {speed_text(results[-1])}" for label, results in rounds.items()))
    return rounds


def speed_text(result):
    if result["bytes"] / max(result["iops"] * result["seconds"], 1) > 64 << 10:
        return f"{result['bytes_per_s'] / MIB:.0f} MiB/s"
    return f"{result['iops'] / 1000:.1f}k/s"


def summarize(rounds, metric):
    """side -> medians, and the rounds themselves for whoever wants to look closer."""
    return {label: {"median": stats.median([r[metric] for r in results]),
                    "p99_us": stats.median([r["p99_us"] for r in results]),
                    "server_cpus": stats.median([r["server_cpus"] for r in results]),
                    "rounds": results}
            for label, results in rounds.items()}


def verify(bench, side, offset=0):
    """Write random blocks that carry their checksums and read them back."""
    side.thaw()
    bench.fio(side, "verify", size=128 * MIB, offset=offset)
    side.freeze()


ROWS = [
    Row("randwrite", "4 KiB random write, depth 32", "randwrite", ["varve", "qcow2", "memory"],
        {"qcow2": 2.5, "memory": 0.7}, verify=True),
    Row("randread", "4 KiB random read, depth 32, from disk", "randread", ["varve", "qcow2", "raw"],
        {"qcow2": 1.2, "raw": 0.6}, from_disk=True),
    Row("randread-cached", "4 KiB random read, depth 32, cached", "randread",
        ["varve", "qcow2", "memory"], {"memory": 0.9}, cache="2560M", warm=True, from_disk=False),
    Row("flush8", "4 KiB random write, depth 32, a flush after every 8", "flush8",
        ["varve", "qcow2"], {"qcow2": 1.5}, verify=True),
    Row("seqwrite", "1 MiB sequential write, depth 8", "seqwrite", ["varve", "qcow2"],
        {"qcow2": 1.5}, metric="bytes_per_s"),
    Row("seqread", "1 MiB sequential read, depth 8", "seqread", ["varve", "qcow2"], {"qcow2": 1.1},
        metric="bytes_per_s", from_disk=True),
    Row("seqread-scattered", "the same after random overwriting (nothing asked)", "seqread",
        ["varve", "qcow2"], {}, metric="bytes_per_s", scatter=True, from_disk=True, p99=False),
]
