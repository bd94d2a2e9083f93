"""A server, and a client that watches it: no notification may be lost, doubled, early or much too late, whatever other
clients do. Also what it takes to write clients that do what no library would."""

import contextlib
import os
import signal
import socket
import threading
import time

from sandbox import Server, check, until

INTERVAL = 0.25
LATE = 2.0  # Seconds. The machine may be busy; the actual lateness is printed.
SLACK = 256  # KiB. What the allocator keeps varies, ten times as much with many clients or a full log.
HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZQ==\r\n\r\n"
)
START = b"\x81\x85\0\0\0\0start"
PONG = b"\x8a\x80\0\0\0\0"
TEXT, CLOSE, PING = 0x81, 0x88, 0x89


def connect(port, address=None, receive_buffer=None):
    client = socket.socket()
    client.settimeout(20)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if address:
        client.bind((address, 0))
    client.connect(("127.0.0.1", port))
    return client


def upgraded(port, **options):
    client = connect(port, **options)
    client.sendall(HEAD)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, f"{answer} and then the end"
        answer += byte
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return client


def streaming(port, **options):
    client = upgraded(port, **options)
    client.sendall(START)
    return client


def frames(stream):
    """The first byte and the payload of each frame, up to the end of the stream."""
    while head := stream.read(2):
        length = head[1]
        if length > 125:
            length = int.from_bytes(stream.read(2 if length == 126 else 8))
        yield head[0], stream.read(length)


@contextlib.contextmanager
def elsewhere(clients, then=lambda clients: signal.pause()):
    """Clients in a process of their own."""
    pipe, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            kept = clients()
            os.write(theirs, b"x" * bool(kept))
            then(kept)
        finally:
            os._exit(1)
    os.close(theirs)
    assert os.read(pipe, 1), "the clients failed"
    os.close(pipe)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


class Watcher(threading.Thread):
    def __init__(self, port):
        super().__init__(daemon=True)
        self.socket = upgraded(port)
        self.late, self.latest, self.number, self.close, self.wrong = 0.0, 0.0, 0, None, None
        self.start()

    def run(self):
        try:
            with self.socket, self.socket.makefile("rb") as stream:
                self.watch(stream)
        except OSError as error:
            self.wrong = error

    def watch(self, stream):
        begin = time.monotonic()
        self.socket.sendall(START)
        for first_byte, payload in frames(stream):
            if first_byte == PING:
                self.socket.sendall(PONG)
            elif first_byte == CLOSE:
                self.close = int.from_bytes(payload[:2])
                self.socket.sendall(b"\x88\x82\0\0\0\0" + payload[:2])
                return
            elif payload == b"Notification %d" % (self.number + 1):
                self.late = time.monotonic() - begin - self.number * INTERVAL
                self.number += 1
                self.latest = max(self.latest, self.late)
                if self.late < 0 or self.late > LATE:
                    self.wrong = self.wrong or f"number {self.number} came {self.late:.3f} s late"
            else:
                self.wrong = self.wrong or f"{payload} after {self.number}"


class Watched(Server):
    """A server with a watcher."""

    def __init__(self, *arguments, **process):
        super().__init__("--listen", "127.0.0.1:0", "--interval", str(INTERVAL), *arguments, **process)
        self.watcher = Watcher(self.port)
        self.before = self.descriptors()

    def alone(self):
        """Waits until only the watcher is left, and no longer receives notifications late."""
        until(lambda: self.descriptors() == self.before)
        seen = self.watcher.number
        until(lambda: self.watcher.number > seen and self.watcher.late < INTERVAL or self.watcher.wrong)

    def suffer(self, what, fault, times=2, slack=SLACK):
        """Repeats the fault: the server may keep what it allocates the first times."""
        memory = []
        for _ in range(times):
            fault(self)
            self.alone()
            memory.append(self.memory())
        self.judge(what, f"{memory} KiB after each")
        check(f"{what}: memory does not grow", memory[-1] <= memory[(times - 1) // 2] + slack)

    def judge(self, what, seen=""):
        watcher = self.watcher
        figures = f"{watcher.number} notifications, late by {watcher.latest * 1000:.0f} ms at most; {seen}"
        check(f"{what}: {figures}", watcher.wrong is None, watcher.wrong)

    def end(self, what):
        self.stop()
        self.watcher.join()
        check(f"{what}: the watcher is closed with 1001 at the end", self.watcher.close == 1001, self.watcher.close)
