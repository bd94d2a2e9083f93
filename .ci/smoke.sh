#!/usr/bin/env bash
# Talks to the program with two independent clients, curl and Python's websockets:
# .ci/smoke.sh [path of the program], as root; on Debian it installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-target/release/wspush}
.ci/install.sh curl python3-venv
scratch=$(mktemp -d) server=
trap 'kill $server 2>/dev/null || true; rm -rf "$scratch"' EXIT

/usr/bin/python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check websockets

# Sets $url once the server accepts connections.
started() {
  until url=$(grep -m1 '^ws://' "$scratch/urls"); do kill -0 "$server"; sleep 0.1; done
}

"$program" --listen 127.0.0.1:0 --interval 0.1 >"$scratch/urls" &
server=$!
started

# curl waits for more after the handshake until its timeout, so only the answer counts.
curl --silent --include --max-time 1 --http1.1 \
  -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
  -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZQ==' \
  "${url/ws:/http:}" >"$scratch/answer" || true
printf '%s\r\n' 'HTTP/1.1 101 Switching Protocols' 'Upgrade: websocket' 'Connection: Upgrade' \
  'Sec-WebSocket-Accept: zkTGI6zVrOIDXiC4vnn1Rf37YFw=' '' | diff --text - "$scratch/answer"
echo 'smoke: curl gets the 101, byte for byte'

seen=$(curl --silent --output "$scratch/page" --write-out '%{http_code} %{content_type}' "${url/ws:/http:}")
[[ $seen == '200 text/html'* ]] && grep -q '<title>wspush</title>' "$scratch/page"
echo 'smoke: curl gets the page'

"$scratch/venv/bin/python" - "$url" "$server" <<'PYTHON'
import os, signal, sys
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed

url, server = sys.argv[1], int(sys.argv[2])
with connect(url) as client:
    client.send("wrongmsg")
    assert client.recv(5) == "You did not say the magic word!"
    client.send("start")
    for number in 1, 2, 3:
        assert client.recv(5) == f"Notification {number}"
    os.kill(server, signal.SIGTERM)
    try:
        while True:
            client.recv(5)
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1001, closed
PYTHON
wait "$server"
echo 'smoke: websockets sees three notifications, and 1001 at SIGTERM; exit status 0'

touch "$scratch/wait"
(while [ -e "$scratch/wait" ]; do sleep 0.1; done; seq 5) |
  "$program" --listen 127.0.0.1:0 --stdin >"$scratch/urls" &
server=$!
started
"$scratch/venv/bin/python" - "$url" "$scratch/wait" <<'PYTHON'
import pathlib, sys
from websockets.sync.client import connect
from websockets.exceptions import ConnectionClosed

with connect(sys.argv[1]) as client:
    client.send("start")
    client.ping().wait(5)
    pathlib.Path(sys.argv[2]).unlink()
    lines = []
    try:
        while True:
            lines.append(client.recv(5))
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1000, closed
    assert lines == ["1", "2", "3", "4", "5"], lines
PYTHON
wait "$server"
echo 'smoke: websockets sees the five lines of seq 5, and 1000 at their end; exit status 0'
