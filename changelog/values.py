"""SQLite values as JSON, exactly. JSON has no blobs, no text that is not UTF-8 and no infinities: those travel in one-key envelopes.

    {"b": "00ff"}      a blob, in hex
    {"t": "61ff"}      text whose bytes are not valid UTF-8, in hex
    {"r": "inf"}       a real that JSON cannot write: inf or -inf
    {"i": "9007..."}   an integer beyond 2^53, only in application/json, whose readers may keep numbers as doubles

Everything else is the JSON value itself: integers, reals in their shortest exact form (-0.0 keeps its sign), text, null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import apsw

from changelog.errors import BrokenFrame

Value = None | int | float | str | bytes
_SAFE_INTEGER = 2**53
RAW_COLUMNS = 900


class RawText(bytes):
    """The bytes of a TEXT value that is not valid UTF-8."""


def encode_row(row: tuple[Value, ...]) -> str:
    """`row` as one line of JSON."""
    try:
        return _encode(row)
    except ValueError:  # an infinity
        return _encode([{"r": repr(v)} if isinstance(v, float) and not math.isfinite(v) else v for v in row])


def decode_value(value: Any) -> Value:
    """A value as it stood in a parsed line. Raises BrokenFrame for what no encoder of ours writes."""
    if not isinstance(value, dict):
        if isinstance(value, list | bool):
            raise BrokenFrame(f"not a value: {str(value)[:60]}")
        return value
    if len(value) == 1:
        [(kind, text)] = value.items()
        try:
            if kind == "b":
                return bytes.fromhex(text)
            if kind == "t":
                return RawText.fromhex(text)
            if kind == "r" and text in ("inf", "-inf"):
                return float(text)
            if kind == "i":
                return int(text)
        except (TypeError, ValueError):
            pass
    raise BrokenFrame(f"not a value: {str(value)[:60]}")


def exact_rows(db: apsw.Connection, columns: Sequence[str], source: str, bindings: tuple[Value, ...] = ()) -> Iterator[tuple[Value, ...]]:
    """`SELECT columns source` (FROM, WHERE and a total ORDER BY), also where text is not valid Unicode.

    At such UTF-8 apsw itself raises. Of such UTF-16 SQLite makes other characters without a word, so there bytes are read from the start.
    """
    encoding = {"UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}.get(db.pragma("encoding"), "utf-8")
    done = 0
    if encoding == "utf-8":
        try:
            for row in db.execute(f"SELECT {','.join(columns)} {source}", bindings):
                yield row
                done += 1
            return
        except UnicodeDecodeError:
            pass  # from this row on everything is read as bytes with its type: slower, and exact
    # A value is two columns now, and SQLite answers with 2000 at most: the widest tables are read in parts, side by side.
    parts = [columns[i : i + RAW_COLUMNS] for i in range(0, len(columns), RAW_COLUMNS)]
    cursors = [db.execute(f"SELECT {_typed(part)} {source} LIMIT -1 OFFSET {done}", bindings) for part in parts]
    for pieces in zip(*cursors, strict=True):
        pairs = tuple(chain.from_iterable(pieces))
        yield tuple(_text(value, encoding) if kind == "text" else value for kind, value in zip(pairs[::2], pairs[1::2], strict=True))


def _typed(columns: Sequence[str]) -> str:
    return ",".join(f"typeof({c}), CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END" for c in columns)


def _text(data: bytes, encoding: str) -> str | RawText:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return RawText(data)


def encode_value(value: Value) -> Any:
    """`value` for a JSON document between the two sides: the twin of `decode_value`."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"r": repr(value)}
    return _envelope(value) if isinstance(value, bytes) else value


def for_json(value: Value) -> Any:
    """`value` for application/json, with integers that survive a reader who keeps numbers as doubles."""
    if isinstance(value, RawText):
        return {"t": value.hex()}
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"r": repr(value)}
    if isinstance(value, int) and abs(value) > _SAFE_INTEGER:
        return {"i": str(value)}
    return value


def is_yes(value: object) -> bool:
    """Whether a value that ought to be 0 or 1 says yes. SQLite lets a shell put a word there: `'false'` is meant, and taken, for no."""
    return isinstance(value, int | float) and value != 0


def _envelope(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"t" if isinstance(value, RawText) else "b": value.hex()}
    raise TypeError(f"no SQLite value: {value!r}")


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_envelope, check_circular=False).encode
