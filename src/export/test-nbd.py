#!/usr/bin/python3
"""The NBD server, on a store in memory (tests/system/clients: the same on a varved), against clients that were not written here (libnbd, nbdinfo,
nbdcopy, qemu-io, qemu-img, fio) and against hostile ones.

    test-nbd.py NBD-TEST-SERVER [unittest arguments]
"""
import errno
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import nbd
except ImportError:
    print("python3-libnbd is not installed")
    sys.exit(77)

SERVER = None
KINDS = ([], ["later"], ["threads"], ["threads", "later"])
MIB = 1 << 20


class Server:
    """A server for the length of a with statement. counters: what it printed at its end."""

    def __init__(self, *args):
        self.dir = tempfile.mkdtemp(prefix="test-nbd-")
        self.path = self.dir + "/s"
        self.args = args
        self.counters = {}

    def __enter__(self):
        self.process = subprocess.Popen([SERVER, self.path, *self.args], stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline().split()
        if not ready or ready[0] != "ready":
            raise RuntimeError("the server did not start")
        self.kind, self.port = ready[1], int(ready[2])
        return self

    def uri(self, export="vm"):
        return f"nbd+unix:///{export}?socket={self.path}"

    def ask(self, number):
        """Send a signal to which it answers with a line."""
        self.process.send_signal(number)
        return self.process.stdout.readline().split()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        for line in out.splitlines():
            name, value = line.split()
            self.counters[name] = int(value)
        return self.process.returncode

    def __exit__(self, kind, value, trace):
        code = 0
        if self.process.returncode is None:
            code = self.stop()
        shutil.rmtree(self.dir)
        if kind is None and code:
            raise RuntimeError(f"the server ended with {code}")

    def connect(self, export="vm", structured=True, allocation=True, contexts=()):
        h = nbd.NBD()
        h.set_request_structured_replies(structured)
        for context in contexts:
            h.add_meta_context(context)
        if structured and allocation:
            h.add_meta_context("base:allocation")
        h.connect_uri(self.uri(export))
        return h

    def snap(self):
        """Take a version of vm, and a clone of it. Returns the version's name."""
        return self.ask(signal.SIGUSR1)[1]

    def raw(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(self.path)
        return s

    def raw_go(self, export=b"vm", structured=False):
        """A socket in transmission."""
        s = self.raw()
        receive(s, 18)
        s.sendall(struct.pack(">I", 3))
        if structured:
            s.sendall(option(8))
            receive(s, 20)
        s.sendall(option(7, struct.pack(">I", len(export)) + export + b"\0\0"))
        while True:
            kind, data = option_reply(s)
            if kind == 1:
                return s
            if kind & 0x80000000:
                raise RuntimeError(data)

    def shadow(self):
        """ThreadSanitizer keeps its own notes on all memory: how many times as much there may be."""
        with open(f"/proc/{self.process.pid}/maps") as f:
            return 3 if "libtsan" in f.read() else 1

    def is_alive(self):
        h = self.connect()
        h.pread(512, 0)
        h.shutdown()
        return self.process.poll() is None


def receive(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def is_closed(s):
    """Whether the server hangs up; what it still says is dropped."""
    try:
        while s.recv(65536):
            pass
        return True
    except ConnectionResetError:
        return True
    except socket.timeout:
        return False


def option(number, data=b"", length=None, magic=b"IHAVEOPT"):
    return magic + struct.pack(">II", number, len(data) if length is None else length) + data


def option_reply(s):
    magic, number, kind, length = struct.unpack(">QIII", receive(s, 20))
    assert magic == 0x3e889045565a9
    return kind, receive(s, length)


def request(command, offset=0, length=512, flags=0, cookie=1, magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)


def simple_reply(s):
    magic, error, cookie = struct.unpack(">IIQ", receive(s, 16))
    assert magic == 0x67446698, hex(magic)
    return error, cookie


def run(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True, timeout=120).stdout


class TestCase(unittest.TestCase):
    def setUp(self):
        self.start = time.time()

    def tearDown(self):
        print(f"[{time.time() - self.start:.1f} s] ", end="", file=sys.stderr)


class Negotiation(TestCase):
    def test_info(self):
        with Server("size=1073741824") as server:
            info = json.loads(run("nbdinfo", "--json", server.uri()))["exports"][0]
            self.assertEqual(info["export-size"], 1 << 30)
            self.assertEqual((info["block_minimum"] if "block_minimum" in info else info["block_size_minimum"]), 1)
            self.assertEqual(info["block_size_preferred"], 4096)
            self.assertEqual(info["block_size_maximum"], 32 * MIB)
            for feature in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
                self.assertTrue(info["can_" + feature], feature)
            self.assertFalse(info["is_read_only"])
            self.assertEqual(info["contexts"], ["base:allocation", "varve:changed:", "varve:diff:"])
            exports = json.loads(run("nbdinfo", "--list", "--json", server.uri("")))["exports"]
            self.assertEqual({e["export-name"] for e in exports}, {"vm/root", "vm/data"})

    def test_names(self):
        with Server() as server:
            for name, size in (("vm", 1 << 30), ("vm/root", 1 << 30), ("vm/data", MIB + 1), ("provisional", MIB)):
                self.assertEqual(server.connect(name).get_size(), size)
            for name in ("", "/", "vm/", "/root", "vm/none", "vm/root/x", "other", "v" * 64, "v" * 65, "v" * 4000, "vm/.."):
                with self.assertRaises(nbd.Error, msg=name):
                    server.connect(name)

    def test_option_mode(self):
        with Server() as server:
            h = nbd.NBD()
            h.set_opt_mode(True)
            h.connect_unix(server.path)
            h.add_meta_context("base:")
            h.set_export_name("vm")
            found = []
            h.opt_list_meta_context(lambda name: found.append(name))
            self.assertEqual(found, ["base:allocation"])
            h.set_export_name("none")
            self.assertRaises(nbd.Error, h.opt_info)
            h.set_export_name("vm/data")
            h.opt_info()
            self.assertEqual(h.get_size(), MIB + 1)
            h.opt_go()
            h.pread(10, MIB - 9)
            h.shutdown()

    def test_read_only(self):
        with Server("readonly", "size=1048576") as server:
            h = server.connect()
            self.assertTrue(h.is_read_only())
            self.assertFalse(h.can_trim() or h.can_zero())
            h.set_strict_mode(0)
            for call in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):
                with self.assertRaises(nbd.Error) as e:
                    call()
                self.assertEqual(e.exception.errno, "EPERM")
            self.assertEqual(h.pread(4, 0), bytes(4))
            h.flush()

    # ---- versions

    def test_versions_are_read_only_exports(self):
        with Server("size=%d" % (64 * MIB)) as server:
            h = server.connect()
            h.pwrite(b"1" * 8192, MIB)
            self.assertEqual(server.ask(signal.SIGUSR1), ["snap", "s1"])
            h.pwrite(b"2" * 4096, MIB)
            for name in ("vm@s1", "vm/root@s1"):
                v = server.connect(name)
                self.assertTrue(v.is_read_only())
                self.assertTrue(v.can_multi_conn() and v.can_cache() and not v.can_trim())
                self.assertEqual(v.pread(8192, MIB), b"1" * 8192)
                self.assertEqual(v.get_size(), 64 * MIB)
                v.set_strict_mode(0)
                for write in (lambda: v.pwrite(b"3" * 512, MIB), lambda: v.zero(4096, MIB),
                              lambda: v.trim(4096, MIB)):
                    with self.assertRaises(nbd.Error) as caught:
                        write()
                    self.assertEqual(caught.exception.errnum, errno.EPERM)
                self.assertEqual(v.pread(8192, MIB), b"1" * 8192)
                v.shutdown()
            self.assertEqual(server.connect("vm/data@s1").get_size(), MIB + 1)
            self.assertEqual(h.pread(8192, MIB), b"2" * 4096 + b"1" * 4096)
            for name in ("vm@", "@s1", "vm@s2", "vm@s1/root", "vm/root@s1@s1", "vm/@s1", "vm@s1/", "vm/nope@s1",
                         "vm@" + "x" * 65, "vm/root@s1 "):
                with self.assertRaises(nbd.Error):
                    server.connect(name)
            # There may be very many: nobody wants them in a list.
            listed = subprocess.run(["nbdinfo", "--list", "--json", server.uri("")], capture_output=True, text=True,
                                    check=True)
            self.assertEqual(sorted(e["export-name"] for e in json.loads(listed.stdout)["exports"]),
                             ["vm/data", "vm/root"])

    def diff(self, h, context, length=64 * MIB):
        """What differs, as a set of pages; each extent is asked for from the one before."""
        found, at = set(), 0

        def extents(name, offset, entries, error):
            nonlocal at
            self.assertEqual(name, context)
            for size, flags in zip(entries[::2], entries[1::2]):
                self.assertIn(flags, (0, 1))
                if flags:
                    found.update(range(offset // 4096, (offset + size + 4095) // 4096))
                offset += size
            at = offset
            return 0
        while at < length:
            h.block_status(length - at, at, extents)
        return found

    def test_diff_context(self):
        for kind in KINDS:
            with Server("size=%d" % (64 * MIB), *kind) as server:
                h = server.connect()
                h.pwrite(b"1" * 16384, MIB)
                server.ask(signal.SIGUSR1)
                h.pwrite(b"2" * 4096, MIB + 4096)
                h.trim(4096, MIB + 12288)
                server.ask(signal.SIGUSR1)
                h.pwrite(b"3" * 10, 5 * MIB)
                page = MIB // 4096
                for export, base, pages in (("vm@s2", "s1", {page + 1, page + 3}),
                                            ("vm/root@s2", "vm@s1", {page + 1, page + 3}),
                                            ("vm", "s2", {5 * page}), ("vm", "s1", {page + 1, page + 3, 5 * page}),
                                            ("vm@s1", "s2", {page + 1, page + 3}), ("vm@s1", "s1", set())):
                    context = "varve:changed:" + base
                    d = nbd.NBD()
                    d.add_meta_context(context)
                    d.connect_uri(server.uri(export))
                    self.assertTrue(d.can_meta_context(context))
                    self.assertFalse(d.can_meta_context("base:allocation"))
                    self.assertEqual(self.diff(d, context), pages, (export, base))
                    d.shutdown()

    def test_both_contexts_at_once(self):
        for kind in KINDS:
            with Server("size=%d" % (64 * MIB), *kind) as server:
                h = server.connect()
                h.pwrite(b"1" * 8192, 0)
                server.ask(signal.SIGUSR1)
                h.pwrite(b"2" * 4096, 0)
                d = nbd.NBD()
                d.add_meta_context("base:allocation")
                d.add_meta_context("varve:changed:s1")
                d.connect_uri(server.uri())
                for _ in range(100):
                    seen = {}
                    d.block_status(MIB, 0, lambda name, offset, entries, error: seen.setdefault(name, entries) and 0)
                    self.assertEqual(seen, {"base:allocation": [8192, 0, MIB - 8192, 3],
                                            "varve:changed:s1": [4096, 1, MIB - 4096, 0]})
                    self.assertEqual(d.pread(4096, 0), b"2" * 4096)

    def test_contexts_that_are_none(self):
        with Server() as server:
            server.ask(signal.SIGUSR1)
            for name in ("varve:changed:", "varve:changed:s2", "varve:changed:other@s1", "varve:changed:vm@", "varve:changed:@s1",
                         "varve:changed:" + "x" * 300, "varve:changed:s1/x", "varve:", "varve:changed"):
                d = nbd.NBD()
                d.add_meta_context(name)
                d.connect_uri(server.uri())
                self.assertFalse(d.can_meta_context(name), name)
            # One that was asked for another export is none; the version is not used any more.
            h = nbd.NBD()
            h.set_opt_mode(True)
            h.connect_unix(server.path)
            h.add_meta_context("varve:changed:s1")
            h.set_export_name("vm")
            found = []
            h.opt_list_meta_context(lambda name: found.append(name))
            self.assertEqual(found, ["varve:changed:s1"])
            h.opt_abort()

    def test_disconnect(self):
        for kind in KINDS:
            with Server(*kind) as server:
                h, other = server.connect(), server.connect("vm/data")
                h.pwrite(b"x" * 4096, 0)
                server.ask(signal.SIGUSR1)
                version = server.connect("vm@s1")
                self.assertEqual(server.ask(signal.SIGUSR2), ["disconnected", "1"])
                with self.assertRaises(nbd.Error):
                    h.pread(4096, 0)
                other.pread(512, 0)
                self.assertEqual(version.pread(4096, 0), b"x" * 4096)
                with self.assertRaises(nbd.Error):  # nobody comes in
                    server.connect()
                server.connect("vm@s1").shutdown()
                server.ask(signal.SIGUSR2)
                self.assertEqual(server.connect().pread(4096, 0), b"x" * 4096)

    def test_old_option(self):
        """EXPORT_NAME, with and without the zeroes."""
        with Server("size=1048576") as server:
            for flags, length in ((1, 134), (3, 10)):
                s = server.raw()
                receive(s, 18)
                s.sendall(struct.pack(">I", flags) + option(1, b"vm"))
                size, _ = struct.unpack(">QH", receive(s, length)[:10])
                self.assertEqual(size, MIB)
                s.sendall(request(0, 0, 16))
                self.assertEqual(simple_reply(s), (0, 1))
                self.assertEqual(receive(s, 16), bytes(16))
            s = server.raw()
            receive(s, 18)
            s.sendall(struct.pack(">I", 3) + option(1, b"none"))
            self.assertTrue(is_closed(s))

    def test_option_errors(self):
        unsupported, invalid, unknown, too_big = (0x80000000 + n for n in (1, 3, 6, 9))
        name = struct.pack(">I", 2) + b"vm"
        cases = (
            (5, b"", unsupported), (4, b"", unsupported), (11, b"", unsupported), (999, b"data", unsupported),
            (3, b"x", invalid), (8, b"x", invalid), (6, b"", invalid), (6, name, invalid),
            (6, name + b"\0\1", invalid), (6, name + b"\0\0x", invalid), (6, b"\xff\xff\xff\xffvm", invalid),
            (6, struct.pack(">I", 4) + b"none\0\0", unknown), (6, b"x" * 5000, too_big),
            (10, name + b"\0\0\0\0", invalid),  # before structured replies
            (9, name + b"\0\0\0\1", invalid), (9, name + b"\0\0\0\1\0\0\0\5base", invalid),
        )
        with Server() as server:
            s = server.raw()
            receive(s, 18)
            s.sendall(struct.pack(">I", 3))
            for number, data, expected in cases:
                s.sendall(option(number, data))
                self.assertEqual(hex(option_reply(s)[0]), hex(expected), (number, data))
            # The context goes with the export that it was asked for.
            s.sendall(option(8))
            self.assertEqual(option_reply(s)[0], 1)
            s.sendall(option(10, name + struct.pack(">II", 1, 15) + b"base:allocation"))
            self.assertEqual(option_reply(s), (4, struct.pack(">I", 1) + b"base:allocation"))
            self.assertEqual(option_reply(s)[0], 1)
            s.sendall(option(7, struct.pack(">I", 7) + b"vm/root\0\0"))
            self.assertEqual(option_reply(s)[0], 3)
            self.assertEqual(option_reply(s)[0], 1)
            s.sendall(request(7, 0, 4096))
            _, _, kind, _, length = struct.unpack(">IHHQI", receive(s, 20))
            self.assertEqual(kind, 0x8001)
            self.assertEqual(struct.unpack(">I", receive(s, length)[:4])[0], 22)
            s = server.raw()
            receive(s, 18)
            s.sendall(struct.pack(">I", 3) + option(2))
            self.assertEqual(option_reply(s)[0], 1)
            self.assertTrue(is_closed(s))


class Data(TestCase):
    MODEL_SIZE = 3 * MIB + 4321

    def compare_with_model(self, args, structured, seed):
        rng = random.Random(seed)
        size = self.MODEL_SIZE
        model = bytearray(size)
        with Server(f"size={size}", *args) as server:
            handles = [server.connect(structured=structured) for _ in range(3)]
            for _ in range(300):
                h = rng.choice(handles)
                length = rng.choice((1, 511, 4096, 5000, rng.randrange(1, 40000), rng.randrange(1, 2 * MIB)))
                offset = rng.choice((rng.randrange(0, size - length + 1), rng.randrange(0, size - length + 1) & ~4095))
                op = rng.randrange(10)
                if op < 4:
                    data = rng.randbytes(length)
                    h.pwrite(data, offset, rng.choice((0, nbd.CMD_FLAG_FUA)))
                    model[offset:offset + length] = data
                elif op < 5:
                    flags = rng.choice((0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FUA))
                    h.zero(length, offset, flags)
                    model[offset:offset + length] = bytes(length)
                elif op < 6:
                    h.trim(length, offset)
                    for at in range((offset + 4095) // 4096 * 4096, (offset + length) // 4096 * 4096, 4096):
                        model[at:at + 4096] = bytes(4096)
                    if offset + length == size:
                        tail = max(size // 4096 * 4096, (offset + 4095) // 4096 * 4096)
                        model[tail:] = bytes(size - tail)
                elif op < 7:
                    h.flush()
                    h.cache(length, offset)
                else:
                    flags = nbd.CMD_FLAG_DF if structured and rng.randrange(2) else 0
                    self.assertEqual(h.pread_structured(length, offset, lambda *a: 0, flags) if structured
                                     else h.pread(length, offset), model[offset:offset + length])
            for h in handles:
                h.shutdown()

    def test_model(self):
        for i, kind in enumerate(KINDS):
            for structured in (True, False):
                with self.subTest(kind=kind, structured=structured):
                    self.compare_with_model(kind, structured, i * 2 + structured)

    def test_many_in_flight(self):
        """More requests than a connection may have, of all sizes, each checked."""
        for args in (["requests=3"], ["later"], ["threads", "later", "requests=5"]):
            with self.subTest(args=args), Server("size=16777216", *args) as server:
                h = server.connect()
                rng = random.Random(7)
                pieces = []
                at = 0
                while at < 16 * MIB - 300000:
                    length = rng.choice((512, 4096, 10000, 70000, 300000))
                    pieces.append((at, rng.randbytes(length)))
                    at += length
                wait_for(h, [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(d)), o) for o, d in pieces])
                buffers = [nbd.Buffer(len(d)) for _, d in pieces]
                wait_for(h, [h.aio_pread(b, o) for b, (o, _) in zip(buffers, pieces)])
                for b, (_, d) in zip(buffers, pieces):
                    self.assertEqual(b.to_bytearray(), d)
                h.shutdown()

    def test_extents(self):
        with Server("size=1048576") as server:
            h = server.connect()
            h.pwrite(b"d" * 8192, 4096)
            h.pwrite(b"d" * 1, 40960)
            h.zero(8192, 65536, nbd.CMD_FLAG_NO_HOLE)
            entries = []
            h.block_status(MIB, 0, lambda name, offset, e, err: entries.append((name, list(e))) or 0)
            hole, zero, data = 3, 2, 0
            self.assertEqual(entries, [("base:allocation", [
                4096, hole, 8192, data, 28672, hole, 4096, data, 20480, hole, 8192, zero, MIB - 73728, hole])])
            entries.clear()
            h.block_status(MIB - 5000, 5000, lambda name, offset, e, err: entries.append(list(e)) or 0, nbd.CMD_FLAG_REQ_ONE)
            self.assertEqual(entries, [[4096 * 3 - 5000, data]])

    def test_several_contexts_in_flight(self):
        """Many statuses of two contexts among writes, with bounds so low that they have to wait."""
        for args in (["requests=3"], ["later", "requests=4"], ["threads", "later"]):
            with self.subTest(args=args), Server("size=16777216", *args) as server:
                server.snap()
                h = server.connect(contexts=("varve:changed:s1",))
                answers = []
                cookies = []
                for i in range(200):
                    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"w" * 4096)), i * 8192))
                    cookies.append(h.aio_block_status(
                        MIB, i * 8192, lambda name, offset, e, err: answers.append((name, offset)) or 0))
                wait_for(h, cookies)
                self.assertEqual(len(answers), 400)
                self.assertEqual(len(set(answers)), 400)
                h.shutdown()

    def test_chunks(self):
        """What reads as zeros is sent as a hole; DF keeps a read in one piece."""
        with Server("size=4194304") as server:
            h = server.connect()
            h.pwrite(b"d" * 4096, MIB)
            chunks = []

            def chunk(buf, offset, status, err):
                chunks.append((offset, len(buf), status))

            h.pread_structured(4 * MIB - 512, 256, chunk)
            self.assertEqual(sum(c[1] for c in chunks), 4 * MIB - 512)
            data = [c for c in chunks if c[2] == nbd.READ_DATA]
            self.assertEqual(data, [(MIB, 256 << 10, nbd.READ_DATA)])
            self.assertGreater(len([c for c in chunks if c[2] == nbd.READ_HOLE]), 10)
            chunks.clear()
            h.pread_structured(4 * MIB - 512, 256, chunk, nbd.CMD_FLAG_DF)
            self.assertEqual(chunks, [(256, 4 * MIB - 512, nbd.READ_DATA)])
            h.shutdown()
            self.assertEqual(server.stop(), 0)
            self.assertGreater(server.counters["nbd.hole_bytes"], 3 * MIB)

    def test_large(self):
        with Server("size=134217728") as server:
            for structured in (True, False):
                h = server.connect(structured=structured)
                data = random.Random(1).randbytes(32 * MIB)
                h.pwrite(data, 12345)
                self.assertTrue(h.pread(32 * MIB, 12345) == data)
                h.set_strict_mode(0)
                for command in (lambda: h.pread(32 * MIB + 1, 0), lambda: h.pwrite(bytes(32 * MIB + 1), 0)):
                    with self.assertRaises(nbd.Error) as e:
                        command()
                    self.assertEqual(e.exception.errno, "EINVAL")
                self.assertEqual(h.pread(10, 12345), data[:10])

    def test_tcp(self):
        with Server("tcp", "size=1048576") as server:
            h = nbd.NBD()
            h.connect_uri(f"nbd://127.0.0.1:{server.port}/vm")
            h.pwrite(b"tcp", 1000)
            self.assertEqual(h.pread(5, 999), b"\0tcp\0")
            h.shutdown()


