#!/usr/bin/env python3
"""Puts the release binary ($1) under each kind of pressure, while a client that behaves well watches: no notification
may be lost, doubled, early or far too late. Afterwards the descriptors must be back, and the next one on time; and when
the same comes again, the memory may not grow further."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time

from sandbox import Server, check, enter, until

INTERVAL = 0.25
LATE = 2.0  # Seconds. The machine may be busy; how late they were is printed.
SLACK = 256  # KiB. What the allocator keeps differs from time to time, ten times so with many clients or a full log.
FEW = 64 + 4 * len(os.sched_getaffinity(0))  # Descriptors: the program takes four for each core.
HEAD = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZQ==\r\n\r\n"
)
START = b"\x81\x85\0\0\0\0start"
PING = b"\x89\xfd\0\0\0\0" + b"x" * 125
PONG = b"\x8a\x80\0\0\0\0"


class Watcher(threading.Thread):
    """The client that behaves well."""

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
        while frame := stream.read(2):
            payload = stream.read(frame[1])
            if frame[0] == 0x89:
                self.socket.sendall(PONG)
            elif frame[0] == 0x88:
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
        self.port = int(self.url.rstrip("/").rsplit(":", 1)[1])
        self.watcher = Watcher(self.port)
        self.before = self.descriptors()

    def file(self, name):
        return f"/proc/{self.process.pid}/{name}"

    def descriptors(self):
        return len(os.listdir(self.file("fd")))

    def memory(self):
        with open(self.file("smaps_rollup")) as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:"))

    def processor_time(self):
        times = 0
        for task in os.listdir(self.file("task")):
            with open(self.file(f"task/{task}/schedstat")) as schedstat:
                times += int(schedstat.read().split()[0])
        return times / 1e9

    def alone(self):
        """Waits until only the watcher is left, and is sent what is due: what is merely late is made up for."""
        until(lambda: self.descriptors() == self.before)
        seen = self.watcher.number
        until(lambda: self.watcher.number > seen and self.watcher.late < INTERVAL or self.watcher.wrong)

    def suffer(self, what, fault, times=2, slack=SLACK):
        """More than once: what the server has allocated the first time, it may keep."""
        memory = []
        for _ in range(times):
            fault(self)
            self.alone()
            memory.append(self.memory())
        self.judge(what, f"{memory[0]} KiB after it, {memory[-1]} KiB after time {times}")
        check(f"{what}: memory does not grow", memory[-1] <= memory[0] + slack, memory)

    def judge(self, what, seen=""):
        watcher = self.watcher
        figures = f"{watcher.number} notifications, late by {watcher.latest * 1000:.0f} ms at most; {seen}"
        check(f"{what}: {figures}", watcher.wrong is None, watcher.wrong)

    def end(self, what):
        self.stop()
        self.watcher.join()
        check(f"{what}: the watcher is told 1001 at the end", self.watcher.close == 1001, self.watcher.close)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def upgraded(port):
    client = connect(port)
    client.sendall(HEAD)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, f"{answer} and then the end"
        answer += byte
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return client


def streaming(port):
    client = upgraded(port)
    client.sendall(START)
    return client


@contextlib.contextmanager
def elsewhere(clients):
    """Clients in a process of their own."""
    pipe, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            kept = clients()
            os.write(theirs, b"x" * bool(kept))
            signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    assert os.read(pipe, 1), "the clients failed"
    os.close(pipe)
    yield process
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def clients_are_killed(server):
    # More than one core serves.
    with elsewhere(lambda: [streaming(server.port) for _ in range(2000)]):
        until(lambda: server.descriptors() == server.before + 2000)


def handshakes_stay_half_open(server):
    clients = [connect(server.port) for _ in range(1000)]
    for client in clients:
        client.sendall(HEAD[:-2])
    for client in clients:
        assert client.recv(12) == b"HTTP/1.1 408", "no 408"


def clients_stop_reading(server):
    clients = [streaming(server.port) for _ in range(50)]
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(PING * 100)
    until(lambda: server.descriptors() == server.before)


def clients_say_nonsense(server):
    for nonsense in b"\x81\x05start", b"\xff" * 100, b"\x81\xff" + b"\x7f" * 100, os.urandom(4096):
        for client in [streaming(server.port) for _ in range(100)]:
            client.sendall(nonsense)
            client.close()
        for client in [connect(server.port) for _ in range(100)]:
            client.sendall(nonsense)
            client.close()


def no_descriptors_are_left(server):
    clients = [connect(server.port) for _ in range(100)]
    # The last one comes and goes with each try to accept.
    until(lambda: server.descriptors() >= FEW - 1)
    before = server.processor_time()
    time.sleep(2)
    spent = server.processor_time() - before
    print(f"  {spent * 1000:.1f} ms of processor time in the 2 s in which it could not accept")
    assert spent < 0.2, "it spins"
    for client in clients:
        client.close()
    until(lambda: server.descriptors() == server.before)
    upgraded(server.port).close()


def clients_fill_the_log(server):
    words = b"\x81\xfe\x0f\xa0\0\0\0\0" + b"x" * 4000
    for _ in range(10):
        client = upgraded(server.port)
        for _ in range(100):
            client.sendall(words)
            assert client.recv(2)[0] == 0x81
            assert client.recv(31, socket.MSG_WAITALL) == b"You did not say the magic word!"
        client.close()


def nobody_reads_the_log():
    loud = {"env": {"RUST_LOG": "wspush=debug"}}
    unread, pipe = os.pipe()
    server = Watched(**loud, stderr=pipe)
    server.suffer("standard error is a full pipe", clients_fill_the_log, 10, 10 * SLACK)
    server.end("standard error is a full pipe")
    os.close(unread)
    os.close(pipe)

    with subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as head:
        server = Watched(**loud, stderr=head.stdin)
        head.stdin.close()
    server.suffer("standard error is a broken pipe", clients_fill_the_log, 10, 10 * SLACK)
    server.end("standard error is a broken pipe")

    server = Watched(**loud, stderr=None, preexec_fn=lambda: os.close(2))
    server.suffer("standard error is closed", clients_fill_the_log, 10, 10 * SLACK)
    server.end("standard error is closed")


def connect_until_refused(port):
    with contextlib.suppress(OSError, AssertionError):
        clients = []
        while True:
            clients.append(streaming(port))


def the_server_stops_in_a_storm():
    what = "SIGTERM in the middle of a storm"
    server = Watched()
    for _ in range(8):
        threading.Thread(target=connect_until_refused, args=[server.port], daemon=True).start()
    until(lambda: server.descriptors() > server.before + 500)
    begin = time.monotonic()
    server.end(what)
    server.judge(what, f"exit status 0 after {time.monotonic() - begin:.2f} s")


def main():
    server = Watched()
    server.suffer("two thousand clients are killed in the same instant", clients_are_killed, 10, 10 * SLACK)
    server.suffer("a thousand handshakes stay half open", handshakes_stay_half_open)
    server.suffer("clients stop reading", clients_stop_reading)
    server.suffer("clients say nonsense", clients_say_nonsense)
    ended = server.log().count("the client does not read")
    check("clients stop reading: that is what ended them", ended == 100, ended)
    server.end("clients that misbehave")

    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))
    server = Watched("--max-connections", "1000", preexec_fn=few)
    server.suffer("no descriptors are left", no_descriptors_are_left)
    server.end("no descriptors are left")
    check("no descriptors are left: one line of the log says so", server.log().count("can't accept") == 1, server.log())

    nobody_reads_the_log()
    the_server_stops_in_a_storm()


enter(["iproute2"], 300)
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
main()
