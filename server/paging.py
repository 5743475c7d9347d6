"""Lists, a page at a time, by key: page 2,000 costs what page 1 does, and a row that is added meanwhile moves nothing.

A list is one or more parts. The usual two are the rows whose key is known, in its order, and after them those where it is not: unknown
stands last in both directions, and a part that is asked for by an index never walks through the other. Keys may be of any type that
SQLite stores, in SQLite's order: numbers, then texts, then blobs.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import apsw
import apsw.ext

from changelog.errors import BadRequest

PAGE_SIZE = 50  # rows
LONGEST_KEY = 200  # characters of a key that stand in a cursor; a longer one is looked up by its row
LARGEST = 2**63
CURSOR = re.compile(r"(\d)(?:([iftr])(.*))?~(-?\d{1,19})", re.DOTALL | re.ASCII)  # part, type and text of the key, id

KNOWN = "?"  # the key of a place, where the cursor itself holds it
Stream = tuple[str, Sequence[Any]]  # a condition and its bindings, which an index answers in the order of the key
Row = SimpleNamespace  # Jinja reads an attribute of it several times quicker than a key of a dict


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a list, and the cursors of the pages beside it: None at an end."""

    rows: list[Row]
    back: str | None = None
    onward: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a list: `sql` ends inside its WHERE clause and gives the columns `key` (None where all are alike) and `id` by name.

    `id` is an integer and unique in the list. Rows stand in the order of the key, and of the id where keys are the same.
    """

    sql: str
    bindings: Sequence[Any] = ()
    key: str | None = None
    id: str = "id"

    @property
    def key_name(self) -> str:
        """Under which name the key is among the columns."""
        return (self.key or "").lstrip("+").rpartition(".")[2]

    @property
    def id_name(self) -> str:
        """Likewise the id."""
        return self.id.lstrip("+").rpartition(".")[2]

    def order(self, upward: bool) -> str:
        """Its ORDER BY."""
        way = "ASC" if upward else "DESC"
        return f"ORDER BY {', '.join(f'{term} {way}' for term in (self.key, self.id) if term)}"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a list: the row with this id, in this part. `place` is SQL for its key, with these `bindings`."""

    part: int
    id: int
    place: str = KNOWN
    bindings: Sequence[Any] = ()


def rows_of(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Row]:
    """The rows of a query, by column name."""
    try:
        return _fetch(db, sql, bindings)
    except UnicodeDecodeError:
        names, found = decoded(db, sql, bindings)
        return [Row(**dict(zip(names, values, strict=True))) for values in found]


