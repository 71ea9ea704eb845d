#!/usr/bin/python3
"""Writes the corpus of fuzz-nbd next to this file: one client's bytes each, after a byte that chooses
the circumstances (see src/export/fuzz-nbd.c)."""
import os
import struct

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nbd")
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)


def option(number, data=b"", length=None, magic=b"IHAVEOPT"):
    return magic + struct.pack(">II", number, len(data) if length is None else length) + data


def text(s):
    return struct.pack(">I", len(s)) + s


def context(name, *queries):
    return text(name) + struct.pack(">I", len(queries)) + b"".join(map(text, queries))


def info(name, *types):
    return text(name) + struct.pack(">H", len(types)) + b"".join(struct.pack(">H", t) for t in types)


def request(command, offset=0, length=4096, flags=0, payload=b"", cookie=b"cookie!!"):
    return struct.pack(">IHH8sQI", 0x25609513, flags, command, cookie, offset, length) + payload


def write(offset, length, flags=0):
    return request(WRITE, offset, length, flags, bytes(range(256)) * (length // 256) + b"x" * (length % 256))


flags = struct.pack(">I", 3)
inputs = {
    "flags": b"\0" + flags,
    "bad-flags": b"\0" + struct.pack(">I", 0xffffffff),
    "export-name": b"\0" + flags + option(1, b"vm") + request(READ) + request(DISC),
    "export-name-zeroes": b"\0" + struct.pack(">I", 1) + option(1, b"vm/root") + request(DISC),
    "export-name-unknown": b"\0" + flags + option(1, b"nothing"),
    "abort": b"\0" + flags + option(2),
    "list": b"\0" + flags + option(3) + option(3, b"x") + option(2),
    "starttls": b"\0" + flags + option(5) + option(2),
    "info": b"\0" + flags + option(6, info(b"vm", 0, 1, 2, 3)) + option(6, info(b"none")) + option(2),
    "go-short": b"\0" + flags + option(7, text(b"vm")) + option(7, b"\xff\xff\xff\xffvm\0\0") + option(7, b""),
    "go-many": b"\0" + flags + option(7, text(b"vm") + b"\xff\xff\0\3") + option(7, info(b"vm", *([3] * 500))),
    "contexts": b"\0" + flags + option(9, context(b"vm")) + option(10, context(b"vm", b"base:allocation"))
    + option(8) + option(9, context(b"vm", b"base:", b"qemu:")) + option(10, context(b"vm", b"x", b"base:allocation"))
    + option(7, info(b"vm")) + request(STATUS, 0, 65536),
    "context-other": b"\0" + flags + option(8) + option(10, context(b"vm", b"base:allocation"))
    + option(7, info(b"vm/root")) + request(STATUS, 0, 65536),
    "changed": b"\0" + flags + option(8) + option(9, context(b"vm", b"varve:")) + option(9, context(b"vm", b"varve:changed:"))
    + option(9, context(b"vm", b"varve:changed:", b"varve:", b"varve:changed:a", b"base:"))
    + option(10, context(b"vm", b"varve:changed:a", b"varve:changed:vm@b", b"varve:changed:a")) + option(7, info(b"vm"))
    + write(4096, 600) + request(STATUS, 0, 65536) + request(STATUS, 0, 65536, 8),
    "diff": b"\0" + flags + option(8) + option(9, context(b"vm", b"varve:diff:", b"varve:"))
    + option(10, context(b"vm", b"varve:diff:a", b"varve:changed:a", b"varve:diff:")) + option(7, info(b"vm"))
    + write(4096, 600) + request(TRIM, 8192, 65536) + request(STATUS, 0, 614405),
    "changed-version": b"\0" + flags + option(8) + option(10, context(b"vm@b", b"base:allocation", b"varve:changed:a"))
    + option(7, info(b"vm@b")) + write(0, 100) + request(READ, 0, 600) + request(STATUS, 5, 614400) + request(DISC),
    "changed-clone": b"\0" + flags + option(8) + option(10, context(b"clone", b"varve:changed:vm@a"))
    + option(7, info(b"clone")) + write(0, 100) + request(STATUS, 0, 614405),
    "changed-other": b"\0" + flags + option(8) + option(10, context(b"vm/root", b"varve:changed:a"))
    + option(10, context(b"vm", b"varve:changed:b")) + option(7, info(b"vm/root")) + request(STATUS, 0, 65536),
    "changed-none": b"\0" + flags + option(8) + option(10, context(
        b"vm", b"varve:changed:", b"varve:changed:x", b"varve:changed:@", b"varve:changed:vm@", b"varve:changed:@a",
        b"varve:changed:vm@a@b", b"varve:changed:vm/root@a", b"varve:changed:" + b"a" * 200)) + option(2),
    "changed-many": b"\0" + flags + option(8) + option(10, context(b"vm", *([b"varve:changed:a", b"varve:changed:b"] * 9)))
    + option(7, info(b"vm")) + request(STATUS, 0, 614405) * 20,
    "version-names": b"\0" + flags + b"".join(option(6, info(n)) for n in (
        b"vm@", b"@a", b"vm/root@a", b"vm/@a", b"vm@a/root", b"vm@a@b", b"vm@..", b"vm/root@" + b"a" * 80)) + option(2),
    "context-short": b"\0" + flags + option(8) + option(10, text(b"vm") + b"\xff\xff\xff\xff"),
    "unknown-options": b"\0" + flags + b"".join(option(n, b"data") for n in range(11, 60)) + option(2),
    "long-option": b"\0" + flags + option(6, b"a" * 5000) + option(3) + option(2),
    "huge-option": b"\0" + flags + option(6, b"a" * 100, 0xffffffff),
    "bad-magic": b"\0" + flags + option(3, magic=b"IHAVEOPQ"),
    "long-name": b"\0" + flags + option(7, info(b"v" * 3000)) + option(1, b"v" * 300),
    "pipelined": b"\1" + b"".join(write(i * 4096, 4096) for i in range(1)) + request(READ) + request(FLUSH, 0, 0),
}
mixed = (write(4095, 700) + request(READ, 0, 65536) + request(FLUSH, 0, 0) + request(TRIM, 4096, 8192, 1)
         + request(ZERO, 100, 9000, 2) + request(ZERO, 0, 40960, 16) + request(CACHE, 0, 65536)
         + request(STATUS, 0, 614400) + request(STATUS, 0, 614400, 8) + request(READ, 1, 614000)
         + request(READ, 1, 614000, 4) + request(READ, 614404, 1) + request(DISC))
for how in (1, 3, 5, 7, 9, 17, 21, 33, 65, 69, 71, 129, 133, 197):
    inputs["mixed-%02x" % how] = bytes([how]) + mixed
inputs.update({
    "zero-lengths": b"\1" + b"".join(request(c, 0, 0) for c in (0, 1, 3, 4, 5, 6, 7)),
    "beyond": b"\1" + b"".join(request(c, 614400, 100) for c in (0, 4, 5, 6, 7)) + write(614400, 100)
    + request(READ, 2**64 - 1, 2) + request(TRIM, 2**64 - 4096, 4096) + request(READ, 0, 0xffffffff),
    "oversize-write": b"\1" + request(WRITE, 0, 40 << 20, 0, b"w" * 3000),
    "beyond-write": b"\1" + write(2**40, 3000) + request(READ, 0, 16),
    "half-write": b"\1" + request(WRITE, 0, 100000, 0, b"h" * 4000),
    "many-writes": b"\1" + b"".join(write(i * 5000, 4096) for i in range(14)) + request(FLUSH, 0, 0),
    "many-writes-later": b"\5" + b"".join(write(i * 5000, 4096) for i in range(14)) + request(READ, 0, 70000),
    "many-writes-bounded": b"\x45" + b"".join(write(i * 5000, 4096) for i in range(14)),
    "large-write": b"\1" + write(3, 60001) + request(READ, 0, 65536),
    "large-writes": b"\5" + write(0, 30000) + write(4096, 25000) + request(READ, 0, 100),
    "half-header": b"\1" + request(READ)[:20],
    "bad-request-magic": b"\1" + request(READ) + b"\0" * 28,
    "unknown-commands": b"\1" + b"".join(request(c) for c in (8, 9, 255, 65535)) + request(READ),
    "unknown-flags": b"\1" + b"".join(request(READ, flags=1 << i) for i in range(16)),
    "flood": b"\1" + request(READ, 0, 512) * 140,
    "flood-bounded": b"\x45" + request(READ, 0, 300000) * 20 + write(0, 2000) + request(FLUSH, 0, 0) * 50,
    "flood-split": b"\1" + request(READ, 0, 614400) * 4,
    "flood-hang-up": b"\x85" + request(READ, 0, 300000) * 20,
    "probe": b"\x11" + request(READ, 78000, 20000) + request(READ, 0, 614400) + request(READ, 81920, 4096),
    "probe-simple": b"\x13" + request(READ, 78000, 20000),
    "misaligned": b"\1" + write(1, 1) + write(4095, 2) + write(8191, 4098) + request(READ, 4094, 4),
})
os.makedirs(OUT, exist_ok=True)
for name, data in inputs.items():
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(data)
