"""What the shipper tells others of itself: a small file, written anew when something has changed and not more than once a second."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from changelog.connection import Path_
from changelog.lease import Lease

FOLDER = "-ship"  # behind the name of the database: the folder where files wait for the store
FILE = "status.json"
RUNNING = "running"
SPACING = 1.0  # s between two writes


@dataclass(frozen=True)
class Status:
    """Where the shipper stands. Times are seconds since 1970; counts are since its start."""

    state: str = "starting"  # starting, shipping, waiting (for the store), stalled (on this side), fenced, stopped
    cause: str = ""  # why it is not shipping
    store: str = ""
    txid: int = 0  # the last transaction that is in the store
    shipped_at: float = 0.0  # when it was put there
    objects: int = 0  # put
    bytes: int = 0
    pending_objects: int = 0
    pending_bytes: int = 0
    errors: int = 0  # attempts that failed
    upkeep: str = ""  # why compaction and retention fail, "" when they do not

    @property
    def fenced(self) -> bool:
        """Whether it stands still because somebody else ships to the same place."""
        return self.state == "fenced"


class StatusFile:
    """The status of the shipper of the database at `path`: one thread writes it, several `set` facts of it."""

    def __init__(self, path: Path_) -> None:
        self.path = folder_of(path) / FILE
        self.status = Status()
        self._lock = threading.Lock()
        self._written: Status | None = None
        self._at = 0.0

    def set(self, **facts: Any) -> None:
        """Something has changed."""
        with self._lock:
            self.status = replace(self.status, **facts)

    def write(self, now: float | None = None) -> None:
        """Write it, if it differs and the last time is long enough ago; at once with `now` None. A full disk is no reason to stop."""
        if self.status == self._written or (now is not None and now - self._at < SPACING):
            return
        status = self.status
        beside = self.path.with_suffix(".new")
        with suppress(OSError):
            beside.write_text(json.dumps(asdict(status)))
            beside.replace(self.path)
            self._written, self._at = status, now or time.monotonic()


def folder_of(path: Path_) -> Path:
    """Where the shipper of the database at `path` keeps its files."""
    return Path(f"{os.path.realpath(path)}{FOLDER}")


def running_lease(path: Path_) -> Lease:
    """What the shipper of the database at `path` holds while it runs."""
    return Lease(folder_of(path) / RUNNING)


def read_status(path: Path_) -> tuple[Status, bool] | None:
    """What the shipper of the database at `path` last told, and whether it runs; None when there never was one."""
    try:
        found = json.loads((folder_of(path) / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    known = {field.name for field in fields(Status)}
    return Status(**{name: value for name, value in found.items() if name in known}), running_lease(path).is_held()
