"""A short run of the proof of verify; the long one is the same script with larger numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COUNT = 50  # a twentieth


def test_every_corruption_is_found_and_mended_and_there_is_no_false_alarm() -> None:
    command = [sys.executable, ROOT / "scripts" / "prove_verify.py", str(COUNT), str(COUNT)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert f"{COUNT} corruptions" in done.stdout and f"{COUNT} verifies" in done.stdout and "all as it should be" in done.stdout
