"""format_send.py - for system tests: reads a send stream by docs/format-send.md and nothing else."""
import ctypes
import ctypes.util
import re
import subprocess

import varve

varve.need("zstd")
library = ctypes.util.find_library("xxhash")
if not library:
    varve.skip("libxxhash is not installed")
xxh3 = ctypes.CDLL(library).XXH3_64bits_withSeed
xxh3.restype = ctypes.c_uint64
xxh3.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
MEMORY = 1  # incompat: the first disk is the memory


def total(seed, data):
    return xxh3(data, len(data), seed)


def tables():
    """{heading: [{name: (offset, bytes)}, ...]}"""
    found, heading, rows = {}, None, None
    for line in (varve.ROOT / "docs/format-send.md").read_text().splitlines():
        if line.startswith("## "):
            heading = re.match(r"## (\w+)", line).group(1)
        row = re.match(r"\| (\d+) \| (\d+) \| (\w+) \|", line)
        if row:
            if rows is None:
                rows = {}
                found.setdefault(heading, []).append(rows)
            rows[row.group(3)] = int(row.group(1)), int(row.group(2))
        elif not line.startswith("|"):
            rows = None
    return found


def size_of(table):
    return max(offset + size for offset, size in table.values())


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        piece = self.data[self.at:self.at + n]
        assert len(piece) == n, "the stream is short"
        self.at += n
        return piece

    def struct(self, table):
        raw = self.take(size_of(table))
        return {name: raw[offset:offset + n] if n > 8 or name == "magic" else int.from_bytes(raw[offset:offset + n], "little")
                for name, (offset, n) in table.items()}, raw


def record(reader, table):
    place = reader.at
    r, raw = reader.struct(table)
    assert r["magic"] == b"VREC" and r["checksum"] == total(place, raw[:24])
    body = reader.take(r["body_bytes"])
    assert r["body_checksum"] == total(0, body)
    return r, Reader(body), reader.take(r["stored_bytes"])


def apply(stream, disks, doc):
    """disks: {name: bytearray}, changed in place; "" is the memory. Returns the header."""
    (prologue,), (head,) = doc["Prologue"], doc["Records"]
    header_table, disk_table = doc["HEADER"]
    frame_table, run_table = doc["FRAME"]
    (end_table,) = doc["END"]
    reader = Reader(stream)
    p, raw = reader.struct(prologue)
    assert p["magic"] == b"VARVSEND" and p["version"] == 1 and p["checksum"] == total(0, raw[:24])
    assert p["incompat"] in (0, MEMORY)
    r, body, _ = record(reader, head)
    assert r["kind"] == 1
    h, _ = body.struct(header_table)
    for name in ("vm", "version", "from"):
        h[name] = body.take(h[name + "_len"]).decode()
    h["note"] = body.take(h["note_len"]).decode()
    names = []
    for i in range(h["n_disks"]):
        d, _ = body.struct(disk_table)
        name = body.take(d["name_len"]).decode()
        is_memory = bool(d["flags"] & 2)
        assert is_memory == (p["incompat"] == MEMORY and i == 0) == (name == "")
        assert not is_memory or h["consistency"] == 3
        old = bytearray() if d["flags"] & 1 else disks.get(name, bytearray())
        disks[name] = (old + bytes(max(0, d["size_bytes"] - len(old))))[:d["size_bytes"]]
        names.append(name)
    assert body.at == len(body.data) and names == sorted(names)
    for name in set(disks) - set(names):
        del disks[name]
    n = {1: 0, 2: 0, 3: 0}
    frames = 0
    while True:
        place = reader.at
        r, body, stored = record(reader, head)
        if r["kind"] == 3:
            break
        f, _ = body.struct(frame_table)
        plain = stored if r["encoding"] == 0 else subprocess.run(["zstd", "-dc"], input=stored, stdout=subprocess.PIPE, check=True).stdout
        assert total(0, plain) == f["plain_checksum"]
        at = 0
        for _ in range(f["n_runs"]):
            run, _ = body.struct(run_table)
            piece = bytes(run["length"])
            if run["kind"] == 1:
                piece = plain[at:at + run["length"]]
                at += run["length"]
            disks[names[f["disk"]]][run["offset"]:run["offset"] + run["length"]] = piece
            n[run["kind"]] += run["length"]
        assert at == len(plain)
        frames += 1
    e, _ = body.struct(end_table)
    assert (e["n_frames"], e["data_bytes"], e["zero_bytes"], e["hole_bytes"]) == (frames, n[1], n[2], n[3])
    assert e["stream_bytes"] == place and e["stream_checksum"] == total(0, stream[:place])
    assert reader.at == len(stream)
    return h
