#!/usr/bin/env python3
"""Tries the page in Chromium, Firefox and WebKit: .ci/browser.py [path of the program]"""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import sandbox
from sandbox import Server, check, until
from webdriver import Chromium, Firefox, WebKit

# Chromium last, where keeping up is checked: by then, the scripts beside this one have ended.
BROWSERS = {browser.__name__: browser for browser in (Firefox, WebKit, Chromium)}
SHIFT, TAB, ENTER = "\ue008", "\ue004", "\ue007"
RATE = 10_000  # Lines a second that the page has to keep up with.


def text(browser, css):
    return browser.run("document.querySelector(arguments[0]).textContent", css)


def state(browser):
    return text(browser, "#state")


def lines(browser):
    """The log: who said what, the oldest first."""
    script = "[...document.querySelectorAll('#log p')].map(line => [line.className, line.children[2].textContent])"
    return browser.run(script)


def said(browser, by):
    return [what for who, what in lines(browser) if who == by]


def since_closed(browser):
    """The log from the last time on that the connection was closed."""
    found = lines(browser)
    closed = [number for number, (who, _) in enumerate(found) if who == "closed"]
    return found[closed[-1] :] if closed else []


def a_conversation(browser):
    server = Server("--interval", "0.1")
    browser.open("http://localhost:8080/any/path?token=secret#fragment")
    connected = "Connected to ws://localhost:8080/any/path"
    until(lambda: state(browser) == connected)
    check("the page connects to where it came from, and shows no token", True)
    check("an empty list says what to do", text(browser, "#hint") == "Press Start to receive messages.")

    browser.click("#word")
    browser.type("hello" + ENTER)
    until(lambda: said(browser, "server") == ["You did not say the magic word!"])
    check("a wrong word, said by keyboard, is answered", said(browser, "you") == ["hello"])

    browser.type(SHIFT + TAB)
    browser.type(ENTER)
    notifications = until(lambda: len(found := said(browser, "server")) > 3 and found[1:4])
    check("start is answered with notifications in order", notifications == [f"Notification {n}" for n in (1, 2, 3)])
    focused, shown = browser.run("[document.activeElement.id, !document.querySelector('#next').hidden]")
    check("the button is gone, and the log has the focus", focused == "log" and not shown, (focused, shown))
    until(lambda: browser.run("document.querySelector('#log').ariaLive") == "off")
    check("a screen reader does not read out every notification", True)

    server.stop()
    server = Server("--interval", "0.1")
    seen = until(lambda: (found := since_closed(browser))[2:] and found[:3])
    again = [["closed", "1001 (the server is stopping)"], ["you", "start"], ["server", "Notification 1"]]
    check("it connects again by itself and says start again, below a line that separates", seen == again, seen)

    server.stop()
    # That is the pause after an attempt that failed.
    until(lambda: text(browser, "#hint") in ("Connecting again in 3 s.", "Connecting again in 4 s."))
    check("without a server it is 1006", state(browser) == "Closed with 1006 (lost or refused)", state(browser))
    check("attempts that failed are no lines", len(said(browser, "closed")) == 2, lines(browser))
    server = Server("--interval", "0.1")
    browser.click("#action")
    seen = until(lambda: (found := since_closed(browser))[2:] and found[:3])
    check("a button connects at once", seen == again, seen)
    # One connection, and no request for /favicon.ico or the like.
    check("the server's log has no line more than the connection's", "refused" not in server.log(), server.log())
    server.stop()


def the_page_itself(browser):
    server = Server()
    browser.call("/window/rect", {"width": 320, "height": 640})
    browser.open("http://localhost:8080/")
    until(lambda: state(browser).startswith("Connected"))
    named = {
        "header": ["banner", ""], "main": ["main", ""], "#state": ["status", ""], "#word": ["textbox", "Say"],
        "#send": ["button", "Send"], "#action": ["button", "Start"], "#log": ["log", "Messages, newest last"],
    }  # fmt: skip
    seen = {css: browser.role_and_label(css) for css in named}
    check("a screen reader finds landmarks, roles and names", seen == named, seen)
    browser.click("#word")
    browser.type("x" * 200 + ENTER)
    until(lambda: said(browser, "server"))
    width, window = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    check("it fits a phone's width", width <= window, (width, window))
    script = "[...document.querySelectorAll('#log .you *')].map(part => part.getBoundingClientRect().left)"
    when, who, words = browser.run(script)
    check("there, time and sender are above the text", when == words < who, (when, who, words))
    server.stop()


