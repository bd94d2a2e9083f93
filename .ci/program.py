#!/usr/bin/env python3
"""Starts the program with full or broken standard streams, with few descriptors, or as process 1 of a container whose
name server does not answer. It must serve, or say in one line what it lacks, and end in time.

.ci/program.py [path of the program], as root; on Debian it installs what it needs."""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time

import sandbox
from sandbox import Server, check, settle, until
from watcher import SLACK, START, TEXT, Watched, upgraded

LOUD = {"env": {"RUST_LOG": "wspush=debug"}}
URL = r"ws://127\.0\.0\.1:(\d+)/\n"


def full_pipe():
    """A pipe that nobody reads."""
    unread, pipe = os.pipe()
    os.set_blocking(pipe, False)
    for piece in b"x" * 4096, b"x":
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, piece)
    os.set_blocking(pipe, True)
    return unread, pipe


def status(*arguments, **process):
    """The exit status of a program that ends by itself."""
    return subprocess.run([sandbox.binary(), *arguments], timeout=10, **process).returncode


def standard_streams_are_full():
    unread, pipe = full_pipe()
    # Also with the log in the same pipe.
    for log in subprocess.DEVNULL, pipe:
        process = subprocess.Popen([sandbox.binary()], stdout=pipe, stderr=log)
        until(lambda: accepts(8080))
        upgraded(8080).close()
        process.terminate()
        check("standard output is full: serves, and SIGTERM ends it", process.wait(10) == 0, process.returncode)

    taken = socket.create_server(("127.0.0.1", 0))
    address = "127.0.0.1:%d" % taken.getsockname()[1]
    check("standard error is full: a port in use is exit status 1", status("--listen", address, stderr=pipe) == 1)
    check("standard error is full: a bad option is exit status 2", status("--bad", stderr=pipe) == 2)
    os.close(unread)
    check("standard error is broken: a port in use is exit status 1", status("--listen", address, stderr=pipe) == 1)
    check("standard error is broken: a bad option is exit status 2", status("--bad", stderr=pipe) == 2)
    os.close(pipe)


