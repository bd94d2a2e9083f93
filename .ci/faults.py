#!/usr/bin/env python3
"""Puts the server under each kind of pressure, while a client that behaves well watches: no notification may be lost,
doubled, early or much too late. Afterwards the server must have released the descriptors, and the next notification
must be on time. When the same happens again, the memory must not grow further.

.ci/faults.py [path of the program], as root; on Debian it installs what it needs."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import sandbox
from sandbox import Server, check, processor_time, until
from watcher import HEAD, PONG, SLACK, Watched, connect, elsewhere, streaming, upgraded

FEW = 100  # Descriptors.
KEEPALIVE = 2
FAR = "10.0.0.2"
LONG_PING = b"\x89\xfd\0\0\0\0" + b"x" * 125


def clients_are_killed(server):
    with elsewhere(lambda: [streaming(server.port) for _ in range(2000)]):
        until(lambda: server.descriptors() == server.before + 2000)


def handshakes_stay_half_open(server):
    clients = [connect(server.port) for _ in range(1000)]
    for client in clients:
        client.sendall(HEAD[:-2])
    for client in clients:
        assert client.recv(12) == b"HTTP/1.1 408", "no 408"


def dribble(server, begin, seconds, meanwhile=lambda: None):
    """Sends heads from 50 clients, byte by byte. Returns the processor time of the server and that of the clients."""

    def adversaries():
        clients = [connect(server.port) for _ in range(50)]
        for client in clients:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(begin)
        return clients

    def send(clients):
        while True:
            for client in clients:
                client.send(b"a")
            time.sleep(0.004)

    with elsewhere(adversaries, send) as process:
        before = server.processor_time(), processor_time(process)
        meanwhile()
        time.sleep(seconds)
        return server.processor_time() - before[0], processor_time(process) - before[1]


def heads_come_byte_by_byte(server):
    """The cost of a byte must not grow with the number of bytes before it."""

    def device():
        client = connect(server.port)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD:
            client.send(bytes([byte]))
            time.sleep(0.001)
        assert client.recv(12) == b"HTTP/1.1 101", "no 101"
        client.close()

    short, theirs = dribble(server, b"GET / HTTP/1.1\r\nx: ", 5, device)
    ratio = short / theirs
    begin = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 120 + b"x: " + b"a" * 60_000
    long, theirs = dribble(server, begin, 9, device)
    print(f"  in 9 s, 50 adversaries take {long:.2f} s of processor time from the server for {theirs:.2f} s of theirs")
    assert long / theirs < 1.7 * ratio, f"{long / theirs:.2f} of their time, {ratio:.2f} after a short start"


def clients_stop_reading(server):
    clients = [streaming(server.port) for _ in range(50)]
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(LONG_PING * 100)
    until(lambda: server.descriptors() == server.before)


def clients_say_nonsense(server):
    for nonsense in b"\x81\x05start", b"\xff" * 100, b"\x81\xff" + b"\x7f" * 100, os.urandom(4096):
        for client in [streaming(server.port) for _ in range(100)]:
            client.sendall(nonsense)
            client.close()
        for client in [connect(server.port) for _ in range(100)]:
            client.sendall(nonsense)
            client.close()


def clients_are_cut_off(server):
    """Without the address there is no route to the clients, and no packet says that they are gone."""
    subprocess.run(["ip", "address", "add", FAR + "/32", "dev", "lo"], check=True)
    join = [upgraded, streaming]
    clients = [join[n % 2](server.port, address=FAR) for n in range(200)]
    subprocess.run(["ip", "address", "delete", FAR + "/32", "dev", "lo"], check=True)
    until(lambda: server.descriptors() == server.before)
    left = subprocess.run(["ss", "-Htn", "dst", FAR], capture_output=True, text=True, check=True).stdout
    assert not left, f"{left.count(chr(10))} sockets outlive their connections"
    for client in clients:
        client.close()


def the_server_stands_still(server):
    """At the time at which clients are judged silent. Their pongs arrive in time, but the server can't read them.
    There are more clients than tokio takes events from one poll (1,024)."""
    clients = [upgraded(server.port) for _ in range(3000)]
    begin = time.monotonic()

    def at(seconds):
        time.sleep(max(0, begin + seconds - time.monotonic()))

    def pong():
        for client in clients:
            client.sendall(PONG)

    pong()
    deadline = 2 * KEEPALIVE
    at(deadline - 0.45)
    server.process.send_signal(signal.SIGSTOP)
    at(deadline - 0.4)
    pong()
    at(deadline + 0.45)
    server.process.send_signal(signal.SIGCONT)
    at(deadline + 1.5)
    dropped = server.before + len(clients) - server.descriptors()
    assert not dropped, f"{dropped} clients were dropped"
    for client in clients:
        client.close()


def a_client_reads_slowly():
    """500 bytes/s through small buffers: the kernel reports room to the server only now and then."""
    server = Server("--listen", "127.0.0.1:0", "--interval", "0.001")
    before = server.descriptors()
    client = streaming(server.port, receive_buffer=2048)
    for second in range(40):
        client.recv(500)
        # It has not read the ping yet that this answers.
        client.sendall(PONG)
        time.sleep(1)
        assert server.descriptors() > before, f"closed after {second} s: {server.log()}"
    check("a client that reads 500 bytes/s stays for 40 s", True)
    client.close()
    server.stop()


def no_descriptors_are_left(server):
    clients = [connect(server.port) for _ in range(2 * FEW)]
    # Each attempt to accept may take the last descriptor for a moment.
    until(lambda: server.descriptors() >= FEW - 1)
    before = server.processor_time()
    time.sleep(2)
    spent = server.processor_time() - before
    print(f"  {spent * 1000:.1f} ms of processor time in 2 s without a descriptor to accept with")
    assert spent < 0.2, "the server spins"
    for client in clients:
        client.close()
    until(lambda: server.descriptors() == server.before)
    upgraded(server.port).close()


def the_server_is_full():
    what = "a full server"
    server = Watched("--max-connections", "1")  # The watcher's.
    silent, slow = connect(server.port), connect(server.port)
    begin = time.monotonic()
    slow.sendall(HEAD[:-2])
    time.sleep(0.5)
    slow.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sys.exit(f"answered {slow.recv(100)} before the head was complete")
    slow.settimeout(20)
    slow.sendall(HEAD[-2:])
    answer = slow.recv(4096)
    waited = time.monotonic() - begin
    right = answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: " in answer.lower() and waited < 1
    check(f"{what} answers 503 once the head is there", right, (answer, waited))
    answer = silent.recv(4096)
    waited = time.monotonic() - begin
    check(f"{what} closes a connection without a head after 2 s", not answer and 1.9 < waited < 3, (answer, waited))
    slow.close()
    silent.close()
    server.suffer(what, health_checks)
    server.end(what)


def health_checks(server):
    """Connections without a byte, as load balancers make them."""
    time.sleep(0.5)
    before = server.log()
    for _ in range(20):
        connect(server.port).close()
    time.sleep(0.5)
    assert server.log() == before, server.log().removeprefix(before)


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


def stalled_writes():
    """Twice the 60 s after which a write without progress ends a connection."""
    what = "clients stop reading"
    server = Watched()
    server.suffer(what, clients_stop_reading)
    server.end(what)


def quick_faults():
    server = Watched()
    server.suffer("two thousand clients are killed in the same instant", clients_are_killed, 10, 10 * SLACK)
    server.suffer("a thousand handshakes stay half open", handshakes_stay_half_open, slack=10 * SLACK)
    server.suffer("heads come byte by byte", heads_come_byte_by_byte, 1)
    server.suffer("clients say nonsense", clients_say_nonsense)
    server.suffer("health checks", health_checks)
    server.end("clients that misbehave")

    server = Watched("--keepalive", str(KEEPALIVE))
    # Several times, because what 200 clients might leave once is no more than what the allocator keeps.
    server.suffer("clients are cut off", clients_are_cut_off, 4, 2 * SLACK)
    server.suffer("the server stands still", the_server_stands_still, slack=10 * SLACK)
    server.end("keepalive")

    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))
    server = Watched("--max-connections", "1000", preexec_fn=few)
    server.suffer("no descriptors are left", no_descriptors_are_left, 4, 2 * SLACK)
    server.end("no descriptors are left")
    check("no descriptors are left: the log says so once", server.log().count("Too many open files") == 1, server.log())

    the_server_is_full()
    the_server_stops_in_a_storm()


def main():
    sandbox.enter(["iproute2"], time_limit=300)
    sandbox.raise_descriptor_limit()
    with ThreadPoolExecutor() as slow:
        faults = [slow.submit(fault) for fault in (stalled_writes, a_client_reads_slowly)]
        quick_faults()
        for fault in faults:
            fault.result()
    print(f"{sandbox.checks} passed, 0 failed")


main()
