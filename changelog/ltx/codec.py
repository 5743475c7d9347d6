"""LTX files, written and read: two twins that validate. What one refuses to write the other refuses to read.

Neither holds a file in memory: the writer keeps its index (some ten bytes a page), the reader nothing but a piece of the file. Files are
written without checksums of the database (flag NO_CHECKSUM); such with them, of other writers, are read, and checked where they can be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fastcrc import crc64

from changelog.ltx.header import BLOCK, CHECKSUM, END, FRAME, HEADER, NO_CHECKSUM, NUMBER, SIZE, Header, PageOrder, damaged
from changelog.ltx.pages import (
    Encoding,
    Unpackable,
    frame_size,
    longest_block,
    pack_block,
    pack_frame,
    unpack_block,
    unpack_frame,
)

PIECE = 256 * 1024  # bytes that are read or written at a time
FRAME_WITH_SIZE = struct.Struct(FRAME.format + SIZE.format[1:])

Page = tuple[int, bytes]  # number, content


@dataclass(frozen=True)
class Written:
    """What `encode` has made."""

    size: int  # bytes
    checksum: int  # of the file
    pages: int


def encode(file: BinaryIO, header: Header, pages: Iterable[Page], encoding: Encoding = "block", name: str = "the file") -> Written:
    """Write an LTX file of `pages`, which ascend, to `file`.

    "block" is for Litestream 0.5.16 and later, "frame" for all of 0.5. Raises DamagedObject, with `name`, for a header or pages that
    nobody could read: then what was written is of no use.
    """
    header.check(name)
    if not header.flags & NO_CHECKSUM:
        raise damaged(name, "files with checksums of the database are not written: Litestream does not restore them")
    start = header.pack()
    order, crc, offset, index, count = PageOrder(header, name), crc64.go_iso(start), len(start), bytearray(), 0
    held, held_size = [start], len(start)
    for pgno, page in pages:
        order.take(pgno)
        if len(page) != header.page_size:
            raise damaged(name, f"page {pgno} has {len(page)} bytes")
        if encoding == "block":
            packed = pack_block(page)
            frame = FRAME_WITH_SIZE.pack(pgno, BLOCK, len(packed))
        else:
            packed, frame = pack_frame(page), FRAME.pack(pgno, 0)
        crc = crc64.go_iso(page, crc64.go_iso(frame, crc))
        size = len(frame) + len(packed)
        index += _entry(pgno, offset, size)
        offset += size
        count += 1
        held += (frame, packed)
        held_size += size
        if held_size > PIECE:
            file.write(b"".join(held))
            held, held_size = [], 0
    order.finish()
    index += b"\0"
    rest = END + bytes(index) + NUMBER.pack(len(index)) + NUMBER.pack(0)  # the last is the checksum of the database
    checksum = crc64.go_iso(rest, crc) | CHECKSUM
    file.write(b"".join(held) + rest + NUMBER.pack(checksum))
    return Written(offset + len(rest) + NUMBER.size, checksum, count)


def decode(file: BinaryIO, name: str = "the file") -> Decoder:
    """Begin to read an LTX file; `name` is for errors. Raises DamagedObject where the header is none that may be written."""
    return Decoder(file, name)


class Decoder:
    """An LTX file that is read: `header` at once, the pages by iterating, once. Behind the last one all of it has been checked."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._source = _Source(file, name)
        start = self._source.take(HEADER.size)
        self.header = Header.unpack(start, name)
        self.checksum: int | None = None  # of the file, when all of it has been read
        self._crc = crc64.go_iso(start)

    @property
    def offset(self) -> int:
        """How many bytes have been read."""
        return self._source.offset

    def __iter__(self) -> Iterator[Page]:
        """The pages, ascending. Raises DamagedObject, at the latest behind the last one."""
        source, page_size, order = self._source, self.header.page_size, PageOrder(self.header, self.name)
        summed = self.header.snapshot and not self.header.flags & NO_CHECKSUM
        crc, longest, index_crc, index_size, database = self._crc, longest_block(page_size), 0, 0, 0
        while True:
            begin = source.offset
            frame = source.take(FRAME.size)
            if frame == END:
                break
            pgno, flags = FRAME.unpack(frame)
            order.take(pgno)
            try:
                if flags == BLOCK:
                    prefix = source.take(SIZE.size)
                    (size,) = SIZE.unpack(prefix)
                    if size > longest:
                        raise Unpackable(f"has {size} bytes compressed")
                    frame += prefix
                    page = unpack_block(source.take(size), page_size)
                elif flags == 0:
                    page = unpack_frame(source.take(frame_size(source.peek, page_size)), page_size)
                else:
                    raise Unpackable(f"has unknown flags ({flags:#x})")
            except Unpackable as exc:
                raise damaged(self.name, f"page {pgno} {exc}") from exc
            crc = crc64.go_iso(page, crc64.go_iso(frame, crc))
            entry = _entry(pgno, begin, source.offset - begin)
            index_crc, index_size = crc64.go_iso(entry, index_crc), index_size + len(entry)
            if summed:
                database ^= crc64.go_iso(page, crc64.go_iso(SIZE.pack(pgno))) | CHECKSUM
            yield pgno, page
        order.finish()
        self._end(crc64.go_iso(END, crc), index_size + 1, crc64.go_iso(b"\0", index_crc), database | CHECKSUM if summed else None)

    def _end(self, crc: int, index_size: int, index_crc: int, database: int | None) -> None:
        """Check what stands behind the pages. The index must be that of the pages that came: a checksum of it was kept, not itself."""
        source, found, left = self._source, 0, index_size
        while left:
            piece = source.take(min(left, PIECE))
            found, crc, left = crc64.go_iso(piece, found), crc64.go_iso(piece, crc), left - len(piece)
        rest = source.take(2 * NUMBER.size)
        said, post_apply = NUMBER.unpack(rest[: NUMBER.size])[0], NUMBER.unpack(rest[NUMBER.size :])[0]
        if (said, found) != (index_size, index_crc):
            raise damaged(self.name, "its index is not that of its pages")
        (checksum,) = NUMBER.unpack(source.take(NUMBER.size))
        if checksum != crc64.go_iso(rest, crc) | CHECKSUM:
            raise damaged(self.name, "its checksum is not that of its content")
        summed = not self.header.flags & NO_CHECKSUM
        if bool(post_apply & CHECKSUM) != summed or database not in (None, post_apply) or (post_apply and not summed):
            raise damaged(self.name, "its checksum of the database is not that of its pages")
        if source.more():
            raise damaged(self.name, "something stands behind its end")
        self.checksum = checksum


