"""The wire: what goes in comes out to the bit however it is cut, and whatever is not a whole frame of ours is refused."""

from __future__ import annotations

import json
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_cases import ROWS, SMALL, VALUES, cut, decoded, header, numbered, row, to_the_bit

from changelog import wire
from changelog.compression import choose, compress, decompress
from changelog.errors import BrokenFrame, DroverError, ProtocolMismatch
from changelog.values import RawText, for_json
from changelog.wire import FACTS, Header, decode_frame, encode_frame


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS,
    after=st.integers(0, 2**62),
    places=st.lists(st.integers(0, 10**6), max_size=12),
    encoding=st.sampled_from(["", "gzip", "zstd"]),
)
def test_every_value_comes_out_to_the_bit_however_the_bytes_are_cut(rows: Any, after: int, places: list[int], encoding: str) -> None:
    sent, head = numbered(rows, after), header(after, len(rows))
    chunks = compress(encoding, encode_frame(head, sent)) if encoding else encode_frame(head, sent)
    got_head, got = decoded(decompress(encoding, cut(b"".join(chunks), places)))
    assert got_head == head
    assert [[to_the_bit(v) for v in row] for row in got] == [[to_the_bit(v) for v in row] for row in sent]


@settings(max_examples=100, deadline=None)
@given(VALUES)
@example(2**53)
@example(-(2**53) - 1)
def test_a_value_in_application_json_is_read_back_even_by_a_reader_with_doubles(value: Any) -> None:
    shown = json.loads(json.dumps(for_json(value), allow_nan=False), parse_int=lambda text: int(float(text)))
    if isinstance(shown, dict):
        [(kind, text)] = shown.items()
        read = {"b": bytes.fromhex, "t": RawText.fromhex, "r": float, "i": int}[kind](text)
    else:
        read = shown
    assert to_the_bit(read) == to_the_bit(value)


def test_pages_stay_small_in_a_large_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", 1000)
    rows = [row(seq) for seq in range(8, 508)]
    chunks = list(encode_frame(header(7, 500), rows))
    assert len(chunks) > 20 and max(map(len, chunks)) < 2000
    _, pages = decode_frame(chunks)
    sizes = [len(page.rows) for page in pages]
    assert sum(sizes) == 500 and len(sizes) > 20


# --- what is not a whole frame


LINES = SMALL.splitlines(keepends=True)


def test_a_frame_that_breaks_off_anywhere_is_refused() -> None:
    assert len(decoded([SMALL])[1]) == 3
    for end in range(len(SMALL)):
        with pytest.raises(BrokenFrame):
            decoded([SMALL[:end]])


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_frame_that_breaks_off_anywhere_is_refused(encoding: str) -> None:
    body = b"".join(compress(encoding, [LINES[0], b"".join(LINES[1:])]))
    last = len(body) if encoding == "gzip" else len(body) - 3  # zstd ends with an empty block of 3 bytes, which holds nothing of the frame
    for end in range(last):
        with pytest.raises(BrokenFrame):
            decoded(decompress(encoding, [body[:end]]))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_each_chunk_can_be_read_when_it_arrives(encoding: str) -> None:
    """The newest change must not wait in a compressor until the next one pushes it out."""
    arrived: list[bytes] = []

    def wire_bytes() -> Iterator[bytes]:
        for piece in compress(encoding, iter(LINES)):
            arrived.append(piece)
            yield piece

    reader = decompress(encoding, wire_bytes())
    text = b""
    for expected, line in enumerate(LINES[:-1], 1):
        while len(text) < sum(map(len, LINES[:expected])):
            text += next(reader)
        assert text.endswith(line)
        assert len(arrived) <= expected + 1


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_garbage_instead_of_a_compressed_body_is_refused(encoding: str) -> None:
    body = b"".join(compress(encoding, [SMALL]))
    for wrong in (b"no such thing", SMALL, body[1:], b""):
        with pytest.raises(BrokenFrame):
            decoded(decompress(encoding, [wrong]))


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_garbage_behind_a_compressed_body_is_refused_at_once(encoding: str) -> None:
    def endless() -> Iterator[bytes]:
        yield b"".join(compress(encoding, [SMALL]))
        yield b"garbage"
        pytest.fail("read on behind the end")

    with pytest.raises(BrokenFrame):
        decoded(decompress(encoding, endless()))


