"""Frames for tests: values of every kind, rows of them, a small frame, and how bytes are cut on their way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st

from changelog.values import RawText
from changelog.wire import Header, decode_frame, encode_frame

EPOCH = "0123456789abcdef" * 2
NUMBERS = st.integers(-(2**63), 2**63 - 1)


def is_broken(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["", "a\0b", "\0", "🐄", '"', "\\", "it's", "{", '{"', '{"b":"00"}', '{"t":', '["', "\n", "\r\n", "\u2028", "\x7f", "null"]
    ),
)
VALUES = st.one_of(
    st.none(),
    NUMBERS,
    st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1]),
    st.floats(allow_nan=False),
    st.sampled_from([0.1 + 0.2, 5e-324, -0.0, 0.0, math.inf, -math.inf, 1.7976931348623157e308, 1e16, 1e22, 1.0]),
    TEXTS,
    st.binary(),
    st.binary(min_size=1).filter(is_broken).map(RawText),
    st.sampled_from([RawText(b"\xed\xa0\x80"), RawText(b"a\xff"), RawText(b"\xc0\x80"), b"", b"\xff" * 3000]),
)
ROWS = st.lists(
    st.tuples(
        st.none() | TEXTS,  # at
        st.integers(0, 2**53 - 1),
        st.none() | TEXTS | st.just(RawText(b"J\xf6rg")),  # actor: whatever a shell wrote there
        TEXTS,
        st.sampled_from("IUD"),
        VALUES,
        st.integers(0, 2**48),
        st.none() | st.text("01"),
        st.none() | NUMBERS,
        st.none() | NUMBERS,
        st.lists(VALUES, max_size=4),
    ),
    max_size=5,
)


def header(after: int, count: int, **others: Any) -> Header:
    facts = {"schema": "5" * 32, "user_version": 3, "application_id": -7, "sequences": {"pens": 4}} | others
    return Header(EPOCH, after, 77, after + count, 78, **facts)


def numbered(rows: Iterable[tuple[Any, ...]], after: int) -> list[tuple[Any, ...]]:
    return [(seq, *row[:-1], *row[-1]) for seq, row in enumerate(rows, after + 1)]


def to_the_bit(value: Any) -> tuple[type, str]:
    return type(value), repr(value)


def decoded(chunks: Iterable[bytes]) -> tuple[Header, list[Any]]:
    head, pages = decode_frame(chunks)
    return head, [row for page in pages for row in page.rows]


def cut(data: bytes, places: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for place in [*sorted(p % (len(data) + 1) for p in places), len(data)]:
        yield data[at:place]
        at = place


def row(seq: int, *values: Any, op: str = "I") -> tuple[Any, ...]:
    return (seq, "2026-01-02T03:04:05.678Z", 12345, None, "pens", op, seq, 99, None, None, None, *(values or (1, "A", 2.5)))


SMALL = b"".join(encode_frame(header(7, 3), [row(8), row(9, b"\x00\xff", RawText(b"\xff"), math.inf), row(10, None, "ü{", -0.0)]))
