#!/usr/bin/env bash
# Everything at once on this machine, for so many minutes (60): nothing may grow, and all must be identical in the end.
# Exit code 1 when it did, or is not. `scripts/soak.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

scripts/venv.sh tests/requirements.txt
exec .venv/bin/python scripts/soak.py "$@"
