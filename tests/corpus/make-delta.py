#!/usr/bin/python3
"""Makes tests/corpus/delta: what fuzz-delta begins with, written by docs/format-delta.md and not by the
coder. Usage: make-delta.py DIRECTORY. Wants zstd(1)."""

import os
import struct
import subprocess
import sys

READ, ROUND_TRIP = b"\0", b"\1"


def frame(data):
    """A zstd frame without its magic number and without a checksum."""
    done = subprocess.run(["zstd", "-1", "--no-check", "--no-content-size", "-c"], input=data,
                          capture_output=True, check=True)
    assert done.stdout[:4] == b"\x28\xb5\x2f\xfd"
    return done.stdout[4:]


def parts(changes):
    """(chunks, the rest of a delta) out of {offset: byte}."""
    masks = [0] * 64
    for at in changes:
        masks[at // 64] |= 1 << at % 64
    chunks = sum(1 << c for c in range(64) if masks[c])
    groups, mask_bytes = b"", b""
    for mask in filter(None, masks):
        each = struct.pack("<Q", mask)
        groups += bytes([sum(1 << g for g in range(8) if each[g])])
        mask_bytes += bytes(filter(None, each))
    return struct.pack("<Q", chunks), groups + mask_bytes + bytes(changes[at] for at in sorted(changes))


def plain(changes):
    chunks, rest = parts(changes)
    return b"\x11" + chunks + rest


def squeezed(changes):
    chunks, rest = parts(changes)
    return b"\x12" + chunks + frame(rest)


def padded(coded):
    return coded + bytes(-len(coded) % 64)


INPUTS = {
    "one-byte": READ + plain({77: 1}),
    "ends": READ + plain({0: 1, 4095: 2}),
    "padded": READ + padded(plain({i: i % 251 for i in range(100, 200)})),
    "scattered": READ + plain({i: i % 256 for i in range(3, 4096, 19)}),
    "all": READ + plain({i: i % 256 for i in range(4096)}),
    "squeezed": READ + squeezed({i: i // 300 for i in range(0, 4096, 3)}),
    "squeezed-padded": READ + padded(squeezed({i: 7 for i in range(1000, 1900)})),
    "page": READ + b"\x13" + frame(b"what a page says, again and again. " * 117 + b"x"),
    "page-padded": b"\x08" + padded(b"\x13" + frame(bytes(range(256)) * 16)),
    "page-too-short": READ + b"\x13" + frame(bytes(4095)),
    "page-too-long": READ + b"\x13" + frame(bytes(4097)),
    "no-base": b"\x08" + plain({77: 1}),
    "tomorrow": READ + b"\x21" + bytes(20),
    "trip": ROUND_TRIP + bytes([10, 8, 1, 200, 4, 2, 3, 63, 9]),
    "trip-much": b"\x03" + bytes(i * 7 % 256 for i in range(600)),
    "trip-zero-base": b"\x15" + bytes([0, 1, 1] * 40),
    "trip-no-base": b"\x0b" + bytes(i * 13 % 256 for i in range(300)),
}


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    for name, data in INPUTS.items():
        with open(os.path.join(sys.argv[1], name), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    main()
