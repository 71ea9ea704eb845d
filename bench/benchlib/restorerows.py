"""Rows about machines that go on from a checkpoint. benchlib/machines.py has the guest.

A machine runs when its serial console says the next number: the guest printed one every 2 ms when it was
checkpointed. That is from outside, and later than what varved itself tells (both are shown)."""

import os
import re
import time

from . import stats
from .machines import Machine, Machines, kill
from .servers import BenchError
from .stats import GIB, MIB
from .versiontimes import TimeRow, in_ms

TICK = re.compile(rb"t(\d+)\r?\n")
MEMORY_MIB = 1024


class RestoreRow(TimeRow):
    def disk_need(self, options):
        return 10 * GIB

    def prepared(self, bench):
        """(store with a version "counting" of a machine that counted aloud; the numbers between which it stood)"""
        machines = Machines(bench, 8 * GIB, cache="0")
        try:
            machine = machines.run_filled(bench, self.name, MEMORY_MIB)
            machine.console.send("echo tick 1 >/tmp/load.in; cat /tmp/load.out >/dev/null\n")
            time.sleep(1)
            first = machine.counts()["ticks"]
            machines.checkpoint("counting")
            last = machine.counts()["ticks"]
            if last <= first:
                raise BenchError("the guest did not count while it was checkpointed")
            machine.kill()
            return machines, (first, last)
        except Exception:
            machines.stop()
            raise

    def restore(self, machines, name, numbers, count=1, **options):
        """Restore, and wait until all have counted on, then until all pages are there. A dict with seconds, what
        was read, and the machines of the job, which run."""
        names = [name] if count == 1 else [f"{name}-{i + 1}" for i in range(count)]
        logs = [os.path.join(machines.run_dir, "vm", each, "console.log") for each in names]
        read = machines.storage_bytes()[0]
        options = {"as": name, **options, **({"count": count} if count > 1 else {})}
        begun, job = machines.restore("counting", **options)
        runs = {}
        while len(runs) < count:
            for path in logs:
                if path not in runs and (number := first_tick(path)):
                    runs[path] = time.monotonic() - begun
                    if not numbers[0] <= number <= numbers[1] + 1:
                        raise BenchError(f"{path} goes on at {number}, and was taken between {numbers}")
            if time.monotonic() - begun > 60:
                raise BenchError(f"only {len(runs)} of {count} machines count after a minute: "
                                 f"{machines.api.call('job.status', job)}")
            time.sleep(0.001)
        described = machines.restored(job, ("resident",), 240)
        resident = time.monotonic() - begun
        return {"runs": max(runs.values()), "first_runs": min(runs.values()), "resident": resident,
                "read": machines.storage_bytes()[0] - read, "machines": described,
                **{key: max(int(m[key]) for m in described)
                   for key in ("running_us", "disks_us", "start_us", "load_us", "run_us", "faults", "pages")}}

    def check(self, described):
        """The machine counts on without a gap; its memory and its disk are right, its devices work."""
        machine = Machine(described)
        machine.console.send("echo tick 0 >/tmp/load.in; cat /tmp/load.out >/dev/null\n")
        time.sleep(0.5)
        with open(machine.log, "rb") as f:
            said = [int(n) for n in TICK.findall(f.read())]
        if said != list(range(said[0], said[0] + len(said))):
            raise BenchError(f"{described['name']} does not count on without a gap")
        return machine.prove()

    def end(self, described):
        pidfd = os.pidfd_open(int(described["pid"]))
        kill(pidfd)
        os.close(pidfd)


def first_tick(path):
    try:
        with open(path, "rb") as f:
            found = TICK.search(f.read(256))
            return int(found.group(1)) if found else None
    except FileNotFoundError:
        return None


def split(rounds):
    return ("medians by varved: " + ", ".join(
        f"{what} {stats.median([r[key] for r in rounds]) / 1000:.0f}" for what, key in
        (("disks", "disks_us"), ("QEMU's start and RAM", "start_us"), ("device state", "load_us"), ("its vm and going on", "run_us"),
         ("runs after", "running_us"))) + f" ms; {stats.median([r['faults'] for r in rounds]):.0f} faults")


