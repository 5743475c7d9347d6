"""Compression of streams: gzip always, zstd where both sides have it. Each chunk can be decoded when it arrives.

And of small messages that are much like each other: both sides hold a dictionary, a message of before, and what is in it costs next to
nothing (RFC 1951, with zlib's preset dictionary; every zlib has that).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from changelog.errors import BrokenFrame

try:
    import zstandard
except ImportError:  # there is no wheel for 32-bit ARM; gzip does as well there
    zstandard = None  # type: ignore[assignment]

GZIP_LEVEL = 1
ZSTD_LEVEL = 3
PIECE_BYTES = 1024 * 1024  # decoded at a time: a small body that unpacks to gigabytes never stands in memory
_GZIP_WINDOW = 31  # zlib's way to say: with gzip's header
_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024  # no frame of ours needs a larger one

_RAW_WINDOW = -15  # zlib's way to say: without any header
DICTIONARY_BYTES = 32 * 1024  # zlib looks back no further

ACCEPTED = "zstd, gzip" if zstandard else "gzip"


def choose(accept_encoding: str) -> str:
    """The encoding for a request with this Accept-Encoding: zstd, gzip or identity."""
    offered = {part.split(";")[0].strip().lower() for part in accept_encoding.split(",") if not part.replace(" ", "").endswith(";q=0")}
    if zstandard and "zstd" in offered:
        return "zstd"
    return "gzip" if offered & {"gzip", "*"} else "identity"


def compress(encoding: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks` encoded, flushed after each of them."""
    if encoding == "identity":
        yield from chunks
        return
    coder: Any
    if encoding == "zstd":
        coder = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False).compressobj()
        flush, finish = zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH
    else:
        coder = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
        flush, finish = zlib.Z_SYNC_FLUSH, zlib.Z_FINISH
    last = None
    for chunk in chunks:
        if last is not None:
            yield coder.compress(last) + coder.flush(flush)
        last = chunk
    yield coder.compress(last or b"") + coder.flush(finish)


def decompress(encoding: str | None, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The twin of `compress`. Raises BrokenFrame for what is not so encoded, or breaks off.

    But where zstd breaks off its reader just ends: what is sent must show its own end, as a frame does.
    """
    try:
        if encoding in (None, "", "identity"):
            yield from chunks
        elif encoding == "gzip":
            yield from _gunzip(chunks)
        elif encoding == "zstd" and zstandard:
            yield from _unzstd(chunks)
        else:
            raise BrokenFrame(f"the encoding {encoding} was not asked for")
    except zlib.error as exc:
        raise BrokenFrame(f"the body is not gzip: {exc}") from exc


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    coder = zlib.decompressobj(_GZIP_WINDOW)
    for chunk in chunks:
        data = chunk
        while data:
            piece = coder.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = coder.unconsumed_tail
        if coder.unused_data:
            raise BrokenFrame("there is something behind the end of the body")
    if not coder.eof:
        raise BrokenFrame("the body breaks off")


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    source: Any = _Reader(chunks)
    try:
        with zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).stream_reader(source) as reader:
            while piece := reader.read1(PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as exc:
        raise BrokenFrame(f"the body is not zstd: {exc}") from exc


def pack(message: bytes, dictionary: bytes) -> bytes:
    """A message as `unpack` takes it, with the same dictionary."""
    coder = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, _RAW_WINDOW, zdict=dictionary)
    return coder.compress(message) + coder.flush()


def unpack(packed: bytes, dictionary: bytes, most: int) -> bytes:
    """The message of `pack`. Raises BrokenFrame for anything else, and where it has more than `most` bytes."""
    coder = zlib.decompressobj(_RAW_WINDOW, dictionary)
    try:
        message = coder.decompress(packed, most + 1)
    except zlib.error as exc:
        raise BrokenFrame(f"the message is not packed as it should be: {exc}") from exc
    if len(message) > most or not coder.eof or coder.unused_data:
        raise BrokenFrame(f"the message has more than {most} bytes, breaks off, or goes on behind its end")
    return message


class _Reader:
    """Chunks as a file: read() gives the next one, whatever size is asked for."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece
