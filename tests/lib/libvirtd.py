"""libvirtd.py - for system tests: a libvirtd of our own, with directories and a user of its own.

    with Libvirtd() as libvirt:
        libvirt.virsh("create", str(path))
        daemon = varve.Daemon(...)      # os.environ has LIBVIRT_DEFAULT_URI now

It runs as root in a mount namespace in which /etc/libvirt, /run/libvirt, /var/lib/libvirt, the cache
and the logs are directories of the test, so it is alone there, and leaves nothing but empty ones to
mount these on. Its QEMUs run as the user libvirt-qemu (number UID), which need not exist here. RAM is
below .memory, on tmpfs.
"""
import ctypes
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import varve

UID = 64055  # Debian's for libvirt-qemu
PLACES = {"etc": "/etc/libvirt", "run": "/run/libvirt", "lib": "/var/lib/libvirt",
          "cache": "/var/cache/libvirt", "log": "/var/log/libvirt"}
ENTER = """
set -e
for place in {places}; do
    mkdir -p "${{place#*:}}"
    mount --bind "{dir}/${{place%%:*}}" "${{place#*:}}"
done
mount --bind "{dir}/passwd" /etc/passwd
mount --bind "{dir}/group" /etc/group
exec "$@"
"""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def reap(command):
    """Run it, and be who reaps the QEMUs that it leaves to itself: libvirtd waits until they are
    gone, and the first process of a container may take its time. For ever."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    subprocess.Popen(command, preexec_fn=die_with_parent)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.1)


class Libvirtd:
    def __init__(self):
        if os.geteuid() != 0:
            varve.skip("a libvirtd that runs QEMU as another user wants root")
        varve.need("libvirtd", "virsh", "unshare")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lv.", dir="/var/tmp"))  # a short path
        self.memory = pathlib.Path(tempfile.mkdtemp(prefix="varve-libvirt.", dir="/dev/shm"))
        for name in (*PLACES, "work"):
            (self.dir / name).mkdir()
        self.work = self.dir / "work"  # where libvirt-qemu can go, and we
        for path in self.dir, self.memory, self.work:
            path.chmod(0o711)
        for name, line in (("passwd", f"libvirt-qemu:x:{UID}:{UID}::/:/usr/sbin/nologin\n"),
                           ("group", f"libvirt-qemu:x:{UID}:\n")):
            (self.dir / name).write_text(self.without_it(pathlib.Path("/etc", name)) + line)
        (self.dir / "etc/libvirtd.conf").write_text('auth_unix_rw = "none"\nauth_unix_ro = "none"\n'
                                                    'unix_sock_group = "root"\n')
        (self.dir / "etc/qemu.conf").write_text(
            'security_driver = "none"\ncgroup_controllers = []\nstdio_handler = "file"\n'
            f'memory_backing_dir = "{self.memory}"\n')
        self.log = open(self.dir / "libvirtd.log", "ab", buffering=0)
        self.uri = f"qemu+unix:///system?socket={self.dir}/run/libvirt-sock"
        os.environ["LIBVIRT_DEFAULT_URI"] = self.uri
        self.reapers = []

    @staticmethod
    def without_it(path):
        return "".join(line for line in path.read_text().splitlines(True)
                       if not line.startswith("libvirt-qemu:"))

    def start(self):
        places = " ".join(f"{name}:{path}" for name, path in PLACES.items())
        script = ENTER.format(places=places, dir=self.dir)
        reaper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, __file__, "libvirtd",
             "-f", "/etc/libvirt/libvirtd.conf", "-p", str(self.dir / "libvirtd.pid")],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=die_with_parent)
        self.reapers.append(reaper)
        deadline = time.monotonic() + 60
        while self.run("version").returncode != 0:
            if reaper.poll() is not None or time.monotonic() > deadline:
                said = (self.dir / "libvirtd.log").read_text(errors="replace")[-2000:]
                if "unshare failed" in said or "mount:" in said:
                    self.end_all()
                    varve.skip(f"no libvirtd of our own can run here: {said.strip()}")
                raise AssertionError(f"libvirtd does not start:\n{said}")
            time.sleep(0.1)

    def kill(self):
        """kill -9: the domains go on without it."""
        self.end(signal.SIGKILL)

    def end(self, number):
        try:
            pidfd = os.pidfd_open(int((self.dir / "libvirtd.pid").read_text()))
            signal.pidfd_send_signal(pidfd, number)
            select.select([pidfd], [], [], 30)
            os.close(pidfd)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass

    def run(self, *arguments, timeout=120):
        return subprocess.run(["virsh", "-q", *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout)

    def virsh(self, *arguments, timeout=120):
        """It must succeed. Returns what it wrote."""
        result = self.run(*arguments, timeout=timeout)
        if result.returncode != 0:
            raise AssertionError(f"virsh {' '.join(arguments)}: {result.stderr}{result.stdout}")
        return result.stdout

    def pid(self, domain):
        return int((self.dir / f"run/qemu/{domain}.pid").read_text())

    def end_all(self):
        for path in (self.dir / "run/qemu").glob("*.pid"):
            try:
                os.kill(int(path.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass
        self.end(signal.SIGTERM)
        for reaper in self.reapers:
            reaper.kill()
            reaper.wait()
        self.log.close()
        shutil.rmtree(self.memory, ignore_errors=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.end_all()
        if kind is not None and kind is not SystemExit:
            said = (self.dir / "libvirtd.log").read_text(errors="replace")[-3000:]
            print(f"libvirtd's log ends with:\n{said}")
            for path in (self.dir / "log/qemu").glob("*.log"):
                print(f"{path.name} ends with:\n{path.read_text(errors='replace')[-1500:]}")
        shutil.rmtree(self.dir, ignore_errors=True)


if __name__ == "__main__":
    reap(sys.argv[1:])
