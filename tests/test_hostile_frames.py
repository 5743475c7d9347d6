"""A Pi that lies about its changes: the replica stays what it was, the cause is counted, and the pages go on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import repeat
from random import Random
from typing import Any

import pytest
import zstandard
from flask import Response
from hypothesis import given, settings
from hypothesis import strategies as st
from lying_pi import Barn, Lines, changed

from changelog import room, wire
from changelog.connection import connect
from changelog.errors import BrokenFrame, Divergence
from changelog.position import Position
from changelog.verify.digest import digest_tables
from scripts.fuzz_wire import Wire

MiB = 2**20


@pytest.fixture(scope="module")
def barn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Barn]:
    made = Barn(tmp_path_factory.mktemp("barn"))
    yield made
    made.close()


def replaced(lines: Lines, at: int, *others: bytes) -> bytes:
    return b"".join([*lines[:at], *others, *lines[at + 1 :]])


def with_values(lines: Lines, at: int, change: Callable[[list[Any]], list[Any]]) -> bytes:
    row = json.loads(lines[at])
    first = len(wire.FACTS)
    return replaced(lines, at, json.dumps(row[:first] + change(row[first:])).encode() + b"\n")


BROKEN: dict[str, Callable[[Lines], bytes]] = {
    "nothing": lambda lines: b"",
    "a page for people": lambda lines: b"<!doctype html><title>Router</title>",
    "only the header": lambda lines: lines[0],
    "no end": lambda lines: b"".join(lines[:-1]),
    "an end that counts more": lambda lines: replaced(lines, -1, lines[-1].replace(b'"count":3', b'"count":4')) if lines else b"",
    "an end with another upto": lambda lines: b"".join([*lines[:-1], b'{"count":3,"upto":1}\n']),
    "an upto that never comes": lambda lines: changed(lines, 0, upto=2**62),
    "an upto beyond 64 bits": lambda lines: changed(lines, 0, upto=2**63),
    "a header with a word more": lambda lines: changed(lines, 0, more="x"),
    "a header without sequences": lambda lines: changed(lines, 0, sequences=None),
    "a sequence beyond 64 bits": lambda lines: changed(lines, 0, sequences={"pens": 2**64}),
    "a seq beyond 64 bits": lambda lines: changed(lines, 1, seq=2**63),
    "a seq that goes back": lambda lines: changed(lines, 2, seq=1),
    "a seq as a text": lambda lines: changed(lines, 1, seq="1"),
    "NaN": lambda lines: lines[0] + lines[1].replace(b"]", b",NaN]") + b"".join(lines[2:]),
    "a table that is a number": lambda lines: changed(lines, 1, tbl=7),
    "a table that is a list": lambda lines: changed(lines, 1, tbl=["pens"]),
    "an op that is not known": lambda lines: changed(lines, 1, op="Z"),
    "a birth": lambda lines: changed(lines, 1, op="B"),
    "no facts": lambda lines: replaced(lines, 1, b"[1,2]\n"),
    "nesting without an end": lambda lines: replaced(lines, 1, b"[" * 500_000 + b"\n"),
    "deep nesting": lambda lines: replaced(lines, 1, b"[" * 500_000 + b"]" * 500_000 + b"\n"),
    "a deep header": lambda lines: replaced(lines, 0, b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"\n"),
    "an object for a value": lambda lines: with_values(lines, 1, lambda values: [{"x": 1}, *values[1:]]),
    "a boolean for a value": lambda lines: with_values(lines, 1, lambda values: [True, *values[1:]]),
    "a number of 5000 digits": lambda lines: replaced(lines, 1, lines[1].replace(b"]", b"," + b"9" * 5_000 + b"]")),
}


@pytest.mark.parametrize("lie", BROKEN)
def test_a_frame_that_is_none_is_refused(barn: Barn, lie: str) -> None:
    barn.refuses(BROKEN[lie](barn.news()), "broken_frame")
    barn.heals()


FORGED = ("sqlite_master", "sqlite_schema", "sqlite_sequence", "changelog", "changelog_meta", "changelog_position", "changelog_audit")
DIVERGENT: dict[str, Callable[[Lines], bytes]] = {
    "a table of which there is none": lambda lines: changed(lines, 1, tbl='pens"; DROP TABLE pens; --'),
    **{f"a row of {name}": lambda lines, name=name: changed(lines, 1, tbl=name) for name in FORGED},
    "other columns": lambda lines: changed(lines, 1, gen=7),
    "a generation beyond 64 bits": lambda lines: changed(lines, 1, gen=2**80),
    "a nonce beyond 64 bits": lambda lines: changed(lines, 1, nonce=2**64),
    "a rowid beyond 64 bits": lambda lines: changed(lines, 1, rid=-(2**70)),
    "a value beyond 64 bits": lambda lines: with_values(lines, 1, lambda values: [2**64, *values[1:]]),
    "a value that is half a character": lambda lines: with_values(lines, 1, lambda values: [values[0], "\ud800", *values[2:]]),
    "a slot more": lambda lines: with_values(lines, 1, lambda values: [*values, 1]),
    "a thousand slots more": lambda lines: with_values(lines, 1, lambda values: [*values, *range(1_000)]),
    "a million slots": lambda lines: with_values(lines, 1, lambda values: [0] * 1_000_000),
    "a slot less": lambda lines: with_values(lines, 1, lambda values: values[:-1]),
    "no slots": lambda lines: with_values(lines, 1, lambda values: []),
    "no key": lambda lines: with_values(lines, 3, lambda values: [None, *values[1:]]),
    "a list for a value": lambda lines: with_values(lines, 1, lambda values: [[[]], *values[1:]]),
    "a mask of changes that is too short": lambda lines: changed(lines, 2, chg="1"),
    "a mask of changes that is SQL": lambda lines: changed(lines, 2, chg="1' OR 1"),
    "an update of a row that is not there": lambda lines: with_values(
        lines, 2, lambda v: [*v[: len(v) // 2], 10**6, *v[len(v) // 2 + 1 :]]
    ),
    "an insert as an update": lambda lines: changed(lines, 1, op="U", chg="1111111"),
    "another schema": lambda lines: changed(lines, 0, schema="0" * 32),
    "another start": lambda lines: changed(lines, 0, check=5),
    "another epoch": lambda lines: changed(lines, 0, epoch="f" * 32),
}


@pytest.mark.parametrize("lie", DIVERGENT)
def test_a_frame_that_does_not_fit_the_replica_is_refused_as_a_whole(barn: Barn, lie: str) -> None:
    barn.refuses(DIVERGENT[lie](barn.news()), "divergence")
    barn.heals()


# --- answers of another kind


ANSWERS: dict[str, tuple[Callable[[Lines], Response], str]] = {
    "a redirection": (lambda lines: Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "broken_frame"),
    "an encoding that nobody asked for": (lambda lines: Response(b"".join(lines), headers={"Content-Encoding": "br"}), "broken_frame"),
    "gzip that is none": (lambda lines: Response(b"".join(lines), headers={"Content-Encoding": "gzip"}), "broken_frame"),
    "zstd that is none": (lambda lines: Response(b"".join(lines), headers={"Content-Encoding": "zstd"}), "broken_frame"),
    "a problem nested deeply": (lambda lines: Response(b"[" * 30_000, 500), "unreachable"),
    "a problem that is a list": (lambda lines: Response(b"[1]", 500), "unreachable"),
    "a refusal with an epoch that is a list": (lambda lines: Response(b'{"message":[1],"epoch":[],"descends":0}', 409), "stranger"),
    "a protocol of the future": (lambda lines: Response(changed(lines, 0, protocol=99)), "protocol"),
}


@pytest.mark.parametrize("lie", ANSWERS)
def test_an_answer_that_is_no_frame_is_refused(barn: Barn, lie: str) -> None:
    answer, cause = ANSWERS[lie]
    lines = barn.news()
    barn.refuses(lambda: answer(lines), cause)
    barn.heals()


def gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    coder = zlib.compressobj(9, zlib.DEFLATED, 31)
    for piece in pieces:
        yield coder.compress(piece)
    yield coder.flush()


def zstandard_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    coder = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    for piece in pieces:
        yield coder.compress(piece)
    yield coder.flush()


CODERS = {"gzip": gzipped, "zstd": zstandard_of}


def peak_of(act: Callable[[], object], limit: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many bytes more than before this process held at most, counted where they grow: in the line that has no end."""
    peak = 0
    inner = wire.parse_json

    def weighed(text: bytes) -> Any:
        nonlocal peak
        peak = max(peak, len(text))
        return inner(text)

    monkeypatch.setattr(wire, "parse_json", weighed)
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", limit)
    act()
    return peak


