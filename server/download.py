"""The download of a snapshot: a file that goes on growing where a connection broke, and is what its digest says in the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from io import BufferedWriter
from pathlib import Path

from changelog.errors import BrokenFrame, DiskFull, Unavailable, Unreachable
from changelog.space import Room, is_full

LONGEST_NUMBER = 18  # digits
LONGEST_ID = 64  # characters
WRITTEN_AT_ONCE = 4 * 2**20  # bytes that wait in memory for the disk

Progress = Callable[[int, int], None]  # bytes that are here, and of how many


class Download:
    """One snapshot on its way to the file `target`, which is made anew. It is hashed as it comes."""

    def __init__(self, target: Path) -> None:
        self._target, self._room = target, Room(target.absolute().parent)
        self._copy, self._hash = "", hashlib.sha256()  # which copy it is, and the digest of what is here
        self.done = 0  # bytes that are here
        self.whole = False
        target.unlink(missing_ok=True)

    @property
    def asked(self) -> dict[str, str | int]:
        """What the next request must ask, so that only what is missing comes, or all of another copy when this one is gone."""
        return {"copy": self._copy, "from": self.done} if self.done else {}

    def receive(self, headers: Mapping[str, str], pieces: Iterable[bytes], progress: Progress) -> None:
        """Write an answer to the file; behind its last byte comes its digest.

        Raises Unreachable when it breaks off, DiskFull or Unavailable when it cannot be stored, BrokenFrame where it is none, or damaged.
        """
        size, digest = self._begin(headers), b""
        begun = self.done
        try:
            with self._target.open("ab" if self.done else "wb") as file:
                for piece in pieces:
                    body = memoryview(piece)[: size - self.done]
                    digest += piece[len(body) :]
                    if len(digest) > self._hash.digest_size:
                        raise BrokenFrame(f"the snapshot is longer than the {size} bytes that it is to have")
                    self._room.take(len(body))
                    file.write(body)
                    self._hash.update(body)
                    self.done += len(body)
                    if self.done - begun >= WRITTEN_AT_ONCE:
                        _begin_to_write(file, begun, self.done)
                        begun = self.done
                    progress(self.done, size)
        except OSError as exc:
            kind = DiskFull if is_full(exc) else Unavailable
            raise kind(f"the snapshot cannot be stored as {self._target}: {exc.strerror or exc}") from exc
        if len(digest) < self._hash.digest_size:
            raise Unreachable(f"the download broke off after {self.done} of {size} bytes")
        if digest != self._hash.digest():
            raise BrokenFrame("the snapshot arrived damaged: its digest is another one")
        self.whole = True

    def _begin(self, headers: Mapping[str, str]) -> int:
        """How large the file is to be that an answer with these headers goes on with, or begins."""
        copy, start, size = (headers.get(f"X-Changelog-{name}", "") for name in ("Copy", "From", "Size"))
        for number in (start, size):
            if not number.isascii() or not number.isdigit() or len(number) > LONGEST_NUMBER:
                raise BrokenFrame(f"what came is no snapshot: its place or its length is no number: {number[:60]!r}")
        if int(start) == 0:
            self.done, self._hash, self._copy = 0, hashlib.sha256(), copy[:LONGEST_ID]
        elif int(start) != self.done or copy != self._copy:
            raise BrokenFrame("the snapshot goes on at another place than where it broke off")
        return int(size)


def _begin_to_write(file: BufferedWriter, start: int, end: int) -> None:
    """Have the kernel bring these bytes to the disk while others come, so that the sync of the whole file finds little left.

    It is told that they are not needed, which begins their writing at once; what is being written cannot be dropped, so it stays in memory.
    """
    file.flush()
    os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)