def wait_for(h, cookies):
    for cookie in cookies:
        while not h.aio_command_completed(cookie):
            h.poll(-1)


class Versions(TestCase):
    def status(self, h, length, offset=0, flags=0):
        """{context: [(offset, length, flags)]}, neighbours of one kind joined, from as many requests as it takes."""
        found = {}
        ends = {}

        def extents(name, start, entries, err):
            at = start
            for n, flag in zip(entries[::2], entries[1::2]):
                list_ = found.setdefault(name, [])
                if list_ and list_[-1][2] == flag and list_[-1][0] + list_[-1][1] == at:
                    list_[-1] = (list_[-1][0], list_[-1][1] + n, flag)
                else:
                    list_.append((at, n, flag))
                at += n
            ends[name] = at
            return 0

        end = offset + length
        while offset < end:
            h.block_status(end - offset, offset, extents, flags)
            if len(set(ends.values())) > 1 or flags:
                break
            offset = min(ends.values())
        return found

    def test_read_only_export(self):
        with Server("size=1048576") as server:
            h = server.connect()
            h.pwrite(b"1" * 8192, 4096)
            self.assertEqual(server.snap(), "s1")
            h.pwrite(b"2" * 8192, 8192)
            for name in ("vm@s1", "vm/root@s1"):
                v = server.connect(name)
                self.assertTrue(v.is_read_only())
                self.assertEqual(v.pread(16384, 0), bytes(4096) + b"1" * 8192 + bytes(4096))
                v.set_strict_mode(0)
                with self.assertRaises(nbd.Error) as e:
                    v.pwrite(b"x", 0)
                self.assertEqual(e.exception.errno, "EPERM")
            self.assertEqual(server.connect("vm/data@s1").get_size(), MIB + 1)
            for name in ("vm@", "vm@s2", "vm/none@s1", "@s1", "vm/@s1", "vm@s1/root", "vm@s1@s1", "vm/root@" + "v" * 65):
                with self.assertRaises(nbd.Error, msg=name):
                    server.connect(name)

    def test_changed(self):
        changed = "varve:changed:"
        with Server("size=1048576") as server:
            h = server.connect()
            h.pwrite(b"1" * 8192, 4096)
            server.snap()
            h.pwrite(b"2" * 4096, 8192)
            h.trim(4096, 4096)
            server.snap()
            h.pwrite(b"3", 65536)
            h.shutdown()
            names = ("base:allocation", changed + "s1", changed + "s2", changed + "none", changed)
            h = server.connect(contexts=names[1:])
            self.assertEqual([h.can_meta_context(n) for n in names], [True, True, True, False, False])
            self.assertEqual(self.status(h, MIB), {
                "base:allocation": [(0, 8192, 3), (8192, 4096, 0), (12288, 53248, 3), (65536, 4096, 0), (69632, MIB - 69632, 3)],
                changed + "s1": [(0, 4096, 0), (4096, 8192, 1), (12288, 53248, 0), (65536, 4096, 1), (69632, MIB - 69632, 0)],
                changed + "s2": [(0, 65536, 0), (65536, 4096, 1), (69632, MIB - 69632, 0)]})
            one = self.status(h, MIB - 5000, 5000, nbd.CMD_FLAG_REQ_ONE)
            self.assertEqual(one[changed + "s1"], [(5000, 8192 - 5000, 1)])
            self.assertEqual(one[changed + "s2"], [(5000, 8192 - 5000, 0)])
            # One version against another, and a clone against where it comes from.
            h = server.connect("vm@s2", allocation=False, contexts=(changed + "s1", changed + "vm@s2"))
            self.assertEqual(self.status(h, MIB), {
                changed + "s1": [(0, 4096, 0), (4096, 8192, 1), (12288, MIB - 12288, 0)], changed + "vm@s2": [(0, MIB, 0)]})
            h = server.connect("provisional1", allocation=False, contexts=(changed + "vm@s1", changed + "vm@s2", changed + "s1"))
            self.assertFalse(h.can_meta_context(changed + "s1"))
            h.pwrite(b"c" * 4096, 40960)
            self.assertEqual(self.status(h, MIB), {
                changed + "vm@s1": [(0, 40960, 0), (40960, 4096, 1), (45056, MIB - 45056, 0)],
                changed + "vm@s2": [(0, 4096, 0), (4096, 8192, 1), (12288, 28672, 0), (40960, 4096, 1), (45056, MIB - 45056, 0)]})
            # Without being related there is none.
            h = server.connect("vm/data", contexts=(changed + "s1",))
            self.assertTrue(h.can_meta_context(changed + "s1"))
            h = server.connect("provisional", contexts=(changed + "vm@s1",))
            self.assertFalse(h.can_meta_context(changed + "vm@s1"))

    def test_diff(self):
        """What changed, and what it is now; both contexts of one base at once."""
        with Server("size=1048576") as server:
            h = server.connect()
            h.pwrite(b"1" * 65536, 0)
            server.snap()
            h.pwrite(b"2" * 4096, 4096)
            h.trim(8192, 8192)
            h.zero(4096, 20480, nbd.CMD_FLAG_NO_HOLE)
            h = server.connect(allocation=False, contexts=("varve:diff:s1", "varve:changed:s1"))
            self.assertEqual(self.status(h, MIB), {
                "varve:diff:s1": [(0, 4096, 0), (4096, 4096, 1), (8192, 8192, 7), (16384, 4096, 0), (20480, 4096, 5),
                                  (24576, MIB - 24576, 0)],
                "varve:changed:s1": [(0, 4096, 0), (4096, 12288, 1), (16384, 4096, 0), (20480, 4096, 1),
                                     (24576, MIB - 24576, 0)]})

    def test_only_changed(self):
        """Without base:allocation; the status is refused where no context was set."""
        with Server("size=1048576") as server:
            server.snap()
            h = server.connect(allocation=False, contexts=("varve:changed:s1",))
            h.pwrite(b"x", 0)
            self.assertEqual(self.status(h, 8192), {"varve:changed:s1": [(0, 4096, 1), (4096, 4096, 0)]})
            h = server.connect(allocation=False, contexts=("varve:changed:s9",))
            h.set_strict_mode(0)
            self.assertRaises(nbd.Error, h.block_status, 4096, 0, lambda *a: 0)

    def test_listing(self):
        def listed(*queries, name="vm"):
            found = []
            h = nbd.NBD()
            h.set_opt_mode(True)
            h.connect_unix(server.path)
            for query in queries:
                h.add_meta_context(query)
            h.set_export_name(name)
            h.opt_list_meta_context(found.append)
            h.opt_abort()
            return found

        with Server("size=1048576") as server:
            self.assertEqual(listed("varve:"), [])
            server.snap()
            server.snap()
            both = ["varve:changed:s1", "varve:changed:s2"]
            diffs = ["varve:diff:s1", "varve:diff:s2"]
            self.assertEqual(listed(), ["base:allocation", "varve:changed:", "varve:diff:"])
            for queries in (["varve:"], ["varve:changed:", "varve:diff:"], ["varve:", "varve:changed:", "varve:"]):
                self.assertEqual(listed(*queries), both + diffs)
            self.assertEqual(listed("varve:changed:", "varve:changed:"), both)
            self.assertEqual(listed("varve:diff:"), diffs)
            self.assertEqual(listed("varve:", "base:"), both + diffs + ["base:allocation"])
            self.assertEqual(listed("varve:", name="vm@s2"), both + diffs)
            self.assertEqual(listed("varve:changed:s2", "varve:changed:s3", "other:"), ["varve:changed:s2"])
            self.assertEqual(listed("varve:changed:vm@s1", name="provisional1"), ["varve:changed:vm@s1"])
            self.assertEqual(listed("varve:", name="provisional1"), [])

    def test_set_for_another_export(self):
        """A context goes with the export that it was set for, and a new set forgets the old one."""
        name = struct.pack(">I", 2) + b"vm"
        query = b"varve:changed:s1"
        with Server("size=1048576") as server:
            server.snap()
            s = server.raw()
            receive(s, 18)
            s.sendall(struct.pack(">I", 3) + option(8))
            self.assertEqual(option_reply(s)[0], 1)
            for queries, ids in (([query], [1]), ([query, query], [1]), ([b"base:allocation", query], [1, 2]), ([], []), ([query], [1])):
                s.sendall(option(10, name + struct.pack(">I", len(queries)) + b"".join(struct.pack(">I", len(q)) + q for q in queries)))
                for expected in ids:
                    kind, data = option_reply(s)
                    self.assertEqual((kind, struct.unpack(">I", data[:4])[0]), (4, expected))
                self.assertEqual(option_reply(s)[0], 1)
            s.sendall(option(7, struct.pack(">I", 5) + b"vm@s1\0\0"))
            self.assertEqual([option_reply(s)[0], option_reply(s)[0]], [3, 1])
            s.sendall(request(7, 0, 4096))
            self.assertEqual(struct.unpack(">IHHQI", receive(s, 20))[2], 0x8001)

    def test_clients(self):
        """nbdinfo and QEMU read the map."""
        with Server("size=1048576") as server:
            server.snap()
            h = server.connect()
            h.pwrite(b"x" * 8192, 65536)
            lines = run("nbdinfo", "--map=varve:changed:s1", server.uri()).split("\n")
            self.assertEqual([line.split()[:3] for line in lines if line],
                             [["0", "65536", "0"], ["65536", "8192", "1"], ["73728", str(MIB - 73728), "0"]])
            image = f"driver=nbd,export=vm,server.type=unix,server.path={server.path},x-dirty-bitmap=varve:changed:s1"
            dirty = [(e["start"], e["length"]) for e in json.loads(run("qemu-img", "map", "--output=json", "--image-opts", image))
                     if not e["data"]]
            self.assertEqual(dirty, [(65536, 8192)])


