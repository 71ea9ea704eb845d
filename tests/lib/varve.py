"""varve.py - for system tests: a varved of our own on a scratch store, and the varve command.

    with Daemon() as daemon:
        daemon.varve("create", "web1", "--size", "1G")
        ...
        daemon.kill()       # -9
        daemon.start()
"""
import ctypes
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VARVE_BUILD", ROOT / "build"))
SKIP = 77


def skip(reason):
    print(f"SKIP: {reason}")
    sys.exit(SKIP)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            skip(f"there is no {program} here")


def program(name):
    """The path of one of ours. Ends the test as failed where it is not built."""
    for path in (BUILD / "src/daemon" / name, BUILD / "src/cli" / name, BUILD / name):
        if path.is_file():
            return str(path)
    sys.exit(f"FAIL: {name} is not in {BUILD}; run make")


class Daemon:
    def __init__(self, capacity=None, config=None, prepare=None):
        """capacity: of the store, such as "4G". config: text of a configuration file; else that in
        $VARVE_TEST_CONFIG, if there is one. prepare: called in each varved before it begins."""
        self.prepare = prepare
        config = config or os.environ.get("VARVE_TEST_CONFIG")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="varved.", dir=os.environ.get("TMPDIR", "/var/tmp")))
        self.store, self.run_dir = self.dir / "store", self.dir / "run"
        self.process = None
        self.starts = 0
        self.log = open(self.dir / "varved.log", "ab", buffering=0)
        self.options = ["--store", str(self.store), "--run", str(self.run_dir)]
        if config:
            (self.dir / "varve.conf").write_text(config)
            self.options += ["--config", str(self.dir / "varve.conf")]
        subprocess.run([program("varved"), "--init", "--store", str(self.store),
                        *(["--capacity", capacity] if capacity else [])], check=True)

    @property
    def nbd_socket(self):
        return str(self.run_dir / "nbd.sock")

    def uri(self, export):
        return f"nbd+unix:///{export}?socket={self.nbd_socket}"

    def spawn(self, env=None):
        """Start it and do not wait until it serves. env: what its environment has besides."""
        assert self.process is None
        libc = ctypes.CDLL(None)

        def prepare():
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if self.prepare:
                self.prepare()

        self.process = subprocess.Popen(
            [program("varved"), *self.options], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, preexec_fn=prepare,
            env={**os.environ, **(env or {})})
        self.starts += 1

    def start(self, timeout=60, env=None):
        """Start it and wait until both its sockets answer. Returns the seconds that took."""
        begin = time.monotonic()
        self.spawn(env)
        for name in ("nbd.sock", "varve.sock"):
            while not self._answers(self.run_dir / name):
                if self.process.poll() is not None:
                    self.fail(f"varved ended with exit code {self.process.returncode}")
                if time.monotonic() - begin > timeout:
                    self.fail(f"varved did not serve {name} within {timeout} s")
                time.sleep(0.01)
        return time.monotonic() - begin

    @staticmethod
    def _answers(path):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(path))
                return True
            except OSError:
                return False

    def kill(self):
        """kill -9. It must still have been running."""
        if self.process.poll() is not None:
            self.fail(f"varved had ended by itself, exit code {self.process.returncode}")
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self, timeout=60):
        """SIGTERM, and it must end with 0."""
        self.process.terminate()
        code = self.process.wait(timeout)
        self.process = None
        if code != 0:
            self.fail(f"varved ended with exit code {code} on SIGTERM")

    def varve(self, *arguments, timeout=300):
        """The command; it must succeed. Returns what it wrote to stdout."""
        result = subprocess.run([program("varve"), "--run", str(self.run_dir), *arguments],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=timeout)
        if result.returncode != 0:
            self.fail(f"varve {' '.join(arguments)} exited with {result.returncode}: "
                      f"{result.stderr}{result.stdout}")
        return result.stdout

    def api(self):
        """The control API, as xmlrpc.client has it."""
        path = str(self.run_dir / "varve.sock")

        class Connection(http.client.HTTPConnection):
            def connect(self):
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(path)

        class Transport(xmlrpc.client.Transport):
            def make_connection(self, host):
                return Connection("localhost")

        return xmlrpc.client.ServerProxy("http://localhost/RPC2", Transport())

    def check_store(self):
        """varve check on the running daemon, then, after an orderly end, varved --check."""
        self.varve("check")
        self.stop()
        result = subprocess.run([program("varved"), "--check", "--store", str(self.store)],
                                capture_output=True, text=True)
        if result.returncode != 0:
            self.fail(f"varved --check: {result.stdout}{result.stderr}")

    def fail(self, message):
        if self.process and self.process.poll() is not None:
            message += f"\nvarved is dead (exit code {self.process.returncode})"
        tail = (self.dir / "varved.log").read_text(errors="replace")[-3000:]
        raise AssertionError(f"{message}\nvarved's log ends with:\n{tail}")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        if kind is None:
            shutil.rmtree(self.dir)
