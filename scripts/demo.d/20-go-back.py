"""Somebody deletes the guest's /etc. The machine goes back to the version before and boots; what was
left of it is kept, as a clone to look into."""
import time

TITLE = "The guest's /etc is deleted, and comes back"
COUNT = "find /etc -type f 2>/dev/null | wc -l"


def run(demo):
    if not demo.has_guest():
        demo.varve("import", str(demo.image), "debian")
    files = delete_etc(demo)
    go_back(demo)
    machine, seconds = demo.machine()
    again = int(machine.console.check(COUNT))
    demo.say(f"the guest booted again, to a shell in {seconds:.1f} s")
    demo.result("files in /etc after the rollback, booted again", again, again >= files)
    look_into_clone(demo)
    demo.varve("ls", "--tree")
    demo.varve("check")
    demo.result("varve check, with versions and a clone", "clean")


def delete_etc(demo):
    """Returns how many files were in it."""
    machine, _ = demo.machine()
    files = int(machine.console.check(COUNT))
    demo.say(f"the guest has {files} files in /etc; a version of it while it runs:")
    seconds = timed(demo, "snap", "debian@before", "--note", "before the accident")
    demo.result("version of the running machine taken in", f"{seconds * 1000:.0f} ms")
    machine.console.run("rm -rf /etc; sync")
    left = int(machine.console.check(COUNT))
    demo.say(f"rm -rf /etc in the guest: {left} files are left. Nothing to save: pull its plug")
    demo.result("files in /etc before rm -rf and after it", f"{files}, {left}",
                files > 0 and left == 0)
    demo.pull_plug()
    return files


def go_back(demo):
    seconds = timed(demo, "rollback", "debian@before", "--keep", "broken")
    demo.result("rolled back, command and all, in", f"{seconds * 1000:.0f} ms")
    seconds = timed(demo, "clone", "debian@broken", "autopsy")
    demo.result("broken state cloned in", f"{seconds * 1000:.0f} ms")


def look_into_clone(demo):
    demo.say("meanwhile a look into the clone of the broken state")
    clean, errors, names = demo.fsck("autopsy", repair=True)
    demo.say(f"its root has {' '.join(sorted(names))}")
    demo.result("clone of the broken state", "its journal replays, and it has no /etc" if clean else
                errors, clean and "usr" in names and "etc" not in names)


def timed(demo, *arguments):
    """Returns the seconds of a varve command, its process's start included."""
    begin = time.monotonic()
    demo.varve(*arguments)
    return time.monotonic() - begin