def accepts(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True


def without_arguments():
    process = subprocess.Popen([sandbox.binary()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = process.stdout.readline()
    check("without arguments it listens on localhost:8080", url == "ws://127.0.0.1:8080/\n", url)
    client = upgraded(8080)
    client.sendall(START)
    with client, client.makefile("rb") as stream:
        first, begin = stream.read(16), time.monotonic()
        second, seconds = stream.read(16), time.monotonic() - begin
    expected = [b"\x81\x0eNotification %d" % number for number in (1, 2)]
    check("without arguments it pushes numbered notifications", [first, second] == expected, (first, second))
    check(f"without arguments the second one comes {seconds:.2f} s after the first", 1.9 < seconds < 4)
    process.terminate()
    process.wait(10)


def fill_the_log(server, clients=10, length=4000):
    words = b"\x81\xfe" + length.to_bytes(2) + bytes(4) + b"x" * length
    for _ in range(clients):
        client = upgraded(server.port)
        for _ in range(100):
            client.sendall(words)
            assert client.recv(2)[0] == TEXT
            assert client.recv(31, socket.MSG_WAITALL) == b"You did not say the magic word!"
        client.close()


def nobody_reads_the_log():
    unread, pipe = os.pipe()
    server = Watched(**LOUD, stderr=pipe)
    server.suffer("standard error is a full pipe", fill_the_log, 10, 10 * SLACK)
    server.end("standard error is a full pipe")
    os.close(unread)
    os.close(pipe)

    with subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as head:
        server = Watched(**LOUD, stderr=head.stdin)
        head.stdin.close()
    server.suffer("standard error is a broken pipe", fill_the_log, 10, 10 * SLACK)
    server.end("standard error is a broken pipe")

    server = Watched(**LOUD, stderr=None, preexec_fn=lambda: os.close(2))
    server.suffer("standard error is closed", fill_the_log, 10, 10 * SLACK)
    server.end("standard error is closed")


def the_log_is_read_slowly():
    """Through a pipe that does not block, like Node's. What does not fit may be lost, but the log must say so."""
    many_lines = 200, 126
    whole = Server("--listen", "127.0.0.1:0", **LOUD)
    fill_the_log(whole, *many_lines)
    whole.stop()
    expected = whole.log().count("\n")

    reading, pipe = os.pipe()
    os.set_blocking(pipe, False)
    server = Server("--listen", "127.0.0.1:0", **LOUD, stderr=pipe)
    os.close(pipe)
    pieces = []

    def read_slowly():
        while piece := os.read(reading, 16384):
            pieces.append(piece)
            time.sleep(0.04)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    fill_the_log(server, *many_lines)
    settle(lambda: len(pieces))
    server.stop()
    reader.join()
    lines = b"".join(pieces).decode().splitlines(keepends=True)
    cut = [line for line in lines if not re.match(r"(\d{4}-\d\d-\d\dT\S+Z +[A-Z]+|wspush:) .*\n$", line)]
    check("the log is read slowly: no line is cut", not cut, [line[:200] for line in cut])
    lost = [int(match[1]) for line in lines if (match := re.search(r"\blost\b.* lines=(\d+)", line))]
    arrived = len(lines) - len(lost)
    figures = f"{arrived} lines arrived, {sum(lost)} are counted as lost, {expected} were written"
    check(f"the log is read slowly: {figures}", arrived + sum(lost) == expected)


def descriptors_are_few():
    """The program serves a connection, or says in one line how many descriptors it takes."""
    served = set()
    limits = range(4, 41)  # With three, the dynamic loader already fails.
    for n in limits:
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {"RUST_LOG": "error"}}
        process = subprocess.Popen([sandbox.binary(), "--listen", "127.0.0.1:0"], preexec_fn=limit, **pipes)
        if url := re.fullmatch(URL, process.stdout.readline()):
            upgraded(int(url[1])).close()
            served.add(n)
            process.terminate()
        _, error = process.communicate(timeout=10)
        reason = re.sub(r"\(os error \d+\)", "", error)
        right = process.returncode == 0 if url else process.returncode == 1 and re.fullmatch(r".*\d.*\n", reason)
        said = "serves" if url else f"says: {error.strip()}"
        check(f"with {n} descriptors it {said}", right, (process.returncode, error))
    what = f"it serves with {min(served)} descriptors or more"
    check(what, served == set(range(min(served), max(limits) + 1)), served)


def the_name_server_does_not_answer():
    with tempfile.NamedTemporaryFile("w") as configuration:
        configuration.write("nameserver 127.0.0.1\n")
        configuration.flush()
        subprocess.run(["mount", "--bind", configuration.name, "/etc/resolv.conf"], check=True)
    command = [sandbox.binary(), "--listen", "host.example:0"]
    container = ["unshare", "--pid", "--fork", "--mount-proc"]
    for what, wrapper in ("", []), (", as process 1", container):
        name_server = socket.socket(type=socket.SOCK_DGRAM)
        name_server.bind(("127.0.0.1", 53))
        process = subprocess.Popen([*wrapper, *command])
        name_server.recv(512)
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            program = int(children.read() or process.pid)
        begin = time.monotonic()
        os.kill(program, signal.SIGTERM)
        ended = process.wait(20)
        seen = f"exit status {ended} after {time.monotonic() - begin:.2f} s"
        in_time = time.monotonic() - begin < 1
        check(f"SIGTERM while the host is resolved{what}: {seen}", ended == 0 and in_time)
        name_server.close()


def main():
    sandbox.enter(["iproute2"], time_limit=120)
    without_arguments()
    standard_streams_are_full()
    nobody_reads_the_log()
    the_log_is_read_slowly()
    descriptors_are_few()
    the_name_server_does_not_answer()
    print(f"{sandbox.checks} passed, 0 failed")


main()
