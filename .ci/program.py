#!/usr/bin/env python3
"""Runs the program where nobody reads its log: it serves on, in bounded memory, and ends in time.

.ci/program.py [path of the program], as root; on Debian it installs what it needs."""

import os
import socket
import subprocess

import sandbox
from watcher import SLACK, Watched, upgraded

LOUD = {"env": {"RUST_LOG": "wspush=debug"}}


def fill_the_log(server):
    words = b"\x81\xfe\x0f\xa0\0\0\0\0" + b"x" * 4000
    for _ in range(10):
        client = upgraded(server.port)
        for _ in range(100):
            client.sendall(words)
            assert client.recv(2)[0] == 0x81
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


def main():
    sandbox.enter(["iproute2"], time_limit=120)
    nobody_reads_the_log()
    print(f"{sandbox.checks} passed, 0 failed")


main()
