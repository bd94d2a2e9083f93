#!/usr/bin/env python3
"""Pushes lines of standard input (--stdin) as fast as they can be written, to clients that read and to some that do
not: who reads gets every line in order, who does not finds a contiguous run and 1013, and the producer is never held up
for long.

.ci/lines.py [path of the program], as root; on Debian it installs what it needs."""

import os
import selectors
import socket
import subprocess
import threading
import time

import sandbox
from sandbox import Server, check
from watcher import CLOSE, START, TEXT, frames, upgraded

HELD_UP = 2.0  # Seconds. The contract says 1; the machine may be busy.
MEMORY = 32 * 1024  # KiB
PING = b"\x89\x80\0\0\0\0"


class Lines(Server):
    """A server and the other end of its standard input."""

    def __init__(self):
        stdin, self.input = os.pipe()
        super().__init__("--listen", "127.0.0.1:0", "--stdin", stdin=stdin)
        os.close(stdin)
        self.longest = 0.0

    def write(self, lines):
        """Keeps in mind for how long it was held up at most."""
        for piece in range(0, len(lines), 4096):
            begin = time.monotonic()
            os.write(self.input, lines[piece : piece + 4096])
            self.longest = max(self.longest, time.monotonic() - begin)

    def end_input(self):
        os.close(self.input)
        return self.process.wait(10)

    def peak_memory(self):
        """In KiB."""
        with open(self.proc("status")) as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def started(port, **options):
    """Before it returns, the server has read the start: else it would not have read the ping."""
    client = upgraded(port, **options)
    client.sendall(START + PING)
    assert client.recv(2, socket.MSG_WAITALL) == b"\x8a\0", "no pong"
    return client


def stalled(port):
    """Has little room for what it does not read."""
    return started(port, receive_buffer=4096)


def frame(line):
    assert len(line) < 126
    return bytes([TEXT, len(line)]) + line


