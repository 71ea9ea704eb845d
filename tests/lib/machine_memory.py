"""machine_memory.py - for system tests: the memory of a machine that runs, and that of a version."""
import os
import re

import format_memory
import varve

try:
    import nbd
except ImportError:
    varve.skip("python3-libnbd is not installed")

PAGE = format_memory.PAGE


def ram_of(pid, size):
    """The RAM of a QEMU, size bytes: the one mapping of a shared file that is as long."""
    with open(f"/proc/{pid}/maps") as maps:
        found = [line for line in maps if re.match(r"[0-9a-f]+-[0-9a-f]+ rw-s .*/dev/shm/", line)]
    for line in found:
        begin, end = (int(n, 16) for n in line.split()[0].split("-"))
        if end - begin == size:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                return os.pread(memory.fileno(), size, begin)
    raise AssertionError(f"no RAM of {size} bytes among: {found}")


class VersionMemory(format_memory.Image):
    """Of a version with RAM, read over NBD."""

    def __init__(self, daemon, vm, version):
        with daemon.api() as api:
            info = api.send.info(vm, version)
        if "memory" not in info:
            raise AssertionError(f"{vm}@{version}: {info}")
        self.where = info["memory"]
        self.nbd = nbd.NBD()
        self.nbd.connect_uri(daemon.uri(f"{self.where['vm']}/memory@{self.where['version']}"))
        super().__init__(self.pread)

    def pread(self, offset, length):
        return b"".join(bytes(self.nbd.pread(min(8 << 20, length - at), offset + at))
                        for at in range(0, length, 8 << 20))

    def differs_from(self, name, bytes_):
        """The pages of a block that are not these, which are all of the block."""
        block = self.block(name)
        assert len(bytes_) == block.pages * PAGE, f"{name} has {block.pages} pages"
        zero = bytes(PAGE)
        return [p for p in range(block.pages)
                if (self.page(block.first + p) if block.first + p in self.entries else zero) !=
                bytes_[p * PAGE:(p + 1) * PAGE]]

    def close(self):
        self.nbd.shutdown()
