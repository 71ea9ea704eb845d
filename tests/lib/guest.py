"""guest.py - drive a guest: start QEMU, talk to the shell on its serial console, talk QMP.

    with Machine(tiny_guest() + ["-drive", ...]) as machine:
        console = machine.console
        console.log_in()
        status, text = console.run("sha256sum /mnt/*", timeout=60)

Works under TCG, where everything takes ten times as long: all waits have a time-out in seconds and
raise GuestError with the last lines of the console. A Machine's QEMU ends with this program,
however it ends. A Console alone drives a guest that somebody else started, by its serial socket.
Threads: a reader thread of each Console drains the socket, so that the guest never waits for us;
the methods are for one thread.
"""
import atexit
import ctypes
import json
import os
import pathlib
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPT = rb"(?:tiny# |root@[\w.-]+:[^\n]*# )$"


class GuestError(Exception):
    """The guest, or the QEMU under it, did not do what was expected in time."""


class Console:
    """A serial console behind a connected stream socket."""

    def __init__(self, sock, log=None):
        """sock: taken. log: a path that gets everything the guest prints."""
        self.sock = sock
        self.log = open(log, "ab", buffering=0) if log else None
        self.text = bytearray()  # what was printed and not yet consumed
        self.tail = bytearray()  # the last of everything, for messages
        self.ended = False
        self.news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    @classmethod
    def connect(cls, path, log=None, timeout=10):
        """To the serial socket of a QEMU that listens on path."""
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(path))
                return cls(sock, log)
            except OSError as error:
                sock.close()
                if time.monotonic() > deadline:
                    raise GuestError(f"no serial console at {path}: {error}") from error
                time.sleep(0.1)

    def _read(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            with self.news:
                self.text += data
                self.tail = (self.tail + data)[-4000:]
                self.ended = not data
                self.news.notify_all()
            if not data:
                return
            if self.log:
                self.log.write(data)

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def failure(self, what):
        tail = self.tail.decode(errors="replace").replace("\r", "")
        return GuestError(f"{what}; the console's last lines:\n{tail[-1500:]}")

    def wait_for(self, pattern, timeout):
        """Wait until the guest has printed what matches (a regular expression, str or bytes, for at
        most 500 bytes), and consume everything up to its end. Returns the match."""
        return self._wait(pattern, timeout)[1]

    def _wait(self, pattern, timeout):
        """Returns (what came before the match, the match)."""
        if isinstance(pattern, str):
            pattern = pattern.encode()
        expression = re.compile(pattern, re.S)
        deadline = time.monotonic() + timeout
        seen = 0  # there is no match that begins before it
        with self.news:
            while True:
                match = expression.search(bytes(self.text[seen:]))
                if match:
                    before = bytes(self.text[: seen + match.start()])
                    del self.text[: seen + match.end()]
                    return before, match
                seen = max(0, len(self.text) - 500)
                if self.ended:
                    raise self.failure(f"the guest ended while waiting for {pattern!r}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self.failure(f"no {pattern!r} from the guest within {timeout} s")
                self.news.wait(left)

    def send(self, text):
        self.sock.sendall(text.encode())

    def log_in(self, timeout=300):
        """Wait for a root shell's prompt and turn the shell into one that neither echoes nor
        prompts nor edits lines. Returns the seconds that the prompt took."""
        start = time.monotonic()
        self.wait_for(PROMPT, timeout)
        seconds = time.monotonic() - start
        self.send("dmesg -n 1; stty -echo -onlcr cols 500; exec sh /dev/ttyS0\n")
        self.run("true", timeout=timeout)
        return seconds

    def begin(self, command):
        """Start a command; what it prints and returns is collected with finish()."""
        token = secrets.token_hex(6)
        # The tokens are put together in the guest: an echo of this line does not look like them.
        self.send(f"printf '<%s>\\n' begin-{token}\n"
                  f"(\n{command}\n) </dev/null; printf '\\n<%s:%d>\\n' end-{token} $?\n")
        return token

    def finish(self, token, timeout=60):
        """Returns (exit status, output) of what begin() started."""
        deadline = time.monotonic() + timeout
        self.wait_for(f"<begin-{token}>\r?\n", timeout)
        out, match = self._wait(rf"\n<end-{token}:(\d+)>\r?\n",
                                max(0.1, deadline - time.monotonic()))
        text = out.decode(errors="replace").replace("\r\n", "\n").removesuffix("\r")
        return int(match.group(1)), text

    def run(self, command, timeout=60):
        """Run a command (several lines are fine; a line has at most 4000 bytes). Returns (exit
        status, output)."""
        return self.finish(self.begin(command), timeout)

    def check(self, command, timeout=60):
        """Like run(), for a command that has to succeed. Returns its output."""
        status, out = self.run(command, timeout)
        if status != 0:
            raise GuestError(f"in the guest, {command!r} exited with {status}:\n{out}")
        return out


class Qmp:
    """A QMP monitor behind a connected stream socket. Events are kept in .events."""

    def __init__(self, sock, timeout=30):
        sock.settimeout(timeout)
        self.sock, self.file, self.events = sock, sock.makefile("rw"), []
        # A client before us that was killed may still get answers: they come to us.
        self.id = secrets.randbits(31)
        self._receive(lambda message: "QMP" in message)
        error = self._command("qmp_capabilities").get("error")
        if error and error["class"] != "CommandNotFound":  # it had negotiated for us
            raise GuestError(f"QMP qmp_capabilities: {error['desc']}")

    def _receive(self, is_wanted):
        while True:
            line = self.file.readline()
            if not line:
                raise GuestError("QEMU closed its monitor")
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
            if is_wanted(message):
                return message

    def _command(self, command, **arguments):
        self.id += 1
        self.file.write(json.dumps({"execute": command, "arguments": arguments, "id": self.id})
                        + "\n")
        self.file.flush()
        return self._answer()

    def _answer(self):
        return self._receive(lambda message: message.get("id") == self.id)

    def execute(self, command, **arguments):
        reply = self._command(command, **arguments)
        if "error" in reply:
            raise GuestError(f"QMP {command}: {reply['error']['desc']}")
        return reply["return"]

    def close(self):
        self.file.close()
        self.sock.close()


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Machine:
    """A QEMU of our own. args: what it is beside memory, serial console and monitor."""

    def __init__(self, args, memory="512M", accel=None, log=None, qemu="qemu-system-x86_64"):
        """accel: "kvm", "tcg" or None: $VARVE_ACCEL, or tcg, which works everywhere.
        log: a path for the console's text. QEMU's messages go to this program's stderr."""
        if not shutil.which(qemu):
            raise GuestError(f"there is no {qemu} here (Debian package qemu-system-x86)")
        self.dir = tempfile.mkdtemp(prefix="varve-guest.")
        listeners = {name: self._listen(name) for name in ("serial", "qmp")}
        accel = accel or os.environ.get("VARVE_ACCEL", "tcg")
        command = [qemu, "-accel", accel, "-m", memory, "-display", "none", "-nodefaults",
                   "-no-user-config"]
        for name in listeners:
            command += ["-chardev", f"socket,id={name},path={self.dir}/{name}"]
        command += ["-serial", "chardev:serial", "-mon", "chardev=qmp,mode=control",
                    "-device", "virtio-rng-pci", *args]  # else mkfs waits seconds for randomness
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                        preexec_fn=_die_with_parent)
        atexit.register(self.kill)
        self.console = Console(self._accept(listeners["serial"]), log)
        self.qmp = Qmp(self._accept(listeners["qmp"]))

    def _listen(self, name):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.dir}/{name}")
        listener.listen(1)
        listener.settimeout(0.2)
        return listener

    def _accept(self, listener):
        for _ in range(150):
            try:
                sock, _ = listener.accept()
                sock.settimeout(None)
                return sock
            except socket.timeout:
                if self.process.poll() is not None:
                    break
        self.kill()
        raise GuestError(f"QEMU did not start (exit code {self.process.returncode})")

    def wait(self, timeout):
        """Until QEMU has ended by itself. Returns its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.console.failure(f"QEMU still ran after {timeout} s") from None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Running:
    """A QEMU in the background: one that `varve run` started."""

    def __init__(self, described):
        """described: what `varve --json run` printed."""
        self.pidfd = os.pidfd_open(described["pid"])
        atexit.register(self.kill)
        self.console = Console.connect(described["console"])

    def wait(self, timeout):
        """Until QEMU has ended by itself."""
        if not select.select([self.pidfd], [], [], timeout)[0]:
            raise self.console.failure(f"QEMU still ran after {timeout} s")

    def kill(self):
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def tiny_guest(job="shell", append=""):
    """QEMU arguments for the tiny guest (scripts/guest-tiny makes it where it is missing)."""
    subprocess.run([ROOT / "scripts/guest-tiny"], check=True)
    tiny = ROOT / "build/guest/tiny"
    return ["-no-reboot", "-kernel", str(tiny / "vmlinuz"), "-initrd", str(tiny / "initrd"),
            "-append", f"console=ttyS0 quiet panic=-1 varve.job={job} {append}"]


def nbd_disk(path, export, name="disk0", reconnect_s=120):
    """QEMU arguments for a virtio disk over NBD that waits that long for a server that went away.
    path: of the Unix socket."""
    return ["-blockdev", json.dumps({"driver": "nbd", "node-name": name, "export": export,
                                     "server": {"type": "unix", "path": str(path)},
                                     "reconnect-delay": reconnect_s, "discard": "unmap"}),
            "-device", f"virtio-blk-pci,drive={name},werror=report,rerror=report"]
