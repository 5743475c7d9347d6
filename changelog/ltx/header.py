"""The fixed parts of an LTX file, and the rules that hold for them: the one place that knows both, for writer and reader.

The format is version 3 of github.com/superfly/ltx (its README.md is the specification); integers are big-endian:

    header 100 bytes | page frames | 6 zero bytes | page index | u64 size of the index | trailer 16 bytes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from changelog.errors import DamagedObject

MAGIC = b"LTX1"
HEADER = struct.Struct(">4sIIIQQQQQQIIQ20s")
FRAME = struct.Struct(">IH")  # page number, flags
SIZE = struct.Struct(">I")  # of a compressed page, where flag BLOCK is set
NUMBER = struct.Struct(">Q")
END = bytes(FRAME.size)  # what stands where another frame would

NO_CHECKSUM = 2  # header flag: no checksum of the database. What stock Litestream writes, and the only kind that it restores
BLOCK = 1  # page flag: an LZ4 block behind its size. Without it: an LZ4 frame, as Litestream wrote until 0.5.15
CHECKSUM = 1 << 63  # set in every checksum, so that none is 0

PAGE_SIZES = tuple(1 << n for n in range(9, 17))
PENDING_BYTE = 0x40000000  # SQLite's lock page holds it, and is in no file
LATEST = 253_402_300_800_000  # ms: the year 10000, which no timestamp can name
SIGNED = 1 << 63


@dataclass(frozen=True)
class Header:
    """What an LTX file says of itself. A file from TXID 1 on is a snapshot: it holds every page."""

    page_size: int  # bytes
    commit: int  # size of the database after this file, in pages
    min_txid: int
    max_txid: int
    timestamp_ms: int  # since 1970, when it was shipped
    wal_offset: int = 0  # bytes: the part of the -wal that it comes from
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    flags: int = NO_CHECKSUM
    pre_apply: int = 0  # checksum of the database before it; 0 with NO_CHECKSUM
    node_id: int = 0

    @property
    def snapshot(self) -> bool:
        """Whether it holds every page."""
        return self.min_txid == 1

    @property
    def lock_page(self) -> int:
        """The page that no file holds."""
        return lock_page(self.page_size)

    @property
    def pages(self) -> int:
        """How many pages a database of this size has in files: all but the lock page."""
        return self.commit - (self.commit >= self.lock_page)

    def pack(self) -> bytes:
        """The header's 100 bytes."""
        return HEADER.pack(
            MAGIC,
            self.flags,
            self.page_size,
            self.commit,
            self.min_txid,
            self.max_txid,
            self.timestamp_ms,
            self.pre_apply,
            self.wal_offset,
            self.wal_size,
            self.wal_salt1,
            self.wal_salt2,
            self.node_id,
            b"",
        )

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Header:
        """The twin of `pack`. Raises DamagedObject, with `name`, for what is no header or breaks a rule."""
        magic, flags, page_size, commit, low, high, at, pre, offset, size, salt1, salt2, node, reserved = HEADER.unpack(data)
        if magic != MAGIC:
            raise damaged(name, "it is not an LTX file")
        if reserved.strip(b"\0"):
            raise damaged(name, "its header has something where nothing is known to stand")
        header = cls(page_size, commit, low, high, at, offset, size, salt1, salt2, flags, pre, node)
        header.check(name)
        return header

    def check(self, name: str) -> None:
        """Raises DamagedObject, with `name`, for a header that nobody may write or read."""
        if fault := self._fault():
            raise damaged(name, fault)

    def _fault(self) -> str:
        if self.flags & ~NO_CHECKSUM:
            return f"its header has unknown flags ({self.flags:#x})"
        if self.page_size not in PAGE_SIZES:
            return f"its page size is {self.page_size}"
        if not 1 <= self.commit < 1 << 32:
            return f"it makes a database of {self.commit} pages"
        if not 1 <= self.min_txid <= self.max_txid < 1 << 64:
            return f"its transactions are {self.min_txid} to {self.max_txid}"
        if not 0 <= self.timestamp_ms < LATEST:
            return f"its time is {self.timestamp_ms} ms"
        return self._fault_of_wal() or self._fault_of_checksum()

    def _fault_of_wal(self) -> str:
        if not (0 <= self.wal_offset < SIGNED and 0 <= self.wal_size < SIGNED):
            return f"its part of the -wal is {self.wal_size} bytes at {self.wal_offset}"
        if not self.wal_offset and (self.wal_size or self.wal_salt1 or self.wal_salt2):
            return "it names a -wal without a place in it"
        return ""

    def _fault_of_checksum(self) -> str:
        without = self.snapshot or self.flags & NO_CHECKSUM
        if bool(self.pre_apply) == bool(without) or (self.pre_apply and not self.pre_apply & CHECKSUM):
            return "its checksum of the database before it is malformed"
        return ""


class PageOrder:
    """The pages of one file, in their order: what may come next, for writer and reader."""

    def __init__(self, header: Header, name: str) -> None:
        self._commit, self._lock, self._snapshot, self._pages = header.commit, header.lock_page, header.snapshot, header.pages
        self._name, self._last = name, 0

    def take(self, pgno: int) -> None:
        """`pgno` comes next. Raises DamagedObject where it must not."""
        last, self._last = self._last, pgno
        if last < pgno <= self._commit and pgno != self._lock and not (self._snapshot and pgno != last + 1 + (last + 1 == self._lock)):
            return
        if pgno > self._commit:
            raise damaged(self._name, f"page {pgno} is beyond its {self._commit} pages")
        if pgno == self._lock:
            raise damaged(self._name, f"page {pgno} is SQLite's lock page, which no file holds")
        if pgno <= last:
            raise damaged(self._name, f"page {pgno} follows page {last}")
        raise damaged(self._name, f"it is a snapshot without page {last + 1 + (last + 1 == self._lock)}")

    def finish(self) -> None:
        """No more come. Raises DamagedObject for a snapshot with a hole at its end."""
        if self._snapshot and self._last not in (self._commit, self._commit - (self._commit == self._lock)):
            raise damaged(self._name, f"it is a snapshot of {self._commit} pages that ends with page {self._last}")


def lock_page(page_size: int) -> int:
    """The page that holds SQLite's lock bytes."""
    return PENDING_BYTE // page_size + 1


def damaged(name: str, fault: str) -> DamagedObject:
    """The error that names an object and its fault."""
    return DamagedObject(f"{name} is damaged: {fault}", object=name, fault=fault)
