"""A run of the log as bytes: newline-delimited JSON. Encoder and decoder are twins: what one would refuse to read, the other never writes.

    {"protocol":1,"epoch":"..","after":7,"check":..,"upto":9,"schema":"..","user_version":..,"application_id":..,"sequences":{..}}
    [8,"2026-..",nonce,actor,table,op,key,gen,chg,rid,orid, values...]
    [9, ...]
    {"count":2,"upto":9}

The rows follow `after` without a gap. The values are the new ones on I, the new and then the old ones on U, the old ones on D, one for each
slot of the table. The last line says that the frame is whole; a frame without it is thrown away. `upto` is a commit boundary; a frame that
ends before it (a page of a long catch-up) is not one and must not be committed alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, product
from typing import Any, NamedTuple

from changelog.errors import BrokenFrame, ProtocolMismatch
from changelog.values import Value, decode_value, encode_row

PROTOCOL = 1
MEDIA_TYPE = "application/x-ndjson"
CHUNK_BYTES = 128 * 1024  # how much is encoded, sent and decoded at a time
MAX_LINE_BYTES = 256 * 1024 * 1024  # a longer line is an attack or an accident
FACTS = ("seq", "at", "nonce", "actor", "tbl", "op", "key", "gen", "chg", "rid", "orid")

OPS = ("I", "U", "D", "X")

Row = list[Any]


class Page(NamedTuple):
    """Neighbouring rows of a frame. `raw`: some text in them is not valid UTF-8, and stands here as RawText."""

    rows: list[Row]
    raw: bool


_NONE, _TEXT, _INTEGER, _ANY = (type(None),), (str, type(None)), (int, type(None)), (int, float, str, dict, type(None))
# Every combination of types that the facts of a row can have, in the order of FACTS.
# The actor is what any shell wrote there.
_ROW = product((int,), _TEXT, (int,), _ANY, (str,), (str,), _ANY, (int,), _TEXT, _INTEGER, _INTEGER)
_DDL = product((int,), _TEXT, (int,), _ANY, _NONE, (str,), (str,), _NONE, _NONE, _NONE, _NONE)
_FACT_TYPES = {"X": frozenset(_DDL), **dict.fromkeys("IUD", frozenset(_ROW))}


@dataclass(frozen=True)
class Header:
    """The first line: where the frame starts and ends, and what must be alike on both sides for it to fit."""

    epoch: str
    after: int
    check: int
    upto: int
    schema: str
    user_version: int
    application_id: int
    sequences: dict[str, int]


def encode_frame(header: Header, rows: Iterable[tuple[Value, ...]]) -> Iterator[bytes]:
    """The frame in chunks of about CHUNK_BYTES, each ending at a line's end."""
    lines = [json.dumps({"protocol": PROTOCOL, **asdict(header)}, separators=(",", ":"))]
    size = count = 0
    for row in rows:
        line = encode_row(row)
        lines.append(line)
        size += len(line)
        count += 1
        if size >= CHUNK_BYTES:
            yield _joined(lines)
            lines, size = [], 0
    lines.append(json.dumps({"count": count, "upto": header.upto}, separators=(",", ":")))
    yield _joined(lines)


def decode_frame(chunks: Iterable[bytes]) -> tuple[Header, Iterator[Page]]:
    """The header at once, and the rows in pages as they arrive.

    Raises BrokenFrame where a line is malformed, a seq is not the next one, or the end is missing; ProtocolMismatch for another version.
    """
    pieces = _whole_lines(chunks)
    first = next(pieces, b"")
    line, _, rest = first.partition(b"\n")
    header = _decode_header(line)
    return header, _decode_rows(header, rest, pieces)


def _joined(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks` cut anew so that each piece ends at the end of a line."""
    rest = bytearray()  # grows in place: a long line may arrive in very many chunks
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield bytes(rest) + chunk[:cut]
            rest = bytearray(chunk[cut:])
        else:
            rest += chunk
            if len(rest) > MAX_LINE_BYTES:
                raise BrokenFrame(f"a line of more than {MAX_LINE_BYTES} bytes")
    if rest:
        raise BrokenFrame("the frame breaks off in the middle of a line")


def _decode_header(line: bytes) -> Header:
    facts = _parse(line)
    if not isinstance(facts, dict) or "protocol" not in facts:
        raise BrokenFrame("the frame does not begin with a header")
    if facts.pop("protocol") != PROTOCOL:
        raise ProtocolMismatch
    try:
        header = Header(**facts)
    except TypeError as exc:
        raise BrokenFrame(f"the header is malformed: {exc}") from exc
    if not isinstance(header.sequences, dict):
        raise BrokenFrame("the header is malformed")
    wide, narrow = (header.after, header.check, header.upto, *header.sequences.values()), (header.user_version, header.application_id)
    numbers = all(type(n) is int and -(2**63) <= n < 2**63 for n in wide) and all(type(n) is int and -(2**31) <= n < 2**31 for n in narrow)
    texts = all(type(t) is str and _is_text(t) for t in (header.epoch, header.schema, *header.sequences))
    if not numbers or not texts or not 0 <= header.after <= header.upto:
        raise BrokenFrame("the header is malformed")
    return header


def _is_text(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and SQLite cannot hold
        return False


def _decode_rows(header: Header, rest: bytes, pieces: Iterator[bytes]) -> Iterator[Page]:
    seq, end = header.after, None
    for piece in chain([rest] if rest else [], pieces):
        if end is not None:
            raise BrokenFrame("there is something behind the end of the frame")
        last = piece.rfind(b"\n", 0, -1) + 1
        body = piece
        if piece.startswith(b"{", last):  # a row is an array, the end an object
            body, end = piece[:last], _parse(piece[last:])
        if body:
            rows = _parse(b"[" + body[:-1].replace(b"\n", b",") + b"]")
            _check_rows(rows, seq, header)
            if b'{"' in body or b"true" in body or b"false" in body:  # envelopes, and what no encoder of ours writes
                rows = [[decode_value(v) for v in row] for row in rows]
            seq += len(rows)
            yield Page(rows, b'{"t":' in body)
    if end != {"count": seq - header.after, "upto": header.upto}:
        raise BrokenFrame(f"the frame breaks off after seq {seq}")


def _check_rows(rows: list[Row], seq: int, header: Header) -> None:
    if not rows:
        raise BrokenFrame("an empty line")
    if seq + len(rows) > header.upto:
        raise BrokenFrame(f"rows behind upto {header.upto}")
    for row in rows:
        seq += 1
        if type(row) is not list or len(row) < len(FACTS) or row[0] != seq:
            raise BrokenFrame(f"seq {seq} was expected, not {str(row)[:60]}")
        types = tuple(map(type, row[: len(FACTS)]))
        if types not in _FACT_TYPES.get(row[5], ()):
            raise BrokenFrame(f"the row of seq {seq} is malformed")


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BrokenFrame(f"not JSON: {exc}") from exc


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
