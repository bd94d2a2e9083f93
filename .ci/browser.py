#!/usr/bin/env python3
"""Tries the page that a 426 carries in a real browser: .ci/browser [path of the program]"""

import http.server
import json
import subprocess
import tempfile
import threading
import urllib.request

import sandbox
from sandbox import Server, check, until

DRIVER = "http://127.0.0.1:9515"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # The key of an element in W3C WebDriver.
TAB, ENTER = "\ue004", "\ue007"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Browser:
    """As much of W3C WebDriver as is needed."""

    def __init__(self, profile, *flags):
        options = {"args": [*FLAGS, f"--user-data-dir={profile}", *flags]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.session = ""
        self.session = "/" + self.call("", wanted)["sessionId"]

    def call(self, command, body=None, method="POST"):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        url = f"{DRIVER}/session{self.session}{command}"
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method)) as answer:
            return json.load(answer)["value"]

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

    def state(self):
        return self.run("document.querySelector('#state').textContent")

    def said(self, who):
        """What they said, the oldest first."""
        script = """[...document.querySelectorAll('#log p')].reverse()
            .filter(line => line.children[1].textContent === arguments[0])
            .map(line => line.children[2].textContent)"""
        return self.run(script, who)


def start_driver():
    subprocess.Popen(["chromedriver", "--port=9515"], stdout=subprocess.DEVNULL)

    def ready():
        try:
            return urllib.request.urlopen(DRIVER + "/status").status == 200
        except OSError:
            return False

    until(ready)


def a_conversation(browser):
    server = Server("--interval", "0.1")
    browser.open("http://localhost:8080/any/path?and=query#fragment")
    connected = "Connected to ws://localhost:8080/any/path?and=query"
    until(lambda: browser.state() == connected)
    check("the page connects to where it came from", True)

    browser.type("hello" + ENTER)
    until(lambda: browser.said("server") == ["You did not say the magic word!"])
    check("a wrong word, said by keyboard, is answered", browser.said("you") == ["hello"])

    browser.type(TAB + TAB)
    browser.type(ENTER)
    notifications = until(lambda: len(said := browser.said("server")) > 3 and said[1:4])
    check("start is answered with notifications in order", notifications == [f"Notification {n}" for n in (1, 2, 3)])
    until(lambda: browser.run("document.querySelector('#log').ariaLive") == "off")
    check("a screen reader is not told of every notification for ever", True)

    server.stop()
    closed = until(lambda: browser.said("closed"))
    check("a stopping server says 1001", closed[0].startswith("1001 (the server is going away"), closed)
    check("the state says so too", browser.state().startswith("Closed with 1001"), browser.state())

    browser.click("#again")
    until(lambda: browser.said("closed")[1:])
    check("without a server it is 1006", browser.state().startswith("Closed with 1006"), browser.state())

    server = Server("--interval", "0.1")
    browser.click("#again")
    until(lambda: browser.state() == connected)
    browser.click("#start")
    until(lambda: browser.said("server")[-1] == "Notification 3")
    check("it connects again when the server is back", True)
    # One connection, and no try for /favicon.ico or the like.
    check("the log has no line more than the connection's", "refused" not in server.log(), server.log())
    server.stop()


def the_page_itself(browser):
    server = Server()
    browser.call("/window/rect", {"width": 320, "height": 640})
    browser.open("http://localhost:8080/")
    until(lambda: browser.state().startswith("Connected"))
    named = {
        "header": ["banner", ""], "main": ["main", ""], "#state": ["status", ""], "#word": ["textbox", "Say"],
        "form button": ["button", "Send"], "#start": ["button", "Say start"],
        "#log": ["log", "What was said, newest first"],
    }  # fmt: skip
    seen = {css: browser.role_and_label(css) for css in named}
    check("a screen reader finds landmarks, roles and names", seen == named, seen)
    browser.type("x" * 200 + ENTER)
    until(lambda: browser.said("server"))
    width, window = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    check("it fits a phone's width", width <= window, (width, window))

    colours = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        parameters = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        browser.call("/goog/cdp/execute", parameters)
        colours.add(browser.run("getComputedStyle(document.querySelector('#start')).backgroundColor"))
    check("it has light and dark colours", len(colours) == 2, colours)
    server.stop()


def many_notifications(browser):
    server = Server("--interval", "0.001")
    browser.open("http://localhost:8080/")
    until(lambda: browser.state().startswith("Connected"))
    browser.click("#start")
    newest = "document.querySelector('#log span').textContent"
    until(lambda: int(browser.run(newest).removeprefix("Notification ").replace("start", "0")) > 10_000)
    lines = browser.run("document.querySelectorAll('#log p').length")
    check("of 10,000 notifications old lines leave", lines == 500, lines)
    top = browser.run("document.querySelector('#log p').getBoundingClientRect().top < innerHeight")
    check("the newest is in sight", top)
    server.stop()


def another_origin(browser):
    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(204 if "icon" in self.path else 200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = Server()
    other = http.server.HTTPServer(("127.0.0.1", 8081), Empty)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    browser.open("http://localhost:8081/")
    script = """const done = arguments[0], socket = new WebSocket('ws://localhost:8080/');
        socket.onopen = () => done('opened');
        socket.onclose = ({ code }) => done(code);"""
    code = browser.call("/execute/async", {"script": script, "args": []})
    check("a page from another origin is refused", code == 1006 and "status=403" in server.log(), (code, server.log()))
    server.stop()


def main():
    sandbox.enter(["chromium", "chromium-driver", "iproute2"], time_limit=110)
    start_driver()
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        for part in (a_conversation, the_page_itself, many_notifications, another_origin):
            part(browser)
        browser.call("", method="DELETE")
    print(f"{sandbox.checks} passed, 0 failed")


main()
