#!/usr/bin/env bash
# Proves `make run` and `make test` on a fresh Debian: a bare chroot with python3, python3-venv, make and ca-certificates, nothing else.
# Needs root and mmdebstrap (`apt-get install mmdebstrap`). The host's package-index settings are passed in. Usage: [ARGS='tests/…'] tests/chroot.sh [run|test|all]
set -euo pipefail
WHAT=${1:-all}
HERE=$(cd "$(dirname "$0")/.." && pwd)
command -v mmdebstrap >/dev/null || { echo "chroot.sh: mmdebstrap is missing; apt-get install mmdebstrap" >&2; exit 78; }
[ "$(id -u)" = 0 ] || { echo "chroot.sh: root is needed to make a chroot" >&2; exit 78; }
ROOT=$(mktemp -d /tmp/sluice-chroot.XXXXXX)
MOUNTED=()
cleanup() {
  for ((i = ${#MOUNTED[@]} - 1; i >= 0; i--)); do umount -l "${MOUNTED[i]}" || true; done
  if mount | grep -q " $ROOT/"; then echo "chroot.sh: $ROOT is still mounted, left as it is" >&2; else rm -rf "$ROOT"; fi
}
trap cleanup EXIT
bind() { mkdir -p "$ROOT$2"; mount --bind "$1" "$ROOT$2"; MOUNTED+=("$ROOT$2"); }

echo "== making a bare Debian bookworm in $ROOT"
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,make,ca-certificates bookworm "$ROOT" >/dev/null
mount -t proc proc "$ROOT/proc"; MOUNTED+=("$ROOT/proc")
bind /dev /dev
bind /dev/pts /dev/pts
# the host's package-index settings: pip's configuration, its local indexes, its certificates, name resolution
cp -L /etc/resolv.conf /etc/hosts "$ROOT/etc/" 2>/dev/null || true
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
  [ -f "$file" ] && mkdir -p "$ROOT$(dirname "$file")" && cp "$file" "$ROOT$file"
done
for folder in /opt/pypi /opt/pypi-more /opt/wheels; do [ -d "$folder" ] && bind "$folder" "$folder"; done
cp -L /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/ca-certificates.crt"
SETTINGS=$(env | grep -E '^(PIP_|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|https?_proxy|HTTPS?_PROXY|NO_PROXY|no_proxy)' | grep -v '[[:space:]]' || true)

git -C "$HERE" clone -q --no-hardlinks "$HERE" "$ROOT/root/sluice"
inside() { chroot "$ROOT" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI="${CI:-}" $SETTINGS "$@"; }

if [ "$WHAT" != test ]; then
  echo "== make run"
  inside bash -c 'cd /root/sluice || exit 1; (make run ARGS="--listen 127.0.0.1:18480 --admin 127.0.0.1:18490" >/tmp/run.log 2>&1; echo "exit $?" >>/tmp/run.log) &
    for i in $(seq 600); do python3 -c "import urllib.request as u; u.urlopen(\"http://127.0.0.1:18490/healthz/ready\", timeout=1)" 2>/dev/null && break; grep -q "^exit" /tmp/run.log && break; sleep 0.5; done
    cat /tmp/run.log
    python3 -c "import urllib.request as u; print(\"ready:\", u.urlopen(\"http://127.0.0.1:18490/healthz/ready\", timeout=2).read().decode())" || exit 1
    test -x .venv/bin/sluice || exit 1
    pid=$(cat /root/.local/state/sluice/lock); kill -TERM "$pid"; for i in $(seq 60); do grep -q "^exit" /tmp/run.log && break; sleep 0.5; done
    tail -2 /tmp/run.log; grep -q "^exit 0" /tmp/run.log'
fi
if [ "$WHAT" != run ]; then
  echo "== make test"
  inside bash -c 'cd /root/sluice && make test ARGS="$0"' "${ARGS:-}"
fi
echo "== proved in a bare chroot: $WHAT"
