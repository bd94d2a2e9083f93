"""Runs a script in namespaces of its own, where every port is free, nothing outside can be reached, and all its
processes end with it."""

import faulthandler
import os
import resource
import subprocess
import sys
import tempfile
import time

INSIDE = "WSPUSH_SANDBOX"
PYTHON = "/usr/bin/python3"  # The one that Debian's packages are for.
checks = 0


def enter(packages, time_limit):
    """Installs Debian packages, then starts the script again inside. It returns only there."""
    if INSIDE not in os.environ:
        install = os.path.join(os.path.dirname(__file__), "install.sh")
        subprocess.run([install, *packages], check=True)
        os.environ[INSIDE] = "1"
        namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", ["unshare", *namespaces, PYTHON, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Ends the script and prints what each thread is waiting for.
    faulthandler.dump_traceback_later(time_limit, exit=True)


def raise_descriptor_limit():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def binary():
    return sys.argv[1] if len(sys.argv) > 1 else "target/release/wspush"


class Server:
    """The program, once it accepts connections."""

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
        return self.kibibytes("smaps_rollup", "Rss:")

    def kibibytes(self, file, field):
        with open(self.proc(file)) as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(field))

    def processor_time(self):
        return processor_time(self.process.pid)


def processor_time(process):
    """In seconds."""
    times = 0
    for task in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{task}/schedstat") as schedstat:
            times += int(schedstat.read().split()[0])
    return times / 1e9


def until(condition):
    """Waits until the condition holds, and returns its value. The script's time limit ends this wait too."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def settle(value):
    """Waits until the value has stayed the same for a second."""
    before = None
    while (now := value()) != before:
        before = now
        time.sleep(1)


def check(what, holds, seen=""):
    global checks
    if not holds:
        sys.exit(f"not ok: {what}\n{seen}")
    checks += 1
    print(f"ok: {what}", flush=True)
