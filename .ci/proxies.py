#!/usr/bin/env python3
"""Tries the configurations in deploy/ as they lie there: .ci/proxies [path of the program]"""

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import sandbox
from sandbox import Server, check, until

PROXIES = {
    "nginx": ["nginx", "-c", os.path.abspath("deploy/nginx.conf"), "-g", "daemon off;"],
    "haproxy": ["haproxy", "-f", "deploy/haproxy.cfg"],
    "caddy": ["caddy", "run", "--config", "deploy/Caddyfile"],
}
CERTIFICATE = "/etc/ssl/wspush.pem"
# More than nginx's default, which is HAProxy's in deploy/ too.
IDLE = 65


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


def start(proxy):
    """Returns what a client needs to trust it."""
    environment = os.environ | {"XDG_DATA_HOME": "/run"}
    log = open("/run/proxy.log", "w")
    process = subprocess.Popen(PROXIES[proxy], stdout=log, stderr=log, env=environment)
    # Caddy makes its certificate for localhost itself.
    root = "/run/caddy/pki/authorities/local/root.crt" if proxy == "caddy" else CERTIFICATE

    def answers():
        if process.poll() is not None:
            sys.exit(open(log.name).read())
        try:
            trusted = ssl.create_default_context(cafile=root)
            return get(trusted) and trusted
        except OSError:
            return None

    return until(answers)


def get(trusted):
    try:
        return urllib.request.urlopen("https://localhost/any/path", context=trusted)
    except urllib.error.HTTPError as error:
        return error


async def connect(trusted, origin="https://localhost", port=""):
    """The port is only what the client says that it goes to: in truth it is 443."""
    uri = f"wss://localhost{port}/any/path?and=query"
    options = {"ping_interval": None, "compression": None, "host": "localhost", "port": 443}
    return await websockets.connect(uri, ssl=trusted, origin=origin, **options)


async def hear(client, count):
    return [await client.recv() for _ in range(count)]


async def passes_through(trusted, say):
    answer = get(trusted)
    page = answer.headers["Content-Type"].startswith("text/html") and b"<title>wspush</title>" in answer.read()
    policy = "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    check(say("the 426 and its page pass through"), answer.status == 426 and page and policy, answer.headers)

    client = await connect(trusted)
    await client.send("hello")
    await client.send("start")
    heard = await hear(client, 4)
    expected = ["You did not say the magic word!"] + [f"Notification {n}" for n in (1, 2, 3)]
    check(say("a conversation passes through, by wss://"), heard == expected, heard)
    await client.close(4321)
    check(say("so does its close code"), client.close_code == 4321, client.close_code)

    client = await connect(trusted, "https://localhost:8443", ":8443")
    check(say("the origin rule holds for a port of one's own"), client.open)
    await client.close()
    try:
        await connect(trusted, "https://evil.example")
        status = 101
    except websockets.InvalidStatusCode as refused:
        status = refused.status_code
    check(say("another origin is refused"), status == 403, status)


async def stays_when_idle(idle, say):
    await asyncio.sleep(IDLE)
    await idle.send("start")
    heard = await hear(idle, 2)
    check(say(f"a client idle for {IDLE} s stays"), heard == ["Notification 1", "Notification 2"], heard)


async def moves_to_the_other(trusted, servers, say):
    connections = {}

    async def follow(name):
        """Connects again whenever it is sent away, and fails at anything else that ends it."""
        while True:
            client = connections[name] = await connect(trusted)
            await client.send("start")
            try:
                while True:
                    await client.recv()
            except websockets.ConnectionClosed as closed:
                assert closed.code == 1001, closed

    async def come_and_go():
        while dying.process.poll() is None:
            await (await connect(trusted)).close()

    async def when(condition):
        while not condition():
            for client in clients:
                if client.done():
                    client.result()
            await asyncio.sleep(0.02)

    def clients_of(server):
        return server.log().count(" connected ") - server.log().count(" gone ")

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


async def try_through(proxy):
    def say(what):
        return f"{proxy}: {what}"

    ports = (8080, 8081) if proxy == "haproxy" else (8080,)
    servers = [Server("--interval", "0.1", "--listen", f"127.0.0.1:{port}") for port in ports]
    trusted = start(proxy)
    idle = await connect(trusted)
    await passes_through(trusted, say)
    await stays_when_idle(idle, say)
    await idle.close()
    if len(servers) > 1:
        await moves_to_the_other(trusted, servers, say)


def main():
    sandbox.enter(["nginx", "haproxy", "caddy", "python3-websockets", "openssl", "iproute2"], time_limit=110)
    if len(sys.argv) > 2:
        global websockets
        import websockets

        keep_nothing()
        make_certificate()
        asyncio.run(try_through(sys.argv[2]))
        return
    command = ["unshare", "--net", "--mount", sandbox.PYTHON, __file__, sandbox.binary()]
    tries = [subprocess.Popen([*command, proxy]) for proxy in PROXIES]
    sys.exit(any([one.wait() for one in tries]))


main()