def read_until(clients, position, expected):
    """Reads, of each client, what is expected; `position` says how far each is."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                client, at = key.fileobj, position.get(key.fileobj, 0)
                piece = client.recv(min(65536, len(expected) - at))
                assert piece and piece == expected[at : at + len(piece)], f"{piece[:100]} at {at}"
                position[client] = at + len(piece)
                if position[client] == len(expected):
                    selector.unregister(client)


def close_code(client):
    """The Close frame must be the next one, and the last."""
    with client, client.makefile("rb") as stream:
        rest = list(frames(stream))
    assert len(rest) == 1 and rest[0][0] == CLOSE, rest[:3]
    return int.from_bytes(rest[0][1][:2])


def as_fast_as_it_can():
    what = "100,000 lines at once"
    lines = [b"%d" % n for n in range(1, 100_001)]
    expected = b"".join(map(frame, lines))
    server = Lines()
    begin = time.monotonic()
    server.write(b"nobody is there\n" * 100_000)
    check(f"with nobody there, 100,000 lines take {time.monotonic() - begin:.2f} s", server.longest < 0.5)
    time.sleep(0.5)  # Until the last of them has been read.

    healthy = [started(server.port) for _ in range(50)]
    silent = upgraded(server.port)
    slow = stalled(server.port)
    server.longest, begin, position = 0.0, time.monotonic(), {}
    producer = threading.Thread(target=server.write, args=[b"\n".join(lines) + b"\n"])
    producer.start()
    read_until(healthy, position, expected)
    producer.join()
    check(f"{what}: 50 clients have all of them after {time.monotonic() - begin:.2f} s", True)
    check(f"{what}: the producer was held up for {server.longest:.2f} s at most", server.longest < HELD_UP)

    with slow, slow.makefile("rb") as stream:
        *run, (first_byte, payload) = frames(stream)
    contiguous = [line for _, line in run] == lines[: len(run)]
    code, reason = int.from_bytes(payload[:2]), payload[2:].decode()
    check(f"{what}: who did not read finds a contiguous run of {len(run)}", contiguous and len(run) < len(lines))
    check(f"{what}: and then 1013, {reason!r}", first_byte == CLOSE and code == 1013 and reason, payload)

    peak = server.peak_memory()
    check(f"{what}: the server took {peak} KiB at most", peak < MEMORY)

    os.write(server.input, b"the last one")
    status = server.end_input()
    read_until(healthy, position, expected + frame(b"the last one"))
    codes = {close_code(client) for client in healthy}
    check(f"{what}: at the end of the input the clients are closed with 1000", codes == {1000}, codes)
    code = close_code(silent)
    check(f"{what}: who did not say start is closed with 1001", code == 1001, code)
    check(f"{what}: the exit status is 0", status == 0, status)


def a_line_of_100_megabytes():
    server = Lines()
    client = started(server.port)
    for _ in range(1600):
        server.write(b"x" * 65536)
    server.write(b"\nshort\n")
    with client.makefile("rb") as stream:
        each = frames(stream)
        cut, short = next(each), next(each)
    check("a line of 100 MB is cut", cut == (TEXT, b"x" * 65536), cut[1][:100])
    check("the line after it arrives", short == (TEXT, b"short"), short)
    peak = server.peak_memory()
    check(f"a line of 100 MB: the server took {peak} KiB at most", peak < MEMORY)
    server.stop()


def sigterm_while_nothing_is_written():
    server = Lines()
    client = started(server.port)
    begin = time.monotonic()
    server.process.terminate()
    code = close_code(client)
    server.process.wait(10)
    seconds = time.monotonic() - begin
    check(
        f"SIGTERM while nothing is written ends it after {seconds:.2f} s",
        server.process.returncode == 0 and seconds < 1,
    )
    check("SIGTERM while nothing is written: the client is closed with 1001", code == 1001, code)


def a_producer_without_end():
    """Which is held up by clients that do not read, and by SIGTERM."""
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
        server = Server("--listen", "127.0.0.1:0", "--stdin", stdin=yes.stdout)
        yes.stdout.close()
        reader = started(server.port)
        clients, memory, position = [], [], 0
        expected = frame(b"y") * 65536
        while len(clients) < 5:
            clients.append(stalled(server.port))
            next_one = time.monotonic() + 1
            while time.monotonic() < next_one:
                piece = reader.recv(65536)
                at = position % len(frame(b"y"))
                assert piece and piece == expected[at : at + len(piece)], piece[:100]
                position += len(piece)
            memory.append(server.memory())
        count = position // len(frame(b"y"))
        check(f"a producer without end: {count} lines in 5 s to who reads", count > 1000)
        check(f"a producer without end: memory stays bounded, {memory} KiB", memory[-1] < MEMORY)
        begin = time.monotonic()
        clients.append(stalled(server.port))
        time.sleep(0.2)  # The producer waits for the last one now.
        server.stop()
        seconds = time.monotonic() - begin
        check(f"a producer without end: SIGTERM ends the server after {seconds:.2f} s", seconds < 6)


def no_input():
    inputs = {"/dev/null": open("/dev/null"), "a directory": os.open("/", os.O_RDONLY)}
    for what, stdin in inputs.items():
        no_input_from(what, stdin=stdin)
    no_input_from("a closed standard input", preexec_fn=lambda: os.close(0))


def no_input_from(what, **process):
    command = [sandbox.binary(), "--listen", "127.0.0.1:0", "--stdin"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=10, **process)
    check(f"{what} is exit status 1: {ended.stderr.strip().splitlines()[-1:]}", ended.returncode == 1, ended)


def main():
    sandbox.enter(["iproute2"], time_limit=120)
    as_fast_as_it_can()
    a_line_of_100_megabytes()
    sigterm_while_nothing_is_written()
    a_producer_without_end()
    no_input()
    print(f"{sandbox.checks} passed, 0 failed")


main()
