"""Three browsers without a window, and as much of W3C WebDriver as is needed to use them."""

import glob
import json
import os
import re
import socket
import subprocess
import tempfile
import urllib.request

from sandbox import until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # The key of an element in W3C WebDriver.


class Browser:
    """Started by its driver, which listens on 127.0.0.1."""

    port = 4444

    def __init__(self, driver, options):
        # Nothing that it writes outlives it.
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        environment = os.environ | {"HOME": self.home.name, "NO_AT_BRIDGE": "1"}
        self.process = subprocess.Popen(driver, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        self.connection = until(self.connect)
        self.path = "/session"
        self.path += "/" + self.call("", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def connect(self):
        assert self.process.poll() is None, "the browser's driver ended"
        try:
            return socket.create_connection(("127.0.0.1", self.port))
        except OSError:
            return None

    def call(self, command, body=None, method="POST"):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{self.path}{command}", data, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["value"]

    def quit(self):
        self.call("", method="DELETE")
        self.process.terminate()
        self.process.wait()

    def signal(self, number):
        """To all its processes, such as SIGSTOP and SIGCONT."""
        processes = [self.process.pid]
        for one in processes:
            for children in glob.glob(f"/proc/{one}/task/*/children"):
                processes += map(int, open(children).read().split())
        for one in processes:
            os.kill(one, number)

    def open(self, url):
        self.call("/url", {"url": url})

    def run(self, script, *arguments):
        return self.call("/execute/sync", {"script": "return " + script, "args": arguments})

    def element(self, css):
        found = self.call("/element", {"using": "css selector", "value": css})
        return "/element/" + found[ELEMENT]

    def click(self, css):
        self.call(self.element(css) + "/click")

    def type(self, keys):
        """Into whatever has the focus."""
        focused = self.call("/element/active", method="GET")[ELEMENT]
        self.call(f"/element/{focused}/value", {"text": keys})

    def role_and_label(self, css):
        element = self.element(css)
        return [self.call(f"{element}/computed{what}", method="GET") for what in ("role", "label")]


class Chromium(Browser):
    def __init__(self):
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
        ]  # fmt: skip
        options = {"goog:chromeOptions": {"args": arguments}, "acceptInsecureCerts": True}
        super().__init__(["chromedriver", "--port=4444"], options)


class WebKit(Browser):
    def __init__(self):
        # It has no headless mode, so it gets a screen that nobody sees.
        screen = ["Xvfb", "-displayfd", "1", "-nolisten", "tcp"]
        self.screen = subprocess.Popen(screen, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        os.environ["DISPLAY"] = ":" + self.screen.stdout.readline().strip()
        program = glob.glob("/usr/lib/*/webkit2gtk-4.*/MiniBrowser")[0]
        options = {"webkitgtk:browserOptions": {"binary": program, "args": ["--automation"]}}
        super().__init__(["WebKitWebDriver", "--port=4444"], options)

    def quit(self):
        super().quit()
        self.screen.terminate()
        self.screen.wait()


class Firefox(Browser):
    """Speaks Marionette, which has WebDriver's commands by other names, over TCP: Debian has no geckodriver."""

    port = 2828
    NAMES = {
        "": "NewSession", "/url": "Navigate", "/window/rect": "SetWindowRect", "/element": "FindElement",
        "/execute/sync": "ExecuteScript", "/execute/async": "ExecuteAsyncScript", "/element/active": "GetActiveElement",
        "/element/*/click": "ElementClick", "/element/*/value": "ElementSendKeys",
        "/element/*/computedrole": "GetComputedRole", "/element/*/computedlabel": "GetComputedLabel",
    }  # fmt: skip

    def __init__(self):
        # System access is for reading its console.
        super().__init__(["firefox-esr", "--headless", "--marionette", "--remote-allow-system-access"], {})

    def connect(self):
        connection = super().connect()
        stream = connection and connection.makefile("rwb")
        return stream and self.receive(stream) and stream

    def receive(self, stream):
        length = b""
        while (digit := stream.read(1)).isdigit():
            length += digit
        return json.loads(stream.read(int(length)))

    def call(self, command, body=None, method="POST"):
        generic = re.sub("/element/(?!active)[^/]+", "/element/*", command)
        body = dict(body or {})
        if generic != command:
            body["id"] = command.split("/")[2]
        return self.marionette("WebDriver:" + self.NAMES[generic], body)

    def marionette(self, name, body):
        message = json.dumps([0, 1, name, body]).encode()
        self.connection.write(b"%d:%s" % (len(message), message))
        self.connection.flush()
        _, _, error, result = self.receive(self.connection)
        assert not error, error
        return result.get("value", result)

    def quit(self):
        self.marionette("Marionette:Quit", {"flags": ["eForceQuit"]})
        self.process.wait()

    def console(self):
        """The messages of the browser's own console, where complaints about a page are too."""
        self.marionette("Marionette:SetContext", {"value": "chrome"})
        messages = self.run("Services.console.getMessageArray().map(message => message.message)")
        self.marionette("Marionette:SetContext", {"value": "content"})
        return messages
