"""Rows about what a guest notices of checkpoints: its pauses, and how much slower it works. benchlib/machines.py has
the guest."""

import os
import statistics
import subprocess
import threading
import time

from . import stats
from .checkpointrows import check_version
from .machines import Machines
from .servers import BenchError
from .stats import GIB
from .versiontimes import TimeRow, p99

PHASES = ("stop", "scan", "copy", "disks", "device")


class PauseRow(TimeRow):
    def disk_need(self, options):
        return (8 if options.quick else 24) * GIB

    def sizes(self, bench):
        return (1024,) if bench.quick else (1024, 4096)

    def require_devices(self, before, after):
        if not all(after[device] > before[device] for device in ("disk", "net", "rng")) or after["failures"]:
            raise BenchError(f"the guest's devices did no I/O, or failed: {before}, {after}")


class Pause(PauseRow):
    """Many checkpoints, a quarter of them each with nothing but the heart beat, 1,200, 2,400 and 3,600 pages that are
    written over and over, so that as many are left for the pause."""

    name = "pause"
    title = "pause of the guest in a checkpoint, up to 4,000 pages left, 2 processors, TCG"
    HOT = (0, 1200, 2400, 3600)
    LEFT_MAX = 4000

    def run(self, bench):
        checks, notes, every = [], [], {}
        for mib in self.sizes(bench):
            every[mib] = self.measure(bench, mib)
        for mib, found in every.items():
            gib, taken = f"{mib // 1024} GiB", [p for p in found["pauses"] if p["left"] <= self.LEFT_MAX]
            shown = [p["times_pause"] / 1000 for p in taken]
            spread = {"min": min(shown), "max": max(shown)}
            checks.append(stats.check(f"{gib}, mean of {len(taken)}", {"value": statistics.mean(shown), **spread}, ceiling=4,
                                      unit=" ms"))
            checks.append(stats.check(f"{gib}, 99th percentile", {"value": p99(shown), **spread}, ceiling=10, unit=" ms"))
            notes += self.describe(gib, found, taken)
        if len(every) == 2:
            least, most = ([p["times_pause"] for p in found["pauses"]] for found in every.values())
            checks.append(stats.check("mean of 4 GiB / 1 GiB", mean_ratio(most, least), ceiling=1.2))
        return self.done(checks, notes, found=every)

    def measure(self, bench, mib):
        machines = Machines(bench, self.disk_need(bench) // 3 * 2)
        try:
            machine = machines.run_filled(bench, self.name, mib)
            before, pauses = machine.counts(), []
            for hot in self.HOT:
                pauses += self.some_pauses(bench, machines, machine, hot)
                bench.say(f"{self.name}: {mib} MiB, {hot} pages written all the time: median "
                          f"{stats.median([p['times_pause'] for p in pauses if p['hot'] == hot]) / 1000:.2f} ms")
            stands = self.stands_still(bench, machines, machine)
            self.require_devices(before, machine.counts())
            ways = {way: self.device_only(bench, machine, way) for way in ("save", "migrate")}
            machines.checkpoint("last")
            machine.kill()
            check_version(machines, "last", "check")
        finally:
            machines.stop()
        return {"pauses": pauses, "stands": stands, "ways": ways}

    def some_pauses(self, bench, machines, machine, hot):
        pauses = []
        machine.tell(f"hot {hot}")
        machines.checkpoint_called(f"hot-{hot}-before")
        for i in range(8 if bench.quick else 60):
            time.sleep(0.1)
            machine.qmp.new_events()
            name = f"hot-{hot}-{i}"
            machines.checkpoint_called(name)
            pauses.append({"hot": hot, "seen": seen_pause_us(machine.qmp.new_events()), **machines.show(name)})
        machine.tell("hot 0")
        return pauses

    def stands_still(self, bench, machines, machine):
        """How long a counter in the guest's memory stood still while a checkpoint was taken, and the pause that is
        shown for it, in microseconds."""
        both = []
        machine.tell("work 1")
        for i in range(4 if bench.quick else 20):
            time.sleep(0.2)
            with Standstill(machine) as still:
                machines.checkpoint_called(f"still-{i}")
            both.append((still.longest * 1e6, machines.show(f"still-{i}")["times_pause"]))
        machine.tell("work 0")
        return both

    def device_only(self, bench, machine, way):
        """The pause for nothing but the devices' state, by one of the two ways, in microseconds."""
        if machine.monitor:
            machine.monitor.close()  # QEMU talks to one at a time
            machine.monitor = None
        build = os.path.dirname(os.path.abspath(bench.varved))
        tool = subprocess.Popen([os.path.join(build, "src/guest/device-state-tool"), machine.qmp_path],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def tell(command):
            if command:
                tool.stdin.write(command + "\n")
                tool.stdin.flush()
            answer = tool.stdout.readline().split()
            if not answer or answer[0] != "ok":
                raise BenchError(f"device-state-tool, {command}: {' '.join(answer)}")
            return dict(zip(answer[1::2], answer[2::2]))

        try:
            state, pauses = os.path.join(bench.run_dir, "state"), []
            tell("")  # it says whom it talks to
            tell(f"prepare {state}")
            for _ in range(5 if bench.quick else 30):
                time.sleep(0.05)
                tell(f"begin {way}")
                done = tell(f"finish {state}")
                pauses.append(sum(int(done[key]) for key in ("stop_us", "state_us", "resume_us")))
        finally:
            tool.stdin.close()
            tool.wait(10)
        return pauses

    def describe(self, gib, found, taken):
        notes = []
        for hot in self.HOT:
            some = [p for p in taken if p["hot"] == hot]
            if not some:
                continue
            left = [p["left"] for p in some]
            notes.append(f"{gib}, {min(left)} to {max(left)} pages left: mean "
                         f"{statistics.mean(p['times_pause'] for p in some) / 1000:.2f} ms; medians: " + ", ".join(
                             f"{key} {stats.median([p[f'times_{key}'] for p in some]) / 1000:.2f}" for key in PHASES))
        worst = sorted(taken, key=lambda p: -p["times_pause"])[:3]
        notes.append(f"{gib}, the three longest: " + "; ".join(
            f"{p['times_pause'] / 1000:.2f} ms (" + ", ".join(f"{key} {p[f'times_{key}'] / 1000:.2f}" for key in PHASES)
            + f"; {p['left']} pages)" for p in worst))
        less = [(p["times_pause"] - p["seen"]) / 1000 for p in found["pauses"]]
        notes.append(f"{gib}, the pause that is shown less the one between QEMU's events STOP and RESUME: "
                     f"{min(less):.2f} to {max(less):.2f} ms, median {stats.median(less):.2f}"
                     + ("; SUSPECT: shorter than the machine stood" if min(less) < -0.1 else ""))
        notes.append(f"{gib}, a counter in the guest's memory, looked at from outside, stood still for "
                     f"{stats.median([s for s, _ in found['stands']]) / 1000:.2f} ms, the pause that is shown is "
                     f"{stats.median([p for _, p in found['stands']]) / 1000:.2f} (medians of {len(found['stands'])}, work in "
                     f"the guest)")
        notes += [f"{gib}, the devices' state alone by {name}: median {stats.median(found['ways'][way]) / 1000:.2f}, at most "
                  f"{max(found['ways'][way]) / 1000:.2f} ms of {len(found['ways'][way])}"
                  for way, name in (("save", "xen-save-devices-state"), ("migrate", "a held migration (the fallback)"))]
        if len(taken) < len(found["pauses"]):
            notes.append(f"{gib}: {len(found['pauses']) - len(taken)} of {len(found['pauses'])} pauses had more than "
                         f"{self.LEFT_MAX} pages left, and are not counted")
        return notes


class Standstill:
    """The longest time between two looks, 0.1 ms apart or more, of which no one saw the guest's work counter change:
    at least so long it stood still, however late this thread itself came to look."""

    def __init__(self, machine):
        self.machine, self.longest, self.ends = machine, 0, False
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends = True
        self.thread.join()

    def watch(self):
        before, since = None, 0
        while not self.ends:
            now, count = time.monotonic(), self.machine.counts()["work0"]
            if count != before:
                before, since = count, time.monotonic()
            self.longest = max(self.longest, now - since)
            time.sleep(0.0001)


def seen_pause_us(events):
    """Between the one STOP and the one RESUME among them, by QEMU's own clock."""
    stamps = [(e["event"], e["timestamp"]["seconds"] * 1000000 + e["timestamp"]["microseconds"])
              for e in events if e["event"] in ("STOP", "RESUME")]
    if [name for name, _ in stamps] != ["STOP", "RESUME"]:
        raise BenchError(f"a checkpoint is one STOP and one RESUME, not {[name for name, _ in stamps]}")
    return stamps[1][1] - stamps[0][1]


def mean_ratio(ours, theirs):
    """Ratio of the means; the spread is that of the ratios of paired ones."""
    return {"value": statistics.mean(ours) / statistics.mean(theirs),
            **stats.spread([a / b for a, b in zip(ours, theirs)])}


class Slowdown(PauseRow):
    """Windows with a checkpoint each second and without any, in turn."""

    name = "checkpoint-slowdown"
    title = "work of the guest while it is checkpointed once a second, beside the same without"
    # What it is called, the load, arithmetic between two writes of it, its counters, what is asked.
    LOADS = (("work in one thread", "work 1", 20000, ("work0",), 0.97),
             ("work in two threads", "work 2", 20000, ("work0", "work1"), None),
             ("one thread that mostly writes", "work 1", 1000, ("work0",), None),
             ("redis", "redis", 20000, ("redis",), None))

    def run(self, bench):
        checks, notes, every = [], [], {}
        for mib in self.sizes(bench):
            every[mib] = self.measure(bench, mib)
            for what, _, _, _, floor in self.LOADS:
                windows = every[mib].get(what)
                if not windows:
                    continue
                speeds = {kind: [w["speed"] for w in windows if w["kind"] == kind] for kind in ("with", "without")}
                checks.append(stats.check(f"speed with / without, {mib // 1024} GiB, {what}",
                                          stats.ratio(speeds["with"], speeds["without"]), floor=floor))
                notes.append(self.describe(mib, what, windows, speeds["without"]))
        return self.done(checks, notes, found=every)

    def measure(self, bench, mib):
        machines = Machines(bench, self.disk_need(bench) // 3 * 2)
        found, number = {}, 0
        try:
            machine = machines.run_filled(bench, self.name, mib)
            before = machine.counts()
            for what, load, steps, counters, floor in self.LOADS:
                if floor is None and mib > 1024:
                    continue
                machine.tell(f"steps {steps}")
                machine.begin_load(load)
                machines.checkpoint_called(f"before-{number}")
                windows = found[what] = []
                for i in range(min(bench.rounds, 5)):
                    for kind in ("without", "with") if i % 2 == 0 else ("with", "without"):
                        time.sleep(0.3)
                        windows.append({"kind": kind, **self.window(bench, machines, machine, kind, counters, number)})
                        number += 1
                machine.end_load(load)
                bench.say(f"{self.name}: {mib} MiB, {what}: " + ", ".join(
                    f"{kind} {stats.median([w['speed'] for w in windows if w['kind'] == kind]):.0f}/s"
                    for kind in ("without", "with")))
            self.require_devices(before, machine.counts())
            machines.checkpoint("last")
            machine.kill()
            check_version(machines, "last", "check")
        finally:
            machines.stop()
        return found

    def window(self, bench, machines, machine, kind, counters, number):
        """A checkpoint begins each second, the first half a second after the window."""
        length = 2 if bench.quick else 5
        begun, before, taken = time.monotonic(), machine.counts(), []
        for i in range(length):
            time.sleep(max(begun + i + 0.5 - time.monotonic(), 0))
            if kind == "with":
                taken.append(f"w{number}-{i}")
                machines.checkpoint_called(taken[-1])
        time.sleep(max(begun + length - time.monotonic(), 0))
        after, seconds = machine.counts(), time.monotonic() - begun
        done = sum(after[key] - before[key] for key in counters)
        if not done:
            raise BenchError(f"the guest did no work in {length} s")
        return {"speed": done / seconds, "seconds": seconds, "checkpoints": [machines.show(name) for name in taken]}

    def describe(self, mib, what, windows, without):
        taken = [c for w in windows for c in w["checkpoints"]]
        return (f"{mib // 1024} GiB, {what}: {stats.median(without):.0f}/s without; a checkpoint finds "
                f"{stats.median([c['dirty'] for c in taken]):.0f} pages, pauses {stats.median([c['times_pause'] for c in taken]) / 1000:.2f} "
                f"ms and works for {stats.median([c['times_rounds'] + c['times_rest'] for c in taken]) / 1000:.0f} ms beside "
                f"the guest")


PAUSE_ROWS = [Pause(), Slowdown()]
