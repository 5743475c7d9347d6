"""A twentieth of the proof that kills each piece of work between any two steps; the whole is the same script without --share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(1_800)  # some hundred processes, one after another
@pytest.mark.skipif(not shutil.which("cc"), reason="the steps are counted by a library that needs a C compiler")
def test_work_that_is_killed_at_any_step_ends_where_it_would_have_ended() -> None:
    command = [sys.executable, ROOT / "scripts" / "prove_kills.py", "--share", "0.05"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-10_000:]
    kills = re.search(r"^(\d+) kills: (\d+) converged, 0 did not$", done.stdout, re.MULTILINE)
    assert kills and int(kills[1]) == int(kills[2]) > 100, done.stdout
