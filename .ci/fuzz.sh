#!/usr/bin/env bash
# Fuzzes each target of fuzz/ for $1 seconds (60). Installs cargo-fuzz if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz@0.13.2
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# cargo-fuzz passes -Z options, which stable Rust takes only so. There is no unsafe code for a sanitizer to watch, and without one it is faster.
export RUSTC_BOOTSTRAP=1
cargo fuzz build --sanitizer none
for target in handshake conversation; do
  printf '\n== %s, %s s\n' "$target" "$seconds"
  # A copy, since what is found is added to it.
  cp -r "fuzz/corpus/$target" "$work"
  cargo fuzz run --sanitizer none "$target" "$work/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 2>"$work/log" || {
    cat "$work/log"
    exit 1
  }
  grep -E '^(#[0-9]+\s+DONE|stat::|Done)' "$work/log"
done
