"""Snapshots that a primary hands out: a private copy of the whole database, as of one commit, that carries its log and so its position."""

from __future__ import annotations

import hashlib
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path

from changelog.errors import DiskFull
from changelog.position import Position
from changelog.primary import Primary
from changelog.space import is_full, require_room

RESERVE = 16 * 2**20  # bytes that a copy leaves free, so that commits go on
FULL = "the disk of this primary is full"
KEPT = 600.0  # s for which a copy can be fetched on, after it was last asked for
COPY_MEDIA_TYPE = "application/vnd.drover.copy"  # the bytes of the file from some place on, then its SHA-256
PIECE_BYTES = 256 * 1024  # of a copy, read and compressed at a time


@dataclass(frozen=True)
class Snapshot:
    """A copy on the disk."""

    path: Path
    position: Position
    size: int  # bytes

    @property
    def id(self) -> str:
        """By which a download that broke off asks for the rest of the same copy."""
        return self.path.stem

    @cached_property
    def sha256(self) -> bytes:
        """The digest of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def stream(self, start: int) -> Iterator[bytes]:
        """The file from this byte on, and behind it the digest of all of it: that is worked out on the way, so nothing waits for it."""
        return _stream(self.path.open("rb"), start)


def _stream(file: BufferedReader, start: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        digest = hashlib.sha256()
        while piece := file.read(PIECE_BYTES):
            if not start:
                digest.update(piece)
            yield piece
        if start:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
        yield digest.digest()


class SnapshotStore:
    """Makes copies in a folder of its own and keeps the newest one for a while."""

    def __init__(self, primary: Primary, folder: Path) -> None:
        self._primary, self._folder = primary, folder.resolve()
        self._lock = threading.Lock()
        self._newest: Snapshot | None = None
        self._timer: threading.Timer | None = None
        shutil.rmtree(folder, ignore_errors=True)  # what a crash left behind

    def newest(self, known: str = "") -> Snapshot:
        """The copy with this id, or this digest in hex, if it is still here, one of this moment otherwise.

        Raises DiskFull where there is no room for it.
        """
        with self._lock:
            found = self._newest
            if found and (found.position == self._primary.head() or (known and known in (found.id, found.sha256.hex()))):
                self._restart_timer()
                return found
            self._folder.mkdir(parents=True, exist_ok=True)
            self._newest = made = self._make(self._folder / f"{uuid.uuid4().hex}.db")
            self._forget(found)
            self._restart_timer()
            return made

    def close(self) -> None:
        """Delete the copies."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._forget(self._newest)
            self._newest = None

    def _make(self, path: Path) -> Snapshot:
        require_room(self._folder, self._primary.size() + RESERVE, f"{FULL}: a copy of the database")
        try:
            position = self._primary.copy_to(path)
        except BaseException as exc:
            path.unlink(missing_ok=True)
            if is_full(exc):
                raise DiskFull(f"{FULL}: a copy of the database did not fit") from exc
            raise
        return Snapshot(path, position, path.stat().st_size)

    def _forget(self, snapshot: Snapshot | None) -> None:
        if snapshot:
            snapshot.path.unlink(missing_ok=True)  # whoever is reading it keeps it until the end

    def _restart_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = threading.Timer(KEPT, self.close)
        self._timer.daemon = True
        self._timer.start()