class Errors(TestCase):
    def expect(self, errno, call):
        with self.assertRaises(nbd.Error) as e:
            call()
        self.assertEqual(e.exception.errno, errno)

    def test_damage(self):
        """A damaged page: an error with its place, and only there."""
        bad = 37 * 4096
        for kind in ([], ["later"]):
            with Server("size=1048576", f"bad={bad}", *kind) as server:
                h = server.connect()
                seen = []

                def chunk(buf, offset, status, err):
                    if status == nbd.READ_ERROR:
                        seen.append((offset, err.value))

                start = time.time()
                self.expect("EIO", lambda: h.pread_structured(MIB, 0, chunk))
                self.assertLess(time.time() - start, 5)  # no page of the search waits for a timer
                self.assertEqual(seen, [(bad, 5)])
                seen.clear()
                self.expect("EIO", lambda: h.pread_structured(9000, bad - 4000, chunk))
                self.assertEqual(seen, [(bad, 5)])
                seen.clear()
                self.expect("EIO", lambda: h.pread_structured(10, bad + 100, chunk))
                self.assertEqual(seen, [(bad + 100, 5)])
                h.pread(bad, 0)
                h.pread(MIB - bad - 4096, bad + 4096)
                h = server.connect(structured=False)
                self.expect("EIO", lambda: h.pread(8192, bad))
                h.pread(4096, bad + 4096)

    def test_full(self):
        with Server("size=1048576", "full") as server:
            h = server.connect()
            for call in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0),
                         lambda: h.pwrite(b"x" * 300000, 0)):
                self.expect("ENOSPC", call)
            self.assertEqual(h.pread(4, 0), bytes(4))

    def test_range(self):
        for structured in (True, False):
            with Server("size=1048576") as server:
                h = server.connect(structured=structured)
                h.set_strict_mode(0)
                for offset in (MIB, MIB - 100, 1 << 62):
                    self.expect("EINVAL", lambda: h.pread(512, offset))
                    self.expect("ENOSPC", lambda: h.pwrite(b"x" * 512, offset))
                    self.expect("ENOSPC", lambda: h.pwrite(b"x" * 500000, offset + 700000))
                    self.expect("ENOSPC", lambda: h.zero(512, offset))
                    self.expect("EINVAL", lambda: h.trim(512, offset))
                    self.expect("EINVAL", lambda: h.cache(512, offset))
                for call in (lambda: h.pwrite(b"", 0), lambda: h.zero(0, 0), lambda: h.trim(0, 0), lambda: h.cache(0, 0)):
                    self.expect("EINVAL", call)
                self.assertEqual(h.pread(1, MIB - 1), b"\0")

    def test_unknown(self):
        with Server("size=1048576") as server:
            s = server.raw_go()
            cases = [request(c) for c in (8, 9, 100, 65535)]
            cases += [request(0, flags=f) for f in (2, 4, 8, 16, 32, 0x8000)]
            cases += [request(3, flags=2, length=0), request(3, offset=1, length=0), request(3, length=1), request(7)]
            cases += [request(0, length=0), request(4, flags=2), request(6, flags=4)]
            for case in cases:
                s.sendall(case)
                self.assertEqual(simple_reply(s), (22, 1), case)
            s.sendall(request(1, flags=64, length=5000) + b"w" * 5000)
            self.assertEqual(simple_reply(s), (22, 1))
            s.sendall(request(0, flags=1, length=4))  # FUA means nothing to a read, and is allowed
            self.assertEqual(simple_reply(s), (0, 1))
            self.assertEqual(receive(s, 4), bytes(4))


