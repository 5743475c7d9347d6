#!/usr/bin/env bash
# Makes .venv with exactly the packages of requirements.txt, and of the further files that are named; does nothing when it is so already.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

fail() {
  echo "error: $*" >&2
  exit 1
}

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.11 or newer is needed: sudo apt-get install python3 python3-venv"
}

make_venv() {
  local python
  python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "this Python has no venv module: sudo apt-get install python3-venv"
  echo "Making .venv (once; needs the network) ..." >&2
  "$python" -m venv --clear .venv 2>/dev/null || fail ".venv cannot be made: is there space, and may $(id -un) write to $PWD?"
  .venv/bin/python -V >.venv/python-version
}

install_packages() {
  local file=$1 known=.venv/installed-${1//\//-}
  cmp -s "$file" "$known" && return
  echo "Installing the packages of $file ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --requirement "$file" >.venv/pip.log 2>&1 ||
    fail "pip could not install $file: $(grep -m 1 ERROR .venv/pip.log || tail -n 1 .venv/pip.log): is the network there, and space, and the clock right? (all of it: .venv/pip.log)"
  cp "$file" "$known" || fail "$PWD/.venv cannot be written by $(id -un)"
}

[ -w . ] || [ -x .venv/bin/python ] || fail "$PWD cannot be written by $(id -un): run this as its owner"
# A Python that the system has renewed since does not find the packages of the old one.
[ "$(.venv/bin/python -V 2>/dev/null)" = "$(cat .venv/python-version 2>/dev/null || echo none)" ] || make_venv
for file in requirements.txt "$@"; do
  install_packages "$file"
done
