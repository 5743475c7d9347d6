"""A frame as it arrives: kept beside the replica, so that a broken link or a restart costs the piece on its way and no more.

A short frame is held in memory. A longer one becomes a file that is the frame itself, as if it had come in one go: header, rows, end. It
grows by whole lines and is not synced: what a crash leaves torn is cut off, and what does not decode is fetched again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from changelog.errors import BrokenFrame, DiskFull, DroverError, Unavailable
from changelog.position import Position
from changelog.space import Room, is_full
from changelog.wire import (
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    Header,
    Page,
    decode_frame,
    encode_end,
    encode_header,
    is_end,
    last_row,
    split_end,
    split_frame,
)

HELD_BYTES = 256 * 1024  # of a frame that are held in memory


class Staging:
    """The frame that is being fetched. `header` is that of its beginning, None where there is none; `reached` its last row that is here."""

    def __init__(self, path: Path) -> None:
        """`path` is where the file is made; what is there is gone on with."""
        self._path, self._room = path, Room(path.absolute().parent)
        self.header: Header | None = None
        self.reached: Position | None = None
        self.whole = False
        self._held: list[bytes] = []
        self._size = self._crc = 0  # the checksum is that of all lines
        self._file: BinaryIO | None = None
        if path.exists():
            self._recover()

    def begins_at(self, position: Position) -> bool:
        """Whether what is here leads on from `position`; all else is discarded."""
        if self.header is not None and self.header.start == position:
            return True
        self.discard()
        return False

    def receive(self, header: Header, pieces: Iterable[bytes], arrived: Callable[[int], object] = lambda rows: None) -> None:
        """Take a frame, or the rest of the one that is here, as `split_frame` gives it; `arrived` is told how many rows each piece had.

        Raises BrokenFrame where it breaks off or does not go on; what came until then stays, unless it was damaged. Raises DiskFull, or
        Unavailable where it cannot be kept for another reason.
        """
        if self.header is None or self.reached is None:
            self.header, self.reached = header, header.start
            self._append(encode_header(header).encode() + b"\n")
        elif (header.start, header.end) != (self.reached, self.header.end):
            raise BrokenFrame(f"what came does not go on after seq {self.reached.seq}")
        try:
            self._take(pieces, self.header, header.upto - header.after, arrived)
        except BaseException as exc:
            if isinstance(exc, BrokenFrame) and exc.facts.get("damaged"):
                self.discard()
            else:
                self._spill()
            raise

    def frame(self) -> tuple[Header, Iterator[Page]]:
        """The whole frame, decoded as it is read."""
        self._flush()
        return decode_frame(self._read_file() if self._file else self._held)

    def discard(self) -> None:
        """Forget the frame."""
        try:
            if self._file is not None:
                with suppress(OSError):  # what it still holds in memory does not fit on the disk
                    self._file.close()
            self._path.unlink(missing_ok=True)
        finally:
            self._forget()

    def close(self) -> None:
        """Let go of the frame; a file of it stays, unless the disk is full."""
        with suppress(Unavailable):
            self._spill()
        if self._file is not None:
            self._file.close()
        self._forget()

    def _forget(self) -> None:
        self.header = self.reached = self._file = None
        self.whole, self._held, self._size, self._crc = False, [], 0, 0

    def _take(self, pieces: Iterable[bytes], header: Header, count: int, arrived: Callable[[int], object]) -> None:
        """`count`: how many rows the answer is to have."""
        end = None
        for piece in pieces:
            rows, end = split_end(piece)
            if rows:
                seq, nonce = last_row(rows)
                if self.reached is None or not self.reached.seq < seq <= header.upto:
                    raise BrokenFrame(f"seq {seq} is out of place")
                self._append(rows)
                before, self.reached = self.reached.seq, Position(header.epoch, seq, nonce)
                arrived(seq - before)
            if end is not None:
                if not is_end(end, count, header.upto):
                    raise BrokenFrame("the end of the frame says something else than its beginning")
                break
        if self.reached != header.end or end is None:
            raise BrokenFrame(f"the frame breaks off after seq {self.reached.seq if self.reached else header.after}")
        self._append(encode_end(header.upto - header.after, header.upto, self._crc).encode() + b"\n")
        self.whole = True

    def _append(self, lines: bytes) -> None:
        self._crc = zlib.crc32(lines, self._crc)
        if self._file is not None:
            self._write(lines)
            return
        self._held.append(lines)
        self._size += len(lines)
        if self._size > HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        """From memory into the file."""
        if self._file is None and self._held:
            self._file = self._path.open("w+b")
            held, self._held = self._held, []
            self._write(b"".join(held))
        self._flush()

    def _write(self, lines: bytes) -> None:
        assert self._file is not None
        try:
            self._room.take(len(lines))
        except Unavailable:
            self.discard()
            raise
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(lines)
        except OSError as exc:
            raise self._given_up(exc) from exc

    def _flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as exc:
                raise self._given_up(exc) from exc

    def _given_up(self, cause: OSError) -> Unavailable:
        with suppress(OSError):  # closing tries once more to write what is left
            self.discard()
        self._forget()
        self._path.unlink(missing_ok=True)
        kind = DiskFull if is_full(cause) else Unavailable
        return kind(f"{self._path} cannot be written: {cause.strerror}; what was fetched is fetched again")

    def _read_file(self) -> Iterator[bytes]:
        assert self._file is not None
        self._file.seek(0)
        while piece := self._file.read(CHUNK_BYTES):
            yield piece

    def _recover(self) -> None:
        """Go on with the file that an earlier process left."""
        try:
            self._file = self._path.open("r+b")
            self.header, _ = split_frame([self._file.readline(MAX_LINE_BYTES)])
            line = self._last_line()
            _, end = split_end(line)
            self.whole = end is not None and "protocol" not in end
            for piece in self._read_file():
                self._crc = zlib.crc32(piece, self._crc)
            if self.whole:
                self.reached = self.header.end
            else:
                self.reached = self.header.start if end is not None else Position(self.header.epoch, *last_row(line))
        except (DroverError, OSError, TypeError):  # of another version, or torn in the middle: nothing is lost with it
            self.discard()

    def _last_line(self) -> bytes:
        """The last whole line; what stands behind it, torn, is cut off."""
        assert self._file is not None
        size = start = self._file.seek(0, os.SEEK_END)
        tail = b""
        while start > 0 and tail.count(b"\n") < 2:
            step = min(max(CHUNK_BYTES, len(tail)), start)
            start -= step
            self._file.seek(start)
            tail = self._file.read(size - start)
        end = tail.rfind(b"\n") + 1
        self._file.truncate(start + end)
        return tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]
