#!/usr/bin/env bash
# Asks PyPI's vulnerability service about every pinned package, with pip-audit in a venv of its own; says so where that cannot be reached.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

.venv/bin/python -m pip check
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! { python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --disable-pip-version-check pip-audit==2.10.1; } >"$folder/log" 2>&1; then
  echo "NOT AUDITED: pip-audit cannot be installed from here: $(tail -n 1 "$folder/log")" >&2
  exit 0
fi
code=0
for file in requirements.txt tests/requirements.txt; do
  result=0
  "$folder/venv/bin/pip-audit" --requirement "$file" --no-deps --disable-pip --timeout 15 >"$folder/found" 2>&1 || result=$?
  if grep -q "could not be audited\|Connection\|Timeout\|HTTPError" "$folder/found"; then
    echo "NOT AUDITED: $file: the vulnerability service cannot be reached from here, or does not know these packages" >&2
  else
    cat "$folder/found"
    [ "$result" -eq 0 ] || code=1
  fi
done
exit "$code"
