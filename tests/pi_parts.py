"""What the tests of the Pi share: a farm on disk, a running writer, and waiting for a condition."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from changelog.connection import connect
from pi import farm, herd
from pi.jobs import Written
from pi.lora import parse_payload
from pi.writer import Writer

NOW = "2024-01-15T10:30:00"


def wait_until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true value of `condition`; fails when it does not come in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return value


def make_farm(folder: Path) -> str:
    """A new farm.db, which is a primary."""
    path = str(folder / "farm.db")
    farm.open_farm(path)
    return path


@contextmanager
def running_writer(path: str, interval: float = 0.1, **more: Any) -> Iterator[Writer]:
    """A writer on `path`, stopped afterwards."""
    writer = Writer(path, interval, **more)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()


def send(writer: Writer, payload: str, actor: str = "test") -> Written[herd.Stored]:
    """What POST /api/lora/receive does with a payload."""
    return writer.write(partial(herd.receive, reading=parse_payload(payload), now=herd.utc_now()), actor)


def rows(path: str, sql: str, *bindings: Any) -> list[Any]:
    """The rows of a query, each a plain value when it has one column."""
    with closing(connect(path, readonly=True)) as db:
        return [row[0] if len(row) == 1 else row for row in db.execute(sql, bindings)]


def shell(path: str, sql: str) -> str:
    """What the sqlite3 shell prints for `sql`, typed by an operator."""
    return subprocess.run(["sqlite3", "-cmd", ".timeout 5000", path, sql], check=True, capture_output=True, text=True).stdout.strip()
