"""The drill of a lost disk, short: what it promises holds, and what does not hold it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def drill(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "drill.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_a_lost_disk_comes_back_from_the_bucket_and_from_the_replica(tmp_path: Path) -> None:
    done = drill("300", "--seconds", "2", "--rpo", "20", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-6_000:]
    lost = [int(count) for count in re.findall(r"\(RPO\) +(\d+) changes", done.stdout)]
    kept = [int(count) for count in re.findall(r"playback +(\d+) changes", done.stdout)]
    assert len(lost) == len(kept) == 2 and kept[0] <= lost[0] and done.stdout.endswith("all held\n")


def test_a_promise_that_does_not_hold_is_an_exit_code(tmp_path: Path) -> None:
    done = drill("50", "--seconds", "0.5", "--rto", "0.01", "--from", "bucket", "--folder", str(tmp_path))
    assert done.returncode == 1 and done.stdout.count("until the server followed again") == 1, done.stdout + done.stderr
