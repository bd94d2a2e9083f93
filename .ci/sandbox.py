"""Runs a script in namespaces of its own: with a loopback where every port is free and from which nothing leads out,
and where every process that it started ends with it."""

import faulthandler
import os
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
    # Ends the script with what each thread is waiting for.
    faulthandler.dump_traceback_later(time_limit, exit=True)


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
        self.port = int(self.url.rstrip("/").rsplit(":", 1)[1])

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read()

    def stop(self):
        self.process.terminate()
        assert self.process.wait() == 0, self.log()

    def proc(self, name):
        return f"/proc/{self.process.pid}/{name}"

    def descriptors(self):
        return len(os.listdir(self.proc("fd")))

    def memory(self):
        """In KiB."""
        with open(self.proc("smaps_rollup")) as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:"))

    def processor_time(self):
        """In seconds."""
        times = 0
        for task in os.listdir(self.proc("task")):
            with open(self.proc(f"task/{task}/schedstat")) as schedstat:
                times += int(schedstat.read().split()[0])
        return times / 1e9


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
