#!/usr/bin/env python3
"""Tries the page in Chromium, Firefox and WebKit: .ci/browser.py [path of the program]"""

import http.server
import signal
import subprocess
import sys
import threading

import sandbox
from sandbox import Server, check, until
from webdriver import Chromium, Firefox, WebKit

BROWSERS = {browser.__name__: browser for browser in (Chromium, Firefox, WebKit)}
TAB, ENTER = "\ue004", "\ue007"


def state(browser):
    return browser.run("document.querySelector('#state').textContent")


def said(browser, who):
    """What they said, the oldest first."""
    script = """[...document.querySelectorAll('#log p')].reverse()
        .filter(line => line.children[1].textContent === arguments[0])
        .map(line => line.children[2].textContent)"""
    return browser.run(script, who)


def a_conversation(browser):
    server = Server("--interval", "0.1")
    browser.open("http://localhost:8080/any/path?and=query#fragment")
    connected = "Connected to ws://localhost:8080/any/path?and=query"
    until(lambda: state(browser) == connected)
    check("the page connects to where it came from", True)

    browser.type("hello" + ENTER)
    until(lambda: said(browser, "server") == ["You did not say the magic word!"])
    check("a wrong word, said by keyboard, is answered", said(browser, "you") == ["hello"])

    browser.type(TAB + TAB)
    browser.type(ENTER)
    notifications = until(lambda: len(lines := said(browser, "server")) > 3 and lines[1:4])
    check("start is answered with notifications in order", notifications == [f"Notification {n}" for n in (1, 2, 3)])
    until(lambda: browser.run("document.querySelector('#log').ariaLive") == "off")
    check("a screen reader does not read out every notification", True)

    server.stop()
    closed = until(lambda: said(browser, "closed"))
    check("a stopping server says 1001", closed[0].startswith("1001 (the server is going away"), closed)
    check("the state says so too", state(browser).startswith("Closed with 1001"), state(browser))

    browser.click("#again")
    until(lambda: said(browser, "closed")[1:])
    check("without a server it is 1006", state(browser).startswith("Closed with 1006"), state(browser))

    server = Server("--interval", "0.1")
    browser.click("#again")
    until(lambda: state(browser) == connected)
    browser.click("#start")
    until(lambda: said(browser, "server")[-1] == "Notification 3")
    check("it connects again when the server is back", True)
    # One connection, and no try for /favicon.ico or the like.
    check("the log has no line more than the connection's", "refused" not in server.log(), server.log())
    server.stop()


def the_page_itself(browser):
    server = Server()
    browser.call("/window/rect", {"width": 320, "height": 640})
    browser.open("http://localhost:8080/")
    until(lambda: state(browser).startswith("Connected"))
    named = {
        "header": ["banner", ""], "main": ["main", ""], "#state": ["status", ""], "#word": ["textbox", "Say"],
        "form button": ["button", "Send"], "#start": ["button", "Say start"],
        "#log": ["log", "Messages, newest first"],
    }  # fmt: skip
    seen = {css: browser.role_and_label(css) for css in named}
    check("a screen reader finds landmarks, roles and names", seen == named, seen)
    browser.type("x" * 200 + ENTER)
    until(lambda: said(browser, "server"))
    width, window = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    check("it fits a phone's width", width <= window, (width, window))
    server.stop()


def its_colours(browser):
    server = Server()
    browser.open("http://localhost:8080/")
    colours = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        parameters = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        browser.call("/goog/cdp/execute", parameters)
        colours.add(browser.run("getComputedStyle(document.querySelector('#start')).backgroundColor"))
    check("it has light and dark colours", len(colours) == 2, colours)
    server.stop()


class EmptyPage(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204 if "icon" in self.path else 200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_):
        pass


def another_origin(browser):
    server = Server()
    browser.open("http://localhost:8081/")
    script = """const done = arguments[0], socket = new WebSocket('ws://localhost:8080/');
        socket.onopen = () => done('opened');
        socket.onclose = ({ code }) => done(code);"""
    code = browser.call("/execute/async", {"script": script, "args": []})
    check("a page from another origin is refused", code == 1006 and "status=403" in server.log(), (code, server.log()))
    server.stop()


def lines_of_standard_input(browser):
    server = Server("--stdin", stdin=subprocess.PIPE)

    def push(*lines):
        server.process.stdin.writelines(line + "\n" for line in lines)
        server.process.stdin.flush()

    def connect():
        until(lambda: state(browser).startswith("Connected"))
        browser.click("#start")
        # That the server has heard it, only a line can show.
        until(lambda: push("ready?") or "ready?" in said(browser, "server"))

    browser.open("http://localhost:8080/")
    connect()
    push("<b>déploiement</b> ✓", "", "  done ")
    newest = until(lambda: (lines := said(browser, "server"))[-1] == "  done " and lines[-2:])
    check("lines are shown as they are", newest == ["<b>déploiement</b> ✓", "  done "], newest)
    push(*(f"line {n}" for n in range(10_000)))
    until(lambda: said(browser, "server")[-1] == "line 9999")
    lines = said(browser, "server")
    check("of 10,000 lines the newest stay", lines == [f"line {n}" for n in range(9500, 10_000)], lines)
    top = browser.run("document.querySelector('#log p').getBoundingClientRect().top < innerHeight")
    check("and the newest is in sight", top)

    # Twice the lines that the server keeps for a client; main() sees to it that the socket has room for few.
    browser.signal(signal.SIGSTOP)
    push(*("x" * 1000 for _ in range(8192)))
    browser.signal(signal.SIGCONT)
    # WebKitGTK's library, libsoup, takes 1013 for a protocol error: the page sees 1006.
    expected = ["1013 (too far behind"] + ["1006 ("] * isinstance(browser, WebKit)
    check_closed(browser, "that it fell behind is shown with its meaning", *expected)
    browser.click("#again")
    connect()
    server.process.stdin.close()
    check_closed(browser, "the end of the input is shown with its meaning", "1000 (there is no more")
    check("and the server ends", server.process.wait() == 0, server.log())


def check_closed(browser, what, *expected):
    closed = until(lambda: (now := state(browser)).startswith("Closed with ") and now)
    check(what, closed.removeprefix("Closed with ").startswith(expected), closed)


def no_complaint(browser):
    complaints = [message for message in browser.console() if "Content-Security-Policy" in message]
    check("its console has no complaint about the page", not complaints, complaints)


def main():
    packages = ["chromium", "chromium-driver", "firefox-esr", "webkit2gtk-driver", "xvfb", "iproute2"]
    sandbox.enter(packages, time_limit=170)
    # Of the browsers' sockets, so that they soon fall behind.
    with open("/proc/sys/net/ipv4/tcp_rmem", "w") as receive_buffer:
        receive_buffer.write("4096 65536 65536")
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 8081), EmptyPage)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    everywhere = (a_conversation, the_page_itself, another_origin, lines_of_standard_input)
    only = {"Chromium": [its_colours], "Firefox": [no_complaint], "WebKit": []}
    for name in sys.argv[2:] or BROWSERS:
        browser = BROWSERS[name]()
        for part in (*everywhere, *only[name]):
            print(f"{name}, {part.__name__.replace('_', ' ')}:", flush=True)
            part(browser)
        browser.quit()
    print(f"{sandbox.checks} passed, 0 failed")


main()
