"""What the primary tells about its rows, each answer from one snapshot, which is the caller's transaction. Plain objects, ready for JSON.

Every answer begins with the position that it was made at, so that the other side can bring itself to exactly this one before it compares:

    {"epoch", "seq", "check", "facts": {schema, encoding, user_version, application_id, sequences}, "oldest", "slots", ...}

    digests   "tables": {table: [[upto, rows, digest], ...]}: every table in ranges, the last of them without an end
    parts     "ranges": [[[upto, rows, digest], ...], ...]: for each range asked for, the same of its parts
    rows      "ranges": [{"rows": [row, ...], "gone": [key, ...]}, ...]: for each range, the rows whose hash the other side did not send,
              and the keys that it sent and that are not here; "large" for one that is to be cut up first, null for one to be asked again

Where the schema is not the one asked for, "ranges" is null: the other side looks at the tables anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from changelog.connection import one
from changelog.errors import BadRequest, BrokenFrame
from changelog.install import slot_count
from changelog.position import Position
from changelog.schema import schema_hash, sequences_of
from changelog.values import encode_row, encode_value
from changelog.verify.hashing import HASH_BYTES, row_hash
from changelog.verify.ranges import Key, Part, Range, Scope, decode_key, encode_key, rows_in, scopes_of, split

MOST_PARTS = 1024  # of one table, that can be asked for
MOST_DIGESTS = 16_384  # in one answer
MOST_RANGES = 256  # in one question
MOST_ROWS = 512  # of a range whose rows are asked for; more are to be cut up first
MOST_BYTES = 8 * 2**20  # of rows in one answer, unless a single row has more
NEVER = -(2**63)

Answer = dict[str, Any]


def digests(db: apsw.Connection, parts: int, log_from: int) -> Answer:
    """Every table, and the log from seq `log_from` (or our oldest) on, in `parts` ranges or fewer."""
    answer = _facts(db)
    scopes = scopes_of(db, max(log_from, answer["oldest"]))
    parts = max(1, min(parts, MOST_DIGESTS // len(scopes)))
    tables = {name: [_encoded(part) for part in split(db, scope, Range(), parts)] for name, scope in scopes.items()}
    return answer | {"tables": tables}


def parts(db: apsw.Connection, asked: Any) -> Answer:
    """The parts of ranges: {"schema", "log_from", "parts", "ranges": [[table, after, upto], ...]}. Raises BadRequest."""
    number = _integer(asked, "parts", 1, MOST_PARTS)
    return _ranges(db, asked, 3, lambda scope, range_, _: [_encoded(part) for part in split(db, scope, range_, number)])


def rows(db: apsw.Connection, asked: Any) -> Answer:
    """The rows that differ: {"schema", "log_from", "ranges": [[table, after, upto, whole, [[key, hash], ...]], ...]}. Raises BadRequest.

    A range marked as `whole` cannot be cut up, and is answered however large it is.
    """
    room = [MOST_BYTES]
    return _ranges(db, asked, 5, lambda scope, range_, more: _unlike_rows(db, scope, range_, more, room))


def _ranges(db: apsw.Connection, asked: Any, length: int, answer_one: Callable[[Scope, Range, list[Any]], Any]) -> Answer:
    answer = _facts(db)
    ranges = asked.get("ranges") if isinstance(asked, dict) else None
    if not isinstance(ranges, list) or len(ranges) > MOST_RANGES or not all(isinstance(r, list) and len(r) == length for r in ranges):
        raise BadRequest(f"ranges must be a list of at most {MOST_RANGES} ranges, each [table, after, upto, ...]")
    log_from = _integer(asked, "log_from", NEVER, 2**63 - 1)
    if not isinstance(asked.get("schema"), str):
        raise BadRequest("schema must be the hash of the schema that the question is about")
    if asked.get("schema") != answer["facts"]["schema"]:
        return answer | {"ranges": None}
    scopes = scopes_of(db, max(log_from, answer["oldest"]))
    return answer | {"ranges": [answer_one(*_range(scopes, name, after, upto), more) for name, after, upto, *more in ranges]}


def _range(scopes: dict[str, Scope], name: Any, after: Any, upto: Any) -> tuple[Scope, Range]:
    scope = scopes.get(name) if isinstance(name, str) else None
    if scope is None:
        raise BadRequest(f"there is no table {str(name)[:80]!r} here")
    return scope, Range(_key(scope, after), _key(scope, upto))


def _unlike_rows(db: apsw.Connection, scope: Scope, range_: Range, more: list[Any], room: list[int]) -> Any:
    whole, sent = more[0] is True, _hashes(scope, more[1])
    if room[0] <= 0:
        return None
    found, size, gone = [], 0, dict(sent)
    for number, row in enumerate(rows_in(db, scope, range_), 1):
        key = encode_row(scope.key_of(row))
        gone.pop(key, None)
        if key not in sent or sent[key][1] != row_hash(row):
            found.append([encode_value(v) for v in row])
            size += len(encode_row(row))
        if not whole and number > 1 and (number > MOST_ROWS or size > MOST_BYTES):
            return "large"
    room[0] -= size
    return {"rows": found, "gone": [key for key, _ in gone.values()]}


def _hashes(scope: Scope, pairs: Any) -> dict[str, tuple[Any, str]]:
    """(key as it was sent, hash) of the rows that the other side has, by their key."""
    found = {}
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], str) or len(pair[1]) != 2 * HASH_BYTES:
            raise BadRequest("the hashes of a range must be pairs of a key and a hash")
        found[encode_row(_key(scope, pair[0]) or ())] = (pair[0], pair[1])
    return found


def _key(scope: Scope, value: Any) -> Key | None:
    """A key that was sent. Raises BadRequest for what is no key of this table."""
    try:
        key = decode_key(value)
    except (BrokenFrame, TypeError) as exc:
        raise BadRequest(f"not a key of {scope.name}: {exc}") from exc
    if key is not None and (len(key) != len(scope.key_at) or not all(_fits(v) for v in key)):
        raise BadRequest(f"not a key of {scope.name}")
    return key


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _encoded(part: Part) -> list[Any]:
    return [encode_key(part.range.upto), part.rows, part.digest]


def _integer(asked: dict[str, Any], name: str, low: int, high: int) -> int:
    value = asked.get(name)
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}")
    return value


def _facts(db: apsw.Connection) -> Answer:
    position = Position.of_head(db)
    facts = {
        "schema": schema_hash(db),
        "encoding": db.pragma("encoding"),
        "user_version": db.pragma("user_version"),
        "application_id": db.pragma("application_id"),
        "sequences": sequences_of(db),
    }
    oldest = one(db, "SELECT min(seq) FROM changelog")
    return {
        "epoch": position.epoch,
        "seq": position.seq,
        "check": position.check,
        "facts": facts,
        "oldest": oldest,
        "slots": slot_count(db),
    }
