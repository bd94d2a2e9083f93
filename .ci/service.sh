#!/usr/bin/env bash
# Checks deploy/wspush.service, alone and with each of its drop-ins: .ci/service.sh [path of the program], as root; on
# Debian it installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."

.ci/install.sh systemd
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
unit=$folder/wspush.service
program=$(realpath "${1:-target/release/wspush}")
mkdir "$unit.d"
shopt -s nullglob
for drop_in in '' deploy/wspush-*.conf; do
  # Where it is installed there may be no program yet.
  sed "s|/usr/local/bin/wspush|$program|" deploy/wspush.service >"$unit"
  [ -z "$drop_in" ] || sed "s|/usr/local/bin/wspush|$program|" "$drop_in" >"$unit.d/drop-in.conf"
  # It also exits with 0 when it ignores a misspelt key.
  said=$(systemd-analyze verify "$unit" 2>&1) && [ -z "$said" ] || {
    echo "$said"
    exit 1
  }
  # Fails for an exposure of more than 1.5 (of 10).
  systemd-analyze security --offline=true --threshold=15 "$unit" | tail -n 1
done
