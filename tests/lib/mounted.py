"""A vm's disk, mounted on this machine through QEMU's FUSE export and a loop device: what the kernel's own
file system reads of it. Only root can, and it needs qemu-storage-daemon, losetup and mount."""
import os
import subprocess
import time


def cannot_mount():
    """Why nothing can be mounted here; None: it can."""
    if os.getuid() != 0:
        return "only root can mount"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(device):
            return f"there is no {device} here"
    return None


def run(*command):
    result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, timeout=300)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} exited with {result.returncode}:\n"
                             f"{result.stdout}{result.stderr}")
    return result.stdout


class Mounted:
    """As a context: the path where the export VM/DISK is mounted, an ext4. prepare: called with the loop
    device before that."""

    def __init__(self, daemon, export, options="rw", prepare=None):
        self.daemon, self.export, self.options, self.prepare = daemon, export, options, prepare
        name = export.replace("/", "-")
        self.file, self.path = daemon.dir / f"{name}.fuse", daemon.dir / f"{name}.mnt"
        self.loop = self.server = None

    def __enter__(self):
        try:
            self._mount()
        except BaseException:
            self.__exit__()
            raise
        return self.path

    def _mount(self):
        self.file.touch()
        self.path.mkdir(exist_ok=True)
        self.server = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev",
             f"driver=nbd,node-name=disk,export={self.export},discard=unmap,reconnect-delay=60,"
             f"server.type=unix,server.path={self.daemon.nbd_socket}",
             "--export", f"fuse,id=e,node-name=disk,mountpoint={self.file},writable=on"])
        deadline = time.monotonic() + 30
        while self.file.stat().st_size == 0:
            assert self.server.poll() is None and time.monotonic() < deadline, "no FUSE export"
            time.sleep(0.02)
        self.loop = run("losetup", "--find", "--show", self.file).strip()
        if self.prepare:
            self.prepare(self.loop)
        run("mount", "-t", "ext4", "-o", self.options, self.loop, self.path)

    def __exit__(self, *_):
        try:
            self._unmount()
        finally:
            if self.server:
                self.server.terminate()
                self.server.wait(60)

    def _unmount(self):
        deadline = time.monotonic() + 30  # a process that has just ended may hold it for a moment
        while self.path.is_mount():
            try:
                run("umount", self.path)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        if self.loop:
            run("losetup", "--detach", self.loop)
            deadline = time.monotonic() + 30  # it is detached when its last user is gone
            while self.loop in run("losetup", "--list", "--noheadings", "--output", "NAME").split():
                assert time.monotonic() < deadline, f"{self.loop} stays"
                time.sleep(0.02)
