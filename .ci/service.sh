#!/usr/bin/env bash
# Checks deploy/wspush.service: .ci/service.sh [path of the program], as root; on Debian it installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/install.sh systemd
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
unit=$folder/wspush.service
# Where it is installed there may be no program yet.
sed "s|/usr/local/bin/wspush|$(realpath "${1:-target/release/wspush}")|" deploy/wspush.service >"$unit"
systemd-analyze verify "$unit"
# Fails for an exposure of more than 1.5 (of 10).
systemd-analyze security --offline=true --threshold=15 "$unit" | tail -n 1
