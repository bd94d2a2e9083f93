#!/usr/bin/env bash
# Fuzzes the targets of fuzz/, side by side: .ci/fuzz.sh [seconds, 60] [target, all]. Installs cargo-fuzz if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz@0.13.2

# Stable Rust accepts cargo-fuzz's -Z options only with this. Without a sanitizer, which would watch unsafe code (there is
# none), fuzzing is faster.
export RUSTC_BOOTSTRAP=1

if (($# < 2)); then
  cargo fuzz build --sanitizer none
  cargo fuzz list | xargs -P 0 -I '{}' "$0" "$seconds" '{}'
  exit
fi

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
# A new target has no corpus yet. Work on a copy: cargo-fuzz adds what it finds.
mkdir -p "fuzz/corpus/$2"
cp -r "fuzz/corpus/$2" "$work/corpus"
cargo fuzz run --sanitizer none "$2" "$work/corpus" -- \
  -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 2>"$work/log" || {
  cat "$work/log"
  exit 1
}
printf '\n== %s, %s s\n%s\n' "$2" "$seconds" "$(grep -E '^(#[0-9]+\s+DONE|stat::|Done)' "$work/log")"
