"""history.py - a writer to several disks that can tell whether an image of them is a state that they
had at one instant.

A sector (512 bytes) holds (number of the request that wrote it, disk, its own number), repeated; or
zeros before it is written. Requests are numbered over all disks together, and a clock counts what is
sent and what is acknowledged. A sector that shows request r was read at some time after r was sent
and before the next request to that sector was acknowledged: so all the sectors of an image together
give a first and a last possible time. The image is the state at one instant if the first is not
after the last; and that instant must also lie inside the command that took the image.

With a depth of 1 the disks take turns and each request is sent when the one before is acknowledged:
then the image must be a prefix of what was written. Requests in flight never overlap; what is
larger than a page may be in an image by whole pages.
Threads: sample `clock` anywhere; the rest is for one thread.
"""
import errno
import os
import random
import struct

import nbd

SECTOR, PAGE = 512, 4096
PAGE_SECTORS = PAGE // SECTOR


def content(number, disk, sector):
    return struct.pack("<IIQ", number, disk, sector) * (SECTOR // 16)


class Request:
    """One write. acked: None until it is acknowledged."""
    __slots__ = ("disk", "first", "count", "sent", "acked")

    def __init__(self, disk, first, count, sent):
        self.disk, self.first, self.count, self.sent, self.acked = disk, first, count, sent, None


class History:
    def __init__(self, uris, size, seed):
        """uris: of the disks. size: of each, in bytes."""
        self.uris, self.sectors = uris, size // SECTOR
        self.random = random.Random(seed)
        self.requests = [None]  # by number; 0 is nobody
        self.clock = 0
        # By disk and sector: the numbers of the requests that wrote it, in their order; 0 first.
        self.writers = [[[0] for _ in range(self.sectors)] for _ in uris]
        self.busy = [set() for _ in uris]  # pages of requests in flight
        self.in_flight = {}
        self.errors = []
        self.turn = 0
        self.handles = []

    def connect(self):
        self.handles = []
        for uri in self.uris:
            handle = nbd.NBD()
            handle.connect_uri(uri)
            self.handles.append(handle)

    def acknowledged(self):
        return sum(1 for request in self.requests[1:] if request.acked)

    def _tick(self):
        self.clock += 1
        return self.clock

    def _place(self, disk):
        """(first sector, sectors) of a request that overlaps none in flight; None if it would."""
        if self.random.random() < 0.2:  # parts of pages
            first = self.random.randrange(self.sectors)
            count = self.random.randint(1, 12)
        else:
            first = self.random.randrange(self.sectors // PAGE_SECTORS) * PAGE_SECTORS
            count = PAGE_SECTORS * self.random.choice((1, 1, 1, 2, 4))
        count = min(count, self.sectors - first)
        return None if self._pages(first, count) & self.busy[disk] else (first, count)

    @staticmethod
    def _pages(first, count):
        return set(range(first // PAGE_SECTORS, (first + count - 1) // PAGE_SECTORS + 1))

    def _submit(self):
        disk = self.turn
        self.turn = (self.turn + 1) % len(self.uris)
        place = self._place(disk)
        if place is None:
            return
        first, count = place
        number = len(self.requests)
        request = Request(disk, first, count, self._tick())
        self.requests.append(request)
        self.in_flight[number] = request
        pages = self._pages(first, count)
        self.busy[disk] |= pages
        for sector in range(first, first + count):
            self.writers[disk][sector].append(number)

        def done(error):
            if error.value == 0:
                request.acked = self._tick()
                del self.in_flight[number]
                self.busy[disk] -= pages
            elif error.value != errno.ENOTCONN:
                self.errors.append(f"write {number}: {os.strerror(error.value)}")
            return 1

        data = b"".join(content(number, disk, s) for s in range(first, first + count))
        self.handles[disk].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), first * SECTOR, done)

    def write(self, depth, until, dies=False):
        """Keep depth requests in flight, over all disks, until until() is true; then wait for them.
        dies: the server's death ends it too."""
        try:
            while not until():
                while len(self.in_flight) < depth:
                    self._submit()
                self._poll()
            while self.in_flight:
                self._poll()
        except nbd.Error:
            if not dies:
                raise
        self.handles = []
        if self.errors:
            raise AssertionError(f"the server answered: {self.errors[:5]}")

    def _poll(self):
        """Take what has come on all disks; wait for it on one."""
        waited = False
        for handle in self.handles:
            if handle.aio_is_dead() or handle.aio_is_closed():
                raise nbd.Error("the server is gone", errno.ENOTCONN)
            if handle.aio_in_flight():
                handle.poll(0 if waited else 5)
                waited = True

    def resolve(self, images):
        """After the server's death: images, of the disks as they are now, say of the requests that
        were in flight which sectors they wrote. Returns a list of what is wrong."""
        problems = []
        for number, request in self.in_flight.items():
            writers = self.writers[request.disk]
            for sector in range(request.first, request.first + request.count):
                if self._number(images[request.disk], request.disk, sector) != number:
                    writers[sector].remove(number)
            request.acked = self.clock
        self.in_flight.clear()
        self.busy = [set() for _ in self.uris]
        self._tick()
        for disk, writers in enumerate(self.writers):
            for sector, numbers in enumerate(writers):
                found = self._number(images[disk], disk, sector)
                if found != numbers[-1]:
                    problems.append(f"disk {disk} sector {sector} holds {found}, the last "
                                    f"acknowledged request was {numbers[-1]}")
        return problems

    @staticmethod
    def _number(image, disk, sector):
        """The request that a sector shows; -1 for what nobody wrote."""
        data = image[sector * SECTOR:(sector + 1) * SECTOR]
        number = struct.unpack_from("<I", data)[0]
        whole = content(number, disk, sector) if number else bytes(SECTOR)
        return number if data == whole else -1

    def judge(self, images, begin, end):
        """images: of all disks, taken between the clock's times begin and end. Returns a list of
        what is wrong: empty when they are what the disks held at one instant in between."""
        earliest, why_earliest = begin, "the command had begun"
        latest, why_latest = end, "the command had ended"
        for disk, writers in enumerate(self.writers):
            for sector, numbers in enumerate(writers):
                found = self._number(images[disk], disk, sector)
                if found not in numbers:
                    return [f"disk {disk} sector {sector} holds {found}, which nobody wrote there"]
                place = f"disk {disk} sector {sector} shows request {found}"
                if found and self.requests[found].sent > earliest:
                    earliest, why_earliest = self.requests[found].sent, place
                after = numbers.index(found) + 1
                if after < len(numbers):
                    acked = self.requests[numbers[after]].acked
                    if acked and acked < latest:
                        latest, why_latest = acked, f"{place} and not {numbers[after]}"
        if earliest > latest:
            return [f"no instant: it is after {earliest}, for {why_earliest}, and before {latest}, "
                    f"for {why_latest}"]
        return []


def read_image(uri, size):
    """All bytes of an export, by requests of 1 MiB."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    assert handle.get_size() == size, f"{uri} has {handle.get_size()} bytes, not {size}"
    step = 1 << 20
    data = b"".join(bytes(handle.pread(min(step, size - at), at)) for at in range(0, size, step))
    handle.shutdown()
    return data
