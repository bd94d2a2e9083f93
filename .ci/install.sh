#!/usr/bin/env bash
# Installs the Debian packages $@ if they are missing. Needs root; several may run at once.
set -euo pipefail
exec 9<"$0"
flock 9
missing=()
for package; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
if ((${#missing[@]})); then
  echo "installing ${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" >/dev/null
fi
