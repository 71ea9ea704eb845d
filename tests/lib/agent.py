"""agent.py - a guest agent that does what a test wants: the other end of org.qemu.guest_agent.0.

    with Agent(path, freeze_s=3) as agent:
        ...
        agent.commands      # what it was asked, in order
        agent.frozen        # whether its "file systems" stand still
"""
import json
import os
import select
import socket
import threading
import time


class Agent:
    def __init__(self, path, file_systems=2, freeze_s=0, thaw_s=0, refuse=(), mute=(), thaws_after_s=None,
                 garbage=b"", drop=()):
        """freeze_s, thaw_s: how long each takes, before its answer. refuse: commands that are errors.
        mute: commands that are never answered (but done). thaws_after_s: a guest that thaws by itself.
        garbage: said before each answer. drop: commands at which it closes the connection, undone."""
        self.path, self.file_systems = str(path), file_systems
        self.freeze_s, self.thaw_s = freeze_s, thaw_s
        self.refuse, self.mute, self.thaws_after_s = set(refuse), set(mute), thaws_after_s
        self.garbage, self.drop = garbage, set(drop)
        self.commands, self.frozen, self.frozen_at, self.thawed_at = [], False, None, None
        self.ends = False

    def __enter__(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends = True
        self.thread.join(10)
        self.listener.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def thaw_by_itself(self):
        if self.frozen and self.thaws_after_s and time.monotonic() > self.frozen_at + self.thaws_after_s:
            self.frozen = False

    def readable(self, sock):
        while not self.ends:
            self.thaw_by_itself()
            if select.select([sock], [], [], 0.02)[0]:
                return True
        return False

    def serve(self):
        """One client at a time, as a character device of QEMU's has it."""
        while self.readable(self.listener):
            client, _ = self.listener.accept()
            with client:
                try:
                    self.talk(client)
                except (BrokenPipeError, ConnectionResetError):
                    pass

    def talk(self, client):
        text = b""
        while self.readable(client):
            piece = client.recv(4096)
            if not piece:
                return
            text += piece
            *lines, text = text.split(b"\n")
            for line in lines:
                if not self.answer(client, line):
                    return

    def answer(self, client, line):
        sentinel = b""
        if b"\xff" in line:
            line = line[line.rindex(b"\xff") + 1:]
        try:
            message = json.loads(line)
        except ValueError:
            return True
        command = message["execute"]
        self.commands.append(command)
        if command in self.drop:
            self.drop.discard(command)
            return False
        result = self.run(command, message.get("arguments", {}))
        if command == "guest-sync-delimited":
            sentinel = b"\xff"
        if command not in self.mute:
            client.sendall(self.garbage + sentinel + json.dumps(result).encode() + b"\n")
        return True

    def run(self, command, arguments):
        self.thaw_by_itself()
        if command in self.refuse:
            return {"error": {"class": "GenericError", "desc": "not today"}}
        if command == "guest-sync-delimited":
            return {"return": arguments["id"]}
        if command == "guest-fsfreeze-freeze":
            time.sleep(self.freeze_s)
            self.frozen, self.frozen_at = self.file_systems > 0, time.monotonic()
            return {"return": self.file_systems}
        if command == "guest-fsfreeze-thaw":
            time.sleep(self.thaw_s)
            was, self.frozen = self.frozen, False
            if was:
                self.thawed_at = time.monotonic()
            return {"return": self.file_systems if was else 0}
        return {"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}}
