#!/usr/bin/python3
# timeout: 600
"""A guest's ext4 lives through kill -9 of varved under load: the guest sees no error and goes on by
itself, every file has its checksum, fsck is clean, and so is varve check.

guest-kill9.py [ROUNDS [SEED]]"""
import pathlib
import random
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import guest
import lifeline
import varve


def rounds_of_kills(daemon, load, rounds, chance):
    for number in range(1, rounds + 1):
        time.sleep(chance.uniform(0.2, 2.0))
        before = load.count()
        daemon.kill()
        pause = chance.choice((0, 0, chance.uniform(0, 2)))
        time.sleep(pause)
        while chance.random() < 0.25:  # dies again while it recovers
            daemon.spawn()
            time.sleep(chance.uniform(0, 0.1))
            daemon.kill()
        seconds = daemon.start()
        waited = load.wait_for_progress(2, timeout=60)
        print(f"round {number}: killed after {before} files, away for {pause + seconds:.2f} s, "
              f"the guest went on within {waited:.1f} s", flush=True)


def check_file_system(daemon):
    image = daemon.dir / "disk.raw"
    daemon.varve("export", "tiny/root", str(image))
    result = subprocess.run(["e2fsck", "-f", "-n", str(image)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"FAIL: e2fsck exited with {result.returncode}:\n{result.stdout}{result.stderr}")


def main():
    varve.need("qemu-system-x86_64", "e2fsck")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 1000000
    print(f"seed {seed}")
    with varve.Daemon() as daemon:
        daemon.varve("create", "tiny", "--size", "256M")
        arguments = guest.tiny_guest() + guest.nbd_disk(daemon.nbd_socket, "tiny/root")
        with guest.Machine(arguments, memory="256M", log=daemon.dir / "console") as machine:
            machine.console.log_in(120)
            machine.console.check("mkfs.ext4 -q /dev/vda && mount -t ext4 -o discard /dev/vda /mnt", 120)
            load = lifeline.Load(machine.console)
            load.wait_for_progress(3, timeout=60)
            rounds_of_kills(daemon, load, rounds, random.Random(seed))
            files, problems = load.finish()
            machine.console.check("umount /mnt", 120)
            machine.console.begin("poweroff -f")
            machine.wait(60)
        if problems:
            sys.exit("FAIL: " + "\n".join(problems))
        print(f"{files} files written through {rounds} kills; every checksum agrees")
        check_file_system(daemon)
        print("e2fsck: clean")
        daemon.check_store()
        print("varve check: clean, online and offline")


main()