@pytest.mark.parametrize("encoding", CODERS)
def test_a_bomb_in_one_line_is_given_up_at_the_longest_line(barn: Barn, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is 256 MiB; here less, so that the test does not need so much. 4 GiB would follow."""
    lines = barn.news()
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield lines[0] + b'["'
        for piece in repeat(b"x" * MiB, 4_096):
            taken += len(piece)
            yield piece

    def answer() -> Response:
        return Response(CODERS[encoding](endless()), headers={"Content-Encoding": encoding})

    peak = peak_of(lambda: barn.refuses(answer, "broken_frame"), 8 * MiB, monkeypatch)
    assert peak < MiB
    assert taken < 4_096 * MiB
    barn.heals()


@pytest.mark.parametrize("encoding", CODERS)
def test_a_bomb_of_empty_lines_is_given_up_at_the_first(barn: Barn, encoding: str) -> None:
    lines = barn.news()

    def answer() -> Response:
        return Response(CODERS[encoding](iter([lines[0], *repeat(b"\n" * MiB, 64)])), headers={"Content-Encoding": encoding})

    barn.refuses(answer, "broken_frame")
    barn.heals()


def test_rows_without_an_end_stop_before_the_disk_is_full(barn: Barn, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = barn.news()
    row, sent = json.loads(lines[1]), 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield changed(lines[:1], 0, upto=2**62)
        for seq in range(row[0], 2**62):
            sent += 1
            yield json.dumps([seq, *row[1:], "x" * 4_000]).encode() + b"\n"

    disk = room.shutil.disk_usage(barn.replica.parent)
    monkeypatch.setattr(room, "KEPT_FREE", disk.free - 20 * MiB)
    barn.refuses(lambda: Response(endless(), mimetype=wire.MEDIA_TYPE), "busy")
    assert sent < 40_000
    monkeypatch.undo()
    assert not list(barn.replica.parent.glob("*.staged"))
    barn.heals()


# --- the JSON of comparisons and of the export


OBJECTS: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "an empty object": b"{}",
    "nested deeply": b"[" * 300_000,
    "NaN": b'{"seq": NaN, "data": {}}',
    "a seq that is a text": b'{"seq": "5", "data": {}}',
    "data that are a list": b'{"seq": 5, "data": []}',
    "rows that are a number": b'{"seq": 5, "data": {"pens": 5}}',
}


@pytest.mark.parametrize("lie", OBJECTS)
@pytest.mark.parametrize("path", ["/full-export", "/digest"])
def test_an_answer_in_json_that_is_none_of_ours_is_refused(barn: Barn, path: str, lie: str) -> None:
    before = barn.everything()
    barn.pi.lie = lambda asked: Response(OBJECTS[lie], mimetype="application/json") if asked == path else None
    act: Callable[[], object] = barn.office.sync.follower.refill if path == "/full-export" else lambda: barn.office.sync.verify(repair=True)
    with pytest.raises(BrokenFrame):
        act()
    barn.pi.lie = lambda path: None
    assert barn.everything() == before
    assert barn.serves()


PEN = {"id": 1, "pen_number": "a", "capacity": 1, "description": None, "created_at": "", "updated_at": ""}
ROWS: dict[str, Any] = {
    "no such table": {},
    "rows without columns": {"pens": [{}]},
    "rows that are texts": {"pens": ["x"]},
    "rows that are numbers": {"pens": [5]},
    "values that are lists": {"pens": [{"id": [1]}]},
    "two rows of one key": {
        "pens": [{"id": 1, "pen_number": "a", "capacity": 1, "description": None, "created_at": "", "updated_at": ""}] * 2
    },
    "a value beyond 64 bits": {
        "pens": [{"id": 2**70, "pen_number": "a", "capacity": 1, "description": None, "created_at": "", "updated_at": ""}]
    },
}


@pytest.mark.parametrize("lie", ROWS)
def test_an_export_whose_rows_do_not_fit_is_refused_as_a_whole(barn: Barn, lie: str) -> None:
    before = barn.everything()
    seq = Position.parse(before[3]).seq
    with closing(connect(barn.pi.folder / "farm.db", readonly=True)) as db:
        tables: dict[str, Any] = {name: [] for name in digest_tables(db)}
    data = {**tables, **ROWS[lie]} if ROWS[lie] else {}
    barn.pi.lie = lambda asked: Response(json.dumps({"seq": seq, "data": data})) if asked == "/full-export" else None
    with pytest.raises((Divergence, BrokenFrame), match=r"export|not a value"):
        barn.office.sync.follower.refill()
    barn.pi.lie = lambda path: None
    assert barn.everything() == before
    assert barn.serves()


# --- damage at random


@pytest.fixture(scope="module")
def replaying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    made = Wire(tmp_path_factory.mktemp("wire"))
    yield made
    made.close()


@settings(max_examples=500, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_a_frame_that_was_damaged_anywhere_is_taken_as_a_whole_or_refused_without_a_trace(replaying: Wire, chance: Random) -> None:
    assert replaying.run(chance) is None
