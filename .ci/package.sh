#!/usr/bin/env bash
# Builds the Debian package, installs it, checks what it installed, and removes it: .ci/package.sh, as root, on Debian. It
# installs what it needs; cargo-deb takes a few minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${WSPUSH_PACKAGE-}" ]; then
  .ci/install.sh dpkg-dev systemd
  command -v cargo-deb >/dev/null || cargo install --locked --quiet cargo-deb@3.8.0
  # Compiles nothing if the release build is fresh.
  package=$(cargo deb --locked --quiet)
  dpkg --contents "$package"
  # However the rest ends, it leaves the machine as it was.
  WSPUSH_PACKAGE=$package exec unshare --mount "$0"
fi

# dpkg writes to layers of our own, and nothing in the package finds the machine's systemd.
mount -t tmpfs none /mnt
mount -t tmpfs none /run
for lower in /etc /usr /var; do
  mkdir -p "/mnt$lower"/{upper,work}
  mount -t overlay none -o "lowerdir=$lower,upperdir=/mnt$lower/upper,workdir=/mnt$lower/work" "$lower"
done

unit=/usr/lib/systemd/system/wspush.service
drop_ins=/etc/systemd/system/wspush.service.d

fail() {
  printf '%s\n' "not ok: $1" "${2-}" >&2
  exit 1
}

verify() {
  # It also exits with 0 when it ignores a misspelt key.
  said=$(systemd-analyze verify "$unit" 2>&1) && [ -z "$said" ] || fail "the unit $1" "$said"
  echo "ok: the unit $1"
}

dpkg --install "$WSPUSH_PACKAGE"
/usr/bin/wspush --version
verify alone
mkdir -p "$drop_ins"
for drop_in in deploy/wspush-*.conf; do
  cp "/usr/share/doc/wspush/examples/${drop_in##*/}" "$drop_ins/drop-in.conf"
  verify "with ${drop_in##*/}"
done
rm -r "$drop_ins"
enabled=$(systemctl is-enabled wspush.service) || true
[ "$enabled" = disabled ] || fail 'the unit is not enabled' "$enabled"
echo 'ok: the unit is not enabled'

# What the user enables goes too.
systemctl enable wspush.service
dpkg --purge wspush
# Character devices mark files of the layer below that were removed.
left=$(find /mnt/*/upper -name '*wspush*' -not -type c)
[ -z "$left" ] || fail 'nothing is left' "$left"
echo 'ok: nothing is left'
