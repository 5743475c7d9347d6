"""LTX files: two twins that refuse the same things, whatever a file says of itself."""

from __future__ import annotations

import io
import random
import resource
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace

import lz4.block
import lz4.frame
import pytest
from fastcrc import crc64
from hypothesis import given
from hypothesis import strategies as st

from changelog.errors import DamagedObject
from changelog.ltx.codec import Page, decode, encode
from changelog.ltx.header import BLOCK, CHECKSUM, END, Header
from changelog.ltx.pages import Encoding

HEADER = Header(page_size=512, commit=3, min_txid=1, max_txid=1, timestamp_ms=1_790_000_000_000)
PAGES = [(pgno, bytes([pgno]) * 512) for pgno in (1, 2, 3)]
LOCK_PAGE = 0x40000000 // 65536 + 1


def written(header: Header = HEADER, pages: Iterable[Page] = PAGES, encoding: Encoding = "block") -> bytes:
    file = io.BytesIO()
    encode(file, header, pages, encoding, name="ours.ltx")
    return file.getvalue()


def read(data: bytes) -> tuple[Header, list[Page]]:
    decoder = decode(io.BytesIO(data), "theirs.ltx")
    return decoder.header, list(decoder)


def unchecked(header: bytes, frames: list[tuple[int, int, bytes, bytes]], post_apply: int = 0) -> bytes:
    """A file with a true checksum and index, whatever is in it; frames are (number, flags, size field and payload, content)."""
    out, index, crc = bytearray(header), bytearray(), crc64.go_iso(header)
    for pgno, flags, packed, page in frames:
        start = struct.pack(">IH", pgno, flags)
        for number in (pgno, len(out), 6 + len(packed)):
            left = number
            while left > 127:
                index.append(left & 127 | 128)
                left >>= 7
            index.append(left)
        out += start + packed
        crc = crc64.go_iso(start + (packed[:4] if flags else b"") + page, crc)
    index += b"\0"
    rest = END + index + struct.pack(">QQ", len(index), post_apply)
    return bytes(out) + rest + struct.pack(">Q", crc64.go_iso(rest, crc) | CHECKSUM)


def block(pgno: int, page: bytes) -> tuple[int, int, bytes, bytes]:
    packed = lz4.block.compress(page, store_size=False)
    return pgno, BLOCK, struct.pack(">I", len(packed)) + packed, page