def decoded(db: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Names and rows of a query that has text which is not UTF-8 (SQLite takes any bytes as TEXT): with replacement characters."""
    names = [name for name, _ in apsw.ext.query_info(db, sql).description]
    columns = ", ".join(f"""CASE typeof("{n}") WHEN 'text' THEN CAST("{n}" AS BLOB) ELSE "{n}" END, typeof("{n}")""" for n in names)
    found = db.execute(f"SELECT {columns} FROM ({sql})", bindings)
    pairs = (zip(values[::2], values[1::2], strict=True) for values in found)
    return names, (tuple(v.decode(errors="replace") if kind == "text" else v for v, kind in row) for row in pairs)


def page_of(
    db: apsw.Connection,
    sql: str,
    bindings: Sequence[Any],
    arguments: Mapping[str, str],
    *,
    keys: Sequence[str],
    ascending: bool = False,
    size: int = PAGE_SIZE,
) -> Page:
    """One page of the one part that `sql` is, in the order of `keys`: a key that is never NULL and the id, or the id alone.

    `arguments` are those of the URL: `onward=CURSOR` or `back=CURSOR` of a Page, else the list begins. Raises BadRequest.
    """
    part = Part(sql, bindings, keys[0] if len(keys) == 2 else None, keys[-1])
    return page_of_parts(db, [part], arguments, ascending=ascending, size=size)


def page_of_parts(
    db: apsw.Connection, parts: Sequence[Part], arguments: Mapping[str, str], *, ascending: bool = False, size: int = PAGE_SIZE
) -> Page:
    """One page of a list, likewise."""
    backward = "back" in arguments
    text = arguments.get("back", arguments.get("onward"))
    cursor = _parse(text, parts) if text else None
    if cursor is not None and cursor.place != KNOWN:
        part = parts[cursor.part]
        if not db.execute(f"SELECT 1 FROM ({part.sql} AND {part.id}=?)", (*part.bindings, cursor.id)).fetchall():
            raise BadRequest("The row at this place of the list was removed meanwhile. Start at its first page.")
    rows: list[tuple[int, Row]] = []
    for number, sql, bindings in _stretches(parts, cursor, ascending != backward, backward):
        rows += [(number, row) for row in rows_of(db, f"{sql} LIMIT ?", (*bindings, size + 1 - len(rows)))]
        if len(rows) > size:
            break
    more, rows = len(rows) > size, rows[:size]
    if backward:
        if not more:  # the beginning: shown as a full page
            return page_of_parts(db, parts, {}, ascending=ascending, size=size)
        rows.reverse()
    back = _cursor_at(parts, *rows[0]) if cursor and rows else None
    onward = _cursor_at(parts, *rows[-1]) if more or (backward and rows) else None
    return Page([row for _, row in rows], back, onward)


def page_of_sorted(ordered: Sequence[tuple[float, int]], arguments: Mapping[str, str], size: int = PAGE_SIZE) -> Page:
    """One page of a list whose order is worked out: (key, id), ascending. The rows have a `key` and an `id`. Raises BadRequest."""
    backward = "back" in arguments
    text = arguments.get("back", arguments.get("onward"))
    first = 0
    if text:
        found = _parse(text, [Part("", (), "key")])
        if not found.bindings or not isinstance(found.bindings[0], float):
            raise _no_place(text)
        place = (found.bindings[0], found.id)
        first = max(0, bisect_left(ordered, place) - size) if backward else bisect_right(ordered, place)
    chosen = [Row(key=key, id=row_id) for key, row_id in ordered[first : first + size]]
    parts = [Part("", (), "key")]
    back = _cursor_at(parts, 0, chosen[0]) if first and chosen else None
    return Page(chosen, back, _cursor_at(parts, 0, chosen[-1]) if first + size < len(ordered) and chosen else None)


def all_of(db: apsw.Connection, parts: Sequence[Part], *, ascending: bool = False) -> Iterator[tuple[str, Sequence[Any]]]:
    """The queries that give the whole list, one after the other: SQL and bindings."""
    for _, sql, bindings in _stretches(parts, None, ascending, False):
        yield sql, bindings


def page_of_streams(
    db: apsw.Connection, sql: str, streams: Sequence[Stream], arguments: Mapping[str, str], *, key: str = "id", size: int = PAGE_SIZE
) -> Page:
    """One page of the rows of `sql` (a SELECT with its FROM) that fit any of `streams`, the greatest `key` first. Raises BadRequest.

    Each stream is read to the length of a page only, so that together they cost what the indexes do.
    """
    backward, parts = "back" in arguments, [Part(sql, (), None, key)]
    text = arguments.get("back", arguments.get("onward"))
    cursor = _parse(text, parts) if text else None
    beyond = f" AND {key} {'>' if backward else '<'} ?" if cursor else ""
    values = [cursor.id] if cursor else []
    found: dict[int, Row] = {}
    for where, bindings in streams:
        query = f"{sql} WHERE {where}{beyond} ORDER BY {key} {'ASC' if backward else 'DESC'} LIMIT ?"
        found |= {getattr(row, key): row for row in rows_of(db, query, (*bindings, *values, size + 1))}
    rows = sorted(found.values(), key=lambda row: getattr(row, key), reverse=not backward)
    more, rows = len(rows) > size, rows[:size]
    if backward and not more:
        return page_of_streams(db, sql, streams, {}, key=key, size=size)
    rows = rows[::-1] if backward else rows
    back = _cursor_at(parts, 0, rows[0]) if cursor and rows else None
    return Page(rows, back, _cursor_at(parts, 0, rows[-1]) if more or backward else None)


def like(text: str) -> str:
    """`text` with nothing in it that means something to LIKE ... ESCAPE '\\'."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _fetch(db: apsw.Connection, sql: str, bindings: Sequence[Any]) -> list[Row]:
    cursor = db.execute(sql, bindings)
    names: list[str] = []
    rows = []
    for row in cursor:
        names = names or [name for name, *_ in cursor.get_description()]
        found = Row()
        vars(found).update(zip(names, row, strict=True))  # half the time of Row(**...)
        rows.append(found)
    return rows


def _stretches(parts: Sequence[Part], cursor: Cursor | None, upward: bool, backward: bool) -> Iterator[tuple[int, str, Sequence[Any]]]:
    """The queries that give what comes after the cursor (before it: `backward`), in that order: number of the part, SQL, bindings."""
    numbers = range(len(parts))[::-1] if backward else range(len(parts))
    if cursor is not None:
        numbers = range(cursor.part, -1, -1) if backward else range(cursor.part, len(parts))
    than = ">" if upward else "<"
    for number in numbers:
        part = parts[number]
        order = part.order(upward)
        if cursor is None or number != cursor.part:
            yield number, f"{part.sql} {order}", part.bindings
        elif part.key is None:
            yield number, f"{part.sql} AND {part.id} {than} ? {order}", (*part.bindings, cursor.id)
        else:  # what has the same key, then the rest: two ranges of an index, where one condition for both would be a walk
            bindings = (*part.bindings, *cursor.bindings)
            yield number, f"{part.sql} AND {part.key} = {cursor.place} AND {part.id} {than} ? {order}", (*bindings, cursor.id)
            yield number, f"{part.sql} AND {part.key} {than} {cursor.place} {order}", bindings


def _cursor_at(parts: Sequence[Part], number: int, row: Row) -> str:
    part = parts[number]
    row_id = getattr(row, part.id_name)
    if part.key is None:
        return f"{number}~{row_id}"
    key = getattr(row, part.key_name)
    kind = {int: "i", float: "f", str: "t"}.get(type(key), "r")
    if kind == "t" and (len(key) > LONGEST_KEY or "\ufffd" in key):
        kind = "r"  # not to be written into an address: the row is named instead
    return f"{number}{kind}{'' if kind == 'r' else key}~{row_id}"


def _no_place(text: str) -> BadRequest:
    return BadRequest(f"not a place in this list: {text[:80]!r}. Start at its first page.")


def _parse(text: str, parts: Sequence[Part]) -> Cursor:
    """The place that a cursor names. Raises BadRequest."""
    found, wrong = CURSOR.fullmatch(text), _no_place(text)
    if found is None or int(found[1]) >= len(parts) or not -LARGEST <= int(found[4]) < LARGEST:
        raise wrong
    number, kind, key, row_id = int(found[1]), found[2], found[3], int(found[4])
    part = parts[number]
    if (part.key is None) != (kind is None):
        raise wrong
    if kind is None:
        return Cursor(number, row_id)
    if kind == "r":
        place = f'(SELECT "{part.key_name}" FROM ({part.sql} AND {part.id}=?))'
        return Cursor(number, row_id, place, (*part.bindings, row_id))
    try:
        value = {"i": int, "f": float, "t": str}[kind](key)
    except ValueError:
        raise wrong from None
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise wrong
    return Cursor(number, row_id, KNOWN, (value,))
