#!/usr/bin/env bash
# Fetches a new copy from the Pi and proves that both sides are identical; --json takes the rows from the JSON export instead of the file.
# Exit codes: 0 identical, 1 failed, 2 usage, 3 the sides differed (before, or still do).
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

words=()
for word in "$@"; do
  [ "$word" != --json ] || word=--json-export
  words+=("$word")
done
scripts/venv.sh
exec .venv/bin/python -m server resync "${words[@]}"
