"""acked.py - a writer that knows what was acknowledged to it, and checks that it is still there.

A sector (512 bytes) holds (sequence number of the request that wrote it, its own number), repeated;
or zeros. For each sector the writer knows the last acknowledged content, and the content that a
request in flight may give it; requests in flight never overlap. After the server's death a sector
must hold one of the two, and the sectors of one request in one page must agree on which.
Every submission and acknowledgement also goes to a journal file, for the post-mortem.
"""
import errno
import json
import os
import random
import struct
import time

import nbd

SECTOR, PAGE_SECTORS = 512, 8
ZEROS = bytes(SECTOR)


def content(value, sector):
    """What a sector holds after the request `value` wrote it; 0 stands for zeros."""
    return struct.pack("<QQ", value, sector) * (SECTOR // 16) if value else ZEROS


class Writer:
    def __init__(self, uri, size, seed, journal, depth=16):
        self.uri, self.sectors, self.depth = uri, size // SECTOR, depth
        self.random = random.Random(seed)
        self.acked = [0] * self.sectors
        self.in_flight = {}  # sequence number -> (first sector, sectors, value)
        self.busy = set()    # pages of requests in flight
        self.seq = self.acknowledged = 0
        self.errors = []     # what the server answered, and should not have
        self.counts = {"write": 0, "zero": 0, "trim": 0, "flush": 0}
        self.journal = open(journal, "w")
        self.handle = None

    def connect(self):
        self.handle = nbd.NBD()
        self.handle.connect_uri(self.uri)

    def _range(self):
        """(first sector, sectors) of a request: whole pages mostly, parts of pages at times."""
        pages = self.sectors // PAGE_SECTORS
        if self.random.random() < 0.25:
            first = self.random.randrange(self.sectors)
            count = self.random.randint(1, 20)
        else:
            first = self.random.randrange(pages) * PAGE_SECTORS
            count = PAGE_SECTORS * self.random.choice((1, 1, 1, 2, 3, 8, 32))
        return first, min(count, self.sectors - first)

    def _submit(self):
        """One request. Returns False when the range it wanted is busy."""
        kind = self.random.choices(("write", "zero", "trim", "flush"), (80, 6, 6, 8))[0]
        self.seq += 1
        seq = self.seq

        def flushed(error):
            if error.value not in (0, errno.ENOTCONN):
                self.errors.append(f"flush: {os.strerror(error.value)}")
            return 1

        if kind == "flush":
            self.counts[kind] += 1
            self.handle.aio_flush(flushed)
            return True
        first, count = self._range()
        if kind == "trim":  # whole pages: only those are sure to read as zeros
            first -= first % PAGE_SECTORS
            count = max(PAGE_SECTORS, count - count % PAGE_SECTORS)
        pages = set(range(first // PAGE_SECTORS, (first + count - 1) // PAGE_SECTORS + 1))
        if pages & self.busy:
            return False
        self.busy |= pages
        value = seq if kind == "write" else 0
        self.in_flight[seq] = (first, count, value)
        self.journal.write(f"{seq} {kind} {first} {count}\n")
        self.counts[kind] += 1

        def done(error):
            if error.value == 0:
                self.acknowledged += 1
                self.acked[first:first + count] = [value] * count
                self.journal.write(f"{seq} acked\n")
                del self.in_flight[seq]
                self.busy.difference_update(pages)
            elif error.value != errno.ENOTCONN:
                self.errors.append(f"{kind} of sectors {first}+{count}: {os.strerror(error.value)}")
            return 1

        flags = nbd.CMD_FLAG_FUA if self.random.random() < 0.1 else 0
        if kind == "write":
            data = b"".join(content(value, s) for s in range(first, first + count))
            self.handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), first * SECTOR, done,
                                   flags)
        elif kind == "zero":
            self.handle.aio_zero(count * SECTOR, first * SECTOR, done, flags)
        else:
            self.handle.aio_trim(count * SECTOR, first * SECTOR, done, flags)
        return True

    def write(self, seconds, kill=None):
        """Keep requests in flight for so long; then call kill and see the connection die. Without
        kill the requests are waited for."""
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                while self.handle.aio_in_flight() < self.depth:
                    self._submit()
                self.handle.poll(10)
            if kill:
                # Requests are in flight now, and stay unanswered or not: take what comes.
                kill()
            while self.handle.aio_in_flight() > 0:
                self.handle.poll(1000)
        except nbd.Error:
            if not kill:
                raise
        self.journal.flush()
        self.handle = None

    def verify(self):
        """Read everything. Returns the list of what is wrong; takes what is there for the truth of
        requests that were in flight."""
        problems, self.errors = self.errors, []
        holds = self._read_all(problems)
        pending = {}
        for seq, (first, count, value) in self.in_flight.items():
            for sector in range(first, first + count):
                pending[sector] = value
            self._check_request(seq, first, count, value, holds, problems)
        for sector, value in enumerate(holds):
            if value != self.acked[sector] and pending.get(sector, self.acked[sector]) != value:
                problems.append(f"sector {sector} holds {value}, acknowledged was "
                                f"{self.acked[sector]}, in flight {pending.get(sector, 'nothing')}")
        self.acked = holds
        self.in_flight.clear()
        self.busy.clear()
        self.journal.write("verified\n")
        return problems

    def _check_request(self, seq, first, count, value, holds, problems):
        """In each page, a request that was not acknowledged happened wholly or not at all."""
        for page in range(first // PAGE_SECTORS, (first + count - 1) // PAGE_SECTORS + 1):
            inside = [s for s in range(page * PAGE_SECTORS, (page + 1) * PAGE_SECTORS)
                      if first <= s < first + count]
            new = [holds[s] == value for s in inside]
            old = [holds[s] == self.acked[s] for s in inside]
            if not all(new) and not all(old):
                problems.append(f"page {page} is torn: request {seq} wrote sectors {inside}, they "
                                f"hold {[holds[s] for s in inside]}, before "
                                f"{[self.acked[s] for s in inside]}")

    def _read_all(self, problems):
        """The value that each sector holds."""
        holds, chunk = [], 2048
        for start in range(0, self.sectors, chunk):
            count = min(chunk, self.sectors - start)
            data = self.handle.pread(count * SECTOR, start * SECTOR)
            for index in range(count):
                sector = data[index * SECTOR:(index + 1) * SECTOR]
                value = 0 if sector == ZEROS else struct.unpack_from("<Q", sector)[0]
                if sector != content(value, start + index):
                    problems.append(f"sector {start + index} holds nothing that was ever written: "
                                    f"{sector[:32].hex()}...")
                    value = -1
                holds.append(value)
        return holds


def stop_under_load(daemon, writer):
    """An orderly stop in the middle of writing loses nothing, and leaves nothing to recover."""
    writer.connect()
    writer.write(0.3, daemon.stop)
    daemon.start()
    counters = json.loads(daemon.varve("--json", "stats"))
    replayed = next(c["value"] for c in counters if c["name"] == "replayed_batches")
    writer.connect()
    problems = writer.verify()
    if replayed != "0":
        problems.append(f"{replayed} batches were read again after an orderly stop")
    return problems


def rounds_of_kills(daemon, export, size, rounds, seed):
    """The test: kill the daemon so often in the middle of writing, restart it, compare. Returns
    (problems, the writer)."""
    chance = random.Random(seed)
    writer = Writer(daemon.uri(export), size, seed, daemon.dir / "journal")
    for number in range(1, rounds + 1):
        writer.connect()
        writer.write(chance.uniform(0.05, 0.8), daemon.kill)
        lost = len(writer.in_flight)
        again = 0
        while chance.random() < 0.3:  # and at times again while it recovers
            daemon.spawn()
            time.sleep(chance.uniform(0, 0.1))
            daemon.kill()
            again += 1
        seconds = daemon.start()
        writer.connect()
        problems = writer.verify()
        print(f"round {number}: {writer.acknowledged} acknowledged so far, {lost} not, "
              f"{again} kills in the recovery, back after {seconds:.2f} s, "
              f"{len(problems)} problems", flush=True)
        if problems:
            return problems, writer
    problems = stop_under_load(daemon, writer)
    if writer.acknowledged < 20 * rounds:
        problems.append(f"only {writer.acknowledged} requests were acknowledged: that shows nothing")
    return problems, writer
