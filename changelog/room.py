"""Room on a disk: what comes from another machine may not fill it, for then nothing that is ours could be written any more."""

from __future__ import annotations

import shutil
from pathlib import Path

from changelog.errors import Unavailable

KEPT_FREE = 64 * 2**20  # bytes
LOOK_EVERY = 8 * 2**20  # bytes written between two looks


class Room:
    """Watches over what is written into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unseen = LOOK_EVERY  # bytes since the last look: the first write looks

    def take(self, size: int) -> None:
        """Before so many bytes are written. Raises Unavailable where they would not leave KEPT_FREE."""
        self._unseen += size
        if self._unseen >= LOOK_EVERY:
            self.check(size)
            self._unseen = 0

    def check(self, size: int) -> None:
        """Likewise, for what is announced as a whole."""
        free = shutil.disk_usage(self._folder).free
        if size + KEPT_FREE > free:
            raise Unavailable(f"the disk of {self._folder} has {free} bytes left: too few for the {size} that come")
