#!/usr/bin/env bash
# Sets up and runs every check: ruff, mypy, shellcheck, then pytest, to which the arguments go.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

missing=()
for program in chromium openssl sqlite3; do
  command -v "$program" >/dev/null || missing+=("$program")
done
command -v swift-proxy-server >/dev/null || missing+=(swift-proxy swift-account swift-container swift-object) # an S3 server that checks signatures
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing ${missing[*]} ..." >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >&2 || true
fi
if [ "${CI-}" = true ] && ! command -v chromium >/dev/null; then
  echo "error: the tests of the pages need Debian's chromium: apt-get install chromium" >&2
  exit 1
fi

scripts/venv.sh tests/requirements.txt
.venv/bin/python -m ruff check
.venv/bin/python -m mypy
if command -v shellcheck >/dev/null; then
  shellcheck scripts/*.sh .ci/run
fi
exec .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
