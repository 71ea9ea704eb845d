"""written.py - for system tests: a disk that is written over NBD, and what it must hold."""
import random

import nbd
from format_store import PAGE, need


class Disk:
    """A disk over NBD, and what it must hold. Only pages are written."""

    def __init__(self, seed):
        self.random, self.expected, self.handle = random.Random(seed), {}, None

    def connect(self, daemon, name):
        self.handle = nbd.NBD()
        self.handle.connect_uri(daemon.uri(name))

    def close(self):
        self.handle.shutdown()
        self.handle = None

    def fork(self, seed):
        """Another disk that begins with the same bytes."""
        copy = Disk(seed)
        copy.expected = dict(self.expected)
        return copy

    def write(self, page, n=1):
        data = self.random.randbytes(n * PAGE)
        self.handle.pwrite(data, page * PAGE)
        for i in range(n):
            self.expected[page + i] = data[i * PAGE:(i + 1) * PAGE]

    def trim(self, page, n):
        self.handle.trim(n * PAGE, page * PAGE)
        for i in range(n):
            self.expected.pop(page + i, None)

    def zero(self, page, n):
        self.handle.zero(n * PAGE, page * PAGE, nbd.CMD_FLAG_NO_HOLE)
        self.expected.update({page + i: bytes(PAGE) for i in range(n)})


def compare_pages(name, found, expected):
    need(found.keys() == expected.keys(), f"{name}: {len(found)} pages are in the table, {len(expected)} "
         "were written")
    for page, data in found.items():
        need(data == expected[page], f"{name}: page {page} has other bytes")


def compare(store, name, disk):
    """disk: a Disk, or {page: its bytes}."""
    record = store.disks[name]
    found = dict(store.pages(record))
    compare_pages(name, found, disk.expected if isinstance(disk, Disk) else disk)
    need(record.used_pages == len(found), f"{name}: used_pages")
