"""Somebody deletes the guest's /etc. The machine goes back to the version before and boots; what was
left of it is kept, as a clone to look into."""
import json
import subprocess
import time

TITLE = "The guest's /etc is deleted, and comes back"
COUNT = "find /etc -type f 2>/dev/null | wc -l"


def run(demo):
    if not any(vm["name"] == "debian" for vm in json.loads(demo.daemon.varve("--json", "ls"))):
        demo.varve("import", str(demo.image), "debian")
    files = delete_etc(demo)
    go_back(demo)
    with demo.start_guest() as machine:
        seconds = machine.console.log_in(300)
        again = int(machine.console.check(COUNT))
        demo.say(f"the guest booted again, to a shell in {seconds:.1f} s")
        demo.result("files in /etc after the rollback, booted again", again, again >= files)
        look_into_clone(demo)
        machine.console.begin("systemctl poweroff")
        machine.wait(120)
    demo.varve("ls", "--tree")
    demo.varve("check")
    demo.result("varve check, with versions and a clone", "clean")


def delete_etc(demo):
    """Returns how many files were in it."""
    with demo.start_guest() as machine:
        machine.console.log_in(300)
        files = int(machine.console.check(COUNT))
        demo.say(f"the guest is up, with {files} files in /etc; a version of it while it runs:")
        seconds = timed(demo, "snap", "debian@before", "--note", "before the accident")
        demo.result("version of the running machine taken in", f"{seconds * 1000:.0f} ms")
        machine.console.run("rm -rf /etc; sync")
        left = int(machine.console.check(COUNT))
        demo.say(f"rm -rf /etc in the guest: {left} files are left. Nothing to save: pull its plug")
        demo.result("files in /etc before rm -rf and after it", f"{files}, {left}",
                    files > 0 and left == 0)
    return files


def go_back(demo):
    deadline = time.monotonic() + 30
    while json.loads(demo.daemon.varve("--json", "show", "debian"))["disks"][0]["users"]:
        assert time.monotonic() < deadline, "the killed QEMU is still connected"
        time.sleep(0.05)
    seconds = timed(demo, "rollback", "debian@before", "--keep", "broken")
    demo.result("rolled back, command and all, in", f"{seconds * 1000:.0f} ms")
    seconds = timed(demo, "clone", "debian@broken", "autopsy")
    demo.result("broken state cloned in", f"{seconds * 1000:.0f} ms")


def look_into_clone(demo):
    demo.say("meanwhile a look into the clone of the broken state")
    exported = demo.scratch / "autopsy.raw"
    demo.varve("export", "autopsy", str(exported))
    # A copy of its own, for e2fsck loses the partition's offset when it has replayed the journal.
    root = demo.scratch / "autopsy.root"
    subprocess.run(["dd", f"if={exported}", f"of={root}", "bs=1M", "iflag=skip_bytes", "conv=sparse",
                    f"skip={demo.root_offset(exported)}", "status=none"], check=True)
    clean, errors = demo.fsck(root, repair=True)
    listed = subprocess.run(["debugfs", "-R", "ls -p /", root], check=True, capture_output=True,
                            text=True).stdout
    names = [line.split("/")[5] for line in listed.splitlines() if line.startswith("/")]
    demo.say(f"its root has {' '.join(sorted(names))}")
    demo.result("clone of the broken state", "its journal replays, and it has no /etc" if clean else
                errors, clean and "usr" in names and "etc" not in names)
    exported.unlink()
    root.unlink()


def timed(demo, *arguments):
    """Returns the seconds of a varve command, its process's start included."""
    begin = time.monotonic()
    demo.varve(*arguments)
    return time.monotonic() - begin
