#!/usr/bin/python3
"""Writes the corpus of fuzz-stream next to this file: a byte that has the checksums mended (see
src/cli/fuzz-stream.c), then a send stream as docs/format-send.md has it, with zeros for checksums."""
import os
import struct

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "send")
HEADER, FRAME, END = 1, 2, 3
DATA, ZERO, HOLE = 1, 2, 3


def prologue(version=1, compat=0, incompat=0, magic=b"VARVSEND"):
    return magic + struct.pack("<IIIIQ", version, 0, compat, incompat, 0)


def record(kind, body=b"", data=b"", encoding=0, body_bytes=None, stored_bytes=None, magic=b"VREC"):
    return magic + struct.pack("<BBHIIQQ", kind, encoding, 0, len(body) if body_bytes is None else body_bytes,
                               len(data) if stored_bytes is None else stored_bytes, 0, 0) + body + data


def header(disks=((b"root", 1 << 20, 0),), vm=b"web1", version=b"v2", start=b"", note=b"", guid=b"g" * 16, start_guid=None,
           n_disks=None, consistency=0, role=0):
    if start_guid is None:
        start_guid = (b"f" if start else b"\0") * 16
    body = guid + start_guid + struct.pack("<QQIBBBBBBHI", 10**15, 4096, len(disks) if n_disks is None else n_disks,
                                           consistency, role, len(vm), len(version), len(start), 0, len(note), 0)
    body += vm + version + start + note
    for name, size, flags in disks:
        body += struct.pack("<QBB6x", size, flags, len(name)) + name
    return record(HEADER, body)


def frame(*runs, disk=0, data=None, encoding=0, n_runs=None, **more):
    body = struct.pack("<IIQ", disk, len(runs) if n_runs is None else n_runs, 0)
    body += b"".join(struct.pack("<QQII", offset, length, kind, 0) for offset, length, kind in runs)
    if data is None:
        data = b"d" * sum(length for _, length, kind in runs if kind == DATA)
    return record(FRAME, body, data, encoding, **more)


def end(n_frames=0, data=0, zero=0, hole=0, extra=b""):
    return record(END, struct.pack("<QQQQQQ", n_frames, data, zero, hole, 0, 0) + extra)


def rle(n):
    """A zstd frame of n times one byte."""
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", n) + struct.pack("<I", n << 3 | 3)[:3] + b"z"


