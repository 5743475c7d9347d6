#!/usr/bin/env bash
# Loses a Pi's disk on this machine and brings it back, from the bucket and from the server's replica: what was lost, how long it took.
# Exit code 1 when a promise did not hold. `scripts/drill.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

scripts/venv.sh tests/requirements.txt
exec .venv/bin/python scripts/drill.py "$@"