class Hostile(TestCase):
    def test_broken_handshakes(self):
        go = option(7, struct.pack(">I", 2) + b"vm\0\0")
        flags = struct.pack(">I", 3)
        cases = {
            "flags": struct.pack(">I", 0xffff0000), "noise": os.urandom(4096),
            "magic": flags + option(3, magic=b"IHAVEOPX"), "http": b"GET / HTTP/1.1\r\n\r\n",
            "long name": flags + option(1, b"x", 100000), "bad request": flags + go + b"\0" * 28,
        }
        with Server() as server:
            for name, data in cases.items():
                s = server.raw()
                s.sendall(data)
                self.assertTrue(is_closed(s), name)
            self.assertTrue(server.is_alive())
            self.assertEqual(server.stop(), 0)
            self.assertGreaterEqual(server.counters["nbd.broken"], 5)

    def test_timeout(self):
        """A handshake that does not end, idle or busy, is ended."""
        with Server("handshake=500") as server:
            idle = server.raw()
            busy = server.raw()
            busy.sendall(struct.pack(">I", 3))
            skipping = server.raw()
            skipping.sendall(struct.pack(">I", 3) + option(99, b"", 0xffffffff))
            serving = server.raw_go()
            start = time.time()
            try:
                while time.time() - start < 10:
                    busy.sendall(option(999))
                    skipping.sendall(bytes(1000))
                    time.sleep(0.01)
            except OSError:
                pass
            self.assertLess(time.time() - start, 5)
            self.assertTrue(is_closed(idle) and is_closed(busy) and is_closed(skipping))
            serving.sendall(request(0))  # whoever serves is not touched
            self.assertEqual(simple_reply(serving), (0, 1))

    def test_endless_options(self):
        with Server("handshake=60000") as server:
            s = server.raw()
            s.settimeout(0.5)
            try:  # nobody reads the answers
                s.sendall(struct.pack(">I", 3))
                for _ in range(100000):
                    s.sendall(option(3))
            except (socket.timeout, BrokenPipeError, ConnectionResetError):
                pass
            self.assertTrue(server.is_alive())
            s = server.raw()
            s.sendall(struct.pack(">I", 3) + option(999) * 1500)  # and answers read, too many asked
            self.assertTrue(is_closed(s))

    def test_flood(self):
        """Requests without end and no reply read: the server stops reading, and others are served."""
        for kind in ([], ["later"], ["threads"]):
            with self.subTest(kind=kind), Server("size=67108864", *kind) as server:
                h = server.connect()
                h.pwrite(os.urandom(16 * MIB), 0)
                sockets = []
                for length in (4096, MIB, 16 * MIB):
                    s = server.raw_go()
                    s.settimeout(0.5)
                    with self.assertRaises(socket.timeout):
                        while True:
                            s.sendall(request(0, 0, length) * 100)
                    sockets.append((s, length))
                start = time.time()
                for _ in range(10):
                    h.pread(4096, 4096)
                self.assertLess(time.time() - start, 2)
                with open(f"/proc/{server.process.pid}/status") as f:
                    rss = [int(line.split()[1]) for line in f if line.startswith("VmRSS")][0]
                self.assertLess(rss, (64 * 1024 + 16 * 1024 + 200 * 1024) * server.shadow())
                s, length = sockets[0]  # and when it is read after all, all of it is right
                s.settimeout(10)
                for _ in range(500):
                    self.assertEqual(simple_reply(s), (0, 1))
                    receive(s, length)
                for s, _ in sockets:
                    s.close()
                self.assertTrue(server.is_alive())

    def test_starved(self):
        """Memory taken by clients that do not read is taken back while others wait for it."""
        with Server("size=67108864", "buffers=67108864", "stall=1000") as server:
            h = server.connect()
            h.pwrite(os.urandom(32 * MIB), 0)
            hogs = []
            for _ in range(4):
                s = server.raw_go()
                s.settimeout(0.3)
                s.sendall(request(0, 0, 32 * MIB) * 2)
                hogs.append(s)
            writer = server.raw_go()
            writer.sendall(request(1, 0, 20 * MIB) + b"half")
            start = time.time()
            self.assertEqual(len(h.pread(32 * MIB, 0)), 32 * MIB)
            self.assertLess(time.time() - start, 15)
            h.shutdown()
            self.assertTrue(server.is_alive())
            for s in hogs:
                s.close()
            self.assertEqual(server.stop(), 0)
            self.assertGreater(server.counters["nbd.starved"], 0)
            self.assertGreater(server.counters["nbd.stalled"], 0)
            self.assertEqual(server.counters["nbd.buffer_bytes"], 0)

    def test_trickling(self):
        """Memory taken by clients that let a byte come now and then is taken back, too: of a payload that way, or while
        they read nothing."""
        for begin in request(1, 0, 5 * MIB), request(0, 0, 5 * MIB) + request(3)[:4]:
            with self.subTest(begin[7]), Server("size=67108864", "buffers=67108864", "stall=2000") as server:
                h = server.connect()
                h.pwrite(os.urandom(8 * MIB), 0)
                hogs = [server.raw_go() for _ in range(6)]
                for s in hogs:
                    s.sendall(begin)
                time.sleep(0.2)
                reader = server.raw_go()
                reader.sendall(request(0, 0, MIB))
                reader.settimeout(0.3)
                for _ in range(50):
                    try:
                        self.assertEqual(simple_reply(reader), (0, 1))
                        break
                    except socket.timeout:
                        pass
                    for s in hogs:
                        try:
                            s.sendall(b"\0")
                        except OSError:
                            pass
                else:
                    self.fail("15 seconds, and no memory")
                h.shutdown()
                for s in [reader, *hogs]:
                    s.close()
                self.assertEqual(server.stop(), 0)
                self.assertGreater(server.counters["nbd.starved"], 0)
                self.assertGreater(server.counters["nbd.stalled"], 0)

    def test_slow(self):
        """A client that takes its bytes slowly, but all the time, is not one that does not read."""
        with Server("size=67108864", "buffers=67108864", "stall=2000") as server:
            data = os.urandom(32 * MIB)
            h = server.connect()
            h.pwrite(data, 0)
            slow = server.raw_go()
            slow.sendall(request(0, 0, 32 * MIB))
            self.assertEqual(simple_reply(slow), (0, 1))
            other = server.raw_go()
            other.sendall(request(0, 0, 32 * MIB))
            for at in range(0, 32 * MIB, MIB):
                self.assertEqual(receive(slow, MIB), data[at:at + MIB])
                time.sleep(0.25)
            self.assertEqual(simple_reply(other), (0, 1))
            self.assertEqual(receive(other, 32 * MIB), data)
            h.shutdown()
            slow.close()
            other.close()
            self.assertEqual(server.stop(), 0)
            self.assertGreater(server.counters["nbd.starved"], 0)
            self.assertEqual(server.counters["nbd.stalled"], 0)

    def test_disconnects(self):
        """Gone at any moment, with requests in flight."""
        rng = random.Random(3)
        stream = b"".join(request(1, i * 4096, 4096) + bytes(4096) + request(0, 0, 300000) + request(3, 0, 0)
                          for i in range(20)) + request(1, 0, MIB) + bytes(MIB)
        for kind in KINDS:
            with self.subTest(kind=kind), Server("size=16777216", *kind) as server:
                for i in range(100):
                    s = server.raw_go(structured=i % 2)
                    s.setblocking(False)
                    try:
                        s.send(stream[:rng.randrange(1, len(stream) if i % 3 else 5000)])
                    except BlockingIOError:
                        pass
                    if i % 5 == 0:
                        time.sleep(0.002)
                    s.close()
                self.assertTrue(server.is_alive())
                self.assertEqual(server.stop(), 0)
                self.assertEqual(server.counters["nbd.connections"], 0)
                self.assertEqual(server.counters["nbd.buffer_bytes"], 0)

    def test_half_closed(self):
        """A client that says no more still gets its answers."""
        with Server("size=16777216", "later") as server:
            s = server.raw_go()
            s.sendall(request(0, 0, MIB) * 8)
            s.shutdown(socket.SHUT_WR)
            for _ in range(8):
                self.assertEqual(simple_reply(s), (0, 1))
                receive(s, MIB)
            self.assertEqual(s.recv(1), b"")

    def test_connections(self):
        with Server("connections=50") as server:
            sockets = [server.raw_go() for _ in range(50)]
            self.assertTrue(is_closed(server.raw()))
            for s in sockets:
                s.sendall(request(0, 0, 512))
            for s in sockets:
                self.assertEqual(simple_reply(s), (0, 1))
            sockets.pop().close()
            time.sleep(0.2)
            server.raw_go()
        with Server() as server:
            sockets = [server.raw_go() for _ in range(800)]
            for _ in range(3):
                for s in sockets:
                    s.sendall(request(1, 0, 10000) + bytes(10000) + request(0, 0, 512))
                for s in sockets:
                    self.assertEqual(simple_reply(s), (0, 1))
                    self.assertEqual(simple_reply(s), (0, 1))
                    receive(s, 512)

    def test_stop(self):
        """SIGTERM with requests in flight: what was accepted is answered, then the end."""
        for kind in ([], ["later"]):
            with Server("size=1048576", *kind) as server:
                s = server.raw_go()
                idle = server.raw()
                s.sendall(request(0, 0, 4096) * 10)
                time.sleep(0.1)
                self.assertEqual(server.stop(), 0)
                for _ in range(10):
                    self.assertEqual(simple_reply(s), (0, 1))
                    receive(s, 4096)
                self.assertTrue(is_closed(s) and is_closed(idle))
                self.assertFalse(os.path.exists(server.path))

    def test_stop_held_back(self):
        """SIGTERM with requests that wait for their turn: they get no answer, so that the client sends them
        to the next server, and none gets an error, which it would hand to its guest."""
        with Server("size=67108864", "buffers=67108864") as server:
            s = server.raw_go()
            s.sendall(request(0, 0, MIB) * 400)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            answers = 0
            try:
                while True:
                    self.assertEqual(simple_reply(s), (0, 1))
                    receive(s, MIB)
                    answers += 1
            except (EOFError, ConnectionResetError):
                pass
            self.assertTrue(0 < answers < 400, answers)
            self.assertEqual(server.stop(), 0)

    def test_listen(self):
        with Server() as server:
            other = subprocess.run([SERVER, server.path], capture_output=True, text=True, timeout=20)
            self.assertEqual(other.returncode, 1)  # in use
            self.assertTrue(server.is_alive())
            server.process.kill()
            server.process.wait()
            second = subprocess.Popen([SERVER, server.path], stdout=subprocess.PIPE, text=True)
            self.assertTrue(second.stdout.readline().startswith("ready"))  # a dead one's socket is replaced
            second.terminate()
            second.communicate(timeout=20)
            long = subprocess.run([SERVER, "/tmp/" + "x" * 200], capture_output=True, text=True, timeout=20)
            self.assertEqual(long.returncode, 1)


