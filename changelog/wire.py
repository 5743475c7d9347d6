"""A run of the log as bytes: newline-delimited JSON. Encoder and decoder are twins: what one would refuse to read, the other never writes.

    {"protocol":1,"epoch":"..","after":7,"check":..,"upto":9,"upto_check":..,"schema":"..","user_version":..,"application_id":..,"sequences":{..}}
    [8,"2026-..",nonce,actor,table,op,key,gen,chg,rid,orid, values...]
    [9, ...]
    {"count":2,"upto":9}

The rows follow `after` without a gap. The values are the new ones on I, the new and then the old ones on U, the old ones on D, one for each
slot of the table. The last line says that the frame is whole; without it a frame is never committed. `upto` is a commit boundary, and
`upto_check` the nonce of the row there: whoever goes on with a frame that broke off names both, and so gets the rest of the same history.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from changelog.errors import BrokenFrame, ProtocolMismatch
from changelog.position import Position
from changelog.values import Value, decode_value, encode_row

PROTOCOL = 1
MEDIA_TYPE = "application/x-ndjson"
CHUNK_BYTES = 128 * 1024  # how much is encoded, sent and decoded at a time
MAX_LINE_BYTES = 256 * 1024 * 1024  # a longer line is an attack or an accident
FACTS = ("seq", "at", "nonce", "actor", "tbl", "op", "key", "gen", "chg", "rid", "orid")

OPS = {"I", "U", "D", "X"}

Row = list[Any]


class Page(NamedTuple):
    """Neighbouring rows of a frame. `raw`: some text in them is not valid UTF-8, and stands here as RawText. `ddl`: an X is among them."""

    rows: list[Row]
    raw: bool
    ddl: bool


_NONE: set[type] = {type(None)}
_TEXT, _INTEGER, _ANY = {str} | _NONE, {int} | _NONE, {int, float, str, dict} | _NONE
# The types that the facts of a row can have, in the order of FACTS. (The actor is what any shell wrote there.)
_ROW_TYPES: tuple[set[type], ...] = ({int}, _TEXT, {int}, _ANY, {str}, {str}, _ANY, {int}, _TEXT, _INTEGER, _INTEGER)
_DDL_TYPES: tuple[set[type], ...] = ({int}, _TEXT, {int}, _ANY, _NONE, {str}, {str}, _NONE, _NONE, _NONE, _NONE)


@dataclass(frozen=True)
class Header:
    """The first line: where the frame starts and ends, and what must be alike on both sides then.

    `schema` is None where the primary has gone on since `upto`: it knows only what it has now.
    """

    epoch: str
    after: int
    check: int
    upto: int
    upto_check: int
    schema: str | None
    user_version: int
    application_id: int
    sequences: dict[str, int]

    @property
    def start(self) -> Position:
        """The position that the rows follow."""
        return Position(self.epoch, self.after, self.check)

    @property
    def end(self) -> Position:
        """The position that the whole frame leads to."""
        return Position(self.epoch, self.upto, self.upto_check)


def encode_frame(header: Header, rows: Iterable[tuple[Value, ...]]) -> Iterator[bytes]:
    """The frame in chunks of about CHUNK_BYTES, each ending at a line's end."""
    lines = [encode_header(header)]
    size = count = 0
    for row in rows:
        line = encode_row(row)
        lines.append(line)
        size += len(line)
        count += 1
        if size >= CHUNK_BYTES:
            yield _joined(lines)
            lines, size = [], 0
    lines.append(encode_end(count, header.upto))
    yield _joined(lines)


def encode_header(header: Header) -> str:
    """The first line."""
    return json.dumps({"protocol": PROTOCOL, **vars(header)}, separators=(",", ":"))


def encode_end(count: int, upto: int) -> str:
    """The last line."""
    return json.dumps({"count": count, "upto": upto}, separators=(",", ":"))


def decode_frame(chunks: Iterable[bytes]) -> tuple[Header, Iterator[Page]]:
    """The header at once, and the rows in pages as they arrive.

    Raises BrokenFrame where a line is malformed, a seq is not the next one, or the end is missing; ProtocolMismatch for another version.
    """
    header, pieces = split_frame(chunks)
    return header, _decode_rows(header, pieces)


def split_frame(chunks: Iterable[bytes]) -> tuple[Header, Iterator[bytes]]:
    """The header at once, and the lines behind it as they arrive, undecoded, in pieces that end with a line's end.

    Raises BrokenFrame where the header is malformed or the last line breaks off, ProtocolMismatch for another version.
    """
    pieces = _whole_lines(chunks)
    line, _, rest = next(pieces, b"").partition(b"\n")
    return _decode_header(line), chain([rest] if rest else [], pieces)


