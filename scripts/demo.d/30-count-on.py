"""A machine that runs is kept with its memory, dies, and goes on in the middle of what it did."""
import json
import time

import guest

TITLE = "The guest counts, is killed, and counts on"
COUNT = ("(i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; echo $i > /root/count; sync; sleep 0.1; "
         "done) > /dev/null 2>&1 &")


def counted(machine):
    """The guest may be writing the file just now."""
    text = machine.console.check("cat /dev/shm/count").strip()
    return int(text) if text.isdigit() else counted(machine)


def run(demo):
    if not demo.has_guest():
        demo.varve("import", str(demo.image), "debian")
    machine, _ = demo.machine()
    machine.console.run(COUNT)
    demo.say("the guest counts, in memory and on its disk; a version of it with its memory, while it runs:")
    demo.varve("checkpoint", "debian@counting", "--verbose")
    kept = counted(machine)
    demo.varve("checkpoint", "debian@later", "--verbose")
    pause = int(json.loads(demo.daemon.varve("--json", "show", "debian@later"))["machine"]["times"]["pause"])
    demo.result("memory kept a second time, the guest stood still for", f"{pause / 1000:.1f} ms")
    demo.say(f"it has come to {kept}, and goes on; kill -9 of its QEMU")
    demo.pull_plug()
    begin = time.monotonic()
    restored = json.loads(demo.varve("--json", "restore", "debian@counting"))["machines"][0]
    demo.result("going on after the kill, command and all, in",
                f"{(time.monotonic() - begin) * 1000:.0f} ms")
    machine = demo.running = guest.Running(restored)
    first = counted(machine)
    time.sleep(1)
    second = counted(machine)
    disk = machine.console.check("cat /root/count").strip()
    demo.say(f"it counts on: {first}, a second later {second}; on its disk {disk}")
    demo.result("count when kept, after the kill, a second later", f"{kept}, {first}, {second}",
                second > first and abs(first - kept) < 100)
    demo.say("switching the guest off, and checking its file system from outside")
    demo.power_off()
    clean, errors, _ = demo.fsck("debian/root")
    demo.result("e2fsck of the guest's root, after all that", "clean" if clean else errors, clean)
    demo.varve("check")
    demo.result("varve check, with versions that have memory", "clean")