def test_an_encoding_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(BrokenFrame, match="br"):
        list(decompress("br", [SMALL]))


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("zstd, gzip", "zstd"),
        ("gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("zstd;q=0, gzip", "gzip"),
        ("zstd; q=0, gzip;q=0", "identity"),
        ("*", "gzip"),
        ("", "identity"),
        ("br", "identity"),
    ],
)
def test_the_encoding_is_what_the_request_accepts(accepted: str, chosen: str) -> None:
    assert choose(accepted) == chosen


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("filling", [b"[", b"\n", b" ", b"0", b"[8,"])
def test_a_body_that_unpacks_to_gigabytes_never_stands_in_memory(encoding: str, filling: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 4 * 1024 * 1024)
    piece = filling * (1024 * 1024 // len(filling))
    packed = list(compress(encoding, iter([LINES[0], *[piece] * 64])))
    tracemalloc.start()
    try:
        with pytest.raises(BrokenFrame):
            decoded(decompress(encoding, [b"".join(packed)]))
        assert tracemalloc.get_traced_memory()[1] < 30 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_many_small_chunks_of_one_long_line_cost_linear_time() -> None:
    """A photo in a blob arrives in pieces of a few kB."""
    frame = b"".join(encode_frame(header(7, 1), [row(8, b"\xab" * 8_000_000)]))
    calls = 0

    def pieces() -> Iterator[bytes]:
        nonlocal calls
        for at in range(0, len(frame), 4096):
            calls += 1
            yield frame[at : at + 4096]

    _, [got] = decoded(pieces())
    assert got[len(FACTS)] == b"\xab" * 8_000_000


def lie(number: int, text: bytes) -> bytes:
    """The small frame with one line replaced."""
    return b"".join([*LINES[:number], text, *LINES[number + 1 :]])


def with_header(**others: Any) -> bytes:
    return lie(0, json.dumps({**json.loads(LINES[0]), **others}).encode() + b"\n")


REFUSED = {
    "nothing": b"",
    "an empty line": b"\n",
    "no header": b"".join(LINES[1:]),
    "a header that is a list": lie(0, b"[1]\n"),
    "a header that is null": lie(0, b"null\n"),
    "only a header": LINES[0],
    "no end": b"".join(LINES[:-1]),
    "the end twice": SMALL + LINES[-1],
    "a row behind the end": SMALL + LINES[1],
    "text behind the end": SMALL + b"x",
    "a space line behind the end": SMALL + b" \n",
    "two frames": SMALL + SMALL,
    "count too small": lie(4, b'{"count":2,"upto":10}\n'),
    "count too large": lie(4, b'{"count":4,"upto":10}\n'),
    "another upto at the end": lie(4, b'{"count":3,"upto":11}\n'),
    "a third word at the end": lie(4, b'{"count":3,"upto":10,"more":1}\n'),
    "an empty end": lie(4, b"{}\n"),
    "a gap": lie(2, b""),
    "a repeated row": lie(2, LINES[1]),
    "rows swapped": b"".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]),
    "a row past upto": b"".join([*LINES[:4], json.dumps(row(11)).encode() + b"\n", b'{"count":4,"upto":10}\n']),
    "a row that is no list": lie(1, b"8\n"),
    "a row that is a text": lie(1, b'"8"\n'),
    "a row without facts": lie(1, b"[8]\n"),
    "an object between rows": lie(1, b'{"count":0,"upto":7}\n'),
    "an empty line between rows": lie(1, b"\n" + LINES[1]),
    "seq as text": lie(1, LINES[1].replace(b"[8", b'["8"', 1)),
    "seq as a real": lie(1, LINES[1].replace(b"[8", b"[8.0", 1)),
    "seq as a bool": b"".join(encode_frame(header(0, 1), [row(1)])).replace(b"[1,", b"[true,", 1),
    "op X": lie(1, LINES[1].replace(b'"I"', b'"X"')),
    "op B": lie(1, LINES[1].replace(b'"I"', b'"B"')),
    "no table": lie(1, LINES[1].replace(b'"pens"', b"null")),
    "nonce as text": lie(1, LINES[1].replace(b"12345", b'"12345"')),
    "a bool for a nonce": lie(1, LINES[1].replace(b"12345", b"true")),
    "a bool for a value": lie(1, LINES[1].replace(b"2.5]", b"true]")),
    "an object for a value": lie(1, LINES[1].replace(b"2.5]", b'{"x":1}]')),
    "an envelope with two words": lie(1, LINES[1].replace(b"2.5]", b'{"b":"00","t":"00"}]')),
    "a blob that is no hex": lie(1, LINES[1].replace(b"2.5]", b'{"b":"0"}]')),
    "a blob that is a number": lie(1, LINES[1].replace(b"2.5]", b'{"b":0}]')),
    "nan in an envelope": lie(1, LINES[1].replace(b"2.5]", b'{"r":"nan"}]')),
    "NaN": lie(1, LINES[1].replace(b"2.5]", b"NaN]")),
    "Infinity": lie(1, LINES[1].replace(b"2.5]", b"Infinity]")),
    "an integer of 5000 digits": lie(1, LINES[1].replace(b"2.5]", b"9" * 5000 + b"]")),
    "text that is not UTF-8": lie(1, LINES[1].replace(b'"A"', b'"\xff"')),
    "UTF-16": SMALL.decode().encode("utf-16"),
    "deep nesting": lie(1, b"[" * 200_000 + b"]" * 200_000 + b"\n"),
    "a deep header": lie(0, b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"),
    "a header with a word too many": with_header(more=1),
    "a header with a word too few": lie(0, b'{"protocol":1,"epoch":"x"}\n'),
    "upto before after": with_header(upto=6),
    "after below nothing": with_header(after=-1),
    "after as a bool": with_header(after=True),
    "upto as a real": with_header(upto=10.0),
    "epoch as a number": with_header(epoch=5),
    "epoch with a lone surrogate": with_header(epoch="\ud800"),
    "sequences as a list": with_header(sequences=[]),
    "sequences of texts": with_header(sequences={"pens": "4"}),
    "sequences beyond 64 bits": with_header(sequences={"pens": 2**64}),
    "sequences of a name that is no text": with_header(sequences={"\ud800": 1}),
    "user_version beyond 32 bits": with_header(user_version=2**40),
    "no sequences": with_header(sequences=None),
    "a schema that is a number": with_header(schema=5),
    "upto_check as a text": with_header(upto_check="78"),
    "check beyond 64 bits": with_header(check=2**70),
    "upto beyond 64 bits": with_header(upto=2**64),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_no_encoder_of_ours_writes_is_refused(wrong: str) -> None:
    with pytest.raises(BrokenFrame):
        decoded([REFUSED[wrong]])


@pytest.mark.parametrize("wrong", REFUSED)
def test_the_refusal_does_not_depend_on_how_the_bytes_are_cut(wrong: str) -> None:
    data = REFUSED[wrong]
    size = 1 if len(data) < 5000 else 7001
    with pytest.raises(BrokenFrame):
        decoded(data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("version", [0, 2, "1", None, [], 1.5])
def test_another_protocol_is_said_to_be_another_protocol(version: Any) -> None:
    with pytest.raises(ProtocolMismatch):
        decode_frame([with_header(protocol=version)])


def test_a_frame_that_claims_a_thousand_million_rows_is_refused_when_it_ends() -> None:
    with pytest.raises(BrokenFrame):
        decoded([with_header(upto=10**9)])


def shape(head: Header, rows: list[Any]) -> Any:
    return head.after, head.upto, [r[0] for r in rows]


def test_a_changed_byte_never_raises_anything_else_and_never_changes_what_rows_there_are() -> None:
    chance = random.Random(20261123)
    whole = shape(*decoded([SMALL]))
    for _ in range(6000):
        data = bytearray(SMALL)
        for _ in range(chance.choice([1, 1, 2, 5])):
            at = chance.randrange(len(data))
            kind = chance.random()
            if kind < 0.6:
                data[at] = chance.randrange(256)
            elif kind < 0.8:
                del data[at]
            else:
                data.insert(at, chance.choice(b'0123456789[]{},"\n\\x \xff-.e'))
        try:
            head, rows = decoded([bytes(data)])
        except DroverError:
            continue
        if (head.after, head.upto) == whole[:2]:
            assert shape(head, rows) == whole
        assert [r[0] for r in rows] == list(range(head.after + 1, head.upto + 1))
        assert all(len(r) >= len(FACTS) and r[5] in ("I", "U", "D") and type(r[4]) is str for r in rows)


def test_a_flipped_bit_of_a_compressed_body_never_raises_anything_else() -> None:
    chance = random.Random(7)
    for encoding in ("gzip", "zstd"):
        body = b"".join(compress(encoding, [SMALL]))
        for _ in range(1500):
            data = bytearray(body)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            try:
                rows = decoded(decompress(encoding, [bytes(data)]))[1]
            except DroverError:
                continue
            assert [r[0] for r in rows] == [8, 9, 10]


def test_gzip_checks_its_sum() -> None:
    body = bytearray(b"".join(compress("gzip", [SMALL])))
    body[-5] ^= 1
    with pytest.raises(BrokenFrame):
        decoded(decompress("gzip", [bytes(body)]))
    assert zlib.decompress(b"".join(compress("gzip", [SMALL])), 31) == SMALL  # and it is what everybody calls gzip
