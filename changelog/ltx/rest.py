"""What the shipper remembers of a database file that it left when all of it was shipped: unless somebody writes to it, it goes on there.

The -wal, which otherwise says so, goes when the last connection closes. The file's times say it as well: whatever is moved into it from a
-wal afterwards is a write, as long as that cannot fall into the same tick of the kernel's clock.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from changelog.connection import Path_

FILE = "rested.json"
TICK = 0.02  # s: more than the kernel's clock for files takes from one step to the next


def facts_of(path: Path_) -> list[int]:
    """Everything that a write to the file at `path`, or another file there, changes."""
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def is_old(facts: list[int]) -> bool:
    """Whether a write of this moment would change them."""
    return time.time_ns() - max(facts[3:]) > TICK * 1e9 / 2


def remember(folder: Path, txid: int, facts: list[int]) -> None:
    """The file with these facts is the state after `txid`."""
    with suppress(OSError):
        (folder / FILE).write_text(json.dumps([txid, facts]))


def recall(folder: Path, txid: int, path: Path_) -> bool:
    """Whether the file at `path` is the state after `txid`, as far as it goes without the -wal. Asked once, then it is forgotten."""
    try:
        found = json.loads((folder / FILE).read_bytes())
        return bool(found == [txid, facts_of(path)])
    except (OSError, ValueError):
        return False
    finally:
        forget(folder)


def forget(folder: Path) -> None:
    """The file will be written to."""
    (folder / FILE).unlink(missing_ok=True)
