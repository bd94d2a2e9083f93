#!/usr/bin/env python3
"""Tries the proxies' configurations in deploy/ with clients and a browser: .ci/proxies.py [path of the program]"""

import asyncio
import contextlib
import os
import re
import ssl
import subprocess
import sys

import sandbox
from sandbox import Server, check, until
from webdriver import Chromium

with contextlib.suppress(ImportError):
    import websockets  # It is there once enter() has installed it.

# What .ci/brokers.py needs of it too.
PACKAGES = ["haproxy", "python3-websockets", "openssl", "curl", "iproute2"]
PROXIES = {
    "nginx": (["nginx", "-g", "daemon off;", "-c"], "deploy/nginx.conf"),
    "haproxy": (["haproxy", "-f"], "deploy/haproxy.cfg"),
    "caddy": (["caddy", "run", "--config"], "deploy/Caddyfile"),
}
CERTIFICATE = "/etc/ssl/wspush.pem"
IDLE = 3  # Seconds.
URL = "https://localhost/any/path"


def keep_nothing():
    """Lays a file system of our own over where the proxies, the certificate and its trust are written."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
    for lower in ("/etc", "/run", "/usr", "/var"):
        upper, work = f"/mnt{lower}/upper", f"/mnt{lower}/work"
        os.makedirs(upper)
        os.makedirs(work)
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, lower], check=True)


def make_certificate():
    """And its key, in one file."""
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", CERTIFICATE, "-out", CERTIFICATE + ".crt"]
    subprocess.run([*openssl, *name, *files], check=True, capture_output=True)
    with open(CERTIFICATE, "a") as both, open(CERTIFICATE + ".crt") as certificate:
        both.write(certificate.read())


def start(proxy, shortened=None):
    """Returns what a client needs to trust it."""
    command, file = PROXIES[proxy]
    environment = os.environ | {"XDG_DATA_HOME": "/run"}
    log = open("/run/proxy.log", "w")
    command = [*command, os.path.abspath(shortened or file)]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    # Caddy makes its certificate for localhost itself.
    root = "/run/caddy/pki/authorities/local/root.crt" if proxy == "caddy" else CERTIFICATE

    def answers():
        if process.poll() is not None:
            sys.exit(open(log.name).read())
        return os.path.exists(root) and curl(root)[0] == 0

    until(answers)
    return root


def curl(root, *arguments):
    """Returns its exit status, the version and status of HTTP, and the body."""
    command = ["curl", "--silent", "--cacert", root, "--write-out", "\n%{http_version} %{http_code}", *arguments, URL]
    done = subprocess.run(command, capture_output=True, text=True)
    body, _, status = done.stdout.rpartition("\n")
    return done.returncode, status, body


async def connect(root, origin="https://localhost", port=""):
    """The port is only what the client says that it goes to: in truth it is 443."""
    uri = f"wss://localhost{port}/any/path?and=query"
    trusted = ssl.create_default_context(cafile=root)
    options = {"ping_interval": None, "compression": None, "host": "localhost", "port": 443}
    return await websockets.connect(uri, ssl=trusted, origin=origin, **options)


async def hear(client, count):
    return [await client.recv() for _ in range(count)]


async def passes_through(root, say):
    for option, version in ("--http2", "2"), ("--http1.1", "1.1"):
        *status, page = curl(root, option)
        seen = status == [0, f"{version} 200"] and "<title>wspush</title>" in page
        check(say(f"the page passes through, by HTTP/{version}"), seen, (status, page))
    requests = ["--head"], ["--request", "POST"], ["--header", "Sec-WebSocket-Version: 13"]
    seen = [curl(root, "--http2", *request)[:2] for request in requests]
    expected = [(0, f"2 {status}") for status in (200, 405, 426)]
    check(say("so do its head and the refusals, by HTTP/2"), seen == expected, seen)

    client = await connect(root)
    await client.send("hello")
    await client.send("start")
    heard = await hear(client, 4)
    expected = ["You did not say the magic word!"] + [f"Notification {n}" for n in (1, 2, 3)]
    check(say("a conversation passes through, by wss://"), heard == expected, heard)
    await client.close(4321)
    check(say("so does its close code"), client.close_code == 4321, client.close_code)

    client = await connect(root, "https://localhost:8443", ":8443")
    check(say("the origin rule holds for a port of one's own"), client.open)
    await client.close()
    try:
        await connect(root, "https://evil.example")
        status = 101
    except websockets.InvalidStatusCode as refused:
        status = refused.status_code
    check(say("another origin is refused"), status == 403, status)


def page_connects(say):
    browser = Chromium()
    browser.open(URL)
    until(
        lambda: browser.run("document.querySelector('#state').textContent") == "Connected to wss://localhost/any/path"
    )
    browser.click("#action")
    until(lambda: "Notification 2" in browser.run("document.querySelector('#log').textContent"))
    loaded_by = browser.run("performance.getEntriesByType('navigation')[0].nextHopProtocol")
    check(say("the page, loaded by HTTP/2, connects and is pushed to"), loaded_by == "h2", loaded_by)
    browser.quit()


async def moves_to_the_other(root, servers, say):
    connections = {}

    async def follow(name):
        """Connects again whenever it is sent away, and fails at anything else that ends it."""
        while True:
            client = connections[name] = await connect(root)
            await client.send("start")
            try:
                while True:
                    await client.recv()
            except websockets.ConnectionClosed as closed:
                assert closed.code == 1001, closed

    async def come_and_go():
        while dying.process.poll() is None:
            await (await connect(root)).close()

    async def when(condition):
        while not condition():
            for client in clients:
                if client.done():
                    client.result()
            await asyncio.sleep(0.02)

    def clients_of(server):
        return server.log().count(" connected ") - server.log().count(" disconnected ")

    dying, other = servers
    clients = [asyncio.create_task(follow(n)) for n in range(20)]
    await when(lambda: clients_of(dying) + clients_of(other) == 20)
    check(say("both instances have clients"), clients_of(dying) and clients_of(other))

    comers = [asyncio.create_task(come_and_go()) for _ in range(20)]
    await when(lambda: other.log().count(" connected ") > 100)
    dying.process.terminate()
    await when(lambda: dying.process.poll() is not None)
    _, _, afterwards = dying.log().partition(" stopping ")
    # Each of its threads may just have been letting one in.
    late = afterwards.count(" connected ")
    check(say("no new client is sent to the dying one"), afterwards and late <= os.cpu_count(), dying.log())
    await asyncio.gather(*comers)
    check(say("and none meets an error"), True)
    await when(lambda: all(client.open for client in connections.values()))
    check(say("at SIGTERM the clients of one move to the other"), True)
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)
    await asyncio.gather(*(client.close() for client in connections.values()))


async def try_through(proxy):
    def say(what):
        return f"{proxy}: {what}"

    ports = (8080, 8081) if proxy == "haproxy" else (8080,)
    servers = [Server("--interval", "0.1", "--listen", f"127.0.0.1:{port}") for port in ports]
    root = start(proxy)
    await passes_through(root, say)
    page_connects(say)
    connected = [line for server in servers for line in server.log().splitlines() if " connected " in line]
    addresses = re.findall(r' forwarded_for="(127\.0\.0\.1|::1)"', "\n".join(connected))
    check(say("the log has each client's address"), len(addresses) == len(connected) > 0, connected)
    if len(servers) > 1:
        await moves_to_the_other(root, servers, say)


async def try_idle(proxy, keepalive):
    """With a shorter time-out than the file's of 60 s, so that nobody waits so long for this."""
    with open(PROXIES[proxy][1]) as file, open("/run/proxy.conf", "w") as shortened:
        shortened.write(file.read().replace("60s", f"{IDLE}s"))
    Server("--keepalive", keepalive, "--interval", "0.1", "--listen", "127.0.0.1:8080")
    client = await connect(start(proxy, shortened.name))
    await asyncio.sleep(IDLE + 2)
    try:
        await client.send("start")
        seen = await hear(client, 2)
    except websockets.ConnectionClosed as closed:
        seen = closed.code
    if int(keepalive) < IDLE:
        stays = seen == ["Notification 1", "Notification 2"]
        check(f"{proxy}: with pings a client stays, idle for longer than the time-out", stays, seen)
    else:
        check(f"{proxy}: without them it is cut", seen == 1006, seen)


def main():
    sandbox.enter([*PACKAGES, "nginx", "caddy", "chromium", "chromium-driver"], time_limit=170)
    if len(sys.argv) > 2:
        keep_nothing()
        make_certificate()
        part = try_through if len(sys.argv) == 3 else try_idle
        asyncio.run(part(*sys.argv[2:]))
        return
    command = ["unshare", "--net", "--mount", sandbox.PYTHON, __file__, sandbox.binary()]
    # Caddy has no such time-out.
    idle = [(proxy, keepalive) for proxy in ("nginx", "haproxy") for keepalive in ("1", "60")]
    tries = [subprocess.Popen([*command, *one]) for one in [*idle, *([proxy] for proxy in PROXIES)]]
    sys.exit(any([one.wait() for one in tries]))


if __name__ == "__main__":
    main()