def its_colours(browser):
    server = Server()
    browser.open("http://localhost:8080/")
    colours = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        parameters = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        browser.call("/goog/cdp/execute", parameters)
        colours.add(browser.run("getComputedStyle(document.querySelector('#action')).backgroundColor"))
    check("it has light and dark colours", len(colours) == 2, colours)
    server.stop()


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another origin: an empty page, and under /private the server's own page, but no client is let in."""

    page, attempts = b"", []

    def do_GET(self):
        if upgrade := "Upgrade" in self.headers:
            self.attempts.append(self.path)
        self.send_response(401 if upgrade else 204 if "icon" in self.path else 200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path.startswith("/private") and not upgrade:
            self.wfile.write(self.page)

    def log_message(self, *_):
        pass


def another_origin(browser):
    server = Server()
    browser.open("http://localhost:8081/")
    script = """const done = arguments[0], socket = new WebSocket('ws://localhost:8080/');
        socket.onopen = () => done('opened');
        socket.onclose = ({ code }) => done(code);"""
    code = browser.call("/execute/async", {"script": script, "args": []})
    until(lambda: "status=403" in server.log())
    check("a page from another origin is refused", code == 1006, code)
    server.stop()


def a_token(browser):
    server = Server()
    with urllib.request.urlopen("http://localhost:8080/") as answer:
        Elsewhere.page = answer.read()
    server.stop()
    Elsewhere.attempts.clear()
    browser.open("http://localhost:8081/private?token=secret")
    until(lambda: len(Elsewhere.attempts) > 1)
    seen = set(Elsewhere.attempts)
    check("the query is passed on, and a refusal is no reason to give up", seen == {"/private?token=secret"}, seen)
    shown = browser.run("document.documentElement.outerHTML")
    check("a token in it is not shown", "secret" not in shown, shown)


class Lines(Server):
    """Pushes lines of standard input to the page in a browser."""

    def __init__(self, browser):
        super().__init__("--stdin", stdin=subprocess.PIPE)
        self.browser = browser

    def push(self, *lines):
        self.process.stdin.writelines(line + "\n" for line in lines)
        self.process.stdin.flush()

    def started(self):
        """Waits until the server has heard start, which only a line can show."""
        first, last = f"first {time.monotonic()}", f"last {time.monotonic()}"
        until(lambda: self.push(first) or first in said(self.browser, "server"))
        self.push(last)
        until(lambda: said(self.browser, "server")[-1] == last)

    def open(self):
        self.browser.open("http://localhost:8080/")
        until(lambda: state(self.browser).startswith("Connected"))
        self.browser.click("#action")
        self.started()


def lines_of_standard_input(browser):
    default = receive_buffer("4096 65536 65536")  # So that the browser soon falls behind.
    server = Lines(browser)
    server.open()
    server.push("<b>déploiement</b> ✓", "", "  done ")
    newest = until(lambda: (found := said(browser, "server"))[-1] == "  done " and found[-2:])
    check("lines are shown as they are", newest == ["<b>déploiement</b> ✓", "  done "], newest)
    server.push(*(f"line {n}" for n in range(10_000)))
    until(lambda: said(browser, "server")[-1] == "line 9999")
    found = said(browser, "server")
    check("of 10,000 lines the newest stay", found == [f"line {n}" for n in range(9500, 10_000)], found[:1])
    bottom = "document.querySelector('#log p:last-child').getBoundingClientRect().bottom"
    until(lambda: browser.run(bottom + " <= innerHeight"))
    check("and the newest is in sight", True)

    browser.run("scrollBy(0, -100)")
    hidden = "document.querySelector('#newer').hidden"
    until(lambda: server.push("later") or not browser.run(hidden))
    found, offered = said(browser, "server"), text(browser, "#newer")
    server.push("newest")
    until(lambda: text(browser, "#newer") != offered)
    check("while somebody reads further up, nothing moves", said(browser, "server") == found)
    browser.click("#newer")
    until(lambda: said(browser, "server")[-1] == "newest")
    check("until they return to the end", browser.run(bottom + " <= innerHeight"))

    # Twice the lines that the server keeps for a client.
    browser.signal(signal.SIGSTOP)
    server.push(*("x" * 1000 for _ in range(8192)))
    browser.signal(signal.SIGCONT)
    closed = until(lambda: said(browser, "closed"))
    # WebKitGTK's library, libsoup, takes 1013 for a protocol error: the page sees 1006.
    expected = ["1013 ("] + ["1006 ("] * isinstance(browser, WebKit)
    check("that it fell behind is shown", closed[0].startswith(tuple(expected)), closed)
    server.started()
    server.process.stdin.close()
    closed = until(lambda: said(browser, "closed")[1:])
    seen = [*closed, state(browser)]
    check("so is the end of the input", seen == ["1000 (the input has ended)", "Closed with " + closed[0]], seen)
    check("and the server ends", server.process.wait() == 0, server.log())

    server = Lines(browser)
    if isinstance(browser, Chromium):
        time.sleep(2)  # After any other code, the pause would be shorter than that.
    offered, log = text(browser, "#action"), server.log()
    check("after 1000 it does not connect by itself", offered == "Connect again" and "connected" not in log, log)
    browser.click("#action")
    server.started()
    check("but a button connects again", state(browser).startswith("Connected"))
    server.process.stdin.close()
    server.process.wait()
    receive_buffer(default)


def keeping_up(browser):
    server = Lines(browser)
    server.open()
    before = int(text(browser, "#count").split()[0])
    seconds = 20 if isinstance(browser, Chromium) else 5
    total, pushed, begun = seconds * RATE, 0, time.monotonic()
    while pushed < total:
        due = min(int((time.monotonic() - begun) * RATE), total)
        server.push(*(f"line {n}" for n in range(pushed, due)))
        pushed = due
        time.sleep(0.01)
    took = time.monotonic() - begun
    until(lambda: lines(browser)[-1] == ["server", f"line {total - 1}"] or "closed with 1013" in server.log())
    count = int(text(browser, "#count").split()[0].replace(",", "")) - before
    print(f"{count} of {total} lines came, sent in {took:.1f} s instead of {seconds}")
    if isinstance(browser, Chromium):
        check(f"it gets {RATE} lines a second, each of them", count == total, server.log())
        newest = [["server", f"line {n}"] for n in range(total - 500, total)]
        check("and shows the newest", lines(browser) == newest, lines(browser)[:1])
    server.stop()


def no_complaint(browser):
    complaints = [message for message in browser.console() if "Content-Security-Policy" in message]
    check("its console has no complaint about the page", not complaints, complaints)


def receive_buffer(sizes):
    """Sets the least, initial and largest size for new sockets. Returns what was set before."""
    with open("/proc/sys/net/ipv4/tcp_rmem", "r+") as file:
        before = file.read()
        file.seek(0)
        file.write(sizes)
    return before


def main():
    packages = ["chromium", "chromium-driver", "firefox-esr", "webkit2gtk-driver", "xvfb", "iproute2"]
    sandbox.enter(packages, time_limit=240)
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Elsewhere)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    everywhere = (a_conversation, the_page_itself, another_origin, a_token, lines_of_standard_input, keeping_up)
    only = {"Chromium": [its_colours], "Firefox": [no_complaint], "WebKit": []}
    for name in sys.argv[2:] or BROWSERS:
        begun = time.monotonic()
        if name == "Chromium":
            os.nice(-10)  # What else the machine does must not decide whether it keeps up.
        browser = BROWSERS[name]()
        for part in (*everywhere, *only[name]):
            print(f"{name}, {part.__name__.replace('_', ' ')}:", flush=True)
            part(browser)
        browser.quit()
        print(f"{name} took {time.monotonic() - begun:.0f} s")
    print(f"{sandbox.checks} passed, 0 failed")


main()
