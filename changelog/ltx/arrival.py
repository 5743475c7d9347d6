"""The file at the path: whether it is still the one that is followed, and when another one may be opened."""

from __future__ import annotations

import os
import time

from changelog.connection import Path_, drop_journal, identity, journal_of
from changelog.errors import DamagedFile

SETTLE = 1.0  # s for which a new file must not have grown: somebody may still copy it there
NEW_OWNER = 5.0  # s that the writer has to open it before us


class Arrival:
    """What is known of the file at `path`."""

    def __init__(self, path: Path_) -> None:
        self._path = path
        self.file: tuple[int, int] | None = None  # the one that is followed, or was the last to be
        self._journal: dict[str, tuple[int, int] | None] = {}
        self._seen: tuple[int, int, int] | None = None
        self._seen_at = 0.0  # time.monotonic()

    def opened(self) -> None:
        """The file that is there now is followed."""
        self.file, self._journal, self._seen = identity(self._path), journal_of(self._path), None

    def is_same(self) -> bool:
        """Whether it is still there."""
        return identity(self._path) == self.file

    def may_open(self) -> bool:
        """Whether the file there may be opened now. Raises DamagedFile when there is none.

        A new one only when it is complete and the writer, if there is one, has opened it: he removes what belonged to the old one, which
        must still be open here.
        """
        file = identity(self._path)
        if file is None:
            raise DamagedFile(f"{self._path} is missing: put it back")
        if self.file in (None, file):
            return True
        facts, now = os.stat(self._path), time.monotonic()
        seen = facts.st_ino, facts.st_size, facts.st_mtime_ns
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        shm = journal_of(self._path)["-shm"]
        opened = shm is not None and shm != self._journal.get("-shm")
        if now - self._seen_at < (SETTLE if opened else NEW_OWNER):
            return False
        drop_journal(self._path, self._journal)
        self.file, self._journal = file, {}  # once: the old ones are about to be closed, and new ones may get their inodes
        return True
