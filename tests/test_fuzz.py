"""A short run of each fuzzer; the long ones are the same scripts with a larger number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


CASES = {"fuzz_capture.py": 500, "fuzz_ddl.py": 100, "fuzz_wire.py": 300, "fuzz_actions.py": 20}


@pytest.mark.parametrize(("script", "count"), CASES.items())
def test_random_cases_end_identical(script: str, count: int) -> None:
    command = [sys.executable, ROOT / "scripts" / script, str(count)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert f": {count} identical, 0 failed" in done.stdout
