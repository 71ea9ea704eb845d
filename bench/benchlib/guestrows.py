"""Rows about a running guest: what it costs to see which of its pages were written.

The guest is tests/guest/scribbler.c in a QEMU under TCG, driven by build/src/guest/bench-collect."""

import json
import os
import subprocess

from . import stats
from .servers import BenchError
from .versiontimes import TimeRow

PAGES = 5000


class Collect(TimeRow):
    """The pages that were written are collected in turn while the guest runs (it polls its serial port,
    so its processor is busy) and in a pause, as the last round of a checkpoint is."""

    name = "collect-4g"
    title = "written pages of a 4 GiB guest, 3.5 GiB of it in use, 5,000 scattered ones written"

    def disk_need(self, options):
        return 0

    def run(self, bench):
        rounds = self.measure(bench)
        paused = [r for r in rounds if r["paused"]]
        running = [r for r in rounds if not r["paused"]]
        for r in rounds:
            if not PAGES <= r["pages"] <= PAGES + 100:
                raise BenchError(f"{r['pages']} pages were collected of {PAGES}")
        checks = [stats.check("collected in a pause, median", figure(paused, "us"), ceiling=3, unit=" ms"),
                  stats.check("collected while it runs, median", figure(running, "us"), unit=" ms")]
        notes = [f"{what}: " + ", ".join(
            f"{phase} {figure(of, key)['value']:.2f} ms" for phase, key in
            (("discarded pages", "discards_us"), ("looking", "get_us"), ("taking and protecting", "protect_us"),
             ("own writes", "notes_us"))) for what, of in (("in a pause", paused), ("running", running))]
        notes.append(f"tracking began by {self.tracker} in {self.open_ms:.0f} ms")
        return self.done(checks, notes, rounds=rounds)

    def measure(self, bench):
        build = os.path.dirname(os.path.abspath(bench.varved))
        program = os.path.join(build, "src/guest/bench-collect")
        count = 2 * max(bench.rounds, 3) if bench.quick else 100
        child = subprocess.run([program, os.path.join(build, "tests/guest/scribbler.elf"), str(count)],
                               stdout=subprocess.PIPE, timeout=600, check=False)
        if child.returncode != 0:
            raise BenchError(f"bench-collect ended with {child.returncode}")
        answer = json.loads(child.stdout)
        self.tracker, self.open_ms = answer["tracker"], answer["open_us"] / 1000
        return answer["rounds"]


def figure(rounds, key):
    values = [r[key] / 1000 for r in rounds]
    return {"value": stats.median(values), **stats.spread(values)}


GUEST_ROWS = [Collect()]
