"""The few NBD messages that a probe needs: fixed newstyle handshake, one export, simple reads.

fio measures; this asks "do you serve yet, and what stands there?" without starting a process, and
writes the few pages between two versions.
"""

import socket
import struct

OPT_GO, REP_ACK, REP_INFO, INFO_EXPORT = 7, 1, 3, 0
FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2
CMD_READ, CMD_WRITE, CMD_DISC = 0, 1, 2
OPT_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698


class NbdError(Exception):
    pass


class Nbd:
    """A connection to one export. size: bytes of the export."""

    def __init__(self, path, export, timeout_s=10):
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.settimeout(timeout_s)
            self.sock.connect(path)
            self.size = self._handshake(export.encode())
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.sock.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0))
        except OSError:
            pass  # the server has gone; nothing is lost by that
        self.sock.close()

    def _take(self, n):
        got = bytearray()
        while len(got) < n:
            part = self.sock.recv(n - len(got))
            if not part:
                raise NbdError("the server closed the connection")
            got += part
        return bytes(got)

    def _handshake(self, name):
        if self._take(16) != b"NBDMAGICIHAVEOPT":
            raise NbdError("not a newstyle NBD server")
        self._take(2)
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.sock.sendall(struct.pack(">I", FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) + b"IHAVEOPT"
                          + struct.pack(">II", OPT_GO, len(data)) + data)
        size = None
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            body = self._take(length)
            if magic != OPT_REPLY_MAGIC:
                raise NbdError("bad magic in an option reply")
            if kind == REP_INFO and struct.unpack(">H", body[:2])[0] == INFO_EXPORT:
                size = struct.unpack(">Q", body[2:10])[0]
            elif kind == REP_ACK:
                return size
            elif kind & 0x80000000:
                raise NbdError(f"export {name.decode()} refused: {body.decode(errors='replace')}")

    def write_pages(self, offsets, page, depth=32):
        """The same bytes at each offset, so many requests in flight at most."""
        flying = 0
        for cookie, offset in enumerate(offsets):
            self.sock.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_WRITE, cookie, offset,
                                          len(page)) + page)
            flying += 1
            if flying == depth:
                flying -= self._written()
        while flying:
            flying -= self._written()

    def _written(self):
        magic, error, cookie = struct.unpack(">IIQ", self._take(16))
        if magic != REPLY_MAGIC or error:
            raise NbdError(f"write {cookie}: error {error}")
        return 1

    def read(self, offset, length):
        self.sock.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_READ, 1, offset, length))
        magic, error, _ = struct.unpack(">IIQ", self._take(16))
        if magic != REPLY_MAGIC or error:
            raise NbdError(f"read of {length} bytes at {offset}: error {error}")
        return self._take(length)
