"""The download of a snapshot: a file that goes on growing where a connection broke, and is what its digest says in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path

from changelog.errors import BrokenFrame, DiskFull, Unavailable, Unreachable
from changelog.space import Room, is_full

LONGEST_NUMBER = 18  # digits

Progress = Callable[[int, int | None], None]  # bytes that are here, and of how many if that is known


class Download:
    """One snapshot on its way to the file `target`, which is made anew."""

    def __init__(self, target: Path) -> None:
        self._target, self._room = target, Room(target.absolute().parent)
        self._digest = ""  # of the copy that is being sent, as hex
        self.done = 0  # bytes that are here
        self.whole = False
        target.unlink(missing_ok=True)

    @property
    def headers(self) -> dict[str, str]:
        """What the next request must say, so that only what is missing comes, or all of another copy when this one is gone."""
        going_on = {"Range": f"bytes={self.done}-", "If-Range": f'"{self._digest}"'} if self.done and self._digest else {}
        return {"Accept-Encoding": "identity", **going_on}

    def receive(self, headers: Mapping[str, str], status: int, pieces: Iterable[bytes], progress: Progress) -> None:
        """Write an answer to the file.

        Raises Unreachable when it breaks off, DiskFull or Unavailable when it cannot be stored, BrokenFrame where its length is no number.
        """
        self._digest = headers.get("ETag", "").strip('"')
        if status != HTTPStatus.PARTIAL_CONTENT:
            self.done = 0
        total = self._total(headers.get("Content-Length"))
        try:
            with self._target.open("ab" if self.done else "wb") as file:
                for piece in pieces:
                    self._room.take(len(piece))
                    file.write(piece)
                    self.done += len(piece)
                    progress(self.done, total)
        except OSError as exc:
            kind = DiskFull if is_full(exc) else Unavailable
            raise kind(f"the snapshot cannot be stored as {self._target}: {exc.strerror or exc}") from exc
        if total is not None and self.done != total:
            raise Unreachable(f"the download broke off after {self.done} of {total} bytes")
        self.whole = True

    def _total(self, length: str | None) -> int | None:
        if length is None:
            return None
        if not length.isascii() or not length.isdigit() or len(length) > LONGEST_NUMBER:
            raise BrokenFrame(f"the length of the snapshot is no number: {length[:60]!r}")
        return self.done + int(length)

    def check(self) -> None:
        """Raises BrokenFrame where the file is not what its digest says."""
        with self._target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self._digest:
                raise BrokenFrame("the snapshot arrived damaged: its digest is another one")
