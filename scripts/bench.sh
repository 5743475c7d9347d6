#!/usr/bin/env bash
# Measures what Drover costs and how quick it is, beside what one would take instead. `scripts/bench.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

scripts/venv.sh tests/requirements.txt
exec .venv/bin/python -m scripts.bench "$@"
