"""The control API as a program uses it: XML-RPC over one kept-open connection to the daemon's socket.

The command's own time (a process, its libraries, a connection) is another thing, and measured apart."""

import http.client
import os
import socket
import time
import xmlrpc.client

from .servers import BenchError, _numbers


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout_s):
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path, timeout_s):
        super().__init__()
        self.path, self.timeout_s = path, timeout_s

    def make_connection(self, host):
        if not self._connection[1]:
            self._connection = host, _Connection(self.path, self.timeout_s)
        return self._connection[1]


class Api:
    """with Api(side) as api: ... The side (a Varve) must be awake at every call."""

    def __init__(self, side, timeout_s=60):
        self.proxy = xmlrpc.client.ServerProxy(
            "http://localhost/RPC2", transport=_Transport(os.path.join(side.run_dir, "varve.sock"),
                                                          timeout_s))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proxy("close")()

    def call(self, method, *args):
        """A fault is a BenchError."""
        try:
            return getattr(self.proxy, method)(*args)
        except xmlrpc.client.Fault as fault:
            raise BenchError(f"{method}{args!r}: {fault.faultString}") from None

    def timed(self, method, *args):
        """(seconds, answer)"""
        begun = time.monotonic()
        answer = self.call(method, *args)
        return time.monotonic() - begun, answer

    def counters(self):
        return _numbers(self.call("store.counters"))

    def space(self):
        return _numbers(self.call("store.space"))
