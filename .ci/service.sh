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
# The program may not be installed, where systemd would find it.
sed "s|^ExecStart=wspush$|ExecStart=$program|" deploy/wspush.service >"$unit"
mkdir "$unit.d"
for drop_in in '' deploy/wspush-*.conf; do
  [ -z "$drop_in" ] || cp "$drop_in" "$unit.d/drop-in.conf"
  echo "wspush.service ${drop_in:+with $drop_in}"
  # It also exits with 0 when it ignores a misspelt key.
  said=$(systemd-analyze verify "$unit" 2>&1) && [ -z "$said" ] || {
    echo "$said"
    exit 1
  }
  # Fails for an exposure of more than 1.5 (of 10).
  systemd-analyze security --offline=true --threshold=15 "$unit" | tail -n 1
done
