"""Files that wait for the store, on the disk: what was handed out there once is never made anew under the same number.

They stand in a folder of their own, as `<transaction>-<checksum of the last frame>.ltx`. The newest one stays when it was put: its header
and its name say where the tailer stood, so that a restart goes on from there. An image of the whole database may wait beside them; it can
always be made again.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from changelog.connection import sync_path
from changelog.errors import DamagedObject, Unavailable
from changelog.ltx.codec import encode
from changelog.ltx.header import HEADER, Header
from changelog.ltx.store.names import SNAPSHOTS, Name
from changelog.ltx.tail import Change
from changelog.ltx.wal import FRAME_HEADER, Mark
from changelog.ltx.wal import HEADER as WAL_HEADER
from changelog.space import is_full

TEMPORARY = ".tmp"
IMAGE = "image"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")


@dataclass(frozen=True)
class Staged:
    """A file that waits, or the newest that does not any more."""

    path: Path
    name: Name
    header: Header
    size: int  # bytes
    checksum: bytes  # of the last frame

    @property
    def txid(self) -> int:
        """Its last transaction."""
        return self.name.max_txid

    @property
    def mark(self) -> Mark:
        """Where in the -wal it ends."""
        header = self.header
        frame = (header.wal_offset + header.wal_size - WAL_HEADER) // (FRAME_HEADER + header.page_size)
        return Mark(header.wal_salt1.to_bytes(4) + header.wal_salt2.to_bytes(4), frame, self.checksum)


class Staging:
    """The files in `folder`. One thread stages, another one puts."""

    def __init__(self, folder: Path) -> None:
        """Look at what is there. Raises Unavailable when the folder cannot be used, DamagedObject for a file that was not made here."""
        self._folder = folder
        self._changed = threading.Condition()
        self._image: Staged | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in (*folder.glob(f"*{TEMPORARY}"), folder / IMAGE):
                left.unlink(missing_ok=True)
            # Which of them were put is not known any more, so all are put again: the store says which it has.
            self._waiting = sorted((_staged(path) for path in folder.glob("*.ltx")), key=lambda staged: staged.txid)
        except OSError as exc:
            raise Unavailable(f"{folder} cannot be used: {exc.strerror}") from exc
        self._newest = self._waiting[-1] if self._waiting else None

    @property
    def newest(self) -> Staged | None:
        """The last one that was staged, put or not."""
        return self._newest

    @property
    def waiting(self) -> list[Staged]:
        """What is still to be put, in order."""
        with self._changed:
            return list(self._waiting)

    @property
    def has_image(self) -> bool:
        """Whether a whole database waits."""
        return self._image is not None

    def backlog(self) -> tuple[int, int]:
        """How many files wait, and their bytes."""
        with self._changed:
            return len(self._waiting), sum(staged.size for staged in self._waiting)

    def behind_first(self) -> int:
        """The bytes of all that waits behind the first file: that one stays whatever happens, and may be a whole database."""
        with self._changed:
            return sum(staged.size for staged in self._waiting[1:])

    def stage(self, change: Change, txid: int, timestamp_ms: int) -> Staged:
        """Make `change` the file of a transaction: on the disk when this returns. Raises OSError, TornWal; then there is none."""
        name = Name(0, txid, txid)
        path = self._folder / f"{txid:016x}-{change.mark.checksum.hex()}.ltx"
        staged = self._write(path, change, name, timestamp_ms)
        with self._changed:
            if not self._waiting and self._newest is not None:
                _remove(self._newest)  # it was put, and says no more where the tailer stands
            self._waiting.append(staged)
            self._newest = staged
            self._changed.notify_all()
        return staged

    def stage_image(self, image: Change, txid: int, timestamp_ms: int) -> None:
        """Make the whole database as of a transaction a file that is put after that one. Raises as `stage`."""
        staged = self._write(self._folder / IMAGE, image, Name(SNAPSHOTS, 1, txid), timestamp_ms)
        with self._changed:
            self._image = staged
            self._changed.notify_all()

    def next(self, seconds: float) -> Staged | None:
        """What is to be put next; when there is nothing, wait for it that long."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._image, seconds)
            image, first = self._image, self._waiting[0] if self._waiting else None
            return image if image is not None and (first is None or first.txid > image.txid) else first

    def done(self, staged: Staged) -> None:
        """It is in the store."""
        with self._changed:
            if staged.name.level == SNAPSHOTS:
                if staged is self._image:
                    self._image = None
                    _remove(staged)
                return
            self._waiting = [other for other in self._waiting if other is not staged]
            if staged is not self._newest:
                _remove(staged)

    def drop(self) -> int:
        """Forget all that waits but the first, of which nobody knows whether the store has it; returns how many.

        Raises OSError; what could not be forgotten then waits as before.
        """
        dropped = 0
        with self._changed:
            if self._image is not None:
                _remove(self._image)
                self._image = None
            while len(self._waiting) > 1:
                self._waiting[-1].path.unlink(missing_ok=True)  # in this order: at any moment those that are left follow each other
                self._waiting.pop()
                self._newest = self._waiting[-1]
                dropped += 1
        sync_path(self._folder)
        return dropped

    def clear(self) -> None:
        """Forget everything: the store has become another one."""
        with self._changed:
            for staged in (*self._waiting, *([self._newest] if self._newest else ())):
                staged.path.unlink(missing_ok=True)
            self._waiting, self._newest = [], None

    def _write(self, path: Path, change: Change, name: Name, timestamp_ms: int) -> Staged:
        salts = change.mark.salts
        header = Header(
            page_size=change.page_size,
            commit=change.size,
            min_txid=name.min_txid,
            max_txid=name.max_txid,
            timestamp_ms=timestamp_ms,
            wal_offset=change.wal_offset,
            wal_size=change.wal_size,
            wal_salt1=int.from_bytes(salts[:4]),
            wal_salt2=int.from_bytes(salts[4:]),
        )
        temporary = path.with_name(path.name + TEMPORARY)
        try:
            with temporary.open("wb") as file:
                written = encode(file, header, change.read(), name=str(name))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            sync_path(self._folder)
        except BaseException:
            for left in (temporary, path):
                with suppress(OSError):
                    left.unlink(missing_ok=True)
            raise
        return Staged(path, name, header, written.size, change.mark.checksum)


def _remove(staged: Staged) -> None:
    """It is in the store. Where it stays here it is put once more after a restart, which the store knows to be the same."""
    with suppress(OSError):
        staged.path.unlink(missing_ok=True)


def _staged(path: Path) -> Staged:
    parts = _NAME.fullmatch(path.name)
    if parts is None:
        raise DamagedObject(f"{path} is none of the files that wait for the store: move it away")
    with path.open("rb") as file:
        header = Header.unpack(file.read(HEADER.size).ljust(HEADER.size, b"\0"), str(path))
    txid = int(parts[1], 16)
    return Staged(path, Name(0, txid, txid), header, path.stat().st_size, bytes.fromhex(parts[2]))


def in_words(exc: Exception) -> str:
    """An error for the status and the log."""
    if is_full(exc):
        return "there is no space for the files that wait for the store: the disk of the database is full"
    return str(exc) or type(exc).__name__
