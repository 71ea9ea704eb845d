"""A Debian guest boots from a Varve disk, writes files, and does not notice that varved dies."""
import time

import lifeline

TITLE = "A guest lives through the death of the daemon under its disk"
KILLS = 3


def run(demo):
    demo.say("importing the Debian 12 image")
    begin = time.monotonic()
    demo.varve("import", str(demo.image), "debian")
    demo.result("Debian 12 imported in", f"{time.monotonic() - begin:.1f} s")
    demo.varve("ls")

    demo.say("booting it from Varve: stock QEMU, no KVM needed (the processor is emulated)")
    machine, seconds = demo.machine()
    demo.say(f"the guest is up: {machine.console.check('uname -sr').strip()}")
    demo.result("booted from Varve, to a root shell, in", f"{seconds:.1f} s")
    machine.console.check("mkdir -p /root/load && mount --bind /root /mnt")
    files, problems = kills_under_load(demo, machine.console)
    demo.result(f"files written and compared through {KILLS} kills", files, files > 0)
    demo.result("I/O errors and wrong checksums in the guest", len(problems), not problems)
    for problem in problems:
        demo.say(f"PROBLEM {problem}")
    check_disk(demo)


def kills_under_load(demo, console):
    load = lifeline.Load(console)
    load.wait_for_progress(5, timeout=60)
    demo.say("the guest writes files with fsync and notes their checksums")
    slowest = 0.0
    for _ in range(KILLS):
        time.sleep(1.5)
        before = load.count()
        pid = demo.daemon.process.pid
        demo.daemon.kill()
        demo.say(f"kill -9 {pid} after {before} files; the guest waits for its disk")
        time.sleep(1)
        seconds = demo.daemon.start()
        waited = load.wait_for_progress(3, timeout=60)
        slowest = max(slowest, seconds)
        demo.say(f"varved is back after {seconds:.2f} s; the guest went on by itself "
                 f"(3 more files within {waited:.1f} s)")
    demo.result("slowest restart of varved after kill -9", f"{slowest:.2f} s")
    files, problems = load.finish()
    demo.say(f"the guest compared its files with their checksums: {files} written, "
             f"{len(problems)} problems")
    return files, problems


def check_disk(demo):
    demo.say("checking its file system from outside, in a version of it: the guest goes on")
    demo.varve("snap", "debian@written")
    clean, errors, _ = demo.fsck("debian/root@written", repair=True)
    demo.result("e2fsck of the guest's root, as it was then",
                "its journal replays, and it is clean" if clean else errors, clean)
    demo.varve("check")
    demo.result("varve check", "clean")
