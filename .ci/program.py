#!/usr/bin/env python3
"""Starts the program where standard streams are full or broken, descriptors and threads are few, or it is process 1 of
a container whose name server does not answer: it serves on, or says in one line what it lacks, and ends in time.

.ci/program.py [path of the program], as root; on Debian it installs what it needs."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import sandbox
from sandbox import Server, check, until
from watcher import SLACK, TEXT, Watched, upgraded

LOUD = {"env": {"RUST_LOG": "wspush=debug"}}
NOBODY = 65534
URL = r"ws://127\.0\.0\.1:(\d+)/\n"


def full_pipe():
    """Nobody reads it."""
    unread, pipe = os.pipe()
    os.set_blocking(pipe, False)
    for piece in b"x" * 4096, b"x":
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, piece)
    os.set_blocking(pipe, True)
    return unread, pipe


def status(*arguments, **process):
    """Of a program that ends by itself."""
    return subprocess.run([sandbox.binary(), *arguments], timeout=10, **process).returncode


def standard_streams_are_full():
    unread, pipe = full_pipe()
    # With the log in the same pipe, too.
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
    """Through a pipe that does not block, as Node's are: what does not fit may be lost, but not in silence."""
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
    # Until all that is going to come has come.
    came = -1
    while came != len(pieces):
        came = len(pieces)
        time.sleep(1)
    server.stop()
    reader.join()
    lines = b"".join(pieces).decode().splitlines(keepends=True)
    cut = [line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT\S+Z +[A-Z]+ .*\n$", line)]
    check("the log is read slowly: no line is cut", not cut, [line[:200] for line in cut])
    lost = [int(re.search(r"\d+", line[30:])[0]) for line in lines if re.search(r"\b(lost|dropped)\b", line)]
    arrived = len(lines) - len(lost)
    figures = f"{arrived} lines came, {sum(lost)} are counted as lost, {expected} were written"
    check(f"the log is read slowly: {figures}", arrived + sum(lost) == expected)


def descriptors_are_few():
    # With three, the dynamic loader already fails.
    ends_well("descriptors", range(4, 41), lambda n: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)))


def threads_are_few():
    limit = lambda n: resource.setrlimit(resource.RLIMIT_NPROC, (n, n))
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = shutil.copy(sandbox.binary(), folder)
        ends_well("threads", range(1, 9), limit, program, user=NOBODY, group=NOBODY, extra_groups=[])


def ends_well(what, limits, limit, program=None, **process):
    """It serves a connection, or it says in one line how many it takes."""
    served = set()
    for n in limits:
        command = [program or sandbox.binary(), "--listen", "127.0.0.1:0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {"RUST_LOG": "error"}}
        one = subprocess.Popen(command, preexec_fn=lambda: limit(n), **pipes, **process)
        if url := re.fullmatch(URL, one.stdout.readline()):
            upgraded(int(url[1])).close()
            served.add(n)
            one.terminate()
        _, error = one.communicate(timeout=10)
        reason = re.sub(r"\(os error \d+\)", "", error)
        right = one.returncode == 0 if url else one.returncode == 1 and re.fullmatch(r".*\d.*\n", reason)
        check(f"with {n} {what} it {'serves' if url else 'says: ' + error.strip()}", right, (one.returncode, error))
    check(
        f"with how many {what} it serves does not depend on chance", served == set(range(min(served), max(limits) + 1))
    )


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
    standard_streams_are_full()
    nobody_reads_the_log()
    the_log_is_read_slowly()
    descriptors_are_few()
    threads_are_few()
    the_name_server_does_not_answer()
    print(f"{sandbox.checks} passed, 0 failed")


main()