class Clients(TestCase):
    def setUp(self):
        super().setUp()
        self.dir = tempfile.mkdtemp(prefix="test-nbd-", dir="/var/tmp")

    def tearDown(self):
        super().tearDown()
        shutil.rmtree(self.dir)

    def test_nbdcopy(self):
        for kind in ([], ["later"]):
            with Server("size=67108864", *kind) as server:
                image = self.dir + "/image"
                with open(image, "wb") as f:
                    f.write(os.urandom(20 * MIB))
                    f.seek(40 * MIB)
                    f.write(os.urandom(3 * MIB))
                    f.truncate(64 * MIB)
                run("nbdcopy", image, server.uri())
                run("nbdcopy", "--destination-is-zero", server.uri(), self.dir + "/back")
                run("cmp", image, self.dir + "/back")
                self.assertLess(os.stat(self.dir + "/back").st_blocks * 512, 30 * MIB)

    def test_qemu(self):
        with Server("size=67108864") as server:
            image, uri = self.dir + "/image.qcow2", server.uri()
            run("qemu-img", "create", "-f", "qcow2", image, "64M")
            run("qemu-io", "-c", "write -P 17 1M 5M", "-c", "write -P 18 63M 1M", image)
            run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", image, uri)
            run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, uri)
            extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))
            self.assertEqual([(e["start"], e["length"]) for e in extents if e["data"]], [(MIB, 5 * MIB), (63 * MIB, MIB)])
            out = run("qemu-io", "-f", "raw", "-c", "write -P 1 100 5000", "-c", "read -P 1 100 5000", "-c", "write -f -P 2 0 100",
                      "-c", "write -z -u 0 8192", "-c", "discard 1M 1M", "-c", "read -P 0 1M 1M", "-c", "flush", uri)
            self.assertNotIn("failed", out)

    def test_fio(self):
        with Server("size=67108864", "later") as server:
            job = self.dir + "/job"
            with open(job, "w") as f:
                f.write(f"[global]\nioengine=nbd\nuri={server.uri()}\nsize=64m\niodepth=32\nrw=randwrite\n"
                        "bsrange=512-256k\nbs_unaligned=1\nverify=crc32c\nverify_state_save=0\nio_size=64m\nthread\n[a]\n")
            run("fio", job, "--output=" + self.dir + "/out")


if __name__ == "__main__":
    SERVER = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2, warnings="ignore")