full = prologue() + header()
two = prologue() + header(((b"data", 1 << 20, 1), (b"root", 1 << 30, 0)), start=b"v1", note="gr\u00fcn".encode())
memory = prologue(1, 0, 1) + header(((b"", 1 << 20, 2), (b"root", 1 << 20, 0)), consistency=3)
inputs = {
    "empty": full + end(),
    "no-disks": prologue() + header(()) + end(),
    "data": full + frame((0, 512, DATA)) + frame((4096, 1024, DATA), (8192, 4096, ZERO), (16384, 65536, HOLE)) + end(2, 1536, 4096, 65536),
    "zstd": full + frame((0, 4096, DATA), data=rle(4096), encoding=1) + end(1, 4096),
    "zstd-short": full + frame((0, 4096, DATA), data=rle(4000), encoding=1) + end(1, 4096),
    "zstd-long": full + frame((0, 4096, DATA), data=rle(1 << 20), encoding=1) + end(1, 4096),
    "zstd-bad": full + frame((0, 4096, DATA), data=b"\x28\xb5\x2f\xfdxxxxxxxxxx", encoding=1),
    "two": two + frame((0, 512, DATA)) + frame((1 << 20, (1 << 30) - (1 << 20), HOLE), disk=1) + end(2, 512, 0, (1 << 30) - (1 << 20)),
    "disk-falls": two + frame((0, 512, DATA), disk=1) + frame((0, 512, DATA)),
    "disk-none": two + frame((0, 512, DATA), disk=2),
    "overlap": full + frame((0, 1024, DATA), (512, 512, DATA)),
    "overlap-frames": full + frame((0, 1024, DATA)) + frame((0, 1024, DATA)),
    "beyond": full + frame(((1 << 20) - 512, 1024, HOLE)),
    "overflow": full + frame((512, 2**64 - 512, HOLE)) + frame((2**64 - 512, 512, HOLE)),
    "unaligned": full + frame((1, 512, DATA)),
    "nothing": full + frame((0, 0, HOLE)),
    "too-much": prologue() + header(((b"root", 1 << 30, 0),)) + frame((0, 2 << 20, DATA), data=rle(2 << 20), encoding=1),
    "too-much-of-two": prologue() + header(((b"root", 1 << 30, 0),))
    + frame((0, 1 << 20, DATA), (1 << 20, 512, DATA), data=rle(1 << 20), encoding=1),
    "no-runs": full + frame(),
    "kinds": full + frame((0, 512, 0)) + frame((0, 512, 4)),
    "too-many-runs": full + frame(n_runs=2**32 - 1),
    "runs-short": full + frame((0, 512, HOLE), n_runs=2),
    "lengths": full + record(FRAME, b"", b"", body_bytes=2**32 - 1) + record(FRAME, stored_bytes=2**32 - 1),
    "stored-short": full + frame((0, 1024, DATA), data=b"d" * 512),
    "stored-long": full + frame((0, 512, DATA), data=b"d" * 1024, encoding=1),
    "end-wrong": full + frame((0, 512, DATA)) + end(2, 512),
    "end-long": full + end(extra=b"more"),
    "end-twice": full + end() + end(),
    "kind-unknown": full + record(9),
    "magic": full + record(FRAME, magic=b"VERC"),
    "second-header": full + header(),
    "no-header": prologue() + end(),
    "newer": prologue(2) + header(),
    "incompat": prologue(1, 0, 2) + header(),
    "memory": memory + frame((0, 4096, DATA), (8192, 4096, HOLE)) + frame((0, 512, DATA), disk=1) + end(2, 4608, 0, 4096),
    "memory-none": prologue(1, 0, 1) + header(consistency=3) + end(),
    "memory-no-disks": prologue(1, 0, 1) + header((), consistency=3) + end(),
    "memory-not-said": prologue() + header(((b"", 1 << 20, 2), (b"root", 1 << 20, 0)), consistency=3) + end(),
    "memory-second": prologue(1, 0, 1) + header(((b"", 1 << 20, 2), (b"root", 1 << 20, 2)), consistency=3) + end(),
    "memory-without-ram": prologue(1, 0, 1) + header(((b"", 1 << 20, 2),)) + end(),
    "memory-named": prologue(1, 0, 1) + header(((b"a", 1 << 20, 2),), consistency=3) + end(),
    "compat": prologue(1, 7) + header() + end(),
    "foreign": prologue(magic=b"QFI\xfb    "),
    "names": prologue() + header(vm=b"..") + end(),
    "name-slash": prologue() + header(((b"a/b", 512, 0),)) + end(),
    "name-nul": prologue() + header(version=b"a\0b") + end(),
    "name-long": prologue() + header(vm=b"v" * 65) + end(),
    "disks-order": prologue() + header(((b"b", 512, 0), (b"a", 512, 0))) + end(),
    "disks-twice": prologue() + header(((b"a", 512, 0), (b"a", 512, 0))) + end(),
    "disks-many": prologue() + header(n_disks=2**32 - 1) + end(),
    "disks-few": prologue() + header(((b"a", 512, 0), (b"b", 512, 0)), n_disks=1) + end(),
    "disk-size": prologue() + header(((b"a", 0, 0),)) + end(),
    "disk-large": prologue() + header(((b"a", 2**63, 0),)) + end(),
    "note-control": prologue() + header(note=b"a\x1bb") + end(),
    "note-utf8": prologue() + header(note=b"\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80") + end(),
    "note-cut": prologue() + header(note=b"gr\xc3") + end(),
    "guid-zero": prologue() + header(guid=bytes(16)) + end(),
    "from-half": prologue() + header(start=b"v1", start_guid=bytes(16)) + end(),
}
os.makedirs(OUT, exist_ok=True)
for name, data in inputs.items():
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(b"\1" + data)
for name in ("data", "two"):
    with open(os.path.join(OUT, name + "-unmended"), "wb") as f:
        f.write(b"\0" + inputs[name])