class _Source:
    """A file that is read once, a piece ahead. `offset` is how far."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._piece, self._at = b"", 0
        self.offset = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises DamagedObject where there are fewer."""
        at = self._at
        if len(self._piece) - at < size:
            self._fill(size)
            at = self._at
        self._at += size
        self.offset += size
        return self._piece[at : at + size]

    def peek(self, ahead: int, size: int) -> bytes:
        """`size` bytes from `ahead` on, which stay to be taken. Raises DamagedObject where there are fewer."""
        if len(self._piece) - self._at < ahead + size:
            self._fill(ahead + size)
        return self._piece[self._at + ahead : self._at + ahead + size]

    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._piece) or bool(self._file.read(1))

    def _fill(self, size: int) -> None:
        pieces = [self._piece[self._at :]]
        wanted = max(size, PIECE) - len(pieces[0])
        while wanted > 0 and (piece := self._file.read(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        self._piece, self._at = b"".join(pieces), 0
        if len(self._piece) < size:
            raise damaged(self._name, f"it breaks off after {self.offset + len(self._piece)} bytes")


def _entry(pgno: int, offset: int, size: int) -> bytes:
    """A page's entry in the index: three numbers, seven bits a byte, the lowest first."""
    out = bytearray()
    for number in (pgno, offset, size):
        left = number
        while left > 0x7F:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)
    return bytes(out)
