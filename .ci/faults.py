#!/usr/bin/env python3
"""Puts the server under each kind of pressure, while a client that behaves well watches: no notification may be lost,
doubled, early or far too late. Afterwards the descriptors must be back, and the next notification on time; and when
the same comes again, the memory may not grow further.

.ci/faults.py [path of the program], as root; on Debian it installs what it needs."""

import contextlib
import os
import resource
import subprocess
import threading
import time

import sandbox
from sandbox import check, until
from watcher import HEAD, SLACK, Watched, connect, elsewhere, streaming, upgraded

FEW = 100  # Descriptors.
KEEPALIVE = 2
FAR = "10.0.0.2"
LONG_PING = b"\x89\xfd\0\0\0\0" + b"x" * 125


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
    """Without the address there is no route to the clients: no packet says that they are gone."""
    subprocess.run(["ip", "address", "add", FAR + "/32", "dev", "lo"], check=True)
    join = [upgraded, streaming]
    clients = [join[n % 2](server.port, address=FAR) for n in range(200)]
    subprocess.run(["ip", "address", "delete", FAR + "/32", "dev", "lo"], check=True)
    until(lambda: server.descriptors() == server.before)
    for client in clients:
        client.close()


def no_descriptors_are_left(server):
    clients = [connect(server.port) for _ in range(2 * FEW)]
    # The last one may come and go with each try to accept.
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


def quick_faults():
    server = Watched()
    server.suffer("two thousand clients are killed in the same instant", clients_are_killed, 10, 10 * SLACK)
    server.suffer("a thousand handshakes stay half open", handshakes_stay_half_open)
    server.suffer("clients stop reading", clients_stop_reading)
    server.suffer("clients say nonsense", clients_say_nonsense)
    server.end("clients that misbehave")

    server = Watched("--keepalive", str(KEEPALIVE))
    server.suffer("clients are cut off", clients_are_cut_off)
    server.end("keepalive")

    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))
    server = Watched("--max-connections", "1000", preexec_fn=few)
    server.suffer("no descriptors are left", no_descriptors_are_left)
    server.end("no descriptors are left")
    check("no descriptors are left: the log says so once", server.log().count("Too many open files") == 1, server.log())

    the_server_stops_in_a_storm()


def main():
    sandbox.enter(["iproute2"], time_limit=300)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    quick_faults()
    print(f"{sandbox.checks} passed, 0 failed")


main()
