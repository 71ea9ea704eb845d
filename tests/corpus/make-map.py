#!/usr/bin/python3
"""Writes the corpus of fuzz-map next to this file: records of a map and increments of it, as docs/format-store.md
has them, without headers (see tests/model/fuzz-map.c)."""
import os
import struct

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "map")
DATA, TABLE, PACKED = 1, 2, 3


def record(file, kind, pieces, used=64, shift=12):
    """pieces: (segment, first, end, base, count)."""
    words = (used + 63) // 64
    return (struct.pack("<IBBHIIIIII", file, kind, shift, 0, used, len(pieces), 0, 0, 0, 0)
            + b"".join(struct.pack("<6I", segment, 0, first, end, base, count)
                       for segment, first, end, base, count in pieces)
            + b"\x0f" * (8 * words))


def whole(*records):
    return struct.pack("<Q", len(records)) + b"".join(records)


def increment(gone=(), records=()):
    body = struct.pack(f"<{len(gone)}I", *gone)
    body += bytes(-len(body) % 8) + b"".join(records)
    return struct.pack("<BBB5x", len(body) // 8, len(gone), len(records)) + body


def data_file(file, segment):
    return record(file, DATA, [(segment, 0, 8192, 0, 8192)])


FIRST = whole(data_file(0, 1), data_file(1, 2), record(2, TABLE, [(3 + i, 0, 65536, 65536 * i, 65536) for i in range(8)], shift=6))
MOVED = increment([0], [record(5, PACKED, [(1, 0, 8192, 1, 40)])])
GROWN = increment([1], [record(5, PACKED, [(1, 0, 8192, 1, 40), (2, 0, 100, 41, 20)], 128)])

os.makedirs(OUT, exist_ok=True)
for name, data in {
    "whole": FIRST,
    "moved": FIRST + MOVED,
    "grown": FIRST + MOVED + GROWN,
    "gone-twice": FIRST + increment([0, 0]),
    "gone-table": FIRST + increment([2]),
    "packed-over-table": FIRST + increment([], [record(2, PACKED, [(1, 0, 8192, 1, 40)])]),
}.items():
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(data)
