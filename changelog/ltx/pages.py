"""How a page is packed: as an LZ4 block behind its size, or as an LZ4 frame.

Whatever a file says, no more memory is taken than a page needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import lz4.block
import lz4.frame

Encoding = Literal["block", "frame"]

FRAME_MAGIC = 0x184D2204
BLOCK_SUMS, CONTENT_SIZE, CONTENT_SUM, DICTIONARY = 16, 8, 4, 1  # flags of an LZ4 frame
STORED = 1 << 31  # in a block's size: not compressed
BEST_RATIO = 255  # no LZ4 block is shorter than its content by more


class Unpackable(Exception):
    """These bytes are no packed page; the message is the fault."""


def longest_block(page_size: int) -> int:
    """LZ4's own bound for a page that does not compress, in bytes."""
    return page_size + page_size // 255 + 16


def shortest_frame(page_size: int) -> int:
    """The fewest bytes that a page takes in a file: number, flags, size, content, and its entry in the index."""
    return 10 + page_size // BEST_RATIO + 3


def pack_block(page: bytes) -> bytes:
    """A page as an LZ4 block."""
    return lz4.block.compress(page, store_size=False)


def pack_frame(page: bytes) -> bytes:
    """A page as an LZ4 frame that every Litestream 0.5 reads: 0.5.16 and later demand the content's checksum."""
    return lz4.frame.compress(page, content_checksum=True, store_size=False)


def unpack_block(data: bytes, page_size: int) -> bytes:
    """The twin of `pack_block`. Raises Unpackable."""
    try:
        page = lz4.block.decompress(data, uncompressed_size=page_size)
    except (lz4.block.LZ4BlockError, ValueError) as exc:
        raise Unpackable("is no LZ4 block of a page") from exc
    if len(page) != page_size:
        raise Unpackable(f"has {len(page)} bytes")
    return page


def unpack_frame(data: bytes, page_size: int) -> bytes:
    """The twin of `pack_frame`, for what `frame_size` has measured. Raises Unpackable."""
    try:
        decoder = lz4.frame.LZ4FrameDecompressor()
        page = decoder.decompress(data, page_size + 1)
    except (RuntimeError, ValueError, EOFError) as exc:
        raise Unpackable("is no LZ4 frame") from exc
    if len(page) != page_size or not decoder.eof or decoder.unused_data:
        raise Unpackable(f"is no LZ4 frame of {page_size} bytes")
    return page


def frame_size(read: Callable[[int, int], bytes], page_size: int) -> int:
    """How many bytes the LZ4 frame has that begins here: nothing before it says so. Raises Unpackable.

    `read` gives the bytes from an offset on, as many as are asked for.
    """
    longest = 2 * longest_block(page_size) + 64
    start = read(0, 6)
    flags = start[4]
    if int.from_bytes(start[:4], "little") != FRAME_MAGIC or flags >> 6 != 1 or flags & DICTIONARY:
        raise Unpackable("is neither an LZ4 block nor a plain LZ4 frame")
    at = 7 + (8 if flags & CONTENT_SIZE else 0)
    while at <= longest:
        size = int.from_bytes(read(at, 4), "little") & ~STORED
        at += 4
        if not size:
            return at + (4 if flags & CONTENT_SUM else 0)
        at += size + (4 if flags & BLOCK_SUMS else 0)
    raise Unpackable("is an LZ4 frame that is longer than any page")