class Restore(RestoreRow):
    name = "restore"
    title = "restore of a guest of 1 GiB, 80 % filled, from the call until it counts on"
    ASKED = {"lazy": 0.1, "eager": 0.6}

    def run(self, bench):
        machines, numbers = self.prepared(bench)
        found = {mode: [] for mode in self.ASKED}
        try:
            for i in range(max(bench.rounds, 3)):
                for mode in ("lazy", "eager") if i % 2 == 0 else ("eager", "lazy"):
                    one = self.restore(machines, f"{mode}{i}", numbers, eager=mode == "eager")
                    found[mode].append(one)
                    bench.say(f"{self.name}: {mode} {i + 1}: counts after {one['runs'] * 1000:.0f} ms, all there after "
                              f"{one['resident'] * 1000:.0f}")
                    if i == 0:
                        self.check(one["machines"][0])
                    else:
                        self.end(one["machines"][0])
                    time.sleep(0.5)
        finally:
            machines.stop()
        checks, notes = [], []
        for mode, rounds in found.items():
            checks.append(stats.check(f"{mode}, until it counts on", in_ms([r["runs"] for r in rounds], stats.median),
                                      ceiling=self.ASKED[mode] * 1000, unit=" ms"))
            checks.append(stats.check(f"{mode}, until all pages are there",
                                      in_ms([r["resident"] for r in rounds], stats.median), unit=" ms"))
            notes.append(f"{mode}: {split(rounds)}; read {stats.median([r['read'] for r in rounds]) / MIB:.0f} MiB")
        notes.append(f"lazy, the first time, with no working set recorded: {found['lazy'][0]['runs'] * 1000:.0f} ms, "
                     f"{found['lazy'][0]['faults']} faults")
        return self.done(checks, notes, found=found)


class Fork(RestoreRow):
    name = "fork-8"
    title = "8 machines of 1 GiB from one checkpoint, from the call until all of them count on"
    COUNT = 8

    def run(self, bench):
        need = (self.COUNT + 1) * MEMORY_MIB * MIB
        free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
        if free < need:
            raise BenchError(f"/dev/shm has {free // MIB} MiB free of the {need // MIB} that so many machines take")
        machines, numbers = self.prepared(bench)
        one, all_of_them = [], []
        try:
            for i in range(1 if bench.quick else 5):
                one.append(self.restore(machines, f"one{i}", numbers))
                self.end(one[-1]["machines"][0])
                time.sleep(0.5)
                forked = self.restore(machines, f"fork{i}", numbers, count=self.COUNT)
                all_of_them.append(forked)
                bench.say(f"{self.name}: {i + 1}: all count after {forked['runs'] * 1000:.0f} ms, the first after "
                          f"{forked['first_runs'] * 1000:.0f}, all pages there after {forked['resident'] * 1000:.0f}")
                for n, described in enumerate(forked["machines"]):
                    if i == 0 and (n == 0 or not bench.quick):
                        self.check(described)
                    else:
                        self.end(described)
                time.sleep(1)
        finally:
            machines.stop()
        checks = [stats.check("all count on", in_ms([f["runs"] for f in all_of_them], stats.median), ceiling=800, unit=" ms"),
                  stats.check("read from storage / one restore's",
                              stats.ratio([f["read"] for f in all_of_them], [f["read"] for f in one]), ceiling=1.1),
                  stats.check("the first of them counts on", in_ms([f["first_runs"] for f in all_of_them], stats.median),
                              unit=" ms"),
                  stats.check("all pages of all are there", in_ms([f["resident"] for f in all_of_them], stats.median),
                              unit=" ms")]
        notes = [f"the slowest of each, {split(all_of_them)}", f"one alone: {split(one)}; counts after "
                 f"{stats.median([f['runs'] for f in one]) * 1000:.0f} ms, read {stats.median([f['read'] for f in one]) / MIB:.0f} MiB"]
        return self.done(checks, notes, one=one, forked=all_of_them)


RESTORE_ROWS = [Restore(), Fork()]