@pytest.mark.parametrize("encoding", ["block", "frame"])
@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
def test_what_is_written_is_read(page_size: int, encoding: Encoding) -> None:
    source = random.Random(page_size)
    pages = [(pgno, source.randbytes(page_size // 2) + bytes(page_size // 2)) for pgno in (2, 7, 8, 90)]
    pages.append((91, source.randbytes(page_size)))
    header = Header(page_size, 91, 5, 9, 1_790_000_000_123, wal_offset=32, wal_size=5000, wal_salt1=1, wal_salt2=2**32 - 1, node_id=3)
    data = written(header, pages, encoding)
    assert read(data) == (header, pages)


def test_what_encode_returns_is_what_it_wrote() -> None:
    file = io.BytesIO()
    done = encode(file, HEADER, PAGES)
    assert (done.size, done.pages) == (len(file.getvalue()), 3)
    decoder = decode(io.BytesIO(file.getvalue()))
    assert list(decoder) == PAGES and decoder.checksum == done.checksum and decoder.offset == done.size


def test_the_format_is_that_of_the_specification_to_the_byte() -> None:
    frames = [block(pgno, page) for pgno, page in PAGES]
    header = struct.pack(">4sIIIQQQQQQIIQ20s", b"LTX1", 2, 512, 3, 1, 1, 1_790_000_000_000, 0, 0, 0, 0, 0, 0, b"")
    assert len(header) == 100
    assert written() == unchecked(header, frames)


def test_both_encodings_of_pages_may_stand_in_one_file() -> None:
    packed = lz4.frame.compress(PAGES[1][1], content_checksum=True, store_size=True)
    without_sum = lz4.frame.compress(PAGES[2][1], block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    frames = [block(*PAGES[0]), (2, 0, packed, PAGES[1][1]), (3, 0, without_sum, PAGES[2][1])]
    assert read(unchecked(HEADER.pack(), frames))[1] == PAGES


def test_checksums_of_the_database_are_compared_where_a_file_has_them() -> None:
    header = replace(HEADER, flags=0).pack()
    frames = [block(pgno, page) for pgno, page in PAGES]
    right = 0
    for pgno, page in PAGES:
        right ^= crc64.go_iso(struct.pack(">I", pgno) + page) | CHECKSUM
    assert read(unchecked(header, frames, right | CHECKSUM))[1] == PAGES
    for wrong in (0, right | CHECKSUM ^ 1, right & ~CHECKSUM):
        with pytest.raises(DamagedObject, match="checksum of the database"):
            read(unchecked(header, frames, wrong))
    with pytest.raises(DamagedObject, match="checksum of the database"):
        read(unchecked(HEADER.pack(), frames, right | CHECKSUM))


WRONG_HEADERS = {
    "unknown flags": {"flags": 6},
    "page size is 513": {"page_size": 513},
    "page size is 256": {"page_size": 256},
    "page size is 131072": {"page_size": 131072},
    "database of 0 pages": {"commit": 0},
    "transactions are 0 to": {"min_txid": 0},
    "transactions are 3 to 2": {"min_txid": 3, "max_txid": 2},
    "its time is": {"timestamp_ms": 2**63},
    "part of the -wal": {"wal_offset": 2**63},
    "without a place in it": {"wal_size": 1},
    "malformed": {"pre_apply": CHECKSUM},
}


@pytest.mark.parametrize("fault", WRONG_HEADERS)
def test_a_header_that_is_not_written_is_not_read(fault: str) -> None:
    header = replace(HEADER, **WRONG_HEADERS[fault])
    with pytest.raises(DamagedObject, match=f"ours.ltx is damaged: .*{fault}"):
        written(header)
    with pytest.raises(DamagedObject, match=f"theirs.ltx is damaged: .*{fault}"):
        read(unchecked(header.pack(), [block(pgno, page) for pgno, page in PAGES]))


ONE_OF_MANY = replace(HEADER, min_txid=7, max_txid=7)
BIG_PAGES = replace(ONE_OF_MANY, page_size=65536, commit=LOCK_PAGE + 1)
WRONG_PAGES: dict[str, tuple[Header, list[int]]] = {
    "page 3 follows page 3": (ONE_OF_MANY, [2, 3, 3]),
    "page 1 follows page 2": (ONE_OF_MANY, [2, 1]),
    "page 4 is beyond its 3 pages": (ONE_OF_MANY, [4]),
    "page 0 follows page 0": (ONE_OF_MANY, [0]),
    "snapshot without page 1": (HEADER, [2, 3]),
    "snapshot without page 2": (HEADER, [1, 3]),
    "ends with page 2": (HEADER, [1, 2]),
    "ends with page 0": (HEADER, []),
    f"page {LOCK_PAGE} is SQLite's lock page": (BIG_PAGES, [LOCK_PAGE]),
}


@pytest.mark.parametrize("fault", WRONG_PAGES)
def test_pages_that_are_not_written_are_not_read(fault: str) -> None:
    header, numbers = WRONG_PAGES[fault]
    pages = [(pgno, bytes(header.page_size)) for pgno in numbers]
    with pytest.raises(DamagedObject, match=f"ours.ltx is damaged: .*{fault}"):
        written(header, pages)
    with pytest.raises(DamagedObject, match=f"theirs.ltx is damaged: .*{fault}"):
        read(unchecked(header.pack(), [block(pgno, page) for pgno, page in pages]))


def test_a_snapshot_goes_past_the_lock_page_without_it() -> None:
    header = replace(HEADER, page_size=65536, commit=LOCK_PAGE + 1)
    pages = [(pgno, bytes(65536)) for pgno in range(1, LOCK_PAGE + 2) if pgno != LOCK_PAGE]
    assert sum(1 for _ in decode(io.BytesIO(written(header, pages)))) == LOCK_PAGE == header.pages


def test_a_page_of_another_size_is_not_written() -> None:
    with pytest.raises(DamagedObject, match="page 2 has 511 bytes"):
        written(pages=[PAGES[0], (2, bytes(511))])


def test_files_with_checksums_of_the_database_are_not_written() -> None:
    with pytest.raises(DamagedObject, match="Litestream does not restore them"):
        written(replace(HEADER, flags=0))


def put(offset: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + new + data[offset + len(new) :]


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "it is not an LTX file": put(0, b"LTX2"),
    "something where nothing is known": put(99, b"\1"),
    "page 1 has unknown flags": put(104, b"\0\2"),
    "page 1 has 4294967295 bytes compressed": put(106, b"\xff" * 4),
    "page 1 is no LZ4 block": put(110, b"\xff"),
    "page 1 is neither an LZ4 block nor a plain LZ4 frame": put(104, b"\0\0"),
    "its index is not that of its pages": lambda data: data[:-26] + bytes([data[-26] ^ 1]) + data[-25:],
    "its checksum is not": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "something stands behind its end": lambda data: data + b"\0",
    "breaks off after 99 bytes": lambda data: data[:99],
    "breaks off after 0 bytes": lambda data: b"",
    "breaks off after": lambda data: data[:-1],
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_the_fault(fault: str) -> None:
    with pytest.raises(DamagedObject, match=f"theirs.ltx is damaged: .*{fault}"):
        read(BROKEN[fault](written()))


@pytest.mark.parametrize("encoding", ["block", "frame"])
def test_a_file_that_breaks_off_anywhere_is_refused(encoding: Encoding) -> None:
    data = written(encoding=encoding)
    for end in range(len(data)):
        with pytest.raises(DamagedObject, match=r"theirs\.ltx is damaged"):
            read(data[:end])


@pytest.mark.parametrize("encoding", ["block", "frame"])
def test_a_flipped_bit_gives_the_same_pages_or_a_refusal(encoding: Encoding) -> None:
    data = written(pages=[(pgno, random.Random(pgno).randbytes(512)) for pgno in (1, 2, 3)], encoding=encoding)
    whole, refused = read(data), 0
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        try:
            assert read(bytes(changed)) == whole
        except DamagedObject:
            refused += 1
    assert refused > 0.98 * 8 * len(data)


@given(st.binary(max_size=600), st.booleans())
def test_noise_is_refused(noise: bytes, behind_a_header: bool) -> None:
    with pytest.raises(DamagedObject):
        read(HEADER.pack() + noise if behind_a_header else noise)


def test_a_bomb_takes_no_more_memory_than_pages_need() -> None:
    bomb = lz4.frame.compress(bytes(200_000_000), content_checksum=True)
    header = replace(HEADER, min_txid=2, max_txid=2, commit=2**32 - 1)
    start, before = header.pack(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hostile = [
        struct.pack(">IH", 4_000_000_000, 0) + bomb,
        struct.pack(">IHI", 1, 1, 600) + lz4.block.compress(bytes(100_000), store_size=False).ljust(600, b"\0"),
        struct.pack(">IHI", 1, 1, 2**32 - 1) + bomb,
        struct.pack(">IH", 1, 0) + b"\x04\x22\x4d\x18\x60\x40\x82" + b"\xff\xff\xff\x7f",
    ]
    for tail in hostile:
        with pytest.raises(DamagedObject, match="page"):
            read(start + tail)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB
