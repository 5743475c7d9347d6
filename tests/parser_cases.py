"""Everything that parses what others wrote, each with what may come to it and what must hold: for the tests and scripts/fuzz_parsers.py."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import apsw
import lz4.block
from flask import Flask, request
from hypothesis import strategies as st
from wire_cases import ROWS, SMALL, cut, decoded, header, numbered

from changelog.compression import compress, decompress, pack
from changelog.errors import BadRequest, BrokenFrame, ConfigError, DamagedObject, DroverError, TooLarge
from changelog.ltx.codec import decode, encode
from changelog.ltx.header import Header as LtxHeader
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.primary import Primary
from changelog.values import RawText, decode_value
from changelog.verify import answers
from changelog.wire import FACTS, encode_frame
from pi.farm import open_farm
from pi.lora import MAX_PAYLOAD, BadFrame, Frame, FrameSplitter, Reading, parse_payload
from pi.write_api import batches, bodies, cattle, pens, users
from server.offers import LARGEST_FRAME, Hearing

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("xid"), st.binary(min_size=1, max_size=3)), max_size=4)
LTX_PAGES = [(pgno, bytes([pgno]) * 512) for pgno in (1, 2, 3)]
LTX_HEADER = LtxHeader(page_size=512, commit=3, min_txid=1, max_txid=1, timestamp_ms=1_790_000_000_000)


@dataclass(frozen=True)
class Parser:
    """`check` is given each of the `cases`, and raises where the contract is broken."""

    name: str
    cases: st.SearchStrategy[Any]
    check: Callable[[Any], object]


def damaged(data: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    """`data` with some bytes changed, put in or left out."""
    out = bytearray(data)
    for at, kind, piece in edits:
        place = at % (len(out) + 1)
        if kind != "i":
            del out[place : place + len(piece)]
        if kind != "d":
            out[place:place] = piece
    return bytes(out)


# --- what the radio sends

PARTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20) | st.text(max_size=20)
PAYLOADS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300),
    st.lists(PARTS, min_size=2, max_size=5).map(":".join),
    st.builds(lambda kind, parts: ":".join([kind, *parts]), st.sampled_from(["hxb", "hxe"]), st.lists(PARTS, min_size=3, max_size=3)),
)
RADIO = st.builds(lambda n, data, end: b"+RCV=%d,%d,%s,-99,40%s" % (n, len(data), data, end),
   st.integers(0, 70_000), st.binary(max_size=60),
                  st.sampled_from([b"\r\n", b"\n", b"", b"x"]))  # fmt: skip
PIECES = st.one_of(RADIO, st.binary(max_size=40), st.sampled_from([b"+RCV=", b"+RCV=1,240,", b"hxb:B:L:U\r\n", b"+OK\r\n", b"\xaa" * 600]))


def check_payload(payload: str | bytes) -> None:
    try:
        reading = parse_payload(payload)
    except (BadRequest, TooLarge) as exc:
        assert exc.message
        return
    assert parse_payload(str(reading)) == reading and len(str(reading)) <= MAX_PAYLOAD
    assert all(part and part == part.strip() and part.isascii() and part.isprintable() for part in vars_of(reading))


def vars_of(reading: Reading) -> tuple[str, ...]:
    return reading.source_type, reading.batch_number, reading.lf_tag, reading.uhf_tag


def check_serial_line(case: tuple[list[bytes], list[int]]) -> None:
    """However it is cut, the same frames come out; all noise is bounded, and behind it a good line is heard."""
    pieces, places = case
    stream = b"".join(pieces)
    found = [frames_of(list(cut(stream, where))) for where in ([], places)]
    assert found[0] == found[1]
    splitter = FrameSplitter()
    for piece in pieces:
        splitter.feed(piece)
        assert len(splitter._buffer) < 2_000
    splitter.silence()
    assert Frame(b"hxb:B:L:U") in splitter.feed(b"\nhxb:B:L:U\n")


def frames_of(pieces: list[bytes]) -> list[Frame]:
    splitter = FrameSplitter()
    found = [each for piece in pieces for each in splitter.feed(piece)] + splitter.silence()
    assert all(isinstance(each, Frame | BadFrame) for each in found)
    return [each for each in found if isinstance(each, Frame)]


# --- the wire

FRAMES = st.builds(lambda rows, after: b"".join(encode_frame(header(after, len(rows)), numbered(rows, after))), ROWS, st.integers(0, 2**40))
LINES = st.lists(JSON, max_size=4).map(lambda lines: b"\n".join(json.dumps(line).encode() for line in lines) + b"\n")
FRAME_CASES = st.tuples(st.one_of(FRAMES, st.just(SMALL), LINES, st.binary(max_size=100)), EDITS,
    st.sampled_from(["identity", "gzip", "zstd"]),
                        st.booleans(), st.lists(st.integers(0, 10**6), max_size=4))  # fmt: skip


def check_frame(case: Any) -> None:
    """A frame that is read holds whole rows, one after another."""
    data, edits, encoding, packed_first, places = case
    if encoding != "identity":
        body = b"".join(compress(encoding, [data if packed_first else damaged(data, edits)]))
        data = damaged(body, edits) if packed_first else body
    else:
        data = damaged(data, edits)
    try:
        head, rows = decoded(decompress(None if encoding == "identity" else encoding, cut(data, places)))
    except DroverError:
        return
    assert [row[0] for row in rows] == list(range(head.after + 1, head.upto + 1))
    for row in rows:
        assert len(row) >= len(FACTS) and row[5] in ("I", "U", "D", "X")


def can_be_bound(value: Any) -> None:
    """What comes out of a decoder is a value of SQLite, or the replica's own code would fail on it."""
    scratch().execute("SELECT ?", (bytes(value) if isinstance(value, RawText) else value,)).fetchall()


@cache
def scratch() -> apsw.Connection:
    return apsw.Connection(":memory:")


HEXLIKE = st.text("0123456789abcdefin-. _", max_size=12)
ENVELOPES = st.dictionaries(st.sampled_from("btri") | st.text(max_size=3), HEXLIKE | JSON, max_size=2) | JSON


def check_value(value: Any) -> None:
    try:
        decode_value(value)
    except BrokenFrame:
        return


# --- files of a bucket


@cache
def small_ltx(encoding: Any) -> bytes:
    file = io.BytesIO()
    encode(file, LTX_HEADER, LTX_PAGES, encoding)
    return file.getvalue()


LTX_CASES = st.one_of(
    st.binary(max_size=600),
    st.binary(max_size=600).map(lambda noise: LTX_HEADER.pack() + noise),
    st.binary(max_size=600).map(lambda noise: LTX_HEADER.pack() + b"\0\0\0\1\0\1" + lz4.block.compress(noise, store_size=True)),
    st.builds(damaged, st.sampled_from(["block", "frame"]).map(small_ltx), EDITS),
)


def check_ltx(data: bytes) -> None:
    try:
        decoder = decode(io.BytesIO(data), "theirs.ltx")
        pages = list(decoder)
    except DamagedObject:
        return
    assert pages == LTX_PAGES  # damage to how a page is packed may do no harm to it


# --- settings

NAMES = st.sampled_from(
    ["PI_PORT", "DB_SYNC_INTERVAL", "VERIFY_AT", "FOLLOW", "PI_CERT", "SECRET_KEY", "LORA_SERIAL_PORT", "AWS_REGION", "export PI_TLS"]
)
ENV_LINES = st.one_of(
    st.builds("{}{}{}".format, NAMES | st.text(max_size=12), st.sampled_from(["=", " = ", "", "=="]), st.text(max_size=30)),
    st.sampled_from(
        [
            "# note",
            "",
            "'",
            '"',
            "PI_TLS=maybe",
            "PI_PORT=5001 # of the Pi",
            "PI_PORT='5\n001'",
            "\ufeffPI_PORT=1",
            "VERIFY_AT=\u0663\u0663:30",
        ]
    ),
)
ENV_FILES = st.lists(ENV_LINES, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")) | st.binary(max_size=120)


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="parsers-"))


def check_env(data: bytes) -> None:
    """Read, or refused in one line that names the file and can be printed."""
    path = folder() / ".env"
    path.write_bytes(data)
    try:
        settings = Settings.load(path, {})
    except ConfigError as exc:
        assert "\n" not in exc.message and exc.message.isprintable()
        return
    assert 1 <= settings.pi_port <= 65_535 and type(settings.pi_tls) is bool


# --- bodies of the write API

CHECKS = {
    "pens": pens.CHECKS,
    "batches": batches.CHECKS,
    "cattle": cattle.ANIMAL,
    "move": cattle.MOVE,
    "weights": cattle.WEIGHT,
    "users": users.USER,
}
MEMBERS = [*sorted({name for checks in CHECKS.values() for name in checks}), bodies.EXPECTED]
LIKELY = st.sampled_from(
    [
        "P1",
        " a ",
        "hxb:1",
        "2024-02-30",
        "2024-01-15",
        "2024-01-15T10:30:00Z",
        0,
        1,
        -1,
        2**63,
        2**64,
        12.5,
        1e308,
        "\ud800",
        "\0",
        "\u202e",
    ]
)
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(MEMBERS), LIKELY | JSON, max_size=4).map(lambda body: json.dumps(body).encode()),
    JSON.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=80),
    st.integers(1, 100_000).map(lambda depth: b'{"a":' * depth),
)
app = Flask("bodies")


def check_body(case: tuple[str, bytes, bool]) -> None:
    """What is taken can be written: each value is one of SQLite's."""
    which, data, change = case
    checks = CHECKS[which]
    with app.test_request_context("/", method="POST", data=data, content_type="application/json"):
        assert request.method == "POST"
        try:
            values, expected = bodies.read_change(checks) if change else (bodies.checked(bodies.read_body(*checks), checks), None)
        except (BadRequest, TooLarge) as exc:
            assert exc.message
            return
    assert expected is None or isinstance(expected, dict)
    for value in values.values():
        can_be_bound(value)


# --- questions of a verify, positions, and what a socket brings

KEYS = st.none() | st.lists(st.integers() | st.text(max_size=5) | JSON | ENVELOPES, max_size=3) | JSON
TABLES = st.sampled_from(["pens", "cattle", "users", "changelog", "nothing"]) | JSON
HASHES = st.lists(st.tuples(KEYS, st.text("0123456789abcdef", min_size=32, max_size=32)).map(list) | JSON, max_size=2) | JSON
QUESTIONS = st.tuples(
    st.booleans(),
    st.fixed_dictionaries(
        {"log_from": st.integers(-1, 5) | st.integers() | JSON, "parts": st.integers(-1, 5) | JSON},
        optional={"schema": JSON, "ranges": JSON},
    ),
    st.lists(st.tuples(TABLES, KEYS, KEYS, st.booleans() | JSON, HASHES), max_size=2),
)


@cache
def asked_primary() -> Primary:
    path = folder() / "farm.db"
    open_farm(str(path))
    return Primary(str(path))


def check_question(case: Any) -> None:
    """Answered with plain JSON, or refused as malformed."""
    about_rows, asked, ranges = case
    with asked_primary().snapshot() as db:
        asked = {"schema": answers.schema_hash(db), "ranges": [list(each if about_rows else each[:3]) for each in ranges]} | asked
        try:
            json.dumps((answers.rows if about_rows else answers.parts)(db, asked), allow_nan=False).encode()
        except BadRequest:
            return


ABOUT_EPOCHS = st.text("0123456789abcdef", min_size=31, max_size=33)
POSITIONS = st.one_of(
    st.text(max_size=80),
    st.builds(
        "{}/{}/{}".format, st.text("0123456789abcdef", min_size=31, max_size=33), st.integers() | st.text(max_size=3), st.integers(0)
    ),
    st.builds(damaged, st.just(b"0123456789abcdef0123456789abcdef/12/34"), EDITS).map(lambda data: data.decode("latin-1")),
)


def check_position(text: str) -> None:
    try:
        position = Position.parse(text)
    except BadRequest:
        return
    assert Position.parse(str(position)) == position and position.seq < 2**63 > position.check and text.isascii()


DICTIONARY = b"what was said before"
OFFERS = (
    st.fixed_dictionaries(
        {
            "epoch": st.text("0123456789abcdef", min_size=31, max_size=33) | JSON,
            "head": st.integers() | JSON,
            "frame": st.binary(max_size=40) | JSON,
        },
        optional={
            "dictionary": st.binary(max_size=40) | JSON,
            "packed": st.binary(max_size=40) | st.builds(pack, st.binary(max_size=80), st.just(DICTIONARY)) | JSON,
        },
    )
    | JSON
)


def check_offers(arguments: list[Any]) -> None:
    hearing = Hearing()
    assert hearing.offer({"epoch": "0" * 32, "head": 0, "frame": None, "dictionary": DICTIONARY})
    for argument in arguments:
        offer = hearing.offer(argument)
        assert offer is None or (len(offer.epoch) == 32 and offer.epoch.isascii() and 0 <= offer.head < 2**63)
        assert offer is None or offer.frame is None or 0 < len(offer.frame) <= LARGEST_FRAME


PARSERS = (
    Parser("LoRa payload", PAYLOADS, check_payload),
    Parser("serial line", st.tuples(st.lists(PIECES, max_size=6), st.lists(st.integers(0, 10**6), max_size=6)), check_serial_line),
    Parser("frame of the wire", FRAME_CASES, check_frame),
    Parser("value in an envelope", ENVELOPES, check_value),
    Parser("LTX file", LTX_CASES, check_ltx),
    Parser(".env file", ENV_FILES, check_env),
    Parser("body of a write", st.tuples(st.sampled_from(sorted(CHECKS)), BODIES, st.booleans()), check_body),
    Parser("question of a verify", QUESTIONS, check_question),
    Parser("position", POSITIONS, check_position),
    Parser("offers of the socket", st.lists(OFFERS, max_size=4), check_offers),
)
