"""The -wal file of SQLite as bytes: its header, its frames, and which page each of them holds.

Only what the tailer asks. That a frame is committed is not found out here: SQLite says how many frames are (a checkpoint of the kind NOOP).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from changelog.connection import Path_
from changelog.errors import DroverError

HEADER = 32  # bytes of the file's header
FRAME_HEADER = 24  # bytes before each page
NO_SALTS = bytes(8)


class TornWal(DroverError):
    """The -wal does not hold any more what was to be read from it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two commits of one -wal: after its `frame`-th frame (0: before the first) since it began with `salts`.

    `checksum` is that of the frame, which goes on from the one before, so that it stands for all frames up to it.
    """

    salts: bytes
    frame: int
    checksum: bytes = bytes(8)


class WalFile:
    """The -wal of the database at `path`, which other connections of this process keep from going away."""

    def __init__(self, path: Path_, page_size: int) -> None:
        self.page_size = page_size
        self.frame_size = FRAME_HEADER + page_size
        self._fd = os.open(f"{os.fspath(path)}-wal", os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def header(self) -> bytes:
        """The 32 bytes; fewer while nothing was written."""
        return os.pread(self._fd, HEADER, 0)

    def salts(self) -> bytes:
        """The salts that every frame of this -wal bears: others from the moment on in which it begins anew."""
        return self.header()[16:24] or NO_SALTS

    def offset(self, frame: int) -> int:
        """Where the frame after the `frame`-th begins, in bytes."""
        return HEADER + frame * self.frame_size

    def mark(self, salts: bytes, frame: int) -> Mark:
        """The place after the `frame`-th frame. Raises TornWal when there is no such frame."""
        if frame == 0:
            return Mark(salts, 0)
        header = self._frame_header(frame - 1)
        if header[8:16] != salts:
            raise TornWal
        return Mark(salts, frame, header[16:24])

    def pages(self, salts: bytes, after: int, upto: int) -> tuple[dict[int, int], int]:
        """For each page that the frames after the `after`-th up to the `upto`-th hold, the last of these (from 0); and the size in pages.

        Raises TornWal when a frame is of another -wal, or the last one ends no commit.
        """
        last, header = {}, b""
        for frame in range(after, upto):
            header = self._frame_header(frame)
            if header[8:16] != salts:
                raise TornWal
            last[int.from_bytes(header[:4])] = frame
        commit = int.from_bytes(header[4:8])
        if not commit:
            raise TornWal
        return last, commit

    def page(self, frame: int) -> bytes:
        """The page in a frame, from 0."""
        data = os.pread(self._fd, self.page_size, self.offset(frame) + FRAME_HEADER)
        if len(data) != self.page_size:
            raise TornWal
        return data

    def _frame_header(self, frame: int) -> bytes:
        data = os.pread(self._fd, FRAME_HEADER, self.offset(frame))
        if len(data) != FRAME_HEADER:
            raise TornWal
        return data