def split_end(piece: bytes) -> tuple[bytes, Any]:
    """A piece of whole lines as the rows in it, and the end of the frame if that is in it, else None."""
    last = piece.rfind(b"\n", 0, -1) + 1
    if piece.startswith(b"{", last):  # a row is an array, the end an object
        return piece[:last], parse_json(piece[last:])
    return piece, None


def last_row(rows: bytes) -> tuple[int, int]:
    """The seq and the nonce of the last of these lines. Raises BrokenFrame where that is no row."""
    row = parse_json(rows[rows.rfind(b"\n", 0, -1) + 1 :])
    if not isinstance(row, list) or len(row) < len(FACTS) or not {type(row[0]), type(row[2])} <= {int}:
        raise BrokenFrame("a line is no row")
    return row[0], row[2]


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
    facts = parse_json(line)
    if not isinstance(facts, dict) or "protocol" not in facts:
        raise BrokenFrame("the frame does not begin with a header")
    if facts.pop("protocol") != PROTOCOL:
        raise ProtocolMismatch
    try:
        header = Header(**facts)
    except TypeError as exc:
        raise BrokenFrame(f"the header is malformed: {exc}") from exc
    if not _is_sound(header):
        raise BrokenFrame("the header is malformed")
    return header


def _is_sound(header: Header) -> bool:
    if not isinstance(header.sequences, dict):
        return False
    wide = (header.after, header.check, header.upto, header.upto_check, *header.sequences.values())
    narrow = (header.user_version, header.application_id)
    numbers = all(type(n) is int and -(2**63) <= n < 2**63 for n in wide) and all(type(n) is int and -(2**31) <= n < 2**31 for n in narrow)
    texts = all(type(t) is str and _is_text(t) for t in (header.epoch, header.schema or "0", *header.sequences))
    return numbers and texts and 0 <= header.after <= header.upto


def _is_text(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and SQLite cannot hold
        return False


def _decode_rows(header: Header, pieces: Iterator[bytes]) -> Iterator[Page]:
    seq, end = header.after, None
    for piece in pieces:
        if end is not None:
            raise BrokenFrame("there is something behind the end of the frame")
        body, end = split_end(piece)
        if body:
            rows = parse_json(b"[" + body[:-1].replace(b"\n", b",") + b"]")
            ddl = _check_rows(rows, seq, header)
            if b'{"' in body or b"true" in body or b"false" in body:  # envelopes, and what no encoder of ours writes
                rows = [[decode_value(v) for v in row] for row in rows]
            seq += len(rows)
            yield Page(rows, b'{"t":' in body, ddl)
    if end != {"count": seq - header.after, "upto": header.upto}:
        raise BrokenFrame(f"the frame breaks off after seq {seq}")


def _check_rows(rows: list[Row], seq: int, header: Header) -> bool:
    """Whether there is DDL among the rows. Raises BrokenFrame for what is no row, or not the next one."""
    if not rows:
        raise BrokenFrame("an empty line")
    if seq + len(rows) > header.upto:
        raise BrokenFrame(f"rows behind upto {header.upto}")
    if set(map(type, rows)) != {list} or min(map(len, rows)) < len(FACTS):
        raise BrokenFrame(f"after seq {seq} comes what is no row")
    ddl = [row for row in rows if row[5] == "X"]
    _check_facts(rows if not ddl else [row for row in rows if row[5] != "X"], _ROW_TYPES, seq)
    _check_facts(ddl, _DDL_TYPES, seq)
    if [row[0] for row in rows] != list(range(seq + 1, seq + 1 + len(rows))):
        raise BrokenFrame(f"the rows after seq {seq} are not the next ones")
    return bool(ddl)


def _check_facts(rows: list[Row], types: tuple[set[type], ...], seq: int) -> None:
    # Column by column: a check row by row would cost as much as applying it.
    for values, allowed in zip(zip(*(row[: len(FACTS)] for row in rows), strict=True), types, strict=False):
        if not set(map(type, values)) <= allowed:
            raise BrokenFrame(f"a row after seq {seq} is malformed")
    if not {row[5] for row in rows} <= OPS:
        raise BrokenFrame(f"a row after seq {seq} has an op that is not known")


def parse_json(text: bytes) -> Any:
    """What the other side means by this text. Raises BrokenFrame."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BrokenFrame(f"not JSON: {exc}") from exc


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
