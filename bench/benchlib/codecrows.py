"""Rows of what a checkpoint does with pages in memory: build/bench/bench-checkpoint measures both sides in turn,
these make tables of it. No disk and no server takes part."""

import json
import os
import subprocess

from . import stats
from .longrows import LongRow
from .servers import BenchError
from .session import ROOT

WIDEST = {"plain": 0, "avx2": 1, "avx512": 2}


class CodecRow(LongRow):
    def disk_need(self, options):
        return 0

    def cases(self, bench):
        """{(case, vector width): {"base": seconds of the rounds, "ours": the same}}"""
        program = os.path.join(ROOT, "build", "bench", "bench-checkpoint")
        if not os.access(program, os.X_OK):
            raise BenchError(f"no {program}; run make")
        done = subprocess.run([program, self.name, str(max(3, bench.rounds))], capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise BenchError(f"bench-checkpoint ended with {done.returncode}: {done.stderr.strip()}")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return {(each["case"], each["simd"]): each for each in found}

    def done(self, checks, notes, cases):
        return {"name": self.name, "title": self.title, "metric": "seconds", "sides": {}, "checks": checks,
                "notes": notes, "cases": list(cases.values())}


class DeltaCodec(CodecRow):
    """Encoding of pages whose bytes differ at 5 % of the places, beside memcpy of the same pages."""

    name = "delta-codec"
    title = "delta codec, 5 % of bytes changed, scattered, 64 MiB of pages"
    FLOORS = {"avx2": 0.35, "avx512": 0.9}

    def run(self, bench):
        cases = self.cases(bench)
        checks = [stats.check(f"speed of {simd} / memcpy, {name}", stats.ratio(each["base"], each["ours"]),
                              floor=self.FLOORS.get(simd) if "64 MiB" in name else None)
                  for (name, simd), each in cases.items()]
        notes = [f"memcpy of 64 MiB, {name}: "
                 f"{64 / 1024 / stats.median(each['base']):.1f} GiB/s"
                 for (name, simd), each in cases.items() if "64 MiB" in name and simd == "plain"]
        missing = [simd for simd in self.FLOORS if not any(width == simd for _, width in cases)]
        notes += [f"this processor has no {simd}" for simd in missing]
        return self.done(checks, notes, cases)


class DirtyScan(CodecRow):
    """All dirty pages of the bitmap of a 4 GiB machine, beside the look at each bit."""

    name = "dirty-scan"
    title = "dirty pages in the bitmap of 4 GiB"
    CEILINGS = {"0": 0.03, "0.01": 0.03, "0.1": 0.03, "0.5": 0.03, "5": 0.07}

    def run(self, bench):
        cases = self.cases(bench)
        widest = max((simd for _, simd in cases), key=WIDEST.get)
        checks, notes = [], [f"{widest} is what this processor uses"]
        for (name, simd), each in cases.items():
            figure = stats.ratio(each["ours"], each["base"])
            if simd == widest:
                ceiling = self.CEILINGS.get(name.split()[0]) if name.endswith("pages") else None
                checks.append(stats.check(f"time / bit by bit, {name}", figure, ceiling=ceiling))
            elif name in ("0.5 % random, pages", "5 % random, pages"):
                notes.append(f"{name}, {simd}: {figure['value']:.3f} x")
        return self.done(checks, notes, cases)


CODEC_ROWS = [DeltaCodec(), DirtyScan()]
