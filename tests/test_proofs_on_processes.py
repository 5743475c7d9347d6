"""The proofs that run real processes, at a twentieth of their size; the long runs are the same scripts with their default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENT = "2000"  # ms: beside other tests on a small machine, what is measured there is the machine


def prove(script: str, *words: str) -> str:
    """What a proof prints; it must hold."""
    command = [sys.executable, str(ROOT / "scripts" / script), *words]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-6_000:]
    assert done.stdout.endswith("all held\n")
    return done.stdout


def test_a_bootstrap_disturbs_neither_the_writer_nor_the_readers(tmp_path: Path) -> None:
    printed = prove("prove_bootstrap.py", "5000", "--longest-wait", PATIENT, "--folder", str(tmp_path))
    assert printed.count("0 wrong or empty") == 2
