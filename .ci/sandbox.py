"""Runs a script in namespaces of its own: with a loopback where every port is free and from which nothing leads out,
and where every process that it started ends with it."""

import os
import signal
import subprocess
import sys
import tempfile
import time

INSIDE = "WSPUSH_SANDBOX"
PYTHON = "/usr/bin/python3"  # The one that Debian's packages are for.
checks = 0


def enter(packages, time_limit):
    """Installs Debian's packages and begins the script anew inside; the rest of it runs only there."""
    if INSIDE not in os.environ:
        install = os.path.join(os.path.dirname(__file__), "install.sh")
        subprocess.run([install, *packages], check=True)
        os.environ[INSIDE] = "1"
        namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", ["unshare", *namespaces, PYTHON, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(time_limit)


def out_of_time(*_):
    raise TimeoutError("this took too long")


def binary():
    return sys.argv[1] if len(sys.argv) > 1 else "target/release/wspush"


class Server:
    """The program, from the moment on at which it accepts connections."""

    def __init__(self, *arguments, **process):
        self.log_file = tempfile.NamedTemporaryFile("r")
        with open(self.log_file.name, "w") as log:
            process = {"stdout": subprocess.PIPE, "stderr": log, "text": True} | process
            self.process = subprocess.Popen([binary(), *arguments], **process)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("ws://"), self.log()

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read()

    def stop(self):
        self.process.terminate()
        assert self.process.wait() == 0, self.log()


def until(condition):
    """Waits until the condition holds, and returns what it gave; the script's time limit ends this wait too."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def check(what, holds, seen=""):
    global checks
    if not holds:
        sys.exit(f"not ok: {what}\n{seen}")
    checks += 1
    print(f"ok: {what}", flush=True)
