#!/usr/bin/env python3
"""Makes docs/page.png, the page with lines of a log, in Chromium: .ci/picture.py [path of the program]"""

import base64
import subprocess

import sandbox
from sandbox import Server, until
from webdriver import Chromium

PICTURE = "docs/page.png"
LINES = """\
INFO  listening address=0.0.0.0:3000
INFO  database connected pool=16 latency=4ms
INFO  GET /products/lamp 200 12ms
INFO  GET /cart 200 7ms
INFO  POST /cart/items 201 31ms item=lamp quantity=2
INFO  POST /orders 202 88ms order=48120
INFO  payment accepted order=48120 amount=64.90 EUR
INFO  mail queued order=48120 template=confirmation
WARN  slow query duration=1.24s rows=18230 SELECT id, total FROM orders WHERE customer = $1
INFO  GET /orders/48120 200 9ms
ERROR payment failed order=48121 attempt=1 error="502 Bad Gateway from payments.example" retry=5s
INFO  GET /products/chair 200 11ms
INFO  payment accepted order=48121 amount=129.00 EUR attempt=2
INFO  GET /health 200 0ms
""".splitlines()
# Fixed times, 1.7 s apart: the picture is the same each time.
CLOCK = "let now = Date.UTC(2026, 0, 15, 9, 14, 7); Date.now = () => (now += 1700)"


def main():
    sandbox.enter(["chromium", "chromium-driver", "iproute2", "pngquant"], time_limit=60)
    server = Server("--stdin", "--history", "100", stdin=subprocess.PIPE)
    server.process.stdin.writelines(line + "\n" for line in LINES)
    server.process.stdin.flush()
    browser = Chromium()

    def devtools(command, **parameters):
        browser.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    devtools("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
    devtools("Emulation.setTimezoneOverride", timezoneId="UTC")
    devtools("Emulation.setDeviceMetricsOverride", width=1000, height=520, deviceScaleFactor=1.5, mobile=False)
    browser.open("http://localhost:8080/")
    until(lambda: "Connected" in browser.run("document.querySelector('#state').textContent"))
    browser.click("#action")
    until(lambda: browser.run("document.querySelectorAll('#log .server').length") == len(LINES))
    picture = base64.b64decode(browser.call("/screenshot", method="GET"))
    browser.quit()
    server.stop()
    with open(PICTURE, "wb") as file:
        subprocess.run(["pngquant", "--strip", "--nofs", "32", "-"], input=picture, stdout=file, check=True)


main()
