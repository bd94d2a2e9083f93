#!/usr/bin/env python3
"""Feeds two instances behind HAProxy from real brokers, Mosquitto and Redis: .ci/brokers.py [path of the program]"""

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time

import proxies
import sandbox
from sandbox import Server, check

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
STALL = 20  # Seconds for which a client stops reading.
BURST = 20
PADDING = "." * 500  # 2,000 messages must be more than the buffers between server and client hold.


class Mosquitto:
    daemon = ["mosquitto"]
    subscriber = "while :; do mosquitto_sub -q 1 -t news; sleep 0.2; done"
    publisher = ["mosquitto_pub", "-q", "1", "-l", "-t", "news"]
    command = "{}"


class Redis:
    daemon = ["redis-server", "--bind", "127.0.0.1", "--save", ""]
    # Whatever comes before the confirmation of the subscription is not JSON.
    subscriber = """while :; do redis-cli --json subscribe news; sleep 0.2; done |
        jq -Rr --unbuffered 'fromjson? | select(.[0] == "message")[2]'"""
    publisher = ["redis-cli"]
    command = "publish news '{}'"


class Broker:
    def __init__(self, kind):
        self.kind = kind
        self.start()

    def start(self):
        self.daemon = subprocess.Popen(self.kind.daemon, **QUIET)
        self.publisher = None

    def kill(self):
        for process in (self.daemon, self.publisher):
            process.kill()
            process.wait()

    def publish(self, line):
        # It ends if the broker does not run yet.
        if self.publisher is None or self.publisher.poll() is not None:
            self.publisher = subprocess.Popen(self.kind.publisher, stdin=subprocess.PIPE, text=True, **QUIET)
        with contextlib.suppress(BrokenPipeError):
            print(self.kind.command.format(line), file=self.publisher.stdin, flush=True)


class Client:
    """Reconnects when an instance stops. Anything else that ends a connection is an exception."""

    def __init__(self, root, first):
        self.lines = []
        self.first = first  # For each line, when the first client received it.
        self.latest = 0  # By how many seconds at most this client received a line later.
        self.moves = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.task = asyncio.create_task(self.follow(root))

    async def follow(self, root):
        while True:
            self.connection = await proxies.connect(root)
            await self.connection.send("start")
            async for line in self.connection:
                await self.reads.wait()
                name, number, _ = line.split()
                self.lines.append((name, int(number)))
                now = time.monotonic()
                self.latest = max(self.latest, now - self.first.setdefault((name, number), now))
            assert self.connection.close_code == 1001, self.connection.close_code
            self.moves += 1

    def numbers(self, name):
        return [number for said, number in self.lines if said == name]


class Try:
    def __init__(self, kind, clients):
        self.name = kind.__name__
        self.broker = Broker(kind)
        self.servers = []
        for port in (8080, 8081):
            subscriber = subprocess.Popen(
                ["sh", "-c", kind.subscriber], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            arguments = ["--stdin", "--listen", f"127.0.0.1:{port}"]
            self.servers.append(Server(*arguments, stdin=subscriber.stdout))
        root = proxies.start("haproxy")
        first = {}
        self.clients = [Client(root, first) for _ in range(clients)]

    def check(self, what, holds, seen=""):
        check(f"{self.name}: {what}", holds, seen)

    def publish(self, name, number):
        self.broker.publish(f"{name} {number} {PADDING}")

    async def when(self, condition, meanwhile=lambda: None):
        while not condition():
            for client in self.clients:
                if client.task.done():
                    client.task.result()
            meanwhile()
            await asyncio.sleep(0.1)

    async def all_hear(self, name):
        """Publishes until a message arrives everywhere: then all clients have started and all subscribers run."""
        number = itertools.count()
        await self.when(
            lambda: all(client.numbers(name) for client in self.clients), lambda: self.publish(name, next(number))
        )

    async def all_get(self, name, count, seconds=0.0):
        """Publishes messages, evenly over the time, and waits until they have arrived everywhere."""
        begin = time.monotonic()
        for number in range(count):
            self.publish(name, number)
            if number % BURST == 0:
                await asyncio.sleep(begin + seconds * number / count - time.monotonic())
        await self.when(
            lambda: all(len(client.numbers(name)) >= count for client in self.clients if client.reads.is_set())
        )

    def check_order(self, what, name, count):
        wrong = [got for client in self.clients if (got := client.numbers(name)) != list(range(count))]
        self.check(what, not wrong, wrong[:1])

    async def stalled(self):
        """One client does not read for a while."""
        await self.all_hear("ready")
        stalled, *others = self.clients
        stalled.reads.clear()
        for client in others:
            client.latest = 0
        await self.all_get("message", 2000, STALL)
        sockets = subprocess.check_output(["ss", "-Htn", "sport = :8080 or sport = :8081"], text=True).splitlines()
        waiting = [int(socket.split()[2]) > 0 for socket in sockets]
        self.check("lines that a client does not read wait in the server", sum(waiting) == 1, sockets)
        latest = max(client.latest for client in others)
        self.check(f"nobody else is late by more than 2 s, but by {latest * 1000:.0f} ms at most", latest < 2)
        stalled.reads.set()
        await self.when(lambda: len(stalled.numbers("message")) == 2000)
        self.check_order("each client got 2,000 messages in order, this one too", "message", 2000)

    async def broker_ends(self):
        await self.all_hear("before")
        self.broker.kill()
        await asyncio.sleep(1)
        self.broker.start()
        await self.all_hear("again")
        await self.all_get("after", 100)
        self.check_order("messages published after the broker was killed arrive", "after", 100)
        self.check("no client was closed meanwhile", not any(client.moves for client in self.clients))

    async def instance_stops(self):
        stopping, _ = self.servers
        stopping.process.terminate()
        await self.when(lambda: stopping.process.poll() is not None)
        await self.all_hear("moved")
        await self.all_get("afterwards", 100)
        moved = sum(client.moves for client in self.clients)
        self.check("at SIGTERM the clients of one instance move to the other", 0 < moved < len(self.clients), moved)
        self.check_order("they get what is published afterwards", "afterwards", 100)

    async def end(self):
        for client in self.clients:
            client.task.cancel()
        await asyncio.wait([client.task for client in self.clients])
        await asyncio.gather(*(client.connection.close() for client in self.clients))


async def try_broker(kind, clients):
    one = Try(kind, clients)
    if kind is Mosquitto:
        await one.stalled()
    await one.broker_ends()
    await one.instance_stops()
    await one.end()


TRIES = {"mosquitto": (Mosquitto, 200), "redis": (Redis, 20)}


def main():
    packages = ["mosquitto", "mosquitto-clients", "redis-server", "redis-tools", "jq"]
    sandbox.enter([*packages, *proxies.PACKAGES], time_limit=170)
    if len(sys.argv) > 2:
        # Little room between the server and a client that does not read.
        for buffer in ("rmem", "wmem"):
            with open(f"/proc/sys/net/ipv4/tcp_{buffer}", "w") as sizes:
                sizes.write("4096 65536 65536")
        proxies.keep_nothing()
        proxies.make_certificate()
        asyncio.run(try_broker(*TRIES[sys.argv[2]]))
        return
    command = ["unshare", "--net", "--mount", sandbox.PYTHON, __file__, sandbox.binary()]
    tries = [subprocess.Popen([*command, name]) for name in TRIES]
    sys.exit(any([one.wait() for one in tries]))


main()
